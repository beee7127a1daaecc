//! Publishing, subscriptions and events as futures, on any executor.

use crate::{Client, memory};
use klatch::{Engine, Event, Message, Start};
use klatch_suite::block_on::block_on;
use std::time::Duration;

#[test]
fn they_need_no_runtime() {
    let engine = memory().start().unwrap();
    let events = engine.events();
    let ack = block_on(engine.publish(Message::json("lobby", "1").id("m1"))).unwrap();
    assert_eq!((ack.id.as_str(), ack.duplicate), ("m1", false));
    let mut subscription = engine.subscribe("lobby", Start::History(10)).unwrap();
    assert_eq!(block_on(subscription.next(10)).unwrap()[0].offset(), ack.position.offset);
    let publisher = std::thread::spawn({
        let engine = engine.clone();
        move || block_on(engine.publish(Message::json("lobby", "2"))).unwrap()
    });
    assert_eq!(&block_on(subscription.next(10)).unwrap()[0].data()[..], b"2");
    publisher.join().unwrap();
    let mut ann = Client::connect(&engine, "user=ann");
    ann.next_of("welcome");
    assert!(matches!(block_on(events.next()), Some(Event::Connected { user, .. }) if user == "ann"));
    ann.0.finish(1000);
    assert!(matches!(block_on(events.next()), Some(Event::Disconnected { .. })));
    engine.stop(Duration::from_secs(5)).unwrap();
    assert_eq!(block_on(events.next()), None);
    assert_eq!(block_on(subscription.next(10)), Err(klatch::Ended::Stopped));
}

#[test]
fn a_message_whose_answer_nobody_wants_is_stored_all_the_same() {
    let engine = memory().start().unwrap();
    drop(engine.publish(Message::json("lobby", "1")));
    let ack = engine.publish(Message::json("lobby", "2")).wait().unwrap();
    let page = engine.history("lobby", klatch::HistoryQuery::default()).unwrap();
    assert_eq!((page.publications.len(), page.last), (2, ack.position.offset));
}

#[test]
fn a_batch_is_stored_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder().log(dir.path().to_str().unwrap()).start().unwrap();
    let messages: Vec<Message> = (0..5000)
        .map(|n| Message::json(if n % 3 == 0 { "a" } else { "b" }, &n.to_string()).id(&n.to_string()))
        .collect();
    let offsets: Vec<u64> =
        engine.publish_batch(messages).into_iter().map(|p| p.wait().unwrap().position.offset).collect();
    assert!(offsets.windows(2).all(|w| w[0] < w[1]), "the answers are in the order of the messages");
    let mut seen = Vec::new();
    let mut subscription =
        engine.subscribe("a", Start::Since { epoch: None, offset: 0, history: 0 }).unwrap();
    while seen.len() < 1667 {
        for p in subscription.next_batch(1000, crate::SOON).unwrap() {
            seen.push(String::from_utf8(p.data().to_vec()).unwrap().parse::<u32>().unwrap());
        }
    }
    assert_eq!(seen, (0..5000).step_by(3).collect::<Vec<_>>());
}

async fn use_in_tokio() {
    let engine = memory().start().unwrap();
    let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
    let waiting = tokio::spawn(async move { subscription.next(10).await });
    let ack = engine.publish(Message::json("lobby", "1")).await.unwrap();
    let got = waiting.await.unwrap().unwrap();
    assert_eq!(got[0].offset(), ack.position.offset);
    let events = engine.events();
    let task = tokio::spawn(async move { events.next().await });
    // Dropped on a runtime's thread, with a future of it waiting: R23.
    drop(engine);
    assert_eq!(task.await.unwrap(), None);
}

#[test]
fn r23_an_engine_lives_and_ends_inside_a_runtime() {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(use_in_tokio());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(use_in_tokio());
}
