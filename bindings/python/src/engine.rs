//! The engine, as both Python faces use it: what does not wait is called as it is, what waits lets go of the interpreter's lock.

use crate::block;
use crate::consumer::{Consumer, Feed};
use crate::error;
use crate::event::Events;
use crate::fork::Owned;
use crate::guard::guard;
use crate::hook::Hooks;
use crate::log;
use crate::publication::{Ack, HistoryPage};
use crate::subscription::Subscription;
use crate::wake::{Job, Wake};
use klatch::{Code, Error, HistoryQuery, Message, Publishing, Settings, Start, Whom};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How many connections are in a room, its named users with theirs, and whether there are more than that.
type Present = (u32, Vec<(String, u32)>, bool);

/// An engine.
#[pyclass(frozen, module = "klatch._klatch")]
pub struct Engine(Owned<klatch::Engine>, Mutex<Vec<Weak<Feed>>>);

impl Drop for Engine {
    /// It stops as one whose last handle is dropped, but not on this thread, which holds the interpreter's lock.
    fn drop(&mut self) {
        self.0.give_up(|engine| {
            // Where the system refuses a thread the closure is dropped here, and the engine with it.
            let _ = std::thread::Builder::new().name("klatch-stop".into()).spawn(move || drop(engine));
        });
    }
}

/// Text as UTF-8.
fn text<'a>(given: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, str>> {
    let error = "text with a lone surrogate is not UTF-8, and cannot be stored";
    given.to_cow().map_err(|_| error::of(&Error::new(Code::InvalidData, error)))
}

/// A message. Text is JSON.
fn message(room: &str, data: &Bound<'_, PyAny>, user: &str, id: &str) -> PyResult<Message> {
    let message = if let Ok(bytes) = data.cast::<PyBytes>() {
        Message::bytes(room, bytes.as_bytes())
    } else {
        Message::json(room, &text(data.cast::<PyString>()?)?)
    };
    Ok(message.user(user).id(id))
}

/// A future of the loop that gets the outcome.
fn outcome<'py>(py: Python<'py>, wake: &Wake, publishing: Publishing) -> PyResult<Bound<'py, PyAny>> {
    let future = wake.future(py)?;
    let (waits, queue) = (future.clone().unbind(), wake.queue());
    publishing.then(move |outcome| queue.push(Job::Ack(waits, outcome)));
    Ok(future)
}

fn ack_of(publishing: Publishing, py: Python<'_>) -> PyResult<Ack> {
    let mut publishing = publishing;
    match block::wait(py, &mut publishing, None, &|| false)? {
        Some(Ok(ack)) => Ok(ack.into()),
        Some(Err(e)) => Err(error::of(&e)),
        None => Err(error::of(&Error::new(Code::Unknown, "the answer was not waited for"))),
    }
}

/// A message as Python gives it: room, data, user, id.
type Given<'py> = (String, Bound<'py, PyAny>, String, String);

#[pymethods]
impl Engine {
    /// Starts one, and waits for that. `hooks`: see the Python side.
    #[staticmethod]
    #[pyo3(signature = (settings, page, hooks, wake))]
    fn start(
        py: Python<'_>,
        settings: &str,
        page: Option<String>,
        hooks: Option<(Py<PyAny>, bool, bool)>,
        wake: Option<PyRef<'_, Wake>>,
    ) -> PyResult<Engine> {
        guard(|| {
            log::begin(py)?;
            let mut builder =
                klatch::Engine::builder().settings(Settings::from_json(settings).map_err(|e| error::of(&e))?);
            if let Some(page) = page {
                builder = builder.page(&page);
            }
            if let Some((call, authorizes, publishes)) = hooks {
                let hooks = Arc::new(Hooks::new(call, wake.map(|w| w.queue())));
                if authorizes {
                    builder = builder.authorizer(hooks.clone());
                }
                if publishes {
                    builder = builder.publish_hook(hooks);
                }
            }
            let engine = py.detach(|| builder.start()).map_err(|e| error::of(&e))?;
            Ok(Engine(Owned::new(engine), Mutex::default()))
        })
    }

