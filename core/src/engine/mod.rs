//! The engine: a thin facade over broker, rooms and server. Every verb here has the same name in every language.

mod builder;
pub(crate) mod housekeeping;
mod publishing;
mod subscription;

pub use crate::broker::append::Ack;
pub use crate::broker::history::HistoryPage;
pub use crate::room::presence::PresenceList;
pub use crate::room::subscriber::Ended;
pub use builder::Builder;
pub use publishing::{Message, Publishing};
pub use subscription::{Closer, Subscription};

use crate::broker::Health;
use crate::broker::append::{Append, Promise, Waiter};
use crate::broker::consume::{Consume, Consumer, Handled};
use crate::clock::LONGEST;
use crate::codes::{Code, Disconnect};
use crate::command::{HistoryQuery, Start};
use crate::config::{Limit, Limits};
use crate::error::{Error, Result};
use crate::events::{EventStream, Events};
use crate::ids::{check_id, check_name};
use crate::message::{Kind, Publication};
use crate::metrics::Metrics;
use crate::protocol::frame;
use crate::protocol::native::{encode, text};
use crate::room::hub::congested;
use crate::server::given;
use crate::server::http::Site;
use crate::server::inbox::{Item, Target};
use crate::threads;
use bytes::Bytes;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// A running engine. Clones are handles to the same one. When the last handle is dropped without [`Engine::stop`] it stops as
/// with a timeout of one second. A hook that holds a handle keeps the engine alive: then only a stop ends it.
///
/// # Where it may be called
///
/// All methods may be called from any thread, also from hooks and inside an async runtime. Those that wait say so, and block the
/// thread that they are called on; none needs a runtime, and the engine's own threads never depend on the caller's.
///
/// | Call | In a hook | In an async task | In a waker |
/// | --- | --- | --- | --- |
/// | [`publish`](Engine::publish), [`signal`](Engine::signal), [`send`](Engine::send), [`kick`](Engine::kick), [`presence`](Engine::presence), [`serve`](Engine::serve), [`health`](Engine::health), [`consume`](Engine::consume) | works | works | works |
/// | [`history`](Engine::history), [`subscribe`](Engine::subscribe) | works | works; reads the disk on this thread | works; holds up the engine while it reads |
/// | [`Publishing::wait`] | works; holds up one of four threads | works; blocks this thread | `would_deadlock`, if there is no answer yet |
/// | [`Consumer::stop`] | works, but not in that consumer's own handler, which it waits for | works; blocks this thread | `would_deadlock` |
/// | [`stop`](Engine::stop), and dropping the last handle | works | works; blocks this thread | `would_deadlock`; a drop stops in the background |
///
/// Wakers of hand-made futures are the one piece of the host's code, besides its clock and its `tracing` subscriber, that runs on the
/// engine's own threads. Executors only queue the task in their wakers and never meet this. A clock and a subscriber must not call the
/// engine at all.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// None once it has stopped: then nothing of it holds the data directory, whoever still has handles.
    site: RwLock<Option<Arc<Site>>>,
    /// Threads that may wait for a disk in place of a host's executor. None once it has stopped.
    pool: Mutex<Option<Arc<Handle>>>,
    addresses: Vec<SocketAddr>,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    stopped: AtomicBool,
    running: Mutex<Option<Running>>,
}

/// The engine's threads, and how each is told to end. A start that failed has some of them.
#[derive(Debug, Default)]
struct Running {
    shards: Vec<JoinHandle<()>>,
    io: Option<(JoinHandle<()>, watch::Sender<bool>)>,
    keeper: Option<(JoinHandle<()>, Sender<()>)>,
}

/// How long past a stop's timeout a thread may take that has nothing to do but to end.
const GRACE: Duration = Duration::from_millis(500);

/// What a stop left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Publishes that were not written within the timeout; each has been answered.
    pub unwritten: u64,
}

/// Whom [`Engine::kick`] means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// One connection, by its id.
    Connection(String),
    /// Every connection of a user.
    User(String),
}

