//! The one thread that opens the topic, sends, reads and runs the tails: nothing of a publish can overtake anything else of it.

use super::life::{Life, Mark};
use super::mapping;
use super::opening::{self, Opened, Opening};
use super::partition::partition_of;
use super::producer::{Failed, Producer, Sending};
use super::tailer::{Tailer, Trouble};
use super::{Shared, stopped, unavailable};
use crate::broker::append::Append;
use crate::codes::Code;
use crate::config::Limit;
use crate::error::{Error, Result};
use crate::ids::{MessageKey, random_bytes};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Most publishes that are sent before what has come is read.
const BATCH: usize = 512;
/// How long it sleeps if nothing rings.
const NAP: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    opening: Opening,
    tags: Tags,
    /// What the stop has done with messages that nobody took.
    unwritten: u64,
}

/// Its work on one life of the topic.
#[derive(Debug)]
struct Work<'a> {
    shared: &'a Shared,
    tags: &'a mut Tags,
    life: Arc<Life>,
    producer: Producer,
    tailer: Tailer,
    /// Taken from the queue.
    todo: Vec<Append>,
    /// The same by partition.
    sorted: Vec<Vec<Append>>,
    keys: Vec<Option<MessageKey>>,
    failed: Vec<Failed>,
    /// When it last looked after what does not ring (steady clock).
    ticked_ms: u64,
    unwritten: u64,
}

/// Keys for publishes without an id: no two alike, in no process.
#[derive(Debug)]
struct Tags {
    process: u64,
    next: u64,
}

impl Tags {
    fn next(&mut self) -> MessageKey {
        self.next += 1;
        MessageKey(u128::from(self.process) << 64 | u128::from(self.next))
    }
}

impl Worker {
    /// One that has yet to run.
    pub fn new(shared: Arc<Shared>, opening: Opening) -> Worker {
        let tags = Tags { process: u64::from_le_bytes(random_bytes()), next: 0 };
        Worker { shared, opening, tags, unwritten: 0 }
    }

    /// Works until the broker stops. Returns how many publishes were not written.
    pub fn run(mut self) -> Result<u64> {
        let ran = catch_unwind(AssertUnwindSafe(|| self.live()));
        let error = match ran {
            Ok(ended) => ended.err(),
            Err(_) => {
                tracing::error!(
                    "the Kafka thread panicked; nothing more is stored until the engine is started again"
                );
                Some(Error::new(Code::StorageFailed, "the Kafka thread has ended by a fault"))
            }
        };
        if let Some(error) = error.clone() {
            self.shared.fail(error);
        }
        self.end();
        error.map_or(Ok(self.unwritten), Err)
    }

    /// One life of the topic after the other.
    fn live(&mut self) -> Result<()> {
        for number in 1.. {
            let Some(opened) = self.opening.open(&self.shared, number)? else { return Ok(()) };
            let Opened { producer, tailer } = opened;
            self.shared.set_client(Some(tailer.client().clone()));
            let life = self.shared.life();
            // Of the topic before.
            self.shared.partitions.store(0, Ordering::Release);
            let mut work = Work {
                shared: &self.shared,
                tags: &mut self.tags,
                producer,
                tailer,
                todo: Vec::new(),
                sorted: life.tails.iter().map(|_| Vec::new()).collect(),
                keys: Vec::new(),
                failed: Vec::new(),
                ticked_ms: 0,
                unwritten: 0,
                life,
            };
            self.shared.set_ready(true);
            let ended = work.serve();
            self.unwritten += work.unwritten;
            let why = match ended {
                Ok(()) => return Ok(()),
                Err(Trouble::View(e)) => {
                    let text = format!("the view failed ({e}); it is rebuilt at the next start");
                    return Err(Error::new(Code::StorageFailed, text));
                }
                Err(Trouble::OtherPast(why)) => why,
                Err(Trouble::Client(e)) => format!("the Kafka client failed: {e}"),
            };
            tracing::warn!(why, "the Kafka topic is not what it was; beginning anew with what is there");
            work.leave();
            drop(work);
            self.shared.metrics.kafka_begun_anew.inc();
            opening::release(&self.shared, &self.opening.settings);
        }
        Ok(())
    }

