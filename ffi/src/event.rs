//! Events.
//!
//! Who came, who went, and how the storage is.
//!
//! Three ways to read them: klatch_engine_next_event() waits; klatch_engine_event_fd() is for a loop of the host's own;
//! klatch_engine_on_event() has a callback called. Nothing is queued before the first of these; call klatch_engine_next_event() with a
//! timeout of 0 right after the start to miss nothing. There is one queue, and each event is given once. It is bounded (the setting
//! limits.event_queue): what does not fit is counted, and an event of KLATCH_EVENT_LOST says how many are missing there.

use crate::callback::{Kept, klatch_free_fn};
use crate::dispatch::{Registration, others};
use crate::engine::klatch_engine_t;
use crate::error::klatch_error_t;
use crate::eventfd::Bell;
use crate::guard::{self, Place, guard, may_wait};
use crate::handle;
use crate::text::{Out, free, give, klatch_str_t};
use klatch::{Code, Engine, Error, Event, EventStream, NextEvent};
use std::ffi::c_void;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// A connection was let in: connection, user, address.
pub const KLATCH_EVENT_CONNECTED: i32 = 1;
/// A connection that had been let in has ended: connection, user; code and reason if the engine closed it.
pub const KLATCH_EVENT_DISCONNECTED: i32 = 2;
/// A connection has become a member: connection, user, room.
pub const KLATCH_EVENT_JOINED: i32 = 3;
/// A connection is no longer a member: connection, user, room.
pub const KLATCH_EVENT_LEFT: i32 = 4;
/// Storing has become impossible (code and reason, one of KLATCH_ERROR_*), or possible again (code 0).
pub const KLATCH_EVENT_STORAGE: i32 = 5;
/// Events were lost here because they were not read: count.
pub const KLATCH_EVENT_LOST: i32 = 6;
/// An event that is newer than this library's header.
pub const KLATCH_EVENT_OTHER: i32 = 0;

/// Bytes of texts that need no memory of their own.
const SHORT: usize = 128;

/// Something that happened. Freed with klatch_event_free(), unless a callback was lent it.
#[derive(Clone, Debug)]
pub struct klatch_event_t {
    kind: i32,
    code: i32,
    count: u64,
    /// The texts, each with a NUL behind it, if there is room for them here; most have.
    short: [u8; SHORT],
    /// Else here.
    long: Vec<u8>,
    /// Where connection, user, room, address and reason end in the texts.
    ends: [usize; 5],
}

/// Is lent an event, or NULL once: the engine has stopped, and there are no more.
///
/// It runs on a thread of the library that the callbacks of one engine share, so it is never called twice at once. It may take its time, in
/// which the queue fills, and may call everything. `event` is borrowed until it returns: klatch_event_clone() keeps it.
pub type klatch_event_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const klatch_event_t)>;

/// The events of an engine.
#[derive(Default)]
pub(crate) struct Events {
    stream: OnceLock<EventStream>,
    bell: Bell,
    callback: Mutex<Option<Registration>>,
}

impl Events {
    fn stream(&self, engine: &Engine) -> &EventStream {
        self.stream.get_or_init(|| engine.events())
    }

    fn next(&self, engine: &Engine, timeout: Duration) -> NextEvent {
        let stream = self.stream(engine);
        let Some(bell) = self.bell.get() else { return stream.next_within(timeout) };
        let mut next = stream.next_within(Duration::ZERO);
        if next == NextEvent::TimedOut {
            bell.clear();
            let waker = bell.waker();
            // What comes from now on rings the bell, and what has come since is here.
            next = match pin!(stream.next()).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(event)) => NextEvent::Event(event),
                Poll::Ready(None) => NextEvent::Ended,
                Poll::Pending if timeout.is_zero() => return NextEvent::TimedOut,
                Poll::Pending => stream.next_within(timeout),
            };
        }
        if next != NextEvent::TimedOut {
            bell.set();
        }
        next
    }

    /// Takes the callback away.
    pub(crate) fn forget(&self) {
        let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(callback);
    }
}

