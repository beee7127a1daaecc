//! `kill -9` of the real server at random moments, over and over, with the same data directory and port: under the load of a
//! replay whose clients resume and retry, and with a publisher that never reads its answers.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use klatch_harness::checker::{self, Expect};
use klatch_harness::client::{Client, JoinOptions, Outcome, Seen};
use klatch_harness::log::Log;
use klatch_harness::observe::ClientLog;
use klatch_harness::process::Server;
use klatch_harness::replay::{self, Corpus, Options, Progress, Speed};
use klatch_harness::segments;
use klatch_harness::wire::Frame;
use klatch_suite::history::{history, offset};
use klatch_suite::random::{Random, seed};
use klatch_suite::server::{stop, verify};
use klatch_suite::{Launch, corpus};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Where the number of kills may be set; `tests/crash` does.
const CYCLES: &str = "KLATCH_CRASH_CYCLES";

/// Messages of the replay for each kill. Enough that the load goes on between two kills, whatever the machine.
const MESSAGES: u64 = 1000;
/// More than a machine takes, but not so many that a fast one is through with them between two looks at the progress.
const MOST_PER_SECOND: f64 = 5000.0;
/// A kill comes up to this long after the replay says that it may.
const WITHIN_MICROS: u64 = 100_000;
/// Messages that the publisher has sent at each kill, without having read an answer.
const UNREAD: u64 = 5;

#[test]
fn killed_at_random_moments_it_loses_no_acknowledged_message_and_repeats_none() {
    let cycles: u64 = std::env::var(CYCLES).map_or(10, |n| n.parse().unwrap());
    let seed = seed();
    println!("{cycles} kills, seed {seed} (set KLATCH_SEED to repeat the choices)");
    let data = tempfile::tempdir().unwrap();
    let (commands, wanted) = channel();
    let (done, back) = channel();
    let victim = Victim::new(data.path(), seed);
    let options = Options {
        speed: Speed::PerSecond(MOST_PER_SECOND),
        // As many messages under way as at full speed, so that each kill meets some.
        window: Some(16),
        publish_rate: 0,
        seed,
        log_dir: Some(data.path().into()),
        reconnect_for: Duration::from_secs(60),
        expect: of_the_replay(cycles),
        ..Options::new(format!("ws://{}", victim.address))
    };
    let killer = std::thread::spawn(move || victim.run(&wanted, &done));
    let mut plan = Plan::new(cycles, commands, back);
    let report = replay::run(load(cycles), &options, |p| plan.look(p)).unwrap();
    println!("{report}");
    let kills = plan.end();
    let Killed { server, witnesses, after_delivery } = killer.join().unwrap();
    assert!(report.ok(), "{report}");
    assert_eq!(kills, cycles, "the replay was over before the last kill");

    // The publisher and the listener beside it: each kill met messages without an answer, half of them stored.
    let log = segments::read(data.path()).unwrap();
    assert_eq!(after_delivery, cycles.div_ceil(2));
    let expect = of_the_witnesses(cycles);
    let verdict = checker::check(&witnesses, &log, &checker::Options { complete: true, expect });
    println!("publisher and listener: {verdict}");
    assert!(verdict.ok(), "{verdict}");
    assert_eq!(verdict.counts.acked, cycles * UNREAD, "{verdict}");

    // What the last start made of all that: the same history as the log, in a log without damage.
    for (name, room) in log.rooms() {
        let history = history(&server.url(), name, 500);
        let offsets: Vec<u64> = history.publications.iter().map(|p| offset(p)).collect();
        let accepted: Vec<u64> = room.accepted.iter().map(|a| a.offset).collect();
        assert!(offsets == accepted, "{name}: history has {}, the log {}", offsets.len(), accepted.len());
    }
    stop(server);
    let report = verify(data.path());
    assert!(report.status.success(), "{report:?}");
}

/// What so many kills must provoke in the replay. The kills meet its clients at random; it sees far more of each on any machine.
fn of_the_replay(cycles: u64) -> Expect {
    Expect {
        messages: cycles * MESSAGES,
        resumes: cycles * 20,
        unknowns: cycles,
        duplicates: cycles / 5,
        resets_at_most: Some(0),
        ..Expect::default()
    }
}

/// What they must provoke in the publisher and the listener, for whom each kill is aimed: every message of every kill is
/// without an answer, and those of every second kill, the first among them, were stored before it.
fn of_the_witnesses(cycles: u64) -> Expect {
    Expect {
        messages: cycles * UNREAD,
        unknowns: cycles * UNREAD,
        duplicates: cycles.div_ceil(2) * UNREAD,
        resumes: cycles,
        resets_at_most: Some(0),
        ..Expect::default()
    }
}

#[test]
fn kills_that_provoke_too_little_are_a_failure() {
    for cycles in [5, 10, 50] {
        for (expect, dues) in [
            (of_the_replay(cycles), [20 * cycles, cycles, cycles / 5]),
            (of_the_witnesses(cycles), [cycles, 5 * cycles, 5 * cycles.div_ceil(2)]),
        ] {
            let nothing =
                checker::check(&[], &Log::default(), &checker::Options { expect, ..Default::default() });
            println!("{nothing}");
            for (due, what) in dues.iter().zip(["resumes", "unknown outcomes", "duplicates"]) {
                let missed = format!("0 {what}, at least {due} were expected");
                assert!(nothing.violations.iter().any(|v| v.detail == missed), "{missed}: {nothing}");
            }
        }
    }
}

