//! Text and bytes.
//!
//! Two plain views, the only structs whose fields are public; they never change. Text that goes in is UTF-8 and need not end with a NUL;
//! `klatch_str("...")` makes it of a C string. Text that comes out is UTF-8 with a NUL behind it that is not counted, and never NULL.

use klatch::{Code, Error, Result};
use std::ffi::{c_char, c_void};

/// Text: `len` bytes at `ptr`. `ptr` may be NULL only if `len` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct klatch_str_t {
    /// The first byte.
    pub ptr: *const c_char,
    /// How many bytes.
    pub len: usize,
}

/// Bytes: `len` of them at `ptr`. `ptr` may be NULL only if `len` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct klatch_bytes_t {
    /// The first byte.
    pub ptr: *const u8,
    /// How many.
    pub len: usize,
}

/// Text that the library has made, such as a metrics page. Freed with klatch_text_free().
#[derive(Debug)]
pub struct klatch_text_t(Text);

/// The text of `text`, which may be NULL (then it is empty). It lives as long as `text`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_text_str(text: *const klatch_text_t) -> klatch_str_t {
    // SAFETY: NULL, or a text that the caller has and does not free meanwhile.
    unsafe { text.as_ref() }.map_or(klatch_str_t::EMPTY, |text| text.0.view())
}

/// Frees `text`, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn klatch_text_free(text: *mut klatch_text_t) {
    // SAFETY: NULL, or what `give` made and the caller hands back.
    unsafe { free(text) };
}

/// Longest name, id, key or address that is looked at. All of the engine's own limits are lower.
const MAX_NAME: usize = 4096;
/// Longest data of a message that any settings allow.
const MAX_DATA: usize = 1 << 20;
/// Longest text of settings, or page.
const MAX_TEXT: usize = 64 << 20;

impl klatch_str_t {
    pub(crate) const EMPTY: klatch_str_t = klatch_str_t { ptr: c"".as_ptr(), len: 0 };

    /// A view of bytes that end with a NUL.
    pub(crate) fn of(with_nul: &[u8]) -> klatch_str_t {
        debug_assert_eq!(with_nul.last(), Some(&0));
        klatch_str_t { ptr: with_nul.as_ptr().cast(), len: with_nul.len().saturating_sub(1) }
    }

    /// A name, an id or another short text.
    ///
    /// # Safety
    /// As the header says of texts; the result is used within the call.
    pub(crate) unsafe fn name<'a>(self, what: &str) -> Result<&'a str> {
        if self.len > MAX_NAME {
            return Err(Error::new(Code::InvalidName, format!("{what} is longer than {MAX_NAME} bytes")));
        }
        // SAFETY: the caller's promise.
        unsafe { self.read(what, Code::InvalidName) }
    }

    /// The JSON text of a message or signal.
    ///
    /// # Safety
    /// As for names.
    pub(crate) unsafe fn json<'a>(self, what: &str) -> Result<&'a str> {
        if self.len > MAX_DATA {
            return Err(too_large(what, MAX_DATA));
        }
        // SAFETY: the caller's promise.
        unsafe { self.read(what, Code::InvalidData) }
    }

    /// A long text.
    ///
    /// # Safety
    /// As for names.
    pub(crate) unsafe fn long<'a>(self, what: &str) -> Result<&'a str> {
        if self.len > MAX_TEXT {
            return Err(too_large(what, MAX_TEXT));
        }
        // SAFETY: the caller's promise.
        unsafe { self.read(what, Code::BadRequest) }
    }

    unsafe fn read<'a>(self, what: &str, not_utf8: Code) -> Result<&'a str> {
        let bytes = klatch_bytes_t { ptr: self.ptr.cast(), len: self.len };
        // SAFETY: the caller's promise; the length is bounded above.
        let bytes = unsafe { bytes.read(what) }?;
        std::str::from_utf8(bytes).map_err(|_| Error::new(not_utf8, format!("{what} is not UTF-8")))
    }
}

impl klatch_bytes_t {
    pub(crate) const EMPTY: klatch_bytes_t = klatch_bytes_t { ptr: c"".as_ptr().cast(), len: 0 };

    /// The data of a message.
    ///
    /// # Safety
    /// As the header says of bytes; the result is used within the call.
    pub(crate) unsafe fn data<'a>(self, what: &str) -> Result<&'a [u8]> {
        if self.len > MAX_DATA {
            return Err(too_large(what, MAX_DATA));
        }
        // SAFETY: the caller's promise.
        unsafe { self.read(what) }
    }

