//! R10: members join with history, drop and resume at random moments while a room is busy, and each sees one stream without gap
//! or double.
//!
//! Elsewhere what was published between the reading of history and the beginning of the live stream was lost
//! (upstash/realtime#23, rmosolgo/graphql-ruby#3210, kuzzle#2773).

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use klatch_harness::checker::{self, Expect};
use klatch_harness::client::{Event, Fleet, JoinOptions, Link, Opening, Outcome, Seen, State};
use klatch_harness::observe::ClientLog;
use klatch_harness::segments;
use klatch_harness::target::Target;
use klatch_harness::wire::{Frame, Payload};
use klatch_suite::Launch;
use klatch_suite::random::{Random, seed};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const MEMBERS: usize = 200;
const PUBLISHERS: usize = 10;
const MESSAGES: u64 = 12_000;
const PER_SECOND: f64 = 1000.0;
const HISTORY: u32 = 100;
const ROOM: &str = "busy";
/// A member stays for so many publications at most before it drops, or leaves.
const STAY: u64 = 1200;
/// With nothing happening for this long, what is missing does not come any more.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn r10_joins_drops_and_resumes_under_load_leave_no_gap() {
    let seed = seed();
    println!("seed {seed} (set KLATCH_SEED to repeat the choices)");
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).set("shards", 2).start();
    let mut room = Room::new(&server.url(), seed);
    room.run();
    room.join_at_rest();
    let Room { clients, starts, seconds, .. } = room;
    let logs: Vec<ClientLog> = clients.into_iter().map(|c| c.state.into_log()).collect();
    let log = segments::read(data.path()).unwrap();
    let expect = Expect {
        messages: MESSAGES,
        deliveries: MESSAGES * MEMBERS as u64 / 2,
        resumes: 200,
        resets_at_most: Some(0),
        ..Expect::default()
    };
    let verdict = checker::check(&logs, &log, &checker::Options { complete: true, expect });
    println!("{seconds:.1} s, {} joins with history: {verdict}", starts.len());
    assert!(verdict.ok(), "{verdict}");
    assert_eq!(verdict.counts.acked, MESSAGES, "{verdict}");

    // And it begins where it was asked to: with the newest 100 before the moment of the join. That lies between what the connection had
    // been sent before and the answer, which a busy machine parts by any number of publications: where it was taken for the moment of
    // the answer, a join that waited for its history while the room went on was said to begin too early.
    let accepted = &log.room(ROOM).unwrap().accepted;
    let between =
        |offset: u64, to: u64| accepted.iter().filter(|a| a.offset > offset && a.offset <= to).count();
    let history = HISTORY as usize;
    assert!(starts.len() > 2 * MEMBERS, "{} joins with history", starts.len());
    let Start { offset, last, .. } = starts[starts.len() - 1];
    assert_eq!(
        (between(offset, last), between(last, u64::MAX)),
        (history, 0),
        "where nothing comes meanwhile"
    );
    for Start { seen, offset, last } in starts {
        assert!(between(offset, seen) <= history, "a join of who had seen {seen} began at {offset}");
        assert!(between(offset, last) >= history.min(between(0, last)), "a join at {last} began at {offset}");
    }
}

/// One connection: a member, or a publisher, which is none.
struct Client {
    state: State,
    link: Option<Link>,
    open: bool,
    publisher: bool,
    /// The newest publication that came by this connection.
    seen: u64,
    /// Publications until it drops or leaves.
    stay: u64,
}

struct Room {
    target: Target,
    fleet: Fleet,
    clients: Vec<Client>,
    links: HashMap<Link, usize>,
    random: Random,
    sent: u64,
    answered: u64,
    last: u64,
    starts: Vec<Start>,
    seconds: f64,
}

/// A join with history: what its connection had seen before, and `offset` and `last` of the reply.
struct Start {
    seen: u64,
    offset: u64,
    last: u64,
}

impl Client {
    fn new(n: usize) -> Client {
        let publisher = n < PUBLISHERS;
        let name = if publisher { format!("publisher {n}") } else { format!("member {n}") };
        Client { state: State::new(name.clone(), name), link: None, open: false, publisher, seen: 0, stay: 0 }
    }
}

