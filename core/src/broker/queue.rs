//! Publishes that wait for a broker's thread: bounded in number and bytes.

use crate::broker::append::Append;
use crate::codes::Code;
use crate::config::{Limit, Limits};
use crate::error::Error;
use crate::metrics::Metrics;
use std::collections::VecDeque;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Queue {
    appends: VecDeque<Append>,
    bytes: usize,
    /// When something was last taken out, or the oldest came (steady clock).
    since_ms: u64,
    max_count: usize,
    max_bytes: usize,
    timeout_ms: u64,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// An empty one.
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Queue {
        Queue {
            appends: VecDeque::new(),
            bytes: 0,
            since_ms: 0,
            max_count: limits.append_queue,
            max_bytes: limits.append_queue_bytes,
            timeout_ms: limits.publish_timeout_ms,
            metrics,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    /// Queues the first of these publishes, as many as there is room for: they are of many connections, and those that came first
    /// must not be refused for the last, nor all of them again and again. Says why it does not take the rest, if there is any.
    pub fn put(&mut self, appends: &mut Vec<Append>, now_ms: u64) -> Option<Error> {
        let (mut count, mut bytes, mut limit) = (0, self.bytes, None);
        for append in appends.iter() {
            if self.appends.len() + count >= self.max_count {
                limit = Some(Limit::AppendQueue);
                break;
            }
            if bytes + append.size() > self.max_bytes {
                limit = Some(Limit::AppendQueueBytes);
                break;
            }
            (count, bytes) = (count + 1, bytes + append.size());
        }
        if count > 0 {
            if self.appends.is_empty() {
                self.since_ms = now_ms;
            }
            self.bytes = bytes;
            self.appends.extend(appends.drain(..count));
            self.show();
        }
        limit.map(full)
    }

    /// What waits, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Append> {
        self.appends.iter()
    }

    /// Moves the first `count` publishes, of so many bytes, into `into`.
    pub fn take(&mut self, count: usize, bytes: usize, into: &mut Vec<Append>, now_ms: u64) {
        into.extend(self.appends.drain(..count));
        self.bytes -= bytes;
        self.since_ms = now_ms;
        self.show();
    }

    /// Takes everything out.
    pub fn clear(&mut self) -> VecDeque<Append> {
        self.bytes = 0;
        let all = std::mem::take(&mut self.appends);
        self.show();
        all
    }

    /// Takes everything out if nothing has been taken for too long: whoever takes is held up.
    pub fn expire(&mut self, now_ms: u64) -> VecDeque<Append> {
        if self.appends.is_empty() || self.since_ms + self.timeout_ms >= now_ms {
            return VecDeque::new();
        }
        self.clear()
    }

    fn show(&self) {
        self.metrics.append_queue.set(self.appends.len() as u64);
    }
}

/// The answer to what [`Queue::expire`] took out.
pub fn expired() -> Error {
    Error::new(Code::Timeout, "the log was held up; the message was not written").at(Limit::PublishTimeoutMs)
}

fn full(limit: Limit) -> Error {
    Error::new(Code::Busy, "too many publishes wait for the log; slow down").after(250).at(limit)
}
