//! The embedded log's directory, read without the engine, from the description of its format (version 1, little endian):
//!
//! ```text
//! <first sequence, 20 digits>.log: segment head, then batches
//!   segment head  48  "klatchlg", version u32, log id [16], first sequence u64, created ms u64, CRC32C u32
//!   batch head    24  mark u32, content length u32, count u32, first sequence u64, CRC32C u32; then records
//!   record head   24  body length u32, CRC32C u32, sequence u64, timestamp ms u64; then the body
//!   body              kind u8 (0 JSON, 1 binary), lengths of room, user, id u8 each, then room, user, id, data
//! ```
//!
//! The mark is the CRC32C of the log id; the CRCs of batches and records are of the log id, then of the head without
//! mark and CRC, then of what follows.

use crate::log::{Log, LogRecord};
use crate::wire::base64;
use std::io;
use std::path::{Path, PathBuf};

const SEGMENT_HEAD: usize = 48;
const HEAD: usize = 24;

/// What a log's directory holds, decided by the rule for duplicates with a window of an hour.
pub fn read(dir: &Path) -> io::Result<Log> {
    let mut log = Log::default();
    for record in records(dir)? {
        log.push(record);
    }
    Ok(log)
}

/// All records of a log's directory, in order. `dir` holds the segment files, or a folder `log` that does.
///
/// An incomplete last batch is left out, as a crash may leave one. All else that does not check is an error:
/// this is for tests of logs that must be whole.
pub fn records(dir: &Path) -> io::Result<Vec<LogRecord>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let first = name.strip_suffix(".log").filter(|d| d.len() == 20).and_then(|d| d.parse::<u64>().ok());
        segments.extend(first.map(|first| (first, path)));
    }
    segments.sort();
    if segments.is_empty() && dir.join("log").is_dir() {
        return records(&dir.join("log"));
    }
    let read = |(first, path): (u64, PathBuf)| std::fs::read(path).map(|bytes| (first, bytes));
    let segments = segments.into_iter().map(read).collect::<io::Result<Vec<_>>>()?;
    parse(&segments).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// The same for segments that were read already: the first sequence that the name of each tells, and its bytes; in order.
pub fn parse(segments: &[(u64, Vec<u8>)]) -> Result<Vec<LogRecord>, String> {
    let mut records = Vec::new();
    let mut next = segments.first().map_or(1, |(first, _)| *first);
    for (place, (first, bytes)) in segments.iter().enumerate() {
        let last = place + 1 == segments.len();
        segment(bytes, *first, &mut next, last, &mut records).map_err(|e| format!("{first:020}.log: {e}"))?;
    }
    Ok(records)
}

fn segment(
    bytes: &[u8],
    first: u64,
    next: &mut u64,
    last: bool,
    records: &mut Vec<LogRecord>,
) -> Result<(), String> {
    let head = bytes.get(..SEGMENT_HEAD).filter(|h| h.starts_with(b"klatchlg") && u32_at(h, 8) == 1);
    let Some(head) = head.filter(|h| crc([&h[..44], &[], &[]]) == u32_at(h, 44)) else {
        // A crash while the segment was made leaves a head that is not whole and nothing after it.
        let unfinished = last && bytes.len() <= SEGMENT_HEAD;
        return if unfinished { Ok(()) } else { Err("the segment's head does not check".into()) };
    };
    if u64_at(head, 28) != first || first != *next {
        return Err(format!("the segment begins at {}, not at {next}", u64_at(head, 28)));
    }
    let id = &head[12..28];
    let mut at = SEGMENT_HEAD;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((content, count, begin)) = batch(rest, id) else {
            let whole_one_after = (1..rest.len()).any(|i| batch(&rest[i..], id).is_some());
            if last && !whole_one_after {
                return Ok(());
            }
            return Err(format!("the batch at byte {at} does not check"));
        };
        if begin != *next {
            return Err(format!("the batch at byte {at} begins at {begin}, not at {next}"));
        }
        at += HEAD + content.len();
        let mut content = content;
        for _ in 0..count {
            let (record, len) = record(content, id, *next).ok_or(format!("record {next} does not check"))?;
            records.push(record);
            content = content.get(len..).unwrap_or_default();
            *next += 1;
        }
        if !content.is_empty() {
            return Err(format!("the batch before byte {at} has more than its {count} records"));
        }
    }
    Ok(())
}

/// The content of the batch at the beginning of `bytes`, its count and its first sequence, if it checks.
fn batch<'a>(bytes: &'a [u8], id: &[u8]) -> Option<(&'a [u8], u32, u64)> {
    let head = bytes.get(..HEAD).filter(|h| u32_at(h, 0) == crc([id, &[], &[]]))?;
    let content = bytes.get(HEAD..HEAD.checked_add(u32_at(head, 4) as usize)?)?;
    let whole = crc([id, &head[4..20], content]) == u32_at(head, 20);
    whole.then(|| (content, u32_at(head, 8), u64_at(head, 12)))
}

