//! One address that makes connections without end, and connections that never come to anything.

use crate::{crowd, metric, turn_until, vitals};
use klatch::{Engine, HistoryQuery, Message};
use klatch_suite::Launch;
use klatch_suite::crowd::{Crowd, Plan};
use klatch_suite::helper::Helper;
use klatch_suite::server::stop;
use klatch_suite::storm::{Kind, Report, Storm};
use klatch_suite::ws::{Ws, get};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

fn storm(address: SocketAddr, plan: &Storm) -> Helper {
    let helper = Helper::storm(&mut crowd(), address, plan);
    helper.wait_for("raging");
    helper
}

fn over(helper: &Helper) -> Report {
    serde_json::from_str(&helper.wait_for("over")).unwrap()
}

/// Elsewhere one client in a loop used up all sockets, and the host's own publishes were refused with the rest
/// (laravel/reverb#269).
fn others_are_served(kind: Kind) {
    let data = tempfile::tempdir().unwrap();
    let engine = Engine::builder().log(data.path().to_str().unwrap()).listen("127.0.0.1:0").start().unwrap();
    let address = engine.addresses()[0];
    let plan = Storm {
        kind,
        from: "127.0.0.2".parse().unwrap(),
        addresses: 1,
        per_second: 5_000,
        total: 25_000,
        hold: 5_000,
        stay: false,
    };
    let helper = storm(address, &plan);
    let (done, ended) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let report = over(&helper);
        // If nobody waits, the test has failed already.
        let _ = done.send(());
        report
    });
    let (mut rounds, mut most) = (0, 0);
    while ended.try_recv().is_err() {
        let text = format!("{{\"n\":{rounds}}}");
        let ack = engine.publish(Message::json("room", &text)).wait().unwrap();
        assert_eq!(get(address, "/healthz").unwrap().status, 200);
        let mut ws = Ws::open(address, "/ws?room=room&user=ann&history=1", &[], &[]).unwrap().unwrap().0;
        // Its shard may hand it out only after the join: then the one before it comes first.
        loop {
            let frame: Value = serde_json::from_str(&ws.next_text().unwrap()).unwrap();
            if frame["type"] == "publication" && frame["offset"] == ack.position.offset {
                break;
            }
        }
        ws.finish(1000);
        most = engine.metrics().connections.get().max(most);
        rounds += 1;
    }
    let report = waiting.join().unwrap();
    println!("{rounds} rounds beside {kind:?}, {most} connections at most: {report:?}");
    assert!(rounds > 2 && report.failed == 0, "{rounds} rounds, {report:?}");
    // The address's 200, and ours: one that is open, and those whose end the server has yet to see.
    assert!(most <= 200 + 5, "{most}");
    assert_eq!(engine.history("room", HistoryQuery::default()).unwrap().publications.len(), rounds.min(50));
    // Afterwards that address may come back like any other.
    let plan = Storm { total: 150, hold: 150, stay: true, kind: Kind::Named, ..plan };
    let calm = storm(address, &plan);
    let until = std::time::Instant::now() + crate::PATIENCE;
    while engine.metrics().connections.get() != 150 {
        assert!(std::time::Instant::now() < until, "{}", engine.metrics().connections.get());
        std::thread::yield_now();
    }
    drop(calm);
    engine.stop(Duration::from_secs(10)).unwrap();
}

#[test]
fn x26_an_address_that_upgrades_five_thousand_times_a_second() {
    others_are_served(Kind::Named);
}

#[test]
fn x26_an_address_that_connects_five_thousand_times_a_second_and_says_nothing() {
    others_are_served(Kind::Silent);
}

/// Half-open connections by the hundred: silent, one byte at a time, and upgraded without a first frame. (R05 by the row is in
/// `cases`.)
#[test]
fn r05_half_open_connections_by_the_hundred_end_and_nothing_is_left() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .set("limits.handshake_timeout_ms", 4_000)
        .arg("--log-level")
        .arg("warn")
        .start();
    let mut members = Crowd::new(&server.url(), &Plan::new("room", "member", 10));
    members.join();
    members.pour(0, 100, 256, 8, |_| {});
    let before = vitals(&server);
    let half_open = |kind| {
        let plan = Storm {
            kind,
            from: "127.0.1.1".parse().unwrap(),
            addresses: 3,
            per_second: 2_000,
            total: 500,
            hold: 500,
            stay: true,
        };
        storm(server.address(), &plan)
    };
    let silent = half_open(Kind::Silent);
    turn_until(&mut members, "the silent ones", || vitals(&server).files >= before.files + 500);
    let beside = vitals(&server);
    // Who has said nothing gets no buffer.
    assert!(beside.resident <= before.resident + 500 * 4096, "{before:?} {beside:?}");
    let storms = [silent, half_open(Kind::Trickle), half_open(Kind::Upgrade)];
    turn_until(&mut members, "the half-open ones", || vitals(&server).files >= before.files + 1_000);
    // Meanwhile others come and are served.
    let mut newcomers = Crowd::new(&server.url(), &Plan::new("room", "newcomer", 10));
    newcomers.join();
    let last = members.pour(0, 100, 256, 8, |_| {});
    members.reach(last);
    newcomers.reach(last);
    turn_until(&mut members, "the half-open ones to be closed", || {
        vitals(&server).files <= before.files + 10 && metric(&server, "klatch_connections") == 20
    });
    let after = vitals(&server);
    println!("{before:?} before, {after:?} afterwards");
    assert!(after.threads <= before.threads && after.resident <= before.resident + (16 << 20));
    assert!(members.closes().is_empty() && newcomers.closes().is_empty());
    drop(storms);
    stop(server);
}
