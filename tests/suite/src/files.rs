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
