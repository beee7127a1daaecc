//! The thread that calls the host with events and publications: one for each engine that has such callbacks, so that they never overlap, may
//! take their time, and may call the engine. What they do not take in time is lost where it waits, and said to be.

use crate::callback::PATIENCE;
use klatch::{Code, Error, Result};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::Instant;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module.
#[derive(Default)]
pub(crate) struct Dispatcher(Mutex<Option<Arc<Shared>>>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    tasks: HashMap<u64, Task>,
    ready: VecDeque<u64>,
    last: u64,
    running: Option<u64>,
    thread: Option<ThreadId>,
    ended: bool,
}

/// A callback that is called. Dropping it takes it away: it is not called again, and a call under way is waited for, unless it is this one.
pub(crate) struct Registration {
    shared: Arc<Shared>,
    id: u64,
    away: Arc<AtomicBool>,
}

struct TaskWaker {
    shared: Arc<Shared>,
    id: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut state = self.shared.lock();
        if !state.ready.contains(&self.id) {
            state.ready.push_back(self.id);
        }
        drop(state);
        self.shared.work.notify_one();
    }
}

impl Dispatcher {
    /// Has the thread run what `task` makes. It is told whether it has been taken away; then it returns.
    pub(crate) fn run<F>(&self, task: impl FnOnce(Arc<AtomicBool>) -> F) -> Result<Registration>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = self.shared()?;
        let away = Arc::new(AtomicBool::new(false));
        let task = Box::pin(task(away.clone()));
        let mut state = shared.lock();
        state.last += 1;
        let id = state.last;
        state.tasks.insert(id, task);
        state.ready.push_back(id);
        drop(state);
        shared.work.notify_one();
        Ok(Registration { shared, id, away })
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = &*own {
            return Ok(shared.clone());
        }
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), idle: Condvar::new() });
        let run = shared.clone();
        let thread = std::thread::Builder::new()
            .name("klatch-callback".into())
            .spawn(move || run.run())
            .map_err(|e| Error::new(Code::Internal, format!("the system refused a thread: {e}")))?;
        shared.lock().thread = Some(thread.thread().id());
        Ok(own.insert(shared).clone())
    }

    /// Ends the thread; callbacks that are registered are dropped.
    pub(crate) fn end(&self) {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(shared) = shared {
            shared.end();
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self: Arc<Self>) {
        loop {
            let mut state = self.lock();
            let id = loop {
                if state.ended {
                    return;
                }
                match state.ready.pop_front() {
                    Some(id) => break id,
                    None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let Some(mut task) = state.tasks.remove(&id) else { continue };
            state.running = Some(id);
            drop(state);
            let waker = Waker::from(Arc::new(TaskWaker { shared: self.clone(), id }));
            let polled =
                crate::guard::value(Poll::Ready(()), || task.as_mut().poll(&mut Context::from_waker(&waker)));
            let mut state = self.lock();
            let kept = polled.is_pending() && !state.ended && state.running == Some(id);
            if kept {
                state.tasks.insert(id, task);
            } else {
                drop(state);
                // The host's own code runs in this.
                drop(task);
                state = self.lock();
            }
            state.running = None;
            drop(state);
            self.idle.notify_all();
        }
    }

    /// Waits until no callback runs of which `is` holds, unless it is the caller.
    fn wait(&self, mut state: MutexGuard<'_, State>, is: impl Fn(&State) -> bool) {
        let until = Instant::now() + PATIENCE;
        while is(&state) && state.thread != Some(std::thread::current().id()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        self.work.notify_all();
        drop(tasks);
        self.wait(self.lock(), |state| state.running.is_some());
    }
}

/// What `running` is while the task that runs has been taken away: no task has this number.
const TAKEN_AWAY: u64 = 0;

impl Drop for Registration {
    fn drop(&mut self) {
        self.away.store(true, Ordering::Release);
        let mut state = self.shared.lock();
        let task = state.tasks.remove(&self.id);
        let runs = state.running == Some(self.id);
        if runs {
            state.running = Some(TAKEN_AWAY);
        }
        drop(state);
        drop(task);
        if runs {
            self.shared.wait(self.shared.lock(), |state| state.running == Some(TAKEN_AWAY));
        }
    }
}

/// Lets the other callbacks of the engine have their turn.
pub(crate) async fn others() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn one_that_was_taken_away_is_not_called_again_and_has_ended() {
        let dispatcher = Dispatcher::default();
        let (calls, called) = channel();
        let endless = |calls: std::sync::mpsc::Sender<u32>, n| {
            move |away: Arc<AtomicBool>| async move {
                while !away.load(Ordering::Acquire) {
                    calls.send(n).unwrap();
                    others().await;
                }
            }
        };
        let one = dispatcher.run(endless(calls.clone(), 1)).unwrap();
        let two = dispatcher.run(endless(calls, 2)).unwrap();
        // They take turns.
        for n in [1, 2] {
            while called.recv().unwrap() != n {}
        }
        drop(one);
        while called.try_recv().is_ok() {}
        assert!((0..10).all(|_| called.recv().unwrap() == 2));
        dispatcher.end();
        while called.try_recv().is_ok() {}
        assert!(called.recv().is_err(), "both have been dropped");
        drop(two);
    }

    #[test]
    fn a_callback_takes_itself_away() {
        let dispatcher = Arc::new(Dispatcher::default());
        let (slot, (done, is_done)) = (Arc::new(Mutex::new(None)), channel());
        let own = slot.clone();
        let registration = dispatcher.run(|_| async move {
            loop {
                let registration = own.lock().unwrap().take();
                if registration.is_some() {
                    drop::<Option<Registration>>(registration);
                    done.send(()).unwrap();
                    return;
                }
                others().await;
            }
        });
        *slot.lock().unwrap() = Some(registration.unwrap());
        is_done.recv().unwrap();
    }
}
