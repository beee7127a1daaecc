//! Sends messages. Of what becomes of them it tells failures only: that a message is stored is the tail's to say.

use super::admin::is_refusal;
use super::client::{Context, Report};
use super::mapping::{TAG_HEADER, TOPIC_HEADER, VERSION, VERSION_HEADER, write_tag};
use crate::codes::Code;
use crate::config::Limit;
use crate::error::{Error, Result};
use crate::ids::MessageKey;
use klatch_kafka_ext::Persisted;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a message counts for beside its key and value.
const OVERHEAD: usize = 256;
/// What part of all bytes without a report those of a partition without a leader may be.
const SHARES: usize = 4;
/// How long a producer that has failed for good may take to say what became of its messages.
const PURGE: Duration = Duration::from_secs(2);
/// How long a client that failed for good right away is left in its place: the next one may fail as soon.
const REST: Duration = Duration::from_secs(1);

/// A message on its way.
#[derive(Debug)]
pub struct Sending {
    /// Its partition.
    pub partition: u32,
    /// Its room: the key in Kafka.
    pub room: Arc<str>,
    /// Under which its publisher waits at the tail.
    pub key: MessageKey,
    /// Whether the key is of an id; else it is a tag.
    pub has_id: bool,
    /// The value in Kafka.
    pub value: Vec<u8>,
    /// A client that failed for good may have sent it already.
    pub sent_before: bool,
    /// When it was first given to a client.
    pub since: Instant,
}

impl Sending {
    /// About what a publish of this size will count for; binary data makes a third more of it.
    pub fn about(size: usize) -> usize {
        size + OVERHEAD
    }

    fn size(&self) -> usize {
        self.value.len() + self.room.len() + OVERHEAD
    }
}

/// A message that failed.
#[derive(Debug)]
pub struct Failed {
    /// It.
    pub message: Sending,
    /// It may be in the log all the same.
    pub perhaps: bool,
    /// Why.
    pub error: Error,
}

/// Makes the clients; a test has others made.
type Make = Box<dyn Fn() -> KafkaResult<BaseProducer<Context>> + Send>;

/// See the module.
pub struct Producer {
    make: Make,
    client: BaseProducer<Context>,
    topic: String,
    /// The topic's id as the header has it.
    topic_id: String,
    /// What has been sent and not been reported, in the order in which it was sent.
    sent: BTreeMap<u64, Sending>,
    next: u64,
    bytes: usize,
    /// Of each partition.
    bytes_of: BTreeMap<u32, usize>,
    limit: usize,
    reports: Vec<Report>,
    replaced: u64,
    /// When it last was.
    replaced_at: Option<Instant>,
    /// How long a message is offered to the cluster, by one client or several.
    offered_for: Duration,
    /// The cluster has refused a message for want of a right.
    denied: bool,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("sent", &self.sent.len()).finish_non_exhaustive()
    }
}

impl Producer {
    /// One that sends to a topic; at most `limit` bytes are without a report at once.
    pub fn new(
        config: ClientConfig,
        context: impl Fn() -> Context + Send + 'static,
        topic: &str,
        topic_id: &str,
        limit: usize,
    ) -> KafkaResult<Producer> {
        let offered_for = config.get("message.timeout.ms").and_then(|ms| ms.parse().ok());
        let offered_for = offered_for.map_or(Duration::MAX, Duration::from_millis);
        let make: Make = Box::new(move || BaseProducer::from_config_and_context(&config, context()));
        Ok(Producer {
            client: make()?,
            make,
            topic: topic.into(),
            topic_id: topic_id.into(),
            sent: BTreeMap::new(),
            next: 0,
            bytes: 0,
            bytes_of: BTreeMap::new(),
            limit,
            reports: Vec::new(),
            replaced: 0,
            replaced_at: None,
            offered_for,
            denied: false,
        })
    }

