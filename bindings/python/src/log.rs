//! The engine's log as records of the module `logging`. The engine's threads only queue them; a thread of its own hands them over.

use crate::fork;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Most records that wait; what comes beyond is counted.
const WAITING: usize = 1000;

/// A level of `logging`, the logger's name, and the text.
type Line = (u8, String, String);

#[derive(Default)]
struct Lines {
    waiting: VecDeque<Line>,
    lost: u64,
    /// How many were ever queued, and handed over.
    queued: u64,
    handed: u64,
}

static LINES: Mutex<Lines> = Mutex::new(Lines { waiting: VecDeque::new(), lost: 0, queued: 0, handed: 0 });
static MORE: Condvar = Condvar::new();
static HANDED: Condvar = Condvar::new();
/// Records below this level of `logging` are not made.
static LEAST: AtomicU8 = AtomicU8::new(30);
/// The process that the thread runs in, plus one.
static RUNS_IN: AtomicU64 = AtomicU64::new(0);

/// The same for those who must not wait: after a fork it may be held by a thread that the child does not have.
fn lines_soon() -> Option<MutexGuard<'static, Lines>> {
    for _ in 0..1000 {
        match LINES.try_lock() {
            Ok(lines) => return Some(lines),
            Err(TryLockError::Poisoned(e)) => return Some(e.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

fn lines() -> MutexGuard<'static, Lines> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn level_of(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

struct ToPython;

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}

impl Subscriber for ToPython {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        level_of(metadata.level()) >= LEAST.load(Ordering::Relaxed)
            && ["klatch", "_klatch"].iter().any(|ours| metadata.target().starts_with(ours))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // The level may change.
        tracing::subscriber::Interest::sometimes()
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        let name = metadata.target().trim_start_matches('_').replace("::", ".");
        let Some(mut lines) = lines_soon() else { return };
        if lines.waiting.len() >= WAITING {
            lines.lost += 1;
            return;
        }
        lines.waiting.push_back((level_of(metadata.level()), name, text.0));
        lines.queued += 1;
        MORE.notify_one();
    }
}

/// Begins to hand over, once in each process.
pub fn begin(py: Python<'_>) -> PyResult<()> {
    // Refused if there is one already, which then is ours.
    let _ = tracing::subscriber::set_global_default(ToPython);
    let here = fork::generation() + 1;
    if RUNS_IN.swap(here, Ordering::SeqCst) == here {
        return Ok(());
    }
    let give = py.import("klatch._logging")?.getattr("give")?.unbind();
    let thread = std::thread::Builder::new().name("klatch-py-log".into()).spawn(move || hand_over(&give));
    thread.map(drop).map_err(|e| PyRuntimeError::new_err(format!("the system refused a thread: {e}")))
}

fn hand_over(give: &Py<PyAny>) {
    loop {
        let (batch, lost) = {
            let mut lines = lines();
            while lines.waiting.is_empty() && lines.lost == 0 {
                lines = MORE.wait(lines).unwrap_or_else(PoisonError::into_inner);
            }
            (std::mem::take(&mut lines.waiting), std::mem::take(&mut lines.lost))
        };
        let count = batch.len() as u64;
        let given = Python::try_attach(|py| {
            if let Err(e) = give.call1(py, (Vec::from(batch), lost)) {
                e.write_unraisable(py, None);
            }
        });
        lines().handed += count;
        HANDED.notify_all();
        if given.is_none() {
            // The interpreter has ended.
            return;
        }
    }
}

/// What has been logged so far is handed over when this returns, or so many seconds are over.
#[pyfunction(name = "_flush_log")]
pub fn flush_log(py: Python<'_>, timeout: f64) -> PyResult<()> {
    let timeout = crate::engine::seconds(timeout)?;
    py.detach(|| {
        let Some(lines) = lines_soon() else { return };
        let upto = lines.queued;
        let wait =
            HANDED.wait_timeout_while(lines, timeout.min(Duration::from_secs(60)), |l| l.handed < upto);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    });
    Ok(())
}

/// Records below this level of `logging` are not made from now on.
#[pyfunction(name = "_log_level")]
pub fn log_level(level: u8) {
    LEAST.store(level, Ordering::Relaxed);
}
