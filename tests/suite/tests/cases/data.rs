//! What is in a message: nesting, names, keys, halves of characters. One rule in every door.

use crate::{Guest, Victim};
use klatch::hooks::{ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishRequest};
use klatch::{Authorizer, Code, Engine, HistoryQuery, Message, PublishHook, Settings, Start};
use klatch_suite::files;
use klatch_suite::ws::{Ws, get};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(10);

fn engine(log: &Path, limits: Value) -> Engine {
    let settings: Settings = serde_json::from_value(json!({ "limits": limits })).unwrap();
    Engine::builder().settings(settings).log(log.to_str().unwrap()).listen("127.0.0.1:0").start().unwrap()
}

fn connect(engine: &Engine, query: &str) -> Guest {
    Guest::connect(engine.addresses()[0], query)
}

fn percent(name: &str) -> String {
    name.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// Half a surrogate pair disconnected everybody, and again whenever the history was replayed (socket.io#2732,
/// NousResearch/hermes-agent#101666).
#[test]
fn r06_half_a_surrogate_is_refused_in_every_door() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let first = engine(&log, json!({"bad_requests": 1000}));
    let mut ann = connect(&first, "user=ann&room=lobby");
    let mut bob = connect(&first, "user=bob&room=lobby");
    ann.next_of("joined");
    bob.next_of("joined");
    let halves = [
        r#""\ud83d""#,
        r#""a\uDF38""#,
        r#"{"text":"\ud83d"}"#,
        r#"{"\udf38":1}"#,
        r#""\ud83d\ud83d\ude00""#,
        r#""\ude00\ud83d""#,
        r#""\ud83d\n\ude00""#,
        r#""\ud83d\\ude00""#,
        r#""\uD83D \uDE00""#,
        r#"[[["\udbff"]]]"#,
        r#""\udc00""#,
    ];
    for half in halves {
        for (door, frame) in [
            ("publish", format!(r#"{{"type":"publish","ref":1,"id":"x","data":{half}}}"#)),
            ("signal", format!(r#"{{"type":"signal","ref":1,"name":"n","data":{half}}}"#)),
        ] {
            ann.text(&frame);
            let error = ann.next();
            assert_eq!(error["name"], "invalid_data", "{door} of {half}: {error}");
            assert_eq!(error["ref"], 1);
        }
        // As what is no data at all, but of a request.
        if half.starts_with('"') {
            for frame in [
                format!(r#"{{"type":"publish","ref":1,"id":{half},"data":1}}"#),
                format!(r#"{{"type":"publish","ref":1,"room":{half},"data":1}}"#),
                format!(r#"{{"type":"join","ref":1,"room":{half}}}"#),
                format!(r#"{{"type":"leave","ref":1,"room":{half}}}"#),
                format!(r#"{{"type":"history","ref":1,"room":{half}}}"#),
                format!(r#"{{"type":"presence","ref":1,"room":{half}}}"#),
                format!(r#"{{"type":"signal","ref":1,"name":{half}}}"#),
                format!(r#"{{"type":"publish","ref":1,"bytes":{half}}}"#),
            ] {
                ann.text(&frame);
                let error = ann.next();
                assert_eq!(
                    (&error["type"], &error["name"]),
                    (&json!("error"), &json!("invalid_data")),
                    "{frame}"
                );
            }
            for field in ["user", "token", "room"] {
                let (mut ws, _) = Ws::open(first.addresses()[0], "/ws", &[], &[]).unwrap().unwrap();
                ws.text(&format!(r#"{{"type":"connect","ref":1,"{field}":{half}}}"#)).unwrap();
                let text = loop {
                    let text = ws.next_text().unwrap();
                    if !text.contains("\"welcome\"") {
                        break text;
                    }
                };
                assert!(text.contains("invalid_data"), "{field} {half}: {text}");
            }
        }
        let refused = first.publish(Message::json("lobby", half)).wait().unwrap_err();
        assert_eq!(refused.code(), Code::InvalidData, "{half}");
        assert_eq!(first.signal("lobby", "", "n", half).unwrap_err().code(), Code::InvalidData, "{half}");
    }
    // Whole pairs, and what only looks like a half, pass as they are.
    let fine = [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\\\\ud83d""#, r#"{"\uD83D\uDE00":"\u0000"}"#];
    for (n, text) in fine.iter().enumerate() {
        ann.publish(&n.to_string(), text);
        for who in [&mut ann, &mut bob] {
            let got = who.0.next_text().unwrap();
            assert!(got.ends_with(&format!("\"data\":{text}}}")), "{got}");
        }
    }
    assert!(ann.until_pong().is_empty() && bob.until_pong().is_empty(), "nothing else came to anybody");
    first.stop(SECONDS).unwrap();
    drop(first);
    // And the history is clean, after a restart too.
    let second = engine(&log, json!({}));
    let page = second.history("lobby", HistoryQuery::default()).unwrap();
    let stored: Vec<_> =
        page.publications.iter().map(|p| String::from_utf8(p.data().to_vec()).unwrap()).collect();
    assert_eq!(stored, fine);
    let mut eve = connect(&second, "user=eve&room=lobby&history=10");
    eve.next_of("joined");
    for text in fine {
        assert!(eve.0.next_text().unwrap().contains(text));
    }
    let answer = get(second.addresses()[0], "/rooms/lobby/history").unwrap();
    assert!(fine.iter().all(|text| answer.body.contains(text)));
}

/// Replaces every message by what it has in it as text.
struct Replace;

impl PublishHook for Replace {
    fn publish(&self, request: PublishRequest, answer: PublishAnswer) {
        let text: String = serde_json::from_slice(&request.data).unwrap();
        answer.replace_json(&text);
    }
}

/// What a hook puts in a message's place is held to the same rules as what a client sends.
#[test]
fn r06_r07_a_hook_may_store_no_more_than_a_client() {
    let engine = Engine::builder()
        .log("memory")
        .listen("127.0.0.1:0")
        .publish_hook(Arc::new(Replace))
        .start()
        .unwrap();
    let mut ann = connect(&engine, "user=ann&room=lobby");
    ann.next_of("joined");
    for text in [
        r#""\ud83d""#.to_owned(),
        "{".to_owned(),
        String::new(),
        "[".repeat(65) + &"]".repeat(65),
        "[".repeat(50_000),
    ] {
        ann.send(&json!({"type": "publish", "ref": 1, "data": text}));
        let error = ann.next();
        assert_eq!((&error["type"], &error["outcome"]), (&json!("error"), &json!("not_stored")), "{error}");
        assert_eq!(error["name"], "internal", "the host's fault, not the client's: {error}");
    }
    ann.send(&json!({"type": "publish", "id": "1", "data": r#""\ud83d\ude00""#}));
    assert_eq!(ann.next()["data"], "\u{1F600}");
    assert_eq!(engine.history("lobby", HistoryQuery::default()).unwrap().publications.len(), 1);
}

/// Recursion over nested JSON ended the server (antirez/ds4#43, ruma#507, serde-rs/json#334).
#[test]
fn r07_deep_nesting_is_refused_in_every_door() {
    let dir = tempfile::tempdir().unwrap();
    let host = engine(&dir.path().join("log"), json!({"bad_requests": 1000, "message_bytes": 1 << 20}));
    let mut ann = connect(&host, "user=ann&room=lobby");
    ann.next_of("joined");
    let nested = |open: &str, n: usize, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(n), close.repeat(n))
    };
    let mut refused = Vec::new();
    for n in [65, 127, 128, 129, 8_500, 10_000, 100_000] {
        refused.push(("array", nested("[", n, "", "]")));
        refused.push(("object", nested("{\"a\":", n, "1", "}")));
        refused.push(("mixed", nested("[{\"a\":", n / 2 + 1, "1", "}]")));
    }
    // Some that end in the middle: then they are no JSON, and both codes are true.
    let broken = [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        "]".repeat(100_000),
        format!("{}1{}", "[".repeat(100_000), "}".repeat(100_000)),
        "[[],".repeat(100_000),
        "\"\\".repeat(100_000),
    ];
    for (what, data) in &refused {
        for (door, frame) in [
            ("publish", format!(r#"{{"type":"publish","ref":1,"data":{data}}}"#)),
            ("signal", format!(r#"{{"type":"signal","ref":1,"name":"n","data":{data}}}"#)),
            ("unknown field", format!(r#"{{"type":"ping","ref":1,"x":{data}}}"#)),
        ] {
            ann.text(&frame);
            let error = ann.next();
            assert_eq!(error["name"], "too_deep", "{door} of {what}, {} bytes: {error}", data.len());
            assert!(error["message"].as_str().unwrap().contains("64"), "the limit is named: {error}");
        }
        assert_eq!(host.publish(Message::json("lobby", data)).wait().unwrap_err().code(), Code::TooDeep);
        assert_eq!(host.signal("lobby", "", "n", data).unwrap_err().code(), Code::TooDeep);
    }
    for data in &broken {
        for frame in [
            format!(r#"{{"type":"publish","ref":1,"data":{data}}}"#),
            format!(r#"{{"type":"publish","ref":1,"data":{data}"#),
            format!(r#"{{"type":{data}"#),
            data.clone(),
        ] {
            ann.text(&frame);
            let error = ann.next();
            assert_eq!(error["type"], "error");
            assert!(error["name"] == "too_deep" || error["name"] == "bad_request", "{error}");
        }
        let code = host.publish(Message::json("lobby", data)).wait().unwrap_err().code();
        assert!(code == Code::TooDeep || code == Code::InvalidData, "{code:?}");
    }
    // At the limit it passes, everywhere.
    let most = nested("[", 64, "", "]");
    ann.publish("1", &most);
    assert!(ann.0.next_text().unwrap().contains(&most));
    host.publish(Message::json("lobby", &most)).wait().unwrap();
    assert!(ann.0.next_text().unwrap().contains(&most));
    ann.text(&format!(r#"{{"type":"ping","ref":1,"x":{most}}}"#));
    assert_eq!(ann.next(), json!({"type": "pong", "ref": 1}));
    host.signal("lobby", "", "n", &most).unwrap();
    assert_eq!(ann.next()["type"], "signal");
    assert_eq!(get(host.addresses()[0], "/rooms/lobby/history").unwrap().status, 200);
    assert_eq!(host.history("lobby", HistoryQuery::default()).unwrap().publications.len(), 2);
}

/// No part of it recurses, so that a host may allow any depth.
#[test]
fn r07_a_depth_that_the_host_allows_harms_nobody() {
    const LEVELS: usize = 500_000;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let limits = json!({"message_bytes": 1 << 20, "json_depth": 1 << 20, "outbound_bytes": 64 << 20});
    let host = engine(&log, limits.clone());
    let mut ann = connect(&host, "user=ann&room=lobby");
    ann.next_of("joined");
    let deep = "[".repeat(LEVELS) + &"]".repeat(LEVELS);
    let mut subscription = host.subscribe("lobby", Start::Live).unwrap();
    ann.publish("1", &deep);
    assert!(ann.0.next_text().unwrap().contains(&deep));
    host.publish(Message::json("lobby", &deep)).wait().unwrap();
    assert!(ann.0.next_text().unwrap().contains(&deep));
    host.signal("lobby", "", "n", &deep).unwrap();
    assert!(ann.0.next_text().unwrap().contains(&deep));
    ann.text(&format!(r#"{{"type":"ping","ref":1,"x":{deep}}}"#));
    assert_eq!(ann.next(), json!({"type": "pong", "ref": 1}));
    assert_eq!(subscription.next_batch(1, SECONDS).unwrap()[0].data(), deep.as_bytes());
    // What is not JSON at that depth is refused as such.
    for broken in ["[".repeat(2 * LEVELS), "{\"a\":".repeat(LEVELS / 4), "]".repeat(LEVELS)] {
        ann.text(&format!(r#"{{"type":"publish","ref":1,"data":{broken}}}"#));
        assert_eq!(ann.next()["name"], "bad_request");
        assert_eq!(
            host.publish(Message::json("lobby", &broken)).wait().unwrap_err().code(),
            Code::InvalidData
        );
    }
    host.stop(SECONDS).unwrap();
    drop(host);
    let host = engine(&log, limits);
    assert!(get(host.addresses()[0], "/rooms/lobby/history?limit=1").unwrap().body.contains(&deep));
}

/// At the size that a client may send by default, 100,000 levels do not even fit.
#[test]
fn r07_deep_nesting_past_the_size_is_refused_by_it() {
    let victim = Victim::start(|l| l);
    victim.while_served(|| {
        for data in ["[".repeat(100_000) + &"]".repeat(100_000), "{\"a\":".repeat(100_000)] {
            let mut mallory = victim.guest("user=mallory");
            // It may be closed before all is sent.
            let _ = mallory.0.text(&format!(r#"{{"type":"publish","room":"r","data":{data}}}"#));
            assert_eq!(mallory.closed(), Some(1009));
        }
    });
    victim.unharmed();
}

/// A zero byte within a name panicked, or cut it (rust-rdkafka#782, cloudhead/node-static#244). Requests are in `http.rs`.
#[test]
fn r08_zero_bytes_in_names_are_refused_in_every_door() {
    let dir = tempfile::tempdir().unwrap();
    let host = engine(&dir.path().join("log"), json!({"bad_requests": 1000}));
    let mut ann = connect(&host, "user=ann&room=a");
    ann.next_of("joined");
    for bad in ["a\0b", "\0", "a\0", "\0a", "a\u{1f}", "a\u{7f}", "a\u{80}", "\u{9f}", "a\nb", ""] {
        let name = serde_json::to_string(bad).unwrap();
        for frame in [
            format!(r#"{{"type":"publish","ref":1,"room":{name},"data":1}}"#),
            format!(r#"{{"type":"join","ref":1,"room":{name}}}"#),
            format!(r#"{{"type":"leave","ref":1,"room":{name}}}"#),
            format!(r#"{{"type":"history","ref":1,"room":{name}}}"#),
            format!(r#"{{"type":"presence","ref":1,"room":{name}}}"#),
            format!(r#"{{"type":"signal","ref":1,"room":{name},"name":"n"}}"#),
            format!(r#"{{"type":"signal","ref":1,"name":{name}}}"#),
        ] {
            ann.text(&frame);
            let error = ann.next();
            assert_eq!(
                (&error["ref"], &error["name"]),
                (&json!(1), &json!("invalid_name")),
                "{frame}: {error}"
            );
        }
        ann.text(&format!(r#"{{"type":"publish","ref":1,"id":{name},"data":1}}"#));
        assert_eq!(ann.next()["name"], "invalid_id", "{bad:?}");
        for field in ["user", "room"] {
            if field == "user" && bad.is_empty() {
                continue; // anonymous
            }
            let (mut ws, _) = Ws::open(host.addresses()[0], "/ws", &[], &[]).unwrap().unwrap();
            ws.text(&format!(r#"{{"type":"connect","ref":1,"{field}":{name}}}"#)).unwrap();
            let text = loop {
                let text = ws.next_text().unwrap();
                if !text.contains("\"welcome\"") {
                    break text;
                }
            };
            assert!(text.contains("invalid_name"), "{field} {bad:?}: {text}");
        }
        let code = |r: Result<klatch::Ack, klatch::Error>| r.unwrap_err().code();
        assert_eq!(code(host.publish(Message::json(bad, "1")).wait()), Code::InvalidName, "{bad:?}");
        if !bad.is_empty() {
            assert_eq!(
                code(host.publish(Message::json("a", "1").user(bad)).wait()),
                Code::InvalidName,
                "{bad:?}"
            );
            assert_eq!(
                code(host.publish(Message::json("a", "1").id(bad)).wait()),
                Code::InvalidId,
                "{bad:?}"
            );
            assert_eq!(host.signal("a", bad, "n", "1").unwrap_err().code(), Code::InvalidName);
        }
        assert_eq!(host.signal(bad, "", "n", "1").unwrap_err().code(), Code::InvalidName);
        assert_eq!(host.signal("a", "", bad, "1").unwrap_err().code(), Code::InvalidName);
        assert_eq!(host.subscribe(bad, Start::Live).unwrap_err().code(), Code::InvalidName);
        assert_eq!(host.history(bad, HistoryQuery::default()).unwrap_err().code(), Code::InvalidName);
        assert_eq!(host.presence(bad).count, 0);
    }
    assert!(ann.until_pong().is_empty());
    // Nothing was cut: neither in `a` nor elsewhere is there a message.
    assert_eq!(host.history("a", HistoryQuery::default()).unwrap().last, 0);
    // In data a zero byte is data, by all doors.
    ann.publish("1", r#""a\u0000b""#);
    assert!(ann.0.next_text().unwrap().contains(r#""a\u0000b""#));
    host.publish(Message::bytes("a", b"a\0b")).wait().unwrap();
    assert_eq!(ann.next()["bytes"], "YQBi");
}

/// Names that look the same were compared differently in different places (matrix-spec-proposals#350, mumble#2462, bitchat#214).
/// Here they are bytes, everywhere.
#[test]
fn x07_names_that_look_alike_are_different_everywhere() {
    let names = [
        "caf\u{e9}",
        "cafe\u{301}",
        "caf\u{435}",
        "cafe",
        "Cafe",
        "CAFE",
        " cafe",
        "cafe ",
        "ca\u{200b}fe",
        "\u{202e}cafe",
        "\u{feff}cafe",
        "\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}",
        "\u{1F468}\u{1F469}\u{1F467}",
        "\u{ff43}\u{ff41}\u{ff46}\u{ff45}",
        "stra\u{df}e",
        "strasse",
        "\u{130}",
        "i\u{307}",
        "\u{212a}",
        "K",
        "k",
        "\u{1F600}",
        "\u{10FFFF}",
    ];
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let host = engine(&log, json!({}));
    let address = host.addresses()[0];
    let mut members: Vec<Guest> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        // Every other by the query, the others by a frame.
        let mut guest = if n % 2 == 0 {
            connect(&host, &format!("user={0}&room={0}", percent(name)))
        } else {
            let mut guest = connect(&host, &format!("user={}", percent(name)));
            guest.send(&json!({"type": "join", "room": name}));
            guest
        };
        assert_eq!(guest.next_of("joined")["room"], *name);
        members.push(guest);
    }
    let mut subscriptions: Vec<_> =
        names.iter().map(|name| host.subscribe(name, Start::Live).unwrap()).collect();
    let mut publisher = connect(&host, "user=p");
    for (n, name) in names.iter().enumerate() {
        // The same id in each room: they are different messages, too.
        publisher.send(&json!({"type": "publish", "room": name, "id": "same", "data": n}));
        assert_eq!(publisher.next()["duplicate"], Value::Null, "{name:?}");
    }
    let check = |host: &Engine| {
        let address = host.addresses()[0];
        for (n, name) in names.iter().enumerate() {
            let page = host.history(name, HistoryQuery::default()).unwrap();
            assert_eq!(page.publications.len(), 1, "{name:?}");
            assert_eq!(
                (page.publications[0].room(), &page.publications[0].data()[..]),
                (*name, n.to_string().as_bytes())
            );
            let answer = get(address, &format!("/rooms/{}/history", percent(name))).unwrap();
            let page: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(page["publications"].as_array().unwrap().len(), 1);
            assert_eq!(
                (&page["publications"][0]["room"], &page["publications"][0]["data"]),
                (&json!(name), &json!(n))
            );
        }
    };
    check(&host);
    for (n, name) in names.iter().enumerate() {
        let got = members[n].next();
        assert_eq!((&got["room"], &got["data"]), (&json!(name), &json!(n)), "{got}");
        assert!(members[n].until_pong().is_empty());
        let batch = subscriptions[n].next_batch(10, SECONDS).unwrap();
        assert_eq!((batch.len(), batch[0].room()), (1, *name));
        let present = host.presence(name);
        assert_eq!(present.count, 1, "{name:?}");
        members[n].send(&json!({"type": "presence", "room": name}));
        assert_eq!(members[n].next()["users"], json!([{"user": name, "connections": 1}]));
        members[n].send(&json!({"type": "history", "room": name}));
        assert_eq!(members[n].next()["publications"].as_array().unwrap().len(), 1);
    }
    // By user: one may not find another's ids, nor be kicked for another.
    for (n, name) in names.iter().enumerate() {
        members[n].send(&json!({"type": "publish", "room": "shared", "id": "same", "data": n}));
        assert_eq!(members[n].next()["duplicate"], Value::Null, "{name:?}");
    }
    host.kick(&klatch::Whom::User(names[0].into()), None).unwrap();
    assert_eq!(members[0].closed(), Some(klatch::Disconnect::Kicked.number()));
    for member in &mut members[1..] {
        assert!(member.until_pong().is_empty());
    }
    // Nor does a path's dots make one name of another.
    let answer = get(address, "/rooms/x/../cafe/history").unwrap();
    assert!(answer.body.contains(r#""publications":[]"#), "{}", answer.body);
    host.stop(SECONDS).unwrap();
    drop(host);
    check(&engine(&log, json!({})));
}

/// Notes which room each hook sees.
#[derive(Default)]
struct Witness(Mutex<Vec<String>>);

impl Authorizer for Witness {
    fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
        answer.allow(&request.user);
    }

    fn join(&self, request: JoinRequest, answer: JoinAnswer) {
        self.0.lock().unwrap().push(format!("join {}", request.room));
        if request.room == "public" { answer.allow() } else { answer.deny("not yours") }
    }
}

impl PublishHook for Witness {
    fn publish(&self, request: PublishRequest, answer: PublishAnswer) {
        self.0.lock().unwrap().push(format!("publish {}", request.room));
        if request.room == "public" { answer.allow() } else { answer.deny("not yours") }
    }
}

/// Two parsers took different ones of two equal keys (serde-rs/json#762, gjson#393, matrix-spec#1246): a hook let pass what was
/// then done elsewhere.
#[test]
fn x08_a_key_given_twice_is_refused() {
    let witness = Arc::new(Witness::default());
    let settings: Settings = serde_json::from_value(json!({"limits": {"bad_requests": 10_000}})).unwrap();
    let engine = Engine::builder()
        .settings(settings)
        .log("memory")
        .listen("127.0.0.1:0")
        .authorizer(witness.clone())
        .publish_hook(witness.clone())
        .start()
        .unwrap();
    let mut ann = connect(&engine, "user=ann&room=public");
    ann.next_of("joined");
    witness.0.lock().unwrap().clear();
    // Each request in full, and then with each of its fields once more: the same, another value, null, or by another spelling.
    let requests = [
        json!({"type": "publish", "ref": 1, "room": "public", "id": "x", "data": 1}),
        json!({"type": "publish", "ref": 1, "room": "public", "id": "x", "bytes": "AA=="}),
        json!({"type": "join", "ref": 1, "room": "public", "history": 1, "since": 0, "epoch": "0123456789abcdef", "echo": true, "presence": true}),
        json!({"type": "leave", "ref": 1, "room": "public"}),
        json!({"type": "signal", "ref": 1, "room": "public", "name": "n", "data": 1}),
        json!({"type": "history", "ref": 1, "room": "public", "after": 0, "before": 9, "limit": 1, "backward": true, "at_least": 0}),
        json!({"type": "presence", "ref": 1, "room": "public"}),
        json!({"type": "ping", "ref": 1}),
        json!({"type": "connect", "ref": 1, "user": "ann", "token": "t", "room": "public"}),
    ];
    let mut tried = 0;
    for request in &requests {
        let text = request.to_string();
        let inside = text.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
        for (key, value) in request.as_object().unwrap() {
            let escaped = format!("\\u{:04x}{}", key.as_bytes()[0], &key[1..]);
            for again in [
                format!("{{\"{key}\":{value},{inside}}}"),
                format!("{{{inside},\"{key}\":{value}}}"),
                format!("{{{inside},\"{key}\":\"secret\"}}"),
                format!("{{\"{key}\":\"secret\",{inside}}}"),
                format!("{{{inside},\"{key}\":null}}"),
                format!("{{\"{key}\":null,{inside}}}"),
                format!("{{{inside},\"{escaped}\":\"secret\"}}"),
                format!("{{\"{escaped}\":\"secret\",{inside}}}"),
            ] {
                ann.text(&again);
                let error = ann.next();
                assert_eq!(
                    (&error["type"], &error["name"]),
                    (&json!("error"), &json!("bad_request")),
                    "{again}: {error}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried}");
    // Those that no request knows, and a known one that this request does not use.
    for frame in [
        r#"{"type":"ping","ref":1,"x":1,"x":2}"#,
        r#"{"type":"ping","ref":1,"x":1,"\u0078":2}"#,
        r#"{"type":"ping","ref":1,"room":"a","room":"b"}"#,
        r#"{"room":"public","room":"secret","text":"x"}"#,
        r#"{"type":"publish","room":"public","room":"secret","data":"x"}"#,
    ] {
        ann.text(frame);
        assert_eq!(ann.next()["name"], "bad_request", "{frame}");
    }
    // In the query too.
    for query in [
        "room=public&room=secret",
        "room=public&room=public",
        "user=a&user=b",
        "room=public&%72oom=secret",
        "token=a&token=",
    ] {
        let refused =
            Ws::open(engine.addresses()[0], &format!("/ws?{query}"), &[], &[]).unwrap().unwrap_err();
        assert_eq!(refused.status, 400, "{query}");
    }
    // And in headers, where a proxy may have added what it has made sure of.
    let request = |headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Ws::open(engine.addresses()[0], "/ws", &headers, &[]).unwrap()
    };
    for name in ["x-klatch-room", "x-klatch-user", "authorization"] {
        for (first, second) in
            [("Bearer a", "Bearer b"), ("Bearer a", "Bearer a"), ("Bearer a", ""), ("", "Bearer a")]
        {
            let refused = request(&[(name, first), (&name.to_uppercase(), second)]).unwrap_err();
            assert_eq!(refused.status, 400, "{name}: {first}, {second}");
        }
    }
    let (ws, _) = request(&[("x-klatch-user", "ann"), ("x-klatch-room", "public")]).unwrap();
    Guest(ws).next_of("joined");
    assert!(
        witness.0.lock().unwrap().drain(..).eq(["join public".to_owned()]),
        "only that one was asked about"
    );
    assert!(witness.0.lock().unwrap().is_empty(), "no hook was asked: {:?}", witness.0.lock().unwrap());
    // A hook's room is the room; what is nested in the data is the application's and passes as it is.
    let data = r#"{"room":"secret","a":1,"a":2,"data":{"id":1,"id":2}}"#;
    ann.text(&format!(r#"{{"type":"publish","room":"public","id":"d","data":{data}}}"#));
    assert!(ann.0.next_text().unwrap().contains(data));
    ann.send(&json!({"type": "publish", "ref": 2, "room": "secret", "data": 1}));
    assert_eq!(ann.next()["name"], "denied");
    assert_eq!(*witness.0.lock().unwrap(), ["publish public", "publish secret"]);
    assert_eq!(engine.history("secret", HistoryQuery::default()).unwrap().last, 0);
}

/// Lets in whoever has the token, as that user.
struct Token;

impl Authorizer for Token {
    fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
        if request.token == "t" { answer.allow("ann") } else { answer.deny("no token") }
    }
}

/// The name of a header's scheme has no case (RFC 9110, 11.1): its token was passed over, without a word.
#[test]
fn a_bearer_token_is_found_however_it_is_written() {
    let engine =
        Engine::builder().log("memory").listen("127.0.0.1:0").authorizer(Arc::new(Token)).start().unwrap();
    for (value, user) in [
        ("Bearer t", Some("ann")),
        ("bearer t", Some("ann")),
        ("BEARER  t ", Some("ann")),
        ("Basic t", None),
        ("Bearert", None),
    ] {
        let headers = [("Authorization".to_owned(), value.to_owned())];
        let (mut ws, _) = Ws::open(engine.addresses()[0], "/ws", &headers, &[]).unwrap().unwrap();
        ws.text(r#"{"type":"ping"}"#).unwrap();
        let text = ws.next_text().unwrap();
        match user {
            Some(user) => assert!(text.contains(&format!("\"user\":\"{user}\"")), "{value}: {text}"),
            None => assert!(text.contains("\"unauthorized\""), "{value}: {text}"),
        }
    }
}

/// The same for a page of history by HTTP.
#[test]
fn x08_a_key_given_twice_for_history_is_refused() {
    let engine = Engine::builder().log("memory").listen("127.0.0.1:0").start().unwrap();
    for n in 1..=3 {
        engine.publish(Message::json("lobby", &n.to_string())).wait().unwrap();
    }
    let status =
        |query: &str| get(engine.addresses()[0], &format!("/rooms/lobby/history?{query}")).unwrap().status;
    for key in ["after", "before", "limit", "at_least"] {
        for query in [
            format!("{key}=1&{key}=2"),
            format!("{key}=1&{key}=1"),
            format!("{key}=1&x=y&{key}=1"),
            format!("{key}=+1"),
            format!("{key}=-1"),
            format!("{key}="),
            key.to_owned(),
            format!("{key}=1.0"),
            format!("{key}=18446744073709551616"),
        ] {
            assert_eq!(status(&query), 400, "{query}");
        }
        assert_eq!(status(&format!("{key}=1&x=1&x=2")), 200, "{key}");
    }
    assert_eq!(status("backward=true&backward=false"), 400);
    assert_eq!(status("backward=1"), 400);
}

/// A channel's name became a path (rocketmq#1637, nats-streaming-server#403, mediamtx#5602).
#[test]
fn x09_names_are_no_paths() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a/b/log");
    let names = [
        "../../etc/x",
        "a/b",
        "/",
        "/etc/passwd",
        "C:\\x",
        "CON",
        "nul.txt",
        ".",
        "..",
        "../lock",
        "lock",
        "view",
        "~",
        "-rf",
        "*",
        "$(x)",
        "%2e%2e%2f",
        "a:b",
        "a|b",
        "00000000000000000001.log",
    ];
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    let host = engine(&log, json!({"bad_requests": 100}));
    host.publish(Message::json("plain", "0")).wait().unwrap();
    let shape = |path: &Path| {
        // A number is a number.
        let name = path.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned();
        name.replace(|c: char| c.is_ascii_digit(), "0")
    };
    let list =
        || files::all_files(dir.path()).iter().map(|p| shape(p)).collect::<std::collections::BTreeSet<_>>();
    let before = list();
    for name in names {
        let mut guest = connect(&host, &format!("user={0}&room={0}", percent(name)));
        assert_eq!(guest.next_of("joined")["room"], name);
        guest.send(&json!({"type": "publish", "id": "x", "data": name}));
        assert_eq!(guest.next()["data"], name);
        let answer = get(host.addresses()[0], &format!("/rooms/{}/history", percent(name))).unwrap();
        let page: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(page["publications"].as_array().unwrap().len(), 1, "{name}");
        assert_eq!(page["publications"][0]["data"], name);
    }
    // 4 KiB of `a`, and the name that is just too long.
    for long in ["a".repeat(4096), "a".repeat(129), "\u{e9}".repeat(65)] {
        let refused = Ws::open(host.addresses()[0], &format!("/ws?room={}", percent(&long)), &[], &[]);
        assert_eq!(refused.unwrap().unwrap_err().status, 400);
        let refused = get(host.addresses()[0], &format!("/rooms/{}/history", percent(&long))).unwrap();
        assert_eq!(refused.status, 400);
        assert_eq!(host.publish(Message::json(&long, "1")).wait().unwrap_err().code(), Code::InvalidName);
        let mut guest = connect(&host, "user=a");
        guest.send(&json!({"type": "join", "room": long}));
        assert_eq!(guest.next()["name"], "invalid_name");
    }
    let longest = "a".repeat(128);
    host.publish(Message::json(&longest, "1")).wait().unwrap();
    host.stop(SECONDS).unwrap();
    drop(host);
    let beyond: Vec<String> = list().difference(&before).cloned().collect();
    assert!(beyond.iter().all(|file| file.starts_with("a/b/log/view/")), "new kinds of files: {beyond:?}");
    let host = engine(&log, json!({}));
    for name in names.iter().copied().chain([&*longest]) {
        assert_eq!(host.history(name, HistoryQuery::default()).unwrap().publications.len(), 1, "{name}");
    }
}
