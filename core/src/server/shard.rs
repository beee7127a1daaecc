//! A shard: one thread, its poll set, its connections and their rooms.
//!
//! One turn: everything that other threads have handed over, then every socket that is ready, then one hand-over to the broker,
//! then one write per member and room for whatever has gathered. Established sockets have no task and no buffer of their own.

pub(crate) mod effects;
mod fanout;
mod frames;
mod members;

use crate::broker::append::{Append, ConnectionKey};
use crate::codes::Disconnect;
use crate::command::Start;
use crate::config::Limit;
use crate::events::Event;
use crate::ids::HashKey;
use crate::points::{Point, Rule, broken, reach};
use crate::protocol::frame;
use crate::protocol::native::encode;
use crate::room::hub::RoomKey;
use crate::server::conn::{Closing, Conn, Sent};
use crate::server::inbox::{Arrival, Inbox, Item, Queue, ReadFor, Target, Upgraded};
use crate::server::net::{Net, Ready, Socket};
use crate::server::rooms::Rooms;
use crate::server::shared::Shared;
use crate::server::timer::Wheel;
use crate::session::{Effect, Session};
use crate::threads;
use mio::{Events, Poll, Registry, Token, Waker};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

const WAKE: Token = Token(usize::MAX);
/// Most events taken from the poll set at once.
const EVENTS: usize = 1024;
/// How long a closed connection may take to end its side.
const LINGER_MS: u64 = 2_000;
const CHANGED: &str = "the log of this room is not what it was; connect again";
const STOPPING: &str = "the server is stopping; connect again";

/// See the module.
#[derive(Debug)]
pub(crate) struct Shard<N: Net> {
    index: u32,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    net: N,
    /// For the tests of the WebSocket itself: each message is sent back as it came.
    pub(crate) echo: bool,
    conns: Vec<Option<Conn<N::Socket>>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    rooms: Rooms,
    wheel: Wheel,
    now_ms: u64,
    connections_made: u64,
    /// The slots of those that were let in, by their ids.
    named: HashMap<u64, u32>,
    hook_calls: u64,
    /// Streams begun, to number them.
    streams: u64,
    /// Set once it is stopping: when it ends at the latest.
    stop_by_ms: Option<u64>,
    /// Publishes of this turn.
    appends: Vec<Append>,
    /// Connections to read again: more was there than was read, or their session is no longer busy.
    again: Vec<u32>,
    dead: Vec<u32>,
    /// Connections whose backlog is over its bound.
    slow: Vec<u32>,
    effects: Vec<Effect>,
    /// Replies to one connection that have yet to be written.
    out: Vec<u8>,
    out_for: u32,
    /// The read buffer.
    buf: Vec<u8>,
    /// Reads that wait for others of this shard to end.
    reads_waiting: VecDeque<crate::server::reader::Job>,
    reads_running: usize,
    /// Joins whose position this node has yet to read, and when they were asked for (steady clock). At most one of a connection.
    behind: Vec<(ReadFor, Start, u64)>,
    /// When these are looked after next (steady clock).
    behind_ms: u64,
    /// Buffers of a turn.
    queue: Queue,
    dirty: Vec<u32>,
    due: Vec<(u32, u32)>,
}

/// A shard's thread, its inbox, and how it is started.
pub(crate) struct Starting {
    pub(crate) inbox: Arc<Inbox>,
    index: u32,
    poll: Poll,
}

impl Starting {
    /// Makes the poll set and the inbox.
    pub(crate) fn new(index: u32) -> io::Result<Starting> {
        let poll = Poll::new()?;
        let inbox = Arc::new(Inbox::new(Box::new(Waker::new(poll.registry(), WAKE)?)));
        Ok(Starting { inbox, index, poll })
    }

