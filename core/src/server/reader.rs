//! Threads that read history for shards, so that no shard waits for a disk.

use crate::broker::history::History;
use crate::codes::Code;
use crate::command::{HistoryQuery, Start};
use crate::error::Error;
use crate::server::inbox::{Inbox, Item, Read, ReadFor};
use crate::threads;
#[cfg(target_os = "linux")]
use rustix::process::{getpriority_process, setpriority_process};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// `since_ms`: when it was first asked for (steady clock).
    Start {
        start: Start,
        cursor: u64,
        since_ms: u64,
    },
    Page {
        after: u64,
        to: u64,
    },
    Query(HistoryQuery),
}

/// One read.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) what: What,
    pub(crate) room: Arc<str>,
    pub(crate) to: ReadFor,
    pub(crate) inbox: Arc<Inbox>,
}

impl Job {
    /// Reads.
    pub(crate) fn perform(&self, history: &History) -> Read {
        match self.what {
            What::Start { start, cursor, since_ms } => {
                match history.start(&self.room, &start, cursor, since_ms) {
                    Ok(Some(start)) => Read::Start(Ok(start)),
                    Ok(None) => Read::Behind(start, since_ms),
                    Err(e) => Read::Start(Err(e)),
                }
            }
            What::Page { after, to } => Read::Page(history.page(&self.room, after, to)),
            What::Query(query) => Read::History(history.query(&self.room, &query)),
        }
    }
}

/// The threads' queue, bounded by all shards' `history_reads` together.
#[derive(Debug)]
pub(crate) struct Readers {
    /// None once it is dropped.
    queue: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// How long a read under way may hold up the end.
const PATIENCE: Duration = Duration::from_millis(500);

impl Readers {
    /// A queue without threads, and its other end.
    pub(crate) fn queue(len: usize) -> (Readers, Receiver<Job>) {
        let (tx, rx) = sync_channel(len.max(1));
        (Readers { queue: Some(tx), threads: Vec::new() }, rx)
    }

    /// Starts the threads; they end when this is dropped, which waits for them, as they hold the log, but no longer than
    /// [`PATIENCE`]: a disk may hang.
    pub(crate) fn start(history: &Arc<History>, queue: usize) -> std::io::Result<Readers> {
        let (mut readers, rx) = Readers::queue(queue);
        let rx = Arc::new(Mutex::new(rx));
        for i in 0..2 {
            let (history, rx) = (history.clone(), rx.clone());
            readers.threads.push(threads::spawn(format!("klatch-read-{i}"), move || run(&history, &rx))?);
        }
        Ok(readers)
    }

    /// Queues a read; gives it back if the queue is full.
    pub(crate) fn read(&self, job: Job) -> Result<(), Job> {
        let Some(queue) = &self.queue else { return Err(job) };
        queue.try_send(job).map_err(|e| match e {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            threads::join(thread, PATIENCE);
        }
    }
}

/// How much these threads give way to the shards and the log (Linux: the nice value of a thread). Whoever asks for history can
/// wait; those who are live are not to notice.
const NICE: i32 = 10;

fn run(history: &History, queue: &Mutex<Receiver<Job>>) {
    // Of this thread alone. Where it is refused they are like all others.
    #[cfg(target_os = "linux")]
    let _ = getpriority_process(None).and_then(|now| setpriority_process(None, now + NICE));
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let what = job.what;
        // Whoever asked waits for an answer, also to a read that fails in a way of its own.
        let read = catch_unwind(AssertUnwindSafe(|| job.perform(history))).unwrap_or_else(|_| {
            tracing::error!("a read of the history panicked");
            let failed = || Error::new(Code::Internal, "the history could not be read");
            match what {
                What::Start { .. } => Read::Start(Err(failed())),
                What::Page { .. } => Read::Page(Err(failed())),
                What::Query(_) => Read::History(Err(failed())),
            }
        });
        job.inbox.push(Item::Read(job.to, read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::append::{Append, ConnectionKey};
    use crate::broker::memory::MemoryBroker;
    use crate::broker::{Broker, Health};
    use crate::clock::ManualClock;
    use crate::config::Settings;
    use crate::message::{Epoch, Publication};
    use crate::room::hub::RoomKey;
    use crate::server::inbox::Queue;
    use crate::server::net::Wake;
    use crate::view::OwnedRow;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A broker that panics while it is read.
    #[derive(Debug)]
    struct Faulty {
        broker: MemoryBroker,
        faulty: AtomicBool,
    }

    impl Broker for Faulty {
        fn append(&self, appends: &mut Vec<Append>) {
            self.broker.append(appends);
        }
        fn read(&self, rows: &[OwnedRow]) -> crate::Result<Vec<Publication>> {
            self.broker.read(rows)
        }
        fn epoch(&self, room: &str) -> Epoch {
            assert!(!self.faulty.load(Ordering::SeqCst), "a fault of the reader");
            self.broker.epoch(room)
        }
        fn sweep(&self) {}
        fn health(&self) -> Health {
            Health::Up
        }
        fn stop(&self, deadline_ms: u64) -> crate::Result<u64> {
            self.broker.stop(deadline_ms)
        }
    }

    /// Tells the test that something has come.
    #[derive(Debug)]
    struct Bell(SyncSender<()>);

    impl Wake for Bell {
        fn wake(&self) {
            self.0.send(()).unwrap();
        }
    }

    #[test]
    fn x28_a_read_that_panics_is_answered_and_ends_no_thread() {
        let settings = Settings::default();
        let broker = MemoryBroker::new(&settings, Arc::new(ManualClock::new(1)), Arc::default()).unwrap();
        let hub = broker.tail().hub().clone();
        let broker = Arc::new(Faulty { broker, faulty: AtomicBool::new(true) });
        let history = History::new(broker.clone(), hub, &settings.limits, Arc::default());
        let readers = Readers::start(&Arc::new(history), 1).unwrap();
        let (bell, rung) = sync_channel(1);
        let inbox = Arc::new(Inbox::new(Box::new(Bell(bell))));
        let key = ConnectionKey { shard: 0, slot: 0, generation: 0 };
        let to = ReadFor { key, room: RoomKey { slot: 0, generation: 0 }, stream: 1 };
        let read = |what: What| {
            assert!(inbox.may_sleep());
            readers.read(Job { what, room: "lobby".into(), to, inbox: inbox.clone() }).unwrap();
            rung.recv_timeout(Duration::from_secs(20)).unwrap();
            let mut queue = Queue::default();
            inbox.take(&mut queue);
            queue.items.pop().unwrap()
        };
        // More often than there are threads.
        for _ in 0..3 {
            let Item::Read(_, Read::History(Err(e))) = read(What::Query(HistoryQuery::default())) else {
                panic!()
            };
            assert_eq!(e.code(), Code::Internal);
        }
        broker.faulty.store(false, Ordering::SeqCst);
        let Item::Read(_, Read::History(page)) = read(What::Query(HistoryQuery::default())) else { panic!() };
        assert_eq!(page.unwrap().last, 0);
    }
}
