//! The hub: room -> who listens. It hands every batch of the tail to the shards and host subscriptions of its rooms.
//!
//! Two offsets a room: `last` is the tail's own, moved while it decides a batch; `visible` follows once the batch's rows are in
//! the view. Whoever starts to listen gets `visible` as its cursor, in the same locked step that adds the route: what is at or
//! below the cursor is in the view, what is above comes by the route.

use crate::broker::append::{ConnectionKey, Reply};
use crate::codes::Code;
use crate::config::{Limit, Limits};
use crate::error::Error;
use crate::message::{Publication, Record};
use crate::metrics::Metrics;
use crate::points::{Point, Rule, broken, reach};
use crate::protocol::frame;
use crate::room::recent::{Frame, Recent, Run};
use crate::room::subscriber::Subscriber;
use crate::view::{View, ViewError};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::Waker;

/// A room as one shard knows it: a slot of that shard and the count of rooms that have been in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoomKey {
    /// The slot.
    pub slot: u32,
    /// The count.
    pub generation: u32,
}

/// What one shard gets of one room in one batch of the tail.
#[derive(Debug)]
pub struct RoomBatch {
    /// The room, as that shard knows it.
    pub room: RoomKey,
    /// The offset of the last publication in it.
    pub last: u64,
    /// How many publications.
    pub count: u32,
    /// Their frames, shared by all shards.
    pub frames: Bytes,
    /// Replies to publishers on this shard, each at its place, in order of place.
    pub own: Vec<Own>,
}

/// A reply and the bytes of the publication that it answers, within [`RoomBatch::frames`]. Both ends are equal where the
/// answer has no publication in this batch (a duplicate, a conflict).
#[derive(Debug)]
pub struct Own {
    /// Where its publication begins.
    pub start: u32,
    /// Where its publication ends, and the reply belongs.
    pub end: u32,
    /// The reply.
    pub reply: Reply,
}

/// How a shard is reached from other threads.
pub trait ShardPort: Send + Sync + Debug {
    /// Hands over batches and replies that belong to none of them; empties both.
    fn deliver(&self, batches: &mut Vec<RoomBatch>, replies: &mut Vec<Reply>);
    /// Bytes of batches, signals and presence events that were handed over and not taken yet.
    fn waiting(&self) -> usize;
    /// Hands over a frame for the members of a room that asked for presence events.
    fn presence(&self, room: RoomKey, frame: Bytes);
    /// Hands over a frame for every member of a room except one.
    fn signal(&self, room: RoomKey, except: Option<ConnectionKey>, frame: Bytes);
    /// Closes the connections that are in one of these rooms, or in any room, with `reconnect`: what follows there does not follow what
    /// they have seen. Nothing that is handed over later reaches them.
    fn reconnect(&self, rooms: Option<Vec<RoomKey>>);
}

#[derive(Debug)]
struct Room {
    name: Arc<str>,
    last: u64,
    visible: u64,
    routes: Vec<(u32, RoomKey)>,
    subscribers: Vec<Arc<Subscriber>>,
    recent: Recent,
    /// The place of this room in the batch that is being handed over, if `mark` is that batch's number.
    group: usize,
    mark: u64,
}

