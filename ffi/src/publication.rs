//! Publications.
//!
//! Messages as they are delivered.
//!
//! They come in batches, from history, a subscription or a consumer. Everything of a publication lives as long as its batch.

use crate::publish::{KLATCH_DATA_BINARY, KLATCH_DATA_JSON, hex};
use crate::text::{free, give, klatch_bytes_t, klatch_str_t};
use klatch::{Epoch, Kind, Publication};
use std::io::Write;

/// A message as it is delivered. It belongs to a batch.
#[derive(Debug)]
pub struct klatch_publication_t {
    offset: u64,
    prev: u64,
    time: u64,
    kind: i32,
    room: klatch_str_t,
    user: klatch_str_t,
    id: klatch_str_t,
    data: klatch_bytes_t,
}

/// Publications of a room, in order. Freed with klatch_publications_free(), unless a callback was lent them.
#[derive(Debug)]
pub struct klatch_publications_t {
    items: Vec<klatch_publication_t>,
    /// What the views of the items point into.
    _texts: Vec<u8>,
    epoch: [u8; 17],
    more: bool,
    last: u64,
}

/// Where a text of an item is to be.
type Range = (usize, usize);

impl klatch_publications_t {
    pub(crate) fn new(publications: &[Publication]) -> klatch_publications_t {
        let bytes: usize = publications.iter().map(|p| p.record.body().len() + 32).sum();
        let mut texts = Vec::with_capacity(bytes);
        // Views are made once nothing moves any more.
        let places: Vec<[Range; 4]> = publications
            .iter()
            .map(|p| {
                let room = put(&mut texts, p.room().as_bytes());
                let user = put(&mut texts, p.user().as_bytes());
                let id = match p.record.given_id() {
                    "" => put_made_id(&mut texts, p.offset()),
                    id => put(&mut texts, id.as_bytes()),
                };
                [room, user, id, put(&mut texts, p.record.data_slice())]
            })
            .collect();
        let text = |(from, to): Range| klatch_str_t::of(&texts[from..=to]);
        let items = publications
            .iter()
            .zip(places)
            .map(|(p, [room, user, id, (from, to)])| klatch_publication_t {
                offset: p.offset(),
                prev: p.prev(),
                time: p.time(),
                kind: match p.kind() {
                    Kind::Json => KLATCH_DATA_JSON,
                    Kind::Binary => KLATCH_DATA_BINARY,
                },
                room: text(room),
                user: text(user),
                id: text(id),
                data: klatch_bytes_t { ptr: texts[from..].as_ptr(), len: to - from },
            })
            .collect();
        klatch_publications_t { items, _texts: texts, epoch: [0; 17], more: false, last: 0 }
    }

    pub(crate) fn epoch(mut self, epoch: Epoch) -> Self {
        self.epoch[..16].copy_from_slice(&hex(epoch.0));
        self
    }

    pub(crate) fn page(mut self, more: bool, last: u64) -> Self {
        (self.more, self.last) = (more, last);
        self
    }

    pub(crate) fn first(&self) -> *const klatch_publication_t {
        self.items.first().map_or(std::ptr::null(), std::ptr::from_ref)
    }

    fn copy(&self) -> klatch_publications_t {
        let texts = self._texts.clone();
        let (old, new) = (self._texts.as_ptr().addr(), texts.as_ptr());
        let at = |ptr: usize| texts.get(ptr - old..).map_or(new, <[u8]>::as_ptr);
        let text = |s: klatch_str_t| klatch_str_t { ptr: at(s.ptr.addr()).cast(), len: s.len };
        let items = self
            .items
            .iter()
            .map(|p| klatch_publication_t {
                room: text(p.room),
                user: text(p.user),
                id: text(p.id),
                data: klatch_bytes_t { ptr: at(p.data.ptr.addr()), len: p.data.len },
                ..*p
            })
            .collect();
        klatch_publications_t { items, _texts: texts, ..*self }
    }
}

/// Adds a text and a NUL; where the text is.
fn put(texts: &mut Vec<u8>, text: &[u8]) -> Range {
    let from = texts.len();
    texts.extend_from_slice(text);
    texts.push(0);
    (from, texts.len() - 1)
}

/// The same for an id that the engine made.
fn put_made_id(texts: &mut Vec<u8>, offset: u64) -> Range {
    let from = texts.len();
    // Writing to a Vec cannot fail.
    let _ = write!(texts, "~{offset}");
    texts.push(0);
    (from, texts.len() - 1)
}

/// How many publications there are. 0 if `publications` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publications_count(publications: *const klatch_publications_t) -> usize {
    // SAFETY: NULL, or publications that the caller has and does not free meanwhile.
    unsafe { publications.as_ref() }.map_or(0, |all| all.items.len())
}

/// The `index`th publication. It lives as long as `publications`; NULL if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publications_at(
    publications: *const klatch_publications_t,
    index: usize,
) -> *const klatch_publication_t {
    // SAFETY: as above.
    let item = unsafe { publications.as_ref() }.and_then(|all| all.items.get(index));
    item.map_or(std::ptr::null(), std::ptr::from_ref)
}

