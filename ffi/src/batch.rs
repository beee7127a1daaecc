//! Several messages at once.
//!
//! Cheaper than one by one: gather them in a batch, publish that, and read what became of each.

use crate::engine::klatch_engine_t;
use crate::error::klatch_error_t;
use crate::guard::{self, guard, may_wait};
use crate::handle::{self, handle};
use crate::publish::{klatch_ack_t, message};
use crate::text::{Out, free, give, klatch_bytes_t, klatch_str_t};
use klatch::{Code, Error, Message};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Messages that are to be published together. Freed with klatch_batch_free(). For one thread at a time.
#[derive(Debug)]
pub struct klatch_batch_t {
    _opaque: [u8; 0],
}

handle!(klatch_batch_t, Mutex<Vec<Message>>, "batch");

/// What became of the messages of a batch. Freed with klatch_outcomes_free().
#[derive(Debug)]
pub struct klatch_outcomes_t(Vec<Result<klatch_ack_t, klatch_error_t>>);

/// Most messages of a batch.
const MAX: usize = 65_536;

/// An empty batch. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn klatch_batch_new() -> *mut klatch_batch_t {
    handle::give::<klatch_batch_t>(Arc::default())
}

/// Adds a message; the parameters are those of klatch_engine_publish(). A batch has at most 65,536.
///
/// Borrows everything. Errors: bad_request, invalid_name, invalid_data, too_large for what no engine would take; busy if the batch is full.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_batch_add(
    batch: *mut klatch_batch_t,
    room: klatch_str_t,
    user: klatch_str_t,
    id: klatch_str_t,
    kind: i32,
    data: klatch_bytes_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (batch, message) = unsafe { (handle::get(batch)?, message(room, user, id, kind, data)?) };
        let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
        if batch.len() >= MAX {
            return Err(Error::new(Code::Busy, format!("a batch has at most {MAX} messages")));
        }
        batch.push(message);
        Ok(())
    })
}

/// Publishes the messages of a batch in their order, which empties it, and waits for all outcomes, at most `timeout_ms` together.
///
/// Gives the outcomes, in the same order; they are freed with klatch_outcomes_free(). Errors: those of the call itself, such as
/// would_deadlock in callbacks that tell of a publish; then nothing was published. What became of each message is in the outcomes.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_publish_batch(
    engine: *mut klatch_engine_t,
    batch: *mut klatch_batch_t,
    timeout_ms: u64,
    out_outcomes: *mut *mut klatch_outcomes_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, engine, batch) =
            unsafe { (Out::new(out_outcomes, "out_outcomes")?, handle::get(engine)?, handle::get(batch)?) };
        may_wait()?;
        let messages = std::mem::take(&mut *batch.lock().unwrap_or_else(PoisonError::into_inner));
        let begun = Instant::now();
        let timeout = Duration::from_millis(timeout_ms);
        let outcomes = engine.engine.publish_batch(messages).into_iter().map(|publishing| {
            let answer = publishing.wait_within(timeout.saturating_sub(begun.elapsed()));
            answer.map(|ack| klatch_ack_t::new(&ack)).map_err(|e| klatch_error_t::new(&e))
        });
        out.fill(give(klatch_outcomes_t(outcomes.collect())));
        Ok(())
    })
}

/// Frees a batch, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_batch_free(batch: *mut klatch_batch_t) {
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value((), || drop(unsafe { handle::take(batch) }));
}

/// How many outcomes there are. 0 if `outcomes` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_outcomes_count(outcomes: *const klatch_outcomes_t) -> usize {
    // SAFETY: NULL, or outcomes that the caller has and does not free meanwhile.
    unsafe { outcomes.as_ref() }.map_or(0, |all| all.0.len())
}

/// The ack of the `index`th message. It lives as long as `outcomes`; NULL if the message was not stored, or there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_outcomes_ack(
    outcomes: *const klatch_outcomes_t,
    index: usize,
) -> *const klatch_ack_t {
    // SAFETY: as above.
    match unsafe { outcomes.as_ref() }.and_then(|all| all.0.get(index)) {
        Some(Ok(ack)) => ack,
        _ => std::ptr::null(),
    }
}

/// The error of the `index`th message. It lives as long as `outcomes`, and is not to be freed; NULL if the message was stored, or there is
/// none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_outcomes_error(
    outcomes: *const klatch_outcomes_t,
    index: usize,
) -> *const klatch_error_t {
    // SAFETY: as above.
    match unsafe { outcomes.as_ref() }.and_then(|all| all.0.get(index)) {
        Some(Err(e)) => e,
        _ => std::ptr::null(),
    }
}

/// Frees outcomes, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_outcomes_free(outcomes: *mut klatch_outcomes_t) {
    // SAFETY: NULL, or what was given to the caller.
    unsafe { free(outcomes) };
}
