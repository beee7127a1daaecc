//! Writing what is in memory to the store, and removing what is no longer kept.

use super::chunk::Stored;
use super::error::ViewError;
use super::ids::{self, Bucket};
use super::keys::{self, Partition, RoomMeta, State};
use super::layer::{Layer, RoomRows};
use super::store::{Batch, IdTable, Snapshot, Store};
use super::{Shared, View};
use crate::points::{Point, reach};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};

/// A room is trimmed once it holds so many rows more than `history_per_room`, so that not every flush reads its
/// oldest chunks.
const HISTORY_SLACK: u64 = 256;
/// Rooms that one flush looks at for rows which the log has dropped. The rest waits for the next flush.
const SWEEP_ROOMS: usize = 1000;

/// What a flush wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Rows.
    pub rows: usize,
    /// Message ids.
    pub ids: usize,
    /// Rooms that had rows.
    pub rooms: usize,
    /// Memory set free, as [`View::overlay_bytes`] counts.
    pub bytes: usize,
    /// Nothing was written, because the store's background work is behind. The rows stay in memory: try again soon.
    pub deferred: bool,
    /// There is more to remove than one flush does: flush again even if nothing was added.
    pub unfinished: bool,
}

/// What only flushes use.
pub(super) struct Flusher {
    writes: u64,
    rooms: u64,
    next_bucket: u32,
    width: u64,
    /// Ids of older times are not written any more.
    oldest: u64,
    /// Tables that the next flush drops, once no state on disk lists them.
    dropped: Vec<IdTable>,
    /// Where the search for rows below the log's beginning goes on: the last room looked at, and the beginnings it
    /// was started with.
    sweep: Option<(Vec<u8>, Vec<u64>)>,
}

impl Flusher {
    pub fn new(state: &State) -> Flusher {
        Flusher {
            writes: state.writes,
            rooms: state.rooms,
            next_bucket: state.next_bucket,
            width: ids::DEFAULT_WIDTH,
            oldest: 0,
            dropped: Vec::new(),
            sweep: None,
        }
    }

    /// Goes on with a store that was opened again and holds this.
    pub fn resume(&mut self, state: &State) {
        let Flusher { width, oldest, next_bucket, .. } = *self;
        let next_bucket = next_bucket.max(state.next_bucket);
        *self = Flusher { width, oldest, next_bucket, ..Flusher::new(state) };
    }

    /// Ids of older times are not written any more.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Has the next flush drop these.
    pub fn drop_tables(&mut self, buckets: Vec<Bucket>) {
        self.dropped.extend(buckets.into_iter().map(|b| b.table));
    }

    /// Holds no table any more.
    pub fn forget_tables(&mut self) {
        self.dropped.clear();
    }

    /// Rooms in the store.
    pub fn rooms(&self) -> u64 {
        self.rooms
    }
}

