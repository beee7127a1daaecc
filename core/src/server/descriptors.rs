//! Open files that connections leave to everybody else: the log, the view, the host.
//!
//! Where connections took them all, the log could not begin its next file, and a client that merely holds connections open had stopped
//! every publish.

use rustix::process::{Resource, getrlimit};
use std::os::fd::AsRawFd;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserve(u64);

impl Reserve {
    /// Of so many files, but never more than a quarter of what the process may open.
    pub(crate) fn new(files: usize) -> Reserve {
        Reserve(files as u64)
    }

    /// How many files the process may open, if an accepted socket is in the part of them that is reserved.
    ///
    /// The system gives out the lowest free number, so the number of a new socket says how many files are open at least.
    pub(crate) fn reached(self, socket: &impl AsRawFd) -> Option<u64> {
        let most = getrlimit(Resource::Nofile).current?;
        let left = most.saturating_sub(socket.as_raw_fd().unsigned_abs().into());
        (left <= self.0.min(most / 4)).then_some(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbered(i32);

    impl AsRawFd for Numbered {
        fn as_raw_fd(&self) -> i32 {
            self.0
        }
    }

    #[test]
    fn the_last_files_are_reserved() {
        let most = getrlimit(Resource::Nofile).current.unwrap();
        let reserve = Reserve::new(10);
        assert_eq!(reserve.reached(&Numbered((most - 11) as i32)), None);
        assert_eq!(reserve.reached(&Numbered((most - 10) as i32)), Some(most));
        assert_eq!(Reserve::new(0).reached(&Numbered((most - 1) as i32)), None);
        let all = Reserve::new(usize::MAX);
        assert_eq!(all.reached(&Numbered((most - most / 4 - 1) as i32)), None, "never more than a quarter");
    }
}
