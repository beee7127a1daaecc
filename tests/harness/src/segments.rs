//! The embedded log's directory, read without the engine.
use crate::log::Log;
/// Reads.
pub fn read(_dir: &std::path::Path) -> std::io::Result<Log> {
    Ok(Log::default())
}
