//! The topic at start: it is created if need be, looked at, and waited for.

use super::address::Address;
use super::client::{self, Context, Outside, Role};
use crate::codes::Code;
use crate::config::{Kafka, TopicMode};
use crate::error::{Error, Result};
use klatch_kafka_ext::{Described, IdError, Rights, describe};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseProducer, Producer as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as Task, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long one question to the cluster may take.
const QUESTION: Duration = Duration::from_millis(2500);
/// How long it is tried at once.
const TRY: Duration = Duration::from_secs(10);
/// How long until it is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// As many replicas as klatch gives a topic where there are brokers for them; two of them must have a message before it is acknowledged.
const REPLICAS: i32 = 3;

/// The topic as it was found.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its id: another one is another log.
    pub id: [u8; 16],
    /// First and next offset of each partition that is klatch's.
    pub marks: Vec<(u64, u64)>,
    /// What its configuration tells; nothing where that is not looked at.
    pub found: Found,
}

/// What a topic's configuration tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// An acknowledged message may be on one broker only.
    pub single_copy: bool,
    /// The largest batch of messages that it takes, where that is known.
    pub largest_batch: Option<u64>,
}

impl Found {
    /// Has a producer's batches fit. The cluster takes all of a batch or nothing: one that is too large as a whole would take messages
    /// with it that are not.
    pub fn fit(&self, config: &mut ClientConfig) {
        let size = |config: &ClientConfig| config.get("batch.size").and_then(|size| size.parse().ok());
        if let Some(largest) = self.largest_batch {
            config.set("batch.size", largest.min(size(config).unwrap_or(BATCH_SIZE)).max(1).to_string());
        }
    }
}

/// librdkafka's default.
const BATCH_SIZE: u64 = 1_000_000;

/// How a topic's id is found out.
#[derive(Clone, Debug)]
pub enum TopicIds {
    /// The cluster is asked.
    Asked,
    /// The cluster that librdkafka plays for tests has none to tell.
    #[cfg(test)]
    ///
    /// While there is no topic, its id begins with a zero, and its last byte counts how often it was asked for.
    Told(Arc<std::sync::Mutex<[u8; 16]>>),
}

impl TopicIds {
    /// The topic's id, and what this node may do with it.
    pub fn of(&self, client: &Client<Context>, topic: &str, timeout: Duration) -> Result<Described, IdError> {
        match self {
            TopicIds::Asked => describe(client, topic, timeout),
            #[cfg(test)]
            TopicIds::Told(id) => {
                let mut id = id.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if id[0] != 0 {
                    return Ok(Described { id: *id, rights: None });
                }
                id[15] = id[15].saturating_add(1);
                Err(IdError::Missing)
            }
        }
    }
}

/// How long it is tried before the caller hears why it does not succeed.
#[derive(Clone, Debug)]
pub struct Patience {
    until: Instant,
    stopping: Arc<AtomicBool>,
}

impl Patience {
    /// From now on; it ends when the broker is to stop.
    pub fn new(stopping: Arc<AtomicBool>) -> Patience {
        Patience { until: Instant::now() + TRY, stopping }
    }

    /// Waits a little before the next try; whether there is any patience left.
    fn again(&self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() || self.stopping.load(Ordering::Acquire) {
            return false;
        }
        std::thread::sleep(AGAIN.min(left));
        true
    }
}

/// What finding the topic needs.
struct Admin<'a> {
    ids: &'a TopicIds,
    address: &'a Address,
    settings: &'a Kafka,
    mode: TopicMode,
    seen: &'a AtomicBool,
    /// Asks. Other than the one that creates, it hands out what it has to say of a cluster that does not let it in.
    client: BaseProducer<Context>,
    admin: AdminClient<Context>,
    patience: Patience,
}

/// Finds the topic, after creating it where that is wanted, and waits until every partition has a leader. `seen`: this node has found it
/// before; then it is not its to create again, and may come back.
pub fn prepare(
    ids: &TopicIds,
    address: &Address,
    settings: &Kafka,
    seen: &AtomicBool,
    context: impl Fn() -> Context,
    patience: Patience,
) -> Result<Topic> {
    let config = client::config(Role::Admin, &address.servers, settings)?;
    let made = |e| client::start_error("the Kafka client cannot be made", &e);
    let client = BaseProducer::from_config_and_context(&config, context()).map_err(made)?;
    let admin = AdminClient::from_config_and_context(&config, context()).map_err(made)?;
    let mode = settings.topic_mode;
    let admin = Admin { ids, address, settings, mode, seen, client, admin, patience };
    let id = admin.find()?;
    seen.store(true, Ordering::Release);
    admin.led()?;
    let found = if mode == TopicMode::Skip { Found::default() } else { admin.verify()? };
    let marks = (0..settings.partitions).map(|p| admin.marks(p)).collect::<Result<_>>()?;
    Ok(Topic { id, marks, found })
}

