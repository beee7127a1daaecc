//! Random sequences of valid and nearly valid commands over sockets to a live server, while ten members chat and are checked.
//!
//! `KLATCH_SEED` repeats the choices of a run, which has printed it; how the sessions meet each other it does not repeat.
//! `KLATCH_SESSIONS` is the number of sessions of each thread, for a longer run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod commands;
mod members;
mod session;

use klatch_harness::checker::{self, Expect};
use klatch_harness::segments;
use klatch_suite::Launch;
use klatch_suite::random::{Random, seed};
use klatch_suite::server::{stop, verify};
use klatch_suite::ws::{PATIENCE, get};
use members::Members;
use session::{Seen, Session};
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Instant;

/// Sessions at once.
const THREADS: u64 = 6;
/// Sessions of each thread, one after the other, where the environment does not say.
const SESSIONS: u64 = 250;
/// Commands of a session at most.
const COMMANDS: u64 = 40;

/// What the sessions must have met between them, or they were too tame: errors, ends, and answers.
const MET: &[&str] = &[
    "bad_request",
    "unknown_command",
    "invalid_name",
    "invalid_data",
    "invalid_id",
    "too_deep",
    "conflict",
    "not_joined",
    "already_joined",
    "too_many_rooms",
    "no_room",
    "close 1002",
    "close 1007",
    "close 1008",
    "close 1009",
    "close 4502",
    "status 400",
    "duplicate",
    "publication",
    "joined",
    "left",
    "history",
    "presence",
    "signal",
    "pong",
];

#[test]
fn sessions_of_any_kind_harm_nobody() {
    let seed = seed();
    println!("seed {seed} (set KLATCH_SEED to repeat the choices)");
    let count = std::env::var("KLATCH_SESSIONS").map_or(SESSIONS, |n| n.parse().unwrap());
    let data = tempfile::tempdir().unwrap();
    // So small that every limit is met, and that what is old is read from disk.
    let server = Launch::new(data.path())
        .set("shards", 2)
        .set("limits.message_bytes", 4096)
        .set("limits.fragments", 8)
        .set("limits.json_depth", 8)
        .set("limits.rooms_per_connection", 3)
        .set("limits.history_page", 20)
        .set("limits.pending_publishes", 16)
        .set("limits.recent_bytes", 65_536)
        .set("limits.ids_bytes", 65_536)
        .start();
    let address = server.address();
    let mut members = Members::join(&server.url());
    let (step, steps) = channel();
    let seen = std::thread::scope(|threads| {
        let sessions: Vec<_> = (0..THREADS)
            .map(|thread| {
                let step = step.clone();
                threads.spawn(move || {
                    let mut seen = Seen::default();
                    for n in 0..count {
                        let random = Random::new(seed ^ (thread << 32 | n));
                        let name = format!("seed {seed}, thread {thread}, session {n}");
                        Session::run(address, &name, random, &mut seen, || {
                            // The members are gone only if their thread has failed, which is told below.
                            let _ = step.send(());
                        });
                    }
                    seen
                })
            })
            .collect();
        drop(step);
        // Each command makes a member publish, so that something always happens beside the sessions.
        members.publish_for_each(&steps);
        let mut seen = Seen::default();
        for session in sessions {
            match session.join() {
                Ok(more) => more.into_iter().for_each(|(what, n)| *seen.entry(what).or_default() += n),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        seen
    });
    println!("{seen:?}");
    let missing: Vec<_> = MET.iter().filter(|what| !seen.contains_key(**what)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}");

    // What the sessions sent last may still lie in their sockets.
    settles(address, "connections", members::COUNT as u64);
    members.finish();
    let (logs, published) = members.leave();
    assert_eq!(get(address, "/readyz").unwrap().status, 200);
    for gauge in ["connections", "members", "rooms", "backlog_bytes", "append_queue"] {
        settles(address, gauge, 0);
    }
    let said = server.output();
    let bad: Vec<_> = said.iter().filter(|l| l.contains("panic") || l.contains("ERROR")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    stop(server);

    let log = segments::read(data.path()).unwrap();
    let expect = Expect { messages: published, resets_at_most: Some(0), ..Expect::default() };
    let verdict = checker::check(&logs, &log, &checker::Options { complete: true, expect });
    println!("{verdict}");
    assert!(verdict.ok(), "{verdict}");
    assert_eq!((verdict.counts.acked, verdict.counts.drops), (published, 0), "{verdict}");
    let verified = verify(data.path());
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

/// Waits until a gauge of the server says this: it ends connections in its own time.
fn settles(address: SocketAddr, gauge: &str, wanted: u64) {
    let until = Instant::now() + PATIENCE;
    loop {
        let page = get(address, "/metrics").unwrap().body;
        let name = format!("klatch_{gauge} ");
        let value: u64 = page.lines().find_map(|l| l.strip_prefix(&name)).unwrap().parse().unwrap();
        if value == wanted {
            return;
        }
        assert!(Instant::now() < until, "{gauge} stays at {value}, not {wanted}");
    }
}
