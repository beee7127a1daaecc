//! Engines.
//!
//! An engine may be used by several threads at once. klatch_engine_stop() drains it; klatch_engine_free() releases the handle. What belongs
//! to an engine (subscriptions, consumers, pages) may be freed before or after it.

use crate::callback::Gate;
use crate::dispatch::Dispatcher;
use crate::error::klatch_error_t;
use crate::event::Events;
use crate::guard::{self, Place, guard, may_wait};
use crate::handle::{self, handle};
use crate::hook::HookSet;
use crate::text::{Out, Text, klatch_str_t, klatch_text_t};
use klatch::{Engine, Health};
use std::sync::Arc;
use std::time::Duration;

/// Publishes are stored.
pub const KLATCH_HEALTH_UP: i32 = 0;
/// The disk is full; publishes are refused until there is room.
pub const KLATCH_HEALTH_STORAGE_FULL: i32 = 1;
/// A sync failed; nothing more is stored until the engine is started again.
pub const KLATCH_HEALTH_STORAGE_FAILED: i32 = 2;
/// The log has damage that nobody has accepted.
pub const KLATCH_HEALTH_LOG_DAMAGED: i32 = 3;
/// Stopped.
pub const KLATCH_HEALTH_STOPPED: i32 = 4;
/// Part of the Kafka cluster is away: publishes to some rooms are not stored until it is back, those to others are.
pub const KLATCH_HEALTH_DEGRADED: i32 = 5;
/// The Kafka cluster does not answer; publishes are refused until it does.
pub const KLATCH_HEALTH_DOWN: i32 = 6;
/// The handle is NULL or has been freed, or the health is newer than this library.
pub const KLATCH_HEALTH_UNKNOWN: i32 = -1;

/// A running engine. Freed with klatch_engine_free().
#[derive(Debug)]
pub struct klatch_engine_t {
    _opaque: [u8; 0],
}

/// What is behind the handle.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    addresses: Vec<(Text, u16)>,
    hooks: Arc<Gate<HookSet>>,
    pub(crate) events: Events,
    pub(crate) dispatcher: Arc<Dispatcher>,
}

handle!(klatch_engine_t, Running, "engine");

/// How long the stop of an engine that was not stopped may take.
const FREED: Duration = Duration::from_secs(1);

pub(crate) fn give(engine: Engine, hooks: Arc<Gate<HookSet>>) -> *mut klatch_engine_t {
    let addresses = engine.addresses().iter().map(|a| (Text::new(&a.to_string()), a.port())).collect();
    handle::give(Arc::new(Running {
        events: Events::default(),
        dispatcher: Arc::default(),
        engine,
        addresses,
        hooks,
    }))
}

/// How many addresses the engine listens on. 0 if the handle is NULL or has been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_address_count(engine: *const klatch_engine_t) -> usize {
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value(0, || unsafe { handle::with(engine, |e| Ok(e.addresses.len())) }.unwrap_or_default())
}

/// The `index`th address, as "127.0.0.1:8080", with the port that was picked. It lives as long as the engine's handle; empty if there is
/// none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_address(engine: *const klatch_engine_t, index: usize) -> klatch_str_t {
    let address = |e: &Running| Ok(e.addresses.get(index).map_or(klatch_str_t::EMPTY, |(a, _)| a.view()));
    guard::value(klatch_str_t::EMPTY, || {
        // SAFETY: the caller's pointer is what the header asks for.
        unsafe { handle::with(engine, address) }.unwrap_or(klatch_str_t::EMPTY)
    })
}

/// The port of the `index`th address. 0 if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_port(engine: *const klatch_engine_t, index: usize) -> u16 {
    let port = |e: &Running| Ok(e.addresses.get(index).map_or(0, |(_, port)| *port));
    // SAFETY: the caller's pointer is what the header asks for.
    guard::value(0, || unsafe { handle::with(engine, port) }.unwrap_or_default())
}

/// Whether publishes are stored, one of KLATCH_HEALTH_*.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_health(engine: *const klatch_engine_t) -> i32 {
    let health = |e: &Running| {
        Ok(match e.engine.health() {
            Health::Up => KLATCH_HEALTH_UP,
            Health::StorageFull => KLATCH_HEALTH_STORAGE_FULL,
            Health::StorageFailed => KLATCH_HEALTH_STORAGE_FAILED,
            Health::LogDamaged => KLATCH_HEALTH_LOG_DAMAGED,
            Health::Stopped => KLATCH_HEALTH_STOPPED,
            Health::Degraded => KLATCH_HEALTH_DEGRADED,
            Health::Down => KLATCH_HEALTH_DOWN,
            _ => KLATCH_HEALTH_UNKNOWN,
        })
    };
    guard::value(KLATCH_HEALTH_UNKNOWN, || {
        // SAFETY: the caller's pointer is what the header asks for.
        unsafe { handle::with(engine, health) }.unwrap_or(KLATCH_HEALTH_UNKNOWN)
    })
}

/// The engine's numbers in the Prometheus text format, version 0.0.4.
///
/// Gives the text; it is freed with klatch_text_free(). Works after a stop too. Errors: stopped, if the handle has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_metrics(
    engine: *const klatch_engine_t,
    out_text: *mut *mut klatch_text_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, engine) = unsafe { (Out::new(out_text, "out_text")?, handle::get(engine)?) };
        out.fill(Text::give(&engine.engine.metrics().prometheus()));
        Ok(())
    })
}

/// Stops: no more connections and publishes are taken, what is queued is stored and answered, clients are told to come back, files are
/// synced and closed, so that another engine may have the directory. Waits at most about `timeout_ms`. Later calls return at once.
///
/// `out_unwritten` may be NULL; else it gets how many publishes were not written in time, each of which has been answered. Events that are
/// queued can still be read. Works in every callback but those that tell of a publish, and the log's: there, would_deadlock. Any other error
/// says that the last sync failed: what had been acknowledged before is safe.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_stop(
    engine: *mut klatch_engine_t,
    timeout_ms: u64,
    out_unwritten: *mut u64,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointer is NULL or may be written to.
        let unwritten = unsafe { out_unwritten.as_mut() };
        // SAFETY: as above.
        let engine = unsafe { handle::get(engine) }?;
        may_wait()?;
        let stopped = engine.engine.stop(Duration::from_millis(timeout_ms))?;
        if let Some(unwritten) = unwritten {
            *unwritten = stopped.unwritten;
        }
        Ok(())
    })
}

/// Stops the engine as with a timeout of one second, unless it has been stopped, and releases the handle; `engine` may be NULL.
///
/// No callback of this engine is called once this has returned, except those that tell of publishes that were still under way, and each
/// user_data has been freed. It waits for callbacks that run, at most 4 s, but not for the one that it is called in. In one that tells of
/// a publish, it stops the engine in the background. Other threads that wait for this engine are told `stopped`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_free(engine: *mut klatch_engine_t) {
    guard::value((), || {
        // SAFETY: the caller's pointer is what the header asks for.
        let Some(running) = (unsafe { handle::take(engine) }) else { return };
        let end = move || {
            // What could not be synced has been told to the log.
            let _ = running.engine.stop(FREED);
            running.hooks.close();
            running.events.forget();
            running.dispatcher.end();
        };
        if guard::place() != Place::Published {
            return end();
        }
        if let Err(e) = std::thread::Builder::new().name("klatch-stop".into()).spawn(end) {
            tracing::error!(error = %e, "the system refused a thread; the engine is not stopped");
        }
    });
}
