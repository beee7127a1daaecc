//! The border: a panic on our side becomes an error on the other, and what would wait for itself is refused.

use crate::error::{self, klatch_error_t};
use klatch::{Code, Error, Result};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Which of the host's callbacks this thread is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// None.
    Outside,
    /// One that tells of a publish, on a thread that stores everybody's messages.
    Published,
    /// Any other.
    Callback,
    /// One that is told lines of the log.
    Log,
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
    /// Entries on this thread until one panics; for tests.
    static FUSE: Cell<u32> = const { Cell::new(0) };
}

/// Runs the body of a function that can fail.
pub(crate) fn guard(body: impl FnOnce() -> Result<()>) -> *mut klatch_error_t {
    match catch_unwind(AssertUnwindSafe(|| {
        burn();
        body()
    })) {
        Ok(Ok(())) => std::ptr::null_mut(),
        Ok(Err(e)) => error::give(&e),
        Err(_) => error::give(&Error::new(Code::Internal, "a fault in klatch: the call panicked")),
    }
}

/// Runs the body of a function that cannot fail; `otherwise` is its value if it does.
pub(crate) fn value<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

/// Calls the host.
pub(crate) fn call<T>(place: Place, otherwise: T, body: impl FnOnce() -> T) -> T {
    let before = PLACE.replace(place);
    let result = value(otherwise, body);
    PLACE.set(before);
    result
}

pub(crate) fn place() -> Place {
    PLACE.get()
}

/// For what waits: not on a thread of the engine that the wait may be for.
pub(crate) fn may_wait() -> Result<()> {
    if place() == Place::Published {
        let text = "what tells of a publish runs on a thread of the engine and must not wait for it";
        return Err(Error::new(Code::WouldDeadlock, text));
    }
    Ok(())
}

/// Panics of ours are told to the log, and never printed. This library's copy of the standard library has a hook of its own: a host in
/// Rust keeps its own.
pub(crate) fn tell_panics() {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            tracing::error!(place, "a panic");
        }));
    });
}

#[allow(clippy::panic, reason = "that is what it is for")]
fn burn() {
    match FUSE.get() {
        0 => {}
        1 => {
            FUSE.set(0);
            panic!("a test asked for it");
        }
        n => FUSE.set(n - 1),
    }
}

/// For tests alone, and not in the header: the `calls`th call from now on this thread of a function that can fail panics inside.
/// 0: none does.
#[unsafe(no_mangle)]
pub extern "C" fn klatch_test_panic(calls: u32) {
    tell_panics();
    FUSE.set(calls);
}
