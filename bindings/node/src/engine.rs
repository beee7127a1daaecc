//! The engine, as JavaScript calls it. What waits is done on other threads, and its outcome comes by the queue, with the ticket of the call.

use crate::consumer::Works;
use crate::error::{caught, guard};
use crate::hook::{Answers, Hooks};
use crate::page;
use crate::queue::{Job, Queue, error_of_thread, json};
use crate::subscription::Reader;
use klatch::{Code, Error, EventStream, HistoryQuery, Message, Publishing, Settings, Whom};
use napi::bindgen_prelude::Function;
use napi_derive::napi;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::Duration;

/// Threads that read history.
const READERS: usize = 4;

/// An engine, and what JavaScript has begun with it.
#[napi]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// The same for threads.
pub struct Shared {
    pub queue: Arc<Queue>,
    pub answers: Arc<Answers>,
    pub engine: OnceLock<klatch::Engine>,
    pub readers: Table<Reader>,
    pub consumers: Table<Arc<Works>>,
    pub events: OnceLock<EventStream>,
    calls: Arc<Calls>,
}

/// Things by number.
pub struct Table<T>(Mutex<(u32, HashMap<u32, T>)>);

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table(Mutex::new((0, HashMap::new())))
    }
}

impl<T> Table<T> {
    fn lock(&self) -> MutexGuard<'_, (u32, HashMap<u32, T>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts one in; returns its number.
    pub fn add(&self, item: T) -> u32 {
        let mut inner = self.lock();
        while inner.1.contains_key(&inner.0) {
            inner.0 = inner.0.wrapping_add(1);
        }
        let number = inner.0;
        inner.0 = number.wrapping_add(1);
        inner.1.insert(number, item);
        number
    }

    /// Puts one in, under this number.
    pub fn put(&self, number: u32, item: T) {
        self.lock().1.insert(number, item);
    }

    /// Takes one out.
    pub fn take(&self, number: u32) -> Option<T> {
        self.lock().1.remove(&number)
    }
}

impl<T: Clone> Table<T> {
    /// One of them.
    pub fn get(&self, number: u32) -> Option<T> {
        self.lock().1.get(&number).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<T> {
        self.lock().1.values().cloned().collect()
    }
}

/// Calls that may read a disk. Their threads end when there is nothing to do.
#[derive(Default)]
struct Calls(Mutex<(VecDeque<Call>, usize)>);

type Call = Box<dyn FnOnce() + Send>;

impl Calls {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Call>, usize)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self: &Arc<Calls>, call: Call) -> klatch::Result<()> {
        let mut inner = self.lock();
        inner.0.push_back(call);
        if inner.1 == READERS {
            return Ok(());
        }
        let calls = self.clone();
        let run = move || {
            loop {
                let call = {
                    let mut inner = calls.lock();
                    let call = inner.0.pop_front();
                    inner.1 -= usize::from(call.is_none());
                    call
                };
                let Some(call) = call else { return };
                call();
            }
        };
        match std::thread::Builder::new().name("klatch-node".into()).spawn(run) {
            Ok(_) => inner.1 += 1,
            // Another thread does it.
            Err(_) if inner.1 > 0 => {}
            Err(e) => {
                inner.0.pop_back();
                return Err(error_of_thread(e));
            }
        }
        Ok(())
    }
}

impl Shared {
    /// The engine that has been started.
    pub fn engine(&self) -> klatch::Result<&klatch::Engine> {
        self.engine.get().ok_or_else(|| Error::new(Code::Stopped, "the engine has not been started"))
    }

    /// Makes a call on another thread, and answers with the JSON that it returns. `soon` is one of many, that does not take long.
    pub fn answer(
        self: &Arc<Shared>,
        ticket: u32,
        soon: bool,
        call: impl FnOnce(&Arc<Shared>) -> klatch::Result<String> + Send + 'static,
    ) -> klatch::Result<()> {
        let shared = self.clone();
        let run = move || {
            let answer = caught(|| call(&shared));
            shared.queue.push(Job::Done(ticket, answer));
        };
        if soon {
            return self.calls.run(Box::new(run));
        }
        let thread = std::thread::Builder::new().name("klatch-node".into()).spawn(run);
        thread.map(drop).map_err(error_of_thread)
    }

