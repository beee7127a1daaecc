//! Asks the cluster how it is, beside the thread that reads and writes: what waits for an answer waits here.

use super::Shared;
use super::admin::{self, Right, TopicIds, leads};
use super::bell::Bell;
use super::client::Context;
use super::life::{Life, Mark};
use crate::broker::Health;
use crate::codes::Code;
use klatch_kafka_ext::IdError;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often the cluster is asked while all is well, and while it is not.
const CALM: Duration = Duration::from_millis(2000);
const ALERT: Duration = Duration::from_millis(300);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(1500);
/// How often it is looked whether every partition is read.
const ENDS_EVERY_MS: u64 = 5_000;
/// How many leaders may leave a question unanswered before the others are not asked either.
const MOST_SILENT: u32 = 2;
/// How often the topic's id is looked at.
const ID_EVERY_MS: u64 = 5_000;
/// How often the view is told what the topic no longer has.
const TRIM_EVERY_MS: u64 = 60_000;

/// How often the topic has been looked at, and found to be the one that it was.
#[derive(Debug)]
pub struct Checks {
    begun: AtomicU64,
    passed: AtomicU64,
    asked: AtomicBool,
    bell: Arc<Bell>,
}

impl Checks {
    /// `bell`: the watch's.
    pub fn new(bell: Arc<Bell>) -> Checks {
        Checks { begun: AtomicU64::new(0), passed: AtomicU64::new(0), asked: AtomicBool::new(false), bell }
    }

    /// How many have begun.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// The last that has passed, by its number.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Has one made soon.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

/// See the module.
pub struct Watch {
    shared: Arc<Shared>,
    topic: String,
    ids: TopicIds,
    /// Each partition at the last look; of one life.
    seen: (u64, Vec<Option<Seen>>),
}

/// A partition as it was seen. It is stalled if its end has moved, and neither was a record read nor the end reached for two looks since.
///
/// That there is something behind what was read does not say so: transactions leave marks there, which are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// How far it had been passed, and how often its end had been reached.
    moved: (u64, u64),
    /// Its end when that was first seen.
    rest: u64,
    /// For how many looks its end has been another one.
    late: u32,
    /// It has been read since the look before.
    fresh: bool,
}

impl Seen {
    fn after(before: Option<&Seen>, moved: (u64, u64), end: u64) -> Seen {
        match before.filter(|seen| seen.moved == moved) {
            None => Seen { moved, rest: end, late: 0, fresh: true },
            Some(seen) if end > seen.rest => Seen { late: seen.late + 1, fresh: false, ..*seen },
            Some(seen) => Seen { late: 0, fresh: false, ..*seen },
        }
    }

    fn is_stalled(&self) -> bool {
        self.late >= 2
    }

    /// How many records there are to read, at most.
    fn behind(&self, end: u64) -> u64 {
        if self.fresh || self.late > 0 { end.saturating_sub(self.moved.0) } else { 0 }
    }
}

/// What is due when (steady clock).
#[derive(Debug, Default)]
struct Due {
    look_ms: u64,
    id_ms: u64,
    ends_ms: u64,
    trim_ms: u64,
    /// Questions that were not answered, one after the other.
    missed: u32,
}

impl Watch {
    /// One that has yet to run.
    pub fn new(shared: Arc<Shared>, topic: &str, ids: &TopicIds) -> Watch {
        Watch { shared, topic: topic.into(), ids: ids.clone(), seen: (0, Vec::new()) }
    }

