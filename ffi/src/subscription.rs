//! Subscriptions.
//!
//! A room's publications for the host: history first, then live, without gap or double. Or those of all rooms, live.
//!
//! Three ways to read one, of which a subscription has one at a time: klatch_subscription_next() waits;
//! klatch_subscription_fd() is for a loop of the host's own; klatch_subscription_on_publications() has a callback called. The queue is
//! bounded (the settings limits.event_queue and limits.subscription_bytes): a subscription that is not read ends as slow, and is opened
//! again where it ended.

use crate::callback::{Kept, klatch_free_fn};
use crate::dispatch::{Dispatcher, Registration, others};
use crate::engine::klatch_engine_t;
use crate::error::klatch_error_t;
use crate::eventfd::Bell;
use crate::guard::{self, Place, guard, may_wait};
use crate::handle::{self, handle};
use crate::publication::klatch_publications_t;
use crate::publish::hex;
use crate::text::{Out, give, klatch_str_t};
use klatch::{Closer, Code, Ended, Engine, Epoch, Error, Publication, Result, Start, Subscription};
use std::ffi::c_void;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// It has not ended.
pub const KLATCH_ENDED_NOT: i32 = 0;
/// It was freed, or its reading was.
pub const KLATCH_ENDED_CLOSED: i32 = 1;
/// It was not read: its queue passed its bound. Subscribe again since the last position.
pub const KLATCH_ENDED_SLOW: i32 = 2;
/// Retention has dropped what it had yet to read. Subscribe again; the newest history comes instead.
pub const KLATCH_ENDED_DROPPED: i32 = 3;
/// The history that it had yet to read cannot be read; the log tells why. Subscribe again since the last position to try again.
pub const KLATCH_ENDED_UNREADABLE: i32 = 4;
/// The log was replaced by another one. Positions of the old one mean nothing; subscribe again.
pub const KLATCH_ENDED_RESET: i32 = 5;
/// The engine stopped.
pub const KLATCH_ENDED_STOPPED: i32 = 6;

/// A room, or all of them, that the host listens to. Freed with klatch_subscription_free().
#[derive(Debug)]
pub struct klatch_subscription_t {
    _opaque: [u8; 0],
}

/// What is behind the handle.
pub(crate) struct Listening {
    state: Arc<Progress>,
    /// None while a callback has it.
    reader: Mutex<Option<Subscription>>,
    closer: Closer,
    bell: Bell,
    of: Epoch,
    /// The same as text.
    epoch: [u8; 17],
    recovered: bool,
    dispatcher: Arc<Dispatcher>,
    registration: Mutex<Option<Registration>>,
}

/// What can be asked while it is read.
#[derive(Debug)]
struct Progress {
    at: AtomicU64,
    ended: AtomicI32,
}

handle!(klatch_subscription_t, Listening, "subscription");

/// Is lent publications in order, or, with `ended` other than KLATCH_ENDED_NOT and without publications, told that no more come.
///
/// It runs on a thread of the library that the callbacks of one engine share, so it is never called twice at once. It may take its time, in
/// which the queue fills, and may call everything. `publications` is borrowed until it returns: klatch_publications_clone() keeps it.
pub type klatch_publications_fn = Option<
    unsafe extern "C" fn(user_data: *mut c_void, publications: *const klatch_publications_t, ended: i32),
>;

/// Publications that a callback gets at once, at most.
const BATCH: usize = 64;

impl Progress {
    fn took(&self, batch: &[Publication]) {
        if let Some(last) = batch.last() {
            self.at.store(last.offset(), Ordering::Release);
        }
    }

    fn ended(&self, why: Ended) -> i32 {
        let why = match why {
            Ended::Closed => KLATCH_ENDED_CLOSED,
            Ended::Slow => KLATCH_ENDED_SLOW,
            Ended::Dropped => KLATCH_ENDED_DROPPED,
            Ended::Unreadable => KLATCH_ENDED_UNREADABLE,
            Ended::Reset => KLATCH_ENDED_RESET,
            Ended::Stopped => KLATCH_ENDED_STOPPED,
            _ => KLATCH_ENDED_CLOSED,
        };
        self.ended.store(why, Ordering::Release);
        why
    }
}

impl Listening {
    fn reader(&self) -> Result<MutexGuard<'_, Option<Subscription>>> {
        match self.reader.try_lock() {
            Ok(reader) => Ok(reader),
            Err(std::sync::TryLockError::Poisoned(e)) => Ok(e.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => {
                Err(Error::new(Code::Busy, "another thread reads this subscription"))
            }
        }
    }

