//! A publish on its way into the log, and where its outcome goes.

use crate::clock::LONGEST;
use crate::codes::Code;
use crate::command::Ref;
use crate::error::{Error, Result};
use crate::message::{Kind, Position};
use crate::threads;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// A message to be appended.
#[derive(Debug)]
pub struct Append {
    /// The room.
    pub room: Arc<str>,
    /// The sender; empty for an anonymous one.
    pub user: Arc<str>,
    /// The id as the client gave it; empty if it gave none.
    pub id: Box<str>,
    /// What the data is.
    pub kind: Kind,
    /// JSON text or bytes.
    pub data: Box<[u8]>,
    /// Who wants to know.
    pub waiter: Waiter,
}

impl Append {
    /// What it counts for in a queue that is bounded in bytes.
    pub fn size(&self) -> usize {
        128 + self.id.len() + self.data.len()
    }
}

/// A connection of a shard. The generation tells a later connection in the same slot from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// The shard.
    pub shard: u32,
    /// The slot in the shard.
    pub slot: u32,
    /// Counts the connections of the slot.
    pub generation: u32,
}

/// Where an outcome goes.
#[derive(Debug)]
pub enum Waiter {
    /// To a connection, through its shard.
    Connection {
        /// Which.
        key: ConnectionKey,
        /// The request's ref.
        reference: Ref,
    },
    /// To a caller in this process.
    Host(Arc<Promise>),
    /// Nowhere: the tail keeps the waiter while its message is appended.
    Nobody,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log at `offset`.
    Stored {
        /// Where.
        offset: u64,
        /// It had been accepted before, by an earlier publish with the same id.
        duplicate: bool,
    },
    /// Certainly not stored; nobody will ever see it.
    NotStored(Error),
    /// Not known.
    Unknown(Error),
}

/// An outcome for a connection, with what its reply needs.
#[derive(Debug)]
pub struct Reply {
    /// The connection.
    pub key: ConnectionKey,
    /// The request's ref.
    pub reference: Ref,
    /// The room.
    pub room: Arc<str>,
    /// The id as given; empty if none.
    pub id: Box<str>,
    /// What happened.
    pub outcome: Outcome,
}

/// The answer to a publish of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Where the accepted record is.
    pub position: Position,
    /// The message's id; made by the engine if none was given.
    pub id: String,
    /// It had been accepted before.
    pub duplicate: bool,
}

/// A slot for one answer, filled once by the engine and taken once by the caller.
pub struct Promise {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    answer: Option<Result<Ack>>,
    waker: Option<Waker>,
}

impl fmt::Debug for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Promise")
    }
}

impl Promise {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Promise {
        Promise { state: Mutex::default(), ready: Condvar::new() }
    }

    /// Fills it; later answers are ignored. Returns the waker of a task that awaits it: to be woken when no lock is held, for it may
    /// call the engine there and then.
    #[must_use]
    pub fn fill(&self, answer: Result<Ack>) -> Option<Waker> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.answer.is_some() {
            return None;
        }
        state.answer = Some(answer);
        self.ready.notify_all();
        state.waker.take()
    }

    /// Waits for the answer on this thread. Bounded by the engine's `publish_timeout_ms`. On a thread of an engine, which the answer may
    /// come from, it does not wait: `would_deadlock`.
    pub fn wait(&self) -> Result<Ack> {
        self.wait_within(LONGEST)
    }

    /// The same, but waits at most `timeout`.
    pub fn wait_within(&self, timeout: Duration) -> Result<Ack> {
        let until = Instant::now() + timeout.min(LONGEST);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(answer) = &state.answer {
                return answer.clone();
            }
            if threads::is_ours() {
                return Err(Error::new(Code::WouldDeadlock, "a waker waits for the engine that woke it"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = "no answer came within the time given; publish it again with the same id";
                return Err(Error::new(Code::Unknown, text));
            }
            state = self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The answer, or registers `waker` for it.
    pub fn poll(&self, waker: &Waker) -> Poll<Result<Ack>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = &state.answer {
            return Poll::Ready(answer.clone());
        }
        let before = state.waker.replace(waker.clone());
        drop(state);
        // With it goes what the host keeps in it, which may call back: not under the lock.
        drop(before);
        Poll::Pending
    }
}
