//! A crowd: the members of one room, thousands of them on one thread. Each reads, comes back and resumes when its connection ends,
//! and keeps what it saw for the checker; any of them can be made to stop reading.

use crate::random::Random;
use klatch_harness::client::{Event, Fleet, JoinOptions, Link, Opening, Outcome, Seen, State};
use klatch_harness::observe::ClientLog;
use klatch_harness::process::raise_files;
use klatch_harness::target::Target;
use klatch_harness::wire::{Frame, Payload};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// With nothing happening for this long, what is missing does not come any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a message without an outcome waits for the next try, at least.
const RETRY: Duration = Duration::from_millis(100);

/// How the data of a stamped message begins.
const STAMP: &str = r#"{"sent":"#;

/// What a crowd is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Their room.
    pub room: String,
    /// How their names begin; the user is this and a number.
    pub name: String,
    /// How many.
    pub members: usize,
    /// How much history they join with.
    pub history: u32,
    /// The offset that they join from.
    pub since: Option<u64>,
    /// Their receive buffers in the kernel; none: what the system chooses.
    pub receive_buffer: Option<usize>,
    /// Whether they come from many addresses, 150 from each, or all from one.
    pub spread: bool,
    /// Milliseconds of silence after which a member asks whether the server is there; after twice as long it connects anew. 0:
    /// it waits for ever.
    pub silence_ms: u64,
    /// Connections that are being made at once, at first. Those that come back do so when they want.
    pub at_once: usize,
    /// Whether they stop reading once they have asked to join, until [`Crowd::unpause`].
    pub deaf: bool,
}

impl Plan {
    /// So many members of a room, called `name` and a number.
    pub fn new(room: &str, name: &str, members: usize) -> Plan {
        Plan {
            room: room.into(),
            name: name.into(),
            members,
            history: 0,
            since: None,
            receive_buffer: None,
            spread: false,
            silence_ms: 0,
            at_once: 256,
            deaf: false,
        }
    }
}

#[derive(Debug)]
struct Member {
    state: State,
    place: usize,
    link: Option<Link>,
    open: bool,
    paused: bool,
    failures: u32,
    heard: Instant,
    asked: bool,
}

/// See the module.
pub struct Crowd {
    target: Target,
    fleet: Fleet,
    plan: Plan,
    members: Vec<Member>,
    links: HashMap<Link, usize>,
    /// Members that have yet to connect for the first time.
    unborn: usize,
    connecting: usize,
    /// Members that come back, and when.
    coming: Vec<(Instant, usize)>,
    /// Messages to send again, and when.
    retries: Vec<(Instant, usize, usize)>,
    random: Random,
    events: Vec<(Link, Event)>,
    happened: Instant,
    closes: BTreeMap<u16, u64>,
    /// Messages that are known to be stored, by member and message.
    answered: HashSet<(usize, usize)>,
    /// The last offset that an answer to a publish has named.
    last: u64,
    /// What publications that were stamped have taken, if it is kept.
    took: Option<Vec<Duration>>,
    began: Instant,
}

impl Crowd {
    /// A crowd for the server at this URL; it connects in [`Crowd::turn`].
    ///
    /// # Panics
    /// If the URL is none, or the system refuses a poll set.
    pub fn new(url: &str, plan: &Plan) -> Crowd {
        raise_files();
        let mut fleet = Fleet::new().unwrap_or_else(|e| panic!("no fleet: {e}"));
        fleet.receive_buffer(plan.receive_buffer);
        let now = Instant::now();
        let member = |n: usize| {
            let name = format!("{}{n}", plan.name);
            let mut state = State::new(name.clone(), name);
            let place = state.room(&plan.room);
            Member {
                state,
                place,
                link: None,
                open: false,
                paused: false,
                failures: 0,
                heard: now,
                asked: false,
            }
        };
        Crowd {
            target: Target::parse(url).unwrap_or_else(|e| panic!("{e}")),
            fleet,
            members: (0..plan.members).map(member).collect(),
            plan: plan.clone(),
            links: HashMap::new(),
            unborn: plan.members,
            connecting: 0,
            coming: Vec::new(),
            retries: Vec::new(),
            random: Random::new(u64::from(std::process::id())),
            events: Vec::new(),
            happened: now,
            closes: BTreeMap::new(),
            answered: HashSet::new(),
            last: 0,
            took: None,
            began: now,
        }
    }

