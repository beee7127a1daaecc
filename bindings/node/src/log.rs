//! The engine's log for a handler in JavaScript. It belongs to the process, so every environment that asks for it gets all of it; the
//! engine's threads only queue its lines.

use crate::error::guard;
use crate::queue::json;
use napi::Status;
use napi::bindgen_prelude::Function;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Most lines that wait; what comes beyond is counted.
const WAITING: usize = 1000;

/// Those who have asked.
static SINKS: Mutex<Vec<Weak<Sink>>> = Mutex::new(Vec::new());
/// The least level that one of them wants; past the last, nothing is made.
static LEAST: AtomicU8 = AtomicU8::new(u8::MAX);

/// A level, where it is from, and the text.
type Line = (u8, String, String);

struct Sink {
    lines: Mutex<Lines>,
    level: AtomicU8,
    waker: ThreadsafeFunction<(), (), (), Status, false, true, 1>,
}

#[derive(Default)]
struct Lines {
    waiting: VecDeque<Line>,
    lost: u64,
    woken: bool,
}

impl Sink {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Line) {
        let mut lines = self.lock();
        if lines.waiting.len() < WAITING {
            lines.waiting.push_back(line);
        } else {
            lines.lost += 1;
        }
        let wake = !std::mem::replace(&mut lines.woken, true);
        drop(lines);
        if wake {
            // Full: a call is on its way; closing: nobody is there any more.
            let _ = self.waker.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

fn sinks() -> Vec<Arc<Sink>> {
    let mut sinks = SINKS.lock().unwrap_or_else(PoisonError::into_inner);
    sinks.retain(|sink| sink.strong_count() > 0);
    sinks.iter().filter_map(Weak::upgrade).collect()
}

fn look() {
    let least = sinks().iter().map(|s| s.level.load(Ordering::Relaxed)).min();
    LEAST.store(least.unwrap_or(u8::MAX), Ordering::Relaxed);
}

fn number(level: &Level) -> u8 {
    match *level {
        Level::TRACE => 0,
        Level::DEBUG => 1,
        Level::INFO => 2,
        Level::WARN => 3,
        Level::ERROR => 4,
    }
}

struct ToJavaScript;

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

impl Subscriber for ToJavaScript {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(metadata.level()) >= LEAST.load(Ordering::Relaxed) && metadata.target().starts_with("klatch")
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
        let level = number(metadata.level());
        for sink in sinks() {
            if level >= sink.level.load(Ordering::Relaxed) {
                sink.push((level, metadata.target().into(), text.0.clone()));
            }
        }
    }
}

/// The log, as one environment has it.
#[napi]
pub struct Log {
    sink: Arc<Sink>,
}

#[napi]
impl Log {
    /// From now on, at this level and above: 0 is `trace`, 4 is `error`. `wake` is called when there is something to take.
    #[napi(constructor)]
    pub fn new(wake: Function<'_, (), ()>, level: u8) -> napi::Result<Log> {
        let waker = wake.build_threadsafe_function::<()>().weak::<true>().max_queue_size::<1>().build()?;
        let sink = Arc::new(Sink { lines: Mutex::default(), level: AtomicU8::new(level), waker });
        SINKS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&sink));
        look();
        // Refused if there is one already, which then is ours.
        let _ = tracing::subscriber::set_global_default(ToJavaScript);
        Ok(Log { sink })
    }

    /// Another level; past 4 there is nothing.
    #[napi]
    pub fn set_level(&self, level: u8) {
        self.sink.level.store(level, Ordering::Relaxed);
        look();
    }

    /// The lines that have gathered, as JSON: how many were lost, then each as level, where it is from, and text. Nothing if there are none.
    #[napi]
    pub fn take(&self) -> napi::Result<Option<String>> {
        guard(|| {
            let mut lines = self.sink.lock();
            lines.woken = false;
            let (waiting, lost) = (std::mem::take(&mut lines.waiting), std::mem::take(&mut lines.lost));
            drop(lines);
            Ok((lost > 0 || !waiting.is_empty()).then(|| json(&(lost, Vec::from(waiting)))))
        })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.sink.level.store(u8::MAX, Ordering::Relaxed);
        look();
    }
}
