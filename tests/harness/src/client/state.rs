//! What a client knows, without sockets: memberships, positions, messages without an answer.

use crate::observe::{AckLog, Began, ClientLog, Delivery, End, PublishLog, Resume, RoomLog, Run};
use crate::wire::{Frame, Payload, Request, body};
use serde_json::value::RawValue;
use std::collections::{BTreeSet, HashMap};

/// How to join a room.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// How many publications to send before the live stream; with `since`, if that cannot be resumed from.
    pub history: u32,
    /// A position to go on from.
    pub since: Option<Since>,
    /// Whether own publications are delivered, and are their ack. Default true.
    pub echo: bool,
}

impl Default for JoinOptions {
    fn default() -> JoinOptions {
        JoinOptions { history: 0, since: None, echo: true }
    }
}

/// A position in a room's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// The epoch; empty if unknown.
    pub epoch: String,
    /// The offset of the last publication seen.
    pub offset: u64,
}

/// What became of one sending of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log.
    Stored {
        /// Its position.
        offset: u64,
        /// Whether its id had been accepted before.
        duplicate: bool,
    },
    /// It is certainly not in the log.
    NotStored {
        /// The error's name.
        error: String,
        /// Whether a later try may succeed.
        later: bool,
        /// When.
        retry_after_ms: u64,
    },
    /// Nobody knows; a retry with the same id finds out.
    Unknown {
        /// When to retry.
        retry_after_ms: u64,
    },
}

/// What a frame meant. Messages are named by their place in [`ClientLog::publishes`], rooms by theirs.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// The connection is established.
    Welcome,
    /// A membership began or went on.
    Joined {
        /// Which room.
        room: usize,
        /// False if the position that the client named was given up.
        recovered: bool,
    },
    /// A membership ended.
    Left {
        /// Which room.
        room: usize,
    },
    /// A publication. If it is an own one that still had no answer, that is an answer: `answers`.
    Publication {
        /// Which room.
        room: usize,
        /// Its offset.
        offset: u64,
        /// The own message that it acknowledges.
        answers: Option<usize>,
        /// Whether it came after the join's history.
        live: bool,
    },
    /// The outcome of one sending.
    Published {
        /// Which message.
        message: usize,
        /// Its outcome.
        outcome: Outcome,
    },
    /// A request other than publish failed.
    Refused {
        /// The error's name.
        error: String,
        /// Of a join or leave: which room.
        room: Option<usize>,
        /// When a retry may succeed; 0: it does not help.
        retry_after_ms: u64,
    },
    /// The server is about to close the connection.
    Disconnect {
        /// Why.
        code: u16,
        /// Whether to come back.
        reconnect: bool,
    },
    /// Any other frame.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    Out,
    Joining,
    In,
    Leaving,
}

#[derive(Debug)]
struct Member {
    membership: Membership,
    options: JoinOptions,
    /// A run that a resume would continue.
    running: bool,
    epoch: usize,
    position: u64,
    /// The room's last offset when it joined: what comes after is live.
    live_after: u64,
}

#[derive(Clone, Debug)]
enum Sent {
    Join(usize, Option<Since>),
    Leave(usize),
    Publish(usize),
}

/// A message that is not settled: its text, and its requests on this connection.
#[derive(Debug)]
struct Pending {
    binary: bool,
    text: Box<str>,
    requests: Vec<u64>,
}

/// The state of one client: give it every frame and every end of a connection, send what it returns.
///
/// It never forgets a message without an answer: [`State::resume`] sends it again with the same id.
#[derive(Debug)]
pub struct State {
    log: ClientLog,
    members: Vec<Member>,
    rooms: HashMap<String, usize>,
    sent: HashMap<u64, Sent>,
    /// Own messages by room and id.
    ids: HashMap<(usize, Box<str>), Vec<usize>>,
    /// What to send again, with the room's place, until there is an answer.
    unanswered: BTreeSet<usize>,
    /// Messages that may be sent again.
    pending: HashMap<usize, Pending>,
    next: u64,
}

