//! Members: joining, catching up, leaving.

use super::{Shard, connection_name};
use crate::broker::Reach;
use crate::broker::history::{StreamPage, StreamStart};
use crate::codes::{Code, Disconnect};
use crate::command::{JoinOptions, Ref, Start};
use crate::config::Limit;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::points::{Rule, broken};
use crate::protocol::frame;
use crate::protocol::native::encode;
use crate::room::hub::RoomKey;
use crate::server::inbox::{Read, ReadFor};
use crate::server::net::Net;
use crate::server::reader::{Job, What};
use crate::server::rooms::Late;
use crate::server::shard::effects::EncodedReply;
use crate::session::stream::{Behind, Next};
use crate::session::{Failure, Membership};
use bytes::Bytes;
use std::mem::take;
use std::sync::Arc;

/// How often joins are looked after whose position this node has yet to read.
pub(super) const BEHIND_MS: u64 = 10;

/// How a membership ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// The member is told with `left`, as the answer to this ref if it has asked.
    Told(Ref),
    /// Its join is refused.
    Refused,
    /// Its connection ends.
    Ending,
}

impl<N: Net> Shard<N> {
    /// Makes a connection a member; the session has the membership already.
    pub(super) fn join(&mut self, i: u32, room: &Arc<str>, options: JoinOptions, reference: Ref) {
        if let Err(error) = self.shared.history.serves(room) {
            return self.join_failed(i, room, error, reference);
        }
        let slot = match self.rooms.find(room) {
            Some(slot) => slot,
            None => {
                let key = self.rooms.next_key();
                match self.shared.hub.route(room, self.index, key) {
                    Ok(cursor) => self.rooms.insert(room.clone(), cursor),
                    Err(e) => {
                        let error = Error::new(Code::Unavailable, format!("the view cannot be read: {e}"));
                        return self.join_failed(i, room, error, reference);
                    }
                }
            }
        };
        self.shared.history.asked_start(&options.start);
        self.streams += 1;
        let number = self.streams;
        let Some(c) = self.conns.get_mut(i as usize).and_then(Option::as_mut) else { return };
        let may_read = c.may_read() || options.start == Start::Live;
        if let Some(m) = c.session.memberships_mut().iter_mut().find(|m| m.room == *room) {
            m.slot = slot;
        }
        let Some(r) = self.rooms.get(slot) else { return };
        r.watchers += u32::from(options.presence);
        let join = Some((options, reference));
        r.late.push(Late { conn: i, number, stream: None, join, early: Vec::new() });
        let (cursor, generation) = (r.cursor, r.generation);
        // A batch of this turn is not in the cursor yet: its rows are in the view, and this member reads up to the cursor.
        let start = may_read.then(|| self.shared.history.memory_start(room, &options.start, cursor));
        match start.flatten() {
            Some(start) => self.started(i, slot, Ok(start)),
            None => {
                if let Some(c) = self.conn(i) {
                    c.session.wait();
                }
                let to = ReadFor { key: self.key(i), room: RoomKey { slot, generation }, stream: number };
                let what = What::Start { start: options.start, cursor, since_ms: self.now_ms };
                self.read_history(i, what, room.clone(), to);
            }
        }
    }

    fn join_failed(&mut self, i: u32, room: &Arc<str>, error: Error, reference: Ref) {
        if let Some(c) = self.conn(i) {
            c.session.forget(room);
        }
        let failure = Failure { error, reference, id: None, room: Some(room.clone()), publish: false };
        self.fail(i, &failure);
    }