impl klatch_event_t {
    pub(crate) fn new(event: &Event) -> klatch_event_t {
        match event {
            Event::Connected { connection, user, address } => {
                let address = address.to_string();
                make(KLATCH_EVENT_CONNECTED, 0, 0, [connection, user, "", &address, ""])
            }
            Event::Disconnected { connection, user, why } => {
                let (code, name) = why.map_or((0, ""), |why| (why.number().into(), why.name()));
                make(KLATCH_EVENT_DISCONNECTED, code, 0, [connection, user, "", "", name])
            }
            Event::Joined { connection, user, room } => {
                make(KLATCH_EVENT_JOINED, 0, 0, [connection, user, room, "", ""])
            }
            Event::Left { connection, user, room } => {
                make(KLATCH_EVENT_LEFT, 0, 0, [connection, user, room, "", ""])
            }
            Event::Storage { refusing } => {
                let (code, name) = refusing.map_or((0, ""), |code| (code.number().into(), code.name()));
                make(KLATCH_EVENT_STORAGE, code, 0, ["", "", "", "", name])
            }
            Event::Lost { count } => make(KLATCH_EVENT_LOST, 0, *count, [""; 5]),
            _ => make(KLATCH_EVENT_OTHER, 0, 0, [""; 5]),
        }
    }

    fn text(&self, i: usize) -> klatch_str_t {
        let from = i.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        let texts = if self.long.is_empty() { &self.short[..] } else { &self.long };
        klatch_str_t::of(&texts[from..=self.ends[i]])
    }
}

fn make(kind: i32, code: i32, count: u64, of: [&str; 5]) -> klatch_event_t {
    let all: usize = of.iter().map(|text| text.len() + 1).sum();
    let (mut short, mut long) = ([0; SHORT], Vec::new());
    let texts: &mut [u8] = if all <= SHORT {
        &mut short
    } else {
        long.resize(all, 0);
        &mut long
    };
    let mut at = 0;
    let ends = of.map(|text| {
        texts[at..at + text.len()].copy_from_slice(text.as_bytes());
        at += text.len() + 1;
        at - 1
    });
    klatch_event_t { kind, code, count, short, long, ends }
}

/// The next event. Waits for it, at most `timeout_ms`.
///
/// Gives it; it is freed with klatch_event_free(). NULL without an error: none came in time. Several threads may wait: each event goes to one.
/// Errors: stopped, once the engine has stopped and every event was read, or the handle has been freed; would_deadlock for a timeout other
/// than 0 in callbacks that tell of a publish.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_next_event(
    engine: *mut klatch_engine_t,
    timeout_ms: u64,
    out_event: *mut *mut klatch_event_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, engine) = unsafe { (Out::new(out_event, "out_event")?, handle::get(engine)?) };
        if timeout_ms > 0 {
            may_wait()?;
        }
        match engine.events.next(&engine.engine, Duration::from_millis(timeout_ms)) {
            NextEvent::Event(event) => out.fill(give(klatch_event_t::new(&event))),
            NextEvent::TimedOut => {}
            NextEvent::Ended => return Err(ended()),
        }
        Ok(())
    })
}

fn ended() -> Error {
    Error::new(Code::Stopped, "the engine has stopped and every event was read")
}

/// A descriptor that is readable (POLLIN, EPOLLIN) while klatch_engine_next_event() may have something, or the end, to give. Wait for it
/// level-triggered, then call that with a timeout of 0 until it gives NULL: only that makes it unreadable. Never read, write or close the
/// descriptor itself; it is closed with the engine's handle.
///
/// Errors: internal, where the system refuses a descriptor; stopped, if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_event_fd(
    engine: *mut klatch_engine_t,
    out_fd: *mut i32,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointer is NULL or may be written to.
        let out = unsafe { out_fd.as_mut() }.ok_or_else(|| crate::text::null("out_fd"))?;
        *out = -1;
        // SAFETY: the caller's pointer is what the header asks for.
        let engine = unsafe { handle::get(engine) }?;
        engine.events.stream(&engine.engine);
        *out = engine.events.bell.fd()?.number();
        Ok(())
    })
}

