//! A broken server is caught, and what is broken is named: each fault of the proxy in front of a correct server.

use crate::toy::Toy;
use klatch_harness::checker::{Expect, Verdict, Wrong};
use klatch_harness::proxy::{Fault, ONE_IN, Proxy};
use klatch_harness::replay::{self, Corpus, Options};
use std::path::Path;
use std::time::Duration;

/// Replays through a proxy with this fault: how often it struck, and the verdict.
fn through(fault: Fault, one_in: u64) -> (u64, Verdict) {
    let toy = Toy::start();
    let proxy = Proxy::start(&toy.url(), fault, one_in).unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/irc.jsonl");
    let options = Options {
        limit: Some(1500),
        answer_timeout: Duration::from_secs(1),
        patience: Duration::from_secs(8),
        expect: Expect { messages: 1500, deliveries: 15_000, resets_at_most: Some(0), ..Expect::default() },
        ..Options::new(proxy.url())
    };
    // Counted while the members are connected: see `Proxy::faults`.
    let mut struck = 0;
    let count = |_: &replay::Progress| struck = proxy.faults();
    let report =
        replay::run_with(Corpus::load(&corpus).unwrap(), &options, count, |_| Ok(toy.log())).unwrap();
    println!("{fault:?} struck {struck} times\n{report}");
    assert!(report.failures.is_empty(), "{report}");
    assert_eq!(report.ok(), fault == Fault::None);
    (struck, report.verdict.unwrap())
}

/// That the verdict names `main` as often as the fault struck, and nothing beyond these.
fn named(struck: u64, verdict: &Verdict, main: &[Wrong], also: &[Wrong]) {
    assert!(struck > 0, "the fault never struck");
    let found: u64 = main.iter().map(|wrong| verdict.count(*wrong)).sum();
    assert_eq!(found, struck, "{verdict}");
    for wrong in verdict.found.keys() {
        assert!(main.contains(wrong) || also.contains(wrong), "{wrong} was not done: {verdict}");
    }
}

#[test]
fn no_fault() {
    let (struck, verdict) = through(Fault::None, ONE_IN);
    assert_eq!((struck, verdict.found.len()), (0, 0), "{verdict}");
}

#[test]
fn dropped() {
    let (struck, verdict) = through(Fault::Drop, ONE_IN);
    // Where the lost one was the sender's own, the ack is lost with it; where it was the last, nothing comes after.
    named(struck, &verdict, &[Wrong::Gap, Wrong::Behind], &[Wrong::Unanswered]);
}

#[test]
fn doubled() {
    let (struck, verdict) = through(Fault::Double, ONE_IN);
    named(struck, &verdict, &[Wrong::Double], &[]);
}

#[test]
fn swapped() {
    let (struck, verdict) = through(Fault::Swap, ONE_IN);
    named(struck, &verdict, &[Wrong::Order], &[Wrong::Disagree]);
    assert!(verdict.count(Wrong::Disagree) > 0, "{verdict}");
}

#[test]
fn acked_early() {
    let (struck, verdict) = through(Fault::AckEarly, 100);
    named(struck, &verdict, &[Wrong::LostAck], &[Wrong::AckMoved, Wrong::WrongAck]);
}

#[test]
fn skipped_at_the_seam() {
    let (struck, verdict) = through(Fault::SkipAtSeam, 50);
    named(struck, &verdict, &[Wrong::Gap, Wrong::Behind], &[Wrong::Unanswered]);
}

#[test]
fn altered() {
    let (struck, verdict) = through(Fault::Alter, ONE_IN / 4);
    named(struck, &verdict, &[Wrong::Altered], &[Wrong::Unanswered]);
}
