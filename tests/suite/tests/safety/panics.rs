//! Panics, in the host's code and in every thread of an engine: each ends what it must and nothing more.

use crate::{Client, SECONDS, SOON, alone, becomes, files, on, threads, until};
use klatch::clock::{Clock, SystemClock};
use klatch::hooks::{
    Authorizer, ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishHook,
    PublishRequest,
};
use klatch::{Code, Engine, Event, Health, HistoryQuery, Message, NextEvent, Settings, Start};
use klatch_suite::block_on::block_on;
use serde_json::json;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// A clock of the host that panics on the thread with this name, once.
#[derive(Debug)]
struct Trap {
    clock: SystemClock,
    thread: Mutex<Option<String>>,
}

impl Trap {
    fn new() -> Arc<Trap> {
        Arc::new(Trap { clock: SystemClock::new(), thread: Mutex::default() })
    }

    fn set(&self, thread: &str) {
        *self.lock() = Some(thread.into());
    }

    fn is_set(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) {
        let here = std::thread::current().name().map(str::to_owned);
        let caught = self.lock().take_if(|thread| Some(&*thread) == here.as_ref());
        if let Some(thread) = caught {
            panic!("the clock panics on {thread}");
        }
    }
}

impl Clock for Trap {
    fn wall_ms(&self) -> u64 {
        self.step();
        self.clock.wall_ms()
    }

    fn steady_ms(&self) -> u64 {
        self.step();
        self.clock.steady_ms()
    }
}

/// An engine beside the one that is harmed.
struct Beside {
    engine: Engine,
    client: Client,
}

impl Beside {
    fn start() -> Beside {
        let engine = on("memory").start().unwrap();
        let mut client = Client::connect(&engine, "user=beside&room=lobby");
        client.next_of("joined");
        Beside { engine, client }
    }

    fn unharmed(mut self) {
        self.client.send(json!({"type": "publish", "room": "lobby", "data": 1}));
        self.client.next_of("publication");
        self.engine.stop(SECONDS).unwrap();
    }
}

fn get(engine: &Engine, path: &str) -> (u16, String) {
    let answer = klatch_suite::ws::get(engine.addresses()[0], path).unwrap();
    (answer.status, answer.body)
}