/// Has `event` called with each event from now on; NULL has none called. It takes the place of the callback before, which is not called any
/// more once this has returned, unless this is called in it.
///
/// Takes `user_data`. Errors: internal, where the system refuses a thread; stopped, if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_on_event(
    engine: *mut klatch_engine_t,
    event: klatch_event_fn,
    user_data: *mut c_void,
    free_user_data: klatch_free_fn,
) -> *mut klatch_error_t {
    let kept = Kept::new(user_data, free_user_data);
    guard(move || {
        // SAFETY: the caller's pointer is what the header asks for.
        let running = unsafe { handle::get(engine) }?;
        running.events.forget();
        let Some(call) = event else { return Ok(()) };
        let stream = running.engine.events();
        let tell = move |event: *const klatch_event_t| {
            // SAFETY: the host gave the function for this data; what it is lent lives until it returns.
            guard::call(Place::Callback, (), || unsafe { call(kept.data(), event) });
        };
        let registration = running.dispatcher.run(move |away| async move {
            let mut turn = 0u32;
            while !away.load(Ordering::Acquire) {
                let Some(event) = stream.next().await else {
                    return tell(std::ptr::null());
                };
                tell(&klatch_event_t::new(&event));
                turn += 1;
                if turn.is_multiple_of(16) {
                    others().await;
                }
            }
        })?;
        let before =
            running.events.callback.lock().unwrap_or_else(PoisonError::into_inner).replace(registration);
        drop(before);
        Ok(())
    })
}

/// What happened, one of KLATCH_EVENT_*. KLATCH_EVENT_OTHER if `event` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_kind(event: *const klatch_event_t) -> i32 {
    // SAFETY: NULL, or an event that the caller has and does not free meanwhile.
    unsafe { event.as_ref() }.map_or(KLATCH_EVENT_OTHER, |e| e.kind)
}

/// The connection's id; empty where there is none. It lives as long as `event`, as do the other texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_connection(event: *const klatch_event_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { event.as_ref() }.map_or(klatch_str_t::EMPTY, |e| e.text(0))
}

/// The connection's user; empty for an anonymous one, or where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_user(event: *const klatch_event_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { event.as_ref() }.map_or(klatch_str_t::EMPTY, |e| e.text(1))
}

/// The room; empty where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_room(event: *const klatch_event_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { event.as_ref() }.map_or(klatch_str_t::EMPTY, |e| e.text(2))
}

/// The client's address, "127.0.0.1:50312"; empty where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_address(event: *const klatch_event_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { event.as_ref() }.map_or(klatch_str_t::EMPTY, |e| e.text(3))
}

/// The name of the code, "slow" or "storage_full" for instance; empty where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_reason(event: *const klatch_event_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { event.as_ref() }.map_or(klatch_str_t::EMPTY, |e| e.text(4))
}

/// Of KLATCH_EVENT_DISCONNECTED the disconnect code (4000 to 4999), of KLATCH_EVENT_STORAGE the error code; 0 where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_code(event: *const klatch_event_t) -> i32 {
    // SAFETY: as above.
    unsafe { event.as_ref() }.map_or(0, |e| e.code)
}

/// Of KLATCH_EVENT_LOST: how many events are missing here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_count(event: *const klatch_event_t) -> u64 {
    // SAFETY: as above.
    unsafe { event.as_ref() }.map_or(0, |e| e.count)
}

/// A copy of its own, for what a callback wants to keep. Gives it; NULL if `event` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_clone(event: *const klatch_event_t) -> *mut klatch_event_t {
    // SAFETY: as above.
    unsafe { event.as_ref() }.map_or(std::ptr::null_mut(), |e| give(e.clone()))
}

/// Frees `event`, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_event_free(event: *mut klatch_event_t) {
    // SAFETY: NULL, or what was given to the caller.
    unsafe { free(event) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn texts_of_any_length_end_with_a_nul() {
        for user in ["", "ann", &"x".repeat(100), &"x".repeat(255)] {
            let event = klatch_event_t::new(&Event::Joined {
                connection: "c00112233445566ff".into(),
                user: user.into(),
                room: "lobby".into(),
            });
            let copy = event.clone();
            drop(event);
            // SAFETY: the copy lives, and its texts end with a NUL.
            let texts = unsafe {
                [klatch_event_connection(&copy), klatch_event_user(&copy), klatch_event_room(&copy)]
                    .map(|text| CStr::from_ptr(text.ptr).to_str().unwrap().to_owned())
            };
            assert_eq!(texts, ["c00112233445566ff", user, "lobby"]);
            // SAFETY: as above.
            assert_eq!(unsafe { (klatch_event_address(&copy).len, klatch_event_reason(&copy).len) }, (0, 0));
        }
    }
}
