//! The tail: the one place where records become publications.
//!
//! Records come in log order. Each is decided (accepted, duplicate, conflict), accepted ones become rows of the view and then
//! go to the hub, and the publishes that wait for them are answered at that place in the room's order.

use crate::broker::append::{Ack, Append, Outcome, Promise, Reply, Waiter};
use crate::broker::ids::{Decision, Ids};
use crate::codes::Code;
use crate::config::{Limit, Settings};
use crate::error::Error;
use crate::ids::{HashKey, KeyMap, MessageKey, random_bytes};
use crate::message::{Epoch, Position, Record};
use crate::metrics::Metrics;
use crate::points::{Point, Rule, broken, reach};
use crate::room::hub::{Accepted, Answer, Hub};
use crate::threads;
use crate::view::{Checkpoint, IdEntry, Row, View, ViewError};
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// The tail of one partition. The embedded log has one; a Kafka topic as many as it has partitions, on one thread.
#[derive(Debug)]
pub struct Tail {
    partition: u32,
    view: Arc<View>,
    hub: Arc<Hub>,
    key: HashKey,
    metrics: Arc<Metrics>,
    timeout_ms: u64,
    epoch_seed: u64,
    window_ms: u64,
    state: Mutex<State>,
    /// None where the log says of each record what became of it. Locked after `state`.
    doubtful: Option<Arc<Mutex<Doubtful>>>,
    /// Tasks of the host that are to be woken.
    wakers: Mutex<Vec<Waker>>,
    /// See [`Tail::passed`].
    passed: AtomicU64,
    /// See [`Tail::ends`].
    ends: AtomicU64,
}

#[derive(Debug)]
struct State {
    ids: Ids,
    /// Publishes with an id or a tag that are on their way, by key. The first of a key is the one that was appended. A key may be left
    /// without any: all have been answered *unknown*, and its record is still on its way.
    keyed: KeyMap<Vec<Waiting>>,
    /// Publishes without an id, in the order in which they were appended in the batch under way.
    unkeyed: Vec<Option<Waiting>>,
    /// No publish that waits was admitted before this (steady clock); none if none waits.
    since_ms: Option<u64>,
    /// How many ids the gauge shows for this tail.
    ids_shown: u64,
}

/// Keys of which a record may be in the log though nobody waits for it any more. What is published with such a key again and fails is not
/// *not stored*: the first may be there.
///
/// It outlives the tail, for as long as the log is the same.
#[derive(Debug)]
struct Doubtful {
    /// The log that the keys are of, and the secret that they are made with.
    log: [u8; 16],
    key: HashKey,
    /// The time when the tail last told it (steady clock); who refuses has none at hand.
    now_ms: u64,
    /// Until when (steady clock).
    keys: KeyMap<u64>,
    /// There were too many, or they cannot be told apart: until then every key is one. 0 for none.
    all_until: u64,
}

/// Most doubtful keys that are told apart.
const MOST_DOUBTFUL: usize = 1 << 16;

impl Doubtful {
    fn new(log: [u8; 16], key: HashKey) -> Doubtful {
        Doubtful { log, key, now_ms: 0, keys: KeyMap::default(), all_until: 0 }
    }

    /// Goes on with another tail. What is doubtful of this log under another secret cannot be told apart any more.
    fn turn_to(&mut self, log: [u8; 16], key: HashKey) {
        if (self.log, self.key) == (log, key) {
            return;
        }
        let mut next = Doubtful { now_ms: self.now_ms, ..Doubtful::new(log, key) };
        if self.log == log {
            next.all_until = self.keys.values().copied().max().unwrap_or(0).max(self.all_until);
        }
        *self = next;
    }

    fn add(&mut self, key: MessageKey, window_ms: u64) {
        let until_ms = self.now_ms + window_ms;
        if self.keys.len() >= MOST_DOUBTFUL {
            self.keys.clear();
            self.all_until = until_ms;
        }
        self.keys.insert(key, until_ms);
    }

    fn has(&self, key: MessageKey) -> bool {
        let all = self.all_until > 0 && self.now_ms <= self.all_until;
        all || self.keys.get(&key).is_some_and(|until| self.now_ms <= *until)
    }
}

