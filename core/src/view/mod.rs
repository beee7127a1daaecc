//! The view: a rebuildable index of the log, the same for both brokers.
//!
//! It holds the accepted rows by room, each room's last offset, the recent message ids, and for each partition of the
//! log a checkpoint: how far all of this reaches. What is added is visible at once and lies in memory until the next
//! [`View::flush`] writes it, with its checkpoints, in one transaction. So after a crash the view is what it was at
//! some flush: everything up to the checkpoints and nothing beyond; the tail goes on from there.
//!
//! Nothing here is ever synced for a message, and nothing is lost with a view: it can always be built from the log
//! again. A view that cannot be opened is discarded and begun anew.

use crate::config::ViewSettings;
use crate::ids::{HashKey, MessageKey};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

mod chunk;
mod disk;
mod error;
mod flush;
mod ids;
#[cfg(test)]
pub(crate) mod kept;
mod keys;
mod layer;
mod page;
mod reopen;
mod store;
#[cfg(test)]
mod tests;

pub use error::ViewError;
pub use flush::Flushed;

use disk::Home;
use error::guard;
use flush::Flusher;
use ids::Bucket;
use layer::Layer;
use store::Store;

/// Most bytes of places in one page of rows, unless a single row has more. Past it the page ends with `more`.
pub const PAGE_BYTES: usize = 1 << 20;

/// Which log a view belongs to. A view of another identity is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The log's id.
    pub log: [u8; 16],
    /// Its number of partitions; 1 for the embedded log.
    pub partitions: u32,
}

/// How far a view has followed a partition of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last record that the view has taken in, accepted or not.
    pub sequence: u64,
    /// A hash of that record, by which the caller recognises its log.
    pub check: u64,
}

/// An accepted record on its way into the view.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The room, at most 65,535 bytes. A room belongs to one partition for ever.
    pub room: &'a Arc<str>,
    /// The offset: at least 1, and greater than every earlier one of the room.
    pub offset: u64,
    /// The offset of the room's row before, or 0.
    pub prev: u64,
    /// Where the record is, or the record itself; opaque here. At most 4 MiB.
    pub place: &'a [u8],
}

/// What is known about a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdEntry {
    /// The offset of the accepted record.
    pub offset: u64,
    /// The hash of its body.
    pub body: u64,
    /// The time of the last record with this id, accepted or not, in milliseconds since 1970 UTC. It must not run
    /// back for one id: of a record that does, give the later of the two times.
    pub time: u64,
}

/// Which rows of a room are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowQuery {
    /// Only rows with a greater offset.
    pub after: u64,
    /// Only rows with a smaller offset; 0 for no such bound.
    pub before: u64,
    /// Most rows.
    pub limit: usize,
    /// Take the newest rows of the range instead of the oldest.
    pub backward: bool,
}

/// A page of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The rows, in the order of their offsets in both directions.
    pub rows: Vec<OwnedRow>,
    /// Whether the range holds further rows: after these, or before them when reading backward.
    pub more: bool,
    /// From here on everything of the room is kept: who has seen this offset or a later one can go on without a gap.
    /// It is the `prev` of the first row kept, or the room's last offset if none is.
    pub floor: u64,
}

/// Which partition of so many a room is in.
pub type PartitionOf = fn(room: &[u8], partitions: u32) -> u32;

/// The place of a row as it was added. It may share memory with up to 64 KiB of its neighbours.
pub type PlaceBytes = Bytes;

/// A row as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRow {
    /// The offset.
    pub offset: u64,
    /// The offset of the room's row before, or 0.
    pub prev: u64,
    /// The place.
    pub place: PlaceBytes,
}

/// An index of one log. Shared by reference; any number of threads may read while one adds (one for each partition)
/// and one flushes.
pub struct View {
    /// Taken before `shared` where both are. Only a flush that opens the store again waits for all readers.
    store: RwLock<Store>,
    /// None for a view in memory.
    home: Option<Home>,
    hash_key: HashKey,
    history_per_room: u64,
    fresh: bool,
    /// Bytes in both layers; beside the lock, because it is asked for at every batch.
    overlay_bytes: AtomicUsize,
    newest_id: AtomicU64,
    /// See [`View::settled`]; of each partition.
    settled: Vec<AtomicU64>,
    partition_of: OnceLock<PartitionOf>,
    #[cfg(test)]
    failing: std::sync::atomic::AtomicU8,
    /// Taken before `shared` where both are.
    flusher: Mutex<Flusher>,
    shared: RwLock<Shared>,
}

