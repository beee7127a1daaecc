//! Reading a file forward, with few reads.

use super::files::{Files, read_around, read_full};
use super::format::{BATCH_HEAD, Found, Mark};
use std::io;

/// Read at once; longer only for a batch that is longer.
const AHEAD: usize = 256 << 10;

/// A stretch of one file in memory.
#[derive(Debug)]
pub(super) struct Window {
    name: String,
    start: u64,
    buf: Vec<u8>,
    /// What the disk could not read, if that is to be looked past.
    unreadable: Option<Vec<(u64, u64)>>,
}

impl Window {
    pub fn new(name: String) -> Window {
        Window { name, start: 0, buf: Vec::new(), unreadable: None }
    }

    /// A window in which what the disk cannot read is zeros.
    pub fn lenient(name: String) -> Window {
        Window { unreadable: Some(Vec::new()), ..Window::new(name) }
    }

    /// Whether the disk could not read something at or after this place.
    pub fn unreadable_after(&self, at: u64) -> bool {
        self.unreadable.iter().flatten().any(|(_, to)| *to > at)
    }

    /// Ranges of the file that the disk could not read, in order.
    pub fn unreadable(&self) -> Vec<(u64, u64)> {
        let mut ranges = self.unreadable.clone().unwrap_or_default();
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let joined = next.0 <= last.1;
            if joined {
                last.1 = last.1.max(next.1);
            }
            joined
        });
        ranges
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `len` bytes at `at`, fewer if `limit` or the end of the file comes first. Nothing beyond `limit` is read or
    /// kept, because bytes there may still change.
    pub fn get(&mut self, files: &dyn Files, at: u64, len: usize, limit: u64) -> io::Result<&[u8]> {
        let len = (limit.saturating_sub(at)).min(len as u64) as usize;
        let held = at >= self.start && at + len as u64 <= self.start + self.buf.len() as u64;
        if !held {
            let ahead = (limit.saturating_sub(at)).min(len.max(AHEAD) as u64) as usize;
            self.buf.clear();
            self.buf.resize(ahead, 0);
            self.start = at;
            let got = match &mut self.unreadable {
                None => read_full(files, &self.name, at, &mut self.buf),
                Some(found) => read_around(files, &self.name, at, &mut self.buf, found),
            };
            self.buf.truncate(*got.as_ref().unwrap_or(&0));
            got?;
        }
        let from = (at - self.start) as usize;
        Ok(self.buf.get(from..).map_or(&[], |b| &b[..b.len().min(len)]))
    }

    /// The records of the batch at `at`, if there is one that checks and ends by `limit`. Their places are within
    /// the batch, whose bytes [`Window::get`] then has without reading again.
    pub fn batch(
        &mut self,
        files: &dyn Files,
        mark: Mark,
        at: u64,
        limit: u64,
    ) -> io::Result<Option<Vec<Found>>> {
        let Some(head) = mark.batch_head(self.get(files, at, BATCH_HEAD, limit)?) else { return Ok(None) };
        Ok(mark.batch(self.get(files, at, BATCH_HEAD + head.len, limit)?))
    }

    /// Whether there is a whole batch at `at`, by its CRC.
    pub fn is_whole(&mut self, files: &dyn Files, mark: Mark, at: u64, limit: u64) -> io::Result<bool> {
        let Some(head) = mark.batch_head(self.get(files, at, BATCH_HEAD, limit)?) else { return Ok(false) };
        Ok(mark.is_whole(self.get(files, at, BATCH_HEAD + head.len, limit)?))
    }

    /// Where a batch's mark is next, from `at` on; `limit` if nowhere.
    pub fn find_mark(&mut self, files: &dyn Files, mark: Mark, mut at: u64, limit: u64) -> io::Result<u64> {
        let mark = mark.bytes();
        while at + (BATCH_HEAD as u64) <= limit {
            let bytes = self.get(files, at, AHEAD, limit)?;
            if let Some(i) = bytes.windows(mark.len()).position(|w| w == mark) {
                return Ok(at + i as u64);
            }
            // The mark may lie across the border of two stretches.
            match bytes.len().checked_sub(mark.len() - 1) {
                Some(step @ 1..) => at += step as u64,
                _ => break,
            }
        }
        Ok(limit)
    }
}
