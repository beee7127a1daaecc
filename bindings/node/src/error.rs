//! Errors and panics at the border. What is thrown carries the engine's error as JSON, of which JavaScript makes an error of its own.

use crate::queue::json;
use klatch::{Code, Ended, Error};
use napi::Status;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the next entry is to panic; for tests.
static PANIC: AtomicBool = AtomicBool::new(false);

/// Carries out an entry from JavaScript: a panic becomes an error, where it would end the process.
pub fn guard<T>(entry: impl FnOnce() -> klatch::Result<T>) -> napi::Result<T> {
    caught(entry).map_err(|e| napi::Error::new(Status::GenericFailure, parts(&e)))
}

/// The same on a thread that does not run JavaScript.
pub fn caught<T>(entry: impl FnOnce() -> klatch::Result<T>) -> klatch::Result<T> {
    let run = || {
        panic_if_asked();
        entry()
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| Err(internal(&*payload)))
}

/// What a panic said, as an error.
fn internal(payload: &(dyn Any + Send)) -> Error {
    let text =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    Error::new(Code::Internal, format!("a fault in klatch: {}", text.unwrap_or("a panic")))
}

/// An error's number, name, class, text and time to a retry, as JSON.
pub fn parts(e: &Error) -> String {
    let code = e.code();
    json(&(code.number(), code.name(), e.retry().as_str(), e.message(), e.retry_after_ms()))
}

/// The word for the end of a subscription.
pub fn why(ended: Ended) -> &'static str {
    match ended {
        Ended::Closed => "closed",
        Ended::Slow => "slow",
        Ended::Dropped => "dropped",
        Ended::Unreadable => "unreadable",
        Ended::Reset => "reset",
        Ended::Stopped => "stopped",
        _ => "other",
    }
}

/// The fault that a test asked for.
#[allow(clippy::panic, reason = "to see what becomes of it")]
fn panic_if_asked() {
    if PANIC.load(Ordering::Relaxed) && PANIC.swap(false, Ordering::Relaxed) {
        panic!("a test asked for it");
    }
}

/// Has the next entry panic; for the tests of the package.
#[napi_derive::napi]
pub fn panic_next() {
    PANIC.store(true, Ordering::Relaxed);
}
