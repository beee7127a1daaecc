//! The native half of the Node package `klatch`: core behind one class, whose methods take and return numbers, texts and buffers. What is
//! pleasant about the package is written in JavaScript, beside this.
//!
//! No thread of the engine ever waits for JavaScript: outcomes, wake-ups and the calls of hooks and handlers gather in a [`queue`], and one
//! call wakes the thread that runs JavaScript, which takes what has gathered as one text of JSON. Whatever waits for a disk or a thread
//! does so on a thread of its own. Each environment (the main thread, each worker) has engines of its own; only the
//! log is the process's.

// Where all libraries' tests are built, this has none: Node has them, and nothing is registered with it there.
#![cfg_attr(test, allow(dead_code))]

mod consumer;
mod engine;
mod error;
mod event;
mod handover;
mod hook;
mod log;
mod page;
mod queue;
mod subscription;

use napi_derive::napi;

/// The package's version.
#[napi]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Every code, as JSON: its number, name, class and meaning.
#[napi]
pub fn codes() -> String {
    let all = klatch::Code::ALL.iter();
    let all: Vec<_> = all.map(|c| (c.number(), c.name(), c.retry().as_str(), c.doc())).collect();
    queue::json(&all)
}
