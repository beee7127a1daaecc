//! Which settings can be used: every number has a range, so that no sum of two of them overflows and no queue is made of a size
//! that cannot be had.

use super::{Limit, Settings};
use crate::codes::Code;
use crate::error::{Error, Result};

/// Most milliseconds: ten years.
const MAX_MS: u64 = 10 * 365 * 24 * 3600 * 1000;
/// Most bytes: an exbibyte on disk, a tebibyte in memory.
const MAX_DISK_BYTES: u64 = 1 << 60;
const MAX_BYTES: u64 = 1 << 40;
/// Most of anything that is counted.
const MAX_COUNT: u64 = 1 << 31;

/// Most partitions of a topic: each has a queue and a table of its own in memory.
const MAX_PARTITIONS: u64 = 4096;
/// Longest timeout that librdkafka takes, about three weeks.
const MAX_TIMEOUT_MS: u64 = i32::MAX as u64;
/// Most threads that serve connections.
const MAX_SHARDS: u64 = 1024;
/// Most places of a queue that takes its memory when it is made.
const MAX_QUEUE: u64 = 1 << 20;

/// Limits with a range of their own: name, least, most.
const RANGES: &[(Limit, u64, u64)] = &[
    (Limit::NameBytes, 1, 255),
    (Limit::MessageBytes, 1, 1 << 20),
    (Limit::HeaderBytes, 1, 1 << 30),
    // The type that holds them panics at about 24,000.
    (Limit::Headers, 1, 10_000),
    (Limit::JsonDepth, 1, 1 << 20),
    (Limit::UnsentBytes, 0, 1 << 30),
    (Limit::OutboundBytes, 1, MAX_BYTES),
    (Limit::AppendQueue, 1, MAX_COUNT),
    (Limit::AppendQueueBytes, 1, MAX_BYTES),
    (Limit::HistoryPage, 1, MAX_COUNT),
    // These queues take their memory when they are made; that of the reads is as long as those of all shards together.
    (Limit::HookQueue, 0, MAX_QUEUE),
    (Limit::HistoryReads, 0, MAX_QUEUE / MAX_SHARDS),
    (Limit::HandshakeTimeoutMs, 1, MAX_MS),
    (Limit::HttpTimeoutMs, 1, MAX_MS),
    (Limit::HeartbeatMs, 1, MAX_MS),
    (Limit::HeartbeatTimeoutMs, 1, MAX_MS),
    (Limit::PublishTimeoutMs, 1, MAX_MS),
    (Limit::HookTimeoutMs, 1, MAX_MS),
];

impl Settings {
    /// Whether an engine can be started with these; the error, `invalid_config`, names the key and what it may be.
    pub(crate) fn check(&self) -> Result<()> {
        if self.log.is_empty() {
            return bad("log must name a directory, or be memory".into());
        }
        // The rest of an address is read by whoever goes there.
        let kafka = cfg!(feature = "_kafka") && self.log.starts_with("kafka://");
        if self.log.contains("://") && !kafka {
            let scheme = self.log.split("://").next().unwrap_or_default();
            let built = if cfg!(feature = "_kafka") {
                ""
            } else {
                "; this program was built without Kafka (feature kafka)"
            };
            return bad(format!(
                "log: no broker serves {scheme}://; name a directory, memory, or kafka://HOST/TOPIC{built}"
            ));
        }
        if self.kafka.view_dir.is_empty() {
            return bad("kafka.view_dir must name a directory, or be memory".into());
        }
        for (key, value, least, most) in [
            ("shards", self.shards as u64, 0, MAX_SHARDS),
            ("dedupe_window_ms", self.dedupe_window_ms, 0, MAX_MS),
            ("storage.segment_bytes", self.storage.segment_bytes, 64 << 10, 1 << 30),
            ("storage.retain_bytes", self.storage.retain_bytes, 0, MAX_DISK_BYTES),
            ("storage.retain_age_ms", self.storage.retain_age_ms, 0, MAX_MS),
            ("view.history_per_room", self.view.history_per_room, 0, u64::MAX),
            ("view.cache_bytes", self.view.cache_bytes, 0, MAX_BYTES),
            ("kafka.partitions", u64::from(self.kafka.partitions), 1, MAX_PARTITIONS),
            ("kafka.replication", u64::from(self.kafka.replication), 0, 100),
            ("kafka.message_timeout_ms", self.kafka.message_timeout_ms, 1, MAX_TIMEOUT_MS),
            ("kafka.queue_bytes", self.kafka.queue_bytes, 1, 1 << 30),
            ("kafka.start_timeout_ms", self.kafka.start_timeout_ms, 0, MAX_MS),
        ] {
            within(key, value, least, most)?;
        }
        for (limit, value) in self.limits.values() {
            let own =
                RANGES.iter().find(|(range, ..)| *range == limit).map(|&(_, least, most)| (least, most));
            let (least, most) = own.unwrap_or(match limit.unit() {
                "ms" => (0, MAX_MS),
                "bytes" => (0, MAX_BYTES),
                _ => (0, MAX_COUNT),
            });
            within(&format!("limits.{}", limit.name()), value, least, most)?;
        }
        // A producer that failed for good is replaced, and sends again what it was told nothing of.
        let (window_ms, timeout_ms) = (self.dedupe_window_ms, self.kafka.message_timeout_ms);
        if kafka && window_ms < timeout_ms {
            return bad(format!(
                "dedupe_window_ms must not be below kafka.message_timeout_ms, which is {timeout_ms}, or a message that is sent again within \
                 that time would be delivered twice: raise the one or lower the other"
            ));
        }
        for origin in &self.origins {
            let host = origin.split_once("://").map(|(_, host)| host.strip_prefix("*.").unwrap_or(host));
            if origin != "*" && !host.is_some_and(is_host) {
                return bad(format!("origins: {origin} is none; write https://host, https://*.host, or *"));
            }
        }
        Ok(())
    }
}

