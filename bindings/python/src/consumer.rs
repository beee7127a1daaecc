//! A member of a consumer group that is read by a Python program: one publication at a time, which is committed when the program says
//! that it is done with it.

use crate::block;
use crate::engine::seconds;
use crate::error;
use crate::fork::Owned;
use crate::guard::guard;
use crate::publication::Publication;
use crate::subscription::Ring;
use crate::wake::Wake;
use klatch::{Consume, message};
use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

/// A publication whose handler waits, and where it is told how that went.
struct Work {
    publication: message::Publication,
    done: SyncSender<Result<(), String>>,
}

/// What handlers have for the program. There are as many in it as handlers at most.
#[derive(Default)]
pub struct Feed {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Work>,
    waker: Option<Waker>,
    closed: bool,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the program is done with it.
    fn handle(&self, publication: &message::Publication) -> klatch::Handled {
        let (done, wait) = sync_channel(1);
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return Err("the consumer is closed".into());
            }
            inner.waiting.push_back(Work { publication: publication.clone(), done });
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        // Dropped unanswered: the program has gone, and the group will have another handle it.
        Ok(wait
            .recv()
            .unwrap_or_else(|_| Err("the consumer was closed before it was done with it".into()))?)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        let mut inner = self.lock();
        if let Some(work) = inner.waiting.pop_front() {
            return Poll::Ready(Some(work));
        }
        if inner.closed {
            return Poll::Ready(None);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nothing more comes: who waits for it is told so.
    pub fn close(&self) {
        let (waiting, waker) = {
            let mut inner = self.lock();
            inner.closed = true;
            (std::mem::take(&mut inner.waiting), inner.waker.take())
        };
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Next<'a>(&'a Feed);

impl Future for Next<'_> {
    type Output = Option<Work>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        self.0.poll(cx)
    }
}

/// A work consumer.
#[pyclass(frozen, module = "klatch._klatch")]
pub struct Consumer {
    inner: Owned<klatch::Consumer>,
    feed: Arc<Feed>,
}

/// A publication that is to be handled.
#[pyclass(frozen, module = "klatch._klatch")]
struct Task {
    /// The publication.
    #[pyo3(get)]
    publication: Py<Publication>,
    done: Mutex<Option<SyncSender<Result<(), String>>>>,
}

#[pymethods]
impl Task {
    /// It is handled; or, with a text, it is to be handled again.
    #[pyo3(signature = (error))]
    fn done(&self, error: Option<String>) {
        if let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A handler that has gone does not want to know.
            let _ = done.send(error.map_or(Ok(()), Err));
        }
    }
}

fn task(py: Python<'_>, work: Option<Work>) -> PyResult<Py<PyAny>> {
    let Some(Work { publication, done }) = work else { return Ok(py.None()) };
    let publication = Py::new(py, Publication::from(publication))?;
    Ok(Py::new(py, Task { publication, done: Mutex::new(Some(done)) })?.into_any())
}

impl Consumer {
    /// Where its publications wait.
    pub fn feed(&self) -> Weak<Feed> {
        Arc::downgrade(&self.feed)
    }

    /// Joins the group.
    pub fn start(py: Python<'_>, engine: &klatch::Engine, how: Consume) -> PyResult<Consumer> {
        let feed = Arc::new(Feed::default());
        let handler = {
            let feed = feed.clone();
            move |publication: &message::Publication| feed.handle(publication)
        };
        let inner = py.detach(|| engine.consume(how, handler)).map_err(|e| error::of(&e))?;
        Ok(Consumer { inner: Owned::new(inner), feed })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.inner.get().is_ok() {
            self.feed.close();
        }
    }
}

#[pymethods]
impl Consumer {
    /// The next publication to handle, as a task; `None` once it is closed; or a future to await before asking again.
    fn poll(&self, py: Python<'_>, wake: &Wake) -> PyResult<Py<PyAny>> {
        guard(|| {
            self.inner.get()?;
            let ring = Ring::new(wake);
            match self.feed.poll(&mut Context::from_waker(&ring.clone().into())) {
                Poll::Ready(work) => task(py, work),
                Poll::Pending => ring.future(py, wake),
            }
        })
    }

    /// The same, waiting on this thread. An error after `timeout` seconds.
    #[pyo3(signature = (timeout))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        guard(|| {
            self.inner.get()?;
            let timeout = timeout.map(seconds).transpose()?;
            match block::wait(py, &mut Next(&self.feed), timeout, &|| false)? {
                Some(work) => task(py, work),
                None => Err(PyTimeoutError::new_err("nothing came in time")),
            }
        })
    }

    /// How it is.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        guard(|| {
            let status = self.inner.get()?.status();
            let out = PyDict::new(py);
            out.set_item("partitions", status.partitions)?;
            out.set_item("lag", status.lag)?;
            out.set_item("handled", status.handled)?;
            out.set_item("retries", status.retries)?;
            out.set_item("skipped", status.skipped)?;
            out.set_item("resets", status.resets)?;
            out.set_item("last_error", status.last_error)?;
            out.set_item("failed", status.failed.map(|e| e.to_string()))?;
            Ok(out)
        })
    }

    /// Leaves the group; whether all that was handled is committed.
    fn stop(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        guard(|| {
            let inner = self.inner.get()?;
            let timeout = seconds(timeout)?;
            self.feed.close();
            py.detach(|| inner.stop(timeout)).map_err(|e| error::of(&e))
        })
    }
}
