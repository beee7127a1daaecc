//! Hooks that are JavaScript functions. The engine's hook threads only queue the question; the answer has a number, by which JavaScript
//! gives it, now or later.

use crate::engine::{Engine, Table};
use crate::error::guard;
use crate::page::base64;
use crate::queue::{Job, Queue, json};
use klatch::{Authorizer, Kind, PublishHook, hooks};
use napi_derive::napi;
use serde::Serialize;
use std::sync::Arc;

/// The engine's answer object, whichever hook it is of. Dropped without an answer it says so.
pub enum Way {
    /// To a connect.
    Connect(hooks::ConnectAnswer),
    /// To a join.
    Join(hooks::JoinAnswer),
    /// To a publish.
    Publish(hooks::PublishAnswer),
}

/// The answers that are owed.
pub type Answers = Table<Way>;

/// The hooks of an engine.
pub struct Hooks {
    queue: Arc<Queue>,
    answers: Arc<Answers>,
}

impl Hooks {
    /// Hooks that ask by this queue.
    pub fn new(queue: &Arc<Queue>, answers: &Arc<Answers>) -> Hooks {
        Hooks { queue: queue.clone(), answers: answers.clone() }
    }

    fn ask(&self, kind: &'static str, request: &impl Serialize, way: Way) {
        let answer = self.answers.add(way);
        if !self.queue.push(Job::Hook(answer, kind, json(request))) {
            tracing::warn!("too many calls of hooks wait for JavaScript; one is given up");
            drop(self.answers.take(answer));
        }
    }
}

impl Authorizer for Hooks {
    fn connect(&self, request: hooks::ConnectRequest, answer: hooks::ConnectAnswer) {
        let hooks::ConnectRequest { connection, user, token, address, .. } = request;
        self.ask("connect", &(connection, user, token, address.to_string()), Way::Connect(answer));
    }

    fn join(&self, request: hooks::JoinRequest, answer: hooks::JoinAnswer) {
        let hooks::JoinRequest { connection, user, room, .. } = request;
        self.ask("join", &(connection, user, room), Way::Join(answer));
    }
}

impl PublishHook for Hooks {
    fn publish(&self, request: hooks::PublishRequest, answer: hooks::PublishAnswer) {
        let hooks::PublishRequest { connection, user, room, id, kind, data, .. } = request;
        let is_bytes = kind == Kind::Binary;
        let data = if is_bytes { base64(&data) } else { String::from_utf8_lossy(&data).into_owned() };
        self.ask("publish", &(connection, user, room, id, is_bytes, data), Way::Publish(answer));
    }
}

#[napi]
impl Engine {
    /// Yes; for a connect, as this user.
    #[napi]
    pub fn allow(&self, answer: u32, user: String) -> napi::Result<()> {
        guard(|| {
            match self.shared.answers.take(answer) {
                Some(Way::Connect(answer)) => answer.allow(&user),
                Some(Way::Join(answer)) => answer.allow(),
                Some(Way::Publish(answer)) => answer.allow(),
                None => {}
            }
            Ok(())
        })
    }

    /// No; the text goes to the client.
    #[napi]
    pub fn deny(&self, answer: u32, message: String) -> napi::Result<()> {
        guard(|| {
            match self.shared.answers.take(answer) {
                Some(Way::Connect(answer)) => answer.deny(&message),
                Some(Way::Join(answer)) => answer.deny(&message),
                Some(Way::Publish(answer)) => answer.deny(&message),
                None => {}
            }
            Ok(())
        })
    }

    /// Yes, with this JSON in place of what was sent.
    #[napi]
    pub fn replace(&self, answer: u32, json: String) -> napi::Result<()> {
        guard(|| {
            if let Some(Way::Publish(answer)) = self.shared.answers.take(answer) {
                answer.replace_json(&json);
            }
            Ok(())
        })
    }

    /// The same with bytes.
    #[napi]
    pub fn replace_bytes(&self, answer: u32, bytes: &[u8]) -> napi::Result<()> {
        guard(|| {
            if let Some(Way::Publish(answer)) = self.shared.answers.take(answer) {
                answer.replace_bytes(bytes);
            }
            Ok(())
        })
    }

    /// None: the request fails as a fault of the host, if it has not been answered.
    #[napi]
    pub fn give_up(&self, answer: u32) -> napi::Result<()> {
        guard(|| {
            drop(self.shared.answers.take(answer));
            Ok(())
        })
    }
}
