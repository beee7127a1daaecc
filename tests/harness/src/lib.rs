//! A client of klatch's native protocol, a replay of real chat, and a checker, to see from outside that a
//! server keeps its guarantees.
//!
//! Nothing here uses the crate `klatch`: the protocol, the log's format and the rule for duplicates are
//! written a second time from their specifications, so that a fault in one copy shows.
//!
//! - [`client`]: one blocking [`client::Client`]; [`client::Fleet`] drives thousands of connections from one
//!   thread; [`client::State`] is what both share, without sockets.
//! - [`observe`]: what each client sent and saw.
//! - [`log`]: what the log holds and which of it counts; read from disk by [`segments`] or over HTTP by
//!   [`http`].
//! - [`checker`]: compares the two and names what is wrong.
//! - [`replay`]: plays a corpus against a server and reports.
//! - [`proxy`]: makes a correct server broken, to see that the checker would notice.
//! - [`process`]: a server as a child process.

pub mod checker;
pub mod client;
pub mod http;
pub mod log;
pub mod observe;
pub mod process;
pub mod proxy;
pub mod replay;
pub mod segments;
pub mod target;
pub mod wire;
