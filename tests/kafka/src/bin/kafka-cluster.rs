//! A Kafka of one node for the tests of other languages: prints the address of its topics, without a topic's name, and runs until its
//! standard input ends.

// What it has to say is its output.
#![allow(clippy::print_stdout)]

use klatch_kafka_tests::Cluster;
use std::io::{Read, Write};

fn main() {
    let cluster = Cluster::one().start();
    println!("{}", cluster.url(""));
    // Whoever closed it does not want to know.
    let _ = std::io::stdout().flush();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(cluster);
}
