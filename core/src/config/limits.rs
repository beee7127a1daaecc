//! Every limit of the engine, with its default and what happens at it.

use crate::metrics::Metric;
use serde::{Deserialize, Serialize};

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:ident: $ty:ty = $default:expr, $unit:literal, $counts:literal $(, now $gauge:literal)?;)+) => {
        /// The engine's limits. docs/configuration.md lists them; the key in a file is `limits.<name>`.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[non_exhaustive]
        pub struct Limits { $($(#[doc = $doc])+ pub $name: $ty,)+ }

        impl Default for Limits {
            fn default() -> Limits { Limits { $($name: $default,)+ } }
        }

        impl Limits {
            /// Each limit with its value.
            pub(super) fn values(&self) -> Vec<(Limit, u64)> {
                vec![$((Limit::$variant, self.$name as u64),)+]
            }
        }

        /// The name of a limit: for errors, metrics and documents.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Limit { $($(#[doc = $doc])+ $variant,)+ }

        impl Limit {
            /// Every limit, in the order of the documents.
            pub const ALL: &'static [Limit] = &[$(Limit::$variant,)+];

            /// The name: its key in a file is `limits.<name>`.
            pub fn name(self) -> &'static str { match self { $(Limit::$variant => stringify!($name),)+ } }

            /// The default.
            pub fn default_value(self) -> u64 { match self { $(Limit::$variant => $default as u64,)+ } }

            /// What it is counted in.
            pub fn unit(self) -> &'static str { match self { $(Limit::$variant => $unit,)+ } }

            /// What it bounds, and what happens past it.
            pub fn doc(self) -> &'static str { match self { $(Limit::$variant => concat!($($doc,)+).trim_ascii(),)+ } }

            /// What its counter counts; see [`LimitHits`].
            pub fn counts(self) -> &'static str { match self { $(Limit::$variant => $counts,)+ } }

            /// The gauge that tells how much of it is used, where there is one.
            pub fn gauge(self) -> Option<&'static str> { match self { $(Limit::$variant => [$($gauge,)?].first().copied(),)+ } }
        }
    };
}

limits! {
    /// Largest HTTP request head. Past it: 431 and the connection is closed.
    HeaderBytes header_bytes: usize = 16 << 10, "bytes", "Requests refused.";
    /// Most HTTP headers in one request. Past it: 431 and the connection is closed.
    Headers headers: usize = 100, "headers", "Requests refused.";
    /// Time for an HTTP request head to arrive, and for the first frame where room and user come by one. Past it the connection is closed, an upgraded one with `handshake`.
    HandshakeTimeoutMs handshake_timeout_ms: u64 = 10_000, "ms", "Connections closed.";
    /// Life of an HTTP connection that is not upgraded, whatever it does. Past it the connection is closed.
    HttpTimeoutMs http_timeout_ms: u64 = 30_000, "ms", "Connections closed.";
    /// HTTP connections in their handshake at once. Past it new connections wait in the kernel's accept queue; one that the host hands over is refused with `busy`.
    Handshakes handshakes: usize = 1024, "connections", "Times that accepting had to wait for a place, and those refused.";
    /// Connections of this engine. Past it: 503 before the upgrade.
    Connections connections: usize = 200_000, "connections", "Upgrades refused.", now "connections";
    /// Connections from one address (of IPv6, from one /64 network), counted from the first byte on. Past it: 429 before the upgrade; past it by more than 16: closed at once. 0 means no limit, for servers behind a proxy.
    ConnectionsPerAddress connections_per_address: usize = 200, "connections", "Connections refused or closed.";
    /// Open files of the process that connections leave to the log, the view and the host; at most a quarter of those it may open (`ulimit -Sn`). Past it new connections are closed with 503.
    FilesReserved files_reserved: usize = 128, "files", "Connections closed.";
    /// Largest frame and message from a client. Past it: close 1009.
    MessageBytes message_bytes: usize = 64 << 10, "bytes", "Connections closed, and messages and signals of the host refused.";
    /// Most fragments of one message. Past it: close 1008.
    Fragments fragments: usize = 1024, "fragments", "Connections closed.";
    /// Deepest nesting of JSON. Past it: `too_deep`.
    JsonDepth json_depth: usize = 64, "levels", "Requests refused, of clients and the host.";
    /// Longest room, user and event name. Past it: `invalid_name`.
    NameBytes name_bytes: usize = 128, "bytes", "Requests refused, of clients and the host.";
    /// Rooms that one connection can be in. Past it: `too_many_rooms`.
    RoomsPerConnection rooms_per_connection: usize = 100, "rooms", "Joins refused.";
    /// What may lie in the kernel for one connection and is not sent yet (Linux: `TCP_NOTSENT_LOWAT`; it may go past it by one segment). Past it frames wait in the engine, where members share them. 0 leaves it to the kernel, which takes megabytes.
    UnsentBytes unsent_bytes: usize = 128 << 10, "bytes", "Times that something began to wait for a connection.";
    /// What may wait to be written to one connection, frames of every kind together. History that it asked for does not count: that comes one page at a time. Past it the connection is closed with `slow`.
    OutboundBytes outbound_bytes: usize = 1 << 20, "bytes", "Connections closed.", now "backlog_bytes";
    /// How long a connection with something to write may take nothing. Past it the connection ends without a close frame, which it would not take either.
    SlowMs slow_ms: u64 = 30_000, "ms", "Connections closed.";
    /// Publishes of one connection that wait for their outcome. At it the connection is not read.
    PendingPublishes pending_publishes: usize = 256, "publishes", "Times that a connection reached it.";
    /// Publishes a second of one connection, sustained. Past it and the burst: `rate_limited`. 0 means no limit.
    PublishRate publish_rate: u32 = 50, "per second", "Publishes refused.";
    /// Publishes that one connection may send at once before `publish_rate` holds. Past it: `rate_limited`.
    PublishBurst publish_burst: u32 = 100, "publishes", "Times that a connection had used it up: publishes refused one after the other count once.";
    /// Other requests (join, leave, history, presence, signal) a second of one connection, sustained. Past it and as many at once: `rate_limited`. 0 means no limit.
    RequestRate request_rate: u32 = 100, "per second", "Requests refused.";
    /// Malformed requests of one connection before it is closed with `protocol`.
    BadRequests bad_requests: u32 = 10, "requests", "Connections closed.";
    /// Publishes waiting to be written, of the whole engine. Past it: `busy`; of several handed over at once the first are taken.
    AppendQueue append_queue: usize = 65_536, "publishes", "Publishes refused.", now "append_queue";
    /// Bytes of publishes waiting to be written, of the whole engine. Past it: `busy`; of several handed over at once the first are taken.
    AppendQueueBytes append_queue_bytes: usize = 64 << 20, "bytes", "Publishes refused.";
    /// Bytes of publications, signals and presence events handed to one shard and not yet taken up by it. Past it, publishes and signals of the whole engine: `busy`.
    ShardInboxBytes shard_inbox_bytes: usize = 64 << 20, "bytes", "Publishes and signals refused.";
    /// How long a publish may wait for its outcome. Past it: `timeout` if it was not written, else `outcome_unknown`.
    PublishTimeoutMs publish_timeout_ms: u64 = 10_000, "ms", "Publishes answered so.";
    /// How long a join may wait for this node to read up to the position that it names, which another node has told (Kafka). Past it: `unavailable`.
    ResumeWaitMs resume_wait_ms: u64 = 5_000, "ms", "Joins and subscriptions refused.";
    /// Silence of a connection after which it is pinged. Nothing is refused.
    HeartbeatMs heartbeat_ms: u64 = 25_000, "ms", "Pings sent.";
    /// Time for an answer to a ping. Past it: closed with `heartbeat`.
    HeartbeatTimeoutMs heartbeat_timeout_ms: u64 = 20_000, "ms", "Connections closed.";
    /// Time for a hook of the host to answer. Past it: `hook_timeout`.
    HookTimeoutMs hook_timeout_ms: u64 = 5_000, "ms", "Calls given up.";
    /// How long a hook of the host may hold its thread, of which there are four. Past it: a warning in the log, at most one every 10 s. 0 means none.
    HookWarnMs hook_warn_ms: u64 = 1_000, "ms", "Calls that held their thread for longer.";
    /// Hook calls waiting for the host. Past it: `busy`.
    HookQueue hook_queue: usize = 10_000, "calls", "Calls refused.";
    /// Most publications in one history page. A larger request gets this many.
    HistoryPage history_page: usize = 500, "publications", "Requests that asked for more, of clients and the host.";
    /// Most bytes in one history page; at least one publication is returned.
    HistoryPageBytes history_page_bytes: usize = 256 << 10, "bytes", "Pages that it cut short.";
    /// History reads under way at once per shard. More wait, and their connections are not read.
    HistoryReads history_reads: usize = 16, "reads", "Reads that had to wait.";
    /// Memory for message ids. Older ids are looked up in the view.
    IdsBytes ids_bytes: usize = 64 << 20, "bytes", "Ids dropped from memory before their time.", now "ids";
    /// Memory for the newest publications of rooms that have members. Older ones are read from disk.
    RecentBytes recent_bytes: usize = 64 << 20, "bytes", "Publications dropped from memory.", now "recent_bytes";
    /// Rooms whose last offset is kept in memory. Others are looked up in the view.
    RoomsInMemory rooms_in_memory: usize = 200_000, "rooms", "Rooms dropped from memory.";
    /// Members that a presence list names, and changes that one presence event names. Past it: counts only.
    PresenceNames presence_names: usize = 100, "users", "Lists cut short, and events without names.";
    /// How long changes are gathered for one presence event of a room. Nothing is refused.
    PresenceGatherMs presence_gather_ms: u64 = 200, "ms", "Presence events sent.";
    /// Events waiting in one host event stream or subscription. Past it: an overflow event with a count, or the subscription ends as slow.
    EventQueue event_queue: usize = 65_536, "events", "Events lost, and subscriptions ended.";
    /// Bytes of publications waiting in one host subscription. Past it the subscription ends as slow.
    SubscriptionBytes subscription_bytes: usize = 16 << 20, "bytes", "Subscriptions ended.";
}

/// How often each limit was reached, since the engine began. In `/metrics`: `klatch_limit_hits_total{limit="<name>"}`.
#[derive(Debug)]
pub struct LimitHits([Metric; Limit::ALL.len()]);

impl Default for LimitHits {
    fn default() -> LimitHits {
        LimitHits(std::array::from_fn(|_| Metric::default()))
    }
}

impl std::ops::Index<Limit> for LimitHits {
    type Output = Metric;

    fn index(&self, limit: Limit) -> &Metric {
        &self.0[limit as usize]
    }
}
