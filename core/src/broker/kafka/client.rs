//! What klatch's Kafka clients have in common: their properties, and where what librdkafka tells goes.

use super::bell::Bell;
use crate::codes::Code;
use crate::config::Kafka;
use crate::error::{Error, Result};
use klatch_kafka_ext::{Persisted, persisted};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The group of the tail. It commits nothing and is never a member; librdkafka wants a name, and a cluster with access rules may ask for
/// the right to read it.
pub const GROUP: &str = "klatch-tail";

/// Properties that klatch sets itself, for what it promises rests on them.
const OURS: &[(&str, &str)] = &[
    ("acks", "all"),
    ("allow.auto.create.topics", "false"),
    ("auto.offset.reset", "error"),
    ("bootstrap.servers", "log"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.idempotence", "true"),
    ("enable.partition.eof", "true"),
    ("group.id", GROUP),
    ("isolation.level", "read_uncommitted"),
    ("message.timeout.ms", "kafka.message_timeout_ms"),
];

/// Other names of some of these.
const ALIASES: &[(&str, &str)] = &[
    ("request.required.acks", "acks"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("metadata.broker.list", "bootstrap.servers"),
];

/// Which client a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends messages.
    Producer,
    /// Reads every partition.
    Tail,
    /// Asks and creates.
    Admin,
    /// A member of a group.
    Member,
}

/// The largest record that is sent: data of 1 MiB as base64, and names.
const LARGEST: usize = 2 << 20;

/// librdkafka's configuration for a role.
pub fn config(role: Role, servers: &str, settings: &Kafka) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    let mut set = |pairs: &[(&str, &str)]| {
        for (name, value) in pairs {
            config.set(*name, *value);
        }
    };
    set(&[
        ("client.id", "klatch"),
        ("socket.keepalive.enable", "true"),
        // A cluster that is back is found within a second.
        ("reconnect.backoff.max.ms", "1000"),
        ("retry.backoff.max.ms", "500"),
        ("topic.metadata.refresh.interval.ms", "10000"),
        // Connections that a broker closes for idleness are no news.
        ("log.connection.close", "false"),
    ]);
    match role {
        Role::Producer => {
            let kbytes =
                (2 * settings.queue_bytes / 1024 + 2 * LARGEST as u64 / 1024).min(2_097_151).to_string();
            set(&[
                ("linger.ms", "1"),
                ("request.timeout.ms", "10000"),
                ("message.max.bytes", &LARGEST.to_string()),
                // What bounds the queue is queue_bytes; these are only to be larger.
                ("queue.buffering.max.kbytes", &kbytes),
                ("queue.buffering.max.messages", "10000000"),
            ]);
        }
        Role::Member => set(&[
            // A rebalance stops only the partitions that move.
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.error.backoff.ms", "100"),
            ("check.crcs", "true"),
            // Of each partition: what waits for a slow handler is not worth more.
            ("queued.min.messages", "1000"),
            ("queued.max.messages.kbytes", "1024"),
        ]),
        Role::Tail => set(&[
            // A full queue of ours must not cost a pause of a second.
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.error.backoff.ms", "100"),
            ("check.crcs", "true"),
            ("queued.max.messages.kbytes", "8192"),
        ]),
        Role::Admin => {}
    }
    for (name, value) in &settings.properties.0 {
        let own = ALIASES.iter().find(|(alias, _)| alias == name).map_or(name.as_str(), |(_, own)| own);
        if let Some((_, ours)) = OURS.iter().find(|(ours, _)| *ours == own) {
            let text = format!("kafka.properties: {name} is set by klatch, which relies on it ({ours})");
            return Err(Error::new(Code::InvalidConfig, text));
        }
        config.set(name, value);
    }
    config.set("bootstrap.servers", servers);
    config.set("allow.auto.create.topics", "false");
    match role {
        Role::Producer => {
            config.set("enable.idempotence", "true");
            config.set("acks", "all");
            config.set("message.timeout.ms", settings.message_timeout_ms.to_string());
        }
        Role::Tail => {
            config.set("group.id", GROUP);
            config.set("enable.auto.commit", "false");
            config.set("enable.auto.offset.store", "false");
            config.set("auto.offset.reset", "error");
            config.set("enable.partition.eof", "true");
            // A hung transaction of another program must not hold up every room of its partition.
            config.set("isolation.level", "read_uncommitted");
        }
        Role::Member => {
            config.set("enable.auto.commit", "false");
            config.set("enable.auto.offset.store", "false");
            config.set("auto.offset.reset", "error");
            config.set("isolation.level", "read_uncommitted");
            if config.get("group.protocol") == Some("consumer") {
                // Then the cluster assigns, and the client takes no word on how.
                config.remove("partition.assignment.strategy");
            }
        }
        Role::Admin => {}
    }
    config.set_log_level(RDKafkaLogLevel::Info);
    Ok(config)
}

/// What becomes of one message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub number: u64,
    /// Where it is.
    pub persisted: Persisted,
    /// Why it failed, if it did.
    pub error: Option<RDKafkaErrorCode>,
}

/// Where what a client tells goes.
#[derive(Debug)]
pub struct Context {
    reports: Mutex<Vec<Report>>,
    /// Rung when the cluster seems to have gone.
    trouble: Arc<Bell>,
    /// What the operator has been told of already.
    told: Mutex<Vec<RDKafkaErrorCode>>,
    /// Why the cluster is not reached.
    outside: Mutex<Option<Outside>>,
}

