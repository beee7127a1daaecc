//! The thread that commits. librdkafka tells what became of a commit only to who waits for it, which may take minutes without a
//! coordinator; the reader must not stand still for that.

use super::group::GroupContext;
use crate::broker::kafka::bell::Bell;
use crate::threads;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::cell::Cell;
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
    /// One is being committed: the next answer is of that.
    busy: Cell<bool>,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Starts the thread. `bell` is rung with every answer.
    pub fn start(consumer: &Arc<BaseConsumer<GroupContext>>, bell: Arc<Bell>) -> io::Result<Committer> {
        let consumer = consumer.clone();
        Self::with(move |offsets| consumer.commit(&offsets, CommitMode::Sync), bell)
    }

    fn with(
        commit: impl Fn(TopicPartitionList) -> KafkaResult<()> + Send + 'static,
        bell: Arc<Bell>,
    ) -> io::Result<Committer> {
        let (orders, incoming) = sync_channel::<TopicPartitionList>(1);
        let (outgoing, answers) = sync_channel(1);
        let thread = threads::spawn("klatch-commit".into(), move || {
            for offsets in incoming {
                let answer = commit(offsets);
                if outgoing.send(answer).is_err() {
                    return;
                }
                bell.ring();
            }
        })?;
        Ok(Committer { orders, answers, busy: Cell::new(false), thread })
    }

    /// Has this committed. False before the last one was answered, whoever waits for that: its answer would be taken for this one's.
    pub fn send(&self, offsets: TopicPartitionList) -> bool {
        let sent = !self.busy.get() && self.orders.try_send(offsets).is_ok();
        self.busy.set(self.busy.get() || sent);
        sent
    }

    /// What became of it, once that is known.
    pub fn answer(&self) -> Option<KafkaResult<()>> {
        let answer = self.answers.try_recv().ok();
        self.busy.set(self.busy.get() && answer.is_none());
        answer
    }

    /// Ends the thread, and waits so long for it. One that waits for the cluster lets go of the client when it is done.
    pub fn end(self, patience: Duration) {
        let Committer { orders, answers, thread, .. } = self;
        drop((orders, answers));
        threads::join(thread, patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    const LONG: Duration = Duration::from_secs(60);

    fn list(partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition("t", partition);
        list
    }

    /// The reader forgets what it had committed where another topic comes; the answer comes all the same.
    #[test]
    fn an_answer_is_never_that_of_another_commit() {
        let ((came, seen), (go, wait)) = (channel(), channel::<()>());
        let wait = Mutex::new(wait);
        let commit = move |offsets: TopicPartitionList| {
            let _ = came.send(offsets.elements()[0].partition());
            let _ = wait.lock().unwrap().recv();
            Ok(())
        };
        let bell = Arc::new(Bell::default());
        let committer = Committer::with(commit, bell.clone()).unwrap();
        assert!(committer.send(list(1)));
        assert_eq!(seen.recv_timeout(LONG), Ok(1));
        assert!(!committer.send(list(2)), "the first is still being committed");
        assert!(committer.answer().is_none());
        go.send(()).unwrap();
        assert!(bell.wait(LONG) && committer.answer().is_some());
        assert!(committer.send(list(3)));
        assert_eq!(seen.recv_timeout(LONG), Ok(3));
        drop(go);
        committer.end(LONG);
    }
}
