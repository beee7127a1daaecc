//! Signals and kicks.
//!
//! A signal is an event that is delivered to those who are there and not stored. None of these functions waits.

use crate::engine::klatch_engine_t;
use crate::error::klatch_error_t;
use crate::guard::guard;
use crate::handle;
use crate::text::klatch_str_t;
use klatch::Whom;

/// Delivers an event to a room's members. `name` is its name, `json` its data, `user` its sender (empty: anonymous).
///
/// Borrows everything. Errors: invalid_name, invalid_data, too_deep, too_large; busy while the connections' threads do not keep up; stopped.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_signal(
    engine: *mut klatch_engine_t,
    room: klatch_str_t,
    user: klatch_str_t,
    name: klatch_str_t,
    json: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let engine = unsafe { handle::get(engine) }?;
        // SAFETY: as above.
        let (room, user) = unsafe { (room.name("room")?, user.name("user")?) };
        // SAFETY: as above.
        let (name, json) = unsafe { (name.name("name")?, json.json("json")?) };
        engine.engine.signal(room, user, name, json)
    })
}

/// Delivers an event to one connection, by the id that its events and requests name. Its client gets a signal without a room. Nothing
/// happens if there is no such connection on this node, or it has not been let in.
///
/// Borrows everything. Errors: those of klatch_engine_signal(); bad_request for what is no connection id.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_send(
    engine: *mut klatch_engine_t,
    connection: klatch_str_t,
    name: klatch_str_t,
    json: klatch_str_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (engine, connection) = unsafe { (handle::get(engine)?, connection.name("connection")?) };
        // SAFETY: as above.
        let (name, json) = unsafe { (name.name("name")?, json.json("json")?) };
        engine.engine.send(connection, name, json)
    })
}

/// Takes a user's connections out of `room`, or, if that is empty, closes them with `kicked`, which tells their clients not to come back.
/// Takes effect soon after the call.
///
/// Borrows everything. Errors: invalid_name for what is no text; stopped.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_kick_user(
    engine: *mut klatch_engine_t,
    user: klatch_str_t,
    room: klatch_str_t,
) -> *mut klatch_error_t {
    // SAFETY: the caller's pointers are what the header asks for.
    guard(|| unsafe { kick(engine, Whom::User(user.name("user")?.into()), room) })
}

/// The same for one connection, by the id that its events and requests name.
///
/// Borrows everything. Errors: bad_request for what is no connection id; stopped.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_kick_connection(
    engine: *mut klatch_engine_t,
    connection: klatch_str_t,
    room: klatch_str_t,
) -> *mut klatch_error_t {
    // SAFETY: the caller's pointers are what the header asks for.
    guard(|| unsafe { kick(engine, Whom::Connection(connection.name("connection")?.into()), room) })
}

unsafe fn kick(engine: *mut klatch_engine_t, whom: Whom, room: klatch_str_t) -> klatch::Result<()> {
    // SAFETY: the caller's promise.
    let (engine, room) = unsafe { (handle::get(engine)?, room.name("room")?) };
    engine.engine.kick(&whom, (!room.is_empty()).then_some(room))
}
