//! Checking a log's directory from outside.

use super::disk::Disk;
use super::error::{Damage, LogError};
use super::files::Files;
use super::format::{hex, segment_name};
use super::notes::{Accepted, Synced, SyncedFile};
use super::survey::{Survey, survey};
use crate::message::Record;
use bytes::Bytes;
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

/// What [`verify`] found. Its `Display` is a text for operators.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The log's random id in hexadecimal; `None` if there is no log or no head of it checks.
    pub id: Option<String>,
    /// The segment files, in order.
    pub segments: Vec<SegmentReport>,
    /// Sound records.
    pub records: u64,
    /// Sound batches.
    pub batches: u64,
    /// Rooms that the sound records belong to.
    pub rooms: u64,
    /// The first and last sequence of a sound record.
    pub sequences: Option<(u64, u64)>,
    /// The first and last timestamp of a sound record, in milliseconds since 1970 UTC.
    pub times: Option<(u64, u64)>,
    /// The last sequence known to be synced, by the `synced` file; `None` if that is missing or does not check.
    pub synced: Option<u64>,
    /// An incomplete last batch: being written now, or cut at the next opening. Not damage.
    pub torn: Option<Range>,
    /// What the disk could not read, as opposed to what does not check. It lies within the damage.
    pub unreadable: Vec<Range>,
    /// Damage that was not accepted.
    pub damage: Vec<Damage>,
    /// Damage that was accepted.
    pub accepted: Vec<Damage>,
}

/// One segment file.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SegmentReport {
    /// The file's name.
    pub file: String,
    /// Its size in bytes, without an incomplete last batch.
    pub bytes: u64,
    /// The first sequence that it can hold, and the last; the last is smaller if it holds none.
    pub sequences: (u64, u64),
    /// Sound records in it.
    pub records: u64,
    /// Sound batches in it.
    pub batches: u64,
    /// The first and last timestamp in it.
    pub times: Option<(u64, u64)>,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Range {
    /// The file.
    pub file: String,
    /// Where it begins.
    pub from: u64,
    /// Where the file ends.
    pub to: u64,
}

/// How often a log is read again that dropped segments meanwhile.
const ATTEMPTS: usize = 10;

