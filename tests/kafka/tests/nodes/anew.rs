//! Topics that are not what a node knew: made anew, or cut off before what it would read next.

use crate::*;
use klatch_harness::client::JoinOptions;
use klatch_kafka_tests::Traffic;
use klatch_kafka_tests::expected::partition;
use klatch_kafka_tests::oracle::Draft;
use klatch_suite::server::stop;

const ROOM: &str = "lobby";
/// In another partition.
const OTHER: &str = "zürich";

/// The topic is deleted, and there is another one of the name, with so many records in the room.
fn made_anew(world: &World, records: usize) {
    world.oracle.delete(TOPIC);
    world.oracle.create(TOPIC, PARTITIONS, &["message.timestamp.type=LogAppendTime"]);
    let drafts: Vec<Draft> = (0..records).map(|n| Draft::new(ROOM, &format!("\"new {n}\""))).collect();
    world.oracle.produce(TOPIC, &drafts);
}

/// Messages of the first life, as many as a member sees.
fn first_life(ann: &mut Client) {
    ann.join(ROOM, JoinOptions::default()).unwrap();
    for n in 0..5 {
        stored(ann, ROOM, &format!("old {n}"), &format!("\"old {n}\""));
    }
}

/// Connects until the node takes its client back in; whether it goes on from where it was.
fn come_back(client: &mut Client, url: &str) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        client.reconnect(Some(url)).unwrap();
        // It may be refused, or cut off again, as long as the node is not ready.
        match client.until(joined) {
            Ok(Ok(recovered)) => return recovered,
            Ok(Err(error)) => assert_eq!(error, "unavailable"),
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the node does not take it back");
}

