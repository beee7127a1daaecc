//! The Kafka broker: one topic, one room in one of its partitions for ever. docs/kafka.md has what users see of it.
//!
//! One thread, the worker, sends and reads; another one, the watch, asks the cluster how it is.

pub mod address;
pub mod mapping;
pub mod partition;

mod admin;
mod bell;
mod client;
mod producer;
mod tailer;
mod watch;
mod worker;

use crate::broker::append::Append;
use crate::broker::queue::{self, Queue};
use crate::broker::tail::{Tail, view_error};
use crate::broker::{Broker, Health};
use crate::clock::Clock;
use crate::codes::Code;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::message::{Epoch, Publication, Record};
use crate::metrics::Metrics;
use crate::room::hub::{self, Hub};
use crate::threads;
use crate::view::{Identity, OwnedRow, View, ViewAt, ViewError};
use address::Address;
use admin::{Patience, Topic, TopicIds};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bell::Bell;
use bytes::Buf;
use client::{Context, Role};
use partition::partition_of;
use producer::Producer;
use rdkafka::consumer::Consumer;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tailer::{Plan, Start, Tailer, Trouble};
use watch::{Checks, Watch};
use worker::Worker;

/// How long the watch may take to notice that the broker stops: as long as an answer that does not come.
const WATCH_ENDS: Duration = Duration::from_millis(2500);
/// How often a start that catches up tells how far it is.
const PROGRESS_MS: u64 = 5_000;

/// See the module.
#[derive(Debug)]
pub struct KafkaBroker {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<Result<u64>>>>,
    watch: Mutex<Option<JoinHandle<()>>>,
}

/// What the threads and the callers share.
#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    done: Condvar,
    /// Wakes the worker.
    bell: Arc<Bell>,
    /// Wakes the watch.
    trouble: Arc<Bell>,
    tails: Vec<Arc<Tail>>,
    view: Arc<View>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// How the cluster is.
    link: AtomicU8,
    ending: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    /// Until when what is queued may still be sent (steady clock), once the broker is told to stop.
    stop_by: Option<u64>,
    stopped: bool,
    /// Why nothing is stored any more.
    failed: Option<Error>,
}

impl KafkaBroker {
    /// Finds or makes the topic, brings the view up to its end, and starts. Waits for all of that.
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
        let patience = Patience::of(settings.kafka.start_timeout_ms);
        let trouble = Arc::new(Bell::default());
        let topic = admin::prepare(ids, &address, &settings.kafka, Context::new(trouble.clone()), patience)?;
        let mut opening =
            Opening { ids, settings, address: &address, topic, patience, trouble, metrics, clock };
        let Opened { view, hub, tails, tailer, bell, checks } = opening.read_all()?;
        // Another topic may have come while this one was read.
        match ids.of(tailer.client().client(), &address.topic, WATCH_ENDS) {
            Ok(id) if id == opening.topic.id => {}
            Ok(_) => {
                return Err(Error::new(
                    Code::Unavailable,
                    "the Kafka topic was created again while it was read",
                ));
            }
            Err(e) => {
                return Err(Error::new(
                    Code::Unavailable,
                    format!("the Kafka topic cannot be looked at: {e}"),
                ));
            }
        }
        let topic_id = opening.topic_id();
        let Opening { topic, trouble, metrics, clock, .. } = opening;
        let config = client::config(Role::Producer, &address.servers, &settings.kafka)?;
        let context = {
            let trouble = trouble.clone();
            move || Context::new(trouble.clone())
        };
        let limit = settings.kafka.queue_bytes as usize;
        let producer = Producer::new(config, context, &address.topic, &topic_id, limit)
            .map_err(|e| client::start_error("the Kafka producer cannot be made", &e))?;
        let queue = Queue::new(&settings.limits, metrics.clone());
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { queue, stop_by: None, stopped: false, failed: None }),
            done: Condvar::new(),
            bell,
            trouble: trouble.clone(),
            tails,
            view,
            hub,
            clock,
            metrics,
            link: AtomicU8::new(Health::Up as u8),
            ending: AtomicBool::new(false),
        });
        let watch = Watch {
            shared: shared.clone(),
            client: tailer.client().clone(),
            topic: address.topic.clone(),
            ids: ids.clone(),
            topic_id: topic.id,
            checks,
            bell: trouble,
        };
        let worker = Worker::new(shared.clone(), producer, tailer);
        let broker =
            KafkaBroker { shared: shared.clone(), worker: Mutex::default(), watch: Mutex::default() };
        let no_thread =
            |e| Error::new(Code::Internal, format!("cannot start a thread of the Kafka broker: {e}"));
        let thread = threads::spawn("klatch-kafka".into(), move || {
            let ended = worker.run();
            shared.inner.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
            shared.done.notify_all();
            ended
        });
        *broker.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.map_err(no_thread)?);
        let thread = threads::spawn("klatch-kafka-watch".into(), move || watch.run());
        *broker.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.map_err(no_thread)?);
        Ok(broker)
    }

    /// The hub that its tails feed.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    /// Its view.
    pub fn view(&self) -> &Arc<View> {
        &self.shared.view
    }
}

