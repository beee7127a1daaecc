//! Asks the cluster how it is, beside the thread that reads and writes: what waits for an answer waits here.

use super::Shared;
use super::admin::{TopicIds, leaderless};
use super::bell::Bell;
use super::client::Context;
use crate::broker::Health;
use crate::codes::Code;
use crate::error::Error;
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
    /// What it tells.
    pub shared: Arc<Shared>,
    /// Whom it asks through.
    pub client: Arc<BaseConsumer<Context>>,
    /// The topic.
    pub topic: String,
    /// How its id is found out.
    pub ids: TopicIds,
    /// Its id.
    pub topic_id: [u8; 16],
    /// How often the id was checked.
    pub checks: Arc<Checks>,
    /// Rung for a look at once.
    pub bell: Arc<Bell>,
}

/// What is due when (steady clock).
#[derive(Debug, Default)]
struct Due {
    id_ms: u64,
    trim_ms: u64,
    /// Questions that were not answered, one after the other.
    missed: u32,
}

impl Watch {
    /// Looks until the broker stops.
    pub fn run(self) {
        let mut due = Due::default();
        while !self.shared.is_ending() {
            let look = || self.look(&mut due);
            if catch_unwind(AssertUnwindSafe(look)).is_err() {
                tracing::error!("watching the Kafka cluster panicked; it goes on");
            }
            let calm = self.shared.link() == Health::Up && due.missed == 0;
            self.bell.wait(if calm { CALM } else { ALERT });
        }
    }

    fn look(&self, due: &mut Due) {
        let now = self.shared.clock.steady_ms();
        let partitions = self.shared.tails.len();
        let answer = self.client.fetch_metadata(Some(&self.topic), ANSWER);
        due.missed = if answer.is_ok() { 0 } else { due.missed + 1 };
        let mut link = match answer {
            // One answer may be late.
            Err(_) if due.missed < 2 => self.shared.link(),
            Err(_) => Health::Down,
            Ok(metadata) => match metadata.topics().first() {
                Some(t) if t.error().is_none() && leaderless(t, partitions) == 0 => Health::Up,
                Some(t) if t.error().is_none() => Health::Degraded,
                // It is gone. Another one may come; until then nothing is stored.
                _ => Health::Down,
            },
        };
        let returns = self.shared.link() != Health::Up;
        let asked = self.checks.asked.load(Ordering::SeqCst);
        if link != Health::Down && (asked || returns || now >= due.id_ms) {
            due.id_ms = now + ID_EVERY_MS;
            if !self.check() && returns {
                link = Health::Down;
            }
        }
        self.shared.set_link(link);
        if link == Health::Up && now >= due.trim_ms {
            due.trim_ms = now + TRIM_EVERY_MS;
            self.trim();
        }
    }

    /// Whether the topic is known to be the one that it was.
    fn check(&self) -> bool {
        self.checks.asked.store(false, Ordering::SeqCst);
        let number = self.checks.begun.fetch_add(1, Ordering::SeqCst) + 1;
        match self.ids.of(self.client.client(), &self.topic, ANSWER) {
            Ok(id) if id == self.topic_id => {
                self.checks.passed.store(number, Ordering::SeqCst);
                self.shared.bell.ring();
                return true;
            }
            Ok(_) => {
                let text = "the Kafka topic was deleted and created again; start the engine again, and it follows the new one";
                self.shared.fail(Error::new(Code::StorageFailed, text));
            }
            Err(e) => {
                tracing::debug!(error = %e, "the topic's id is not known");
                self.checks.asked.store(true, Ordering::SeqCst);
            }
        }
        false
    }

    /// Takes from the view what retention has taken from the topic.
    fn trim(&self) {
        for partition in 0..self.shared.tails.len() as u32 {
            if self.shared.is_ending() {
                return;
            }
            let Ok((low, _)) = self.client.fetch_watermarks(&self.topic, partition as i32, ANSWER) else {
                return;
            };
            if let Err(e) = self.shared.view.trim_below(partition, low.max(0) as u64 + 1) {
                tracing::warn!(error = %e, "the view cannot drop what the topic no longer holds");
            }
        }
    }
}
