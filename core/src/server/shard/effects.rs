//! Carrying out what a session decided.

use super::members::Leaving;
use super::{Shard, connection_name};
use crate::broker::append::{Append, ConnectionKey, Outcome, Reply, Waiter};
use crate::codes::Code;
use crate::config::{Limit, Limits};
use crate::error::Error;
use crate::events::Event;
use crate::hooks::{ConnectRequest, Decision, JoinRequest, PublishRequest, Way};
use crate::ids::check_name;
use crate::message::Kind;
use crate::protocol::frame;
use crate::protocol::native::{encode, text};
use crate::room::hub::congested;
use crate::server::conn::{HookFor, PendingHook};
use crate::server::hookpool::Call;
use crate::server::inbox::HookReturn;
use crate::server::net::Net;
use crate::server::reader::What;
use crate::session::{Effect, Failure, Message, Replacement};
use bytes::Bytes;
use std::mem::take;
use std::sync::Arc;

impl<N: Net> Shard<N> {
    /// Carries out the effects that have gathered for a connection.
    pub(super) fn apply(&mut self, i: u32) {
        let mut effects = take(&mut self.effects);
        for effect in effects.drain(..) {
            self.apply_one(i, effect);
        }
        self.effects = effects;
    }

    fn apply_one(&mut self, i: u32, effect: Effect) {
        match effect {
            Effect::Welcome { reference } => self.welcome(i, reference),
            Effect::Pong { reference } => self.say(i, |out| encode::pong(out, reference)),
            Effect::Fail(failure) => self.fail(i, &failure),
            Effect::Join { room, options, reference } => self.join(i, &room, options, reference),
            Effect::Leave { membership, reference } => {
                self.leave(i, membership, Leaving::Told(reference));
            }
            Effect::Append(message) => self.append(i, message),
            Effect::Signal { room, name, data, reference } => {
                self.send_signal(i, &room, &name, &data, reference)
            }
            Effect::History { room, query, reference } => {
                self.request(i, &room, What::Query(query), reference);
            }
            Effect::Presence { room, reference } => {
                let list = self.shared.presence.list(&room);
                self.say(i, |out| {
                    encode::presence(
                        out,
                        reference,
                        &room,
                        u64::from(list.count),
                        &list.users,
                        list.truncated,
                    )
                });
            }
            Effect::AskConnect { user, token } => {
                let Some(c) = self.conn(i) else { return };
                let request = ConnectRequest {
                    connection: connection_name(c.id),
                    user: user.to_string(),
                    token: token.unwrap_or_default().into(),
                    address: c.address,
                };
                self.ask(i, HookFor::Connect, |way| Call::Connect(request, way));
            }
            Effect::AskJoin { room, options, reference } => {
                let Some(c) = self.conn(i) else { return };
                let request = JoinRequest {
                    connection: connection_name(c.id),
                    user: c.session.user().to_string(),
                    room: room.to_string(),
                };
                self.ask(i, HookFor::Join(room, options, reference), |way| Call::Join(request, way));
            }
            Effect::AskPublish(message) => {
                let Some(c) = self.conn(i) else { return };
                let request = PublishRequest {
                    connection: connection_name(c.id),
                    user: c.session.user().to_string(),
                    room: message.room.to_string(),
                    id: message.id.to_string(),
                    kind: message.kind,
                    data: Bytes::copy_from_slice(&message.data),
                };
                self.ask(i, HookFor::Publish(message), |way| Call::Publish(request, way));
            }
            Effect::Hit(limit) => self.hit(limit),
            Effect::Close(why, text) => self.close(i, why, text),
        }
    }

    fn welcome(&mut self, i: u32, reference: crate::command::Ref) {
        let events = self.shared.events.clone();
        let Some(c) = self.conn(i) else { return };
        c.announced = true;
        let number = c.id;
        self.named.insert(number, i);
        let Some(c) = self.conn(i) else { return };
        let (id, user, address) = (connection_name(c.id), c.session.user().clone(), c.address);
        self.say(i, |out| encode::welcome(out, &id, &user, reference));
        events.push(|| Event::Connected { connection: id, user: user.to_string(), address });
    }

