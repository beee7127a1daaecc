use super::*;
use crate::codes::Code;
use crate::message::Record;
use proptest::prelude::*;
use serde_json::{Value, json};

fn made(offset: u64, prev: u64, kind: Kind, room: &str, user: &str, id: &str, data: &[u8]) -> Publication {
    let mut body = Vec::new();
    Record::encode(&mut body, kind, room, user, id, data);
    Publication { record: Record::decode(offset, 1_764_076_361_000, body.into()).unwrap(), prev }
}

fn frame(encode: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = b"before".to_vec();
    encode(&mut out);
    String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
}

const EPOCH: Epoch = Epoch(0x0123_4567_89ab_cdef);

/// A publication's bytes are the same on every node and in every version: these strings must never change.
#[test]
fn publications() {
    let text = |p: &Publication| frame(|out| publication(out, p));
    assert_eq!(
        text(&made(131, 130, Kind::Json, "lobby", "ann", "m1", br#"{"text": "hello"}"#)),
        r#"{"type":"publication","room":"lobby","offset":131,"prev":130,"time":1764076361000,"user":"ann","id":"m1","data":{"text": "hello"}}"#
    );
    assert_eq!(
        text(&made(1, 0, Kind::Json, "lobby", "", "", b"1e999")),
        r#"{"type":"publication","room":"lobby","offset":1,"prev":0,"time":1764076361000,"data":1e999}"#
    );
    assert_eq!(
        text(&made(u64::MAX, 9, Kind::Binary, "lobby", "ann", "", &[255, 0, 1, 2])),
        r#"{"type":"publication","room":"lobby","offset":18446744073709551615,"prev":9,"time":1764076361000,"user":"ann","bytes":"/wABAg=="}"#
    );
    assert_eq!(
        text(&made(2, 1, Kind::Binary, "a\"\\\u{1f}\u{7f}é\u{2028}", "\u{8}\u{c}\t\r\n\0", "/", b"")),
        "{\"type\":\"publication\",\"room\":\"a\\\"\\\\\\u001f\u{7f}é\u{2028}\",\"offset\":2,\"prev\":1,\"time\":1764076361000,\
         \"user\":\"\\b\\f\\t\\r\\n\\u0000\",\"id\":\"/\",\"bytes\":\"\"}"
    );
}

#[test]
fn a_publication_takes_no_memory_but_its_own_bytes() {
    let p = made(131, 130, Kind::Binary, "lobby", "ann", "m1", &[7; 100]);
    let mut out = Vec::new();
    publication(&mut out, &p);
    let mut exact = Vec::with_capacity(out.len());
    let before = (exact.as_ptr(), exact.capacity());
    publication(&mut exact, &p);
    assert_eq!((exact.as_ptr(), exact.capacity()), before);
}

#[test]
fn replies() {
    assert_eq!(
        frame(|out| welcome(out, "c1a2", "", None)),
        r#"{"type":"welcome","version":1,"connection":"c1a2","user":""}"#
    );
    assert_eq!(
        frame(|out| welcome(out, "c1a2", "ann", Some(1))),
        r#"{"type":"welcome","ref":1,"version":1,"connection":"c1a2","user":"ann"}"#
    );
    let mut join = Joined {
        reference: Some(2),
        room: "lobby",
        epoch: EPOCH,
        offset: 120,
        last: 130,
        recovered: Some(true),
    };
    assert_eq!(
        frame(|out| joined(out, &join)),
        r#"{"type":"joined","ref":2,"room":"lobby","epoch":"0123456789abcdef","offset":120,"last":130,"recovered":true}"#
    );
    join = Joined { reference: None, recovered: None, epoch: Epoch(1), ..join };
    assert_eq!(
        frame(|out| joined(out, &join)),
        r#"{"type":"joined","room":"lobby","epoch":"0000000000000001","offset":120,"last":130}"#
    );
    assert_eq!(frame(|out| left(out, "lobby", Some(3))), r#"{"type":"left","ref":3,"room":"lobby"}"#);
    let mut stored =
        Ack { reference: Some(4), room: "lobby", epoch: EPOCH, offset: 131, id: "m1", duplicate: false };
    assert_eq!(
        frame(|out| ack(out, &stored)),
        r#"{"type":"ack","ref":4,"room":"lobby","epoch":"0123456789abcdef","offset":131,"id":"m1"}"#
    );
    stored = Ack { reference: None, id: "", duplicate: true, ..stored };
    assert_eq!(
        frame(|out| ack(out, &stored)),
        r#"{"type":"ack","room":"lobby","epoch":"0123456789abcdef","offset":131,"duplicate":true}"#
    );
    assert_eq!(frame(|out| done(out, Some(5))), r#"{"type":"done","ref":5}"#);
    assert_eq!(frame(|out| pong(out, None)), r#"{"type":"pong"}"#);
    assert_eq!(
        frame(|out| signal(out, "lobby", "ann", "typing", "[ 1 ]")),
        r#"{"type":"signal","room":"lobby","user":"ann","name":"typing","data":[ 1 ]}"#
    );
    assert_eq!(
        frame(|out| signal(out, "lobby", "", "typing", "null")),
        r#"{"type":"signal","room":"lobby","name":"typing","data":null}"#
    );
}

#[test]
fn history_and_presence() {
    let page = [
        made(130, 0, Kind::Json, "lobby", "ann", "m0", b"1"),
        made(131, 130, Kind::Json, "lobby", "", "", b"2"),
    ];
    assert_eq!(
        frame(|out| history(out, Some(6), "lobby", EPOCH, &page, true, 140)),
        concat!(
            r#"{"type":"history","ref":6,"room":"lobby","epoch":"0123456789abcdef","publications":["#,
            r#"{"type":"publication","room":"lobby","offset":130,"prev":0,"time":1764076361000,"user":"ann","id":"m0","data":1},"#,
            r#"{"type":"publication","room":"lobby","offset":131,"prev":130,"time":1764076361000,"data":2}],"more":true,"last":140}"#
        )
    );
    assert_eq!(
        frame(|out| history(out, None, "lobby", EPOCH, &[], false, 0)),
        r#"{"type":"history","room":"lobby","epoch":"0123456789abcdef","publications":[],"more":false,"last":0}"#
    );
    assert_eq!(
        frame(|out| presence(out, Some(7), "lobby", 12, &[("ann", 1), ("bob", 2)], false)),
        r#"{"type":"presence","ref":7,"room":"lobby","count":12,"users":[{"user":"ann","connections":1},{"user":"bob","connections":2}]}"#
    );
    assert_eq!(
        frame(|out| presence(out, None, "lobby", 12, &[("ann".to_owned(), 1)], true)),
        r#"{"type":"presence","room":"lobby","count":12,"users":[{"user":"ann","connections":1}],"truncated":true}"#
    );
    assert_eq!(
        frame(|out| presence_event(out, "lobby", Some((&["ann", "b\""][..], &[])), 12)),
        r#"{"type":"presence_event","room":"lobby","joined":["ann","b\""],"left":[],"count":12}"#
    );
    assert_eq!(
        frame(|out| presence_event::<&str>(out, "lobby", None, 12)),
        r#"{"type":"presence_event","room":"lobby","count":12}"#
    );
}

#[test]
fn errors_and_disconnects() {
    let conflict = Error::new(Code::Conflict, "another body");
    assert_eq!(
        frame(|out| error(out, &conflict, Some(4), Some("m1"), Some("lobby"), Some(Outcome::NotStored))),
        concat!(
            r#"{"type":"error","ref":4,"id":"m1","room":"lobby","code":206,"name":"conflict","message":"another body","#,
            r#""retry":"never","outcome":"not_stored"}"#
        )
    );
    let unknown = Error::new(Code::Unknown, "no answer").after(5);
    assert_eq!(
        frame(|out| error(out, &unknown, None, None, None, Some(Outcome::Unknown))),
        concat!(
            r#"{"type":"error","code":300,"name":"outcome_unknown","message":"no answer","retry":"same_id","#,
            r#""retry_after_ms":5,"outcome":"unknown"}"#
        )
    );
    assert_eq!(
        frame(|out| disconnect(out, Disconnect::Slow, "too slow")),
        r#"{"type":"disconnect","code":4001,"name":"slow","reconnect":true,"message":"too slow"}"#
    );
    assert_eq!(
        frame(|out| disconnect(out, Disconnect::Kicked, "")),
        r#"{"type":"disconnect","code":4500,"name":"kicked","reconnect":false,"message":""}"#
    );
}

/// A name as a record may hold one: any text of at most 255 bytes.
fn name(least: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), least..60).prop_map(|chars| chars.into_iter().collect::<String>())
}

fn parsed(encode: impl FnOnce(&mut Vec<u8>)) -> Value {
    serde_json::from_str(&frame(encode)).unwrap()
}

proptest! {
    #[test]
    fn any_publication_is_json(
        (offset, prev) in any::<(u64, u64)>(),
        room in name(1), user in name(0), id in name(0), data in any::<String>(),
    ) {
        let data = Value::String(data);
        let value = parsed(|out| publication(out, &made(offset, prev, Kind::Json, &room, &user, &id, data.to_string().as_bytes())));
        let mut expected = json!({
            "type": "publication", "room": room, "offset": offset, "prev": prev, "time": 1_764_076_361_000_u64, "data": data,
        });
        let fields = expected.as_object_mut().unwrap();
        if !user.is_empty() {
            fields.insert("user".into(), user.into());
        }
        if !id.is_empty() {
            fields.insert("id".into(), id.into());
        }
        prop_assert_eq!(value, expected);
    }

    #[test]
    fn any_bytes_come_back(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let value = parsed(|out| publication(out, &made(1, 0, Kind::Binary, "r", "", "", &data)));
        prop_assert_eq!(BASE64_STANDARD.decode(value["bytes"].as_str().unwrap()).unwrap(), data);
        prop_assert_eq!(value.get("data"), None);
    }

    #[test]
    fn any_reply_is_json(room in name(0), text in any::<String>(), (a, b, of) in any::<(u64, u64, u64)>()) {
        let epoch = format!("{of:016x}");
        prop_assert_eq!(
            parsed(|out| joined(out, &Joined { reference: Some(a), room: &room, epoch: Epoch(of), offset: b, last: a, recovered: Some(false) })),
            json!({"type": "joined", "ref": a, "room": room, "epoch": epoch, "offset": b, "last": a, "recovered": false})
        );
        prop_assert_eq!(
            parsed(|out| ack(out, &Ack { reference: Some(b), room: &room, epoch: Epoch(of), offset: a, id: &format!("x{text}"), duplicate: true })),
            json!({"type": "ack", "ref": b, "room": room, "epoch": epoch, "offset": a, "id": format!("x{text}"), "duplicate": true})
        );
        prop_assert_eq!(
            parsed(|out| error(out, &Error::new(Code::Busy, &*text), None, Some(&room), Some(&text), None)),
            json!({"type": "error", "id": room, "room": text, "code": 100, "name": "busy", "message": text, "retry": "later", "retry_after_ms": 1000})
        );
        prop_assert_eq!(
            parsed(|out| presence(out, None, &room, a, &[(&text, 3)], false)),
            json!({"type": "presence", "room": room, "count": a, "users": [{"user": text, "connections": 3}]})
        );
    }
}
