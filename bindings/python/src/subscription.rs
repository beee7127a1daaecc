//! A room's publications, or those of all rooms.

use crate::block;
use crate::engine::seconds;
use crate::error;
use crate::fork::Owned;
use crate::guard::guard;
use crate::publication::list;
use crate::wake::{Job, Queue, Wake};
use klatch::{Ended, Publication};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

type Read = (klatch::Subscription, Result<Vec<Publication>, Ended>);
type Reading = Pin<Box<dyn Future<Output = Read> + Send>>;

/// What is being done with it.
enum State {
    Idle(klatch::Subscription),
    /// A read that has begun goes on where it was: thrown away it would read the same from the disk again.
    Reading(Reading),
}

/// Tells a future of a loop that it is worth asking again.
pub struct Ring {
    heard: Mutex<Heard>,
    queue: Arc<Queue>,
}

enum Heard {
    Nothing,
    /// It rang before there was anybody to hear it.
    Rang,
    Waits(Py<PyAny>),
}

impl Ring {
    /// For a loop.
    pub fn new(wake: &Wake) -> Arc<Ring> {
        Arc::new(Ring { heard: Mutex::new(Heard::Nothing), queue: wake.queue() })
    }

    /// The future that it rings for.
    pub fn future(&self, py: Python<'_>, wake: &Wake) -> PyResult<Py<PyAny>> {
        let future = wake.future(py)?.unbind();
        let waits = Heard::Waits(future.clone_ref(py));
        let before =
            std::mem::replace(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner), waits);
        if matches!(before, Heard::Rang) {
            self.queue.push(Job::Ready(future.clone_ref(py)));
        }
        Ok(future)
    }

    /// Whether somebody still waits for its future.
    fn is_awaited(&self, py: Python<'_>) -> PyResult<bool> {
        let waits = match &*self.heard.lock().unwrap_or_else(PoisonError::into_inner) {
            Heard::Waits(future) => future.clone_ref(py),
            Heard::Nothing | Heard::Rang => return Ok(false),
        };
        // Whoever is cancelled has cancelled it.
        Ok(!waits.bind(py).call_method0("done")?.is_truthy()?)
    }
}

impl std::task::Wake for Ring {
    fn wake(self: Arc<Self>) {
        let before =
            std::mem::replace(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner), Heard::Rang);
        if let Heard::Waits(future) = before {
            self.queue.push(Job::Ready(future));
        }
    }
}

/// A subscription to a room, or to all of them.
#[pyclass(frozen, module = "klatch._klatch")]
pub struct Subscription {
    /// None while somebody reads, and once it is closed.
    state: Mutex<Option<Owned<State>>>,
    /// Of the read that has begun, in a loop: one that is thrown away would not ring it.
    ring: Mutex<Option<Arc<Ring>>>,
    closed: AtomicBool,
    closer: Owned<klatch::Closer>,
    position: Mutex<(String, u64)>,
    recovered: bool,
}

impl Subscription {
    /// From the engine's.
    pub fn new(inner: klatch::Subscription) -> Subscription {
        let at = inner.position();
        Subscription {
            recovered: inner.recovered(),
            closer: Owned::new(inner.closer()),
            position: Mutex::new((at.epoch.to_string(), at.offset)),
            state: Mutex::new(Some(Owned::new(State::Idle(inner)))),
            ring: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn take(&self, max: usize) -> PyResult<Option<Reading>> {
        let taken = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut owned) = taken else {
            return if self.closed.load(Ordering::Acquire) { Ok(None) } else { Err(read_elsewhere()) };
        };
        if let Err(e) = owned.get() {
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(owned);
            return Err(e);
        }
        let mut reading = None;
        owned.give_up(|state| reading = Some(begin(state, max)));
        Ok(reading)
    }

    fn put_back(&self, state: State) {
        let mut place = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.closed.load(Ordering::Acquire) {
            *place = Some(Owned::new(state));
        }
    }

    /// What was read; none at an end that is nobody's fault.
    fn read(&self, (subscription, read): Read) -> PyResult<Option<Vec<Publication>>> {
        let at = subscription.position();
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = (at.epoch.to_string(), at.offset);
        self.put_back(State::Idle(subscription));
        match read {
            Ok(publications) => Ok(Some(publications)),
            Err(Ended::Closed | Ended::Stopped) => Ok(None),
            Err(why) => Err(error::ended(why)),
        }
    }
}

fn read_elsewhere() -> PyErr {
    PyRuntimeError::new_err("this subscription is being read elsewhere")
}

fn begin(state: State, max: usize) -> Reading {
    match state {
        State::Reading(reading) => reading,
        State::Idle(mut subscription) => Box::pin(async move {
            let read = subscription.next(max).await;
            (subscription, read)
        }),
    }
}

#[pymethods]
impl Subscription {
    /// The next publications: a list, `None` at the end, or a future to await before asking again.
    fn poll(&self, py: Python<'_>, wake: &Wake, max: usize) -> PyResult<Py<PyAny>> {
        guard(|| {
            let before = self.ring.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(before) = before
                && before.is_awaited(py)?
            {
                *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
                return Err(read_elsewhere());
            }
            let Some(mut reading) = self.take(max)? else { return Ok(py.None()) };
            let ring = Ring::new(wake);
            match reading.as_mut().poll(&mut Context::from_waker(&ring.clone().into())) {
                Poll::Ready(read) => match self.read(read)? {
                    Some(publications) => Ok(list(py, publications)?.into_any().unbind()),
                    None => Ok(py.None()),
                },
                Poll::Pending => {
                    self.put_back(State::Reading(reading));
                    *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = Some(ring.clone());
                    ring.future(py, wake)
                }
            }
        })
    }

    /// The same, waiting on this thread; empty after `timeout` seconds.
    #[pyo3(signature = (max, timeout))]
    fn wait(&self, py: Python<'_>, max: usize, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        guard(|| {
            let timeout = timeout.map(seconds).transpose()?;
            let Some(mut reading) = self.take(max)? else { return Ok(py.None()) };
            let closed = || self.closed.load(Ordering::Acquire);
            let waited = block::wait(py, &mut reading, timeout, &closed);
            match waited {
                Ok(Some(read)) => match self.read(read)? {
                    Some(publications) => Ok(list(py, publications)?.into_any().unbind()),
                    None => Ok(py.None()),
                },
                Ok(None) if closed() => Ok(py.None()),
                Ok(None) => {
                    self.put_back(State::Reading(reading));
                    Ok(list(py, Vec::new())?.into_any().unbind())
                }
                Err(e) => {
                    self.put_back(State::Reading(reading));
                    Err(e)
                }
            }
        })
    }

    /// Where it is: epoch and offset of the last publication that was read.
    fn position(&self) -> (String, u64) {
        self.position.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For a start from a position: whether it could be resumed from.
    #[getter]
    fn recovered(&self) -> bool {
        self.recovered
    }

    /// Ends it; whoever waits for it is told so.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        guard(|| {
            self.closer.get()?.close();
            self.closed.store(true, Ordering::Release);
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
            py.detach(move || drop(state));
            if let Some(ring) = self.ring.lock().unwrap_or_else(PoisonError::into_inner).take() {
                std::task::Wake::wake(ring);
            }
            Ok(())
        })
    }
}
