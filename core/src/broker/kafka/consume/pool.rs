//! The threads that call a handler. They are no threads of the engine's: a handler may block, and may call whatever it likes.

use crate::broker::consume::Handler;
use crate::broker::kafka::bell::Bell;
use crate::message::Publication;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, ThreadId};
use std::time::{Duration, Instant};

/// How long one partition keeps a thread if others wait, but for the handler that runs.
const SLICE: Duration = Duration::from_millis(100);

/// A publication to be handled.
#[derive(Debug)]
pub struct Item {
    /// The offset of Kafka's behind it.
    pub next: u64,
    /// What the handler gets.
    pub publication: Publication,
}

/// Some publications of one partition, in order.
#[derive(Debug)]
pub struct Job {
    /// The partition.
    pub partition: u32,
    /// Which assignment of it; a later one has nothing to do with this job.
    pub number: u64,
    /// What is left.
    pub items: VecDeque<Item>,
    /// Everything before this offset of Kafka's is dealt with.
    pub next: u64,
    /// What `next` becomes with the last item.
    pub end: u64,
    /// How many were handled since it was given to the pool.
    pub handled: u64,
    /// Why the first item that is left was not handled.
    pub failed: Option<String>,
    /// Nothing more of it is to be begun.
    pub halt: Arc<AtomicBool>,
}

/// See the module.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<State>,
    ready: Condvar,
    /// Rung when a job has come back, or a thread has ended.
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    back: Vec<Job>,
    threads: Vec<ThreadId>,
    closed: bool,
}

impl Pool {
    /// Starts so many threads.
    pub fn start(handler: Arc<Handler>, threads: usize, bell: Arc<Bell>) -> io::Result<Arc<Pool>> {
        let pool = Arc::new(Pool { state: Mutex::default(), ready: Condvar::new(), bell });
        for n in 0..threads {
            let (this, handler) = (pool.clone(), handler.clone());
            let thread = Builder::new().name(format!("klatch-work-{n}")).spawn(move || {
                while let Some(mut job) = this.next() {
                    handle(&mut job, &*handler);
                    this.lock().back.push(job);
                    this.bell.ring();
                }
                // With the last handler may go what the host keeps in it, an engine even.
                drop(handler);
            });
            match thread {
                Ok(thread) => pool.lock().threads.push(thread.thread().id()),
                Err(e) => {
                    pool.close();
                    return Err(e);
                }
            }
        }
        Ok(pool)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            match state.jobs.pop_front() {
                Some(job) => return Some(job),
                None => state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Gives it a job.
    pub fn give(&self, job: Job) {
        self.lock().jobs.push_back(job);
        self.ready.notify_one();
    }

    /// Takes back the jobs that are done with, and those that were told to halt and have not begun.
    pub fn take_back(&self) -> Vec<Job> {
        let mut state = self.lock();
        let mut back = std::mem::take(&mut state.back);
        for job in std::mem::take(&mut state.jobs) {
            if job.halt.load(Ordering::Acquire) {
                back.push(job);
            } else {
                state.jobs.push_back(job);
            }
        }
        back
    }

    /// Ends the threads; one that is in a handler ends after it.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// Whether this is one of its threads.
    pub fn is_here(&self) -> bool {
        self.lock().threads.contains(&std::thread::current().id())
    }
}

fn handle(job: &mut Job, handler: &Handler) {
    let begun = Instant::now();
    while let Some(item) = job.items.front().filter(|_| !job.halt.load(Ordering::Acquire)) {
        let call = || handler(&item.publication).map_err(|e| e.to_string());
        let failed = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(())) => None,
            Ok(Err(text)) => Some(text),
            Err(_) => Some("the handler panicked".to_owned()),
        };
        if failed.is_some() {
            job.failed = failed;
            return;
        }
        job.next = item.next;
        job.handled += 1;
        job.items.pop_front();
        if begun.elapsed() >= SLICE {
            break;
        }
    }
    if job.items.is_empty() {
        job.next = job.end;
    }
}
