//! What the targets of tests/fuzz call of the private parts. Thin, and nothing for anybody else: it changes with them.

use crate::config::Settings;
use crate::error::Result;
pub use crate::server::http::{Reading, read as request};

/// Whether an engine can be started with these settings.
pub fn check(settings: &Settings) -> Result<()> {
    settings.check()
}