impl State {
    /// A client of this user (empty: anonymous), called `name` in reports.
    pub fn new(name: impl Into<String>, user: impl Into<String>) -> State {
        State {
            log: ClientLog { name: name.into(), user: user.into(), ..ClientLog::default() },
            members: Vec::new(),
            rooms: HashMap::new(),
            sent: HashMap::new(),
            ids: HashMap::new(),
            unanswered: BTreeSet::new(),
            pending: HashMap::new(),
            next: 1,
        }
    }

    /// What it did and saw so far.
    pub fn log(&self) -> &ClientLog {
        &self.log
    }

    /// The same, at the end: open runs stay open.
    pub fn into_log(self) -> ClientLog {
        self.log
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.log.user
    }

    /// The place of a room, added if it is new.
    pub fn room(&mut self, name: &str) -> usize {
        if let Some(room) = self.rooms.get(name) {
            return *room;
        }
        let room = self.members.len();
        self.rooms.insert(name.to_owned(), room);
        self.log.rooms.push(RoomLog { room: name.to_owned(), ..RoomLog::default() });
        self.members.push(Member {
            membership: Membership::Out,
            options: JoinOptions::default(),
            running: false,
            epoch: 0,
            position: 0,
            live_after: 0,
        });
        room
    }

    /// Whether it is a member of the room now.
    pub fn is_in(&self, room: usize) -> bool {
        self.members.get(room).is_some_and(|m| m.membership == Membership::In)
    }

    /// Whether it is a member of the room, or has asked to be.
    pub fn wants(&self, room: usize) -> bool {
        self.members.get(room).is_some_and(|m| matches!(m.membership, Membership::In | Membership::Joining))
    }

    /// Whether it has asked to leave the room and has no answer yet.
    pub fn is_leaving(&self, room: usize) -> bool {
        self.members.get(room).is_some_and(|m| m.membership == Membership::Leaving)
    }

    /// The rooms that it is a member of or has asked to be, whether it is, and its offset there.
    pub fn memberships(&self) -> impl Iterator<Item = (&str, bool, u64)> {
        let rooms = self.log.rooms.iter().zip(&self.members).enumerate();
        rooms
            .filter(|(place, (_, m))| self.wants(*place) || m.membership == Membership::Leaving)
            .map(|(_, (log, m))| (log.room.as_str(), m.membership == Membership::In, m.position))
    }

    /// Its position in the room.
    pub fn position(&self, room: usize) -> Since {
        self.members.get(room).map_or(Since { epoch: String::new(), offset: 0 }, |m| Since {
            epoch: self.log.epochs.get(m.epoch).cloned().unwrap_or_default(),
            offset: m.position,
        })
    }

    /// Messages that have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Whether this message has no answer yet.
    pub fn waits_for(&self, message: usize) -> bool {
        self.unanswered.contains(&message)
    }

    fn reference(&mut self, sent: Sent) -> Option<u64> {
        let reference = self.next;
        self.next += 1;
        self.sent.insert(reference, sent);
        Some(reference)
    }

    /// Joins a room.
    pub fn join(&mut self, room: &str, options: JoinOptions) -> String {
        let room = self.room(room);
        if let Some(member) = self.members.get_mut(room) {
            member.options = options;
            member.running = false;
        }
        self.join_frame(room)
    }

    fn join_frame(&mut self, room: usize) -> String {
        let Some(member) = self.members.get_mut(room) else { return String::new() };
        member.membership = Membership::Joining;
        let (running, options) = (member.running, member.options.clone());
        let since = if running { Some(self.position(room)) } else { options.since };
        let reference = self.reference(Sent::Join(room, since.clone()));
        Request {
            kind: "join",
            reference,
            room: self.log.rooms.get(room).map(|r| r.room.as_str()),
            history: (options.history > 0).then_some(options.history),
            since: since.as_ref().map(|s| s.offset),
            epoch: since.as_ref().map(|s| s.epoch.as_str()).filter(|e| !e.is_empty()),
            echo: (!options.echo).then_some(false),
            ..Request::default()
        }
        .text()
    }

