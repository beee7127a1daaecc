//! What may wait.

use crate::hold::Hold;
use crate::{Client, SOON, Stage, publish};
use klatch::config::Limit;
use klatch::{Code, Disconnect, Engine, Event, Message, NextEvent};
use serde_json::json;

#[test]
fn limit_outbound_bytes() {
    let limit = 200_000;
    let mut stage = Stage::new(json!({"outbound_bytes": limit}));
    // Of small numbers, so that all frames are of one size.
    let data = format!("\"{}\"", "a".repeat(20_000));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let (mut waits, mut frame, mut published) = (0, 0, 0);
    // She reads nothing. What her socket has not taken waits here, up to the limit.
    while stage.hits(Limit::OutboundBytes) == 0 {
        assert!(waits <= limit, "{waits} bytes wait and she is not closed");
        stage.engine.publish(Message::json("lobby", &data)).wait().unwrap();
        published += 1;
        stage.bob.fence();
        let before = std::mem::replace(&mut waits, stage.engine.metrics().backlog_bytes.get());
        if before > 0 && waits > before {
            frame = waits - before;
        }
        if stage.hits(Limit::OutboundBytes) == 1 {
            assert!(before + frame + 10 > limit, "closed at {before} bytes with a frame of {frame}");
        }
    }
    // What she has taken is whole, and she is told.
    let mut offset = 0;
    loop {
        let next = ann.next();
        if next["type"] == "disconnect" {
            assert_eq!(next["name"], "slow");
            break;
        }
        assert_eq!(next["prev"], offset);
        offset = next["offset"].as_u64().unwrap();
    }
    assert!(offset < published);
    assert_eq!(ann.closed(), Some(4001));
    // She resumes without a gap.
    let query = format!("user=ann&room=lobby&since={offset}");
    let mut ann = Client::connect(&stage.engine, &query);
    assert_eq!(ann.next_of("joined")["recovered"], true);
    while offset < published {
        let next = ann.next();
        assert_eq!(next["prev"], offset);
        offset = next["offset"].as_u64().unwrap();
    }
    stage.others_are_served();
    assert_eq!(stage.hits(Limit::OutboundBytes), 1);
    assert_eq!(stage.engine.metrics().disconnects_slow.get(), 1);
    while stage.engine.metrics().backlog_bytes.get() > 0 {
        std::thread::yield_now();
    }
}

/// The most that lies in the kernel for one of an engine's connections, sent and not acknowledged included.
fn unsent(engine: &Engine) -> usize {
    let port = format!(":{:04X}", engine.addresses()[0].port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let queue = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let queued = fields[4].split_once(':').unwrap().0;
        fields[1].ends_with(&port).then(|| usize::from_str_radix(queued, 16).unwrap())
    };
    table.lines().skip(1).filter_map(queue).max().unwrap()
}

/// Two hundred members who asked for history and read none of it had megabytes each in the kernel, and for as long as it took to copy
/// that the others waited.
#[test]
fn limit_unsent_bytes() {
    let data = format!("\"{}\"", "a".repeat(20_000));
    // What lies there when something begins to wait here, for a member that reads nothing.
    let queued = |limit: usize| {
        let mut stage = Stage::new(json!({"unsent_bytes": limit}));
        let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
        let mut published = 0;
        while stage.hits(Limit::UnsentBytes) == 0 {
            assert_eq!(stage.engine.metrics().backlog_bytes.get(), 0);
            stage.engine.publish(Message::json("lobby", &data)).wait().unwrap();
            stage.bob.fence();
            published += 1;
        }
        assert!(stage.engine.metrics().backlog_bytes.get() > 0);
        let queued = unsent(&stage.engine);
        for offset in 1..=published {
            assert_eq!(ann.next()["offset"], offset);
        }
        // It is counted once each time.
        stage.bob.fence();
        assert_eq!((stage.hits(Limit::UnsentBytes), stage.engine.metrics().backlog_bytes.get()), (1, 0));
        stage.others_are_served();
        queued
    };
    // One segment of the kernel's may be begun below it, and one sent and not acknowledged.
    let segments = 2 * (64 << 10);
    for limit in [16 << 10, 128 << 10] {
        let queued = queued(limit);
        assert!((limit..=limit + segments).contains(&queued), "{queued} lie there, and {limit} may");
    }
    assert!(queued(0) > 1 << 20, "the kernel's own measure was thought to be larger");
}