fn record(bytes: &[u8], id: &[u8], sequence: u64) -> Option<(LogRecord, usize)> {
    let head = bytes.get(..HEAD)?;
    let len = HEAD.checked_add(u32_at(head, 0) as usize)?;
    let body = bytes.get(HEAD..len)?;
    let rest = bytes.get(8..len)?;
    if crc([id, &head[..4], rest]) != u32_at(head, 4) || u64_at(head, 8) != sequence {
        return None;
    }
    let [kind @ (0 | 1), room, user, message, rest @ ..] = body else { return None };
    let (room, rest) = rest.split_at_checked(usize::from(*room))?;
    let (user, rest) = rest.split_at_checked(usize::from(*user))?;
    let (message, data) = rest.split_at_checked(usize::from(*message))?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let binary = *kind == 1;
    Some((
        LogRecord {
            offset: sequence,
            time: u64_at(head, 16),
            room: text(room)?,
            user: text(user)?,
            id: text(message)?,
            binary,
            data: if binary { base64(data) } else { text(data)? },
        },
        len,
    ))
}

/// 0 past the end, which no caller asks for.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (if value & 1 == 1 { 0x82F6_3B78 } else { 0 });
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
};

/// CRC32C (Castagnoli) of these parts, one after the other.
fn crc(parts: [&[u8]; 3]) -> u32 {
    let bytes = parts.iter().flat_map(|p| p.iter());
    !bytes.fold(!0, |crc, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 255) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &[u8; 16] = b"0123456789abcdef";

    fn head(first: u64) -> Vec<u8> {
        let mut b = b"klatchlg".to_vec();
        b.extend(1u32.to_le_bytes());
        b.extend(ID);
        b.extend(first.to_le_bytes());
        b.extend(9u64.to_le_bytes());
        let sum = crc([&b, &[], &[]]);
        b.extend(sum.to_le_bytes());
        b
    }

    fn batch_of(first: u64, bodies: &[&[u8]]) -> Vec<u8> {
        let mut content = Vec::new();
        for (body, sequence) in bodies.iter().zip(first..) {
            let len = (body.len() as u32).to_le_bytes();
            let mut rest = sequence.to_le_bytes().to_vec();
            rest.extend((1000 + sequence).to_le_bytes());
            rest.extend(*body);
            content.extend(len);
            content.extend(crc([ID, &len, &rest]).to_le_bytes());
            content.extend(rest);
        }
        let mut middle = (content.len() as u32).to_le_bytes().to_vec();
        middle.extend((bodies.len() as u32).to_le_bytes());
        middle.extend(first.to_le_bytes());
        let mut b = crc([ID, &[], &[]]).to_le_bytes().to_vec();
        b.extend(&middle);
        b.extend(crc([ID, &middle, &content]).to_le_bytes());
        b.extend(content);
        b
    }

    #[test]
    fn the_sum_is_castagnolis() {
        assert_eq!(crc([b"1234", b"5678", b"9"]), 0xE306_9283);
    }

    #[test]
    fn segments_are_read_in_order_and_only_the_last_may_be_torn() {
        let dir = tempfile::tempdir().unwrap();
        let one = [head(1), batch_of(1, &[b"\0\x01\x01\x01ruiJ", b"\x01\x01\0\0r\xff\xfe"])].concat();
        let two = [head(3), batch_of(3, &[b"\0\x01\0\0r3"]), batch_of(4, &[b"\0\x01\0\0r4"])].concat();
        let paths = [1, 3].map(|n| dir.path().join(format!("{n:020}.log")));
        std::fs::write(dir.path().join("lock"), "1").unwrap();
        let with = |one: &[u8], two: &[u8]| {
            std::fs::write(&paths[0], one).unwrap();
            std::fs::write(&paths[1], two).unwrap();
            records(dir.path())
        };
        let all = with(&one, &two).unwrap();
        assert_eq!(all.iter().map(|r| r.offset).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let first = &all[0];
        assert_eq!(
            (&*first.room, &*first.user, &*first.id, &*first.data, first.time),
            ("r", "u", "i", "J", 1001)
        );
        assert_eq!((all[1].binary, &*all[1].data), (true, "//4="));
        assert_eq!(read(dir.path()).unwrap().room("r").unwrap().accepted.len(), 4);

        // Every cut within the last batch leaves the three before it; a cut within the first segment is damage.
        let before_last = two.len() - batch_of(4, &[b"\0\x01\0\0r4"]).len();
        for cut in before_last..two.len() {
            assert_eq!(with(&one, &two[..cut]).unwrap().len(), 3, "{cut}");
        }
        assert!(with(&one[..one.len() - 1], &two).is_err());
        // A flipped bit before a batch that is whole is damage too.
        for at in SEGMENT_HEAD..before_last {
            let mut bad = two.clone();
            bad[at] ^= 4;
            assert!(with(&one, &bad).is_err(), "{at}");
        }
        assert!(with(&one, &[head(4), batch_of(4, &[b"\0\x01\0\0r4"])].concat()).is_err());
    }
}
