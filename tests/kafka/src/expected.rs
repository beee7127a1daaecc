//! What the records of a topic mean, as docs/kafka.md says it: written a second time, so that a fault in one copy shows.

use crate::oracle::{Bytes, Dump, Record};
use klatch_harness::log::{Log, LogRecord};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};

/// What members and readers of a topic's rooms should see.
#[derive(Debug)]
pub struct Expected {
    /// For the checker.
    pub log: Log,
    /// Each room's publications as they are written.
    pub rooms: BTreeMap<String, Vec<String>>,
    /// Records that nobody could deliver.
    pub junk: usize,
    /// Records in another partition than their room's.
    pub misplaced: usize,
    /// Records of other programs.
    pub foreign: usize,
}

/// A room's partition: Java's murmur2 of its name, modulo their number.
pub fn partition(room: &str, partitions: u32) -> u32 {
    (murmur2(room.as_bytes()) & 0x7fff_ffff) % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let k = u32::from_le_bytes(word.try_into().unwrap_or_default()).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ (k ^ k >> 24).wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        h ^= rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        h = h.wrapping_mul(M);
    }
    h = (h ^ h >> 13).wrapping_mul(M);
    h ^ h >> 15
}

impl Expected {
    /// Of a dump, with so many of its partitions in use and this window for duplicates.
    pub fn of(dump: &Dump, partitions: u32, window_ms: u64) -> Expected {
        let log = Log::new(window_ms);
        let mut all = Expected { log, rooms: BTreeMap::new(), junk: 0, misplaced: 0, foreign: 0 };
        let mut kept: Vec<LogRecord> = Vec::new();
        for record in &dump.records {
            let Some(message) = message(record) else {
                all.junk += 1;
                continue;
            };
            if partition(&message.room, partitions) != record.partition {
                all.misplaced += 1;
                continue;
            }
            all.foreign += usize::from(record.header("klatch-v").is_none());
            all.log.push(message.clone());
            kept.push(message);
        }
        let mut prev: HashMap<&str, u64> = HashMap::new();
        for message in &kept {
            if all.log.room(&message.room).is_none_or(|room| room.find(message.offset).is_none()) {
                continue;
            }
            let prev = prev.entry(&message.room).or_default();
            all.rooms.entry(message.room.clone()).or_default().push(publication(message, *prev));
            *prev = message.offset;
        }
        all
    }
}

/// What klatch's own records hold, as far as it counts.
#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<String>,
    sender: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    data: &'a RawValue,
    encoding: Option<String>,
}

/// The message that a record is; none if it cannot be delivered.
fn message(record: &Record) -> Option<LogRecord> {
    let room = record.key.as_ref()?.text()?.to_owned();
    let is_name = (1..=255).contains(&room.len()) && !room.chars().any(char::is_control);
    let value = record.value.as_ref()?.text().filter(|_| is_name)?;
    // Clients' offsets begin with 1.
    let (offset, time) = (record.offset + 1, record.timestamp);
    match record.header("klatch-v").map(Bytes::text) {
        None if record.headers.iter().any(|(name, _)| name == "klatch-v") => None,
        None => {
            let id = format!("{}-{}", record.partition, record.offset);
            let data = match foreign_json(value) {
                Some(json) => json.to_owned(),
                None => text(value),
            };
            let fits = value.len().max(data.len()) <= 256 << 10;
            fits.then_some(LogRecord { offset, time, room, user: String::new(), id, binary: false, data })
        }
        Some(Some("1")) => {
            let e: Envelope<'_> =
                serde_json::from_str(value).ok().filter(|e: &Envelope<'_>| e.kind == "message")?;
            let binary = e.encoding.as_deref() == Some("base64");
            let data =
                if binary { serde_json::from_str(e.data.get()).ok()? } else { e.data.get().to_owned() };
            let (user, id) = (e.sender.unwrap_or_default(), e.id.unwrap_or_default());
            Some(LogRecord { offset, time, room, user, id, binary, data })
        }
        Some(_) => None,
    }
}

/// The value without the white space around it, if it is JSON that clients can take.
fn foreign_json(value: &str) -> Option<&str> {
    let json = serde_json::from_str::<&RawValue>(value).ok()?.get();
    let (mut depth, mut deepest, mut in_string) = (0usize, 0, false);
    let mut rest = json.char_indices();
    // The escapes of half a character, one after the other.
    let mut high = None;
    while let Some((at, c)) = rest.next() {
        match c {
            '"' => in_string = !in_string,
            '\\' => {
                let (at, escaped) = rest.next()?;
                if escaped == 'u' {
                    let unit = u32::from_str_radix(json.get(at + 1..at + 5)?, 16).ok()?;
                    rest.nth(3);
                    match unit {
                        0xd800..0xdc00 if high.is_none() => high = Some(at + 5),
                        0xdc00..0xe000 if high == Some(at - 1) => high = None,
                        0xd800..0xe000 => return None,
                        _ => {}
                    }
                    if high.is_some_and(|end| end != at + 5) {
                        return None;
                    }
                    continue;
                }
            }
            '[' | '{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ']' | '}' if !in_string => depth -= 1,
            _ => {}
        }
        if high.is_some_and(|end| end <= at) {
            return None;
        }
    }
    (deepest <= 64).then_some(json)
}

