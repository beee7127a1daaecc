//! The small files beside the segments: `synced` and `accepted`.

use super::error::{Damage, LogError, io_error};
use super::files::{Files, read_small, replace, write_full};
use super::format::{LogId, MAX_SEQUENCE, VERSION, read_hex, segment_first, u32_at, u64_at, write_hex};
use serde::{Deserialize, Serialize};
use std::io;

pub(super) const SYNCED: &str = "synced";
const ACCEPTED: &str = "accepted";
const MAGIC: &[u8; 8] = b"klatchsy";
const LEN: usize = 48;
/// More accepted damage than fits is not believed.
const MAX_ACCEPTED: usize = 16 << 20;

/// What is known of the log apart from its segments, so that a log cut short at either end is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Synced {
    pub id: LogId,
    /// The first sequence that retention has left.
    pub first: u64,
    /// The last sequence known to be synced when this was written; 0 if none.
    pub last: u64,
}

/// What the `synced` file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncedFile {
    Missing,
    Good(Synced),
    /// There, with this length, and it does not check.
    Bad(u64),
}

impl Synced {
    fn encode(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[..8].copy_from_slice(MAGIC);
        b[8..12].copy_from_slice(&VERSION.to_le_bytes());
        b[12..28].copy_from_slice(&self.id);
        b[28..36].copy_from_slice(&self.first.to_le_bytes());
        b[36..44].copy_from_slice(&self.last.to_le_bytes());
        let crc = crc32c::crc32c(&b[..44]);
        b[44..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn decode(b: &[u8]) -> Option<Synced> {
        let good = b.len() == LEN
            && b.starts_with(MAGIC)
            && u32_at(b, 8)? == VERSION
            && u32_at(b, 44)? == crc32c::crc32c(b.get(..44)?)
            && u64_at(b, 28)?.max(u64_at(b, 36)?) <= MAX_SEQUENCE;
        if !good {
            return None;
        }
        Some(Synced { id: b.get(12..28)?.try_into().ok()?, first: u64_at(b, 28)?, last: u64_at(b, 36)? })
    }

    pub fn read(files: &dyn Files) -> Result<SyncedFile, LogError> {
        let data = read_small(files, SYNCED, LEN + 1).map_err(io_error("cannot read the synced file"))?;
        Ok(match data {
            None => SyncedFile::Missing,
            Some(data) => Synced::decode(&data).map_or(SyncedFile::Bad(data.len() as u64), SyncedFile::Good),
        })
    }

    pub fn write(&self, files: &dyn Files) -> io::Result<()> {
        replace(files, SYNCED, &self.encode())
    }
}

/// What must fit for a full disk to count as one with room, in bytes: more than the largest message, or it would be full again at once.
const ROOM: usize = 256 << 10;

/// Whether there is room on the disk. Tried in the place of a note that was not finished, where the next one removes whatever is left.
pub(super) fn has_room(files: &dyn Files) -> bool {
    let trial = format!("{SYNCED}.new");
    let made = match files.remove(&trial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => files.create(&trial).and_then(|()| write_full(files, &trial, 0, &vec![0; ROOM])),
    };
    // Where it was not made there may be none.
    let removed = files.remove(&trial);
    made.is_ok() && removed.is_ok()
}

/// Damage that the operator gave up. Everything later is judged by what this says; it is written when all of that is on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Accepted {
    /// The log's id. Which it is must not be asked again of files of other logs, when those of this one are fewer.
    #[serde(serialize_with = "write_hex", deserialize_with = "read_hex")]
    pub log: LogId,
    /// The segment that follows the damage. There was one of that name, and it was sound.
    pub next: u64,
    /// What the log had lost before that segment.
    pub damage: Vec<Damage>,
}

impl Accepted {
    /// Whether this damage was accepted. Never any at or after the segment that follows: that is written to.
    pub fn covers(&self, damage: &Damage) -> bool {
        segment_first(&damage.file).is_some_and(|first| first < self.next) && self.damage.contains(damage)
    }

    /// What was accepted earlier, if anything was. A file that does not check accepts nothing.
    pub fn read(files: &dyn Files) -> Result<Option<Accepted>, LogError> {
        let data =
            read_small(files, ACCEPTED, MAX_ACCEPTED).map_err(io_error("cannot read the accepted file"))?;
        let Some(data) = data else { return Ok(None) };
        let parse = || {
            let (json, crc) = data.split_last_chunk::<9>().filter(|(_, crc)| crc.ends_with(b"\n"))?;
            let crc = u32::from_str_radix(std::str::from_utf8(&crc[..8]).ok()?, 16).ok()?;
            let accepted: Accepted =
                (crc == crc32c::crc32c(json)).then(|| serde_json::from_slice(json).ok())??;
            (accepted.next <= MAX_SEQUENCE).then_some(accepted)
        };
        let accepted = parse();
        if accepted.is_none() {
            tracing::warn!("the log's file `accepted` does not check; no damage counts as accepted");
        }
        Ok(accepted)
    }

    /// Records it, in place of what was recorded before.
    pub fn write(&self, files: &dyn Files) -> io::Result<()> {
        let mut data = serde_json::to_vec_pretty(self)?;
        data.push(b'\n');
        let crc = crc32c::crc32c(&data);
        data.extend_from_slice(format!("{crc:08x}\n").as_bytes());
        replace(files, ACCEPTED, &data)
    }
}
