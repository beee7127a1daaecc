//! How engines begin and end.

use crate::{Client, limits, memory};
use klatch::{Code, Engine, Health, HistoryQuery, Message, Start, Whom};
use serde_json::json;
use std::net::TcpStream;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(5);

fn on(dir: &std::path::Path) -> klatch::Builder {
    Engine::builder().log(dir.to_str().unwrap()).listen("127.0.0.1:0")
}

#[test]
fn dropped_without_a_stop_it_ends_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let engine = on(dir.path()).start().unwrap();
    let address = engine.addresses()[0];
    engine.publish(Message::json("lobby", "1")).wait().unwrap();
    let mut ann = Client::connect(&engine, "user=ann");
    ann.next_of("welcome");
    let clone = engine.clone();
    drop(engine);
    clone.publish(Message::json("lobby", "2")).wait().unwrap();
    let reader = std::thread::spawn(move || ann.closed());
    drop(clone);
    assert_eq!(reader.join().unwrap(), Some(4000));
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    for _ in 0..20 {
        // At once, each time: nothing of the engine before holds the directory.
        let engine = on(dir.path()).start().unwrap();
        assert_eq!(engine.history("lobby", HistoryQuery::default()).unwrap().publications.len(), 2);
    }
}

#[test]
fn a_stopped_engine_lets_go_of_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = on(dir.path()).start().unwrap();
    first.publish(Message::json("lobby", "1")).wait().unwrap();
    // All that a host may still hold when it starts the next one.
    let mut subscription = first.subscribe("lobby", Start::History(1)).unwrap();
    let events = first.events();
    let publishing = first.publish(Message::json("lobby", "2"));
    first.stop(SECONDS).unwrap();
    let second = on(dir.path()).start().unwrap();
    assert_eq!(second.history("lobby", HistoryQuery::default()).unwrap().publications.len(), 2);
    assert!(publishing.wait().is_ok());
    assert!(subscription.next_batch(9, SECONDS).is_err() || subscription.next_batch(9, SECONDS).is_err());
    assert_eq!(events.next_within(Duration::ZERO), klatch::NextEvent::Ended);
    drop(first);
    second.publish(Message::json("lobby", "3")).wait().unwrap();
}

#[test]
fn after_a_stop_every_verb_says_so() {
    let engine = memory().start().unwrap();
    let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
    let stopped = engine.stop(SECONDS).unwrap();
    assert_eq!(stopped.unwritten, 0);
    assert_eq!(engine.stop(SECONDS).unwrap(), stopped, "a second stop does nothing");
    let code = |e: klatch::Error| e.code();
    assert_eq!(engine.publish(Message::json("lobby", "1")).wait().unwrap_err().code(), Code::Stopped);
    let batch = engine.publish_batch(vec![Message::json("lobby", "1")]);
    assert!(batch.into_iter().all(|p| p.wait().unwrap_err().code() == Code::Stopped));
    assert_eq!(engine.history("lobby", HistoryQuery::default()).map_err(code), Err(Code::Stopped));
    assert_eq!(engine.subscribe("lobby", Start::Live).map(drop).map_err(code), Err(Code::Stopped));
    assert_eq!(engine.signal("lobby", "", "n", "1").map_err(code), Err(Code::Stopped));
    assert_eq!(engine.kick(&Whom::User("ann".into()), None).map_err(code), Err(Code::Stopped));
    assert_eq!(engine.presence("lobby").count, 0);
    assert_eq!(engine.health(), Health::Stopped);
    assert!(engine.metrics().prometheus().contains("klatch_"));
    assert_eq!(engine.addresses().len(), 1);
    assert_eq!(subscription.next_batch(1, SECONDS), Err(klatch::Ended::Stopped));
}

#[test]
fn stops_from_many_threads_at_once() {
    let engine = memory().start().unwrap();
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| engine.stop(SECONDS).unwrap());
        }
        threads.spawn(|| while engine.publish(Message::json("lobby", "1")).wait().is_ok() {});
    });
    assert_eq!(engine.health(), Health::Stopped);
}

#[test]
fn two_engines_in_one_process_do_not_know_each_other() {
    let (a, b) = (memory().start().unwrap(), memory().start().unwrap());
    let mut client = Client::connect(&b, "user=ann&room=lobby");
    let joined = client.next_of("joined");
    let ack = a.publish(Message::json("lobby", "1")).wait().unwrap();
    assert_ne!(joined["epoch"], ack.position.epoch.to_string(), "two logs, two epochs");
    b.publish(Message::json("lobby", "2")).wait().unwrap();
    assert_eq!(client.next()["data"], 2);
    assert_eq!((a.presence("lobby").count, b.presence("lobby").count), (0, 1));
    a.stop(SECONDS).unwrap();
    b.publish(Message::json("lobby", "3")).wait().unwrap();
    assert_eq!(client.next()["data"], 3);
}

