//! Work consumers.
//!
//! On Kafka: each publication of every room is handled on one node of a group, at least once, in the order of its room.
//!
//! docs/kafka.md says what a group is, when something is handled again, and what is not handled.

use crate::callback::{Gate, Kept, klatch_free_fn};
use crate::engine::klatch_engine_t;
use crate::error::klatch_error_t;
use crate::guard::{self, Place, guard, may_wait};
use crate::handle::{self, handle};
use crate::publication::{klatch_publication_t, klatch_publications_t};
use crate::text::{Out, Text, free, give, klatch_str_t};
use klatch::{Consume, Consumer};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Which group a consumer belongs to, and how it works. Freed with klatch_consume_free(). For one thread at a time.
#[derive(Debug)]
pub struct klatch_consume_t {
    _opaque: [u8; 0],
}

handle!(klatch_consume_t, Mutex<Consume>, "consume");

/// A consumer at work. Freed with klatch_consumer_free().
#[derive(Debug)]
pub struct klatch_consumer_t {
    _opaque: [u8; 0],
}

/// What is behind the handle.
pub(crate) struct Working {
    consumer: Consumer,
    gate: Arc<Gate<Handler>>,
}

struct Handler {
    call: unsafe extern "C" fn(user_data: *mut c_void, publication: *const klatch_publication_t) -> i32,
    kept: Kept,
}

handle!(klatch_consumer_t, Working, "consumer");

/// How a consumer is. Freed with klatch_consumer_status_free().
#[derive(Debug)]
pub struct klatch_consumer_status_t {
    partitions: u64,
    lag: u64,
    handled: u64,
    retries: u64,
    skipped: u64,
    resets: u64,
    last_error: Text,
    failed: Option<klatch_error_t>,
}

/// Handles a publication, which is borrowed until it returns. 0: it is done with for good; anything else has it called again with the same
/// one, after a while that grows. The number is shown as the last error.
///
/// It runs on threads of the consumer's own, up to the number of klatch_consume_threads() at once, never two of one room; it may take its
/// time, and may call everything.
pub type klatch_handler_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, publication: *const klatch_publication_t) -> i32>;

/// How long freeing waits for the handlers.
const FREED: Duration = Duration::from_secs(4);

fn lock(consume: &Mutex<Consume>) -> MutexGuard<'_, Consume> {
    consume.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe fn change(
    consume: *mut klatch_consume_t,
    change: impl FnOnce(Consume) -> klatch::Result<Consume>,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's promise.
        let consume = unsafe { handle::get(consume) }?;
        let mut consume = lock(&consume);
        *consume = change(consume.clone())?;
        Ok(())
    })
}

/// A consumer of the group "chats". Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn klatch_consume_new() -> *mut klatch_consume_t {
    handle::give::<klatch_consume_t>(Arc::default())
}

/// The group. All consumers of one name share the work, whatever node they are on. It is to be called before the other setters.
///
/// Borrows `group`. Errors: invalid_name for what is no text; stopped if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consume_group(
    consume: *mut klatch_consume_t,
    group: klatch_str_t,
) -> *mut klatch_error_t {
    // SAFETY: the caller's pointers are what the header asks for.
    unsafe { change(consume, |_| Ok(Consume::group(group.name("group")?))) }
}

/// A group that is new begins at the end of the topic. Default: at its beginning.
///
/// Errors: stopped if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consume_from_end(consume: *mut klatch_consume_t) -> *mut klatch_error_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { change(consume, |c| Ok(c.from_end())) }
}

/// How many handlers may run at once, 1 to 256. Default 1.
///
/// Errors: stopped if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consume_threads(
    consume: *mut klatch_consume_t,
    count: usize,
) -> *mut klatch_error_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { change(consume, |c| Ok(c.threads(count))) }
}

