//! What the Rust API does in a second, for the benchmarks of other languages to stand beside: publishes with so many in flight, and events
//! into a handler. Prints JSON.

// What it has to say is its output.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use klatch::{Engine, Message, Settings, Start};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(2.0);
    let seconds = Duration::from_secs_f64(seconds);
    let mut settings = Settings::default();
    settings.log = "memory".into();
    settings.limits.event_queue = 4_000_000;
    settings.limits.subscription_bytes = 1 << 30;
    let engine = Engine::builder().settings(settings).start().unwrap();
    let publish = publishes(&engine, 100, seconds);
    let events = events(&engine, seconds);
    println!("{{\"publish\": {publish:.0}, \"events\": {events:.0}}}");
    engine.stop(Duration::from_secs(5)).unwrap();
}

const DATA: &str = r#"{"text":"hello, this is a message as people write them"}"#;

fn publishes(engine: &Engine, in_flight: usize, seconds: Duration) -> f64 {
    let (start, mut count) = (Instant::now(), 0_u64);
    let mut waiting = VecDeque::new();
    while start.elapsed() < seconds {
        while waiting.len() < in_flight {
            waiting.push_back(engine.publish(Message::json("publish", DATA)));
        }
        waiting.pop_front().unwrap().wait().unwrap();
        count += 1;
    }
    count as f64 / start.elapsed().as_secs_f64()
}

fn events(engine: &Engine, seconds: Duration) -> f64 {
    let mut subscription = engine.subscribe("events", Start::Live).unwrap();
    let flood = engine.clone();
    let start = Instant::now();
    let publisher = std::thread::spawn(move || {
        let batch: Vec<Message> = (0..512).map(|_| Message::json("events", DATA)).collect();
        let mut sent = 0_u64;
        while start.elapsed() < seconds {
            for publishing in flood.publish_batch(batch.clone()) {
                publishing.wait().unwrap();
            }
            sent += batch.len() as u64;
        }
        sent
    });
    let (mut count, mut bytes) = (0_u64, 0_usize);
    loop {
        let batch = subscription.next_batch(256, Duration::from_millis(100)).unwrap();
        if batch.is_empty() && publisher.is_finished() {
            break;
        }
        for p in &batch {
            bytes += p.record.data_slice().len();
        }
        count += batch.len() as u64;
    }
    let sent = publisher.join().unwrap();
    assert!(sent == count && bytes > 0);
    count as f64 / start.elapsed().as_secs_f64()
}
