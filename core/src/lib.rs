//! klatch: an embeddable chat engine.

pub mod clock;
pub mod codes;
pub mod command;
pub mod config;
pub mod error;
pub mod ids;
pub mod log;
pub mod message;
pub mod protocol;
pub mod view;
