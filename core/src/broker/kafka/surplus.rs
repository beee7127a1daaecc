//! Partitions that the topic has beyond those that are klatch's. What lies there is counted, and nothing else.

use super::bell::Bell;
use super::client::{self, Context};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Most records of one partition that are counted at once.
const BATCH: usize = 512;

/// See the module.
#[derive(Default)]
pub struct Surplus {
    parts: Vec<Part>,
    /// It has been told how many there are: what comes later has been added.
    told: bool,
}

struct Part {
    number: u32,
    queue: PartitionQueue<Context>,
    ready: Arc<AtomicBool>,
    /// Kafka's next offset, once one is known.
    next: Offset,
}

/// A record that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
}

impl Surplus {
    /// The topic has `total` partitions, of which the first `ours` are klatch's. What has been added since the last call is read from its
    /// beginning; what was there at the first from its end, for others have counted that.
    pub fn there_are(
        &mut self,
        (ours, total): (u32, u32),
        consumer: &Arc<BaseConsumer<Context>>,
        topic: &str,
        bell: &Arc<Bell>,
    ) -> Result<(), KafkaError> {
        let from = if std::mem::replace(&mut self.told, true) { Offset::Beginning } else { Offset::End };
        for number in ours + self.parts.len() as u32..total {
            tracing::warn!(
                partition = number,
                "the topic has more partitions than kafka.partitions: records there are counted and not delivered"
            );
            self.parts.push(read(number, from, consumer, topic, bell)?);
        }
        Ok(())
    }

    /// Goes on with another client.
    pub fn restart(
        &mut self,
        consumer: &Arc<BaseConsumer<Context>>,
        topic: &str,
        bell: &Arc<Bell>,
    ) -> Result<(), KafkaError> {
        for part in &mut self.parts {
            *part = read(part.number, part.next, consumer, topic, bell)?;
        }
        Ok(())
    }

    /// Looks at all of them again, whether or not something was said to have come.
    pub fn look_again(&self) {
        self.parts.iter().for_each(|p| p.ready.store(true, Ordering::Release));
    }

    /// Takes what has come. True: there is more.
    pub fn take(&mut self, mut found: impl FnMut(Found)) -> bool {
        let mut more = false;
        for part in &mut self.parts {
            if !part.ready.swap(false, Ordering::AcqRel) {
                continue;
            }
            let mut count = 0;
            while count < BATCH
                && let Some(message) = part.queue.poll(Duration::ZERO)
            {
                // What is wrong with a partition that nobody needs is not worth more.
                let Ok(message) = message else { continue };
                count += 1;
                part.next = Offset::Offset(message.offset() + 1);
                let key = message.key().map(Vec::from);
                found(Found { partition: part.number, offset: message.offset(), key });
            }
            if count == BATCH {
                part.ready.store(true, Ordering::Release);
                more = true;
            }
        }
        more
    }
}

fn read(
    number: u32,
    from: Offset,
    consumer: &Arc<BaseConsumer<Context>>,
    topic: &str,
    bell: &Arc<Bell>,
) -> Result<Part, KafkaError> {
    let (queue, ready) = client::queue(consumer, topic, number, bell)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, number as i32, from)?;
    consumer.incremental_assign(&list)?;
    Ok(Part { number, queue, ready, next: from })
}
