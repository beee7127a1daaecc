//! The server: listeners, HTTP, and the shards that serve established WebSockets. The only user of hyper and tungstenite.

pub(crate) mod admission;
pub(crate) mod conn;
pub(crate) mod descriptors;
pub(crate) mod given;
pub(crate) mod hookpool;
pub(crate) mod http;
pub(crate) mod inbox;
pub(crate) mod listener;
pub(crate) mod net;
pub(crate) mod reader;
pub(crate) mod rooms;
pub(crate) mod shard;
pub(crate) mod shared;
pub(crate) mod timer;
pub(crate) mod wire;
