//! Clients of the native protocol.

mod blocking;
mod fleet;
mod state;

pub use blocking::{Client, Failure};
pub use fleet::{Event, Fleet, Link, Opening};
pub use state::{JoinOptions, Outcome, Seen, Since, State};
