//! Between klatch's records and Kafka's. docs/kafka.md shows the form.
//!
//! Reading is a pure function of the Kafka record: no setting and no clock has a part in it, so that every node, whenever it reads,
//! makes the same publication of it.

use crate::broker::append::Append;
use crate::ids::{MessageKey, check_id, check_name};
use crate::message::{Kind, Record};
use crate::protocol::native::text::{check, check_value, push_string};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The header that tells klatch's records from those of other programs, and its value.
pub const VERSION_HEADER: &str = "klatch-v";
/// The version that this code writes, and the only one that it reads.
pub const VERSION: &str = "1";
/// The header by which the node that sent a record without an id knows it again.
pub const TAG_HEADER: &str = "klatch-tag";
/// The header with the id of the topic that a record was meant for.
pub const TOPIC_HEADER: &str = "klatch-topic";

/// The one type of records that there is. Others will be events that are no messages.
const TYPE: &str = "message";
/// Longest room and sender, in bytes: what a record can hold. What clients may use is shorter by default.
const MAX_NAME: usize = 255;
/// Deepest nesting of data. A setting may lower it for klatch's clients, so deeper data was never klatch's.
const MAX_DEPTH: usize = 1 << 20;
/// The same for data of other programs: deeper, it is text.
const FOREIGN_DEPTH: usize = 64;
/// Largest data of one message: the most that `message_bytes` may be.
const MAX_DATA: usize = 1 << 20;
/// The same of other programs, which no limit of ours has held back: a frame of it must fit into the backlog of every member.
const FOREIGN_DATA: usize = 256 << 10;

/// A Kafka record, as far as it matters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Incoming<'a> {
    /// The partition.
    pub partition: u32,
    /// Kafka's offset.
    pub offset: u64,
    /// Kafka's time.
    pub time: u64,
    /// The key: the room.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The value of [`VERSION_HEADER`], if there is that header.
    pub version: Option<&'a [u8]>,
    /// The value of [`TAG_HEADER`].
    pub tag: Option<&'a [u8]>,
}

/// What a Kafka record is to klatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// A message of klatch's with the id that its sender gave.
    Own(Record),
    /// A message of klatch's without an id; the tag is for the node that sent it.
    Untitled(Record, Option<MessageKey>),
    /// A message of another program.
    Foreign(Record),
    /// Nothing that could be delivered.
    Junk(Junk),
}

/// Why a record is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Junk {
    /// No key, so no room.
    NoKey,
    /// The key is no name of a room.
    BadRoom,
    /// No value.
    Tombstone,
    /// The value is neither JSON nor text.
    NotText,
    /// Larger than any message may be.
    TooLarge,
    /// Called klatch's, but not of its form.
    Malformed,
    /// Of a version of klatch that this one does not know.
    Version,
}

impl Junk {
    /// For the operator's log.
    pub fn reason(self) -> &'static str {
        match self {
            Junk::NoKey => "it has no key, which names the room",
            Junk::BadRoom => "its key is no name of a room",
            Junk::Tombstone => "it has no value",
            Junk::NotText => "its value is neither JSON nor UTF-8 text",
            Junk::TooLarge => "its value is too large",
            Junk::Malformed => "it has klatch's header, but not klatch's form",
            Junk::Version => "it was written by a version of klatch that this one does not know",
        }
    }
}

/// Where a record of this Kafka offset is in its room's stream: 0 is before everything there, and Kafka's offsets begin with 0.
pub fn place_of(offset: u64) -> u64 {
    offset + 1
}

/// What a consumer reads. Fields that are not named here are for people and programs that read the topic without klatch.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    sender: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    encoding: Option<Cow<'a, str>>,
}

/// Appends the value of a message's record to `out`. `now_ms` is for readers only: what counts is Kafka's time.
pub fn write(out: &mut Vec<u8>, append: &Append, now_ms: u64) {
    let name = |out: &mut Vec<u8>, text: &str| match text {
        "" => out.extend_from_slice(b"null"),
        text => push_string(out, text),
    };
    out.reserve(append.data.len() + 160);
    out.extend_from_slice(b"{\"id\":");
    name(out, &append.id);
    out.extend_from_slice(b",\"room\":");
    push_string(out, &append.room);
    out.extend_from_slice(b",\"sender\":");
    name(out, &append.user);
    out.extend_from_slice(b",\"type\":\"message\",\"data\":");
    match append.kind {
        Kind::Json => out.extend_from_slice(&append.data),
        Kind::Binary => {
            out.push(b'"');
            out.extend_from_slice(BASE64_STANDARD.encode(&append.data).as_bytes());
            out.extend_from_slice(b"\",\"encoding\":\"base64\"");
        }
    }
    out.extend_from_slice(format!(",\"ts\":{now_ms}}}").as_bytes());
}

