//! What one connection may ask for.

use crate::hold::Hold;
use crate::{Client, Stage, publish};
use klatch::config::Limit;
use serde_json::json;

#[test]
fn limit_rooms_per_connection() {
    let mut stage = Stage::new(json!({"rooms_per_connection": 2}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=a");
    ann.send(json!({"type": "join", "room": "b"}));
    assert_eq!(ann.next()["type"], "joined");
    stage.counted(&[]);
    ann.send(json!({"type": "join", "room": "c"}));
    assert_eq!(ann.refused(), "too_many_rooms");
    stage.counted(&[(Limit::RoomsPerConnection, 1)]);
    ann.send(json!({"type": "leave", "room": "a"}));
    ann.send(json!({"type": "join", "room": "c"}));
    assert_eq!([ann.next(), ann.next()].map(|f| f["type"].clone()), ["left", "joined"]);
    stage.others_are_served();
    stage.counted(&[(Limit::RoomsPerConnection, 1)]);
}

#[test]
fn limit_bad_requests() {
    let mut stage = Stage::new(json!({"bad_requests": 2}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    for _ in 0..2 {
        ann.send(json!({"type": "what"}));
        assert_eq!(ann.refused(), "unknown_command");
    }
    ann.fence();
    stage.counted(&[]);
    ann.send(json!(1));
    assert_eq!(ann.refused(), "bad_request");
    assert_eq!(ann.next()["type"], "disconnect");
    assert_eq!(ann.closed(), Some(4502));
    stage.others_are_served();
    stage.counted(&[(Limit::BadRequests, 1)]);
}

#[test]
fn limit_pending_publishes() {
    let mut stage = Stage::disk(json!({"pending_publishes": 3}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let hold = Hold::log(&stage.engine);
    ann.send(publish(1, json!(1)));
    ann.send(publish(2, json!(2)));
    // Below it she is read.
    ann.fence();
    stage.counted(&[]);
    ann.send(publish(3, json!(3)));
    ann.send(json!({"type": "ping", "ref": 4}));
    ann.send(publish(5, json!(5)));
    stage.reaches(Limit::PendingPublishes, 1);
    // Others are read meanwhile.
    stage.bob.fence();
    drop(hold);
    let answers: Vec<_> = (0..4).map(|_| ann.next()).collect();
    assert!(answers[..3].iter().all(|f| f["type"] == "publication"), "the ping had to wait: {answers:?}");
    assert_eq!(answers[3]["ref"], 4);
    assert_eq!(ann.next()["id"], "5");
    stage.others_are_served();
    stage.counted(&[(Limit::PendingPublishes, 1)]);
}

#[test]
fn limit_publish_rate() {
    let mut stage = Stage::timed(json!({"publish_rate": 10, "publish_burst": 1}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    for turn in 0..3 {
        ann.send(publish(turn, json!(1)));
        assert_eq!(ann.next()["type"], "publication");
        stage.pass(99);
        ann.send(publish(turn, json!(1)));
        let refused = ann.next();
        assert_eq!((&refused["name"], &refused["retry_after_ms"]), (&json!("rate_limited"), &json!(1)));
        stage.pass(1);
    }
    stage.others_are_served();
    stage.counted(&[(Limit::PublishRate, 3), (Limit::PublishBurst, 3)]);
    assert_eq!(stage.engine.metrics().rate_limited.get(), 3);
}

#[test]
fn limit_publish_burst() {
    let mut stage = Stage::timed(json!({"publish_rate": 10, "publish_burst": 5}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    for turn in 1..=2 {
        for n in 0..5 {
            ann.send(publish(10 * turn + n, json!(1)));
            assert_eq!(ann.next()["type"], "publication");
        }
        stage.counted(&[(Limit::PublishBurst, turn - 1), (Limit::PublishRate, 3 * (turn - 1))]);
        for n in 5..8 {
            ann.send(publish(10 * turn + n, json!(1)));
            assert_eq!(ann.refused(), "rate_limited");
        }
        stage.counted(&[(Limit::PublishBurst, turn), (Limit::PublishRate, 3 * turn)]);
        // Full again, and no fuller.
        stage.pass(10_000);
    }
    stage.others_are_served();
}

#[test]
fn limit_request_rate() {
    let mut stage = Stage::timed(json!({"request_rate": 4}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let mut presence = || {
        ann.send(json!({"type": "presence"}));
        ann.next()["type"].clone()
    };
    for _ in 0..4 {
        assert_eq!(presence(), "presence");
    }
    stage.counted(&[]);
    assert_eq!(presence(), "error");
    stage.pass(249);
    assert_eq!(presence(), "error");
    stage.pass(1);
    assert_eq!(presence(), "presence");
    stage.others_are_served();
    stage.counted(&[(Limit::RequestRate, 2)]);
}