/// What readers, the tail and the flush share. Held for short: never while the store writes.
#[derive(Default)]
struct Shared {
    active: Layer,
    /// What a flush is writing or has failed to write. Older than everything in `active`.
    frozen: Option<Arc<Layer>>,
    partitions: Vec<keys::Partition>,
    /// Buckets of ids in the store, by time.
    buckets: Arc<Vec<Bucket>>,
    /// Partitions or buckets changed without an addition.
    dirty: bool,
}

/// Where a view lies.
#[derive(Clone, Debug)]
pub enum ViewAt {
    /// In memory; see [`View::memory`].
    Memory,
    /// In a directory; see [`View::open`].
    Dir(PathBuf),
    /// In memory that outlives the view, as a disk outlives a process.
    #[cfg(test)]
    Kept(kept::Kept),
}

impl ViewAt {
    /// Opens the view there, or makes one.
    pub fn open(&self, identity: Identity, settings: &ViewSettings) -> Result<View, ViewError> {
        match self {
            ViewAt::Memory => Ok(View::memory(identity, settings)),
            ViewAt::Dir(dir) => View::open(dir, identity, settings),
            #[cfg(test)]
            ViewAt::Kept(kept) => View::kept(kept, identity, settings),
        }
    }

    /// Removes the view there; see [`View::destroy`].
    pub fn destroy(&self) -> Result<(), ViewError> {
        match self {
            ViewAt::Memory => Ok(()),
            ViewAt::Dir(dir) => View::destroy(dir),
            #[cfg(test)]
            ViewAt::Kept(kept) => {
                kept.destroy();
                Ok(())
            }
        }
    }
}

impl View {
    /// Opens the view in `dir`. One that is missing, refused, damaged, of another format or another identity is
    /// removed and a fresh one made, with a warning in the log; nothing but the view's own folder in `dir` is touched.
    /// Where the disk has no room for one, it begins in memory, and the first flush that finds room makes it.
    ///
    /// Errors: [`ViewError::InUse`] and [`ViewError::Storage`]; then nothing was removed.
    pub fn open(dir: &Path, identity: Identity, settings: &ViewSettings) -> Result<View, ViewError> {
        let home = Home { dir: dir.into(), identity, settings: settings.clone() };
        let opened = match disk::open(&home) {
            Err(ViewError::Full(why)) => {
                tracing::warn!(dir = %dir.display(), why, "no room for the view; it is kept in memory until there is");
                let view = View::memory(identity, settings);
                return Ok(View { home: Some(home), ..view });
            }
            opened => opened?,
        };
        let shared =
            Shared { partitions: opened.partitions, buckets: Arc::new(opened.buckets), ..Shared::default() };
        let hash_key = opened.meta.hash_key;
        let view =
            View::new(Store::Disk(opened.disk), hash_key, settings, opened.fresh, &opened.state, shared);
        Ok(View { home: Some(home), ..view })
    }

    /// A view that lives in memory and dies with it. It must be flushed all the same: that is when old rows and ids
    /// are dropped.
    pub fn memory(identity: Identity, settings: &ViewSettings) -> View {
        let partitions = vec![keys::Partition::default(); identity.partitions as usize];
        let shared = Shared { partitions, ..Shared::default() };
        View::new(Store::memory(), HashKey::random(), settings, true, &keys::State::default(), shared)
    }

    fn new(
        store: Store,
        hash_key: HashKey,
        settings: &ViewSettings,
        fresh: bool,
        state: &keys::State,
        shared: Shared,
    ) -> View {
        View {
            store: RwLock::new(store),
            home: None,
            hash_key,
            history_per_room: settings.history_per_room,
            fresh,
            overlay_bytes: AtomicUsize::new(0),
            newest_id: AtomicU64::new(0),
            settled: shared.partitions.iter().map(|_| AtomicU64::new(0)).collect(),
            partition_of: OnceLock::new(),
            #[cfg(test)]
            failing: Default::default(),
            flusher: Mutex::new(Flusher::new(state)),
            shared: RwLock::new(shared),
        }
    }

    /// Removes the view in `dir`. [`ViewError::InUse`] while one is open there.
    pub fn destroy(dir: &Path) -> Result<(), ViewError> {
        disk::destroy(dir)
    }

