//! Reading pages of a room's rows.

use super::chunk::{Slot, Stored};
use super::error::ViewError;
use super::keys::RoomMeta;
use super::layer::{Layer, RoomRows};
use super::store::Snapshot;
use super::{OwnedRow, PAGE_BYTES, RowQuery, Rows, View};
use bytes::Bytes;
use std::sync::Arc;

/// Rows being gathered in the direction of reading.
struct Page {
    rows: Vec<OwnedRow>,
    bytes: usize,
    limit: usize,
    backward: bool,
    lo: u64,
    hi: u64,
    /// A further row was seen.
    more: bool,
}

/// Where the places of slots lie.
enum Source<'a> {
    Shared(&'a Bytes),
    Borrowed(&'a [u8]),
}

impl Page {
    fn has_room(&self, taken: usize, bytes: usize) -> bool {
        let rows = self.rows.len() + taken;
        rows < self.limit && (rows == 0 || self.bytes + bytes <= PAGE_BYTES)
    }

    /// Takes what belongs to the page; false once it is complete.
    fn take(&mut self, slots: &[Slot], source: Source<'_>) -> bool {
        let from = slots.partition_point(|s| s.offset < self.lo);
        let to = slots.partition_point(|s| s.offset <= self.hi);
        let wanted = slots.get(from..to).unwrap_or_default();
        let mut taken = 0;
        let mut bytes = 0;
        let next = |i: usize| if self.backward { wanted.iter().rev().nth(i) } else { wanted.get(i) };
        while let Some(slot) = next(taken) {
            if !self.has_room(taken, bytes + slot.place.len()) {
                self.more = true;
                break;
            }
            bytes += slot.place.len();
            taken += 1;
        }
        let chosen = if self.backward { wanted.len() - taken..wanted.len() } else { 0..taken };
        let chosen = wanted.get(chosen).unwrap_or_default();
        if let [first, ..] = chosen
            && let [.., last] = chosen
        {
            let start = first.place.start;
            let span = start..last.place.end;
            // One copy, or none, for all of them.
            let base = match source {
                Source::Shared(all) => all.slice(span),
                Source::Borrowed(all) => Bytes::copy_from_slice(all.get(span).unwrap_or_default()),
            };
            let row = |s: &Slot| OwnedRow {
                offset: s.offset,
                prev: s.prev,
                place: base.slice(s.place.start - start..s.place.end - start),
            };
            if self.backward {
                self.rows.extend(chosen.iter().rev().map(row));
            } else {
                self.rows.extend(chosen.iter().map(row));
            }
            self.bytes += bytes;
        }
        !self.more
    }

    fn take_layer(&mut self, room: &RoomRows) -> Result<(), ViewError> {
        if self.backward {
            for chunk in room.chunks().rev() {
                if chunk.last < self.lo || !self.take(&chunk.slots()?, Source::Borrowed(&chunk.bytes)) {
                    break;
                }
            }
        } else {
            let lo = self.lo;
            for chunk in room.chunks().filter(|c| c.last >= lo) {
                if chunk.first > self.hi || !self.take(&chunk.slots()?, Source::Borrowed(&chunk.bytes)) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes from the store, where rows are wanted up to `hi` only.
    fn take_store(
        &mut self,
        read: &Snapshot<'_>,
        room: &str,
        meta: &RoomMeta,
        hi: u64,
    ) -> Result<(), ViewError> {
        let room = room.as_bytes();
        let hi = hi.min(self.hi);
        let all = std::mem::replace(&mut self.hi, hi);
        if self.backward {
            for chunk in read.chunks(room, meta.first, hi).rev() {
                let chunk = chunk?;
                if chunk.last < self.lo || !self.take(&chunk.slots()?, Source::Shared(&chunk.bytes)) {
                    break;
                }
            }
        } else {
            for chunk in chunks_from(read, room, meta, self.lo, hi)? {
                let chunk = chunk?;
                if !self.take(&chunk.slots()?, Source::Shared(&chunk.bytes)) {
                    break;
                }
            }
        }
        self.hi = all;
        Ok(())
    }

    /// Appends a page that was gathered before what is in this one.
    fn append(&mut self, later: Page) {
        for row in later.rows {
            if !self.has_room(0, row.place.len()) {
                self.more = true;
                return;
            }
            self.bytes += row.place.len();
            self.rows.push(row);
        }
        self.more |= later.more;
    }
}

/// The room's chunks with rows in `lo..=hi`, oldest first.
fn chunks_from<'a>(
    read: &'a Snapshot<'_>,
    room: &'a [u8],
    meta: &RoomMeta,
    lo: u64,
    hi: u64,
) -> Result<impl Iterator<Item = Result<Stored, ViewError>> + 'a, ViewError> {
    // The chunk that begins at or before `lo` may reach beyond it.
    let around = read.chunks(room, meta.first, lo.min(hi)).next_back().transpose()?.filter(|c| c.last >= lo);
    let after = lo.saturating_add(1).max(meta.first);
    Ok(around.map(Ok).into_iter().chain(read.chunks(room, after, hi)))
}

/// `prev` of the first row of a layer that is at `lo` or after it.
fn layer_floor(room: &RoomRows, lo: u64) -> Result<Option<u64>, ViewError> {
    let Some(chunk) = room.chunks().find(|c| c.last >= lo) else { return Ok(None) };
    if chunk.first >= lo {
        return Ok(Some(chunk.floor));
    }
    Ok(chunk.slots()?.iter().find(|s| s.offset >= lo).map(|s| s.prev))
}

fn store_floor(read: &Snapshot<'_>, room: &str, meta: &RoomMeta, lo: u64) -> Result<Option<u64>, ViewError> {
    if meta.first >= lo {
        return Ok(Some(meta.floor));
    }
    match chunks_from(read, room.as_bytes(), meta, lo, u64::MAX)?.next().transpose()? {
        Some(chunk) => Ok(chunk.slots()?.iter().find(|s| s.offset >= lo).map(|s| s.prev)),
        None => Ok(None),
    }
}

impl View {
    /// A page of a room's rows; see [`RowQuery`]. A room that is not known has no rows.
    ///
    /// A page has at most [`PAGE_BYTES`] bytes of places (but at least one row, if there is one and `limit` allows):
    /// it may be shorter than `limit`, then `more` is true.
    pub fn rows(&self, room: &str, query: RowQuery) -> Result<Rows, ViewError> {
        self.checked(|| self.page(room, query))
    }

    fn page(&self, room: &str, query: RowQuery) -> Result<Rows, ViewError> {
        let page = |lo, hi| Page {
            rows: Vec::new(),
            bytes: 0,
            limit: query.limit,
            backward: query.backward,
            lo,
            hi,
            more: false,
        };
        let after = query.after.checked_add(1);
        let hi = if query.before == 0 { u64::MAX } else { query.before - 1 };

        // All parts are fixed under one lock: the newest rows, the rows that a flush is writing, and the store, which
        // may hold those already. What the layers have is not asked of the store, so nothing is seen twice.
        let store = self.store();
        let shared = self.shared();
        let newest = shared.active.rooms.get(room);
        let frozen: Option<Arc<Layer>> = shared.frozen.clone();
        let read = store.snapshot();
        let trims = |partition: u32| shared.partitions.get(partition as usize).map_or(0, |p| p.trim);
        let begins = self.begins(&shared, room);
        let mut trim = newest.map(|r| trims(r.partition));
        let frozen = frozen.as_ref().and_then(|f| f.rooms.get(room));
        trim = trim.or_else(|| frozen.map(|r| trims(r.partition)));
        let mut meta = None;
        if trim.is_none() {
            meta = read.room(room)?;
            trim = meta.as_ref().map(|m| trims(m.partition));
        }
        let trim = trim.unwrap_or(0);
        // An empty range where there is no offset after `after`.
        let (lo, hi) = after.map_or((u64::MAX, 0), |lo| (lo.max(trim), hi));
        let mut live = page(lo, hi);
        let mut live_floor = None;
        let mut last = None;
        let mut border = u64::MAX;
        if let Some(newest) = newest {
            live.take_layer(newest)?;
            live_floor = layer_floor(newest, trim)?;
            last = Some(newest.last());
            border = newest.first().saturating_sub(1);
        }
        drop(shared);

        if let Some(frozen) = frozen {
            last = last.or(Some(frozen.last()));
            border = frozen.first().saturating_sub(1);
        }
        if meta.is_none() {
            meta = read.room(room)?;
        }
        let last = last.or(meta.map(|m| m.last)).unwrap_or(0).max(begins);
        let stored = meta.filter(|m| m.count > 0);
        let mut floor = match &stored {
            Some(meta) => store_floor(&read, room, meta, trim)?,
            None => None,
        };
        if floor.is_none() {
            floor = frozen.map(|f| layer_floor(f, trim)).transpose()?.flatten().or(live_floor);
        }

        let mut done = page(lo, hi);
        if query.backward {
            done = live;
            if let (Some(frozen), false) = (frozen, done.more) {
                done.take_layer(frozen)?;
            }
            if let (Some(meta), false) = (&stored, done.more) {
                done.take_store(&read, room, meta, border)?;
            }
            done.rows.reverse();
        } else {
            if let Some(meta) = &stored {
                done.take_store(&read, room, meta, border)?;
            }
            if let (Some(frozen), false) = (frozen, done.more) {
                done.take_layer(frozen)?;
            }
            if !done.more {
                done.append(live);
            }
        }
        Ok(Rows { rows: done.rows, more: done.more, floor: floor.unwrap_or(last) })
    }
}