#[test]
fn limit_slow_ms() {
    let long = 10_000_000;
    let mut stage = Stage::timed(json!({"slow_ms": 5000, "heartbeat_ms": long, "outbound_bytes": 1 << 30}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let events = stage.engine.events();
    let data = format!("\"{}\"", "a".repeat(60_000));
    while stage.engine.metrics().backlog_bytes.get() < 100_000 {
        stage.engine.publish(Message::json("lobby", &data)).wait().unwrap();
        stage.bob.fence();
    }
    stage.pass(4_999);
    stage.counted(&[]);
    stage.pass(65);
    stage.counted(&[(Limit::SlowMs, 1)]);
    let next = events.next_within(SOON);
    let NextEvent::Event(Event::Left { .. }) = next else { panic!("{next:?}: she is in the room") };
    let next = events.next_within(SOON);
    let NextEvent::Event(Event::Disconnected { why, .. }) = next else { panic!("{next:?}: she is there") };
    assert_eq!(why, Some(Disconnect::Slow));
    // Her socket takes nothing, so that nothing is said.
    assert_eq!(ann.0.next_within(SOON).map(|_| ()).map_err(|e| e.kind()), Ok(()));
    loop {
        match ann.0.read() {
            Ok(klatch_suite::ws::Got::Text(_)) => {}
            Ok(klatch_suite::ws::Got::End) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stage.engine.metrics().backlog_bytes.get(), 0);
    stage.others_are_served();
    stage.counted(&[(Limit::SlowMs, 1)]);
}

#[test]
fn limit_append_queue() {
    let mut stage = Stage::disk(json!({"append_queue": 3}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let hold = Hold::log(&stage.engine);
    for n in 1..=3 {
        ann.send(publish(n, json!(n)));
    }
    ann.fence();
    stage.counted(&[]);
    assert_eq!(stage.engine.metrics().append_queue.get(), 3, "what waits is shown while it waits");
    ann.send(publish(4, json!(4)));
    let refused = ann.next();
    assert_eq!((&refused["name"], &refused["outcome"]), (&json!("busy"), &json!("not_stored")));
    let refused = stage.engine.publish(Message::json("lobby", "1")).wait().unwrap_err();
    assert_eq!((refused.code(), refused.limit()), (Code::Busy, Some(Limit::AppendQueue)));
    stage.counted(&[(Limit::AppendQueue, 2)]);
    drop(hold);
    for n in 1..=3 {
        assert_eq!(ann.next()["data"], n);
    }
    stage.others_are_served();
    // Of a hand-over that does not fit as a whole the first are taken.
    let batch = |n| stage.engine.publish_batch(vec![Message::json("lobby", "1"); n]);
    assert!(batch(3).into_iter().all(|p| p.wait().is_ok()));
    let hold = Hold::log(&stage.engine);
    let handed_over = batch(5);
    drop(hold);
    let codes: Vec<_> = handed_over.into_iter().map(|p| p.wait().err().map(|e| e.code())).collect();
    assert_eq!(codes, [None, None, None, Some(Code::Busy), Some(Code::Busy)]);
    stage.counted(&[(Limit::AppendQueue, 4)]);
}

#[test]
fn limit_append_queue_bytes() {
    // 128 each, an id of one byte, and data of one byte.
    let mut stage = Stage::disk(json!({"append_queue_bytes": 3 * 130}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let hold = Hold::log(&stage.engine);
    for n in 1..=3 {
        ann.send(publish(n, json!(n)));
    }
    ann.fence();
    stage.counted(&[]);
    ann.send(publish(4, json!(4)));
    assert_eq!(ann.refused(), "busy");
    stage.counted(&[(Limit::AppendQueueBytes, 1)]);
    drop(hold);
    for n in 1..=3 {
        assert_eq!(ann.next()["data"], n);
    }
    stage.others_are_served();
    stage.counted(&[(Limit::AppendQueueBytes, 1)]);
}

#[test]
fn limit_shard_inbox_bytes() {
    let mut stage = Stage::new(json!({"shard_inbox_bytes": 0}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let hold = Hold::prepare(&stage.engine);
    // With a log in memory whoever publishes delivers: her shard.
    ann.send(json!({"type": "publish", "room": "hold", "id": "1", "data": 1}));
    hold.entered();
    let signal = || stage.engine.signal("lobby", "", "n", "1");
    // At it, for nothing waits yet.
    signal().unwrap();
    stage.counted(&[]);
    let refused = signal().unwrap_err();
    assert_eq!((refused.code(), refused.limit()), (Code::Busy, Some(Limit::ShardInboxBytes)));
    stage.counted(&[(Limit::ShardInboxBytes, 1)]);
    drop(hold);
    let mut kinds = [ann.next(), ann.next()].map(|f| f["type"].as_str().unwrap().to_owned());
    kinds.sort();
    assert_eq!(kinds, ["ack", "signal"]);
    stage.bob.fence();
    signal().unwrap();
    assert_eq!(ann.next()["type"], "signal");
    stage.others_are_served();
    stage.counted(&[(Limit::ShardInboxBytes, 1)]);
}
