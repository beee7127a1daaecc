//! One partition that a consumer has: what is fetched, what is with the handler, and how far it is dealt with.

use super::group::GroupContext;
use super::pool::{Item, Job};
use super::sight::Sight;
use crate::broker::kafka::bell::Bell;
use crate::broker::kafka::mapping::place_of;
use crate::broker::kafka::tailer::{Read, read_message};
use crate::error::Error;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// When damaged records are asked for again.
const DAMAGED_MS: u64 = 1000;

/// Most publications of a job, and bytes of them.
const ITEMS: usize = 64;
const ITEM_BYTES: usize = 1 << 20;
/// Most records that are looked at before it is another partition's turn.
const LOOKS: usize = 1000;

/// See the module.
pub struct Lane {
    /// The partition.
    pub partition: u32,
    /// Which assignment of it this is.
    pub number: u64,
    queue: PartitionQueue<GroupContext>,
    /// There may be something in the queue.
    ready: Arc<AtomicBool>,
    /// Fetched, and not decided by the node yet.
    waiting: Option<(u64, Read)>,
    /// What is with the handler, or will be.
    pub work: Work,
    /// Everything before this offset of Kafka's is dealt with.
    pub next: u64,
    /// Everything before this one has been fetched.
    fetched: u64,
    /// The offset that the group has committed; none if it has none.
    pub committed: Option<u64>,
    /// Nothing more is to be begun: the partition goes.
    pub halt: Arc<AtomicBool>,
    /// The topic does not have what comes next: it is to be placed anew.
    pub lost: bool,
    /// It is not asked for before (steady clock).
    pub again_ms: u64,
    failures: Failures,
}

/// Errors of a handler, one after the other.
#[derive(Debug, Default)]
pub struct Failures(u32);

impl Failures {
    /// How long to wait after another one, that came when so many had been handled since the last: from the first wait to the longest.
    pub fn wait(&mut self, handled: u64, (first, longest): (u64, u64)) -> u64 {
        self.0 = if handled > 0 { 0 } else { self.0 };
        let wait = first.saturating_mul(1 << self.0.min(30)).min(longest);
        self.0 += 1;
        wait
    }
}

/// Where a lane's job is.
#[derive(Debug)]
pub enum Work {
    /// There is none.
    None,
    /// With the handler.
    Out,
    /// Failed; it goes to the handler again at this time (steady clock).
    Later(Job, u64),
}

/// What looking for work came to.
#[derive(Debug)]
pub enum Found {
    /// Publications to be handled.
    Job(Job),
    /// None yet, but there is more to look at.
    More,
    /// Nothing: something will ring.
    Nothing,
}

/// The same, and what else there is to tell.
#[derive(Debug)]
pub struct Looked {
    /// What was found.
    pub found: Found,
    /// Records that are not to be handled.
    pub skipped: u64,
    /// What the node could not say.
    pub error: Option<Error>,
}

impl Lane {
    /// Begins at an offset of Kafka's.
    pub fn new(
        partition: u32,
        number: u64,
        mut queue: PartitionQueue<GroupContext>,
        bell: Arc<Bell>,
        next: u64,
        committed: Option<u64>,
    ) -> Lane {
        let ready = Arc::new(AtomicBool::new(true));
        let flag = ready.clone();
        queue.set_nonempty_callback(move || {
            flag.store(true, Ordering::Release);
            bell.ring();
        });
        Lane {
            partition,
            number,
            queue,
            ready,
            waiting: None,
            work: Work::None,
            next,
            fetched: next,
            committed,
            halt: Arc::new(AtomicBool::new(false)),
            lost: false,
            again_ms: 0,
            failures: Failures::default(),
        }
    }

    /// Whether the group has yet to be told how far it is.
    pub fn is_dirty(&self) -> bool {
        self.committed != Some(self.next)
    }

