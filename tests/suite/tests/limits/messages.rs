//! What a frame may hold.

use crate::{Client, Stage, publish};
use klatch::config::Limit;
use klatch::{Code, Message};
use klatch_suite::ws::Out;
use serde_json::{Value, json};

/// A ping of exactly so many bytes.
fn ping(bytes: usize) -> String {
    let start = r#"{"type":"ping","x":""#;
    format!("{start}{}\"}}", "a".repeat(bytes - start.len() - 2))
}

#[test]
fn limit_message_bytes() {
    let mut stage = Stage::new(json!({"message_bytes": 1000}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    ann.0.text(&ping(1000)).unwrap();
    assert_eq!(ann.next()["type"], "pong");
    stage.counted(&[]);
    ann.0.text(&ping(1001)).unwrap();
    assert_eq!(ann.closed(), Some(1009));
    stage.counted(&[(Limit::MessageBytes, 1)]);
    // In fragments.
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    for (bytes, fits) in [(1000, true), (1001, false)] {
        let text = ping(bytes);
        for (opcode, fin, part) in [(1, false, &text[..500]), (0, true, &text[500..])] {
            let out = Out { opcode, fin, rsv: 0, masked: true, payload: part.as_bytes() };
            ann.0.write(&out.bytes()).unwrap();
        }
        if fits {
            assert_eq!(ann.next()["type"], "pong");
        }
    }
    assert_eq!(ann.closed(), Some(1009));
    // The host.
    let json = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2));
    stage.engine.publish(Message::json("lobby", &json(1000))).wait().unwrap();
    stage.engine.signal("lobby", "", "n", &json(1000)).unwrap();
    stage.counted(&[(Limit::MessageBytes, 2)]);
    let refused = stage.engine.publish(Message::json("lobby", &json(1001))).wait().unwrap_err();
    assert_eq!((refused.code(), refused.limit()), (Code::TooLarge, Some(Limit::MessageBytes)));
    let refused = stage.engine.publish_batch(vec![Message::bytes("lobby", &[0; 1001])]);
    assert_eq!(refused.into_iter().next().unwrap().wait().unwrap_err().code(), Code::TooLarge);
    assert_eq!(stage.engine.signal("lobby", "", "n", &json(1001)).unwrap_err().code(), Code::TooLarge);
    stage.others_are_served();
    stage.counted(&[(Limit::MessageBytes, 5)]);
}

#[test]
fn limit_fragments() {
    let mut stage = Stage::new(json!({"fragments": 3}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let mut send = |count: usize, last: bool| {
        for i in 0..count {
            let payload: &[u8] = if i == 0 { br#"{"type":"ping"}"# } else { b"" };
            let (opcode, fin) = (u8::from(i == 0), last && i + 1 == count);
            ann.0.write(&Out { opcode, fin, rsv: 0, masked: true, payload }.bytes()).unwrap();
        }
    };
    send(3, true);
    send(4, false);
    assert_eq!(ann.next()["type"], "pong");
    assert_eq!(ann.closed(), Some(1008));
    stage.others_are_served();
    stage.counted(&[(Limit::Fragments, 1)]);
}

#[test]
fn limit_json_depth() {
    let mut stage = Stage::new(json!({"json_depth": 3}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    ann.send(publish(1, json!([[[1]]])));
    assert_eq!(ann.next()["data"], json!([[[1]]]));
    stage.counted(&[]);
    ann.send(publish(2, json!([[[[1]]]])));
    assert_eq!(ann.refused(), "too_deep");
    ann.send(json!({"type": "ping", "x": [[[[1]]]]}));
    assert_eq!(ann.refused(), "too_deep");
    stage.counted(&[(Limit::JsonDepth, 2)]);
    stage.engine.publish(Message::json("lobby", "[[[1]]]")).wait().unwrap();
    let refused = stage.engine.publish(Message::json("lobby", "[[[[1]]]]")).wait().unwrap_err();
    assert_eq!(refused.code(), Code::TooDeep);
    stage.others_are_served();
    stage.counted(&[(Limit::JsonDepth, 3)]);
}

#[test]
fn limit_name_bytes() {
    let mut stage = Stage::new(json!({"name_bytes": 8}));
    let mut ann = Client::joined(&stage.engine, "user=12345678&room=12345678");
    let refused = |client: &mut Client, frame: Value| {
        client.send(frame);
        client.refused()
    };
    // An empty name is refused too, but by no limit.
    assert_eq!(refused(&mut ann, json!({"type": "join", "room": ""})), "invalid_name");
    stage.counted(&[]);
    assert_eq!(refused(&mut ann, json!({"type": "join", "room": "123456789"})), "invalid_name");
    assert_eq!(refused(&mut ann, json!({"type": "signal", "name": "123456789"})), "invalid_name");
    ann.send(json!({"type": "signal", "name": "12345678", "ref": 1}));
    assert_eq!(ann.next()["type"], "done");
    stage.counted(&[(Limit::NameBytes, 2)]);
    let address = stage.engine.addresses()[0];
    assert_eq!(Client::open(address, "user=123456789").err(), Some(400));
    assert_eq!(klatch_suite::ws::get(address, "/rooms/123456789/history").unwrap().status, 400);
    assert_eq!(klatch_suite::ws::get(address, "/rooms/12345678/history").unwrap().status, 200);
    let code = stage.engine.publish(Message::json("123456789", "1")).wait().unwrap_err().code();
    assert_eq!(code, Code::InvalidName);
    stage.others_are_served();
    stage.counted(&[(Limit::NameBytes, 5)]);
}
