//! Where flushed rows lie: fjall on disk, or ordered maps in memory. Keys and values are the same in both.

use super::chunk::Stored;
use super::disk::Disk;
use super::error::ViewError;
use super::keys::{self, RoomMeta};
use bytes::Bytes;
use fjall::Readable;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// The store of one view.
pub(super) enum Store {
    Disk(Disk),
    Memory(Arc<RwLock<Tables>>),
    /// It was closed and could not be opened again yet, for this reason.
    Closed(String),
}

/// The tables of a store in memory: the main one, and one for each bucket of ids by its number.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    main: BTreeMap<Vec<u8>, Bytes>,
    ids: BTreeMap<u32, BTreeMap<Vec<u8>, Bytes>>,
    /// As they were at the last sync.
    #[cfg(test)]
    pub synced: Option<Box<Tables>>,
}

/// The table of one bucket of ids. On disk it is a keyspace of its own, so that it is dropped as a whole.
#[derive(Clone)]
pub(super) enum IdTable {
    Disk(fjall::Keyspace),
    Memory(u32),
}

impl Store {
    pub fn memory() -> Store {
        Store::Memory(Arc::default())
    }

    /// The content as it is now; later writes do not change what it shows. Short-lived: in memory it holds up the
    /// next write.
    pub fn snapshot(&self) -> Snapshot<'_> {
        match self {
            Store::Disk(disk) => Snapshot::Disk(disk.db.snapshot(), &disk.main),
            Store::Memory(tables) => Snapshot::Memory(tables.read().unwrap_or_else(PoisonError::into_inner)),
            Store::Closed(why) => Snapshot::Closed(why),
        }
    }

    /// Fails where nothing can be read.
    pub fn is_open(&self) -> Result<(), ViewError> {
        if let Store::Closed(why) = self { Err(ViewError::Storage(why.clone())) } else { Ok(()) }
    }

    pub fn id(&self, table: &IdTable, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match (self, table) {
            (Store::Disk(_), IdTable::Disk(keyspace)) => Ok(keyspace.get(key)?.map(owned)),
            (Store::Memory(tables), IdTable::Memory(number)) => {
                let tables = tables.read().unwrap_or_else(PoisonError::into_inner);
                Ok(tables.ids.get(number).and_then(|t| t.get(key)).cloned())
            }
            _ => Ok(None),
        }
    }

    pub fn make_ids(&self, number: u32) -> Result<IdTable, ViewError> {
        match self {
            Store::Disk(disk) => Ok(IdTable::Disk(disk.make_ids(number)?)),
            Store::Memory(_) => Ok(IdTable::Memory(number)),
            Store::Closed(why) => Err(ViewError::Storage(why.clone())),
        }
    }

    pub fn drop_ids(&self, table: IdTable) -> Result<(), ViewError> {
        match (self, table) {
            (Store::Disk(disk), IdTable::Disk(keyspace)) => disk.db.delete_keyspace(keyspace)?,
            (Store::Memory(tables), IdTable::Memory(number)) => {
                tables.write().unwrap_or_else(PoisonError::into_inner).ids.remove(&number);
            }
            _ => {}
        }
        Ok(())
    }

    pub fn batch(&self, items: usize) -> Result<Batch<'_>, ViewError> {
        Ok(match self {
            Store::Disk(disk) => {
                let batch = fjall::OwnedWriteBatch::with_capacity(disk.db.clone(), items);
                Batch::Disk(batch.durability(Some(fjall::PersistMode::Buffer)), &disk.main)
            }
            Store::Memory(tables) => Batch::Memory(tables, Vec::with_capacity(items)),
            Store::Closed(why) => return Err(ViewError::Storage(why.clone())),
        })
    }

    /// Whether the store's background work is so far behind that a write could have to wait without a bound.
    pub fn is_behind(&self, tables: &[IdTable]) -> Result<bool, ViewError> {
        let Store::Disk(disk) = self else { return Ok(false) };
        let ids = tables.iter().filter_map(|t| if let IdTable::Disk(k) = t { Some(k) } else { None });
        let behind =
            ids.chain([&disk.main]).any(|k| k.sealed_memtable_count() >= 3 || k.l0_table_count() >= 24);
        if behind {
            // Says so if the background work has failed for good.
            disk.db.persist(fjall::PersistMode::Buffer)?;
        }
        Ok(behind)
    }

    pub fn sync(&self) -> Result<(), ViewError> {
        self.is_open()?;
        match self {
            Store::Disk(disk) => disk.db.persist(fjall::PersistMode::SyncAll)?,
            // What is in memory has nothing to outlive.
            #[cfg(test)]
            Store::Memory(tables) => super::kept::synced(tables),
            _ => {}
        }
        Ok(())
    }
}

fn owned(slice: fjall::Slice) -> Bytes {
    Bytes::from_owner(slice)
}

