//! Brokers order and store messages. The tail turns their records into publications.

pub mod append;
pub mod consume;
pub mod embedded;
pub mod history;
pub mod ids;
#[cfg(feature = "_kafka")]
pub mod kafka;
pub mod memory;
pub mod queue;
pub mod storage;
pub mod tail;

use crate::error::Result;
use crate::message::{Epoch, Publication};
use append::Append;
use consume::{Consume, Handler};
use std::sync::Arc;

/// Where messages are ordered and stored. Records come out through the [`tail::Tail`] that the broker was made with.
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Hands over publishes, in order; takes them all out of `appends`. Never blocks: what cannot be taken is answered
    /// `busy` or with the reason through its waiter.
    fn append(&self, appends: &mut Vec<Append>);

    /// Turns the view's places into publications, in the same order.
    fn read(&self, rows: &[crate::view::OwnedRow]) -> Result<Vec<Publication>>;

    /// The epoch of a room's stream.
    fn epoch(&self, room: &str) -> Epoch;

    /// Whether this node has read enough of the log to serve a room: its members, history and position; the error says why not.
    fn serves(&self, room: &str) -> Result<()> {
        let _ = room;
        Ok(())
    }

    /// Whether this node knows what comes after a position of a room that is ahead of what the view shows. `since_ms` (steady clock): when
    /// the position was first asked for; what the log told before is not taken as an answer. Does not wait.
    ///
    /// Of a log that this node alone writes, it has read everything.
    fn reach(&self, room: &str, offset: u64, since_ms: u64) -> Reach {
        let _ = (room, offset, since_ms);
        Reach::Beyond
    }

    /// Answers publishes that have waited too long; called every 100 ms.
    fn sweep(&self);

    /// Whether publishes are stored now, and if not why.
    fn health(&self) -> Health;

    /// Has a handler called for the publications of the whole log, as a member of a group. `unsupported` where there are no groups.
    fn consume(&self, how: Consume, handler: Arc<Handler>) -> Result<Arc<dyn consume::Work>> {
        let _ = handler;
        how.check()?;
        Err(consume::unsupported())
    }

    /// Refuses new publishes, writes what is queued until `deadline_ms` (steady clock) and closes. Returns how many were not
    /// written; they have been answered.
    fn stop(&self, deadline_ms: u64) -> Result<u64>;
}

/// How a position lies to what a node has read; see [`Broker::reach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The node has read up to it.
    Read,
    /// It has yet to, or cannot tell.
    Behind,
    /// The log itself does not reach so far: whoever names it has it from another log.
    Beyond,
}

/// Whether a broker stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Publishes are stored.
    Up,
    /// The disk is full; publishes are refused until there is room.
    StorageFull,
    /// A sync failed; nothing more is stored until the engine is started again.
    StorageFailed,
    /// The log has damage that nobody has accepted.
    LogDamaged,
    /// Stopped.
    Stopped,
    /// Part of the Kafka cluster is away: publishes to some rooms are not stored until it is back, those to others are.
    Degraded,
    /// The Kafka cluster does not answer; publishes are refused until it does.
    Down,
}

impl Health {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Health::Up => "up",
            Health::StorageFull => "storage_full",
            Health::StorageFailed => "storage_failed",
            Health::LogDamaged => "log_damaged",
            Health::Stopped => "stopped",
            Health::Degraded => "degraded",
            Health::Down => "down",
        }
    }
}
