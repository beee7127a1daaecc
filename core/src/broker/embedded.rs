//! The embedded broker: the log on disk, one writer thread. A batch is what gathered while the previous one was synced, so
//! nobody waits on purpose.

use crate::broker::append::{Append, Outcome};
use crate::broker::queue::{self, Queue};
use crate::broker::storage::{self, Storage};
use crate::broker::tail::Tail;
use crate::broker::{Broker, Health};
use crate::clock::Clock;
use crate::codes::Code;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::log::{Disk, Files, Reader};
use crate::message::{Epoch, Publication};
use crate::metrics::Metrics;
use crate::room::hub;
use crate::threads;
use crate::view::{OwnedRow, ViewAt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
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
    inner: Mutex<Inner>,
    ready: Condvar,
    done: Condvar,
    tail: Arc<Tail>,
    clock: Arc<dyn Clock>,
    health: AtomicU8,
}

/// What the writer thread owns.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    storage: Storage,
    todo: Vec<Append>,
    /// When the log last kept house (steady clock).
    ticked_ms: u64,
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    /// The writer is asleep and must be woken.
    asleep: bool,
    stopping: bool,
    stopped: bool,
    /// Why nothing is taken any more, after a fault of the writer.
    failed: Option<Error>,
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
        Self::on(Arc::new(disk), &ViewAt::Dir(dir.join("view")), settings, clock, metrics)
    }

    fn on(
        files: Arc<dyn Files>,
        view_at: &ViewAt,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<EmbeddedBroker> {
        let (broker, writer) = Self::prepare(files, view_at, settings, clock, metrics)?;
        let thread = threads::spawn("klatch-log".into(), move || writer.run())
            .map_err(|e| Error::new(Code::Internal, format!("cannot start the log's thread: {e}")))?;
        *broker.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(broker)
    }

    /// The broker, and its writer that has yet to run.
    pub(crate) fn prepare(
        files: Arc<dyn Files>,
        view_at: &ViewAt,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<(EmbeddedBroker, Writer)> {
        let opened = storage::open(files, view_at, settings, metrics.clone(), clock.wall_ms())?;
        let queue = Queue::new(&settings.limits, metrics.clone());
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { queue, asleep: false, stopping: false, stopped: false, failed: None }),
            ready: Condvar::new(),
            done: Condvar::new(),
            tail: opened.tail,
            clock,
            health: AtomicU8::new(opened.storage.health() as u8),
        });
        let ticked_ms = shared.clock.steady_ms();
        let writer = Writer { shared: shared.clone(), storage: opened.storage, todo: Vec::new(), ticked_ms };
        Ok((EmbeddedBroker { shared, reader: opened.reader, writer: Mutex::default() }, writer))
    }

    /// Whether publishes wait for the writer.
    #[cfg(test)]
    pub(crate) fn has_work(&self) -> bool {
        !self.shared.lock().queue.is_empty()
    }

    /// Its tail.
    pub fn tail(&self) -> &Arc<Tail> {
        &self.shared.tail
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out and answers what has waited too long while the writer was held up.
    fn expire(&self) {
        let expired = self.lock().queue.expire(self.clock.steady_ms());
        if !expired.is_empty() {
            self.tail.refuse(expired.into_iter(), &queue::expired());
        }
    }
}

impl Writer {
    fn run(mut self) -> Result<()> {
        let ran = catch_unwind(AssertUnwindSafe(|| {
            while self.step() {
                self.sleep();
            }
        }));
        if ran.is_err() {
            return Err(self.panicked());
        }
        self.close()
    }

    /// It has met a fault of its own: nothing more is stored, and nobody is left waiting.
    fn panicked(self) -> Error {
        tracing::error!(
            "the log's thread panicked; nothing more is stored until the engine is started again"
        );
        let shared = self.shared;
        let error = Error::new(Code::StorageFailed, "the log's thread has ended by a fault");
        shared.health.store(Health::StorageFailed as u8, Ordering::Relaxed);
        // Its files are closed before anybody may open them again.
        drop(self.storage);
        let waiting = {
            let mut q = shared.lock();
            q.failed = Some(error.clone());
            q.stopped = true;
            q.queue.clear()
        };
        shared.done.notify_all();
        // What was admitted may be written.
        shared.tail.fail(&Outcome::Unknown(Error::new(
            Code::Unknown,
            "the log's thread has ended by a fault; retry with the same message id",
        )));
        shared.tail.refuse(self.todo.into_iter().chain(waiting), &error);
        shared.tail.wake();
        error
    }

    /// Waits until there is something to do, a second at most.
    fn sleep(&self) {
        let mut q = self.shared.lock();
        if q.queue.is_empty() && !q.stopping {
            q.asleep = true;
            q = self
                .shared
                .ready
                .wait_timeout(q, Duration::from_secs(1))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            q.asleep = false;
        }
    }

    /// Writes what has gathered, and keeps house once a second. False: the broker is stopping and nothing is left.
    pub(crate) fn step(&mut self) -> bool {
        let shared = &*self.shared;
        {
            let mut q = shared.lock();
            if q.queue.is_empty() && q.stopping {
                return false;
            }
            // One batch and no more: what stays in the queue can still be answered while this one is held up.
            let (count, bytes) = storage::batch_of(q.queue.iter());
            q.queue.take(count, bytes, &mut self.todo, shared.clock.steady_ms());
        }
        while !self.todo.is_empty() {
            self.storage.step(&mut self.todo, shared.clock.wall_ms(), shared.clock.steady_ms());
        }
        shared.tail.wake();
        let now = shared.clock.steady_ms();
        if now >= self.ticked_ms + 1000 {
            self.ticked_ms = now;
            self.storage.tick(shared.clock.wall_ms());
        }
        shared.health.store(self.storage.health() as u8, Ordering::Relaxed);
        true
    }

    pub(crate) fn close(self) -> Result<()> {
        let closed = self.storage.close();
        self.shared.health.store(Health::Stopped as u8, Ordering::Relaxed);
        self.shared.lock().stopped = true;
        self.shared.done.notify_all();
        closed
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
        let congested = self.shared.tail.hub().is_congested();
        let mut q = self.shared.lock();
        let error = if let Some(error) = &q.failed {
            Some(error.clone())
        } else if q.stopping {
            Some(Error::new(Code::Stopping, "the engine is stopping"))
        } else if congested {
            Some(hub::congested())
        } else {
            let full = q.queue.put(appends, self.shared.clock.steady_ms());
            if q.asleep {
                self.shared.ready.notify_one();
            }
            full
        };
        drop(q);
        if let Some(error) = error {
            self.shared.tail.refuse(appends.drain(..), &error);
            self.shared.tail.wake();
        }
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
                let rest = q.queue.clear();
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
