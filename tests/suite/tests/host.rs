//! The Rust API, as a host program uses it.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "host/futures.rs"]
mod futures;
#[path = "host/given.rs"]
mod given;
#[path = "host/hooks.rs"]
mod hooks;
#[path = "host/life.rs"]
mod life;
#[path = "host/streams.rs"]
mod streams;

use klatch::{Builder, Engine, Settings};
use klatch_suite::ws::{Got, Ws};
use serde_json::Value;
use std::time::Duration;

/// Longer than anything takes that is to happen.
const SOON: Duration = Duration::from_secs(20);

fn memory() -> Builder {
    Engine::builder().log("memory").listen("127.0.0.1:0")
}

/// Settings with limits given as JSON.
fn limits(limits: Value) -> Settings {
    serde_json::from_value(serde_json::json!({ "limits": limits })).unwrap()
}

struct Client(Ws);

impl Client {
    /// Connects with this query.
    fn connect(engine: &Engine, query: &str) -> Client {
        let headers = [("Sec-WebSocket-Protocol".to_owned(), "klatch.v1".to_owned())];
        let opened = Ws::open(engine.addresses()[0], &format!("/ws?{query}"), &headers, &[]);
        Client(opened.unwrap().unwrap().0)
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

    /// The code with which the engine closes; frames before it are dropped.
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
