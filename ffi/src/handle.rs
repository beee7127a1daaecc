//! Handles of what lives long: engines, builders, subscriptions, requests, consumers.
//!
//! What C has is the address of a place in a pool. A place is never given back to the system, so a handle that has been freed, even twice,
//! or while another thread was using it, leads to a place that is empty, or later belongs to another handle: a mistake that is told, and no
//! access to memory that is not ours.

use crate::text::null;
use klatch::{Code, Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A place. Empty if its handle was freed.
pub(crate) type Slot<T> = RwLock<Option<Arc<T>>>;

/// The places of one kind that nobody has.
pub(crate) struct Pool<T: 'static>(Mutex<VecDeque<&'static Slot<T>>>);

/// So many places rest before the first is used again, so that an old handle is told rather than confused with a new one.
const REST: usize = 1024;

impl<T> Pool<T> {
    pub(crate) const fn new() -> Pool<T> {
        Pool(Mutex::new(VecDeque::new()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<&'static Slot<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a type of the header stands for.
pub(crate) trait Handle: Sized {
    /// What is behind it.
    type Value: 'static;
    /// For errors.
    const NAME: &'static str;
    /// Where its places are.
    fn pool() -> &'static Pool<Self::Value>;
}

/// Makes a type of the header a handle.
macro_rules! handle {
    ($handle:ident, $value:ty, $name:literal) => {
        impl $crate::handle::Handle for $handle {
            type Value = $value;
            const NAME: &'static str = $name;
            fn pool() -> &'static $crate::handle::Pool<$value> {
                static POOL: $crate::handle::Pool<$value> = $crate::handle::Pool::new();
                &POOL
            }
        }
    };
}
pub(crate) use handle;

/// A new handle.
pub(crate) fn give<H: Handle>(value: Arc<H::Value>) -> *mut H {
    let mut free = H::pool().lock();
    let rested = if free.len() > REST { free.pop_front() } else { None };
    drop(free);
    let slot: &'static Slot<H::Value> = rested.unwrap_or_else(|| Box::leak(Box::default()));
    *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(value);
    std::ptr::from_ref(slot).cast_mut().cast()
}

/// # Safety
/// `handle` is NULL or came from [`give`], whether it was freed or not.
unsafe fn slot<H: Handle>(handle: *const H) -> Option<&'static Slot<H::Value>> {
    // SAFETY: places live for ever, and the caller says that this is one of the right kind.
    unsafe { handle.cast::<Slot<H::Value>>().as_ref() }
}

/// What is behind a handle.
///
/// # Safety
/// `handle` is NULL or came from [`give`], whether it was freed or not.
pub(crate) unsafe fn get<H: Handle>(handle: *const H) -> Result<Arc<H::Value>> {
    // SAFETY: the caller's promise.
    let slot = unsafe { slot(handle) }.ok_or_else(|| null(H::NAME))?;
    let value = slot.read().unwrap_or_else(PoisonError::into_inner).clone();
    value.ok_or_else(|| freed::<H>())
}

/// The same for a call that is short, and does not free the handle.
///
/// # Safety
/// As for [`get`].
pub(crate) unsafe fn with<H: Handle, T>(
    handle: *const H,
    body: impl FnOnce(&H::Value) -> Result<T>,
) -> Result<T> {
    // SAFETY: the caller's promise.
    let slot = unsafe { slot(handle) }.ok_or_else(|| null(H::NAME))?;
    let value = slot.read().unwrap_or_else(PoisonError::into_inner);
    body(value.as_ref().ok_or_else(|| freed::<H>())?)
}

fn freed<H: Handle>() -> Error {
    Error::new(Code::Stopped, format!("this {} has been freed", H::NAME))
}

/// Frees a handle: what was behind it. None for NULL, and for one that was freed before.
///
/// # Safety
/// As for [`get`].
pub(crate) unsafe fn take<H: Handle>(handle: *mut H) -> Option<Arc<H::Value>> {
    // SAFETY: the caller's promise.
    let slot = unsafe { slot::<H>(handle) }?;
    let value = slot.write().unwrap_or_else(PoisonError::into_inner).take()?;
    H::pool().lock().push_back(slot);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number;
    handle!(Number, u32, "number");

    #[test]
    fn a_handle_that_was_freed_is_told() {
        let a = give::<Number>(Arc::new(1));
        // SAFETY: all of these came from `give`.
        unsafe {
            assert_eq!(*get(a).unwrap(), 1);
            assert_eq!(*take(a).unwrap(), 1);
            assert!(take(a).is_none());
            assert_eq!(get(a).unwrap_err().code(), Code::Stopped);
            assert_eq!(get::<Number>(std::ptr::null()).unwrap_err().code(), Code::BadRequest);
            assert!(take::<Number>(std::ptr::null_mut()).is_none());
            for n in 0..REST as u32 {
                let b = give::<Number>(Arc::new(n));
                assert_ne!(a, b, "the place rests");
                assert_eq!(*take(b).unwrap(), n);
            }
            assert_eq!(give::<Number>(Arc::new(9)), a, "it is used again in the end");
        }
    }
}