    /// Leaves a room.
    pub fn leave(&mut self, room: &str) -> String {
        let place = self.room(room);
        if let Some(member) = self.members.get_mut(place) {
            member.membership = Membership::Leaving;
        }
        let reference = self.reference(Sent::Leave(place));
        Request { kind: "leave", reference, room: Some(room), ..Request::default() }.text()
    }

    /// Publishes; without an id if it is empty. Returns the message's place in [`ClientLog::publishes`] and the frame.
    pub fn publish(&mut self, room: &str, id: &str, payload: Payload<'_>) -> (usize, String) {
        let place = self.room(room);
        let message = self.log.publishes.len();
        self.log.publishes.push(PublishLog {
            room: place,
            id: id.into(),
            body: body(payload),
            attempts: 0,
            not_stored: 0,
            unknown: 0,
            overdue: 0,
            acks: Vec::new(),
        });
        let (binary, text) = match payload {
            Payload::Json(text) => (false, text),
            Payload::Binary(text) => (true, text),
        };
        self.pending.insert(message, Pending { binary, text: text.into(), requests: Vec::new() });
        if !id.is_empty() {
            self.ids.entry((place, id.into())).or_default().push(message);
        }
        let frame = self.send_again(message).unwrap_or_default();
        (message, frame)
    }

    /// Sends a message once more with the same id. `None` if it was settled and its text dropped.
    pub fn send_again(&mut self, message: usize) -> Option<String> {
        let reference = self.reference(Sent::Publish(message));
        let pending = self.pending.get_mut(&message)?;
        let publish = self.log.publishes.get_mut(message)?;
        publish.attempts += 1;
        pending.requests.extend(reference);
        self.unanswered.insert(message);
        let Pending { binary, text, .. } = pending;
        let raw: Option<&RawValue> = if *binary { None } else { serde_json::from_str(text).ok() };
        let request = Request {
            kind: "publish",
            reference,
            room: self.log.rooms.get(publish.room).map(|r| r.room.as_str()),
            id: Some(&*publish.id).filter(|id| !id.is_empty()),
            data: raw,
            bytes: binary.then_some(&**text),
            ..Request::default()
        };
        Some(request.text())
    }

    /// The client gives up waiting for an answer to what it sent: the outcome is unknown. It should send it again.
    pub fn overdue(&mut self, message: usize) {
        if self.unanswered.contains(&message)
            && let Some(publish) = self.log.publishes.get_mut(message)
        {
            publish.unknown += 1;
            publish.overdue += 1;
        }
    }

    /// Frees what is kept of a message that will not be sent again.
    pub fn settle(&mut self, message: usize) {
        for request in self.pending.remove(&message).map(|p| p.requests).unwrap_or_default() {
            self.sent.remove(&request);
        }
        self.unanswered.remove(&message);
    }

    /// Asks again for a membership that the server could not give just now.
    pub fn rejoin(&mut self, room: usize) -> String {
        self.join_frame(room)
    }

    /// The frames to send on a new connection: joins from the positions reached, then messages without an answer.
    /// Messages without an id are not sent again.
    pub fn resume(&mut self) -> Vec<String> {
        let wanted: Vec<usize> = (0..self.members.len())
            .filter(|room| self.members.get(*room).is_some_and(|m| m.membership == Membership::Joining))
            .collect();
        let mut frames: Vec<String> = wanted.into_iter().map(|room| self.join_frame(room)).collect();
        let again: Vec<usize> = self.unanswered.iter().copied().collect();
        for message in again {
            if self.log.publishes.get(message).is_some_and(|p| p.id.is_empty()) {
                self.settle(message);
            } else {
                frames.extend(self.send_again(message));
            }
        }
        frames
    }

    /// The connection ended: what had no answer is unknown, memberships wait for [`State::resume`].
    pub fn closed(&mut self) {
        self.log.drops += 1;
        for sent in std::mem::take(&mut self.sent).into_values() {
            if let Sent::Publish(message) = sent
                && self.unanswered.contains(&message)
                && let Some(publish) = self.log.publishes.get_mut(message)
            {
                publish.unknown += 1;
            }
        }
        for pending in self.pending.values_mut() {
            pending.requests.clear();
        }
        for (member, log) in self.members.iter_mut().zip(&mut self.log.rooms) {
            match member.membership {
                Membership::In => member.membership = Membership::Joining,
                Membership::Leaving => {
                    member.membership = Membership::Out;
                    member.running = false;
                    end(log, End::Left);
                }
                Membership::Out | Membership::Joining => {}
            }
        }
    }

