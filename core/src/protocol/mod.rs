//! Wire protocols: bytes to commands, and publications and replies to bytes. Nothing here knows sockets, tasks or time.

pub mod frame;
pub mod native;