    /// Answers everything that is left, and lets the clients go.
    fn end(&mut self) {
        self.shared.set_client(None);
        let error = self.shared.failed().unwrap_or_else(stopped);
        let queued = self.shared.lock().queue.clear();
        self.unwritten += queued.len() as u64;
        self.shared.refuse(queued.into_iter(), &error);
        let text = "the engine stopped before the log answered; retry with the same message id";
        self.unwritten += self.shared.life().forsake(text) as u64;
    }
}

impl Work<'_> {
    /// Works until the broker stops, or this life of the topic is over.
    fn serve(&mut self) -> std::result::Result<(), Trouble> {
        loop {
            match self.turn()? {
                Turn::Busy => {}
                Turn::Idle => drop(self.shared.bell.wait(NAP)),
                Turn::Done => return Ok(()),
            }
        }
    }

    /// Another life begins: of what is under way nobody will know.
    fn leave(&mut self) {
        self.shared.set_ready(false);
        self.shared.set_client(None);
        let queued = self.shared.lock().queue.clear();
        self.shared.refuse(queued.into_iter(), &unavailable());
        let text = "the Kafka topic is not what it was; retry with the same message id";
        self.life.forsake(text);
        self.producer.purge();
    }

    fn turn(&mut self) -> std::result::Result<Turn, Trouble> {
        let (now_ms, stopping) = (self.shared.clock.steady_ms(), self.shared.stop_by());
        let sent = self.send(now_ms);
        let ticks = now_ms >= self.ticked_ms + NAP.as_millis() as u64;
        if ticks || self.producer.len() > 0 {
            self.collect(now_ms);
        }
        if ticks {
            self.ticked_ms = now_ms;
            self.tailer.tick()?;
            self.look_after_lost()?;
        }
        let more = self.tailer.turn(now_ms)?;
        self.shared.set_view_full(self.tailer.is_full());
        self.life.tails.iter().for_each(|t| t.wake());
        self.shared.watchers.moved();
        self.shared.metrics.kafka_unacknowledged_bytes.set(self.producer.bytes() as u64);
        if self.shared.failed().is_some() {
            return Ok(Turn::Done);
        }
        if let Some(deadline_ms) = stopping {
            let idle = self.producer.len() == 0 && self.life.tails.iter().all(|t| t.is_idle());
            if idle && !sent && !more && self.shared.lock().queue.is_empty() {
                return Ok(Turn::Done);
            }
            if now_ms >= deadline_ms {
                self.give_up(now_ms);
                return Ok(Turn::Done);
            }
        }
        Ok(if sent || more { Turn::Busy } else { Turn::Idle })
    }

    /// Goes on with partitions that no longer have what comes next, and with a client that does not read.
    fn look_after_lost(&mut self) -> std::result::Result<(), Trouble> {
        if self.shared.is_replaced(&self.life) {
            return Err(Trouble::OtherPast("the topic was deleted and created again".into()));
        }
        if (0..self.life.tails.len() as u32).any(|p| self.life.is_stalled(p) && self.tailer.may_restart(p)) {
            tracing::warn!(
                "a partition is not read although there is something to read; the client is made anew"
            );
            self.tailer.restart()?;
            self.shared.set_client(Some(self.tailer.client().clone()));
        }
        match self.shared.partitions.load(Ordering::Acquire) {
            0 => {}
            total => self.tailer.there_are(total)?,
        }
        for (partition, lost) in self.tailer.lost() {
            // The topic may be another one: that comes first.
            if self.shared.checks.passed() <= lost.checked {
                self.shared.checks.ask();
                continue;
            }
            match self.life.marks.get(partition).filter(|mark| mark.asked_ms > lost.since_ms) {
                None => self.life.marks.want(partition),
                Some(mark) => self.go_on(partition, lost.next, mark)?,
            }
        }
        Ok(())
    }

    /// Reads a partition on from what it has; `next` is the offset that should come.
    fn go_on(&mut self, partition: u32, next: u64, mark: Mark) -> std::result::Result<(), Trouble> {
        if mark.end < next {
            let text = format!("partition {partition} ends at {}, and had been read up to {next}", mark.end);
            return Err(Trouble::OtherPast(text));
        }
        if mark.first > next {
            tracing::error!(
                partition,
                from = next,
                to = mark.first,
                "records were deleted before this node had read them; the members of the partition's rooms are told"
            );
            self.shared.metrics.kafka_gaps.inc();
            let life = &self.life;
            if let Some(tail) = life.tails.get(partition as usize) {
                tail.view().begin_after(partition, mark.first);
                tail.view().trim_below(partition, mark.first + 1)?;
                self.shared.hub.skip(mark.first, |room| life.partition(room) == partition);
                tail.skip(mark.first, self.shared.clock.steady_ms());
            }
        }
        self.tailer.go_on(partition, next.max(mark.first))
    }

    /// The stop's time is over: what was never sent is certainly not stored. Publishes are counted, not what the producer has: of that
    /// some may have been read back, before the cluster's word came that it was stored.
    fn give_up(&mut self, now_ms: u64) {
        self.producer.purge();
        self.producer.collect(&mut self.failed);
        self.unwritten += self.answer(now_ms) as u64;
        self.producer.abandon();
    }

    /// Sends what has gathered. True if there was something.
    fn send(&mut self, now_ms: u64) -> bool {
        if !self.producer.has_room() {
            return false;
        }
        {
            let mut q = self.shared.lock();
            // As many as the producer has room for; one that is larger than all of that when nothing else is on its way.
            let room = self.producer.room();
            let (mut count, mut bytes) = (0, 0);
            for size in q.queue.iter().take(BATCH).map(|append| Sending::about(append.size())) {
                if bytes + size > room && (count > 0 || self.producer.len() > 0) {
                    break;
                }
                (count, bytes) = (count + 1, bytes + size);
            }
            if count == 0 {
                return false;
            }
            let bytes = q.queue.iter().take(count).map(Append::size).sum();
            q.queue.take(count, bytes, &mut self.todo, now_ms);
        }
        let partitions = self.life.tails.len() as u32;
        let mut refused = Vec::new();
        for append in self.todo.drain(..) {
            let partition = partition_of(append.room.as_bytes(), partitions);
            if !self.life.is_led(partition) && self.producer.has_its_share(partition) {
                refused.push(append);
                continue;
            }
            if let Some(sorted) = self.sorted.get_mut(partition as usize) {
                sorted.push(append);
            }
        }
        if !refused.is_empty() {
            let text = "the partition of this room has no leader, and much waits for one; slow down";
            let error = Error::new(Code::Busy, text).after(1000).at(Limit::AppendQueueBytes);
            self.shared.refuse(refused.into_iter(), &error);
        }
        let wall_ms = self.shared.clock.wall_ms();
        for partition in 0..partitions {
            let i = partition as usize;
            let (Some(sorted), Some(tail)) = (self.sorted.get_mut(i), self.life.tails.get(i)) else {
                continue;
            };
            if sorted.is_empty() {
                continue;
            }
            tail.prepare(sorted);
            let mut tag = || self.tags.next();
            tail.admit(sorted, &mut self.keys, wall_ms, now_ms, Some(&mut tag));
            for (append, key) in sorted.drain(..).zip(self.keys.drain(..)) {
                let Some(key) = key else { continue };
                let mut value = Vec::new();
                mapping::write(&mut value, &append, wall_ms);
                let has_id = !append.id.is_empty();
                if let Err(failed) = self.producer.send(Sending {
                    partition,
                    room: append.room,
                    key,
                    has_id,
                    value,
                    sent_before: false,
                    since: Instant::now(),
                }) {
                    self.failed.push(failed);
                }
            }
        }
        self.answer(now_ms);
        true
    }

    /// Sees what has become of what was sent.
    fn collect(&mut self, now_ms: u64) {
        self.producer.collect(&mut self.failed);
        self.shared.metrics.kafka_producers_replaced.set(self.producer.replaced());
        if self.producer.take_denied() {
            self.shared.checks.ask();
        }
        if self.shared.sender_rests.swap(self.producer.rests(), Ordering::AcqRel) != self.producer.rests() {
            self.shared.trouble.ring();
        }
        self.answer(now_ms);
    }

    fn answer(&mut self, now_ms: u64) -> usize {
        let mut count = 0;
        for Failed { message, perhaps, error } in self.failed.drain(..) {
            if let Some(tail) = self.life.tails.get(message.partition as usize) {
                count += tail.give_up(message.key, perhaps, message.has_id, &error, now_ms);
            }
        }
        count
    }
}

/// What a turn of the worker came to.
enum Turn {
    Busy,
    Idle,
    Done,
}