    /// Starts the thread. It ends after [`Item::Stop`], when every connection has ended or lingered long enough.
    pub(crate) fn start(self, shared: Arc<Shared>, echo: bool) -> io::Result<std::thread::JoinHandle<()>> {
        let registry = self.poll.registry().try_clone()?;
        let mut shard = Shard::new(self.index, shared, self.inbox, registry);
        shard.echo = echo;
        let inbox = shard.inbox.clone();
        threads::spawn(format!("klatch-shard-{}", self.index), move || {
            // A fault here must not stop the others: its connections are closed with it, /readyz tells, new ones go elsewhere.
            if catch_unwind(AssertUnwindSafe(|| shard.run(self.poll))).is_err() {
                tracing::error!(shard = self.index, "a shard panicked; its connections are closed");
                inbox.close();
                // Whatever state they are in, rooms and events should not go on with connections that have gone.
                let _ = catch_unwind(AssertUnwindSafe(|| shard.abandon()));
            }
            inbox.close();
        })
    }
}

impl Shard<Registry> {
    fn run(&mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match poll.poll(&mut events, self.wait()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    tracing::error!(error = %e, shard = self.index, "the poll set failed; this shard ends");
                    return;
                }
                Ok(()) => {}
            }
            if !self.turn(events.iter().filter(|e| e.token() != WAKE).map(Ready::from)) {
                return;
            }
        }
    }
}

impl<N: Net> Shard<N> {
    /// A shard without connections.
    pub(crate) fn new(index: u32, shared: Arc<Shared>, inbox: Arc<Inbox>, net: N) -> Shard<N> {
        let now_ms = shared.clock.steady_ms();
        Shard {
            index,
            shared,
            inbox,
            net,
            echo: false,
            conns: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            rooms: Rooms::default(),
            wheel: Wheel::new(now_ms),
            now_ms,
            connections_made: 0,
            named: HashMap::new(),
            hook_calls: 0,
            streams: 0,
            stop_by_ms: None,
            appends: Vec::new(),
            again: Vec::new(),
            dead: Vec::new(),
            slow: Vec::new(),
            effects: Vec::new(),
            out: Vec::new(),
            out_for: u32::MAX,
            buf: vec![0; frames::READ],
            reads_waiting: VecDeque::new(),
            reads_running: 0,
            behind: Vec::new(),
            behind_ms: 0,
            queue: Queue::default(),
            dirty: Vec::new(),
            due: Vec::new(),
        }
    }

    /// How long it may sleep in its poll set before the next turn; none: until it is woken.
    pub(crate) fn wait(&self) -> Option<Duration> {
        reach(Point::Free);
        // Publishes that a hook let pass while others were handed over wait for nothing else.
        let busy = !self.again.is_empty() || !self.appends.is_empty();
        if busy || !self.inbox.may_sleep() {
            return Some(Duration::ZERO);
        }
        let now = self.shared.clock.steady_ms();
        let stop = self.stop_by_ms.map(|by| by.saturating_sub(now));
        let wheel = self.wheel.wait_ms(now);
        let behind = (!self.behind.is_empty()).then(|| self.behind_ms.saturating_sub(now));
        stop.into_iter().chain(wheel).chain(behind).min().map(Duration::from_millis)
    }

    /// One turn, with what the poll set told. False: it has ended.
    pub(crate) fn turn(&mut self, ready: impl Iterator<Item = Ready>) -> bool {
        self.inbox.awake();
        self.now_ms = self.shared.clock.steady_ms();
        self.take_inbox();
        for i in take(&mut self.again) {
            self.read(i);
        }
        for r in ready {
            if r.writable {
                self.writable(r.slot);
            }
            if r.readable || r.ending {
                self.read(r.slot);
            }
            if r.ending {
                // The end may lie behind what was read, and comes with no event of its own.
                self.again.push(r.slot);
            }
        }
        if !self.appends.is_empty() {
            self.flush_out();
            self.shared.broker.append(&mut self.appends);
            // A broker in memory has delivered already.
            self.take_inbox();
        }
        self.flush_out();
        let mut dirty = take(&mut self.dirty);
        self.rooms.take_dirty(&mut dirty);
        for slot in dirty.drain(..) {
            self.fan_out(slot);
        }
        self.dirty = dirty;
        let mut due = take(&mut self.due);
        self.wheel.due(self.now_ms, &mut due);
        for (i, generation) in due.drain(..) {
            self.timer(i, generation);
        }
        self.due = due;
        if !self.behind.is_empty() {
            self.look_behind();
        }
        self.flush_out();
        while let Some(i) = self.slow.pop() {
            self.close_slow(i);
        }
        self.bury();
        !self.stop_by_ms.is_some_and(|by| by <= self.now_ms || self.conns.iter().all(Option::is_none))
    }

