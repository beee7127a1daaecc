//! What the targets of tests/fuzz call of the private parts. Thin, and nothing for anybody else: it changes with them.

use crate::config::Settings;
use crate::error::Result;
use crate::log::{self, Files, LogError, Report};
pub use crate::server::http::{Reading, read as request};

/// [`log::verify`] of any files.
pub fn verify(files: &dyn Files) -> std::result::Result<Report, LogError> {
    log::verify_files(files)
}

/// Whether an engine can be started with these settings.
pub fn check(settings: &Settings) -> Result<()> {
    settings.check()
}
