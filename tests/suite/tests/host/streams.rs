//! Subscriptions: the seam between history and live, and what becomes of one that is not read.

use crate::{SOON, limits, memory};
use klatch::{Ended, Engine, Message, Publication, Start, Subscription};
use std::future::Future;
use std::sync::Arc;

const MESSAGES: u32 = 20_000;

fn publish_all(engine: &Engine) {
    for n in 0..MESSAGES {
        let publishing = engine.publish(Message::json("lobby", &n.to_string()));
        // Not each one, so that batches form; not none, so that the queue does not overflow.
        if n % 1000 == 999 {
            publishing.wait().unwrap();
        }
    }
}

/// Checks that each continues the one before; returns the number in the last one.
fn follow(at: &mut u64, publications: &[Publication]) -> Option<u32> {
    for p in publications {
        assert_eq!(p.prev(), *at, "contiguous");
        *at = p.offset();
    }
    publications.last().map(|p| String::from_utf8(p.data().to_vec()).unwrap().parse().unwrap())
}

fn read_to_the_end(mut subscription: Subscription) -> u64 {
    let mut at = subscription.position().offset;
    let mut count = 0;
    loop {
        let batch = subscription.next_batch(500, SOON).unwrap();
        assert!(!batch.is_empty(), "nothing came after {at}");
        count += batch.len() as u64;
        let last = follow(&mut at, &batch);
        assert_eq!(subscription.position().offset, at);
        if last == Some(MESSAGES - 1) {
            return count;
        }
    }
}

fn seam(engine: Engine) {
    let first = engine.subscribe("lobby", Start::Live).unwrap();
    let epoch = first.position().epoch;
    std::thread::scope(|threads| {
        let whole = threads.spawn(|| read_to_the_end(first));
        threads.spawn(|| publish_all(&engine));
        let mut readers = Vec::new();
        for n in 0..20 {
            let start = match n % 3 {
                0 => Start::Live,
                1 => Start::History(100),
                _ => Start::Since { epoch: Some(epoch), offset: 0, history: 0 },
            };
            let subscription = engine.subscribe("lobby", start).unwrap();
            assert_eq!(subscription.recovered(), n % 3 == 2);
            // The last message may have passed before a live one began.
            let complete = matches!(start, Start::Since { .. });
            if complete || engine.history("lobby", Default::default()).unwrap().last < u64::from(MESSAGES) / 2
            {
                readers.push((complete, threads.spawn(|| read_to_the_end(subscription))));
            }
        }
        assert_eq!(whole.join().unwrap(), u64::from(MESSAGES));
        for (complete, reader) in readers {
            let count = reader.join().unwrap();
            assert!(count == u64::from(MESSAGES) || !complete, "{count}");
        }
    });
}

#[test]
fn no_gap_and_no_double_between_history_and_live_in_memory() {
    seam(memory().start().unwrap());
}

#[test]
fn no_gap_and_no_double_between_history_and_live_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    seam(Engine::builder().log(dir.path().to_str().unwrap()).start().unwrap());
}

#[test]
fn a_slow_subscription_ends_and_resumes_since_its_position() {
    let settings = limits(serde_json::json!({"event_queue": 50}));
    let engine = Engine::builder().settings(settings).log("memory").start().unwrap();
    let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
    let (mut at, mut slow) = (0, 0);
    std::thread::scope(|threads| {
        threads.spawn(|| publish_all(&engine));
        // Nothing is read until more than its queue holds has been published.
        while engine.metrics().publishes_stored.get() <= 50 {
            std::thread::yield_now();
        }
        loop {
            match subscription.next_batch(7, SOON) {
                Ok(batch) => {
                    assert!(!batch.is_empty(), "nothing came after {at}");
                    if follow(&mut at, &batch) == Some(MESSAGES - 1) {
                        break;
                    }
                }
                Err(Ended::Slow) => {
                    slow += 1;
                    let klatch::Position { epoch, offset } = subscription.position();
                    assert_eq!(offset, at);
                    let since = Start::Since { epoch: Some(epoch), offset, history: 0 };
                    subscription = engine.subscribe("lobby", since).unwrap();
                    assert!(subscription.recovered());
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    });
    assert!(slow > 0, "it was never slow, so nothing was shown");
}

#[test]
fn a_slow_subscription_is_bounded_in_bytes() {
    let settings = limits(serde_json::json!({"subscription_bytes": 1000}));
    let engine = Engine::builder().settings(settings).log("memory").start().unwrap();
    let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
    let data = format!("\"{}\"", "a".repeat(400));
    for _ in 0..2 {
        engine.publish(Message::json("lobby", &data)).wait().unwrap();
    }
    assert_eq!(subscription.next_batch(9, SOON).unwrap().len(), 2, "within the bound");
    for _ in 0..3 {
        engine.publish(Message::json("lobby", &data)).wait().unwrap();
    }
    assert_eq!(subscription.next_batch(9, SOON), Err(Ended::Slow));
}

/// Says that it was woken, and holds up whoever did.
struct HoldsUp(std::sync::Mutex<(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>)>);

impl std::task::Wake for HoldsUp {
    fn wake(self: Arc<Self>) {
        let (woken, go_on) = &*self.0.lock().unwrap();
        woken.send(()).unwrap();
        let _ = go_on.recv();
    }
}

/// Signals are not stored, but they too wait for the threads that deliver them: not without a bound.
#[test]
fn signals_that_cannot_be_delivered_are_refused() {
    let mut settings = limits(serde_json::json!({"shard_inbox_bytes": 100_000}));
    settings.shards = 1;
    let engine = Engine::builder().settings(settings).log("memory").listen("127.0.0.1:0").start().unwrap();
    let mut ann = crate::Client::connect(&engine, "user=ann&room=lobby");
    ann.next_of("joined");
    let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let (woken, is_woken) = std::sync::mpsc::channel();
    let waker = std::task::Waker::from(Arc::new(HoldsUp((woken, held).into())));
    let mut next = Box::pin(subscription.next(9));
    assert!(next.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    // The memory broker delivers on the shard's thread, which is held up by that.
    ann.send(serde_json::json!({"type": "publish", "id": "1", "data": 1}));
    is_woken.recv_timeout(SOON).unwrap();
    let refused = (0..2_000_000).find_map(|_| engine.signal("lobby", "", "n", "1").err());
    assert_eq!(refused.expect("the inbox is bounded").code(), klatch::Code::Busy);
    drop(go_on);
    // In the same turn signals go before publications.
    ann.next_of("signal");
    assert_eq!(ann.next_of("publication")["id"], "1");
    engine.signal("lobby", "", "n", "1").unwrap();
}
