//! Topics that are no longer what they were, and nodes that start before there is a cluster.

use crate::*;
use klatch_harness::client::JoinOptions;

const ROOM: &str = "lobby";
const OLD: u64 = 20;

/// A node, and a member that has seen the old life of the topic.
fn before(world: &World) -> (Server, Client) {
    let a = world.node("a").start();
    let mut ann = client(&a.url(), "ann");
    ann.join(ROOM, JoinOptions::default()).unwrap();
    for n in 0..OLD {
        stored(&mut ann, ROOM, &format!("old {n}"), "\"old\"");
    }
    (a, ann)
}

/// The member is reset once, and what it and everybody is told is of the new life.
fn after(world: &World, a: &Server, mut ann: Client) {
    ann.reconnect(Some(&a.url())).unwrap();
    assert_eq!(ann.until(joined).unwrap(), Ok(false), "the old position means nothing");
    let (last, duplicate) = stored(&mut ann, ROOM, "old 0", "\"new\"");
    assert_eq!((last, duplicate), (1, false), "its id is free again");
    let expected = world.expected();
    assert_eq!(expected.rooms[ROOM].len(), 1);
    tells("a", &a.url(), &expected.rooms);
    ann.cut();
    ann.reconnect(None).unwrap();
    assert_eq!(ann.until(joined).unwrap(), Ok(true), "once is enough");
}

/// A node that misses its topic does not create it.
#[test]
fn a_topic_that_is_gone_is_waited_for() {
    let world = World::new(Cluster::one().start());
    let (a, ann) = before(&world);
    world.oracle.delete(TOPIC);
    becomes(&a.url(), 503, "down");
    world.oracle.create(TOPIC, PARTITIONS, &["message.timestamp.type=LogAppendTime"]);
    until(|| metric(&a.url(), "klatch_kafka_begun_anew_total") > 0);
    becomes(&a.url(), 200, "ready");
    after(&world, &a, ann);
}

#[test]
fn a_node_starts_before_there_is_a_cluster() {
    let mut world = World::new(Cluster::one().start());
    world.cluster.kill(0);
    let a = world.node("a").set("kafka.start_timeout_ms", 0).start();
    becomes(&a.url(), 503, "down");
    let mut ann = client(&a.url(), "ann");
    let refused = ann.join(ROOM, JoinOptions::default());
    assert!(format!("{refused:?}").contains("unavailable"), "{refused:?}");
    assert!(matches!(ann.publish(ROOM, "m0", "1").unwrap(), Outcome::NotStored { later: true, .. }));
    world.cluster.restart(0);
    becomes(&a.url(), 200, "ready");
    // The same connection.
    ann.join(ROOM, JoinOptions::default()).unwrap();
    stored(&mut ann, ROOM, "m1", "1");
    tells("a", &a.url(), &world.expected().rooms);
}