    /// The start of a member's stream is known.
    fn started(&mut self, i: u32, slot: u32, start: Result<StreamStart>) {
        let Some(r) = self.rooms.get(slot) else { return };
        let Some(late) = r.late.iter_mut().find(|l| l.conn == i) else { return };
        let Some((options, reference)) = late.join else { return };
        let room = r.name.clone();
        let Some(c) = self.conns.get_mut(i as usize).and_then(Option::as_mut) else { return };
        c.session.done_waiting();
        let (user, id) = (c.session.user().clone(), c.id);
        let start = match start {
            Ok(start) => start,
            Err(error) => {
                let membership = self.conn(i).and_then(|c| c.session.forget(&room));
                if let Some(m) = membership {
                    self.leave(i, m, Leaving::Refused);
                }
                let failure = Failure { error, reference, id: None, room: Some(room), publish: false };
                return self.fail(i, &failure);
            }
        };
        // From here on it is a member, for everybody else too.
        late.join = None;
        self.shared.presence.join(&room, &user, options.presence);
        self.shared.metrics.members.inc();
        self.shared.events.push(|| Event::Joined {
            connection: connection_name(id),
            user: user.to_string(),
            room: room.to_string(),
        });
        let mut stream = Behind::new(start.offset);
        let mut ready = Vec::new();
        for early in take(&mut late.early) {
            ready.extend(hold(&mut stream, options.echo, early));
        }
        late.stream = Some(stream);
        let cursor = r.cursor;
        let resumed = matches!(options.start, Start::Since { .. });
        if resumed {
            let m = &self.shared.metrics;
            if start.recovered { m.resumes.inc() } else { m.resets.inc() }
        }
        let joined = encode::Joined {
            reference,
            room: &room,
            epoch: self.shared.history.epoch(&room),
            offset: start.offset,
            last: cursor.max(start.page.reached),
            recovered: resumed.then_some(start.recovered),
        };
        self.say(i, |out| encode::joined(out, &joined));
        for reply in ready {
            self.write(i, &reply);
        }
        self.paged(i, slot, Ok(start.page));
    }

    /// A page of a member's stream is here: it is sent, and the member goes on.
    fn paged(&mut self, i: u32, slot: u32, page: Result<StreamPage>) {
        let page = match page {
            Ok(page) => page,
            Err(e) => {
                // The stream cannot go on without a gap here: the client comes back and is told.
                tracing::warn!(error = %e, "a member's history cannot be read; it is disconnected");
                return self.close(
                    i,
                    Disconnect::Reconnect,
                    "the history could not be read; connect again and resume",
                );
            }
        };
        let small = page.frames.iter().map(Bytes::len).sum::<usize>() < 16 << 10;
        if !small {
            self.flush_out();
        }
        for frame in &page.frames {
            self.allow(i, frame.len());
            if small {
                self.write(i, frame);
            } else {
                self.send(i, frame, Some(frame));
            }
        }
        self.shared.metrics.deliveries.add(page.count);
        let Some(stream) = self.stream(i, slot) else { return };
        stream.page(page.reached);
        let mut released = Vec::new();
        while let Some(reply) = stream.release() {
            released.push(reply);
        }
        // One whose publication was sent just now has its answer.
        for reply in released.into_iter().filter(|r| !r.own_is_ack) {
            self.write(i, &reply.bytes);
        }
        if !broken(Rule::BehindGoesOn) {
            self.advance(i, slot);
        }
    }

    /// What is sent next was asked for: it does not count as slow.
    fn allow(&mut self, i: u32, bytes: usize) {
        if let Some(c) = self.conn(i) {
            c.extra().allowance += bytes;
        }
    }

    fn stream(&mut self, i: u32, slot: u32) -> Option<&mut Behind<EncodedReply>> {
        self.rooms.get(slot)?.late.iter_mut().find(|l| l.conn == i)?.stream.as_mut()
    }

    /// Goes on with a member that is behind: the next page, once its socket has taken the last one; or live.
    pub(super) fn advance(&mut self, i: u32, slot: u32) {
        let Some(c) = self.conn(i).filter(|c| !c.has_backlog() && !c.is_closing()) else { return };
        let may_read = c.may_read();
        let Some(r) = self.rooms.get(slot) else { return };
        let (cursor, generation, room) = (r.cursor, r.generation, r.name.clone());
        let Some(late) = r.late.iter_mut().find(|l| l.conn == i) else { return };
        let number = late.number;
        let Some(stream) = &mut late.stream else { return };
        if !may_read && stream.at() != cursor {
            return;
        }
        match stream.next(cursor) {
            Next::Wait => {}
            Next::Live => {
                let Some(r) = self.rooms.get(slot) else { return };
                let Some(at) = r.late.iter().position(|l| l.conn == i) else { return };
                let held = r.late.swap_remove(at).stream.into_iter().flat_map(Behind::into_held);
                r.live.push(i);
                // Of a place that the shard has yet to reach; a publication that is an ack comes by itself.
                for reply in held.filter(|r| !r.own_is_ack) {
                    self.write(i, &reply.bytes);
                }
            }
            Next::Read { after, to } => {
                let room_key = RoomKey { slot, generation };
                let for_whom = ReadFor { key: self.key(i), room: room_key, stream: number };
                self.read_history(i, What::Page { after, to }, room, for_whom);
            }
        }
    }

