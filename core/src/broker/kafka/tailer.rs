//! Reads every partition in order and feeds the tails.
//!
//! Each partition has a queue of its own, so that what is wrong with one is known by its number. Only one thread reads.

use super::admin::is_refusal;
use super::bell::Bell;
use super::client::{self, Context};
use super::mapping::{self, Incoming, Junk, Mapped};
use super::partition::partition_of;
use super::surplus::Surplus;
use super::watch::Checks;
use crate::broker::ids::CLOCKS_DIFFER_MS;
use crate::broker::storage::{MOST_DEFERRED, OVERLAY};
use crate::broker::tail::{Origin, Tail};
use crate::message::Record;
use crate::metrics::Metrics;
use crate::view::{Checkpoint, ViewError};
use klatch_kafka_ext::headers;
use rdkafka::Timestamp;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const VERSION: &CStr = c"klatch-v";
const TAG: &CStr = c"klatch-tag";
const TOPIC: &CStr = c"klatch-topic";

/// Most records, and bytes of them, that one partition hands to its tail at once: then it is another one's turn.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Ids of other topics whose records have been found here and are known to be here.
const STRANGERS: usize = 16;

/// How long a client may take to read what is there before another one is tried.
const RESTART: Duration = Duration::from_secs(10);

/// When damaged records are asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon it is tried again to write a view that could not be written.
const FLUSH_AGAIN: Duration = Duration::from_millis(200);

/// How long one question to the cluster may take while a partition is read, and how often it is asked.
const QUESTION: Duration = Duration::from_secs(3);
const QUESTIONS: usize = 3;

/// Why reading ends.
#[derive(Debug)]
pub enum Trouble {
    /// The view cannot be read or written.
    View(ViewError),
    /// What was read is not the past of what is there: the view must be built again.
    OtherPast(String),
    /// The client could not be made, or not be told what to read.
    Client(KafkaError),
}

impl From<ViewError> for Trouble {
    fn from(e: ViewError) -> Trouble {
        Trouble::View(e)
    }
}

impl From<KafkaError> for Trouble {
    fn from(e: KafkaError) -> Trouble {
        Trouble::Client(e)
    }
}

/// Where reading a partition begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The first offset of Kafka's to read.
    pub from: u64,
    /// What the view has seen last: the first record read must be that one.
    pub again: Option<Checkpoint>,
    /// Kafka's next offset when the node started: from there on it may serve.
    pub end: u64,
    /// The view has followed this partition before: what memory lacks may be there.
    pub read_before: bool,
    /// Nothing of the partition is known, and its first records are gone.
    pub headless: bool,
    /// Below this offset nobody is told of the records.
    pub told_from: Option<u64>,
}

/// A partition that no longer has what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Since when (steady clock).
    pub since_ms: u64,
    /// How often the topic had been checked by then.
    pub checked: u64,
    /// The offset that should come.
    pub next: u64,
}

/// One partition.
struct Part {
    number: u32,
    queue: PartitionQueue<Context>,
    /// There may be something in the queue.
    ready: Arc<AtomicBool>,
    tail: Arc<Tail>,
    /// The place of the last record read.
    last: u64,
    again: Option<Checkpoint>,
    end: u64,
    caught_up: bool,
    /// A record that was meant for another topic, and how often the topic had been checked when it came: the partition stands still until
    /// it has been checked again.
    held: Option<(u64, Read)>,
    lost: Option<Lost>,
    /// What came next was damaged on its way, or lies damaged with its leader: it is asked for again then. What comes after it is not to be
    /// read before.
    again_at: Option<Instant>,
    /// The cluster does not let this node read it.
    refused: Option<RDKafkaErrorCode>,
    /// The first record will tell from where on duplicates are decided as everywhere.
    headless: bool,
    /// Below this offset they may not be: nobody is told of these records.
    told_from: Option<u64>,
}

/// A record as it was read.
pub struct Read {
    /// What its key is.
    pub origin: Origin,
    /// None if it is not to be delivered.
    pub record: Option<Record>,
    checkpoint: Checkpoint,
    time: u64,
    /// Another program wrote it.
    foreign: bool,
    /// Its time is not the log's.
    create_time: bool,
    /// The topic that it was meant for, if not this one.
    stranger: Option<Box<[u8]>>,
}

