//! Clusters that lose what they are made of, under nodes of klatch that do not.

use crate::*;
use klatch_harness::client::{Failure, JoinOptions};
use klatch_harness::replay::{self, Options, Speed};
use klatch_suite::corpus;
use klatch_suite::members::listen;
use std::sync::mpsc::channel;

const MESSAGES: u64 = 3000;
const KILLS: u64 = 3;

/// A node that gives up as soon as one does by default.
fn hasty(world: &World, name: &str) -> Launch {
    world.node(name).set("limits.publish_timeout_ms", 10_000).set("kafka.message_timeout_ms", 8_000)
}

#[test]
fn one_of_three_kafkas_is_killed_over_and_over_and_nothing_is_lost_or_said_twice() {
    let mut world = World::new(Cluster::three().start());
    let names = ["a", "b", "c"];
    let nodes = names.map(|name| hasty(&world, name).start());
    let urls = nodes.each_ref().map(Server::url);
    // Of two copies at least nothing needs to be said.
    assert_eq!(get(&urls[0], "/readyz"), (200, "ready\n".into()));
    let corpus = corpus().limited(MESSAGES);
    let rooms: Vec<String> = corpus.scripts.iter().map(|s| s.room.clone()).collect();
    let live = urls.each_ref().map(|url| listen(url, &rooms, None));
    let options = Options {
        other_urls: urls[1..].to_vec(),
        // So that it goes on while nodes come and go.
        speed: Speed::PerSecond(400.0),
        window: Some(16),
        publish_rate: 0,
        drops_per_1000: 10,
        answer_timeout: PATIENCE,
        patience: PATIENCE,
        reconnect_for: PATIENCE,
        expect: Expect { messages: MESSAGES, resumes: 10, resets_at_most: RESETS, ..Expect::default() },
        ..Options::new(&*urls[0])
    };
    let (orders, incoming) = channel::<usize>();
    let (done, back) = channel();
    let oracle = world.oracle.clone();
    let cluster = &mut world.cluster;
    let report = std::thread::scope(|threads| {
        threads.spawn(move || {
            for node in incoming {
                cluster.kill(node);
                cluster.restart(node);
                done.send(()).unwrap();
            }
        });
        let mut asked = 0;
        let look = |p: &replay::Progress| {
            // With messages under way.
            let due = p.answered > (asked + 1) * p.total / (KILLS + 2) && p.sent > p.answered;
            if due && asked < KILLS {
                orders.send(asked as usize % 3).unwrap();
                asked += 1;
            }
        };
        let log = |_: &[String]| {
            // Not while the last one is still coming back.
            (0..KILLS).for_each(|_| back.recv().unwrap());
            Ok(Expected::of(&oracle.dump(TOPIC), PARTITIONS, WINDOW_MS).log)
        };
        let report = replay::run_with(corpus, &options, look, log).unwrap();
        assert_eq!(asked, KILLS, "the replay was over before the last kill");
        drop(orders);
        report
    });
    println!("{report}");
    assert!(report.ok(), "{report}");
    end(&urls[0], &rooms);
    let live = live.map(|listener| listener.join().unwrap());
    let expected = world.expected();
    for ((live, name), url) in live.iter().zip(names).zip(&urls) {
        same(&format!("a member at {name}"), live, &expected.rooms);
        tells(name, url, &expected.rooms);
    }
}

#[test]
fn while_the_cluster_is_away_members_stay_and_publishes_are_refused_truthfully() {
    const ROOM: &str = "lobby";
    let mut world = World::new(Cluster::one().start());
    let a = hasty(&world, "a").start();
    let mut ann = client(&a.url(), "ann");
    ann.join(ROOM, JoinOptions::default()).unwrap();
    stored(&mut ann, ROOM, "before", "1");
    let before = world.expected();

    world.cluster.kill(0);
    let sent: Vec<usize> = (0..10).map(|n| ann.begin(ROOM, &format!("away {n}"), "1").unwrap()).collect();
    let (mut refused, mut unknown) = (0, Vec::new());
    for message in &sent {
        match ann.outcome(*message).unwrap() {
            Outcome::NotStored { later, .. } => {
                assert!(later);
                refused += 1;
            }
            Outcome::Unknown { .. } => unknown.push(*message),
            other => panic!("{other:?}"),
        }
    }
    becomes(&a.url(), 503, "down");
    assert!(matches!(ann.publish(ROOM, "down", "1").unwrap(), Outcome::NotStored { later: true, .. }));
    for message in unknown {
        let again = ann.retry(message).unwrap();
        assert!(matches!(again, Outcome::Unknown { .. }), "the first may be stored: {again:?}");
    }
    tells("a, alone", &a.url(), &before.rooms);
    let mut late = client(&a.url(), "late");
    late.join(ROOM, JoinOptions { history: 10, ..JoinOptions::default() }).unwrap();

    world.cluster.restart(0);
    becomes(&a.url(), 200, "ready");
    // The same connection, which was never lost.
    for message in 1..12 {
        // What was not stored, or nobody knows of: sent again with the same ids. What was stored after all has told so itself.
        match ann.retry(message) {
            Ok(Outcome::Stored { .. }) => {}
            Err(Failure::Refused(_)) => assert!(!ann.state().waits_for(message)),
            other => panic!("{other:?}"),
        }
    }
    let expected = world.expected();
    tells("a", &a.url(), &expected.rooms);
    let (last, _) = stored(&mut late, ROOM, "after", "1");
    assert!(last > 0 && refused > 0);
    let until = |seen: &Seen| match seen {
        Seen::Publication { offset, .. } if *offset >= last => Some(()),
        _ => None,
    };
    ann.until(until).unwrap();
    let expect = Expect { messages: 13, resets_at_most: Some(0), ..Expect::default() };
    let logs = [ann.into_log(), late.into_log()];
    assert_eq!(logs[0].drops, 0);
    checked(&logs, &world.expected(), expect);
}
