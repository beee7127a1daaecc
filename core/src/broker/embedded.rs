//! The embedded broker: the log on disk, one writer thread. A batch is what gathered while the previous one was synced, so
//! nobody waits on purpose.

use crate::broker::append::{Append, Outcome};
use crate::broker::storage::{self, Storage};
use crate::broker::tail::Tail;
use crate::broker::{Broker, Health};
use crate::clock::Clock;
use crate::codes::Code;
use crate::config::{Limits, Settings};
use crate::error::{Error, Result};
use crate::log::{Disk, Files, Reader};
use crate::message::{Epoch, Publication};
use crate::metrics::Metrics;
use crate::room::hub;
use crate::view::OwnedRow;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct EmbeddedBroker {
    shared: Arc<Shared>,
    reader: Reader,
    writer: Mutex<Option<JoinHandle<Result<()>>>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    done: Condvar,
    tail: Arc<Tail>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    health: AtomicU8,
    max_count: usize,
    max_bytes: usize,
    timeout_ms: u64,
}

#[derive(Debug, Default)]
struct Queue {
    appends: VecDeque<Append>,
    bytes: usize,
    /// When the writer last took something, or the oldest came (steady clock).
    since_ms: u64,
    /// The writer is asleep and must be woken.
    asleep: bool,
    stopping: bool,
    stopped: bool,
}

impl EmbeddedBroker {
    /// Opens the log in `dir`, brings the view up to it and starts the writer.
    pub fn open(
        dir: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<EmbeddedBroker> {
        let disk = Disk::open(dir).map_err(|e| storage::log_error(&e))?;
        Self::on(Arc::new(disk), Some(dir.join("view")), settings, clock, metrics)
    }

    fn on(
        files: Arc<dyn Files>,
        view_dir: Option<PathBuf>,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<EmbeddedBroker> {
        let opened = storage::open(files, view_dir, settings, metrics.clone(), clock.wall_ms())?;
        let Limits { append_queue, append_queue_bytes, publish_timeout_ms, .. } = settings.limits;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            ready: Condvar::new(),
            done: Condvar::new(),
            tail: opened.tail,
            clock,
            metrics,
            health: AtomicU8::new(opened.storage.health() as u8),
            max_count: append_queue,
            max_bytes: append_queue_bytes,
            timeout_ms: publish_timeout_ms,
        });
        let (for_writer, storage) = (shared.clone(), opened.storage);
        let writer = std::thread::Builder::new()
            .name("klatch-log".into())
            .spawn(move || for_writer.run(storage))
            .map_err(|e| Error::new(Code::Internal, format!("cannot start the log's thread: {e}")))?;
        Ok(EmbeddedBroker { shared, reader: opened.reader, writer: Mutex::new(Some(writer)) })
    }

    /// Its tail.
    pub fn tail(&self) -> &Arc<Tail> {
        &self.shared.tail
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut storage: Storage) -> Result<()> {
        let mut todo: Vec<Append> = Vec::new();
        let mut ticked = self.clock.steady_ms();
        loop {
            {
                let mut q = self.lock();
                if q.appends.is_empty() && !q.stopping {
                    q.asleep = true;
                    q = self
                        .ready
                        .wait_timeout(q, Duration::from_secs(1))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                    q.asleep = false;
                }
                if q.appends.is_empty() && q.stopping {
                    break;
                }
                // One batch and no more: what stays in the queue can still be answered while this one is held up.
                let (count, bytes) = storage::batch_of(q.appends.iter());
                todo.extend(q.appends.drain(..count));
                q.bytes -= bytes;
                q.since_ms = self.clock.steady_ms();
                self.metrics.append_queue.set(q.appends.len() as u64);
            }
            while !todo.is_empty() {
                storage.step(&mut todo, self.clock.wall_ms(), self.clock.steady_ms());
            }
            self.tail.wake();
            let now = self.clock.steady_ms();
            if now >= ticked + 1000 {
                ticked = now;
                storage.tick(self.clock.wall_ms());
            }
            self.health.store(storage.health() as u8, Ordering::Relaxed);
        }
        let closed = storage.close();
        self.health.store(Health::Stopped as u8, Ordering::Relaxed);
        self.lock().stopped = true;
        self.done.notify_all();
        closed
    }

