//! Files that live and end with the process.

use super::files::Files;
use std::collections::BTreeMap;
use std::io;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Files in memory, for `log = "memory"` and for tests. Syncing does nothing. They hold all that retention keeps.
#[derive(Default)]
pub struct Memory(RwLock<BTreeMap<String, Vec<u8>>>);

impl Memory {
    /// No files.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.read().iter().map(|(name, data)| (name, data.len()))).finish()
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// What `read_at` does on bytes in memory.
pub(super) fn read_bytes(data: &[u8], at: u64, buf: &mut [u8]) -> usize {
    let data = usize::try_from(at).ok().and_then(|at| data.get(at..)).unwrap_or_default();
    let n = data.len().min(buf.len());
    buf[..n].copy_from_slice(&data[..n]);
    n
}

/// What `write_at` does on bytes in memory: a hole is filled with zeros.
pub(super) fn write_bytes(file: &mut Vec<u8>, at: u64, data: &[u8]) {
    let at = at as usize;
    if at == file.len() {
        return file.extend_from_slice(data);
    }
    if file.len() < at + data.len() {
        file.resize(at + data.len(), 0);
    }
    file[at..at + data.len()].copy_from_slice(data);
}

impl Files for Memory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.read().iter().map(|(name, data)| (name.clone(), data.len() as u64)).collect())
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let mut files = self.write();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        files.insert(name.into(), Vec::new());
        Ok(())
    }

    fn read_at(&self, name: &str, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(read_bytes(self.read().get(name).ok_or_else(missing)?, at, buf))
    }

    fn write_at(&self, name: &str, at: u64, data: &[u8]) -> io::Result<usize> {
        write_bytes(self.write().get_mut(name).ok_or_else(missing)?, at, data);
        Ok(data.len())
    }

    fn sync_data(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.write().get_mut(name).ok_or_else(missing)?.truncate(len as usize);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.write();
        let data = files.remove(from).ok_or_else(missing)?;
        files.insert(to.into(), data);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.write().remove(name).map(drop).ok_or_else(missing)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}
