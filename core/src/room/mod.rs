//! Rooms on this node: who has members where, what was published last, who is present.

pub mod hub;
pub mod presence;
pub mod recent;
pub mod subscriber;
