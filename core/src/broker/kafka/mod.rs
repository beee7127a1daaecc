//! The Kafka broker: one topic, one room in one of its partitions for ever. docs/kafka.md has what users see of it.
//!
//! One thread, the worker, opens the topic, sends and reads; another one, the watch, asks the cluster how it is.

pub mod address;
pub mod mapping;
pub mod partition;

mod admin;
mod bell;
mod client;
mod consume;
mod life;
mod opening;
mod producer;
mod surplus;
mod tailer;
mod watch;
mod worker;

use crate::broker::append::Append;
use crate::broker::consume::{Consume, Handler, Work};
use crate::broker::queue::{self, Queue};
use crate::broker::{Broker, Health, Reach};
use crate::clock::Clock;
use crate::codes::Code;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::message::{Epoch, Publication, Record};
use crate::metrics::Metrics;
use crate::room::hub::{self, Hub};
use crate::threads;
use crate::view::{Identity, OwnedRow, View};
use address::Address;
use admin::TopicIds;
use bell::Bell;
use bytes::Buf;
use client::{Context, Role};
use life::Life;
use opening::Opening;
use rdkafka::consumer::BaseConsumer;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watch::{Checks, Watch};
use worker::Worker;

/// How long the watch may take to notice that the broker stops: as long as an answer that does not come.
const WATCH_ENDS: Duration = Duration::from_millis(2500);
/// How long a stop may take past its time for a thread that does not end.
const THREAD_ENDS: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct KafkaBroker {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<Result<u64>>>>,
    watch: Mutex<Option<JoinHandle<()>>>,
    consumers: consume::Consumers,
}

/// What the threads and the callers share.
struct Shared {
    inner: Mutex<Inner>,
    done: Condvar,
    /// Wakes the worker.
    bell: Arc<Bell>,
    /// Wakes the watch.
    trouble: Arc<Bell>,
    /// What belongs to the topic as it is now.
    life: RwLock<Arc<Life>>,
    /// The client that reads, for questions; none while there is none.
    client: Mutex<Option<Arc<BaseConsumer<Context>>>>,
    checks: Arc<Checks>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Consumers that wait for the tails.
    watchers: consume::Watchers,
    /// How the cluster is.
    link: AtomicU8,
    /// The topic has been read up to the end that it had.
    ready: AtomicBool,
    /// The view cannot be written, so nothing is read.
    view_full: AtomicBool,
    /// How many partitions the topic has; 0 until that is known.
    partitions: AtomicU32,
    /// The client that sends has failed for good, as had the one before it, and publishes wait for the next one.
    sender_rests: AtomicBool,
    /// What the cluster does not let this node do. Nothing is stored meanwhile.
    denied: Mutex<Option<Error>>,
    /// The number of the life whose topic is not there any more: another one is.
    replaced: AtomicU64,
    /// Nothing new is begun.
    stopping: Arc<AtomicBool>,
    ending: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("link", &self.link())
            .field("ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    /// The host waits for the start, and is told of what does not mend itself.
    starting: bool,
    /// Until when what is queued may still be sent (steady clock), once the broker is told to stop.
    stop_by: Option<u64>,
    stopped: bool,
    /// Why nothing is stored any more.
    failed: Option<Error>,
}

impl KafkaBroker {
    /// Finds or makes the topic, brings the view up to its end, and starts. Waits for that, but no longer than `kafka.start_timeout_ms`:
    /// past it the broker is there all the same, `down`, and goes on by itself.
    ///
    /// Errors: what does not mend itself, while it waits.
    pub fn open(settings: &Settings, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Result<KafkaBroker> {
        Self::open_as(&TopicIds::Asked, settings, clock, metrics)
    }

    fn open_as(
        ids: &TopicIds,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<KafkaBroker> {
        let address = Address::parse(&settings.log)?;
        // A property that is wrong is told at once, whether the cluster is there or not.
        for role in [Role::Producer, Role::Tail, Role::Admin] {
            client::config(role, &address.servers, &settings.kafka)?
                .create_native_config()
                .map_err(|e| client::start_error("the Kafka client cannot be made", &e))?;
        }
        let opening = Opening {
            ids: ids.clone(),
            settings: settings.clone(),
            address: address.clone(),
            at: opening::view_at(settings)?,
            seen: AtomicBool::new(false),
        };
        let identity = Identity { log: [0; 16], partitions: settings.kafka.partitions };
        let view = Arc::new(View::memory(identity, &settings.view));
        let trouble = Arc::new(Bell::default());
        let queue = Queue::new(&settings.limits, metrics.clone());
        let none = Life::new(0, [0; 16], Vec::new(), trouble.clone());
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { queue, starting: true, stop_by: None, stopped: false, failed: None }),
            done: Condvar::new(),
            bell: Arc::default(),
            checks: Arc::new(Checks::new(trouble.clone())),
            trouble,
            life: RwLock::new(Arc::new(none)),
            client: Mutex::default(),
            hub: Arc::new(Hub::new(view, &settings.limits, metrics.clone())),
            clock,
            metrics,
            watchers: consume::Watchers::default(),
            link: AtomicU8::new(Health::Down as u8),
            ready: AtomicBool::new(false),
            view_full: AtomicBool::new(false),
            partitions: AtomicU32::new(0),
            sender_rests: AtomicBool::new(false),
            denied: Mutex::default(),
            replaced: AtomicU64::new(0),
            stopping: Arc::default(),
            ending: AtomicBool::new(false),
        });
        opening::release(&shared, settings);
        let worker = Worker::new(shared.clone(), opening);
        let watch = Watch::new(shared.clone(), &address.topic, ids);
        let consumers = consume::Consumers::new(address, settings.kafka.clone());
        let broker = KafkaBroker { shared, worker: Mutex::default(), watch: Mutex::default(), consumers };
        broker.shared.metrics.storage_refusing.set(1);
        broker.start(worker, watch)?;
        let started = broker.wait_until_ready(Duration::from_millis(settings.kafka.start_timeout_ms));
        match started {
            Ok(()) => Ok(broker),
            Err(e) => {
                // Its threads end with it; that is all that it has.
                let _ = broker.stop(broker.shared.clock.steady_ms());
                Err(e)
            }
        }
    }