/// The recorded chat, once or several times over, so that there are messages for every cycle.
fn load(cycles: u64) -> Corpus {
    let once = corpus();
    let mut load = once.clone();
    while load.messages() < cycles * MESSAGES {
        for (script, more) in load.scripts.iter_mut().zip(&once.scripts) {
            script.steps.extend(more.steps.iter().cloned());
        }
    }
    load.limited(cycles * MESSAGES)
}

/// When to kill: after so many answers, with messages under way, and not before the last victim is back.
struct Plan {
    cycles: u64,
    asked: u64,
    ready: bool,
    commands: Sender<()>,
    back: Receiver<()>,
}

impl Plan {
    fn new(cycles: u64, commands: Sender<()>, back: Receiver<()>) -> Plan {
        Plan { cycles, asked: 0, ready: true, commands, back }
    }

    fn look(&mut self, progress: &Progress) {
        self.ready |= self.back.try_recv().is_ok();
        let due = progress.answered > self.asked * progress.total / (self.cycles + 1);
        if self.ready && due && self.asked < self.cycles && progress.sent > progress.answered {
            self.ready = false;
            self.asked += 1;
            self.commands.send(()).unwrap();
        }
    }

    fn end(self) -> u64 {
        self.asked
    }
}

/// The server that is killed, a publisher that reads no answer before it has come back, and a listener that reads everything.
struct Victim {
    launch: Launch,
    address: SocketAddr,
    server: Server,
    publisher: Client,
    listener: Client,
    /// Ids that the listener has seen, and where.
    seen: HashMap<String, u64>,
    random: Random,
}

/// What is left in the end.
struct Killed {
    server: Server,
    /// What the publisher and the listener saw.
    witnesses: Vec<ClientLog>,
    /// Kills that came after all was delivered.
    after_delivery: u64,
}

const ROOM: &str = "beside the replay";

impl Victim {
    fn new(data: &Path, seed: u64) -> Victim {
        // An address of its own: while the server is down, no other test and no client may come to hold its port.
        let alone = if cfg!(target_os = "linux") { "127.77.0.1:0" } else { "127.0.0.1:0" };
        let launch = Launch::new(data).arg("--log-level").arg("warn");
        let server = launch.clone().listen(alone).start();
        let address = server.address();
        let client = |name| {
            let mut client = Client::connect(&server.url(), name).unwrap();
            client.set_timeout(Duration::from_secs(60));
            client
        };
        let (publisher, mut listener) = (client("publisher"), client("listener"));
        listener.join(ROOM, JoinOptions::default()).unwrap();
        Victim {
            launch: launch.listen(address),
            address,
            server,
            publisher,
            listener,
            seen: HashMap::new(),
            random: Random::new(!seed),
        }
    }

    /// Kills each time it is wanted.
    fn run(mut self, wanted: &Receiver<()>, done: &Sender<()>) -> Killed {
        let (mut cycle, mut after_deliveries) = (0, 0);
        while wanted.recv().is_ok() {
            let after_delivery = cycle % 2 == 0;
            self.cycle(cycle, after_delivery);
            cycle += 1;
            after_deliveries += u64::from(after_delivery);
            // The replay may be over.
            let _ = done.send(());
        }
        Killed {
            server: self.server,
            witnesses: vec![self.publisher.into_log(), self.listener.into_log()],
            after_delivery: after_deliveries,
        }
    }

    fn cycle(&mut self, cycle: u64, after_delivery: bool) {
        self.pass(WITHIN_MICROS);
        let ids: Vec<String> = (0..UNREAD).map(|n| format!("{cycle}-{n}")).collect();
        let messages: Vec<usize> =
            ids.iter().map(|id| self.publisher.begin(ROOM, id, "1").unwrap()).collect();
        if after_delivery {
            // All are stored then, and no answer has been read: a retry must find each of them.
            self.listen_for(&ids);
        } else {
            // Anywhere between the socket and the answer.
            self.pass(3000);
        }
        self.server.kill().unwrap();
        if cycle % 4 > 1 {
            // Once more, while it opens what the first kill has left.
            let mut opening = self.launch.spawn();
            self.pass(WITHIN_MICROS / 2);
            opening.kill().unwrap();
            opening.wait().unwrap();
        }
        self.server = self.launch.start();
        self.publisher.reconnect(None).unwrap();
        self.listener.reconnect(None).unwrap();
        self.listener.until(|seen| matches!(seen, Seen::Joined { .. }).then_some(())).unwrap();
        for _ in &messages {
            let (message, outcome) = self.publisher.until(published).unwrap();
            let Outcome::Stored { offset, duplicate } = outcome else {
                panic!("message {message} of cycle {cycle}: {outcome:?}");
            };
            assert!(duplicate || !after_delivery, "message {message} of cycle {cycle} was stored twice");
            if let Some(at) = messages.iter().position(|m| *m == message).and_then(|n| self.seen.get(&ids[n]))
            {
                assert_eq!(*at, offset, "message {message} of cycle {cycle} has moved");
            }
        }
        self.listen_for(&ids);
    }

    /// Reads until the listener has seen these.
    fn listen_for(&mut self, ids: &[String]) {
        while !ids.iter().all(|id| self.seen.contains_key(id)) {
            let (seen, text) = self.listener.take().unwrap();
            if let Seen::Publication { offset, .. } = seen {
                let frame = Frame::parse(&text).unwrap();
                self.seen.insert(frame.id.to_string(), offset);
            }
        }
    }

    /// Lets a random time pass: it is the moment that is wanted, no event.
    fn pass(&mut self, at_most_micros: u64) {
        std::thread::sleep(Duration::from_micros(self.random.below(at_most_micros)));
    }
}

fn published(seen: &Seen) -> Option<(usize, Outcome)> {
    match seen {
        Seen::Published { message, outcome } => Some((*message, outcome.clone())),
        _ => None,
    }
}
