//! Reading beside the writer.

use super::error::{Damage, LogError};
use super::files::{Files, read_full};
use super::format::{Found, LogId, MIN_RECORD, Mark, Place, SEGMENT_HEAD, segment_name};
use super::survey::{Segment, batch_len};
use super::window::Window;
use crate::message::Record;
use bytes::Bytes;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What the writer and the readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub files: Arc<dyn Files>,
    pub id: LogId,
    pub mark: Mark,
    index: RwLock<Index>,
}

/// The segments and how far they are synced.
#[derive(Debug)]
pub(super) struct Index {
    /// In order. Never empty, but while a damaged log has no segment left.
    pub segments: Vec<Segment>,
    /// The last synced sequence.
    pub last: u64,
}

impl Index {
    fn find(&self, first: u64) -> Option<&Segment> {
        let i = self.segments.binary_search_by_key(&first, |s| s.first).ok()?;
        self.segments.get(i)
    }

    /// The segment of this name, or the next one after it.
    fn from(&self, first: u64) -> Option<&Segment> {
        self.segments.get(self.segments.partition_point(|s| s.first < first))
    }

    /// The segment that holds a sequence, if it lies in any; otherwise the first one.
    fn holding(&self, sequence: u64) -> Option<&Segment> {
        self.segments.get(self.segments.partition_point(|s| s.first <= sequence).saturating_sub(1))
    }
}

