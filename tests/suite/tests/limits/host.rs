//! What waits for the host.

use crate::{Client, SOON, Stage};
use klatch::config::Limit;
use klatch::{Ended, Event, HistoryQuery, Message, NextEvent, Start};
use serde_json::json;
use std::time::Duration;

#[test]
fn limit_event_queue() {
    let mut stage = Stage::new(json!({"event_queue": 2}));
    let events = stage.engine.events();
    // Two events: connected, joined.
    let _ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    stage.counted(&[]);
    let mut carl = Client::connect(&stage.engine, "user=carl");
    carl.fence();
    stage.counted(&[(Limit::EventQueue, 1)]);
    let next = || match events.next_within(Duration::ZERO) {
        NextEvent::Event(event) => event,
        other => panic!("{other:?}"),
    };
    assert!(matches!(next(), Event::Connected { .. }));
    assert!(matches!(next(), Event::Joined { .. }));
    assert_eq!(next(), Event::Lost { count: 1 });
    // A subscription.
    let mut subscription = stage.engine.subscribe("lobby", Start::Live).unwrap();
    let publish = || drop(stage.engine.publish(Message::json("lobby", "1")).wait().unwrap());
    (0..2).for_each(|_| publish());
    assert_eq!(subscription.next_batch(9, SOON).unwrap().len(), 2);
    stage.counted(&[(Limit::EventQueue, 1)]);
    (0..3).for_each(|_| publish());
    assert_eq!(subscription.next_batch(9, SOON), Err(Ended::Slow));
    stage.counted(&[(Limit::EventQueue, 2)]);
    // It goes on from its position.
    let klatch::Position { epoch, offset } = subscription.position();
    let again = Start::Since { epoch: Some(epoch), offset, history: 0 };
    let mut subscription = stage.engine.subscribe("lobby", again).unwrap();
    assert_eq!(subscription.next_batch(9, SOON).unwrap().len(), 3);
    stage.others_are_served();
}

#[test]
fn limit_subscription_bytes() {
    let one = Stage::new(json!({}));
    one.engine.publish(Message::json("lobby", "1")).wait().unwrap();
    let first = one.engine.history("lobby", HistoryQuery::default()).unwrap().publications;
    let size = first[0].record.body().len();
    let mut stage = Stage::new(json!({"subscription_bytes": 2 * size}));
    let publish = || drop(stage.engine.publish(Message::json("lobby", "1")).wait().unwrap());
    let mut subscription = stage.engine.subscribe("lobby", Start::Live).unwrap();
    (0..2).for_each(|_| publish());
    assert_eq!(subscription.next_batch(9, SOON).unwrap().len(), 2);
    stage.counted(&[]);
    (0..3).for_each(|_| publish());
    assert_eq!(subscription.next_batch(9, SOON), Err(Ended::Slow));
    stage.others_are_served();
    stage.counted(&[(Limit::SubscriptionBytes, 1)]);
}
