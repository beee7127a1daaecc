//! Hooks that are Python functions. Plain ones run on the engine's hook threads, which may block; `async` ones on the loop that the
//! engine was started in. Which is which the Python side knows.

use crate::answer::{Answer, ConnectRequest, JoinRequest, PublishRequest, Way};
use crate::guard::internal;
use crate::wake::{Job, Queue};
use klatch::{Authorizer, PublishHook, hooks};
use pyo3::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The hooks of an engine.
pub struct Hooks {
    /// `call(kind, request, answer)`; `call.is_async(kind)`.
    call: Py<PyAny>,
    queue: Option<Arc<Queue>>,
    asynchronous: (bool, bool, bool),
}

impl Hooks {
    /// From the Python side.
    pub fn new(call: Py<PyAny>, queue: Option<Arc<Queue>>) -> Hooks {
        let ask = |kind: &str| {
            let is = |py: Python<'_>| call.bind(py).call_method1("is_async", (kind,))?.is_truthy();
            Python::try_attach(|py| is(py).unwrap_or(false)).unwrap_or(false)
        };
        let asynchronous = (ask("connect"), ask("join"), ask("publish"));
        Hooks { call, queue, asynchronous }
    }

    fn ask(&self, kind: &'static str, asynchronous: bool, make: Make, way: Way) {
        match (&self.queue, asynchronous) {
            (Some(queue), true) => {
                let Some(call) = Python::try_attach(|py| self.call.clone_ref(py)) else { return };
                queue.push(Job::Call(Box::new(move |py| put(py, &call, kind, make, way))));
            }
            _ => {
                // Of an interpreter that has ended there is nothing to ask: the answer is dropped.
                let _ = Python::try_attach(|py| {
                    let asked = catch_unwind(AssertUnwindSafe(|| put(py, &self.call, kind, make, way)));
                    match asked {
                        Ok(Ok(())) => {}
                        Ok(Err(e)) => e.write_unraisable(py, None),
                        Err(payload) => tracing::error!("a hook: {}", internal(&*payload)),
                    }
                });
            }
        }
    }
}

/// Makes the Python object of a request.
type Make = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

fn put(py: Python<'_>, call: &Py<PyAny>, kind: &str, make: Make, way: Way) -> PyResult<()> {
    let answer = Bound::new(py, Answer::new(way))?;
    call.bind(py).call1((kind, make(py)?, answer))?;
    Ok(())
}

impl Authorizer for Hooks {
    fn connect(&self, request: hooks::ConnectRequest, answer: hooks::ConnectAnswer) {
        self.ask(
            "connect",
            self.asynchronous.0,
            Box::new(|py| Ok(Py::new(py, ConnectRequest::from(request))?.into_any())),
            Way::Connect(answer),
        );
    }

    fn join(&self, request: hooks::JoinRequest, answer: hooks::JoinAnswer) {
        self.ask(
            "join",
            self.asynchronous.1,
            Box::new(|py| Ok(Py::new(py, JoinRequest::from(request))?.into_any())),
            Way::Join(answer),
        );
    }
}

impl PublishHook for Hooks {
    fn publish(&self, request: hooks::PublishRequest, answer: hooks::PublishAnswer) {
        self.ask(
            "publish",
            self.asynchronous.2,
            Box::new(|py| Ok(Py::new(py, PublishRequest::from(request))?.into_any())),
            Way::Publish(answer),
        );
    }
}
