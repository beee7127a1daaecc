//! The embedded log: every record, in order, in segment files of one directory.
//!
//! [`Log`] is the one writer, [`Reader`] reads beside it, [`verify`] checks a directory without touching it. All of
//! them go through [`Files`], so that tests can stop a model disk at any operation. The log knows no threads, no
//! sockets and no clock: times are passed in.
//!
//! # Format (version 1, little endian; docs/log-format.md says the same for other languages)
//!
//! ```text
//! <first sequence, 20 digits>.log    segment head, then batches
//!   segment head  48  "klatchlg", version u32, log id [16], first sequence u64, created ms u64, CRC32C u32
//!   batch head    24  mark u32, content length u32, count u32, first sequence u64, CRC32C u32; then `count` records
//!   record head   24  body length u32, CRC32C u32, sequence u64, timestamp ms u64; then the body (see `Record`)
//! synced         48  "klatchsy", version u32, log id [16], first sequence u64, last synced sequence u64, CRC32C u32
//! accepted           damage that the operator gave up, and the segment that follows it: JSON and its CRC32C
//! lock               locked, as the directory is, by the process that writes; holds its process id; never deleted
//! ```
//!
//! The mark is the CRC32C of the log id, and the CRCs of batches and records begin with the log id. So no client can
//! send data that passes for a batch or record, and a file of another log never does.
//!
//! # Invariants
//!
//! - A batch is written with one write and synced before the next is written, and before a new segment is made. So
//!   only the last batch of the last segment can be incomplete after a crash.
//! - A record is visible to readers, and given to the caller, only after its batch was synced.
//! - A sequence is never used twice in one log, not even where its record was lost.
//! - Nothing is cut but an incomplete last batch with nothing good after it, at or after the `synced` sequence. All
//!   else that does not check is [`Damage`]: reported, kept as it is, and appends are refused until the operator
//!   accepts it.
//! - Damage is accepted once the segment that follows it is on disk, as the log is found with that. Nothing is written to any
//!   segment before, so it is found alike at each opening. In that segment and after it no damage is ever accepted beforehand.
//!
//! Opening reads the whole log once and checks every CRC; a log of many gigabytes takes as long as the disk needs.

mod batch;
mod disk;
mod error;
#[cfg(test)]
pub(crate) mod faulty;
mod files;
mod format;
mod memory;
mod notes;
mod order;
mod reader;
mod strays;
mod survey;
#[cfg(test)]
mod tests;
mod verify;
mod window;
mod writer;

pub use batch::Batch;
pub use disk::Disk;
pub use error::{Damage, LogError, State};
pub use files::Files;
pub use format::Place;
pub use memory::Memory;
pub use reader::{Reader, Scan};
#[cfg(feature = "fuzzing")]
pub(crate) use verify::verify_files;
pub use verify::{Range, Report, SegmentReport, verify};
pub use writer::Log;
