//! The bytes on disk: heads, CRCs, places. See the module's documentation for the layout.

use crate::message::Record;
use bytes::Bytes;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

pub(super) const VERSION: u32 = 1;
pub(super) const SEGMENT_HEAD: usize = 48;
pub(super) const BATCH_HEAD: usize = 24;
pub(super) const RECORD_HEAD: usize = 24;
/// A record with the shortest body: four lengths and a room of one byte.
pub(super) const MIN_RECORD: usize = RECORD_HEAD + 5;
/// Largest content of a batch. Keeps places within 32 bits and bounds what a reader holds.
pub(super) const MAX_CONTENT: usize = 64 << 20;
/// Largest sequence. What names a larger one does not check, so that no sum of a sequence and a count overflows. A log
/// that takes a thousand million records a second reaches it after 146 years.
pub(super) const MAX_SEQUENCE: u64 = 1 << 62;
const SEGMENT_MAGIC: &[u8; 8] = b"klatchlg";

/// A log's random id.
pub(super) type LogId = [u8; 16];

/// The id in hexadecimal.
pub(super) fn hex(id: &LogId) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

/// The id in hexadecimal, for serde.
pub(super) fn write_hex<S: Serializer>(id: &LogId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex(id))
}

/// The id from what [`write_hex`] wrote.
pub(super) fn read_hex<'de, D: Deserializer<'de>>(from: D) -> Result<LogId, D::Error> {
    let text = String::deserialize(from)?;
    let number = u128::from_str_radix(&text, 16).map_err(D::Error::custom)?;
    Ok(number.to_be_bytes())
}

/// Where a record lies. Sound only together with its sequence, which [`Reader::read`](super::Reader::read) checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The first sequence of the segment, which is its file's name.
    pub segment: u64,
    /// Where the record's head begins in the file.
    pub at: u32,
    /// Bytes of head and body.
    pub len: u32,
}

impl Place {
    /// Sixteen bytes that keep their order: segment, place, length, big endian.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut b = [0; 16];
        b[..8].copy_from_slice(&self.segment.to_be_bytes());
        b[8..12].copy_from_slice(&self.at.to_be_bytes());
        b[12..].copy_from_slice(&self.len.to_be_bytes());
        b
    }

    /// The place back from its bytes.
    pub fn from_bytes(b: [u8; 16]) -> Place {
        let [s0, s1, s2, s3, s4, s5, s6, s7, a0, a1, a2, a3, l0, l1, l2, l3] = b;
        Place {
            segment: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            at: u32::from_be_bytes([a0, a1, a2, a3]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }
}

/// The file name of the segment that begins with this sequence.
pub(super) fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}

/// The first sequence of a segment by its file name; `None` for any other file.
pub(super) fn segment_first(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let named = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|first| named && *first <= MAX_SEQUENCE)
}

pub(super) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    b.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub id: LogId,
    pub first: u64,
    pub created: u64,
}

