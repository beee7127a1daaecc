//! Counters and gauges of one engine, in one place so that hosts, `/metrics` and tests read the same.

use crate::config::{Limit, LimitHits};
use crate::error::Error;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One number.
#[derive(Debug, Default)]
pub struct Metric(AtomicU64);

impl Metric {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Takes `n` away; for gauges.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }
    /// Sets it; for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:literal;)+) => {
        /// The numbers. In `/metrics` each is called `klatch_<name>`, counters with `_total` behind it.
        #[derive(Debug, Default)]
        #[non_exhaustive]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: Metric,)+
            /// How often each limit was reached.
            pub limit_hits: LimitHits,
            /// The consumer groups that this engine has been in.
            pub groups: Groups,
        }

        impl Metrics {
            /// Name, kind (`counter` or `gauge`), text and value of each.
            pub fn list(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((stringify!($name), $kind, concat!($($doc,)+).trim_ascii(), self.$name.get()),)+]
            }
        }
    };
}

metrics! {
    /// Connections that are open.
    connections: "gauge";
    /// Connections that were upgraded.
    connections_opened: "counter";
    /// Requests refused before the upgrade: limits, origin, malformed.
    handshakes_refused: "counter";
    /// Connections closed because they did not take what was sent to them.
    disconnects_slow: "counter";
    /// Connections closed because they did not answer a heartbeat.
    disconnects_heartbeat: "counter";
    /// Connections closed because they broke the protocol.
    disconnects_protocol: "counter";
    /// Rooms with members on this node.
    rooms: "gauge";
    /// Memberships: (connection, room) pairs.
    members: "gauge";
    /// Publishes accepted into the log.
    publishes_stored: "counter";
    /// Publishes answered as duplicates.
    publishes_duplicate: "counter";
    /// Publishes refused as conflicts.
    publishes_conflict: "counter";
    /// Publishes refused for another reason; none of them was stored.
    publishes_refused: "counter";
    /// Publishes whose outcome was not known in time.
    publishes_unknown: "counter";
    /// Publishes and requests past a rate limit.
    rate_limited: "counter";
    /// Publications written to connections.
    deliveries: "counter";
    /// Bytes waiting to be written to connections.
    backlog_bytes: "gauge";
    /// Joins that resumed from a position.
    resumes: "counter";
    /// Joins whose position could not be resumed from.
    resets: "counter";
    /// Publishes waiting to be written.
    append_queue: "gauge";
    /// Batches written to the log.
    log_batches: "counter";
    /// Bytes written to the log.
    log_bytes: "counter";
    /// The last offset in the log.
    log_last_offset: "gauge";
    /// The first offset in the log.
    log_first_offset: "gauge";
    /// 1 while publishes are refused because of the storage.
    storage_refusing: "gauge";
    /// Bytes of messages that the Kafka cluster has not acknowledged.
    kafka_unacknowledged_bytes: "gauge";
    /// Kafka producers that had failed for good and were replaced.
    kafka_producers_replaced: "gauge";
    /// Records of other programs that were delivered.
    kafka_foreign: "counter";
    /// Records of the Kafka topic that are no messages, and were not delivered.
    kafka_junk: "counter";
    /// Records in another partition than their room's, which were not delivered.
    kafka_misplaced: "counter";
    /// Partitions of the topic that have no leader or are not read. Looked at every 2 s, and more often while there are some.
    kafka_partitions_away: "gauge";
    /// Records of the topic that this node had yet to read when it last looked, every 5 s.
    kafka_behind: "gauge";
    /// Records whose time is their writer's, not the log's: the topic's message.timestamp.type has been changed.
    kafka_create_time: "counter";
    /// 1 if an acknowledged message may be on one Kafka server only: min.insync.replicas of the topic is 1.
    kafka_single_copy: "gauge";
    /// Times that records of a partition were deleted before this node had read them.
    kafka_gaps: "counter";
    /// Times that this node began anew because the topic was another one, or not what it had been.
    kafka_begun_anew: "counter";
    /// Times that a partition was not read for a while although there was something to read.
    kafka_stalls: "counter";
    /// Message ids in memory.
    ids: "gauge";
    /// Bytes of recent publications in memory.
    recent_bytes: "gauge";
    /// Hook calls that failed: timeouts and panics.
    hook_failures: "counter";
    /// Events that a host's event stream lost because it was not read.
    events_lost: "counter";
}

