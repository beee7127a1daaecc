//! Members of a consumer group whose handler is in JavaScript. A thread of the engine waits for each publication that is being handled.

use crate::engine::{Engine, ms};
use crate::error::{guard, parts};
use crate::queue::{Job, Queue, json};
use klatch::{Code, Consume, Error, Handled, Publication};
use napi_derive::napi;
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A consumer, and what its handlers wait for.
pub struct Works {
    queue: Arc<Queue>,
    number: u32,
    consumer: OnceLock<klatch::Consumer>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u32,
    waiting: HashMap<u32, SyncSender<Result<(), String>>>,
    closed: bool,
}

impl Works {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until JavaScript is done with it.
    fn handle(&self, publication: &Publication) -> Handled {
        let (done, wait) = sync_channel(1);
        {
            let mut inner = self.lock();
            if inner.closed {
                return Err("the consumer is closed".into());
            }
            let answer = inner.next;
            inner.next = answer.wrapping_add(1);
            inner.waiting.insert(answer, done);
            self.queue.push(Job::Work(self.number, answer, publication.clone()));
        }
        // Dropped unanswered: JavaScript has gone, and the group will have another handle it.
        Ok(wait
            .recv()
            .unwrap_or_else(|_| Err("the consumer was closed before it was done with it".into()))?)
    }

    /// Nothing more is handled.
    fn close(&self) {
        self.lock().closed = true;
    }

    /// Nobody is done with anything any more: whoever waits for that is told so.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
    }

    fn consumer(&self) -> klatch::Result<&klatch::Consumer> {
        self.consumer.get().ok_or_else(gone)
    }

    /// How it is, as JSON: its numbers, and the error that it has ended with, or `null`.
    fn status(&self) -> klatch::Result<String> {
        let status = self.consumer()?.status();
        let numbers = (
            status.partitions,
            status.lag,
            status.handled,
            status.retries,
            status.skipped,
            status.resets,
            status.last_error,
        );
        let failed = status.failed.map_or_else(|| "null".into(), |e| parts(&e));
        Ok(format!("[{},{failed}]", json(&numbers)))
    }
}

fn gone() -> Error {
    Error::new(Code::BadRequest, "there is no such consumer")
}

#[napi]
impl Engine {
    /// Joins a consumer group. The ticket is the consumer's number from here on. `properties` is a JSON object of texts.
    #[napi]
    #[allow(clippy::too_many_arguments, reason = "named ones in JavaScript")]
    pub fn consume(
        &self,
        ticket: u32,
        group: String,
        from_end: bool,
        threads: u32,
        retry_first: f64,
        retry_longest: f64,
        release: f64,
        properties: String,
    ) -> napi::Result<()> {
        guard(|| {
            let properties: BTreeMap<String, String> = serde_json::from_str(&properties)
                .map_err(|_| Error::new(Code::InvalidConfig, "properties are texts by name"))?;
            let mut how = Consume::group(&group).threads(threads as usize).release(ms(release));
            how = how.retry(ms(retry_first), ms(retry_longest));
            if from_end {
                how = how.from_end();
            }
            for (name, value) in &properties {
                how = how.property(name, value);
            }
            self.shared.answer(ticket, false, move |shared| {
                let works = Works {
                    queue: shared.queue.clone(),
                    number: ticket,
                    consumer: OnceLock::new(),
                    inner: Mutex::default(),
                };
                let works = Arc::new(works);
                shared.consumers.put(ticket, works.clone());
                // The consumer, which has the handler, is in there too.
                let weak = Arc::downgrade(&works);
                let handler = move |publication: &Publication| match weak.upgrade() {
                    Some(works) => works.handle(publication),
                    None => Err("JavaScript has gone".into()),
                };
                match shared.engine().and_then(|engine| engine.consume(how, handler)) {
                    Ok(consumer) => {
                        let _ = works.consumer.set(consumer);
                        Ok("null".into())
                    }
                    Err(e) => {
                        shared.consumers.take(ticket);
                        Err(e)
                    }
                }
            })
        })
    }

    /// A publication is handled; or, with a text, it is to be handled again.
    #[napi]
    pub fn worked(&self, consumer: u32, answer: u32, error: Option<String>) -> napi::Result<()> {
        guard(|| {
            let works = self.shared.consumers.get(consumer);
            if let Some(done) = works.and_then(|works| works.lock().waiting.remove(&answer)) {
                // A handler that has gone does not want to know.
                let _ = done.send(error.map_or(Ok(()), Err));
            }
            Ok(())
        })
    }

    /// How a consumer is, as JSON.
    #[napi]
    pub fn consumer_status(&self, consumer: u32) -> napi::Result<String> {
        guard(|| self.shared.consumers.get(consumer).ok_or_else(gone)?.status())
    }

    /// Leaves the group; answers whether all that was handled is committed, and how it was in the end: it is forgotten.
    #[napi]
    pub fn stop_consumer(&self, ticket: u32, consumer: u32, timeout: f64) -> napi::Result<()> {
        guard(|| {
            self.shared.answer(ticket, false, move |shared| {
                let works = shared.consumers.get(consumer).ok_or_else(gone)?;
                works.close();
                let stopped = works.consumer()?.stop(ms(timeout));
                works.end();
                let answer = format!("[{},{}]", stopped?, works.status()?);
                shared.consumers.take(consumer);
                Ok(answer)
            })
        })
    }
}
