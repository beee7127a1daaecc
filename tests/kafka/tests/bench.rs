//! The benchmark, as short as it can be: that it runs, and finds nothing wrong with what klatch's members got.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_benchmark_of_klatch_and_librdkafka_runs() {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_kafka-bench"));
    bench.args(
        "--without-recipe --rounds 1 --rooms 4 --seconds 0.2 --warm 0.1 --rate 200 --in-flight 32".split(' '),
    );
    let run = bench.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("ack p99, klatch / librdkafka: ") && !said.contains("WRONG"), "{said}");
    for figure in said.lines().filter(|l| l.starts_with("| klatch | ")) {
        // Whoever had no message acknowledged has no times.
        assert!(!figure.starts_with("| klatch | - "), "{said}");
    }
}