#[derive(Debug, Default)]
struct Rooms {
    index: HashMap<Arc<str>, usize>,
    slots: Vec<Option<Room>>,
    free: Vec<usize>,
    /// Those of the host that listen to every room.
    everywhere: Vec<Arc<Subscriber>>,
    /// Rooms in the order in which their recent publications came, for eviction. May name rooms that have gone.
    recent_order: VecDeque<usize>,
    recent_bytes: usize,
    recent_count: usize,
    /// Rooms without an audience, oldest first; for eviction. May name rooms that have gone or got one.
    idle: VecDeque<usize>,
    evictions: u64,
    batch: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Hub {
    rooms: Mutex<Rooms>,
    ports: OnceLock<Vec<Arc<dyn ShardPort>>>,
    /// Written with `rooms` locked.
    view: RwLock<Arc<View>>,
    metrics: Arc<Metrics>,
    rooms_limit: usize,
    recent_limit: usize,
    inbox_limit: usize,
}

/// An accepted record on its way through [`Hub::publish`].
#[derive(Debug)]
pub struct Accepted {
    /// The record.
    pub record: Record,
    /// Filled in by [`Hub::place`]: the room's previous offset.
    pub prev: u64,
    /// Filled in by [`Hub::place`]: the room's shared name.
    pub room: Arc<str>,
    slot: usize,
}

impl Accepted {
    /// Not yet placed.
    pub fn new(record: Record, room: Arc<str>) -> Accepted {
        Accepted { record, prev: 0, room, slot: usize::MAX }
    }
}

/// A waiter with what its reply needs, and its place among the accepted records: after `after` of them, being the answer to the
/// last of these if `own`.
#[derive(Debug)]
pub struct Answer {
    /// How many of the batch's accepted records come before it.
    pub after: usize,
    /// Whether it answers the last of those.
    pub own: bool,
    /// The reply.
    pub reply: Reply,
}

#[derive(Debug, Default)]
struct Group {
    slot: usize,
    last: u64,
    frames: Vec<u8>,
    /// (index among the accepted, end of its frame)
    ends: Vec<(usize, u32)>,
    publications: Vec<Publication>,
}

impl Hub {
    /// An empty hub on a view.
    pub fn new(view: Arc<View>, limits: &Limits, metrics: Arc<Metrics>) -> Hub {
        Hub {
            rooms: Mutex::default(),
            ports: OnceLock::new(),
            view: RwLock::new(view),
            metrics,
            rooms_limit: limits.rooms_in_memory,
            recent_limit: limits.recent_bytes,
            inbox_limit: limits.shard_inbox_bytes,
        }
    }

    /// Names the shards; once, before the first connection.
    pub fn set_ports(&self, ports: Vec<Arc<dyn ShardPort>>) {
        // A second call would come from a second start, which the builder does not offer.
        let _ = self.ports.set(ports);
    }

    fn ports(&self) -> &[Arc<dyn ShardPort>] {
        self.ports.get().map_or(&[], Vec::as_slice)
    }

    /// Whether a shard is so far behind that nothing more may be published or signalled.
    pub fn is_congested(&self) -> bool {
        self.ports().iter().any(|p| p.waiting() > self.inbox_limit)
    }

    fn lock(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view of the log that it serves now.
    pub fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `f` on the room, made if need be. The view is read without the lock; if a room was evicted meanwhile, again.
    fn with<T>(&self, name: &Arc<str>, f: impl FnOnce(&mut Rooms, usize) -> T) -> Result<T, ViewError> {
        loop {
            let evictions = {
                let mut rooms = self.lock();
                if let Some(&slot) = rooms.index.get(name) {
                    return Ok(f(&mut rooms, slot));
                }
                rooms.evictions
            };
            let last = self.view().last(name)?;
            reach(Point::Free);
            let mut rooms = self.lock();
            if let Some(slot) = rooms.adopt(name, last, evictions) {
                return Ok(f(&mut rooms, slot));
            }
        }
    }

    /// Has the rooms of a batch in memory before it is stored, so that it can be placed whatever becomes of the view. A room that
    /// cannot be looked up is left to `refuse`.
    pub fn prepare<'a>(
        &self,
        names: impl Iterator<Item = &'a Arc<str>>,
        mut refuse: impl FnMut(Arc<str>, ViewError),
    ) {
        let missing: BTreeSet<Arc<str>> = {
            let rooms = self.lock();
            names.filter(|name| !rooms.index.contains_key(*name)).cloned().collect()
        };
        for name in missing {
            let made = self.with(&name, |rooms, slot| {
                // Without an audience yet, as those that the tail makes.
                if rooms.slots[slot].as_ref().is_some_and(|r| !r.has_audience()) {
                    rooms.idle.push_back(slot);
                }
            });
            if let Err(e) = made {
                refuse(name, e);
            }
        }
    }