    fn start(&self, worker: Worker, watch: Watch) -> Result<()> {
        let no_thread =
            |e| Error::new(Code::Internal, format!("cannot start a thread of the Kafka broker: {e}"));
        let shared = self.shared.clone();
        let thread = threads::spawn("klatch-kafka".into(), move || {
            let ended = worker.run();
            shared.lock().stopped = true;
            shared.done.notify_all();
            ended
        });
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.map_err(no_thread)?);
        let thread = threads::spawn("klatch-kafka-watch".into(), move || watch.run());
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.map_err(no_thread)?);
        Ok(())
    }

    fn wait_until_ready(&self, longest: Duration) -> Result<()> {
        let shared = &*self.shared;
        let until = Instant::now() + longest;
        let mut inner = shared.lock();
        while !shared.is_ready() {
            if let Some(error) = &inner.failed {
                return Err(error.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                inner.starting = false;
                tracing::error!(
                    "the Kafka topic could not be read up to its end within kafka.start_timeout_ms; the engine starts without it and \
                     goes on trying"
                );
                return Ok(());
            }
            inner = shared.done.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.starting = false;
        Ok(())
    }

    /// The hub that its tails feed.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> Arc<Life> {
        self.life.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_life(&self, life: Life) {
        *self.life.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(life);
    }

    fn client(&self) -> Option<Arc<BaseConsumer<Context>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_client(&self, client: Option<Arc<BaseConsumer<Context>>>) {
        let old = std::mem::replace(&mut *self.client.lock().unwrap_or_else(PoisonError::into_inner), client);
        // The last one to hold a client waits for its threads: not under the lock.
        drop(old);
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn is_view_full(&self) -> bool {
        self.view_full.load(Ordering::Acquire)
    }

    fn set_view_full(&self, full: bool) {
        if self.view_full.swap(full, Ordering::AcqRel) != full {
            self.metrics.storage_refusing.set(u64::from(full || self.link() == Health::Down));
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    fn stop_by(&self) -> Option<u64> {
        self.lock().stop_by
    }

    fn failed(&self) -> Option<Error> {
        self.lock().failed.clone()
    }

    fn denied(&self) -> Option<Error> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what the cluster does not let this node do, and tells the operator once.
    fn deny(&self, error: Option<Error>) {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error
            .as_ref()
            .filter(|error| denied.as_ref().is_none_or(|before| before.message() != error.message()))
        {
            tracing::error!(%error, "nothing is stored until somebody gives this node the right again");
        }
        *denied = error;
    }

    /// Whether another topic has come in the place of this life's.
    fn is_replaced(&self, life: &Life) -> bool {
        self.replaced.load(Ordering::Acquire) == life.number && life.number != 0
    }

    /// From now on it is served; or no longer, until it has been opened again.
    fn set_ready(&self, ready: bool) {
        let inner = self.lock();
        self.ready.store(ready, Ordering::Release);
        drop(inner);
        self.deny(None);
        self.set_link(if ready { Health::Up } else { Health::Down });
        self.done.notify_all();
        self.trouble.ring();
    }

    /// The start fails with this, if it is still waited for.
    fn fail_start(&self, error: &Error) -> bool {
        let mut inner = self.lock();
        if inner.starting {
            inner.failed.get_or_insert(error.clone());
        }
        inner.starting
    }

    /// Nothing more is stored until the next start.
    fn fail(&self, error: Error) {
        let mut inner = self.lock();
        if inner.failed.is_none() && inner.stop_by.is_none() {
            tracing::error!(%error, "nothing more is stored until the engine is started again");
            self.metrics.storage_refusing.set(1);
            inner.failed = Some(error);
        }
        drop(inner);
        self.done.notify_all();
        self.stopping.store(true, Ordering::Release);
        self.ending.store(true, Ordering::Release);
        self.bell.ring();
        self.trouble.ring();
    }

    fn link(&self) -> Health {
        let link = self.link.load(Ordering::Relaxed);
        [Health::Up, Health::Degraded].into_iter().find(|h| *h as u8 == link).unwrap_or(Health::Down)
    }

    fn set_link(&self, link: Health) {
        let before = self.link();
        self.link.store(link as u8, Ordering::Relaxed);
        self.metrics.storage_refusing.set(u64::from(link == Health::Down || self.is_view_full()));
        if link != before {
            match link {
                Health::Up => tracing::info!("the Kafka topic is served"),
                Health::Degraded => {
                    tracing::warn!(
                        "some partitions of the topic have no leader or are not read, or nothing can be sent: publishes wait or fail"
                    )
                }
                _ => tracing::error!("the Kafka topic cannot be served; nothing is stored until it can"),
            }
        }
    }

    /// Refuses publishes.
    fn refuse(&self, appends: impl Iterator<Item = Append>, error: &Error) {
        let life = self.life();
        for append in appends {
            let tail = life.tail(&append.room);
            tail.refuse(std::iter::once(append), error);
            tail.wake();
        }
    }

    /// Tells the threads to end.
    fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.stopping.store(true, Ordering::Release);
        self.trouble.ring();
        self.bell.ring();
        let text = "the engine stopped before the log answered; retry with the same message id";
        self.life().forsake(text);
    }
}

fn unavailable() -> Error {
    Error::new(Code::Unavailable, "this node has yet to read the Kafka topic up to its end; try again")
}

fn stopped() -> Error {
    Error::new(Code::Stopping, "the engine stopped before the message was sent")
}

impl Broker for KafkaBroker {
    fn append(&self, appends: &mut Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        let shared = &*self.shared;
        let life = shared.life();
        let congested = shared.hub.is_congested();
        let mut stalled = Vec::new();
        if life.stalled() > 0 {
            stalled.extend(appends.extract_if(.., |a| life.is_stalled(life.partition(&a.room))));
        }
        let mut inner = shared.lock();
        let error = if let Some(error) = &inner.failed {
            Some(error.clone())
        } else if inner.stop_by.is_some() {
            Some(Error::new(Code::Stopping, "the engine is stopping"))
        } else if shared.is_view_full() {
            let text = "the view cannot be written, so this node does not read the topic; make room in kafka.view_dir";
            Some(Error::new(Code::StorageFull, text))
        } else if !shared.is_ready() {
            Some(unavailable())
        } else if congested {
            Some(hub::congested())
        } else if shared.link() == Health::Down {
            let text = "the Kafka cluster does not answer; the message was not stored";
            Some(shared.denied().unwrap_or_else(|| Error::new(Code::Unavailable, text)))
        } else {
            inner.queue.put(appends, shared.clock.steady_ms())
        };
        drop(inner);
        shared.bell.ring();
        if let Some(error) = error {
            shared.refuse(appends.drain(..), &error);
        }
        let text = "the partition of this room cannot be read now; the message was not stored";
        shared.refuse(stalled.into_iter(), &Error::new(Code::Unavailable, text));
    }

    fn read(&self, rows: &[OwnedRow]) -> Result<Vec<Publication>> {
        rows.iter().map(publication).collect()
    }

    fn epoch(&self, room: &str) -> Epoch {
        self.shared.life().tail(room).epoch(room)
    }

    fn serves(&self, _: &str) -> Result<()> {
        if self.shared.is_ready() { Ok(()) } else { Err(unavailable()) }
    }

    fn reach(&self, room: &str, offset: u64, since_ms: u64) -> Reach {
        self.shared.life().reach(room, offset, since_ms)
    }

    fn sweep(&self) {
        let shared = &*self.shared;
        let now_ms = shared.clock.steady_ms();
        let expired = shared.lock().queue.expire(now_ms);
        shared.refuse(expired.into_iter(), &queue::expired());
        for tail in &shared.life().tails {
            tail.sweep(now_ms);
            tail.wake();
        }
    }

    fn health(&self) -> Health {
        let inner = self.shared.lock();
        match (&inner.failed, inner.stopped) {
            (Some(_), _) => Health::StorageFailed,
            (None, true) => Health::Stopped,
            (None, false) if self.shared.is_view_full() => Health::StorageFull,
            (None, false) if !self.shared.is_ready() => Health::Down,
            (None, false) => self.shared.link(),
        }
    }

    fn consume(&self, how: Consume, handler: Arc<Handler>) -> Result<Arc<dyn Work>> {
        self.consumers.start(&self.shared, how, handler)
    }

    fn stop(&self, deadline_ms: u64) -> Result<u64> {
        let shared = &*self.shared;
        let now_ms = shared.clock.steady_ms();
        // What it asks of a cluster that does not answer takes its time, which runs from now on.
        shared.ending.store(true, Ordering::Release);
        shared.trouble.ring();
        // While they wait for their handlers, what is queued is sent all the same. The last quarter is for what is left of that.
        self.consumers.stop(now_ms, now_ms + deadline_ms.saturating_sub(now_ms) / 4 * 3);
        let mut inner = shared.lock();
        inner.stop_by.get_or_insert(deadline_ms);
        shared.stopping.store(true, Ordering::Release);
        shared.bell.ring();
        while !inner.stopped {
            // The worker keeps to the deadline itself, give or take what it is about.
            let left = deadline_ms + THREAD_ENDS.as_millis() as u64;
            let left = left.saturating_sub(shared.clock.steady_ms());
            if left == 0 {
                let rest = inner.queue.clear();
                drop(inner);
                let count = rest.len() as u64;
                shared.refuse(rest.into_iter(), &stopped());
                shared.end();
                return Ok(count);
            }
            inner = shared
                .done
                .wait_timeout(inner, Duration::from_millis(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(inner);
        shared.end();
        if let Some(watch) = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let left = Duration::from_millis(deadline_ms.saturating_sub(shared.clock.steady_ms()));
            threads::join(watch, (left + THREAD_ENDS).min(WATCH_ENDS));
        }
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        match worker.map(JoinHandle::join) {
            None => Ok(0),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(Error::new(Code::Internal, "the Kafka thread panicked")),
        }
    }
}

impl Drop for KafkaBroker {
    /// Its threads end by themselves, also where it was never stopped.
    fn drop(&mut self) {
        self.consumers.end(0);
        self.shared.lock().stop_by.get_or_insert(0);
        self.shared.end();
    }
}

/// The publication of a row: the view has all of it.
fn publication(row: &OwnedRow) -> Result<Publication> {
    let mut place = row.place.clone();
    let time = place.try_get_u64_le().ok();
    let record = time.and_then(|time| Record::decode(row.offset, time, place));
    let record = record.ok_or_else(|| Error::new(Code::Unavailable, "a row of the view cannot be read"))?;
    Ok(Publication { record, prev: row.prev })
}

#[cfg(test)]
mod tests;
