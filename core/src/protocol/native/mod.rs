//! The native protocol, `klatch.v1`: one JSON object per WebSocket text frame. docs/protocol.md is its reference.

pub mod decode;
pub mod encode;
mod fields;
mod query;
pub mod text;

pub use decode::decode;
pub use encode::{SUBPROTOCOL, VERSION};
pub use query::unescape;
