//! Messages of the host, and the answers to them.

use crate::broker::append::{Ack, Promise};
use crate::error::Result;
use crate::message::Kind;
use crate::threads;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// A message that the host publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(super) room: String,
    pub(super) user: String,
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) data: Vec<u8>,
}

impl Message {
    /// One JSON value as text, stored byte for byte; at most `message_bytes` long and `json_depth` deep.
    pub fn json(room: &str, json: &str) -> Message {
        Message::new(room, Kind::Json, json.as_bytes())
    }

    /// Bytes, at most `message_bytes`.
    pub fn bytes(room: &str, bytes: &[u8]) -> Message {
        Message::new(room, Kind::Binary, bytes)
    }

    fn new(room: &str, kind: Kind, data: &[u8]) -> Message {
        Message { room: room.into(), user: String::new(), id: String::new(), kind, data: data.into() }
    }

    /// The user it is from. Default: anonymous.
    pub fn user(mut self, user: &str) -> Message {
        self.user = user.into();
        self
    }

    /// Its id, so that it can be published again after an unknown outcome. Default: made by the engine.
    pub fn id(mut self, id: &str) -> Message {
        self.id = id.into();
        self
    }
}

/// The answer to a publish, when it comes: within `publish_timeout_ms`, or a little more. Await it, or call [`Publishing::wait`].
/// Dropping it does not take the message back.
///
/// Three outcomes: an [`Ack`] (stored); an error whose class is `same_id` (unknown: publish again with the same id); any other
/// error (certainly not stored). `would_deadlock` is none of them: the answer was not waited for.
#[derive(Debug)]
#[must_use = "the outcome is known only by awaiting this or waiting for it"]
pub struct Publishing(pub(super) Arc<Promise>);

impl Publishing {
    /// Waits on this thread, which in an async task or a hook is the executor's or one of the four that call hooks. In a waker it may
    /// be the engine's own: there it says `would_deadlock` at once, and the message goes its way.
    pub fn wait(self) -> Result<Ack> {
        self.0.wait()
    }

    /// The same, but waits at most `timeout`. Past it the outcome is `outcome_unknown`, for the message goes its way: publish it again with
    /// the same id.
    pub fn wait_within(self, timeout: Duration) -> Result<Ack> {
        self.0.wait_within(timeout)
    }

    /// Has `then` called with the answer, once: on the thread of the engine that has it, or on this one if it is there already. That thread
    /// stores everybody's messages: `then` must be done soon and must not wait; what would wait for the engine says `would_deadlock` there.
    /// A panic of it goes no further.
    pub fn then(self, then: impl FnOnce(Result<Ack>) + Send + 'static) {
        let promise = self.0;
        let waker = Waker::from(Arc::new(Then { promise: promise.clone(), call: Mutex::new(Some(then)) }));
        if promise.poll(&waker).is_ready() {
            threads::wake(waker);
        }
    }
}

/// What is called when a promise is filled.
struct Then<F> {
    promise: Arc<Promise>,
    call: Mutex<Option<F>>,
}

impl<F: FnOnce(Result<Ack>) + Send + 'static> Wake for Then<F> {
    fn wake(self: Arc<Self>) {
        let call = self.call.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(call), Poll::Ready(answer)) = (call, self.promise.poll(Waker::noop())) {
            call(answer);
        }
    }
}

impl Future for Publishing {
    type Output = Result<Ack>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx.waker())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::Code;
    use crate::error::Error;
    use crate::message::{Epoch, Position};
    use std::sync::mpsc::channel;

    fn ack() -> Ack {
        Ack { position: Position { epoch: Epoch(1), offset: 7 }, id: "m".into(), duplicate: false }
    }

    #[test]
    fn whoever_waits_within_a_time_is_told_that_the_outcome_is_not_known() {
        let promise = Arc::new(Promise::new());
        let e = Publishing(promise.clone()).wait_within(Duration::from_millis(1)).unwrap_err();
        assert_eq!(e.code(), Code::Unknown);
        let waits = {
            let promise = promise.clone();
            std::thread::spawn(move || Publishing(promise).wait_within(Duration::MAX))
        };
        assert!(promise.fill(Ok(ack())).is_none());
        assert_eq!(waits.join().unwrap(), Ok(ack()));
        assert_eq!(
            Publishing(promise).wait_within(Duration::ZERO),
            Ok(ack()),
            "what is there is not waited for"
        );
    }

    #[test]
    fn the_answer_is_told_once_whether_it_comes_later_or_was_there() {
        for before in [false, true] {
            let promise = Arc::new(Promise::new());
            let (told, answers) = channel();
            let mut wakers = Vec::new();
            if before {
                wakers.extend(promise.fill(Ok(ack())));
            }
            Publishing(promise.clone()).then(move |answer| told.send(answer).unwrap());
            if !before {
                assert!(answers.try_recv().is_err());
                wakers.extend(promise.fill(Ok(ack())));
            }
            wakers.extend(promise.fill(Err(Error::new(Code::Busy, "late"))));
            wakers.into_iter().for_each(threads::wake);
            assert_eq!(answers.recv(), Ok(Ok(ack())));
            assert!(answers.recv().is_err(), "it is told once, and what it held is gone");
        }
    }

    #[test]
    fn a_panic_of_who_is_told_goes_no_further() {
        let promise = Arc::new(Promise::new());
        Publishing(promise.clone()).then(|_| std::panic::panic_any(()));
        promise.fill(Ok(ack())).into_iter().for_each(threads::wake);
    }
}