/// A publish that waits for the tail to pass its record.
#[derive(Debug)]
struct Waiting {
    /// When it was admitted (steady clock).
    since_ms: u64,
    body: u64,
    room: Arc<str>,
    id: Box<str>,
    waiter: Waiter,
}

/// What a record's key is, and whether the tail knows already that no earlier record has it.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// Appended through [`Tail::admit`] of this process just now.
    Own(Option<MessageKey>),
    /// Read from a log.
    Read,
    /// Read from a log, and no message with an id: it is no duplicate of anything. A publish may wait for it under its tag.
    Apart(Option<MessageKey>),
}

impl Tail {
    /// `complete_since`: see [`Ids::new`]. `log`: the log's identity, which the epochs come from; `partition`: which part of it this is,
    /// by the view's count.
    pub fn new(
        partition: u32,
        log: [u8; 16],
        complete_since: u64,
        view: Arc<View>,
        hub: Arc<Hub>,
        settings: &Settings,
        metrics: Arc<Metrics>,
    ) -> Tail {
        let ids_bytes = settings.limits.ids_bytes / view.partitions().max(1) as usize;
        let ids = Ids::new(settings.dedupe_window_ms, ids_bytes, complete_since);
        let passed = AtomicU64::new(view.checkpoint(partition).map_or(0, |c| c.sequence));
        Tail {
            partition,
            key: view.hash_key(),
            view,
            hub,
            metrics,
            timeout_ms: settings.limits.publish_timeout_ms,
            epoch_seed: if broken(Rule::EpochOfTheLog) { u64::from_le_bytes(random_bytes()) } else { 0 }
                ^ u64::from_le_bytes([log[0], log[1], log[2], log[3], log[4], log[5], log[6], log[7]]),
            wakers: Mutex::default(),
            passed,
            ends: AtomicU64::new(0),
            window_ms: settings.dedupe_window_ms,
            doubtful: None,
            state: Mutex::new(State {
                ids,
                keyed: KeyMap::default(),
                unkeyed: Vec::new(),
                since_ms: None,
                ids_shown: 0,
            }),
        }
    }

