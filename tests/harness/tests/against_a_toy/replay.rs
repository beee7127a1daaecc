//! The replay, the client and the checker against a correct server: nothing is wrong, and what was to be provoked was.

use crate::toy::Toy;
use klatch_harness::checker::{self, Expect, Wrong};
use klatch_harness::client::{Client, JoinOptions, Outcome, Since};
use klatch_harness::replay::{self, Corpus, Options, Speed};
use std::path::Path;

fn corpus() -> Corpus {
    Corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/irc.jsonl")).unwrap()
}

#[test]
fn a_replay_of_a_correct_server_finds_nothing() {
    let toy = Toy::start();
    let options = Options {
        limit: Some(1500),
        listeners: 2,
        expect: Expect { messages: 1500, deliveries: 20_000, resets_at_most: Some(0), ..Expect::default() },
        ..Options::new(toy.url())
    };
    let mut calls = 0;
    let report = replay::run_with(corpus(), &options, |_| calls += 1, |_| Ok(toy.log())).unwrap();
    println!("{report}");
    assert!(report.ok(), "{report}");
    assert!(calls > 0);
    assert_eq!((report.messages, report.acked, report.ack.count), (1500, 1500, 1500));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["verdict"]["counts"]["messages"], 1500);
}

#[test]
fn drops_duplicates_and_refusals_are_survived_and_counted() {
    let toy = Toy::start();
    toy.refuse_one_in.store(50, std::sync::atomic::Ordering::Relaxed);
    let options = Options {
        limit: Some(2000),
        drops_per_1000: 50,
        duplicate_every: 10,
        seed: 7,
        history_url: Some(crate::toy::serve_history(toy.store.clone())),
        expect: Expect {
            resumes: 50,
            duplicates: 150,
            unknowns: 1,
            resets_at_most: Some(0),
            ..Expect::default()
        },
        ..Options::new(toy.url())
    };
    // The log is read over HTTP here.
    let report = replay::run(corpus(), &options, |_| ()).unwrap();
    println!("{report}");
    assert!(report.ok(), "{report}");
    assert!(report.errors["rate_limited"] > 10);
    assert!(report.verdict.unwrap().counts.not_stored > 10);
}

#[test]
fn at_a_rate_the_log_has_the_order_of_the_corpus() {
    let toy = Toy::start();
    let options = Options {
        speed: Speed::PerSecond(2000.0),
        limit: Some(600),
        drops_per_1000: 20,
        per_sender: true,
        ..Options::new(toy.url())
    };
    let report = replay::run_with(corpus(), &options, |_| (), |_| Ok(toy.log())).unwrap();
    println!("{report}");
    assert!(report.ok(), "{report}");
    // 600 messages have 599 intervals of half a millisecond between them; it cannot have been faster.
    assert!(report.seconds >= 0.25, "{report}");
}

#[test]
fn a_server_that_crashes_and_comes_back_loses_nothing() {
    let mut toy = Toy::start();
    let options = Options {
        speed: Speed::PerSecond(1000.0),
        limit: Some(1500),
        expect: Expect { resumes: 20, ..Expect::default() },
        ..Options::new(toy.url())
    };
    let store = toy.store.clone();
    let mut restarts = 0;
    let report = replay::run_with(
        corpus(),
        &options,
        |p| {
            if p.sent > 500 * (restarts + 1) && restarts < 2 {
                restarts += 1;
                toy.restart();
            }
        },
        |_| Ok(Toy::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), store).log()),
    )
    .unwrap();
    println!("{report}");
    assert_eq!(restarts, 2);
    assert!(report.ok(), "{report}");
}

#[test]
fn a_server_that_stays_away_fails_the_run() {
    let toy = Toy::start();
    let url = toy.url();
    let mut toy = Some(toy);
    let options = Options {
        limit: Some(500),
        speed: Speed::PerSecond(500.0),
        reconnect_for: std::time::Duration::from_millis(300),
        ..Options::new(url)
    };
    let store = toy.as_ref().unwrap().store.clone();
    let report = replay::run_with(
        corpus(),
        &options,
        |p| {
            if p.sent > 100 {
                toy = None;
            }
        },
        |_| Ok(Toy::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), store).log()),
    )
    .unwrap();
    assert!(!report.ok() && !report.failures.is_empty(), "{report}");
}

