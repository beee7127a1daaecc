//! Holding up the thread that delivers: the log's on disk, the publisher's in memory.

use klatch::{Engine, Message, Start, Subscription};
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

/// A host whose task blocks the thread that wakes it, which it must not; until this is dropped.
pub struct Hold {
    entered: Receiver<()>,
    _release: Sender<()>,
    _subscription: Subscription,
}

struct Blocks {
    entered: Sender<()>,
    release: Mutex<Receiver<()>>,
}

impl Wake for Blocks {
    fn wake(self: Arc<Self>) {
        let _ = self.entered.send(());
        let _ = self.release.lock().unwrap().recv();
    }
}

impl Hold {
    /// Holds up whatever thread delivers the next message to the room `hold`.
    pub fn prepare(engine: &Engine) -> Hold {
        let mut subscription = engine.subscribe("hold", Start::Live).unwrap();
        let ((entered, was_entered), (release, released)) = (channel(), channel());
        let waker = Waker::from(Arc::new(Blocks { entered, release: Mutex::new(released) }));
        assert!(pin!(subscription.next(1)).poll(&mut Context::from_waker(&waker)).is_pending());
        Hold { entered: was_entered, _release: release, _subscription: subscription }
    }

    /// Waits until it is.
    pub fn entered(&self) {
        self.entered.recv_timeout(crate::SOON).unwrap();
    }

    /// Holds up the thread of a log on disk.
    pub fn log(engine: &Engine) -> Hold {
        let hold = Hold::prepare(engine);
        drop(engine.publish(Message::json("hold", "1")));
        hold.entered();
        hold
    }
}
