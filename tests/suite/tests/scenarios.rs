//! Plays every scenario of `tests/scenarios` on both kinds of log, with one and with two shards, over real sockets.
//!
//! A test binary without the standard harness, so that each scenario is a test of its own: names are
//! `embedded_1::acks/own_publication`, and arguments are filters as usual.

use klatch_suite::scenario::{self, Kind, Scenario};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| args.iter().any(|a| a == name);
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let mut out = std::io::stdout();
    if flag("--ignored") {
        return ExitCode::SUCCESS;
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let scenarios = match scenario::load(&dir) {
        Ok(scenarios) => scenarios,
        Err(e) => {
            let _ = writeln!(out, "the scenarios cannot be read: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut tests: Vec<(String, &Scenario, Kind, usize)> = Vec::new();
    for (kind, word) in [(Kind::Embedded, "embedded"), (Kind::Memory, "memory")] {
        for shards in [1, 2] {
            for (name, scenario) in scenarios.iter().filter(|(_, s)| s.runs_on(kind)) {
                let name = format!("{word}_{shards}::{name}");
                let hit = |f: &&String| if flag("--exact") { name == **f } else { name.contains(f.as_str()) };
                if filters.is_empty() || filters.iter().any(hit) {
                    tests.push((name, scenario, kind, shards));
                }
            }
        }
    }
    if flag("--list") {
        for (name, ..) in &tests {
            let _ = writeln!(out, "{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(out, "\nrunning {} tests", tests.len());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|threads| {
        // They wait for sockets and syncs most of the time.
        for _ in 0..8 {
            threads.spawn(|| {
                while let Some((name, scenario, kind, shards)) =
                    tests.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let result = scenario.run(*kind, *shards);
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    let _ = writeln!(std::io::stdout(), "test {name} ... {word}");
                    if let Err(e) = result
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push(format!("---- {name} ----\n{e}\n"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    for failure in &failures {
        let _ = writeln!(out, "\n{failure}");
    }
    let (word, failed) = (if failures.is_empty() { "ok" } else { "FAILED" }, failures.len());
    let _ = writeln!(out, "\ntest result: {word}. {} passed; {failed} failed", tests.len() - failed);
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
