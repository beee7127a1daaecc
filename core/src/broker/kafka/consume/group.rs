//! What a group tells its member: changes of the assignment. They are noted here and dealt with by the reader, which goes on polling
//! meanwhile: a member that does not poll is thrown out.

use crate::broker::kafka::client::Context;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A change of the assignment. Until it is answered, by an assign or an unassign, the group waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These partitions come.
    Assign(Vec<i32>),
    /// These go.
    Revoke(Vec<i32>),
}

/// The context of a member's client.
#[derive(Debug)]
pub struct GroupContext {
    client: Context,
    changes: Mutex<VecDeque<Change>>,
    closing: AtomicBool,
}

impl GroupContext {
    /// With what all clients do.
    pub fn new(client: Context) -> GroupContext {
        GroupContext { client, changes: Mutex::default(), closing: AtomicBool::new(false) }
    }

    fn changes(&self) -> MutexGuard<'_, VecDeque<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next change that has not been dealt with.
    pub fn take_change(&self) -> Option<Change> {
        self.changes().pop_front()
    }

    /// From now on changes are answered at once: nobody is left to deal with them.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

/// Whether only what changes is assigned and unassigned.
pub fn is_cooperative(consumer: &BaseConsumer<GroupContext>) -> bool {
    matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
}

/// Takes partitions.
pub fn assign(consumer: &BaseConsumer<GroupContext>, list: &TopicPartitionList) -> KafkaResult<()> {
    if is_cooperative(consumer) { consumer.incremental_assign(list) } else { consumer.assign(list) }
}

/// Lets partitions go.
pub fn unassign(consumer: &BaseConsumer<GroupContext>, list: &TopicPartitionList) -> KafkaResult<()> {
    if is_cooperative(consumer) { consumer.incremental_unassign(list) } else { consumer.unassign() }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.client.log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<GroupContext>,
        why: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assigned = why == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let answered = if assigned { assign(consumer, list) } else { unassign(consumer, list) };
            if let Err(e) = answered {
                tracing::debug!(error = %e, "answering a rebalance while leaving a group");
            }
            return;
        }
        let partitions = list.elements().iter().map(|e| e.partition()).collect();
        let change = if assigned { Change::Assign(partitions) } else { Change::Revoke(partitions) };
        self.changes().push_back(change);
    }
}
