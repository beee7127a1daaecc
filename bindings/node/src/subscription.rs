//! A room's publications, or those of all rooms.

use crate::engine::{Engine, Shared, offset};
use crate::error::{guard, why};
use crate::page::Page;
use crate::queue::{self, Job, Queue, json};
use klatch::{Code, Ended, Error, Publication, Start, Subscription};
use napi::Env;
use napi::bindgen_prelude::BufferSlice;
use napi_derive::napi;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

type Read = (Subscription, Result<Vec<Publication>, Ended>);

/// What is being done with a subscription.
pub enum Reader {
    /// Nothing.
    Idle(Subscription),
    /// A read that has begun goes on where it was: thrown away it would read the same from the disk again.
    Reading(Pin<Box<dyn Future<Output = Read> + Send>>),
    /// It has ended, and this was why.
    Ended(Ended),
}

/// Says that a ticket can be asked for again.
pub struct Ring {
    queue: Arc<Queue>,
    ticket: u32,
}

impl Ring {
    /// A waker for a future that JavaScript polls.
    pub fn waker(queue: &Arc<Queue>, ticket: u32) -> Waker {
        Waker::from(Arc::new(Ring { queue: queue.clone(), ticket }))
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.queue.push(Job::Ready(self.ticket));
    }
}

/// A table of publications, their texts and their bytes; see [`Page`]. In place of the table the word for the end.
type Batch<'env> = (String, String, Option<BufferSlice<'env>>);

fn batch<'env>(env: &'env Env, page: Page) -> napi::Result<Batch<'env>> {
    // A copy: Electron has no buffers that lie elsewhere.
    let bytes = if page.bytes.is_empty() { None } else { Some(BufferSlice::copy_from(env, &page.bytes)?) };
    Ok((page.table, page.text, bytes))
}

#[napi]
impl Engine {
    /// Subscribes, without a room to all of them; answers whether it could be resumed, and with its epoch and offset. The ticket is its
    /// number from here on. Without an offset it begins with the newest `history`, or live.
    #[napi]
    pub fn subscribe(
        &self,
        ticket: u32,
        room: Option<String>,
        since: Option<String>,
        epoch: Option<String>,
        history: u32,
    ) -> napi::Result<()> {
        guard(|| {
            let bad = |_| Error::new(Code::BadRequest, "this is no epoch of a position");
            let epoch = epoch.map(|e| e.parse().map_err(bad)).transpose()?;
            let start = match since {
                Some(since) => Start::Since { epoch, offset: offset(&since)?, history },
                None if history > 0 => Start::History(history),
                None => Start::Live,
            };
            let live = matches!(start, Start::Live);
            let open = move |shared: &Arc<Shared>| {
                let engine = shared.engine()?;
                let subscription = match &room {
                    Some(room) => engine.subscribe(room, start)?,
                    None => engine.subscribe_all()?,
                };
                let (recovered, at) = (subscription.recovered(), subscription.position());
                shared.readers.put(ticket, Reader::Idle(subscription));
                let mut out = format!("[{recovered},{},", json(&at.epoch.to_string()));
                queue::offset(&mut out, at.offset);
                out.push(']');
                Ok(out)
            };
            if !live {
                return self.shared.answer(ticket, true, open);
            }
            // It is to have what is published next, and looks up no more than where the room ends.
            let answer = open(&self.shared)?;
            self.shared.queue.push(Job::Done(ticket, Ok(answer)));
            Ok(())
        })
    }

    /// The next publications, at most so many. Nothing if there are none yet: then the ticket will be ready.
    #[napi]
    pub fn poll<'env>(
        &self,
        env: &'env Env,
        subscription: u32,
        most: u32,
        ticket: u32,
    ) -> napi::Result<Option<Batch<'env>>> {
        let read = guard(|| Ok(self.read(subscription, most as usize, ticket)))?;
        match read {
            None => Ok(None),
            Some(Ok((publications, many))) => batch(env, Page::new(&publications, many)).map(Some),
            Some(Err(ended)) => Ok(Some((json(why(ended)), String::new(), None))),
        }
    }

    /// What was read, and whether it is of many rooms.
    fn read(&self, number: u32, most: usize, ticket: u32) -> Option<Result<(Vec<Publication>, bool), Ended>> {
        let readers = &self.shared.readers;
        let mut reading = match readers.take(number) {
            Some(Reader::Idle(mut subscription)) => Box::pin(async move {
                let read = subscription.next(most).await;
                (subscription, read)
            }),
            Some(Reader::Reading(reading)) => reading,
            Some(Reader::Ended(why)) => {
                readers.put(number, Reader::Ended(why));
                return Some(Err(why));
            }
            None => return Some(Err(Ended::Closed)),
        };
        let ring = Ring::waker(&self.shared.queue, ticket);
        match reading.as_mut().poll(&mut Context::from_waker(&ring)) {
            Poll::Pending => {
                readers.put(number, Reader::Reading(reading));
                None
            }
            Poll::Ready((_, Err(why))) => {
                readers.put(number, Reader::Ended(why));
                Some(Err(why))
            }
            Poll::Ready((subscription, Ok(publications))) => {
                let many = subscription.room().is_none();
                readers.put(number, Reader::Idle(subscription));
                Some(Ok((publications, many)))
            }
        }
    }

    /// Ends it.
    #[napi]
    pub fn close(&self, subscription: u32) -> napi::Result<()> {
        guard(|| {
            drop(self.shared.readers.take(subscription));
            Ok(())
        })
    }
}
