//! Every limit at its value and past it: what clients see, what is counted, and that others are served meanwhile.
//!
//! A test of the documents reads the list of limits and looks here for `limit_<name>` of each.
#![allow(clippy::unwrap_used, clippy::panic)]

mod hold;
mod hooks;
mod host;
mod http;
mod memory;
mod messages;
mod queues;
mod reading;
mod requests;
mod times;

use klatch::clock::{Clock, ManualClock};
use klatch::config::Limit;
use klatch::{Builder, Engine, Message, Settings};
use klatch_suite::ws::{Got, Ws};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longer than anything takes that is to happen.
const SOON: Duration = Duration::from_secs(20);

/// A client.
struct Client(Ws);

impl Client {
    /// Connects with this query.
    fn connect(engine: &Engine, query: &str) -> Client {
        Client::open(engine.addresses()[0], query).unwrap()
    }

    /// The same, or the status of the refusal.
    fn open(address: SocketAddr, query: &str) -> Result<Client, u16> {
        let headers = [("Sec-WebSocket-Protocol".to_owned(), "klatch.v1".to_owned())];
        let opened = Ws::open(address, &format!("/ws?{query}"), &headers, &[]).unwrap();
        opened.map(|(ws, _)| Client(ws)).map_err(|answer| answer.status)
    }

    /// Connects with this query and has been joined to the room that it names.
    fn joined(engine: &Engine, query: &str) -> Client {
        let mut client = Client::connect(engine, query);
        client.next_of("joined");
        client
    }

    fn send(&mut self, frame: Value) {
        self.0.text(&frame.to_string()).unwrap();
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.0.next_text().unwrap()).unwrap()
    }

    /// The next frame of a type; those before it are dropped.
    fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next();
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// The name of the error that comes next.
    fn refused(&mut self) -> String {
        let frame = self.next();
        assert_eq!(frame["type"], "error", "{frame}");
        frame["name"].as_str().unwrap().to_owned()
    }

    /// Its shard has taken a turn and ended it, with the time that it is now.
    fn fence(&mut self) {
        for _ in 0..2 {
            self.send(json!({"type": "ping"}));
            self.next_of("pong");
        }
    }

    /// The code with which the engine closes, or none if the stream just ends; frames before it are dropped.
    fn closed(&mut self) -> Option<u16> {
        loop {
            match self.0.read().unwrap() {
                Got::Close(code, _) => {
                    self.0.finish(code);
                    return Some(code);
                }
                Got::End => return None,
                _ => {}
            }
        }
    }
}

/// An engine with one shard, and bob on it, whom nothing that others do may harm.
struct Stage {
    engine: Engine,
    bob: Client,
    clock: Arc<ManualClock>,
    /// The directory of its log.
    _dir: tempfile::TempDir,
}

/// What an engine is made of here.
fn builder(limits: Value) -> Builder {
    let mut settings: Settings = serde_json::from_value(json!({ "limits": limits })).unwrap();
    settings.shards = 1;
    Engine::builder().settings(settings).listen("127.0.0.1:0")
}

impl Stage {
    /// With these limits, and a log in memory.
    fn new(limits: Value) -> Stage {
        Stage::with(builder(limits).log("memory"))
    }

    fn with(builder: Builder) -> Stage {
        Stage::on(tempfile::tempdir().unwrap(), builder)
    }

    /// The same with a log on disk, whose thread can be held up.
    fn disk(limits: Value) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let builder = builder(limits).log(dir.path().to_str().unwrap());
        Stage::on(dir, builder)
    }

    /// The same with a log in memory and a clock that stands still.
    fn timed(limits: Value) -> Stage {
        Stage::timed_with(builder(limits).log("memory"))
    }

    fn timed_with(builder: Builder) -> Stage {
        let clock = Arc::new(ManualClock::new(3_600_000));
        Stage { clock: clock.clone(), ..Stage::with(builder.clock(clock)) }
    }

    fn on(dir: tempfile::TempDir, builder: Builder) -> Stage {
        let engine = builder.start().unwrap();
        let bob = Client::joined(&engine, "user=bob&room=w");
        Stage { engine, bob, clock: Arc::new(ManualClock::new(0)), _dir: dir }
    }

    fn hits(&self, limit: Limit) -> u64 {
        self.engine.metrics().limit_hits[limit].get()
    }

    /// Waits until a limit was reached so often.
    fn reaches(&self, limit: Limit, hits: u64) {
        while self.hits(limit) < hits {
            std::thread::yield_now();
        }
        assert_eq!(self.hits(limit), hits);
    }

    /// Time passes, and the shard has seen it.
    fn pass(&mut self, ms: u64) {
        self.clock.advance(ms);
        assert!(self.clock.steady_ms() > ms, "this engine has a clock of its own");
        self.bob.fence();
    }

    /// Bob is served, and the host is.
    fn others_are_served(&mut self) {
        let ack = self.engine.publish(Message::json("w", "7")).wait().unwrap();
        assert_eq!(self.bob.next_of("publication")["offset"], ack.position.offset);
    }

    /// Exactly these limits were reached, each so often; but for what comes by itself where somebody does not read.
    fn counted(&self, expected: &[(Limit, u64)]) {
        for &limit in Limit::ALL.iter().filter(|l| **l != Limit::UnsentBytes) {
            let hits = expected.iter().find(|e| e.0 == limit).map_or(0, |e| e.1);
            assert_eq!(self.hits(limit), hits, "{}", limit.name());
        }
    }
}

fn publish(id: impl ToString, data: Value) -> Value {
    json!({"type": "publish", "room": "lobby", "id": id.to_string(), "data": data})
}
