//! Calls into the engine from every place where it calls its host, and from inside runtimes: each works, or says `would_deadlock`.

use crate::{Client, SECONDS, SOON, alone, becomes, on, threads, until};
use klatch::hooks::{
    Authorizer, ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishHook,
    PublishRequest,
};
use klatch::{Code, Engine, Event, Health, HistoryQuery, Message, Start, Whom};
use klatch_suite::ws::Ws;
use serde_json::json;
use std::future::Future;
use std::net::TcpStream;
use std::pin::{Pin, pin};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// Everything that does not stop it, each call once. What it says, where it must not work everywhere: the answer to a publish that
/// was waited for.
fn call_all(engine: &Engine) -> Result<(), Code> {
    let waited = engine.publish(Message::json("calls", "1")).wait();
    let batch = engine.publish_batch(vec![Message::json("calls", "2"), Message::json("calls", "3")]);
    let mut subscription = engine.subscribe("calls", Start::History(9)).unwrap();
    // Nothing may have been stored yet.
    subscription.next_batch(9, Duration::ZERO).unwrap();
    engine.history("calls", HistoryQuery::default()).unwrap();
    engine.presence("calls");
    engine.signal("calls", "host", "typing", "1").unwrap();
    engine.kick(&Whom::User("nobody".into()), None).unwrap();
    assert_eq!(engine.health(), Health::Up);
    assert!(engine.metrics().prometheus().contains("klatch_"));
    engine.events().next_within(Duration::ZERO);
    drop((batch, subscription, engine.clone()));
    waited.map(drop).map_err(|e| e.code())
}

type Call = Box<dyn FnOnce() + Send>;

/// A waker that makes a call.
struct Calls(Mutex<Option<Call>>);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().unwrap().take();
        call.into_iter().for_each(|call| call());
    }
}

/// A waker that makes a call, and where its outcome goes.
fn calls<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> (Waker, Receiver<(String, T)>) {
    let (tx, rx) = channel();
    let call = move || {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = tx.send((thread, call()));
    };
    (Waker::from(Arc::new(Calls(Mutex::new(Some(Box::new(call)))))), rx)
}

fn pend(future: Pin<&mut impl Future>, waker: &Waker) {
    assert!(future.poll(&mut Context::from_waker(waker)).is_pending());
}

/// The waker of a subscription, of an answer and of an event: with the log on disk they run on the engine's threads, with the log in
/// memory on that of whoever publishes.
#[test]
fn r23_wakers_may_call_the_engine() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        for log in ["memory", dir.path().to_str().unwrap()] {
            let engine = on(log).start().unwrap();
            let events = engine.events();
            let handle = || engine.clone();
            let mut client = Client::connect(&engine, "user=ann&room=lobby");
            client.next_of("joined");
            let publish = |client: &mut Client| {
                client.send(json!({"type": "publish", "room": "lobby", "data": 1}));
                client.next_of("publication");
            };
            until(&events, |e| matches!(e, Event::Joined { .. }));
            for stop in [false, true] {
                let call = |engine: Engine| {
                    move || {
                        if stop {
                            engine.stop(SECONDS).map(drop).map_err(|e| e.code())
                        } else {
                            call_all(&engine)
                        }
                    }
                };
                let check = |called: Receiver<(String, Result<(), Code>)>, what: &str| {
                    let (thread, said) =
                        called.recv_timeout(SOON).unwrap_or_else(|e| panic!("{what}, {log}: {e}"));
                    assert!(thread.starts_with("klatch-"), "{what}, {log}: on {thread}");
                    // An answer that is there already is not waited for.
                    let answered = !stop && log == "memory";
                    assert_eq!(
                        said,
                        if answered { Ok(()) } else { Err(Code::WouldDeadlock) },
                        "{what}, {log}"
                    );
                };
                let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
                {
                    let (waker, called) = calls(call(handle()));
                    let mut next = pin!(subscription.next(9));
                    pend(next.as_mut(), &waker);
                    publish(&mut client);
                    check(called, "a subscription");
                }
                {
                    let (waker, called) = calls(call(handle()));
                    let mut next = pin!(events.next());
                    pend(next.as_mut(), &waker);
                    Client::connect(&engine, "user=bob").next_of("welcome");
                    check(called, "an event");
                    until(&events, |e| matches!(e, Event::Disconnected { .. }));
                }
                if log != "memory" {
                    // It may have been answered before it is polled; some will not.
                    let mut tries = (0..10_000).map(|_| {
                        let (waker, called) = calls(call(handle()));
                        let mut answer = pin!(engine.publish(Message::json("lobby", "1")));
                        let pending = answer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
                        pending.then(|| check(called, "an answer"))
                    });
                    assert!(tries.any(|met| met.is_some()));
                }
                publish(&mut client);
            }
            engine.stop(SECONDS).unwrap();
        }
    });
}