    /// A shard's first member of a room has come: from now on the shard gets the room's batches. Returns the cursor: everything
    /// up to it is in the view, everything after it comes by the route.
    pub fn route(&self, name: &Arc<str>, shard: u32, key: RoomKey) -> Result<u64, ViewError> {
        self.with(name, |rooms, slot| {
            let Some(room) = rooms.slots[slot].as_mut() else { return 0 };
            if !room.has_audience() {
                self.metrics.rooms.inc();
            }
            room.routes.retain(|r| r.0 != shard);
            room.routes.push((shard, key));
            if broken(Rule::CursorIsVisible) { room.last } else { room.visible }
        })
    }

    /// A shard's last member of a room has gone.
    pub fn unroute(&self, name: &str, shard: u32, key: RoomKey) {
        let mut rooms = self.lock();
        let Some(&slot) = rooms.index.get(name) else { return };
        if let Some(room) = rooms.slots[slot].as_mut() {
            room.routes.retain(|r| *r != (shard, key));
            self.lost_audience(&mut rooms, slot);
        }
    }

    fn lost_audience(&self, rooms: &mut Rooms, slot: usize) {
        let Some(room) = rooms.slots[slot].as_mut() else { return };
        if !room.has_audience() {
            self.metrics.rooms.sub(1);
            let count = room.recent.len();
            let freed = room.recent.clear();
            rooms.recent_bytes -= freed;
            rooms.recent_count -= count;
            rooms.idle.push_back(slot);
            self.evict(rooms);
        }
    }

    fn evict(&self, rooms: &mut Rooms) {
        let before = rooms.evictions;
        rooms.evict(self.rooms_limit);
        self.metrics.limit_hits[Limit::RoomsInMemory].add(rooms.evictions - before);
    }

    /// The room's last offset that a reader can see.
    pub fn last(&self, name: &str) -> Result<u64, ViewError> {
        if let Some(room) = self.lock().get(name) {
            return Ok(room.visible);
        }
        self.view().last(name)
    }

    /// Frames of the room after a position, if they are in memory; see [`Recent::after`].
    pub fn recent(&self, name: &str, after: u64, to: u64, limit: usize, bytes: usize) -> Option<Vec<Frame>> {
        self.frames_of(self.lock().get(name)?.recent.after(after, to, limit, bytes))
    }

    /// The newest frames of the room up to a position, if they are in memory; see [`Recent::newest`].
    pub fn newest(&self, name: &str, n: usize, to: u64, bytes: usize) -> Option<Vec<Frame>> {
        self.frames_of(self.lock().get(name)?.recent.newest(n, to, bytes))
    }

    fn frames_of(&self, run: Option<Run>) -> Option<Vec<Frame>> {
        let Run { frames, cut } = run?;
        if cut {
            self.metrics.limit_hits[Limit::HistoryPageBytes].inc();
        }
        Some(frames)
    }

    /// Sends a signal to the members of a room on all shards. Returns whether anyone listens.
    pub fn signal(&self, name: &str, except: Option<ConnectionKey>, frame: &Bytes) -> bool {
        let routes = self.lock().get(name).map(|r| r.routes.clone()).unwrap_or_default();
        for (shard, key) in &routes {
            if let Some(port) = self.ports().get(*shard as usize) {
                port.signal(*key, except, frame.clone());
            }
        }
        !routes.is_empty()
    }

    /// Sends a presence event to the shards that have members of the room.
    pub fn presence(&self, name: &str, frame: &Bytes) {
        let routes = self.lock().get(name).map(|r| r.routes.clone()).unwrap_or_default();
        for (shard, key) in routes {
            if let Some(port) = self.ports().get(shard as usize) {
                port.presence(key, frame.clone());
            }
        }
    }

    /// First half of a batch, in log order, by the tail alone: gives each accepted record its room and `prev`.
    pub fn place(&self, batch: &mut [Accepted]) -> Result<(), ViewError> {
        let mut from = 0;
        while from < batch.len() {
            let mut missing = None;
            {
                let mut rooms = self.lock();
                for (i, a) in batch.iter_mut().enumerate().skip(from) {
                    let Some(&slot) = rooms.index.get(&a.room) else {
                        missing = Some((i, a.room.clone()));
                        break;
                    };
                    let Some(room) = rooms.slots[slot].as_mut() else { continue };
                    a.slot = slot;
                    a.prev = std::mem::replace(&mut room.last, a.record.offset());
                    a.room = room.name.clone();
                }
            }
            let Some((i, name)) = missing else { break };
            // Only the tail moves `last` and evicts, so what the view says cannot be outdated when the room is made.
            let last = self.view().last(&name)?;
            reach(Point::Free);
            let mut rooms = self.lock();
            if !rooms.index.contains_key(&name) {
                let slot = rooms.insert(&name, last);
                rooms.idle.push_back(slot);
            }
            from = i;
        }
        Ok(())
    }

