//! The way from the engine's threads into an event loop.
//!
//! They queue what is to be done and write one byte into a pipe when the queue was empty; the loop, which watches the pipe, carries out
//! what has gathered. So they never wait for the interpreter's lock, which a busy loop holds for milliseconds; and a loop that was closed,
//! or an interpreter that ends, is nothing to them: they write into a pipe that nobody reads.

use crate::error;
use crate::guard::{guard, panic_if_asked};
use klatch::{Ack, Result};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest that one turn of the loop is kept, so that its other tasks are not held up.
const TURN: Duration = Duration::from_micros(500);
/// Jobs between two looks at the clock.
const STEP: usize = 32;
/// Calls of hooks that wait for a loop at most, as many as wait for the threads of plain ones by default. Outcomes are fewer than the
/// requests that they answer; but calls come from clients, and a loop that is held up or was closed takes none.
const CALLS: usize = 10_000;

/// What is to be done on the loop's thread.
pub enum Job {
    /// The outcome of a publish.
    Ack(Py<PyAny>, Result<Ack>),
    /// A future has nothing to wait for any more.
    Ready(Py<PyAny>),
    /// A hook is to be called.
    Call(Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>),
}

/// The queue, as the engine's threads have it.
pub struct Queue {
    inner: Mutex<Inner>,
}

struct Inner {
    jobs: VecDeque<Job>,
    /// How many of them are calls.
    calls: usize,
    /// A byte is in the pipe.
    armed: bool,
    writer: UnixStream,
    reader: UnixStream,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a job done. A call too many is dropped, and so answered as a fault of the host.
    pub fn push(&self, job: Job) {
        let mut inner = self.lock();
        if matches!(job, Job::Call(_)) {
            if inner.calls >= CALLS {
                drop(inner);
                tracing::error!(
                    "too many hooks wait for the event loop, which is held up or was closed; one is not called"
                );
                return;
            }
            inner.calls += 1;
        }
        inner.jobs.push_back(job);
        if !inner.armed {
            inner.armed = true;
            // One byte at most is ever in it; that it is closed means that nobody waits.
            let _ = (&inner.writer).write(&[1]);
        }
    }

    /// The next jobs. When there are none the pipe is empty too.
    fn next(&self, jobs: &mut VecDeque<Job>) -> bool {
        let mut inner = self.lock();
        if inner.jobs.len() <= STEP {
            std::mem::swap(&mut inner.jobs, jobs);
        } else {
            jobs.extend(inner.jobs.drain(..STEP));
        }
        inner.calls -= jobs.iter().filter(|job| matches!(job, Job::Call(_))).count();
        if inner.jobs.is_empty() && inner.armed {
            inner.armed = false;
            let _ = (&inner.reader).read(&mut [0; 8]);
        }
        !jobs.is_empty()
    }
}

/// The same as an event loop has it.
#[pyclass(frozen, module = "klatch._klatch")]
pub struct Wake {
    queue: Arc<Queue>,
    new_future: Py<PyAny>,
    descriptor: i32,
}

impl Wake {
    /// For the engine's threads.
    pub fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// A future of the loop.
    pub fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.new_future.bind(py).call0()
    }
}

#[pymethods]
impl Wake {
    /// For a loop, whose `create_future` is given.
    #[new]
    fn new(create_future: Py<PyAny>) -> PyResult<Wake> {
        guard(|| {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            writer.set_nonblocking(true)?;
            let descriptor = reader.as_raw_fd();
            let inner = Inner { jobs: VecDeque::new(), calls: 0, armed: false, writer, reader };
            Ok(Wake {
                queue: Arc::new(Queue { inner: Mutex::new(inner) }),
                new_future: create_future,
                descriptor,
            })
        })
    }

    /// What the loop watches.
    fn fileno(&self) -> i32 {
        self.descriptor
    }

    /// Carries out what has gathered, for a while.
    fn run(&self, py: Python<'_>) {
        let until = Instant::now() + TURN;
        let mut jobs = VecDeque::new();
        while self.queue.next(&mut jobs) {
            for job in jobs.drain(..) {
                // An error or fault of one is not the others'.
                if let Err(e) = catch_unwind(AssertUnwindSafe(|| {
                    panic_if_asked();
                    carry_out(py, job)
                }))
                .unwrap_or_else(|payload| Err(error::of(&crate::guard::internal(&*payload))))
                {
                    e.write_unraisable(py, None);
                }
            }
            if Instant::now() >= until {
                break;
            }
        }
    }
}

fn carry_out(py: Python<'_>, job: Job) -> PyResult<()> {
    match job {
        Job::Ack(future, Ok(ack)) => {
            let ack = Bound::new(py, crate::publication::Ack::from(ack))?;
            settle(future.bind(py), intern!(py, "set_result"), ack.as_any())
        }
        Job::Ack(future, Err(e)) => {
            let error = error::of(&e).into_value(py).into_bound(py);
            settle(future.bind(py), intern!(py, "set_exception"), error.as_any())
        }
        Job::Ready(future) => settle(future.bind(py), intern!(py, "set_result"), py.None().bind(py)),
        Job::Call(call) => call(py),
    }
}

/// Has a future done, unless whoever waited for it was cancelled: that is looked at only where it is refused, which is rare.
fn settle(future: &Bound<'_, PyAny>, how: &Bound<'_, PyString>, with: &Bound<'_, PyAny>) -> PyResult<()> {
    match future.call_method1(how, (with,)) {
        Err(_) if future.call_method0(intern!(future.py(), "done"))?.is_truthy()? => Ok(()),
        outcome => outcome.map(drop),
    }
}