    /// Whether it waits for the node to decide a record.
    pub fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether it may be placed anew: nothing of before is on its way.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none() && matches!(self.work, Work::None)
    }

    /// Begins anew, here.
    pub fn place(&mut self, next: u64) {
        (self.next, self.fetched) = (next, next);
        self.lost = false;
        self.ready.store(true, Ordering::Release);
    }

    /// Records of the topic that the node has decided and that are not dealt with.
    pub fn lag(&self, sight: &Sight) -> u64 {
        sight.of(self.partition).map_or(0, |decided| decided.reached()).saturating_sub(self.next)
    }

    /// Has the queue looked at, though nothing has rung.
    pub fn tick(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Looks for work, if none is under way.
    pub fn look(&mut self, sight: &Sight, now_ms: u64) -> Looked {
        let nothing = Looked { found: Found::Nothing, skipped: 0, error: None };
        if self.halt.load(Ordering::Acquire) {
            return nothing;
        }
        match std::mem::replace(&mut self.work, Work::None) {
            Work::None => {}
            Work::Later(job, at_ms) if at_ms <= now_ms => {
                self.work = Work::Out;
                return Looked { found: Found::Job(job), ..nothing };
            }
            busy => {
                self.work = busy;
                return nothing;
            }
        }
        if self.waiting.is_none() && !self.ready.swap(false, Ordering::AcqRel) {
            return nothing;
        }
        self.gather(sight)
    }

    fn gather(&mut self, sight: &Sight) -> Looked {
        let Some(decided) = sight.of(self.partition) else {
            // What has come is looked at again; nothing may ring then.
            self.ready.store(true, Ordering::Release);
            return Looked { found: Found::Nothing, skipped: 0, error: None };
        };
        let reached = decided.reached();
        let (mut items, mut bytes, mut end) = (VecDeque::new(), 0, self.next);
        let (mut skipped, mut error, mut looks) = (0, None, 0);
        while looks < LOOKS && items.len() < ITEMS && bytes < ITEM_BYTES {
            looks += 1;
            let Some((offset, read)) = self.waiting.take().or_else(|| self.fetch(sight)) else { break };
            if place_of(offset) > reached {
                self.waiting = Some((offset, read));
                break;
            }
            match decided.seen(&read.origin, read.record.as_ref()) {
                Ok(Some(publication)) => {
                    bytes += publication.record.body().len();
                    items.push_back(Item { next: offset + 1, publication });
                }
                Ok(None) => skipped += 1,
                Err(e) => {
                    error = Some(e);
                    self.waiting = Some((offset, read));
                    break;
                }
            }
            end = offset + 1;
        }
        let more = looks == LOOKS || items.len() == ITEMS || bytes >= ITEM_BYTES;
        if more {
            self.ready.store(true, Ordering::Release);
        }
        let found = if items.is_empty() {
            self.next = end;
            if more { Found::More } else { Found::Nothing }
        } else {
            self.work = Work::Out;
            let (partition, number, next, halt) = (self.partition, self.number, self.next, self.halt.clone());
            Found::Job(Job { partition, number, items, next, end, handled: 0, failed: None, halt })
        };
        Looked { found, skipped, error }
    }

    fn fetch(&mut self, sight: &Sight) -> Option<(u64, Read)> {
        use RDKafkaErrorCode::{
            AutoOffsetReset, BadCompression, BadMessage, NotImplemented, OffsetOutOfRange,
        };
        loop {
            if self.lost {
                return None;
            }
            match self.queue.poll(Duration::ZERO)? {
                Ok(message) => {
                    let offset = message.offset().max(0) as u64;
                    if offset < self.fetched {
                        continue;
                    }
                    self.fetched = offset + 1;
                    let (_, read) =
                        read_message(self.partition, sight.partitions(), &message, sight.topic_id());
                    return Some((offset, read));
                }
                Err(KafkaError::MessageConsumption(AutoOffsetReset | OffsetOutOfRange)) => self.lost = true,
                // The client has skipped it, and would go on behind it.
                Err(e @ KafkaError::MessageConsumption(BadMessage | BadCompression | NotImplemented)) => {
                    let (partition, next) = (self.partition, self.fetched);
                    tracing::error!(partition, next, error = %e, "a batch of records is damaged; it is asked for again");
                    (self.lost, self.again_ms) = (true, sight.now_ms() + DAMAGED_MS);
                }
                Err(e) => {
                    tracing::debug!(partition = self.partition, error = %e, "reading a partition for a group");
                }
            }
        }
    }

    /// A job has come back. `retry_ms`: the first wait after an error, and the longest.
    pub fn take_back(&mut self, mut job: Job, retry_ms: (u64, u64), now_ms: u64) {
        self.next = job.next;
        let handled = std::mem::take(&mut job.handled);
        self.work = if job.failed.take().is_some() {
            Work::Later(job, now_ms + self.failures.wait(handled, retry_ms))
        } else {
            if handled > 0 {
                self.failures = Failures::default();
            }
            if job.items.is_empty() { Work::None } else { Work::Later(job, now_ms) }
        };
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("partition", &self.partition)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