/// Whether a text can be a host, with or without a port: nothing that could hide another host before or behind it.
pub(crate) fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
}

fn within(key: &str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    bad(format!("{key} must be between {least} and {most}, not {value}"))
}

fn bad(text: String) -> Result<()> {
    Err(Error::new(Code::InvalidConfig, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_used() {
        Settings::default().check().unwrap();
    }

    /// A huge value overflowed sums of times, or panicked where a queue of that size was made.
    #[test]
    fn no_limit_can_be_without_bound() {
        for name in Limit::ALL.iter().map(|l| l.name()) {
            for value in [i64::MAX as u64, u64::from(u32::MAX)] {
                let file = format!("[limits]\n{name} = {value}\n");
                let Ok(settings) = toml::from_str::<Settings>(&file) else { continue };
                if let Err(e) = settings.check() {
                    assert_eq!(e.code(), Code::InvalidConfig);
                    assert!(e.message().contains(&format!("limits.{name}")), "{e}");
                } else {
                    assert!(value <= MAX_BYTES, "{name} takes {value}");
                }
            }
        }
    }

    #[test]
    fn each_range_holds_at_both_ends() {
        for &(limit, least, most) in RANGES {
            let name = limit.name();
            for (value, fits) in
                [(least, true), (most, true), (most + 1, false), (least.wrapping_sub(1), false)]
            {
                let Ok(settings) = toml::from_str::<Settings>(&format!("[limits]\n{name} = {value}\n"))
                else {
                    continue;
                };
                assert_eq!(settings.check().is_ok(), fits, "{name} = {value}");
            }
        }
    }

    /// With both at their ends the queue of the reads had 2^30 places, and the process was ended for want of memory.
    #[test]
    fn the_reads_of_all_shards_fit_into_one_queue() {
        let mut settings = Settings { shards: 1024, ..Settings::default() };
        settings.limits.history_reads = 1 << 20;
        assert_eq!(settings.check().unwrap_err().code(), Code::InvalidConfig);
        settings.limits.history_reads = 1 << 10;
        settings.check().unwrap();
    }

    #[test]
    #[cfg(feature = "_kafka")]
    fn a_message_that_kafka_is_sent_again_is_the_same() {
        let mut settings = Settings { dedupe_window_ms: 7_999, ..Settings::default() };
        settings.check().unwrap();
        settings.log = "kafka://localhost/chats".into();
        let e = settings.check().unwrap_err();
        assert!(e.code() == Code::InvalidConfig && e.message().contains("kafka.message_timeout_ms"), "{e}");
        settings.kafka.message_timeout_ms = 7_999;
        settings.check().unwrap();
    }

    #[test]
    fn r21_origins_that_could_never_match_are_no_setting() {
        let check = |origin: &str| Settings { origins: vec![origin.into()], ..Settings::default() }.check();
        for good in
            ["*", "https://a.example", "http://127.0.0.1:8080", "http://[::1]:80", "https://*.a.example:8443"]
        {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a.example",
            "null",
            "https://",
            "https://a.example/",
            "https://a.example/x",
            "https://*",
            "https://*.",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for bad in ["https://*a.example", "https://a.*.example", "https://a b", "https://u@a.example", "**"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
