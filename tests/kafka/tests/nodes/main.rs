//! Nodes of klatch, each a process of its own, on one Kafka topic.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod anew;
mod broken;
mod foreign;
mod growth;
mod guarded;
mod lives;
mod load;
mod outcomes;
mod resume;
mod topics;
mod window;

use klatch_harness::checker::{self, Expect};
use klatch_harness::client::{Client, Outcome, Seen};
use klatch_harness::observe::ClientLog;
use klatch_harness::process::Server;
use klatch_kafka_tests::{Cluster, Expected, Oracle, PATIENCE};
use klatch_suite::Launch;
use klatch_suite::history::get;
use klatch_suite::members::{END, Rooms, pages, same};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const TOPIC: &str = "chats";
const PARTITIONS: u32 = 16;
/// The default window for duplicates.
const WINDOW_MS: u64 = 60 * 60 * 1000;

/// How many clients may be reset in a run: none, wherever they come from.
const RESETS: Option<u64> = Some(0);

/// A cluster and what works on its topic.
struct World {
    oracle: Oracle,
    folder: TempDir,
    cluster: Cluster,
}

impl World {
    fn new(cluster: Cluster) -> World {
        let oracle = Oracle::new(cluster.addresses());
        World { oracle, cluster, folder: tempfile::tempdir().unwrap() }
    }

    /// How to start a node of this name, whose view is kept under it.
    fn node(&self, name: &str) -> Launch {
        self.node_at(name, &self.cluster.url(TOPIC))
    }

    /// The same, at another address of the cluster. It waits for the cluster as long as the tests do, and for clients that wait for
    /// something else.
    fn node_at(&self, name: &str, url: &str) -> Launch {
        Launch::new(Path::new(url))
            .set("kafka.view_dir", self.folder.path().join(name).display())
            .set("limits.publish_timeout_ms", PATIENCE.as_millis())
            .set("kafka.message_timeout_ms", PATIENCE.as_millis() / 2)
            .set("limits.heartbeat_ms", 10 * PATIENCE.as_millis())
    }

    fn expected(&self) -> Expected {
        Expected::of(&self.oracle.dump(TOPIC), PARTITIONS, WINDOW_MS)
    }
}

/// Two nodes, and their URLs.
fn two(world: &World) -> ([Server; 2], [String; 2]) {
    let nodes = ["a", "b"].map(|name| world.node(name).start());
    let urls = nodes.each_ref().map(Server::url);
    (nodes, urls)
}

fn client(url: &str, name: &str) -> Client {
    let mut client = Client::connect(url, name).unwrap();
    client.set_timeout(PATIENCE);
    client
}

/// Publishes, and it must be stored; where, and whether it was there.
fn stored(client: &mut Client, room: &str, id: &str, data: &str) -> (u64, bool) {
    match client.publish(room, id, data).unwrap() {
        Outcome::Stored { offset, duplicate } => (offset, duplicate),
        other => panic!("{room} {id}: {other:?}"),
    }
}

/// Says in each room that this is the end.
fn end(url: &str, rooms: &[String]) -> Client {
    let mut last = client(url, "last");
    for room in rooms {
        stored(&mut last, room, END, "0");
    }
    last
}

/// That what a node tells as history is this.
fn tells(who: &str, url: &str, rooms: &Rooms) {
    let names: Vec<String> = rooms.keys().cloned().collect();
    same(&format!("{who}: history by 500"), &pages(url, &names, 500), rooms);
    same(&format!("{who}: history by 7"), &pages(url, &names, 7), rooms);
}

/// That these clients saw what the topic says, and provoked as much as was meant.
fn checked(clients: &[ClientLog], expected: &Expected, expect: Expect) {
    let verdict = checker::check(clients, &expected.log, &checker::Options { complete: true, expect });
    println!("{verdict}");
    assert!(verdict.ok(), "{verdict}");
}

/// Waits until this is so.
fn until(is: impl Fn() -> bool) {
    let by = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < by, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a frame says of a join: whether the position that was named holds, or why it is refused.
fn joined(seen: &Seen) -> Option<Result<bool, String>> {
    match seen {
        Seen::Joined { recovered, .. } => Some(Ok(*recovered)),
        Seen::Refused { error, .. } => Some(Err(error.clone())),
        _ => None,
    }
}

/// Asks until a node says this of itself.
fn becomes(url: &str, status: u16, text: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (now, body) = get(url, "/readyz");
        if now == status && body.contains(text) {
            return;
        }
        assert!(Instant::now() < until, "wanted {status} {text}, it is {now} {body}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A counter of a node's metrics.
fn metric(url: &str, name: &str) -> u64 {
    let (status, text) = get(url, "/metrics");
    assert_eq!(status, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no metric {name}: {text}")).trim().parse().unwrap()
}