    /// Second half, once the rows are in the view: moves the cursors, frames each publication once and hands the batch to
    /// everyone who listens, the answers at their places among it. Returns the tasks of the host that are to be woken, by the caller and
    /// with no lock held: they may call back.
    #[must_use]
    pub fn publish(&self, batch: &[Accepted], mut answers: Vec<Answer>) -> Vec<Waker> {
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of: Vec<usize> = Vec::with_capacity(batch.len());
        // Which rooms need frames. A room that gets its first listener after this is framed below.
        {
            let mut rooms = self.lock();
            rooms.batch += 1;
            let mark = rooms.batch;
            for a in batch {
                let Some(room) = rooms.slots.get_mut(a.slot).and_then(Option::as_mut) else {
                    group_of.push(usize::MAX);
                    continue;
                };
                if room.mark != mark {
                    (room.mark, room.group) = (mark, groups.len());
                    groups.push(Group { slot: a.slot, ..Group::default() });
                }
                let g = room.group;
                groups[g].last = a.record.offset();
                if !room.routes.is_empty() {
                    group_of.push(g);
                } else {
                    group_of.push(g | UNFRAMED);
                }
                if !room.subscribers.is_empty() {
                    groups[g].publications.push(Publication { record: a.record.clone(), prev: a.prev });
                }
            }
        }
        for (i, a) in batch.iter().enumerate() {
            match group_of[i] {
                g if g != usize::MAX && g & UNFRAMED == 0 => groups[g].frame(i, a),
                _ => {}
            }
        }
        let mut deliveries: Vec<(Vec<RoomBatch>, Vec<Reply>)> = Vec::new();
        deliveries.resize_with(self.ports().len(), Default::default);
        // Answers by room group, in order of place.
        let mut by_group: Vec<Vec<Answer>> = Vec::new();
        by_group.resize_with(groups.len(), Vec::new);
        let mut loose = Vec::new();
        let mut wakers = Vec::new();
        {
            let mut rooms = self.lock();
            let mut deserted = Vec::new();
            let mark = rooms.batch;
            for a in answers.drain(..) {
                let group = match group_of.get(a.after.wrapping_sub(1)) {
                    Some(&g) if a.own => (g != usize::MAX).then_some(g & !UNFRAMED),
                    _ => rooms.get(&a.reply.room).filter(|r| r.mark == mark).map(|r| r.group),
                };
                match group {
                    Some(g) => by_group[g].push(a),
                    None => loose.push(a.reply),
                }
            }
            for (g, group) in groups.iter_mut().enumerate() {
                let (slot, last) = (group.slot, group.last);
                let Some(room) = rooms.slots[slot].as_mut() else { continue };
                room.visible = last;
                let own = std::mem::take(&mut by_group[g]);
                if room.routes.is_empty() && room.subscribers.is_empty() {
                    loose.extend(own.into_iter().map(|a| a.reply));
                    continue;
                }
                if !room.routes.is_empty() && group.ends.is_empty() {
                    for (i, a) in batch.iter().enumerate().filter(|(i, _)| group_of[*i] & !UNFRAMED == g) {
                        group.frame(i, a);
                    }
                }
                room.subscribers.retain(|s| {
                    if group.publications.is_empty() {
                        // It came after the first look: the whole room's part of the batch is above its cursor.
                        let late: Vec<_> = batch
                            .iter()
                            .enumerate()
                            .filter(|(i, _)| group_of[*i] & !UNFRAMED == g)
                            .map(|(_, a)| Publication { record: a.record.clone(), prev: a.prev })
                            .collect();
                        return s.push(&late, &mut wakers);
                    }
                    s.push(&group.publications, &mut wakers)
                });
                if !room.has_audience() {
                    deserted.push(slot);
                }
                if room.routes.is_empty() {
                    loose.extend(own.into_iter().map(|a| a.reply));
                } else {
                    let frames = Bytes::from(std::mem::take(&mut group.frames));
                    hand_over(room, group, &frames, last, own, &mut deliveries, &mut loose);
                    let kept = room.recent.len();
                    let grown = remember(room, batch, group, &frames);
                    let kept = room.recent.len() as isize - kept as isize;
                    rooms.recent_bytes = rooms.recent_bytes.saturating_add_signed(grown);
                    rooms.recent_count = rooms.recent_count.saturating_add_signed(kept);
                    rooms.recent_order.extend(std::iter::repeat_n(slot, group.ends.len()));
                }
            }
            if !rooms.everywhere.is_empty() {
                let all: Vec<_> =
                    batch.iter().map(|a| Publication { record: a.record.clone(), prev: a.prev }).collect();
                rooms.everywhere.retain(|s| s.push(&all, &mut wakers));
            }
            // Its last subscription was given up just now.
            for slot in deserted {
                self.lost_audience(&mut rooms, slot);
            }
            let dropped = rooms.bound_recent(self.recent_limit);
            self.metrics.limit_hits[Limit::RecentBytes].add(dropped);
            self.evict(&mut rooms);
            self.metrics.recent_bytes.set(rooms.recent_bytes as u64);
        }
        for reply in loose {
            if let Some(d) = deliveries.get_mut(reply.key.shard as usize) {
                d.1.push(reply);
            }
        }
        for (port, (mut batches, mut replies)) in self.ports().iter().zip(deliveries) {
            if !batches.is_empty() || !replies.is_empty() {
                port.deliver(&mut batches, &mut replies);
                reach(Point::Tail);
            }
        }
        wakers
    }