#[test]
fn r19_a_directory_has_one_engine() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("log"), dir.path().join("link"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let engine = on(&path).start().unwrap();
    for way in [&path, &link] {
        let refused = on(way).start().unwrap_err();
        assert_eq!(refused.code(), Code::DataDirLocked);
        assert!(refused.message().contains(&std::process::id().to_string()), "{refused}");
    }
    engine.publish(Message::json("lobby", "1")).wait().unwrap();
    drop(engine);
    on(&link).start().unwrap();
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing_behind() {
    let engine = memory().start().unwrap();
    let taken = engine.addresses()[0].to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let start = |change: &dyn Fn(&mut klatch::Settings)| {
        let mut settings = klatch::Settings::default();
        settings.log = dir.path().join("log").to_str().unwrap().into();
        change(&mut settings);
        Engine::builder().settings(settings).start().map(drop).unwrap_err()
    };
    let in_use = start(&|s| s.listen = vec!["127.0.0.1:0".into(), taken.clone()]);
    assert_eq!(in_use.code(), Code::AddressUnusable);
    assert!(in_use.message().contains(&taken), "{in_use}");
    assert_eq!(start(&|s| s.listen = vec!["nonsense".into()]).code(), Code::AddressUnusable);
    assert_eq!(start(&|s| s.log = file.to_str().unwrap().into()).code(), Code::DataDirUnusable);
    assert_eq!(start(&|s| s.log = String::new()).code(), Code::InvalidConfig);
    assert_eq!(start(&|s| s.log = "redis://x".into()).code(), Code::InvalidConfig);
    assert_eq!(start(&|s| s.limits.message_bytes = 0).code(), Code::InvalidConfig);
    assert_eq!(start(&|s| s.limits.name_bytes = 256).code(), Code::InvalidConfig);
    assert_eq!(start(&|s| s.storage.segment_bytes = 1).code(), Code::InvalidConfig);
    assert_eq!(start(&|s| s.origins = vec!["example.com".into()]).code(), Code::InvalidConfig);
    assert_eq!(start(&|s| s.shards = 5000).code(), Code::InvalidConfig);
    on(&dir.path().join("log")).start().unwrap();
}

#[test]
fn it_restarts_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Vec::new();
    for turn in 1..=5u64 {
        let engine = on(dir.path()).start().unwrap();
        for n in 0..50 {
            let ack = engine
                .publish(Message::json("lobby", "1").user("ann").id(&format!("{turn}-{n}")))
                .wait()
                .unwrap();
            last.push((ack.position, format!("{turn}-{n}")));
        }
        let mut all = Vec::new();
        let mut subscription =
            engine.subscribe("lobby", Start::Since { epoch: None, offset: 0, history: 0 }).unwrap();
        while all.len() < last.len() {
            for p in subscription.next_batch(500, SECONDS).unwrap() {
                all.push((
                    klatch::Position { epoch: subscription.position().epoch, offset: p.offset() },
                    p.id().into_owned(),
                ));
            }
        }
        assert_eq!(all, last);
        let again = engine.publish(Message::json("lobby", "1").user("ann").id("1-0")).wait().unwrap();
        assert!(again.duplicate && again.position == last[0].0);
        engine.stop(SECONDS).unwrap();
    }
}

/// What waited for its place in the stream of a connection that broke must not reach the one that comes after it.
#[test]
fn nothing_of_a_broken_connection_reaches_the_next_one() {
    let mut settings = limits(json!({"heartbeat_ms": 600_000, "slow_ms": 300}));
    settings.shards = 1;
    let engine = Engine::builder().settings(settings).log("memory").listen("127.0.0.1:0").start().unwrap();
    let large = format!("\"{}\"", "x".repeat(60_000));
    let mut all: Vec<_> = (0..500).map(|_| engine.publish(Message::json("lobby", &large))).collect();
    all.pop().unwrap().wait().unwrap();
    let events = engine.events();
    let mut ann = Client::connect(&engine, "user=ann");
    // Far more than the sockets hold, and nothing of it is read: she stays behind, and her own message is still to come.
    ann.send(json!({"type": "join", "room": "lobby", "since": 0}));
    ann.send(json!({"type": "publish", "room": "lobby", "id": "secret", "data": 1}));
    while engine.history("lobby", HistoryQuery::default()).unwrap().last < 501 {
        std::thread::yield_now();
    }
    // She takes nothing: the engine ends it.
    let why = loop {
        if let klatch::NextEvent::Event(klatch::Event::Disconnected { why, .. }) = events.next_within(SECONDS)
        {
            break why;
        }
    };
    assert_eq!(why, Some(klatch::Disconnect::Slow), "it was not her who left");
    let mut bob = Client::connect(&engine, "user=bob");
    assert_eq!(bob.next()["type"], "welcome");
    drop(ann);
}

#[test]
fn for_ever_is_a_timeout_like_any_other() {
    let engine = memory().start().unwrap();
    let events = engine.events();
    let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
    let mut ann = Client::connect(&engine, "user=ann&room=lobby");
    assert!(matches!(events.next_within(Duration::MAX), klatch::NextEvent::Event(_)));
    ann.next_of("joined");
    engine.publish(Message::json("lobby", "1")).wait().unwrap();
    assert_eq!(subscription.next_batch(9, Duration::MAX).unwrap().len(), 1);
    engine.stop(Duration::MAX).unwrap();
}
