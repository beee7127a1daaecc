//! Work consumers on a real Kafka: engines in this process, and the oracle for what other programs write.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used)]

use klatch::{Code, Consume, Consumer, Engine, Handled, HistoryQuery, Message, Publication, Settings};
use klatch_kafka_tests::oracle::{Bytes, Draft};
use klatch_kafka_tests::{Cluster, Oracle, PATIENCE};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

const TOPIC: &str = "chats";
const PARTITIONS: u32 = 4;

/// A handled publication: by whom, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    who: &'static str,
    room: String,
    offset: u64,
    prev: u64,
    id: String,
}

/// What all handlers have handled, in the order in which they did.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<(Mutex<Vec<Note>>, Condvar)>);

impl Notes {
    fn add(&self, who: &'static str, p: &Publication) {
        let (room, id) = (p.room().to_owned(), p.id().into_owned());
        self.0.0.lock().unwrap().push(Note { who, room, offset: p.offset(), prev: p.prev(), id });
        self.0.1.notify_all();
    }

    fn all(&self) -> Vec<Note> {
        self.0.0.lock().unwrap().clone()
    }

    /// Waits until they are like this.
    fn wait(&self, what: &str, mut like: impl FnMut(&[Note]) -> bool) -> Vec<Note> {
        let (notes, changed) = &*self.0;
        let unlike = |notes: &mut Vec<Note>| !like(notes);
        let (notes, timed_out) = changed.wait_timeout_while(notes.lock().unwrap(), PATIENCE, unlike).unwrap();
        assert!(!timed_out.timed_out(), "{what}: {} notes, {:?}", notes.len(), notes.last());
        notes.clone()
    }

    /// Offset, previous offset and id of what was handled of each room, in the order of handling.
    fn rooms(&self) -> Rooms {
        let mut rooms = Rooms::new();
        for note in self.all() {
            rooms.entry(note.room).or_default().push((note.offset, note.prev, note.id));
        }
        rooms
    }
}

type Rooms = BTreeMap<String, Vec<(u64, u64, String)>>;

fn engine(url: &str) -> Engine {
    let mut settings = Settings::default();
    settings.log = url.into();
    settings.kafka.partitions = PARTITIONS;
    settings.kafka.view_dir = "memory".into();
    Engine::builder().settings(settings).start().unwrap()
}

fn stored(engine: &Engine, room: &str, id: &str, data: &str) -> u64 {
    let message = Message::json(room, data).user("ann").id(id);
    engine.publish(message).wait().unwrap().position.offset
}

/// Publishes so many in each room; waits until they are stored.
fn publish(engine: &Engine, rooms: &[String], ids: &str, count: usize) {
    let messages = (0..count).flat_map(|n| {
        rooms.iter().map(move |room| Message::json(room, "1").user("ann").id(&format!("{ids}{n}")))
    });
    for publishing in engine.publish_batch(messages.collect()) {
        publishing.wait().unwrap();
    }
}

/// What a node has as history.
fn history(engine: &Engine, rooms: &[String]) -> Rooms {
    let page = |room: &String| {
        let mut all: Vec<(u64, u64, String)> = Vec::new();
        loop {
            let after = all.last().map_or(0, |(offset, ..)| *offset);
            let query = HistoryQuery { after, limit: 500, ..HistoryQuery::default() };
            let page = engine.history(room, query).unwrap();
            all.extend(page.publications.iter().map(|p| (p.offset(), p.prev(), p.id().into_owned())));
            if !page.more {
                return (room.clone(), all);
            }
        }
    };
    rooms.iter().map(page).collect()
}

fn rooms(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("room-{n}")).collect()
}

/// What nothing rings for.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn stop(consumer: Consumer) {
    assert!(consumer.stop(PATIENCE).unwrap(), "all that was handled is committed");
}

