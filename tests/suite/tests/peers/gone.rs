//! R12: members that are gone and have not said so.
//!
//! Elsewhere a frozen client left its session for ever, and its reconnects left closed sockets in the table (python-engineio#60,
//! python-engineio#328).

use crate::{ROOM, check, crowd, metric, turn_until, vitals};
use klatch_harness::checker::Expect;
use klatch_harness::process::Server;
use klatch_suite::Launch;
use klatch_suite::crowd::{Crowd, Plan};
use klatch_suite::helper::Helper;
use klatch_suite::net::{Cable, HERE};
use klatch_suite::server::stop;
use klatch_suite::vitals::Vitals;
use klatch_suite::ws::{Got, Ws};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MEMBERS: usize = 100;
const HEARTBEAT: Duration = Duration::from_millis(1_500);
const TIMEOUT: Duration = Duration::from_millis(4_000);
const SLACK: u64 = 16 << 20;

fn launch(data: &Path) -> Launch {
    Launch::new(data)
        .set("limits.heartbeat_ms", HEARTBEAT.as_millis())
        .set("limits.heartbeat_timeout_ms", TIMEOUT.as_millis())
        .set("limits.presence_names", 10 * MEMBERS)
        .arg("--log-level")
        .arg("warn")
}

/// Watches who of the crowd comes and goes, on a thread of its own, for it has to answer heartbeats.
struct Watcher(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    joined: BTreeSet<String>,
    left: BTreeSet<String>,
    /// What it was sent instead of an event.
    ended: Option<Got>,
}

impl Watcher {
    fn new(server: &Server) -> Watcher {
        let path = format!("/ws?room={ROOM}&user=watcher&presence=true");
        let headers = [("Sec-WebSocket-Protocol".to_owned(), "klatch.v1".to_owned())];
        let mut ws = Ws::open(server.address(), &path, &headers, &[]).unwrap().unwrap().0;
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let shared = seen.clone();
        std::thread::spawn(move || {
            loop {
                match ws.next_within(crate::PATIENCE).unwrap() {
                    Some(Got::Text(text)) => {
                        let frame: Value = serde_json::from_str(&text).unwrap();
                        let names = |what: &str| -> BTreeSet<String> {
                            let users = frame[what].as_array().cloned().unwrap_or_default();
                            let members =
                                users.iter().filter_map(|u| u.as_str().filter(|u| u.starts_with("member")));
                            members.map(String::from).collect()
                        };
                        let mut seen = shared.lock().unwrap();
                        seen.joined.extend(names("joined"));
                        seen.left.extend(names("left"));
                    }
                    Some(Got::Ping(_) | Got::Pong(_)) => {}
                    ended => {
                        shared.lock().unwrap().ended = ended;
                        return;
                    }
                }
            }
        });
        Watcher(seen)
    }

    fn all(&self, who: impl Fn(&Seen) -> &BTreeSet<String>) -> bool {
        let seen = self.0.lock().unwrap();
        assert!(seen.ended.is_none(), "{:?}", seen.ended);
        who(&seen).len() == MEMBERS
    }

    fn all_joined(&self) -> bool {
        self.all(|s| &s.joined)
    }

    fn all_left(&self) -> bool {
        self.all(|s| &s.left)
    }

    fn forget(&self) {
        *self.0.lock().unwrap() = Seen::default();
    }
}

/// The others go on while these are away, and then the server holds no more than before they came.
fn away(server: &Server, publisher: &mut Crowd, watcher: &Watcher, before: Vitals) {
    publisher.pour(0, 50, 1024, 8, |_| {});
    turn_until(publisher, "all to leave", || watcher.all_left());
    assert_eq!(metric(server, "klatch_disconnects_heartbeat_total"), MEMBERS as u64);
    assert_eq!(metric(server, "klatch_members"), 2);
    turn_until(publisher, "their connections to be gone", || {
        metric(server, "klatch_connections") == 2 && vitals(server).files <= before.files
    });
    let after = vitals(server);
    println!("{before:?} before, {after:?} afterwards");
    assert!(after.threads <= before.threads, "{before:?} {after:?}");
    assert!(after.resident <= before.resident + SLACK, "{before:?} {after:?}");
    assert_eq!(metric(server, "klatch_backlog_bytes"), 0);
    publisher.pour(0, 50, 1024, 8, |_| {});
}

/// All come back and have missed nothing.
fn back(server: &Server, mut publisher: Crowd, watcher: &Watcher, members: Helper, data: &Path) {
    let last = publisher.last();
    turn_until(&mut publisher, "all to be back", || watcher.all_joined());
    let mut logs = members.finish(last, data);
    assert_eq!(metric(server, "klatch_resumes_total"), MEMBERS as u64);
    publisher.reach(last);
    logs.extend(publisher.into_logs());
    let expect = Expect {
        messages: 110,
        deliveries: 110 * (MEMBERS as u64 + 1),
        resumes: MEMBERS as u64,
        resets_at_most: Some(0),
        ..Expect::default()
    };
    check(&logs, data, expect);
}

#[test]
fn r12_a_hundred_frozen_members_leave_and_come_back() {
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    let watcher = Watcher::new(&server);
    let mut publisher = Crowd::new(&server.url(), &Plan::new(ROOM, "publisher", 1));
    publisher.join();
    let before = vitals(&server);
    let members = Helper::crowd(&mut crowd(), &server.url(), &Plan::new(ROOM, "member", MEMBERS));
    turn_until(&mut publisher, "all to join", || watcher.all_joined());
    watcher.forget();
    publisher.pour(0, 10, 1024, 8, |_| {});
    members.freeze();
    let frozen = Instant::now();
    away(&server, &mut publisher, &watcher, before);
    // Not before its time either: it may have been heard just before it froze.
    assert!(frozen.elapsed() >= TIMEOUT, "{:?}", frozen.elapsed());
    members.thaw();
    back(&server, publisher, &watcher, members, data.path());
    stop(server);
}

#[test]
fn r12_members_behind_a_cut_link_leave_and_come_back() {
    let data = tempfile::tempdir().unwrap();
    let cable = Cable::lay();
    let server = launch(data.path()).listen(format!("{HERE}:0")).start();
    let watcher = Watcher::new(&server);
    let mut publisher = Crowd::new(&server.url(), &Plan::new(ROOM, "publisher", 1));
    publisher.join();
    let before = vitals(&server);
    // These notice themselves when nothing comes any more, as docs/protocol.md advises.
    let plan = Plan { silence_ms: 3_000, ..Plan::new(ROOM, "member", MEMBERS) };
    let program = crowd().get_program().to_string_lossy().into_owned();
    let members = Helper::crowd(&mut cable.there(&program), &server.url(), &plan);
    turn_until(&mut publisher, "all to join", || watcher.all_joined());
    watcher.forget();
    publisher.pour(0, 10, 1024, 8, |_| {});
    cable.cut();
    away(&server, &mut publisher, &watcher, before);
    cable.mend();
    back(&server, publisher, &watcher, members, data.path());
    stop(server);
}
