//! What counts as a duplicate, on nodes that have seen more or less of the topic.
//!
//! The window is by the log's time. Here those who write say the time, so that nobody has to wait for it: `topic_mode=skip` lets a node
//! take a topic that is made so.

use crate::*;
use klatch_kafka_tests::oracle::{Draft, Dump};
use klatch_suite::history::offset;
use klatch_suite::members::listen;
use klatch_suite::server::stop;
use std::fs;
use std::time::SystemTime;

const ROOM: &str = "lobby";
const WINDOW: u64 = 20_000;

/// What is written: milliseconds since the beginning, id, data.
type Written = (u64, &'static str, u32);

/// Before any node stops: within the window, at its end and past it; a duplicate that keeps another one alive; a conflict.
const FIRST: &[Written] = &[
    (0, "m1", 1),
    (1000, "m2", 1),
    (2000, "m3", 1),
    (10_000, "m1", 1),
    (21_001, "m2", 1),
    (22_000, "m3", 1),
    (25_000, "m2", 2),
    (30_000, "m1", 1),
    // What is before here is deleted later.
    (35_000, "z1", 1),
    (36_000, "z2", 1),
    (36_500, "first", 0),
];
/// How many of those are deleted.
const DELETED: u64 = 8;
/// Before the records are deleted.
const SECOND: &[Written] = &[(40_000, "x1", 1), (41_000, "x2", 1), (50_000, "x1", 1), (51_000, "z1", 1)];
/// After that, and a window after the first that is left.
const THIRD: &[Written] = &[
    (56_000, "z2", 1),
    (60_000, "x1", 1),
    (61_000, "x2", 2),
    (71_001, "z1", 1),
    (80_000, "x1", 2),
    (81_001, "x2", 1),
    (82_000, "m1", 1),
    (83_000, "m2", 2),
];

/// What comes so late that a node which knows nothing of what was deleted decides it as all others do: a window and a minute after the
/// first record that is left.
const LATE: &[Written] = &[(116_000, "x1", 1), (117_000, "y1", 1), (118_000, "y1", 1), (119_000, "y1", 2)];

/// Plays the three parts. Between them one node goes on, one is stopped with a copy of its view made of it, one is stopped for good
/// with its view deleted; after the deletion all three go on, and are to tell the same as the rule says of the whole log.
fn three_nodes(second: &[Written], third: &[Written]) {
    let world = World::new(Cluster::one().start());
    world.oracle.create(TOPIC, 1, &["message.timestamp.type=CreateTime"]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let write = |written: &[Written]| {
        let draft = |(time, id, data): &Written| {
            let time = now - 3_600_000 + time;
            let value = format!(
                r#"{{"id":"{id}","room":"{ROOM}","sender":"ann","type":"message","data":{data},"ts":{time}}}"#
            );
            let headers = vec![("klatch-v".to_owned(), Some("1".into()))];
            Draft { timestamp: Some(time), headers, ..Draft::new(ROOM, &value) }
        };
        let drafts: Vec<Draft> = written.iter().map(draft).collect();
        world.oracle.produce(TOPIC, &drafts);
    };
    let node = |name: &str| {
        let node = world.node(name).set("kafka.partitions", 1).set("kafka.topic_mode", "skip");
        // No longer than the window, or it would not start.
        node.set("dedupe_window_ms", WINDOW).set("kafka.message_timeout_ms", WINDOW)
    };
    let [long, copied, deleted] = ["long", "copied", "deleted"].map(|name| node(name).start());
    let live = listen(&long.url(), &[ROOM.to_owned()], None);
    write(FIRST);
    let all = [&long, &copied, &deleted].map(klatch_harness::process::Server::url);
    all.iter().for_each(|url| has_read(url, "first"));
    stop(copied);
    stop(deleted);
    let view = |name: &str| world.folder.path().join(name);
    copy(&view("copied"), &view("stale"));
    fs::remove_dir_all(view("deleted")).unwrap();
    write(second);
    let before = world.oracle.dump(TOPIC);
    world.oracle.delete_records(TOPIC, 0, Some(DELETED));
    write(third);
    write(LATE);
    let [stale, deleted] = ["stale", "deleted"].map(|name| node(name).start());
    let all = [&long, &stale, &deleted].map(klatch_harness::process::Server::url);
    write(&[(120_000, END, 0)]);
    all.iter().for_each(|url| has_read(url, END));

    let mut records = before.records;
    records.retain(|r| r.offset < DELETED);
    records.extend(world.oracle.dump(TOPIC).records);
    let expected = Expected::of(&Dump { records }, 1, WINDOW).rooms;
    same("a member of the node that went on", &live.join().unwrap(), &expected);
    let late = expected[ROOM].iter().find(|p| p.contains("y1")).map(|p| offset(p) - 1).unwrap();
    // Its first record is the copy of x1 that is no duplicate any more.
    let named = [("went on", DELETED), ("had an old view", DELETED), ("had none", late - 1)];
    for ((name, after), url) in named.into_iter().zip(&all) {
        let told = left(pages(url, &[ROOM.to_owned()], 500), DELETED);
        same(&format!("the node that {name}"), &told, &left(expected.clone(), after));
    }
}

/// Waits until the history of a node has this message. Nothing is published for it: klatch's own messages have the time of now.
fn has_read(url: &str, id: &str) {
    let (until, id) = (Instant::now() + PATIENCE, format!(r#""id":"{id}""#));
    while !pages(url, &[ROOM.to_owned()], 500)[ROOM].iter().any(|p| p.contains(&id)) {
        assert!(Instant::now() < until, "{url} has not read {id}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is after an offset, without what the first of it says of those before.
fn left(mut rooms: Rooms, after: u64) -> Rooms {
    for publications in rooms.values_mut() {
        publications.retain(|p| offset(p) > after);
        if let Some(first) = publications.first_mut() {
            let (head, rest) = first.split_once(r#""prev":"#).unwrap();
            *first = format!("{head}{}", rest.split_once(',').unwrap().1);
        }
    }
    rooms
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[test]
fn three_nodes_with_a_view_an_old_one_and_none_decide_alike_after_records_were_deleted() {
    three_nodes(SECOND, THIRD);
}

/// Copies of what was deleted: only who has seen the first knows them for what they are.
#[test]
fn so_they_do_within_a_window_of_the_oldest_record_that_is_left() {
    let second = [SECOND, &[(45_000, "m1", 1), (45_000, "m2", 1)]].concat();
    three_nodes(&second, &[&[(55_000, "m1", 1)], THIRD].concat());
}
