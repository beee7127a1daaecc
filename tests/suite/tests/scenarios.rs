//! Plays every scenario of `tests/scenarios` on both kinds of log that need no cluster, with one and with two shards, over real
//! sockets. `tests/kafka/tests/scenarios.rs` plays them on Kafka.
//!
//! A test binary without the standard harness, so that each scenario is a test of its own: names are
//! `embedded_1::acks/own_publication`, and arguments are filters as usual.

use klatch_suite::runner::{self, Test};
use klatch_suite::scenario::{self, Kind};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let scenarios = match scenario::load(&klatch_suite::tests_dir().join("scenarios")) {
        Ok(scenarios) => scenarios,
        Err(e) => {
            let _ = writeln!(std::io::stdout(), "the scenarios cannot be read: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut tests: Vec<Test<'_>> = Vec::new();
    for (kind, word) in [(Kind::Embedded, "embedded"), (Kind::Memory, "memory")] {
        for shards in [1, 2] {
            for (name, scenario) in scenarios.iter().filter(|(_, s)| s.runs_on(kind)) {
                tests.push((
                    format!("{word}_{shards}::{name}"),
                    Box::new(move || scenario.run(kind, None, shards)),
                ));
            }
        }
    }
    // They wait for sockets and syncs most of the time.
    runner::run(tests, 8)
}
