//! A descriptor that is readable while there may be something to take, for hosts with a loop of their own.

use klatch::{Code, Error, Result};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// See the module. Level, not edge: it is cleared only by a taker that has found nothing, and then looks once more.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
    set: AtomicBool,
}

impl EventFd {
    /// A new one, readable: what came before it is to be found.
    pub(crate) fn new() -> Result<Arc<EventFd>> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = eventfd(0, flags)
            .map_err(|e| Error::new(Code::Internal, format!("the system refused a descriptor: {e}")))?;
        let new = Arc::new(EventFd { fd, set: AtomicBool::new(false) });
        new.set();
        Ok(new)
    }

    pub(crate) fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    pub(crate) fn set(&self) {
        if !self.set.swap(true, Ordering::AcqRel) {
            // Its counter is far from full.
            let _ = write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    pub(crate) fn clear(&self) {
        // In this order: a set in between writes once too often, and not once too seldom.
        if self.set.swap(false, Ordering::AcqRel) {
            let mut counter = [0; 8];
            let _ = read(&self.fd, &mut counter);
        }
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        self.clone().into()
    }
}

impl Wake for EventFd {
    fn wake(self: Arc<Self>) {
        self.set();
    }
}

/// Where one may be asked for.
#[derive(Debug, Default)]
pub(crate) struct Bell(std::sync::OnceLock<Arc<EventFd>>);

impl Bell {
    /// It, made if need be.
    pub(crate) fn fd(&self) -> Result<&Arc<EventFd>> {
        if self.0.get().is_none() {
            // Of two at once one is dropped again.
            let _ = self.0.set(EventFd::new()?);
        }
        self.get().ok_or_else(|| Error::new(Code::Internal, "no descriptor"))
    }

    /// It, if anybody has asked for it.
    pub(crate) fn get(&self) -> Option<&Arc<EventFd>> {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn readable(fd: &EventFd) -> bool {
        let mut fds = [PollFd::new(&fd.fd, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn it_is_readable_until_it_is_cleared() {
        let fd = EventFd::new().unwrap();
        assert!(readable(&fd) && readable(&fd));
        fd.set();
        fd.clear();
        assert!(!readable(&fd));
        fd.clear();
        fd.waker().wake();
        assert!(readable(&fd));
    }
}
