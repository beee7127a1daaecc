//! Callbacks.
//!
//! Each is registered as three things: a function, user_data, which is its first argument, and how that is freed.

use crate::guard::{self, Place};
use crate::text::UserData;
use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Frees what the host keeps for a callback. Called exactly once, after the last call of that; also if the registration fails.
pub type klatch_free_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// What the host keeps for its callback. Freed with this.
pub(crate) struct Kept {
    data: UserData,
    free: klatch_free_fn,
}

// SAFETY: the header says on which threads the host must expect its functions to be called with this.
unsafe impl Send for Kept {}
// SAFETY: as above.
unsafe impl Sync for Kept {}

impl Kept {
    pub(crate) fn new(data: UserData, free: klatch_free_fn) -> Kept {
        Kept { data, free }
    }

    /// For the host's function.
    pub(crate) fn data(&self) -> UserData {
        self.data
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // On a thread of the engine it is bound as the callback itself was.
            let place = if guard::place() == Place::Published { Place::Published } else { Place::Callback };
            // SAFETY: the host gave the function for this data; it is called once, as the value is dropped once.
            guard::call(place, (), || unsafe { free(self.data) });
        }
    }
}

/// How long freeing waits for callbacks of other threads. One that never returns keeps what it uses, and nobody else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);

/// Something of the host that several threads call, until it is closed.
pub(crate) struct Gate<T> {
    state: Mutex<State<T>>,
    left: Condvar,
}

struct State<T> {
    open: Option<Arc<T>>,
    /// Threads inside.
    inside: Vec<std::thread::ThreadId>,
}

impl<T> Gate<T> {
    pub(crate) fn new(of: T) -> Gate<T> {
        Gate {
            state: Mutex::new(State { open: Some(Arc::new(of)), inside: Vec::new() }),
            left: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls it, unless it has been closed.
    pub(crate) fn enter<R>(&self, body: impl FnOnce(&T) -> R) -> Option<R> {
        let me = std::thread::current().id();
        let of = {
            let mut state = self.lock();
            let of = state.open.clone()?;
            state.inside.push(me);
            of
        };
        let result = body(&of);
        // What it holds goes before this thread is seen to have left.
        drop(of);
        let mut state = self.lock();
        if let Some(i) = state.inside.iter().rposition(|t| *t == me) {
            state.inside.swap_remove(i);
        }
        drop(state);
        self.left.notify_all();
        Some(result)
    }

    /// Closes it: nobody enters any more. Waits for those inside, but not for this thread. What it holds is dropped here, or by the last
    /// that leaves.
    pub(crate) fn close(&self) {
        let me = std::thread::current().id();
        let until = Instant::now() + PATIENCE;
        let mut state = self.lock();
        let of = state.open.take();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.inside.iter().all(|t| *t == me) {
                break;
            }
            state = self.left.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        drop(of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_gate_that_closes_waits_for_those_inside_and_not_for_itself() {
        let (told, dropped) = channel::<()>();
        let gate = Arc::new(Gate::new(told));
        let (inside, is_inside) = channel();
        let (leave, leaving) = channel::<()>();
        let other = {
            let gate = gate.clone();
            std::thread::spawn(move || {
                gate.enter(|_| {
                    inside.send(()).unwrap();
                    leaving.recv().unwrap();
                })
            })
        };
        is_inside.recv().unwrap();
        let closer = {
            let gate = gate.clone();
            std::thread::spawn(move || gate.enter(|_| gate.close()))
        };
        // It has closed the gate, and waits.
        while gate.lock().open.is_some() {
            std::thread::yield_now();
        }
        assert!(gate.enter(|_| ()).is_none());
        assert_eq!(dropped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
        leave.send(()).unwrap();
        assert!(other.join().unwrap().is_some() && closer.join().unwrap().is_some());
        assert_eq!(dropped.recv(), Err(std::sync::mpsc::RecvError), "what it held is gone");
    }
}