    /// Takes out and answers what has waited too long while the writer was held up.
    fn expire(&self) {
        let now = self.clock.steady_ms();
        let expired = {
            let mut q = self.lock();
            if q.appends.is_empty() || q.since_ms + self.timeout_ms >= now {
                return;
            }
            q.bytes = 0;
            std::mem::take(&mut q.appends)
        };
        let error = Error::new(Code::Timeout, "the log was held up; the message was not written");
        self.tail.refuse(expired.into_iter(), &error);
    }
}

impl Drop for EmbeddedBroker {
    /// The writer ends by itself, and the data directory is free again, also where the broker was never stopped.
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.ready.notify_one();
    }
}

impl Broker for EmbeddedBroker {
    fn append(&self, appends: &mut Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        let size: usize = appends.iter().map(Append::size).sum();
        let congested = self.shared.tail.hub().is_congested();
        let mut q = self.shared.lock();
        let error = if q.stopping {
            Error::new(Code::Stopping, "the engine is stopping")
        } else if q.appends.len() + appends.len() > self.shared.max_count
            || q.bytes + size > self.shared.max_bytes
        {
            Error::new(Code::Busy, "too many publishes wait for the log; slow down").after(250)
        } else if congested {
            hub::congested()
        } else {
            if q.appends.is_empty() {
                q.since_ms = self.shared.clock.steady_ms();
            }
            q.bytes += size;
            q.appends.extend(appends.drain(..));
            if q.asleep {
                self.shared.ready.notify_one();
            }
            return;
        };
        drop(q);
        self.shared.tail.refuse(appends.drain(..), &error);
        self.shared.tail.wake();
    }

    fn read(&self, rows: &[OwnedRow]) -> Result<Vec<Publication>> {
        storage::read(&self.reader, rows)
    }

    fn epoch(&self, room: &str) -> Epoch {
        self.shared.tail.epoch(room)
    }

    fn sweep(&self) {
        self.shared.expire();
        self.shared.tail.sweep(self.shared.clock.steady_ms());
        self.shared.tail.wake();
    }

    fn health(&self) -> Health {
        let stored = self.shared.health.load(Ordering::Relaxed);
        [Health::Up, Health::StorageFull, Health::StorageFailed, Health::LogDamaged]
            .into_iter()
            .find(|h| *h as u8 == stored)
            .unwrap_or(Health::Stopped)
    }

    fn stop(&self, deadline_ms: u64) -> Result<u64> {
        let mut q = self.shared.lock();
        q.stopping = true;
        self.shared.ready.notify_one();
        while !q.stopped {
            let left = deadline_ms.saturating_sub(self.shared.clock.steady_ms());
            if left == 0 {
                // The writer is held up in the kernel: what it has not taken is answered here; it ends when it can.
                let rest = std::mem::take(&mut q.appends);
                drop(q);
                let count = rest.len() as u64;
                let error = Error::new(Code::Stopping, "the engine stopped before the message was written");
                self.shared.tail.refuse(rest.into_iter(), &error);
                // What it has taken may or may not be stored; nobody looks for late answers any more.
                self.shared.tail.fail(&Outcome::Unknown(Error::new(
                    Code::Unknown,
                    "the engine stopped before the log answered; retry with the same message id",
                )));
                self.shared.tail.wake();
                return Ok(count);
            }
            q = self
                .shared
                .done
                .wait_timeout(q, Duration::from_millis(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(q);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match writer.map(JoinHandle::join) {
            None => Ok(0),
            Some(Ok(closed)) => closed.map(|()| 0),
            Some(Err(_)) => Err(Error::new(Code::Internal, "the log's thread panicked")),
        }
    }
}

#[cfg(test)]
mod tests;