    /// Sends an error.
    pub(super) fn fail(&mut self, i: u32, f: &Failure) {
        self.shared.metrics.refused(&f.error);
        if f.error.code() == Code::RateLimited {
            self.shared.metrics.rate_limited.inc();
        }
        if f.publish {
            self.shared.metrics.publishes_refused.inc();
        }
        let outcome = f.publish.then_some(encode::Outcome::NotStored);
        self.say(i, |out| {
            encode::error(out, &f.error, f.reference, f.id.as_deref(), f.room.as_deref(), outcome)
        });
    }

    fn append(&mut self, i: u32, m: Message) {
        let key = self.key(i);
        let Some(c) = self.conn(i) else { return };
        let user = c.session.user().clone();
        let waiter = Waiter::Connection { key, reference: m.reference };
        self.appends.push(Append { room: m.room, user, id: m.id, kind: m.kind, data: m.data, waiter });
    }

    fn send_signal(
        &mut self,
        i: u32,
        room: &Arc<str>,
        name: &str,
        data: &str,
        reference: crate::command::Ref,
    ) {
        let key = self.key(i);
        let Some(c) = self.conn(i) else { return };
        let user = c.session.user().clone();
        if self.shared.hub.is_congested() {
            let (room, error) = (Some(room.clone()), congested());
            return self.fail(i, &Failure { error, reference, id: None, room, publish: false });
        }
        let mut out = Vec::new();
        frame::text(&mut out, |out| encode::signal(out, room, &user, name, data));
        self.shared.hub.signal(room, Some(key), &out.into());
        if reference.is_some() {
            self.say(i, |out| encode::done(out, reference));
        }
    }

    /// Calls a hook of the host; the session is busy until it has answered.
    fn ask(&mut self, i: u32, what: HookFor, call: impl FnOnce(Way) -> Call) {
        let shared = self.shared.clone();
        let deadline_ms = self.now_ms + shared.policy.limits.hook_timeout_ms;
        self.hook_calls += 1;
        let number = self.hook_calls;
        let sink = Arc::new(HookReturn { inbox: self.inbox.clone(), key: self.key(i) });
        let Some(c) = self.conn(i) else { return };
        c.extra().hook = Some(PendingHook { call: number, deadline_ms, what });
        self.schedule(i, deadline_ms);
        let queued = shared.hooks.as_ref().is_some_and(|pool| pool.call(call(Way::new(sink, number))));
        if !queued {
            let error = Error::new(Code::Busy, "too many requests wait for the host's hooks");
            let error = error.at(Limit::HookQueue);
            self.hook_done(i, number, Decision::Deny(error));
        }
    }

    /// A hook has answered.
    pub(super) fn hook_answered(&mut self, key: ConnectionKey, call: u64, decision: Decision) {
        if let Some(i) = self.alive(key) {
            self.hook_done(i, call, decision);
        }
    }

    /// A hook has not answered in time.
    pub(super) fn hook_timed_out(&mut self, i: u32) {
        let call = self.conn(i).and_then(|c| c.extra.as_ref()?.hook.as_ref().map(|h| h.call));
        if let Some(call) = call {
            self.shared.metrics.hook_failures.inc();
            let error = Error::new(Code::HookTimeout, "the host did not answer in time");
            self.hook_done(i, call, Decision::Deny(error.at(Limit::HookTimeoutMs)));
        }
    }

    fn hook_done(&mut self, i: u32, call: u64, decision: Decision) {
        let shared = self.shared.clone();
        let mut effects = take(&mut self.effects);
        let Some(c) = self.conn(i) else { return };
        let Some(hook) = c.extra.as_mut().and_then(|x| x.hook.take_if(|h| h.call == call)) else {
            self.effects = effects;
            return;
        };
        let max = shared.policy.limits.name_bytes;
        let mut first = None;
        match hook.what {
            HookFor::Connect => {
                let answer = match decision {
                    Decision::Allow(user) if user.is_empty() => Ok(user.into()),
                    Decision::Allow(user) => match check_name("user", &user, max) {
                        Ok(()) => Ok(user.into()),
                        Err(_) => Err(Error::new(Code::Internal, "the host named a user that cannot be one")),
                    },
                    Decision::Replace(..) => Err(Error::new(Code::Internal, "not an answer to a connect")),
                    Decision::Deny(e) => Err(e),
                };
                c.session.connect_answered(answer, &shared.policy, &mut effects);
                first = c.extra.as_mut().and_then(|x| x.first.take());
            }
            HookFor::Join(room, options, reference) => {
                let answer = match decision {
                    Decision::Deny(e) => Err(e),
                    _ => Ok(()),
                };
                c.session.join_answered(room, options, reference, answer, &mut effects);
            }
            HookFor::Publish(message) => {
                let answer: Result<Option<Replacement>, Error> = match decision {
                    Decision::Deny(e) => Err(e),
                    Decision::Allow(_) => Ok(None),
                    Decision::Replace(kind, data) => Ok(Some((kind, data.as_ref().into()))),
                };
                let answer = answer.and_then(|replaced| match &replaced {
                    Some((kind, data)) => {
                        check_replacement(*kind, data, &shared.policy.limits).map(|()| replaced)
                    }
                    None => Ok(None),
                });
                c.session.publish_answered(message, answer, &shared.policy, &mut effects);
            }
        }
        c.tidy();
        self.effects = effects;
        self.apply(i);
        if let Some(text) = first {
            self.message(i, &text);
        }
        self.resume(i);
    }

