//! klatch: an embeddable chat engine. Rooms, a WebSocket server and a durable, ordered message log in your program.
//!
//! ```
//! use klatch::{Engine, Message};
//! use std::time::Duration;
//!
//! # fn main() -> klatch::Result<()> {
//! let engine = Engine::builder().log("memory").listen("127.0.0.1:0").start()?;
//! let ack = engine.publish(Message::json("lobby", r#"{"text":"hello"}"#).user("ann")).wait()?;
//! let page = engine.history("lobby", klatch::HistoryQuery::default())?;
//! assert_eq!(page.publications[0].offset(), ack.position.offset);
//! engine.stop(Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! docs/guarantees.md says what may be relied on; docs/protocol.md how clients talk to it.

#[doc(hidden)]
pub mod broker;
pub mod clock;
pub mod codes;
#[doc(hidden)]
pub mod command;
pub mod config;
mod engine;
#[doc(hidden)]
pub mod error;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod hooks;
#[doc(hidden)]
pub mod ids;
pub mod log;
#[doc(hidden)]
pub mod message;
pub mod metrics;
mod points;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod room;
mod server;
mod session;
#[cfg(test)]
mod sim;
mod threads;
#[doc(hidden)]
pub mod view;

pub use broker::Health;
pub use broker::consume::{Consume, Consumer, ConsumerStatus, Handled};
pub use codes::{Code, Disconnect, Retry};
pub use command::{HistoryQuery, Start};
pub use config::Settings;
pub use engine::{
    Ack, Builder, Closer, Ended, Engine, HistoryPage, Message, PresenceList, Publishing, Stopped,
    Subscription, Whom,
};
pub use error::{Error, Result};
pub use events::{Event, EventStream, NextEvent};
pub use hooks::{Authorizer, PublishHook};
pub use message::{Epoch, Kind, Position, Publication, Record};

/// The README's example compiles and does what it says.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
