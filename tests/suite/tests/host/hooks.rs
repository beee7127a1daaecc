//! Hooks, as the host writes them. What clients see of their answers is shown by the scenarios.

use crate::{Client, limits, memory};
use klatch::hooks::{ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishRequest};
use klatch::{Authorizer, Engine, HistoryQuery, Message, PublishHook};
use serde_json::json;
use std::future::Future;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Hands every publish to the test.
struct Ask(Mutex<Sender<(PublishRequest, PublishAnswer)>>);

impl PublishHook for Ask {
    fn publish(&self, request: PublishRequest, answer: PublishAnswer) {
        let _ = self.0.lock().unwrap().send((request, answer));
    }
}

fn ask() -> (Arc<Ask>, Receiver<(PublishRequest, PublishAnswer)>) {
    let (tx, rx) = channel();
    (Arc::new(Ask(Mutex::new(tx))), rx)
}

#[test]
fn an_answer_may_come_later_and_from_another_thread() {
    let (hook, asked) = ask();
    let engine = memory().publish_hook(hook).start().unwrap();
    let mut ann = Client::connect(&engine, "user=ann&room=lobby");
    ann.next_of("joined");
    ann.send(json!({"type": "publish", "id": "1", "data": {"a": 1}}));
    ann.send(json!({"type": "publish", "id": "2", "data": 2}));
    let (request, answer) = asked.recv_timeout(crate::SOON).unwrap();
    assert_eq!((request.user.as_str(), request.room.as_str(), request.id.as_str()), ("ann", "lobby", "1"));
    assert_eq!(&request.data[..], br#"{"a":1}"#);
    assert!(asked.try_recv().is_err(), "one call of a connection at a time");
    std::thread::spawn(move || answer.replace_json(" [ 1 ] ")).join().unwrap();
    assert_eq!(ann.next()["data"], json!([1]));
    let (request, answer) = asked.recv_timeout(crate::SOON).unwrap();
    assert_eq!(request.id, "2");
    answer.allow();
    assert_eq!(ann.next()["data"], 2);
}

#[test]
fn an_answer_after_the_timeout_changes_nothing() {
    let (hook, asked) = ask();
    let settings = limits(json!({"hook_timeout_ms": 1000}));
    let engine = Engine::builder()
        .settings(settings)
        .log("memory")
        .listen("127.0.0.1:0")
        .publish_hook(hook)
        .start()
        .unwrap();
    let mut ann = Client::connect(&engine, "user=ann&room=lobby");
    ann.next_of("joined");
    ann.send(json!({"type": "publish", "id": "1", "data": 1}));
    let refused = ann.next();
    assert_eq!((&refused["name"], &refused["outcome"]), (&json!("hook_timeout"), &json!("not_stored")));
    asked.recv_timeout(crate::SOON).unwrap().1.allow();
    ann.send(json!({"type": "publish", "id": "2", "data": 2}));
    asked.recv_timeout(crate::SOON).unwrap().1.allow();
    assert_eq!(ann.next()["id"], "2");
    assert_eq!(engine.history("lobby", HistoryQuery::default()).unwrap().publications.len(), 1);
    assert_eq!(engine.metrics().hook_failures.get(), 1);
}

#[test]
fn an_answer_for_a_connection_that_has_gone_is_lost() {
    let (hook, asked) = ask();
    let engine = memory().publish_hook(hook).start().unwrap();
    let events = engine.events();
    let mut ann = Client::connect(&engine, "user=ann&room=lobby");
    ann.next_of("joined");
    ann.send(json!({"type": "publish", "id": "1", "data": 1}));
    let (_, answer) = asked.recv_timeout(crate::SOON).unwrap();
    drop(ann);
    while !matches!(
        events.next_within(crate::SOON),
        klatch::NextEvent::Event(klatch::Event::Disconnected { .. })
    ) {}
    let mut bob = Client::connect(&engine, "user=bob&room=lobby");
    bob.next_of("joined");
    answer.allow();
    bob.send(json!({"type": "publish", "id": "2", "data": 2}));
    asked.recv_timeout(crate::SOON).unwrap().1.allow();
    assert_eq!(bob.next()["id"], "2");
    assert_eq!(engine.history("lobby", HistoryQuery::default()).unwrap().publications.len(), 1);
}

#[test]
fn what_cannot_be_stored_instead_is_an_internal_error() {
    let (hook, asked) = ask();
    let engine = memory().publish_hook(hook).start().unwrap();
    let mut ann = Client::connect(&engine, "user=ann&room=lobby");
    ann.next_of("joined");
    let huge = format!("\"{}\"", "a".repeat(70_000));
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for bad in ["", "{", "1 2", r#""\ud83d""#, &huge, &deep] {
        ann.send(json!({"type": "publish", "id": "1", "data": 1}));
        asked.recv_timeout(crate::SOON).unwrap().1.replace_json(bad);
        let refused = ann.next();
        assert_eq!(
            (&refused["name"], &refused["outcome"]),
            (&json!("internal"), &json!("not_stored")),
            "{bad:.20}"
        );
    }
    ann.send(json!({"type": "publish", "id": "1", "data": 1}));
    asked.recv_timeout(crate::SOON).unwrap().1.replace_bytes(&vec![0; 70_000]);
    assert_eq!(ann.next()["name"], "internal");
    assert_eq!(engine.history("lobby", HistoryQuery::default()).unwrap().last, 0);
}

#[test]
fn hooks_that_block_for_ever_leave_the_rest_of_the_engine_working() {
    struct Block(Mutex<Receiver<()>>);
    impl Authorizer for Block {
        fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
            if request.token == "block" {
                let _ = self.0.lock().unwrap().recv();
            }
            answer.allow(&request.user);
        }
    }
    let (unblock, blocked) = channel();
    let settings = limits(json!({"hook_timeout_ms": 1000}));
    let builder = Engine::builder().settings(settings).log("memory").listen("127.0.0.1:0");
    let engine = builder.authorizer(Arc::new(Block(Mutex::new(blocked)))).start().unwrap();
    let mut let_in = Client::connect(&engine, "user=ann");
    let_in.next_of("welcome");
    // More than there are threads for hooks.
    let mut stuck: Vec<Client> = (0..10).map(|_| Client::connect(&engine, "token=block")).collect();
    for client in &mut stuck {
        assert_eq!(client.closed(), Some(4004), "told to come again");
    }
    let_in.send(json!({"type": "ping", "ref": 1}));
    assert_eq!(let_in.next()["ref"], 1);
    engine.publish(Message::json("lobby", "1")).wait().unwrap();
    let reader = std::thread::spawn(move || let_in.closed());
    engine.stop(Duration::from_secs(5)).unwrap();
    assert_eq!(reader.join().unwrap(), Some(4000));
    drop(unblock);
}

