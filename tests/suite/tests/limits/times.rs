//! How long anything may take.

use crate::hold::Hold;
use crate::{Client, Stage, builder, publish};
use klatch::clock::ManualClock;
use klatch::config::Limit;
use klatch_suite::ws::Got;
use serde_json::json;
use std::sync::Arc;

/// How late the wheel may be that looks at connections.
const TICK: u64 = 64;

#[test]
fn limit_publish_timeout_ms() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(3_600_000));
    let builder = builder(json!({"publish_timeout_ms": 1000})).log(dir.path().to_str().unwrap());
    let mut stage = Stage { clock: clock.clone(), ..Stage::on(dir, builder.clock(clock)) };
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    let hold = Hold::log(&stage.engine);
    ann.send(publish(1, json!(1)));
    ann.fence();
    // At it: that it still waits then is shown beside the broker, where nothing else looks at the clock.
    stage.pass(1000);
    stage.counted(&[]);
    stage.pass(1);
    let refused = ann.next();
    assert_eq!((&refused["name"], &refused["outcome"]), (&json!("timeout"), &json!("not_stored")));
    stage.counted(&[(Limit::PublishTimeoutMs, 1)]);
    drop(hold);
    ann.send(publish(1, json!(1)));
    let stored = ann.next();
    assert_eq!((&stored["type"], &stored["duplicate"]), (&json!("publication"), &json!(null)));
    stage.others_are_served();
    stage.counted(&[(Limit::PublishTimeoutMs, 1)]);
}

#[test]
fn limit_heartbeat_ms() {
    let mut stage = Stage::timed(json!({"heartbeat_ms": 5000}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    stage.pass(4_999);
    stage.counted(&[]);
    stage.pass(TICK);
    // The answer goes out as it is read.
    assert_eq!(ann.0.read().unwrap(), Got::Ping(Vec::new()));
    stage.counted(&[(Limit::HeartbeatMs, 1)]);
    ann.fence();
    // Bob has not been silent; she was from the fence on.
    stage.pass(4_999);
    stage.counted(&[(Limit::HeartbeatMs, 1)]);
    stage.others_are_served();
}

#[test]
fn limit_heartbeat_timeout_ms() {
    let mut stage = Stage::timed(json!({"heartbeat_ms": 5000, "heartbeat_timeout_ms": 2000}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    ann.0.answers_pings = false;
    stage.pass(5000 + TICK);
    assert_eq!(ann.0.read().unwrap(), Got::Ping(Vec::new()));
    stage.pass(1_999);
    stage.counted(&[(Limit::HeartbeatMs, 1)]);
    stage.pass(TICK);
    assert_eq!(ann.closed(), Some(4002));
    stage.others_are_served();
    stage.counted(&[(Limit::HeartbeatMs, 1), (Limit::HeartbeatTimeoutMs, 1)]);
}