fn text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|e| panic!("{e}"))
}

/// As docs/protocol.md says that it is written.
fn publication(message: &LogRecord, prev: u64) -> String {
    let given = |name: &str, value: &str| match value {
        "" => String::new(),
        value => format!(r#","{name}":{}"#, text(value)),
    };
    let (user, id, data) = (given("user", &message.user), given("id", &message.id), &message.data);
    let data = if message.binary { format!(r#""bytes":"{data}""#) } else { format!(r#""data":{data}"#) };
    format!(
        r#"{{"type":"publication","room":{},"offset":{},"prev":{prev},"time":{}{user}{id},{data}}}"#,
        text(&message.room),
        message.offset,
        message.time
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_javas() {
        // As Java, kafkajs and confluent-kafka computed them.
        let known = [
            ("", 275_646_681, 9),
            ("a", -1_563_381_124, 12),
            ("ab", 316_155_434, 10),
            ("room-1", -1_749_785, 7),
            ("lobby", -505_531_058, 14),
            ("general", -1_248_350_569, 7),
            ("zürich", 1_564_393_856, 0),
            ("日本語", 1_431_860_170, 10),
            ("🎉party", -865_225_125, 11),
            (&"x".repeat(300), 403_018_756, 4),
        ];
        for (key, hash, place) in known {
            assert_eq!((murmur2(key.as_bytes()) as i32, partition(key, 16)), (hash, place), "{key}");
        }
    }

    fn record(value: &str, headers: &[(&str, &str)]) -> Record {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), Some((*v).into()))).collect();
        let (key, value) = (Some("room-1".into()), Some(value.into()));
        Record { partition: 7, offset: 4, timestamp: 9, key, headers, value }
    }

    fn seen(record: Record) -> Option<String> {
        let all = Expected::of(&Dump { records: vec![record] }, 16, 1000);
        all.rooms.get("room-1").map(|p| p[0].clone())
    }

    #[test]
    fn own_records_and_those_of_others() {
        let head = r#"{"type":"publication","room":"room-1","offset":5,"prev":0,"time":9"#;
        let own =
            r#"{"id":"m1","room":"room-1","sender":"ann","type":"message","data":{"a" : 1e999},"ts":7}"#;
        let expected = format!(r#"{head},"user":"ann","id":"m1","data":{{"a" : 1e999}}}}"#);
        assert_eq!(seen(record(own, &[("klatch-v", "1")])), Some(expected));
        let bytes = r#"{"id":null,"room":"room-1","sender":null,"type":"message","data":"/w==","encoding":"base64","ts":7}"#;
        assert_eq!(seen(record(bytes, &[("klatch-v", "1")])), Some(format!(r#"{head},"bytes":"/w=="}}"#)));
        for (value, data) in [
            (" [1, 2]\n", "[1, 2]"),
            ("plain", r#""plain""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d""#, r#""\"\\ud83d\"""#),
            (r#""\ud83dx\ude00""#, r#""\"\\ud83dx\\ude00\"""#),
            (r#""\ude00""#, r#""\"\\ude00\"""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
        ] {
            let expected = format!(r#"{head},"id":"7-4","data":{data}}}"#);
            assert_eq!(seen(record(value, &[])), Some(expected), "{value}");
        }
        let deep = |n| "[".repeat(n) + &"]".repeat(n);
        assert!(seen(record(&deep(64), &[])).unwrap().contains(":[["));
        assert!(seen(record(&deep(65), &[])).unwrap().contains(r#":"[["#));
    }

    #[test]
    fn what_is_not_delivered_is_counted() {
        let mut tombstone = record("", &[]);
        tombstone.value = None;
        let mut elsewhere = record("1", &[]);
        elsewhere.partition = 8;
        let records = vec![tombstone, elsewhere, record("{}", &[("klatch-v", "1")]), record("1", &[])];
        let all = Expected::of(&Dump { records }, 16, 1000);
        assert_eq!((all.junk, all.misplaced, all.foreign), (2, 1, 1));
    }
}
