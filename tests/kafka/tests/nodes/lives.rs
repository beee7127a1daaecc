//! Topics that are no longer what they were, and nodes that start before there is a cluster.

use crate::broken::becomes;
use crate::resume::joined;
use crate::*;
use klatch_harness::client::{JoinOptions, Seen};
use klatch_harness::process::Server;
use klatch_kafka_tests::Traffic;
use klatch_kafka_tests::expected::partition;
use klatch_kafka_tests::oracle::Draft;

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

/// Deletes the topic and creates it again, with so many records in the room's partition at once.
fn again(world: &World, records: u64) {
    world.oracle.delete(TOPIC);
    world.oracle.create(TOPIC, PARTITIONS, &["message.timestamp.type=LogAppendTime"]);
    let new: Vec<Draft> = (0..records).map(|n| Draft::new(ROOM, &format!("\"new {n}\""))).collect();
    world.oracle.produce(TOPIC, &new);
}

/// The member is reset once, and what it and everybody is told is of the new life.
fn after(world: &World, a: &Server, mut ann: Client, records: u64) {
    ann.reconnect(Some(&a.url())).unwrap();
    assert_eq!(ann.until(joined).unwrap(), Ok(false), "the old position means nothing");
    let (last, duplicate) = stored(&mut ann, ROOM, "old 0", "\"new\"");
    assert_eq!((last, duplicate), (records + 1, false), "its id is free again");
    let expected = world.expected();
    assert_eq!(expected.rooms[ROOM].len() as u64, records + 1);
    assert!(!expected.rooms[ROOM].iter().any(|p| p.contains("\"old\"")), "{:?}", expected.rooms);
    tells("a", &a.url(), &expected.rooms);
    ann.cut();
    ann.reconnect(None).unwrap();
    assert_eq!(ann.until(joined).unwrap(), Ok(true), "once is enough");
}

fn is_replaced(a: &Server) {
    until(|| metric(&a.url(), "klatch_kafka_begun_anew_total") > 0);
    becomes(&a.url(), 200, "ready");
}

/// Fewer records than the node has seen: Kafka says that its position is out of range.
#[test]
fn a_topic_is_created_again_and_shorter_while_the_node_runs() {
    let world = World::new(Cluster::one().start());
    let (a, ann) = before(&world);
    again(&world, 3);
    is_replaced(&a);
    after(&world, &a, ann, 3);
}

/// More of them: Kafka gives what lies behind the old position, as if nothing had been.
#[test]
fn a_topic_is_created_again_and_longer_while_the_node_runs() {
    let world = World::new(Cluster::one().start());
    let (a, ann) = before(&world);
    again(&world, 3 * OLD);
    is_replaced(&a);
    after(&world, &a, ann, 3 * OLD);
}

/// A node that misses its topic does not create it.
#[test]
fn a_topic_that_is_gone_is_waited_for() {
    let world = World::new(Cluster::one().start());
    let (a, ann) = before(&world);
    world.oracle.delete(TOPIC);
    becomes(&a.url(), 503, "down");
    again_created(&world);
    is_replaced(&a);
    after(&world, &a, ann, 0);
}

fn again_created(world: &World) {
    world.oracle.create(TOPIC, PARTITIONS, &["message.timestamp.type=LogAppendTime"]);
}

#[test]
fn a_topic_is_created_again_while_the_node_does_not_run() {
    for records in [3, 3 * OLD] {
        let world = World::new(Cluster::one().start());
        let (a, ann) = before(&world);
        stop(a);
        again(&world, records);
        let a = world.node("a").start();
        after(&world, &a, ann, records);
    }
}

/// A node that reads slowly finds that retention was quicker. The members of the partition's rooms are told; the others notice nothing.
#[test]
fn records_are_deleted_before_a_node_has_read_them() {
    let other =
        (0..).map(|n| format!("other {n}")).find(|r| partition(r, PARTITIONS) != partition(ROOM, PARTITIONS));
    let other = other.unwrap();
    let world = World::new(Cluster::one().proxies(1).start());
    let proxy = world.cluster.proxy(0);
    let a = world.node("a").start();
    let b = world.node_at("b", &proxy.url(TOPIC)).start();
    let mut bob = client(&b.url(), "bob");
    let mut eve = client(&b.url(), "eve");
    bob.join(ROOM, JoinOptions::default()).unwrap();
    eve.join(&other, JoinOptions::default()).unwrap();
    let mut ann = client(&a.url(), "ann");
    let (place, _) = stored(&mut ann, ROOM, "before", "1");
    bob.until(published(place)).unwrap();

    proxy.hold(Traffic::Fetched);
    for n in 0..50 {
        stored(&mut ann, ROOM, &format!("lost {n}"), "1");
    }
    assert!(proxy.holds(Traffic::Fetched, PATIENCE));
    world.oracle.delete_records(TOPIC, partition(ROOM, PARTITIONS), None);
    stored(&mut ann, ROOM, "after", "1");
    let (place, _) = stored(&mut ann, &other, "other", "1");
    proxy.release(Traffic::Fetched);

    eve.until(published(place)).unwrap();
    until(|| metric(&b.url(), "klatch_kafka_gaps_total") > 0);
    becomes(&b.url(), 200, "ready");
    bob.reconnect(None).unwrap();
    assert_eq!(bob.until(joined).unwrap(), Ok(false), "it has missed something, and is told");
    let (last, _) = stored(&mut bob, ROOM, "last", "1");
    assert!(last > 50);
    // What comes first claims to follow the last that is gone, not what the node has seen.
    let mut expected = world.expected().rooms;
    let first = &mut expected.get_mut(ROOM).unwrap()[0];
    *first = first.replace("\"prev\":0", "\"prev\":51");
    tells("b", &b.url(), &expected);
    assert_eq!((eve.into_log().drops, metric(&b.url(), "klatch_kafka_gaps_total")), (0, 1));
}

fn published(place: u64) -> impl Fn(&Seen) -> Option<()> {
    move |seen| matches!(seen, Seen::Publication { offset, .. } if *offset == place).then_some(())
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
