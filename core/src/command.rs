//! What a client can ask for, whatever the protocol: the verbs of klatch.

use crate::message::{Epoch, Kind};
use std::borrow::Cow;

/// A client's own number for a request, echoed in the reply.
pub type Ref = Option<u64>;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The first frame, where room or user come by one.
    Connect(Connect<'a>),
    /// Become a member of a room.
    Join(Join<'a>),
    /// Stop being a member.
    Leave {
        /// See [`Ref`].
        reference: Ref,
        /// The room; the connection's default room if absent.
        room: Option<Cow<'a, str>>,
    },
    /// Append a message and deliver it.
    Publish(Publish<'a>),
    /// Deliver an event without storing it.
    Signal(Signal<'a>),
    /// Read a page of a room's history.
    History(History<'a>),
    /// Who is in a room.
    Presence {
        /// See [`Ref`].
        reference: Ref,
        /// The room; the connection's default room if absent.
        room: Option<Cow<'a, str>>,
    },
    /// Answer with a pong.
    Ping {
        /// See [`Ref`].
        reference: Ref,
    },
}

/// Identity and default room of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect<'a> {
    /// See [`Ref`].
    pub reference: Ref,
    /// The user's name; empty or absent: anonymous.
    pub user: Option<Cow<'a, str>>,
    /// What the host's authorizer checks.
    pub token: Option<Cow<'a, str>>,
    /// The default room, joined at once.
    pub room: Option<Cow<'a, str>>,
    /// How to join that room.
    pub options: JoinOptions,
}

/// Become a member of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join<'a> {
    /// See [`Ref`].
    pub reference: Ref,
    /// The room; the connection's default room if absent.
    pub room: Option<Cow<'a, str>>,
    /// How.
    pub options: JoinOptions,
}

/// How to join: what comes before the live stream, and what is sent besides publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinOptions {
    /// What to send before the live stream.
    pub start: Start,
    /// Whether the member gets its own publications. Default true; then its own publication is its ack.
    pub echo: bool,
    /// Whether the member gets presence events. Default false.
    pub presence: bool,
}

/// Where a member's stream starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes next.
    Live,
    /// With the newest `n` publications.
    History(u32),
    /// With the one after `offset`, if `epoch` (where given) still holds and nothing after it is gone; else with the newest
    /// `history` publications and `recovered: false`.
    Since {
        /// The epoch of the position.
        epoch: Option<Epoch>,
        /// The offset of the last publication seen.
        offset: u64,
        /// Publications sent if the position cannot be resumed from.
        history: u32,
    },
}

impl Default for JoinOptions {
    fn default() -> JoinOptions {
        JoinOptions { start: Start::Live, echo: true, presence: false }
    }
}

/// Append a message and deliver it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// See [`Ref`].
    pub reference: Ref,
    /// The room; the connection's default room if absent.
    pub room: Option<Cow<'a, str>>,
    /// The message id; absent: made by the engine, and the publish cannot be retried safely.
    pub id: Option<Cow<'a, str>>,
    /// What the data is.
    pub kind: Kind,
    /// JSON text exactly as sent, or the decoded bytes.
    pub data: Cow<'a, [u8]>,
}

/// Deliver an event to the room's members without storing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal<'a> {
    /// See [`Ref`].
    pub reference: Ref,
    /// The room; the connection's default room if absent.
    pub room: Option<Cow<'a, str>>,
    /// The event's name, `typing` for instance.
    pub name: Cow<'a, str>,
    /// JSON text exactly as sent; `null` if absent.
    pub data: &'a str,
}

/// Read a page of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History<'a> {
    /// See [`Ref`].
    pub reference: Ref,
    /// The room; the connection's default room if absent.
    pub room: Option<Cow<'a, str>>,
    /// Which part.
    pub query: HistoryQuery,
}

/// Which part of a room's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only publications with a larger offset. Default 0.
    pub after: u64,
    /// Only publications with a smaller offset. 0 (the default) means no bound.
    pub before: u64,
    /// Most publications; capped by `history_page`. Default 50.
    pub limit: u32,
    /// False (the default): the oldest of that range first. True: the newest first.
    pub backward: bool,
    /// Answer only from a view that has reached this offset; else `unavailable`. Default 0.
    pub at_least: u64,
}

impl Default for HistoryQuery {
    fn default() -> HistoryQuery {
        HistoryQuery { after: 0, before: 0, limit: 50, backward: false, at_least: 0 }
    }
}
