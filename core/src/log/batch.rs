//! What is written at once.

use super::format::{BATCH_HEAD, RECORD_HEAD};
use crate::message::{Kind, Record};

/// Records to be appended together, encoded as they will lie on disk but for their heads.
#[derive(Debug, Default)]
pub struct Batch {
    /// Room for the batch's head, then per record room for its head and the body. Empty without records.
    pub(super) buf: Vec<u8>,
    /// Where each record's head begins.
    pub(super) starts: Vec<u32>,
}

impl Batch {
    /// Most records that a caller puts into one batch.
    pub const MAX_RECORDS: usize = 512;
    /// Bytes after which a caller adds no further record. The format's own bound, sixteen times this, is for the
    /// last record; a batch beyond it is refused with [`LogError::TooLarge`](super::LogError::TooLarge).
    pub const MAX_BYTES: usize = 4 << 20;

    /// No records.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a record. Names and id have at most 255 bytes, the room at least one.
    pub fn push(&mut self, kind: Kind, room: &str, user: &str, id: &str, data: &[u8]) {
        if self.buf.is_empty() {
            self.buf.resize(BATCH_HEAD, 0);
        }
        // Past 4 GiB this would wrap, but such a batch is refused for its size before the starts are looked at.
        self.starts.push(self.buf.len() as u32);
        self.buf.resize(self.buf.len() + RECORD_HEAD, 0);
        Record::encode(&mut self.buf, kind, room, user, id, data);
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// How many bytes will be written.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Takes the records out.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.starts.clear();
    }
}
