//! What can go wrong with a view.

use std::fmt;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A failure of the view. The log is not touched by it: whatever the view held can be built again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViewError {
    /// Another process, or another view of this process, has the directory open. Nothing was changed.
    InUse,
    /// There is no room on the disk. What was added waits in memory; a later flush goes on once there is room.
    Full(String),
    /// The system refused: no permission, no file descriptors, a failed write. What is on disk may be whole. A later flush tries
    /// again; so does a new opening, which goes on from the checkpoint.
    Storage(String),
    /// The content contradicts itself or its checksums. Drop this view and open it again, which begins anew.
    Damaged(String),
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ViewError::InUse => f.write_str("the view is open elsewhere"),
            ViewError::Full(why) => write!(f, "there is no room for the view: {why}"),
            ViewError::Storage(why) => write!(f, "the view could not be read or written: {why}"),
            ViewError::Damaged(why) => write!(f, "the view is damaged: {why}"),
        }
    }
}

impl std::error::Error for ViewError {}

impl ViewError {
    pub(super) fn damaged(why: impl Into<String>) -> ViewError {
        ViewError::Damaged(why.into())
    }

    /// An error of the system that says nothing about the view's content.
    pub(super) fn system(e: &io::Error) -> ViewError {
        match e.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ViewError::Full(e.to_string()),
            _ => ViewError::Storage(e.to_string()),
        }
    }
}

/// Runs what calls into fjall, which takes some kinds of damage for impossible and panics (a flipped bit in a manifest,
/// for one). Such a panic must not reach the host; every lock here is fit to be used after one.
pub(super) fn guard<T>(f: impl FnOnce() -> Result<T, ViewError>) -> Result<T, ViewError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Err(ViewError::damaged(format!("the store panicked: {text}")))
    })
}

/// Whether the system, not the content of the files, is the reason: building the view anew would not help then.
fn is_the_system(e: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(
        e.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::OutOfMemory
            | ErrorKind::ResourceBusy
    ) || (cfg!(unix) && matches!(e.raw_os_error(), Some(EMFILE | ENFILE)))
}

impl From<io::Error> for ViewError {
    fn from(e: io::Error) -> ViewError {
        if is_the_system(&e) { ViewError::system(&e) } else { ViewError::Damaged(e.to_string()) }
    }
}

impl From<fjall::Error> for ViewError {
    fn from(e: fjall::Error) -> ViewError {
        match e {
            fjall::Error::Locked => ViewError::InUse,
            fjall::Error::Poisoned => ViewError::Storage("an earlier write failed".into()),
            fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => e.into(),
            e => ViewError::Damaged(e.to_string()),
        }
    }
}
