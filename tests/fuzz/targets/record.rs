//! The codec of a record's body, and of its place in the log.
//!
//! Bytes that are a record are written again as the same bytes; parts that can be a record come back as they were.

#![no_main]

use bytes::Bytes;
use klatch::log::Place;
use klatch::{Kind, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(record) = Record::decode(7, 9, Bytes::copy_from_slice(data)) {
        assert_eq!((record.offset(), record.time(), &record.body()[..]), (7, 9, data));
        assert!(!record.room().is_empty(), "a record of no room");
        let again = encoded(record.kind(), record.room(), record.user(), record.given_id(), &record.data());
        assert_eq!(again, data);
        assert_eq!(record.data_slice(), &record.data()[..]);
        if record.kind() == Kind::Json {
            std::str::from_utf8(record.data_slice()).expect("JSON is UTF-8");
        }
    }
    parts(data);
    if let Some(bytes) = data.first_chunk::<16>() {
        let place = Place::from_bytes(*bytes);
        assert_eq!(place.to_bytes(), *bytes, "{place:?}");
    }
});

fn encoded(kind: Kind, room: &str, user: &str, id: &str, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    Record::encode(&mut body, kind, room, user, id, data);
    body
}

/// Cuts the bytes into the parts of a record, without the codec's help.
fn parts(data: &[u8]) {
    let [kind, room, user, id, rest @ ..] = data else { return };
    let cut = |rest: &[u8], len: u8| {
        let (text, rest) = rest.split_at_checked(len as usize)?;
        Some((std::str::from_utf8(text).ok()?.to_owned(), rest.to_vec()))
    };
    let Some((room, rest)) = cut(rest, *room) else { return };
    let Some((user, rest)) = cut(&rest, *user) else { return };
    let Some((id, rest)) = cut(&rest, *id) else { return };
    let kind = if kind % 2 == 0 { Kind::Json } else { Kind::Binary };
    let can_be = !room.is_empty() && (kind == Kind::Binary || std::str::from_utf8(&rest).is_ok());
    let record = Record::decode(u64::MAX, 0, encoded(kind, &room, &user, &id, &rest).into());
    let Some(record) = record else {
        assert!(!can_be, "a record that cannot be read back");
        return;
    };
    assert!(can_be);
    assert_eq!(
        (record.kind(), record.room(), record.user(), record.given_id()),
        (kind, &*room, &*user, &*id)
    );
    assert_eq!(record.data_slice(), rest);
}
