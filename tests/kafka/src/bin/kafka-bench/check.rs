//! What was lost, doubled and reordered, by the same rules for all.

use crate::chat::{self, Told};
use crate::load::{Outcome, room};
use klatch_kafka_tests::oracle::{Bytes, Dump};
use std::collections::{BTreeMap, BTreeSet};

/// Counts of messages.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Sent.
    pub sent: usize,
    /// Their senders were told: stored.
    pub stored: usize,
    /// Told: not stored.
    pub not_stored: usize,
    /// Told: unknown; or nothing.
    pub unknown: usize,
    /// Acknowledged, and some other member of the room never got it.
    pub undelivered: usize,
    /// Members got it more than once.
    pub delivered_twice: usize,
    /// Some members got it in another order than another member of the room did.
    pub orders_differ: usize,
    /// Acknowledged, and not in the topic.
    pub not_in_topic: usize,
    /// Shown to members, and not in the topic.
    pub only_shown: usize,
    /// Told that it was not stored, and it is in the topic or was shown.
    pub denied: usize,
    /// More than once in the topic.
    pub doubled_in_topic: usize,
    /// One sender's, and the topic has them in another order than they were sent in.
    pub late_in_topic: usize,
    /// Some member got it in another order than the topic's.
    pub not_topics_order: usize,
    /// Connections that ended.
    pub closed: usize,
}

