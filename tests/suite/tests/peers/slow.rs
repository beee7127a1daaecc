//! Members that do not take what is sent to them.

use crate::{ROOM, check, crowd, metric, turn_until, vitals};
use klatch_harness::checker::Expect;
use klatch_suite::Launch;
use klatch_suite::crowd::{Crowd, Plan};
use klatch_suite::helper::Helper;
use klatch_suite::history::get;
use klatch_suite::server::stop;
use std::collections::BTreeMap;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Memory that the allocator may keep of what was used once: the pages of history of those who come back, for the most part.
const SLACK: u64 = 32 * MIB;

/// Caches that fill in the first second, so that what memory is used afterwards is the peers' doing.
fn launch(data: &std::path::Path) -> Launch {
    Launch::new(data)
        .set("limits.recent_bytes", MIB)
        .set("limits.ids_bytes", MIB)
        .set("view.cache_bytes", MIB)
        .arg("--log-level")
        .arg("warn")
}

/// Elsewhere the closing of a slow socket broke the loop that had found it slow (uWebSockets#1038), messages were dropped without
/// a word (uWebSockets.js#499), or the buffer had no bound (tokio-tungstenite#286).
#[test]
fn r11_fifty_of_five_hundred_stop_reading() {
    const SLOW: u64 = 50;
    const ROUNDS: [u64; 2] = [10_000, 6_000];
    let data = tempfile::tempdir().unwrap();
    // So that the slow ones live to read why they were closed, whatever the machine.
    let server = launch(data.path()).set("limits.slow_ms", 600_000).start();
    let mut others = Crowd::new(&server.url(), &Plan::new(ROOM, "member", 450));
    let plan = Plan { receive_buffer: Some(4096), ..Plan::new(ROOM, "slow", SLOW as usize) };
    let mut slow = Crowd::new(&server.url(), &plan);
    others.join();
    slow.join();
    let last = others.pour(0, 1000, 1024, 64, |_| slow.turn(Duration::ZERO));
    others.reach(last);
    slow.reach(last);
    let before = vitals(&server);

    let mut level = before.resident + SLACK;
    for (round, messages) in (1..).zip(ROUNDS) {
        (0..SLOW as usize).for_each(|n| slow.pause(n));
        let (mut asked, mut backlog, mut resident) = (others.answered(), 0, 0);
        let last = others.pour(0, messages, 1024, 64, |c| {
            if c.answered() > asked + 250 {
                asked = c.answered();
                backlog = metric(&server, "klatch_backlog_bytes").max(backlog);
                resident = vitals(&server).resident.max(resident);
            }
        });
        others.reach(last);
        println!("backlog {backlog}, resident {} before, {resident} at most", before.resident);
        assert_eq!(metric(&server, "klatch_disconnects_slow_total"), round * SLOW);
        assert!(others.closes().is_empty(), "{:?}", others.closes());
        // The bound of each and what one turn may add to it, which is what is under way.
        assert!(backlog <= SLOW * (MIB + 64 * 1300), "{backlog}");
        assert!(resident <= level + SLOW * MIB, "{resident}");

        slow.unpause();
        // Which takes a while, and the others have heartbeats to answer.
        slow.until("the slow to catch up", |c| {
            others.turn(Duration::ZERO);
            c.has_reached(last)
        });
        assert_eq!(*slow.closes(), BTreeMap::from([(4001, round * SLOW)]));
        assert_eq!(metric(&server, "klatch_backlog_bytes"), 0);
        let after = vitals(&server);
        println!("resident {} afterwards", after.resident);
        assert!(after.resident <= level, "{before:?} {after:?}");
        assert!(after.threads <= before.threads && after.files <= before.files + 2, "{before:?} {after:?}");
        // The first round leaves what the allocator keeps; a second one must find that enough.
        level = after.resident + 8 * MIB;
    }
    let logs: Vec<_> = others.into_logs().into_iter().chain(slow.into_logs()).collect();
    let expect = Expect {
        messages: 17_000,
        deliveries: 500 * 17_000,
        resumes: 2 * SLOW,
        resets_at_most: Some(0),
        ..Expect::default()
    };
    check(&logs, data.path(), expect);
    stop(server);
}

