//! Waiting on the caller's thread: without the interpreter's lock, and so that Ctrl-C ends it.

use pyo3::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// How often signals are looked for.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ring.notify_one();
    }
}

impl Bell {
    fn wait(&self, longest: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.ring.wait_timeout_while(rung, longest, |rung| !*rung);
        *wait.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// What a future comes to; none after `timeout`, or once `given_up` says so. The error is what a signal handler raised.
pub fn wait<T: Send>(
    py: Python<'_>,
    future: &mut (impl Future<Output = T> + Send + Unpin + ?Sized),
    timeout: Option<Duration>,
    given_up: &(dyn Fn() -> bool + Sync),
) -> PyResult<Option<T>> {
    let until = timeout.and_then(|t| Instant::now().checked_add(t));
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    loop {
        let ready = py.detach(|| {
            let slice = Instant::now() + LOOK;
            loop {
                if let Poll::Ready(value) = Pin::new(&mut *future).poll(&mut Context::from_waker(&waker)) {
                    return Some(value);
                }
                let end = until.map_or(slice, |until| until.min(slice));
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() || given_up() {
                    return None;
                }
                bell.wait(left);
            }
        });
        if ready.is_some() {
            return Ok(ready);
        }
        py.check_signals()?;
        if given_up() || until.is_some_and(|until| Instant::now() >= until) {
            return Ok(None);
        }
    }
}