    /// Its backlog has gone, or a read for it has ended: the read that waits for that, or else every room in which it is behind.
    pub(super) fn read_on(&mut self, i: u32) {
        let Some(c) = self.conn(i) else { return };
        if let Some(x) = &mut c.extra
            && x.backlog.is_empty()
            && !x.reading
            && let Some(job) = x.parked.take()
        {
            return self.submit(i, job);
        }
        if !c.may_read() {
            return;
        }
        let slots: Vec<u32> = c.session.memberships().iter().map(|m| m.slot).collect();
        for slot in slots {
            self.advance(i, slot);
        }
    }

    /// Reads history for a request.
    pub(super) fn request(&mut self, i: u32, room: &Arc<str>, what: What, reference: Ref) {
        let room_key = RoomKey { slot: u32::MAX, generation: 0 };
        if let Some(c) = self.conn(i) {
            c.extra().request = Some((room.clone(), reference));
        }
        let to = ReadFor { key: self.key(i), room: room_key, stream: 0 };
        self.read_history(i, what, room.clone(), to);
    }

    fn read_history(&mut self, i: u32, what: What, room: Arc<str>, to: ReadFor) {
        let job = Job { what, room, to, inbox: self.inbox.clone() };
        match self.conn(i) {
            Some(c) if c.may_read() => self.submit(i, job),
            // No other is parked: requests wait for one another, and pages are read only when nothing else is.
            Some(c) => c.extra().parked = Some(job),
            None => {}
        }
    }

    fn submit(&mut self, i: u32, job: Job) {
        if let Some(c) = self.conn(i) {
            c.extra().reading = true;
        }
        if self.reads_running >= self.shared.policy.limits.history_reads.max(1) {
            self.hit(Limit::HistoryReads);
        }
        self.reads_waiting.push_back(job);
        self.start_reads();
    }

    fn start_reads(&mut self) {
        while self.reads_running < self.shared.policy.limits.history_reads.max(1)
            && let Some(job) = self.reads_waiting.pop_front()
        {
            if let Err(job) = self.shared.readers.read(job) {
                // Cannot be: the queue holds what all shards may have under way. Tried again with the next read that ends.
                self.reads_waiting.push_front(job);
                return;
            }
            self.reads_running += 1;
        }
    }

    /// A read has ended.
    pub(super) fn read_done(&mut self, to: ReadFor, read: Read) {
        self.reads_running = self.reads_running.saturating_sub(1);
        self.start_reads();
        let Some(i) = self.alive(to.key) else { return };
        let Some(c) = self.conn(i) else { return };
        if let Some(x) = &mut c.extra {
            x.reading = false;
        }
        if c.is_closing() {
            return;
        }
        // The room may have been left meanwhile, and even joined again: then its stream is another one.
        let is_it = |l: &Late| l.conn == i && l.number == to.stream;
        let current = self.rooms.by_key(to.room).is_some_and(|r| r.late.iter().any(is_it));
        match read {
            Read::History(page) => self.history_page(i, page),
            Read::Start(start) if current => {
                self.started(i, to.room.slot, start);
                self.resume(i);
            }
            Read::Behind(start, since_ms) if current => self.behind.push((to, start, since_ms)),
            Read::Page(page) if current => self.paged(i, to.room.slot, page),
            _ => {}
        }
        self.flush_out();
        self.read_on(i);
        if let Some(c) = self.conn(i) {
            c.tidy();
        }
    }

    /// Looks after the joins whose position this node has yet to read: their streams are begun once it has, or they are refused.
    pub(super) fn look_behind(&mut self) {
        let now = self.now_ms;
        if now < self.behind_ms {
            return;
        }
        self.behind_ms = now + BEHIND_MS;
        for (to, start, since_ms) in take(&mut self.behind) {
            let Some(i) = self.alive(to.key) else { continue };
            let Some(r) = self.rooms.by_key(to.room) else { continue };
            if !r.late.iter().any(|l| l.conn == i && l.number == to.stream) {
                continue;
            }
            let (room, cursor) = (r.name.clone(), r.cursor);
            let Start::Since { offset, .. } = start else { continue };
            if offset <= cursor || self.shared.broker.reach(&room, offset, since_ms) != Reach::Behind {
                self.read_history(i, What::Start { start, cursor, since_ms }, room, to);
            } else if now >= since_ms + self.shared.policy.limits.resume_wait_ms {
                self.started(i, to.room.slot, Err(self.shared.history.behind()));
                self.resume(i);
            } else {
                self.behind.push((to, start, since_ms));
            }
        }
        self.flush_out();
    }