impl Admin<'_> {
    fn client(&self) -> &Client<Context> {
        self.client.client()
    }

    /// Waits a little before the next try. The error once there is no patience left, or trying is known not to help.
    fn again(&self, why: &str) -> Result<()> {
        // Each call hands out one thing at most, and lines of a log are among them.
        for _ in 0..100 {
            self.client.poll(Duration::ZERO);
        }
        let outside = self.client().context().outside();
        if let Some(outside) = outside.as_ref().filter(|outside| outside.is_refusal()) {
            return Err(self.kept_out(outside));
        }
        if self.patience.again() {
            return Ok(());
        }
        let reason = outside.map(|outside| format!(" ({})", outside.reason)).unwrap_or_default();
        Err(Error::new(Code::Unavailable, format!("{} is not ready: {why}{reason}", self.address)))
    }

    fn kept_out(&self, outside: &Outside) -> Error {
        let (address, reason) = (self.address, &outside.reason);
        let text = match outside.code {
            RDKafkaErrorCode::SSL => format!(
                "there is no secure connection to {address}: {reason}; look at ssl.ca.location and the other ssl. settings in \
                 kafka.properties"
            ),
            _ => format!(
                "{address} does not let this node in: {reason}; look at sasl.mechanisms, sasl.username and sasl.password in \
                 kafka.properties"
            ),
        };
        Error::new(Code::InvalidConfig, text)
    }

    /// The topic's id.
    fn find(&self) -> Result<[u8; 16]> {
        loop {
            match self.ids.of(self.client(), &self.address.topic, QUESTION) {
                Ok(found) => match lacks(&found, self.mode != TopicMode::Skip) {
                    None => return Ok(found.id),
                    Some(right) => return Err(needs(&self.address.topic, right, Code::InvalidConfig)),
                },
                Err(IdError::Missing) if self.seen.load(Ordering::Acquire) => {
                    let text = format!("the topic {} is not there any more", self.address.topic);
                    return Err(Error::new(Code::Unavailable, text));
                }
                Err(IdError::Missing) if self.mode == TopicMode::Create => self.create()?,
                Err(IdError::Missing) => {
                    let topic = &self.address.topic;
                    let text = format!(
                        "the topic {topic} does not exist; create it, or set kafka.topic_mode to create"
                    );
                    return Err(Error::new(Code::InvalidConfig, text));
                }
                Err(e @ (IdError::NoIds | IdError::Invalid(_))) => {
                    return Err(Error::new(Code::InvalidConfig, e.to_string()));
                }
                Err(IdError::Refused(code)) if is_refusal(code) => return Err(self.refused(Right::Describe)),
                Err(e) => self.again(&e.to_string())?,
            }
        }
    }

    /// Creates the topic. That another node was quicker is as good.
    fn create(&self) -> Result<()> {
        let replication = match self.settings.replication {
            0 if self.brokers()? >= REPLICAS as usize => REPLICAS,
            0 => -1,
            n => n as i32,
        };
        let partitions = self.settings.partitions as i32;
        let mut topic = NewTopic::new(&self.address.topic, partitions, TopicReplication::Fixed(replication))
            // What counts as a duplicate is decided by the log's time.
            .set("message.timestamp.type", "LogAppendTime")
            // Compaction would keep one message a room.
            .set("cleanup.policy", "delete");
        if replication >= REPLICAS {
            topic = topic.set("min.insync.replicas", "2");
        }
        let options = AdminOptions::new().request_timeout(Some(QUESTION));
        let made = block_on(self.admin.create_topics([&topic], &options));
        match made.map(|mut topics| topics.pop()) {
            Ok(Some(Ok(_))) => {
                tracing::info!(topic = self.address.topic, partitions, replication, "created the topic");
                Ok(())
            }
            // The one that was quicker may have to be waited for, until each broker knows of it.
            Ok(Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => {
                self.again("the topic is being created")
            }
            Ok(Some(Err((_, code)))) if is_refusal(code) => Err(self.refused(Right::Create)),
            Ok(Some(Err((
                _,
                code @ (RDKafkaErrorCode::InvalidReplicationFactor | RDKafkaErrorCode::PolicyViolation),
            )))) => Err(Error::new(
                Code::InvalidConfig,
                format!("the topic {} cannot be created: {code}", self.address.topic),
            )),
            Ok(Some(Err((_, code)))) => self.again(&code.to_string()),
            Ok(None) => self.again("no answer"),
            Err(e) => self.again(&e.to_string()),
        }
    }

    fn brokers(&self) -> Result<usize> {
        loop {
            match self.client().fetch_metadata(Some(&self.address.topic), QUESTION) {
                Ok(metadata) => return Ok(metadata.brokers().len()),
                Err(e) => self.again(&e.to_string())?,
            }
        }
    }

    /// Waits until each partition of ours has a leader.
    fn led(&self) -> Result<()> {
        let wanted = self.settings.partitions as usize;
        loop {
            let why = match self.client().fetch_metadata(Some(&self.address.topic), QUESTION) {
                Err(e) => e.to_string(),
                Ok(metadata) => match metadata.topics().first() {
                    None => "the topic is not known yet".into(),
                    Some(t) if t.error().is_some() || t.partitions().is_empty() => {
                        "the topic is not known yet".into()
                    }
                    Some(t) if t.partitions().len() < wanted => {
                        let (topic, has) = (&self.address.topic, t.partitions().len());
                        let text = format!(
                            "the topic {topic} has {has} partitions and kafka.partitions is {wanted}: set that to what the other nodes \
                             have, at most {has}"
                        );
                        return Err(Error::new(Code::InvalidConfig, text));
                    }
                    Some(t) => match leads(t, wanted).iter().filter(|led| !**led).count() {
                        0 => return Ok(()),
                        n => format!("{n} of {wanted} partitions have no leader"),
                    },
                },
            };
            self.again(&why)?;
        }
    }

    /// Looks at what klatch relies on.
    fn verify(&self) -> Result<Found> {
        let topic = &self.address.topic;
        let resource = [ResourceSpecifier::Topic(topic)];
        let found = loop {
            let options = AdminOptions::new().request_timeout(Some(QUESTION));
            let why =
                match block_on(self.admin.describe_configs(&resource, &options)).map(|mut all| all.pop()) {
                    // rdkafka keeps the error for itself that stands in the place of the configuration.
                    Ok(Some(Ok(found))) if found.entries.is_empty() => {
                        "the cluster does not show the topic's configuration".into()
                    }
                    Ok(Some(Ok(found))) => break found,
                    Ok(Some(Err(code))) if is_refusal(code) => {
                        return Err(self.refused(Right::DescribeConfigs));
                    }
                    Ok(Some(Err(code))) => code.to_string(),
                    Ok(None) => "no answer".into(),
                    Err(e) => e.to_string(),
                };
            self.again(&why)?;
        };
        let value = |name: &str| found.get(name).and_then(|entry| entry.value.as_deref());
        for (name, wanted) in [("message.timestamp.type", "LogAppendTime"), ("cleanup.policy", "delete")] {
            if let Some(has) = value(name).filter(|has| *has != wanted) {
                let text = format!(
                    "the topic {topic} has {name}={has} and klatch needs {wanted}: kafka-configs --alter --topic {topic} --add-config \
                     {name}={wanted}"
                );
                return Err(Error::new(Code::InvalidConfig, text));
            }
        }
        let single_copy = value("min.insync.replicas").is_some_and(|n| n == "1");
        if single_copy {
            tracing::warn!(
                topic,
                "an acknowledged message may be on one broker only: min.insync.replicas of the topic is 1"
            );
        }
        let largest_batch = value("max.message.bytes").and_then(|bytes| bytes.parse().ok());
        Ok(Found { single_copy, largest_batch })
    }

    fn marks(&self, partition: u32) -> Result<(u64, u64)> {
        loop {
            let answer = self.client().fetch_watermarks(&self.address.topic, partition as i32, QUESTION);
            match answer {
                Ok((low, high)) => return Ok((low.max(0) as u64, high.max(0) as u64)),
                Err(KafkaError::MetadataFetch(code)) if is_refusal(code) => {
                    return Err(self.refused(Right::Describe));
                }
                Err(e) => self.again(&e.to_string())?,
            }
        }
    }

    fn refused(&self, right: Right) -> Error {
        needs(&self.address.topic, right, Code::InvalidConfig)
    }
}