/// What a Kafka record is.
pub fn read(incoming: &Incoming<'_>) -> Mapped {
    let made = match incoming.version {
        None => foreign(incoming),
        Some(version) if version == VERSION.as_bytes() => own(incoming),
        Some(_) => Err(Junk::Version),
    };
    made.unwrap_or_else(Mapped::Junk)
}

fn room<'a>(incoming: &Incoming<'a>) -> Result<&'a str, Junk> {
    let key = incoming.key.ok_or(Junk::NoKey)?;
    let room = std::str::from_utf8(key).map_err(|_| Junk::BadRoom)?;
    check_name("room", room, MAX_NAME).map_err(|_| Junk::BadRoom)?;
    Ok(room)
}

fn record(incoming: &Incoming<'_>, kind: Kind, room: &str, user: &str, id: &str, data: &[u8]) -> Record {
    let mut body = Vec::new();
    Record::encode(&mut body, kind, room, user, id, data);
    Record::trusted(place_of(incoming.offset), incoming.time, body.into())
}

fn own(incoming: &Incoming<'_>) -> Result<Mapped, Junk> {
    let room = room(incoming)?;
    let value = incoming.value.ok_or(Junk::Tombstone)?;
    // The data, and names and escapes around it.
    if value.len() > 2 * MAX_DATA {
        return Err(Junk::TooLarge);
    }
    let e: Envelope<'_> = serde_json::from_slice(value).map_err(|_| Junk::Malformed)?;
    let (id, user) = (e.id.as_deref().unwrap_or_default(), e.sender.as_deref().unwrap_or_default());
    if e.kind.is_some_and(|kind| kind != TYPE)
        || (!user.is_empty() && check_name("user", user, MAX_NAME).is_err())
        || (!id.is_empty() && check_id(id).is_err())
    {
        return Err(Junk::Malformed);
    }
    let data = e.data.get();
    let record = match e.encoding.as_deref() {
        None => {
            check(data, MAX_DEPTH).map_err(|_| Junk::Malformed)?;
            record(incoming, Kind::Json, room, user, id, data.as_bytes())
        }
        Some("base64") => {
            let text: Cow<'_, str> = serde_json::from_str::<Text<'_>>(data).map_err(|_| Junk::Malformed)?.0;
            let bytes = BASE64_STANDARD.decode(text.as_bytes()).map_err(|_| Junk::Malformed)?;
            record(incoming, Kind::Binary, room, user, id, &bytes)
        }
        Some(_) => return Err(Junk::Malformed),
    };
    if record.data_slice().len() > MAX_DATA {
        return Err(Junk::TooLarge);
    }
    Ok(match id {
        "" => Mapped::Untitled(record, incoming.tag.and_then(read_tag)),
        _ => Mapped::Own(record),
    })
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn foreign(incoming: &Incoming<'_>) -> Result<Mapped, Junk> {
    let room = room(incoming)?;
    let value = incoming.value.ok_or(Junk::Tombstone)?;
    if value.len() > FOREIGN_DATA {
        return Err(Junk::TooLarge);
    }
    let text = std::str::from_utf8(value).map_err(|_| Junk::NotText)?;
    let id = format!("{}-{}", incoming.partition, incoming.offset);
    if let Ok(json) = check_value(text, FOREIGN_DEPTH) {
        return Ok(Mapped::Foreign(record(incoming, Kind::Json, room, "", &id, json.as_bytes())));
    }
    let mut json = Vec::with_capacity(text.len() + 2);
    push_string(&mut json, text);
    match json.len() {
        0..=FOREIGN_DATA => Ok(Mapped::Foreign(record(incoming, Kind::Json, room, "", &id, &json))),
        _ => Err(Junk::TooLarge),
    }
}

/// A tag as the header has it.
pub fn write_tag(tag: MessageKey) -> String {
    format!("{:032x}", tag.0)
}

fn read_tag(text: &[u8]) -> Option<MessageKey> {
    // Not what the parser takes too, such as a sign.
    let text = std::str::from_utf8(text).ok().filter(|t| t.len() == 32 && !t.starts_with('+'))?;
    u128::from_str_radix(text, 16).ok().map(MessageKey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::append::Waiter;
    use proptest::prelude::*;

    fn append(kind: Kind, room: &str, user: &str, id: &str, data: &[u8]) -> Append {
        Append {
            room: room.into(),
            user: user.into(),
            id: id.into(),
            kind,
            data: data.into(),
            waiter: Waiter::Nobody,
        }
    }

    fn value(a: &Append) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, a, 77);
        out
    }

    fn ours<'a>(key: &'a [u8], value: &'a [u8]) -> Incoming<'a> {
        let (key, value, version) = (Some(key), Some(value), Some(&b"1"[..]));
        Incoming { partition: 3, offset: 41, time: 9, key, value, version, tag: None }
    }

    fn theirs<'a>(key: &'a [u8], value: &'a [u8]) -> Incoming<'a> {
        Incoming { version: None, ..ours(key, value) }
    }

    #[test]
    fn the_value_is_plain_json() {
        let json = append(Kind::Json, "lobby", "ann", "m1", br#"{"text":"hello"}"#);
        assert_eq!(
            String::from_utf8(value(&json)).unwrap(),
            r#"{"id":"m1","room":"lobby","sender":"ann","type":"message","data":{"text":"hello"},"ts":77}"#
        );
        let binary = append(Kind::Binary, "a\"b", "", "", &[255, 0, 1]);
        assert_eq!(
            String::from_utf8(value(&binary)).unwrap(),
            r#"{"id":null,"room":"a\"b","sender":null,"type":"message","data":"/wAB","encoding":"base64","ts":77}"#
        );
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            Just("1.50e+3".to_owned()),
            Just(r#""\u00e9\ud83d\ude00\/""#.to_owned()),
            any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
        ];
        leaf.prop_recursive(4, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[ {} ]", v.join(" ,\t"))),
                // Keys may come twice, and in any order: nothing may be tidied.
                prop::collection::vec(inner, 0..4).prop_map(|v| {
                    let fields: Vec<_> = v.iter().map(|v| format!("\"k\" :\n{v}")).collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            room in "[^\\p{Cc}]{1,40}", user in "[^\\p{Cc}]{0,40}", id in "(m[^\\p{Cc}]{0,14})?",
            data in json(), bytes in prop::collection::vec(any::<u8>(), 0..60), binary in any::<bool>(),
        ) {
            let (kind, data) = if binary { (Kind::Binary, bytes) } else { (Kind::Json, data.into_bytes()) };
            let a = append(kind, &room, &user, &id, &data);
            let value = value(&a);
            let read = read(&ours(room.as_bytes(), &value));
            let (Mapped::Own(r) | Mapped::Untitled(r, None)) = &read else { panic!("{read:?}") };
            prop_assert_eq!(matches!(read, Mapped::Untitled(..)), id.is_empty());
            prop_assert_eq!((r.kind(), r.room(), r.user(), r.given_id()), (kind, &*room, &*user, &*id));
            prop_assert_eq!(r.data_slice(), &data[..]);
            prop_assert_eq!((r.offset(), r.time()), (42, 9));
            prop_assert!(Record::is_body(r.body()));
            // Any consumer gets the same out of it.
            let plain: serde_json::Value = serde_json::from_slice(&value).unwrap();
            prop_assert_eq!(plain["room"].as_str(), Some(&*room));
            prop_assert_eq!(plain["sender"].as_str().unwrap_or_default(), &*user);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            key in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
            ours in any::<bool>(),
        ) {
            let (key, value) = (key.as_deref(), value.as_deref());
            let version = ours.then_some(&b"1"[..]);
            let read = read(&Incoming { key, value, version, ..Incoming::default() });
            if let Mapped::Own(r) | Mapped::Untitled(r, _) | Mapped::Foreign(r) = read {
                prop_assert!(Record::is_body(r.body()));
            }
        }
    }

    #[test]
    fn the_key_names_the_room() {
        let value = value(&append(Kind::Json, "elsewhere", "ann", "m1", b"1"));
        let Mapped::Own(record) = read(&ours(b"lobby", &value)) else { panic!() };
        assert_eq!(record.room(), "lobby");
    }

    #[test]
    fn records_of_other_programs_are_json_or_text() {
        let data = |value: &str| match read(&theirs(b"lobby", value.as_bytes())) {
            Mapped::Foreign(r) => {
                assert_eq!((r.room(), r.user(), r.given_id(), r.kind()), ("lobby", "", "3-41", Kind::Json));
                String::from_utf8(r.data_slice().to_vec()).unwrap()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(data(r#" {"a": 1} "#), r#"{"a": 1}"#);
        assert_eq!(data("17"), "17");
        assert_eq!(data("hello \"you\""), r#""hello \"you\"""#);
        assert_eq!(data(""), r#""""#);
        // What no client could parse is text as well.
        assert_eq!(data(r#""\ud800""#), r#""\"\\ud800\"""#);
        let deep = "[".repeat(65) + &"]".repeat(65);
        assert_eq!(data(&deep), format!("\"{deep}\""));
        assert_eq!(data(&deep[1..129]), deep[1..129]);
    }

    #[test]
    fn what_is_not_delivered_and_why() {
        let good = value(&append(Kind::Json, "lobby", "ann", "m1", b"1"));
        let junk = |incoming: Incoming<'_>| match read(&incoming) {
            Mapped::Junk(junk) => junk,
            other => panic!("{other:?}"),
        };
        assert_eq!(junk(Incoming { key: None, ..theirs(b"", b"1") }), Junk::NoKey);
        assert_eq!(junk(Incoming { value: None, ..theirs(b"a", b"") }), Junk::Tombstone);
        assert_eq!(junk(Incoming { value: None, ..ours(b"a", b"") }), Junk::Tombstone);
        for room in [&b""[..], b"a\nb", b"\xff", &[b'a'; 256]] {
            assert_eq!(junk(theirs(room, b"1")), Junk::BadRoom);
            assert_eq!(junk(ours(room, &good)), Junk::BadRoom);
        }
        assert_eq!(junk(theirs(b"a", b"\xff\xfe")), Junk::NotText);
        assert_eq!(junk(theirs(b"a", &[b'1'; (256 << 10) + 1])), Junk::TooLarge);
        // As text it would be twice as long.
        assert_eq!(junk(theirs(b"a", &[b'"'; 200 << 10])), Junk::TooLarge);
        assert_eq!(
            junk(ours(b"a", &value(&append(Kind::Json, "a", "", "", &[b'1'; (1 << 20) + 1])))),
            Junk::TooLarge
        );
        assert_eq!(junk(Incoming { version: Some(b"2"), ..ours(b"a", &good) }), Junk::Version);
        for bad in [
            "",
            "{}",
            "[]",
            "1",
            r#"{"data":1"#,
            r#"{"data":1} x"#,
            r#"{"data":1,"id":7}"#,
            r#"{"data":1,"id":"~1"}"#,
            r#"{"data":1,"id":"a\nb"}"#,
            r#"{"data":1,"sender":"a\u0000"}"#,
            r#"{"data":1,"type":"ban"}"#,
            r#"{"data":1,"encoding":"base64"}"#,
            r#"{"data":"?","encoding":"base64"}"#,
            r#"{"data":"","encoding":"hex"}"#,
            r#"{"data":"\ud800"}"#,
        ] {
            assert_eq!(junk(ours(b"a", bad.as_bytes())), Junk::Malformed, "{bad}");
        }
        assert!(matches!(read(&ours(b"a", br#"{"data":"AA==","encoding":"base64"}"#)), Mapped::Untitled(..)));
    }

    #[test]
    fn a_tag_is_read_again() {
        let value = value(&append(Kind::Json, "lobby", "ann", "", b"1"));
        let tag = MessageKey(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let text = write_tag(tag);
        let tagged = |tag| match read(&Incoming { tag, ..ours(b"lobby", &value) }) {
            Mapped::Untitled(_, tag) => tag,
            other => panic!("{other:?}"),
        };
        assert_eq!(tagged(Some(text.as_bytes())), Some(tag));
        assert_eq!(tagged(Some(&text.as_bytes()[1..])), None);
        assert_eq!(tagged(Some(b"+123456789abcdef0123456789abcdef")), None);
        assert_eq!(tagged(None), None);
    }
}