    /// The client stops for good.
    pub fn stop(&mut self) {
        for (member, log) in self.members.iter_mut().zip(&mut self.log.rooms) {
            member.membership = Membership::Out;
            if std::mem::take(&mut member.running) {
                end(log, End::Stopped);
            }
        }
    }

    /// Takes in one frame.
    pub fn frame(&mut self, frame: &Frame<'_>) -> Seen {
        match &*frame.kind {
            "publication" => self.publication(frame),
            "ack" => self.ack(frame),
            "error" => self.error(frame),
            "joined" => self.joined(frame),
            "left" => {
                let room = self.room(&frame.room);
                self.answered(frame);
                self.ended(room, End::Left);
                Seen::Left { room }
            }
            "welcome" => Seen::Welcome,
            "disconnect" => Seen::Disconnect {
                code: frame.code.unwrap_or_default(),
                reconnect: frame.reconnect.unwrap_or(true),
            },
            _ => Seen::Other,
        }
    }

    fn answered(&mut self, frame: &Frame<'_>) -> Option<Sent> {
        frame.reference.and_then(|r| self.sent.remove(&r))
    }

    fn ended(&mut self, room: usize, how: End) {
        if let (Some(member), Some(log)) = (self.members.get_mut(room), self.log.rooms.get_mut(room)) {
            member.membership = Membership::Out;
            if std::mem::take(&mut member.running) {
                end(log, how);
            }
        }
    }

    fn joined(&mut self, frame: &Frame<'_>) -> Seen {
        let room = self.room(&frame.room);
        let since = match self.answered(frame) {
            Some(Sent::Join(_, since)) => since,
            _ => None,
        };
        let epoch = self.log.epoch(&frame.epoch);
        let (Some(member), Some(log)) = (self.members.get_mut(room), self.log.rooms.get_mut(room)) else {
            return Seen::Other;
        };
        let offset = frame.offset.unwrap_or_default();
        let recovered = since.is_none() || frame.recovered.unwrap_or(true);
        let continues = std::mem::replace(&mut member.running, true);
        member.membership = Membership::In;
        member.live_after = frame.last.unwrap_or_default();
        // A recovered position is the one that the client named; what the server names is only noted.
        member.position = match &since {
            Some(since) if recovered => since.offset,
            _ => offset,
        };
        let same_epoch = member.epoch == epoch;
        member.epoch = epoch;
        match (since, log.runs.last_mut()) {
            (Some(since), Some(run)) if recovered && continues && same_epoch => {
                run.resumes.push(Resume { after: run.deliveries.len(), since: since.offset, offset });
            }
            (since, last) => {
                if continues && let Some(run) = last {
                    run.end = End::Stopped;
                }
                let began = match &since {
                    None => Began::Fresh,
                    Some(_) if recovered => Began::Since,
                    Some(_) => Began::Reset,
                };
                let (start, echo) = (member.position, member.options.echo);
                log.runs.push(Run { epoch, start, began, echo, ..Run::default() });
            }
        }
        Seen::Joined { room, recovered }
    }

