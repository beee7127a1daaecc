//! What the engine's threads have in common: they never wait for themselves, and what the host runs on them cannot end them.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

thread_local! {
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// Starts a thread that others wait for. Of the host's code only wakers run on it.
pub(crate) fn spawn<T: Send + 'static>(
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name).spawn(move || {
        OURS.set(true);
        run()
    })
}

/// Whether this is a thread of some engine: what waits for an engine here may wait for itself.
pub(crate) fn is_ours() -> bool {
    // While a thread ends there is nothing left to ask, and nothing of the host runs.
    OURS.try_with(Cell::get).unwrap_or(false)
}

/// Wakes a task of the host. Its waker may do anything; a panic of it goes no further.
pub(crate) fn wake(waker: Waker) {
    if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
        tracing::error!("a waker of the host panicked");
    }
}

/// Waits until a thread has ended, at most so long; past it the thread is left to itself. False: it is, or it panicked.
pub(crate) fn join(thread: JoinHandle<()>, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    // Ended threads are the rule, and there is no wait with a bound.
    while !thread.is_finished() {
        if Instant::now() >= until {
            tracing::warn!(
                thread = thread.thread().name(),
                "a thread did not end in time; it is left to itself"
            );
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let ended = thread.join().is_ok();
    if !ended {
        tracing::error!("a thread of the engine panicked");
    }
    ended
}
