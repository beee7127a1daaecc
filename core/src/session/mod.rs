//! The session: what a connection may do, sans I/O. Commands, hook answers and times go in, effects come out; the shard carries
//! them out. Publications do not pass through here.

pub mod bucket;
pub mod stream;

use crate::codes::{Code, Disconnect, Retry};
use crate::command::{Command, Connect, HistoryQuery, Join, JoinOptions, Publish, Ref, Signal};
use crate::config::{Limit, Limits};
use crate::error::Error;
use crate::message::Kind;
use bucket::Bucket;
use std::sync::Arc;

/// What holds for all sessions of an engine.
#[derive(Debug)]
pub struct Policy {
    /// Limits.
    pub limits: Limits,
    /// The host answers who may connect and join.
    pub authorizer: bool,
    /// The host looks at each publish.
    pub publish_hook: bool,
    /// Whether clients may name their own user where no authorizer is set.
    pub open_users: bool,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    user: Arc<str>,
    default_room: Option<Arc<str>>,
    state: State,
    memberships: Vec<Membership>,
    publishes: Bucket,
    requests: Bucket,
    /// Publishes that wait for their outcome.
    pending: u32,
    bad: u32,
    /// The last publish was refused: the burst is used up.
    throttled: bool,
    /// A hook or a history read of this session is under way.
    waiting: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Waits for its first frame, or for the first connect.
    New,
    /// Waits for the authorizer; the join that follows is kept.
    Authorizing(Option<JoinOptions>, Ref),
    Open,
    Closed,
}

/// A room that the session is in or about to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The room.
    pub room: Arc<str>,
    /// How it was joined.
    pub options: JoinOptions,
    /// The shard's slot of the room; `u32::MAX` until the shard has put it there.
    pub slot: u32,
}

/// What the shard is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the welcome.
    Welcome {
        /// The connect frame's ref.
        reference: Ref,
    },
    /// Send a pong.
    Pong {
        /// The request's ref.
        reference: Ref,
    },
    /// Send an error.
    Fail(Failure),
    /// Ask the host who this is; answer with [`Session::connect_answered`].
    AskConnect {
        /// The user that the client named.
        user: Arc<str>,
        /// Its token.
        token: Option<Box<str>>,
    },
    /// Ask the host whether the session may join; answer with [`Session::join_answered`].
    AskJoin {
        /// The room.
        room: Arc<str>,
        /// How.
        options: JoinOptions,
        /// The request's ref.
        reference: Ref,
    },
    /// Make it a member; the membership is in the session already.
    Join {
        /// The room.
        room: Arc<str>,
        /// How.
        options: JoinOptions,
        /// The request's ref.
        reference: Ref,
    },
    /// End a membership and send `left`.
    Leave {
        /// The membership, taken out of the session.
        membership: Membership,
        /// The request's ref.
        reference: Ref,
    },
    /// Ask the host about a publish; answer with [`Session::publish_answered`].
    AskPublish(Message),
    /// Append a message.
    Append(Message),
    /// Deliver a signal.
    Signal {
        /// The room.
        room: Arc<str>,
        /// The event's name.
        name: Box<str>,
        /// JSON text.
        data: Box<str>,
        /// The request's ref.
        reference: Ref,
    },
    /// Read history; call [`Session::done_waiting`] when it is sent.
    History {
        /// The room.
        room: Arc<str>,
        /// Which part.
        query: HistoryQuery,
        /// The request's ref.
        reference: Ref,
    },
    /// Send who is in a room.
    Presence {
        /// The room.
        room: Arc<str>,
        /// The request's ref.
        reference: Ref,
    },
    /// Count a limit that was reached, where no error tells it.
    Hit(Limit),
    /// Close the connection.
    Close(Disconnect, &'static str),
}

/// What a publish hook stores instead.
pub type Replacement = (Kind, Box<[u8]>);

/// A message to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The room.
    pub room: Arc<str>,
    /// The id as given; empty if none.
    pub id: Box<str>,
    /// What the data is.
    pub kind: Kind,
    /// JSON text or bytes.
    pub data: Box<[u8]>,
    /// The request's ref.
    pub reference: Ref,
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error.
    pub error: Error,
    /// The request's ref, where it could be read.
    pub reference: Ref,
    /// The message id, where there is one.
    pub id: Option<Box<str>>,
    /// The room, where it is known.
    pub room: Option<Arc<str>>,
    /// It answers a publish, whose message was certainly not stored.
    pub publish: bool,
}