    unsafe fn read<'a>(self, what: &str) -> Result<&'a [u8]> {
        if self.len == 0 {
            return Ok(&[]);
        }
        if self.ptr.is_null() {
            let text = format!("{what} is NULL and its length is not 0");
            return Err(Error::new(Code::BadRequest, text));
        }
        // SAFETY: not NULL, and the caller's promise says that so many bytes are there and stay.
        Ok(unsafe { std::slice::from_raw_parts(self.ptr, self.len) })
    }
}

fn too_large(what: &str, most: usize) -> Error {
    Error::new(Code::TooLarge, format!("{what} is longer than {most} bytes"))
}

/// Text with a NUL behind it.
#[derive(Clone, Debug)]
pub(crate) struct Text(Box<[u8]>);

impl Text {
    pub(crate) fn new(text: &str) -> Text {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        Text(bytes.into_boxed_slice())
    }

    pub(crate) fn view(&self) -> klatch_str_t {
        klatch_str_t::of(&self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0[..self.0.len().saturating_sub(1)]).unwrap_or_default()
    }

    pub(crate) fn give(text: &str) -> *mut klatch_text_t {
        give(klatch_text_t(Text::new(text)))
    }
}

/// An object of its own for the caller.
pub(crate) fn give<T>(object: T) -> *mut T {
    Box::into_raw(Box::new(object))
}

/// Takes such an object back; NULL is nothing.
///
/// # Safety
/// `object` is NULL or came from [`give`], and nobody uses it any more.
pub(crate) unsafe fn free<T>(object: *mut T) {
    if !object.is_null() {
        crate::guard::value((), || {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(object) });
        });
    }
}

/// Where a result goes. It is NULL until it is filled.
pub(crate) struct Out<T>(*mut *mut T);

impl<T> Out<T> {
    /// # Safety
    /// `place` is NULL or may be written to during the call.
    pub(crate) unsafe fn new(place: *mut *mut T, what: &str) -> Result<Out<T>> {
        // SAFETY: the caller's promise.
        match unsafe { place.as_mut() } {
            None => Err(null(what)),
            Some(place) => {
                *place = std::ptr::null_mut();
                Ok(Out(place))
            }
        }
    }

    pub(crate) fn fill(self, object: *mut T) {
        // SAFETY: checked by `new`, in the same call.
        unsafe { *self.0 = object };
    }
}

pub(crate) fn null(what: &str) -> Error {
    Error::new(Code::BadRequest, format!("{what} must not be NULL"))
}

/// What the host keeps for its callback; see [`crate::callback`].
pub(crate) type UserData = *mut c_void;

#[cfg(test)]
mod tests {
    use super::*;

    fn view(bytes: &[u8]) -> klatch_str_t {
        klatch_str_t { ptr: bytes.as_ptr().cast(), len: bytes.len() }
    }

    #[test]
    fn what_is_no_text_is_refused_unread() {
        let dangling = std::ptr::without_provenance(64);
        // SAFETY: the lengths that are too large are seen before anything is read.
        unsafe {
            for len in [MAX_NAME + 1, isize::MAX as usize, usize::MAX] {
                let e = klatch_str_t { ptr: dangling, len }.name("room").unwrap_err();
                assert_eq!(e.code(), Code::InvalidName);
            }
            for len in [MAX_DATA + 1, usize::MAX] {
                let e = klatch_bytes_t { ptr: dangling.cast(), len }.data("data").unwrap_err();
                assert_eq!(e.code(), Code::TooLarge);
            }
            let none = klatch_str_t { ptr: std::ptr::null(), len: 1 };
            assert_eq!(none.name("room").unwrap_err().code(), Code::BadRequest);
            assert_eq!(klatch_str_t { ptr: std::ptr::null(), len: 0 }.name("room").unwrap(), "");
            assert_eq!(view(b"a\xff").name("room").unwrap_err().code(), Code::InvalidName);
            assert_eq!(view(b"\xed\xa0\x80").json("data").unwrap_err().code(), Code::InvalidData);
            assert_eq!(view(b"a\0b").name("room").unwrap(), "a\0b", "the engine refuses it");
        }
    }

    #[test]
    fn texts_end_with_a_nul_that_is_not_counted() {
        let text = Text::new("abc");
        assert_eq!((text.view().len, text.as_str(), Text::new("").view().len), (3, "abc", 0));
        assert_eq!(text.0[3], 0);
    }
}