/// Reads and checks a whole log without changing it or taking its lock; it may be in use.
///
/// Errors are of the operating system or [`LogError::Version`]; damage is in the report.
pub fn verify(dir: &Path) -> Result<Report, LogError> {
    let first = |file: SyncedFile| match file {
        SyncedFile::Good(synced) => Some(synced.first),
        _ => None,
    };
    for attempt in 1.. {
        // Opened anew each time: an open file would stay the one that the writer has replaced.
        let disk = Disk::shared(dir)?;
        // Read before the segments, so that a log in use has at least what this says.
        let synced = Synced::read(&disk)?;
        let report = check(&disk, synced);
        let dropped = match &report {
            Err(LogError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => true,
            _ => first(Synced::read(&Disk::shared(dir)?)?) != first(synced),
        };
        if !dropped {
            return report;
        }
        if attempt == ATTEMPTS {
            break;
        }
    }
    let what = "the log dropped segments each time it was read".into();
    Err(LogError::Io { what, error: io::ErrorKind::ResourceBusy.into() })
}

/// The same for files that nobody writes meanwhile.
#[cfg(feature = "fuzzing")]
pub(crate) fn verify_files(files: &dyn Files) -> Result<Report, LogError> {
    check(files, Synced::read(files)?)
}

fn check(files: &dyn Files, synced: SyncedFile) -> Result<Report, LogError> {
    let accepted = Accepted::read(files)?;
    let mut rooms = HashSet::new();
    let mut sequences: Option<(u64, u64)> = None;
    let found = survey(files, synced, accepted.as_ref(), &mut |_, found, body| {
        sequences = Some((sequences.map_or(found.sequence, |(first, _)| first), found.sequence));
        let record = Record::trusted(found.sequence, found.time, Bytes::copy_from_slice(body));
        let mut hasher = DefaultHasher::new();
        record.room().hash(&mut hasher);
        rooms.insert(hasher.finish());
    })?;
    let (accepted, damage) = found.damage().into_iter().partition(|d| found.accepted.covers(d));
    let segments = segments(&found);
    let times = segments.iter().filter_map(|s| s.times);
    Ok(Report {
        id: found.id.as_ref().map(hex),
        records: segments.iter().map(|s| s.records).sum(),
        batches: segments.iter().map(|s| s.batches).sum(),
        rooms: rooms.len() as u64,
        sequences,
        times: times.reduce(|(first, _), (_, last)| (first, last)),
        synced: match synced {
            SyncedFile::Good(synced) => Some(synced.last),
            _ => None,
        },
        torn: found.torn.or(found.unfinished.map(|(file, size)| (file, 0, size))).map(range),
        unreadable: found.unreadable.into_iter().map(range).collect(),
        segments,
        damage,
        accepted,
    })
}

fn range((file, from, to): (String, u64, u64)) -> Range {
    Range { file, from, to }
}

fn segments(found: &Survey) -> Vec<SegmentReport> {
    let report = |s: &super::survey::Segment| SegmentReport {
        file: segment_name(s.first),
        bytes: s.end,
        sequences: (s.first, s.last),
        records: s.counted.records,
        batches: s.counted.batches,
        times: s.counted.first_time.zip(s.counted.last_time),
    };
    found.segments.iter().map(report).collect()
}

impl Report {
    /// Whether there is no damage that was not accepted.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(id) = &self.id else { return writeln!(f, "no log here") };
        writeln!(f, "log {id}")?;
        let bytes: u64 = self.segments.iter().map(|s| s.bytes).sum();
        writeln!(
            f,
            "{} records in {} batches of {} rooms, {} segments, {}",
            self.records,
            self.batches,
            self.rooms,
            self.segments.len(),
            Size(bytes)
        )?;
        if let (Some((first, last)), Some((begin, end))) = (self.sequences, self.times) {
            writeln!(f, "sequences {first} to {last}, {} to {}", Time(begin), Time(end))?;
        }
        match self.synced {
            Some(last) => writeln!(f, "known to be synced up to sequence {last}")?,
            None => writeln!(f, "no synced file: a log cut short would not be noticed")?,
        }
        for s in &self.segments {
            write!(f, "  {} {:>10} {} records", s.file, Size(s.bytes).to_string(), s.records)?;
            if let Some((begin, end)) = s.times {
                write!(
                    f,
                    ", sequences {} to {}, {} to {}",
                    s.sequences.0,
                    s.sequences.1,
                    Time(begin),
                    Time(end)
                )?;
            }
            writeln!(f)?;
        }
        if let Some(Range { file, from, to }) = &self.torn {
            writeln!(
                f,
                "incomplete at the end: {file} bytes {from} to {to} (being written, or cut at the next start)"
            )?;
        }
        for Range { file, from, to } in &self.unreadable {
            writeln!(
                f,
                "UNREADABLE: {file} bytes {from} to {to}: the disk reports an error, see the system's log"
            )?;
        }
        for damage in &self.accepted {
            writeln!(f, "accepted damage: {damage}")?;
        }
        for damage in &self.damage {
            writeln!(f, "DAMAGE: {damage}")?;
        }
        if self.is_sound() {
            writeln!(f, "sound")
        } else {
            writeln!(f, "DAMAGED: takes no records until that is accepted")
        }
    }
}

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n < 1 << 10 => write!(f, "{n} B"),
            n if n < 1 << 20 => write!(f, "{:.1} KiB", n as f64 / 1024.0),
            n if n < 1 << 30 => write!(f, "{:.1} MiB", n as f64 / 1_048_576.0),
            n => write!(f, "{:.1} GiB", n as f64 / 1_073_741_824.0),
        }
    }
}

/// Milliseconds since 1970 as a date and time in UTC.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        // Years begin in March, so that the day added in a leap year is the last one.
        let days = seconds / 86_400 + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, january) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + january;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}
