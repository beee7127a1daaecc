//! What the host program does: the verbs of the API.

use super::World;
use super::pattern::{fill, matches};
use crate::ws::PATIENCE;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use klatch::message::Kind;
use klatch::{
    Ack, Ended, Error, Event, HistoryQuery, Message, NextEvent, Publication, Publishing, Start, Whom,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

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
struct Kick {
    user: Option<String>,
    connection: Option<String>,
    room: Option<String>,
}

impl World {
    pub(super) fn host(&mut self, verb: &str, args: &[Value]) -> Result<(), String> {
        match (verb, args) {
            ("stop", []) => return self.stop(),
            ("start", []) => return self.start(),
            ("restart", []) => {
                self.stop()?;
                return self.start();
            }
            ("repeat", [times, Value::Array(steps)]) => {
                for n in 0..times.as_u64().unwrap_or_default() {
                    for step in steps {
                        let step = step.as_array().ok_or("a step is an array")?;
                        self.step(step).map_err(|e| format!("turn {n}: {e}"))?;
                    }
                }
                return Ok(());
            }
            // What the engine does by the clock: asked again until it is so.
            ("history_eventually" | "presence_eventually", args) => {
                let verb = verb.trim_end_matches("_eventually");
                let until = Instant::now() + PATIENCE;
                loop {
                    let vars = self.vars.clone();
                    match self.host(verb, args) {
                        Err(_) if Instant::now() < until => self.vars = vars,
                        result => return result,
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            // What the host has read or can still read of an engine that has stopped.
            ("next_ended", [name, why]) => {
                let subscription = self.subscriptions.get_mut(&text(name)?).ok_or("no such subscription")?;
                let got = match subscription.next_batch(1, PATIENCE) {
                    Err(Ended::Slow) => "slow",
                    Err(Ended::Stopped) => "stopped",
                    Err(Ended::Closed) => "closed",
                    Err(Ended::Dropped) => "dropped",
                    Err(Ended::Reset) => "reset",
                    Err(Ended::Unreadable) => "unreadable",
                    other => return Err(format!("got {other:?}")),
                };
                return matches(why, &got.into(), &mut self.vars);
            }
            _ => {}
        }
        let engine = self.engine()?.clone();
        let expected = args.get(1);
        match (verb, args) {
            ("publish", [message, ..]) => {
                let message = take::<Given>(&fill(message, &self.vars)?)?.message()?;
                let got = outcome(engine.publish(message));
                self.expected(expected, got)
            }
            ("publish_batch", [Value::Array(messages), Value::Array(expected)]) => {
                let messages = messages
                    .iter()
                    .map(|m| take::<Given>(&fill(m, &self.vars)?)?.message())
                    .collect::<Result<Vec<_>, _>>()?;
                let got = engine.publish_batch(messages).into_iter().map(outcome).collect::<Vec<_>>();
                matches(&Value::Array(expected.clone()), &Value::Array(got), &mut self.vars)
            }
            ("subscribe", [name, from, ..]) => {
                let from: From = take(&fill(from, &self.vars)?)?;
                let start = match from.since {
                    Some(offset) => Start::Since {
                        epoch: from.epoch.map(|e| e.parse().map_err(|_| "not an epoch")).transpose()?,
                        offset,
                        history: from.history.unwrap_or(0),
                    },
                    None => from.history.map_or(Start::Live, Start::History),
                };
                let got = match engine.subscribe(&from.room, start) {
                    Ok(s) => {
                        let at = s.position();
                        let got = json!({"recovered": s.recovered(), "epoch": at.epoch.to_string(), "offset": at.offset});
                        self.subscriptions.insert(text(name)?, s);
                        got
                    }
                    Err(e) => error(&e),
                };
                self.expected(args.get(2), got)
            }
            ("next", [name, Value::Array(expected)]) => {
                let subscription = self.subscriptions.get_mut(&text(name)?).ok_or("no such subscription")?;
                let mut got = Vec::new();
                while got.len() < expected.len() {
                    let batch = subscription.next_batch(expected.len() - got.len(), PATIENCE);
                    let batch = batch.map_err(|e| format!("ended: {e:?}"))?;
                    if batch.is_empty() {
                        return Err(format!("no more came than {got:?}"));
                    }
                    got.extend(batch.iter().map(publication));
                }
                matches(&Value::Array(expected.clone()), &Value::Array(got), &mut self.vars)
            }
            ("next_nothing", [name]) => {
                let subscription = self.subscriptions.get_mut(&text(name)?).ok_or("no such subscription")?;
                match subscription.next_batch(1, Duration::ZERO) {
                    Ok(batch) if batch.is_empty() => Ok(()),
                    other => Err(format!("got {other:?}")),
                }
            }
            ("history", [query, ..]) => {
                let q: Query = take(&fill(query, &self.vars)?)?;
                let Query { room, after, before, limit, backward, at_least } = q;
                let query = HistoryQuery { after, before, limit, backward, at_least };
                let got = match engine.history(&room, query) {
                    Ok(page) => json!({
                        "epoch": page.epoch.to_string(),
                        "publications": page.publications.iter().map(publication).collect::<Vec<_>>(),
                        "more": page.more,
                        "last": page.last,
                    }),
                    Err(e) => error(&e),
                };
                self.expected(expected, got)
            }
            ("presence", [room, expected]) => {
                let list = engine.presence(&text(&fill(room, &self.vars)?)?);
                let users: Vec<_> = list
                    .users
                    .iter()
                    .map(|(user, connections)| json!({"user": &**user, "connections": connections}))
                    .collect();
                let mut got = json!({"count": list.count, "users": users});
                if list.truncated {
                    got["truncated"] = true.into();
                }
                matches(expected, &got, &mut self.vars)
            }
            ("signal", [signal, ..]) => {
                let s: Signal = take(&fill(signal, &self.vars)?)?;
                let got = engine.signal(&s.room, &s.user, &s.name, &s.data.to_string());
                self.expected(expected, got.map_or_else(|e| error(&e), |()| Value::Null))
            }
            ("kick", [kick, ..]) => {
                let k: Kick = take(&fill(kick, &self.vars)?)?;
                let whom = match (k.user, k.connection) {
                    (Some(user), None) => Whom::User(user),
                    (None, Some(connection)) => Whom::Connection(connection),
                    _ => return Err("kick needs a user or a connection".into()),
                };
                let got = engine.kick(&whom, k.room.as_deref());
                self.expected(expected, got.map_or_else(|e| error(&e), |()| Value::Null))
            }
            ("events", []) => {
                self.events = Some(engine.events());
                Ok(())
            }
            ("event", [expected]) => {
                let events = self.events.as_ref().ok_or("no stream of events was opened")?;
                let got = match events.next_within(PATIENCE) {
                    NextEvent::Event(e) => event(&e)?,
                    other => return Err(format!("{other:?}")),
                };
                matches(expected, &got, &mut self.vars)
            }
            _ => Err(format!("the host does not {verb} with {} arguments", args.len())),
        }
    }

    /// Without an expectation a verb must succeed.
    fn expected(&mut self, expected: Option<&Value>, got: Value) -> Result<(), String> {
        match expected {
            Some(expected) => matches(expected, &got, &mut self.vars),
            None if got.get("error").is_some() => Err(format!("failed: {got}")),
            None => Ok(()),
        }
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
