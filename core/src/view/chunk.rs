//! Rows of one room, packed.
//!
//! A row is `[offset - the offset before it][offset - prev][length of place][place]`, all numbers LEB128. A chunk on
//! disk is `[rows][last offset - first offset]` and its rows; its first offset is in its key. One row of a busy room
//! takes 3 to 5 bytes beside its place.

use super::error::ViewError;
use bytes::Bytes;
use std::ops::Range;

/// Most rows in a chunk.
pub(super) const CHUNK_ROWS: usize = 512;
/// A chunk takes no further row once it would be longer than this, in bytes. A longer row has a chunk of its own.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// A chunk that is being filled.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub first: u64,
    pub last: u64,
    /// `prev` of the first row.
    pub floor: u64,
    pub count: usize,
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Whether a row with a place of this length belongs into the next chunk.
    pub fn is_full(&self, place: usize) -> bool {
        self.count >= CHUNK_ROWS || (self.count > 0 && self.bytes.len() + place > CHUNK_BYTES)
    }

    /// Appends a row; offsets must increase.
    pub fn push(&mut self, offset: u64, prev: u64, place: &[u8]) {
        if self.count == 0 {
            (self.first, self.last, self.floor) = (offset, offset, prev);
        }
        put(&mut self.bytes, offset.wrapping_sub(self.last));
        put(&mut self.bytes, offset.wrapping_sub(prev));
        put(&mut self.bytes, place.len() as u64);
        self.bytes.extend_from_slice(place);
        self.last = offset;
        self.count += 1;
    }

    /// The form on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 12);
        put(&mut out, self.count as u64);
        put(&mut out, self.last - self.first);
        out.extend_from_slice(&self.bytes);
        out
    }

    /// The rows.
    pub fn slots(&self) -> Result<Vec<Slot>, ViewError> {
        slots(self.first, self.count, &self.bytes, 0).ok_or_else(bad)
    }
}

/// A chunk as it was read back.
#[derive(Debug)]
pub(super) struct Stored {
    pub first: u64,
    pub last: u64,
    pub count: u64,
    pub bytes: Bytes,
    rows: usize,
}

impl Stored {
    pub fn decode(first: u64, bytes: Bytes) -> Result<Stored, ViewError> {
        let mut at = 0;
        let head = (|| Some((get(&bytes, &mut at)?, get(&bytes, &mut at)?)))();
        let (count, span) = head.ok_or_else(bad)?;
        let last = first.checked_add(span).ok_or_else(bad)?;
        Ok(Stored { first, last, count, rows: at, bytes })
    }

    /// The rows; their places are ranges of `bytes`.
    pub fn slots(&self) -> Result<Vec<Slot>, ViewError> {
        let count = usize::try_from(self.count).map_err(|_| bad())?;
        let slots = slots(self.first, count, &self.bytes, self.rows).ok_or_else(bad)?;
        if slots.last().map(|s| s.offset) == Some(self.last) { Ok(slots) } else { Err(bad()) }
    }

    /// `prev` of the first row.
    pub fn floor(&self) -> Result<u64, ViewError> {
        let mut at = self.rows;
        let back = get(&self.bytes, &mut at).and_then(|_| get(&self.bytes, &mut at)).ok_or_else(bad)?;
        Ok(self.first.wrapping_sub(back))
    }
}

/// One row of a chunk and where its place lies.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub offset: u64,
    pub prev: u64,
    pub place: Range<usize>,
}

fn slots(first: u64, count: usize, bytes: &[u8], mut at: usize) -> Option<Vec<Slot>> {
    let mut slots = Vec::with_capacity(count.min(CHUNK_ROWS));
    let mut offset = first;
    for _ in 0..count {
        let step = get(bytes, &mut at)?;
        // Only the first row of a chunk is at the chunk's own offset.
        if (step == 0) != slots.is_empty() {
            return None;
        }
        offset = offset.checked_add(step)?;
        let prev = offset.wrapping_sub(get(bytes, &mut at)?);
        let len = usize::try_from(get(bytes, &mut at)?).ok()?;
        let place = at..at.checked_add(len)?;
        bytes.get(place.clone())?;
        at = place.end;
        slots.push(Slot { offset, prev, place });
    }
    (at == bytes.len()).then_some(slots)
}

fn bad() -> ViewError {
    ViewError::damaged("a chunk of rows cannot be read")
}

#[inline]
fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[inline]
fn get(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        n |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_with_odd_numbers() {
        let mut chunk = Chunk::default();
        let rows =
            [(5, 0, &b"a"[..]), (6, 5, b""), (u64::MAX - 1, 6, b"longer"), (u64::MAX, u64::MAX, &[0; 300])];
        for (offset, prev, place) in rows {
            chunk.push(offset, prev, place);
        }
        let stored = Stored::decode(5, chunk.encode().into()).unwrap();
        assert_eq!((stored.last, stored.count, stored.floor().unwrap()), (u64::MAX, 4, 0));
        let back: Vec<_> = stored.slots().unwrap();
        let back: Vec<_> = back.iter().map(|s| (s.offset, s.prev, &stored.bytes[s.place.clone()])).collect();
        assert_eq!(back, rows);
    }

    #[test]
    fn every_shortened_or_lengthened_chunk_is_refused() {
        let mut chunk = Chunk::default();
        for i in 1..=20 {
            chunk.push(i * 100, (i - 1) * 100, &[7; 16]);
        }
        let whole = chunk.encode();
        assert!(Stored::decode(100, whole.clone().into()).unwrap().slots().is_ok());
        for cut in 0..whole.len() {
            let read = Stored::decode(100, whole[..cut].to_vec().into()).and_then(|s| s.slots());
            assert!(read.is_err(), "cut at {cut}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(Stored::decode(100, longer.into()).unwrap().slots().is_err());
    }

    #[test]
    fn limits() {
        let mut chunk = Chunk::default();
        assert!(!chunk.is_full(4 << 20), "a large row fits into an empty chunk");
        chunk.push(1, 0, &vec![0; CHUNK_BYTES]);
        assert!(chunk.is_full(1));
        let mut chunk = Chunk::default();
        for i in 1..=CHUNK_ROWS as u64 {
            assert!(!chunk.is_full(0));
            chunk.push(i, i - 1, &[]);
        }
        assert!(chunk.is_full(0));
    }
}
