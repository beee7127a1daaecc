//! What counts as a duplicate: a pure function of the log.
//!
//! A record is a duplicate if its partition holds an earlier record of the same (room, user, id) whose timestamp is at
//! most the dedupe window before its own, whether or not that one was a duplicate too. A duplicate with another body is a
//! conflict. So one entry per key is enough: the accepted record's offset and body, and the latest time of a record.
//!
//! The embedded log's times never run back. Kafka's may, by as much as the clocks of its brokers differ, when another one leads.

use crate::ids::{KeyMap, MessageKey};
use crate::points::{Rule, broken};
use crate::view::IdEntry;
use std::collections::VecDeque;

/// What the rule says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is delivered.
    Accepted,
    /// The record accepted at this offset was the same message.
    Duplicate(u64),
    /// The record accepted at this offset had the same key and another body.
    Conflict(u64),
}

/// Roughly what one entry takes: the map's bucket at its mean load, and the queue's element.
const ENTRY_BYTES: usize = 112;

/// How far the times of a log may run back.
pub const CLOCKS_DIFFER_MS: u64 = 60_000;

/// The ids of one partition that are in memory. Older ones are in the view, which is asked through a function.
#[derive(Debug)]
pub struct Ids {
    window: u64,
    capacity: usize,
    map: KeyMap<IdEntry>,
    order: VecDeque<(u64, MessageKey)>,
    /// Memory holds every id whose last record is at this time or later.
    complete_since: u64,
    /// How many were dropped from memory because there were too many.
    dropped: u64,
}

impl Ids {
    /// `complete_since`: 0 where the log is read from its beginning, else the time from which every record will have been seen;
    /// `u64::MAX` where that is told later.
    pub fn new(window_ms: u64, bytes: usize, complete_since: u64) -> Ids {
        Ids {
            window: window_ms,
            capacity: (bytes / ENTRY_BYTES).max(16),
            map: KeyMap::default(),
            order: VecDeque::new(),
            complete_since,
            dropped: 0,
        }
    }

    /// Memory is complete from here on only, if it was not from an earlier time on.
    pub fn complete_since(&mut self, ms: u64) {
        // What was dropped for want of room since then stays dropped.
        self.complete_since = if self.complete_since == u64::MAX { ms } else { self.complete_since.max(ms) };
    }

    /// How many were dropped from memory before their time since this was asked last.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// How many are in memory.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// The entry that decides a record of `time`, if there is one. `older` looks a key up in the view; it is asked only for
    /// what memory cannot know.
    pub fn find<E>(
        &self,
        key: MessageKey,
        time: u64,
        older: impl FnOnce(u64) -> Result<Option<IdEntry>, E>,
    ) -> Result<Option<IdEntry>, E> {
        let oldest = time.saturating_sub(self.window);
        let entry = match self.map.get(&key) {
            Some(e) => Some(*e),
            None if oldest >= self.complete_since || broken(Rule::OldIdsInTheView) => None,
            None => older(oldest)?,
        };
        Ok(entry.filter(|e| e.time >= oldest))
    }

    /// Decides a record, given the entry that [`Ids::find`] returned, and remembers it. The second value is the entry that
    /// holds from now on.
    pub fn decide(
        &mut self,
        key: MessageKey,
        found: Option<IdEntry>,
        offset: u64,
        body: u64,
        time: u64,
    ) -> (Decision, IdEntry) {
        let (decision, entry) = match found {
            None => (Decision::Accepted, IdEntry { offset, body, time }),
            Some(e) => {
                let entry = IdEntry { time: time.max(e.time), ..e };
                let same = e.body == body;
                (if same { Decision::Duplicate(e.offset) } else { Decision::Conflict(e.offset) }, entry)
            }
        };
        self.map.insert(key, entry);
        self.order.push_back((entry.time, key));
        self.evict(time);
        (decision, entry)
    }