/// Members that come for a long history and then do not read it: each costs a page, and those who are live cost nothing.
#[test]
fn slow_joiners_with_a_long_history_hold_up_nobody() {
    const SLOW: u64 = 200;
    const HISTORY: u64 = 8_000;
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).set("limits.slow_ms", 3_000).start();
    let mut others = Crowd::new(&server.url(), &Plan::new(ROOM, "member", 20));
    others.join();
    let last = others.pour(0, HISTORY, 1024, 64, |_| {});
    others.reach(last);
    let before = vitals(&server);

    let plan = Plan {
        receive_buffer: Some(4096),
        since: Some(0),
        deaf: true,
        ..Plan::new(ROOM, "slow", SLOW as usize)
    };
    let mut slow = Crowd::new(&server.url(), &plan);
    slow.until("all to have asked", |c| c.paused() as u64 == SLOW);
    // What the last ones ask is still to be written.
    slow.turn(Duration::ZERO);
    let mut resident = 0;
    let mut last = 0;
    turn_until(&mut others, "the slow to be closed", || {
        resident = vitals(&server).resident.max(resident);
        metric(&server, "klatch_disconnects_slow_total") == SLOW
    });
    for _ in 0..10 {
        last = others.pour(0, 100, 1024, 64, |_| {});
        others.reach(last);
    }
    println!("resident {} before, {resident} at most", before.resident);
    // A page of history each, and what is read ahead for them.
    assert!(resident <= before.resident + SLOW * (MIB / 2) + SLACK, "{resident}");
    assert!(others.closes().is_empty(), "{:?}", others.closes());

    slow.unpause();
    slow.reach(last);
    let after = vitals(&server);
    println!("resident {} afterwards", after.resident);
    assert!(after.resident <= before.resident + 2 * SLACK, "{before:?} {after:?}");
    let logs: Vec<_> = others.into_logs().into_iter().chain(slow.into_logs()).collect();
    let expect = Expect {
        messages: HISTORY + 1000,
        deliveries: 220 * (HISTORY + 1000),
        resets_at_most: Some(0),
        ..Expect::default()
    };
    check(&logs, data.path(), expect);
    stop(server);
}

/// A page has at most `history_page_bytes`, and so no more than that is read for it: else a few who ask for history in a room of
/// large messages keep the disk, and those who read it, from everybody.
#[test]
fn a_page_of_large_messages_costs_no_more_than_it_gives() {
    const MESSAGES: u64 = 300;
    const BYTES: u64 = 60 << 10;
    const PAGES: u64 = 40;
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    let mut publisher = Crowd::new(&server.url(), &Plan::new(ROOM, "publisher", 1));
    publisher.join();
    publisher.pour(0, MESSAGES, BYTES as usize, 8, |_| {});
    let read = vitals(&server).read;
    for n in 0..PAGES {
        let way = if n % 2 == 0 { "" } else { "&backward=true" };
        let (status, body) = get(&server.url(), &format!("/rooms/{ROOM}/history?limit=500{way}"));
        assert_eq!((status, body.matches(r#""type":"publication""#).count()), (200, 4));
    }
    let read = vitals(&server).read - read;
    println!("{read} bytes read for {PAGES} pages");
    // Twice what a page may have, and what a request and a look at the metrics take.
    assert!(read < PAGES * (2 * 262_144 + 100_000), "{read}");
    stop(server);
}

/// Elsewhere one stalled subscriber held up the fan-out for all (zoolutions/pgbus#320, centrifuge#640).
#[test]
fn x14_one_of_five_thousand_is_stopped() {
    const MEMBERS: usize = 5_000;
    let data = tempfile::tempdir().unwrap();
    let launch =
        launch(data.path()).set("limits.heartbeat_ms", 3_000).set("limits.heartbeat_timeout_ms", 15_000);
    let server = launch.start();
    let mut publisher = Crowd::new(&server.url(), &Plan::new(ROOM, "publisher", 1));
    publisher.join();
    let mut many = Helper::crowd(&mut crowd(), &server.url(), &Plan::new(ROOM, "member", MEMBERS - 2));
    let stopped = Helper::crowd(&mut crowd(), &server.url(), &Plan::new(ROOM, "stopped", 1));
    let before = vitals(&server);
    stopped.freeze();
    for _ in 0..30 {
        publisher.pour(0, 1, 128, 1, |_| {});
        many.order(&format!("reach {}", publisher.last()));
        many.wait_for("reached");
    }
    turn_until(&mut publisher, "the stopped one to be given up", || {
        metric(&server, "klatch_disconnects_heartbeat_total") > 0
    });
    let last = publisher.pour(0, 1, 128, 1, |_| {});
    turn_until(&mut publisher, "its connection to be gone", || {
        metric(&server, "klatch_connections") == MEMBERS as u64 - 1
    });
    let after = vitals(&server);
    assert!(after.threads <= before.threads && after.files < before.files, "{before:?} {after:?}");
    assert!(after.resident <= before.resident + SLACK, "{before:?} {after:?}");
    stopped.thaw();
    let mut logs = stopped.finish(last, data.path());
    logs.extend(many.finish(last, data.path()));
    publisher.reach(last);
    logs.extend(publisher.into_logs());
    let expect = Expect {
        messages: 31,
        deliveries: 31 * MEMBERS as u64,
        resumes: 1,
        resets_at_most: Some(0),
        ..Expect::default()
    };
    let verdict = check(&logs, data.path(), expect);
    assert_eq!(verdict.counts.drops, 1, "nobody else was closed");
    stop(server);
}
