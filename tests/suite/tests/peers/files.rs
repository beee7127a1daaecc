//! R20: descriptors run out.
//!
//! Elsewhere the loop that accepts spun (tokio#3529, oven-sh/bun#32705, joyent/libuv#690). Here that was the least of it: the log
//! opens files too, and one that it could not open had ended every publish until a restart.

use crate::{ROOM, check, crowd, metric, turn_until, vitals};
use klatch_harness::checker::Expect;
use klatch_harness::process::Server;
use klatch_suite::Launch;
use klatch_suite::crowd::{Crowd, Plan};
use klatch_suite::helper::Helper;
use klatch_suite::history::{get, history};
use klatch_suite::server::stop;
use klatch_suite::storm::{Kind, Storm};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::time::{Duration, Instant};

const HELD: usize = 200;
const HOLD: Duration = Duration::from_secs(8);

/// Small segments, so that the log has files to open all the time.
fn launch(data: &std::path::Path) -> Server {
    Launch::new(data).set("storage.segment_bytes", 64 << 10).arg("--log-level").arg("warn").start()
}

/// Lets the server open so many files from now on; those that are open stay so.
fn limit(server: &Server, files: u64) -> Rlimit {
    let pid = Pid::from_raw(server.id() as i32);
    let maximum = prlimit(pid, Resource::Nofile, Rlimit { current: Some(files), maximum: Some(20_000) });
    maximum.unwrap()
}

#[test]
fn r20_held_connections_leave_files_to_the_log_and_nothing_spins() {
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path());
    limit(&server, 64);
    let mut members = Crowd::new(&server.url(), &Plan::new(ROOM, "member", 3));
    members.join();
    members.pour(0, 100, 1024, 8, |_| {});
    let storm = Storm {
        kind: Kind::Named,
        from: "127.0.0.9".parse().unwrap(),
        addresses: 1,
        per_second: 1000,
        total: HELD as u64,
        hold: HELD,
        stay: true,
    };
    let storm = Helper::storm(&mut crowd(), server.address(), &storm);
    assert!(server.says("connections are refused", Duration::from_secs(60)), "{:?}", server.output());

    // Those who are there are served, and the log goes on.
    let (began, ticks) = (Instant::now(), vitals(&server).ticks);
    let mut last = members.last();
    while began.elapsed() < HOLD {
        last = members.pour(0, 20, 1024, 4, |_| {});
        let until = Instant::now() + Duration::from_millis(250);
        members.until("the next round", |_| Instant::now() > until);
    }
    members.reach(last);
    let (spent, held) = (vitals(&server).ticks - ticks, began.elapsed());
    println!("{spent} ticks of 10 ms in {held:?}");
    assert!(u128::from(spent) * 10 < held.as_millis() / 10, "{spent} ticks of 10 ms in {held:?}");
    assert!(members.errors().is_empty() && members.closes().is_empty(), "{:?}", members.errors());
    let lines = server.output().iter().filter(|l| l.contains("WARN")).count() as u64;
    assert!(lines <= 1 + held.as_secs() / 10, "{:?}", server.output());

    drop(storm);
    let mut newcomers = Crowd::new(&server.url(), &Plan::new(ROOM, "newcomer", 3));
    newcomers.join();
    let last = members.pour(0, 10, 1024, 8, |_| {});
    members.reach(last);
    newcomers.reach(last);
    turn_until(&mut members, "the storm to be gone", || metric(&server, "klatch_connections") == 6);
    let logs: Vec<_> = members.into_logs().into_iter().chain(newcomers.into_logs()).collect();
    check(&logs, data.path(), Expect { messages: 200, ..Expect::default() });
    assert_eq!(history(&server.url(), ROOM, 500).last, last);
    stop(server);
}

#[test]
fn r20_while_no_file_can_be_opened_nothing_is_stored_and_then_it_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path());
    let mut members = Crowd::new(&server.url(), &Plan::new(ROOM, "member", 3));
    members.join();
    members.pour(0, 20, 1024, 8, |_| {});

    // Whoever took them: the host, or another part of its program.
    let before = limit(&server, 3);
    for _ in 0..200 {
        members.publish(0, 1024);
    }
    members.until("a refusal", |c| c.errors().contains_key("storage_full"));
    assert!(members.answered() < 220);
    let waiting = Instant::now() + Duration::from_secs(3);
    // Long enough for the upkeep of each second, the log's and the view's.
    members.until("the upkeep to have failed", |_| Instant::now() > waiting);

    limit(&server, before.current.unwrap_or(20_000));
    members.until("everything to be stored", |c| c.answered() == 220);
    members.reach(members.last());
    assert_eq!(members.errors().keys().copied().collect::<Vec<_>>(), ["storage_full"]);
    assert_eq!(get(&server.url(), "/readyz"), (200, "ready\n".into()));
    let last = members.last();
    check(&members.into_logs(), data.path(), Expect { messages: 220, ..Expect::default() });
    assert_eq!(history(&server.url(), ROOM, 500).publications.len(), 220);
    assert_eq!(history(&server.url(), ROOM, 500).last, last);
    let lines = server.output();
    assert!(lines.iter().filter(|l| l.contains("upkeep")).count() <= 1, "{lines:?}");
    stop(server);
}
