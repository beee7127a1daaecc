//! Two nodes under load: the topic, each node's history and all that clients got are the same, byte for byte.

use crate::*;
use klatch_harness::client::Client;
use klatch_harness::replay::{self, Options};
use klatch_suite::corpus;
use klatch_suite::members::listen;
use klatch_suite::senders::{ODD, odd_ones, twins};
use klatch_suite::server::stop;
use std::fs;

const MESSAGES: u64 = 3000;

#[test]
fn topic_history_and_clients_are_the_same_byte_for_byte() {
    let world = World::new(Cluster::one().start());
    let ([a, b], urls) = two(&world);
    let corpus = corpus().limited(MESSAGES);
    let mut rooms: Vec<String> = corpus.scripts.iter().map(|s| s.room.clone()).collect();
    rooms.push(ODD.to_owned());
    let live = urls.each_ref().map(|url| listen(url, &rooms, None));
    let twins = {
        let urls = urls.clone();
        std::thread::spawn(move || twins(urls.each_ref().map(String::as_str)))
    };
    let odd = odd_ones(&urls[1]);

    let options = Options {
        other_urls: vec![urls[1].clone()],
        publish_rate: 0,
        drops_per_1000: 20,
        duplicate_every: 10,
        answer_timeout: PATIENCE,
        patience: PATIENCE,
        reconnect_for: PATIENCE,
        expect: Expect {
            messages: MESSAGES,
            deliveries: MESSAGES * 10,
            resumes: 30,
            duplicates: MESSAGES / 20,
            resets_at_most: RESETS,
            ..Expect::default()
        },
        ..Options::new(&*urls[0])
    };
    let report = replay::run_with(corpus, &options, |_| (), |_| Ok(world.expected().log)).unwrap();
    println!("{report}");
    assert!(report.ok(), "{report}");

    let twins = twins.join().unwrap();
    let last = end(&urls[0], &rooms);
    let live = live.map(|listener| listener.join().unwrap());
    let expected = world.expected();
    println!("{} records in {} rooms", expected.log.records(), expected.rooms.len());
    for ((live, url), name) in live.iter().zip(&urls).zip(["a", "b"]) {
        same(&format!("a member at {name}"), live, &expected.rooms);
        tells(name, url, &expected.rooms);
        let all = listen(url, &rooms, Some(0)).join().unwrap();
        same(&format!("a member who reads all at {name}"), &all, &expected.rooms);
    }
    let others: Vec<_> = twins.into_iter().chain([odd, last]).map(Client::into_log).collect();
    checked(&others, &expected, Expect::default());

    // And after a restart: one with its view, one without, and one that never had one.
    stop(a);
    stop(b);
    fs::remove_dir_all(world.folder.path().join("b")).unwrap();
    for name in ["a", "b", "c"] {
        let node = world.node(name).start();
        tells(&format!("{name}, started again"), &node.url(), &expected.rooms);
        stop(node);
    }
}