    fn publication(&mut self, frame: &Frame<'_>) -> Seen {
        let room = match self.rooms.get(&*frame.room) {
            Some(room) => *room,
            None => self.room(&frame.room),
        };
        let offset = frame.offset.unwrap_or_default();
        let delivery = Delivery { offset, content: frame.content() };
        let (Some(member), Some(log)) = (self.members.get_mut(room), self.log.rooms.get_mut(room)) else {
            return Seen::Other;
        };
        let inside = matches!(member.membership, Membership::In | Membership::Leaving);
        let Some(run) = log.runs.last_mut().filter(|_| inside) else {
            log.outside.push(delivery);
            return Seen::Publication { room, offset, answers: None, live: false };
        };
        let prev = frame.prev.unwrap_or_default();
        if prev != member.position {
            run.odd_prev.push((run.deliveries.len(), prev));
        }
        run.deliveries.push(delivery);
        member.position = offset;
        let (epoch, live) = (run.epoch, offset > member.live_after);
        let mut answers = None;
        if !frame.id.is_empty() && *frame.user == *self.log.user {
            let own = self.own(room, &frame.id, body(frame.payload()));
            if let Some(message) = own {
                self.note(message, AckLog { epoch, offset, duplicate: false, own: true });
                answers = self.unanswered.remove(&message).then_some(message);
            }
        }
        Seen::Publication { room, offset, answers, live }
    }

    /// The own message with this id and body.
    fn own(&self, room: usize, id: &str, body: u64) -> Option<usize> {
        if self.ids.is_empty() {
            return None;
        }
        let messages = self.ids.get(&(room, id.into()))?;
        messages.iter().copied().find(|m| self.log.publishes.get(*m).is_some_and(|p| p.body == body))
    }

    fn note(&mut self, message: usize, ack: AckLog) {
        if let Some(publish) = self.log.publishes.get_mut(message)
            && !publish.acks.contains(&ack)
        {
            publish.acks.push(ack);
        }
    }

    fn ack(&mut self, frame: &Frame<'_>) -> Seen {
        let room = self.room(&frame.room);
        let message = match self.answered(frame) {
            Some(Sent::Publish(message)) => message,
            // Without a ref of ours it can only be told by its id.
            _ => match self.ids.get(&(room, (&*frame.id).into())).and_then(|m| m.first()) {
                Some(message) => *message,
                None => return Seen::Other,
            },
        };
        let (offset, duplicate) = (frame.offset.unwrap_or_default(), frame.duplicate);
        let epoch = self.log.epoch(&frame.epoch);
        self.note(message, AckLog { epoch, offset, duplicate, own: false });
        self.unanswered.remove(&message);
        // The ack of a duplicate says where the message is, not that the client has seen all before it.
        if !duplicate
            && let Some(member) = self.members.get_mut(room)
            && member.membership == Membership::In
            && member.epoch == epoch
        {
            member.position = member.position.max(offset);
        }
        Seen::Published { message, outcome: Outcome::Stored { offset, duplicate } }
    }

    fn error(&mut self, frame: &Frame<'_>) -> Seen {
        *self.log.errors.entry(frame.name.to_string()).or_default() += 1;
        let error = frame.name.to_string();
        let retry_after_ms = frame.retry_after_ms;
        match self.answered(frame) {
            Some(Sent::Publish(message)) => {
                let Some(publish) = self.log.publishes.get_mut(message) else { return Seen::Other };
                let class = frame.code.unwrap_or_default() / 100;
                if &*frame.outcome == "unknown" || class == 3 {
                    publish.unknown += 1;
                    return Seen::Published { message, outcome: Outcome::Unknown { retry_after_ms } };
                }
                publish.not_stored += 1;
                // It stays unanswered while another sending of it is under way.
                if publish.not_stored + publish.unknown >= publish.attempts && publish.unknown == 0 {
                    self.unanswered.remove(&message);
                }
                let outcome = Outcome::NotStored { error, later: class == 1, retry_after_ms };
                Seen::Published { message, outcome }
            }
            Some(Sent::Join(room, _)) => {
                // What may succeed later is asked for again by `rejoin` and goes on from the same position.
                if frame.code.unwrap_or_default() / 100 != 1 {
                    self.ended(room, End::Stopped);
                }
                Seen::Refused { error, room: Some(room), retry_after_ms }
            }
            Some(Sent::Leave(room)) => {
                self.ended(room, End::Left);
                Seen::Refused { error, room: Some(room), retry_after_ms }
            }
            None => Seen::Refused { error, room: None, retry_after_ms },
        }
    }
}

fn end(log: &mut RoomLog, how: End) {
    if let Some(run) = log.runs.last_mut() {
        run.end = how;
    }
}