impl SegmentHead {
    pub fn encode(&self) -> [u8; SEGMENT_HEAD] {
        let mut b = [0; SEGMENT_HEAD];
        b[..8].copy_from_slice(SEGMENT_MAGIC);
        b[8..12].copy_from_slice(&VERSION.to_le_bytes());
        b[12..28].copy_from_slice(&self.id);
        b[28..36].copy_from_slice(&self.first.to_le_bytes());
        b[36..44].copy_from_slice(&self.created.to_le_bytes());
        let crc = crc32c::crc32c(&b[..44]);
        b[44..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// The head, if it checks. `Err` with the version if it checks but is of another version.
    pub fn decode(b: &[u8]) -> Result<Option<SegmentHead>, u32> {
        let checked = || {
            let head = b.get(..44).filter(|head| head.starts_with(SEGMENT_MAGIC))?;
            (u32_at(b, 44)? == crc32c::crc32c(head)).then_some(head)
        };
        let Some(head) = checked() else { return Ok(None) };
        match u32_at(head, 8) {
            Some(VERSION) => {}
            version => return Err(version.unwrap_or_default()),
        }
        let decode = || {
            let id = head.get(12..28)?.try_into().ok()?;
            let first = u64_at(head, 28).filter(|first| *first <= MAX_SEQUENCE)?;
            Some(SegmentHead { id, first, created: u64_at(head, 36)? })
        };
        Ok(decode())
    }
}

/// The mark at the beginning of each batch of a log, which its CRCs begin with too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u32);

impl Mark {
    pub fn new(id: &LogId) -> Mark {
        Mark(crc32c::crc32c(id))
    }

    pub fn bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    fn crc(self, parts: [&[u8]; 2]) -> u32 {
        parts.iter().fold(self.0, |crc, part| crc32c::crc32c_append(crc, part))
    }

    /// Fills in the heads of a batch whose records begin at `starts`, and of its records.
    pub fn seal(self, buf: &mut [u8], starts: &[u32], first: u64, time: u64) {
        let total = buf.len();
        let ends = starts.iter().skip(1).map(|s| *s as usize).chain([total]);
        for ((start, end), sequence) in starts.iter().zip(ends).zip(first..) {
            let record = &mut buf[*start as usize..end];
            let len = (record.len() - RECORD_HEAD) as u32;
            record[..4].copy_from_slice(&len.to_le_bytes());
            record[8..16].copy_from_slice(&sequence.to_le_bytes());
            record[16..24].copy_from_slice(&time.to_le_bytes());
            let crc = self.crc([&record[..4], &record[8..]]);
            record[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        buf[..4].copy_from_slice(&self.bytes());
        buf[4..8].copy_from_slice(&((total - BATCH_HEAD) as u32).to_le_bytes());
        buf[8..12].copy_from_slice(&(starts.len() as u32).to_le_bytes());
        buf[12..20].copy_from_slice(&first.to_le_bytes());
        let crc = self.crc([&buf[4..20], &buf[BATCH_HEAD..]]);
        buf[20..24].copy_from_slice(&crc.to_le_bytes());
    }

    /// A batch's head, if it may be one.
    pub fn batch_head(self, b: &[u8]) -> Option<BatchHead> {
        let head = BatchHead {
            len: u32_at(b, 4)? as usize,
            count: u32_at(b, 8)?,
            first: u64_at(b, 12)?,
            crc: u32_at(b, 20)?,
        };
        let possible = b.starts_with(&self.bytes())
            && head.len <= MAX_CONTENT
            && head.count > 0
            && head.count as usize <= head.len / MIN_RECORD
            && head.first > 0
            && head.first.saturating_add(head.count as u64 - 1) <= MAX_SEQUENCE;
        possible.then_some(head)
    }

    /// Whether a whole batch begins here, by its CRC. What is in it need not make sense.
    pub fn is_whole(self, b: &[u8]) -> bool {
        let whole = || {
            let head = self.batch_head(b)?;
            Some(head.crc == self.crc([b.get(4..20)?, b.get(BATCH_HEAD..BATCH_HEAD + head.len)?]))
        };
        whole().unwrap_or(false)
    }

    /// The records of a whole batch (head and content); `None` unless everything in it checks.
    pub fn batch(self, b: &[u8]) -> Option<Vec<Found>> {
        let head = self.batch_head(b).filter(|_| self.is_whole(b))?;
        let content = b.get(BATCH_HEAD..BATCH_HEAD + head.len)?;
        let mut records = Vec::with_capacity(head.count as usize);
        let mut at = 0;
        for sequence in head.first..head.last() + 1 {
            let found = self.record(content.get(at..)?).filter(|found| found.sequence == sequence)?;
            let len = found.len;
            records.push(Found { at: BATCH_HEAD + at, ..found });
            at += len;
        }
        (at == content.len()).then_some(records)
    }

    /// A record that begins at the beginning of `b`, if it checks and its body is one.
    pub fn record(self, b: &[u8]) -> Option<Found> {
        let len = RECORD_HEAD + u32_at(b, 0)? as usize;
        let crc = u32_at(b, 4)?;
        let (sequence, time) = (u64_at(b, 8)?, u64_at(b, 16)?);
        let rest = b.get(8..len)?;
        let checks = len >= MIN_RECORD && crc == self.crc([b.get(..4)?, rest]);
        // A body that is none would pass here and fail every reader, and with it all records behind it.
        (checks && Record::is_body(b.get(RECORD_HEAD..len)?)).then_some(Found { at: 0, len, sequence, time })
    }
}

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHead {
    /// Bytes of content.
    pub len: usize,
    pub count: u32,
    pub first: u64,
    crc: u32,
}

impl BatchHead {
    pub fn last(&self) -> u64 {
        self.first + self.count as u64 - 1
    }
}

/// A record found in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where its head begins, in the bytes searched.
    pub at: usize,
    /// Bytes of head and body.
    pub len: usize,
    pub sequence: u64,
    pub time: u64,
}

impl Found {
    /// The body in the bytes searched.
    pub fn body<'a>(&self, searched: &'a [u8]) -> &'a [u8] {
        searched.get(self.at + RECORD_HEAD..self.at + self.len).unwrap_or_default()
    }

    /// The record, as a slice of the bytes searched.
    pub fn record(&self, searched: &Bytes) -> Record {
        let body = searched.slice(self.at + RECORD_HEAD..self.at + self.len);
        Record::trusted(self.sequence, self.time, body)
    }
}