    /// How many bytes more may be sent before something is reported.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes)
    }

    /// Whether any more may be.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Bytes without a report.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one partition has more bytes without a report than a share of what all may have: where it has no leader they stay for
    /// long, and others must have room.
    pub fn has_its_share(&self, partition: u32) -> bool {
        self.bytes_of.get(&partition).is_some_and(|bytes| *bytes >= self.limit / SHARES)
    }

    fn count(&mut self, message: &Sending) {
        self.bytes += message.size();
        *self.bytes_of.entry(message.partition).or_default() += message.size();
    }

    fn discount(&mut self, message: &Sending) {
        self.bytes -= message.size();
        if let Some(bytes) = self.bytes_of.get_mut(&message.partition) {
            *bytes -= message.size();
        }
    }

    /// Messages without a report.
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// How often the client has been replaced.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Whether the cluster has refused messages for want of a right since the last call.
    pub fn take_denied(&mut self) -> bool {
        std::mem::take(&mut self.denied)
    }

    /// Sends a message. The order of those that are sent is the order in the log.
    pub fn send(&mut self, message: Sending) -> Result<(), Failed> {
        let number = self.next;
        self.next += 1;
        match self.hand_over(number, &message) {
            // What has failed for good is replaced at the next look, and this is sent then, after those before it.
            Ok(()) | Err(RDKafkaErrorCode::Fatal) => {
                self.count(&message);
                self.sent.insert(number, message);
                Ok(())
            }
            Err(code) => Err(Failed { message, perhaps: false, error: refusal(code) }),
        }
    }

    fn hand_over(&self, number: u64, message: &Sending) -> Result<(), RDKafkaErrorCode> {
        let header = |key, value| Header { key, value: Some(value) };
        let mut headers = OwnedHeaders::new_with_capacity(3)
            .insert(header(VERSION_HEADER, VERSION))
            .insert(header(TOPIC_HEADER, &self.topic_id));
        if !message.has_id {
            let tag = write_tag(message.key);
            headers = headers.insert(Header { key: TAG_HEADER, value: Some(&tag) });
        }
        let record = BaseRecord::with_opaque_to(&self.topic, number as usize)
            .partition(message.partition as i32)
            .key(message.room.as_bytes())
            .payload(&message.value)
            .headers(headers);
        match self.client.send(record) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(code), _)) => Err(code),
            Err(_) => Err(RDKafkaErrorCode::InvalidArgument),
        }
    }

    /// Looks at what has been reported, and appends what failed to `failed`. A client that has failed for good is replaced.
    pub fn collect(&mut self, failed: &mut Vec<Failed>) {
        self.poll();
        let fatal = self.client.client().fatal_error().is_some();
        let reports = std::mem::take(&mut self.reports);
        let reports = self.settle(reports, fatal, failed);
        self.reports = reports;
        if fatal && self.replaced_at.is_none_or(|at| at.elapsed() >= REST) {
            self.replace(failed);
        }
    }

    /// Whether the client has failed for good and has yet to be replaced: what is sent waits for the next one.
    pub fn rests(&self) -> bool {
        self.client.client().fatal_error().is_some()
    }

    /// Has the client tell all that it knows, without waiting.
    fn poll(&mut self) {
        // Each call takes one event, and does not say whether there was one. Events that are no reports are rare.
        loop {
            let before = self.reports.len();
            self.client.poll(Duration::ZERO);
            self.client.client().context().take_reports(&mut self.reports);
            if self.reports.len() == before {
                return;
            }
        }
    }

    /// Works through reports. Gives the emptied list back.
    fn settle(&mut self, mut reports: Vec<Report>, fatal: bool, failed: &mut Vec<Failed>) -> Vec<Report> {
        for report in reports.drain(..) {
            let Some(message) = self.sent.get_mut(&report.number) else { continue };
            let perhaps = message.sent_before || report.persisted != Persisted::No;
            // One that failed with its client goes again with the next one: with an id also where it may be in the log already.
            let again = fatal
                && report.error != Some(RDKafkaErrorCode::MessageTimedOut)
                && (message.has_id || !perhaps);
            if report.error.is_some() && again {
                message.sent_before = perhaps;
                continue;
            }
            let Some(message) = self.sent.remove(&report.number) else { continue };
            self.discount(&message);
            if let Some(code) = report.error {
                self.denied |= is_refusal(code);
                let error = if perhaps { unknown(code) } else { refusal(code) };
                failed.push(Failed { message, perhaps, error });
            }
        }
        reports
    }

    /// Puts a new client in the place of one that can do nothing more, and sends again what has not been acknowledged, in order.
    fn replace(&mut self, failed: &mut Vec<Failed>) {
        let next = match (self.make)() {
            Ok(next) => next,
            Err(e) => {
                // At the next look it is tried again.
                tracing::error!(error = %e, "a Kafka producer cannot be made");
                return;
            }
        };
        self.client.purge(PurgeConfig::default().queue().inflight());
        let until = Instant::now() + PURGE;
        while self.client.in_flight_count() > 0 && Instant::now() < until {
            self.client.poll(Duration::from_millis(10));
        }
        self.poll();
        let reports = std::mem::take(&mut self.reports);
        self.reports = self.settle(reports, true, failed);
        if self.client.in_flight_count() > 0 {
            self.forsake(failed);
        }
        let why = self.client.client().fatal_error().map(|(code, _)| code.to_string()).unwrap_or_default();
        self.client = next;
        self.replaced += 1;
        self.replaced_at = Some(Instant::now());
        tracing::warn!(
            why,
            messages = self.sent.len(),
            "a Kafka producer had failed for good and was replaced"
        );
        let numbers: Vec<u64> = self.sent.keys().copied().collect();
        for number in numbers {
            let Some(message) = self.sent.get(&number) else { continue };
            // Each client has its own patience; all of them together have no more.
            let late = message.since.elapsed() >= self.offered_for;
            let given =
                if late { Err(RDKafkaErrorCode::MessageTimedOut) } else { self.hand_over(number, message) };
            let Err(code) = given else { continue };
            if code == RDKafkaErrorCode::Fatal {
                return;
            }
            if let Some(message) = self.sent.remove(&number) {
                self.discount(&message);
                let perhaps = message.sent_before;
                let error = if perhaps { unknown(code) } else { refusal(code) };
                failed.push(Failed { message, perhaps, error });
            }
        }
    }

    /// Of some messages nothing is known. Those without an id are given up: sent again they might be there twice.
    fn forsake(&mut self, failed: &mut Vec<Failed>) {
        for (number, mut message) in std::mem::take(&mut self.sent) {
            message.sent_before = true;
            if message.has_id {
                self.sent.insert(number, message);
            } else {
                self.discount(&message);
                failed.push(Failed { message, perhaps: true, error: unknown(RDKafkaErrorCode::Fatal) });
            }
        }
    }

    /// Takes back all that has not been sent yet. What comes of it is collected.
    pub fn purge(&mut self) {
        self.client.purge(PurgeConfig::default().queue().inflight());
    }

    /// Gives up everything that has no report, for a broker that ends.
    pub fn abandon(&mut self) {
        self.bytes = 0;
        self.bytes_of.clear();
        self.sent.clear();
    }

    /// Fails it for good, for tests.
    #[cfg(test)]
    pub fn provoke_fatal(&self) {
        klatch_kafka_ext::provoke_fatal(self.client.client());
    }
}