/// How long to wait before a publication is handled again after an error, in milliseconds, and the longest that this grows to. Default 200
/// and 30,000.
///
/// Errors: stopped if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consume_retry(
    consume: *mut klatch_consume_t,
    first_ms: u64,
    longest_ms: u64,
) -> *mut klatch_error_t {
    let (first, longest) = (Duration::from_millis(first_ms), Duration::from_millis(longest_ms));
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { change(consume, |c| Ok(c.retry(first, longest))) }
}

/// How long a partition that goes to another member waits for the handler that is at work on it, in milliseconds. Default 30,000.
///
/// Errors: stopped if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consume_release(
    consume: *mut klatch_consume_t,
    patience_ms: u64,
) -> *mut klatch_error_t {
    // SAFETY: the caller's pointer is what the header asks for.
    unsafe { change(consume, |c| Ok(c.release(Duration::from_millis(patience_ms)))) }
}

/// A property of librdkafka's for this consumer alone.
///
/// Borrows `name` and `value`. Errors: invalid_name for what is no text; stopped if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consume_property(
    consume: *mut klatch_consume_t,
    name: klatch_str_t,
    value: klatch_str_t,
) -> *mut klatch_error_t {
    // SAFETY: the caller's pointers are what the header asks for.
    unsafe { change(consume, |c| Ok(c.property(name.name("name")?, value.name("value")?))) }
}

/// Frees it, which may be NULL. The consumers that were made of it go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consume_free(consume: *mut klatch_consume_t) {
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value((), || drop(unsafe { handle::take(consume) }));
}

/// Has `handler` called for every publication of every room, as a member of a group.
///
/// Borrows `consume` (NULL: the group "chats"), takes `user_data`, gives the consumer; it is freed with klatch_consumer_free(). Errors:
/// unsupported where the log is no Kafka topic; invalid_name; invalid_config for a property or a number of threads that cannot be;
/// bad_request if `handler` is NULL; stopping, stopped.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_consume(
    engine: *mut klatch_engine_t,
    consume: *const klatch_consume_t,
    handler: klatch_handler_fn,
    user_data: *mut c_void,
    free_user_data: klatch_free_fn,
    out_consumer: *mut *mut klatch_consumer_t,
) -> *mut klatch_error_t {
    let kept = Kept::new(user_data, free_user_data);
    guard(move || {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, engine) = unsafe { (Out::new(out_consumer, "out_consumer")?, handle::get(engine)?) };
        let how = match consume.is_null() {
            true => Consume::default(),
            // SAFETY: as above.
            false => lock(&*unsafe { handle::get(consume) }?).clone(),
        };
        let call = handler.ok_or_else(|| crate::text::null("handler"))?;
        let gate = Arc::new(Gate::new(Handler { call, kept }));
        let inside = gate.clone();
        let consumer = engine.engine.consume(how, move |publication| {
            let lent = klatch_publications_t::new(std::slice::from_ref(publication));
            let handled = inside.enter(|handler| {
                // SAFETY: the host gave the function for this data; what it is lent lives until it returns.
                let body = || unsafe { (handler.call)(handler.kept.data(), lent.first()) };
                guard::call(Place::Callback, -1, body)
            });
            match handled {
                Some(0) => Ok(()),
                Some(n) => Err(format!("the handler returned {n}").into()),
                None => Err("the consumer was freed".into()),
            }
        })?;
        out.fill(handle::give(Arc::new(Working { consumer, gate })));
        Ok(())
    })
}

/// How the consumer is.
///
/// Gives the status; it is freed with klatch_consumer_status_free(). Errors: stopped if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status(
    consumer: *const klatch_consumer_t,
    out_status: *mut *mut klatch_consumer_status_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, working) = unsafe { (Out::new(out_status, "out_status")?, handle::get(consumer)?) };
        let s = working.consumer.status();
        out.fill(give(klatch_consumer_status_t {
            partitions: s.partitions,
            lag: s.lag,
            handled: s.handled,
            retries: s.retries,
            skipped: s.skipped,
            resets: s.resets,
            last_error: Text::new(s.last_error.as_deref().unwrap_or_default()),
            failed: s.failed.as_ref().map(klatch_error_t::new),
        }));
        Ok(())
    })
}

