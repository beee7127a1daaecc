//! Consumers that are members of a group: each publication to one of them, committed once it was handled. docs/kafka.md says what a host
//! may rely on.
//!
//! A consumer has a thread that polls, assigns and says what to commit (`reader`), one that commits it, and threads that call the handler
//! (`pool`), so that a slow handler does not cost the membership. What is handled is not what the group fetches but what this node's tail
//! made of it (`sight`).

mod commit;
mod group;
mod lane;
mod pool;
mod reader;
mod sight;

use crate::broker::consume::{Consume, ConsumerStatus, Handler, Work};
use crate::broker::kafka::Shared;
use crate::broker::kafka::address::Address;
use crate::broker::kafka::bell::Bell;
use crate::broker::kafka::client::{self, Context, Role};
use crate::clock::Clock;
use crate::codes::Code;
use crate::config::Kafka;
use crate::error::{Error, Result};
use crate::metrics::{GroupMetrics, Metric};
use crate::threads;
use commit::Committer;
use group::GroupContext;
use pool::Pool;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::BaseConsumer;
use reader::{LAST_COMMIT_MS, Reader};
use sight::Sight;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long past a stop's time a consumer may take to commit and to leave its group.
const LEAVES_MS: u64 = 3_000;

/// Readers that wait for the tails.
#[derive(Debug, Default)]
pub struct Watchers {
    all: Mutex<Vec<Arc<Watcher>>>,
    count: AtomicUsize,
}

/// One of them.
#[derive(Debug)]
pub struct Watcher {
    waits: AtomicBool,
    bell: Arc<Bell>,
}

impl Watcher {
    /// To be called before the look that may find that there is something to wait for.
    pub fn wait(&self) {
        self.waits.store(true, Ordering::SeqCst);
    }

    /// There was nothing.
    pub fn rest(&self) {
        self.waits.store(false, Ordering::SeqCst);
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watcher>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tails may have moved.
    pub fn moved(&self) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let waiting = |w: &&Arc<Watcher>| w.waits.swap(false, Ordering::SeqCst);
            self.lock().iter().filter(waiting).for_each(|w| w.bell.ring());
        }
    }

    fn add(&self, bell: Arc<Bell>) -> Arc<Watcher> {
        let watcher = Arc::new(Watcher { waits: AtomicBool::new(false), bell });
        let mut all = self.lock();
        all.push(watcher.clone());
        self.count.store(all.len(), Ordering::Relaxed);
        watcher
    }

    fn remove(&self, watcher: &Arc<Watcher>) {
        let mut all = self.lock();
        all.retain(|w| !Arc::ptr_eq(w, watcher));
        self.count.store(all.len(), Ordering::Relaxed);
    }
}

/// The consumers of a broker, and what new ones are made with.
#[derive(Debug)]
pub struct Consumers {
    address: Address,
    settings: Kafka,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    all: Vec<Arc<Control>>,
    ended: bool,
}