    fn take_inbox(&mut self) {
        let mut queue = take(&mut self.queue);
        self.inbox.take(&mut queue);
        for batch in queue.batches.drain(..) {
            if let Some(gone) = self.rooms.gather(batch) {
                gone.own.into_iter().for_each(|o| self.loose_reply(o.reply));
            }
        }
        for reply in queue.replies.drain(..) {
            self.loose_reply(reply);
        }
        for item in queue.items.drain(..) {
            match item {
                Item::Upgraded(u) => self.add(u),
                Item::Read(to, read) => self.read_done(to, read),
                Item::Hook { key, call, decision } => self.hook_answered(key, call, decision),
                Item::Presence(room, frame) => self.presence_event(room, &frame),
                Item::Signal { room, except, frame } => self.signal(room, except, &frame),
                Item::Send { connection, frame } => self.send_to(connection, &frame),
                Item::Kick { target, room, code } => self.kick(&target, room.as_deref(), code),
                Item::Reconnect(rooms) => self.reconnect(rooms),
                Item::Stop { deadline_ms } => self.stop(deadline_ms),
            }
        }
        self.queue = queue;
        self.flush_out();
    }

    /// Counts a limit that was reached.
    fn hit(&self, limit: Limit) {
        self.shared.metrics.limit_hits[limit].inc();
    }

    fn conn(&mut self, i: u32) -> Option<&mut Conn<N::Socket>> {
        self.conns.get_mut(i as usize)?.as_mut()
    }

    /// The slot of a connection, if it is still that one.
    fn alive(&self, key: ConnectionKey) -> Option<u32> {
        let c = self.conns.get(key.slot as usize)?.as_ref()?;
        (c.generation == key.generation || broken(Rule::RightConnection)).then_some(key.slot)
    }

    fn key(&self, i: u32) -> ConnectionKey {
        let generation = self.generations.get(i as usize).copied().unwrap_or_default();
        ConnectionKey { shard: self.index, slot: i, generation }
    }

    fn add(&mut self, u: Upgraded) {
        let i = self.vacancy();
        match self.net.register(u.io, i) {
            Ok(io) => self.enter(i, io, u.arrival),
            Err(_) => self.free.push(i),
        }
    }

