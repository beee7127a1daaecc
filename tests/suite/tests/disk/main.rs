//! Disks that fail, fill up, lose their power, and views that are not what they were: what the real server tells its clients then,
//! and what it has kept.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod faults;
mod full;
mod power;
mod publishers;
mod stop;

use klatch_harness::checker::{self, Expect, Verdict};
use klatch_harness::observe::ClientLog;
use klatch_harness::process::Server;
use klatch_harness::segments;
use klatch_suite::history::get;
use std::path::Path;
use std::time::{Duration, Instant};

const ROOM: &str = "room";
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the clients saw, against the log.
fn check(logs: &[ClientLog], data: &Path, expect: Expect) -> Verdict {
    let log = segments::read(data).unwrap();
    let verdict = checker::check(logs, &log, &checker::Options { complete: true, expect });
    println!("{verdict}");
    assert!(verdict.ok(), "{verdict}");
    verdict
}

/// Looks again and again until `done`.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `/readyz` says.
fn ready(server: &Server) -> (u16, String) {
    let (status, text) = get(&server.url(), "/readyz");
    (status, text.trim_end().to_owned())
}