/// See the module.
pub struct Tailer {
    config: ClientConfig,
    context: Box<dyn Fn() -> Context + Send>,
    consumer: Arc<BaseConsumer<Context>>,
    parts: Vec<Part>,
    topic: String,
    topic_id: String,
    bell: Arc<Bell>,
    /// When the client was made (steady clock of this process).
    made: Instant,
    surplus: Surplus,
    strangers: Vec<Box<[u8]>>,
    checks: Arc<Checks>,
    metrics: Arc<Metrics>,
    window_ms: u64,
    told: Told,
    records: Vec<(Record, Vec<u8>)>,
    origins: Vec<Origin>,
    room: Room,
    /// When it is tried to write the view again.
    flush_at: Option<Instant>,
}

/// Whether the view may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// Its store has yet to put its files together.
    Late,
    /// It cannot be written.
    None,
}

impl std::fmt::Debug for Tailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tailer").field("partitions", &self.parts.len()).finish_non_exhaustive()
    }
}

/// What the operator has been told of records that are not delivered.
#[derive(Debug, Default)]
struct Told {
    next_ms: u64,
    untold: u64,
    create_time_ms: u64,
    errors: Vec<Option<RDKafkaErrorCode>>,
}

/// How often the operator is told.
const TELL_EVERY_MS: u64 = 10_000;
const CREATE_TIME_EVERY_MS: u64 = 60_000;

/// What a tailer is made of.
pub struct Plan<'a> {
    /// The client's configuration.
    pub config: ClientConfig,
    /// Makes the context of a client.
    pub context: Box<dyn Fn() -> Context + Send>,
    /// The topic.
    pub topic: String,
    /// The topic's id as the header has it.
    pub topic_id: String,
    /// Where each partition begins.
    pub starts: &'a [Start],
    /// The tail of each.
    pub tails: &'a [Arc<Tail>],
    /// Rung when there is something to read.
    pub bell: Arc<Bell>,
    /// How often the topic has been checked.
    pub checks: Arc<Checks>,
    /// Where records are counted.
    pub metrics: Arc<Metrics>,
    /// How long ids are known.
    pub window_ms: u64,
}

/// A client that reads partitions from these offsets, and the queue of each.
type Assigned = (Arc<BaseConsumer<Context>>, Vec<(PartitionQueue<Context>, Arc<AtomicBool>)>);

fn assign(
    config: &ClientConfig,
    context: Context,
    topic: &str,
    offsets: impl Iterator<Item = u64>,
    bell: &Arc<Bell>,
) -> Result<Assigned, KafkaError> {
    let consumer = Arc::new(BaseConsumer::from_config_and_context(config, context)?);
    let mut list = TopicPartitionList::new();
    let mut queues = Vec::new();
    for (number, offset) in (0..).zip(offsets) {
        list.add_partition_offset(topic, number, Offset::Offset(offset as i64))?;
        queues.push(client::queue(&consumer, topic, number as u32, bell)?);
    }
    consumer.assign(&list)?;
    Ok((consumer, queues))
}

impl Tailer {
    /// Begins to read.
    pub fn start(plan: Plan<'_>) -> Result<Tailer, Trouble> {
        let from = plan.starts.iter().map(|s| s.from);
        let (consumer, queues) = assign(&plan.config, (plan.context)(), &plan.topic, from, &plan.bell)?;
        let part = |(number, (((queue, ready), start), tail)): (u32, (((_, _), &Start), &Arc<Tail>))| Part {
            number,
            queue,
            ready,
            tail: tail.clone(),
            last: start.from,
            again: start.again,
            end: start.end,
            caught_up: start.from >= start.end,
            held: None,
            lost: None,
            again_at: None,
            refused: None,
            headless: start.headless,
            told_from: start.told_from,
        };
        let parts = (0..).zip(queues.into_iter().zip(plan.starts).zip(plan.tails)).map(part).collect();
        Ok(Tailer {
            config: plan.config,
            context: plan.context,
            consumer,
            parts,
            topic: plan.topic,
            topic_id: plan.topic_id,
            bell: plan.bell,
            made: Instant::now(),
            surplus: Surplus::default(),
            strangers: Vec::new(),
            checks: plan.checks,
            metrics: plan.metrics,
            window_ms: plan.window_ms,
            told: Told::default(),
            records: Vec::new(),
            origins: Vec::new(),
            room: Room::Enough,
            flush_at: None,
        })
    }