    fn stop(&self, timeout: Duration) -> klatch::Result<String> {
        let Some(engine) = self.engine.get() else { return Ok("0".into()) };
        let stopped = engine.stop(timeout);
        // Its consumers have ended with it.
        self.consumers.all().iter().for_each(|works| works.end());
        Ok(stopped?.unwritten.to_string())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Handlers of JavaScript that is no more.
        self.consumers.all().iter().for_each(|works| works.end());
    }
}

/// Milliseconds as JavaScript gives them.
pub fn ms(given: f64) -> Duration {
    // Not a number is none, and for ever is long enough.
    Duration::from_millis(given.clamp(0.0, f64::from(u32::MAX)) as u64)
}

/// An offset as JavaScript gives it: its digits.
pub fn offset(digits: &str) -> klatch::Result<u64> {
    digits.parse().map_err(|_| Error::new(Code::BadRequest, "this is no offset"))
}

#[napi]
impl Engine {
    /// One that does not run yet. `wake` is called when there is something to [`take`](Engine::take).
    #[napi(constructor)]
    pub fn new(wake: Function<'_, (), ()>) -> napi::Result<Engine> {
        static QUIET: Once = Once::new();
        // A library does not print: panics go to the log.
        QUIET.call_once(|| std::panic::set_hook(Box::new(|info| tracing::error!("{info}"))));
        let shared = Shared {
            queue: Queue::new(&wake)?,
            answers: Arc::default(),
            engine: OnceLock::new(),
            readers: Table::default(),
            consumers: Table::default(),
            events: OnceLock::new(),
            calls: Arc::default(),
        };
        Ok(Engine { shared: Arc::new(shared) })
    }

    /// What has gathered, as JSON, at most so many; nothing if there is nothing.
    #[napi]
    pub fn take(&self, most: u32) -> napi::Result<Option<String>> {
        guard(|| Ok(self.shared.queue.take(most as usize)))
    }

    /// Starts it; answers with its addresses. The flags say which hooks there are, and whether events gather from the start; with a number
    /// there is a subscription to all rooms under it from the start.
    #[napi]
    #[allow(clippy::too_many_arguments, reason = "named ones in JavaScript")]
    pub fn start(
        &self,
        ticket: u32,
        settings: String,
        page: Option<String>,
        authorizes: bool,
        publishes: bool,
        events: bool,
        everywhere: Option<u32>,
    ) -> napi::Result<()> {
        guard(|| {
            self.shared.answer(ticket, false, move |shared| {
                let mut builder = klatch::Engine::builder().settings(Settings::from_json(&settings)?);
                if let Some(page) = page {
                    builder = builder.page(&page);
                }
                let hooks = Arc::new(Hooks::new(&shared.queue, &shared.answers));
                if authorizes {
                    builder = builder.authorizer(hooks.clone());
                }
                if publishes {
                    builder = builder.publish_hook(hooks);
                }
                let engine = builder.start()?;
                if events {
                    shared.events.get_or_init(|| engine.events());
                }
                if let Some(number) = everywhere {
                    shared.readers.put(number, Reader::Idle(engine.subscribe_all()?));
                }
                let addresses: Vec<_> = engine.addresses().iter().map(ToString::to_string).collect();
                // JavaScript starts each once.
                let _ = shared.engine.set(engine);
                Ok(json(&addresses))
            })
        })
    }

    /// Stops it; answers with the number of messages that were not written.
    #[napi]
    pub fn stop(&self, ticket: u32, timeout: f64) -> napi::Result<()> {
        guard(|| self.shared.answer(ticket, false, move |shared| shared.stop(ms(timeout))))
    }

    /// The same on this thread, which it blocks: for one that ends.
    #[napi]
    pub fn stop_now(&self, timeout: f64) -> napi::Result<()> {
        guard(|| self.shared.stop(ms(timeout)).map(drop))
    }

    /// Publishes JSON.
    #[napi]
    pub fn publish(
        &self,
        ticket: u32,
        room: String,
        json: String,
        user: String,
        id: String,
    ) -> napi::Result<()> {
        guard(|| self.send_off(ticket, Message::json(&room, &json).user(&user).id(&id)))
    }

