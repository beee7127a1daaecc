//! The harness itself, tested against a toy server that is correct, and against the same server made broken.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod faults;
mod replay;
mod toy;