    /// Stops, within about so many seconds; how many messages were not written.
    fn stop(&self, py: Python<'_>, timeout: f64) -> PyResult<u64> {
        guard(|| {
            let engine = self.0.get()?;
            let timeout = seconds(timeout)?;
            let stopped = py.detach(|| engine.stop(timeout));
            // Its consumers have ended with it.
            let feeds = std::mem::take(&mut *self.1.lock().unwrap_or_else(PoisonError::into_inner));
            feeds.iter().filter_map(Weak::upgrade).for_each(|feed| feed.close());
            Ok(stopped.map_err(|e| error::of(&e))?.unwritten)
        })
    }

    /// Where it listens, as text.
    fn addresses(&self) -> PyResult<Vec<String>> {
        guard(|| Ok(self.0.get()?.addresses().iter().map(ToString::to_string).collect()))
    }

    /// Publishes; a future of the loop for the outcome. Text costs a copy, so there is none where it is empty.
    #[pyo3(signature = (wake, room, data, user, id))]
    fn publish<'py>(
        &self,
        py: Python<'py>,
        wake: &Wake,
        room: &str,
        data: &Bound<'py, PyAny>,
        user: Option<&str>,
        id: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guard(|| {
            let message = message(room, data, user.unwrap_or_default(), id.unwrap_or_default())?;
            outcome(py, wake, self.0.get()?.publish(message))
        })
    }

    /// Publishes, and waits.
    fn publish_wait(
        &self,
        py: Python<'_>,
        room: &str,
        data: &Bound<'_, PyAny>,
        user: &str,
        id: &str,
    ) -> PyResult<Ack> {
        guard(|| ack_of(self.0.get()?.publish(message(room, data, user, id)?), py))
    }

    /// Publishes several; a future for each.
    fn publish_batch<'py>(
        &self,
        py: Python<'py>,
        wake: &Wake,
        messages: Vec<Given<'py>>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        guard(|| {
            let engine = self.0.get()?;
            let made: Vec<_> =
                messages.iter().map(|(r, d, u, i)| message(r, d, u, i)).collect::<PyResult<_>>()?;
            engine.publish_batch(made).into_iter().map(|p| outcome(py, wake, p)).collect()
        })
    }

    /// Publishes several, and waits; an `Ack` or an exception for each.
    fn publish_batch_wait(&self, py: Python<'_>, messages: Vec<Given<'_>>) -> PyResult<Vec<Py<PyAny>>> {
        guard(|| {
            let engine = self.0.get()?;
            let made: Vec<_> =
                messages.iter().map(|(r, d, u, i)| message(r, d, u, i)).collect::<PyResult<_>>()?;
            let mut outcomes = Vec::with_capacity(made.len());
            for mut publishing in engine.publish_batch(made) {
                outcomes.push(match block::wait(py, &mut publishing, None, &|| false)? {
                    Some(Ok(ack)) => Bound::new(py, Ack::from(ack))?.into_any().unbind(),
                    Some(Err(e)) => error::of(&e).into_value(py).into_any(),
                    None => py.None(),
                });
            }
            Ok(outcomes)
        })
    }

    /// Reads a page of history, from the disk if need be.
    #[allow(clippy::too_many_arguments, reason = "named ones on the Python side")]
    fn history(
        &self,
        py: Python<'_>,
        room: &str,
        after: u64,
        before: u64,
        limit: u32,
        backward: bool,
        at_least: u64,
    ) -> PyResult<HistoryPage> {
        guard(|| {
            let engine = self.0.get()?;
            let query = HistoryQuery { after, before, limit, backward, at_least };
            let page = py.detach(|| engine.history(room, query)).map_err(|e| error::of(&e))?;
            HistoryPage::new(py, page)
        })
    }

    /// Subscribes; reads the disk. Without `offset` it begins with the newest `history`, or live.
    #[pyo3(signature = (room, offset, epoch, history))]
    fn subscribe(
        &self,
        py: Python<'_>,
        room: &str,
        offset: Option<u64>,
        epoch: Option<&str>,
        history: u32,
    ) -> PyResult<Subscription> {
        guard(|| {
            let engine = self.0.get()?;
            let epoch = epoch.map(str::parse).transpose();
            let epoch = epoch
                .map_err(|_| error::of(&Error::new(Code::BadRequest, "this is no epoch of a position")))?;
            let start = match offset {
                Some(offset) => Start::Since { epoch, offset, history },
                None if history > 0 => Start::History(history),
                None => Start::Live,
            };
            let subscription = py.detach(|| engine.subscribe(room, start)).map_err(|e| error::of(&e))?;
            Ok(Subscription::new(subscription))
        })
    }

    /// Subscribes to all rooms.
    fn subscribe_all(&self) -> PyResult<Subscription> {
        guard(|| {
            let subscription = self.0.get()?.subscribe_all().map_err(|e| error::of(&e))?;
            Ok(Subscription::new(subscription))
        })
    }

    /// Who is in a room.
    fn presence(&self, room: &str) -> PyResult<Present> {
        guard(|| {
            let list = self.0.get()?.presence(room);
            let users = list.users.iter().map(|(user, n)| (user.to_string(), *n)).collect();
            Ok((list.count, users, list.truncated))
        })
    }

    /// Delivers an event to a room's members.
    fn signal(&self, room: &str, user: &str, name: &str, json: &Bound<'_, PyString>) -> PyResult<()> {
        guard(|| {
            let engine = self.0.get()?;
            engine.signal(room, user, name, &text(json)?).map_err(|e| error::of(&e))
        })
    }

    /// Delivers an event to one connection.
    fn send(&self, connection: &str, name: &str, json: &Bound<'_, PyString>) -> PyResult<()> {
        guard(|| self.0.get()?.send(connection, name, &text(json)?).map_err(|e| error::of(&e)))
    }

    /// Closes a connection or a user's connections, or takes them out of a room.
    #[pyo3(signature = (user, connection, room))]
    fn kick(&self, user: Option<String>, connection: Option<String>, room: Option<&str>) -> PyResult<()> {
        guard(|| {
            let whom = match (user, connection) {
                (Some(user), None) => Whom::User(user),
                (None, Some(connection)) => Whom::Connection(connection),
                _ => {
                    let text = "name either a user or a connection";
                    return Err(pyo3::exceptions::PyTypeError::new_err(text));
                }
            };
            self.0.get()?.kick(&whom, room).map_err(|e| error::of(&e))
        })
    }

    /// The engine's events from now on.
    fn events(&self) -> PyResult<Events> {
        guard(|| Ok(Events::new(self.0.get()?.events())))
    }

    /// Joins a consumer group.
    #[allow(clippy::too_many_arguments, reason = "named ones on the Python side")]
    #[pyo3(signature = (group, from_end, threads, retry, release, properties))]
    fn consume(
        &self,
        py: Python<'_>,
        group: &str,
        from_end: bool,
        threads: usize,
        retry: (f64, f64),
        release: f64,
        properties: Vec<(String, String)>,
    ) -> PyResult<Consumer> {
        guard(|| {
            let engine = self.0.get()?;
            let mut how = klatch::Consume::group(group).threads(threads).release(seconds(release)?);
            how = how.retry(seconds(retry.0)?, seconds(retry.1)?);
            if from_end {
                how = how.from_end();
            }
            for (name, value) in &properties {
                how = how.property(name, value);
            }
            let consumer = Consumer::start(py, engine, how)?;
            let mut feeds = self.1.lock().unwrap_or_else(PoisonError::into_inner);
            feeds.retain(|feed| feed.strong_count() > 0);
            feeds.push(consumer.feed());
            Ok(consumer)
        })
    }

    /// The numbers, in the text format of Prometheus.
    fn metrics(&self) -> PyResult<String> {
        guard(|| Ok(self.0.get()?.metrics().prometheus()))
    }

    /// Whether publishes are stored, and if not why.
    fn health(&self) -> PyResult<&'static str> {
        guard(|| Ok(self.0.get()?.health().name()))
    }
}

/// A time that Python gives in seconds.
pub fn seconds(given: f64) -> PyResult<Duration> {
    let text = "a time is a number of seconds that is not negative";
    if given == f64::INFINITY {
        return Ok(Duration::from_secs(u64::from(u32::MAX)));
    }
    Duration::try_from_secs_f64(given).map_err(|_| pyo3::exceptions::PyValueError::new_err(text))
}
