//! The hooks that scenarios rely on: what they do is written in what they are asked. The README has the table.

use klatch::hooks::{ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishRequest};
use klatch::{Authorizer, PublishHook};
use std::any::Any;
use std::sync::{Mutex, PoisonError};

/// See the module.
#[derive(Default)]
pub(super) struct Standard {
    /// Answers that are never given.
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Standard {
    fn keep(&self, answer: impl Any + Send) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(answer));
    }
}

#[allow(clippy::panic, reason = "to see what becomes of it")]
fn fail() -> ! {
    panic!("a hook of a scenario fails on purpose");
}

impl Authorizer for Standard {
    fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
        match request.token.as_str() {
            "" => answer.allow(&request.user),
            "deny" => answer.deny("no entry"),
            "never" => self.keep(answer),
            "throw" => fail(),
            "drop" => drop(answer),
            token => answer.allow(token.strip_prefix("user:").unwrap_or_default()),
        }
    }

    fn join(&self, request: JoinRequest, answer: JoinAnswer) {
        match request.room.split('-').next() {
            Some("deny") => answer.deny("not this room"),
            Some("never") => self.keep(answer),
            Some("throw") => fail(),
            Some("drop") => drop(answer),
            _ => answer.allow(),
        }
    }
}

impl PublishHook for Standard {
    fn publish(&self, request: PublishRequest, answer: PublishAnswer) {
        match &request.data[..] {
            b"\"deny\"" => answer.deny("not this message"),
            b"\"never\"" => self.keep(answer),
            b"\"throw\"" => fail(),
            b"\"drop\"" => drop(answer),
            b"\"replace\"" => answer.replace_json(r#"{"replaced":true}"#),
            b"\"replace bytes\"" => answer.replace_bytes(b"replaced"),
            _ => answer.allow(),
        }
    }
}
