//! librdkafka's own way from producing to consuming, in this process, at the settings of klatch's clients: what no server on Kafka can be
//! quicker than.

use crate::chat;
use crate::load::room;
use crate::meter::{Figures, Meter, Shape};
use klatch_kafka_tests::expected::partition;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the last records are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A producer and a consumer of a topic.
pub struct Bare {
    producer: BaseProducer,
    consumer: BaseConsumer,
    topic: String,
    rooms: usize,
    partitions: u32,
    next: u64,
}

impl Bare {
    /// For a topic that exists.
    pub fn new(addresses: &str, topic: &str, partitions: u32, rooms: usize) -> KafkaResult<Bare> {
        let mut all = ClientConfig::new();
        all.set("bootstrap.servers", addresses)
            .set("client.id", "bare")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "1000")
            .set("retry.backoff.max.ms", "500")
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("allow.auto.create.topics", "false");
        let producer = all
            .clone()
            .set("linger.ms", "1")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("queue.buffering.max.messages", "10000000")
            .create()?;
        let consumer: BaseConsumer = all
            .set("group.id", "bare")
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.error.backoff.ms", "100")
            .set("check.crcs", "true")
            .set("queued.max.messages.kbytes", "8192")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_uncommitted")
            .create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            // The topic is empty.
            list.add_partition_offset(topic, partition as i32, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        Ok(Bare { producer, consumer, topic: topic.into(), rooms, partitions, next: 0 })
    }

    /// Sends as the shape says until the meter says that it is enough, and waits for what is under way.
    pub fn run(&mut self, shape: Shape, mut meter: Meter) -> Figures {
        let first = self.next;
        let sent = Mutex::new(Vec::new());
        let sent_count = || sent.lock().map_or(0, |sent| sent.len());
        let mut consumed = 0;
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            if let Shape::Paced(rate) = shape {
                let (this, sent, over) = (&*self, &sent, &over);
                let clock = meter.clock();
                threads.spawn(move || {
                    let mut due = Duration::ZERO;
                    while !over.load(std::sync::atomic::Ordering::Relaxed) {
                        while due <= clock.elapsed() {
                            this.send(first, sent, clock);
                            due += Duration::from_secs_f64(1.0 / rate);
                        }
                        this.producer.poll(Duration::ZERO);
                        std::thread::sleep(due.saturating_sub(clock.elapsed()));
                    }
                });
            }
            let clock = meter.clock();
            let mut enough = None;
            loop {
                let sending = meter.tick();
                over.store(!sending, std::sync::atomic::Ordering::Relaxed);
                let wanted = match shape {
                    Shape::One if sending => 1,
                    Shape::Bulk(count) if sending => count,
                    _ => 0,
                };
                for _ in (sent_count() - consumed)..wanted {
                    self.send(first, &sent, clock);
                }
                self.producer.poll(Duration::ZERO);
                if !sending && consumed == sent_count() {
                    break;
                }
                if !sending && *enough.get_or_insert_with(|| Instant::now() + PATIENCE) < Instant::now() {
                    break;
                }
                // What has come is taken together, as there is one wake-up for it.
                let mut wait = Duration::from_millis(5);
                while let Some(record) = self.consumer.poll(wait) {
                    wait = Duration::ZERO;
                    let record = match record {
                        Err(KafkaError::PartitionEOF(_)) => continue,
                        record => record.unwrap_or_else(|e| panic!("the consumer: {e}")),
                    };
                    let number = record.payload().and_then(chat::number).unwrap_or(u64::MAX);
                    let at =
                        sent.lock().ok().and_then(|s| s.get(number.wrapping_sub(first) as usize).copied());
                    if let Some(at) = at {
                        meter.acked(at, meter.now());
                        consumed += 1;
                    }
                }
            }
        });
        let count = sent_count();
        self.next += count as u64;
        let mut figures = meter.end();
        if consumed != count {
            figures.wrong.push(format!("{count} sent, {consumed} consumed"));
        }
        figures
    }

    fn send(&self, first: u64, sent: &Mutex<Vec<u64>>, clock: Instant) {
        let Ok(mut sent) = sent.lock() else { return };
        let number = first + sent.len() as u64;
        let (key, value) = (room(number as usize % self.rooms), chat::text(number));
        let place = partition(&key, self.partitions) as i32;
        // The time goes in before a record can come back.
        sent.push(clock.elapsed().as_nanos() as u64);
        let record = BaseRecord::to(&self.topic).partition(place).key(&key).payload(&value);
        if let Err((e, _)) = self.producer.send(record) {
            panic!("the producer: {e}");
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // What is under way no longer matters.
        let _ = self.producer.flush(Duration::from_secs(1));
    }
}