/// What a start goes by.
struct Opening<'a> {
    ids: &'a TopicIds,
    settings: &'a Settings,
    address: &'a Address,
    topic: Topic,
    patience: Patience,
    trouble: Arc<Bell>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

/// What it makes.
struct Opened {
    view: Arc<View>,
    hub: Arc<Hub>,
    tails: Vec<Arc<Tail>>,
    tailer: Tailer,
    bell: Arc<Bell>,
    checks: Arc<Checks>,
}

impl Opening<'_> {
    /// Brings the view up to the end of the topic. A view of another past is made anew.
    fn read_all(&mut self) -> Result<Opened> {
        let at = match self.settings.kafka.view_dir.as_str() {
            "memory" => ViewAt::Memory,
            dir => ViewAt::Dir(
                std::path::absolute(Path::new(dir))
                    .map_err(|e| Error::new(Code::DataDirUnusable, format!("where is {dir}? {e}")))?,
            ),
        };
        let mut again = true;
        loop {
            let view = at.open(self.identity(), &self.settings.view).map_err(|e| unusable_view(&e))?;
            view.locate_rooms(partition_of);
            let found = starts(&view, &self.topic.marks);
            let why = match found {
                Err(why) => why,
                Ok(starts) => match self.catch_up(Arc::new(view), &starts)? {
                    Ok(opened) => return Ok(opened),
                    Err(Trouble::OtherPast(why) | Trouble::Lost(why)) if again => why,
                    Err(Trouble::OtherPast(why) | Trouble::Lost(why)) => {
                        return Err(Error::new(
                            Code::Unavailable,
                            format!("the Kafka topic cannot be read: {why}"),
                        ));
                    }
                    Err(Trouble::View(e)) => return Err(view_error(&e)),
                    Err(Trouble::Client(e)) => {
                        return Err(client::start_error("the Kafka consumer cannot be made", &e));
                    }
                },
            };
            again = false;
            tracing::warn!(why, "the view does not fit the topic; rebuilding it");
            at.destroy().map_err(|e| unusable_view(&e))?;
            let context = Context::new(self.trouble.clone());
            self.topic =
                admin::prepare(self.ids, self.address, &self.settings.kafka, context, self.patience)?;
        }
    }

    /// The topic's id as records have it.
    fn topic_id(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.topic.id)
    }

    /// Which log this is: another topic, and another number of partitions, is another one.
    fn identity(&self) -> Identity {
        let partitions = self.settings.kafka.partitions;
        let mut log = self.topic.id;
        log.iter_mut().zip(partitions.to_le_bytes()).for_each(|(byte, n)| *byte ^= n);
        Identity { log, partitions }
    }

    fn catch_up(&self, view: Arc<View>, starts: &[Start]) -> Result<Result<Opened, Trouble>> {
        let Opening { settings, address, metrics, .. } = self;
        for (partition, (low, _)) in (0..).zip(&self.topic.marks) {
            if view.checkpoint(partition).is_none() && *low > 0 {
                view.begin_after(partition, *low);
            }
            view.trim_below(partition, low + 1).map_err(|e| view_error(&e))?;
        }
        let hub = Arc::new(Hub::new(view.clone(), &settings.limits, metrics.clone()));
        let tail = |(partition, start): (u32, &Start)| {
            let since = if start.read_before { u64::MAX } else { 0 };
            let log = self.identity().log;
            Arc::new(Tail::new(partition, log, since, view.clone(), hub.clone(), settings, metrics.clone()))
        };
        let tails: Vec<Arc<Tail>> = (0..).zip(starts).map(tail).collect();
        let bell = Arc::new(Bell::default());
        let checks = Arc::new(Checks::new(self.trouble.clone()));
        let tailer = Tailer::start(Plan {
            config: &client::config(Role::Tail, &address.servers, &settings.kafka)?,
            context: Context::new(self.trouble.clone()),
            topic: &address.topic,
            topic_id: &self.topic_id(),
            starts,
            tails: &tails,
            bell: &bell,
            checks: checks.clone(),
            metrics: metrics.clone(),
        });
        let mut tailer = match tailer {
            Ok(tailer) => tailer,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let mut tell_ms = self.clock.steady_ms() + PROGRESS_MS;
        while tailer.behind() > 0 {
            let now_ms = self.clock.steady_ms();
            tailer.tick();
            match tailer.turn(now_ms) {
                Ok(true) => {}
                Ok(false) => drop(bell.wait(Duration::from_millis(50))),
                Err(trouble) => return Ok(Err(trouble)),
            }
            if now_ms >= tell_ms {
                tell_ms = now_ms + PROGRESS_MS;
                tracing::info!(partitions = tailer.behind(), "reading the topic up to its end");
            }
            if self.patience.left().is_zero() {
                let text =
                    format!("{} could not be read up to its end within kafka.start_timeout_ms", self.address);
                return Err(Error::new(Code::Unavailable, text));
            }
        }
        Ok(Ok(Opened { view, hub, tails, tailer, bell, checks }))
    }
}

