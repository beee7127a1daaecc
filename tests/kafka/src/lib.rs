//! Tests of klatch on a real Kafka, and what they need of one.
//!
//! - [`cluster`]: one Kafka server or three, started from their jars ([`jars`]) in a second, each a child that dies with the test.
//! - [`proxy`]: stands between one node of klatch and the cluster; holds back what the node fetches alone, or what it produces alone.
//! - [`oracle`]: what a topic holds, read by another client in another language, which also writes what klatch never would.
//! - [`secure`]: a listener with TLS, passwords and access rules.
//! - [`writers`]: programs that write to a topic by other clients, for as long as a test wants.
//! - [`expected`]: what the records of a topic mean to klatch.
//!
//! Nothing of it uses the crate `klatch`.

pub mod cluster;
pub mod expected;
pub mod jars;
mod mortal;
pub mod oracle;
pub mod proxy;
pub mod secure;
mod server;
pub mod writers;

pub use cluster::Cluster;
pub use expected::Expected;
pub use oracle::Oracle;
pub use proxy::{Proxy, Traffic};

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long anything may take on a busy machine before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The folder of this crate.
fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
