use super::*;
use crate::broker::append::{Promise, Waiter};
use crate::clock::ManualClock;
use crate::log::Memory;
use crate::message::Kind;
use std::io;
use std::task::{Poll, Waker};

/// Files whose syncs wait while the gate is closed.
#[derive(Debug, Default)]
struct Gated {
    files: Memory,
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gated {
    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }
}

impl Files for Gated {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.files.list()
    }
    fn create(&self, name: &str) -> io::Result<()> {
        self.files.create(name)
    }
    fn read_at(&self, name: &str, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.files.read_at(name, at, buf)
    }
    fn write_at(&self, name: &str, at: u64, data: &[u8]) -> io::Result<usize> {
        self.files.write_at(name, at, data)
    }
    fn sync_data(&self, name: &str) -> io::Result<()> {
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
        self.files.sync_data(name)
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.files.truncate(name, len)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.files.sync_dir()
    }
}

struct Rig {
    files: Arc<Gated>,
    clock: Arc<ManualClock>,
    broker: EmbeddedBroker,
    timeout_ms: u64,
}

fn rig() -> Rig {
    let settings = Settings::default();
    let (files, clock) = (Arc::new(Gated::default()), Arc::new(ManualClock::new(1_000_000)));
    let broker =
        EmbeddedBroker::on(files.clone(), &ViewAt::Memory, &settings, clock.clone(), Arc::default()).unwrap();
    Rig { files, clock, broker, timeout_ms: settings.limits.publish_timeout_ms }
}

impl Rig {
    /// Hands over this many publishes at once, far more than one batch takes.
    fn publish(&self, count: usize) -> Vec<Arc<Promise>> {
        let promises: Vec<_> = (0..count).map(|_| Arc::new(Promise::new())).collect();
        let mut appends = promises
            .iter()
            .enumerate()
            .map(|(i, promise)| Append {
                room: "lobby".into(),
                user: "ann".into(),
                id: i.to_string().into(),
                kind: Kind::Json,
                data: (*b"1").into(),
                waiter: Waiter::Host(promise.clone()),
            })
            .collect();
        self.broker.append(&mut appends);
        promises
    }

    /// Waits until the writer has taken the first batch and is held up in its sync.
    fn held_up(&self, of: usize) {
        while self.broker.shared.lock().queue.iter().count() == of {
            std::thread::yield_now();
        }
    }

    /// The codes of the answers; none for a publish that has not been answered.
    fn codes(promises: &[Arc<Promise>]) -> Vec<Option<Code>> {
        let answer = |p: &Arc<Promise>| match p.poll(Waker::noop()) {
            Poll::Ready(answer) => answer.err().map(|e| e.code()),
            Poll::Pending => None,
        };
        promises.iter().map(answer).collect()
    }
}

/// X10: whatever the disk does, each publish is answered in time: *unknown* if it may have been written, else *not stored*.
#[test]
fn a_disk_that_hangs_leaves_no_publish_without_an_answer() {
    let rig = rig();
    rig.files.set(true);
    let promises = rig.publish(2000);
    rig.held_up(2000);
    // The batch is admitted in the same step; a sweep that comes before finds it in the next round.
    while Rig::codes(&promises)[0].is_none() {
        rig.clock.advance(rig.timeout_ms + 1);
        rig.broker.sweep();
    }
    rig.broker.sweep();
    let codes = Rig::codes(&promises);
    assert!(codes[..512].iter().all(|c| *c == Some(Code::Unknown)), "{:?}", codes[0]);
    assert!(codes[512..].iter().all(|c| *c == Some(Code::Timeout)), "{:?}", codes[512]);
    rig.files.set(false);
    // What was unknown is stored once; what was not stored never is.
    let ack = rig.publish(513);
    assert!(ack[..512].iter().all(|p| p.wait().unwrap().duplicate));
    assert!(!ack[512].wait().unwrap().duplicate);
}

#[test]
fn a_stop_that_cannot_wait_for_the_disk_answers_everything() {
    let rig = rig();
    rig.files.set(true);
    let promises = rig.publish(2000);
    rig.held_up(2000);
    while rig.broker.shared.tail.is_idle() {
        std::thread::yield_now();
    }
    assert_eq!(rig.broker.stop(0).unwrap(), 1488);
    let codes = Rig::codes(&promises);
    assert!(codes[..512].iter().all(|c| *c == Some(Code::Unknown)), "{:?}", codes[0]);
    assert!(codes[512..].iter().all(|c| *c == Some(Code::Stopping)), "{:?}", codes[512]);
    rig.files.set(false);
}

/// One that hands over more than the queue takes was refused again and again, however slowly it went on.
#[test]
fn of_too_many_publishes_the_first_are_taken() {
    let rig = rig();
    rig.files.set(true);
    let (max, more) = (Settings::default().limits.append_queue, 3);
    let promises = rig.publish(max + more);
    let codes = Rig::codes(&promises);
    assert!(codes[..max].iter().all(Option::is_none), "those that there was room for wait");
    assert_eq!(codes[max..], vec![Some(Code::Busy); more]);
    rig.files.set(false);
    let acks: Vec<_> = promises[..max].iter().map(|p| p.wait().unwrap().position.offset).collect();
    assert_eq!(acks, (1..=max as u64).collect::<Vec<_>>(), "in the order in which they were handed over");
}