/// What a client gets up to its own message, which it publishes now.
fn up_to_a_message(client: &mut Client, id: &str) -> Vec<String> {
    client.begin(ROOM, id, "1").unwrap();
    let mut seen = Vec::new();
    loop {
        let (what, text) = client.take().unwrap();
        if let Seen::Publication { .. } = what {
            seen.push(text);
            if seen.iter().any(|text| text.contains(&format!(r#""id":"{id}""#))) {
                return seen;
            }
        }
    }
}

/// Waits until the node has ended this client's connection.
fn cut_off(client: &mut Client) {
    while client.take().is_ok() {}
    client.cut();
}

#[test]
fn x16_a_node_that_was_stopped_follows_a_topic_that_was_made_anew() {
    // Shorter than what the view has seen, and longer.
    for records in [2, 12] {
        let world = World::new(Cluster::one().start());
        let a = world.node("a").start();
        let mut ann = client(&a.url(), "ann");
        first_life(&mut ann);
        ann.cut();
        stop(a);
        made_anew(&world, records);
        let a = world.node("a").start();
        assert!(!come_back(&mut ann, &a.url()), "{records}: not told that it is another topic");
        let seen = up_to_a_message(&mut ann, "after");
        assert_eq!(seen.len(), 1, "{seen:?}");
        let expected = world.expected();
        assert_eq!(expected.rooms[ROOM].len(), records + 1);
        tells("a", &a.url(), &expected.rooms);
    }
}

#[test]
fn x16_a_position_before_what_is_left_of_the_topic_is_reset() {
    let world = World::new(Cluster::one().start());
    let a = world.node("a").start();
    let mut ann = client(&a.url(), "ann");
    first_life(&mut ann);
    ann.cut();
    stop(a);
    let drafts: Vec<Draft> = (0..6).map(|n| Draft::new(ROOM, &format!("\"missed {n}\""))).collect();
    let places = world.oracle.produce(TOPIC, &drafts);
    world.oracle.delete_records(TOPIC, places[0].partition, Some(places[3].offset));
    let a = world.node("a").start();
    assert!(!come_back(&mut ann, &a.url()), "not told of what was deleted");
    let seen = up_to_a_message(&mut ann, "after");
    assert_eq!(seen.len(), 1, "{seen:?}");
    let ids = |rooms: &Rooms| -> Vec<String> {
        let of = |p: &String| serde_json::from_str::<serde_json::Value>(p).unwrap()["id"].to_string();
        rooms[ROOM].iter().map(of).collect()
    };
    let told = pages(&a.url(), &[ROOM.to_owned()], 500);
    assert_eq!(ids(&told).len(), 4);
    assert_eq!(ids(&told), ids(&world.expected().rooms));
}

#[test]
fn nodes_that_run_follow_a_topic_that_was_made_anew() {
    for records in [2, 12] {
        let world = World::new(Cluster::one().start());
        let ([a, b], urls) = two(&world);
        let mut clients = [client(&urls[0], "ann"), client(&urls[1], "bob")];
        clients.iter_mut().for_each(first_life);
        made_anew(&world, records);
        for (client, url) in clients.iter_mut().zip(&urls) {
            cut_off(client);
            assert!(!come_back(client, url), "{records}: not told that it is another topic");
        }
        let drops = clients.each_ref().map(|client| client.log().drops);
        for client in &mut clients {
            let seen = up_to_a_message(client, &format!("after {}", client.log().name));
            assert!(seen.iter().all(|text| !text.contains("old")), "{seen:?}");
        }
        // Both have read it once they answer it.
        let mut last = [&urls[0], &urls[1]].map(|url| client(url, "last"));
        for id in [END, "once more"] {
            for client in &mut last {
                stored(client, ROOM, id, "0");
            }
        }
        let expected = world.expected();
        tells("a", &a.url(), &expected.rooms);
        tells("b", &b.url(), &expected.rooms);
        for (mut client, drops) in clients.into_iter().zip(drops) {
            // One reset, and no other.
            client.begin(ROOM, "the last", "1").unwrap();
            while !client.take().unwrap().1.contains("the last") {}
            let log = client.into_log();
            assert_eq!(log.drops, drops, "{}", log.name);
        }
    }
}

#[test]
fn records_that_are_deleted_before_a_node_has_read_them_are_a_gap_in_their_partition_alone() {
    assert_ne!(partition(ROOM, PARTITIONS), partition(OTHER, PARTITIONS));
    let world = World::new(Cluster::one().proxies(1).start());
    let proxy = world.cluster.proxy(0);
    let a = world.node("a").start();
    let b = world.node_at("b", &proxy.url(TOPIC)).start();
    let mut bob = client(&a.url(), "bob");
    let mut members = [ROOM, OTHER].map(|room| {
        let mut member = client(&b.url(), room);
        member.join(room, JoinOptions::default()).unwrap();
        stored(&mut member, room, "before", "1");
        member
    });
    proxy.hold(Traffic::Fetched);
    let places: Vec<u64> = (0..5).map(|n| stored(&mut bob, ROOM, &format!("m{n}"), "1").0).collect();
    let others: Vec<u64> = (0..5).map(|n| stored(&mut bob, OTHER, &format!("m{n}"), "1").0).collect();
    assert!(proxy.holds(Traffic::Fetched, PATIENCE));
    // What is on its way to the node may still come; what it would fetch next is gone. A place is one more than Kafka's offset.
    world.oracle.delete_records(TOPIC, partition(ROOM, PARTITIONS), Some(places[3] - 1));
    proxy.release(Traffic::Fetched);

    let [here, there] = members.each_mut();
    let last =
        |seen: &Seen| matches!(seen, Seen::Publication { offset, .. } if *offset >= others[4]).then_some(());
    there.until(last).unwrap();
    cut_off(here);
    assert!(!come_back(here, &b.url()), "not told of what was deleted");
    stored(here, ROOM, "after", "1");
    stored(there, OTHER, "after", "1");
    assert_eq!(there.log().drops, 0);
    assert_eq!(metric(&b.url(), "klatch_kafka_gaps_total"), 1);
    let ends = |url: &str| {
        let rooms = pages(url, &[ROOM.to_owned()], 500);
        rooms[ROOM].last().cloned()
    };
    stored(&mut bob, ROOM, "the very last", "1");
    stored(&mut client(&b.url(), "bob"), ROOM, "the very last", "1");
    assert_eq!(ends(&a.url()), ends(&b.url()));
}
