//! Threads that read history for shards, so that no shard waits for a disk.

use crate::broker::history::History;
use crate::codes::Code;
use crate::command::{HistoryQuery, Start};
use crate::error::Error;
use crate::server::inbox::{Inbox, Item, Read, ReadFor};
use crate::threads;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Start { start: Start, cursor: u64 },
    Page { after: u64, to: u64 },
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
            What::Start { start, cursor } => Read::Start(history.start(&self.room, &start, cursor)),
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

fn run(history: &History, queue: &Mutex<Receiver<Job>>) {
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