    fn next(&self, max: usize, timeout: Duration) -> Result<Vec<Publication>> {
        let mut reader = self.reader()?;
        let reader =
            reader.as_mut().ok_or_else(|| Error::new(Code::Busy, "a callback reads this subscription"))?;
        let batch = match self.bell.get() {
            None => reader.next_batch(max, timeout),
            Some(bell) => match reader.next_batch(max, Duration::ZERO) {
                Ok(batch) if batch.is_empty() => {
                    bell.clear();
                    // It has caught up, so what comes rings the bell, and what has come since is here.
                    let waker = bell.waker();
                    let polled = pin!(reader.next(max)).poll(&mut Context::from_waker(&waker));
                    match polled {
                        Poll::Ready(batch) => {
                            bell.set();
                            batch
                        }
                        Poll::Pending if timeout.is_zero() => Ok(Vec::new()),
                        Poll::Pending => reader.next_batch(max, timeout),
                    }
                }
                batch => batch,
            },
        };
        match batch {
            Ok(batch) => {
                self.state.took(&batch);
                if !batch.is_empty()
                    && let Some(bell) = self.bell.get()
                {
                    bell.set();
                }
                Ok(batch)
            }
            Err(why) => {
                self.state.ended(why);
                if let Some(bell) = self.bell.get() {
                    bell.set();
                }
                Err(Error::new(Code::Ended, format!("the subscription has ended: {why:?}")))
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.closer.close();
    }
}

fn open(
    out: *mut *mut klatch_subscription_t,
    engine: *mut klatch_engine_t,
    subscribe: impl FnOnce(&Engine) -> Result<Subscription>,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, engine) = unsafe { (Out::new(out, "out_subscription")?, handle::get(engine)?) };
        let subscription = subscribe(&engine.engine)?;
        let at = subscription.position();
        let mut epoch = [0; 17];
        epoch[..16].copy_from_slice(&hex(at.epoch.0));
        out.fill(handle::give(Arc::new(Listening {
            state: Arc::new(Progress { at: at.offset.into(), ended: KLATCH_ENDED_NOT.into() }),
            closer: subscription.closer(),
            recovered: subscription.recovered(),
            reader: Mutex::new(Some(subscription)),
            bell: Bell::default(),
            of: at.epoch,
            epoch,
            dispatcher: engine.dispatcher.clone(),
            registration: Mutex::default(),
        })));
        Ok(())
    })
}

/// Listens to a room: the newest `history` publications (0: none), then everything that comes.
///
/// Borrows `room`. Gives the subscription; it is freed with klatch_subscription_free(). May read the disk on this thread. Errors:
/// invalid_name, unavailable, stopped.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_subscribe(
    engine: *mut klatch_engine_t,
    room: klatch_str_t,
    history: u32,
    out_subscription: *mut *mut klatch_subscription_t,
) -> *mut klatch_error_t {
    let start = match history {
        0 => Start::Live,
        n => Start::History(n),
    };
    // SAFETY: the caller's view is what the header asks for.
    open(out_subscription, engine, |engine| engine.subscribe(unsafe { room.name("room") }?, start))
}

/// Listens to a room from a position on: everything after `offset`, if `epoch` (empty: any) still holds and nothing after it is gone; else
/// the newest `history` publications, and klatch_subscription_recovered() is false.
///
/// Borrows `room` and `epoch`, which is one that the library gave. Gives the subscription. Errors: as klatch_engine_subscribe(); bad_request
/// for what is no epoch.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_subscribe_since(
    engine: *mut klatch_engine_t,
    room: klatch_str_t,
    epoch: klatch_str_t,
    offset: u64,
    history: u32,
    out_subscription: *mut *mut klatch_subscription_t,
) -> *mut klatch_error_t {
    open(out_subscription, engine, |engine| {
        // SAFETY: the caller's views are what the header asks for.
        let (room, epoch) = unsafe { (room.name("room")?, epoch.name("epoch")?) };
        let epoch: Option<Epoch> = match epoch {
            "" => None,
            text => Some(text.parse().map_err(|_| Error::new(Code::BadRequest, "this is no epoch"))?),
        };
        engine.subscribe(room, Start::Since { epoch, offset, history })
    })
}

/// Listens to every room: everything that this node delivers from now on, in the order of each room; klatch_publication_room() tells which.
/// There is no history and no position to go on from: one that ends because it was not read has a gap, and its offset and epoch mean
/// nothing. Where each publication must be dealt with once, on whichever node, there is klatch_engine_consume().
///
/// Gives the subscription; it is freed with klatch_subscription_free(). Errors: stopped.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_subscribe_all(
    engine: *mut klatch_engine_t,
    out_subscription: *mut *mut klatch_subscription_t,
) -> *mut klatch_error_t {
    open(out_subscription, engine, Engine::subscribe_all)
}

/// The next publications in order, at most `max` (0: 1). Waits for the first, at most `timeout_ms`.
///
/// Gives them; they are freed with klatch_publications_free(). NULL without an error: none came in time. Errors: ended, once everything has
/// been read and klatch_subscription_ended() says why; busy while another thread or a callback reads; stopped, if the handle has been freed,
/// or is freed meanwhile; would_deadlock for a timeout other than 0 in callbacks that tell of a publish.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_subscription_next(
    subscription: *mut klatch_subscription_t,
    max: usize,
    timeout_ms: u64,
    out_publications: *mut *mut klatch_publications_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, listening) =
            unsafe { (Out::new(out_publications, "out_publications")?, handle::get(subscription)?) };
        if timeout_ms > 0 {
            may_wait()?;
        }
        let batch = listening.next(max, Duration::from_millis(timeout_ms))?;
        if !batch.is_empty() {
            out.fill(give(klatch_publications_t::new(&batch).epoch(listening.of)));
        }
        Ok(())
    })
}

