//! Publishing.
//!
//! A publish has three outcomes. Stored: an ack, with the message's position. Certainly not stored: an error of any class but one. Unknown:
//! an error whose class is KLATCH_RETRY_SAME_ID; publish again with the same id, and the message is stored once, whatever became of the
//! first. So give every message that matters an id, at most 64 bytes long and random. Messages that one thread publishes to one room are
//! stored in that order. No rate limit and no hook holds for the host.

use crate::callback::{Kept, klatch_free_fn};
use crate::engine::klatch_engine_t;
use crate::error::klatch_error_t;
use crate::guard::{self, Place, guard, may_wait};
use crate::handle;
use crate::text::{Out, free, give, klatch_bytes_t, klatch_str_t};
use klatch::{Ack, Code, Error, Message, Publishing, Result};
use std::ffi::c_void;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The data is one JSON value, as UTF-8 text; stored byte for byte.
pub const KLATCH_DATA_JSON: i32 = 0;
/// The data is bytes that klatch does not look into.
pub const KLATCH_DATA_BINARY: i32 = 1;

/// Longest id: one given, or `~` and an offset.
const MAX_ID: usize = 64;

/// That a message is stored, and where. Freed with klatch_ack_free(), unless a callback was lent it.
#[derive(Debug)]
pub struct klatch_ack_t {
    offset: u64,
    duplicate: bool,
    epoch: [u8; 17],
    id: [u8; MAX_ID + 1],
    id_len: usize,
}

impl klatch_ack_t {
    pub(crate) fn new(ack: &Ack) -> klatch_ack_t {
        let mut out = klatch_ack_t {
            offset: ack.position.offset,
            duplicate: ack.duplicate,
            epoch: [0; 17],
            id: [0; MAX_ID + 1],
            id_len: ack.id.len().min(MAX_ID),
        };
        out.epoch[..16].copy_from_slice(&hex(ack.position.epoch.0));
        out.id[..out.id_len].copy_from_slice(&ack.id.as_bytes()[..out.id_len]);
        out
    }
}

/// An epoch as it is written everywhere.
pub(crate) fn hex(epoch: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (i, digit) in text.iter_mut().enumerate() {
        let nibble = (epoch >> (60 - 4 * i)) as u8 & 15;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
    text
}

/// The offset of the message in its room. 0 if `ack` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_ack_offset(ack: *const klatch_ack_t) -> u64 {
    // SAFETY: NULL, or an ack that the caller has and does not free meanwhile.
    unsafe { ack.as_ref() }.map_or(0, |ack| ack.offset)
}

/// The epoch of the room's stream: 16 hexadecimal digits, to be compared and given back, nothing else. It lives as long as `ack`; empty if
/// that is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_ack_epoch(ack: *const klatch_ack_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { ack.as_ref() }.map_or(klatch_str_t::EMPTY, |ack| klatch_str_t::of(&ack.epoch))
}

/// The message's id, which the engine has made if none was given. It lives as long as `ack`; empty if that is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_ack_id(ack: *const klatch_ack_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { ack.as_ref() }.map_or(klatch_str_t::EMPTY, |ack| klatch_str_t::of(&ack.id[..=ack.id_len]))
}

/// Whether a publish with this id had been accepted before: the position is that one's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_ack_duplicate(ack: *const klatch_ack_t) -> bool {
    // SAFETY: as above.
    unsafe { ack.as_ref() }.is_some_and(|ack| ack.duplicate)
}

/// Frees `ack`, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_ack_free(ack: *mut klatch_ack_t) {
    // SAFETY: NULL, or what was given to the caller.
    unsafe { free(ack) };
}

/// Is told the outcome of a publish, once: `ack` if the message is stored, else `error`; the other is NULL. Both are borrowed until it
/// returns.
///
/// It runs on the engine's thread that stores everybody's messages, or, before klatch_engine_publish_then() returns, on the one that called
/// that. It must return soon and must not wait: what would wait returns would_deadlock in it. It may publish.
pub type klatch_published_fn = Option<
    unsafe extern "C" fn(user_data: *mut c_void, ack: *const klatch_ack_t, error: *const klatch_error_t),
>;

/// A message of the caller's parts.
///
/// # Safety
/// The views are what the header asks for.
pub(crate) unsafe fn message(
    room: klatch_str_t,
    user: klatch_str_t,
    id: klatch_str_t,
    kind: i32,
    data: klatch_bytes_t,
) -> Result<Message> {
    // SAFETY: the caller's promise.
    let (room, user, id) = unsafe { (room.name("room")?, user.name("user")?, id.name("id")?) };
    let message = match kind {
        KLATCH_DATA_JSON => {
            let text = klatch_str_t { ptr: data.ptr.cast(), len: data.len };
            // SAFETY: the caller's promise.
            Message::json(room, unsafe { text.json("data") }?)
        }
        // SAFETY: the caller's promise.
        KLATCH_DATA_BINARY => Message::bytes(room, unsafe { data.data("data") }?),
        other => return Err(Error::new(Code::BadRequest, format!("{other} is no kind of data"))),
    };
    Ok(message.user(user).id(id))
}