    /// One of a log that may not say what became of a record. It knows what was doubtful for the tail before it, if that was of this log;
    /// one that is of no `log` keeps it for the next.
    pub fn doubting(mut self, log: Option<[u8; 16]>, before: Option<&Tail>) -> Tail {
        let doubtful = before.and_then(|tail| tail.doubtful.clone());
        let doubtful = doubtful.unwrap_or_else(|| Arc::new(Mutex::new(Doubtful::new([0; 16], self.key))));
        if let Some(log) = log {
            doubtful.lock().unwrap_or_else(PoisonError::into_inner).turn_to(log, self.key);
        }
        self.doubtful = Some(doubtful);
        self
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubtful(&self) -> Option<MutexGuard<'_, Doubtful>> {
        self.doubtful.as_ref().map(|doubtful| doubtful.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The outcome of a publish that is refused, and may be a retry: of one whose record may be in the log it is not *not stored*.
    fn refusal(&self, state: &State, append: &Append, error: &Error) -> Outcome {
        let not_stored = || Outcome::NotStored(error.clone());
        let Some(doubtful) = self.doubtful().filter(|_| !append.id.is_empty()) else { return not_stored() };
        let key = doubtful.key.message(&append.room, &append.user, &append.id);
        match state.keyed.contains_key(&key) || doubtful.has(key) {
            true => Outcome::Unknown(Error::new(Code::Unknown, error.message())),
            false => not_stored(),
        }
    }

    /// The view that it feeds.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The hub that it feeds.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The epoch of a room: the same for every start of this log, another for another log.
    pub fn epoch(&self, room: &str) -> Epoch {
        let seed = HashKey([self.epoch_seed.to_le_bytes(), [0x6b; 8]].concat().try_into().unwrap_or([0; 16]));
        Epoch(seed.body(0, room.as_bytes()))
    }

    /// Refuses those publishes whose room cannot be looked up now: what is stored must be placed there and then.
    pub fn prepare(&self, appends: &mut Vec<Append>) {
        let mut unreadable: Vec<(Arc<str>, Error)> = Vec::new();
        self.hub.prepare(appends.iter().map(|a| &a.room), |room, e| unreadable.push((room, view_error(&e))));
        for (room, error) in unreadable {
            let (refused, kept): (Vec<_>, Vec<_>) =
                std::mem::take(appends).into_iter().partition(|a| a.room == room);
            *appends = kept;
            self.refuse(refused.into_iter(), &error);
        }
    }

    /// Memory of ids is complete from a later time on than was said when this was made: a log has been read from there.
    pub fn complete_since(&self, ms: u64) {
        self.lock().ids.complete_since(ms);
    }

    /// Looks at publishes before they are appended. Those whose id was accepted already are answered, those whose id is under way
    /// wait for that one; the rest stay in `appends`, with the key of each in `keys`. Those without an id are told apart by `tag`, where
    /// there is one; else by their order, and then nothing else is admitted before the batch has passed.
    ///
    /// Not to be called while [`Tail::accept`] runs: what that has decided may not be answered before it is delivered.
    pub fn admit(
        &self,
        appends: &mut Vec<Append>,
        keys: &mut Vec<Option<MessageKey>>,
        now_ms: u64,
        steady_ms: u64,
        mut tag: Option<&mut dyn FnMut() -> MessageKey>,
    ) {
        keys.clear();
        let mut done = Vec::new();
        let mut state = self.lock();
        let state = &mut *state;
        self.doubtful().iter_mut().for_each(|doubtful| doubtful.now_ms = steady_ms);
        state.since_ms.get_or_insert(steady_ms);
        state.unkeyed.clear();
        let all = std::mem::take(appends);
        appends.reserve(all.len());
        for mut a in all {
            if a.id.is_empty() {
                let waiter = std::mem::replace(&mut a.waiter, Waiter::Nobody);
                let waiting =
                    Waiting { since_ms: steady_ms, body: 0, room: a.room.clone(), id: "".into(), waiter };
                let key = tag.as_mut().map(|tag| tag());
                match key {
                    Some(key) => drop(state.keyed.insert(key, vec![waiting])),
                    None => state.unkeyed.push(Some(waiting)),
                }
                keys.push(key);
                appends.push(a);
                continue;
            }
            let key = self.key.message(&a.room, &a.user, &a.id);
            let body = self.key.body(a.kind as u8, &a.data);
            let found = match state.ids.find(key, now_ms, |oldest| self.view.id(key, oldest)) {
                Ok(found) => found,
                Err(e) => {
                    let outcome = self.refusal(state, &a, &view_error(&e));
                    done.push((a.waiter, a.room, a.id, outcome));
                    continue;
                }
            };
            if let Some(entry) = found {
                let outcome = if entry.body == body {
                    Outcome::Stored { offset: entry.offset, duplicate: true }
                } else {
                    conflict()
                };
                done.push((a.waiter, a.room, a.id, outcome));
                continue;
            }
            let waiter = std::mem::replace(&mut a.waiter, Waiter::Nobody);
            let this = Waiting { since_ms: steady_ms, body, room: a.room.clone(), id: a.id.clone(), waiter };
            match state.keyed.entry(key) {
                Entry::Occupied(under_way) if !broken(Rule::OneOfAKey) => under_way.into_mut().push(this),
                entry => {
                    entry.or_default().push(this);
                    keys.push(Some(key));
                    appends.push(a);
                }
            }
        }
        state.rest();
        let replies = self.settle(done);
        self.hub.reply(replies);
    }

    /// Takes records in log order with what the view is to keep as their places. `checkpoint` is of the last one, or of one
    /// behind it that is no record of a room.
    pub fn accept<P: AsRef<[u8]>>(
        &self,
        records: &[(Record, P)],
        origins: impl Iterator<Item = Origin>,
        checkpoint: Checkpoint,
    ) -> Result<(), ViewError> {
        let mut accepted: Vec<Accepted> = Vec::with_capacity(records.len());
        let mut places: Vec<usize> = Vec::with_capacity(records.len());
        let mut ids: Vec<(MessageKey, IdEntry)> = Vec::new();
        let mut answers = Vec::new();
        let mut promises = Vec::new();
        let mut unreadable = None;
        {
            let mut state = self.lock();
            let state = &mut *state;
            let mut doubtful = self.doubtful();
            let mut unkeyed = std::mem::take(&mut state.unkeyed).into_iter();
            for (i, ((record, _), origin)) in records.iter().zip(origins).enumerate() {
                let (waiting, body, decision) = match origin {
                    Origin::Own(None) => {
                        (unkeyed.next().flatten().into_iter().collect(), 0, Decision::Accepted)
                    }
                    Origin::Read if record.given_id().is_empty() => (Vec::new(), 0, Decision::Accepted),
                    Origin::Apart(tag) => {
                        let waiting = tag.and_then(|tag| state.keyed.remove(&tag)).unwrap_or_default();
                        (waiting, 0, Decision::Accepted)
                    }
                    Origin::Own(Some(_)) | Origin::Read => {
                        let own = matches!(origin, Origin::Own(_));
                        let key = match origin {
                            Origin::Own(Some(key)) => key,
                            _ => self.key.message(record.room(), record.user(), record.given_id()),
                        };
                        let waiting = state.keyed.remove(&key).unwrap_or_default();
                        // Of a key's waiters the first is the one that was appended; its body was hashed when it came.
                        let body = match waiting.first() {
                            Some(w) if own => w.body,
                            _ => self.key.body(record.kind() as u8, record.data_slice()),
                        };
                        let found = match own {
                            true => Ok(None),
                            false => state.ids.find(key, record.time(), |oldest| self.view.id(key, oldest)),
                        };
                        let found = match found {
                            Ok(found) => found,
                            Err(e) => {
                                // Whoever gives up then answers those who wait.
                                state.keyed.insert(key, waiting);
                                unreadable = Some(e);
                                break;
                            }
                        };
                        if let Some(doubtful) = &mut doubtful {
                            doubtful.keys.remove(&key);
                        }
                        let (decision, entry) =
                            state.ids.decide(key, found, record.offset(), body, record.time());
                        ids.push((key, entry));
                        (waiting, body, decision)
                    }
                };
                if decision == Decision::Accepted {
                    let name =
                        waiting.first().map_or_else(|| record.room().into(), |w: &Waiting| w.room.clone());
                    accepted.push(Accepted::new(record.clone(), name));
                    places.push(i);
                }
                let mut own = decision == Decision::Accepted;
                for w in waiting {
                    let outcome = match decision {
                        Decision::Accepted if w.body == body => {
                            Outcome::Stored { offset: record.offset(), duplicate: !own }
                        }
                        Decision::Duplicate(offset) if w.body == body => {
                            Outcome::Stored { offset, duplicate: true }
                        }
                        _ => conflict(),
                    };
                    let answers_own = own && matches!(outcome, Outcome::Stored { duplicate: false, .. });
                    own &= !answers_own;
                    self.count(&outcome);
                    match w.waiter {
                        Waiter::Connection { key, reference } => answers.push(Answer {
                            after: accepted.len(),
                            own: answers_own,
                            reply: Reply { key, reference, room: w.room, id: w.id, outcome },
                        }),
                        Waiter::Host(promise) => promises.push((promise, w.room, w.id, outcome)),
                        Waiter::Nobody => {}
                    }
                }
            }
            state.rest();
            self.show_ids(state);
        }
        if let Err(e) = unreadable.map_or_else(|| self.hub.place(&mut accepted), Err) {
            // Stored, but not to be shown before the next start: whoever waits is not left waiting.
            let unknown =
                Outcome::Unknown(Error::new(Code::Unknown, "the view failed; retry with the same id"));
            let connections = answers.into_iter().map(|a| {
                let Reply { key, reference, room, id, .. } = a.reply;
                (Waiter::Connection { key, reference }, room, id, unknown.clone())
            });
            let hosts =
                promises.into_iter().map(|(p, room, id, _)| (Waiter::Host(p), room, id, unknown.clone()));
            let replies = self.settle(connections.chain(hosts).collect());
            self.hub.reply(replies);
            return Err(e);
        }
        let rows: Vec<Row<'_>> = accepted
            .iter()
            .zip(&places)
            .map(|(a, &i)| Row {
                room: &a.room,
                offset: a.record.offset(),
                prev: a.prev,
                place: records[i].1.as_ref(),
            })
            .collect();
        reach(Point::Tail);
        if broken(Rule::RowsBeforeMembers) {
            let _ = self.hub.publish(&accepted, std::mem::take(&mut answers));
            reach(Point::Tail);
        }
        self.view.add(self.partition, &rows, &ids, checkpoint);
        reach(Point::Tail);
        let wakers = self.hub.publish(&accepted, answers);
        reach(Point::Tail);
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).extend(wakers);
        for (promise, room, id, outcome) in promises {
            self.fill(&promise, self.host_answer(&room, &id, outcome));
        }
        self.passed.store(checkpoint.sequence, Ordering::Release);
        Ok(())
    }

    /// Records up to this place are gone that this has not seen. What waits for a record may have waited for one of them: it is *unknown*,
    /// and what comes with its id again is sent again.
    pub fn skip(&self, place: u64, steady_ms: u64) {
        self.passed.fetch_max(place, Ordering::AcqRel);
        let mut done = Vec::new();
        {
            let mut state = self.lock();
            let mut doubtful = self.doubtful();
            doubtful.iter_mut().for_each(|doubtful| doubtful.now_ms = steady_ms);
            for (key, waiting) in std::mem::take(&mut state.keyed) {
                // Tags come in no other publish, and those without waiters may be either.
                let has_id = waiting.first().is_none_or(|w| !w.id.is_empty());
                if let Some(doubtful) = doubtful.as_mut().filter(|_| has_id) {
                    doubtful.add(key, self.window_ms);
                }
                let text =
                    "records were deleted before this node had read them; retry with the same message id";
                let outcome = Outcome::Unknown(Error::new(Code::Unknown, text));
                done.extend(waiting.into_iter().map(|w| (w.waiter, w.room, w.id, outcome.clone())));
            }
            drop(doubtful);
            state.rest();
        }
        let replies = self.settle(done);
        self.hub.reply(replies);
    }

    /// There was nothing more to read.
    pub fn at_end(&self) {
        self.ends.fetch_add(1, Ordering::AcqRel);
    }

    /// How often there was nothing more to read.
    pub fn ends(&self) -> u64 {
        self.ends.load(Ordering::Acquire)
    }

    /// The last place of the log that this has passed: what is there is decided, and members have it.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Acquire)
    }

