//! The loop of a replay: one thread, all sockets.

use super::actor::{Actor, Random, backoff};
use super::corpus::Corpus;
use super::histogram::Histogram;
use super::report::Report;
use super::stage::Stage;
use super::{Options, Progress, Speed};
use crate::client::{Event, Fleet, JoinOptions, Link, Opening, Outcome, Seen, State};
use crate::observe::ClientLog;
use crate::target::Target;
use crate::wire::Frame;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::time::{Duration, Instant};

/// One message of the corpus.
pub(super) struct Msg {
    pub(super) actor: usize,
    /// Its place in the actor's state.
    pub(super) place: usize,
    pub(super) script: usize,
    pub(super) first_sent: Instant,
    pub(super) phase: Phase,
    /// Whether it is to be sent once more after its answer.
    pub(super) again: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    UnderWay,
    /// Answered, and sent once more on purpose.
    Again,
    Done,
}

/// Something to be done later.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(super) enum Chore {
    Connect(usize),
    /// Send a message once more.
    Retry(usize),
    /// See whether a message has its answer: for the connection with this number of drops before it.
    Overdue(usize, u64),
    Rejoin(usize, usize),
}

pub(super) struct Driver<'a> {
    pub(super) options: &'a Options,
    targets: Vec<Target>,
    fleet: Fleet,
    pub(super) random: Random,
    pub(super) actors: Vec<Actor>,
    by_link: HashMap<Link, usize>,
    /// By room (empty with one client per sender) and sender.
    people: HashMap<(String, String), usize>,
    pub(super) stages: Vec<Stage>,
    pub(super) places: HashMap<String, usize>,
    pub(super) messages: Vec<Msg>,
    chores: BinaryHeap<std::cmp::Reverse<(Instant, Chore)>>,
    /// Connections to break before anything more is read from them.
    pub(super) cuts: Vec<usize>,
    dialing: usize,
    pub(super) progress: Progress,
    ack: Histogram,
    delivery: Histogram,
    pub(super) report: Report,
    pub(super) began: Instant,
    last_answer: Instant,
}

/// Connections that may be in their handshake at once.
const DIALING: usize = 64;
/// Pause of a chore that cannot be done yet.
const SOON: Duration = Duration::from_millis(10);

