//! Any text as a frame of the native protocol, as the query of an upgrade request, and as a host's JSON.
//!
//! Whatever is accepted keeps the limits, is written again as a plain frame and then means the same, and comes out as a
//! publication that any JSON parser reads.

#![no_main]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use klatch::command::{Command, Connect, Join, JoinOptions, Publish, Signal, Start};
use klatch::config::Limits;
use klatch::protocol::frame;
use klatch::protocol::native::decode::{Refused, decode, decode_query};
use klatch::protocol::native::encode::{self, Outcome};
use klatch::protocol::native::text::check_value;
use klatch::{Kind, Record};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt::Write;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let wide = Limits::default();
    let mut narrow = Limits::default();
    (narrow.json_depth, narrow.name_bytes) = (3, 8);
    for limits in [&wide, &narrow] {
        match decode(text, limits) {
            Ok(command) => accepted(text, &command, limits),
            Err(refused) => answered(&refused, limits),
        }
        query(text, limits);
        if let Ok(value) = check_value(text, limits.json_depth) {
            sound_json(value.as_bytes(), limits);
            assert_eq!(check_value(value, limits.json_depth).unwrap(), value);
        }
    }
    if let Ok(command) = decode(text, &narrow) {
        assert_eq!(
            decode(text, &wide).as_ref(),
            Ok(&command),
            "narrow limits let through what wide ones do not"
        );
    }
});

fn accepted(text: &str, command: &Command<'_>, limits: &Limits) {
    serde_json::from_str::<serde::de::IgnoredAny>(text).expect("a frame that is not JSON was accepted");
    let again = written(command);
    assert_eq!(decode(&again, limits).as_ref(), Ok(command), "{again}");
    match command {
        Command::Connect(connect) => sound_connect(connect, limits),
        Command::Join(Join { room, .. }) | Command::Leave { room, .. } | Command::Presence { room, .. } => {
            sound_name(room.as_deref(), limits)
        }
        Command::History(history) => sound_name(history.room.as_deref(), limits),
        Command::Publish(publish) => sound_publish(publish, limits),
        Command::Signal(signal) => {
            sound_name(signal.room.as_deref(), limits);
            sound_name(Some(&signal.name), limits);
            sound_json(signal.data.as_bytes(), limits);
            let mut out = Vec::new();
            encode::signal(&mut out, "room", "user", &signal.name, signal.data);
            let out: Value = parsed(&out);
            assert_eq!(out["name"], *signal.name);
        }
        Command::Ping { .. } => {}
    }
}

fn sound_connect(connect: &Connect<'_>, limits: &Limits) {
    sound_name(connect.room.as_deref(), limits);
    sound_name(connect.user.as_deref(), limits);
}

fn sound_name(name: Option<&str>, limits: &Limits) {
    let Some(name) = name else { return };
    assert!((1..=limits.name_bytes).contains(&name.len()), "{name:?}");
    assert!(!name.chars().any(char::is_control), "{name:?}");
}

/// One JSON value, not too deep, that a parser into a tree takes too; only its numbers may be too large for that.
fn sound_json(data: &[u8], limits: &Limits) {
    match serde_json::from_slice::<Value>(data) {
        Ok(value) => assert!(depth(&value) <= limits.json_depth),
        Err(e) => assert!(e.to_string().starts_with("number out of range"), "{e}"),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The publication of a publish: what was sent is what arrives.
fn sound_publish(publish: &Publish<'_>, limits: &Limits) {
    sound_name(publish.room.as_deref(), limits);
    let id = publish.id.as_deref().unwrap_or_default();
    assert!(id.len() <= 64 && !id.starts_with('~') && !id.chars().any(char::is_control), "{id:?}");
    assert!(publish.id.is_none() || !id.is_empty());
    if publish.kind == Kind::Json {
        sound_json(&publish.data, limits);
    }
    #[derive(Deserialize)]
    struct Arrived<'a> {
        room: String,
        offset: u64,
        prev: u64,
        id: Option<String>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        bytes: Option<String>,
    }
    let room = publish.room.as_deref().unwrap_or("lobby");
    let mut body = Vec::new();
    Record::encode(&mut body, publish.kind, room, "", id, &publish.data);
    let record =
        Record::decode(u64::MAX, 9, Bytes::from(body)).expect("a message that was accepted is a record");
    let mut framed = Vec::new();
    frame::publication(&mut framed, &record, 3);
    let arrived: Arrived<'_> = parsed(frame::payload(&framed));
    assert_eq!((arrived.room.as_str(), arrived.offset, arrived.prev), (room, u64::MAX, 3));
    assert_eq!(arrived.id.as_deref(), publish.id.as_deref());
    let data = match (arrived.data, arrived.bytes) {
        (Some(data), None) => data.get().as_bytes().to_vec(),
        // `null` as a value looks like none here.
        (None, None) => b"null".to_vec(),
        (_, bytes) => BASE64_STANDARD.decode(bytes.expect("data or bytes")).expect("base64"),
    };
    assert_eq!(data, *publish.data);
}

/// A refusal is answered with JSON, and gives back no more than a name's or an id's length.
fn answered(refused: &Refused, limits: &Limits) {
    assert!(!refused.error.message().is_empty());
    assert!(refused.id.as_ref().is_none_or(|id| id.len() <= 64));
    assert!(refused.room.as_ref().is_none_or(|room| room.len() <= limits.name_bytes));
    let mut out = Vec::new();
    let outcome = refused.publish.then_some(Outcome::NotStored);
    let (id, room) = (refused.id.as_deref(), refused.room.as_deref());
    encode::error(&mut out, &refused.error, refused.reference, id, room, outcome);
    let out: Value = parsed(&out);
    assert_eq!(out["id"].as_str(), id);
    assert_eq!(out["room"].as_str(), room);
    assert_eq!(out["ref"].as_u64(), refused.reference);
}

fn parsed<'a, T: Deserialize<'a>>(json: &'a [u8]) -> T {
    serde_json::from_slice(json).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(json)))
}

