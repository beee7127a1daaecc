//! Whether the tests of stops would notice a writer that is careless: each duty is left out in turn, and the same runs must
//! find it.

use super::super::faulty::{Fault, Operation};
use super::crash::{OPTIONS, Run, go_on, retaining, run, then};
use super::*;
use std::io;

/// A duty that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Omission {
    /// The directory is not synced.
    DirectorySync,
    /// Appends are acknowledged and not synced.
    SegmentSync,
    /// A note is renamed over the old one and was not synced.
    NoteSync,
    /// The old note is overwritten in its place.
    NoteInPlace,
    /// An incomplete batch is not cut off.
    Cut,
    /// The last batch is not written again after a restart.
    Rewrite,
}

/// A disk below a writer that leaves something out.
#[derive(Debug)]
struct Careless {
    files: Arc<Faulty>,
    omits: Omission,
}

impl Careless {
    fn is(&self, omission: Omission) -> bool {
        self.omits == omission
    }

    fn len(&self, name: &str) -> u64 {
        let files = self.files.list().unwrap_or_default();
        files.into_iter().find(|(n, _)| n == name).map_or(0, |(_, len)| len)
    }
}

impl Files for Careless {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.files.list()
    }
    fn create(&self, name: &str) -> io::Result<()> {
        self.files.create(name)
    }
    fn read_at(&self, name: &str, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.files.read_at(name, at, buf)
    }
    fn write_at(&self, name: &str, at: u64, data: &[u8]) -> io::Result<usize> {
        if self.is(Omission::Rewrite) && at + data.len() as u64 <= self.len(name) {
            return Ok(data.len());
        }
        self.files.write_at(name, at, data)
    }
    fn sync_data(&self, name: &str) -> io::Result<()> {
        let note = !name.ends_with(".log");
        if self.is(Omission::NoteSync) && note || self.is(Omission::SegmentSync) && !note {
            return Ok(());
        }
        self.files.sync_data(name)
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        if self.is(Omission::Cut) { Ok(()) } else { self.files.truncate(name, len) }
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if self.is(Omission::NoteInPlace) && self.len(to) > 0 {
            let mut note = vec![0; self.len(from) as usize];
            self.files.read_at(from, 0, &mut note)?;
            self.files.write_at(to, 0, &note)?;
            return self.files.sync_data(to);
        }
        self.files.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        if self.is(Omission::DirectorySync) { Ok(()) } else { self.files.sync_dir() }
    }
}

/// What the first run that went wrong said; `None` if none did.
fn first_wrong(omits: Omission) -> Option<String> {
    for fault in [Fault::Kill, Fault::PowerCut, Fault::Error(io::ErrorKind::Other)] {
        // A sync that fails loses what it should have written; what is left by it shows with the power cut after.
        let on = matches!(fault, Fault::Error(_)).then_some(Operation::Sync);
        for options in [OPTIONS, retaining()] {
            for seed in 0..16 {
                for n in 1.. {
                    let files = Arc::new(Faulty::new(seed * 1000 + n));
                    files.plan(on, n, fault);
                    let mut left = Run::default();
                    let stopped =
                        run(&Arc::new(Careless { files: files.clone(), omits }), &options, &mut left);
                    if !files.happened() {
                        break;
                    }
                    assert!(stopped.is_err());
                    let files = Arc::new(Careless { files: Arc::new(files.restart()), omits });
                    let wrong = go_on(&files, &then(&options, n), &left).and_then(|()| {
                        // What it said it had must be there after the next power cut too.
                        let last = left.acked + left.in_flight;
                        let cut = Arc::new(files.files.cut_power());
                        let log = open(&cut, &options).map_err(|e| e.to_string())?;
                        if log.state() == State::Good && log.next_sequence() > last {
                            return Ok(());
                        }
                        Err(format!(
                            "then {:?}, next {}: {:?}",
                            log.state(),
                            log.next_sequence(),
                            log.damage()
                        ))
                    });
                    if let Err(wrong) = wrong {
                        return Some(format!("{omits:?}: {fault:?}, seed {seed}, at {n}: {wrong}"));
                    }
                }
            }
        }
    }
    None
}

#[test]
fn a_writer_that_leaves_out_a_duty_is_caught() {
    for omits in [
        Omission::DirectorySync,
        Omission::SegmentSync,
        Omission::NoteSync,
        Omission::NoteInPlace,
        Omission::Cut,
        Omission::Rewrite,
    ] {
        let wrong = first_wrong(omits);
        println!("{wrong:?}");
        assert!(wrong.is_some(), "{omits:?} goes unnoticed");
    }
}