    /// A slot for a connection that is about to enter.
    pub(crate) fn vacancy(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.generations.push(0);
            self.conns.len() as u32 - 1
        })
    }

    /// A connection begins in a vacant slot.
    pub(crate) fn enter(&mut self, i: u32, io: N::Socket, arrival: Arrival) {
        self.connections_made += 1;
        let number = [u64::from(self.index), self.connections_made, self.shared.connection_seed];
        let id = HashKey([number[2].to_le_bytes(), [0; 8]].concat().try_into().unwrap_or([0; 16]))
            .body(number[0] as u8, &number[1].to_le_bytes());
        let generation = self.generations[i as usize];
        let mut conn = Conn {
            io,
            session: Session::new(),
            generation,
            id,
            address: arrival.address,
            seen_ms: self.now_ms,
            pinged_ms: 0,
            timer_ms: 0,
            announced: false,
            extra: None,
            _permit: arrival.permit,
        };
        if !arrival.read.is_empty() {
            conn.extra().partial = arrival.read.to_vec();
        }
        self.conns[i as usize] = Some(conn);
        self.shared.metrics.connections.inc();
        self.shared.metrics.connections_opened.inc();
        let limits = &self.shared.policy.limits;
        let due = self.now_ms + limits.heartbeat_ms.min(limits.handshake_timeout_ms);
        self.schedule(i, due);
        if self.stop_by_ms.is_some() {
            return self.close(i, Disconnect::Shutdown, STOPPING);
        }
        if let Some(connect) = arrival.connect {
            let shared = self.shared.clone();
            let mut effects = take(&mut self.effects);
            if let Some(c) = self.conn(i) {
                c.session.connect(connect, &shared.policy, &mut effects);
            }
            self.effects = effects;
            self.apply(i);
        }
        // Edge-triggered: what came before the registration has raised an event by it, or is here now.
        self.again.push(i);
    }

    /// Looks at the connection at `at_ms`, if it is not looked at sooner.
    fn schedule(&mut self, i: u32, at_ms: u64) {
        let Some(c) = self.conns.get_mut(i as usize).and_then(Option::as_mut) else { return };
        if c.timer_ms == 0 || at_ms < c.timer_ms {
            c.timer_ms = self.wheel.add(at_ms, i, c.generation);
        }
    }

    fn timer(&mut self, i: u32, generation: u32) {
        let shared = self.shared.clone();
        let limits = &shared.policy.limits;
        let now = self.now_ms;
        let Some(c) = self.conn(i).filter(|c| c.generation == generation) else { return };
        if c.timer_ms == 0 || now < c.timer_ms {
            return;
        }
        c.timer_ms = 0;
        let idle = now.saturating_sub(c.seen_ms);
        let mut next = c.seen_ms.max(c.pinged_ms) + limits.heartbeat_ms;
        if let Some(x) = &c.extra {
            if let Closing::Lingering(until) = x.closing {
                if now >= until {
                    self.dead.push(i);
                    return;
                }
                next = next.min(until);
            }
            if !x.backlog.is_empty() {
                if now >= x.progress_ms + limits.slow_ms {
                    // Its socket takes nothing, so it cannot be told. One that is being closed already was counted then.
                    if x.closing == Closing::No {
                        self.shared.metrics.disconnects_slow.inc();
                        self.hit(Limit::SlowMs);
                    }
                    self.leave_all(i);
                    self.announce_end(i, Some(Disconnect::Slow));
                    self.dead.push(i);
                    return;
                }
                next = next.min(x.progress_ms + limits.slow_ms);
            }
            if let Some(hook) = &x.hook {
                if now >= hook.deadline_ms {
                    self.hook_timed_out(i);
                    self.schedule(i, now + limits.heartbeat_ms);
                    return;
                }
                next = next.min(hook.deadline_ms);
            }
        }
        let Some(c) = self.conn(i) else { return };
        if c.session.is_new() && !c.is_closing() {
            if idle >= limits.handshake_timeout_ms {
                self.hit(Limit::HandshakeTimeoutMs);
                self.close(i, Disconnect::Handshake, "the first frame did not come in time");
                return;
            }
            next = next.min(c.seen_ms + limits.handshake_timeout_ms);
        }
        // Neither one that has yet to say who it is, nor one whose socket is not read because it waits for us.
        let waits = c.session.is_new() || c.session.is_busy(&shared.policy);
        if idle >= limits.heartbeat_ms && !waits && !c.has_backlog() && !c.is_closing() {
            if c.pinged_ms == 0 {
                c.pinged_ms = now;
                next = now + limits.heartbeat_timeout_ms;
                self.hit(Limit::HeartbeatMs);
                self.write(i, &frame::PING);
            } else if now >= c.pinged_ms + limits.heartbeat_timeout_ms {
                self.shared.metrics.disconnects_heartbeat.inc();
                self.hit(Limit::HeartbeatTimeoutMs);
                self.close(i, Disconnect::Heartbeat, "no answer to a ping");
                return;
            } else {
                next = next.min(c.pinged_ms + limits.heartbeat_timeout_ms);
            }
        }
        self.schedule(i, next.max(now + 1));
    }

    fn writable(&mut self, i: u32) {
        let now = self.now_ms;
        let Some(c) = self.conn(i) else { return };
        if !c.has_backlog() {
            return;
        }
        let before = c.extra.as_ref().map_or(0, |x| x.bytes);
        if c.drain(now).is_err() {
            self.dead.push(i);
            return;
        }
        let after = c.extra.as_ref().map_or(0, |x| x.bytes);
        self.shared.metrics.backlog_bytes.sub((before - after) as u64);
        if after == 0 {
            self.drained(i);
        }
    }

    /// The backlog has gone: a close goes on, members that are behind read on.
    fn drained(&mut self, i: u32) {
        let until = self.now_ms + LINGER_MS;
        let Some(c) = self.conn(i) else { return };
        if let Some(x) = &mut c.extra
            && x.closing == Closing::Draining
        {
            x.closing = Closing::Lingering(until);
            // The peer sees the end of the stream and ends its side.
            c.io.end();
            self.schedule(i, until);
            self.again.push(i);
            return;
        }
        if let Some(x) = &mut c.extra {
            x.allowance = 0;
        }
        c.tidy();
        self.read_on(i);
    }

    /// Sends bytes to one connection now, in the order of everything else.
    fn write(&mut self, i: u32, bytes: &[u8]) {
        self.flush_out_unless(i);
        self.out.extend_from_slice(bytes);
        self.out_for = i;
    }

    /// Gathers a reply for one connection; written with others of its in one go.
    fn say(&mut self, i: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        self.flush_out_unless(i);
        frame::text(&mut self.out, encode);
        self.out_for = i;
    }

    fn flush_out_unless(&mut self, i: u32) {
        if self.out_for != i || self.out.len() > 64 << 10 {
            self.flush_out();
        }
    }

    fn flush_out(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let out = take(&mut self.out);
        self.send(self.out_for, &out, None);
        self.out = out;
        self.out.clear();
        self.out.shrink_to(128 << 10);
        self.out_for = u32::MAX;
    }

    /// Writes to a connection past everything that was gathered for it; use after [`Shard::flush_out`].
    fn send(&mut self, i: u32, bytes: &[u8], shared: Option<&bytes::Bytes>) {
        let (limit, now) = (self.shared.policy.limits.outbound_bytes, self.now_ms);
        let slow_ms = self.shared.policy.limits.slow_ms;
        let Some(c) = self.conns.get_mut(i as usize).and_then(Option::as_mut) else { return };
        let before = c.extra.as_ref().map_or(0, |x| x.bytes);
        match c.send(bytes, shared, limit, now) {
            Sent::Fine if before == 0 => {
                if let Some(x) = c.extra.as_mut().filter(|x| x.allowance > 0) {
                    x.allowance = 0;
                    c.tidy();
                }
                return;
            }
            Sent::Fine => {}
            Sent::Began => {
                self.hit(Limit::UnsentBytes);
                self.schedule(i, now + slow_ms);
            }
            Sent::Slow => self.slow.push(i),
            Sent::Dead => self.dead.push(i),
        }
        let after = self.conn(i).and_then(|c| c.extra.as_ref()).map_or(0, |x| x.bytes);
        self.shared.metrics.backlog_bytes.add(after.saturating_sub(before) as u64);
    }

    /// A member past its backlog: what waits is given up, for it is not worth its memory; it learns the code if it reads on.
    fn close_slow(&mut self, i: u32) {
        let Some(c) = self.conn(i).filter(|c| !c.is_closing()) else { return };
        let x = c.extra();
        // The first slice may be half written; it must be finished, or the close frame would not be read as one.
        let first = x.backlog.pop_front();
        let dropped: usize = x.backlog.drain(..).map(|b| b.len()).sum();
        x.bytes -= dropped.min(x.bytes);
        x.backlog.extend(first);
        self.shared.metrics.backlog_bytes.sub(dropped as u64);
        self.shared.metrics.disconnects_slow.inc();
        self.hit(Limit::OutboundBytes);
        self.close(i, Disconnect::Slow, "this connection did not keep up");
    }

    /// Tells the client why, closes the WebSocket, and ends the connection once that is out.
    fn close(&mut self, i: u32, why: Disconnect, text: &str) {
        let Some(c) = self.conn(i) else { return };
        if c.is_closing() {
            return;
        }
        c.session.close(why, "", &mut Vec::new());
        // Replies that waited for their place come before the end.
        self.leave_all(i);
        self.say(i, |out| encode::disconnect(out, why, text));
        self.write(i, &frame::close(why.number(), why.name()));
        if why == Disconnect::Protocol {
            self.shared.metrics.disconnects_protocol.inc();
        }
        self.finish(i, Some(why));
    }

    /// Nothing is read from or said to the connection any more; it ends once its backlog is out.
    fn finish(&mut self, i: u32, why: Option<Disconnect>) {
        self.flush_out();
        self.leave_all(i);
        self.announce_end(i, why);
        let slow_ms = self.shared.policy.limits.slow_ms;
        let due = self.now_ms + slow_ms;
        let Some(c) = self.conn(i) else { return };
        let x = c.extra();
        x.partial = Vec::new();
        x.ws = None;
        x.hook = None;
        x.first = None;
        x.parked = None;
        x.closing = Closing::Draining;
        if x.backlog.is_empty() {
            self.drained(i);
        } else {
            self.schedule(i, due);
        }
    }

    fn announce_end(&mut self, i: u32, why: Option<Disconnect>) {
        let events = self.shared.events.clone();
        let Some(c) = self.conn(i) else { return };
        if take(&mut c.announced) {
            let id = c.id;
            self.named.remove(&id);
            let Some(c) = self.conn(i) else { return };
            events.push(|| Event::Disconnected {
                connection: connection_name(c.id),
                user: c.session.user().to_string(),
                why,
            });
        }
    }

    /// Forgets the connections that have ended.
    fn bury(&mut self) {
        while let Some(i) = self.dead.pop() {
            if self.conn(i).is_none() {
                continue;
            }
            self.leave_all(i);
            self.announce_end(i, None);
            // What was still to be said must not wait for the next connection in this slot.
            self.flush_out();
            let Some(mut c) = self.conns.get_mut(i as usize).and_then(Option::take) else { continue };
            self.net.deregister(&mut c.io);
            self.shared.metrics.backlog_bytes.sub(c.extra.as_ref().map_or(0, |x| x.bytes) as u64);
            self.generations[i as usize] = self.generations[i as usize].wrapping_add(1);
            self.free.push(i);
            self.shared.metrics.connections.sub(1);
        }
    }

    /// Forgets every connection.
    fn abandon(&mut self) {
        self.out.clear();
        self.dead = (0..self.conns.len() as u32).collect();
        self.bury();
    }

    /// What the host has for one connection.
    fn send_to(&mut self, connection: u64, frame: &bytes::Bytes) {
        let Some(&i) = self.named.get(&connection) else { return };
        self.flush_out();
        self.send(i, frame, Some(frame));
    }

    fn kick(&mut self, target: &Target, room: Option<&str>, code: Disconnect) {
        let hit: Vec<u32> = (0..self.conns.len() as u32)
            .filter(|&i| {
                self.conns[i as usize].as_ref().is_some_and(|c| match target {
                    Target::Connection(id) => c.id == *id,
                    Target::User(user) => c.announced && **c.session.user() == **user,
                })
            })
            .collect();
        for i in hit {
            match room {
                Some(room) => self.evict(i, room),
                None => self.close(i, code, "closed by the host"),
            }
        }
    }

    fn reconnect(&mut self, rooms: Option<Vec<RoomKey>>) {
        let mut hit: Vec<u32> = match rooms {
            None => (0..self.conns.len() as u32).filter(|i| self.is_in_a_room(*i)).collect(),
            Some(rooms) => rooms
                .into_iter()
                .filter_map(|key| self.rooms.by_key(key).map(|r| r.everyone()))
                .flatten()
                .collect(),
        };
        hit.sort_unstable();
        hit.dedup();
        for i in hit {
            self.close(i, Disconnect::Reconnect, CHANGED);
        }
    }

    fn is_in_a_room(&self, i: u32) -> bool {
        let c = self.conns.get(i as usize).and_then(Option::as_ref);
        c.is_some_and(|c| !c.session.memberships().is_empty())
    }

    fn stop(&mut self, deadline_ms: u64) {
        self.stop_by_ms = Some(deadline_ms);
        for i in 0..self.conns.len() as u32 {
            self.close(i, Disconnect::Shutdown, STOPPING);
        }
    }
}

/// A connection's id as text.
pub(crate) fn connection_name(id: u64) -> String {
    format!("c{id:016x}")
}