/// Why a message is certainly not in the log.
fn refusal(code: RDKafkaErrorCode) -> Error {
    use RDKafkaErrorCode::*;
    match code {
        QueueFull => {
            let text = "too many messages wait for the Kafka cluster; slow down";
            Error::new(Code::Busy, text).after(250).at(Limit::AppendQueueBytes)
        }
        MessageSizeTooLarge | InvalidMessageSize => {
            Error::new(Code::TooLarge, "the message is larger than the Kafka topic takes (max.message.bytes)")
        }
        TopicAuthorizationFailed | ClusterAuthorizationFailed => {
            Error::new(Code::Unavailable, format!("the Kafka cluster does not let this node write: {code}"))
        }
        MessageTimedOut => {
            Error::new(Code::Timeout, "the Kafka cluster did not take the message in time; it was not stored")
        }
        PurgeQueue => Error::new(Code::Stopping, "the engine stopped before the message was sent"),
        _ => Error::new(Code::Unavailable, format!("the Kafka cluster did not take the message: {code}")),
    }
}

fn unknown(code: RDKafkaErrorCode) -> Error {
    Error::new(
        Code::Unknown,
        format!("the Kafka cluster did not say whether it has the message ({code}); retry with the same id"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::bell::Bell;
    use super::super::client::{Role, config};
    use super::*;
    use crate::config::Kafka;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    type Mock = MockCluster<'static, DefaultProducerContext>;

    fn mock() -> Mock {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("t", 1, 1).unwrap();
        mock
    }

    fn producer(mock: &Mock, message_timeout_ms: u64, limit: usize) -> Producer {
        let settings = Kafka { message_timeout_ms, ..Kafka::default() };
        let config = config(Role::Producer, &mock.bootstrap_servers(), &settings).unwrap();
        let bell = Arc::new(Bell::default());
        Producer::new(config, move || Context::new(bell.clone()), "t", "id-of-t", limit).unwrap()
    }

    fn message(n: u32, has_id: bool) -> Sending {
        let value = n.to_string().into_bytes();
        Sending {
            partition: 0,
            room: "lobby".into(),
            key: MessageKey(u128::from(n)),
            has_id,
            value,
            sent_before: false,
            since: Instant::now(),
        }
    }

    /// Waits until everything is reported, and returns what failed: number, perhaps, code.
    fn settle(producer: &mut Producer) -> Vec<(u32, bool, Code)> {
        let mut failed = Vec::new();
        let until = Instant::now() + Duration::from_secs(60);
        while producer.len() > 0 {
            assert!(Instant::now() < until, "{} messages have no report", producer.len());
            producer.client.poll(Duration::from_millis(10));
            producer.collect(&mut failed);
        }
        assert_eq!(producer.bytes(), 0);
        failed.iter().map(|f| (f.message.key.0 as u32, f.perhaps, f.error.code())).collect()
    }

    /// What the log holds.
    fn log(mock: &Mock) -> Vec<u32> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", mock.bootstrap_servers())
            .set("group.id", "g")
            .set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut all = Vec::new();
        loop {
            match consumer.poll(Duration::from_secs(30)) {
                Some(Ok(m)) => all.push(std::str::from_utf8(m.payload().unwrap()).unwrap().parse().unwrap()),
                Some(Err(KafkaError::PartitionEOF(_))) => return all,
                other => panic!("{other:?}"),
            }
        }
    }

    /// What waits for a partition without a leader took all the room that there is, and rooms of the others were refused.
    #[test]
    fn a_partition_has_its_share_when_a_part_of_the_room_is_taken_by_it() {
        let mock = mock();
        mock.broker_down(1).unwrap();
        let mut producer = producer(&mock, 2_000, 8 * (OVERHEAD + 6));
        assert!(!producer.has_its_share(0));
        (1..=2).for_each(|n| producer.send(message(n, true)).unwrap());
        assert!(producer.has_its_share(0) && !producer.has_its_share(1));
        assert_eq!(settle(&mut producer).len(), 2);
        assert!(!producer.has_its_share(0));
    }

    #[test]
    fn what_is_sent_is_in_the_log_in_order() {
        let mock = mock();
        let mut producer = producer(&mock, 30_000, 1 << 20);
        (0..300).for_each(|n| producer.send(message(n, n % 2 == 0)).unwrap());
        assert_eq!(settle(&mut producer), []);
        assert_eq!(log(&mock), (0..300).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_is_taken_than_there_is_room_for() {
        let mock = mock();
        let mut producer = producer(&mock, 30_000, 10 * OVERHEAD);
        let mut sent = 0;
        while producer.has_room() {
            producer.send(message(sent, true)).unwrap();
            sent += 1;
        }
        assert_eq!(sent, 10);
        assert_eq!(settle(&mut producer), []);
        assert!(producer.has_room());
    }

    #[test]
    fn what_the_cluster_refuses_is_not_stored() {
        let mock = mock();
        let mut producer = producer(&mock, 30_000, 1 << 20);
        mock.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
        );
        producer.send(message(1, true)).unwrap();
        assert_eq!(settle(&mut producer), [(1, false, Code::Unavailable)]);
        assert_eq!(log(&mock), [0; 0]);
    }

    #[test]
    fn what_is_too_large_is_not_stored() {
        let mock = mock();
        let mut producer = producer(&mock, 30_000, 64 << 20);
        let failed = producer.send(Sending { value: vec![b'1'; 3 << 20], ..message(1, true) }).unwrap_err();
        assert_eq!((failed.perhaps, failed.error.code()), (false, Code::TooLarge));
        assert_eq!((producer.len(), producer.bytes()), (0, 0));
    }

    #[test]
    fn what_was_never_sent_is_not_stored() {
        let mock = mock();
        mock.broker_down(1).unwrap();
        let mut producer = producer(&mock, 1_000, 1 << 20);
        producer.send(message(1, true)).unwrap();
        assert_eq!(settle(&mut producer), [(1, false, Code::Timeout)]);
        mock.broker_up(1).unwrap();
        assert_eq!(log(&mock), [0; 0]);
    }

    #[test]
    fn what_was_sent_and_not_answered_is_unknown() {
        let mock = mock();
        let mut producer = producer(&mock, 2_000, 1 << 20);
        // It has met the cluster.
        producer.send(message(1, true)).unwrap();
        assert_eq!(settle(&mut producer), []);
        mock.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
        producer.send(message(2, true)).unwrap();
        assert_eq!(settle(&mut producer), [(2, true, Code::Unknown)]);
        mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
        // It was there all the same.
        assert_eq!(log(&mock), [1, 2]);
    }

    /// Messages with an id may be there twice and are there; those without are there once, or are unknown.
    #[test]
    fn r14_a_producer_that_failed_for_good_is_replaced_and_sends_again_in_order() {
        let mock = mock();
        let mut producer = producer(&mock, 30_000, 1 << 20);
        producer.send(message(0, true)).unwrap();
        assert_eq!(settle(&mut producer), []);
        mock.broker_round_trip_time(1, Duration::from_millis(500)).unwrap();
        (1..100).for_each(|n| producer.send(message(n, n % 3 != 0)).unwrap());
        // Some have left, of which the answer has not come.
        producer.client.poll(Duration::from_millis(100));
        producer.provoke_fatal();
        (100..200).for_each(|n| producer.send(message(n, n % 3 != 0)).unwrap());
        let failed = settle(&mut producer);
        assert_eq!(producer.replaced(), 1);
        mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
        let log = log(&mock);
        assert!(
            failed.iter().all(|(n, perhaps, code)| n % 3 == 0 && *perhaps && *code == Code::Unknown),
            "{failed:?}"
        );
        let mut first = Vec::new();
        for n in &log {
            match first.contains(n) {
                false => first.push(*n),
                true => assert!(n % 3 != 0, "{n} has no id and is there twice"),
            }
        }
        let unknown = |n: &u32| failed.iter().any(|f| f.0 == *n);
        let expected: Vec<u32> = (0..200).filter(|n| !unknown(n) || first.contains(n)).collect();
        assert_eq!(first, expected, "in order, and none is missing but what is unknown");
    }
}