/// A consistent picture of the main table.
pub(super) enum Snapshot<'a> {
    Disk(fjall::Snapshot, &'a fjall::Keyspace),
    Memory(RwLockReadGuard<'a, Tables>),
    Closed(&'a str),
}

impl Snapshot<'_> {
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self {
            Snapshot::Disk(snapshot, main) => Ok(snapshot.get(main, key)?.map(owned)),
            Snapshot::Memory(tables) => Ok(tables.main.get(key).cloned()),
            Snapshot::Closed(why) => Err(ViewError::Storage((*why).to_owned())),
        }
    }

    /// What is kept about a room.
    pub fn room(&self, room: &str) -> Result<Option<RoomMeta>, ViewError> {
        self.get(&keys::room(room))?.as_deref().map(RoomMeta::decode).transpose()
    }

    /// Up to `limit` rooms that follow `after` in the order of their keys, with their names as bytes.
    pub fn rooms(&self, after: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, RoomMeta)>, ViewError> {
        let mut start = keys::room_bytes(after);
        start.push(0);
        let (from, to) = (start, keys::ROOMS_END.to_vec());
        let mut rooms = Vec::new();
        for item in self.range(from, to).take(limit) {
            let (key, value) = item?;
            rooms.push((keys::room_of(&key)?.to_vec(), RoomMeta::decode(&value)?));
        }
        Ok(rooms)
    }

    /// The chunks of a room that begin in `from..=to`, oldest first.
    pub fn chunks(
        &self,
        room: &[u8],
        from: u64,
        to: u64,
    ) -> impl DoubleEndedIterator<Item = Result<Stored, ViewError>> {
        let range = if from <= to {
            self.range(keys::chunk(room, from), keys::chunk(room, to))
        } else {
            Range::Nothing
        };
        range.map(|item| {
            let (key, value) = item?;
            Stored::decode(keys::chunk_first(&key)?, value)
        })
    }

    fn range(&self, from: Vec<u8>, to: Vec<u8>) -> Range<'_> {
        match self {
            Snapshot::Disk(snapshot, main) => Range::Disk(snapshot.range(main, from..=to)),
            Snapshot::Memory(tables) => Range::Memory(tables.main.range(from..=to)),
            Snapshot::Closed(why) => Range::Closed(Some(ViewError::Storage((*why).to_owned()))),
        }
    }
}

enum Range<'a> {
    Nothing,
    Disk(fjall::Iter),
    Memory(std::collections::btree_map::Range<'a, Vec<u8>, Bytes>),
    Closed(Option<ViewError>),
}

type Item = Result<(Bytes, Bytes), ViewError>;

fn read(guard: fjall::Guard) -> Item {
    let (key, value) = guard.into_inner()?;
    Ok((owned(key), owned(value)))
}

fn copied((key, value): (&Vec<u8>, &Bytes)) -> Item {
    Ok((Bytes::copy_from_slice(key), value.clone()))
}

impl Iterator for Range<'_> {
    type Item = Item;
    fn next(&mut self) -> Option<Item> {
        match self {
            Range::Nothing => None,
            Range::Disk(iter) => iter.next().map(read),
            Range::Memory(range) => range.next().map(copied),
            Range::Closed(error) => error.take().map(Err),
        }
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Item> {
        match self {
            Range::Nothing => None,
            Range::Disk(iter) => iter.next_back().map(read),
            Range::Memory(range) => range.next_back().map(copied),
            Range::Closed(error) => error.take().map(Err),
        }
    }
}

/// One change of a store in memory: in the main table or in a bucket of ids, the key, and the value to put.
type Change = (Option<u32>, Vec<u8>, Option<Vec<u8>>);

/// Changes that are made together or not at all.
pub(super) enum Batch<'a> {
    Disk(fjall::OwnedWriteBatch, &'a fjall::Keyspace),
    Memory(&'a RwLock<Tables>, Vec<Change>),
}

impl Batch<'_> {
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        match self {
            Batch::Disk(batch, main) => batch.insert(main, key, value),
            Batch::Memory(_, changes) => changes.push((None, key, Some(value))),
        }
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        match self {
            Batch::Disk(batch, main) => batch.remove(main, key),
            Batch::Memory(_, changes) => changes.push((None, key, None)),
        }
    }

    pub fn put_id(&mut self, table: &IdTable, key: &[u8], value: &[u8]) {
        match (self, table) {
            (Batch::Disk(batch, _), IdTable::Disk(keyspace)) => batch.insert(keyspace, key, value),
            (Batch::Memory(_, changes), IdTable::Memory(number)) => {
                changes.push((Some(*number), key.to_vec(), Some(value.to_vec())));
            }
            _ => {}
        }
    }

    /// Marks the n-th write of a table, the main one or one of ids.
    pub fn mark(&mut self, table: Option<&IdTable>, n: u64) {
        let (key, old) = (keys::mark(n), n.checked_sub(keys::MARKS).map(keys::mark));
        match (self, table) {
            (Batch::Disk(batch, main), table) => {
                let keyspace = if let Some(IdTable::Disk(keyspace)) = table { keyspace } else { *main };
                batch.insert(keyspace, key, []);
                if let Some(old) = old {
                    batch.remove(keyspace, old);
                }
            }
            // In memory nothing is ever lost.
            (Batch::Memory(..), _) => {}
        }
    }

    pub fn commit(self) -> Result<(), ViewError> {
        match self {
            Batch::Disk(batch, _) => Ok(batch.commit()?),
            Batch::Memory(tables, changes) => {
                let mut tables = tables.write().unwrap_or_else(PoisonError::into_inner);
                for (number, key, value) in changes {
                    let table = match number {
                        None => &mut tables.main,
                        Some(number) => tables.ids.entry(number).or_default(),
                    };
                    match value {
                        Some(value) => table.insert(key, value.into()),
                        None => table.remove(&key),
                    };
                }
                Ok(())
            }
        }
    }
}
