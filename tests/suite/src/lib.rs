//! Support for the tests in this crate: a WebSocket client that can break every rule, and the runner of the scenarios in
//! `tests/scenarios`.

pub mod block_on;
pub mod scenario;
pub mod ws;
