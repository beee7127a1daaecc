//! Settings of the Kafka broker.

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How the Kafka broker works. It is used where [`Settings::log`](super::Settings::log) is an address, `kafka://host/topic`; docs/kafka.md
/// tells more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Kafka {
    /// Over how many of the topic's partitions rooms are spread. The same on every node and for ever: a room would move. The topic may
    /// have more. Default 16.
    pub partitions: u32,
    /// Replicas of a topic that is created. 0 (the default): three where the cluster has three brokers, else what it takes by itself.
    pub replication: u32,
    /// What is done about the topic at start. Default `create`.
    pub topic_mode: TopicMode,
    /// How long a message is offered to the cluster. Past it: *not stored* if it was never sent, else *unknown*. At most
    /// `dedupe_window_ms`, or a message that is sent again could be delivered twice. Default 8,000.
    pub message_timeout_ms: u64,
    /// Bytes of messages that the cluster has not acknowledged. At it publishes wait in the engine's own queue, `append_queue_bytes`, and
    /// past that are `busy`. Default 32 MiB.
    pub queue_bytes: u64,
    /// How long a start waits for the cluster and for the end of the topic. Past it the engine starts all the same, is `down`, and goes on
    /// trying. Default 30,000.
    pub start_timeout_ms: u64,
    /// The directory of the view, or `memory`. Each node has its own. Default `klatch-view`.
    pub view_dir: String,
    /// Passed through to librdkafka, as in `"security.protocol" = "SASL_SSL"`.
    pub properties: Properties,
}

impl Default for Kafka {
    fn default() -> Kafka {
        Kafka {
            partitions: 16,
            replication: 0,
            topic_mode: TopicMode::Create,
            message_timeout_ms: 8_000,
            queue_bytes: 32 << 20,
            start_timeout_ms: 30_000,
            view_dir: "klatch-view".into(),
            properties: Properties::default(),
        }
    }
}

/// What is done about the topic at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TopicMode {
    /// It is created if it is missing, then verified.
    #[default]
    Create,
    /// It must be there and as klatch needs it.
    Verify,
    /// Only what no node can do without is looked at, the number of partitions: for services that do not show a topic's configuration.
    Skip,
}

/// librdkafka's properties by name. In a file the dots of a name may be tables. Secrets are shown to nobody: [`fmt::Debug`] and a file
/// that is made of settings have stars in their place.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(pub BTreeMap<String, String>);

const STARS: &str = "********";

impl Properties {
    /// Name and value of each, with stars in place of secrets.
    pub fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), if is_secret(name) { STARS } else { value }))
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "jaas", "key.pem", "oauthbearer.config", "assertion"]
        .iter()
        .any(|s| name.contains(s))
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.shown())
    }
}

/// A value, or a table of what begins so.
#[derive(Deserialize)]
#[serde(untagged)]
enum Node {
    Text(String),
    Flag(bool),
    Number(i64),
    Table(BTreeMap<String, Node>),
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Properties, D::Error> {
        let mut all = BTreeMap::new();
        flatten(String::new(), BTreeMap::deserialize(deserializer)?, &mut all);
        Ok(Properties(all))
    }
}

fn flatten(prefix: String, table: BTreeMap<String, Node>, all: &mut BTreeMap<String, String>) {
    for (name, node) in table {
        let name = format!("{prefix}{name}");
        let value = match node {
            Node::Text(text) => text,
            Node::Flag(flag) => flag.to_string(),
            Node::Number(number) => number.to_string(),
            Node::Table(inner) => {
                flatten(format!("{name}."), inner, all);
                continue;
            }
        };
        all.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn properties_may_be_quoted_or_tables() {
        let file = "[kafka.properties]\n\"sasl.username\" = \"ann\"\nsecurity.protocol = \"SSL\"\nlinger.ms = 5\n\
                    [kafka.properties.enable]\nssl.certificate.verification = true\n";
        let settings: Settings = toml::from_str(file).unwrap();
        let all: Vec<_> = settings.kafka.properties.shown().collect();
        assert_eq!(
            all,
            [
                ("enable.ssl.certificate.verification", "true"),
                ("linger.ms", "5"),
                ("sasl.username", "ann"),
                ("security.protocol", "SSL")
            ]
        );
    }

    #[test]
    fn secrets_are_shown_to_nobody() {
        let names = [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.jaas.config",
        ];
        let mut settings = Settings::default();
        for name in names {
            settings.kafka.properties.0.insert(name.into(), "s3cret".into());
        }
        settings.kafka.properties.0.insert("ssl.ca.location".into(), "ca-file".into());
        for shown in [format!("{settings:?}"), toml::to_string(&settings).unwrap()] {
            assert!(
                shown.contains("ca-file") && shown.contains(STARS) && !shown.contains("s3cret"),
                "{shown}"
            );
        }
    }
}