    /// Hands over replies that have no place in any room's order.
    pub fn reply(&self, replies: Vec<Reply>) {
        let mut by_shard: Vec<Vec<Reply>> = Vec::new();
        by_shard.resize_with(self.ports().len(), Vec::new);
        for r in replies {
            if let Some(s) = by_shard.get_mut(r.key.shard as usize) {
                s.push(r);
            }
        }
        for (port, mut replies) in self.ports().iter().zip(by_shard) {
            if !replies.is_empty() {
                port.deliver(&mut Vec::new(), &mut replies);
            }
        }
    }
}

const UNFRAMED: usize = 1 << (usize::BITS - 1);

impl Group {
    fn frame(&mut self, i: usize, a: &Accepted) {
        frame::publication(&mut self.frames, &a.record, a.prev);
        self.ends.push((i, self.frames.len() as u32));
    }

    /// The byte range of the publication with index `i` in the batch, or the place after the last one before it.
    fn range(&self, after: usize, own: bool) -> (u32, u32) {
        let n = self.ends.partition_point(|e| e.0 < after);
        let end = n.checked_sub(1).map_or(0, |n| self.ends[n].1);
        let start = if own { n.checked_sub(2).map_or(0, |n| self.ends[n].1) } else { end };
        (start, end)
    }
}

fn hand_over(
    room: &Room,
    group: &Group,
    frames: &Bytes,
    last: u64,
    answers: Vec<Answer>,
    deliveries: &mut [(Vec<RoomBatch>, Vec<Reply>)],
    loose: &mut Vec<Reply>,
) {
    let mut answers: Vec<Option<Answer>> = answers.into_iter().map(Some).collect();
    for &(shard, key) in &room.routes {
        let Some((batches, _)) = deliveries.get_mut(shard as usize) else { continue };
        let own = answers
            .iter_mut()
            .filter(|a| a.as_ref().is_some_and(|a| a.reply.key.shard == shard))
            .filter_map(Option::take)
            .map(|a| {
                let (start, end) = group.range(a.after, a.own);
                Own { start, end, reply: a.reply }
            })
            .collect();
        let count = group.ends.len() as u32;
        batches.push(RoomBatch { room: key, last, count, frames: frames.clone(), own });
    }
    loose.extend(answers.into_iter().flatten().map(|a| a.reply));
}

fn remember(room: &mut Room, batch: &[Accepted], group: &Group, frames: &Bytes) -> isize {
    let (mut start, mut grown) = (0, 0);
    for &(i, end) in &group.ends {
        let a = &batch[i];
        let bytes = frames.slice(start as usize..end as usize);
        grown += room.recent.push(Frame { offset: a.record.offset(), prev: a.prev, bytes });
        start = end;
    }
    grown
}

impl Room {
    fn has_audience(&self) -> bool {
        !self.routes.is_empty() || !self.subscribers.is_empty()
    }
}

impl Rooms {
    fn get(&self, name: &str) -> Option<&Room> {
        self.slots.get(*self.index.get(name)?)?.as_ref()
    }