/// The engine's own threads cannot wait for their own end: it stops in the background.
#[test]
fn r23_the_last_handle_may_be_dropped_in_a_waker() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().to_str().unwrap();
        let threads_before = threads();
        for _ in 0..20 {
            let engine = on(log).start().unwrap();
            let mut client = Client::connect(&engine, "user=ann&room=lobby");
            client.next_of("joined");
            let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
            // With something to do still.
            let (waker, called) = calls(move || engine.publish(Message::json("lobby", "2")));
            let mut next = pin!(subscription.next(9));
            pend(next.as_mut(), &waker);
            client.send(json!({"type": "publish", "room": "lobby", "data": 1}));
            let (thread, publishing) = called.recv_timeout(SOON).unwrap();
            assert_eq!(thread, "klatch-log");
            assert!(publishing.wait().is_ok(), "what was queued is stored");
            assert_eq!(client.closed(), Some(4000));
            becomes(threads_before, threads);
        }
        let engine = on(log).start().unwrap();
        assert_eq!(engine.history("lobby", HistoryQuery::default()).unwrap().last, 40);
    });
}

/// Makes every call in every hook; and stops the engine in the one whose turn it is.
#[derive(Default)]
struct Hook {
    engine: OnceLock<Engine>,
    stop_in: &'static str,
    made: Mutex<Vec<&'static str>>,
}

impl Hook {
    fn call(&self, hook: &'static str) {
        let engine = self.engine.get().unwrap();
        assert_eq!(call_all(engine), Ok(()), "nothing in a hook would deadlock");
        if hook == self.stop_in {
            engine.stop(SECONDS).unwrap();
        }
        self.made.lock().unwrap().push(hook);
    }
}

impl Authorizer for Hook {
    fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
        self.call("connect");
        answer.allow(&request.user);
    }
    fn join(&self, _: JoinRequest, answer: JoinAnswer) {
        self.call("join");
        answer.allow();
    }
}

impl PublishHook for Hook {
    fn publish(&self, _: PublishRequest, answer: PublishAnswer) {
        self.call("publish");
        answer.allow();
    }
}

#[test]
fn r23_hooks_may_call_the_engine() {
    let order = ["connect", "join", "publish"];
    for (log, stop_in) in ["memory", "disk"].into_iter().flat_map(|log| order.map(|hook| (log, hook))) {
        let dir = tempfile::tempdir().unwrap();
        let log = if log == "disk" { dir.path().to_str().unwrap() } else { log };
        let hook = Arc::new(Hook { stop_in, ..Hook::default() });
        let engine = on(log).authorizer(hook.clone()).publish_hook(hook.clone()).start().unwrap();
        assert!(hook.engine.set(engine.clone()).is_ok());
        let mut ann = Client::connect(&engine, "user=ann&room=lobby");
        if stop_in == "publish" {
            ann.next_of("joined");
            ann.send(json!({"type": "publish", "room": "lobby", "data": 1}));
        }
        assert_eq!(ann.closed(), Some(4000), "stopped in {stop_in}");
        becomes(Health::Stopped, || engine.health());
        let made = || order.into_iter().take_while(|h| *h != stop_in).chain([stop_in]).collect::<Vec<_>>();
        becomes(made(), || hook.made.lock().unwrap().clone());
    }
}