#[test]
fn x28_a_shard_that_panics_ends_its_connections_and_no_others() {
    alone(|| {
        let (threads_before, files_before) = (threads(), files());
        let beside = Beside::start();
        let trap = Trap::new();
        let mut settings = Settings::default();
        settings.shards = 2;
        let engine = Engine::builder()
            .settings(settings)
            .log("memory")
            .listen("127.0.0.1:0")
            .clock(trap.clone())
            .start()
            .unwrap();
        let events = engine.events();
        // They go to the shards in turn.
        let mut clients = ["ann", "bob"].map(|user| {
            let mut client = Client::connect(&engine, &format!("user={user}&room=lobby"));
            client.next_of("joined");
            client
        });
        assert_eq!(get(&engine, "/readyz").0, 200);
        trap.set("klatch-shard-0");
        clients[0].send(json!({"type": "ping"}));
        assert_eq!(clients[0].closed(), None);
        let mut ends = Vec::new();
        while ends.len() < 2 {
            match events.next_within(SOON) {
                NextEvent::Event(Event::Left { user, .. } | Event::Disconnected { user, .. }) => {
                    ends.push(user)
                }
                NextEvent::Event(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ends, ["ann", "ann"], "she has left the room, and has gone");
        assert_eq!((engine.presence("lobby").count, engine.metrics().connections.get()), (1, 1));
        assert_eq!(get(&engine, "/readyz"), (503, "internal\n".into()));
        // The other shard serves whoever comes.
        let mut more: Vec<_> = (0..4)
            .map(|n| {
                let mut client = Client::connect(&engine, &format!("user=m{n}&room=lobby"));
                client.next_of("joined");
                client
            })
            .collect();
        engine.publish(Message::json("lobby", "1")).wait().unwrap();
        more[0].send(json!({"type": "publish", "room": "lobby", "data": 2}));
        for client in more.iter_mut().chain([&mut clients[1]]) {
            assert_eq!(client.next_of("publication")["data"], 1);
            assert_eq!(client.next_of("publication")["data"], 2);
        }
        drop((clients, more));
        engine.stop(SECONDS).unwrap();
        beside.unharmed();
        drop((engine, events));
        becomes((threads_before, files_before), || (threads(), files()));
    });
}

#[test]
fn x28_a_panic_of_the_logs_thread_leaves_nobody_waiting() {
    alone(|| {
        let (threads_before, files_before) = (threads(), files());
        let beside = Beside::start();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().to_str().unwrap();
        let trap = Trap::new();
        let engine = on(log).clock(trap.clone()).start().unwrap();
        let events = engine.events();
        let mut client = Client::connect(&engine, "user=ann&room=lobby");
        client.next_of("joined");
        let acked = engine.publish(Message::json("lobby", "1")).wait().unwrap();
        client.next_of("publication");
        trap.set("klatch-log");
        let waiting: Vec<_> = (0..100).map(|_| engine.publish(Message::json("lobby", "2"))).collect();
        // What had been done before the panic is stored, the rest is refused or unknown; all are answered.
        let codes: Vec<_> = waiting.into_iter().map(|p| p.wait().map_err(|e| e.code())).collect();
        assert!(codes.iter().any(Result::is_err), "it has panicked");
        for code in codes.iter().filter_map(|c| c.as_ref().err()) {
            assert!([Code::StorageFailed, Code::Unknown].contains(code), "{code:?}");
        }
        while !matches!(
            events.next_within(SOON),
            NextEvent::Event(Event::Storage { refusing: Some(Code::StorageFailed) })
        ) {}
        assert_eq!(engine.health(), Health::StorageFailed);
        assert_eq!(get(&engine, "/readyz").0, 503);
        client.send(json!({"type": "publish", "room": "lobby", "ref": 1, "data": 3}));
        let refused = client.next_of("error");
        assert_eq!((&refused["name"], &refused["outcome"]), (&json!("storage_failed"), &json!("not_stored")));
        // What was stored can be read.
        let stored = 1 + codes.iter().filter(|c| c.is_ok()).count();
        assert!(
            engine.history("lobby", HistoryQuery::default()).unwrap().publications.len() >= stored.min(50)
        );
        assert_eq!(engine.stop(SECONDS).unwrap_err().code(), Code::StorageFailed);
        let again = on(log).start().unwrap();
        let mut all = again.subscribe("lobby", Start::Since { epoch: None, offset: 0, history: 0 }).unwrap();
        let found = all.next_batch(1000, SECONDS).unwrap();
        assert_eq!(found[0].offset(), acked.position.offset);
        for ack in codes.iter().flatten() {
            assert!(found.iter().any(|p| p.offset() == ack.position.offset), "an acked message is gone");
        }
        again.publish(Message::json("lobby", "4")).wait().unwrap();
        again.stop(SECONDS).unwrap();
        beside.unharmed();
        drop((engine, again, events, client, all));
        becomes((threads_before, files_before), || (threads(), files()));
    });
}

#[test]
fn x28_the_thread_of_the_clock_goes_on() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().to_str().unwrap();
        let trap = Trap::new();
        let engine = on(log).clock(trap.clone()).start().unwrap();
        // The second time shows that it was there to panic again.
        for _ in 0..2 {
            trap.set("klatch-io");
            becomes(false, || trap.is_set());
        }
        let mut client = Client::connect(&engine, "user=ann&room=lobby&watch=true");
        client.next_of("joined");
        client.send(json!({"type": "publish", "room": "lobby", "data": 1}));
        client.next_of("publication");
        assert_eq!(get(&engine, "/readyz"), (200, "ready\n".into()), "after a panic");
        engine.stop(SECONDS).unwrap();
        drop(engine);
        let again = on(log).start().unwrap();
        assert_eq!(again.history("lobby", HistoryQuery::default()).unwrap().publications.len(), 1);
    });
}

