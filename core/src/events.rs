//! Events for the host: a bounded queue from the engine's threads to whoever reads it.

use crate::clock::LONGEST;
use crate::codes::{Code, Disconnect};
use crate::config::Limit;
use crate::metrics::Metrics;
use crate::threads;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Something that happened in the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A connection was let in.
    Connected {
        /// Its id.
        connection: String,
        /// Its user; empty for an anonymous one.
        user: String,
        /// Its address.
        address: SocketAddr,
    },
    /// A connection that had been let in has ended.
    Disconnected {
        /// Its id.
        connection: String,
        /// Its user.
        user: String,
        /// Why the engine closed it; none if the client did, or the network.
        why: Option<Disconnect>,
    },
    /// A connection has become a member.
    Joined {
        /// Its id.
        connection: String,
        /// Its user.
        user: String,
        /// The room.
        room: String,
    },
    /// A connection is no longer a member.
    Left {
        /// Its id.
        connection: String,
        /// Its user.
        user: String,
        /// The room.
        room: String,
    },
    /// Storing has become impossible (a code), or possible again (none).
    Storage {
        /// Why publishes are refused.
        refusing: Option<Code>,
    },
    /// So many events were lost here because the stream was not read.
    Lost {
        /// How many.
        count: u64,
    },
}

/// The queue. Nothing is queued until a host has opened the stream.
#[derive(Debug)]
pub(crate) struct Events {
    open: AtomicBool,
    queue: Mutex<Queue>,
    ready: Condvar,
    limit: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Event>,
    lost: u64,
    ended: bool,
    /// Of every task that waits for an event.
    wakers: Vec<Waker>,
}

impl Events {
    pub(crate) fn new(limit: usize, metrics: Arc<Metrics>) -> Events {
        Events {
            open: AtomicBool::new(false),
            queue: Mutex::default(),
            ready: Condvar::new(),
            limit,
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event, if anybody reads them. Past the limit it is counted as lost instead.
    pub(crate) fn push(&self, make: impl FnOnce() -> Event) {
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        let mut q = self.lock();
        if q.items.len() >= self.limit.max(1) {
            q.lost += 1;
            self.metrics.events_lost.inc();
            self.metrics.limit_hits[Limit::EventQueue].inc();
            return;
        }
        if q.lost > 0 {
            let count = std::mem::take(&mut q.lost);
            q.items.push_back(Event::Lost { count });
        }
        q.items.push_back(make());
        self.ready.notify_one();
        let wakers = std::mem::take(&mut q.wakers);
        drop(q);
        wakers.into_iter().for_each(threads::wake);
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        let mut q = self.lock();
        q.ended = true;
        self.ready.notify_all();
        let wakers = std::mem::take(&mut q.wakers);
        drop(q);
        wakers.into_iter().for_each(threads::wake);
    }

    fn pop(q: &mut Queue) -> Option<Option<Event>> {
        match q.items.pop_front() {
            Some(e) => Some(Some(e)),
            None if q.lost > 0 => Some(Some(Event::Lost { count: std::mem::take(&mut q.lost) })),
            None => q.ended.then_some(None),
        }
    }
}

/// The host's end of the events.
#[derive(Debug)]
pub struct EventStream(pub(crate) Arc<Events>);

/// What waiting for an event came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextEvent {
    /// An event.
    Event(Event),
    /// Nothing happened in time.
    TimedOut,
    /// The engine has stopped and every event was read.
    Ended,
}

impl EventStream {
    /// The next event; waits for it on this thread, at most `timeout`.
    pub fn next_within(&self, timeout: Duration) -> NextEvent {
        let until = Instant::now() + timeout.min(LONGEST);
        let mut q = self.0.lock();
        loop {
            match Events::pop(&mut q) {
                Some(Some(e)) => return NextEvent::Event(e),
                Some(None) => return NextEvent::Ended,
                None => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return NextEvent::TimedOut;
            }
            q = self.0.ready.wait_timeout(q, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next event; none when the engine has stopped. For hosts with an async runtime, any of them.
    pub async fn next(&self) -> Option<Event> {
        std::future::poll_fn(|cx| {
            let mut q = self.0.lock();
            match Events::pop(&mut q) {
                Some(e) => Poll::Ready(e),
                None => {
                    if !q.wakers.iter().any(|w| w.will_wake(cx.waker())) {
                        q.wakers.push(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Context;

    #[test]
    fn overflow_is_counted_in_its_place() {
        let events = Arc::new(Events::new(2, Arc::default()));
        let left = |n: usize| Event::Left { connection: n.to_string(), user: "".into(), room: "r".into() };
        events.push(|| left(0));
        events.open();
        let stream = EventStream(events.clone());
        (1..6).for_each(|n| events.push(|| left(n)));
        let now = Duration::ZERO;
        assert_eq!(stream.next_within(now), NextEvent::Event(left(1)));
        events.push(|| left(6));
        assert_eq!(stream.next_within(now), NextEvent::Event(left(2)));
        assert_eq!(stream.next_within(now), NextEvent::Event(Event::Lost { count: 3 }));
        assert_eq!(stream.next_within(now), NextEvent::Event(left(6)));
        assert_eq!(stream.next_within(now), NextEvent::TimedOut);
        events.end();
        assert_eq!(stream.next_within(now), NextEvent::Ended);
    }

    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// The second task that waited took the place of the first, which was then never woken: not even by the end.
    #[test]
    fn every_task_that_waits_is_woken() {
        let events = Arc::new(Events::new(2, Arc::default()));
        events.open();
        let streams = [EventStream(events.clone()), EventStream(events.clone())];
        let tasks = [false, false].map(|woken| Arc::new(Woken(AtomicBool::new(woken))));
        let mut waits = streams.each_ref().map(|s| Box::pin(s.next()));
        for (wait, task) in waits.iter_mut().zip(&tasks) {
            let waker = Waker::from(task.clone());
            // As often as it likes, it is one task.
            for _ in 0..3 {
                assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
        }
        assert_eq!(events.lock().wakers.len(), 2);
        events.end();
        assert!(tasks.iter().all(|task| task.0.load(Ordering::SeqCst)));
    }
}
