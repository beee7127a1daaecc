//! Every limit of the engine, with its default and what happens at it.

use serde::{Deserialize, Serialize};

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $ty:ty = $default:expr, $unit:literal;)+) => {
        /// The engine's limits. docs/configuration.md lists them; the key in a file is `limits.<name>`.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[non_exhaustive]
        pub struct Limits { $($(#[doc = $doc])+ pub $name: $ty,)+ }

        impl Default for Limits {
            fn default() -> Limits { Limits { $($name: $default,)+ } }
        }

        impl Limits {
            /// Name, value and unit of each.
            pub(super) fn values(&self) -> Vec<(&'static str, u64, &'static str)> {
                vec![$((stringify!($name), self.$name as u64, $unit),)+]
            }
        }

        /// Name, default, unit and text of each limit, for documents.
        pub const LIMITS: &[(&str, u64, &str, &str)] =
            &[$((stringify!($name), $default as u64, $unit, concat!($($doc,)+)),)+];
    };
}

limits! {
    /// Largest HTTP request head. Past it: 431 and the connection is closed.
    header_bytes: usize = 16 << 10, "bytes";
    /// Most HTTP headers in one request. Past it: 431 and the connection is closed.
    headers: usize = 100, "headers";
    /// Time for an HTTP request head to arrive, and for the first frame where room and user come by one. Past it the connection is closed.
    handshake_timeout_ms: u64 = 10_000, "ms";
    /// Life of an HTTP connection that is not upgraded, whatever it does. Past it the connection is closed.
    http_timeout_ms: u64 = 30_000, "ms";
    /// HTTP connections in their handshake at once. Past it new connections wait in the kernel's accept queue.
    handshakes: usize = 1024, "connections";
    /// Connections of this engine. Past it: 503 before the upgrade.
    connections: usize = 200_000, "connections";
    /// Connections from one address. Past it: 429 before the upgrade. 0 means no limit.
    connections_per_address: usize = 200, "connections";
    /// Largest frame and message from a client. Past it: close 1009.
    message_bytes: usize = 64 << 10, "bytes";
    /// Most fragments of one message. Past it: close 1008.
    fragments: usize = 1024, "fragments";
    /// Deepest nesting of JSON. Past it: `too_deep`.
    json_depth: usize = 64, "levels";
    /// Longest room, user and event name. Past it: `invalid_name`.
    name_bytes: usize = 128, "bytes";
    /// Rooms that one connection can be in. Past it: `too_many_rooms`.
    rooms_per_connection: usize = 100, "rooms";
    /// What may wait to be written to one connection. Past it the connection is closed with `slow`.
    outbound_bytes: usize = 1 << 20, "bytes";
    /// How long a connection with something to write may take nothing. Past it: closed with `slow`.
    slow_ms: u64 = 30_000, "ms";
    /// Publishes of one connection that wait for their outcome. At it the connection is not read.
    pending_publishes: usize = 256, "publishes";
    /// Publishes a second of one connection, sustained. Past it and the burst: `rate_limited`. 0 means no limit.
    publish_rate: u32 = 50, "per second";
    /// Publishes that one connection may send at once before `publish_rate` holds.
    publish_burst: u32 = 100, "publishes";
    /// Other requests (join, leave, history, presence, signal) a second of one connection, sustained. Past it and as many at once: `rate_limited`. 0 means no limit.
    request_rate: u32 = 100, "per second";
    /// Malformed requests of one connection before it is closed with `protocol`.
    bad_requests: u32 = 10, "requests";
    /// Publishes waiting to be written, of the whole engine. Past it: `busy`.
    append_queue: usize = 65_536, "publishes";
    /// Bytes of publishes waiting to be written, of the whole engine. Past it: `busy`.
    append_queue_bytes: usize = 64 << 20, "bytes";
    /// Bytes of publications, signals and presence events handed to one shard and not yet taken up by it. Past it, publishes and signals of the whole engine: `busy`.
    shard_inbox_bytes: usize = 64 << 20, "bytes";
    /// How long a publish may wait for its outcome. Past it: `timeout` if it was not written, else `outcome_unknown`.
    publish_timeout_ms: u64 = 10_000, "ms";
    /// Silence of a connection after which it is pinged.
    heartbeat_ms: u64 = 25_000, "ms";
    /// Time for an answer to a ping. Past it: closed with `heartbeat`.
    heartbeat_timeout_ms: u64 = 20_000, "ms";
    /// Time for a hook of the host to answer. Past it: `hook_timeout`.
    hook_timeout_ms: u64 = 5_000, "ms";
    /// Hook calls waiting for the host. Past it: `busy`.
    hook_queue: usize = 10_000, "calls";
    /// Most publications in one history page. A larger request gets this many.
    history_page: usize = 500, "publications";
    /// Most bytes in one history page; at least one publication is returned.
    history_page_bytes: usize = 256 << 10, "bytes";
    /// History reads under way at once per shard. More wait, and their connections are not read.
    history_reads: usize = 16, "reads";
    /// Memory for message ids. Older ids are looked up in the view.
    ids_bytes: usize = 64 << 20, "bytes";
    /// Memory for the newest publications of rooms that have members. Older ones are read from disk.
    recent_bytes: usize = 64 << 20, "bytes";
    /// Rooms whose last offset is kept in memory. Others are looked up in the view.
    rooms_in_memory: usize = 200_000, "rooms";
    /// Members that a presence list names, and changes that one presence event names. Past it: counts only.
    presence_names: usize = 100, "users";
    /// How long changes are gathered for one presence event of a room.
    presence_gather_ms: u64 = 200, "ms";
    /// Events waiting in one host event stream or subscription. Past it: an overflow event with a count, or the subscription ends as slow.
    event_queue: usize = 65_536, "events";
    /// Bytes of publications waiting in one host subscription. Past it the subscription ends as slow.
    subscription_bytes: usize = 16 << 20, "bytes";
}