    fn history_page(&mut self, i: u32, page: Result<crate::broker::history::HistoryPage>) {
        let Some(c) = self.conn(i) else { return };
        c.session.done_waiting();
        let Some((room, reference)) = c.extra().request.take() else { return };
        c.tidy();
        match page {
            Ok(page) => {
                let mut reply = Vec::new();
                frame::text(&mut reply, |out| {
                    encode::history(
                        out,
                        reference,
                        &room,
                        page.epoch,
                        &page.publications,
                        page.more,
                        page.last,
                    )
                });
                self.allow(i, reply.len());
                self.write(i, &reply);
            }
            Err(error) => {
                self.fail(i, &Failure { error, reference, id: None, room: Some(room), publish: false });
            }
        }
        self.resume(i);
    }

    /// A reply that belongs behind a position of a room: at once, or when the member has been sent that much.
    pub(super) fn reply_at(&mut self, i: u32, room: &str, reply: EncodedReply) {
        let echo = self
            .conn(i)
            .is_some_and(|c| c.session.memberships().iter().any(|m| *m.room == *room && m.options.echo));
        let late =
            self.rooms.find(room).and_then(|s| self.rooms.get(s)?.late.iter_mut().find(|l| l.conn == i));
        let now = match late {
            None => Some(reply.bytes),
            Some(Late { stream: Some(stream), .. }) => hold(stream, echo, reply),
            Some(late) => {
                late.early.push(reply);
                None
            }
        };
        if let Some(reply) = now {
            self.write(i, &reply);
        }
    }

    /// Ends a membership that has been taken out of its session.
    pub(super) fn leave(&mut self, i: u32, m: Membership, how: Leaving) {
        let Some(c) = self.conn(i) else { return };
        let (user, id) = (c.session.user().clone(), c.id);
        let Some(r) = self.rooms.get(m.slot) else { return };
        // Its join was never answered, and so nobody was told of it.
        let mut unanswered = false;
        let mut held = Vec::new();
        if let Some(at) = r.live.iter().position(|x| *x == i) {
            r.live.swap_remove(at);
        } else if let Some(at) = r.late.iter().position(|l| l.conn == i) {
            let late = r.late.swap_remove(at);
            unanswered = late.join.is_some();
            held = late.early;
            held.extend(late.stream.into_iter().flat_map(Behind::into_held));
        }
        r.watchers -= u32::from(m.options.presence).min(r.watchers);
        let empty = r.is_empty();
        if let Leaving::Told(reference) = how {
            self.say(i, |out| encode::left(out, &m.room, reference));
        }
        // The publications that these wait for do not come any more. A member would take their positions for its own, and resume
        // from there; so they come after it has been told, or not at all.
        for reply in held.into_iter().filter(|_| how != Leaving::Ending) {
            self.write(i, &reply.bytes);
        }
        if !unanswered {
            self.shared.presence.leave(&m.room, &user, m.options.presence);
            self.shared.metrics.members.sub(1);
            let events = self.shared.events.clone();
            events.push(|| Event::Left {
                connection: connection_name(id),
                user: user.to_string(),
                room: m.room.to_string(),
            });
        }
        if empty && let Some((name, key, own)) = self.rooms.remove(m.slot) {
            self.shared.hub.unroute(&name, self.index, key);
            let ending = (how == Leaving::Ending).then(|| self.key(i));
            own.into_iter().filter(|o| Some(o.reply.key) != ending).for_each(|o| self.loose_reply(o.reply));
        }
        if unanswered && let Some(c) = self.conn(i) {
            c.session.done_waiting();
            if let Some(x) = &mut c.extra {
                x.parked = None;
            }
            self.resume(i);
        }
    }

    /// Ends all memberships of a connection.
    pub(super) fn leave_all(&mut self, i: u32) {
        loop {
            let Some(c) = self.conn(i) else { return };
            let Some(room) = c.session.memberships().last().map(|m| m.room.clone()) else { return };
            let Some(m) = c.session.forget(&room) else { return };
            self.leave(i, m, Leaving::Ending);
        }
    }
}

/// Keeps a reply for its place in a stream, or gives it back if the stream is past it. A publication that is still to come is the
/// ack of a member with echo; the reply is kept only for the case that the member leaves before.
fn hold(stream: &mut Behind<EncodedReply>, echo: bool, mut reply: EncodedReply) -> Option<Vec<u8>> {
    reply.own_is_ack &= echo;
    stream.hold(reply.position, reply).map(|r| r.bytes)
}
