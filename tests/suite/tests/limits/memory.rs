//! What is kept in memory. Past these nothing is refused: it is looked up.

use crate::{Client, Stage};
use klatch::config::Limit;
use klatch::{HistoryQuery, Message};
use serde_json::json;

#[test]
fn limit_ids_bytes() {
    // The least is 16 ids.
    let mut stage = Stage::new(json!({"ids_bytes": 1}));
    let publish = |n: u64| {
        let message = Message::json("lobby", "1").user("ann").id(&n.to_string());
        stage.engine.publish(message).wait().unwrap()
    };
    let first: Vec<_> = (0..16).map(publish).collect();
    stage.counted(&[]);
    publish(16);
    stage.counted(&[(Limit::IdsBytes, 1)]);
    assert_eq!(stage.engine.metrics().ids.get(), 16);
    // The one that was dropped is known all the same.
    let again = publish(0);
    assert!(again.duplicate);
    assert_eq!(again.position, first[0].position);
    stage.others_are_served();
}

#[test]
fn limit_recent_bytes() {
    let publish = |stage: &Stage, client: &mut Client| {
        stage.engine.publish(Message::json("lobby", "1")).wait().unwrap();
        client.next_of("publication");
    };
    let recent = |stage: &Stage| stage.engine.metrics().recent_bytes.get();
    let one = Stage::new(json!({}));
    publish(&one, &mut Client::joined(&one.engine, "user=ann&room=lobby"));
    let size = recent(&one);
    let mut stage = Stage::new(json!({"recent_bytes": 3 * size}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    (0..3).for_each(|_| publish(&stage, &mut ann));
    stage.counted(&[]);
    assert_eq!(recent(&stage), 3 * size);
    publish(&stage, &mut ann);
    stage.counted(&[(Limit::RecentBytes, 1)]);
    assert_eq!(recent(&stage), 3 * size);
    // The one that was dropped is read.
    let mut late = Client::joined(&stage.engine, "user=late&room=lobby&history=4");
    let offsets: Vec<_> = (0..4).map(|_| late.next_of("publication")["offset"].clone()).collect();
    assert_eq!(offsets, [1, 2, 3, 4]);
    stage.others_are_served();
}

#[test]
fn limit_rooms_in_memory() {
    // Bob's room is one of them.
    let mut stage = Stage::new(json!({"rooms_in_memory": 2}));
    let publish = |room: &str| stage.engine.publish(Message::json(room, "1")).wait().unwrap();
    let first = publish("a");
    stage.counted(&[]);
    publish("b");
    stage.counted(&[(Limit::RoomsInMemory, 1)]);
    // The room that was dropped goes on where it was.
    publish("a");
    let history = stage.engine.history("a", HistoryQuery::default()).unwrap().publications;
    assert_eq!(history[1].prev(), first.position.offset);
    stage.others_are_served();
    stage.counted(&[(Limit::RoomsInMemory, 2)]);
}

#[test]
fn limit_presence_names() {
    let mut stage = Stage::new(json!({"presence_names": 2}));
    let mut clients = Vec::new();
    for (user, listed, truncated, hits) in
        [("a", 1, json!(null), 0), ("b", 2, json!(null), 0), ("c", 2, json!(true), 1)]
    {
        let mut client = Client::joined(&stage.engine, &format!("user={user}&room=lobby"));
        client.send(json!({"type": "presence"}));
        let list = client.next_of("presence");
        clients.push(client);
        assert_eq!(list["count"], clients.len());
        assert_eq!((list["users"].as_array().unwrap().len(), &list["truncated"]), (listed, &truncated));
        stage.counted(&[(Limit::PresenceNames, hits)]);
    }
    assert!(stage.engine.presence("lobby").truncated);
    stage.others_are_served();
    stage.counted(&[(Limit::PresenceNames, 2)]);
}

#[test]
fn limit_presence_gather_ms() {
    let mut stage = Stage::new(json!({"presence_gather_ms": 20, "presence_names": 2}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby&presence=true");
    let mut events = 1;
    assert_eq!(ann.next_of("presence_event")["joined"], json!(["ann"]));
    let _others: Vec<_> =
        ["b", "c", "d"].map(|user| Client::joined(&stage.engine, &format!("user={user}&room=lobby"))).into();
    loop {
        let event = ann.next_of("presence_event");
        events += 1;
        if event["count"] == 4 {
            break;
        }
    }
    stage.others_are_served();
    assert_eq!(stage.hits(Limit::PresenceGatherMs), events);
}
