//! Reading history.

use crate::hold::Hold;
use crate::{Client, Stage};
use klatch::config::Limit;
use klatch::{HistoryQuery, Message};
use serde_json::{Value, json};

fn page(client: &mut Client, limit: u32) -> (usize, Value) {
    client.send(json!({"type": "history", "room": "lobby", "limit": limit}));
    let page = client.next_of("history");
    (page["publications"].as_array().unwrap().len(), page["more"].clone())
}

fn publish(stage: &Stage, count: u32) {
    for n in 0..count {
        stage.engine.publish(Message::json("lobby", &n.to_string())).wait().unwrap();
    }
}

#[test]
fn limit_history_page() {
    let mut stage = Stage::new(json!({"history_page": 3}));
    publish(&stage, 5);
    let mut ann = Client::connect(&stage.engine, "user=ann");
    assert_eq!(page(&mut ann, 3), (3, json!(true)));
    stage.counted(&[]);
    assert_eq!(page(&mut ann, 4), (3, json!(true)));
    stage.counted(&[(Limit::HistoryPage, 1)]);
    ann.send(json!({"type": "join", "room": "lobby", "history": 4}));
    let joined = ann.next_of("joined");
    let offsets: Vec<_> = (0..3).map(|_| ann.next()["offset"].as_u64().unwrap()).collect();
    assert_eq!((&joined["offset"], offsets), (&json!(2), vec![3, 4, 5]));
    let query = HistoryQuery { limit: 9, ..HistoryQuery::default() };
    assert_eq!(stage.engine.history("lobby", query).unwrap().publications.len(), 3);
    stage.others_are_served();
    stage.counted(&[(Limit::HistoryPage, 3)]);
}

#[test]
fn limit_history_page_bytes() {
    let one = Stage::new(json!({}));
    publish(&one, 1);
    let first = one.engine.history("lobby", HistoryQuery::default()).unwrap().publications;
    let size = first[0].record.body().len();
    for (bytes, count, hits) in [(3 * size, 3, 0), (3 * size - 1, 2, 1), (1, 1, 1)] {
        let mut stage = Stage::new(json!({"history_page_bytes": bytes}));
        publish(&stage, 3);
        let mut ann = Client::connect(&stage.engine, "user=ann");
        assert_eq!(page(&mut ann, 3), (count, json!(count < 3)));
        stage.counted(&[(Limit::HistoryPageBytes, hits)]);
        stage.others_are_served();
    }
    // From memory: as many whole frames as fit.
    let mut stage = Stage::new(json!({"history_page_bytes": 1000}));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    for n in 0..3 {
        stage.engine.publish(Message::json("lobby", &format!("\"{n}{}\"", "a".repeat(400)))).wait().unwrap();
        ann.next_of("publication");
    }
    let mut late = Client::connect(&stage.engine, "user=late&room=lobby&history=3");
    assert_eq!(late.next_of("joined")["offset"], 1);
    stage.counted(&[(Limit::HistoryPageBytes, 1)]);
    stage.others_are_served();
}

#[test]
fn limit_history_reads() {
    let mut stage = Stage::new(json!({"history_reads": 1}));
    publish(&stage, 3);
    let mut readers = ["ann", "carl"].map(|user| {
        let mut client = Client::connect(&stage.engine, &format!("user={user}"));
        client.next_of("welcome");
        client
    });
    for client in &mut readers {
        assert_eq!(page(client, 3).0, 3);
    }
    stage.counted(&[]);
    // Both ask while their shard is held up, and so in one turn of it.
    let hold = Hold::prepare(&stage.engine);
    stage.bob.send(json!({"type": "publish", "room": "hold", "id": "1", "data": 1}));
    hold.entered();
    for client in &mut readers {
        client.send(json!({"type": "history", "room": "lobby"}));
    }
    drop(hold);
    for client in &mut readers {
        assert_eq!(client.next()["publications"].as_array().unwrap().len(), 3);
    }
    stage.others_are_served();
    stage.counted(&[(Limit::HistoryReads, 1)]);
}