    /// Puts another client in the place of this one, which reads on where it was.
    pub fn restart(&mut self) -> Result<(), Trouble> {
        self.made = Instant::now();
        let next = self.parts.iter().map(|p| p.last);
        let (consumer, queues) = assign(&self.config, (self.context)(), &self.topic, next, &self.bell)?;
        for (part, (queue, ready)) in self.parts.iter_mut().zip(queues) {
            (part.queue, part.ready, part.lost, part.again_at) = (queue, ready, None, None);
        }
        self.consumer = consumer;
        self.surplus.restart(&self.consumer, &self.topic, &self.bell)?;
        Ok(())
    }

    /// The topic has so many partitions: what lies in those that are not ours is counted.
    pub fn there_are(&mut self, total: u32) -> Result<(), Trouble> {
        let ours = self.parts.len() as u32;
        Ok(self.surplus.there_are((ours, total), &self.consumer, &self.topic, &self.bell)?)
    }

    /// Whether another client might read this partition: it has yet to be tried, and nothing else is known to be wrong.
    pub fn may_restart(&self, partition: u32) -> bool {
        let well = |p: &Part| !p.stands() && p.held.is_none();
        self.made.elapsed() > RESTART && self.parts.get(partition as usize).is_some_and(well)
    }

    /// The partitions that no longer have what comes next.
    pub fn lost(&self) -> Vec<(u32, Lost)> {
        self.parts.iter().filter_map(|p| Some((p.number, p.lost?))).collect()
    }

    /// The first of them.
    pub fn first_lost(&self) -> Option<u32> {
        self.parts.iter().find(|p| p.lost.is_some()).map(|p| p.number)
    }

    /// Why the cluster does not let this node read, if it does not.
    pub fn refused(&self) -> Option<RDKafkaErrorCode> {
        self.parts.iter().find_map(|p| p.refused)
    }

