//! Work consumers of C and C++ programs on a real Kafka: what is handled is committed, and goes on after a restart.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Program, run};
use klatch_kafka_tests::Cluster;
use std::collections::BTreeMap;
use std::process::Command;

const ROOMS: u32 = 6;
const ASAN: &[&str] =
    &["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/// The numbers of the messages of each room, in the order in which they were handled.
fn handled(out: &str) -> BTreeMap<u32, Vec<u32>> {
    let mut rooms: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (room, number) in out.lines().filter_map(|line| line.split_once(' ')) {
        rooms.entry(room.parse().unwrap()).or_default().push(number.parse().unwrap());
    }
    rooms
}

/// What each room has if nothing of these is missing, and nothing there twice.
fn all(first: u32, last: u32) -> BTreeMap<u32, Vec<u32>> {
    (0..ROOMS).map(|room| (room, (first..=last).collect())).collect()
}

#[test]
fn a_consumer_in_c_goes_on_after_a_restart_and_after_a_death_and_nothing_is_lost() {
    let cluster = Cluster::one().start();
    let with = |program: &Program, args: &[&str]| {
        let mut command: Command = program.command();
        command.arg(cluster.url("chats")).args(args);
        command
    };
    let program = Program::build("consume", &[]);
    let out = run(&mut with(&program, &["1", "20"]));
    assert_eq!(handled(&out), all(1, 20));
    // What was handled is not handled again.
    let out = run(&mut with(&program, &["21", "30"]));
    assert_eq!(handled(&out), all(21, 30));

    // It dies at its hundredth, of which it has not said that it is done.
    let died = with(&program, &["31", "70", "100"]).output().unwrap();
    assert_eq!((died.status.code(), &died.stderr[..]), (Some(3), &[][..]));
    let before = handled(&String::from_utf8(died.stdout).unwrap());
    assert_eq!(before.values().map(Vec::len).sum::<usize>(), 99);

    // rdkafka keeps a reference to a queue of each client, which is no leak of this library's.
    let out =
        run(with(&Program::build("consume", ASAN), &["71", "71"]).env("ASAN_OPTIONS", "detect_leaks=0"));
    let after = handled(&out);
    for room in 0..ROOMS {
        let (before, after) = (before.get(&room).cloned().unwrap_or_default(), &after[&room]);
        let next = before.last().map_or(31, |last| last + 1);
        assert_eq!(before, (31..next).collect::<Vec<_>>(), "room {room}");
        // What was not committed comes once more.
        assert!((31..=next).contains(&after[0]), "room {room}: {} after {next}", after[0]);
        assert_eq!(*after, (after[0]..=71).collect::<Vec<_>>(), "room {room}");
    }

    let out = run(&mut with(&Program::build_cpp("consume"), &["71"]));
    assert_eq!(handled(&out), all(1, 71));
}