impl Shared {
    pub fn new(files: Arc<dyn Files>, id: LogId, index: Index) -> Shared {
        Shared { files, id, mark: Mark::new(&id), index: RwLock::new(index) }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a log from any thread while the one writer appends. Cheap to clone. Sees only what was synced.
#[derive(Clone, Debug)]
pub struct Reader(pub(super) Arc<Shared>);

impl Reader {
    /// The log's random id.
    pub fn id(&self) -> [u8; 16] {
        self.0.id
    }

    /// The first sequence that the log holds or will hold; it grows when retention drops segments.
    pub fn first_sequence(&self) -> u64 {
        self.0.read().segments.first().map_or(1, |s| s.first)
    }

    /// The last synced sequence; 0 if there is none.
    pub fn last_sequence(&self) -> u64 {
        self.0.read().last
    }

    /// The record at a place, if it is the one with this sequence. One read of the file.
    ///
    /// [`LogError::NotFound`] if the log holds nothing there (any more), [`LogError::Corrupt`] if what is there does
    /// not check or has another sequence.
    pub fn read(&self, place: &Place, sequence: u64) -> Result<Record, LogError> {
        let missing = || LogError::NotFound { sequence };
        let (at, len) = (place.at as u64, place.len as u64);
        {
            let index = self.0.read();
            let segment = index.find(place.segment).filter(|_| sequence <= index.last).ok_or_else(missing)?;
            // Bounds what is read to what the file has, whatever the place says.
            if at < SEGMENT_HEAD as u64 || len < MIN_RECORD as u64 || at + len > segment.end {
                return Err(missing());
            }
        }
        let name = segment_name(place.segment);
        let mut bytes = vec![0; place.len as usize];
        let got = match read_full(&*self.0.files, &name, at, &mut bytes) {
            // Dropped since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
            got => got.map_err(|error| LogError::Io { what: format!("cannot read {name}"), error })?,
        };
        bytes.truncate(got);
        let bytes = Bytes::from(bytes);
        let found = self.0.mark.record(&bytes).filter(|f| f.sequence == sequence && f.len == bytes.len());
        found.map(|f| f.record(&bytes)).ok_or(LogError::Corrupt { file: name, at })
    }

    /// Goes through the records from a sequence on, up to what is synced now.
    pub fn scan(&self, from_sequence: u64) -> Scan {
        let index = self.0.read();
        let (mut segment, mut at) = (0, None);
        if let Some(start) = index.holding(from_sequence) {
            segment = start.first;
            let i = start.index.partition_point(|(sequence, _)| *sequence <= from_sequence);
            at = i.checked_sub(1).and_then(|i| start.index.get(i)).map(|(_, at)| *at);
        }
        let hole = index.find(segment).map_or(0, |s| s.holes.partition_point(|h| Some(h.damage.from) < at));
        let (shared, until, window) = (self.0.clone(), index.last, Window::new(segment_name(segment)));
        let skipped = Vec::new();
        Scan { shared, from: from_sequence, until, segment, at, hole, window, skipped, over: false }
    }
}

/// Records in order, a batch at a time; see [`Reader::scan`].
///
/// Damage found at open is passed over: what is sound within it is yielded, and [`Scan::skipped`] lists it. Segments
/// dropped by retention while the scan is under way are left out. A batch that checked at open and no longer does
/// ends the scan with an error.
#[derive(Debug)]
pub struct Scan {
    shared: Arc<Shared>,
    from: u64,
    until: u64,
    /// The segment read now, and where in it; at its beginning if `None`.
    segment: u64,
    at: Option<u64>,
    /// The next damage of this segment.
    hole: usize,
    window: Window,
    skipped: Vec<Damage>,
    over: bool,
}

/// What a scan does next.
enum Step {
    Batch { at: u64, limit: u64 },
    Salvage(Vec<Found>),
    Next,
    End,
}

impl Scan {
    /// Damage passed so far.
    pub fn skipped(&self) -> &[Damage] {
        &self.skipped
    }

    fn step(&mut self) -> Step {
        let index = self.shared.read();
        let Some(segment) = index.from(self.segment) else { return Step::End };
        if segment.first != self.segment {
            self.segment = segment.first;
            self.at = None;
        }
        let at = match self.at {
            Some(at) => at,
            None => {
                self.hole = 0;
                self.window = Window::new(segment_name(segment.first));
                SEGMENT_HEAD as u64
            }
        };
        self.at = Some(at);
        let hole = segment.holes.get(self.hole);
        match hole {
            Some(hole) if hole.damage.from <= at => {
                self.hole += 1;
                self.at = Some(at.max(hole.damage.to));
                self.skipped.push(hole.damage.clone());
                Step::Salvage(hole.salvaged.clone())
            }
            _ if at < segment.end => Step::Batch { at, limit: hole.map_or(segment.end, |h| h.damage.from) },
            _ => {
                self.segment = segment.first.saturating_add(1);
                self.at = None;
                Step::Next
            }
        }
    }

    /// The records among `found` that are asked for; their places are relative to `base` in the file.
    fn records(&self, found: &[Found], bytes: &Bytes, base: u64) -> Vec<(Record, Place)> {
        let wanted = found.iter().filter(|f| (self.from..=self.until).contains(&f.sequence));
        let record = |f: &Found| {
            let at = base + f.at as u64;
            let place = Place { segment: self.segment, at: at as u32, len: f.len as u32 };
            (f.record(bytes), place)
        };
        wanted.map(record).collect()
    }

    fn batch(&mut self, at: u64, limit: u64) -> Result<Vec<(Record, Place)>, LogError> {
        let shared = self.shared.clone();
        let files = &*shared.files;
        let corrupt = LogError::Corrupt { file: self.window.name().into(), at };
        let found =
            self.window.batch(files, shared.mark, at, limit).map_err(|e| self.failed(e))?.ok_or(corrupt)?;
        let len = batch_len(&found);
        self.at = Some(at + len);
        if found.first().is_some_and(|f| f.sequence > self.until) {
            self.over = true;
            return Ok(Vec::new());
        }
        if found.last().is_some_and(|f| f.sequence < self.from) {
            return Ok(Vec::new());
        }
        let bytes = self.window.get(files, at, len as usize, limit).map(Bytes::copy_from_slice);
        let bytes = bytes.map_err(|e| self.failed(e))?;
        Ok(self.records(&found, &bytes, at))
    }

    fn salvage(&mut self, found: &[Found]) -> Result<Vec<(Record, Place)>, LogError> {
        let mut records = Vec::new();
        for f in found {
            let place = Place { segment: self.segment, at: f.at as u32, len: f.len as u32 };
            if (self.from..=self.until).contains(&f.sequence) {
                records.push((Reader(self.shared.clone()).read(&place, f.sequence)?, place));
            }
        }
        Ok(records)
    }

    fn failed(&self, error: io::Error) -> LogError {
        LogError::Io { what: format!("cannot read {}", self.window.name()), error }
    }

    /// Whether retention has dropped the segment that is being read.
    fn dropped(&self) -> bool {
        self.shared.read().find(self.segment).is_none()
    }
}

impl Iterator for Scan {
    type Item = Result<Vec<(Record, Place)>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            let got = match self.step() {
                Step::Batch { at, limit } => self.batch(at, limit),
                Step::Salvage(found) => self.salvage(&found),
                Step::Next => continue,
                Step::End => break,
            };
            match got {
                Ok(records) if records.is_empty() => {}
                Ok(records) => return Some(Ok(records)),
                Err(_) if self.dropped() => {}
                Err(e) => {
                    self.over = true;
                    return Some(Err(e));
                }
            }
        }
        self.over = true;
        None
    }
}