impl View {
    fn flusher(&self) -> MutexGuard<'_, Flusher> {
        self.flusher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was added, with its checkpoints, in one transaction that survives the end of this process (but
    /// not, before the system has written it out, a power failure: then the view is an older, consistent one).
    /// Readers see no gap and nothing twice meanwhile. One call at a time does work; a second one waits.
    ///
    /// After an error everything stays readable and in memory; the next call tries again. A store that takes no more writes is
    /// opened again first, once there is room; should that fail, what is in it cannot be read until another call has done it.
    ///
    /// The cost of a flush is mostly one item for each room with rows and one for each id, so the more rows there are
    /// for each room, the cheaper is a row: flush about once a second, or at 16 MiB of
    /// [`overlay_bytes`](View::overlay_bytes).
    ///
    /// Rooms that hold more than `history_per_room` rows lose their oldest chunks (at most 512 rows each) here. A
    /// reader sees at most `history_per_room` + 512 rows that are older than the last flush, and what came since.
    pub fn flush(&self) -> Result<Flushed, ViewError> {
        self.checked(|| self.flush_all())
    }

    fn flush_all(&self) -> Result<Flushed, ViewError> {
        let mut flusher = self.flusher();
        self.reopen(&mut flusher)?;
        let store = self.store();
        let mut done = Flushed::default();
        // What an earlier flush could not write goes first, by itself.
        let retried = self.shared().frozen.clone();
        if let Some(layer) = retried {
            self.write(&store, &mut flusher, layer, &mut done)?;
        }
        let layer = {
            let mut shared = self.shared_mut();
            if shared.frozen.is_some() || (shared.active.is_empty() && !shared.dirty) {
                None
            } else {
                let layer = Arc::new(std::mem::take(&mut shared.active));
                shared.frozen = Some(layer.clone());
                Some(layer)
            }
        };
        if let Some(layer) = layer {
            self.write(&store, &mut flusher, layer, &mut done)?;
        }
        if done.deferred {
            return Ok(done);
        }
        for table in std::mem::take(&mut flusher.dropped) {
            store.drop_ids(table)?;
        }
        done.unfinished = self.sweep(&store, &mut flusher)?;
        Ok(done)
    }

    fn write(
        &self,
        store: &Store,
        flusher: &mut Flusher,
        layer: Arc<Layer>,
        done: &mut Flushed,
    ) -> Result<(), ViewError> {
        let (mut partitions, mut buckets) = {
            let shared = self.shared();
            (shared.partitions.clone(), shared.buckets.to_vec())
        };
        #[cfg(test)]
        match self.failing.load(Relaxed) {
            0 => {}
            1 => return Err(ViewError::Storage("as a test wants it".into())),
            2 => {
                done.deferred = true;
                return Ok(());
            }
            _ => {
                self.failing.store(0, Relaxed);
                unreachable!("as a test wants it");
            }
        }
        let tables: Vec<_> = buckets.iter().map(|b| b.table.clone()).collect();
        if store.is_behind(&tables)? {
            done.deferred = true;
            return Ok(());
        }
        let writes = flusher.writes + 1;
        let mut batch = store.batch(layer.rooms.len() * 2 + layer.ids.len() + 8)?;
        let mut new_rooms = 0;
        {
            let read = store.snapshot();
            let mut rooms: Vec<_> = layer.rooms.iter().collect();
            rooms.sort_unstable_by_key(|(name, _)| *name);
            for (name, rows) in rooms {
                new_rooms += u64::from(self.write_room(&read, &mut batch, name, rows)?);
            }
        }
        write_ids(store, flusher, &layer, &mut batch, &mut buckets)?;
        for (partition, checkpoint) in &layer.checkpoints {
            if let Some(p) = partitions.get_mut(*partition as usize) {
                p.checkpoint = Some(*checkpoint);
            }
        }
        for (partition, p) in (0..).zip(&partitions) {
            if *p != Partition::default() {
                batch.put(keys::partition(partition), p.encode());
            }
        }
        let state = State {
            writes,
            rooms: flusher.rooms + new_rooms,
            next_bucket: flusher.next_bucket,
            buckets: buckets.iter().map(|b| (b.number, b.start, b.width, b.writes)).collect(),
        };
        batch.put(keys::STATE.to_vec(), state.encode());
        batch.mark(None, writes);
        reach(Point::Flushing);
        batch.commit()?;
        reach(Point::Flushing);

        (flusher.writes, flusher.rooms) = (writes, state.rooms);
        {
            let mut shared = self.shared_mut();
            shared.frozen = None;
            shared.buckets = Arc::new(buckets);
            shared.dirty = false;
            let Shared { partitions: now, dirty, .. } = &mut *shared;
            for (now, written) in now.iter_mut().zip(&partitions) {
                now.checkpoint = written.checkpoint;
                *dirty |= now.trim != written.trim || now.begins != written.begins;
            }
        }
        self.overlay_bytes.fetch_sub(layer.bytes, Relaxed);
        done.rows += layer.rows;
        done.ids += layer.ids.len();
        done.rooms += layer.rooms.len();
        done.bytes += layer.bytes;
        Ok(())
    }

    /// Puts a room's new chunks and its entry; true if it had none before.
    fn write_room(
        &self,
        read: &Snapshot<'_>,
        batch: &mut Batch<'_>,
        name: &Arc<str>,
        rows: &RoomRows,
    ) -> Result<bool, ViewError> {
        let old = read.room(name)?;
        if old.is_some_and(|m| m.last >= rows.first()) {
            return Err(ViewError::damaged("a room has rows that the checkpoint does not cover"));
        }
        let mut meta =
            RoomMeta { partition: rows.partition, last: rows.last(), ..old.unwrap_or(RoomMeta::NONE) };
        let stored = meta;
        for chunk in rows.chunks() {
            batch.put(keys::chunk(name.as_bytes(), chunk.first), chunk.encode());
            if meta.count == 0 {
                (meta.first, meta.floor) = (chunk.first, chunk.floor);
            }
            meta.count += chunk.count as u64;
        }
        let keep = self.history_per_room;
        if keep > 0 && stored.count > 0 && meta.count > keep.saturating_add(HISTORY_SLACK) {
            let count = meta.count;
            let (after, removed) = remove_while(read, batch, name.as_bytes(), stored, |chunk, removed| {
                count.saturating_sub(removed).saturating_sub(chunk.count) >= keep
            })?;
            let begins = (after.first, after.floor);
            // If everything older is removed, the room begins with its new rows.
            let begins =
                if after.count > 0 { Some(begins) } else { rows.chunks().next().map(|c| (c.first, c.floor)) };
            (meta.first, meta.floor) = begins.unwrap_or((0, meta.last));
            meta.count = count - removed;
        }
        batch.put(keys::room(name), meta.encode());
        Ok(old.is_none())
    }

    /// Drops the ids whose last record is older than `window_ms` before `now_ms`, bucket by bucket, with the next
    /// flush. `window_ms` is also how wide new buckets are (at least ten minutes).
    /// Waits for a flush under way.
    pub fn forget_ids(&self, now_ms: u64, window_ms: u64) {
        let mut flusher = self.flusher();
        flusher.width = window_ms.max(ids::MIN_WIDTH);
        flusher.oldest = flusher.oldest.max(now_ms.saturating_sub(window_ms));
        let oldest = flusher.oldest;
        let mut shared = self.shared_mut();
        if shared.buckets.iter().any(|b| b.end() <= oldest) {
            let (gone, kept) = shared.buckets.iter().cloned().partition(|b: &Bucket| b.end() <= oldest);
            shared.buckets = Arc::new(kept);
            flusher.drop_tables(gone);
            shared.dirty = true;
        }
    }

    /// The partition's log now begins at `sequence`: rows with smaller offsets are gone for readers at once, and
    /// removed from the store by the next flushes. To be called after every opening too, since the last call may not
    /// have been flushed.
    pub fn trim_below(&self, partition: u32, sequence: u64) -> Result<(), ViewError> {
        let mut shared = self.shared_mut();
        if let Some(p) = shared.partitions.get_mut(partition as usize)
            && sequence > p.trim
        {
            p.trim = sequence;
            shared.dirty = true;
        }
        Ok(())
    }

    /// Removes chunks below the log's beginning from the next rooms; true if there are further rooms to look at.
    fn sweep(&self, store: &Store, flusher: &mut Flusher) -> Result<bool, ViewError> {
        let due = |s: &Shared| -> Vec<u64> {
            s.partitions.iter().map(|p| if p.swept < p.trim { p.trim } else { 0 }).collect()
        };
        let (cursor, trims) = match flusher.sweep.take() {
            Some(begun) => begun,
            None => (Vec::new(), due(&self.shared())),
        };
        if trims.iter().all(|t| *t == 0) {
            return Ok(false);
        }
        let mut batch = store.batch(SWEEP_ROOMS)?;
        let rooms = {
            let read = store.snapshot();
            let rooms = read.rooms(&cursor, SWEEP_ROOMS)?;
            for (name, meta) in &rooms {
                let trim = trims.get(meta.partition as usize).copied().unwrap_or(0);
                if meta.count == 0 || meta.first >= trim {
                    continue;
                }
                let (after, removed) =
                    remove_while(&read, &mut batch, name, *meta, |chunk, _| chunk.last < trim)?;
                if removed > 0 {
                    batch.put(keys::room_bytes(name), after.encode());
                }
            }
            rooms
        };
        let finished = rooms.len() < SWEEP_ROOMS;
        if finished {
            let mut swept = self.shared().partitions.clone();
            for (partition, (p, trim)) in (0..).zip(swept.iter_mut().zip(&trims)) {
                if *trim > 0 {
                    p.swept = *trim;
                    batch.put(keys::partition(partition), p.encode());
                }
            }
        }
        batch.commit()?;
        if finished {
            let mut shared = self.shared_mut();
            for (p, trim) in shared.partitions.iter_mut().zip(&trims) {
                p.swept = p.swept.max(*trim);
            }
            return Ok(due(&shared).iter().any(|t| *t > 0));
        }
        if let Some((name, _)) = rooms.into_iter().next_back() {
            flusher.sweep = Some((name, trims));
        }
        Ok(true)
    }
}

impl RoomMeta {
    const NONE: RoomMeta = RoomMeta { partition: 0, last: 0, first: 0, floor: 0, count: 0 };
}

/// Removes a room's oldest chunks in the store while `go_on` says so for a chunk and the rows removed before it.
/// Answers what the store then has of the room, and how many rows were removed.
fn remove_while(
    read: &Snapshot<'_>,
    batch: &mut Batch<'_>,
    name: &[u8],
    mut meta: RoomMeta,
    go_on: impl Fn(&Stored, u64) -> bool,
) -> Result<(RoomMeta, u64), ViewError> {
    let before = meta.count;
    let mut removed = 0;
    for chunk in read.chunks(name, meta.first, u64::MAX) {
        let chunk = chunk?;
        if !go_on(&chunk, removed) {
            (meta.first, meta.floor) = (chunk.first, chunk.floor()?);
            meta.count = before - removed;
            return Ok((meta, removed));
        }
        removed += chunk.count;
        if removed > before {
            return Err(ViewError::damaged("a room has more rows than it counted"));
        }
        batch.remove(keys::chunk(name, chunk.first));
    }
    (meta.count, meta.floor) = (0, meta.last);
    Ok((meta, removed))
}

fn write_ids(
    store: &Store,
    flusher: &mut Flusher,
    layer: &Layer,
    batch: &mut Batch<'_>,
    buckets: &mut Vec<Bucket>,
) -> Result<(), ViewError> {
    let mut ids: Vec<_> = layer.ids.iter().filter(|(_, e)| e.time >= flusher.oldest).collect();
    ids.sort_unstable_by_key(|(key, _)| *key);
    let mut written = BTreeSet::new();
    for (key, entry) in ids {
        let next = &mut flusher.next_bucket;
        let i = ids::bucket_for(buckets, entry.time, flusher.width, || {
            let number = *next;
            *next += 1;
            Ok((number, store.make_ids(number)?))
        })?;
        let Some(bucket) = buckets.get_mut(i) else { continue };
        batch.put_id(&bucket.table, &key.0.to_be_bytes(), &keys::entry(entry));
        written.insert(bucket.number);
    }
    for bucket in buckets.iter_mut().filter(|b| written.contains(&b.number)) {
        bucket.writes += 1;
        batch.mark(Some(&bucket.table), bucket.writes);
    }
    Ok(())
}
