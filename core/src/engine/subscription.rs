//! A host's subscription to a room.

use crate::command::Start;
use crate::error::Result;
use crate::message::{Epoch, Position, Publication};
use crate::room::subscriber::{Ended, Subscriber};
use crate::server::shared::Shared;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A room's publications for the host: history first, then live, contiguous. Ends when it is dropped.
#[derive(Debug)]
pub struct Subscription {
    room: Arc<str>,
    epoch: Epoch,
    subscriber: Arc<Subscriber>,
    /// Not held while nothing is read: an engine that has stopped lets go of its directory.
    shared: Weak<Shared>,
    at: u64,
    /// What is at or below comes from the view, what is above from the queue.
    cursor: u64,
    recovered: bool,
}

impl Subscription {
    pub(super) fn open(shared: &Arc<Shared>, room: &str, start: Start) -> Result<Subscription> {
        let room: Arc<str> = room.into();
        let limits = &shared.policy.limits;
        shared.history.asked_start(&start);
        let (count, bytes) = (limits.event_queue, limits.subscription_bytes);
        let subscriber = Arc::new(Subscriber::new(count, bytes, shared.metrics.clone()));
        let cursor = shared.history.listen(&room, subscriber.clone())?;
        let epoch = shared.history.epoch(&room);
        let weak = Arc::downgrade(shared);
        let mut subscription =
            Subscription { room, epoch, subscriber, shared: weak, at: cursor, cursor, recovered: false };
        // From here on a failure drops the subscription, which ends the listening.
        (subscription.at, subscription.recovered) =
            shared.history.position(&subscription.room, &start, cursor)?;
        Ok(subscription)
    }

    /// For a start from a position: whether it could be resumed from. If not, the newest history comes instead.
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// The position of the last publication that was returned: subscribe since here to go on.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.at }
    }

    /// The next publications, at most `max`, in order. Waits for the first on this thread, at most `timeout`; empty after a timeout.
    pub fn next_batch(&mut self, max: usize, timeout: Duration) -> Result<Vec<Publication>, Ended> {
        if self.at < self.cursor {
            return self.page(max);
        }
        let batch = self.subscriber.take(max, timeout)?;
        Ok(self.took(batch))
    }

    /// The same for hosts with an async runtime, any of them; waits without a timeout.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Publication>, Ended> {
        if self.at < self.cursor {
            return self.page(max);
        }
        let batch = std::future::poll_fn(|cx| self.subscriber.poll(max, cx.waker())).await?;
        Ok(self.took(batch))
    }

    fn page(&mut self, max: usize) -> Result<Vec<Publication>, Ended> {
        let shared = self.shared.upgrade().ok_or(Ended::Stopped)?;
        let page = match shared.history.publications(&self.room, self.at, self.cursor, max) {
            Ok(page) => page,
            Err(e) => {
                tracing::warn!(error = %e, "a subscription's history cannot be read; it ends");
                self.subscriber.end(Ended::Slow);
                return Err(Ended::Slow);
            }
        };
        self.at = page.last().map_or(self.cursor, Publication::offset);
        Ok(page)
    }

    fn took(&mut self, batch: Vec<Publication>) -> Vec<Publication> {
        if let Some(last) = batch.last() {
            self.at = last.offset();
        }
        batch
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscriber.end(Ended::Closed);
        if let Some(shared) = self.shared.upgrade() {
            shared.hub.unsubscribe(&self.room, &self.subscriber);
        }
    }
}