/// A right on the topic, as Kafka names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Describe,
    DescribeConfigs,
    Create,
    Read,
    Write,
}

/// The right that a node lacks, as far as the cluster says. `looks`: it is about to look at the topic's configuration.
pub fn lacks(found: &Described, looks: bool) -> Option<Right> {
    match found.rights? {
        Rights { read: false, .. } => Some(Right::Read),
        Rights { write: false, .. } => Some(Right::Write),
        Rights { describe_configs: false, .. } if looks => Some(Right::DescribeConfigs),
        _ => None,
    }
}

/// That a right has to be given.
pub fn needs(topic: &str, right: Right, code: Code) -> Error {
    let what = match right {
        Right::Describe => "describe",
        Right::DescribeConfigs => "see the configuration of",
        Right::Create => "create",
        Right::Read => "read",
        Right::Write => "write to",
    };
    let or = match right {
        Right::DescribeConfigs => ", or kafka.topic_mode = \"skip\"",
        Right::Create => ", or somebody else to create it",
        _ => "",
    };
    let text = format!(
        "the cluster does not let this node {what} the topic {topic}: it needs the right {right:?} on the topic {topic}{or}"
    );
    Error::new(code, text)
}

/// Which of the first `wanted` partitions have a leader.
pub fn leads(topic: &MetadataTopic, wanted: usize) -> Vec<bool> {
    let mut led = vec![false; wanted];
    for partition in topic.partitions().iter().filter(|p| p.leader() >= 0) {
        if let Some(led) = usize::try_from(partition.id()).ok().and_then(|id| led.get_mut(id)) {
            *led = true;
        }
    }
    led
}

/// Whether asking again would not help.
pub fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::*;
    matches!(
        code,
        TopicAuthorizationFailed
            | ClusterAuthorizationFailed
            | GroupAuthorizationFailed
            | SaslAuthenticationFailed
            | Authentication
    )
}

/// Waits for a future on this thread, whatever runtime it belongs to.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Task::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