/// Stops: no further publication is handled, the handlers that run are waited for, what is done is committed, and the group is left, all of
/// it within about `timeout_ms`. A handler that calls it does not wait for itself.
///
/// `out_committed` may be NULL; else it gets whether everything that was handled is committed. If not, the group will handle some
/// publications once more. Errors: stopped if the handle has been freed; would_deadlock in callbacks that tell of a publish.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_stop(
    consumer: *mut klatch_consumer_t,
    timeout_ms: u64,
    out_committed: *mut bool,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, working) = unsafe { (out_committed.as_mut(), handle::get(consumer)?) };
        may_wait()?;
        let committed = working.consumer.stop(Duration::from_millis(timeout_ms))?;
        if let Some(out) = out {
            *out = committed;
        }
        Ok(())
    })
}

/// Stops the consumer as with a timeout of 4 s, unless it has been stopped, and releases the handle, which may be NULL. The handler is not
/// called once this has returned; it waits for one that runs, at most 4 s, but not for the one that it is called in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_free(consumer: *mut klatch_consumer_t) {
    guard::value((), || {
        // SAFETY: the caller's pointer is what the header asks for.
        let Some(working) = (unsafe { handle::take(consumer) }) else { return };
        if guard::place() != Place::Published {
            // Whether all is committed has been of no interest.
            let _ = working.consumer.stop(FREED);
            working.gate.close();
        }
    });
}

/// How many partitions it has now. None while its group is dividing them, or has more members than partitions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_partitions(status: *const klatch_consumer_status_t) -> u64 {
    // SAFETY: NULL, or a status that the caller has and does not free meanwhile.
    unsafe { status.as_ref() }.map_or(0, |s| s.partitions)
}

/// Records of these partitions that this node has read and this consumer has not dealt with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_lag(status: *const klatch_consumer_status_t) -> u64 {
    // SAFETY: as above.
    unsafe { status.as_ref() }.map_or(0, |s| s.lag)
}

/// Publications whose handler has returned 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_handled(status: *const klatch_consumer_status_t) -> u64 {
    // SAFETY: as above.
    unsafe { status.as_ref() }.map_or(0, |s| s.handled)
}

/// Errors of the handler; after each it was, or will be, called again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_retries(status: *const klatch_consumer_status_t) -> u64 {
    // SAFETY: as above.
    unsafe { status.as_ref() }.map_or(0, |s| s.retries)
}

/// Records that no member saw either: duplicates, conflicts, and what is no message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_skipped(status: *const klatch_consumer_status_t) -> u64 {
    // SAFETY: as above.
    unsafe { status.as_ref() }.map_or(0, |s| s.skipped)
}

/// How often a partition was begun anew at its first record, because the topic no longer had what came next.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_resets(status: *const klatch_consumer_status_t) -> u64 {
    // SAFETY: as above.
    unsafe { status.as_ref() }.map_or(0, |s| s.resets)
}

/// The handler's last error; empty once that publication was handled. It lives as long as `status`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_last_error(
    status: *const klatch_consumer_status_t,
) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { status.as_ref() }.map_or(klatch_str_t::EMPTY, |s| s.last_error.view())
}

/// Why the consumer has ended, if not because it was told to; else NULL. It lives as long as `status`, and is not to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_failed(
    status: *const klatch_consumer_status_t,
) -> *const klatch_error_t {
    // SAFETY: as above.
    let failed = unsafe { status.as_ref() }.and_then(|s| s.failed.as_ref());
    failed.map_or(std::ptr::null(), std::ptr::from_ref)
}

/// Frees a status, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_consumer_status_free(status: *mut klatch_consumer_status_t) {
    // SAFETY: NULL, or what was given to the caller.
    unsafe { free(status) };
}