impl Room {
    fn new(url: &str, seed: u64) -> Room {
        Room {
            target: Target::parse(url).unwrap(),
            fleet: Fleet::new().unwrap(),
            clients: (0..PUBLISHERS + MEMBERS).map(Client::new).collect(),
            links: HashMap::new(),
            random: Random::new(seed),
            sent: 0,
            answered: 0,
            last: 0,
            starts: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Until all is published and every member has seen it.
    fn run(&mut self) {
        for n in 0..self.clients.len() {
            self.connect(n);
        }
        let mut began = Instant::now();
        let mut happened = began;
        while !self.at_rest() && happened.elapsed() < PATIENCE {
            if self.turn() {
                happened = Instant::now();
            }
            if !self.clients.iter().all(|c| c.open || !c.publisher) {
                began = Instant::now();
            }
            let due = (began.elapsed().as_secs_f64() * PER_SECOND) as u64;
            while self.sent < due.min(MESSAGES) {
                self.publish();
            }
        }
        self.seconds = began.elapsed().as_secs_f64();
    }

    /// Whether anything happened.
    fn turn(&mut self) -> bool {
        let mut events = Vec::new();
        self.fleet.turn(Duration::from_millis(1), &mut events).unwrap();
        let any = !events.is_empty();
        for (link, event) in events {
            // A connection that was cut says nothing more.
            if let Some(n) = self.links.get(&link).copied() {
                self.event(n, event);
            }
        }
        any
    }

    /// One more member comes, and nothing else happens.
    fn join_at_rest(&mut self) {
        let n = self.clients.len();
        self.clients.push(Client::new(n));
        self.connect(n);
        let began = Instant::now();
        while !self.at_rest() && began.elapsed() < PATIENCE {
            self.turn();
        }
    }

    fn at_rest(&self) -> bool {
        let there =
            |c: &Client| c.publisher || c.state.memberships().any(|(_, is_in, at)| is_in && at >= self.last);
        self.answered == MESSAGES && self.clients.iter().all(there)
    }

    fn connect(&mut self, n: usize) {
        let target = self.target.with("user", self.clients[n].state.user());
        let opening =
            Opening { path: target.path.clone(), protocols: vec!["klatch.v1".into()], ..Opening::default() };
        let link = self.fleet.open(&target, &opening, self.target.source(n as u32)).unwrap();
        self.clients[n].link = Some(link);
        self.clients[n].seen = 0;
        self.links.insert(link, n);
    }

    fn publish(&mut self) {
        let n = self.sent as usize % PUBLISHERS;
        let (id, data) = (format!("m{}", self.sent), Payload::Json(r#"{"text":"hello"}"#));
        let (_, frame) = self.clients[n].state.publish(ROOM, &id, data);
        self.sent += 1;
        self.send(n, vec![frame]);
    }

    fn event(&mut self, n: usize, event: Event) {
        match event {
            Event::Open => {
                let client = &mut self.clients[n];
                client.open = true;
                let mut frames = client.state.resume();
                if frames.is_empty() && !client.publisher {
                    frames.push(
                        client.state.join(ROOM, JoinOptions { history: HISTORY, ..JoinOptions::default() }),
                    );
                }
                self.send(n, frames);
            }
            Event::Text(text) => self.frame(n, &Frame::parse(&text).unwrap()),
            other => panic!("{}: {other:?}", self.clients[n].state.log().name),
        }
    }

    fn frame(&mut self, n: usize, frame: &Frame<'_>) {
        let client = &mut self.clients[n];
        match client.state.frame(frame) {
            Seen::Joined { .. } => {
                if frame.recovered.is_none() {
                    let (offset, last) = (frame.offset.unwrap(), frame.last.unwrap());
                    self.starts.push(Start { seen: client.seen, offset, last });
                }
                client.stay = 1 + self.random.below(STAY);
            }
            Seen::Publication { .. } => {
                client.seen = frame.offset.unwrap();
                client.stay = client.stay.saturating_sub(1);
                if client.stay == 0 && self.answered < MESSAGES {
                    self.go(n);
                }
            }
            Seen::Left { .. } => {
                let frame =
                    client.state.join(ROOM, JoinOptions { history: HISTORY, ..JoinOptions::default() });
                self.send(n, vec![frame]);
            }
            Seen::Published { outcome: Outcome::Stored { offset, duplicate: false }, .. } => {
                self.answered += 1;
                self.last = self.last.max(offset);
            }
            Seen::Welcome | Seen::Other => {}
            other => panic!("{}: {other:?}: {frame:?}", client.state.log().name),
        }
    }

    /// The member drops its connection, to resume on another one, or leaves and comes again for the newest history.
    fn go(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if self.random.below(3) == 0 {
            let place = client.state.room(ROOM);
            if client.state.is_in(place) {
                let frame = client.state.leave(ROOM);
                self.send(n, vec![frame]);
            }
            return;
        }
        if let Some(link) = client.link.take() {
            client.open = false;
            client.state.closed();
            self.links.remove(&link);
            self.fleet.cut(link);
            self.connect(n);
        }
    }

    fn send(&mut self, n: usize, frames: Vec<String>) {
        let link = self.clients[n].link.unwrap();
        for frame in frames {
            assert!(self.fleet.send(link, frame));
        }
    }
}