    /// Makes a room whose last offset was read from the view without the lock, when there had been so many evictions. The tail may
    /// have made it meanwhile, and then knows better; or made and evicted it, and then the view must be read again.
    fn adopt(&mut self, name: &Arc<str>, last: u64, evictions: u64) -> Option<usize> {
        match self.index.get(name) {
            Some(&slot) => Some(slot),
            None if self.evictions == evictions => Some(self.insert(name, last)),
            None => None,
        }
    }

    fn insert(&mut self, name: &Arc<str>, last: u64) -> usize {
        let room = Room {
            name: name.clone(),
            last,
            visible: last,
            routes: Vec::new(),
            subscribers: Vec::new(),
            recent: Recent::default(),
            group: 0,
            mark: 0,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(room);
        self.index.insert(name.clone(), slot);
        slot
    }

    /// Forgets rooms without an audience while there are more than `limit`.
    fn evict(&mut self, limit: usize) {
        while self.index.len() > limit {
            let Some(slot) = self.idle.pop_front() else { return };
            let Some(room) = self.slots[slot].as_ref().filter(|r| !r.has_audience()) else { continue };
            if room.last != room.visible {
                // Between the two halves of a batch: it stays, and is looked at again after the batch.
                self.idle.push_back(slot);
                return;
            }
            if let Some(room) = self.slots[slot].take() {
                self.index.remove(&room.name);
                self.free.push(slot);
                self.evictions += 1;
            }
        }
        // The queue may hold one room several times; drop what has become stale.
        if self.idle.len() > 2 * self.slots.len() + 1024 {
            let (slots, mut seen) = (&self.slots, std::collections::HashSet::new());
            self.idle.retain(|&s| seen.insert(s) && slots[s].as_ref().is_some_and(|r| !r.has_audience()));
        }
    }

    /// Drops the oldest recent publications while they are more than `limit` bytes. Returns how many.
    fn bound_recent(&mut self, limit: usize) -> u64 {
        let before = self.recent_count;
        while self.recent_bytes > limit
            && let Some(slot) = self.recent_order.pop_front()
        {
            if let Some(room) = self.slots[slot].as_mut()
                && !room.recent.is_empty()
            {
                self.recent_bytes -= room.recent.pop();
                self.recent_count -= 1;
            }
        }
        let dropped = before - self.recent_count;
        // One entry a publication; far more than are in memory means that rooms have emptied, or wrapped around at their own bound:
        // of each room the newest entries stay, as many as it has publications.
        if self.recent_order.len() > 2 * self.recent_count + 1024 {
            let mut kept: HashMap<usize, usize> = HashMap::new();
            let mut order: VecDeque<usize> = VecDeque::with_capacity(self.recent_count);
            for &slot in self.recent_order.iter().rev() {
                let n = kept.entry(slot).or_default();
                if *n < self.slots[slot].as_ref().map_or(0, |r| r.recent.len()) {
                    *n += 1;
                    order.push_front(slot);
                }
            }
            self.recent_order = order;
        }
        dropped as u64
    }
}

/// A shard has more to write than `shard_inbox_bytes`.
pub fn congested() -> Error {
    let text = "the connections' threads do not keep up; slow down";
    Error::new(Code::Busy, text).after(250).at(Limit::ShardInboxBytes)
}

mod anew;
mod host;
#[cfg(test)]
mod tests;