/// Stores and delivers a message, and waits for the outcome, at most `timeout_ms`. Past that it is outcome_unknown.
///
/// Borrows `room`, `user` (empty: anonymous), `id` (empty: made by the engine, and the publish cannot be repeated safely) and `data`, whose
/// kind is one of KLATCH_DATA_*. Gives the ack, if `out_ack` is not NULL. Errors: busy, storage_full, timeout, stopping and other codes 1xx;
/// invalid_name, invalid_id, invalid_data, too_large, too_deep, conflict; outcome_unknown; storage_failed, log_damaged, stopped;
/// would_deadlock in callbacks that tell of a publish.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_publish(
    engine: *mut klatch_engine_t,
    room: klatch_str_t,
    user: klatch_str_t,
    id: klatch_str_t,
    kind: i32,
    data: klatch_bytes_t,
    timeout_ms: u64,
    out_ack: *mut *mut klatch_ack_t,
) -> *mut klatch_error_t {
    guard(|| {
        let out = match out_ack.is_null() {
            true => None,
            // SAFETY: the caller's pointer is what the header asks for.
            false => Some(unsafe { Out::new(out_ack, "out_ack") }?),
        };
        // SAFETY: as above.
        let (engine, message) = unsafe { (handle::get(engine)?, message(room, user, id, kind, data)?) };
        may_wait()?;
        let ack = engine.engine.publish(message).wait_within(Duration::from_millis(timeout_ms))?;
        if let Some(out) = out {
            out.fill(give(klatch_ack_t::new(&ack)));
        }
        Ok(())
    })
}

/// Stores and delivers a message without waiting; `published` is told the outcome. It may be NULL: nobody is told.
///
/// Borrows the same as klatch_engine_publish(), and takes `user_data`. If this returns an error, the message was certainly not stored, and
/// `published` is not called. The outcome comes within the setting limits.publish_timeout_ms, or a little more; at the latest when the engine
/// has stopped.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_publish_then(
    engine: *mut klatch_engine_t,
    room: klatch_str_t,
    user: klatch_str_t,
    id: klatch_str_t,
    kind: i32,
    data: klatch_bytes_t,
    published: klatch_published_fn,
    user_data: *mut c_void,
    free_user_data: klatch_free_fn,
) -> *mut klatch_error_t {
    let kept = Kept::new(user_data, free_user_data);
    guard(move || {
        // SAFETY: the caller's pointers are what the header asks for.
        let (engine, message) = unsafe { (handle::get(engine)?, message(room, user, id, kind, data)?) };
        let mut publishing = engine.engine.publish(message);
        if let Some(refused) = refused(&mut publishing) {
            return Err(refused);
        }
        publishing.then(move |answer| tell(published, kept, &answer));
        Ok(())
    })
}

/// Why it was refused before it was under way.
fn refused(publishing: &mut Publishing) -> Option<Error> {
    match Pin::new(publishing).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(e)) => Some(e),
        _ => None,
    }
}

fn tell(published: klatch_published_fn, kept: Kept, answer: &Result<Ack>) {
    let none = std::ptr::null();
    guard::call(Place::Published, (), || {
        match (published, answer) {
            // SAFETY: the host gave the function for this data; what it is lent lives until it returns.
            (Some(published), Ok(ack)) => unsafe { published(kept.data(), &klatch_ack_t::new(ack), none) },
            // SAFETY: as above.
            (Some(published), Err(e)) => unsafe {
                published(kept.data(), none.cast(), &klatch_error_t::new(e));
            },
            (None, _) => {}
        }
        // What frees it is bound as this is.
        drop(kept);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use klatch::{Epoch, Position};

    #[test]
    fn acks_hold_the_longest_id() {
        for id in ["", "~18446744073709551615", &"x".repeat(64), &"x".repeat(99)] {
            let position = Position { epoch: Epoch(0xAB), offset: 7 };
            let ack = klatch_ack_t::new(&Ack { position, id: id.into(), duplicate: true });
            // SAFETY: the ack lives.
            let (id_out, epoch) = unsafe { (klatch_ack_id(&ack), klatch_ack_epoch(&ack)) };
            assert_eq!(id_out.len, id.len().min(64));
            assert_eq!(epoch.len, 16);
            assert_eq!(&ack.epoch, b"00000000000000ab\0");
            assert_eq!(hex(0xFEDC_BA98_7654_3210), *b"fedcba9876543210");
        }
    }
}