    /// A reply that has no place in a batch of this shard.
    pub(super) fn loose_reply(&mut self, reply: Reply) {
        let Some(i) = self.alive(reply.key) else { return };
        if let Some(c) = self.conn(i) {
            c.session.settled();
        }
        if let Some(encoded) = self.encode_reply(&reply, false) {
            self.reply_at(i, &reply.room, encoded);
        }
        self.resume(i);
    }

    /// The frame of a reply; none if nobody asked for one, unless it is sent `anyway`.
    pub(super) fn encode_reply(&mut self, reply: &Reply, anyway: bool) -> Option<EncodedReply> {
        let id = (!reply.id.is_empty()).then_some(&*reply.id);
        let mut bytes = Vec::new();
        match &reply.outcome {
            Outcome::Stored { offset, duplicate } => {
                if reply.reference.is_none() && id.is_none() && !anyway {
                    return None;
                }
                let ack = encode::Ack {
                    reference: reply.reference,
                    room: &reply.room,
                    epoch: self.shared.history.epoch(&reply.room),
                    offset: *offset,
                    id: id.unwrap_or_default(),
                    duplicate: *duplicate,
                };
                frame::text(&mut bytes, |out| encode::ack(out, &ack));
                Some(EncodedReply { position: *offset, bytes, own_is_ack: id.is_some() && !duplicate })
            }
            Outcome::NotStored(e) | Outcome::Unknown(e) => {
                let outcome = match reply.outcome {
                    Outcome::Unknown(_) => encode::Outcome::Unknown,
                    _ => encode::Outcome::NotStored,
                };
                let room = Some(&*reply.room);
                frame::text(&mut bytes, |out| {
                    encode::error(out, e, reply.reference, id, room, Some(outcome))
                });
                Some(EncodedReply { position: 0, bytes, own_is_ack: false })
            }
        }
    }

    /// Takes a connection out of a room because the host wants it.
    pub(super) fn evict(&mut self, i: u32, room: &str) {
        let membership = self.conn(i).and_then(|c| c.session.forget(room));
        if let Some(m) = membership {
            self.leave(i, m, Leaving::Told(None));
        }
    }
}

/// The host's data is held to the rules of a client's.
fn check_replacement(kind: Kind, data: &[u8], limits: &Limits) -> Result<(), Error> {
    let what = |why: &str| {
        Error::new(Code::Internal, format!("the publish hook's replacement cannot be stored: {why}"))
    };
    if data.len() > limits.message_bytes {
        return Err(what("it is larger than message_bytes").at(Limit::MessageBytes));
    }
    match (kind, std::str::from_utf8(data)) {
        (Kind::Json, Ok(json)) => {
            text::check_value(json, limits.json_depth).map(drop).map_err(|e| match e.limit() {
                Some(limit) => what(e.message()).at(limit),
                None => what(e.message()),
            })
        }
        (Kind::Json, Err(_)) => Err(what("JSON must be UTF-8")),
        (Kind::Binary, _) => Ok(()),
    }
}

/// A reply as a frame.
#[derive(Debug)]
pub(crate) struct EncodedReply {
    /// The position behind which it belongs; 0 where it has none.
    pub(crate) position: u64,
    /// The frame.
    pub(crate) bytes: Vec<u8>,
    /// A member with echo that is sent its own publication needs no further ack.
    pub(crate) own_is_ack: bool,
}
