//! Support for the tests in this crate: a WebSocket client that can break every rule, the runner of the scenarios in
//! `tests/scenarios`, and the real server as a child process.

pub mod block_on;
pub mod compare;
pub mod crowd;
pub mod files;
pub mod helper;
pub mod history;
pub mod members;
pub mod net;
pub mod random;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod senders;
pub mod server;
pub mod storm;
pub mod strace;
pub mod vitals;
pub mod ws;

pub use server::{Launch, server_binary};

use klatch_harness::replay::Corpus;
use std::path::{Path, PathBuf};

/// The folder `tests` of the repository.
pub fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The recorded chat.
///
/// # Panics
/// If it cannot be read.
pub fn corpus() -> Corpus {
    let path = tests_dir().join("fixtures/irc.jsonl");
    Corpus::load(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