impl Engine {
    /// Begins to configure an engine.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The addresses that it listens on, in the order of the settings; ports that were 0 are filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0.addresses
    }

    /// Stores and delivers a message. The answer can be awaited or waited for; see [`Publishing`]. Does not wait itself.
    ///
    /// Messages that one thread publishes to one room are stored in that order. No rate limit and no hook holds for the host.
    pub fn publish(&self, message: Message) -> Publishing {
        let promise = Arc::new(Promise::new());
        let appended = self.on(|site| {
            let append = append_of(message, &promise, &site.shared.policy.limits)?;
            site.shared.broker.append(&mut vec![append]);
            Ok(())
        });
        if let Err(e) = appended {
            // Nobody can await it yet.
            let _ = promise.fill(Err(e));
        }
        Publishing(promise)
    }

    /// Stores and delivers several messages, in order: cheaper than one by one.
    pub fn publish_batch(&self, messages: Vec<Message>) -> Vec<Publishing> {
        let mut appends = Vec::with_capacity(messages.len());
        let mut answers = Vec::with_capacity(messages.len());
        let site = self.running();
        for message in messages {
            let promise = Arc::new(Promise::new());
            let append = match &site {
                Ok(site) => append_of(message, &promise, &site.shared.policy.limits),
                Err(e) => Err(e.clone()),
            };
            match append {
                Ok(append) => appends.push(append),
                Err(e) => {
                    self.0.metrics.refused(&e);
                    // Nobody can await it yet.
                    let _ = promise.fill(Err(e));
                }
            }
            answers.push(Publishing(promise));
        }
        if let Ok(site) = site {
            site.shared.broker.append(&mut appends);
        }
        answers
    }

    fn running(&self) -> Result<Arc<Site>> {
        let site = if self.0.stopped.load(Ordering::Acquire) { None } else { self.0.site() };
        site.ok_or_else(|| Error::new(Code::Stopped, "the engine has been stopped"))
    }

    /// Carries out a request of the host; a limit that refuses it is counted.
    fn on<T>(&self, request: impl FnOnce(&Site) -> Result<T>) -> Result<T> {
        let site = self.running()?;
        request(&site).inspect_err(|e| self.0.metrics.refused(e))
    }

    /// Listens to a room: what `start` says of its history, then everything that comes, without gap or double. May read the disk.
    pub fn subscribe(&self, room: &str, start: Start) -> Result<Subscription> {
        self.on(|site| {
            check_name("room", room, site.shared.policy.limits.name_bytes)?;
            Subscription::open(&site.shared, self.0.pool(), room, start)
        })
    }

    /// Listens to every room at once: everything that this node delivers from now on, in the order of each room, for a bot, an index or a
    /// monitor. There is no history, and no position to go on from: one that ends because it was not read ([`Ended::Slow`]) has a gap.
    /// Where each publication must be dealt with once, on whichever node, see [`consume`](Engine::consume).
    ///
    /// Errors: `stopped`.
    pub fn subscribe_all(&self) -> Result<Subscription> {
        self.on(|site| Ok(Subscription::open_all(&site.shared, self.0.pool())))
    }

    /// Has `handler` called for every publication of every room, as a member of a consumer group: each is handled on one node of the
    /// group, in the order of its room, and once it was handled the group goes on behind it. Only on Kafka.
    ///
    /// ```no_run
    /// # fn store(_: &klatch::Publication) -> std::io::Result<()> { Ok(()) }
    /// # fn main() -> klatch::Result<()> {
    /// use klatch::Engine;
    /// use std::time::Duration;
    ///
    /// let engine = Engine::builder().log("kafka://127.0.0.1:9092/chats").start()?;
    /// let archive = engine.consume("archive", |publication| {
    ///     store(publication)?;
    ///     Ok(())
    /// })?;
    /// println!("{} to go", archive.status().lag);
    /// archive.stop(Duration::from_secs(10))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// - **At least once.** What was handled is committed soon after, and before the consumer stops or its partition goes to another
    ///   member. After a crash, or where a handler takes longer than [`Consume::release`], some is handled again: let the handler find
    ///   (room, offset) done already.
    /// - **What members saw.** A publication comes after this node has read it, and not if the node took it for a duplicate or a conflict.
    ///   A node that is behind, or has lost the cluster, waits. Where the node has dropped the history before it, `prev` is 0; one so old
    ///   that not even its id is known comes again if its duplicate does.
    /// - **An error or a panic** has the handler called again with the same publication, after a while that grows ([`Consume::retry`]), for
    ///   as long as it takes; what is behind it in its partition waits, other partitions do not. To give up on a publication, put it aside
    ///   and return `Ok`.
    /// - The handler runs on threads of its own ([`Consume::threads`]), may take its time, and may call anything of the engine. One that
    ///   holds an engine keeps it alive until the consumer is stopped.
    /// - A group that is new begins at the topic's first record, or at its end ([`Consume::from_end`]).
    ///
    /// Errors: `unsupported` where the log is no Kafka topic; `invalid_name`; `invalid_config` for a property or a number of threads that
    /// cannot be; `stopping`, `stopped`.
    pub fn consume(
        &self,
        how: impl Into<Consume>,
        handler: impl Fn(&Publication) -> Handled + Send + Sync + 'static,
    ) -> Result<Consumer> {
        self.on(|site| Ok(Consumer::new(site.shared.broker.consume(how.into(), Arc::new(handler))?)))
    }

    /// Reads a page of a room's history. May read the disk.
    pub fn history(&self, room: &str, query: HistoryQuery) -> Result<HistoryPage> {
        self.on(|site| {
            check_name("room", room, site.shared.policy.limits.name_bytes)?;
            site.shared.history.query(room, &query)
        })
    }

    /// Who is in a room, on this node.
    pub fn presence(&self, room: &str) -> PresenceList {
        self.0.site().map(|site| site.shared.presence.list(room)).unwrap_or_default()
    }

    /// Delivers an event to a room's members without storing it. `json` is its data, `user` its sender (empty: anonymous).
    ///
    /// Errors: `invalid_name`, `invalid_data`, `too_deep`, `too_large`; `busy` while the connections' threads do not keep up;
    /// `stopped`.
    pub fn signal(&self, room: &str, user: &str, name: &str, json: &str) -> Result<()> {
        self.on(|site| {
            let limits = &site.shared.policy.limits;
            check_name("room", room, limits.name_bytes)?;
            if !user.is_empty() {
                check_name("user", user, limits.name_bytes)?;
            }
            let frame = event_frame(site, room, user, name, json)?;
            site.shared.hub.signal(room, None, &frame);
            Ok(())
        })
    }

    /// Delivers an event to one connection without storing it, by the id that its events and hooks name; `json` is its data. Its client
    /// gets a signal without a room. Nothing happens if there is no such connection on this node, or it has not been let in.
    ///
    /// Errors: those of [`signal`](Engine::signal); `bad_request` for what is no connection id.
    pub fn send(&self, connection: &str, name: &str, json: &str) -> Result<()> {
        self.on(|site| {
            let connection = connection_number(connection)?;
            let frame = event_frame(site, "", "", name, json)?;
            for shard in &site.shards {
                shard.send(connection, frame.clone());
            }
            Ok(())
        })
    }

    /// Takes a connection or a user's connections out of a room, or, without a room, closes them with `kicked`, which tells their
    /// clients not to come back. Takes effect soon after the call.
    pub fn kick(&self, whom: &Whom, room: Option<&str>) -> Result<()> {
        let site = self.running()?;
        let target = match whom {
            Whom::Connection(id) => Target::Connection(connection_number(id)?),
            Whom::User(user) => Target::User(user.as_str().into()),
        };
        for shard in &site.shards {
            let room = room.map(Box::from);
            shard.push(Item::Kick { target: target.clone(), room, code: Disconnect::Kicked });
        }
        Ok(())
    }

    /// Serves a connection that the host has accepted, as if it had come to one of the engine's listeners: HTTP first, and after its
    /// upgrade the protocol. So a host's own web server and the engine can share a port. `read` is what has been read of it: the head of a
    /// request, and whatever came behind. `address` is where it is from. Does not wait; the socket belongs to the engine from here on.
    ///
    /// Errors, with which the connection is closed: `busy` while `handshakes` others are in their handshake, or where the address has as
    /// many as it may; `stopped`.
    pub fn serve(&self, io: TcpStream, address: SocketAddr, read: &[u8]) -> Result<()> {
        let site = self.running()?;
        let runtime = self.0.pool().upgrade();
        let runtime = runtime.ok_or_else(|| Error::new(Code::Stopped, "the engine has been stopped"))?;
        given::serve(io, address, read, site, &runtime).inspect_err(|e| self.0.metrics.refused(e))
    }

    /// The engine's events from now on. There is one queue: two streams share it, and each event goes to one of them.
    pub fn events(&self) -> EventStream {
        self.0.events.open();
        EventStream(self.0.events.clone())
    }

    /// The engine's numbers.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether publishes are stored, and if not why.
    pub fn health(&self) -> Health {
        self.0.site().map_or(Health::Stopped, |site| site.shared.broker.health())
    }

    /// Stops: no more connections and publishes are taken, what is queued is stored and answered, clients are told to come back,
    /// files are synced and closed, so that another engine may have the directory. Waits at most about `timeout`. Later calls
    /// return at once.
    ///
    /// It may be called from a hook, and inside any async runtime, whose thread it blocks. A hook that never answers does not hold it up:
    /// its thread is left to itself, as is one that hangs in the kernel; the directory is free once that one ends. In a waker it does
    /// nothing but say `would_deadlock`.
    ///
    /// Any other error says that the last sync failed: what had been acknowledged before is safe, and the files are kept as they are.
    pub fn stop(&self, timeout: Duration) -> Result<Stopped> {
        if threads::is_ours() {
            return Err(Error::new(Code::WouldDeadlock, "a waker cannot wait for the engine that woke it"));
        }
        self.0.stop(timeout)
    }
}

