//! The way from the engine's threads to the thread that runs JavaScript.

use crate::error;
use crate::page;
use klatch::{Ack, Epoch, Error, Publication};
use napi::bindgen_prelude::Function;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Result, Status};
use napi_derive::napi;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What wakes JavaScript: it does not keep the process alive, and one call at most waits in it.
type Waker = ThreadsafeFunction<(), (), (), Status, false, true, 1>;

/// What is to be done in JavaScript. Each kind is bounded by who has it done: publishes by the log's queue, hooks by [`HOOKS`], the rest by
/// the calls and streams that JavaScript has begun itself.
pub enum Job {
    /// The outcome of the publish with this ticket.
    Ack(u32, klatch::Result<Ack>),
    /// What a ticket waited for can be asked for again.
    Ready(u32),
    /// The outcome of a call that waited; JSON.
    Done(u32, klatch::Result<String>),
    /// A hook is to be called: the number of its answer, its kind, and the request as JSON.
    Hook(u32, &'static str, String),
    /// The handler of a consumer is to be called: the consumer, the number of its answer, and the publication.
    Work(u32, u32, Publication),
}

/// Most hook calls that wait for JavaScript. Past it they are answered as a fault of the host.
pub const HOOKS: usize = 10_000;

/// The queue.
pub struct Queue {
    inner: Mutex<Inner>,
    waker: Waker,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    hooks: usize,
    /// JavaScript has been woken, and has not yet found the queue empty.
    woken: bool,
}

impl Queue {
    /// A queue that calls `wake` in JavaScript when there is something in it.
    pub fn new(wake: &Function<'_, (), ()>) -> Result<Arc<Queue>> {
        let waker = wake.build_threadsafe_function::<()>().weak::<true>().max_queue_size::<1>().build()?;
        Ok(Arc::new(Queue { inner: Mutex::default(), waker }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a job done. False: it is a hook's, and too many of those wait.
    pub fn push(&self, job: Job) -> bool {
        let mut inner = self.lock();
        if matches!(job, Job::Hook(..)) {
            if inner.hooks >= HOOKS {
                return false;
            }
            inner.hooks += 1;
        }
        inner.jobs.push_back(job);
        let wake = !std::mem::replace(&mut inner.woken, true);
        drop(inner);
        if wake {
            // That it is full means that a call is on its way already; that it is closing, that nobody is there any more.
            let _ = self.waker.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
        true
    }

    /// The next jobs as JSON, at most so many; none if there are none: then JavaScript will be woken again.
    pub fn take(&self, most: usize) -> Option<String> {
        let jobs: Vec<Job> = {
            let mut inner = self.lock();
            let n = inner.jobs.len().min(most);
            let jobs: Vec<_> = inner.jobs.drain(..n).collect();
            inner.hooks -= jobs.iter().filter(|j| matches!(j, Job::Hook(..))).count();
            inner.woken = !jobs.is_empty();
            jobs
        };
        if jobs.is_empty() {
            return None;
        }
        let mut out = String::with_capacity(jobs.len() * 64);
        let mut epoch = None;
        for job in &jobs {
            out.push(if out.is_empty() { '[' } else { ',' });
            write(&mut out, job, &mut epoch);
        }
        out.push(']');
        Some(out)
    }
}

/// A job as an array: a number for its kind, then its parts. Of an ack those are 0 that JavaScript can tell by itself, for texts cost it the
/// most: the epoch, where it is that of the ack before; the id, where none was given.
fn write(out: &mut String, job: &Job, epoch: &mut Option<Epoch>) {
    // Writing to a string cannot fail.
    let _ = match job {
        Job::Ack(ticket, Ok(ack)) => {
            let _ = write!(out, "[0,{ticket},");
            offset(out, ack.position.offset);
            let _ = match epoch.replace(ack.position.epoch) == Some(ack.position.epoch) {
                true => write!(out, ",0"),
                false => write!(out, ",\"{}\"", ack.position.epoch),
            };
            // No id that is given begins like that.
            let id = if ack.id.starts_with('~') { "0".into() } else { json(&ack.id) };
            write!(out, ",{id},{}]", ack.duplicate)
        }
        Job::Ack(ticket, Err(e)) | Job::Done(ticket, Err(e)) => {
            write!(out, "[1,{ticket},{}]", error::parts(e))
        }
        Job::Ready(ticket) => write!(out, "[2,{ticket}]"),
        Job::Done(ticket, Ok(value)) => write!(out, "[3,{ticket},{value}]"),
        Job::Hook(answer, kind, request) => write!(out, "[4,{answer},\"{kind}\",{request}]"),
        Job::Work(consumer, answer, publication) => {
            let page = page::inline(std::slice::from_ref(publication));
            write!(out, "[5,{consumer},{answer},{},{page}]", json(publication.room()))
        }
    };
}

/// An offset as JSON: a number where JavaScript has it exactly, else its digits as a text.
pub fn offset(out: &mut String, offset: u64) {
    const EXACT: u64 = (1 << 53) - 1;
    // Writing to a string cannot fail.
    let _ = if offset <= EXACT { write!(out, "{offset}") } else { write!(out, "\"{offset}\"") };
}

/// How an offset goes to JavaScript; for the tests of the package, for no log is so long.
#[napi]
pub fn offset_given(digits: String) -> Result<String> {
    error::guard(|| {
        let mut out = String::new();
        offset(&mut out, crate::engine::offset(&digits)?);
        Ok(out)
    })
}

/// A value as JSON.
pub fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    // Only texts and numbers are given to it, which cannot fail.
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

/// Of a call that waits.
pub fn error_of_thread(e: std::io::Error) -> Error {
    Error::new(klatch::Code::Internal, format!("the system refused a thread: {e}"))
}
