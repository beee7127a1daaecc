//! What other threads hand to a shard.

use crate::broker::append::{ConnectionKey, Reply};
use crate::broker::history::{HistoryPage, StreamPage, StreamStart};
use crate::codes::Disconnect;
use crate::command::{Connect, Start};
use crate::error::Result;
use crate::hooks::{AnswerSink, Decision};
use crate::points::{Rule, broken};
use crate::room::hub::{RoomBatch, RoomKey, ShardPort};
use crate::server::admission::Permit;
use crate::server::net::Wake;
use bytes::Bytes;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An upgraded socket.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(crate) io: TcpStream,
    pub(crate) arrival: Arrival,
}

/// What the handshake told of a connection.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// What hyper had read past the request.
    pub(crate) read: Bytes,
    pub(crate) address: SocketAddr,
    /// Present if the query or headers named a user, token or room.
    pub(crate) connect: Option<Connect<'static>>,
    pub(crate) permit: Permit,
}

/// What a reader has read for a connection.
#[derive(Debug)]
pub(crate) enum Read {
    /// The start of a member's stream.
    Start(Result<StreamStart>),
    /// This node has yet to read up to where a member's stream starts, which was first asked for at this time (steady clock).
    Behind(Start, u64),
    /// The next part of a member's stream.
    Page(Result<StreamPage>),
    /// A history page.
    History(Result<HistoryPage>),
}

/// What a read was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadFor {
    pub(crate) key: ConnectionKey,
    pub(crate) room: RoomKey,
    /// Which of the shard's streams; 0 for a history page.
    pub(crate) stream: u64,
}

/// Which connections a host's kick means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One connection, by its id.
    Connection(u64),
    /// All connections of a user.
    User(Box<str>),
}

/// Everything that is not a batch.
#[derive(Debug)]
pub(crate) enum Item {
    Upgraded(Upgraded),
    Read(ReadFor, Read),
    Hook {
        key: ConnectionKey,
        call: u64,
        decision: Decision,
    },
    Presence(RoomKey, Bytes),
    Signal {
        room: RoomKey,
        except: Option<ConnectionKey>,
        frame: Bytes,
    },
    /// A frame for one connection.
    Send {
        connection: u64,
        frame: Bytes,
    },
    /// Take the target out of the room, or close its connections.
    Kick {
        target: Target,
        room: Option<Box<str>>,
        code: Disconnect,
    },
    /// Close the connections that are in one of these rooms, or in any room: what follows there does not follow what they have seen.
    Reconnect(Option<Vec<RoomKey>>),
    /// Close everything and end, at this time (steady clock) at the latest.
    Stop {
        deadline_ms: u64,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) batches: Vec<RoomBatch>,
    pub(crate) replies: Vec<Reply>,
    pub(crate) items: Vec<Item>,
    /// The shard is not asleep in its poll set, or has been woken.
    awake: bool,
}

/// See the module. What is in it is bounded by what its senders may have under way: publishes by `append_queue` and
/// `shard_inbox_bytes`, signals and presence events by that too, reads by `history_reads`, sockets by `handshakes`.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    waker: Box<dyn Wake>,
    /// Bytes of the batches, signals and presence events in the queue, or a little more.
    waiting: AtomicUsize,
    /// The shard has ended.
    gone: AtomicBool,
}

impl Inbox {
    pub(crate) fn new(waker: Box<dyn Wake>) -> Inbox {
        Inbox {
            queue: Mutex::new(Queue { awake: true, ..Queue::default() }),
            waker,
            waiting: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, f: impl FnOnce(&mut Queue)) {
        let mut q = self.lock();
        if self.is_gone() {
            return;
        }
        f(&mut q);
        let wake = !std::mem::replace(&mut q.awake, true);
        drop(q);
        if wake {
            self.waker.wake();
        }
    }

    pub(crate) fn push(&self, item: Item) {
        self.add(|q| q.items.push(item));
    }

    /// The same for what counts as waiting.
    fn push_frame(&self, bytes: usize, item: Item) {
        if !self.is_gone() {
            self.waiting.fetch_add(bytes + size_of::<Item>(), Ordering::Relaxed);
        }
        self.push(item);
    }

    /// Hands over a frame for one connection, wherever it is.
    pub(crate) fn send(&self, connection: u64, frame: Bytes) {
        self.push_frame(frame.len(), Item::Send { connection, frame });
    }

    /// The shard has ended; nothing that is still handed over is kept.
    pub(crate) fn close(&self) {
        let mut left = Queue::default();
        {
            let _q = self.lock();
            self.gone.store(true, Ordering::Release);
        }
        self.take(&mut left);
    }

    /// Whether the shard has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Takes everything, into the buffers given.
    pub(crate) fn take(&self, into: &mut Queue) {
        let mut q = self.lock();
        std::mem::swap(&mut q.batches, &mut into.batches);
        std::mem::swap(&mut q.replies, &mut into.replies);
        std::mem::swap(&mut q.items, &mut into.items);
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// The shard is about to sleep: true if it may, for nothing has come.
    pub(crate) fn may_sleep(&self) -> bool {
        let mut q = self.lock();
        let empty = q.batches.is_empty() && q.replies.is_empty() && q.items.is_empty();
        let empty = empty || broken(Rule::NoLostWakeUp);
        q.awake = !empty;
        empty
    }

    /// The shard has woken up.
    pub(crate) fn awake(&self) {
        self.lock().awake = true;
    }
}

impl ShardPort for Inbox {
    fn deliver(&self, batches: &mut Vec<RoomBatch>, replies: &mut Vec<Reply>) {
        let bytes: usize = batches.iter().map(|b| b.frames.len()).sum();
        self.add(|q| {
            q.batches.append(batches);
            q.replies.append(replies);
            self.waiting.fetch_add(bytes, Ordering::Relaxed);
        });
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn presence(&self, room: RoomKey, frame: Bytes) {
        self.push_frame(frame.len(), Item::Presence(room, frame));
    }

    fn signal(&self, room: RoomKey, except: Option<ConnectionKey>, frame: Bytes) {
        self.push_frame(frame.len(), Item::Signal { room, except, frame });
    }

    fn reconnect(&self, rooms: Option<Vec<RoomKey>>) {
        self.push(Item::Reconnect(rooms));
    }
}

/// The way of a hook's answer back to a connection.
#[derive(Debug)]
pub(crate) struct HookReturn {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) key: ConnectionKey,
}

impl AnswerSink for HookReturn {
    fn answer(&self, call: u64, decision: Decision) {
        self.inbox.push(Item::Hook { key: self.key, call, decision });
    }
}