    /// Reads a partition on from this offset, which is there; the others do not notice.
    pub fn go_on(&mut self, partition: u32, offset: u64) -> Result<(), Trouble> {
        let Some(part) = self.parts.get_mut(partition as usize) else { return Ok(()) };
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition as i32);
        self.consumer.incremental_unassign(&list)?;
        // What had been fetched before is not wanted any more.
        while part.queue.poll(Duration::ZERO).is_some() {}
        if offset != part.last {
            // What was held is of before.
            part.held = None;
        }
        (part.last, part.lost, part.again_at) = (offset, None, None);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(offset as i64))?;
        self.consumer.incremental_assign(&list)?;
        Ok(())
    }

    /// The client, for questions.
    pub fn client(&self) -> &Arc<BaseConsumer<Context>> {
        &self.consumer
    }

    /// How many partitions have not reached the end that they had at the start.
    pub fn behind(&self) -> usize {
        self.parts.iter().filter(|p| !p.caught_up).count()
    }

    /// Serves what is not of a partition, has every partition looked at, and asks again for what was damaged: once in a while.
    pub fn tick(&mut self) -> Result<(), Trouble> {
        // Whatever comes here is no message: all partitions have their own queues.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        self.parts.iter().for_each(|p| p.ready.store(true, Ordering::Release));
        self.surplus.look_again();
        let now = Instant::now();
        for partition in 0..self.parts.len() {
            let due = self.parts.get(partition).filter(|p| p.again_at.is_some_and(|at| at <= now));
            if let Some(last) = due.map(|p| p.last) {
                self.go_on(partition as u32, last)?;
            }
        }
        Ok(())
    }

    /// Whether the view may have more to write. While it has too much, nothing is read: librdkafka's queues fill to their bounds, and the
    /// cluster keeps the rest.
    fn has_room(&mut self) -> Result<Room, Trouble> {
        let view = self.parts.first().map(|p| p.tail.view()).filter(|v| v.overlay_bytes() > 2 * OVERLAY);
        let Some(view) = view else { return Ok(Room::Enough) };
        let now = Instant::now();
        if self.flush_at.is_some_and(|at| now < at) {
            return Ok(self.room);
        }
        let room = match view.flush() {
            Ok(flushed) if flushed.deferred && view.overlay_bytes() > MOST_DEFERRED => Room::Late,
            Ok(_) => Room::Enough,
            Err(ViewError::Damaged(why)) => return Err(ViewError::Damaged(why).into()),
            Err(e) => {
                if self.room != Room::None {
                    tracing::error!(error = %e, "the view cannot be written: nothing is read or stored until it can");
                }
                Room::None
            }
        };
        self.flush_at = (room != Room::Enough).then(|| now + FLUSH_AGAIN);
        Ok(room)
    }

    /// Whether nothing is read because the view cannot be written.
    pub fn is_full(&self) -> bool {
        self.room == Room::None
    }

    /// Hands what has come to the tails. True: there is more.
    pub fn turn(&mut self, now_ms: u64) -> Result<bool, Trouble> {
        self.room = self.has_room()?;
        if self.room != Room::Enough {
            return Ok(false);
        }
        let mut more = false;
        for i in 0..self.parts.len() {
            if self.parts[i].ready.swap(false, Ordering::AcqRel) && self.read(i, now_ms)? {
                self.parts[i].ready.store(true, Ordering::Release);
                more = true;
            }
        }
        let (told, metrics, partitions) = (&mut self.told, &self.metrics, self.parts.len() as u32);
        more |= self.surplus.take(|found| {
            let home = partition_of(found.key.as_deref().unwrap_or_default(), partitions);
            told.odd(Odd::Misplaced(home), found.partition, found.offset, metrics, now_ms);
        });
        Ok(more)
    }

    /// Reads some of a partition. True: there is more.
    fn read(&mut self, i: usize, now_ms: u64) -> Result<bool, Trouble> {
        let Tailer { parts, records, origins, told, checks, strangers, metrics, .. } = self;
        let (consumer, topic, topic_id) = (&self.consumer, &self.topic, &self.topic_id);
        let window_ms = self.window_ms;
        let partitions = parts.len() as u32;
        let Some(part) = parts.get_mut(i) else { return Ok(false) };
        // At a start it has just been checked, and is once more at the end of it.
        let serving = part.caught_up;
        let (mut checkpoint, mut bytes, mut count) = (None, 0, 0);
        if let Some((checked, read)) = part.held.take() {
            if checks.passed() <= checked {
                part.held = Some((checked, read));
                return Ok(false);
            }
            if let Some(id) = read.stranger.clone() {
                strangers.truncate(STRANGERS - 1);
                strangers.insert(0, id);
            }
            checkpoint = Some(read.checkpoint);
            keep(read, records, origins);
        }
        while count < BATCH && bytes < BATCH_BYTES && !part.stands() {
            let message = match part.queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    part.caught_up = true;
                    part.tail.at_end();
                    continue;
                }
                Some(Err(e)) => {
                    part.failed(&e, checks, told, now_ms);
                    continue;
                }
            };
            let offset = message.offset();
            let place = mapping::place_of(offset.max(0) as u64);
            if place <= part.last {
                let text = format!("partition {} gave offset {offset} again", part.number);
                return Err(Trouble::OtherPast(text));
            }
            part.last = place;
            part.caught_up |= place >= part.end;
            (bytes, count) = (bytes + message.payload_len(), count + 1);
            let (odd, read) = read_message(part.number, partitions, &message, topic_id);
            if let Some(seen) = part.again.take() {
                if read.checkpoint != seen {
                    let text = format!("partition {} has another record where the view ends", part.number);
                    return Err(Trouble::OtherPast(text));
                }
                part.tail.complete_since(read.time + CLOCKS_DIFFER_MS + 1);
                continue;
            }
            if std::mem::take(&mut part.headless) {
                part.keep_to_itself(consumer, topic, read.time.saturating_add(window_ms + CLOCKS_DIFFER_MS))?;
            }
            if part.told_from.is_some_and(|from| offset as u64 >= from) {
                // What has gathered is of before.
                if let Some(checkpoint) = checkpoint.take() {
                    part.tail.remember(records, origins.drain(..), checkpoint)?;
                    records.clear();
                }
                part.told_from = None;
            }
            if read.create_time {
                told.create_time(part.number, offset, metrics, now_ms);
            }
            match odd {
                Some(odd) => told.odd(odd, part.number, offset, metrics, now_ms),
                None => metrics.kafka_foreign.add(u64::from(read.foreign)),
            }
            let known = read.stranger.as_ref().is_none_or(|id| strangers.contains(id));
            if serving && !known {
                part.held = Some((checks.begun(), read));
                checks.ask();
                break;
            }
            checkpoint = Some(read.checkpoint);
            keep(read, records, origins);
        }
        if let Some(checkpoint) = checkpoint {
            let taken = match part.told_from {
                None => part.tail.accept(records, origins.drain(..), checkpoint),
                Some(_) => part.tail.remember(records, origins.drain(..), checkpoint),
            };
            records.clear();
            taken?;
        }
        Ok(part.held.is_none() && (count == BATCH || bytes >= BATCH_BYTES))
    }
}