    /// Takes records in log order of which nobody is told: it is not known what came before them. Only their ids are kept, so that what
    /// comes later is decided as everywhere. Nobody may wait for any of them.
    pub fn remember<P>(
        &self,
        records: &[(Record, P)],
        origins: impl Iterator<Item = Origin>,
        checkpoint: Checkpoint,
    ) -> Result<(), ViewError> {
        let mut kept = Vec::new();
        {
            let mut state = self.lock();
            for ((record, _), origin) in records.iter().zip(origins) {
                if !matches!(origin, Origin::Read) || record.given_id().is_empty() {
                    continue;
                }
                let key = self.key.message(record.room(), record.user(), record.given_id());
                let body = self.key.body(record.kind() as u8, record.data_slice());
                let found = state.ids.find(key, record.time(), |oldest| self.view.id(key, oldest))?;
                let (_, entry) = state.ids.decide(key, found, record.offset(), body, record.time());
                kept.push((key, entry));
            }
            self.show_ids(&mut state);
        }
        self.view.add(self.partition, &[], &kept, checkpoint);
        self.passed.store(checkpoint.sequence, Ordering::Release);
        Ok(())
    }

    fn show_ids(&self, state: &mut State) {
        let ids = state.ids.len() as u64;
        self.metrics.ids.add(ids);
        self.metrics.ids.sub(std::mem::replace(&mut state.ids_shown, ids));
        self.metrics.limit_hits[Limit::IdsBytes].add(state.ids.take_dropped());
    }