    /// Does what is due, and waits up to `wait` for something to happen.
    ///
    /// # Panics
    /// If something comes that is not of the protocol.
    pub fn turn(&mut self, wait: Duration) {
        let now = Instant::now();
        while self.unborn > 0 && self.connecting < self.plan.at_once {
            let n = self.members.len() - self.unborn;
            self.unborn -= 1;
            self.connect(n);
        }
        let due: Vec<usize> = take_due(&mut self.coming, now, |c| c.0).into_iter().map(|c| c.1).collect();
        due.into_iter().for_each(|n| self.connect(n));
        for (_, n, message) in take_due(&mut self.retries, now, |r| r.0) {
            self.retry(n, message);
        }
        let mut events = std::mem::take(&mut self.events);
        self.fleet.turn(wait, &mut events).unwrap_or_else(|e| panic!("the crowd's poll set: {e}"));
        if !events.is_empty() {
            self.happened = Instant::now();
        }
        for (link, event) in events.drain(..) {
            // A connection that was cut says nothing more.
            if let Some(n) = self.links.get(&link).copied() {
                self.event(n, link, event);
            }
        }
        self.events = events;
        if self.plan.silence_ms > 0 {
            self.listen();
        }
    }

    /// Turns until `done`.
    ///
    /// # Panics
    /// If nothing happens for a minute, with `what` was waited for.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Crowd) -> bool) {
        self.happened = Instant::now();
        while !done(self) {
            assert!(self.happened.elapsed() < PATIENCE, "waiting for {what}: {}", self.summary());
            self.turn(Duration::from_millis(10));
        }
    }

    /// Turns until all are members.
    ///
    /// # Panics
    /// As [`Crowd::until`].
    pub fn join(&mut self) {
        self.until("everybody to join", |c| c.joined() == c.members.len());
    }

    /// Turns until all members but those that are paused are in the room and have seen everything up to `offset`.
    ///
    /// # Panics
    /// As [`Crowd::until`].
    pub fn reach(&mut self, offset: u64) {
        self.until(&format!("everybody to reach {offset}"), |c| c.has_reached(offset));
    }

    /// Whether all members but those that are paused are in the room and have seen everything up to `offset`.
    pub fn has_reached(&self, offset: u64) -> bool {
        let reached = |m: &Member| m.state.is_in(m.place) && m.state.position(m.place).offset >= offset;
        self.members.iter().all(|m| m.paused || reached(m))
    }

    /// Publishes as member `n`, with an id; tried again until it is stored. The data is `{"text":"xx.."}` of so many bytes.
    ///
    /// # Panics
    /// If that member has no connection.
    pub fn publish(&mut self, n: usize, bytes: usize) {
        let text = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes.saturating_sub(11)));
        self.publish_data(n, &text);
    }

    /// [`Crowd::publish`] of JSON.
    ///
    /// # Panics
    /// If that member has no connection.
    pub fn publish_data(&mut self, n: usize, json: &str) {
        let member = &mut self.members[n];
        assert!(member.open, "{} is not connected", member.state.user());
        let id = format!("{}-{}", member.state.user(), member.state.log().publishes.len());
        let (_, frame) = member.state.publish(&self.plan.room, &id, Payload::Json(json));
        self.send(n, vec![frame]);
    }

    /// Publishes `count` messages of so many bytes as member `n`, `window` of them under way at once, and turns until all are stored.
    /// `each` is called after each turn. Returns the last offset.
    ///
    /// # Panics
    /// As [`Crowd::until`].
    pub fn pour(
        &mut self,
        n: usize,
        count: u64,
        bytes: usize,
        window: u64,
        mut each: impl FnMut(&Crowd),
    ) -> u64 {
        let (begun, mut sent) = (self.answered(), 0);
        self.happened = Instant::now();
        while self.answered() - begun < count {
            while sent < count && sent - (self.answered() - begun) < window {
                self.publish(n, bytes);
                sent += 1;
            }
            assert!(self.happened.elapsed() < PATIENCE, "publishing: {}", self.summary());
            self.turn(Duration::from_millis(10));
            each(self);
        }
        self.last
    }

    /// Member `n` reads nothing more.
    pub fn pause(&mut self, n: usize) {
        self.members[n].paused = true;
        if let Some(link) = self.members[n].link {
            self.fleet.pause(link);
        }
    }

    /// Member `n`, which has stopped reading, reads once: some of what has come.
    pub fn sip(&mut self, n: usize) {
        let Some(link) = self.members[n].link.filter(|_| self.members[n].paused) else { return };
        self.fleet.unpause(link);
        self.turn(Duration::ZERO);
        self.pause(n);
    }

    /// All read again.
    pub fn unpause(&mut self) {
        self.plan.deaf = false;
        for member in &mut self.members {
            if std::mem::take(&mut member.paused)
                && let Some(link) = member.link
            {
                self.fleet.unpause(link);
            }
        }
    }

    /// Drops the connection of member `n`; it comes back.
    pub fn drop_link(&mut self, n: usize) {
        if let Some(link) = self.members[n].link {
            self.links.remove(&link);
            self.fleet.cut(link);
            self.over(n);
        }
    }

    /// Members that are in the room now.
    pub fn joined(&self) -> usize {
        self.members.iter().filter(|m| m.open && m.state.is_in(m.place)).count()
    }

    /// Members that have stopped reading.
    pub fn paused(&self) -> usize {
        self.members.iter().filter(|m| m.open && m.paused).count()
    }

    /// Publishes that are stored.
    pub fn answered(&self) -> u64 {
        self.answered.len() as u64
    }

    /// The last offset that an answer to a publish has named.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Connections that have ended, by close code; 0 where there was none.
    pub fn closes(&self) -> &BTreeMap<u16, u64> {
        &self.closes
    }

    /// Errors that members were sent, by name.
    pub fn errors(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for (name, count) in self.members.iter().flat_map(|m| &m.state.log().errors) {
            *all.entry(name.as_str()).or_default() += count;
        }
        all
    }

    /// Publishes as member `n` so many bytes with the time in them, for [`Crowd::took`].
    ///
    /// # Panics
    /// If that member has no connection.
    pub fn publish_stamped(&mut self, n: usize, bytes: usize) {
        let (now, text) = (self.began.elapsed().as_micros(), "x".repeat(bytes));
        self.publish_data(n, &format!(r#"{STAMP}{now},"text":"{text}"}}"#));
    }

    /// How long each stamped publication has taken to each member, since the last call; from the first call on.
    pub fn took(&mut self) -> Vec<Duration> {
        std::mem::take(self.took.get_or_insert_default())
    }

    /// What all of them did and saw.
    pub fn into_logs(self) -> Vec<ClientLog> {
        self.members.into_iter().map(|m| m.state.into_log()).collect()
    }

    fn summary(&self) -> String {
        let reached: Vec<u64> = self.members.iter().map(|m| m.state.position(m.place).offset).collect();
        format!(
            "{} of {} are in the room; positions {:?} to {:?}; {} publishes answered, last {}; ends by code {:?}; errors {:?}",
            self.joined(),
            self.members.len(),
            reached.iter().min(),
            reached.iter().max(),
            self.answered(),
            self.last,
            self.closes,
            self.errors(),
        )
    }

    fn connect(&mut self, n: usize) {
        let target = self.target.with("user", self.members[n].state.user());
        let opening =
            Opening { path: target.path.clone(), protocols: vec!["klatch.v1".into()], ..Opening::default() };
        let source = self.plan.spread.then(|| self.target.source(n as u32)).flatten();
        self.connecting += 1;
        let Ok(link) = self.fleet.open(&target, &opening, source) else {
            // No route, or no socket left: tried again like any other failure.
            return self.over(n);
        };
        let member = &mut self.members[n];
        (member.link, member.heard, member.asked) = (Some(link), Instant::now(), false);
        self.links.insert(link, n);
    }

    fn event(&mut self, n: usize, link: Link, event: Event) {
        self.members[n].heard = Instant::now();
        self.members[n].asked = false;
        match event {
            Event::Open => {
                self.connecting -= 1;
                let room = self.plan.room.clone();
                let (history, since) = (self.plan.history, self.plan.since);
                let member = &mut self.members[n];
                member.open = true;
                let mut frames = member.state.resume();
                if !member.state.wants(member.place) {
                    let epoch = String::new();
                    let since = since.map(|offset| klatch_harness::client::Since { epoch, offset });
                    frames.push(member.state.join(&room, JoinOptions { history, since, echo: true }));
                }
                self.send(n, frames);
                if self.plan.deaf {
                    self.pause(n);
                }
            }
            Event::Text(text) => {
                let frame = Frame::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                self.frame(n, &frame);
            }
            Event::Closed { code, .. } => {
                *self.closes.entry(code.unwrap_or_default()).or_default() += 1;
                self.links.remove(&link);
                self.over(n);
            }
            other => panic!("{}: {other:?}", self.members[n].state.user()),
        }
    }

    /// Its connection has ended: it comes back after a random time that doubles with each failure, as docs/protocol.md asks.
    fn over(&mut self, n: usize) {
        let member = &mut self.members[n];
        if member.open {
            member.state.closed();
        } else {
            self.connecting -= 1;
        }
        (member.open, member.link, member.paused) = (false, None, false);
        let most = (500 << member.failures.min(6)).min(30_000);
        member.failures += 1;
        let after = Duration::from_millis(self.random.below(most));
        self.coming.push((Instant::now() + after, n));
    }

    fn frame(&mut self, n: usize, frame: &Frame<'_>) {
        let member = &mut self.members[n];
        match member.state.frame(frame) {
            Seen::Joined { .. } => member.failures = 0,
            Seen::Publication { offset, answers, .. } => {
                if let Some(message) = answers {
                    self.answered.insert((n, message));
                    self.last = self.last.max(offset);
                }
                if let Some(took) = &mut self.took
                    && let Payload::Json(text) = frame.payload()
                    && let Some(sent) =
                        text.strip_prefix(STAMP).and_then(|t| t.split(',').next()?.parse().ok())
                {
                    let now = member.heard.saturating_duration_since(self.began);
                    took.push(now.saturating_sub(Duration::from_micros(sent)));
                }
            }
            Seen::Published { message, outcome: Outcome::Stored { offset, .. } } => {
                self.answered.insert((n, message));
                self.last = self.last.max(offset);
            }
            Seen::Published { message, outcome: Outcome::NotStored { later: true, retry_after_ms, .. } }
            | Seen::Published { message, outcome: Outcome::Unknown { retry_after_ms } } => {
                let after = RETRY.max(Duration::from_millis(retry_after_ms));
                self.retries.push((Instant::now() + after, n, message));
            }
            Seen::Refused { room: Some(_), retry_after_ms, .. } if retry_after_ms > 0 => {
                // It comes back as after any other end, and asks again.
                self.drop_link(n);
            }
            Seen::Welcome | Seen::Other | Seen::Disconnect { .. } => {}
            other => panic!("{}: {other:?}: {frame:?}", member.state.user()),
        }
    }

    fn retry(&mut self, n: usize, message: usize) {
        let member = &mut self.members[n];
        // Without a connection it goes with the resume.
        if member.open
            && let Some(frame) = member.state.send_again(message)
        {
            self.send(n, vec![frame]);
        }
    }

    fn send(&mut self, n: usize, frames: Vec<String>) {
        let Some(link) = self.members[n].link else { return };
        for frame in frames {
            // One that cannot be sent belongs to a connection whose end is on its way.
            self.fleet.send(link, frame);
        }
    }

    /// Members that have heard nothing ask, and then give the connection up.
    fn listen(&mut self) {
        let silence = Duration::from_millis(self.plan.silence_ms);
        for n in 0..self.members.len() {
            let member = &mut self.members[n];
            let quiet = member.heard.elapsed();
            if member.link.is_none() || member.paused || quiet < silence {
                continue;
            }
            if quiet >= 2 * silence {
                *self.closes.entry(0).or_default() += 1;
                self.drop_link(n);
            } else if member.open && !std::mem::replace(&mut member.asked, true) {
                self.send(n, vec![r#"{"type":"ping"}"#.into()]);
            }
        }
    }
}

fn take_due<T>(all: &mut Vec<T>, now: Instant, at: impl Fn(&T) -> Instant) -> Vec<T> {
    let (due, later) = std::mem::take(all).into_iter().partition(|x| at(x) <= now);
    *all = later;
    due
}
