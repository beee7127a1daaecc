//! Plays every scenario of `tests/scenarios` on Kafka, each on a topic of its own, with one and with two shards, over real sockets.
//!
//! A test binary without the standard harness, like the one for the other kinds of log: names are `kafka_1::acks/own_publication`.

use klatch_kafka_tests::Cluster;
use klatch_suite::runner::{self, Test};
use klatch_suite::scenario::{self, Kind};
use std::io::Write;
use std::process::ExitCode;
use std::sync::OnceLock;

fn main() -> ExitCode {
    let scenarios = match scenario::load(&klatch_suite::tests_dir().join("scenarios")) {
        Ok(scenarios) => scenarios,
        Err(e) => {
            let _ = writeln!(std::io::stdout(), "the scenarios cannot be read: {e}");
            return ExitCode::FAILURE;
        }
    };
    // Started by the first that needs it.
    let cluster = OnceLock::new();
    let mut tests: Vec<Test<'_>> = Vec::new();
    for shards in [1, 2] {
        for (name, scenario) in scenarios.iter().filter(|(_, s)| s.runs_on(Kind::Kafka)) {
            let topic = format!("scenario-{}", tests.len());
            let cluster = &cluster;
            let test = move || {
                let url = cluster.get_or_init(|| Cluster::one().start()).url(&topic);
                scenario.run(Kind::Kafka, Some(&url), shards)
            };
            tests.push((format!("kafka_{shards}::{name}"), Box::new(test)));
        }
    }
    // They wait for the cluster most of the time.
    runner::run(tests, 8)
}
