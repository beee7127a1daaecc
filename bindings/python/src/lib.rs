//! The native half of the Python package `klatch`: core's types as Python classes. What is pleasant about the package is written in
//! Python, beside this; here is what must be fast, or must not hold the interpreter's lock.
//!
//! No thread of the engine ever waits for the interpreter: outcomes and wake-ups go through a [`wake::Wake`] queue, log records through
//! [`log`], and only the threads that call hooks and handlers, which may block, run Python.

mod answer;
mod block;
mod consumer;
mod engine;
mod error;
mod event;
mod fork;
mod guard;
mod hook;
mod log;
mod publication;
mod subscription;
mod wake;

use pyo3::prelude::*;

/// The module `klatch._klatch`.
#[pymodule]
mod _klatch {
    use super::*;

    #[pymodule_export]
    use answer::{Answer, ConnectRequest, JoinRequest, PublishRequest};
    #[pymodule_export]
    use consumer::Consumer;
    #[pymodule_export]
    use engine::Engine;
    #[pymodule_export]
    use error::codes;
    #[pymodule_export]
    use event::Events;
    #[pymodule_export]
    use fork::forked;
    #[pymodule_export]
    use guard::panic_next;
    #[pymodule_export]
    use log::{flush_log, log_level};
    #[pymodule_export]
    use publication::{Ack, HistoryPage, Publication};
    #[pymodule_export]
    use subscription::Subscription;
    #[pymodule_export]
    use wake::Wake;

    /// The program `klatch-server`, with these arguments.
    #[pyfunction(name = "_main")]
    fn main(py: Python<'_>, args: Vec<std::ffi::OsString>) -> u8 {
        py.detach(|| klatch_server::run(args))
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        guard::quiet_panics();
        fork::register(module)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