    /// Answers everything admitted and not passed, because the append failed; how many publishes that were.
    pub fn fail(&self, outcome: &Outcome) -> usize {
        let mut done = Vec::new();
        {
            let mut state = self.lock();
            state.since_ms = None;
            let unkeyed = std::mem::take(&mut state.unkeyed);
            let keyed = std::mem::take(&mut state.keyed);
            for w in unkeyed.into_iter().flatten().chain(keyed.into_values().flatten()) {
                done.push((w.waiter, w.room, w.id, outcome.clone()));
            }
        }
        let count = done.len();
        let replies = self.settle(done);
        self.hub.reply(replies);
        count
    }

    /// Answers *unknown* to everything admitted and not passed, because nobody will know what became of it; how many publishes that were.
    /// What has an id is doubtful from then on.
    pub fn forsake(&self, error: &Error) -> usize {
        let state = self.lock();
        if let Some(mut doubtful) = self.doubtful() {
            // Tags come in no other publish, and those without waiters may be either.
            let has_id = |waiting: &Vec<Waiting>| waiting.first().is_none_or(|w| !w.id.is_empty());
            let keys = state.keyed.iter().filter(|(_, waiting)| has_id(waiting)).map(|(key, _)| *key);
            keys.for_each(|key| doubtful.add(key, self.window_ms));
        }
        drop(state);
        self.fail(&Outcome::Unknown(error.clone()))
    }