    /// The same with several, in order, whose tickets follow the first: of each the room, the user, the id and the JSON, with a NUL behind
    /// each, which none of them has.
    #[napi]
    pub fn publish_all(&self, first: u32, count: u32, texts: String) -> napi::Result<()> {
        guard(|| {
            if texts.bytes().filter(|b| *b == 0).count() != 4 * count as usize {
                return Err(Error::new(Code::Internal, "these are not the texts of so many messages"));
            }
            let mut texts = texts.split('\0');
            let mut text = || texts.next().unwrap_or_default();
            let messages = (0..count).map(|_| {
                let (room, user, id, json) = (text(), text(), text(), text());
                Message::json(room, json).user(user).id(id)
            });
            let publishings = self.shared.engine()?.publish_batch(messages.collect());
            for (ticket, publishing) in (0..count).map(|n| first.wrapping_add(n)).zip(publishings) {
                self.answer_of(ticket, publishing);
            }
            Ok(())
        })
    }

    /// Publishes bytes.
    #[napi]
    pub fn publish_bytes(
        &self,
        ticket: u32,
        room: String,
        bytes: &[u8],
        user: String,
        id: String,
    ) -> napi::Result<()> {
        guard(|| self.send_off(ticket, Message::bytes(&room, bytes).user(&user).id(&id)))
    }

    fn send_off(&self, ticket: u32, message: Message) -> klatch::Result<()> {
        self.answer_of(ticket, self.shared.engine()?.publish(message));
        Ok(())
    }

    fn answer_of(&self, ticket: u32, publishing: Publishing) {
        let queue = self.shared.queue.clone();
        publishing.then(move |outcome| {
            queue.push(Job::Ack(ticket, outcome));
        });
    }

    /// Reads a page of history.
    #[napi]
    #[allow(clippy::too_many_arguments, reason = "named ones in JavaScript")]
    pub fn history(
        &self,
        ticket: u32,
        room: String,
        after: String,
        before: String,
        limit: u32,
        backward: bool,
        at_least: String,
    ) -> napi::Result<()> {
        guard(|| {
            let (after, before) = (offset(&after)?, offset(&before)?);
            let query = HistoryQuery { after, before, limit, backward, at_least: offset(&at_least)? };
            self.shared.answer(ticket, true, move |shared| {
                Ok(page::history(&shared.engine()?.history(&room, query)?))
            })
        })
    }

    /// Who is in a room, as JSON: how many connections, named users with theirs, and whether some are not listed.
    #[napi]
    pub fn presence(&self, room: String) -> napi::Result<String> {
        guard(|| {
            let list = self.shared.engine()?.presence(&room);
            let users: Vec<_> = list.users.iter().map(|(user, n)| (&**user, *n)).collect();
            Ok(json(&(list.count, users, list.truncated)))
        })
    }

    /// Delivers an event to a room's members.
    #[napi]
    pub fn signal(&self, room: String, user: String, name: String, json: String) -> napi::Result<()> {
        guard(|| self.shared.engine()?.signal(&room, &user, &name, &json))
    }

    /// Delivers an event to one connection.
    #[napi]
    pub fn send(&self, connection: String, name: String, json: String) -> napi::Result<()> {
        guard(|| self.shared.engine()?.send(&connection, &name, &json))
    }

    /// Closes a user's connections, or takes them out of a room.
    #[napi]
    pub fn kick_user(&self, user: String, room: Option<String>) -> napi::Result<()> {
        guard(|| self.shared.engine()?.kick(&Whom::User(user), room.as_deref()))
    }

    /// The same with one connection.
    #[napi]
    pub fn kick_connection(&self, connection: String, room: Option<String>) -> napi::Result<()> {
        guard(|| self.shared.engine()?.kick(&Whom::Connection(connection), room.as_deref()))
    }

    /// The numbers, in the text format of Prometheus.
    #[napi]
    pub fn metrics(&self) -> napi::Result<String> {
        guard(|| Ok(self.shared.engine()?.metrics().prometheus()))
    }

    /// Whether publishes are stored, and if not why.
    #[napi]
    pub fn health(&self) -> napi::Result<String> {
        guard(|| Ok(self.shared.engine()?.health().name().into()))
    }
}
