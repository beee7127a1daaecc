//! Presence.
//!
//! Who is in a room, on this node.

use crate::engine::klatch_engine_t;
use crate::error::klatch_error_t;
use crate::guard::guard;
use crate::handle;
use crate::text::{Out, Text, free, give, klatch_str_t};

/// Who is in a room. Freed with klatch_presence_free().
#[derive(Debug)]
pub struct klatch_presence_t {
    count: u32,
    users: Vec<(Text, u32)>,
    truncated: bool,
}

/// Who is in `room` now. An engine that has stopped has nobody.
///
/// Borrows `room`. Gives the list; it is freed with klatch_presence_free(). Errors: invalid_name for what is no text; stopped, if the handle
/// has been freed.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_presence(
    engine: *const klatch_engine_t,
    room: klatch_str_t,
    out_presence: *mut *mut klatch_presence_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, engine, room) =
            unsafe { (Out::new(out_presence, "out_presence")?, handle::get(engine)?, room.name("room")?) };
        let list = engine.engine.presence(room);
        let users = list.users.iter().map(|(user, connections)| (Text::new(user), *connections)).collect();
        out.fill(give(klatch_presence_t { count: list.count, users, truncated: list.truncated }));
        Ok(())
    })
}

/// Members, counted by connection, anonymous ones among them. 0 if `presence` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_presence_count(presence: *const klatch_presence_t) -> u32 {
    // SAFETY: NULL, or a list that the caller has and does not free meanwhile.
    unsafe { presence.as_ref() }.map_or(0, |p| p.count)
}

/// How many named users are listed: at most the setting limits.presence_names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_presence_user_count(presence: *const klatch_presence_t) -> usize {
    // SAFETY: as above.
    unsafe { presence.as_ref() }.map_or(0, |p| p.users.len())
}

/// The `index`th user, in the order of names. It lives as long as `presence`; empty if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_presence_user(
    presence: *const klatch_presence_t,
    index: usize,
) -> klatch_str_t {
    // SAFETY: as above.
    let user = unsafe { presence.as_ref() }.and_then(|p| p.users.get(index));
    user.map_or(klatch_str_t::EMPTY, |(user, _)| user.view())
}

/// The connections of the `index`th user. 0 if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_presence_connections(
    presence: *const klatch_presence_t,
    index: usize,
) -> u32 {
    // SAFETY: as above.
    unsafe { presence.as_ref() }.and_then(|p| p.users.get(index)).map_or(0, |(_, connections)| *connections)
}

/// Whether there are more named users than are listed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_presence_truncated(presence: *const klatch_presence_t) -> bool {
    // SAFETY: as above.
    unsafe { presence.as_ref() }.is_some_and(|p| p.truncated)
}

/// Frees a list, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_presence_free(presence: *mut klatch_presence_t) {
    // SAFETY: NULL, or what was given to the caller.
    unsafe { free(presence) };
}
