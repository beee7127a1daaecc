//! A host's subscription to a room, or to all of them.

use crate::codes::Code;
use crate::command::Start;
use crate::error::{Error, Result};
use crate::message::{Epoch, Position, Publication};
use crate::room::subscriber::{Ended, Subscriber};
use crate::server::shared::Shared;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;

/// A room's publications for the host: history first, then live, contiguous. Or those of all rooms, live. Ends when it is dropped.
#[derive(Debug)]
pub struct Subscription {
    /// None: all of them.
    room: Option<Arc<str>>,
    epoch: Epoch,
    subscriber: Arc<Subscriber>,
    /// Not held while nothing is read: an engine that has stopped lets go of its directory.
    shared: Weak<Shared>,
    pool: Weak<Handle>,
    at: u64,
    /// What is at or below comes from the view, what is above from the queue.
    cursor: u64,
    recovered: bool,
}

impl Subscription {
    pub(super) fn open(
        shared: &Arc<Shared>,
        pool: Weak<Handle>,
        room: &str,
        start: Start,
    ) -> Result<Subscription> {
        let room: Arc<str> = room.into();
        let limits = &shared.policy.limits;
        shared.history.asked_start(&start);
        let (count, bytes) = (limits.event_queue, limits.subscription_bytes);
        let subscriber = Arc::new(Subscriber::new(count, bytes, shared.metrics.clone()));
        let cursor = shared.history.listen(&room, subscriber.clone())?;
        let mut subscription = Subscription {
            epoch: shared.history.epoch(&room),
            room: Some(room.clone()),
            subscriber,
            shared: Arc::downgrade(shared),
            pool,
            at: cursor,
            cursor,
            recovered: false,
        };
        // From here on a failure drops the subscription, which ends the listening.
        (subscription.at, subscription.recovered) =
            shared.history.position(&room, &start, cursor, &*shared.clock)?;
        Ok(subscription)
    }

    pub(super) fn open_all(shared: &Arc<Shared>, pool: Weak<Handle>) -> Subscription {
        let limits = &shared.policy.limits;
        let (count, bytes) = (limits.event_queue, limits.subscription_bytes);
        let subscriber = Arc::new(Subscriber::new(count, bytes, shared.metrics.clone()));
        shared.hub.subscribe_all(subscriber.clone());
        let shared = Arc::downgrade(shared);
        Subscription {
            room: None,
            epoch: Epoch(0),
            subscriber,
            shared,
            pool,
            at: 0,
            cursor: 0,
            recovered: false,
        }
    }

    /// The room; none where it is to all of them.
    pub fn room(&self) -> Option<&str> {
        self.room.as_deref()
    }

    /// For a start from a position: whether it could be resumed from. If not, the newest history comes instead.
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// The position of the last publication that was returned: subscribe since here to go on. Of a subscription to all rooms it means
    /// nothing: each room has positions of its own.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.at }
    }

    /// Ends it from another thread; whoever waits for it is told so.
    pub fn closer(&self) -> Closer {
        Closer(self.subscriber.clone())
    }

    /// The next publications, at most `max`, in order. Waits for the first on this thread, at most `timeout`; empty after a timeout.
    /// While it catches up it reads the disk on this thread.
    pub fn next_batch(&mut self, max: usize, timeout: Duration) -> Result<Vec<Publication>, Ended> {
        if let Some(room) = &self.room
            && self.at < self.cursor
        {
            self.subscriber.is_of_this_log()?;
            let shared = self.shared.upgrade().ok_or(Ended::Stopped)?;
            let page = shared.history.publications(room, self.at, self.cursor, max);
            return self.turned(page);
        }
        let batch = self.subscriber.take(max, timeout)?;
        Ok(self.took(batch))
    }

    /// The same for hosts with an async runtime, any of them; waits without a timeout, and reads the disk on a thread of the engine. A
    /// future that is dropped loses nothing.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Publication>, Ended> {
        if let Some(room) = &self.room
            && self.at < self.cursor
        {
            self.subscriber.is_of_this_log()?;
            let (room, at, cursor) = (room.clone(), self.at, self.cursor);
            let read = {
                let shared = self.shared.upgrade().ok_or(Ended::Stopped)?;
                let pool = self.pool.upgrade().ok_or(Ended::Stopped)?;
                pool.spawn_blocking(move || shared.history.publications(&room, at, cursor, max))
            };
            let page = match read.await {
                Ok(page) => page,
                Err(e) if e.is_panic() => Err(Error::new(Code::Internal, "the read panicked")),
                Err(_) => return Err(Ended::Stopped),
            };
            return self.turned(page);
        }
        let batch = std::future::poll_fn(|cx| self.subscriber.poll(max, cx.waker())).await?;
        Ok(self.took(batch))
    }

    /// A page was read.
    fn turned(&mut self, page: Result<Option<Vec<Publication>>>) -> Result<Vec<Publication>, Ended> {
        let why = match page {
            Ok(Some(page)) => {
                self.at = page.last().map_or(self.cursor, Publication::offset);
                return Ok(page);
            }
            Ok(None) => Ended::Dropped,
            Err(e) => {
                tracing::warn!(error = %e, "a subscription's history cannot be read; it ends");
                Ended::Unreadable
            }
        };
        self.subscriber.end(why);
        Err(why)
    }

    fn took(&mut self, batch: Vec<Publication>) -> Vec<Publication> {
        if let Some(last) = batch.last() {
            self.at = last.offset();
        }
        batch
    }
}

/// Ends a [`Subscription`] that another thread may be waiting for.
#[derive(Clone, Debug)]
pub struct Closer(Arc<Subscriber>);