fn keep(read: Read, records: &mut Vec<(Record, Vec<u8>)>, origins: &mut Vec<Origin>) {
    if let Some(record) = read.record {
        let place = place(&record);
        records.push((record, place));
        origins.push(read.origin);
    }
}

/// What the view keeps of a record: all of it, so that reading history does not need the cluster.
pub fn place(record: &Record) -> Vec<u8> {
    [&record.time().to_le_bytes()[..], record.body()].concat()
}

impl Part {
    /// The first records of the partition are gone, and with them ids for which later ones would be duplicates. So what has come is kept
    /// to the node, as long as that may be, up to the first record of `from_ms` or later. Where there is none yet, all is told: a room
    /// that is empty, or cannot be joined for an hour, is worse than a duplicate.
    fn keep_to_itself(
        &mut self,
        consumer: &BaseConsumer<Context>,
        topic: &str,
        from_ms: u64,
    ) -> Result<(), Trouble> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, self.number as i32, Offset::Offset(from_ms as i64))?;
        let mut found = consumer.offsets_for_times(list.clone(), QUESTION);
        for _ in 1..QUESTIONS {
            if found.is_err() {
                found = consumer.offsets_for_times(list.clone(), QUESTION);
            }
        }
        let offset = found?.elements().first().map(|element| element.offset());
        if let Some(Offset::Offset(offset)) = offset
            && (offset as u64) < self.end
        {
            self.told_from = Some(offset as u64);
            self.tail.view().begin_after(self.number, offset as u64);
            self.tail.view().trim_below(self.number, offset as u64 + 1)?;
        }
        Ok(())
    }

    /// Whether what is in its queue is not to be read.
    fn stands(&self) -> bool {
        self.lost.is_some() || self.again_at.is_some()
    }

    /// What an error on the partition's queue means.
    fn failed(&mut self, e: &KafkaError, checks: &Checks, told: &mut Told, now_ms: u64) {
        use RDKafkaErrorCode::*;
        tracing::debug!(partition = self.number, error = %e, "reading a partition");
        match e {
            KafkaError::MessageConsumption(AutoOffsetReset | OffsetOutOfRange)
            | KafkaError::MessageConsumptionFatal(_) => {
                self.lost = Some(Lost { since_ms: now_ms, checked: checks.begun(), next: self.last });
                checks.ask();
            }
            // The client has skipped it, and would go on behind it.
            KafkaError::MessageConsumption(BadMessage | BadCompression | NotImplemented) => {
                tracing::error!(
                    partition = self.number,
                    next = self.last,
                    error = %e,
                    "a batch of records is damaged, or of a form that is not known; it is asked for again until it can be read"
                );
                self.again_at = Some(Instant::now() + AGAIN);
            }
            KafkaError::MessageConsumption(UnknownPartition | UnknownTopic | UnknownTopicOrPartition) => {
                checks.ask();
            }
            e => {
                let code = e.rdkafka_error_code();
                self.refused = code.filter(|code| is_refusal(*code));
                if self.refused.is_some() {
                    checks.ask();
                }
                if !told.errors.contains(&code) {
                    told.errors.push(code);
                    tracing::warn!(
                        partition = self.number,
                        error = %e,
                        "a partition cannot be read; further errors of this kind are not shown"
                    );
                }
            }
        }
    }
}

