//! The log.
//!
//! What an operator should know: the one thing that belongs to the whole process and not to an engine.
//!
//! The library never prints. Until a handler is set, what it has to say for an operator is dropped. Its lines never hold message text, tokens
//! or names; an error is a fault or a lost guarantee.

use crate::callback::{Kept, PATIENCE, klatch_free_fn};
use crate::error::klatch_error_t;
use crate::guard::{self, Place, guard};
use crate::text::{Text, klatch_str_t};
use klatch::{Code, Error};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Level, Metadata, Subscriber};

/// A fault, or a guarantee that was lost.
pub const KLATCH_LOG_ERROR: i32 = 1;
/// Something that an operator should look at.
pub const KLATCH_LOG_WARN: i32 = 2;
/// What happens rarely and is normal.
pub const KLATCH_LOG_INFO: i32 = 3;
/// For those who look for a fault.
pub const KLATCH_LOG_DEBUG: i32 = 4;

/// Is told a line of the log: its level, one of KLATCH_LOG_*, the part of the library that it comes from, and the text with its fields.
///
/// It runs on a thread of its own, one call at a time, and may call everything but klatch_log_set(). The texts are borrowed until it returns.
/// Lines that it does not take in time are dropped past 1,024, and counted in a line of their own.
pub type klatch_log_fn = Option<
    unsafe extern "C" fn(user_data: *mut c_void, level: i32, target: klatch_str_t, message: klatch_str_t),
>;

/// Lines that wait, at most.
const QUEUE: usize = 1024;

struct Line {
    level: i32,
    target: &'static str,
    message: String,
}

/// Lines on their way to the host.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    ready: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Line>,
    lost: u64,
    /// No more lines come.
    closed: bool,
    /// The thread has ended, and user_data is free.
    ended: bool,
}

/// Where lines go.
static QUEUE_NOW: Mutex<Option<Arc<Queue>>> = Mutex::new(None);
/// The most that is wanted, one of KLATCH_LOG_*; 0: nothing.
static WANTED: AtomicU8 = AtomicU8::new(0);

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Line) {
        let mut waiting = self.lock();
        if waiting.lines.len() >= QUEUE {
            waiting.lost += 1;
            return;
        }
        let lost = std::mem::take(&mut waiting.lost);
        if lost > 0 {
            let message = format!("{lost} lines of the log were lost here: the handler did not take them");
            waiting.lines.push_back(Line { level: KLATCH_LOG_WARN, target: "klatch", message });
        }
        waiting.lines.push_back(line);
        drop(waiting);
        self.ready.notify_all();
    }

    fn run(&self, call: unsafe extern "C" fn(*mut c_void, i32, klatch_str_t, klatch_str_t), kept: Kept) {
        loop {
            let mut waiting = self.lock();
            let line = loop {
                if let Some(line) = waiting.lines.pop_front() {
                    break Some(line);
                }
                if waiting.closed {
                    break None;
                }
                waiting = self.ready.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            };
            drop(waiting);
            let Some(line) = line else { break };
            let (target, message) = (Text::new(line.target), Text::new(&line.message));
            guard::call(Place::Log, (), || {
                // SAFETY: the host gave the function for this data; what it is lent lives until it returns.
                unsafe { call(kept.data(), line.level, target.view(), message.view()) };
            });
        }
        drop(kept);
        self.lock().ended = true;
        self.ready.notify_all();
    }

    /// Has the thread end after what waits, and waits for that.
    fn close(&self) {
        let until = Instant::now() + PATIENCE;
        let mut waiting = self.lock();
        waiting.closed = true;
        self.ready.notify_all();
        while !waiting.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.ready.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What the library's events come to.
struct ToQueue;

fn number(level: &Level) -> i32 {
    match *level {
        Level::ERROR => KLATCH_LOG_ERROR,
        Level::WARN => KLATCH_LOG_WARN,
        Level::INFO => KLATCH_LOG_INFO,
        _ => KLATCH_LOG_DEBUG,
    }
}

impl Subscriber for ToQueue {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked each time, for what is wanted may change.
        match *metadata.level() == Level::TRACE || metadata.is_span() {
            true => Interest::never(),
            false => Interest::sometimes(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(metadata.level()) <= i32::from(WANTED.load(Ordering::Relaxed))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let queue = QUEUE_NOW.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(queue) = queue else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let message = fields.message + &fields.others;
        queue.push(Line { level: number(metadata.level()), target: metadata.target(), message });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}

/// Has `line` called with every line of the log up to `level`; NULL has none called. It takes the place of the one before, which is called
/// with what waits for it, and not any more once this has returned.
///
/// Takes `user_data`. Errors: bad_request for what is no level; would_deadlock in a log handler, and in callbacks that tell of a publish;
/// unsupported where the process's Rust code has a subscriber of its own; internal where the system refuses a thread.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_log_set(
    level: i32,
    line: klatch_log_fn,
    user_data: *mut c_void,
    free_user_data: klatch_free_fn,
) -> *mut klatch_error_t {
    let kept = Kept::new(user_data, free_user_data);
    guard(move || {
        if !(KLATCH_LOG_ERROR..=KLATCH_LOG_DEBUG).contains(&level) {
            return Err(Error::new(Code::BadRequest, format!("{level} is no level of the log")));
        }
        if guard::place() == Place::Log {
            return Err(Error::new(Code::WouldDeadlock, "a log handler cannot wait for its own end"));
        }
        guard::may_wait()?;
        guard::tell_panics();
        subscribe()?;
        let queue = line.map(|call| (call, Arc::new(Queue::default())));
        if let Some((call, queue)) = &queue {
            let (call, queue) = (*call, queue.clone());
            std::thread::Builder::new()
                .name("klatch-log-line".into())
                .spawn(move || queue.run(call, kept))
                .map_err(|e| Error::new(Code::Internal, format!("the system refused a thread: {e}")))?;
        }
        WANTED.store(if queue.is_some() { level as u8 } else { 0 }, Ordering::Relaxed);
        let queue = queue.map(|(_, queue)| queue);
        let before = std::mem::replace(&mut *QUEUE_NOW.lock().unwrap_or_else(PoisonError::into_inner), queue);
        if let Some(before) = before {
            before.close();
        }
        Ok(())
    })
}

fn subscribe() -> klatch::Result<()> {
    static DONE: Once = Once::new();
    static OURS: AtomicU8 = AtomicU8::new(0);
    DONE.call_once(|| OURS.store(u8::from(set_global_default(ToQueue).is_ok()), Ordering::Release));
    if OURS.load(Ordering::Acquire) == 1 {
        return Ok(());
    }
    Err(Error::new(Code::Unsupported, "this process has a tracing subscriber of its own"))
}