    fn evict(&mut self, now: u64) {
        while let Some(&(time, key)) = self.order.front() {
            let old = time.saturating_add(self.window).saturating_add(CLOCKS_DIFFER_MS) < now;
            let full = self.order.len() > self.capacity;
            if !old && !full {
                break;
            }
            self.order.pop_front();
            // An entry that was used again has a later place in the queue.
            if self.map.get(&key).is_some_and(|e| e.time <= time) {
                self.map.remove(&key);
                if !old {
                    self.dropped += 1;
                    self.complete_since = self.complete_since.max(time.saturating_add(1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::convert::Infallible;

    /// The definition, literally, over the whole log.
    fn reference(log: &[(u8, u64, u64)], window: u64) -> Vec<Decision> {
        let mut out: Vec<Decision> = Vec::new();
        for (i, &(key, body, time)) in log.iter().enumerate() {
            let earlier = (0..i).rev().find(|&j| log[j].0 == key && log[j].2 + window >= time);
            out.push(match earlier {
                None => Decision::Accepted,
                Some(mut j) => {
                    while let Decision::Duplicate(o) | Decision::Conflict(o) = out[j] {
                        j = o as usize - 1;
                    }
                    if log[j].1 == body {
                        Decision::Duplicate(j as u64 + 1)
                    } else {
                        Decision::Conflict(j as u64 + 1)
                    }
                }
            });
        }
        out
    }

    /// Decides `log[from..]` with what a view holds of `log[..from]`, as a node does that starts from a checkpoint.
    fn run(log: &[(u8, u64, u64)], window: u64, bytes: usize, from: usize) -> Vec<Decision> {
        let mut view: HashMap<MessageKey, IdEntry> = HashMap::new();
        let mut out = Vec::new();
        let since = if from == 0 { 0 } else { log[from - 1].2 + CLOCKS_DIFFER_MS + 1 };
        let mut ids = Ids::new(window, 1 << 20, 0);
        for (i, &(key, body, time)) in log.iter().enumerate() {
            if i == from && from > 0 {
                ids = Ids::new(window, bytes, since);
            } else if i == 0 {
                ids = Ids::new(window, bytes, 0);
            }
            let key = MessageKey(key as u128);
            let found = ids
                .find(key, time, |oldest| {
                    Ok::<_, Infallible>(view.get(&key).copied().filter(|e| e.time >= oldest))
                })
                .unwrap();
            let (decision, entry) = ids.decide(key, found, i as u64 + 1, body, time);
            view.insert(key, entry);
            out.push(decision);
        }
        out
    }

    proptest! {
        #[test]
        fn the_rule_is_the_reference_from_any_start(
            steps in prop::collection::vec((0u8..6, 0u64..2, -20i64..40), 1..120),
            window in 0u64..60,
            runs_back in any::<bool>(),
            small in any::<bool>(),
            from in 0usize..120,
        ) {
            // Three seconds a step: then some is old, and a time runs back by a minute at most.
            const STEP: u64 = 3000;
            let mut latest = 1_000_000;
            let log: Vec<_> = steps.into_iter().map(|(k, b, dt)| {
                let step = dt.unsigned_abs() * STEP;
                let time = if dt < 0 && runs_back { latest - step } else { latest + step };
                latest = latest.max(time);
                (k, b, time)
            }).collect();
            let window = window * STEP;
            let bytes = if small { 1 } else { 1 << 20 };
            prop_assert_eq!(run(&log, window, bytes, from % log.len()), reference(&log, window));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut ids = Ids::new(1_000_000, ENTRY_BYTES * 100, 0);
        for i in 0..1000 {
            ids.decide(MessageKey(i), None, i as u64 + 1, 0, 5);
        }
        assert_eq!(ids.len(), 100);
        assert_eq!((ids.take_dropped(), ids.take_dropped()), (900, 0));
        assert!(ids.complete_since > 5);
    }
}
