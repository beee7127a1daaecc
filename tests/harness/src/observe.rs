//! What one client sent and saw: the evidence for the checker.
//!
//! Millions of deliveries fit: each is an offset and a hash of its content, 16 bytes. A log can be written as JSON, so that clients in
//! other processes are checked with the rest.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// All that one client did and saw, over all its connections.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ClientLog {
    /// For reports.
    pub name: String,
    /// The user it connects as; empty if anonymous.
    pub user: String,
    /// The rooms it had to do with.
    pub rooms: Vec<RoomLog>,
    /// Its messages, in the order of first sending.
    pub publishes: Vec<PublishLog>,
    /// Errors it was sent, by name.
    pub errors: HashMap<String, u64>,
    /// Connections that ended without the client wanting it, or by a drop on purpose.
    pub drops: u64,
    /// Epochs seen; [`Run::epoch`] and [`AckLog::epoch`] are places in here.
    pub epochs: Vec<String>,
}

/// What one client saw in one room.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RoomLog {
    /// The room.
    pub room: String,
    /// Its memberships, one after the other.
    pub runs: Vec<Run>,
    /// Publications that came while it was not a member: after the `left`, or with no join at all.
    pub outside: Vec<Delivery>,
}

/// One membership: from a join to the leave, across resumes. A reset ends a run and begins another.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Place of the epoch in [`ClientLog::epochs`].
    pub epoch: usize,
    /// The position that the first delivery follows.
    pub start: u64,
    /// How it began.
    pub began: Began,
    /// Whether own publications are delivered.
    pub echo: bool,
    /// Publications in the order in which they came.
    pub deliveries: Vec<Delivery>,
    /// Deliveries whose `prev` was not the position before them: place in `deliveries`, and that `prev`.
    pub odd_prev: Vec<(usize, u64)>,
    /// Resumes within the run.
    pub resumes: Vec<Resume>,
    /// How it ended.
    pub end: End,
}

/// How a run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Began {
    /// A join without a position.
    #[default]
    Fresh,
    /// A join with a position of another client's run (the same person under a new name, for instance).
    Since,
    /// A join with a position that the server could not go on from, and said so.
    Reset,
}

/// A resume: the client came back with its position and was told `recovered: true`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Resume {
    /// How many deliveries of the run came before it.
    pub after: usize,
    /// The position that the client named.
    pub since: u64,
    /// The position that the server named.
    pub offset: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It has not: the client is a member, or wants to be again.
    #[default]
    Open,
    /// With the reply to a leave, or with a leave whose reply a drop swallowed.
    Left,
    /// The client stopped, or the server told it not to come back.
    Stopped,
}

/// One publication as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its offset.
    pub offset: u64,
    /// Its content; see [`crate::wire::content`].
    pub content: u64,
}

/// One message that the client published.
#[derive(Debug, Serialize, Deserialize)]
pub struct PublishLog {
    /// Place of the room in [`ClientLog::rooms`].
    pub room: usize,
    /// Its id; empty if none was given.
    pub id: Box<str>,
    /// Its body; see [`crate::wire::body`].
    pub body: u64,
    /// How often it was sent.
    pub attempts: u32,
    /// How often the answer was *not stored*.
    pub not_stored: u32,
    /// How often the answer was *unknown*, or none came before the connection ended.
    pub unknown: u32,
    /// How often the client gave up waiting for an answer although the connection stood.
    pub overdue: u32,
    /// Answers that named a position: acks, and own publications.
    pub acks: Vec<AckLog>,
}

/// An answer that a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckLog {
    /// Place of the epoch in [`ClientLog::epochs`].
    pub epoch: usize,
    /// The position it named.
    pub offset: u64,
    /// Whether it said `duplicate`.
    pub duplicate: bool,
    /// Whether it was the message's own publication.
    pub own: bool,
}

impl ClientLog {
    /// The place of an epoch, added if it is new.
    pub fn epoch(&mut self, epoch: &str) -> usize {
        self.epochs.iter().position(|e| e == epoch).unwrap_or_else(|| {
            self.epochs.push(epoch.to_owned());
            self.epochs.len() - 1
        })
    }
}
