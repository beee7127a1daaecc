//! Slow and dead peers: whatever some connections do or leave undone, the others get everything in order, nothing is lost, and the
//! server holds no more afterwards than it did before. How fast the others are served meanwhile is measured by `tests/load/peers-compare`.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod files;
mod gone;
mod restart;
mod slow;
mod storm;
mod uptime;

use klatch_harness::checker::{self, Expect, Verdict};
use klatch_harness::observe::ClientLog;
use klatch_harness::process::Server;
use klatch_harness::segments;
use klatch_suite::crowd::Crowd;
use klatch_suite::history::get;
use klatch_suite::vitals::Vitals;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const ROOM: &str = "room";
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program `crowd`.
fn crowd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_crowd"))
}

/// A number of `/metrics`.
fn metric(server: &Server, name: &str) -> u64 {
    let (_, text) = get(&server.url(), "/metrics");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
    line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Turns the crowd until `done`, for at most two minutes.
fn turn_until(crowd: &mut Crowd, what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waiting for {what}");
        for _ in 0..10 {
            crowd.turn(Duration::from_millis(5));
        }
    }
}

/// What the clients saw, against the log.
fn check(logs: &[ClientLog], data: &Path, expect: Expect) -> Verdict {
    let log = segments::read(data).unwrap();
    let verdict = checker::check(logs, &log, &checker::Options { complete: true, expect });
    println!("{verdict}");
    assert!(verdict.ok(), "{verdict}");
    verdict
}

/// What the server's process holds.
fn vitals(server: &Server) -> Vitals {
    Vitals::of(server.id())
}