fn noting(notes: &Notes, who: &'static str) -> impl Fn(&Publication) -> Handled + Send + Sync + 'static {
    let notes = notes.clone();
    move |p| {
        notes.add(who, p);
        Ok(())
    }
}

#[test]
fn members_share_the_work_and_nothing_is_lost_or_done_twice_when_one_goes() {
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    let (a, b) = (engine(&cluster.url(TOPIC)), engine(&cluster.url(TOPIC)));
    let rooms = rooms(20);
    let notes = Notes::default();
    publish(&a, &rooms, "early", 3);
    // Copies, and other messages under ids that are taken; misplaced ones and junk.
    let dump = oracle.dump(TOPIC);
    let copies: Vec<Draft> = dump.records.iter().map(|r| r.again()).collect();
    let other = |draft: &Draft| {
        let value = draft.value.as_ref().and_then(Bytes::text).unwrap().replace(r#""data":1"#, r#""data":2"#);
        Draft { value: Some(Bytes::from(&*value)), ..draft.clone() }
    };
    let others: Vec<Draft> = copies.iter().map(other).collect();
    assert_ne!(copies, others);
    let misplaced = |p| Draft { partition: Some(p), ..Draft::new("room-0", "1") };
    let odd: Vec<Draft> =
        (0..PARTITIONS).map(misplaced).chain([Draft { key: None, ..Draft::default() }]).collect();
    oracle.produce(TOPIC, &[copies, others, odd].concat());

    let one = a.consume("chats", noting(&notes, "a")).unwrap();
    let two = b.consume(Consume::default(), noting(&notes, "b")).unwrap();
    let halves = || (one.status().partitions, two.status().partitions);
    until("each has half", || halves() == (2, 2));
    publish(&b, &rooms, "shared", 10);
    // One of those that were misplaced was not.
    notes.wait("all of both", |notes| notes.len() == 20 * 13 + 1);
    let of = |who| notes.all().iter().filter(|n| n.who == who && n.id.starts_with("shared")).count();
    assert!(of("a") > 0 && of("b") > 0, "{} and {}", of("a"), of("b"));

    // The second goes while there is work, by its handle; then comes again, and goes with its engine.
    let publishes = std::thread::spawn({
        let (a, rooms) = (a.clone(), rooms.clone());
        move || publish(&a, &rooms, "handle", 100)
    });
    notes.wait("some", |notes| notes.iter().any(|n| n.who == "b" && n.id.starts_with("handle")));
    drop(two);
    publishes.join().unwrap();
    notes.wait("all again", |notes| notes.len() > 20 * 113);
    until("the first has all", || one.status().partitions == 4);
    let two = b.consume("chats", noting(&notes, "b again")).unwrap();
    until("each has half again", || (one.status().partitions, two.status().partitions) == (2, 2));
    let publishes = std::thread::spawn({
        let (a, rooms) = (a.clone(), rooms.clone());
        move || publish(&a, &rooms, "engine", 100)
    });
    notes.wait("some", |notes| notes.iter().any(|n| n.who == "b again" && n.id.starts_with("engine")));
    b.stop(PATIENCE).unwrap();
    publishes.join().unwrap();
    notes.wait("all in the end", |notes| notes.len() > 20 * 213);
    until("nothing is left", || one.status().lag == 0 && one.status().partitions == 4);

    // Each once, in the order of its room, as the node tells it.
    assert_eq!(notes.rooms(), history(&a, &rooms));
    let text = a.metrics().prometheus();
    assert!(text.contains("klatch_consumer_lag{group=\"chats\"} 0\n"), "{text}");
    assert!(text.contains("klatch_consumer_partitions{group=\"chats\"} 4\n"), "{text}");
    let skipped = b.metrics().groups.get("chats").skipped.get() + one.status().skipped;
    assert_eq!(skipped, 2 * 60 + u64::from(PARTITIONS) - 1 + 1);
    stop(one);
    assert!(a.metrics().prometheus().contains("klatch_consumer_partitions{group=\"chats\"} 0\n"));
    a.stop(PATIENCE).unwrap();
}

/// Rooms in different partitions.
fn apart(rooms: &[String]) -> (String, String) {
    let partition = |room: &str| klatch_kafka_tests::expected::partition(room, PARTITIONS);
    let other = rooms.iter().find(|r| partition(r) != partition(&rooms[0])).unwrap();
    (rooms[0].clone(), other.clone())
}

#[test]
fn what_fails_is_handled_again_and_nothing_overtakes_it_in_its_room() {
    let cluster = Cluster::one().start();
    let engine = engine(&cluster.url(TOPIC));
    let (room, other) = apart(&rooms(20));
    let notes = Notes::default();
    let tries = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let handler = {
        let (notes, tries, mended) = (notes.clone(), tries.clone(), mended.clone());
        move |p: &Publication| -> Handled {
            let count = {
                let mut tries = tries.lock().unwrap();
                let count = tries.entry(p.id().into_owned()).or_default();
                *count += 1;
                *count
            };
            match &*p.id() {
                "twice" if count <= 2 => Err("not yet".into()),
                "panics" if count == 1 => panic!("a handler that panics"),
                "stuck" if !mended.load(std::sync::atomic::Ordering::SeqCst) => Err("stuck".into()),
                _ => {
                    notes.add("a", p);
                    Ok(())
                }
            }
        }
    };
    for id in ["m0", "twice", "m1", "panics", "m2", "stuck", "m3"] {
        stored(&engine, &room, id, "1");
    }
    let how = Consume::default().retry(Duration::from_millis(1), Duration::from_millis(20));
    let consumer = engine.consume(how, handler).unwrap();
    let ids = |notes: &[Note], room: &str| -> Vec<String> {
        notes.iter().filter(|n| n.room == room).map(|n| n.id.clone()).collect()
    };
    notes.wait("up to the one that is stuck", |notes| ids(notes, &room).len() == 5);
    until("it is tried", || tries.lock().unwrap().get("stuck").is_some_and(|n| *n > 5));
    // The other one's partition does not wait for it.
    stored(&engine, &other, "beside", "1");
    notes.wait("another room", |notes| !ids(notes, &other).is_empty());
    assert_eq!(ids(&notes.all(), &room), ["m0", "twice", "m1", "panics", "m2"]);
    until("the error is told", || consumer.status().last_error.as_deref() == Some("stuck"));
    assert!(consumer.status().lag >= 2);
    mended.store(true, std::sync::atomic::Ordering::SeqCst);
    notes.wait("all", |notes| notes.len() == 8);
    assert_eq!(ids(&notes.all(), &room), ["m0", "twice", "m1", "panics", "m2", "stuck", "m3"]);
    until("nothing is left", || consumer.status().lag == 0 && consumer.status().handled == 8);
    let status = consumer.status();
    let stuck = u64::from(tries.lock().unwrap()["stuck"]) - 1;
    assert_eq!((status.retries, status.last_error, status.failed), (2 + 1 + stuck, None, None));
    stop(consumer);
    engine.stop(PATIENCE).unwrap();
}

#[test]
fn a_handler_that_is_slower_than_a_member_may_poll_stays_in_its_group() {
    let cluster = Cluster::one().start();
    let (a, b) = (engine(&cluster.url(TOPIC)), engine(&cluster.url(TOPIC)));
    let notes = Notes::default();
    // Shorter is less than a session may be on a busy machine.
    const LIMIT: u64 = 12_000;
    let consume = |engine: &Engine, who| {
        let notes = notes.clone();
        let how = Consume::default()
            .property("max.poll.interval.ms", &LIMIT.to_string())
            .property("session.timeout.ms", &LIMIT.to_string());
        let handler = move |p: &Publication| -> Handled {
            notes.add(who, p);
            if p.id() == "slow" {
                // It is the time itself that would be too long.
                std::thread::sleep(Duration::from_millis(LIMIT + 3_000));
                notes.add("after", p);
            }
            Ok(())
        };
        engine.consume(how, handler).unwrap()
    };
    let (one, two) = (consume(&a, "a"), consume(&b, "b"));
    until("each has half", || (one.status().partitions, two.status().partitions) == (2, 2));
    stored(&a, "lobby", "slow", "1");
    stored(&a, "lobby", "next", "1");
    let seen = notes.wait("all", |notes| notes.iter().any(|n| n.id == "next"));
    let ids: Vec<(&str, &str)> = seen.iter().map(|n| (n.who, &*n.id)).collect();
    let who = ids[0].0;
    assert_eq!(ids, [(who, "slow"), ("after", "slow"), (who, "next")]);
    assert_eq!((one.status().partitions, two.status().partitions), (2, 2));
    stop(one);
    stop(two);
    // And it was committed.
    let three = consume(&a, "c");
    until("it has all", || three.status().partitions == 4 && three.status().lag == 0);
    assert_eq!((three.status().handled, notes.all().len()), (0, 3));
    stop(three);
    for engine in [a, b] {
        engine.stop(PATIENCE).unwrap();
    }
}

#[test]
fn a_restart_goes_on_from_the_commit_and_another_group_has_its_own() {
    let cluster = Cluster::one().start();
    let rooms = rooms(8);
    let first = engine(&cluster.url(TOPIC));
    publish(&first, &rooms, "m", 10);
    let notes = Notes::default();
    let consumer = first.consume("chats", noting(&notes, "first")).unwrap();
    let late = first.consume(Consume::group("late").from_end(), noting(&notes, "late")).unwrap();
    notes.wait("all", |notes| notes.len() == 80);
    until("nothing is left", || consumer.status().lag == 0);
    until("it is there", || late.status().partitions == 4);
    // What it begins with is committed, though it has handled nothing.
    stop(late);
    drop(consumer);
    first.stop(PATIENCE).unwrap();

    let second = engine(&cluster.url(TOPIC));
    publish(&second, &rooms, "n", 10);
    let consumer = second.consume("chats", noting(&notes, "second")).unwrap();
    let late = second.consume(Consume::group("late").from_end(), noting(&notes, "late")).unwrap();
    notes.wait("the new ones, in both", |notes| notes.len() >= 80 + 2 * 80);
    until("nothing is left", || consumer.status().lag + late.status().lag == 0);
    for who in ["second", "late"] {
        let of = notes.all().into_iter().filter(|n| n.who == who);
        let ids: Vec<String> = of.map(|n| n.id).collect();
        assert!(ids.len() == 80 && ids.iter().all(|id| id.starts_with('n')), "{who}: {ids:?}");
    }
    stop(consumer);
    stop(late);
    second.stop(PATIENCE).unwrap();
}

/// Wakes a task on the engine's thread, and keeps that thread until it is let go.
struct Keeper {
    kept: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Wake for Keeper {
    fn wake(self: Arc<Self>) {
        self.kept.send(()).unwrap();
        // Either way it goes on.
        let _ = self.go.lock().unwrap().recv();
    }
}

#[test]
fn a_node_that_is_behind_waits_and_skips_nothing() {
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    let behind = engine(&cluster.url(TOPIC));
    let notes = Notes::default();
    let consumer = behind.consume("behind", noting(&notes, "behind")).unwrap();
    until("it is there", || consumer.status().partitions == 4);

    // The thread that runs the tails stands still.
    let ((kept, is_kept), (go, wait)) = (channel(), channel());
    let waker = Waker::from(Arc::new(Keeper { kept, go: Mutex::new(wait) }));
    let mut first = pin!(behind.publish(Message::json("lobby", "1").user("ann").id("first")));
    let polled = first.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(matches!(polled, Poll::Pending), "it takes a way over the cluster");
    is_kept.recv_timeout(PATIENCE).unwrap();
    notes.wait("what came before", |notes| notes.len() == 1);
    let other = engine(&cluster.url(TOPIC));
    stored(&other, "lobby", "second", "1");
    let copies: Vec<Draft> = oracle.dump(TOPIC).records.iter().map(|r| r.again()).collect();
    oracle.produce(TOPIC, &copies);
    stored(&other, "lobby", "third", "1");
    // A group of its own on the other node has them all, so they could be had.
    let others = Notes::default();
    let beside = other.consume("beside", noting(&others, "beside")).unwrap();
    others.wait("all", |notes| notes.len() == 3);
    assert_eq!(notes.all().len(), 1, "its node does not know yet what they are");
    drop(go);
    notes.wait("all", |notes| notes.len() == 3);
    until("nothing is left", || consumer.status().lag == 0);
    assert_eq!(notes.rooms(), others.rooms());
    assert_eq!(notes.rooms(), history(&other, &["lobby".into()]));
    assert_eq!(consumer.status().skipped, 2);
    stop(consumer);
    stop(beside);
    for engine in [behind, other] {
        engine.stop(PATIENCE).unwrap();
    }
}

#[test]
fn what_the_topic_lost_is_passed_over_by_name_and_another_topic_is_begun_at_its_start() {
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    let (room, _) = apart(&rooms(20));
    let partition = klatch_kafka_tests::expected::partition(&room, PARTITIONS);
    let notes = Notes::default();
    let first = engine(&cluster.url(TOPIC));
    for n in 0..10 {
        stored(&first, &room, &format!("a{n}"), "1");
    }
    let consumer = first.consume("chats", noting(&notes, "first")).unwrap();
    notes.wait("all", |notes| notes.len() == 10);
    stop(consumer);
    for n in 0..10 {
        stored(&first, &room, &format!("b{n}"), "1");
    }
    // Of these the group gets the last three.
    oracle.delete_records(TOPIC, partition, Some(17));
    let consumer = first.consume("chats", noting(&notes, "second")).unwrap();
    let seen = notes.wait("what is left", |notes| notes.len() == 13);
    let ids: Vec<&str> = seen[10..].iter().map(|n| &*n.id).collect();
    assert_eq!(ids, ["b7", "b8", "b9"]);
    until("it is counted", || consumer.status().resets == 1);
    assert!(first.metrics().prometheus().contains("klatch_consumer_resets_total{group=\"chats\"} 1\n"));
    stop(consumer);
    first.stop(PATIENCE).unwrap();

    oracle.delete(TOPIC);
    let gone = || std::panic::catch_unwind(|| oracle.ends(TOPIC)).is_err();
    until("the topic is gone", gone);
    let second = engine(&cluster.url(TOPIC));
    // As many as the group had committed in the old one, and some.
    for n in 0..25 {
        stored(&second, &room, &format!("c{n}"), "1");
    }
    let consumer = second.consume("chats", noting(&notes, "third")).unwrap();
    let seen = notes.wait("all of the new one", |notes| notes.len() == 13 + 25);
    assert_eq!((&*seen[13].id, seen[13].offset), ("c0", 1));
    stop(consumer);
    second.stop(PATIENCE).unwrap();
}

/// A consumer reads what is deleted under it; it says so and goes on.
#[test]
fn what_is_deleted_under_a_consumer_stops_nothing() {
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    let (room, other) = apart(&rooms(20));
    let partition = klatch_kafka_tests::expected::partition(&room, PARTITIONS);
    let engine = engine(&cluster.url(TOPIC));
    let notes = Notes::default();
    // More than a client fetches ahead while a handler is at the first.
    let data = format!("\"{}\"", "x".repeat(50_000));
    for n in 0..100 {
        stored(&engine, &room, &format!("m{n}"), &data);
    }
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let handler = {
        let notes = notes.clone();
        move |p: &Publication| -> Handled {
            notes.add("a", p);
            if p.id() == "m0" {
                let _ = wait.lock().unwrap().recv();
            }
            Ok(())
        }
    };
    let consumer = engine.consume("chats", handler).unwrap();
    notes.wait("the first", |notes| notes.len() == 1);
    oracle.delete_records(TOPIC, partition, Some(98));
    drop(go);
    notes.wait("the last", |notes| notes.iter().any(|n| n.id == "m99"));
    stored(&engine, &room, "more", "1");
    stored(&engine, &other, "more", "1");
    notes.wait("what comes then", |notes| notes.iter().filter(|n| n.id == "more").count() == 2);
    until("nothing is left", || consumer.status().lag == 0);
    let seen = notes.all();
    let ids: BTreeSet<&str> = seen.iter().map(|n| &*n.id).collect();
    assert_eq!(ids.len() + 1, seen.len(), "nothing twice");
    assert!(seen.len() < 102 && consumer.status().resets == 1, "{} of 102 were left", seen.len());
    stop(consumer);
    engine.stop(PATIENCE).unwrap();
}

/// Its own node had read it while it was whole.
#[test]
fn x17_a_damaged_batch_is_waited_for_by_a_consumer_too() {
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    let (room, other) = apart(&rooms(20));
    let partition = klatch_kafka_tests::expected::partition(&room, PARTITIONS);
    let engine = engine(&cluster.url(TOPIC));
    // Each of these is a batch of its own.
    for text in ["\"before it\"", "\"damaged\"", "\"after it\""] {
        oracle.produce(TOPIC, &[Draft::new(&room, text)]);
    }
    stored(&engine, &room, "last", "1");
    let damage = cluster.damage(TOPIC, partition, "damaged");
    let notes = Notes::default();
    let consumer = engine.consume("chats", noting(&notes, "a")).unwrap();
    notes.wait("what lies before it", |notes| !notes.is_empty());
    stored(&engine, &other, "beside", "1");
    notes.wait("another room", |notes| notes.iter().any(|n| n.room == other));
    until("the rest waits", || consumer.status().lag == 3);
    assert_eq!(notes.all().len(), 2);
    damage.mend();
    notes.wait("all", |notes| notes.len() == 5);
    until("nothing is left", || consumer.status().lag == 0);
    assert_eq!(notes.rooms(), history(&engine, &[room, other]));
    assert_eq!(consumer.status().resets, 0);
    stop(consumer);
    engine.stop(PATIENCE).unwrap();
}

/// The new protocol of groups, in which the cluster assigns; and the old one in which everything stops for a rebalance.
#[test]
fn other_protocols_of_groups_work_too() {
    let cluster = Cluster::one().start();
    let rooms = rooms(20);
    let (a, b) = (engine(&cluster.url(TOPIC)), engine(&cluster.url(TOPIC)));
    publish(&a, &rooms, "m", 5);
    for (group, name, value) in
        [("new", "group.protocol", "consumer"), ("old", "partition.assignment.strategy", "range")]
    {
        let notes = Notes::default();
        let how = || Consume::group(group).property(name, value);
        let one = a.consume(how(), noting(&notes, "a")).unwrap();
        let two = b.consume(how(), noting(&notes, "b")).unwrap();
        until(group, || (one.status().partitions, two.status().partitions) == (2, 2));
        publish(&b, &rooms, group, 5);
        // The one that they were stored at has them all.
        let expected = history(&b, &rooms);
        let count = expected.values().map(Vec::len).sum::<usize>();
        notes.wait(group, |notes| notes.len() >= count);
        stop(two);
        until(group, || one.status().partitions == 4 && one.status().lag == 0);
        assert_eq!(notes.rooms(), expected, "{group}");
        stop(one);
    }
    for engine in [a, b] {
        engine.stop(PATIENCE).unwrap();
    }
}

#[test]
fn other_logs_have_no_groups() {
    let engine = Engine::builder().log("memory").start().unwrap();
    let e = engine.consume("chats", |_| Ok(())).unwrap_err();
    assert_eq!(e.code(), Code::Unsupported);
    assert!(e.message().contains("kafka://"), "{e}");
    engine.stop(PATIENCE).unwrap();
    assert_eq!(engine.consume("chats", |_| Ok(())).unwrap_err().code(), Code::Stopped);
}

/// What a group has committed means nothing in another topic of the name: all of that is handled.
#[test]
fn a_topic_that_was_created_again_is_handled_from_its_beginning() {
    const NEW: u64 = 20;
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    let a = engine(&cluster.url(TOPIC));
    let notes = Notes::default();
    let consumer = a.consume("chats", noting(&notes, "a")).unwrap();
    publish(&a, &["lobby".into()], "old", 5);
    notes.wait("the old ones", |notes| notes.len() == 5);
    oracle.delete(TOPIC);
    oracle.create(TOPIC, PARTITIONS, &["message.timestamp.type=LogAppendTime"]);
    let new: Vec<Draft> = (0..NEW).map(|n| Draft::new("lobby", &n.to_string())).collect();
    oracle.produce(TOPIC, &new);
    // With the topic goes what the group has committed, so that the old ones may come once more while they are still there.
    let is_new = |n: &&Note| n.id.contains('-');
    let handled = |notes: &[Note]| notes.iter().filter(is_new).map(|n| n.offset).collect::<BTreeSet<_>>();
    let all = notes.wait("the new ones", |notes| handled(notes) == (1..=NEW).collect());
    assert!(
        all.iter().skip_while(|n| !is_new(n)).all(|n| is_new(&n)),
        "none of the old ones among them: {all:?}"
    );
    stop(consumer);
    a.stop(PATIENCE).unwrap();
}