    /// Looks until the broker stops.
    pub fn run(mut self) {
        let mut due = Due::default();
        while !self.shared.is_ending() {
            let look = || self.round(&mut due);
            let calm = catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|_| {
                tracing::error!("watching the Kafka cluster panicked; it goes on");
                false
            });
            self.shared.trouble.wait(if calm { CALM } else { ALERT });
        }
    }

    /// One round; whether all is well. While the topic is opened there is nothing to watch.
    fn round(&mut self, due: &mut Due) -> bool {
        let (life, ready) = (self.shared.life(), self.shared.is_ready());
        let Some(client) = self.shared.client().filter(|_| ready) else { return true };
        let now = self.shared.clock.steady_ms();
        let wanted = life.marks.wanted();
        let answered = wanted.iter().all(|p| self.ask(&client, &life, *p).is_some());
        // Whoever wants marks rings too, and may do so often.
        if wanted.is_empty() || now >= due.look_ms {
            due.look_ms = now + ALERT.as_millis() as u64;
            self.look(&client, &life, due);
        }
        answered && self.shared.link() == Health::Up && due.missed == 0
    }

    /// Asks for the marks of a partition.
    fn ask(&self, client: &BaseConsumer<Context>, life: &Life, partition: u32) -> Option<Mark> {
        let asked_ms = self.shared.clock.steady_ms();
        let (first, end) = client.fetch_watermarks(&self.topic, partition as i32, ANSWER).ok()?;
        let mark = Mark { asked_ms, first: first.max(0) as u64, end: end.max(0) as u64 };
        life.marks.set(partition, mark);
        Some(mark)
    }

    fn look(&mut self, client: &BaseConsumer<Context>, life: &Life, due: &mut Due) {
        let now = self.shared.clock.steady_ms();
        let answer = client.fetch_metadata(Some(&self.topic), ANSWER);
        if let Some(t) = answer.as_ref().ok().and_then(|m| m.topics().first()).filter(|t| t.error().is_none())
        {
            self.shared.partitions.store(t.partitions().len() as u32, Ordering::Release);
        }
        let answered = answer.is_ok();
        due.missed = if answered { 0 } else { due.missed + 1 };
        life.clear_stalls();
        let mut led = Vec::new();
        let mut link = match answer {
            // One answer may be late.
            Err(_) if due.missed < 2 => self.shared.link(),
            Err(_) => Health::Down,
            Ok(metadata) => match metadata.topics().first().filter(|t| t.error().is_none()) {
                Some(t) => {
                    led = leads(t, life.tails.len());
                    if led.iter().all(|led| *led) { Health::Up } else { Health::Degraded }
                }
                // It is gone. Another one may come; until then nothing is stored.
                None => Health::Down,
            },
        };
        let returns = self.shared.link() == Health::Down;
        let asked = self.shared.checks.asked.load(Ordering::SeqCst);
        if answered && (asked || returns || now >= due.id_ms) {
            due.id_ms = now + ID_EVERY_MS;
            if !self.check(client, life) && returns {
                link = Health::Down;
            }
        }
        if self.shared.denied().is_some() {
            link = Health::Down;
        }
        life.set_led(&led);
        if link == Health::Down || self.shared.is_view_full() {
            // What is read again after an outage needs a moment.
            self.seen = (0, Vec::new());
        } else if due.missed == 0 && now >= due.ends_ms {
            due.ends_ms = now + ENDS_EVERY_MS;
            self.look_for_stalls(client, life);
        }
        let rests = self.shared.sender_rests.load(Ordering::Acquire);
        if link == Health::Up && (life.stalled() > 0 || rests) {
            link = Health::Degraded;
        }
        let away = match link {
            Health::Down => life.tails.len(),
            _ => led.iter().filter(|led| !**led).count() + life.stalled(),
        };
        self.shared.metrics.kafka_partitions_away.set(away as u64);
        // Another life may have begun meanwhile, or none be there.
        if self.shared.is_ready() && self.shared.life().number == life.number {
            self.shared.set_link(link);
        }
        if link == Health::Up && now >= due.trim_ms {
            due.trim_ms = now + TRIM_EVERY_MS;
            self.trim(life);
        }
    }

    /// Whether the topic is known to be the one that it was.
    fn check(&self, client: &BaseConsumer<Context>, life: &Life) -> bool {
        let checks = &self.shared.checks;
        checks.asked.store(false, Ordering::SeqCst);
        let number = checks.begun.fetch_add(1, Ordering::SeqCst) + 1;
        match self.ids.of(client.client(), &self.topic, ANSWER) {
            Ok(found) if found.id == life.topic_id => {
                checks.passed.store(number, Ordering::SeqCst);
                self.deny(admin::lacks(&found, false));
                self.shared.bell.ring();
                return true;
            }
            Ok(_) => {
                self.shared.replaced.store(life.number, Ordering::Release);
                self.shared.bell.ring();
            }
            Err(e) => {
                if matches!(e, IdError::Refused(code) if admin::is_refusal(code)) {
                    self.deny(Some(Right::Describe));
                }
                tracing::debug!(error = %e, "the topic's id is not known");
                checks.asked.store(true, Ordering::SeqCst);
            }
        }
        false
    }

    /// The node lacks this right, or none any more.
    fn deny(&self, right: Option<Right>) {
        self.shared.deny(right.map(|right| admin::needs(&self.topic, right, Code::Unavailable)));
    }

    /// Looks whether every partition is read.
    fn look_for_stalls(&mut self, client: &BaseConsumer<Context>, life: &Life) {
        let before = match std::mem::take(&mut self.seen) {
            (number, seen) if number == life.number => seen,
            _ => Vec::new(),
        };
        let (mut seen, mut behind, mut silent) = (Vec::with_capacity(life.tails.len()), 0, 0);
        for (partition, tail) in (0..).zip(&life.tails) {
            let moved = (tail.passed(), tail.ends());
            // What was written before the question has been written by the answer.
            let newest = tail.view().newest_id();
            if self.shared.is_ending() {
                return;
            }
            // Where there is no leader, or it does not answer, nothing is known. Others are not waited for long: the cluster may be going.
            let asked = life.is_led(partition) && silent < MOST_SILENT;
            let mark = if asked { self.ask(client, life, partition) } else { None };
            let Some(mark) = mark else {
                silent += u32::from(asked);
                seen.push(None);
                continue;
            };
            if moved.0 >= mark.end || mark.first == mark.end {
                tail.view().settle(partition, newest);
            }
            let now = Seen::after(before.get(partition as usize).and_then(Option::as_ref), moved, mark.end);
            let stalled = now.is_stalled();
            if life.set_stalled(partition, stalled, moved) && stalled {
                self.shared.metrics.kafka_stalls.inc();
                let (passed, end) = (moved.0, mark.end);
                tracing::error!(
                    partition,
                    passed,
                    end,
                    "a partition is not read; its rooms store nothing until it is"
                );
                self.shared.bell.ring();
            }
            behind += now.behind(mark.end);
            seen.push(Some(now));
        }
        self.shared.metrics.kafka_behind.set(behind);
        self.seen = (life.number, seen);
    }

    /// Takes from the view what retention has taken from the topic.
    fn trim(&self, life: &Life) {
        for (partition, tail) in (0..).zip(&life.tails) {
            let Some(mark) = life.marks.get(partition) else { continue };
            if let Err(e) = tail.view().trim_below(partition, mark.first + 1) {
                tracing::warn!(error = %e, "the view cannot drop what the topic no longer holds");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a partition was passed and its end reached, and its end, at one look after the other.
    fn stalls(looks: &[((u64, u64), u64)]) -> Vec<bool> {
        let mut seen = None;
        let look = |(moved, end): &((u64, u64), u64)| {
            seen = Some(Seen::after(seen.as_ref(), *moved, *end));
            seen.is_some_and(|s| s.is_stalled())
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_partition_whose_end_moves_and_that_is_not_read_is_stalled_until_it_is() {
        let looks = [((5, 1), 5), ((5, 1), 6), ((5, 1), 6), ((5, 1), 9), ((9, 1), 9), ((9, 2), 9)];
        assert_eq!(stalls(&looks), [false, false, true, true, false, false]);
    }

    #[test]
    fn a_partition_that_is_read_as_fast_as_it_grows_is_not() {
        let looks: Vec<_> = (0..9).map(|n| ((n, 0), n + 100)).collect();
        assert!(!stalls(&looks).contains(&true));
    }

    /// The mark at the end of a transaction takes an offset, and is nothing to read. Nor is what was deleted before anybody came.
    #[test]
    fn one_that_ends_with_what_is_no_record_is_not() {
        let looks = [((5, 1), 5), ((5, 1), 6), ((5, 2), 6), ((5, 2), 6), ((5, 2), 6), ((5, 2), 6)];
        assert!(!stalls(&looks).contains(&true));
        assert!(!stalls(&[((0, 1), 100); 5]).contains(&true));
    }
}
