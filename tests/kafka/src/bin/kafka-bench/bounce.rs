//! The one broker is killed and started again while members chat on klatch and on the recipe beside each other.

use crate::chat::Told;
use crate::check;
use crate::load::Crowd;
use crate::meter::{Meter, Shape, Times, quantile};
use crate::servers::Chat;
use crate::{Options, create, report};
use klatch_kafka_tests::{Cluster, Oracle};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::path::Path;
use std::time::{Duration, Instant};

/// Of the two that are compared.
const NAMES: [&str; 2] = ["klatch", "recipe"];

/// When the broker is killed.
const KILLED: Duration = Duration::from_secs(3);
/// How long answers are waited for: longer than any of their clients tries.
const PATIENCE: Duration = Duration::from_secs(90);

/// See the module.
pub fn run(options: &Options, folder: &Path) {
    let rounds = options.number("rounds", 1.0) as usize;
    let nodes = options.number("nodes", 2.0) as usize;
    let (rooms, members) = (options.number("rooms", 16.0) as usize, options.number("members", 4.0) as usize);
    let (rate, down) = (options.number("rate", 500.0), options.seconds("down", 3.0));
    let times = Times { warm: Duration::ZERO, measured: options.seconds("seconds", 30.0) };
    println!(
        "{nodes} nodes of each on one topic of one broker, {rooms} rooms of {members}, {rate} messages a second to each for {:?}; \
         the broker is killed after {:?} and down for {down:?}",
        times.measured, KILLED,
    );
    for round in 1..=rounds {
        let mut cluster = Cluster::one().start();
        let oracle = Oracle::new(cluster.addresses());
        NAMES.iter().for_each(|name| create(&oracle, name));
        let klatch = Chat::klatch(&cluster, NAMES[0], nodes, folder);
        let chats = [klatch, Chat::recipe(&cluster, NAMES[1], nodes, folder)];
        let crowds = chats.each_ref().map(|chat| {
            let crowd = Crowd::join(chat.dialect, &chat.addresses(), rooms, members, 0);
            crowd.unwrap_or_else(|e| panic!("cannot join: {e}"))
        });
        let began = Instant::now();
        let (outcomes, led) = std::thread::scope(|threads| {
            let runs = crowds.map(|crowd| {
                threads.spawn(move || crowd.run(Shape::Paced(rate), Meter::new(times, &[]), PATIENCE))
            });
            std::thread::sleep(KILLED);
            cluster.kill(0);
            std::thread::sleep(down);
            cluster.restart(0);
            until_led(&cluster.addresses());
            let led = began.elapsed().as_nanos() as u64;
            let outcomes = runs.map(|run| match run.join() {
                Ok(outcome) => outcome.unwrap_or_else(|e| panic!("the load: {e}")),
                Err(_) => panic!("the load ended early"),
            });
            (outcomes, led)
        });
        println!(
            "\nround {round}, load average {}\n\n| | {} |\n| --- | --- | --- |",
            report::load(),
            NAMES.join(" | ")
        );
        let counts: Vec<_> = NAMES
            .iter()
            .zip(&outcomes)
            .map(|(name, (_, outcome))| check::topic(outcome, &oracle.dump(name)).rows())
            .collect();
        if let [klatch, recipe] = &counts[..] {
            for ((name, klatch), (_, recipe)) in klatch.iter().zip(recipe) {
                println!("| {name} | {klatch} | {recipe} |");
            }
        }
        let longest = |ack: &Vec<u64>| format!("{:.0}", quantile(ack, 1.0));
        let longest = outcomes.iter().map(|(figures, _)| longest(&figures.ack));
        println!("{}", report::line("longest wait of a sender that was told stored, ms", longest));
        let again = outcomes.iter().map(|(_, outcome)| {
            let stored = outcome.sent.iter().filter(|sent| sent.told == Some(Told::Stored));
            let first = stored.filter_map(|sent| sent.told_at.checked_sub(led)).min();
            first.map_or("never".to_owned(), |wait| format!("{:.0}", wait as f64 / 1e6))
        });
        println!("{}", report::line("from every partition's having a leader to the next stored, ms", again));
        // What the servers say of it is of use where it is not as expected.
        for (name, chat) in NAMES.iter().zip(&chats) {
            chat.last_words().iter().for_each(|line| println!("  {name} says: {line}"));
        }
    }
}

/// Waits until every partition of both topics has a leader. A broker that was killed gets its partitions again when its session with the
/// controller is over.
fn until_led(addresses: &str) {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", addresses)
        .create()
        .unwrap_or_else(|e| panic!("a client: {e}"));
    let until = Instant::now() + PATIENCE;
    loop {
        let metadata = client.fetch_metadata(None, Duration::from_secs(2));
        let led = metadata.is_ok_and(|metadata| {
            let topic = |name| metadata.topics().iter().find(|t| t.name() == name);
            let led = |name| topic(name).is_some_and(|t| t.partitions().iter().all(|p| p.leader() >= 0));
            NAMES.into_iter().all(led)
        });
        if led {
            return;
        }
        assert!(Instant::now() < until, "the partitions have no leader");
        std::thread::sleep(Duration::from_millis(50));
    }
}