fn connection_number(id: &str) -> Result<u64> {
    let number = id.strip_prefix('c').and_then(|hex| u64::from_str_radix(hex, 16).ok());
    number.ok_or_else(|| Error::new(Code::BadRequest, "this is no connection id"))
}

/// The frame of an event of the host.
fn event_frame(site: &Site, room: &str, user: &str, name: &str, json: &str) -> Result<Bytes> {
    let limits = &site.shared.policy.limits;
    check_name("event", name, limits.name_bytes)?;
    if json.len() > limits.message_bytes {
        let text = "the signal's data is larger than message_bytes";
        return Err(Error::new(Code::TooLarge, text).at(Limit::MessageBytes));
    }
    let json = text::check_value(json, limits.json_depth)?;
    let mut out = Vec::new();
    frame::text(&mut out, |out| encode::signal(out, room, user, name, json));
    if site.shared.hub.is_congested() {
        return Err(congested());
    }
    Ok(out.into())
}

fn append_of(m: Message, promise: &Arc<Promise>, limits: &Limits) -> Result<Append> {
    check_name("room", &m.room, limits.name_bytes)?;
    if !m.user.is_empty() {
        check_name("user", &m.user, limits.name_bytes)?;
    }
    if !m.id.is_empty() {
        check_id(&m.id)?;
    }
    if m.data.len() > limits.message_bytes {
        let text =
            format!("a message has at most {} bytes, this one has {}", limits.message_bytes, m.data.len());
        return Err(Error::new(Code::TooLarge, text).at(Limit::MessageBytes));
    }
    if m.kind == Kind::Json {
        let json =
            std::str::from_utf8(&m.data).map_err(|_| Error::new(Code::InvalidData, "JSON must be UTF-8"))?;
        text::check_value(json, limits.json_depth)?;
    }
    Ok(Append {
        room: m.room.into(),
        user: m.user.into(),
        id: m.id.into(),
        kind: m.kind,
        data: m.data.into(),
        waiter: Waiter::Host(promise.clone()),
    })
}

