//! The one thread that sends, reads and runs the tails: nothing of a publish can overtake anything else of it.

use super::Shared;
use super::mapping;
use super::partition::partition_of;
use super::producer::{Failed, Producer, Sending};
use super::tailer::{Tailer, Trouble};
use crate::broker::append::{Append, Outcome};
use crate::codes::Code;
use crate::error::{Error, Result};
use crate::ids::{MessageKey, random_bytes};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Most publishes that are sent before what has come is read.
const BATCH: usize = 512;
/// How long it sleeps if nothing rings.
const NAP: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    producer: Producer,
    tailer: Tailer,
    tags: Tags,
    /// Taken from the queue.
    todo: Vec<Append>,
    /// The same by partition.
    sorted: Vec<Vec<Append>>,
    keys: Vec<Option<MessageKey>>,
    failed: Vec<Failed>,
    /// When it last looked after what does not ring (steady clock).
    ticked_ms: u64,
    /// What the stop has done with messages that nobody took.
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
    pub fn new(shared: Arc<Shared>, producer: Producer, tailer: Tailer) -> Worker {
        let sorted = shared.tails.iter().map(|_| Vec::new()).collect();
        let ticked_ms = shared.clock.steady_ms();
        Worker {
            shared,
            producer,
            tailer,
            tags: Tags { process: u64::from_le_bytes(random_bytes()), next: 0 },
            todo: Vec::new(),
            sorted,
            keys: Vec::new(),
            failed: Vec::new(),
            ticked_ms,
            unwritten: 0,
        }
    }

    /// Works until the broker stops. Returns how many publishes were not written.
    pub fn run(mut self) -> Result<u64> {
        let ran = catch_unwind(AssertUnwindSafe(|| {
            loop {
                match self.turn() {
                    Ok(Turn::Busy) => {}
                    Ok(Turn::Idle) => drop(self.shared.bell.wait(NAP)),
                    Ok(Turn::Done) => return Ok(()),
                    Err(trouble) => return Err(trouble),
                }
            }
        }));
        let error = match ran {
            Ok(Ok(())) => None,
            Ok(Err(trouble)) => Some(explain(&trouble)),
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

    /// Answers everything that is left, and lets the clients go.
    fn end(&mut self) {
        let error = Error::new(Code::Stopping, "the engine stopped before the message was sent");
        let error = self.shared.failed().unwrap_or(error);
        let queued = self.shared.lock().queue.clear();
        self.unwritten += queued.len() as u64;
        for append in
            self.todo.drain(..).chain(self.sorted.iter_mut().flat_map(|s| s.drain(..))).chain(queued)
        {
            let tail = self.shared.tail_of(&append.room);
            tail.refuse(std::iter::once(append), &error);
        }
        let text = "the engine stopped before the log answered; retry with the same message id";
        for tail in &self.shared.tails {
            tail.fail(&Outcome::Unknown(Error::new(Code::Unknown, text)));
            tail.wake();
        }
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
            self.tailer.tick();
        }
        let more = self.tailer.turn(now_ms)?;
        self.shared.tails.iter().for_each(|t| t.wake());
        self.shared.metrics.kafka_unacknowledged_bytes.set(self.producer.bytes() as u64);
        if self.shared.failed().is_some() {
            return Ok(Turn::Done);
        }
        if let Some(deadline_ms) = stopping {
            let idle = self.producer.len() == 0 && self.shared.tails.iter().all(|t| t.is_idle());
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

    /// The stop's time is over: what was never sent is certainly not stored.
    fn give_up(&mut self, now_ms: u64) {
        self.producer.purge();
        let before = self.failed.len();
        self.producer.collect(&mut self.failed);
        self.unwritten += (self.failed.len() - before) as u64;
        self.answer(now_ms);
        self.unwritten += self.producer.abandon() as u64;
    }

    /// Sends what has gathered. True if there was something.
    fn send(&mut self, now_ms: u64) -> bool {
        if !self.producer.has_room() {
            return false;
        }
        {
            let mut q = self.shared.lock();
            let bytes = q.queue.iter().take(BATCH).map(Append::size);
            let (count, bytes) = bytes.fold((0, 0), |(n, all), size| (n + 1, all + size));
            if count == 0 {
                return false;
            }
            q.queue.take(count, bytes, &mut self.todo, now_ms);
        }
        let partitions = self.shared.tails.len() as u32;
        for append in self.todo.drain(..) {
            let partition = partition_of(append.room.as_bytes(), partitions);
            if let Some(sorted) = self.sorted.get_mut(partition as usize) {
                sorted.push(append);
            }
        }
        let wall_ms = self.shared.clock.wall_ms();
        for partition in 0..partitions {
            let i = partition as usize;
            let (Some(sorted), Some(tail)) = (self.sorted.get_mut(i), self.shared.tails.get(i)) else {
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
        self.answer(now_ms);
    }

    fn answer(&mut self, now_ms: u64) {
        for Failed { message, perhaps, error } in self.failed.drain(..) {
            if let Some(tail) = self.shared.tails.get(message.partition as usize) {
                tail.give_up(message.key, perhaps, message.has_id, &error, now_ms);
            }
        }
    }
}

/// What a turn of the worker came to.
enum Turn {
    Busy,
    Idle,
    Done,
}

/// Why nothing more is stored.
fn explain(trouble: &Trouble) -> Error {
    let text = match trouble {
        Trouble::View(e) => format!("the view failed ({e}); it is rebuilt at the next start"),
        Trouble::Lost(why) | Trouble::OtherPast(why) => {
            format!(
                "the Kafka topic is not what it was ({why}); start the engine again, and it follows what is there"
            )
        }
        Trouble::Client(e) => format!("the Kafka client failed: {e}"),
    };
    Error::new(Code::StorageFailed, text)
}
