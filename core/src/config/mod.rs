//! Settings: plain values from a file, the environment or code. Components (hooks, clock) go to the builder instead.

pub(crate) mod check;
mod given;
mod kafka;
mod limits;

pub use given::keys;
pub use kafka::{Kafka, Properties, TopicMode};
pub use limits::{Limit, LimitHits, Limits};
use serde::{Deserialize, Serialize};

/// What an engine is started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// Where messages are kept: a directory for the embedded log, `memory` (nothing survives the process), or a Kafka topic,
    /// `kafka://host:port/topic`. Default `klatch-data`.
    pub log: String,
    /// Addresses to listen on, as `host:port` or `[ipv6]:port`; port 0 picks a free one. None: no listener. Default none.
    pub listen: Vec<String>,
    /// Threads that serve connections. 0 (the default) means one per core.
    pub shards: usize,
    /// How long the same (room, user, id) is one message, in milliseconds of log time. Default one hour.
    pub dedupe_window_ms: u64,
    /// Origins that browsers may connect from: exact (`https://chat.example`), a pattern for subdomains
    /// (`https://*.example.com`), or `*`. Empty (the default): only pages of the host that is asked for.
    pub origins: Vec<String>,
    /// Whether a client may name its own user in the query, a header or the first frame while no authorizer is set.
    /// Default true: an open chat. With an authorizer the user is what that answers.
    pub open_users: bool,
    /// The embedded log.
    pub storage: Storage,
    /// The view.
    pub view: ViewSettings,
    /// The Kafka broker.
    pub kafka: Kafka,
    /// Limits.
    pub limits: Limits,
}

/// How the embedded log keeps records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Storage {
    /// Size at which a segment file ends and the next begins. Default 128 MiB; at least 64 KiB, at most 1 GiB.
    pub segment_bytes: u64,
    /// Drop the oldest segments while the log is larger than this. 0 (the default) keeps everything.
    pub retain_bytes: u64,
    /// Drop segments whose newest record is older than this. 0 (the default) keeps everything.
    pub retain_age_ms: u64,
    /// Go on writing although the log has damage: the damaged ranges are given up. Default false.
    pub accept_damage: bool,
}

/// What the view keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ViewSettings {
    /// Publications kept in one room's history, counted from the newest. 0 keeps all. Default 100,000.
    pub history_per_room: u64,
    /// Memory for the view's block cache, in bytes. Default 32 MiB.
    pub cache_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            log: "klatch-data".into(),
            listen: Vec::new(),
            shards: 0,
            dedupe_window_ms: 3_600_000,
            origins: Vec::new(),
            open_users: true,
            storage: Storage::default(),
            view: ViewSettings::default(),
            kafka: Kafka::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Storage {
    fn default() -> Storage {
        Storage { segment_bytes: 128 << 20, retain_bytes: 0, retain_age_ms: 0, accept_damage: false }
    }
}

impl Default for ViewSettings {
    fn default() -> ViewSettings {
        ViewSettings { history_per_room: 100_000, cache_bytes: 32 << 20 }
    }
}