/// Panics wherever it is asked to.
struct Panics;

impl Authorizer for Panics {
    fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
        assert_ne!(request.user, "bad", "a panic of the host");
        answer.allow(&request.user);
    }
    fn join(&self, request: JoinRequest, answer: JoinAnswer) {
        assert_ne!(request.room, "bad", "a panic of the host");
        answer.allow();
    }
}

impl PublishHook for Panics {
    fn publish(&self, request: PublishRequest, answer: PublishAnswer) {
        assert_ne!(&request.data[..], b"666", "a panic of the host");
        answer.allow();
    }
}

/// In each entry point, more often than there are threads to run hooks. The host's own panic hook sees each of them, and stays set.
#[test]
fn x28_a_hook_that_panics_is_an_internal_error() {
    alone(|| {
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        std::panic::set_hook(Box::new(|_| {
            SEEN.fetch_add(1, Ordering::Relaxed);
        }));
        let beside = Beside::start();
        let hook = Arc::new(Panics);
        let engine = on("memory").authorizer(hook.clone()).publish_hook(hook).start().unwrap();
        let mut ann = Client::connect(&engine, "user=ann&room=lobby");
        ann.next_of("joined");
        for n in 1..=10 {
            let mut bad = Client::connect(&engine, "user=bad");
            assert_eq!(bad.closed(), Some(klatch::Disconnect::Internal.number()), "{n}");
            ann.send(json!({"type": "join", "room": "bad"}));
            assert_eq!(ann.next_of("error")["name"], "internal");
            ann.send(json!({"type": "publish", "room": "lobby", "data": 666}));
            let refused = ann.next_of("error");
            assert_eq!((&refused["name"], &refused["outcome"]), (&json!("internal"), &json!("not_stored")));
            ann.send(json!({"type": "publish", "room": "lobby", "data": n}));
            assert_eq!(ann.next_of("publication")["data"], n);
        }
        assert_eq!(engine.metrics().hook_failures.get(), 30);
        beside.unharmed();
        engine.stop(SECONDS).unwrap();
        assert_eq!(SEEN.load(Ordering::Relaxed), 30);
        std::panic::catch_unwind(|| panic!("one of the host's own")).unwrap_err();
        assert_eq!(SEEN.load(Ordering::Relaxed), 31, "the host's panic hook is still set");
        drop(std::panic::take_hook());
    });
}

struct BadWaker;

impl Wake for BadWaker {
    fn wake(self: Arc<Self>) {
        panic!("a waker of the host panics");
    }
}

/// Wakers run on the engine's own threads.
#[test]
fn x28_a_waker_that_panics_ends_no_thread() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        for log in ["memory", dir.path().to_str().unwrap()] {
            let engine = on(log).start().unwrap();
            let bad = Waker::from(Arc::new(BadWaker));
            let mut cx = Context::from_waker(&bad);
            let events = engine.events();
            for n in 1..=3 {
                let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
                let mut next = pin!(subscription.next(1));
                let mut event = pin!(events.next());
                assert!(next.as_mut().poll(&mut cx).is_pending());
                assert!(event.as_mut().poll(&mut cx).is_pending());
                let mut ann = Client::connect(&engine, "user=ann&room=lobby");
                ann.next_of("joined");
                let mut answer = pin!(engine.publish(Message::json("lobby", &n.to_string())));
                // It may have been answered already.
                let _ = answer.as_mut().poll(&mut cx);
                ann.send(json!({"type": "publish", "room": "lobby", "data": "a"}));
                ann.next_of("publication");
                assert_eq!(ann.next_of("publication")["data"], "a");
                assert_eq!(block_on(next).unwrap()[0].data()[..], *n.to_string().as_bytes());
                assert!(block_on(event).is_some());
                drop(ann);
                until(&events, |e| matches!(e, Event::Disconnected { .. }));
            }
            assert_eq!(get(&engine, "/readyz").0, 200);
            engine.stop(SECONDS).unwrap();
        }
    });
}
