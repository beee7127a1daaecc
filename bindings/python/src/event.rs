//! The engine's events.

use crate::block;
use crate::engine::seconds;
use crate::fork::Owned;
use crate::guard::guard;
use crate::subscription::Ring;
use crate::wake::Wake;
use klatch::{Event, EventStream, NextEvent};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Most events of one answer.
const BATCH: usize = 256;

/// The stream of events.
#[pyclass(frozen, module = "klatch._klatch")]
pub struct Events {
    inner: Owned<EventStream>,
    closed: AtomicBool,
}

impl Events {
    /// From the engine's.
    pub fn new(inner: EventStream) -> Events {
        Events { inner: Owned::new(inner), closed: AtomicBool::new(false) }
    }
}

/// An event as a tuple: its kind, then its fields.
fn tuple(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyTuple>> {
    match event {
        Event::Connected { connection, user, address } => {
            ("connected", connection, user, address.to_string()).into_pyobject(py)
        }
        Event::Disconnected { connection, user, why } => {
            ("disconnected", connection, user, why.map(|w| w.name())).into_pyobject(py)
        }
        Event::Joined { connection, user, room } => ("joined", connection, user, room).into_pyobject(py),
        Event::Left { connection, user, room } => ("left", connection, user, room).into_pyobject(py),
        Event::Storage { refusing } => ("storage", refusing.map(|c| c.name())).into_pyobject(py),
        Event::Lost { count } => ("lost", count).into_pyobject(py),
        _ => ("other",).into_pyobject(py),
    }
}

fn list(py: Python<'_>, events: Vec<Event>) -> PyResult<Py<PyAny>> {
    let tuples = events.into_iter().map(|e| tuple(py, e)).collect::<PyResult<Vec<_>>>()?;
    Ok(tuples.into_pyobject(py)?.into_any().unbind())
}

fn rest(stream: &EventStream, events: &mut Vec<Event>) {
    while events.len() < BATCH
        && let NextEvent::Event(event) = stream.next_within(Duration::ZERO)
    {
        events.push(event);
    }
}

#[pymethods]
impl Events {
    /// The next events: a list of tuples, `None` at the end, or a future to await before asking again.
    fn poll(&self, py: Python<'_>, wake: &Wake) -> PyResult<Py<PyAny>> {
        guard(|| {
            let stream = self.inner.get()?;
            if self.closed.load(Ordering::Acquire) {
                return Ok(py.None());
            }
            let ring = Ring::new(wake);
            match pin!(stream.next()).poll(&mut Context::from_waker(&ring.clone().into())) {
                Poll::Ready(None) => Ok(py.None()),
                Poll::Ready(Some(event)) => {
                    let mut events = vec![event];
                    rest(stream, &mut events);
                    list(py, events)
                }
                Poll::Pending => ring.future(py, wake),
            }
        })
    }

    /// The same, waiting on this thread; empty after `timeout` seconds.
    #[pyo3(signature = (timeout))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        guard(|| {
            let stream = self.inner.get()?;
            let timeout = timeout.map(seconds).transpose()?;
            let closed = || self.closed.load(Ordering::Acquire);
            if closed() {
                return Ok(py.None());
            }
            let mut next = Box::pin(stream.next());
            match block::wait(py, &mut next, timeout, &closed)? {
                Some(Some(event)) => {
                    let mut events = vec![event];
                    rest(stream, &mut events);
                    list(py, events)
                }
                Some(None) => Ok(py.None()),
                None if closed() => Ok(py.None()),
                None => list(py, Vec::new()),
            }
        })
    }

    /// Nobody reads it any more.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
