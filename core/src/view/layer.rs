//! Rows and ids in memory that are not yet in the store.

use super::chunk::Chunk;
use super::{Checkpoint, IdEntry, Row};
use crate::ids::MessageKey;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// What was added since some flush. The one that takes additions is under the view's lock; a frozen one, which a
/// flush is writing, never changes.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub rooms: HashMap<Arc<str>, RoomRows>,
    pub ids: HashMap<MessageKey, IdEntry, BuildHasherDefault<KeyHasher>>,
    /// The partitions that were added to, each with its newest checkpoint.
    pub checkpoints: HashMap<u32, Checkpoint>,
    pub rows: usize,
    pub bytes: usize,
}

/// One room's rows in a layer.
#[derive(Debug)]
pub(super) struct RoomRows {
    pub partition: u32,
    full: Vec<Chunk>,
    open: Chunk,
}

/// Memory that a room takes in a layer beside its name and rows, and a message id with all its parts; rough.
const ROOM_BYTES: usize = 160;
const ID_BYTES: usize = 56;

impl Layer {
    pub fn is_empty(&self) -> bool {
        self.checkpoints.is_empty()
    }

    /// Adds a batch and answers by how many bytes the layer grew.
    pub fn add(
        &mut self,
        partition: u32,
        rows: &[Row<'_>],
        ids: &[(MessageKey, IdEntry)],
        checkpoint: Checkpoint,
    ) -> usize {
        let before = self.bytes;
        let mut rest = rows;
        while let Some(row) = rest.first() {
            let same = rest.iter().take_while(|r| Arc::ptr_eq(r.room, row.room)).count().max(1);
            let (run, after) = rest.split_at(same);
            rest = after;
            let room = match self.rooms.get_mut(row.room) {
                Some(room) => room,
                None => {
                    self.bytes += ROOM_BYTES + row.room.len();
                    self.rooms.entry(row.room.clone()).or_insert_with(|| RoomRows {
                        partition,
                        full: Vec::new(),
                        open: Chunk::default(),
                    })
                }
            };
            for row in run {
                if room.push(row) {
                    self.rows += 1;
                    self.bytes += row.place.len() + 6;
                }
            }
        }
        self.ids.reserve(ids.len());
        for (key, entry) in ids {
            if self.ids.insert(*key, *entry).is_none() {
                self.bytes += ID_BYTES;
            }
        }
        self.checkpoints.insert(partition, checkpoint);
        self.bytes - before
    }
}

impl RoomRows {
    /// False for an offset that is not after the room's last one.
    fn push(&mut self, row: &Row<'_>) -> bool {
        if self.open.count > 0 && row.offset <= self.open.last {
            tracing::error!(
                offset = row.offset,
                last = self.open.last,
                "a row out of order is left out of the view"
            );
            return false;
        }
        if self.open.is_full(row.place.len()) {
            self.full.push(std::mem::take(&mut self.open));
        }
        self.open.push(row.offset, row.prev, row.place);
        true
    }

    /// The chunks, oldest first; there is at least one, and none is empty.
    pub fn chunks(&self) -> impl DoubleEndedIterator<Item = &Chunk> {
        self.full.iter().chain(std::iter::once(&self.open))
    }

    pub fn first(&self) -> u64 {
        self.full.first().unwrap_or(&self.open).first
    }

    pub fn last(&self) -> u64 {
        self.open.last
    }
}

/// Takes a message key as its own hash: it is one already, made with a secret.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}