impl Closer {
    /// Ends it: what is queued can still be read, then it says [`Ended::Closed`].
    pub fn close(&self) {
        self.0.end(Ended::Closed);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscriber.end(Ended::Closed);
        if let Some(shared) = self.shared.upgrade() {
            match &self.room {
                Some(room) => shared.hub.unsubscribe(room, &self.subscriber),
                None => shared.hub.unsubscribe_all(&self.subscriber),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, Message, Settings};
    use std::pin::pin;
    use std::sync::mpsc::channel;
    use std::task::{Context, Poll, Waker};

    fn with_history(settings: Settings) -> Engine {
        let engine = Engine::builder().settings(settings).log("memory").start().unwrap();
        let data = format!("\"{}\"", "x".repeat(50_000));
        (0..4).for_each(|_| drop(engine.publish(Message::json("lobby", &data)).wait().unwrap()));
        engine
    }

    /// Its history was read from the disk on the thread that polled: a host's executor stood still meanwhile.
    #[test]
    fn a_future_does_not_read_on_the_executors_thread() {
        let engine = with_history(Settings::default());
        let mut subscription = engine.subscribe("lobby", Start::History(4)).unwrap();
        // Every thread that may wait for a disk waits for one.
        let pool = engine.0.pool().upgrade().unwrap();
        let mut disks = Vec::new();
        for _ in 0..4 {
            let (disk, wait) = channel::<()>();
            pool.spawn_blocking(move || wait.recv().unwrap_err());
            disks.push(disk);
        }
        {
            let mut next = pin!(subscription.next(9));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(next.as_mut().poll(&mut cx).is_pending());
            assert!(next.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(subscription.position().offset, 0, "a future that was dropped has taken nothing");
        drop(disks);
        let mut next = pin!(subscription.next(9));
        let page = loop {
            match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(page) => break page.unwrap(),
                Poll::Pending => std::thread::yield_now(),
            }
        };
        assert_eq!(page.len(), 4);
    }

    #[test]
    fn one_to_all_rooms_has_what_comes_from_now_on() {
        let mut settings = Settings::default();
        settings.limits.event_queue = 3;
        let engine = with_history(settings);
        let mut all = engine.subscribe_all().unwrap();
        let mut other = engine.subscribe_all().unwrap();
        let publish = |room: &str| engine.publish(Message::json(room, "1")).wait().unwrap();
        assert_eq!(all.next_batch(9, Duration::ZERO), Ok(Vec::new()));
        assert_eq!(all.room(), None);
        // One has members of the host's as well, and one nobody.
        let lobby = engine.subscribe("lobby", Start::Live).unwrap();
        assert_eq!(lobby.room(), Some("lobby"));
        ["lobby", "hall", "lobby"].into_iter().for_each(|room| drop(publish(room)));
        let seen = all.next_batch(9, Duration::ZERO).unwrap();
        let seen: Vec<_> = seen.iter().map(|p| (p.room(), p.offset(), p.prev())).collect();
        assert_eq!(seen, [("lobby", 5, 4), ("hall", 6, 0), ("lobby", 7, 5)]);
        // One that is not read ends, and the others go on.
        publish("hall");
        assert_eq!(other.next_batch(9, Duration::ZERO), Err(Ended::Slow));
        assert_eq!(all.next_batch(9, Duration::ZERO).unwrap().len(), 1);
        drop(other);
        publish("hall");
        engine.stop(Duration::from_secs(5)).unwrap();
        assert_eq!(all.next_batch(9, Duration::MAX).unwrap().len(), 1);
        assert_eq!(all.next_batch(9, Duration::MAX), Err(Ended::Stopped));
        assert_eq!(engine.subscribe_all().unwrap_err().code(), Code::Stopped);
    }

    #[test]
    fn another_thread_ends_the_wait() {
        let engine = with_history(Settings::default());
        let mut subscription = engine.subscribe("lobby", Start::History(1)).unwrap();
        let closer = subscription.closer();
        let waits = std::thread::spawn(move || {
            let first = subscription.next_batch(9, Duration::MAX).unwrap();
            (first.len(), subscription.next_batch(9, Duration::MAX))
        });
        closer.clone().close();
        closer.close();
        let (first, then) = waits.join().unwrap();
        assert_eq!((first, then), (1, Err(Ended::Closed)));
    }

    /// It was said to be slow, as if its queue had passed its bound.
    #[test]
    fn one_that_retention_has_overtaken_is_told_so() {
        let mut settings = Settings::default();
        settings.storage.segment_bytes = 64 << 10;
        settings.storage.retain_bytes = 200 << 10;
        let engine = with_history(settings);
        let all = Start::Since { epoch: None, offset: 0, history: 1 };
        let mut subscription = engine.subscribe("lobby", all).unwrap();
        assert!(subscription.recovered());
        assert_eq!(subscription.next_batch(1, Duration::ZERO).unwrap()[0].offset(), 1);
        let data = format!("\"{}\"", "x".repeat(50_000));
        (0..20).for_each(|_| drop(engine.publish(Message::json("lobby", &data)).wait().unwrap()));
        // Retention keeps house with the clock's sweep. While it does, a record may be gone that the view still has.
        let ended = loop {
            match subscription.next_batch(0, Duration::ZERO) {
                Ok(_) => subscription.at = 1,
                Err(Ended::Unreadable) => {}
                Err(ended) => break ended,
            }
            std::thread::yield_now();
        };
        assert_eq!(ended, Ended::Dropped);
        assert_eq!(subscription.next_batch(9, Duration::ZERO), Err(Ended::Dropped));
        let since = Start::Since { epoch: None, offset: subscription.position().offset, history: 1 };
        assert!(!engine.subscribe("lobby", since).unwrap().recovered());
    }
}
