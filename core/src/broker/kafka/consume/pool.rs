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
    /// No handler is called any more.
    ending: AtomicBool,
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
        let pool = Arc::new(Pool {
            state: Mutex::default(),
            ready: Condvar::new(),
            ending: AtomicBool::new(false),
            bell,
        });
        for n in 0..threads {
            let (this, handler) = (pool.clone(), handler.clone());
            let thread = Builder::new().name(format!("klatch-work-{n}")).spawn(move || {
                while let Some(mut job) = this.next() {
                    handle(&mut job, &*handler, &this.ending);
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

    /// From now on no handler is called; those that run are left alone. What was not begun comes back.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
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

fn handle(job: &mut Job, handler: &Handler, ending: &AtomicBool) {
    let begun = Instant::now();
    let halts = |job: &Job| job.halt.load(Ordering::Acquire) || ending.load(Ordering::Acquire);
    while let Some(item) = job.items.front().filter(|_| !halts(job)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Kind, Record};
    use std::sync::mpsc::channel;

    const LONG: Duration = Duration::from_secs(60);

    /// A stop told the thread that keeps the membership, and a handler that returned before that had woken was called once more.
    #[test]
    fn nothing_is_begun_after_the_end() {
        let ((came, seen), (go, wait)) = (channel(), channel::<()>());
        let wait = Mutex::new(wait);
        let handler: Arc<Handler> = Arc::new(move |publication: &Publication| {
            let _ = came.send(publication.offset());
            let _ = wait.lock().unwrap().recv();
            Ok(())
        });
        let bell = Arc::new(Bell::default());
        let pool = Pool::start(handler, 1, bell.clone()).unwrap();
        let item = |offset| {
            let mut body = Vec::new();
            Record::encode(&mut body, Kind::Json, "lobby", "ann", "", b"1");
            let record = Record::trusted(offset, 7, body.into());
            Item { next: offset, publication: Publication { record, prev: offset - 1 } }
        };
        let (items, halt) = ((1..=3).map(item).collect(), Arc::default());
        pool.give(Job { partition: 0, number: 1, items, next: 0, end: 3, handled: 0, failed: None, halt });
        assert_eq!(seen.recv_timeout(LONG), Ok(1));
        pool.end();
        go.send(()).unwrap();
        assert!(bell.wait(LONG));
        let back = pool.take_back();
        assert_eq!((back[0].handled, back[0].next, back[0].items.len()), (1, 1, 2));
        pool.close();
    }
}