/// Numbers of consumer groups, by name. In `/metrics` each is called `klatch_consumer_<name>` and has the label `group`.
#[derive(Debug, Default)]
pub struct Groups(Mutex<BTreeMap<Arc<str>, Arc<GroupMetrics>>>);

/// The numbers of one group on this node: of all its consumers here together.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct GroupMetrics {
    /// Partitions that this node's consumers have.
    pub partitions: Metric,
    /// Records of those partitions that this node has read and its consumers have not dealt with.
    pub lag: Metric,
    /// Publications that were handled.
    pub handled: Metric,
    /// Errors and panics of handlers.
    pub retries: Metric,
    /// Records that were not handled because no member saw them either.
    pub skipped: Metric,
    /// Partitions that were begun anew because the topic no longer had what came next.
    pub resets: Metric,
}

impl GroupMetrics {
    fn list(&self) -> [(&'static str, &'static str, &'static str, u64); 6] {
        [
            ("partitions", "gauge", "Partitions that this node has in the group.", self.partitions.get()),
            ("lag", "gauge", "Records of these partitions that are not dealt with.", self.lag.get()),
            ("handled", "counter", "Publications that were handled.", self.handled.get()),
            ("retries", "counter", "Errors and panics of handlers.", self.retries.get()),
            ("skipped", "counter", "Records that no member saw, and no handler.", self.skipped.get()),
            ("resets", "counter", "Partitions begun anew: what came next was gone.", self.resets.get()),
        ]
    }
}

impl Groups {
    /// The numbers of a group.
    pub fn get(&self, group: &str) -> Arc<GroupMetrics> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(group.into()).or_default().clone()
    }

    fn write(&self, out: &mut String) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = all.values().next() else { return };
        for (i, (name, kind, doc, _)) in first.list().into_iter().enumerate() {
            let total = if kind == "counter" { "_total" } else { "" };
            let name = format!("klatch_consumer_{name}{total}");
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {doc}\n# TYPE {name} {kind}");
            for (group, metrics) in all.iter() {
                let group = group.replace('\\', "\\\\").replace('"', "\\\"");
                let value = metrics.list()[i].3;
                let _ = writeln!(out, "{name}{{group=\"{group}\"}} {value}");
            }
        }
    }
}

impl Metrics {
    /// Counts the limit that refused something, if one did.
    pub(crate) fn refused(&self, error: &Error) {
        if let Some(limit) = error.limit() {
            self.limit_hits[limit].inc();
        }
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn prometheus(&self) -> String {
        let mut out = String::new();
        for (name, kind, doc, value) in self.list() {
            let total = if kind == "counter" { "_total" } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(
                out,
                "# HELP klatch_{name}{total} {doc}\n# TYPE klatch_{name}{total} {kind}\nklatch_{name}{total} {value}\n"
            );
        }
        out.push_str("# HELP klatch_limit_hits_total How often each limit was reached; docs/configuration.md says what counts.\n");
        out.push_str("# TYPE klatch_limit_hits_total counter\n");
        for limit in Limit::ALL {
            let (name, value) = (limit.name(), self.limit_hits[*limit].get());
            let _ = writeln!(out, "klatch_limit_hits_total{{limit=\"{name}\"}} {value}");
        }
        self.groups.write(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_labels() {
        let metrics = Metrics::default();
        assert!(!metrics.prometheus().contains("klatch_consumer"));
        metrics.groups.get("chats").lag.set(7);
        metrics.groups.get("a \"b\" \\").handled.inc();
        let text = metrics.prometheus();
        let lines: Vec<&str> = text.lines().filter(|l| l.contains("consumer_lag")).collect();
        assert_eq!(
            lines,
            [
                "# HELP klatch_consumer_lag Records of these partitions that are not dealt with.",
                "# TYPE klatch_consumer_lag gauge",
                r#"klatch_consumer_lag{group="a \"b\" \\"} 0"#,
                r#"klatch_consumer_lag{group="chats"} 7"#,
            ]
        );
        assert!(text.contains(r#"klatch_consumer_handled_total{group="a \"b\" \\"} 1"#));
    }
}