impl Inner {
    fn site(&self) -> Option<Arc<Site>> {
        self.site.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn pool(&self) -> Weak<Handle> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    /// What is to be stopped, once.
    fn take(&self) -> Option<(Running, Arc<Site>)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let site = self.site()?;
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).take();
        site.stopping.store(true, Ordering::Release);
        self.stopped.store(true, Ordering::Release);
        Some((running, site))
    }

    fn stop(&self, timeout: Duration) -> Result<Stopped> {
        let Some((running, site)) = self.take() else { return Ok(Stopped::default()) };
        let stored = end(running, &site, timeout);
        // With these goes what holds the directory.
        *self.site.write().unwrap_or_else(PoisonError::into_inner) = None;
        drop(site);
        stored
    }
}

fn end(running: Running, site: &Site, timeout: Duration) -> Result<Stopped> {
    let shared = &site.shared;
    let timeout = timeout.min(LONGEST);
    let until = Instant::now() + timeout;
    let left = || until.saturating_duration_since(Instant::now()) + GRACE;
    let deadline_ms = shared.clock.steady_ms() + timeout.as_millis() as u64;
    // First the log, so that the clients still get their acks.
    let stored = shared.broker.stop(deadline_ms);
    for shard in &site.shards {
        shard.push(Item::Stop { deadline_ms });
    }
    for shard in running.shards {
        threads::join(shard, left());
    }
    shared.hub.end_subscriptions();
    if let Some((io, stop)) = running.io {
        // Its receiver may have gone already.
        let _ = stop.send(true);
        threads::join(io, left());
    }
    shared.events.end();
    if let Some((keeper, stop)) = running.keeper {
        let _ = stop.send(());
        threads::join(keeper, left());
    }
    stored.map(|unwritten| Stopped { unwritten })
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some((running, site)) = self.take() else { return };
        self.site = RwLock::default();
        let end = move || {
            if let Err(e) = end(running, &site, Duration::from_secs(1)) {
                tracing::error!(error = %e, "the engine did not stop well");
            }
        };
        if !threads::is_ours() {
            return end();
        }
        // A waker had the last handle: the engine's thread that it runs on cannot wait for its own end.
        if std::thread::Builder::new().name("klatch-stop".into()).spawn(end).is_err() {
            tracing::error!("the system refused a thread; the engine is not stopped");
        }
    }
}