/// The command as one frame, every field in its plainest form.
fn written(command: &Command<'_>) -> String {
    let mut out = String::from("{\"type\":");
    let mut put = |name: &str, json: String| {
        if name != "type" {
            write!(out, ",\"{name}\":").expect("a string has room");
        }
        out.push_str(&json);
    };
    let text = |text: &str| serde_json::to_string(text).expect("a string is JSON");
    let (kind, reference, room) = match command {
        Command::Connect(c) => ("connect", c.reference, &c.room),
        Command::Join(j) => ("join", j.reference, &j.room),
        Command::Leave { reference, room } => ("leave", *reference, room),
        Command::Publish(p) => ("publish", p.reference, &p.room),
        Command::Signal(s) => ("signal", s.reference, &s.room),
        Command::History(h) => ("history", h.reference, &h.room),
        Command::Presence { reference, room } => ("presence", *reference, room),
        Command::Ping { reference } => ("ping", *reference, &None),
    };
    put("type", text(kind));
    if let Some(reference) = reference {
        put("ref", reference.to_string());
    }
    if let Some(room) = room {
        put("room", text(room));
    }
    match command {
        Command::Connect(connect) => {
            for (name, value) in [("user", &connect.user), ("token", &connect.token)] {
                if let Some(value) = value {
                    put(name, text(value));
                }
            }
            options(&connect.options, &mut |name, value| put(name, value));
        }
        Command::Join(join) => options(&join.options, &mut |name, value| put(name, value)),
        Command::Publish(Publish { id, kind, data, .. }) => {
            if let Some(id) = id {
                put("id", text(id));
            }
            match kind {
                Kind::Json => put("data", String::from_utf8(data.to_vec()).expect("JSON is UTF-8")),
                Kind::Binary => put("bytes", text(&BASE64_STANDARD.encode(data))),
            }
        }
        Command::Signal(Signal { name, data, .. }) => {
            put("name", text(name));
            put("data", (*data).to_owned());
        }
        Command::History(history) => {
            let query = &history.query;
            for (name, value) in [
                ("after", query.after),
                ("before", query.before),
                ("limit", u64::from(query.limit)),
                ("at_least", query.at_least),
            ] {
                put(name, value.to_string());
            }
            put("backward", query.backward.to_string());
        }
        Command::Leave { .. } | Command::Presence { .. } | Command::Ping { .. } => {}
    }
    out.push('}');
    out
}

/// The options of a join as fields; `quoted` are strings in a frame.
fn options(options: &JoinOptions, put: &mut dyn FnMut(&str, String)) {
    put("echo", options.echo.to_string());
    put("presence", options.presence.to_string());
    match options.start {
        Start::Live => {}
        Start::History(history) => put("history", history.to_string()),
        Start::Since { epoch, offset, history } => {
            put("since", offset.to_string());
            put("history", history.to_string());
            if let Some(epoch) = epoch {
                put("epoch", format!("\"{epoch}\""));
            }
        }
    }
}

fn query(text: &str, limits: &Limits) {
    let Ok(connect) = decode_query(text, limits) else { return };
    sound_connect(&connect, limits);
    let escape = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
    let mut again = String::new();
    for (name, value) in [("room", &connect.room), ("user", &connect.user), ("token", &connect.token)] {
        if let Some(value) = value {
            write!(again, "{name}={}&", escape(value)).expect("a string has room");
        }
    }
    options(&connect.options, &mut |name, value| {
        write!(again, "{name}={}&", value.trim_matches('"')).expect("a string has room");
    });
    assert_eq!(decode_query(&again, limits).as_ref(), Ok(&connect), "{again}");
}