    /// The record with this key failed: answers those who wait for it. `perhaps`: it may be in the log all the same; if it `has_id` it may
    /// come again then. How many they were.
    pub fn give_up(
        &self,
        key: MessageKey,
        perhaps: bool,
        has_id: bool,
        error: &Error,
        steady_ms: u64,
    ) -> usize {
        let mut done = Vec::new();
        {
            let mut state = self.lock();
            let waiting = state.keyed.remove(&key).unwrap_or_default();
            let mut doubtful = self.doubtful();
            doubtful.iter_mut().for_each(|doubtful| doubtful.now_ms = steady_ms);
            let in_doubt = perhaps || doubtful.as_ref().is_some_and(|d| d.has(key));
            if let Some(doubtful) = doubtful.as_mut().filter(|_| perhaps && has_id) {
                doubtful.add(key, self.window_ms);
            }
            let outcome = match in_doubt {
                true => Outcome::Unknown(Error::new(Code::Unknown, error.message())),
                false => Outcome::NotStored(error.clone()),
            };
            done.extend(waiting.into_iter().map(|w| (w.waiter, w.room, w.id, outcome.clone())));
            state.rest();
        }
        let count = done.len();
        let replies = self.settle(done);
        self.hub.reply(replies);
        count
    }

    /// Answers *unknown* to everything that was admitted longer ago than the publish timeout. The records may still pass; nobody
    /// waits for them then.
    pub fn sweep(&self, steady_ms: u64) {
        let late = |since_ms: u64| since_ms.saturating_add(self.timeout_ms) < steady_ms;
        let mut done = Vec::new();
        {
            let mut state = self.lock();
            let mut doubtful = self.doubtful();
            doubtful.iter_mut().for_each(|doubtful| doubtful.now_ms = steady_ms);
            if !state.since_ms.is_some_and(late) {
                return;
            }
            let text = "the log did not answer in time; retry with the same message id";
            let outcome = Outcome::Unknown(Error::new(Code::Unknown, text).at(Limit::PublishTimeoutMs));
            let state = &mut *state;
            let mut oldest: Option<u64> = None;
            let mut keep = |w: &Waiting| {
                let kept = !late(w.since_ms);
                if kept {
                    oldest = Some(oldest.map_or(w.since_ms, |o| o.min(w.since_ms)));
                }
                kept
            };
            let mut answer = |w: Waiting| done.push((w.waiter, w.room, w.id, outcome.clone()));
            for place in &mut state.unkeyed {
                // The others keep their places.
                if place.as_ref().is_some_and(|w| !keep(w)) {
                    place.take().into_iter().for_each(&mut answer);
                }
            }
            for waiting in state.keyed.values_mut() {
                waiting.extract_if(.., |w| !keep(w)).for_each(&mut answer);
            }
            state.since_ms = oldest;
            doubtful.iter_mut().for_each(|doubtful| doubtful.keys.retain(|_, until| *until >= steady_ms));
        }
        let replies = self.settle(done);
        self.hub.reply(replies);
    }