/// The epoch of the room's stream. Offsets of another epoch mean nothing. It lives as long as `publications`; empty if that is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publications_epoch(
    publications: *const klatch_publications_t,
) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { publications.as_ref() }.map_or(klatch_str_t::EMPTY, |all| match all.epoch[0] {
        0 => klatch_str_t::EMPTY,
        _ => klatch_str_t::of(&all.epoch),
    })
}

/// Of a page of history: whether the range that was asked for holds more, in the direction read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publications_more(publications: *const klatch_publications_t) -> bool {
    // SAFETY: as above.
    unsafe { publications.as_ref() }.is_some_and(|all| all.more)
}

/// Of a page of history: the room's last offset. 0 of an empty room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publications_last(publications: *const klatch_publications_t) -> u64 {
    // SAFETY: as above.
    unsafe { publications.as_ref() }.map_or(0, |all| all.last)
}

/// A copy of its own, for what a callback wants to keep. Gives it; NULL if `publications` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publications_clone(
    publications: *const klatch_publications_t,
) -> *mut klatch_publications_t {
    // SAFETY: as above.
    unsafe { publications.as_ref() }.map_or(std::ptr::null_mut(), |all| give(all.copy()))
}

/// Frees publications, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publications_free(publications: *mut klatch_publications_t) {
    // SAFETY: NULL, or what was given to the caller.
    unsafe { free(publications) };
}

/// The room. Empty if `publication` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publication_room(publication: *const klatch_publication_t) -> klatch_str_t {
    // SAFETY: NULL, or a publication of a batch that the caller has and does not free meanwhile.
    unsafe { publication.as_ref() }.map_or(klatch_str_t::EMPTY, |p| p.room)
}

/// The sender; empty for an anonymous one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publication_user(publication: *const klatch_publication_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { publication.as_ref() }.map_or(klatch_str_t::EMPTY, |p| p.user)
}

/// The message's id. One that begins with ~ was made by the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publication_id(publication: *const klatch_publication_t) -> klatch_str_t {
    // SAFETY: as above.
    unsafe { publication.as_ref() }.map_or(klatch_str_t::EMPTY, |p| p.id)
}

/// What the data is, one of KLATCH_DATA_*.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publication_kind(publication: *const klatch_publication_t) -> i32 {
    // SAFETY: as above.
    unsafe { publication.as_ref() }.map_or(KLATCH_DATA_JSON, |p| p.kind)
}

/// The data: JSON text, or bytes. Here too a NUL is behind it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publication_data(publication: *const klatch_publication_t) -> klatch_bytes_t {
    // SAFETY: as above.
    unsafe { publication.as_ref() }.map_or(klatch_bytes_t::EMPTY, |p| p.data)
}

/// The offset. Offsets increase within a room and may skip.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publication_offset(publication: *const klatch_publication_t) -> u64 {
    // SAFETY: as above.
    unsafe { publication.as_ref() }.map_or(0, |p| p.offset)
}

/// The offset of the publication before it in its room, or 0. Whoever last saw another one has a gap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publication_prev(publication: *const klatch_publication_t) -> u64 {
    // SAFETY: as above.
    unsafe { publication.as_ref() }.map_or(0, |p| p.prev)
}

/// The log's time of it, in milliseconds since 1970 UTC.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_publication_time(publication: *const klatch_publication_t) -> u64 {
    // SAFETY: as above.
    unsafe { publication.as_ref() }.map_or(0, |p| p.time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use klatch::{Engine, HistoryQuery, Message};
    use std::ffi::CStr;

    #[test]
    fn a_copy_outlives_what_it_was_made_of() {
        let engine = Engine::builder().log("memory").start().unwrap();
        for n in 0..3 {
            let message = Message::json("lobby", &format!("[{n}]")).user("ann");
            engine.publish(message).wait().unwrap();
        }
        let page = engine.history("lobby", HistoryQuery::default()).unwrap();
        let first = klatch_publications_t::new(&page.publications).epoch(page.epoch).page(true, 3);
        let copy = first.copy();
        drop(first);
        assert_eq!((copy.items.len(), copy.more, copy.last, copy.epoch[16]), (3, true, 3, 0));
        for (n, item) in copy.items.iter().enumerate() {
            // SAFETY: the copy lives, and its texts end with a NUL.
            let (room, id, data) = unsafe {
                (
                    CStr::from_ptr(klatch_publication_room(item).ptr),
                    CStr::from_ptr(klatch_publication_id(item).ptr),
                    CStr::from_ptr(klatch_publication_data(item).ptr.cast()),
                )
            };
            assert_eq!((room, data.to_str().unwrap()), (c"lobby", &*format!("[{n}]")));
            assert_eq!(id.to_str().unwrap(), format!("~{}", n + 1));
        }
        assert!(klatch_publications_t::new(&[]).copy().first().is_null());
    }
}
