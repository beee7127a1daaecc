//! The cluster, the proxy and the oracle themselves: what the other tests rely on.

#![allow(clippy::unwrap_used)]

use klatch_kafka_tests::oracle::{Bytes, Draft, Ends, Record};
use klatch_kafka_tests::{Cluster, Oracle, PATIENCE, Traffic};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

fn drafts(count: usize) -> Vec<Draft> {
    (0..count).map(|n| Draft::new(&format!("room {}", n % 5), &format!(r#"{{"n":{n}}}"#))).collect()
}

/// What was written, of what was read.
fn written(records: &[&Record]) -> Vec<Option<Bytes>> {
    records.iter().map(|r| r.value.clone()).collect()
}

fn values(drafts: &[Draft], room: &str) -> Vec<Option<Bytes>> {
    drafts.iter().filter(|d| d.key == Some(room.into())).map(|d| d.value.clone()).collect()
}

#[test]
fn a_dump_has_what_was_written_byte_for_byte() {
    // Started by a thread that ends: its servers must not end with it.
    let mut cluster = thread::spawn(|| Cluster::one().start()).join().unwrap();
    let oracle = Oracle::new(cluster.addresses());
    oracle.create("chats", 4, &["message.timestamp.type=LogAppendTime"]);
    let junk = [0xff, 0xfe, 0, 7];
    let mut sent = vec![
        Draft::new("zürich", "\u{feff}text with its mark, \"quotes\"\n"),
        Draft { key: None, value: Some("no key".into()), partition: Some(2), ..Draft::default() },
        Draft { key: Some("zürich".into()), value: None, ..Draft::default() },
        Draft { key: Some(Bytes::new(&junk)), value: Some(Bytes::new(&junk)), ..Draft::default() },
        Draft {
            headers: vec![
                ("klatch-v".into(), Some("1".into())),
                ("b".into(), Some(Bytes::new(&junk))),
                ("b".into(), Some("twice".into())),
            ],
            ..Draft::new("", "")
        },
    ];
    sent.extend(drafts(20));
    let mut places = oracle.produce("chats", &sent);
    let packed = drafts(3);
    places.extend(oracle.produce_gzip("chats", &packed));
    sent.extend(packed);
    assert_eq!(places.len(), sent.len());

    let dump = oracle.dump("chats");
    assert_eq!(dump.records.len(), sent.len());
    for (draft, place) in sent.iter().zip(&places) {
        let found =
            dump.records.iter().find(|r| (r.partition, r.offset) == (place.partition, place.offset)).unwrap();
        assert_eq!(found.again(), Draft { partition: None, ..draft.clone() });
    }
    // Where murmur2 of these keys lies, as Java computes it: 1564393856 and 275646681, of 4.
    assert_eq!((places[0].partition, places[2].partition, places[4].partition), (0, 0, 1));
    assert_eq!(places[1].partition, 2);
    // The log's time, which does not run back within a partition, and no client's.
    assert!(dump.records.windows(2).all(|w| {
        w[0].partition != w[1].partition
            || (w[0].offset < w[1].offset && w[0].timestamp <= w[1].timestamp && w[0].timestamp > 1 << 40)
    }));

    // The same from its data on disk.
    cluster.stop_node(0);
    cluster.restart(0);
    assert_eq!(oracle.dump("chats"), dump);
    cluster.stop();
}

#[test]
fn topics_change_as_they_are_told() {
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    oracle.create("chats", 2, &[]);
    assert!(oracle.dump("chats").records.is_empty());
    let on = |partition, n: usize| Draft { partition: Some(partition), ..Draft::new("k", &n.to_string()) };
    let sent: Vec<Draft> = (0..20).map(|n| on(n as u32 % 2, n)).collect();
    oracle.produce("chats", &sent);
    oracle.delete_records("chats", 0, Some(4));
    oracle.delete_records("chats", 1, None);
    oracle.partitions("chats", 3);
    let ends = [(0, 4, 10), (1, 10, 10), (2, 0, 0)];
    let ends = ends.map(|(partition, low, high)| Ends { partition, low, high });
    assert_eq!(oracle.ends("chats"), ends);
    let left = oracle.dump("chats").records;
    assert_eq!(left.iter().map(|r| r.offset).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
    oracle.delete("chats");
    oracle.create("chats", 1, &[]);
    assert_eq!(oracle.ends("chats"), [Ends { partition: 0, low: 0, high: 0 }]);
}

#[test]
fn of_three_nodes_any_one_may_be_lost() {
    let mut cluster = Cluster::three().start();
    let oracle = Oracle::new(cluster.addresses());
    oracle.create("chats", 6, &[]);
    let sent = drafts(60);
    oracle.produce("chats", &sent[..20]);
    cluster.kill(1);
    oracle.produce("chats", &sent[20..40]);
    cluster.restart(1);
    cluster.kill(2);
    oracle.produce("chats", &sent[40..]);
    cluster.restart(2);
    let dump = oracle.dump("chats");
    let rooms = dump.by_key();
    assert_eq!(rooms.len(), 5);
    for (room, records) in &rooms {
        assert_eq!(written(records), values(&sent, room), "{room}");
    }
    // All at once, and back.
    cluster.stop();
    cluster.restart_all();
    assert_eq!(oracle.dump("chats"), dump);
}

#[test]
fn who_is_frozen_answers_later() {
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    oracle.create("chats", 1, &[]);
    let mut stream = TcpStream::connect(cluster.addresses()).unwrap();
    // An ApiVersions request: kind 18, version 0, number 7, no name.
    let ask = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    cluster.freeze(0);
    stream.write_all(&ask).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = [0; 8];
    assert!(stream.read_exact(&mut answer).is_err(), "a frozen node has answered");
    cluster.thaw(0);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4..], [0, 0, 0, 7]);
}

#[test]
fn what_is_fetched_through_one_proxy_can_be_held_back_alone() {
    let cluster = Cluster::one().proxies(2).start();
    let oracle = Oracle::new(cluster.addresses());
    oracle.create("chats", 1, &[]);
    let [held, free] = [0, 1].map(|n| cluster.proxy(n));
    let [behind, live] = [held, free].map(|proxy| Oracle::new(proxy.addresses()).follow("chats"));
    let write = |oracle: &Oracle, text| oracle.produce("chats", &[Draft::new("r", text)]);
    write(&oracle, "one");
    assert!(behind.says("\"one\"", PATIENCE) && live.says("\"one\"", PATIENCE));

    held.hold(Traffic::Fetched);
    // Through the same proxy too: only what is fetched is held.
    write(&Oracle::new(held.addresses()), "two");
    assert!(live.says("\"two\"", PATIENCE));
    assert!(held.holds(Traffic::Fetched, PATIENCE));
    let seen = |process: &klatch_harness::process::Process| process.output().join("\n");
    assert!(!seen(&behind).contains("\"two\""), "{}", seen(&behind));
    held.release(Traffic::Fetched);
    assert!(behind.says("\"two\"", PATIENCE));
}

#[test]
fn what_is_produced_and_its_acks_can_be_held_back_alone() {
    let cluster = Cluster::one().proxies(1).start();
    let (direct, proxy) = (Oracle::new(cluster.addresses()), cluster.proxy(0));
    let through = Oracle::new(proxy.addresses());
    direct.create("chats", 1, &[]);
    for (n, what) in [Traffic::Produced, Traffic::Acks].into_iter().enumerate() {
        proxy.hold(what);
        thread::scope(|threads| {
            let writer = threads.spawn(|| through.produce("chats", &drafts(1)));
            assert!(proxy.holds(what, PATIENCE));
            // Reading goes on, and tells whether the cluster has it.
            let there = through.dump("chats").records.len();
            assert_eq!(there, n + usize::from(what == Traffic::Acks), "{what:?}");
            assert!(!writer.is_finished());
            proxy.release(what);
            assert_eq!(writer.join().unwrap()[0].offset, n as u64);
        });
        assert_eq!(through.dump("chats").records.len(), n + 1);
    }
}

/// Makes this program start a cluster and be killed.
const VICTIM: &str = "KLATCH_KAFKA_VICTIM";

#[test]
fn a_cluster_dies_with_a_test_that_is_killed() {
    if std::env::var_os(VICTIM).is_some() {
        let cluster = Cluster::one().start();
        println!("running {:?}", cluster.ids());
        // Killed here.
        loop {
            thread::park();
        }
    }
    let this = std::env::current_exe().unwrap();
    // What it cannot tidy up goes with this.
    let folder = tempfile::tempdir().unwrap();
    let mut victim = Command::new(this)
        .args(["--exact", "a_cluster_dies_with_a_test_that_is_killed", "--nocapture"])
        .env(VICTIM, "1")
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut out = victim.stdout.take().unwrap();
    let mut byte = [0];
    while !said.contains(']') && out.read(&mut byte).unwrap() > 0 {
        said.push(char::from(byte[0]));
    }
    let id: u32 = said.split(['[', ']']).nth(1).unwrap().parse().unwrap();
    // It has the pid for as long as this is open, and says when the process ends.
    let kafka = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(id as i32).unwrap(),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let mut end = [rustix::event::PollFd::new(&kafka, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut end, Some(&patience)).unwrap(), 1, "Kafka has outlived its test");
}