/// Where a host may stand when it calls.
async fn inside() {
    let dir = tempfile::tempdir().unwrap();
    for log in ["memory", dir.path().to_str().unwrap()] {
        // Waits on the runtime's own thread.
        let engine = on(log).start().unwrap();
        assert_eq!(call_all(&engine), Ok(()));
        // The same as futures, also while it catches up, and next to other tasks.
        let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
        let reading = tokio::spawn(async move { subscription.next(9).await.unwrap().len() });
        engine.publish(Message::json("lobby", "1")).await.unwrap();
        assert_eq!(reading.await.unwrap(), 1);
        let mut late = engine.subscribe("lobby", Start::History(9)).unwrap();
        assert_eq!(late.next(9).await.unwrap().len(), 1);
        let events = engine.events();
        let address = engine.addresses()[0];
        let path = "/ws?user=ann".to_owned();
        let client =
            tokio::task::spawn_blocking(move || Ws::open(address, &path, &[], &[]).unwrap().unwrap().0);
        assert!(matches!(events.next().await, Some(Event::Connected { .. })));
        drop(client.await.unwrap());
        // On a thread that may block, and in a task that is dropped.
        let clone = engine.clone();
        tokio::task::spawn_blocking(move || assert_eq!(call_all(&clone), Ok(()))).await.unwrap();
        let clone = engine.clone();
        let waiting = tokio::spawn(async move {
            let _kept = clone;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        engine.stop(SECONDS).unwrap();
        // Without a stop, the last handle dropped by an aborted task.
        let engine = on(log).start().unwrap();
        let waiting = tokio::spawn(async move {
            engine.publish(Message::json("lobby", "2")).await.unwrap();
            let _kept = engine;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        // Without a stop, with everything of it still held.
        let engine = on(log).start().unwrap();
        let events = engine.events();
        let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
        let answer = engine.publish(Message::json("lobby", "3"));
        drop(engine);
        assert!(answer.await.is_ok(), "what was queued is stored");
        assert_eq!(subscription.next(9).await.unwrap().len(), 1);
        assert!(subscription.next(9).await.is_err());
        assert_eq!(events.next().await, None);
        // A start that fails, and one in the directory that is free again.
        assert_eq!(on("redis://x").start().unwrap_err().code(), Code::InvalidConfig);
        drop(on(log).start().unwrap());
    }
}

#[test]
fn r23_an_engine_is_used_and_ends_in_every_kind_of_runtime() {
    alone(|| {
        let threads_before = threads();
        let current = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let multi =
            || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        current().block_on(inside());
        multi().block_on(inside());
        let runtime = multi();
        // On a worker.
        runtime.block_on(runtime.spawn(inside())).unwrap();
        // Inside a runtime's context, without a task; and where a worker has said that it blocks.
        let entered = runtime.enter();
        let engine = on("memory").start().unwrap();
        assert_eq!(call_all(&engine), Ok(()));
        drop(engine);
        drop(entered);
        let blocking = runtime.spawn(async {
            tokio::task::block_in_place(|| {
                let engine = on("memory").start().unwrap();
                assert_eq!(call_all(&engine), Ok(()));
                engine.stop(SECONDS).unwrap();
            });
        });
        runtime.block_on(blocking).unwrap();
        // A runtime that ends while its task holds the last handle.
        for runtime in [current(), multi()] {
            let engine = on("memory").start().unwrap();
            let address = engine.addresses()[0];
            runtime.spawn(async move {
                let _kept = engine;
                std::future::pending::<()>().await;
            });
            runtime.block_on(tokio::task::yield_now());
            drop(runtime);
            assert!(TcpStream::connect(address).is_err(), "it has stopped");
        }
        // And one without any timer or socket, whose only thread is never given back to it.
        let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
        bare.block_on(async {
            let engine = on("memory").start().unwrap();
            let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
            engine.publish(Message::json("lobby", "1")).wait().unwrap();
            assert_eq!(subscription.next(9).await.unwrap().len(), 1);
            engine.stop(SECONDS).unwrap();
        });
        drop((bare, runtime));
        becomes(threads_before, threads);
    });
}

/// A thread that ends with the last handle in its keeping.
#[test]
fn r23_the_last_handle_may_be_dropped_as_a_thread_ends() {
    thread_local! {
        static KEPT: OnceLock<Engine> = const { OnceLock::new() };
    }
    let thread = std::thread::spawn(|| {
        let engine = on("memory").start().unwrap();
        let address = engine.addresses()[0];
        KEPT.with(|kept| kept.set(engine).unwrap());
        address
    });
    let address = thread.join().unwrap();
    assert!(TcpStream::connect(address).is_err(), "it has stopped");
}

/// A waker that another takes the place of may hold the last handle.
#[test]
fn r23_the_last_handle_may_be_dropped_with_a_waker() {
    let dir = tempfile::tempdir().unwrap();
    for log in ["memory", dir.path().to_str().unwrap()] {
        let engine = on(log).start().unwrap();
        let address = engine.addresses()[0];
        let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
        let (done, is_done) = channel();
        std::thread::spawn(move || {
            let (waker, _called) = calls(move || drop(engine));
            let mut next = pin!(subscription.next(9));
            pend(next.as_mut(), &waker);
            drop(waker);
            let _ = next.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            done.send(()).unwrap();
        });
        is_done.recv_timeout(SOON).expect("it waits for itself");
        assert!(TcpStream::connect(address).is_err(), "it has stopped");
    }
}

/// While it catches up, a future is woken by a thread that reads for it, which nothing waits for without a bound.
#[test]
fn r23_the_waker_of_one_that_catches_up_may_call_the_engine() {
    alone(|| {
        let threads_before = threads();
        for stop in [false, true] {
            let engine = on("memory").start().unwrap();
            let data = format!("\"{}\"", "x".repeat(60_000));
            let all: Vec<_> = (0..200).map(|_| engine.publish(Message::json("lobby", &data))).collect();
            all.into_iter().for_each(|p| drop(p.wait().unwrap()));
            let from = Start::Since { epoch: None, offset: 0, history: 0 };
            // It may have been read before it is polled; some will not.
            let mut tries = (0..10_000).map(|_| {
                let mut subscription = engine.subscribe("lobby", from).unwrap();
                let handle = engine.clone();
                let (waker, called) = calls(move || {
                    if stop {
                        handle.stop(SECONDS).map(drop).map_err(|e| e.code())
                    } else {
                        call_all(&handle)
                    }
                });
                let mut next = pin!(subscription.next(200));
                let pending = next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
                pending.then(|| called.recv_timeout(SOON).unwrap())
            });
            let (thread, said) = tries.find_map(|met| met).unwrap();
            drop(tries);
            assert_eq!((thread.as_str(), said), ("klatch-blocking", Ok(())));
            drop(engine);
            becomes(threads_before, threads);
        }
    });
}
