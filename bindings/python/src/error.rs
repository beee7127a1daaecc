//! Errors of the engine as the exceptions of `klatch.errors`.

use klatch::{Code, Ended, Error};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// What makes an exception of `klatch.errors`.
fn maker<'py>(py: Python<'py>, name: &'static str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || py.import("klatch.errors").map(Bound::unbind))?;
    module.bind(py).getattr(name)
}

fn exception(made: impl FnOnce(Python<'_>) -> PyResult<Bound<'_, PyAny>>) -> PyErr {
    match Python::try_attach(|py| made(py).map_or_else(|e| e, PyErr::from_value)) {
        Some(e) => e,
        // Nobody is left to see it.
        None => PyRuntimeError::new_err("the interpreter has ended"),
    }
}

/// An error of the engine.
pub fn of(e: &Error) -> PyErr {
    exception(|py| {
        let code = e.code();
        let args = (code.number(), code.name(), e.retry().as_str(), e.message(), e.retry_after_ms());
        maker(py, "_error")?.call1(args)
    })
}

/// A handle of the parent, in a child.
pub fn forked() -> PyErr {
    exception(|py| maker(py, "_forked")?.call0())
}

/// The end of a subscription that is not the engine's or the host's wish.
pub fn ended(why: Ended) -> PyErr {
    let why = match why {
        Ended::Closed => "closed",
        Ended::Slow => "slow",
        Ended::Dropped => "dropped",
        Ended::Unreadable => "unreadable",
        Ended::Reset => "reset",
        Ended::Stopped => "stopped",
        _ => "other",
    };
    exception(|py| maker(py, "_ended")?.call1((why,)))
}

/// Every code: its number, name, class, and meaning.
#[pyfunction(name = "_codes")]
pub fn codes() -> Vec<(u16, &'static str, &'static str, &'static str)> {
    Code::ALL.iter().map(|c| (c.number(), c.name(), c.retry().as_str(), c.doc())).collect()
}
