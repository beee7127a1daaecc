//! Without a cluster: what a view is worth at a start, and rows.

use super::opening::starts;
use super::partition::partition_of;
use super::tailer::place;
use super::*;
use crate::config::{Kafka, TopicMode, ViewSettings};
use crate::message::Kind;
use crate::view::Checkpoint;

fn view(checkpoints: &[Option<u64>]) -> View {
    let identity = Identity { log: [1; 16], partitions: checkpoints.len() as u32 };
    let view = View::memory(identity, &ViewSettings::default());
    for (partition, sequence) in (0..).zip(checkpoints) {
        if let Some(sequence) = *sequence {
            view.add(partition, &[], &[], Checkpoint { sequence, check: 7 });
        }
    }
    view.flush().unwrap();
    view
}

#[test]
fn a_view_goes_on_where_it_ended() {
    let found =
        starts(&view(&[None, None, Some(5), Some(9), Some(4)]), &[(0, 0), (3, 9), (0, 9), (2, 9), (4, 9)]);
    let found: Vec<_> =
        found.unwrap().iter().map(|s| (s.from, s.again.map(|c| c.sequence), s.end, s.read_before)).collect();
    // What was seen last is read again; where it is gone, what follows it.
    let expected = [
        (0, None, 0, false),
        (3, None, 9, false),
        (4, Some(5), 9, true),
        (8, Some(9), 9, true),
        (4, None, 9, true),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_view_that_lacks_something_or_is_ahead_is_of_another_past() {
    let why = starts(&view(&[Some(9), Some(3)]), &[(0, 9), (4, 9)]).unwrap_err();
    assert!(why.contains("partition 1 has lost"), "{why}");
    let why = starts(&view(&[Some(10)]), &[(0, 9)]).unwrap_err();
    assert!(why.contains("ends at 9"), "{why}");
}

#[test]
fn a_row_has_all_of_its_record() {
    let mut body = Vec::new();
    Record::encode(&mut body, Kind::Json, "lobby", "ann", "m1", b"{}");
    let record = Record::decode(42, 1_764_000_000_000, body.into()).unwrap();
    let row = OwnedRow { offset: 42, prev: 40, place: place(&record).into() };
    assert_eq!(publication(&row).unwrap(), Publication { record, prev: 40 });
    for cut in 0..12 {
        let row = OwnedRow { place: row.place.slice(..cut), ..row.clone() };
        assert_eq!(publication(&row).unwrap_err().code(), Code::Unavailable, "{cut}");
    }
}

#[test]
fn rooms_of_a_partition_that_has_lost_its_beginning_are_not_new() {
    let view = view(&[None, None]);
    view.locate_rooms(|room, _| u32::from(room == b"b"));
    view.begin_after(1, 100);
    assert_eq!((view.last("a").unwrap(), view.last("b").unwrap()), (0, 100));
}

mod bounds;
mod fatal;

/// Brokers on a cluster that librdkafka plays in this process: real Kafka is in tests/kafka.
pub(super) mod played {
    use super::*;
    use crate::broker::append::{Ack, Promise, Waiter};
    use crate::clock::SystemClock;
    use crate::view::RowQuery;
    use rdkafka::config::ClientConfig;
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
    use tempfile::TempDir;

    pub struct Rig {
        pub mock: MockCluster<'static, DefaultProducerContext>,
        pub id: Arc<Mutex<[u8; 16]>>,
    }

    /// One node.
    pub struct Node {
        pub broker: KafkaBroker,
        pub metrics: Arc<Metrics>,
    }

    pub fn rig() -> Rig {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("t", 4, 1).unwrap();
        Rig { mock, id: Arc::new(Mutex::new([7; 16])) }
    }

    impl Rig {
        pub fn settings(&self, view_dir: &str) -> Settings {
            let mut settings = Settings {
                log: format!("kafka://{}/t", self.mock.bootstrap_servers()),
                ..Settings::default()
            };
            settings.kafka.topic_mode = crate::config::TopicMode::Skip;
            // It answers a fetch that has nothing no sooner when something comes.
            settings.kafka.properties.0.insert("fetch.wait.max.ms".into(), "10".into());
            settings.kafka.partitions = 4;
            settings.kafka.view_dir = view_dir.into();
            settings
        }

        pub fn node(&self, view_dir: &str) -> Node {
            self.node_with(&self.settings(view_dir))
        }

        pub fn node_with(&self, settings: &Settings) -> Node {
            let metrics = Arc::new(Metrics::default());
            let ids = TopicIds::Told(self.id.clone());
            let clock = Arc::new(SystemClock::new());
            let broker = KafkaBroker::open_as(&ids, settings, clock, metrics.clone()).unwrap();
            Node { broker, metrics }
        }

        /// Writes a record as another program would.
        pub fn write(
            &self,
            partition: i32,
            key: Option<&str>,
            value: Option<&[u8]>,
            headers: &[(&str, &str)],
        ) {
            let mut config = ClientConfig::new();
            let producer: BaseProducer =
                config.set("bootstrap.servers", self.mock.bootstrap_servers()).create().unwrap();
            let mut record = BaseRecord::<str, [u8]>::to("t").partition(partition);
            (record.key, record.payload) = (key, value);
            let all = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header { key, value: Some(*value) })
            });
            assert!(producer.send(record.headers(all)).is_ok());
            producer.flush(Duration::from_secs(30)).unwrap();
        }
    }

    pub fn home(room: &str) -> i32 {
        partition_of(room.as_bytes(), 4) as i32
    }

    impl Node {
        pub fn publish(&self, room: &str, id: &str, data: &str) -> Arc<Promise> {
            let promise = Arc::new(Promise::new());
            let append = Append {
                room: room.into(),
                user: "ann".into(),
                id: id.into(),
                kind: Kind::Json,
                data: data.as_bytes().into(),
                waiter: Waiter::Host(promise.clone()),
            };
            self.broker.append(&mut vec![append]);
            promise
        }

        pub fn stored(&self, room: &str, id: &str, data: &str) -> Ack {
            self.publish(room, id, data).wait().unwrap()
        }

        /// Offset, previous offset, id and data of all that a room has.
        pub fn history(&self, room: &str) -> Vec<(u64, u64, String, String)> {
            let query = RowQuery { limit: 100_000, ..RowQuery::default() };
            let rows = self.broker.hub().view().rows(room, query).unwrap();
            let data = |p: Publication| {
                let text = String::from_utf8(p.data().to_vec()).unwrap();
                (p.offset(), p.prev(), p.id().into_owned(), text)
            };
            self.broker.read(&rows.rows).unwrap().into_iter().map(data).collect()
        }

        /// Waits until the room's last offset is this one.
        pub fn reaches(&self, room: &str, offset: u64) {
            let until = std::time::Instant::now() + Duration::from_secs(60);
            while self.broker.hub().last(room).unwrap() < offset {
                assert!(std::time::Instant::now() < until, "{room} does not reach {offset}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }

        /// Waits until its health is this.
        pub fn becomes(&self, health: Health) {
            self.until(health.name(), |n| n.broker.health() == health);
        }

        pub fn until(&self, what: &str, is: impl Fn(&Node) -> bool) {
            let until = std::time::Instant::now() + Duration::from_secs(60);
            while !is(self) {
                assert!(
                    std::time::Instant::now() < until,
                    "not {what} but {:?} for a minute",
                    self.broker.health()
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }

        pub fn stop(self) {
            let deadline_ms = self.broker.shared.clock.steady_ms() + 30_000;
            assert_eq!(self.broker.stop(deadline_ms).unwrap(), 0);
            self.broker.hub().view().close().unwrap();
        }
    }

    #[test]
    fn an_acknowledged_message_is_in_its_place_in_history() {
        let rig = rig();
        let node = rig.node("memory");
        let rooms = ["a", "b", "c", "d", "lobby", "zürich"];
        let sent: Vec<_> = (0..600)
            .map(|n| {
                let (room, data) = (rooms[n % rooms.len()], format!("{{ \"n\": {n} }}"));
                let id = if n % 2 == 0 { format!("m{n}") } else { String::new() };
                (room, data.clone(), node.publish(room, &id, &data))
            })
            .collect();
        for room in rooms {
            let mut expected = Vec::new();
            for (_, data, promise) in sent.iter().filter(|s| s.0 == room) {
                let ack = promise.wait().unwrap();
                assert!(!ack.duplicate && ack.position.epoch == node.broker.epoch(room));
                expected.push((ack.position.offset, ack.id, data.clone()));
            }
            let history = node.history(room);
            assert!(history.iter().zip(&history[1..]).all(|(a, b)| b.1 == a.0) && history[0].1 == 0);
            assert_eq!(
                history.into_iter().map(|(offset, _, id, data)| (offset, id, data)).collect::<Vec<_>>(),
                expected
            );
        }
        node.stop();
    }

    #[test]
    fn an_id_is_one_message_on_all_nodes() {
        let rig = rig();
        let (a, b) = (rig.node("memory"), rig.node("memory"));
        let first = a.stored("lobby", "m1", "1");
        b.reaches("lobby", first.position.offset);
        let again = b.stored("lobby", "m1", "1");
        assert_eq!((again.position.clone(), again.duplicate), (first.position, true));
        assert_eq!(b.publish("lobby", "m1", "2").wait().unwrap_err().code(), Code::Conflict);
        // At the same time at both: one is accepted, and both are told where it is.
        for n in 0..50 {
            let id = format!("both{n}");
            let (x, y) = (a.publish("lobby", &id, "7"), b.publish("lobby", &id, "7"));
            let (x, y) = (x.wait().unwrap(), y.wait().unwrap());
            assert_eq!(x.position, y.position);
        }
        let last = a.stored("lobby", "last", "1").position.offset;
        b.reaches("lobby", last);
        let history = a.history("lobby");
        assert_eq!((history.len(), &history), (52, &b.history("lobby")));
        // Another user's, another room's, and messages without an id are their own.
        assert!(!a.stored("other", "m1", "1").duplicate);
        assert!(!a.stored("lobby", "", "1").duplicate && !a.stored("lobby", "", "1").duplicate);
        a.stop();
        b.stop();
    }

    #[test]
    fn a_node_goes_on_from_its_view_and_one_without_reads_all_again() {
        let rig = rig();
        let dir = TempDir::new().unwrap();
        let dir = dir.path().to_str().unwrap();
        let node = rig.node(dir);
        (0..100).for_each(|n| drop(node.stored("lobby", &format!("m{n}"), &n.to_string())));
        let (history, epoch) = (node.history("lobby"), node.broker.epoch("lobby"));
        node.stop();
        rig.write(home("lobby"), Some("lobby"), Some(b"\"while it was away\""), &[]);
        let node = rig.node(dir);
        assert!(!node.broker.hub().view().was_rebuilt());
        assert!(node.stored("lobby", "m7", "7").duplicate, "from the view");
        let fresh = rig.node("memory");
        assert!(fresh.stored("lobby", "m7", "7").duplicate, "from the topic");
        assert_eq!(node.broker.epoch("lobby"), epoch);
        assert_eq!(node.history("lobby")[..100], history);
        assert_eq!(node.history("lobby").len(), 101);
        assert_eq!(node.history("lobby"), fresh.history("lobby"));
        node.stop();
        fresh.stop();
    }

    #[test]
    fn another_number_of_partitions_is_another_log() {
        let rig = rig();
        let dir = TempDir::new().unwrap();
        let dir = dir.path().to_str().unwrap();
        let node = rig.node(dir);
        let first = node.stored("lobby", "m1", "1");
        node.stop();
        let mut settings = rig.settings(dir);
        settings.kafka.partitions = 3;
        let node = rig.node_with(&settings);
        assert!(node.broker.hub().view().was_rebuilt());
        assert_ne!(node.broker.epoch("lobby"), first.position.epoch);
        node.stop();
    }

    #[test]
    fn a_topic_that_is_created_again_is_followed_by_a_node_that_runs() {
        let rig = rig();
        let dir = TempDir::new().unwrap();
        let node = rig.node(dir.path().to_str().unwrap());
        let first = node.stored("lobby", "m1", "1");
        *rig.id.lock().unwrap() = [8; 16];
        // A record that was meant for the new one makes the node look at once.
        let headers = [("klatch-v", "1"), ("klatch-topic", "CAgICAgICAgICAgICAgICA")];
        rig.write(home("lobby"), Some("lobby"), Some(b"{\"data\":\"new\"}"), &headers);
        node.until("it begins anew", |n| n.metrics.kafka_begun_anew.get() == 1);
        node.becomes(Health::Up);
        assert!(node.broker.hub().view().was_rebuilt());
        assert_ne!(node.broker.epoch("lobby"), first.position.epoch);
        assert!(!node.stored("lobby", "m2", "1").duplicate);
        node.stop();
    }

    #[test]
    fn a_start_does_not_need_the_cluster() {
        let rig = rig();
        rig.mock.broker_down(1).unwrap();
        let mut settings = rig.settings("memory");
        settings.kafka.start_timeout_ms = 0;
        let node = rig.node_with(&settings);
        assert_eq!(node.broker.health(), Health::Down);
        assert_eq!(node.broker.serves("lobby").unwrap_err().code(), Code::Unavailable);
        assert_eq!(node.publish("lobby", "m1", "1").wait().unwrap_err().code(), Code::Unavailable);
        rig.mock.broker_up(1).unwrap();
        node.becomes(Health::Up);
        node.broker.serves("lobby").unwrap();
        assert!(!node.stored("lobby", "m1", "1").duplicate);
        node.stop();
    }

    #[test]
    fn a_start_that_has_yet_to_find_the_cluster_can_be_stopped() {
        let rig = rig();
        rig.mock.broker_down(1).unwrap();
        let mut settings = rig.settings("memory");
        settings.kafka.start_timeout_ms = 0;
        let node = rig.node_with(&settings);
        node.stop();
    }

    /// What does not mend itself is told where the engine is started.
    #[test]
    fn a_start_fails_where_waiting_does_not_help() {
        let rig = rig();
        let mut settings = rig.settings("memory");
        settings.kafka.partitions = 5;
        let open = |settings: &Settings| {
            let ids = TopicIds::Told(rig.id.clone());
            let clock = Arc::new(SystemClock::new());
            KafkaBroker::open_as(&ids, settings, clock, Arc::default()).map(drop).unwrap_err()
        };
        let e = open(&settings);
        assert!(e.code() == Code::InvalidConfig && e.message().contains("has 4 partitions"), "{e}");
        let mut settings = rig.settings("memory");
        settings.kafka.properties.0.insert("no.such".into(), "x".into());
        let e = open(&settings);
        assert!(e.code() == Code::InvalidConfig && e.message().contains("no.such"), "{e}");
    }

    /// The cluster is there before the topic is, and nobody waits for the start any more.
    #[test]
    fn a_node_that_has_started_without_a_topic_finds_it_when_somebody_makes_it() {
        let rig = rig();
        *rig.id.lock().unwrap() = [0; 16];
        let mut settings = rig.settings("memory");
        settings.kafka.start_timeout_ms = 0;
        let node = rig.node_with(&settings);
        node.until("told twice that there is none", |_| rig.id.lock().unwrap()[15] > 1);
        assert_eq!(node.broker.health(), Health::Down);
        *rig.id.lock().unwrap() = [7; 16];
        node.becomes(Health::Up);
        assert!(!node.stored("lobby", "m1", "1").duplicate);
        node.stop();
    }

    /// What this node has seen is another's to bring back: made again, it would be an empty one.
    #[test]
    fn a_topic_that_was_seen_is_waited_for() {
        let rig = rig();
        let settings = rig.settings("memory");
        let ids = TopicIds::Told(rig.id.clone());
        let address = Address::parse(&settings.log).unwrap();
        let find = |id: [u8; 16], seen: &AtomicBool, mode: TopicMode| {
            *rig.id.lock().unwrap() = id;
            let kafka = Kafka { topic_mode: mode, ..settings.kafka.clone() };
            let patience = admin::Patience::new(Arc::default());
            admin::prepare(&ids, &address, &kafka, seen, || Context::new(Arc::default()), patience).map(drop)
        };
        let seen = AtomicBool::new(false);
        assert_eq!(find([0; 16], &seen, TopicMode::Skip).unwrap_err().code(), Code::InvalidConfig);
        assert!(!seen.load(Ordering::Acquire));
        find([7; 16], &seen, TopicMode::Skip).unwrap();
        assert!(seen.load(Ordering::Acquire));
        for mode in [TopicMode::Create, TopicMode::Verify, TopicMode::Skip] {
            assert_eq!(find([0; 16], &seen, mode).unwrap_err().code(), Code::Unavailable, "{mode:?}");
        }
    }

    #[test]
    fn a_start_without_the_right_to_read_says_so() {
        use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
        let rig = rig();
        rig.write(home("lobby"), Some("lobby"), Some(b"1"), &[]);
        let errors = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 100_000];
        rig.mock.request_errors(RDKafkaApiKey::Fetch, &errors);
        let ids = TopicIds::Told(rig.id.clone());
        let open = || {
            let clock = Arc::new(SystemClock::new());
            KafkaBroker::open_as(&ids, &rig.settings("memory"), clock, Arc::default()).map(drop)
        };
        let e = open().unwrap_err();
        assert_eq!(e.code(), Code::InvalidConfig);
        assert!(e.message().contains("the right Read on the topic t"), "{e}");
        rig.mock.clear_request_errors(RDKafkaApiKey::Fetch);
        open().unwrap();
    }

    /// Fetches fail while everything else goes on.
    #[test]
    fn a_partition_that_is_not_read_refuses_publishes_until_it_is() {
        use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
        let rig = rig();
        let node = rig.node("memory");
        node.stored("lobby", "m1", "1");
        let errors = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 100_000];
        rig.mock.request_errors(RDKafkaApiKey::Fetch, &errors);
        // The room goes on talking. What the node has not read is known only by the end that moves.
        let (mut waits, until) = (Vec::new(), std::time::Instant::now() + Duration::from_secs(60));
        while node.broker.health() != Health::Degraded {
            assert!(std::time::Instant::now() < until, "nobody has noticed");
            waits.push(node.publish("lobby", &format!("waits{}", waits.len()), "1"));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(node.metrics.kafka_stalls.get(), 1);
        assert_eq!(node.publish("lobby", "m3", "1").wait().unwrap_err().code(), Code::Unavailable);
        rig.mock.clear_request_errors(RDKafkaApiKey::Fetch);
        node.becomes(Health::Up);
        // It was stored all along; what came last may have been refused.
        let answers: Vec<_> = waits.iter().map(|w| w.wait()).collect();
        assert!(answers[0].as_ref().is_ok_and(|ack| !ack.duplicate), "{:?}", answers[0]);
        let refused = |e: &Error| e.code() == Code::Unavailable;
        assert!(answers.iter().all(|a| a.as_ref().err().is_none_or(refused)), "{answers:?}");
        assert!(!node.stored("lobby", "m3", "1").duplicate);
        node.stop();
    }

    #[test]
    fn what_other_programs_write_never_stops_the_tail() {
        let rig = rig();
        let node = rig.node("memory");
        let lobby = home("lobby");
        let own: &[(&str, &str)] = &[("klatch-v", "1")];
        rig.write(lobby, None, Some(b"1"), &[]);
        rig.write(lobby, Some("lobby"), None, &[]);
        rig.write(lobby, Some("lobby"), Some(b"\xff\xfe"), &[]);
        rig.write(lobby, Some("lobby"), Some(b"{}"), own);
        rig.write((lobby + 1) % 4, Some("lobby"), Some(b"\"misplaced\""), &[]);
        rig.write(lobby, Some("lobby"), Some(b" {\"any\": [1]} "), &[("x", "y")]);
        rig.write(lobby, Some("lobby"), Some(b"plain text"), &[]);
        rig.write(lobby, Some("lobby"), Some(b"{\"id\":\"m1\",\"sender\":\"ann\",\"data\":7}"), own);
        // Meant for another topic: the partition stands still until this one has been looked at.
        rig.write(
            lobby,
            Some("lobby"),
            Some(b"{\"data\":8}"),
            &[("klatch-v", "1"), ("klatch-topic", "another")],
        );
        node.stored("lobby", "", "9");
        assert!(node.stored("lobby", "m1", "7").duplicate);
        let data: Vec<_> = node.history("lobby").into_iter().map(|(.., id, data)| (id, data)).collect();
        let text = |id: &str, data: &str| (id.to_owned(), data.to_owned());
        let foreign = format!("{lobby}-");
        assert_eq!(data[0].1, "{\"any\": [1]}");
        assert_eq!(data[1].1, "\"plain text\"");
        assert!(data[..2].iter().all(|(id, _)| id.starts_with(&foreign)), "{data:?}");
        assert_eq!(data[2], text("m1", "7"));
        assert_eq!((data[3].1.as_str(), data[4].1.as_str(), data.len()), ("8", "9", 5));
        let m = &node.metrics;
        let counts = (m.kafka_junk.get(), m.kafka_misplaced.get(), m.kafka_foreign.get());
        assert_eq!(counts, (4, 1, 2));
        node.stop();
    }

    #[test]
    fn a_cluster_that_is_gone_is_said_to_be_and_found_again() {
        let rig = rig();
        let node = rig.node("memory");
        node.stored("lobby", "m1", "1");
        assert_eq!(node.broker.health(), Health::Up);
        rig.mock.broker_down(1).unwrap();
        node.becomes(Health::Down);
        let e = node.publish("lobby", "m2", "1").wait().unwrap_err();
        assert_eq!(e.code(), Code::Unavailable);
        assert_eq!(node.history("lobby").len(), 1);
        rig.mock.broker_up(1).unwrap();
        node.becomes(Health::Up);
        assert!(!node.stored("lobby", "m2", "1").duplicate);
        node.stop();
    }

    #[test]
    fn a_stop_answers_everything() {
        let rig = rig();
        let node = rig.node("memory");
        rig.mock.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
        let sent: Vec<_> = (0..50).map(|n| node.publish("lobby", &format!("m{n}"), "1")).collect();
        let deadline_ms = node.broker.shared.clock.steady_ms() + 500;
        node.broker.stop(deadline_ms).unwrap();
        for promise in sent {
            assert!(promise.wait().is_err());
        }
        let late = node.publish("lobby", "late", "1");
        assert_eq!(late.wait().unwrap_err().code(), Code::Stopping);
        assert_eq!(node.broker.health(), Health::Stopped);
    }
}
