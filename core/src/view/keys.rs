//! Keys and small values of a view's store. All numbers in values are little endian; in keys big endian, so that
//! keys sort like their numbers.
//!
//! | key | value |
//! | --- | --- |
//! | `m` | [`Meta`]: format, identity, hash key; written once |
//! | `f` | [`State`]: counters and the list of id buckets; written by every flush |
//! | `c` partition | [`Partition`]: checkpoint and trimming |
//! | `r` length room | [`RoomMeta`] |
//! | `h` length room, first offset | a chunk of rows |
//!
//! A bucket of ids holds message key -> [`entry`]. Every table has besides a [`mark`] for each of its last writes: the
//! store can lose a write and keep a later one when a bit has flipped in the journal, and a missing mark tells.

use super::error::ViewError;
use super::{Checkpoint, IdEntry, Identity};
use crate::ids::HashKey;

/// The format of everything in the store. Another number on disk: the view is built again.
pub(super) const FORMAT: u32 = 3;

pub(super) const META: &[u8] = b"m";
pub(super) const STATE: &[u8] = b"f";
/// Marks that a table has; an older one is removed with each write.
pub(super) const MARKS: u64 = 4096;
/// Behind the keys of all rooms; itself no key.
pub(super) const ROOMS_END: &[u8] = b"s";

pub(super) fn partition(partition: u32) -> Vec<u8> {
    let mut key = vec![b'c'];
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

pub(super) fn room(room: &str) -> Vec<u8> {
    room_bytes(room.as_bytes())
}

/// The key of the mark of a table's n-th write. Longer than a message's key and before all others.
pub(super) fn mark(n: u64) -> Vec<u8> {
    let mut key = vec![0; 9];
    key.extend_from_slice(&n.to_be_bytes());
    key
}

fn named(tag: u8, room: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(room.len() + 12);
    key.push(tag);
    key.extend_from_slice(&(room.len() as u16).to_be_bytes());
    key.extend_from_slice(room);
    key
}

pub(super) fn room_bytes(room: &[u8]) -> Vec<u8> {
    named(b'r', room)
}

pub(super) fn room_of(key: &[u8]) -> Result<&[u8], ViewError> {
    match key {
        [b'r', _, _, room @ ..] => Ok(room),
        _ => Err(ViewError::damaged("a room's key cannot be read")),
    }
}

pub(super) fn chunk(room: &[u8], first: u64) -> Vec<u8> {
    let mut key = named(b'h', room);
    key.extend_from_slice(&first.to_be_bytes());
    key
}

pub(super) fn chunk_first(key: &[u8]) -> Result<u64, ViewError> {
    key.last_chunk()
        .map(|n| u64::from_be_bytes(*n))
        .ok_or_else(|| ViewError::damaged("a chunk's key cannot be read"))
}

/// Reads numbers off the front of a value.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ViewError> {
        let (head, rest) =
            self.0.split_first_chunk().ok_or_else(|| ViewError::damaged("a value is too short"))?;
        self.0 = rest;
        Ok(*head)
    }
    fn u32(&mut self) -> Result<u32, ViewError> {
        self.bytes().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, ViewError> {
        self.bytes().map(u64::from_le_bytes)
    }
    fn end<T>(self, value: T) -> Result<T, ViewError> {
        if self.0.is_empty() { Ok(value) } else { Err(ViewError::damaged("a value is too long")) }
    }
}

/// What never changes in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub format: u32,
    pub identity: Identity,
    pub hash_key: HashKey,
}

impl Meta {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.format.to_le_bytes().to_vec();
        out.extend_from_slice(&self.identity.log);
        out.extend_from_slice(&self.identity.partitions.to_le_bytes());
        out.extend_from_slice(&self.hash_key.0);
        out
    }

    pub fn decode(value: &[u8]) -> Result<Meta, ViewError> {
        let mut f = Fields(value);
        let meta = Meta {
            format: f.u32()?,
            identity: Identity { log: f.bytes()?, partitions: f.u32()? },
            hash_key: HashKey(f.bytes()?),
        };
        f.end(meta)
    }
}

