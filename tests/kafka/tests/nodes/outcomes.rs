//! What publishers were told, against what the topic holds, while its servers are lost in every way.

use crate::*;
use klatch::{Code, Engine, Message, Settings};
use klatch_kafka_tests::Traffic;
use klatch_kafka_tests::oracle::{Bytes, Dump};
use std::collections::{BTreeMap, HashMap};

const ROOM: &str = "lobby";

/// A publisher, and what it was told of the messages that it did not wait for.
struct Publisher {
    client: Client,
    name: &'static str,
    sent: Vec<(usize, String)>,
    told: HashMap<usize, Outcome>,
}

impl Publisher {
    fn new(url: &str, name: &'static str) -> Publisher {
        Publisher { client: client(url, name), name, sent: Vec::new(), told: HashMap::new() }
    }

    /// Sends messages one after the other. The node has taken each before the next is sent, so that they do not all travel together.
    fn begin(&mut self, count: usize, data: &str) {
        for _ in 0..count {
            let id = format!("{} {}", self.name, self.sent.len());
            let message = self.client.begin(ROOM, &id, data).unwrap();
            self.client.send_text(r#"{"type":"ping"}"#).unwrap();
            self.client.until(|seen| matches!(seen, Seen::Other).then_some(())).unwrap();
            self.sent.push((message, id));
        }
    }

    /// Waits until every message has an outcome.
    fn settle(&mut self) {
        while self.told.len() < self.sent.len() {
            if let Seen::Published { message, outcome } = self.client.take().unwrap().0 {
                self.told.insert(message, outcome);
            }
        }
    }

    /// Goes to another node and asks there what has become of those of which nothing is known: all of them are stored then.
    fn ask_again(&mut self, url: &str) {
        self.client.reconnect(Some(url)).unwrap();
        for (message, id) in &self.sent {
            if !matches!(self.told[message], Outcome::Unknown { .. }) {
                continue;
            }
            match self.client.retry(*message).unwrap() {
                Outcome::Stored { .. } => {}
                other => panic!("{id}, again: {other:?}"),
            }
        }
    }
}

/// How often each outcome was told.
#[derive(Debug, Default)]
struct Counts {
    stored: usize,
    not_stored: usize,
    unknown: usize,
}

/// Where the records with each id are, as clients count.
fn places(dump: &Dump) -> BTreeMap<String, Vec<u64>> {
    let mut places: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in &dump.records {
        let value = record.value.as_ref().and_then(Bytes::text).unwrap_or_default();
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        places.entry(value["id"].as_str().unwrap().to_owned()).or_default().push(record.offset + 1);
    }
    places
}

/// That what was told is true: stored is there at that place, not stored is nowhere. Unknown may be there or not.
fn true_of(dump: &Dump, publishers: &[Publisher]) -> Counts {
    let places = places(dump);
    let mut counts = Counts::default();
    for publisher in publishers {
        for (message, id) in &publisher.sent {
            let at = places.get(id).map(Vec::as_slice).unwrap_or_default();
            match &publisher.told[message] {
                Outcome::Stored { offset, .. } => {
                    assert_eq!(at.first(), Some(offset), "{id} was stored at {offset}, and is at {at:?}");
                    counts.stored += 1;
                }
                Outcome::NotStored { later, .. } => {
                    assert!(at.is_empty(), "{id} was not stored, and is at {at:?}");
                    assert!(later, "{id}: a later try would succeed");
                    counts.not_stored += 1;
                }
                Outcome::Unknown { .. } => counts.unknown += 1,
            }
        }
    }
    println!("{counts:?}");
    counts
}

/// A node that gives up soon, on a topic of one partition.
fn hasty(world: &World, topic: &str) -> Launch {
    world
        .node_at(&format!("{topic} a"), &world.cluster.url(topic))
        .set("kafka.partitions", 1)
        .set("kafka.message_timeout_ms", 1000)
}

/// Plays one fault on a topic of its own: `break_it` is given who leads and who follows, and publishes on; `mend_it` brings all back.
fn fault(
    world: &mut World,
    topic: &str,
    in_sync: u32,
    break_it: impl FnOnce(&mut Cluster, &mut [Publisher; 2], usize, usize),
    mend_it: impl FnOnce(&mut Cluster, usize, usize),
) {
    println!("{topic}");
    let properties =
        ["message.timestamp.type=LogAppendTime".to_owned(), format!("min.insync.replicas={in_sync}")];
    world.oracle.create(topic, 1, &properties.each_ref().map(String::as_str));
    let a = hasty(world, topic).start();
    let b =
        world.node_at(&format!("{topic} b"), &world.cluster.url(topic)).set("kafka.partitions", 1).start();
    let mut publishers = ["ann", "bob"].map(|name| Publisher::new(&a.url(), name));
    for publisher in &mut publishers {
        publisher.begin(10, "1");
        publisher.settle();
    }
    let leader = &world.oracle.leaders(topic)[0];
    let (leader, follower) = (leader.node(), leader.followers()[0]);
    break_it(&mut world.cluster, &mut publishers, leader, follower);
    publishers.iter_mut().for_each(Publisher::settle);
    mend_it(&mut world.cluster, leader, follower);
    becomes(&a.url(), 200, "ready");
    becomes(&b.url(), 200, "ready");
    publishers.iter_mut().for_each(|p| p.ask_again(&b.url()));
    end(&b.url(), &[ROOM.to_owned()]);

    let dump = world.oracle.dump(topic);
    let counts = true_of(&dump, &publishers);
    assert!(counts.stored >= 20 && counts.not_stored > 0 && counts.unknown > 0, "{counts:?}");
    let expected = Expected::of(&dump, 1, WINDOW_MS);
    // Another message of hers, so that it has read as far.
    stored(&mut client(&a.url(), "ann"), ROOM, "after the end", "1");
    let all = Expected::of(&world.oracle.dump(topic), 1, WINDOW_MS);
    assert_eq!(all.rooms[ROOM].len(), expected.rooms[ROOM].len() + 1);
    tells("a", &a.url(), &all.rooms);
    let logs = publishers.map(|p| p.client.into_log());
    checked(&logs, &all, Expect::default());
}

#[test]
fn what_is_answered_is_true_of_the_topic_whatever_becomes_of_its_servers() {
    // Longer than a publish is tried: what is sent to a server that is lost has no other to go to in time.
    let mut world = World::new(Cluster::three().set("broker.session.timeout.ms", 5000).start());
    fault(
        &mut world,
        "leader-killed",
        2,
        |cluster, publishers, leader, _| {
            // What is on its way when it dies, and what comes after.
            cluster.freeze(leader);
            publishers.iter_mut().for_each(|p| p.begin(30, "1"));
            cluster.kill(leader);
            publishers.iter_mut().for_each(|p| p.begin(30, "1"));
        },
        |cluster, leader, _| cluster.restart(leader),
    );
    fault(
        &mut world,
        "leader-stopped",
        2,
        |cluster, publishers, leader, _| {
            cluster.freeze(leader);
            publishers.iter_mut().for_each(|p| p.begin(60, "1"));
            // It goes on when all have been given up, with what it was sent.
            publishers.iter_mut().for_each(Publisher::settle);
            cluster.thaw(leader);
        },
        |_, _, _| {},
    );
    fault(
        &mut world,
        "in-sync-lost",
        3,
        |cluster, publishers, _, follower| {
            // The leader has appended them, and waits for one who will not come.
            cluster.freeze(follower);
            publishers.iter_mut().for_each(|p| p.begin(30, "1"));
            cluster.kill(follower);
            publishers.iter_mut().for_each(|p| p.begin(30, "1"));
        },
        |cluster, _, follower| cluster.restart(follower),
    );
}

#[test]
fn r16_what_waits_for_a_cluster_that_does_not_answer_is_bounded_and_goes_out_when_it_does() {
    const LIMIT: u64 = 100_000;
    let data = format!("\"{}\"", "x".repeat(1000));
    let world = World::new(Cluster::one().start());
    let a = world
        .node("a")
        .set("kafka.queue_bytes", LIMIT)
        .set("limits.append_queue_bytes", LIMIT)
        .set("limits.pending_publishes", 10_000)
        .start();
    let mut publishers = ["ann", "bob"].map(|name| Publisher::new(&a.url(), name));
    publishers[0].begin(1, &data);
    publishers[0].settle();
    world.cluster.freeze(0);
    for publisher in &mut publishers {
        publisher.begin(500, &data);
    }
    // Half of them are more than both queues hold. What was taken last may go past the limit, all of it.
    let kept = metric(&a.url(), "klatch_kafka_unacknowledged_bytes");
    assert!((LIMIT / 2..2 * LIMIT).contains(&kept), "{kept} bytes");
    world.cluster.thaw(0);
    publishers.iter_mut().for_each(Publisher::settle);
    becomes(&a.url(), 200, "ready");
    // All that is not stored is so because there was no room: nothing was on its way for too long.
    end(&a.url(), &[ROOM.to_owned()]);
    let counts = true_of(&world.oracle.dump(TOPIC), &publishers);
    assert_eq!(counts.unknown, 0);
    assert!(counts.stored > 100 && counts.not_stored > 500, "{counts:?}");
    for outcome in publishers.iter().flat_map(|p| p.told.values()) {
        if let Outcome::NotStored { error, .. } = outcome {
            assert!(["busy", "unavailable"].contains(&&**error), "{error}");
        }
    }
    assert_eq!(metric(&a.url(), "klatch_kafka_unacknowledged_bytes"), 0);
    tells("a", &a.url(), &world.expected().rooms);
}

/// Settings of an engine in this process that gives nothing up.
fn patient(world: &World) -> Settings {
    let mut settings = Settings::default();
    settings.listen = vec!["127.0.0.1:0".into()];
    settings.log = world.cluster.url(TOPIC);
    settings.kafka.view_dir = "memory".into();
    settings.limits.publish_timeout_ms = PATIENCE.as_millis() as u64;
    settings.kafka.message_timeout_ms = PATIENCE.as_millis() as u64 / 2;
    settings
}

/// Far more than anything has room for: what had none is told so, and goes out when it is sent again.
#[test]
fn r16_fifty_thousand_messages_meet_a_cluster_that_does_not_answer() {
    const MESSAGES: usize = 50_000;
    const LIMIT: usize = 2 << 20;
    let world = World::new(Cluster::one().start());
    let mut settings = patient(&world);
    settings.kafka.queue_bytes = LIMIT as u64;
    settings.limits.append_queue_bytes = LIMIT;
    let engine = Engine::builder().settings(settings).start().unwrap();
    let publish = |left: &[usize]| {
        let message =
            |n: &usize| Message::json(&format!("room-{}", n % 20), "1").user("ann").id(&n.to_string());
        engine.publish_batch(left.iter().map(message).collect())
    };
    let told = |left: Vec<usize>, sent: Vec<klatch::Publishing>| -> Vec<usize> {
        let refused = |(n, publishing): (usize, klatch::Publishing)| match publishing.wait() {
            Ok(_) => None,
            Err(e) => {
                assert!(matches!(e.code(), Code::Busy | Code::Unavailable), "{n}: {e}");
                Some(n)
            }
        };
        left.into_iter().zip(sent).filter_map(refused).collect()
    };
    publish(&[MESSAGES]).into_iter().for_each(|publishing| drop(publishing.wait().unwrap()));
    world.cluster.freeze(0);
    let mut left: Vec<usize> = (0..MESSAGES).collect();
    let sent = publish(&left);
    world.cluster.thaw(0);
    left = told(left, sent);
    assert!((1..MESSAGES - 1000).contains(&left.len()), "{} had no room", left.len());
    let by = Instant::now() + PATIENCE;
    while !left.is_empty() {
        assert!(Instant::now() < by, "{} are left", left.len());
        let sent = publish(&left);
        left = told(left, sent);
    }
    engine.stop(PATIENCE).unwrap();
    let places = places(&world.oracle.dump(TOPIC));
    assert!(places.len() == MESSAGES + 1 && places.values().all(|at| at.len() == 1));
}

/// That what he sent lies in the topic in the order in which he sent it, but for what was told like this. How many copies there are.
fn in_order(dump: &Dump, publisher: &Publisher, but_for: impl Fn(&Outcome) -> bool) -> usize {
    let places = places(dump);
    let of =
        |(message, id): &(usize, String)| (!but_for(&publisher.told[message])).then(|| places[id].clone());
    let places: Vec<Vec<u64>> = publisher.sent.iter().filter_map(of).collect();
    assert!(places.iter().map(|at| at.first()).is_sorted(), "{places:?}");
    places.iter().map(|at| at.len() - 1).sum()
}

/// The records go through, and the cluster's word that it has them does not.
#[test]
fn while_the_clusters_word_is_held_back_publishers_wait_and_nothing_is_lost_or_there_twice() {
    let world = World::new(Cluster::one().proxies(1).start());
    world.oracle.create(TOPIC, 1, &["message.timestamp.type=LogAppendTime"]);
    let proxy = world.cluster.proxy(0);
    let node = |name: &str| world.node_at(name, &proxy.url(TOPIC)).set("kafka.partitions", 1);
    let a = node("a").start();
    let b = node("b").set("kafka.message_timeout_ms", 1000).start();
    let [mut ann, mut bob] = [("ann", &a), ("bob", &b)].map(|(name, node)| Publisher::new(&node.url(), name));
    for publisher in [&mut ann, &mut bob] {
        publisher.begin(10, "1");
        publisher.settle();
    }
    // Who reads its record back needs no other word of it.
    proxy.hold(Traffic::Acks);
    stored(&mut client(&a.url(), "first"), ROOM, "first", "1");
    assert!(proxy.holds(Traffic::Acks, PATIENCE));
    // Of these the client sends some, and no more before it hears of them.
    ann.begin(60, "1");
    until(|| metric(&a.url(), "klatch_kafka_unacknowledged_bytes") > 60 * 300);
    proxy.release(Traffic::Acks);
    ann.settle();
    assert!(ann.told.values().all(|told| matches!(told, Outcome::Stored { duplicate: false, .. })));

    // Where nothing comes back, nobody knows of what was sent; and what was not is not stored.
    proxy.hold(Traffic::Acks);
    proxy.hold(Traffic::Fetched);
    bob.begin(60, "1");
    bob.settle();
    let unknown = |told: &Outcome| matches!(told, Outcome::Unknown { .. });
    assert!(bob.told.values().any(unknown));
    assert!(bob.told.values().any(|told| matches!(told, Outcome::NotStored { later: true, .. })));
    proxy.release(Traffic::Acks);
    proxy.release(Traffic::Fetched);
    for node in [&a, &b] {
        becomes(&node.url(), 200, "ready");
    }
    bob.ask_again(&b.url());
    end(&b.url(), &[ROOM.to_owned()]);
    let dump = world.oracle.dump(TOPIC);
    assert_eq!(in_order(&dump, &ann, |_| false), 0, "nothing was sent again");
    // Nobody sees the copies of those that were sent again before the node had read them back.
    in_order(&dump, &bob, |told| matches!(told, Outcome::NotStored { .. }));
    let publishers = [ann, bob];
    true_of(&dump, &publishers);
    let expected = Expected::of(&dump, 1, WINDOW_MS);
    for (name, node) in [("a", &a), ("b", &b)] {
        stored(&mut client(&node.url(), "after"), ROOM, "after the end", "1");
        tells(name, &node.url(), &Expected::of(&world.oracle.dump(TOPIC), 1, WINDOW_MS).rooms);
    }
    let all = Expected::of(&world.oracle.dump(TOPIC), 1, WINDOW_MS);
    assert_eq!(all.rooms[ROOM].len(), expected.rooms[ROOM].len() + 1);
    checked(&publishers.map(|p| p.client.into_log()), &all, Expect::default());
}

#[test]
fn r13_a_message_over_the_topics_limit_fails_alone() {
    const SMALL: usize = 200;
    let world = World::new(Cluster::one().start());
    let properties = ["message.timestamp.type=LogAppendTime", "max.message.bytes=32768"];
    world.oracle.create(TOPIC, PARTITIONS, &properties);
    // What is sent within this time may travel together.
    let a = world.node("a").set("kafka.properties.linger.ms", 200).start();
    let mut ann = Publisher::new(&a.url(), "ann");
    ann.begin(SMALL / 2, &format!("\"{}\"", "x".repeat(500)));
    let large = ann.sent.len();
    ann.begin(1, &format!("\"{}\"", "x".repeat(40 << 10)));
    ann.begin(SMALL / 2, &format!("\"{}\"", "x".repeat(500)));
    ann.settle();
    let mut last = 0;
    for (n, (message, id)) in ann.sent.iter().enumerate() {
        match &ann.told[message] {
            Outcome::Stored { offset, .. } if n != large => {
                assert!(*offset > last, "{id} is at {offset}, after {last}");
                last = *offset;
            }
            Outcome::NotStored { error, later: false, .. } if n == large => assert_eq!(error, "too_large"),
            other => panic!("{id}: {other:?}"),
        }
    }
    let dump = world.oracle.dump(TOPIC);
    assert_eq!(dump.records.len(), SMALL);
    tells("a", &a.url(), &world.expected().rooms);
}

#[test]
fn x19_a_stop_ends_while_the_cluster_does_not_answer() {
    const MESSAGES: usize = 1000;
    let world = World::new(Cluster::one().proxies(1).start());
    let proxy = world.cluster.proxy(0);
    let mut settings = patient(&world);
    settings.log = proxy.url(TOPIC);
    let engine = Engine::builder().settings(settings).start().unwrap();
    let publish = |id: &str| engine.publish(Message::json(ROOM, "1").user("ann").id(id));
    // Read back, and so acknowledged, without the cluster's own word: a stop once counted it among those that were not written.
    proxy.hold(Traffic::Acks);
    publish("before").wait().unwrap();
    world.cluster.freeze(0);
    let sent: Vec<_> = (0..MESSAGES).map(|n| (format!("m{n}"), publish(&format!("m{n}")))).collect();
    let (done, ended) = std::sync::mpsc::channel();
    let stopping = engine.clone();
    std::thread::spawn(move || done.send(stopping.stop(Duration::from_secs(1))));
    let stopped = ended.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(stopped.unwritten, MESSAGES as u64);
    // All are answered.
    let told: Vec<_> = sent.into_iter().map(|(id, publishing)| (id, publishing.wait())).collect();
    world.cluster.thaw(0);
    let places = places(&world.oracle.dump(TOPIC));
    assert!(places.contains_key("before"));
    let mut unknown = 0;
    for (id, told) in told {
        match told.unwrap_err().code() {
            Code::Unknown => unknown += 1,
            code => assert!(!places.contains_key(&id), "{id}: {code:?}, and it is there"),
        }
    }
    println!("{unknown} unknown, {} there", places.len() - 1);
}
