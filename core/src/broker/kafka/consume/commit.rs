//! The thread that commits. librdkafka tells what became of a commit only to who waits for it, which may take minutes without a
//! coordinator; the reader must not stand still for that.

use super::group::GroupContext;
use crate::broker::kafka::bell::Bell;
use crate::threads;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// See the module. One commit at a time.
#[derive(Debug)]
pub struct Committer {
    orders: SyncSender<TopicPartitionList>,
    answers: Receiver<KafkaResult<()>>,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Starts the thread. `bell` is rung with every answer.
    pub fn start(consumer: &Arc<BaseConsumer<GroupContext>>, bell: Arc<Bell>) -> io::Result<Committer> {
        let (orders, incoming) = sync_channel::<TopicPartitionList>(1);
        let (outgoing, answers) = sync_channel(1);
        let consumer = consumer.clone();
        let thread = threads::spawn("klatch-commit".into(), move || {
            for offsets in incoming {
                let answer = consumer.commit(&offsets, CommitMode::Sync);
                if outgoing.send(answer).is_err() {
                    return;
                }
                bell.ring();
            }
        })?;
        Ok(Committer { orders, answers, thread })
    }

    /// Has this committed. Not to be called before the last one was answered: false then.
    pub fn send(&self, offsets: TopicPartitionList) -> bool {
        self.orders.try_send(offsets).is_ok()
    }

    /// What became of it, once that is known.
    pub fn answer(&self) -> Option<KafkaResult<()>> {
        self.answers.try_recv().ok()
    }

    /// Ends the thread, and waits so long for it. One that waits for the cluster lets go of the client when it is done.
    pub fn end(self, patience: Duration) {
        let Committer { orders, answers, thread } = self;
        drop((orders, answers));
        threads::join(thread, patience);
    }
}
