//! The bounded queue between the hub and a host's subscription.

use crate::clock::LONGEST;
use crate::config::Limit;
use crate::message::Publication;
use crate::metrics::Metrics;
use crate::threads;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Publications of one room on their way to a host.
#[derive(Debug)]
pub struct Subscriber {
    queue: Mutex<Queue>,
    ready: Condvar,
    max_count: usize,
    max_bytes: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Publication>,
    bytes: usize,
    ended: Option<Ended>,
    waker: Option<Waker>,
}

/// Why a subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It was closed by its owner.
    Closed,
    /// Its owner did not read: its queue passed `event_queue` or `subscription_bytes`. Subscribe again since the last position.
    Slow,
    /// Retention has dropped what it had yet to read. Subscribe again: since the last position that is not recovered, and the newest
    /// history comes instead.
    Dropped,
    /// The history that it had yet to read cannot be read; the log tells why. Subscribe again since the last position to try again. While
    /// retention drops what is read this may come in place of `Dropped`.
    Unreadable,
    /// The log was replaced by another one: a Kafka topic was created again. Positions of the old one mean nothing; subscribe again.
    Reset,
    /// The engine stopped.
    Stopped,
}

impl Subscriber {
    /// An empty queue with its bounds.
    pub fn new(max_count: usize, max_bytes: usize, metrics: Arc<Metrics>) -> Subscriber {
        Subscriber { queue: Mutex::default(), ready: Condvar::new(), max_count, max_bytes, metrics }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error if it has ended by a reset: what it has yet to read from the view would be of another log.
    pub fn is_of_this_log(&self) -> Result<(), Ended> {
        if self.lock().ended == Some(Ended::Reset) { Err(Ended::Reset) } else { Ok(()) }
    }

    /// Adds what the tail accepted. At the bound the queue is given up, for a gap must not be hidden; false if it has ended. Who
    /// waits for it is to be woken by the caller, once it holds no lock: the host's code may run in that.
    pub fn push(&self, publications: &[Publication], wakers: &mut Vec<Waker>) -> bool {
        let mut q = self.lock();
        if q.ended.is_some() {
            return false;
        }
        for p in publications {
            q.bytes += p.record.body().len();
            q.items.push_back(p.clone());
        }
        let passed = if q.items.len() > self.max_count {
            Some(Limit::EventQueue)
        } else if q.bytes > self.max_bytes {
            Some(Limit::SubscriptionBytes)
        } else {
            None
        };
        if let Some(limit) = passed {
            self.metrics.limit_hits[limit].inc();
            q.items.clear();
            q.bytes = 0;
            q.ended = Some(Ended::Slow);
        }
        self.ready.notify_one();
        wakers.extend(q.waker.take());
        q.ended.is_none()
    }

    /// Ends it. What is queued is still read before the end is seen.
    pub fn end(&self, why: Ended) {
        let mut q = self.lock();
        q.ended.get_or_insert(why);
        self.ready.notify_all();
        let waker = q.waker.take();
        drop(q);
        if let Some(w) = waker {
            threads::wake(w);
        }
    }

    /// Up to `max` publications; waits for the first at most `timeout`. Empty after a timeout.
    pub fn take(&self, max: usize, timeout: Duration) -> Result<Vec<Publication>, Ended> {
        let until = Instant::now() + timeout.min(LONGEST);
        let mut q = self.lock();
        loop {
            if let Some(ready) = Self::pop(&mut q, max) {
                return ready;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Vec::new());
            }
            q = self.ready.wait_timeout(q, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Up to `max` publications, or registers `waker`.
    pub fn poll(&self, max: usize, waker: &Waker) -> Poll<Result<Vec<Publication>, Ended>> {
        let mut q = self.lock();
        match Self::pop(&mut q, max) {
            Some(ready) => Poll::Ready(ready),
            None => {
                let before = q.waker.replace(waker.clone());
                drop(q);
                // With it goes what the host keeps in it, which may call back: not under the lock.
                drop(before);
                Poll::Pending
            }
        }
    }

    fn pop(q: &mut Queue, max: usize) -> Option<Result<Vec<Publication>, Ended>> {
        if q.items.is_empty() {
            return q.ended.map(Err);
        }
        let n = q.items.len().min(max.max(1));
        let out: Vec<_> = q.items.drain(..n).collect();
        q.bytes -= out.iter().map(|p| p.record.body().len()).sum::<usize>();
        Some(Ok(out))
    }
}
