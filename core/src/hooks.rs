//! Hooks: what the host decides. A hook gets a request and an answer object; it may answer at once or later, from any thread.
//! Hooks run on four threads of their own and may block; past `hook_timeout_ms` the request fails with `hook_timeout`. Four that never
//! return leave no thread for the rest, and every request that needs a hook fails so; whoever needs none is served. A panic of a hook
//! fails its request with `internal` and goes no further. A hook may call anything of the engine, [`Engine::stop`](crate::Engine::stop)
//! too. An answer that is kept for ever costs what it holds, and nothing else.

use crate::codes::Code;
use crate::error::Error;
use crate::message::Kind;
use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Who may connect and join. Without one, everybody may, under any user name if `open_users` is set.
pub trait Authorizer: Send + Sync {
    /// A connection asks to be let in; allowing it names its user.
    fn connect(&self, request: ConnectRequest, answer: ConnectAnswer);

    /// A connection asks to join a room. Allows by default.
    fn join(&self, request: JoinRequest, answer: JoinAnswer) {
        let _ = request;
        answer.allow();
    }
}

/// What may be published by clients. Publishes of the host itself do not pass through it.
pub trait PublishHook: Send + Sync {
    /// A client publishes.
    fn publish(&self, request: PublishRequest, answer: PublishAnswer);
}

/// A connection that asks to be let in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectRequest {
    /// The connection's id, as in its welcome.
    pub connection: String,
    /// The user that the client claims to be; empty if none.
    pub user: String,
    /// The client's token; empty if none.
    pub token: String,
    /// The client's address.
    pub address: SocketAddr,
}

/// A connection that asks to join a room.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JoinRequest {
    /// The connection's id.
    pub connection: String,
    /// Its user; empty for an anonymous one.
    pub user: String,
    /// The room.
    pub room: String,
}

/// A message that a client publishes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PublishRequest {
    /// The connection's id.
    pub connection: String,
    /// Its user; empty for an anonymous one.
    pub user: String,
    /// The room.
    pub room: String,
    /// The message id as the client gave it; empty if it gave none.
    pub id: String,
    /// What the data is.
    pub kind: Kind,
    /// The data.
    pub data: Bytes,
}

/// What a hook answered.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Yes; for a connect, as this user.
    Allow(Box<str>),
    /// Yes, with this data instead.
    Replace(Kind, Bytes),
    /// No.
    Deny(Error),
}

/// Where an answer goes.
pub(crate) trait AnswerSink: Send + Sync + fmt::Debug {
    /// Takes the answer to call number `call`.
    fn answer(&self, call: u64, decision: Decision);
}

/// The way back, used once. Dropped without an answer it says so.
#[derive(Debug)]
pub(crate) struct Way {
    sink: Option<Arc<dyn AnswerSink>>,
    call: u64,
}

impl Way {
    pub(crate) fn new(sink: Arc<dyn AnswerSink>, call: u64) -> Way {
        Way { sink: Some(sink), call }
    }

    fn send(&mut self, decision: Decision) {
        if let Some(sink) = self.sink.take() {
            sink.answer(self.call, decision);
        }
    }

    fn deny(&mut self, message: &str) {
        self.send(Decision::Deny(Error::new(Code::Denied, message)));
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.send(Decision::Deny(Error::new(Code::Internal, "the hook ended without an answer")));
    }
}

/// The answer to a [`ConnectRequest`].
#[derive(Debug)]
pub struct ConnectAnswer(pub(crate) Way);

impl ConnectAnswer {
    /// Lets it in as this user (empty: anonymous). A name that cannot be a user name is answered as `internal`.
    pub fn allow(mut self, user: &str) {
        self.0.send(Decision::Allow(user.into()));
    }
    /// Refuses it; the text goes to the client.
    pub fn deny(mut self, message: &str) {
        self.0.send(Decision::Deny(Error::new(Code::Unauthorized, message)));
    }
}

/// The answer to a [`JoinRequest`].
#[derive(Debug)]
pub struct JoinAnswer(pub(crate) Way);

impl JoinAnswer {
    /// Lets it join.
    pub fn allow(mut self) {
        self.0.send(Decision::Allow("".into()));
    }
    /// Refuses it; the text goes to the client.
    pub fn deny(mut self, message: &str) {
        self.0.deny(message);
    }
}

/// The answer to a [`PublishRequest`].
#[derive(Debug)]
pub struct PublishAnswer(pub(crate) Way);

impl PublishAnswer {
    /// Stores it as it is.
    pub fn allow(mut self) {
        self.0.send(Decision::Allow("".into()));
    }
    /// Stores this JSON text instead. It must be one valid JSON value; else the publish fails as `internal`. A retry with the
    /// same id must be given the same text, or it is a conflict.
    pub fn replace_json(mut self, json: &str) {
        let valid = serde_json::from_str::<&serde_json::value::RawValue>(json).map(|v| v.get().to_owned());
        self.0.send(match valid {
            Ok(json) => Decision::Replace(Kind::Json, json.into()),
            Err(_) => {
                Decision::Deny(Error::new(Code::Internal, "the publish hook's replacement is not JSON"))
            }
        });
    }
    /// Stores these bytes instead.
    pub fn replace_bytes(mut self, bytes: &[u8]) {
        self.0.send(Decision::Replace(Kind::Binary, Bytes::copy_from_slice(bytes)));
    }
    /// Refuses it; the text goes to the client, and the message is certainly not stored.
    pub fn deny(mut self, message: &str) {
        self.0.deny(message);
    }
}
