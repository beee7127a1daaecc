//! Data directories, from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Copies a folder with all that is in it.
///
/// # Panics
/// If something cannot be read or written.
pub fn copy(from: &Path, to: &Path) {
    made(to, fs::create_dir_all(to));
    for path in entries(from) {
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            made(&target, fs::copy(&path, &target));
        }
    }
}

/// The files of an embedded log and their bytes, by name: all of the directory but the view and the lock.
///
/// # Panics
/// If something cannot be read.
pub fn log_files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    entries(dir)
        .into_iter()
        .filter(|p| p.is_file() && p.file_name().is_some_and(|n| n != "lock"))
        .map(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, made(&p, fs::read(&p)))
        })
        .collect()
}

/// The segments of an embedded log, in order.
///
/// # Panics
/// If the folder cannot be read.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    entries(dir).into_iter().filter(|p| p.extension().is_some_and(|e| e == "log")).collect()
}

/// The files below a folder, in order.
///
/// # Panics
/// If a folder cannot be read.
pub fn all_files(dir: &Path) -> Vec<PathBuf> {
    entries(dir).into_iter().flat_map(|p| if p.is_dir() { all_files(&p) } else { vec![p] }).collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = made(dir, fs::read_dir(dir)).map(|entry| made(dir, entry).path()).collect();
    paths.sort();
    paths
}

fn made<T>(path: &Path, result: std::io::Result<T>) -> T {
    result.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A batch of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Where it begins.
    pub from: usize,
    /// Where it ends.
    pub to: usize,
    /// The sequence of its first record.
    pub first: u64,
    /// How many records it has.
    pub count: u32,
}

/// The batches of a sound segment file (docs/log-format.md).
///
/// # Panics
/// If a batch goes beyond the end.
pub fn batches(segment: &[u8]) -> Vec<Batch> {
    let (mut from, mut batches) = (48, Vec::new());
    while from < segment.len() {
        let field = |at: usize| segment[from + at..from + at + 4].try_into().map_or(0, u32::from_le_bytes);
        let to = from + 24 + field(4) as usize;
        assert!(to <= segment.len(), "the batch at {from} ends at {to}");
        let first = u64::from(field(12)) | u64::from(field(16)) << 32;
        batches.push(Batch { from, to, first, count: field(8) });
        from = to;
    }
    batches
}
