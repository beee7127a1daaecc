//! What klatch did not write, or wrote twice: every node makes the same of it.

use crate::*;
use klatch_harness::client::JoinOptions;
use klatch_kafka_tests::expected::partition;
use klatch_kafka_tests::oracle::{Bytes, Draft, End};
use klatch_suite::members::listen;

const ROOM: &str = "lobby";

/// Records of other programs, most of which nobody could deliver.
fn strange() -> Vec<Draft> {
    let header = |value: &str| vec![("klatch-v".to_owned(), Some(value.into()))];
    let deep = "[".repeat(65) + &"]".repeat(65);
    let elsewhere = Some((partition(ROOM, PARTITIONS) + 1) % PARTITIONS);
    vec![
        Draft::new(ROOM, r#"{"text" : "from elsewhere", "n":1e999}"#),
        Draft::new(ROOM, "plain text, with \"quotes\"\nand lines"),
        Draft::new(ROOM, " [1, 2] "),
        Draft::new(ROOM, ""),
        Draft::new(ROOM, "\u{feff}{}"),
        Draft::new(ROOM, r#""half a pair \ud83d""#),
        Draft::new(ROOM, &deep),
        // From here on, nobody's.
        Draft { value: None, ..Draft::new(ROOM, "") },
        Draft { key: None, ..Draft::new("", "no key") },
        Draft { key: None, value: None, ..Draft::default() },
        Draft { value: Some(Bytes::new(b"\xff\xfe\0")), ..Draft::new(ROOM, "") },
        Draft { key: Some(Bytes::new(b"\xff\xfe\0")), ..Draft::new("", "1") },
        Draft::new("", "an empty key"),
        Draft::new("a\u{1}b", "1"),
        Draft::new(ROOM, &"x".repeat(900 << 10)),
        Draft { headers: header("1"), ..Draft::new(ROOM, "{}") },
        Draft { headers: header("1"), ..Draft::new(ROOM, "not JSON") },
        Draft { headers: header("99"), ..Draft::new(ROOM, "{}") },
        Draft { partition: elsewhere, ..Draft::new(ROOM, "misplaced") },
    ]
}

#[test]
fn r15_what_others_write_is_delivered_or_counted_and_stops_nothing() {
    let world = World::new(Cluster::one().start());
    let a = world.node("a").start();
    let rooms = [ROOM.to_owned()];
    let live = listen(&a.url(), &rooms, None);
    let mut ann = client(&a.url(), "ann");
    ann.join(ROOM, JoinOptions::default()).unwrap();
    let strange = strange();
    for (n, drafts) in strange.chunks(5).enumerate() {
        stored(&mut ann, ROOM, &format!("before {n}"), "1");
        world.oracle.produce(TOPIC, drafts);
    }
    world.oracle.produce_gzip(TOPIC, &strange);
    // This one reads all of it when it starts.
    let b = world.node("b").start();
    let last = end(&b.url(), &rooms);

    let seen = live.join().unwrap();
    let expected = world.expected();
    assert_eq!((expected.junk, expected.misplaced, expected.foreign), (22, 2, 14), "of what was written");
    same("a member", &seen, &expected.rooms);
    for (name, node) in [("a", &a), ("b", &b)] {
        tells(name, &node.url(), &expected.rooms);
        assert_eq!(metric(&node.url(), "klatch_kafka_junk_total"), 22, "{name}");
        assert_eq!(metric(&node.url(), "klatch_kafka_misplaced_total"), 2, "{name}");
    }
    let all = Expect { resets_at_most: Some(0), ..Expect::default() };
    ann.publish(ROOM, "one more", "1").unwrap();
    let expected = world.expected();
    checked(&[ann.into_log(), last.into_log()], &expected, all);
}

#[test]
fn copies_in_the_topic_are_one_message_at_one_place() {
    let world = World::new(Cluster::one().start());
    let ([a, b], urls) = two(&world);
    let rooms = [ROOM.to_owned()];
    let live = urls.each_ref().map(|url| listen(url, &rooms, None));
    let mut ann = client(&urls[0], "ann");
    let places: Vec<u64> =
        (0..5).map(|n| stored(&mut ann, ROOM, &format!("m{n}"), &format!(r#"{{"n":{n}}}"#)).0).collect();

    // Each once more as it is, and once with another body.
    let dump = world.oracle.dump(TOPIC);
    let copies: Vec<Draft> = dump.records.iter().map(|r| r.again()).collect();
    let altered = |draft: &Draft| {
        let value = draft.value.as_ref().and_then(Bytes::text).unwrap();
        assert!(value.contains(r#"{"n":"#), "{value}");
        Draft { value: Some(Bytes::from(&*value.replace(r#"{"n":"#, r#"{"m":"#))), ..draft.clone() }
    };
    let others: Vec<Draft> = copies.iter().map(altered).collect();
    let written = world.oracle.produce(TOPIC, &[copies, others].concat());
    assert_eq!(written.len(), 10);

    // Another connection of hers, at the other node, sends them again.
    let mut again = client(&urls[1], "ann");
    for (n, place) in places.iter().enumerate() {
        let id = format!("m{n}");
        assert_eq!(stored(&mut again, ROOM, &id, &format!(r#"{{"n":{n}}}"#)), (*place, true));
        match again.publish(ROOM, &id, r#""another""#).unwrap() {
            Outcome::NotStored { error, .. } => assert_eq!(error, "conflict"),
            other => panic!("{other:?}"),
        }
    }
    end(&urls[0], &rooms);
    let expected = world.expected();
    assert_eq!(expected.rooms[ROOM].len(), 6);
    for (live, (name, node)) in live.into_iter().zip([("a", &a), ("b", &b)]) {
        same(&format!("a member at {name}"), &live.join().unwrap(), &expected.rooms);
        tells(name, &node.url(), &expected.rooms);
    }
}

#[test]
fn x17_every_codec_is_read() {
    let world = World::new(Cluster::one().start());
    let rooms = [ROOM.to_owned()];
    for (number, codec) in [(1, "gzip"), (2, "snappy"), (3, "lz4"), (4, "zstd")] {
        let topic = format!("chats-{codec}");
        // The brokers compress again whatever comes.
        let properties = ["message.timestamp.type=LogAppendTime", &format!("compression.type={codec}")];
        world.oracle.create(&topic, PARTITIONS, &properties);
        let node = world.node_at(codec, &world.cluster.url(&topic)).start();
        let mut ann = client(&node.url(), "ann");
        // Acknowledged, so read back.
        stored(&mut ann, ROOM, "m", &format!("\"{}\"", "word ".repeat(1000)));
        world.oracle.produce(&topic, &[Draft::new(ROOM, "\"of another program\"")]);
        end(&node.url(), &rooms);
        let told = pages(&node.url(), &rooms, 500);
        assert_eq!(told[ROOM].len(), 3, "{codec}");
        let other = world.node_at(&format!("{codec}-new"), &world.cluster.url(&topic)).start();
        tells(codec, &other.url(), &told);

        let segment = format!("{topic}-{}/00000000000000000000.log", partition(ROOM, PARTITIONS));
        let segment = std::fs::read(world.cluster.data(0).join(segment)).unwrap();
        // The attributes of the first batch.
        assert_eq!(segment[22] & 7, number, "{codec} is not what it is compressed with");
    }
}

#[test]
fn a_transaction_that_nobody_ends_holds_up_no_room() {
    let world = World::new(Cluster::one().start());
    let a = world.node("a").start();
    let rooms = [ROOM.to_owned()];
    let live = listen(&a.url(), &rooms, None);
    let mut ann = client(&a.url(), "ann");
    stored(&mut ann, ROOM, "before", "1");
    let left = world.oracle.transaction(TOPIC, &[Draft::new(ROOM, "\"left open\"")], End::Leave);
    stored(&mut ann, ROOM, "after", "1");
    // It is open, and who waits for its end waits here.
    let stable = world.oracle.stable(TOPIC);
    let open = stable.iter().find(|at| at.partition == left[0].partition);
    assert_eq!(open, Some(&left[0]));
    // Their ends take places in the partition, of which one is its last when this node starts.
    world.oracle.transaction(TOPIC, &[Draft::new(ROOM, "\"taken back\"")], End::Abort);
    world.oracle.transaction(TOPIC, &[Draft::new(ROOM, "\"committed\"")], End::Commit);
    let b = world.node("b").start();
    end(&b.url(), &rooms);
    let expected = world.expected();
    assert_eq!(expected.rooms[ROOM].len(), 6);
    same("a member", &live.join().unwrap(), &expected.rooms);
    tells("a", &a.url(), &expected.rooms);
    tells("b", &b.url(), &expected.rooms);
}

/// A batch that is damaged on its way was left out by the client, which went on behind it: the messages were missing on this node for good,
/// and nobody was told.
#[test]
fn x17_a_damaged_batch_is_waited_for_and_not_left_out() {
    let world = World::new(Cluster::one().start());
    let a = world.node("a").start();
    let mut ann = client(&a.url(), "ann");
    stored(&mut ann, ROOM, "first", "1");
    drop((ann, a));
    // Each of these is a batch of its own.
    for text in ["\"before it\"", "\"damaged\"", "\"after it\""] {
        world.oracle.produce(TOPIC, &[Draft::new(ROOM, text)]);
    }
    let damage = world.cluster.damage(TOPIC, partition(ROOM, PARTITIONS), "damaged");
    let a = world.node("a").set("kafka.start_timeout_ms", 0).start();
    until(|| a.output().iter().filter(|line| line.contains("a batch of records is damaged")).count() > 1);
    assert_eq!(get(&a.url(), "/readyz"), (503, "down\n".into()));
    damage.mend();
    becomes(&a.url(), 200, "ready");
    let expected = world.expected();
    assert_eq!(expected.rooms[ROOM].len(), 4);
    tells("a", &a.url(), &expected.rooms);
}
