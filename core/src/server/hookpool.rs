//! Threads that call the host's hooks, so that a hook may block without stopping a shard, and the watch over how long it does.

use crate::clock::Clock;
use crate::config::{Limit, Limits};
use crate::hooks::{
    Authorizer, ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishHook,
    PublishRequest, Way,
};
use crate::metrics::Metrics;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// One call.
#[derive(Debug)]
pub(crate) enum Call {
    Connect(ConnectRequest, Way),
    Join(JoinRequest, Way),
    Publish(PublishRequest, Way),
}

/// The host's hooks.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) authorizer: Option<Arc<dyn Authorizer>>,
    pub(crate) publish: Option<Arc<dyn PublishHook>>,
}

/// The threads' queue, bounded by `hook_queue`.
#[derive(Debug)]
pub(crate) struct HookPool {
    queue: SyncSender<Call>,
    watch: Arc<Watch>,
}

const THREADS: usize = 4;

impl HookPool {
    /// Starts the threads. They are not joined at stop: a hook may block for ever.
    pub(crate) fn start(
        hooks: Hooks,
        limits: &Limits,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<HookPool> {
        let (tx, rx) = sync_channel::<Call>(limits.hook_queue.max(1));
        let rx = Arc::new(Mutex::new(rx));
        let watch = Arc::new(Watch {
            running: Default::default(),
            warn_ms: limits.hook_warn_ms,
            warned_ms: AtomicU64::new(0),
            clock,
            metrics,
        });
        for i in 0..THREADS {
            let (hooks, rx, watch) = (hooks.clone(), rx.clone(), watch.clone());
            std::thread::Builder::new()
                .name(format!("klatch-hook-{i}"))
                .spawn(move || run(&hooks, &rx, &watch, i))?;
        }
        Ok(HookPool { queue: tx, watch })
    }

    /// Warns of calls that have held their thread for too long; called every 100 ms.
    pub(crate) fn sweep(&self) {
        (0..THREADS).for_each(|i| self.watch.look(i));
    }

    /// Queues a call; false if the queue is full (the call is then answered as `internal` by being dropped).
    pub(crate) fn call(&self, call: Call) -> bool {
        self.queue.try_send(call).is_ok()
    }
}

/// Since when each thread has been in a call.
#[derive(Debug)]
struct Watch {
    /// Steady clock; 0 if it is in none, or in one that was warned of.
    running: [AtomicU64; THREADS],
    warn_ms: u64,
    /// When the log was last told.
    warned_ms: AtomicU64,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// The log is told of calls that run long at most this often.
const WARN_EVERY_MS: u64 = 10_000;

impl Watch {
    fn began(&self, thread: usize) {
        self.running[thread].store(self.clock.steady_ms(), Ordering::Relaxed);
    }

    /// Counts the call of a thread, once, if it has run for too long.
    fn look(&self, thread: usize) {
        let (since, now) = (self.running[thread].load(Ordering::Relaxed), self.clock.steady_ms());
        let ran = now.saturating_sub(since);
        if since == 0 || self.warn_ms == 0 || ran <= self.warn_ms {
            return;
        }
        let relaxed = Ordering::Relaxed;
        if self.running[thread].compare_exchange(since, 0, relaxed, relaxed).is_err() {
            return;
        }
        self.metrics.limit_hits[Limit::HookWarnMs].inc();
        let told = self.warned_ms.load(relaxed);
        if (told == 0 || now >= told + WARN_EVERY_MS)
            && self.warned_ms.compare_exchange(told, now, relaxed, relaxed).is_ok()
        {
            tracing::warn!(
                ran_ms = ran,
                "a hook of the host holds one of the {THREADS} hook threads for long"
            );
        }
    }

    fn ended(&self, thread: usize) {
        self.look(thread);
        self.running[thread].store(0, Ordering::Relaxed);
    }
}

fn run(hooks: &Hooks, queue: &Mutex<Receiver<Call>>, watch: &Watch, thread: usize) {
    loop {
        let call = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(call) = call else { return };
        watch.began(thread);
        // A panic drops the answer, which then says so.
        let called = catch_unwind(AssertUnwindSafe(|| match (call, &hooks.authorizer, &hooks.publish) {
            (Call::Connect(r, way), Some(a), _) => a.connect(r, ConnectAnswer(way)),
            (Call::Join(r, way), Some(a), _) => a.join(r, JoinAnswer(way)),
            (Call::Publish(r, way), _, Some(p)) => p.publish(r, PublishAnswer(way)),
            _ => {}
        }));
        watch.ended(thread);
        if called.is_err() {
            watch.metrics.hook_failures.inc();
            tracing::error!("a hook of the host panicked");
        }
    }
}