#[test]
fn r23_a_hook_may_use_the_engine_and_even_stop_it() {
    #[derive(Default)]
    struct Use(OnceLock<Engine>);
    impl Authorizer for Use {
        fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
            let engine = self.0.get().unwrap();
            engine.publish(Message::json("log", "1")).wait().unwrap();
            assert_eq!(engine.history("log", HistoryQuery::default()).unwrap().publications.len(), 1);
            answer.allow(&request.user);
        }
        fn join(&self, _: JoinRequest, answer: JoinAnswer) {
            answer.allow();
            self.0.get().unwrap().stop(Duration::from_secs(5)).unwrap();
        }
    }
    let hook = Arc::new(Use::default());
    let engine = memory().authorizer(hook.clone()).start().unwrap();
    assert!(hook.0.set(engine.clone()).is_ok());
    let mut ann = Client::connect(&engine, "user=ann");
    ann.next_of("welcome");
    ann.send(json!({"type": "join", "room": "lobby"}));
    assert_eq!(ann.closed(), Some(4000));
    engine.stop(Duration::from_secs(5)).unwrap();
}

/// Gives an answer when it is woken.
struct Wakes(Mutex<Option<PublishAnswer>>);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().take().unwrap().allow();
    }
}

/// An answer comes in while another publish is handed over (with the memory broker that wakes the subscription, on the shard's
/// thread). It must not be left until something else happens; nothing else does.
#[test]
fn an_answer_that_comes_while_another_publish_is_handed_over_is_not_left_lying() {
    let (hook, asked) = ask();
    let long = 600_000;
    let mut settings =
        limits(json!({"heartbeat_ms": long, "handshake_timeout_ms": long, "hook_timeout_ms": long}));
    settings.shards = 1;
    let builder = Engine::builder().settings(settings).log("memory").listen("127.0.0.1:0");
    let engine = builder.publish_hook(hook).start().unwrap();
    let mut clients = ["ann", "bob"].map(|user| Client::connect(&engine, &format!("user={user}")));
    let [first, second] = clients.each_mut().map(|client| {
        client.next_of("welcome");
        client.send(json!({"type": "publish", "room": "lobby", "ref": 1, "data": 1}));
        asked.recv_timeout(crate::SOON).unwrap().1
    });
    let mut subscription = engine.subscribe("lobby", klatch::Start::Live).unwrap();
    let waker = std::task::Waker::from(Arc::new(Wakes(Mutex::new(Some(second)))));
    let mut next = std::pin::pin!(subscription.next(9));
    assert!(next.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    first.allow();
    for client in &mut clients {
        assert_eq!(client.next()["type"], "ack");
    }
}
