//! The seeds. `KLATCH_SIM_SEEDS=n` runs so many, `KLATCH_SIM_SEED=n` runs that one and says what it saw.

use super::client::Client;
use super::disk::SimFiles;
use super::net::Ends;
use super::node::Node;
use super::world::World;
use crate::clock::ManualClock;
use crate::config::Settings;
use crate::log::faulty::Faulty;
use crate::points::Rule;
use crate::points::in_tests::{break_rule, seed_random};
use crate::view::ViewAt;
use klatch_harness::checker::Counts;
use klatch_harness::client::{JoinOptions, Since};
use klatch_harness::wire::Payload;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Seeds of one run.
const SEEDS: u64 = 40_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap())
}

/// What is wrong with a seed, or what it saw: counts, trace, lives.
fn run(seed: u64, broken: Option<Rule>) -> Result<(Counts, u64, u64), String> {
    break_rule(broken);
    seed_random(Some(seed));
    let ran = catch_unwind(AssertUnwindSafe(|| World::run(seed)));
    break_rule(None);
    seed_random(None);
    crate::points::in_tests::set_hook(None);
    let ran = ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or(panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default())
    })?;
    if !ran.verdict.ok() {
        return Err(ran.verdict.to_string());
    }
    Ok((ran.verdict.counts, ran.trace, ran.lives))
}

/// The first of these seeds with which something is wrong, and what.
fn search(seeds: u64, broken: Option<Rule>) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut first = None;
        while !found.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            if let Err(wrong) = run(seed, broken) {
                found.store(true, Ordering::Relaxed);
                first = Some((seed, wrong));
            }
        }
        first
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|t| t.join().unwrap()).min()
    })
}

#[test]
fn every_seed_keeps_the_guarantees() {
    if let Some(seed) = number("KLATCH_SIM_SEED") {
        let (counts, trace, lives) = run(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        println!("seed {seed}: {lives} lives, trace {trace:016x}, {counts:?}");
        return;
    }
    let seeds = number("KLATCH_SIM_SEEDS").unwrap_or(SEEDS);
    if let Some((seed, wrong)) = search(seeds, None) {
        panic!("seed {seed} (KLATCH_SIM_SEED={seed} runs it again): {wrong}");
    }
}

/// The seeds show something only if what they are about happens.
#[test]
fn the_seeds_provoke_what_they_are_about() {
    let mut sum = Counts::default();
    let mut restarts = 0;
    for seed in 0..300 {
        let (counts, _, lives) = run(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        restarts += lives.saturating_sub(1);
        sum.messages += counts.messages;
        sum.deliveries += counts.deliveries;
        sum.duplicates += counts.duplicates;
        sum.unknowns += counts.unknowns;
        sum.not_stored += counts.not_stored;
        sum.resumes += counts.resumes;
        sum.resets += counts.resets;
        sum.drops += counts.drops;
    }
    println!("{restarts} restarts, {sum:?}");
    assert!(restarts > 300, "{restarts} restarts");
    for (what, count, least) in [
        ("messages", sum.messages, 3000),
        ("deliveries", sum.deliveries, 5000),
        ("duplicates", sum.duplicates, 300),
        ("unknowns", sum.unknowns, 300),
        ("not stored", sum.not_stored, 100),
        ("resumes", sum.resumes, 300),
        ("resets", sum.resets, 20),
        ("drops", sum.drops, 500),
    ] {
        assert!(count >= least, "{count} {what}, fewer than {least}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..200 {
        let once = run(seed, None).map(|r| (format!("{:?}", r.0), r.1, r.2));
        let again = run(seed, None).map(|r| (format!("{:?}", r.0), r.1, r.2));
        assert_eq!(once, again, "seed {seed}");
    }
}

/// Every rule that can be broken, broken: the simulation finds it.
#[test]
fn broken_rules_are_found() {
    let seeds = number("KLATCH_SIM_SEEDS").unwrap_or(SEEDS);
    let missed: Vec<Rule> = Rule::ALL
        .iter()
        .copied()
        .filter(|rule| {
            let found = search(seeds, Some(*rule));
            match &found {
                Some((seed, wrong)) => {
                    println!(
                        "{rule:?}: seed {seed}: {}",
                        wrong.lines().nth(2).or(wrong.lines().next()).unwrap()
                    );
                }
                None => println!("{rule:?}: not found"),
            }
            found.is_none()
        })
        .collect();
    assert!(missed.is_empty(), "not found within {seeds} seeds: {missed:?}");
}

/// The acks of a member that was behind came before the end of its connection, or before it was told that it is out: it took their
/// places for its own position and resumed from there, past publications that it had never been sent.
#[test]
fn an_end_acknowledges_no_place_that_was_not_reached() {
    for (room, echo) in [(None, true), (None, false), (Some("lobby"), true), (Some("lobby"), false)] {
        let mut settings = Settings { shards: 1, ..Settings::default() };
        settings.limits.history_page = 1;
        settings.limits.recent_bytes = 0;
        let files = Arc::new(SimFiles::new(Arc::new(Faulty::new(1)), Arc::default()));
        let clock = Arc::new(ManualClock::new(3_600_000));
        let node = Node::start(files, &ViewAt::Memory, &settings, clock).unwrap();
        let [mut ann, mut bob] = ["ann", "bob"].map(|user| {
            let (mut client, ends) = (Client::new(0, user), Ends::new(1 << 20));
            assert!(node.enter(0, &ends, user));
            client.opened(ends);
            client
        });
        for n in 1..=5 {
            let (_, text) = ann.state.publish("lobby", &n.to_string(), Payload::Json("1"));
            ann.say(&text);
        }
        while ann.send(1000) || node.turn(0, false) || node.write() || ann.receive(1000).unwrap() {}
        let since = Some(Since { epoch: String::new(), offset: 0 });
        let join = bob.state.join("lobby", JoinOptions { since, echo, history: 0 });
        bob.say(&join);
        let (_, text) = bob.state.publish("lobby", "6", Payload::Json("6"));
        bob.say(&text);
        bob.send(1000);
        while node.turn(0, false) {}
        // The first page of his stream; what he publishes is stored while he waits for the next.
        assert!(node.read());
        while node.turn(0, false) || node.write() {}
        node.kick("bob", room);
        while node.turn(0, false) {}
        while bob.receive(10_000).unwrap() {}
        let place = bob.state.room("lobby");
        let seen = bob.state.log().rooms[place].runs[0].deliveries.last().unwrap().offset;
        assert!(seen < 6, "he was sent all of it, so that nothing is shown");
        assert_eq!(bob.state.position(place).offset, seen, "{room:?}, echo {echo}");
        // Out of the room he is told what became of it; without a connection he asks again.
        assert_eq!(bob.state.unanswered(), usize::from(room.is_none()));
    }
}