impl Consumers {
    /// None yet.
    pub fn new(address: Address, settings: Kafka) -> Consumers {
        Consumers { address, settings, running: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one. It joins its group in the background.
    pub fn start(&self, shared: &Arc<Shared>, how: Consume, handler: Arc<Handler>) -> Result<Arc<dyn Work>> {
        how.check()?;
        let mut settings = self.settings.clone();
        settings.properties.0.extend(how.properties.0.clone());
        let mut config = client::config(Role::Member, &self.address.servers, &settings)?;
        config.set("group.id", &how.group);
        let made = |e| client::start_error("the consumer cannot be made", &e);
        let context = GroupContext::new(Context::new(shared.trouble.clone()));
        let mut running = self.lock();
        if running.ended {
            return Err(Error::new(Code::Stopping, "the engine is stopping"));
        }
        running.all.retain(|control| !control.has_ended());
        let mut consumer = BaseConsumer::from_config_and_context(&config, context).map_err(made)?;
        let bell = Arc::new(Bell::default());
        let ring = bell.clone();
        consumer.set_nonempty_callback(move || ring.ring());
        let no_thread = |e| Error::new(Code::Internal, format!("cannot start a thread of a consumer: {e}"));
        let consumer = Arc::new(consumer);
        let committer = Committer::start(&consumer, bell.clone()).map_err(no_thread)?;
        let pool = Pool::start(handler, how.threads, bell.clone()).map_err(no_thread)?;
        let control = Arc::new(Control {
            clock: shared.clock.clone(),
            state: Mutex::default(),
            done: Condvar::new(),
            bell: bell.clone(),
            pool: pool.clone(),
            own: GroupMetrics::default(),
            group: shared.metrics.groups.get(&how.group),
            thread: Mutex::default(),
        });
        let sight = Sight::new(shared.clone());
        let watcher = shared.watchers.add(bell);
        let reader = Reader::new(
            how,
            &self.address.topic,
            consumer,
            committer,
            sight,
            control.clone(),
            watcher.clone(),
        );
        let watched = watcher.clone();
        let thread = {
            let (shared, control) = (shared.clone(), control.clone());
            threads::spawn("klatch-consume".into(), move || {
                let end = move || {
                    shared.watchers.remove(&watcher);
                    // What is left holds nothing of the node's: it may wait for the cluster.
                    drop(shared);
                };
                let clean = reader.run(end);
                control.ended(clean);
            })
        };
        match thread {
            Ok(thread) => control.set_thread(thread),
            Err(e) => {
                shared.watchers.remove(&watched);
                pool.close();
                return Err(no_thread(e));
            }
        }
        running.all.push(control.clone());
        Ok(control)
    }

    /// Tells all to stop, within so many milliseconds, and takes no more.
    pub fn end(&self, within_ms: u64) {
        self.end_all(within_ms, None);
    }

    fn end_all(&self, within_ms: u64, gone_ms: Option<u64>) -> Vec<Arc<Control>> {
        let mut running = self.lock();
        running.ended = true;
        let all = std::mem::take(&mut running.all);
        for control in &all {
            control.lock().gone_by = gone_ms;
            control.end(within_ms);
        }
        all
    }

    /// The same, and waits for them, for all at once, from `now_ms` until `gone_ms` (steady clock) at the latest. The last part of the time is
    /// for commits.
    pub fn stop(&self, now_ms: u64, gone_ms: u64) {
        let within_ms = gone_ms.saturating_sub(now_ms);
        let commits_ms = LAST_COMMIT_MS.min(within_ms / 3);
        for control in self.end_all(within_ms - commits_ms, Some(gone_ms)) {
            if !control.wait() {
                tracing::warn!(
                    "a consumer could not commit all that it had handled; the group handles it again"
                );
            }
        }
    }
}

/// What a reader, its handle and the broker share.
#[derive(Debug)]
pub struct Control {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    done: Condvar,
    bell: Arc<Bell>,
    pool: Arc<Pool>,
    own: GroupMetrics,
    group: Arc<GroupMetrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when handlers are waited for (steady clock), once it is told to stop.
    stop_by: Option<u64>,
    /// Until when it is waited for, where that is not for its own sake.
    gone_by: Option<u64>,
    /// Whether all that was handled is committed, once it has ended.
    ended: Option<bool>,
    failed: Option<Error>,
    last_error: Option<String>,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_thread(&self, thread: JoinHandle<()>) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// The threads that call the handler.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Rung when the reader has something to do.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Until when handlers are waited for, once it is to stop.
    pub fn stop_by(&self) -> Option<u64> {
        self.lock().stop_by
    }

    /// Until when commits are waited for, after handlers; none if they may take as long as they do.
    pub fn gone_by(&self) -> Option<u64> {
        self.lock().gone_by
    }

    /// It cannot go on.
    pub fn fail(&self, error: Error) {
        tracing::error!(%error, "a consumer has ended");
        self.lock().failed = Some(error);
    }

    /// What the handler said last.
    pub fn set_last_error(&self, text: Option<String>) {
        self.lock().last_error = text;
    }

    /// Changes a number, of this consumer and of its group.
    pub fn count(&self, change: impl Fn(&GroupMetrics)) {
        change(&self.own);
        change(&self.group);
    }

    /// Sets a gauge of this consumer's, and its part in the group's.
    pub fn gauge(&self, gauge: impl Fn(&GroupMetrics) -> &Metric, value: u64) {
        let before = gauge(&self.own).get();
        gauge(&self.own).set(value);
        gauge(&self.group).add(value);
        gauge(&self.group).sub(before);
    }

    fn ended(&self, clean: bool) {
        self.lock().ended = Some(clean);
        self.done.notify_all();
    }

    fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }
}

impl Work for Control {
    fn end(&self, within_ms: u64) {
        // A handler that stops its own consumer is not waited for: it waits itself.
        let within_ms = if self.pool.is_here() { 0 } else { within_ms };
        let deadline_ms = self.clock.steady_ms() + within_ms;
        let mut state = self.lock();
        state.stop_by = Some(state.stop_by.map_or(deadline_ms, |earlier| earlier.min(deadline_ms)));
        drop(state);
        self.pool.end();
        self.bell.ring();
    }

    fn wait(&self) -> bool {
        let mut state = self.lock();
        let clean = loop {
            if let Some(clean) = state.ended {
                break clean;
            }
            // Without a time it would wait for one who was never told.
            let until_ms = state.gone_by.unwrap_or(state.stop_by.unwrap_or(0) + LEAVES_MS);
            let left = until_ms.saturating_sub(self.clock.steady_ms());
            if left == 0 {
                tracing::warn!("a consumer does not end; it is left to itself");
                return false;
            }
            let wait = Duration::from_millis(left);
            state = self.done.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(state);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            threads::join(thread, Duration::from_millis(LEAVES_MS));
        }
        clean
    }

    fn status(&self) -> ConsumerStatus {
        let state = self.lock();
        ConsumerStatus {
            partitions: self.own.partitions.get(),
            lag: self.own.lag.get(),
            handled: self.own.handled.get(),
            retries: self.own.retries.get(),
            skipped: self.own.skipped.get(),
            resets: self.own.resets.get(),
            last_error: state.last_error.clone(),
            failed: state.failed.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