impl<'a> Driver<'a> {
    pub(super) fn new(corpus: Corpus, options: &'a Options) -> io::Result<Driver<'a>> {
        let now = Instant::now();
        let total = corpus.messages();
        let stages: Vec<Stage> = corpus
            .scripts
            .into_iter()
            .map(|script| Stage { script, next: 0, under_way: 0, end: 0 })
            .collect();
        Ok(Driver {
            options,
            targets: std::iter::once(&options.url)
                .chain(&options.other_urls)
                .map(|url| Target::parse(url))
                .collect::<io::Result<_>>()?,
            fleet: Fleet::new()?,
            random: Random(options.seed),
            actors: Vec::new(),
            by_link: HashMap::new(),
            people: HashMap::new(),
            places: stages.iter().enumerate().map(|(i, s)| (s.script.room.clone(), i)).collect(),
            stages,
            messages: Vec::new(),
            chores: BinaryHeap::new(),
            cuts: Vec::new(),
            dialing: 0,
            progress: Progress { total, ..Progress::default() },
            ack: Histogram::default(),
            delivery: Histogram::default(),
            report: Report { url: options.url.clone(), seed: options.seed, ..Report::default() },
            began: now,
            last_answer: now,
        })
    }

    pub(super) fn run(mut self, mut progress: impl FnMut(&Progress)) -> io::Result<(Report, Vec<ClientLog>)> {
        self.listeners();
        let mut shown = Instant::now();
        let mut events = Vec::new();
        // Listeners are members before the first message.
        while !self.all_in() && self.report.failures.is_empty() {
            self.turn(&mut events)?;
            if self.began.elapsed() > self.options.reconnect_for + self.options.answer_timeout {
                self.report.failures.push("the listeners could not join in time".to_owned());
            }
        }
        self.began = Instant::now();
        let mut last_event = self.began;
        loop {
            let busy = self.turn(&mut events)?;
            let now = Instant::now();
            if busy {
                last_event = now;
            }
            self.pump(now);
            if now - shown >= Duration::from_millis(100) {
                shown = now;
                self.progress.elapsed = now - self.began;
                self.progress.connections = self.by_link.len() as u64;
                progress(&self.progress);
            }
            if !self.report.failures.is_empty() || (!busy && self.at_rest()) {
                break;
            }
            let idle = now.saturating_duration_since(last_event);
            if idle > self.options.patience.max(self.next_chore(now)) && !self.paced(now) {
                self.stuck();
                break;
            }
        }
        self.progress.elapsed = self.began.elapsed();
        progress(&self.progress);
        Ok(self.finish())
    }

    fn finish(mut self) -> (Report, Vec<ClientLog>) {
        let seconds = (self.last_answer - self.began).as_secs_f64().max(1e-6);
        let report = &mut self.report;
        report.clients = self.actors.len() as u64;
        report.messages = self.messages.len() as u64;
        report.acked = self.progress.answered - report.refused;
        report.deliveries = self.progress.deliveries;
        report.seconds = seconds;
        report.messages_per_second = report.acked as f64 / seconds;
        report.deliveries_per_second = report.deliveries as f64 / seconds;
        report.ack = self.ack.latency();
        report.delivery = self.delivery.latency();
        (self.report, self.actors.into_iter().map(|a| a.state.into_log()).collect())
    }

    /// Nothing happened for too long: what is missing is for the checker to name, but say where it stands.
    fn stuck(&mut self) {
        let waiting: usize = self.actors.iter().map(|a| a.state.unanswered()).sum();
        let unsent = self.progress.total - self.progress.sent;
        if unsent > 0 {
            let down = self.actors.iter().filter(|a| a.down_since.is_some()).count();
            self.report.failures.push(format!(
                "nothing happened for {:?}: {unsent} messages unsent, {waiting} unanswered, {down} clients down",
                self.options.patience
            ));
        }
    }

    fn listeners(&mut self) {
        for script in 0..self.stages.len() {
            let room = self.room(script);
            for n in 0..self.options.listeners {
                let name = format!("listener-{n}");
                let actor = self.person(&room, &name, true);
                self.join(actor, &room, JoinOptions::default());
            }
        }
    }

    fn all_in(&mut self) -> bool {
        let rooms = self.places.clone();
        self.people.iter().all(|((room, name), actor)| {
            let place = rooms.contains_key(room) && name.starts_with("listener-");
            !place
                || self.actors.get_mut(*actor).is_none_or(|a| {
                    let room = a.state.room(room);
                    a.state.is_in(room)
                })
        })
    }

    fn room(&self, script: usize) -> String {
        self.stages.get(script).map(|s| s.script.room.clone()).unwrap_or_default()
    }

    /// The client of this person, made if it is new.
    pub(super) fn person(&mut self, room: &str, name: &str, alone: bool) -> usize {
        let scope = if self.options.per_sender && !alone { "" } else { room };
        let key = (scope.to_owned(), name.to_owned());
        if let Some(actor) = self.people.get(&key) {
            return *actor;
        }
        let actor = self.actors.len();
        let state = State::new(format!("client {actor} ({name})"), name);
        self.actors.push(Actor::new(state, self.options.publish_rate));
        self.people.insert(key, actor);
        actor
    }

    // ---- connections ----

    pub(super) fn later(&mut self, wait: Duration, chore: Chore) {
        self.chores.push(std::cmp::Reverse((Instant::now() + wait, chore)));
    }

    fn next_chore(&self, now: Instant) -> Duration {
        self.chores.peek().map_or(Duration::ZERO, |c| c.0.0.saturating_duration_since(now))
    }

    /// Sees to it that the actor is connected, or about to be.
    pub(super) fn wanted(&mut self, actor: usize) {
        if let Some(a) = self.actors.get_mut(actor)
            && a.link.is_none()
            && a.back_at.is_none()
        {
            a.back_at = Some(Instant::now());
            self.later(Duration::ZERO, Chore::Connect(actor));
        }
    }

    fn connect(&mut self, actor: usize) -> io::Result<()> {
        if self.dialing >= DIALING {
            self.later(SOON, Chore::Connect(actor));
            return Ok(());
        }
        let Some(a) = self.actors.get_mut(actor) else { return Ok(()) };
        a.back_at = None;
        if a.link.is_some() {
            return Ok(());
        }
        let node = (actor + a.dials) % self.targets.len();
        let Some(target) = self.targets.get(node) else { return Ok(()) };
        a.dials += 1;
        let source = target.source(actor as u32);
        let target = target.with("user", a.state.user());
        let opening =
            Opening { path: target.path.clone(), headers: Vec::new(), protocols: vec!["klatch.v1".into()] };
        match self.fleet.open(&target, &opening, source) {
            Ok(link) => {
                a.link = Some(link);
                self.by_link.insert(link, actor);
                self.dialing += 1;
            }
            Err(e) => self.came_down(actor, &format!("connect: {e}")),
        }
        Ok(())
    }

    /// The actor has no connection now: it comes back, or the run has failed.
    fn came_down(&mut self, actor: usize, why: &str) {
        let Some(a) = self.actors.get_mut(actor) else { return };
        a.link = None;
        a.open = false;
        let since = *a.down_since.get_or_insert_with(Instant::now);
        if since.elapsed() > self.options.reconnect_for {
            let text = format!("{} could not come back in time: {why}", a.state.log().name);
            self.report.failures.push(text);
            return;
        }
        let wait = backoff(a.tries, &mut self.random);
        a.tries += 1;
        a.back_at = Some(Instant::now() + wait);
        self.later(wait, Chore::Connect(actor));
    }

    /// Breaks a connection without a word.
    fn cut(&mut self, actor: usize) {
        if let Some(a) = self.actors.get_mut(actor)
            && a.open
            && let Some(link) = a.link.take()
        {
            self.by_link.remove(&link);
            self.fleet.cut(link);
            a.state.closed();
            self.came_down(actor, "dropped on purpose");
        }
    }

    pub(super) fn send(&mut self, actor: usize, frame: String) {
        if let Some(a) = self.actors.get(actor)
            && a.open
            && let Some(link) = a.link
            && !self.fleet.send(link, frame)
        {
            // Its queue is full or it is closing: what is not sent is resumed on the next connection.
            self.cut(actor);
        }
    }

    // ---- one turn ----

    /// Writes, reads and takes in what came; whether anything did.
    fn turn(&mut self, events: &mut Vec<(Link, Event)>) -> io::Result<bool> {
        let now = Instant::now();
        let wait = match self.chores.peek() {
            Some(std::cmp::Reverse((at, _))) => at.saturating_duration_since(now).min(SOON),
            None => SOON,
        };
        self.fleet.turn(if self.options.speed == Speed::Max { wait } else { wait.min(SOON / 10) }, events)?;
        for actor in std::mem::take(&mut self.cuts) {
            self.cut(actor);
        }
        let busy = !events.is_empty();
        for (link, event) in events.drain(..) {
            let Some(actor) = self.by_link.get(&link).copied() else { continue };
            self.event(actor, link, event);
        }
        let now = Instant::now();
        while self.chores.peek().is_some_and(|c| c.0.0 <= now) {
            let Some(std::cmp::Reverse((_, chore))) = self.chores.pop() else { break };
            self.chore(chore)?;
        }
        Ok(busy)
    }

    fn chore(&mut self, chore: Chore) -> io::Result<()> {
        match chore {
            Chore::Connect(actor) => self.connect(actor)?,
            Chore::Retry(number) => {
                let Some(msg) = self.messages.get(number).filter(|m| m.phase != Phase::Done) else {
                    return Ok(());
                };
                let (actor, place) = (msg.actor, msg.place);
                let now = Instant::now();
                let Some(a) = self.actors.get_mut(actor) else { return Ok(()) };
                if !a.open || !a.may_publish(now) {
                    self.later(SOON, chore);
                } else if let Some(frame) = a.state.send_again(place) {
                    self.report.retries += 1;
                    self.send(actor, frame);
                }
            }
            Chore::Overdue(number, drops) => {
                let Some(msg) = self.messages.get(number).filter(|m| m.phase != Phase::Done) else {
                    return Ok(());
                };
                let place = msg.place;
                let Some(a) = self.actors.get_mut(msg.actor) else { return Ok(()) };
                let stood = a.state.log().drops;
                if stood == drops && a.open {
                    a.state.overdue(place);
                    self.later(Duration::ZERO, Chore::Retry(number));
                }
                self.later(self.options.answer_timeout, Chore::Overdue(number, stood));
            }
            Chore::Rejoin(actor, room) => {
                if let Some(a) = self.actors.get_mut(actor).filter(|a| a.open && !a.state.is_in(room)) {
                    let frame = a.state.rejoin(room);
                    self.send(actor, frame);
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, actor: usize, link: Link, event: Event) {
        match event {
            Event::Open => {
                self.dialing = self.dialing.saturating_sub(1);
                self.report.connections += 1;
                let Some(a) = self.actors.get_mut(actor) else { return };
                a.open = true;
                let before: u32 = a.state.log().publishes.iter().map(|p| p.attempts).sum();
                let frames = a.state.resume();
                let after: u32 = a.state.log().publishes.iter().map(|p| p.attempts).sum();
                self.report.retries += u64::from(after - before);
                for frame in frames {
                    self.send(actor, frame);
                }
            }
            Event::Text(text) => match Frame::parse(&text) {
                Ok(frame) => self.frame(actor, &frame),
                Err(e) => self.report.failures.push(format!("not a frame of the protocol: {e}: {text}")),
            },
            Event::Binary(_) => self.report.failures.push("the server sent a binary frame".to_owned()),
            Event::Closed { code, reason } => {
                self.by_link.remove(&link);
                let Some(a) = self.actors.get_mut(actor) else { return };
                if std::mem::take(&mut a.open) {
                    a.state.closed();
                } else {
                    self.dialing = self.dialing.saturating_sub(1);
                }
                if code.is_some_and(|code| code >= 4500) {
                    let text = format!(
                        "{} was sent away: {} {reason}",
                        a.state.log().name,
                        code.unwrap_or_default()
                    );
                    self.report.failures.push(text);
                }
                self.came_down(actor, &reason);
            }
            Event::Accepted(_) => {}
        }
    }

    fn frame(&mut self, actor: usize, frame: &Frame<'_>) {
        let Some(a) = self.actors.get_mut(actor) else { return };
        match a.state.frame(frame) {
            Seen::Welcome => {
                a.tries = 0;
                a.down_since = None;
            }
            Seen::Publication { offset, answers, live, .. } => {
                self.progress.deliveries += 1;
                self.reached(&frame.room, offset);
                if live
                    && let Some(msg) = number(&frame.id, self.options.seed).and_then(|n| self.messages.get(n))
                {
                    self.delivery.add(msg.first_sent.elapsed());
                }
                if let Some(place) = answers {
                    self.answered(actor, place, true);
                }
            }
            Seen::Published { message, outcome: Outcome::Stored { offset, .. } } => {
                self.reached(&frame.room, offset);
                self.answered(actor, message, true);
            }
            Seen::Published { message, outcome: Outcome::Unknown { retry_after_ms } } => {
                self.retry(actor, message, retry_after_ms);
            }
            Seen::Published { message, outcome: Outcome::NotStored { later, retry_after_ms, .. } } => {
                if later {
                    self.retry(actor, message, retry_after_ms);
                } else {
                    self.answered(actor, message, false);
                }
            }
            Seen::Refused { room: None, retry_after_ms: 0, error } => {
                self.report.failures.push(format!("a frame was refused: {error}: {}", &*frame.message));
            }
            Seen::Refused { room: Some(room), retry_after_ms, error } => {
                if retry_after_ms > 0 {
                    let wait = Duration::from_millis(retry_after_ms);
                    self.later(wait, Chore::Rejoin(actor, room));
                } else if error != "not_joined" {
                    self.report.failures.push(format!("a join or leave was refused: {error}"));
                }
            }
            // Nothing keeps this person's connection any more, unless a script brings it back.
            Seen::Left { .. }
                if !self.options.per_sender && a.under_way == 0 && a.state.unanswered() == 0 =>
            {
                a.open = false;
                if let Some(link) = a.link.take() {
                    self.by_link.remove(&link);
                    self.fleet.close(link, 1000, "");
                }
            }
            _ => {}
        }
    }

    fn reached(&mut self, room: &str, offset: u64) {
        if let Some(stage) = self.places.get(room).and_then(|place| self.stages.get_mut(*place)) {
            stage.end = stage.end.max(offset);
        }
    }

    fn retry(&mut self, actor: usize, place: usize, after_ms: u64) {
        let number = self.actors.get(actor).and_then(|a| a.numbers.get(place)).copied();
        if let Some(number) = number {
            let jitter = Duration::from_millis(self.random.below(20));
            self.later(Duration::from_millis(after_ms) + jitter, Chore::Retry(number));
        }
    }

    /// One sending of a message has its final answer.
    fn answered(&mut self, actor: usize, place: usize, stored: bool) {
        let Some(a) = self.actors.get_mut(actor) else { return };
        let Some(msg) = a.numbers.get(place).and_then(|n| self.messages.get_mut(*n)) else { return };
        let was = msg.phase;
        if was == Phase::UnderWay {
            let now = Instant::now();
            self.last_answer = now;
            self.progress.answered += 1;
            if stored {
                self.ack.add(now - msg.first_sent);
            } else {
                self.report.refused += 1;
            }
            a.under_way -= 1;
            if let Some(stage) = self.stages.get_mut(msg.script) {
                stage.under_way -= 1;
            }
        }
        if was == Phase::UnderWay && stored && msg.again {
            msg.phase = Phase::Again;
            if let Some(frame) = a.state.send_again(place) {
                self.report.retries += 1;
                self.send(actor, frame);
            }
        } else {
            msg.phase = Phase::Done;
            a.state.settle(place);
        }
    }
}

/// The place of the message with this id.
fn number(id: &str, seed: u64) -> Option<usize> {
    let (run, number) = id.split_once('-')?;
    (u64::from_str_radix(run, 16).ok()? == seed).then_some(())?;
    number.parse::<usize>().ok()?.checked_sub(1)
}
