//! The newest publications of rooms that have an audience, framed as they were sent, so that a storm of joins reads no disk.

use bytes::Bytes;
use std::collections::VecDeque;

/// Most publications kept of one room.
const PER_ROOM: usize = 512;

/// One publication in memory.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its offset.
    pub offset: u64,
    /// The offset of the room's publication before it.
    pub prev: u64,
    /// Its WebSocket frame, a slice of the batch it was sent in.
    pub bytes: Bytes,
}

/// Publications that follow one another.
#[derive(Debug)]
pub struct Run {
    /// In order.
    pub frames: Vec<Frame>,
    /// There were more, and they were too large.
    pub cut: bool,
}

/// The newest publications of one room, contiguous, oldest first.
#[derive(Debug, Default)]
pub struct Recent {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Recent {
    /// Adds the next one. What is already kept is dropped if it is not the one before. Returns by how many bytes the memory
    /// in use has changed.
    pub fn push(&mut self, frame: Frame) -> isize {
        let before = self.bytes as isize;
        if self.frames.back().is_some_and(|f| f.offset != frame.prev) {
            self.clear();
        }
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
        if self.frames.len() > PER_ROOM {
            self.pop();
        }
        self.bytes as isize - before
    }

    /// Drops the oldest; returns its bytes.
    pub fn pop(&mut self) -> usize {
        let n = self.frames.pop_front().map_or(0, |f| f.bytes.len());
        self.bytes -= n;
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
        n
    }

    /// Drops all; returns the bytes freed.
    pub fn clear(&mut self) -> usize {
        self.frames = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The publications after `after` and up to `to`, at most `limit` and `max_bytes` but one in any case, if all of them are here.
    /// `after` must be a position of the room: an offset of a publication, or the `prev` of one.
    pub fn after(&self, after: u64, to: u64, limit: usize, max_bytes: usize) -> Option<Run> {
        let from = self.frames.partition_point(|f| f.offset <= after);
        // Contiguous with `after`, or something between was not kept.
        if self.frames.get(from)?.prev > after {
            return None;
        }
        let wanted = self.frames.range(from..).take_while(|f| f.offset <= to).take(limit);
        let (fit, cut) = fitting(wanted.clone(), max_bytes);
        Some(Run { frames: wanted.take(fit).cloned().collect(), cut })
    }

    /// The newest publications up to `to`, oldest first: `n`, or fewer if they have more than `max_bytes`, but one in any case; if
    /// all of them are here. `to` must be a position of the room.
    pub fn newest(&self, n: usize, to: u64, max_bytes: usize) -> Option<Run> {
        let end = self.frames.partition_point(|f| f.offset <= to);
        if self.frames.get(end.checked_sub(1)?)?.offset != to {
            return None;
        }
        let (fit, cut) = fitting(self.frames.range(..end).rev().take(n), max_bytes);
        let first = self.frames.front()?;
        // Fewer, and not for their size: then these must be all that the room has.
        if fit < n && fit == end && first.prev != 0 {
            return None;
        }
        Some(Run { frames: self.frames.range(end - fit..end).cloned().collect(), cut })
    }
}

/// How many of these are within `max_bytes`, at least one; and whether that is not all.
fn fitting<'a>(frames: impl Iterator<Item = &'a Frame>, max_bytes: usize) -> (usize, bool) {
    let (mut fit, mut bytes) = (0, 0);
    for frame in frames {
        bytes += frame.bytes.len();
        if fit > 0 && bytes > max_bytes {
            return (fit, true);
        }
        fit += 1;
    }
    (fit, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(offset: u64, prev: u64) -> Frame {
        Frame { offset, prev, bytes: Bytes::from(vec![0; 10]) }
    }

    #[test]
    fn answers_only_what_it_wholly_has() {
        let mut r = Recent::default();
        for (o, p) in [(5, 3), (9, 5), (12, 9)] {
            r.push(frame(o, p));
        }
        let offsets = |run: Option<Run>| run.map(|r| r.frames.iter().map(|f| f.offset).collect::<Vec<_>>());
        assert_eq!(offsets(r.after(2, 99, 10, 999)), None);
        assert_eq!(offsets(r.after(3, 99, 10, 999)), Some(vec![5, 9, 12]));
        assert_eq!(offsets(r.after(5, 11, 10, 999)), Some(vec![9]));
        assert_eq!(offsets(r.after(5, 99, 1, 999)), Some(vec![9]));
        assert_eq!(offsets(r.after(3, 99, 10, 20)), Some(vec![5, 9]));
        assert_eq!(offsets(r.after(3, 99, 10, 19)), Some(vec![5]));
        assert_eq!(offsets(r.after(3, 99, 10, 1)), Some(vec![5]));
        assert_eq!([20, 30].map(|bytes| r.after(3, 99, 10, bytes).unwrap().cut), [true, false]);
        assert_eq!(offsets(r.after(12, 99, 10, 999)), None);
        assert_eq!(offsets(r.newest(2, 12, 999)), Some(vec![9, 12]));
        assert_eq!(offsets(r.newest(2, 9, 999)), Some(vec![5, 9]));
        assert_eq!(offsets(r.newest(4, 12, 999)), None);
        assert_eq!(offsets(r.newest(1, 11, 999)), None);
        assert_eq!(offsets(r.newest(4, 12, 20)), Some(vec![9, 12]), "no more than asked for in bytes");
        assert_eq!([20, 30].map(|bytes| r.newest(3, 12, bytes).unwrap().cut), [true, false]);
        assert_eq!(offsets(r.newest(4, 12, 1)), Some(vec![12]), "but one in any case");
        assert_eq!(r.pop(), 10);
        r.push(frame(20, 19));
        assert_eq!((r.len(), r.bytes), (1, 10));
    }
}