    /// Whether nothing is under way.
    #[cfg(feature = "_kafka")]
    pub(super) fn is_idle(&self) -> bool {
        self.lock().since_ms.is_none()
    }

    /// Answers publishes outside any batch.
    pub fn refuse(&self, appends: impl Iterator<Item = Append>, error: &Error) {
        let outcome = |a: &Append| match self.doubtful.is_some() && !a.id.is_empty() {
            true => self.refusal(&self.lock(), a, error),
            false => Outcome::NotStored(error.clone()),
        };
        let done = appends.map(|a| {
            let outcome = outcome(&a);
            (a.waiter, a.room, a.id, outcome)
        });
        let replies = self.settle(done.collect());
        self.hub.reply(replies);
    }

    fn settle(&self, done: Vec<(Waiter, Arc<str>, Box<str>, Outcome)>) -> Vec<Reply> {
        let mut replies = Vec::new();
        for (waiter, room, id, outcome) in done {
            self.count(&outcome);
            match waiter {
                Waiter::Connection { key, reference } => {
                    replies.push(Reply { key, reference, room, id, outcome })
                }
                Waiter::Host(promise) => self.fill(&promise, self.host_answer(&room, &id, outcome)),
                Waiter::Nobody => {}
            }
        }
        replies
    }

    fn fill(&self, promise: &Promise, answer: Result<Ack, Error>) {
        if let Some(waker) = promise.fill(answer) {
            self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
        }
    }

    /// Wakes the host's tasks that have been answered. To be called after everything else here, with no lock held.
    pub fn wake(&self) {
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().for_each(threads::wake);
    }

    fn count(&self, outcome: &Outcome) {
        if let Outcome::NotStored(e) | Outcome::Unknown(e) = outcome {
            self.metrics.refused(e);
        }
        match outcome {
            Outcome::Stored { duplicate: false, .. } => self.metrics.publishes_stored.inc(),
            Outcome::Stored { .. } => self.metrics.publishes_duplicate.inc(),
            Outcome::NotStored(e) if e.code() == Code::Conflict => self.metrics.publishes_conflict.inc(),
            Outcome::NotStored(_) => self.metrics.publishes_refused.inc(),
            Outcome::Unknown(_) => self.metrics.publishes_unknown.inc(),
        }
    }

    fn host_answer(&self, room: &str, id: &str, outcome: Outcome) -> Result<Ack, Error> {
        match outcome {
            Outcome::Stored { offset, duplicate } => Ok(Ack {
                position: Position { epoch: self.epoch(room), offset },
                id: if id.is_empty() { format!("~{offset}") } else { id.to_string() },
                duplicate,
            }),
            Outcome::NotStored(e) | Outcome::Unknown(e) => Err(e),
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let shown = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).ids_shown;
        self.metrics.ids.sub(shown);
    }
}

impl State {
    /// Notes that nothing waits, where nothing does.
    fn rest(&mut self) {
        if self.keyed.is_empty() && self.unkeyed.is_empty() {
            self.since_ms = None;
        }
    }
}

/// The error of a view that cannot be read as the API's error.
pub(super) fn view_error(e: &ViewError) -> Error {
    Error::new(Code::Unavailable, format!("the view cannot be read: {e}"))
}

fn conflict() -> Outcome {
    Outcome::NotStored(Error::new(
        Code::Conflict,
        "this message id was used for another body; give each message an id of its own",
    ))
}

/// The checkpoint of a view that has seen everything up to this record of the embedded log. The hash tells this log from another one.
pub fn checkpoint(record: &Record) -> Checkpoint {
    let check = (record.offset() << 32) ^ record.time() ^ u64::from(crc32c::crc32c(record.body()));
    Checkpoint { sequence: record.offset(), check }
}

#[cfg(test)]
mod tests;