/// Why a record is not delivered.
#[derive(Clone, Copy, Debug)]
pub enum Odd {
    /// It is no message.
    Junk(Junk),
    /// Its room is in this partition.
    Misplaced(u32),
}

/// Reads a record of a partition. It means the same to whoever reads it, whenever.
pub fn read_message(
    partition: u32,
    partitions: u32,
    message: &BorrowedMessage<'_>,
    topic_id: &str,
) -> (Option<Odd>, Read) {
    let time = match message.timestamp() {
        Timestamp::NotAvailable => 0,
        Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms.max(0) as u64,
    };
    let offset = message.offset().max(0) as u64;
    let [version, tag, topic] = headers(message, [VERSION, TAG, TOPIC]);
    let (key, value) = (message.key(), message.payload());
    let incoming = Incoming { partition, offset, time, key, value, version, tag };
    let hash = crc32c::crc32c_append(crc32c::crc32c(key.unwrap_or_default()), value.unwrap_or_default());
    let sequence = mapping::place_of(offset);
    let checkpoint = Checkpoint { sequence, check: (sequence << 32) ^ time ^ u64::from(hash) };
    let stranger = topic.filter(|id| version.is_some() && *id != topic_id.as_bytes()).map(Box::from);
    let foreign = version.is_none();
    let create_time = matches!(message.timestamp(), Timestamp::CreateTime(_));
    let read = |origin, record| Read { origin, record, checkpoint, time, foreign, create_time, stranger };
    let home = key.map_or(partition, |key| partition_of(key, partitions));
    if home != partition {
        return (Some(Odd::Misplaced(home)), read(Origin::Apart(None), None));
    }
    match mapping::read(&incoming) {
        Mapped::Own(record) => (None, read(Origin::Read, Some(record))),
        Mapped::Untitled(record, tag) => (None, read(Origin::Apart(tag), Some(record))),
        Mapped::Foreign(record) => (None, read(Origin::Apart(None), Some(record))),
        Mapped::Junk(junk) => (Some(Odd::Junk(junk)), read(Origin::Apart(None), None)),
    }
}

impl Told {
    /// Counts a record whose time is its writer's: what counts as a duplicate is in the hands of whoever writes.
    fn create_time(&mut self, partition: u32, offset: i64, metrics: &Metrics, now_ms: u64) {
        metrics.kafka_create_time.inc();
        if now_ms >= self.create_time_ms {
            self.create_time_ms = now_ms + CREATE_TIME_EVERY_MS;
            tracing::error!(
                partition,
                offset,
                "a record has its writer's time: message.timestamp.type of the topic is not LogAppendTime any more. Set it again: \
                 kafka-configs --alter --entity-type topics --entity-name TOPIC --add-config message.timestamp.type=LogAppendTime"
            );
        }
    }

    /// Counts a record that is not delivered, and tells the operator, though not of each.
    fn odd(&mut self, odd: Odd, partition: u32, offset: i64, metrics: &Metrics, now_ms: u64) {
        match odd {
            Odd::Junk(_) => metrics.kafka_junk.inc(),
            Odd::Misplaced(_) => metrics.kafka_misplaced.inc(),
        }
        if now_ms < self.next_ms {
            self.untold += 1;
            return;
        }
        self.next_ms = now_ms + TELL_EVERY_MS;
        let untold = std::mem::take(&mut self.untold);
        match odd {
            Odd::Junk(junk) => {
                tracing::warn!(partition, offset, untold, "a record is not delivered: {}", junk.reason());
            }
            Odd::Misplaced(home) => tracing::warn!(
                partition,
                offset,
                untold,
                "a record is not delivered: its key belongs into partition {home}. Was it written through librdkafka without \
                 partitioner=murmur2_random, or after partitions were added?"
            ),
        }
    }
}