/// What a client last said of a cluster that it does not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The kind of fault.
    pub code: RDKafkaErrorCode,
    /// It in librdkafka's words, which have no secrets in them.
    pub reason: String,
}

impl Outside {
    /// Whether it lies in the settings: waiting does not mend it.
    pub fn is_refusal(&self) -> bool {
        matches!(self.code, RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL)
    }
}

impl Context {
    /// For one client.
    pub fn new(trouble: Arc<Bell>) -> Context {
        Context { reports: Mutex::default(), trouble, told: Mutex::default(), outside: Mutex::default() }
    }

    /// Why the cluster is not reached, as far as the client has said; a refusal before all else.
    pub fn outside(&self) -> Option<Outside> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_outside(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut outside = self.outside.lock().unwrap_or_else(PoisonError::into_inner);
        let found = Outside { code, reason: reason.into() };
        if found.is_refusal() || outside.as_ref().is_none_or(|before| !before.is_refusal()) {
            *outside = Some(found);
        }
    }

    /// Moves the reports that have come behind those in `into`.
    pub fn take_reports(&self, into: &mut Vec<Report>) {
        into.append(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What an operator needs of it comes as an error, and from the watch.
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        match code {
            RDKafkaErrorCode::PartitionEOF => {}
            // The tail is no member of the group that it names, and a member hears of it elsewhere.
            RDKafkaErrorCode::GroupAuthorizationFailed => tracing::debug!(reason, "librdkafka"),
            RDKafkaErrorCode::Fatal => tracing::debug!(reason, "a Kafka client has failed for good"),
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve => {
                if code != RDKafkaErrorCode::AllBrokersDown {
                    self.note_outside(code, reason);
                }
                self.trouble.ring();
                tracing::debug!(%code, reason, "librdkafka");
            }
            _ => {
                if matches!(code, RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) {
                    self.note_outside(code, reason);
                }
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.contains(&code) {
                    tracing::debug!(%code, reason, "librdkafka");
                } else {
                    told.push(code);
                    tracing::warn!(%code, reason, "Kafka reports an error; further ones of its kind are not shown");
                }
            }
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let (message, error) = match result {
            Ok(message) => (message, None),
            Err((error, message)) => (message, error.rdkafka_error_code()),
        };
        let report = Report { number: number as u64, persisted: persisted(message), error };
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
    }
}

/// An error of Kafka as the API's, where an engine is started.
pub fn start_error(what: &str, e: &KafkaError) -> Error {
    let code = match e {
        KafkaError::ClientConfig(..) => Code::InvalidConfig,
        _ => Code::Unavailable,
    };
    // rdkafka's text of a bad property ends with its value, which may be a secret.
    let text = match e {
        KafkaError::ClientConfig(_, why, name, _) => format!("{what}: kafka.properties: {name}: {why}"),
        e => format!("{what}: {e}"),
    };
    Error::new(code, text)
}

/// A partition's own queue, and a flag that is set, and the bell rung, when something comes to it.
pub fn queue(
    consumer: &Arc<BaseConsumer<Context>>,
    topic: &str,
    partition: u32,
    bell: &Arc<Bell>,
) -> std::result::Result<(PartitionQueue<Context>, Arc<AtomicBool>), KafkaError> {
    let queue = consumer.split_partition_queue(topic, partition as i32);
    let mut queue = queue.ok_or_else(|| KafkaError::Subscription("no queue for a partition".into()))?;
    let ready = Arc::new(AtomicBool::new(true));
    let (bell, flag) = (bell.clone(), ready.clone());
    queue.set_nonempty_callback(move || {
        flag.store(true, Ordering::Release);
        bell.ring();
    });
    Ok((queue, ready))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_klatch_relies_on_cannot_be_set() {
        for name in
            ["acks", "request.required.acks", "enable.idempotence", "bootstrap.servers", "isolation.level"]
        {
            let mut settings = Kafka::default();
            settings.properties.0.insert(name.into(), "s3cret".into());
            let e = config(Role::Producer, "h:1", &settings).unwrap_err();
            assert_eq!(e.code(), Code::InvalidConfig);
            assert!(e.message().contains(name) && !e.message().contains("s3cret"), "{e}");
        }
    }

    #[test]
    fn other_properties_pass_through() {
        let mut settings = Kafka::default();
        settings.properties.0.insert("linger.ms".into(), "7".into());
        for role in [Role::Producer, Role::Tail, Role::Admin] {
            let config = config(role, "h:1", &settings).unwrap();
            assert_eq!((config.get("linger.ms"), config.get("bootstrap.servers")), (Some("7"), Some("h:1")));
        }
        let config = config(Role::Producer, "h:1", &settings).unwrap();
        assert_eq!((config.get("acks"), config.get("message.timeout.ms")), (Some("all"), Some("8000")));
    }

    #[test]
    fn a_wrong_property_is_named_without_its_value() {
        let mut settings = Kafka::default();
        settings.properties.0.insert("sasl.passwort".into(), "s3cret".into());
        let config = config(Role::Admin, "h:1", &settings).unwrap();
        let e = start_error("cannot start", &config.create_native_config().err().unwrap());
        assert_eq!(e.code(), Code::InvalidConfig);
        assert!(e.message().contains("sasl.passwort") && !e.message().contains("s3cret"), "{e}");
    }
}