impl Counts {
    /// Names and counts.
    pub fn rows(&self) -> [(&'static str, usize); 14] {
        [
            ("sent", self.sent),
            ("told: stored", self.stored),
            ("told: not stored", self.not_stored),
            ("told: unknown, or nothing", self.unknown),
            ("told stored, not in the topic", self.not_in_topic),
            ("told stored, not delivered to a member", self.undelivered),
            ("told not stored, but delivered or in the topic", self.denied),
            ("delivered, not in the topic", self.only_shown),
            ("delivered twice to a member", self.delivered_twice),
            ("twice in the topic", self.doubled_in_topic),
            ("delivered in another order than to another member", self.orders_differ),
            ("delivered in another order than the topic's", self.not_topics_order),
            ("in the topic in another order than its sender's", self.late_in_topic),
            ("connections ended", self.closed),
        ]
    }

    /// What should not be while all is well.
    pub fn wrong(&self) -> Vec<String> {
        let wrong = |(name, count): &(&str, usize)| *count > 0 && !["sent", "told: stored"].contains(name);
        self.rows().iter().filter(|row| wrong(row)).map(|(name, count)| format!("{name}: {count}")).collect()
    }
}

/// From what senders and members saw alone.
pub fn members(outcome: &Outcome) -> Counts {
    let told = |which: Option<Told>| outcome.sent.iter().filter(|s| s.told == which).count();
    let mut counts = Counts {
        sent: outcome.sent.len(),
        stored: told(Some(Told::Stored)),
        not_stored: told(Some(Told::NotStored)),
        unknown: told(Some(Told::Unknown)) + told(None),
        closed: outcome.closed,
        ..Counts::default()
    };
    // How many others got each, at least once.
    let mut reached = vec![0_usize; outcome.sent.len()];
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    let mut orders: BTreeMap<usize, Vec<&Vec<u64>>> = BTreeMap::new();
    for (room, seen) in &outcome.seen {
        *sizes.entry(*room).or_default() += 1;
        orders.entry(*room).or_default().push(seen);
        let once: BTreeSet<u64> = seen.iter().copied().collect();
        counts.delivered_twice += seen.len() - once.len();
        for number in once {
            if let Some(count) = reached.get_mut((number - outcome.first) as usize) {
                *count += 1;
            }
        }
    }
    for (sent, reached) in outcome.sent.iter().zip(reached) {
        let others = sizes.get(&sent.room).map_or(0, |size| size - 1);
        counts.undelivered += usize::from(sent.told == Some(Told::Stored) && reached < others);
        counts.denied += usize::from(sent.told == Some(Told::NotStored) && reached > 0);
    }
    for seen in orders.values() {
        let mut differ = BTreeSet::new();
        for (i, one) in seen.iter().enumerate() {
            let order = places(one.iter().copied());
            seen.iter().skip(i + 1).for_each(|other| differ.extend(behind(other, &order)));
        }
        counts.orders_differ += differ.len();
    }
    counts
}

/// The same, and beside what the topic holds.
pub fn topic(outcome: &Outcome, dump: &Dump) -> Counts {
    let mut counts = members(outcome);
    let rooms = dump.by_key();
    let shown: BTreeSet<u64> = outcome.seen.iter().flat_map(|(_, seen)| seen).copied().collect();
    let mut in_topic = BTreeSet::new();
    let mut last: BTreeMap<usize, u64> = BTreeMap::new();
    let mut not_topics = BTreeSet::new();
    let sizes = outcome.seen.iter().map(|(room, _)| room + 1).max().unwrap_or(0);
    for place in 0..sizes {
        let name = room(place);
        let records = rooms.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let value = |r: &&klatch_kafka_tests::oracle::Record| r.value.as_ref().map(Bytes::bytes);
        let numbers: Vec<u64> = records.iter().filter_map(value).filter_map(|v| chat::number(&v)).collect();
        for number in &numbers {
            if !in_topic.insert(*number) {
                counts.doubled_in_topic += 1;
                continue;
            }
            let Some(sent) = outcome.sent.get((number - outcome.first) as usize) else { continue };
            let newest = last.entry(sent.by).or_default();
            counts.late_in_topic += usize::from(number < newest);
            *newest = (*newest).max(*number);
        }
        let order = places(numbers.into_iter());
        let here = outcome.seen.iter().filter(|(room, _)| *room == place);
        here.for_each(|(_, seen)| not_topics.extend(behind(seen, &order)));
    }
    counts.not_topics_order = not_topics.len();
    counts.only_shown = shown.difference(&in_topic).count();
    for (number, sent) in (outcome.first..).zip(&outcome.sent) {
        let there = in_topic.contains(&number);
        counts.not_in_topic += usize::from(sent.told == Some(Told::Stored) && !there);
        let denied = sent.told == Some(Told::NotStored) && there && !shown.contains(&number);
        counts.denied += usize::from(denied);
    }
    counts
}

/// Where each is, the first time.
fn places(order: impl Iterator<Item = u64>) -> BTreeMap<u64, usize> {
    let mut places = BTreeMap::new();
    order.enumerate().for_each(|(place, number)| {
        places.entry(number).or_insert(place);
    });
    places
}

/// Those that come behind one that this order has later.
fn behind(seen: &[u64], order: &BTreeMap<u64, usize>) -> Vec<u64> {
    let mut furthest = None;
    let mut late = Vec::new();
    for (number, place) in seen.iter().filter_map(|n| Some((*n, *order.get(n)?))) {
        if furthest > Some(place) {
            late.push(number);
        }
        furthest = furthest.max(Some(place));
    }
    late
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Sent;
    use klatch_kafka_tests::oracle::Record;

    const STORED: Option<Told> = Some(Told::Stored);

    /// Messages 10 and on, all of member 0; members 1 and 2 saw these.
    fn outcome(told: &[Option<Told>], one: &[u64], two: &[u64]) -> Outcome {
        let sent = told.iter().map(|told| Sent { at: 0, room: 0, by: 0, told: *told, told_at: 0 }).collect();
        let seen = [&[], one, two].map(|seen: &[u64]| (0, seen.to_vec())).into();
        Outcome { first: 10, sent, seen, closed: 0 }
    }

    fn dump(numbers: &[u64]) -> Dump {
        let record = |(offset, number): (u64, &u64)| Record {
            partition: 0,
            offset,
            timestamp: 0,
            key: Some("room-0".into()),
            headers: Vec::new(),
            value: Some(chat::text(*number).as_str().into()),
        };
        Dump { records: (0..).zip(numbers).map(record).collect() }
    }

    /// All that is not nought but what is always so.
    fn wrong(outcome: &Outcome, topic_has: &[u64]) -> Vec<String> {
        topic(outcome, &dump(topic_has)).wrong()
    }

    #[test]
    fn each_wrong_is_counted_and_nothing_else_is() {
        let all = [10, 11, 12];
        let fine = outcome(&[STORED; 3], &all, &all);
        assert_eq!(wrong(&fine, &all), Vec::<String>::new());
        for (name, outcome, topic) in [
            ("told stored, not in the topic: 1, delivered, not in the topic: 1", &fine, &[10, 12][..]),
            ("twice in the topic: 1", &fine, &[10, 11, 11, 12]),
            (
                "delivered in another order than the topic's: 1, in the topic in another order than its sender's: 1",
                &fine,
                &[11, 10, 12],
            ),
            ("told stored, not delivered to a member: 1", &outcome(&[STORED; 3], &[10, 11], &all), &all),
            ("delivered twice to a member: 1", &outcome(&[STORED; 3], &[10, 11, 12, 12], &all), &all),
            (
                "delivered in another order than to another member: 1, delivered in another order than the topic's: 1",
                &outcome(&[STORED; 3], &[10, 12, 11], &all),
                &all,
            ),
            (
                "told: not stored: 1, told not stored, but delivered or in the topic: 1, delivered, not in the topic: 1",
                &outcome(&[STORED, STORED, Some(Told::NotStored)], &all, &all),
                &[10, 11],
            ),
            (
                "told: not stored: 1, told not stored, but delivered or in the topic: 1",
                &outcome(&[STORED, STORED, Some(Told::NotStored)], &[10, 11], &[10, 11]),
                &all,
            ),
            ("told: unknown, or nothing: 1", &outcome(&[STORED, STORED, None], &all, &all), &all),
        ] {
            assert_eq!(wrong(outcome, topic).join(", "), name);
        }
    }
}
