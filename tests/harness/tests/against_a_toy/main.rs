//! The harness itself, tested against a toy server that is correct, and against the same server made broken.

mod faults;
mod replay;
mod toy;
