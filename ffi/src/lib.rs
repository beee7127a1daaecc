//! klatch for C: the functions of `include/klatch.h`, which is generated from this crate and tells how to use them.
//!
//! A thin face without policy. Every function's body runs inside [`guard`]; long-lived handles are places in a pool ([`handle`]), so
//! that one which has been freed is told from a living one; texts and data are checked in [`text`].

#![allow(non_camel_case_types, reason = "the names are those of the header")]
#![allow(clippy::too_many_arguments, reason = "C has neither defaults nor methods")]

pub mod version;

pub mod text;

pub mod error;

mod callback;
mod dispatch;
mod eventfd;
mod guard;
mod handle;

pub mod builder;

pub mod engine;

pub mod publish;

pub mod batch;

pub mod publication;

pub mod history;

pub mod subscription;

pub mod event;

pub mod presence;

pub mod signal;

pub mod hook;

pub mod consumer;

pub mod log;
