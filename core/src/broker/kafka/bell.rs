//! Wakes one thread that waits for one of many things.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// See the module. A ring is never lost: it lasts until the next wait.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    lock: Mutex<()>,
    ready: Condvar,
}

impl Bell {
    /// Wakes the thread that waits, or that will. Cheap while nobody has looked since the last ring.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Not between the look and the sleep of the other.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.ready.notify_one();
        }
    }

    /// Waits for a ring since the last wait, at most so long. Whether there was one.
    pub fn wait(&self, longest: Duration) -> bool {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |_: &mut ()| !self.rung.load(Ordering::Acquire);
        drop(self.ready.wait_timeout_while(guard, longest, quiet).unwrap_or_else(PoisonError::into_inner));
        self.rung.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn a_ring_lasts_until_the_next_wait() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert!(bell.wait(Duration::from_secs(60)));
        assert!(!bell.wait(Duration::ZERO));
    }

    /// Each ring finds the other thread anywhere in its turn; one that is lost would hold it up for a minute.
    #[test]
    fn no_ring_is_lost() {
        const RINGS: u64 = 20_000;
        let (bell, back) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let count = Arc::new(AtomicU64::new(0));
        let thread = {
            let (bell, back, count) = (bell.clone(), back.clone(), count.clone());
            std::thread::spawn(move || {
                for n in 1..=RINGS {
                    while count.load(Ordering::SeqCst) < n {
                        bell.wait(Duration::from_secs(60));
                    }
                    back.ring();
                }
            })
        };
        for _ in 0..RINGS {
            count.fetch_add(1, Ordering::SeqCst);
            bell.ring();
            assert!(back.wait(Duration::from_secs(60)));
        }
        thread.join().unwrap();
    }
}