/// The whole corpus, against the toy in one process: how fast the harness itself is. Run with
/// `cargo test --release -p klatch-harness -- --ignored --nocapture whole`.
#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation; tests/run has it")]
fn the_whole_corpus() {
    let toy = Toy::start();
    let options = Options { drops_per_1000: 10, duplicate_every: 100, ..Options::new(toy.url()) };
    let report = replay::run_with(corpus(), &options, |_| (), |_| Ok(toy.log())).unwrap();
    println!("{report}");
    assert!(report.ok(), "{report}");
}

#[test]
fn what_was_not_provoked_fails() {
    let toy = Toy::start();
    let options = Options {
        limit: Some(100),
        expect: Expect { resumes: 1, ..Expect::default() },
        ..Options::new(toy.url())
    };
    let report = replay::run_with(corpus(), &options, |_| (), |_| Ok(toy.log())).unwrap();
    assert_eq!(report.verdict.as_ref().unwrap().count(Wrong::NotProvoked), 1, "{report}");
    assert!(!report.ok());
}

#[test]
fn both_loopback_addresses_serve() {
    let toy = Toy::on(std::net::TcpListener::bind("[::1]:0").unwrap(), Default::default());
    let options = Options { limit: Some(50), ..Options::new(toy.url()) };
    let report = replay::run_with(corpus(), &options, |_| (), |_| Ok(toy.log())).unwrap();
    assert!(report.ok(), "{report}");
    let mut client = Client::connect(&toy.url(), "ann").unwrap();
    assert!(client.join("r", JoinOptions::default()).unwrap());
}

#[test]
fn a_blocking_client_goes_through_all_of_it() {
    let toy = Toy::start();
    let mut ann = Client::connect(&toy.url(), "ann").unwrap();
    let mut bob = Client::connect(&toy.url(), "bob").unwrap();
    ann.join("lobby", JoinOptions::default()).unwrap();
    bob.join("lobby", JoinOptions { echo: false, ..JoinOptions::default() }).unwrap();
    let stored = |offset, duplicate| Outcome::Stored { offset, duplicate };
    assert_eq!(ann.publish("lobby", "m1", r#"{"n": 1}"#).unwrap(), stored(1, false));
    assert_eq!(bob.publish("lobby", "m1", "2").unwrap(), stored(2, false));
    assert_eq!(bob.publish("lobby", "", "3").unwrap(), stored(3, false));
    assert!(matches!(
        bob.publish("lobby", "m1", "4").unwrap(),
        Outcome::NotStored { error, later: false, .. } if error == "conflict"
    ));
    assert_eq!(ann.retry(0).unwrap(), stored(1, true));

    // What was said while ann was away comes first, and the message without an answer is sent again.
    ann.begin("lobby", "m2", "5").unwrap();
    ann.cut();
    bob.publish("lobby", "m2", "6").unwrap();
    ann.reconnect(None).unwrap();
    ann.outcome(1).unwrap();
    bob.leave("lobby").unwrap();
    assert_eq!(ann.publish("lobby", "m3", "7").unwrap(), stored(6, false));
    assert!(
        !bob.join(
            "lobby",
            JoinOptions {
                since: Some(Since { epoch: String::new(), offset: 999 }),
                history: 2,
                ..JoinOptions::default()
            }
        )
        .unwrap()
    );
    bob.publish("lobby", "m4", "8").unwrap();
    bob.cut();
    bob.reconnect(None).unwrap();
    assert_eq!(bob.publish("lobby", "m5", "9").unwrap(), stored(8, false));
    ann.until(|s| matches!(s, klatch_harness::client::Seen::Publication { offset: 8, .. }).then_some(()))
        .unwrap();

    let logs = [ann.into_log(), bob.into_log()];
    let expect = Expect { resumes: 2, resets: 1, duplicates: 1, unknowns: 1, ..Expect::default() };
    let verdict = checker::check(&logs, &toy.log(), &checker::Options { complete: true, expect });
    assert!(verdict.ok(), "{verdict}");
    assert_eq!((verdict.counts.messages, verdict.counts.acked), (8 + 1, 8), "{verdict}");
}
