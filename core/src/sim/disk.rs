//! The disk of the simulation: the model disk, with other threads getting their turn around each operation, and a record of all that
//! the log ever held.

use crate::log::Files;
use crate::log::faulty::Faulty;
use crate::points::{Point, reach};
use klatch_harness::log::LogRecord;
use klatch_harness::segments;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What segments held that retention has dropped, by offset; read by the harness's own reader.
pub(super) type Dropped = Arc<Mutex<BTreeMap<u64, LogRecord>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct SimFiles {
    pub(super) disk: Arc<Faulty>,
    dropped: Dropped,
    told: AtomicBool,
}

/// The first sequence that a segment's name tells.
fn first_of(name: &str) -> Option<u64> {
    name.strip_suffix(".log").and_then(|digits| digits.parse().ok())
}

/// The records of the segments on a disk.
pub(super) fn records(disk: &Faulty) -> Result<Vec<LogRecord>, String> {
    let files = disk.live();
    let mut found: Vec<_> =
        files.into_iter().filter_map(|(name, bytes)| Some((first_of(&name)?, bytes))).collect();
    found.sort();
    segments::parse(&found)
}

impl SimFiles {
    pub(super) fn new(disk: Arc<Faulty>, dropped: Dropped) -> SimFiles {
        SimFiles { disk, dropped, told: AtomicBool::new(false) }
    }

    fn around<T>(&self, operation: impl FnOnce(&Faulty) -> io::Result<T>) -> io::Result<T> {
        reach(Point::Free);
        let done = operation(&self.disk);
        if self.disk.is_dead() && !self.told.swap(true, Ordering::SeqCst) {
            reach(Point::Died);
        }
        reach(Point::Free);
        done
    }
}

impl Files for SimFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<()> {
        self.around(|disk| disk.create(name))
    }
    fn read_at(&self, name: &str, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.around(|disk| disk.read_at(name, at, buf))
    }
    fn write_at(&self, name: &str, at: u64, data: &[u8]) -> io::Result<usize> {
        self.around(|disk| disk.write_at(name, at, data))
    }
    fn sync_data(&self, name: &str) -> io::Result<()> {
        self.around(|disk| disk.sync_data(name))
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.around(|disk| disk.truncate(name, len))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.around(|disk| disk.rename(from, to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        if let Some(first) = first_of(name) {
            let bytes = self.disk.live().into_iter().find(|(n, _)| n == name).map(|f| f.1);
            // One whose head is not whole has no record.
            let held = bytes.and_then(|bytes| segments::parse(&[(first, bytes)]).ok()).unwrap_or_default();
            let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
            dropped.extend(held.into_iter().map(|record| (record.offset, record)));
        }
        self.around(|disk| disk.remove(name))
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.around(|disk| disk.sync_dir())
    }
}