/// A bucket as it is listed in [`State`]: number, first and width of its times, how often it was written.
pub(super) type BucketEntry = (u32, u64, u64, u64);

/// What every flush writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// How often the main table was written.
    pub writes: u64,
    /// Rooms with an entry.
    pub rooms: u64,
    /// Number of the next bucket.
    pub next_bucket: u32,
    pub buckets: Vec<BucketEntry>,
}

impl State {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.writes.to_le_bytes().to_vec();
        out.extend_from_slice(&self.rooms.to_le_bytes());
        out.extend_from_slice(&self.next_bucket.to_le_bytes());
        for (number, start, width, writes) in &self.buckets {
            out.extend_from_slice(&number.to_le_bytes());
            for n in [start, width, writes] {
                out.extend_from_slice(&n.to_le_bytes());
            }
        }
        out
    }

    pub fn decode(value: &[u8]) -> Result<State, ViewError> {
        let mut f = Fields(value);
        let mut state =
            State { writes: f.u64()?, rooms: f.u64()?, next_bucket: f.u32()?, buckets: Vec::new() };
        while !f.0.is_empty() {
            state.buckets.push((f.u32()?, f.u64()?, f.u64()?, f.u64()?));
        }
        Ok(state)
    }
}

/// One partition of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Partition {
    pub checkpoint: Option<Checkpoint>,
    /// Rows with a smaller offset are gone from the log.
    pub trim: u64,
    /// Their chunks have been removed up to here.
    pub swept: u64,
    /// See [`View::begin_after`](super::View::begin_after).
    pub begins: u64,
}

impl Partition {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.checkpoint.is_some())];
        let Checkpoint { sequence, check } = self.checkpoint.unwrap_or_default();
        for n in [sequence, check, self.trim, self.swept, self.begins] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out
    }

    pub fn decode(value: &[u8]) -> Result<Partition, ViewError> {
        let mut f = Fields(value);
        let [has] = f.bytes()?;
        let checkpoint = Checkpoint { sequence: f.u64()?, check: f.u64()? };
        let partition = Partition {
            checkpoint: (has != 0).then_some(checkpoint),
            trim: f.u64()?,
            swept: f.u64()?,
            begins: f.u64()?,
        };
        f.end(partition)
    }
}

/// What is kept about a room, even when none of its rows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoomMeta {
    pub partition: u32,
    /// Offset of the last accepted row.
    pub last: u64,
    /// Offset of the first row in the store. Means nothing if `count` is 0.
    pub first: u64,
    /// `prev` of that row, or `last` if there is none.
    pub floor: u64,
    /// Rows in the store.
    pub count: u64,
}

impl RoomMeta {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(36);
        out.extend_from_slice(&self.partition.to_le_bytes());
        for n in [self.last, self.first, self.floor, self.count] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out
    }

    pub fn decode(value: &[u8]) -> Result<RoomMeta, ViewError> {
        let mut f = Fields(value);
        let meta = RoomMeta {
            partition: f.u32()?,
            last: f.u64()?,
            first: f.u64()?,
            floor: f.u64()?,
            count: f.u64()?,
        };
        f.end(meta)
    }
}

/// An id's entry as it is stored.
pub(super) fn entry(entry: &IdEntry) -> [u8; 24] {
    let mut out = [0; 24];
    for (to, n) in out.chunks_exact_mut(8).zip([entry.offset, entry.body, entry.time]) {
        to.copy_from_slice(&n.to_le_bytes());
    }
    out
}

pub(super) fn read_entry(value: &[u8]) -> Result<IdEntry, ViewError> {
    let mut f = Fields(value);
    let entry = IdEntry { offset: f.u64()?, body: f.u64()?, time: f.u64()? };
    f.end(entry)
}
