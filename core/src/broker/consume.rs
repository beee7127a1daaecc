//! Work consumers as a host sees them: a handler that is called for every publication, on one node of a group.

use crate::codes::Code;
use crate::config::Properties;
use crate::error::{Error, Result};
use crate::message::Publication;
use crate::threads;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a handler returns: `Ok` once it is done with a publication for good. An error has it called again with the same one.
pub type Handled = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What is called for each publication.
pub type Handler = dyn Fn(&Publication) -> Handled + Send + Sync;

/// The group if nobody names one.
const GROUP: &str = "chats";
/// Longest name of a group, in bytes.
const MAX_GROUP: usize = 255;
/// Most handlers of one consumer that run at once.
const MAX_THREADS: usize = 256;

/// Which group a consumer belongs to, and how it works; see [`Engine::consume`](crate::Engine::consume). The name of the group alone will
/// do for most.
#[derive(Clone, Debug)]
pub struct Consume {
    pub(super) group: String,
    pub(super) from_end: bool,
    pub(super) threads: usize,
    pub(super) retry_ms: (u64, u64),
    pub(super) release_ms: u64,
    pub(super) properties: Properties,
}

impl Default for Consume {
    /// The group `chats`.
    fn default() -> Consume {
        Consume::group(GROUP)
    }
}

impl From<&str> for Consume {
    fn from(group: &str) -> Consume {
        Consume::group(group)
    }
}

impl Consume {
    /// A group. All consumers of one name share the work, whatever node they are on.
    pub fn group(name: &str) -> Consume {
        Consume {
            group: name.into(),
            from_end: false,
            threads: 1,
            retry_ms: (200, 30_000),
            release_ms: 30_000,
            properties: Properties::default(),
        }
    }

    /// A group that is new begins at the end of the topic. Default: at its beginning, so that every message is handled that the topic still
    /// has. What the group has committed counts more than this.
    pub fn from_end(mut self) -> Consume {
        self.from_end = true;
        self
    }

    /// How many handlers may run at once, 1 to 256. Those of one partition, and so of one room, never do. Default 1.
    pub fn threads(mut self, count: usize) -> Consume {
        self.threads = count;
        self
    }

    /// How long to wait before a publication is handled again after an error, and the longest that this grows to, doubled by every error.
    /// Default 200 ms to 30 s.
    pub fn retry(mut self, first: Duration, longest: Duration) -> Consume {
        let ms = |d: Duration| d.as_millis().clamp(1, 3_600_000) as u64;
        self.retry_ms = (ms(first), ms(longest).max(ms(first)));
        self
    }

    /// How long a partition that goes to another member waits for the handler that is at work on it. Past it the other member begins, with
    /// the publication that is still being handled here. Default 30 s.
    pub fn release(mut self, patience: Duration) -> Consume {
        self.release_ms = patience.as_millis().min(3_600_000) as u64;
        self
    }

    /// A property of librdkafka's for this consumer alone, such as `group.instance.id`. It counts more than `kafka.properties`.
    pub fn property(mut self, name: &str, value: &str) -> Consume {
        self.properties.0.insert(name.into(), value.into());
        self
    }

    /// That it can be carried out.
    pub(super) fn check(&self) -> Result<()> {
        crate::ids::check_name("group", &self.group, MAX_GROUP)?;
        match self.threads {
            1..=MAX_THREADS => Ok(()),
            n => {
                let text = format!("a consumer has 1 to {MAX_THREADS} threads, not {n}");
                Err(Error::new(Code::InvalidConfig, text))
            }
        }
    }
}

/// A log that has no groups.
pub(super) fn unsupported() -> Error {
    let text = "only a Kafka topic has consumer groups: set log = \"kafka://host:port/topic\", or subscribe to the rooms";
    Error::new(Code::Unsupported, text)
}

/// A consumer at work.
pub trait Work: Send + Sync + fmt::Debug {
    /// Tells it to stop, within so many milliseconds. One that was told so keeps to the earlier of the two moments.
    fn end(&self, within_ms: u64);
    /// Waits for it to have stopped; whether all that its handlers did is committed.
    fn wait(&self) -> bool;
    /// How it is.
    fn status(&self) -> ConsumerStatus;
}

/// How a consumer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// How many partitions it has now. None while its group is dividing them, or has more members than partitions.
    pub partitions: u64,
    /// Records of these partitions that this node has read and this consumer has not dealt with.
    pub lag: u64,
    /// Publications whose handler has returned without an error.
    pub handled: u64,
    /// Errors and panics of the handler; after each it was, or will be, called again.
    pub retries: u64,
    /// Records that no member saw either: duplicates, conflicts, and what is no message or in the wrong partition.
    pub skipped: u64,
    /// How often a partition was begun anew at its first record, because the topic no longer had what came next.
    pub resets: u64,
    /// The text of the handler's last error; none once that publication was handled.
    pub last_error: Option<String>,
    /// Why it has ended, if not because it was told to.
    pub failed: Option<Error>,
}

/// A consumer that is at work. It stops when this is dropped, in the background, and with the engine.
#[must_use = "a consumer stops when its handle is dropped"]
#[derive(Debug)]
pub struct Consumer(Arc<dyn Work>);

/// How long one whose handle is dropped waits for its handlers.
const DROPPED_MS: u64 = 10_000;

impl Consumer {
    pub(crate) fn new(work: Arc<dyn Work>) -> Consumer {
        Consumer(work)
    }

    /// How it is.
    pub fn status(&self) -> ConsumerStatus {
        self.0.status()
    }

    /// Stops: no further publication is handled, the handlers that run are waited for, what is done is committed, and the group is left,
    /// all of it within about `timeout`. True if everything that was handled is committed. False if a handler ran on, or the cluster did
    /// not answer: the group will handle some publications once more.
    ///
    /// A handler that calls it does not wait for itself. In a waker it says `would_deadlock`, and does nothing.
    pub fn stop(&self, timeout: Duration) -> Result<bool> {
        if threads::is_ours() {
            return Err(Error::new(Code::WouldDeadlock, "a waker cannot wait for the engine that woke it"));
        }
        self.0.end(timeout.as_millis().min(86_400_000) as u64);
        Ok(self.0.wait())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.0.end(DROPPED_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        assert!(Consume::default().check().is_ok());
        assert_eq!(Consume::from("").check().unwrap_err().code(), Code::InvalidName);
        assert_eq!(Consume::from("a\nb").check().unwrap_err().code(), Code::InvalidName);
        for threads in [0, 257] {
            let e = Consume::default().threads(threads).check().unwrap_err();
            assert_eq!(e.code(), Code::InvalidConfig);
        }
        let none = Duration::ZERO;
        assert_eq!(Consume::default().retry(Duration::from_secs(9), none).retry_ms, (9_000, 9_000));
        assert_eq!(Consume::default().retry(none, Duration::MAX).retry_ms, (1, 3_600_000));
    }
}
