//! A view in memory that outlives its process, for the simulation: killed, it is as the last flush left it; without power, perhaps as
//! the last sync did.

use super::store::{IdTable, Store, Tables};
use super::{Bucket, HashKey, Identity, Shared, View, ViewError, ViewSettings, keys};
use std::sync::{Arc, PoisonError, RwLock};

/// What is left of a view between two lives of its process.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<RwLock<Tables>>);

impl Kept {
    /// As the next process finds it. What this one still writes does not reach it.
    pub(crate) fn survive(&self, back_to_synced: bool) -> Kept {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let left = if back_to_synced {
            let mut left = tables.synced.as_deref().cloned().unwrap_or_default();
            left.synced = Some(Box::new(left.clone()));
            left
        } else {
            tables.clone()
        };
        Kept(Arc::new(RwLock::new(left)))
    }

    pub(super) fn destroy(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Tables::default();
    }
}

/// Notes that what is in these tables now is durable.
pub(super) fn synced(tables: &RwLock<Tables>) {
    let mut tables = tables.write().unwrap_or_else(PoisonError::into_inner);
    let mut copy = tables.clone();
    copy.synced = None;
    tables.synced = Some(Box::new(copy));
}

impl View {
    /// Opens what was kept, or makes a view there.
    pub(super) fn kept(kept: &Kept, identity: Identity, settings: &ViewSettings) -> Result<View, ViewError> {
        let store = Store::Memory(kept.0.clone());
        let found = store.snapshot().get(keys::META)?.as_deref().map(keys::Meta::decode).transpose()?;
        if found.is_some_and(|meta| meta.identity != identity) {
            kept.destroy();
            return View::kept(kept, identity, settings);
        }
        let fresh = found.is_none();
        let meta = found.unwrap_or_else(|| keys::Meta {
            format: keys::FORMAT,
            identity,
            hash_key: HashKey::random(),
        });
        if fresh {
            let mut batch = store.batch(2)?;
            batch.put(keys::META.to_vec(), meta.encode());
            batch.put(keys::STATE.to_vec(), keys::State::default().encode());
            batch.commit()?;
        }
        let read = store.snapshot();
        let state =
            read.get(keys::STATE)?.as_deref().map(keys::State::decode).transpose()?.unwrap_or_default();
        let mut partitions = Vec::new();
        for partition in 0..identity.partitions {
            let value = read.get(&keys::partition(partition))?;
            partitions.push(value.as_deref().map(keys::Partition::decode).transpose()?.unwrap_or_default());
        }
        drop(read);
        let buckets = state.buckets.iter().map(|&(number, start, width, writes)| Bucket {
            number,
            start,
            width,
            writes,
            table: IdTable::Memory(number),
        });
        let shared = Shared { partitions, buckets: Arc::new(buckets.collect()), ..Shared::default() };
        Ok(View::new(store, meta.hash_key, settings, fresh, &state, shared))
    }
}
