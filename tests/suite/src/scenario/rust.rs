//! The host program in Rust: the crate itself.

use super::hooks;
use super::host::Host;
use crate::ws::PATIENCE;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use klatch::message::Kind;
use klatch::{
    Ack, Ended, Engine, Error, Event, EventStream, HistoryQuery, Message, NextEvent, Publication, Publishing,
    Settings, Start, Subscription, Whom,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A message, as the host publishes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    room: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    id: String,
    /// JSON; or `bytes`, as base64.
    data: Option<Value>,
    bytes: Option<String>,
}

impl Given {
    fn message(self) -> Result<Message, String> {
        let message = match (self.data, self.bytes) {
            (Some(data), None) => Message::json(&self.room, &data.to_string()),
            (None, Some(bytes)) => {
                Message::bytes(&self.room, &BASE64_STANDARD.decode(bytes).map_err(|e| e.to_string())?)
            }
            _ => return Err("a message has data or bytes".into()),
        };
        Ok(message.user(&self.user).id(&self.id))
    }
}

/// Where a subscription starts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    room: String,
    history: Option<u32>,
    since: Option<u64>,
    epoch: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Query {
    room: String,
    after: u64,
    before: u64,
    limit: u32,
    backward: bool,
    at_least: u64,
}

impl Default for Query {
    fn default() -> Query {
        Query { room: String::new(), after: 0, before: 0, limit: 50, backward: false, at_least: 0 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signal {
    room: String,
    #[serde(default)]
    user: String,
    name: String,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    connection: String,
    name: String,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kick {
    user: Option<String>,
    connection: Option<String>,
    room: Option<String>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Rust {
    engine: Option<Engine>,
    subscriptions: HashMap<String, Subscription>,
    events: Option<EventStream>,
}

impl Rust {
    fn engine(&self) -> Result<&Engine, String> {
        self.engine.as_ref().ok_or_else(|| "the engine is not running".into())
    }

    fn subscription(&mut self, name: &Value) -> Result<&mut Subscription, String> {
        self.subscriptions.get_mut(&text(name)?).ok_or_else(|| "no such subscription".into())
    }
}

impl Host for Rust {
    fn start(&mut self, settings: &Settings, hooks: bool) -> Result<(), String> {
        let mut builder = Engine::builder().settings(settings.clone());
        if hooks {
            let hooks = Arc::new(hooks::Standard::default());
            builder = builder.authorizer(hooks.clone()).publish_hook(hooks);
        }
        self.engine = Some(builder.start().map_err(|e| format!("start: {e}"))?);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), String> {
        match self.engine.take() {
            Some(engine) => engine.stop(Duration::from_secs(5)).map(drop).map_err(|e| format!("stop: {e}")),
            None => Ok(()),
        }
    }

    fn address(&self) -> Result<SocketAddr, String> {
        self.engine()?.addresses().first().copied().ok_or_else(|| "no address".into())
    }

    fn call(&mut self, verb: &str, args: &[Value]) -> Result<Value, String> {
        // What the host has read or can still read of an engine that has stopped.
        match (verb, args) {
            ("next_ended", [name]) => {
                return Ok(match self.subscription(name)?.next_batch(1, PATIENCE) {
                    Err(Ended::Slow) => "slow",
                    Err(Ended::Stopped) => "stopped",
                    Err(Ended::Closed) => "closed",
                    Err(Ended::Dropped) => "dropped",
                    Err(Ended::Reset) => "reset",
                    Err(Ended::Unreadable) => "unreadable",
                    other => return Err(format!("got {other:?}")),
                }
                .into());
            }
            ("next", [name, count]) => {
                let count = count.as_u64().unwrap_or_default() as usize;
                let mut got = Vec::new();
                while got.len() < count {
                    let batch = self.subscription(name)?.next_batch(count - got.len(), PATIENCE);
                    let batch = batch.map_err(|e| format!("ended: {e:?}"))?;
                    if batch.is_empty() {
                        return Err(format!("no more came than {got:?}"));
                    }
                    got.extend(batch.iter().map(publication));
                }
                return Ok(got.into());
            }
            ("next_nothing", [name]) => {
                return match self.subscription(name)?.next_batch(1, Duration::ZERO) {
                    Ok(batch) if batch.is_empty() => Ok(Value::Null),
                    other => Err(format!("got {other:?}")),
                };
            }
            ("event", []) => {
                let events = self.events.as_ref().ok_or("no stream of events was opened")?;
                return match events.next_within(PATIENCE) {
                    NextEvent::Event(e) => event(&e),
                    other => Err(format!("{other:?}")),
                };
            }
            _ => {}
        }
        let engine = self.engine()?.clone();
        Ok(match (verb, args) {
            ("publish", [message]) => outcome(engine.publish(take::<Given>(message)?.message()?)),
            ("publish_batch", [Value::Array(messages)]) => {
                let messages =
                    messages.iter().map(|m| take::<Given>(m)?.message()).collect::<Result<Vec<_>, _>>()?;
                engine.publish_batch(messages).into_iter().map(outcome).collect()
            }
            ("subscribe", [name, from]) => {
                let from: From = take(from)?;
                let start = match from.since {
                    Some(offset) => Start::Since {
                        epoch: from.epoch.map(|e| e.parse().map_err(|_| "not an epoch")).transpose()?,
                        offset,
                        history: from.history.unwrap_or(0),
                    },
                    None => from.history.map_or(Start::Live, Start::History),
                };
                match engine.subscribe(&from.room, start) {
                    Ok(s) => {
                        let at = s.position();
                        let got = json!({"recovered": s.recovered(), "epoch": at.epoch.to_string(), "offset": at.offset});
                        self.subscriptions.insert(text(name)?, s);
                        got
                    }
                    Err(e) => error(&e),
                }
            }
            ("history", [query]) => {
                let Query { room, after, before, limit, backward, at_least } = take(query)?;
                match engine.history(&room, HistoryQuery { after, before, limit, backward, at_least }) {
                    Ok(page) => json!({
                        "epoch": page.epoch.to_string(),
                        "publications": page.publications.iter().map(publication).collect::<Vec<_>>(),
                        "more": page.more,
                        "last": page.last,
                    }),
                    Err(e) => error(&e),
                }
            }
            ("presence", [room]) => {
                let list = engine.presence(&text(room)?);
                let users: Vec<_> = list
                    .users
                    .iter()
                    .map(|(user, connections)| json!({"user": &**user, "connections": connections}))
                    .collect();
                let mut got = json!({"count": list.count, "users": users});
                if list.truncated {
                    got["truncated"] = true.into();
                }
                got
            }
            ("signal", [signal]) => {
                let s: Signal = take(signal)?;
                let got = engine.signal(&s.room, &s.user, &s.name, &s.data.to_string());
                got.map_or_else(|e| error(&e), |()| Value::Null)
            }
            ("send", [send]) => {
                let s: Send = take(send)?;
                let got = engine.send(&s.connection, &s.name, &s.data.to_string());
                got.map_or_else(|e| error(&e), |()| Value::Null)
            }
            ("kick", [kick]) => {
                let k: Kick = take(kick)?;
                let whom = match (k.user, k.connection) {
                    (Some(user), None) => Whom::User(user),
                    (None, Some(connection)) => Whom::Connection(connection),
                    _ => return Err("kick needs a user or a connection".into()),
                };
                let got = engine.kick(&whom, k.room.as_deref());
                got.map_or_else(|e| error(&e), |()| Value::Null)
            }
            ("events", []) => {
                self.events = Some(engine.events());
                Value::Null
            }
            _ => return Err(format!("the host does not {verb} with {} arguments", args.len())),
        })
    }
}

fn take<T: for<'a> Deserialize<'a>>(value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|e| e.to_string())
}

fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("{value} is no string"))
}

fn error(e: &Error) -> Value {
    json!({"error": {"code": e.code().number(), "name": e.code().name(), "retry": e.retry().as_str()}})
}

fn outcome(publishing: Publishing) -> Value {
    match publishing.wait() {
        Ok(Ack { position, id, duplicate }) => json!({
            "epoch": position.epoch.to_string(), "offset": position.offset, "id": id, "duplicate": duplicate,
        }),
        Err(e) => error(&e),
    }
}

/// A publication with the fields that it has on the wire.
fn publication(p: &Publication) -> Value {
    let r = &p.record;
    let mut out = json!({"room": r.room(), "offset": r.offset(), "prev": p.prev, "time": r.time()});
    if !r.user().is_empty() {
        out["user"] = r.user().into();
    }
    if !r.given_id().is_empty() {
        out["id"] = r.given_id().into();
    }
    match r.kind() {
        Kind::Json => {
            // A test that needs data that cannot be represented here looks at text instead.
            out["data"] = serde_json::from_slice(&r.data()).unwrap_or_else(|_| "not representable".into());
        }
        Kind::Binary => out["bytes"] = BASE64_STANDARD.encode(r.data()).into(),
    }
    out
}

fn event(e: &Event) -> Result<Value, String> {
    Ok(match e {
        Event::Connected { connection, user, .. } => {
            json!({"type": "connected", "connection": connection, "user": user})
        }
        Event::Disconnected { connection, user, why } => json!({
            "type": "disconnected", "connection": connection, "user": user, "why": why.map(|w| w.name()),
        }),
        Event::Joined { connection, user, room } => {
            json!({"type": "joined", "connection": connection, "user": user, "room": room})
        }
        Event::Left { connection, user, room } => {
            json!({"type": "left", "connection": connection, "user": user, "room": room})
        }
        Event::Storage { refusing } => json!({"type": "storage", "refusing": refusing.map(|c| c.name())}),
        Event::Lost { count } => json!({"type": "lost", "count": count}),
        other => return Err(format!("the format has no word for {other:?}")),
    })
}
