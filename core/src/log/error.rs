//! What can go wrong in the log, and what the caller should do.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// Whether the log takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Good,
    /// It has damage that was not accepted: reads work, appends are refused, nothing is changed on disk.
    Damaged,
    /// The last append found no room. The next one tries again.
    Full,
    /// A write or sync failed: no append will succeed until the log is opened anew; reads work.
    Failed,
}

/// A part of the log that does not check. Sound records before, within and after it stay readable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The file's name in the log's directory. Of files that are missing at the log's beginning or end, the first one's.
    pub file: String,
    /// Where the bytes that do not check begin.
    pub from: u64,
    /// Where they end. The same as `from` if no bytes are wrong but records are missing at that place.
    pub to: u64,
    /// Sequences lost, as inclusive ranges in order. Empty if every record could still be read.
    pub missing: Vec<(u64, u64)>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {} to {}: ", self.file, self.from, self.to)?;
        if self.missing.is_empty() {
            return f.write_str("no record lost");
        }
        f.write_str("lost sequences")?;
        for (i, (first, last)) in self.missing.iter().enumerate() {
            let comma = if i == 0 { " " } else { ", " };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first} to {last}")?;
            }
        }
        Ok(())
    }
}

/// Why the log could not do it.
#[derive(Debug)]
#[non_exhaustive]
pub enum LogError {
    /// Another opening holds the directory, in this process or the one with this id (0 if it has not said).
    Locked {
        /// The holder's process id.
        pid: u32,
    },
    /// The log has damage that was not accepted. Nothing was stored.
    Damaged,
    /// There is no room on the disk, the process may open no more files, or (in a log made for it) no sequence is left. What
    /// was to be appended is certainly not stored; a later append may succeed.
    Full,
    /// A write or sync failed, now or earlier. Whether what was being appended is stored is not known, until the log
    /// is opened anew. Final for this opening: nothing is tried again, because a second sync of the same data may
    /// claim success for data that the system has already dropped.
    Failed(String),
    /// The batch is larger than the format allows. Nothing was stored.
    TooLarge,
    /// The log was written by a later version of klatch.
    Version {
        /// The file.
        file: String,
        /// Its format version.
        version: u32,
    },
    /// The record is not in the log: never synced, or dropped by retention.
    NotFound {
        /// The sequence asked for.
        sequence: u64,
    },
    /// What was read does not check.
    Corrupt {
        /// The file.
        file: String,
        /// Where in it.
        at: u64,
    },
    /// Reading or opening failed in the operating system.
    Io {
        /// What was being done.
        what: String,
        /// The system's error.
        error: io::Error,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Locked { pid: 0 } => f.write_str("the log's directory is in use by another process"),
            LogError::Locked { pid } => write!(f, "the log's directory is in use by process {pid}"),
            LogError::Damaged => {
                f.write_str("the log is damaged and takes no records until that is accepted")
            }
            LogError::Full => f.write_str("no room on the log's disk, or no file may be opened"),
            LogError::Failed(what) => write!(f, "the log's disk failed: {what}"),
            LogError::TooLarge => f.write_str("the batch is larger than the log's format allows"),
            LogError::Version { file, version } => {
                write!(f, "{file} has format version {version}, which this version of klatch cannot read")
            }
            LogError::NotFound { sequence } => write!(f, "record {sequence} is not in the log"),
            LogError::Corrupt { file, at } => write!(f, "{file} does not check at byte {at}"),
            LogError::Io { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Adds what was being done to a system error.
pub(super) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> LogError {
    let what = what.into();
    move |error| LogError::Io { what, error }
}

/// Whether an error means that there is no room: on the disk, or for another open file. Nothing was done then, and it may pass.
pub(super) fn no_room(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