/// A descriptor that is readable (POLLIN, EPOLLIN) while klatch_subscription_next() may have something, or the end, to give. Wait for it
/// level-triggered, then call that with a timeout of 0 until it gives NULL: only that makes it unreadable. Never read, write or close the
/// descriptor itself; it is closed with the subscription's handle.
///
/// Errors: internal, where the system refuses a descriptor.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_subscription_fd(
    subscription: *mut klatch_subscription_t,
    out_fd: *mut i32,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointer is NULL or may be written to.
        let out = unsafe { out_fd.as_mut() }.ok_or_else(|| crate::text::null("out_fd"))?;
        *out = -1;
        // SAFETY: the caller's pointer is what the header asks for.
        *out = unsafe { handle::get(subscription) }?.bell.fd()?.number();
        Ok(())
    })
}

/// Has `publications` called with everything that comes, until the subscription ends or is freed.
///
/// Takes `user_data`. Errors: busy if a callback, or another thread, reads it already; bad_request if `publications` is NULL.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_subscription_on_publications(
    subscription: *mut klatch_subscription_t,
    publications: klatch_publications_fn,
    user_data: *mut c_void,
    free_user_data: klatch_free_fn,
) -> *mut klatch_error_t {
    let kept = Kept::new(user_data, free_user_data);
    guard(move || {
        // SAFETY: the caller's pointer is what the header asks for.
        let listening = unsafe { handle::get(subscription) }?;
        let call = publications.ok_or_else(|| crate::text::null("publications"))?;
        let mut reader = listening
            .reader()?
            .take()
            .ok_or_else(|| Error::new(Code::Busy, "a callback reads this subscription"))?;
        let state = listening.state.clone();
        let tell = move |publications: &[Publication], epoch: Epoch, ended: i32| {
            let batch = klatch_publications_t::new(publications).epoch(epoch);
            let lent = if publications.is_empty() { std::ptr::null() } else { &raw const batch };
            // SAFETY: the host gave the function for this data; what it is lent lives until it returns.
            guard::call(Place::Callback, (), || unsafe { call(kept.data(), lent, ended) });
        };
        let registration = listening.dispatcher.run(move |away| async move {
            let epoch = reader.position().epoch;
            while !away.load(Ordering::Acquire) {
                match reader.next(BATCH).await {
                    Ok(batch) => {
                        state.took(&batch);
                        tell(&batch, epoch, KLATCH_ENDED_NOT);
                        others().await;
                    }
                    Err(Ended::Closed) => return,
                    Err(why) => return tell(&[], epoch, state.ended(why)),
                }
            }
        })?;
        *listening.registration.lock().unwrap_or_else(PoisonError::into_inner) = Some(registration);
        Ok(())
    })
}

/// Whether the position that the subscription began with could be resumed from.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_subscription_recovered(subscription: *const klatch_subscription_t) -> bool {
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value(false, || unsafe { handle::with(subscription, |l| Ok(l.recovered)) }.unwrap_or_default())
}

/// The offset of the last publication that was read, or lent to the callback: subscribe since here to go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_subscription_offset(subscription: *const klatch_subscription_t) -> u64 {
    let offset = |l: &Listening| Ok(l.state.at.load(Ordering::Acquire));
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value(0, || unsafe { handle::with(subscription, offset) }.unwrap_or_default())
}

/// The epoch of that offset. It lives as long as the handle; empty if that is NULL or has been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_subscription_epoch(
    subscription: *const klatch_subscription_t,
) -> klatch_str_t {
    let epoch = |l: &Listening| Ok(klatch_str_t::of(&l.epoch));
    guard::value(klatch_str_t::EMPTY, || {
        // SAFETY: the caller's pointer is what the header asks for.
        unsafe { handle::with(subscription, epoch) }.unwrap_or(klatch_str_t::EMPTY)
    })
}

/// Why it has ended, one of KLATCH_ENDED_*, once klatch_subscription_next() or the callback has been told. KLATCH_ENDED_CLOSED if the handle
/// is NULL or has been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_subscription_ended(subscription: *const klatch_subscription_t) -> i32 {
    let ended = |l: &Listening| Ok(l.state.ended.load(Ordering::Acquire));
    guard::value(KLATCH_ENDED_CLOSED, || {
        // SAFETY: the caller's pointer is what the header asks for.
        unsafe { handle::with(subscription, ended) }.unwrap_or(KLATCH_ENDED_CLOSED)
    })
}

/// Ends the subscription and releases the handle, which may be NULL. Its callback is not called once this has returned, unless this is called
/// in it; a thread that waits in klatch_subscription_next() is told that it has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_subscription_free(subscription: *mut klatch_subscription_t) {
    guard::value((), || {
        // SAFETY: the caller's pointer is what the header asks for.
        let Some(listening) = (unsafe { handle::take(subscription) }) else { return };
        listening.closer.close();
        let registration = listening.registration.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(registration);
    });
}