impl Failure {
    fn new(error: Error, reference: Ref) -> Failure {
        Failure { error, reference, id: None, room: None, publish: false }
    }
}

impl Session {
    /// A session that waits for its first frame.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Session {
        Session {
            user: "".into(),
            default_room: None,
            state: State::New,
            memberships: Vec::new(),
            publishes: Bucket::default(),
            requests: Bucket::default(),
            pending: 0,
            bad: 0,
            throttled: false,
            waiting: false,
        }
    }

    /// The user; empty for an anonymous one.
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// Its memberships.
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// The same, to note slots.
    pub fn memberships_mut(&mut self) -> &mut [Membership] {
        &mut self.memberships
    }

    /// Whether it waits for its first frame.
    pub fn is_new(&self) -> bool {
        self.state == State::New
    }

    /// Whether further commands must wait: a hook or read is under way, or publishes have reached their limit.
    pub fn is_busy(&self, policy: &Policy) -> bool {
        self.waiting || self.pending as usize >= policy.limits.pending_publishes.max(1)
    }

    /// A publish has got its outcome.
    pub fn settled(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    /// What was asked for is being read: further commands wait for it, so that each is answered in its turn.
    pub fn wait(&mut self) {
        self.waiting = true;
    }

    /// What was waited for has been sent.
    pub fn done_waiting(&mut self) {
        self.waiting = false;
    }

    /// The connection names its user and default room: from the query and headers, or from its first frame. Both have been
    /// checked.
    pub fn connect(&mut self, c: Connect<'_>, policy: &Policy, out: &mut Vec<Effect>) {
        if self.state == State::Closed {
            return;
        }
        if self.state != State::New {
            let error = Error::new(Code::BadRequest, "connect may only be the first frame of a connection");
            return self.malformed(Failure::new(error, c.reference), policy, out);
        }
        let user = c.user.as_deref().unwrap_or_default();
        self.default_room = c.room.as_deref().map(Arc::from);
        let join = self.default_room.is_some().then_some(c.options);
        if policy.authorizer {
            self.state = State::Authorizing(join, c.reference);
            self.waiting = true;
            out.push(Effect::AskConnect { user: user.into(), token: c.token.as_deref().map(Box::from) });
            return;
        }
        if policy.open_users {
            self.user = user.into();
        }
        self.opened(join, c.reference, policy, out);
    }

    fn opened(&mut self, join: Option<JoinOptions>, reference: Ref, policy: &Policy, out: &mut Vec<Effect>) {
        self.state = State::Open;
        out.push(Effect::Welcome { reference });
        if let (Some(options), Some(room)) = (join, self.default_room.clone()) {
            self.join(room, options, None, policy, out);
        }
    }

    /// The host has said who this is, or refused it.
    pub fn connect_answered(
        &mut self,
        answer: Result<Arc<str>, Error>,
        policy: &Policy,
        out: &mut Vec<Effect>,
    ) {
        let State::Authorizing(join, reference) = self.state else { return };
        self.waiting = false;
        match answer {
            Ok(user) => {
                self.user = user;
                self.opened(join, reference, policy, out);
            }
            Err(error) => {
                let (code, text) = match error.retry() {
                    Retry::Later => (Disconnect::Reconnect, "the host could not answer; connect again"),
                    Retry::Forbidden => (Disconnect::Unauthorized, "the credentials were refused"),
                    _ => (Disconnect::Internal, "the host's authorizer failed"),
                };
                out.push(Effect::Fail(Failure::new(error, reference)));
                self.close(code, text, out);
            }
        }
    }

    /// The host has answered whether the session may join.
    pub fn join_answered(
        &mut self,
        room: Arc<str>,
        options: JoinOptions,
        reference: Ref,
        answer: Result<(), Error>,
        out: &mut Vec<Effect>,
    ) {
        self.waiting = false;
        if self.state == State::Closed {
            return;
        }
        match answer {
            Ok(()) => self.become_member(room, options, reference, out),
            Err(error) => {
                out.push(Effect::Fail(Failure { room: Some(room), ..Failure::new(error, reference) }));
            }
        }
    }

    /// The host has answered about a publish: the data to store, or a refusal.
    pub fn publish_answered(
        &mut self,
        message: Message,
        answer: Result<Option<Replacement>, Error>,
        policy: &Policy,
        out: &mut Vec<Effect>,
    ) {
        self.waiting = false;
        if self.state == State::Closed {
            return;
        }
        match answer {
            Ok(replaced) => {
                let (kind, data) = replaced.unwrap_or((message.kind, message.data));
                self.append(Message { kind, data, ..message }, policy, out);
            }
            Err(error) => out.push(Effect::Fail(refused(message, error))),
        }
    }

    /// A frame that is no command; `connect`: it was to say, or may have been to say, whom the connection is from. Must not be
    /// called while [`Session::is_busy`]. False: give it again when the session is no longer busy.
    pub fn refused(
        &mut self,
        failure: Failure,
        connect: bool,
        policy: &Policy,
        out: &mut Vec<Effect>,
    ) -> bool {
        if connect && self.state == State::New {
            // Whoever meant to say who it is must not go on as nobody.
            out.push(Effect::Fail(failure));
            self.close(Disconnect::Protocol, "the first frame does not say who this is", out);
            return true;
        }
        if !self.ready(policy, out) {
            return self.state == State::Closed;
        }
        if matches!(failure.error.code(), Code::BadRequest | Code::UnknownCommand) {
            self.malformed(failure, policy, out);
        } else {
            out.push(Effect::Fail(failure));
        }
        true
    }

    fn malformed(&mut self, failure: Failure, policy: &Policy, out: &mut Vec<Effect>) {
        out.push(Effect::Fail(failure));
        self.bad += 1;
        if self.bad > policy.limits.bad_requests {
            out.push(Effect::Hit(Limit::BadRequests));
            self.close(Disconnect::Protocol, "too many malformed requests", out);
        }
    }

    /// Whether a frame other than connect can be carried out. As the first frame it makes an anonymous connection, which may
    /// have to wait for the authorizer like any other.
    fn ready(&mut self, policy: &Policy, out: &mut Vec<Effect>) -> bool {
        if self.state == State::New {
            self.connect(Connect::default(), policy, out);
        }
        self.state == State::Open
    }

    /// Ends it; nothing is taken any more.
    pub fn close(&mut self, why: Disconnect, text: &'static str, out: &mut Vec<Effect>) {
        if self.state != State::Closed {
            self.state = State::Closed;
            out.push(Effect::Close(why, text));
        }
    }

    /// One command. Must not be called while [`Session::is_busy`]. False: give it again when the session is no longer busy.
    pub fn command(
        &mut self,
        command: Command<'_>,
        policy: &Policy,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) -> bool {
        let limits = &policy.limits;
        if self.state == State::Closed {
            return true;
        }
        let command = match command {
            Command::Connect(c) => {
                self.connect(c, policy, out);
                return true;
            }
            command => command,
        };
        if !self.ready(policy, out) {
            return false;
        }
        match command {
            Command::Ping { reference } => out.push(Effect::Pong { reference }),
            Command::Publish(p) => self.publish(p, policy, now_ms, out),
            command => {
                let (reference, room) = match &command {
                    Command::Join(Join { reference, room, .. })
                    | Command::Leave { reference, room }
                    | Command::Presence { reference, room }
                    | Command::Signal(Signal { reference, room, .. }) => (*reference, room.as_deref()),
                    Command::History(h) => (h.reference, h.room.as_deref()),
                    _ => (None, None),
                };
                let room = self.room(room);
                if let Err(after) = self.requests.take(limits.request_rate, limits.request_rate, now_ms) {
                    let error = Error::new(Code::RateLimited, "too many requests; slow down").after(after);
                    let error = error.at(Limit::RequestRate);
                    out.push(Effect::Fail(Failure { room, ..Failure::new(error, reference) }));
                    return true;
                }
                let Some(room) = room else {
                    out.push(Effect::Fail(Failure::new(no_room(), reference)));
                    return true;
                };
                match command {
                    Command::Join(j) => self.join(room, j.options, reference, policy, out),
                    Command::Leave { .. } => self.leave(room, reference, out),
                    Command::Presence { .. } => out.push(Effect::Presence { room, reference }),
                    Command::Signal(s) => match self.membership(&room) {
                        Some(_) => out.push(Effect::Signal {
                            room,
                            name: s.name.into(),
                            data: s.data.into(),
                            reference,
                        }),
                        None => out.push(Effect::Fail(not_joined(room, reference))),
                    },
                    Command::History(h) => {
                        self.waiting = true;
                        out.push(Effect::History { room, query: h.query, reference });
                    }
                    _ => {}
                }
            }
        }
        true
    }

    /// The room's shared name: of the room named, or of the default room.
    fn room(&self, name: Option<&str>) -> Option<Arc<str>> {
        match name {
            None => self.default_room.clone(),
            Some(name) => Some(match self.membership(name) {
                Some(m) => m.room.clone(),
                None => name.into(),
            }),
        }
    }

    fn membership(&self, room: &str) -> Option<&Membership> {
        self.memberships.iter().find(|m| &*m.room == room)
    }

    fn join(
        &mut self,
        room: Arc<str>,
        options: JoinOptions,
        reference: Ref,
        policy: &Policy,
        out: &mut Vec<Effect>,
    ) {
        let error = if self.membership(&room).is_some() {
            Error::new(Code::AlreadyJoined, "this connection is in the room already; leave it first")
        } else if self.memberships.len() >= policy.limits.rooms_per_connection {
            let text = "this connection is in as many rooms as it may; leave one first";
            Error::new(Code::TooManyRooms, text).at(Limit::RoomsPerConnection)
        } else if policy.authorizer {
            self.waiting = true;
            out.push(Effect::AskJoin { room, options, reference });
            return;
        } else {
            self.become_member(room, options, reference, out);
            return;
        };
        out.push(Effect::Fail(Failure { room: Some(room), ..Failure::new(error, reference) }));
    }

    fn become_member(&mut self, room: Arc<str>, options: JoinOptions, reference: Ref, out: &mut Vec<Effect>) {
        self.memberships.push(Membership { room: room.clone(), options, slot: u32::MAX });
        out.push(Effect::Join { room, options, reference });
    }

    fn leave(&mut self, room: Arc<str>, reference: Ref, out: &mut Vec<Effect>) {
        match self.forget(&room) {
            Some(membership) => out.push(Effect::Leave { membership, reference }),
            None => out.push(Effect::Fail(not_joined(room, reference))),
        }
    }

    /// Takes a membership out, if there is one.
    pub fn forget(&mut self, room: &str) -> Option<Membership> {
        let i = self.memberships.iter().position(|m| &*m.room == room)?;
        let gone = self.memberships.swap_remove(i);
        if self.memberships.is_empty() {
            self.memberships = Vec::new();
        }
        Some(gone)
    }

    fn publish(&mut self, p: Publish<'_>, policy: &Policy, now_ms: u64, out: &mut Vec<Effect>) {
        let limits = &policy.limits;
        let Some(room) = self.room(p.room.as_deref()) else {
            let id = p.id.as_deref().map(Box::from);
            let failure = Failure { id, publish: true, ..Failure::new(no_room(), p.reference) };
            out.push(Effect::Fail(failure));
            return;
        };
        let message = Message {
            room,
            id: p.id.as_deref().unwrap_or_default().into(),
            kind: p.kind,
            data: p.data.into(),
            reference: p.reference,
        };
        if let Err(after) = self.publishes.take(limits.publish_rate, limits.publish_burst, now_ms) {
            if !std::mem::replace(&mut self.throttled, true) {
                out.push(Effect::Hit(Limit::PublishBurst));
            }
            let error = Error::new(Code::RateLimited, "too many publishes; slow down").after(after);
            out.push(Effect::Fail(refused(message, error.at(Limit::PublishRate))));
            return;
        }
        self.throttled = false;
        if policy.publish_hook {
            self.waiting = true;
            out.push(Effect::AskPublish(message));
        } else {
            self.append(message, policy, out);
        }
    }

    fn append(&mut self, message: Message, policy: &Policy, out: &mut Vec<Effect>) {
        self.pending += 1;
        if self.pending as usize >= policy.limits.pending_publishes.max(1) {
            out.push(Effect::Hit(Limit::PendingPublishes));
        }
        out.push(Effect::Append(message));
    }
}

fn no_room() -> Error {
    Error::new(Code::NoRoom, "name a room: this connection has no default room")
}

fn not_joined(room: Arc<str>, reference: Ref) -> Failure {
    let error = Error::new(Code::NotJoined, "this connection is not in the room; join it first");
    Failure { room: Some(room), ..Failure::new(error, reference) }
}

fn refused(message: Message, error: Error) -> Failure {
    let id = (!message.id.is_empty()).then_some(message.id);
    Failure { error, reference: message.reference, id, room: Some(message.room), publish: true }
}

#[cfg(test)]
mod tests;
