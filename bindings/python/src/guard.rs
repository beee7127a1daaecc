//! What every entry from Python has around it: a panic becomes `klatch.InternalError`, which `except Exception` catches and PyO3's own
//! `PanicException` would not be.

use crate::error;
use klatch::{Code, Error};
use pyo3::prelude::*;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the next entry is to panic; for tests.
static PANIC: AtomicBool = AtomicBool::new(false);

/// Carries out an entry.
pub fn guard<T>(entry: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let run = || {
        panic_if_asked();
        entry()
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| Err(error::of(&internal(&*payload))))
}

/// What a panic said, as an error.
pub fn internal(payload: &(dyn Any + Send)) -> Error {
    let text =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    Error::new(Code::Internal, format!("a fault in klatch: {}", text.unwrap_or("a panic")))
}

/// The fault that a test asked for.
#[allow(clippy::panic, reason = "to see what becomes of it")]
pub fn panic_if_asked() {
    if PANIC.load(Ordering::Relaxed) && PANIC.swap(false, Ordering::Relaxed) {
        panic!("a test asked for it");
    }
}

/// Has the next entry panic; for the tests of the package.
#[pyfunction(name = "_panic_next")]
pub fn panic_next() {
    PANIC.store(true, Ordering::Relaxed);
}

/// A library does not print: panics go to the log.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| tracing::error!("{info}")));
}