    /// Whether this view began empty: because there was none, or because the one there could not be used.
    pub fn was_rebuilt(&self) -> bool {
        self.fresh
    }

    /// The secret of the message keys in this view; made with it and kept in it.
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// How far the flushed content follows a partition; `None` if nothing of it has been flushed.
    pub fn checkpoint(&self, partition: u32) -> Option<Checkpoint> {
        self.shared().partitions.get(partition as usize).and_then(|p| p.checkpoint)
    }

    /// Adds the accepted rows of a batch of records, in log order, and what became of the ids in it. Visible to
    /// readers at once, durable with the next flush. `checkpoint` goes with the last record of the batch, which need
    /// not be among the rows.
    ///
    /// A partition that the identity does not have, and a row that does not follow the room's last, is left out with
    /// an error in the log.
    pub fn add(
        &self,
        partition: u32,
        rows: &[Row<'_>],
        ids: &[(MessageKey, IdEntry)],
        checkpoint: Checkpoint,
    ) {
        let mut shared = self.shared_mut();
        if shared.partitions.get(partition as usize).is_none() {
            tracing::error!(partition, "rows of a partition that the view does not have");
            return;
        }
        if let Some(newest) = ids.iter().map(|(_, entry)| entry.time).max() {
            self.newest_id.fetch_max(newest, Relaxed);
            self.settle(partition, newest);
        }
        let grown = shared.active.add(partition, rows, ids, checkpoint);
        self.overlay_bytes.fetch_add(grown, Relaxed);
    }

    /// About how much memory the rows and ids take that are not flushed yet, in bytes. The caller bounds it by
    /// flushing, and by not adding while a flush is late.
    pub fn overlay_bytes(&self) -> usize {
        self.overlay_bytes.load(Relaxed)
    }

    /// Records of a partition are gone that this view has never seen, and it does not know which rooms had some of those. For every room
    /// of the partition that has nothing later, `offset`, the last one that is gone, stands for the last offset: whoever has seen an
    /// earlier one is not told that nothing is missing. What lies before is to be trimmed as well.
    pub fn begin_after(&self, partition: u32, offset: u64) {
        let mut shared = self.shared_mut();
        if let Some(p) = shared.partitions.get_mut(partition as usize) {
            p.begins = offset.max(p.begins);
            shared.dirty = true;
        }
    }

    /// What [`View::begin_after`] said of a partition; 0 if nothing.
    pub fn begun_after(&self, partition: u32) -> u64 {
        self.shared().partitions.get(partition as usize).map_or(0, |p| p.begins)
    }

    /// Says which partition a room is in, of the number that there are. Without this all are in the first.
    pub fn locate_rooms(&self, partition_of: PartitionOf) {
        // The log of a view has one rule; a second call would say the same.
        let _ = self.partition_of.set(partition_of);
    }

    /// The log's number of partitions.
    pub fn partitions(&self) -> u32 {
        self.shared().partitions.len() as u32
    }

    /// Makes flushes fail, as on a full disk, or succeed again.
    #[cfg(test)]
    pub(crate) fn fail_writes(&self, failing: bool) {
        self.failing.store(u8::from(failing), Relaxed);
    }

    /// Makes flushes find the store behind with its background work, or not any more.
    #[cfg(test)]
    pub(crate) fn defer_writes(&self, deferring: bool) {
        self.failing.store(if deferring { 2 } else { 0 }, Relaxed);
    }

    /// Makes the next flush panic.
    #[cfg(test)]
    pub(crate) fn panic_once(&self) {
        self.failing.store(3, Relaxed);
    }

    /// What [`View::begin_after`] said of a room's partition. Of a lock that the caller has: while it reads the store it must not wait for
    /// another one, for which the flush may wait that waits for the store.
    fn begins(&self, shared: &Shared, room: &str) -> u64 {
        let located = |of: &PartitionOf| of(room.as_bytes(), shared.partitions.len() as u32);
        let partition = self.partition_of.get().map_or(0, located);
        shared.partitions.get(partition as usize).map_or(0, |p| p.begins)
    }

    /// The last accepted offset of a room; of one that is not known 0; or what [`View::begin_after`] said, if that is later. It outlives
    /// the rows.
    pub fn last(&self, room: &str) -> Result<u64, ViewError> {
        let begins = {
            let shared = self.shared();
            let begins = self.begins(&shared, room);
            let frozen = || shared.frozen.as_ref().and_then(|f| f.rooms.get(room));
            if let Some(found) = shared.active.rooms.get(room).or_else(frozen) {
                return Ok(found.last().max(begins));
            }
            begins
        };
        self.checked(|| Ok(self.store().snapshot().room(room)?.map_or(begins, |m| m.last.max(begins))))
    }

    /// What is known about a message id; `None` if nothing, or if its last record may be older than `oldest_ms`.
    pub fn id(&self, key: MessageKey, oldest_ms: u64) -> Result<Option<IdEntry>, ViewError> {
        self.checked(|| self.find_id(key, oldest_ms))
    }

    fn find_id(&self, key: MessageKey, oldest_ms: u64) -> Result<Option<IdEntry>, ViewError> {
        let store = self.store();
        let buckets = {
            let shared = self.shared();
            let frozen = || shared.frozen.as_ref().and_then(|f| f.ids.get(&key));
            if let Some(found) = shared.active.ids.get(&key).or_else(frozen) {
                return Ok((found.time >= oldest_ms).then_some(*found));
            }
            shared.buckets.clone()
        };
        store.is_open()?;
        let key = key.0.to_be_bytes();
        for bucket in buckets.iter().rev().filter(|b| b.end() > oldest_ms) {
            if let Some(value) = store.id(&bucket.table, &key)? {
                let found = keys::read_entry(&value)?;
                return Ok((found.time >= oldest_ms).then_some(found));
            }
        }
        Ok(None)
    }

    /// How many rooms have ever had a row. Looks at every room that is not flushed yet, and waits for a flush under
    /// way: for figures, not for the hot path.
    pub fn rooms(&self) -> Result<u64, ViewError> {
        self.checked(|| self.count_rooms())
    }

    fn count_rooms(&self) -> Result<u64, ViewError> {
        let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner);
        let store = self.store();
        let (names, frozen) = {
            let shared = self.shared();
            (shared.active.rooms.keys().cloned().collect::<Vec<_>>(), shared.frozen.clone())
        };
        let read = store.snapshot();
        let mut rooms = flusher.rooms();
        let frozen_rooms = frozen.as_ref().map(|f| &f.rooms);
        let newest = names.iter().filter(|n| frozen_rooms.is_none_or(|f| !f.contains_key(*n)));
        for name in frozen_rooms.into_iter().flat_map(|f| f.keys()).chain(newest) {
            rooms += u64::from(read.room(name)?.is_none());
        }
        Ok(rooms)
    }

