//! Threads that call the host's hooks, so that a hook may block without stopping a shard.

use crate::hooks::{
    Authorizer, ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishHook,
    PublishRequest, Way,
};
use crate::metrics::Metrics;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
}

const THREADS: usize = 4;

impl HookPool {
    /// Starts the threads. They are not joined at stop: a hook may block for ever.
    pub(crate) fn start(hooks: Hooks, queue: usize, metrics: &Arc<Metrics>) -> std::io::Result<HookPool> {
        let (tx, rx) = sync_channel::<Call>(queue.max(1));
        let rx = Arc::new(Mutex::new(rx));
        for i in 0..THREADS {
            let (hooks, rx, metrics) = (hooks.clone(), rx.clone(), metrics.clone());
            std::thread::Builder::new()
                .name(format!("klatch-hook-{i}"))
                .spawn(move || run(&hooks, &rx, &metrics))?;
        }
        Ok(HookPool { queue: tx })
    }

    /// Queues a call; false if the queue is full (the call is then answered as `internal` by being dropped).
    pub(crate) fn call(&self, call: Call) -> bool {
        self.queue.try_send(call).is_ok()
    }
}

fn run(hooks: &Hooks, queue: &Mutex<Receiver<Call>>, metrics: &Metrics) {
    loop {
        let call = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(call) = call else { return };
        // A panic drops the answer, which then says so.
        let called = catch_unwind(AssertUnwindSafe(|| match (call, &hooks.authorizer, &hooks.publish) {
            (Call::Connect(r, way), Some(a), _) => a.connect(r, ConnectAnswer(way)),
            (Call::Join(r, way), Some(a), _) => a.join(r, JoinAnswer(way)),
            (Call::Publish(r, way), _, Some(p)) => p.publish(r, PublishAnswer(way)),
            _ => {}
        }));
        if called.is_err() {
            metrics.hook_failures.inc();
            tracing::error!("a hook of the host panicked");
        }
    }
}
