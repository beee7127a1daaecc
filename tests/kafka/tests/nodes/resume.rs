//! A client that goes on at another node.

use crate::*;
use klatch_harness::client::{Failure, JoinOptions};
use klatch_kafka_tests::Traffic;

const ROOM: &str = "lobby";

#[test]
fn one_who_is_cut_off_right_after_an_ack_goes_on_at_the_other_node() {
    const TIMES: u64 = 50;
    let world = World::new(Cluster::one().start());
    let (_nodes, urls) = two(&world);
    let mut ann = client(&urls[0], "ann");
    let mut bob = client(&urls[1], "bob");
    for client in [&mut ann, &mut bob] {
        client.join(ROOM, JoinOptions::default()).unwrap();
    }
    for n in 0..TIMES {
        bob.begin(ROOM, &format!("bob {n}"), "1").unwrap();
        stored(&mut ann, ROOM, &format!("ann {n}"), "1");
        ann.cut();
        // What is said in the meantime is what it has missed.
        bob.begin(ROOM, &format!("bob again {n}"), "1").unwrap();
        ann.reconnect(Some(&urls[(n as usize + 1) % 2])).unwrap();
        assert_eq!(ann.until(joined).unwrap(), Ok(true), "time {n}");
    }
    let (last, _) = stored(&mut bob, ROOM, "the last", "1");
    let until = |seen: &Seen| match seen {
        Seen::Publication { offset, .. } if *offset >= last => Some(()),
        _ => None,
    };
    ann.until(until).unwrap();
    let expect = Expect { messages: 3 * TIMES, resumes: TIMES, resets_at_most: Some(0), ..Expect::default() };
    checked(&[ann.into_log(), bob.into_log()], &world.expected(), expect);
}

/// A node that is behind says so, and resets nobody.
#[test]
fn limit_resume_wait_ms() {
    let world = World::new(Cluster::one().proxies(1).start());
    let proxy = world.cluster.proxy(0);
    let a = world.node("a").start();
    let b = world.node_at("b", &proxy.url(TOPIC)).start();
    let mut ann = client(&a.url(), "ann");
    ann.join(ROOM, JoinOptions::default()).unwrap();
    stored(&mut ann, ROOM, "m0", "1");
    proxy.hold(Traffic::Fetched);
    stored(&mut ann, ROOM, "m1", "1");
    assert!(proxy.holds(Traffic::Fetched, PATIENCE));

    // The other node has not read m1, whose place the client names.
    ann.reconnect(Some(&b.url())).unwrap();
    assert_eq!(ann.until(joined).unwrap(), Err("unavailable".to_owned()));
    assert_eq!(metric(&b.url(), "klatch_limit_hits_total{limit=\"resume_wait_ms\"}"), 1);
    stored(&mut client(&a.url(), "bob"), ROOM, "m2", "1");
    proxy.release(Traffic::Fetched);
    let room = ann.state().room(ROOM);
    let answer = loop {
        let join = ann.state().rejoin(room);
        ann.send_text(join).unwrap();
        match ann.until(joined).unwrap() {
            // It may still be reading.
            Err(error) => assert_eq!(error, "unavailable"),
            Ok(recovered) => break recovered,
        }
    };
    assert!(answer, "the client was reset");
    becomes(&b.url(), 200, "ready");
    let (last, _) = stored(&mut ann, ROOM, "m3", "1");
    assert!(last > 0);
    let expect = Expect { messages: 3, resumes: 1, resets_at_most: Some(0), ..Expect::default() };
    checked(&[ann.into_log()], &world.expected(), expect);
}

/// One join is all it takes: it waits for what the node has yet to read, and then gets what was missed.
#[test]
fn a_join_at_a_node_that_is_behind_waits_and_then_goes_on() {
    let world = World::new(Cluster::one().proxies(1).start());
    let proxy = world.cluster.proxy(0);
    let a = world.node("a").start();
    let launch = world.node_at("b", &proxy.url(TOPIC)).set("shards", 1);
    let b = launch.set("limits.resume_wait_ms", PATIENCE.as_millis()).start();
    let mut ann = client(&a.url(), "ann");
    ann.join(ROOM, JoinOptions::default()).unwrap();
    stored(&mut ann, ROOM, "m0", "1");
    proxy.hold(Traffic::Fetched);
    stored(&mut ann, ROOM, "m1", "1");
    assert!(proxy.holds(Traffic::Fetched, PATIENCE));
    ann.cut();
    stored(&mut client(&a.url(), "bob"), ROOM, "m2", "1");
    ann.reconnect(Some(&b.url())).unwrap();
    // The same thread answers others who come after it, and says nothing to this one.
    let mut others = client(&b.url(), "others");
    for _ in 0..20 {
        others.join(ROOM, JoinOptions { history: 10, ..JoinOptions::default() }).unwrap();
        others.leave(ROOM).unwrap();
    }
    ann.set_timeout(Duration::from_millis(1));
    assert!(matches!(ann.until(joined), Err(Failure::Timeout)), "it does not wait");
    ann.set_timeout(PATIENCE);
    proxy.release(Traffic::Fetched);
    assert_eq!(ann.until(joined).unwrap(), Ok(true));
    becomes(&b.url(), 200, "ready");
    assert_eq!(metric(&b.url(), "klatch_limit_hits_total{limit=\"resume_wait_ms\"}"), 0);
    let (last, _) = stored(&mut ann, ROOM, "m3", "1");
    assert!(last > 0);
    let expect = Expect { messages: 3, resumes: 1, resets_at_most: Some(0), ..Expect::default() };
    checked(&[ann.into_log()], &world.expected(), expect);
}