    /// Flushes, and syncs to disk. False if not everything could be written yet, as [`Flushed::deferred`] says.
    pub fn sync(&self) -> Result<bool, ViewError> {
        let flushed = self.flush()?;
        self.checked(|| self.store().sync())?;
        Ok(!flushed.deferred)
    }

    /// The same, as the last thing. The files are let go when the view is dropped.
    pub fn close(&self) -> Result<(), ViewError> {
        self.sync().map(drop)
    }

    /// The latest time of an id that was added since the view was opened; 0 if there was none.
    pub fn newest_id(&self) -> u64 {
        self.newest_id.load(Relaxed)
    }

    /// A partition had nothing more to read when the log had come to this time.
    pub fn settle(&self, partition: u32, time: u64) {
        if let Some(settled) = self.settled.get(partition as usize) {
            settled.fetch_max(time, Relaxed);
        }
    }

    /// The time before which no record is left to come in any partition, but for what the clocks of a log may differ; 0 until that is
    /// known. One partition may be hours behind another: what is a duplicate there is decided by ids that are old elsewhere.
    pub fn settled(&self) -> u64 {
        self.settled.iter().map(|time| time.load(Relaxed)).min().unwrap_or(0)
    }

    /// Runs what reads or writes the store. Once it has found damage, the next [`View::open`] begins anew.
    fn checked<T>(&self, f: impl FnOnce() -> Result<T, ViewError>) -> Result<T, ViewError> {
        let result = guard(f);
        if let (Err(ViewError::Damaged(_)), Store::Disk(disk)) = (&result, &*self.store()) {
            disk.condemn();
        }
        result
    }

    fn store(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> RwLockReadGuard<'_, Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared_mut(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("overlay_bytes", &self.overlay_bytes()).finish_non_exhaustive()
    }
}