/// Where to read each partition from, given its first and next offsets; or why the view cannot go on.
fn starts(view: &View, marks: &[(u64, u64)]) -> Result<Vec<Start>, String> {
    let start = |(partition, &(low, end)): (u32, &(u64, u64))| match view.checkpoint(partition) {
        None => Ok(Start { from: low, again: None, end, read_before: false }),
        Some(c) if c.sequence > end => Err(format!("partition {partition} ends at {end}, before the view")),
        Some(c) if c.sequence > low => {
            Ok(Start { from: c.sequence - 1, again: Some(c), end, read_before: true })
        }
        // What the view saw last is gone, and what comes next is there.
        Some(c) if c.sequence == low => Ok(Start { from: low, again: None, end, read_before: true }),
        Some(c) => Err(format!("partition {partition} has lost what is between {} and {low}", c.sequence)),
    };
    (0..).zip(marks).map(start).collect()
}

fn unusable_view(e: &ViewError) -> Error {
    Error::new(Code::DataDirUnusable, format!("the view cannot be opened: {e}"))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail_of(&self, room: &str) -> &Tail {
        // There is at least one: the settings are checked, and so are the indexes by the number of tails.
        &self.tails[partition_of(room.as_bytes(), self.tails.len() as u32) as usize]
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

    /// Nothing more is stored until the next start.
    fn fail(&self, error: Error) {
        let mut inner = self.lock();
        if inner.failed.is_none() && inner.stop_by.is_none() {
            tracing::error!(%error, "nothing more is stored until the engine is started again");
            self.metrics.storage_refusing.set(1);
            inner.failed = Some(error);
        }
        drop(inner);
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
        if link != before {
            self.metrics.storage_refusing.set(u64::from(link == Health::Down));
            match link {
                Health::Up => tracing::info!("the Kafka cluster is there again"),
                Health::Degraded => {
                    tracing::warn!("some partitions of the topic have no leader; their rooms cannot store")
                }
                _ => tracing::error!("the Kafka cluster does not answer; nothing is stored until it does"),
            }
        }
    }
}

impl Broker for KafkaBroker {
    fn append(&self, appends: &mut Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        let shared = &*self.shared;
        let congested = shared.hub.is_congested();
        let mut inner = shared.lock();
        let error = if let Some(error) = &inner.failed {
            Some(error.clone())
        } else if inner.stop_by.is_some() {
            Some(Error::new(Code::Stopping, "the engine is stopping"))
        } else if congested {
            Some(hub::congested())
        } else if shared.link() == Health::Down {
            Some(Error::new(
                Code::Unavailable,
                "the Kafka cluster does not answer; the message was not stored",
            ))
        } else {
            inner.queue.put(appends, shared.clock.steady_ms())
        };
        drop(inner);
        shared.bell.ring();
        if let Some(error) = error {
            for append in appends.drain(..) {
                let tail = shared.tail_of(&append.room);
                tail.refuse(std::iter::once(append), &error);
                tail.wake();
            }
        }
    }

    fn read(&self, rows: &[OwnedRow]) -> Result<Vec<Publication>> {
        rows.iter().map(publication).collect()
    }

    fn epoch(&self, room: &str) -> Epoch {
        self.shared.tail_of(room).epoch(room)
    }

    fn sweep(&self) {
        let shared = &*self.shared;
        let now_ms = shared.clock.steady_ms();
        let expired = shared.lock().queue.expire(now_ms);
        for append in expired {
            let tail = shared.tail_of(&append.room);
            tail.refuse(std::iter::once(append), &queue::expired());
        }
        for tail in &shared.tails {
            tail.sweep(now_ms);
            tail.wake();
        }
    }

    fn health(&self) -> Health {
        let inner = self.shared.lock();
        match (&inner.failed, inner.stopped) {
            (Some(_), _) => Health::StorageFailed,
            (None, true) => Health::Stopped,
            (None, false) => self.shared.link(),
        }
    }

    fn stop(&self, deadline_ms: u64) -> Result<u64> {
        let shared = &*self.shared;
        let mut inner = shared.lock();
        inner.stop_by.get_or_insert(deadline_ms);
        shared.bell.ring();
        while !inner.stopped {
            // The worker keeps to the deadline itself, give or take what it is about.
            let left = (deadline_ms + 500).saturating_sub(shared.clock.steady_ms());
            if left == 0 {
                let rest = inner.queue.clear();
                drop(inner);
                let count = rest.len() as u64;
                let error = Error::new(Code::Stopping, "the engine stopped before the message was sent");
                rest.into_iter().for_each(|append| {
                    let tail = shared.tail_of(&append.room);
                    tail.refuse(std::iter::once(append), &error);
                });
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
            threads::join(watch, WATCH_ENDS);
        }
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        match worker.map(JoinHandle::join) {
            None => Ok(0),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(Error::new(Code::Internal, "the Kafka thread panicked")),
        }
    }
}

impl Shared {
    /// Tells the threads to end.
    fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.trouble.ring();
        for tail in &self.tails {
            let text = "the engine stopped before the log answered; retry with the same message id";
            tail.fail(&crate::broker::append::Outcome::Unknown(Error::new(Code::Unknown, text)));
            tail.wake();
        }
    }
}

impl Drop for KafkaBroker {
    /// Its threads end by themselves, also where it was never stopped.
    fn drop(&mut self) {
        self.shared.lock().stop_by.get_or_insert(0);
        self.shared.ending.store(true, Ordering::Release);
        self.shared.bell.ring();
        self.shared.trouble.ring();
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
