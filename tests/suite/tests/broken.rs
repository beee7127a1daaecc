//! A broken server is caught, and what is broken is named: each fault of the proxy in front of the real server.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use klatch_harness::checker::{Expect, Verdict, Wrong};
use klatch_harness::proxy::{Fault, ONE_IN, Proxy};
use klatch_harness::replay::{self, Options};
use klatch_suite::{Launch, corpus};
use std::time::Duration;

/// Replays through a proxy with this fault: how often it struck, and the verdict.
fn through(fault: Fault, one_in: u64, limit: Option<u64>) -> (u64, Verdict) {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).start();
    let proxy = Proxy::start(&server.url(), fault, one_in).unwrap();
    let messages = limit.unwrap_or_else(|| corpus().messages());
    let options = Options {
        limit,
        publish_rate: 0,
        // Lost answers and lost publications are waited for in vain.
        answer_timeout: Duration::from_secs(3),
        patience: Duration::from_secs(12),
        log_dir: Some(data.path().into()),
        expect: Expect { messages, deliveries: messages * 10, resets_at_most: Some(0), ..Expect::default() },
        ..Options::new(proxy.url())
    };
    // Counted while the members are connected: see `Proxy::faults`.
    let mut struck = 0;
    let report = replay::run(corpus(), &options, |_| struck = proxy.faults()).unwrap();
    println!("{fault:?} struck {struck} times\n{report}");
    assert!(report.failures.is_empty(), "{report}");
    assert_eq!(report.ok(), fault == Fault::None);
    (struck, report.verdict.unwrap())
}

const SHORT: Option<u64> = Some(2000);

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
fn without_a_fault_the_checker_is_silent() {
    let (struck, verdict) = through(Fault::None, ONE_IN, SHORT);
    assert_eq!((struck, verdict.found.len()), (0, 0), "{verdict}");
}

#[test]
fn dropped() {
    let (struck, verdict) = through(Fault::Drop, ONE_IN / 5, SHORT);
    // Where the lost one was the sender's own, the ack is lost with it; where it was the last, nothing comes after.
    named(struck, &verdict, &[Wrong::Gap, Wrong::Behind], &[Wrong::Unanswered]);
}

#[test]
fn doubled() {
    let (struck, verdict) = through(Fault::Double, ONE_IN / 5, SHORT);
    named(struck, &verdict, &[Wrong::Double], &[]);
}

#[test]
fn swapped() {
    let (struck, verdict) = through(Fault::Swap, ONE_IN / 5, SHORT);
    named(struck, &verdict, &[Wrong::Order], &[Wrong::Disagree]);
    assert!(verdict.count(Wrong::Disagree) > 0, "{verdict}");
}

#[test]
fn acked_early() {
    let (struck, verdict) = through(Fault::AckEarly, 100, SHORT);
    named(struck, &verdict, &[Wrong::LostAck], &[Wrong::AckMoved, Wrong::WrongAck]);
}

#[test]
fn skipped_at_the_seam() {
    let (struck, verdict) = through(Fault::SkipAtSeam, 20, SHORT);
    named(struck, &verdict, &[Wrong::Gap, Wrong::Behind], &[Wrong::Unanswered]);
}

#[test]
fn altered() {
    let (struck, verdict) = through(Fault::Alter, ONE_IN / 5, SHORT);
    named(struck, &verdict, &[Wrong::Altered], &[Wrong::Unanswered]);
}

/// The rate of a rare fault: one lost publication in 5,000.
#[test]
fn one_lost_in_5000_over_the_whole_corpus() {
    let (struck, verdict) = through(Fault::Drop, ONE_IN, None);
    assert_eq!(verdict.counts.messages, 25_473);
    named(struck, &verdict, &[Wrong::Gap, Wrong::Behind], &[Wrong::Unanswered]);
}
