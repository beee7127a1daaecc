//! History.
//!
//! A page of it at a time. Go on after the offset of the last publication while klatch_publications_more() says so.

use crate::engine::klatch_engine_t;
use crate::error::klatch_error_t;
use crate::guard::guard;
use crate::handle;
use crate::publication::klatch_publications_t;
use crate::text::{Out, give, klatch_str_t};
use klatch::HistoryQuery;

/// Reads a page of a room's history: publications with offsets above `after` and below `before` (0: no bound), the oldest of them first, or
/// with `backward` the newest first; at most `limit`, and at most the setting limits.history_page. A view that has not reached `at_least`
/// (0: whatever it has reached) answers unavailable.
///
/// Borrows `room`. Gives the page; it is freed with klatch_publications_free(). May read the disk on this thread. Errors: invalid_name,
/// unavailable, stopped.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_engine_history(
    engine: *mut klatch_engine_t,
    room: klatch_str_t,
    after: u64,
    before: u64,
    limit: u32,
    backward: bool,
    at_least: u64,
    out_page: *mut *mut klatch_publications_t,
) -> *mut klatch_error_t {
    guard(|| {
        // SAFETY: the caller's pointers are what the header asks for.
        let (out, engine, room) =
            unsafe { (Out::new(out_page, "out_page")?, handle::get(engine)?, room.name("room")?) };
        let query = HistoryQuery { after, before, limit, backward, at_least };
        let page = engine.engine.history(room, query)?;
        let publications = klatch_publications_t::new(&page.publications);
        out.fill(give(publications.epoch(page.epoch).page(page.more, page.last)));
        Ok(())
    })
}
