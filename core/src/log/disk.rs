//! Files of a real directory.

use super::error::{LogError, io_error};
use super::files::Files;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Most files open for reading at once. More are closed, the least recently read first.
const READ_HANDLES: usize = 64;
/// The same for writing: the active segment and a small file that is being replaced.
const WRITE_HANDLES: usize = 4;
const LOCK: &str = "lock";

/// A directory on disk, locked for this opening until it is dropped or the process ends.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    /// The open directory, for syncing it. It holds a lock, but for a shared view, which only reads.
    dir: File,
    /// Holds the other lock; none in a shared view.
    lock: Option<File>,
    readers: Handles,
    writers: Handles,
}

impl Drop for Disk {
    /// Gives the locks up, not only the descriptors: a child that is being made right now has copies of those until it becomes
    /// another program, and the locks would last as long.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            let _ = lock.unlock();
            let _ = self.dir.unlock();
        }
    }
}

impl Disk {
    /// Opens a directory, made if need be (for its owner only), and locks it.
    ///
    /// Two locks, both bound to this opening, so that a second one fails with [`LogError::Locked`] in the same process
    /// too, by whatever path: one on a file named `lock`, which tells the process id, and one on the directory itself,
    /// which holds whatever becomes of that file.
    pub fn open(path: &Path) -> Result<Disk, LogError> {
        let during = |what: &str| io_error(format!("cannot {what} {}", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(during("create"))?;
        if let Some(parent) = path.canonicalize().map_err(during("find"))?.parent() {
            // So that a new directory survives a power cut. Not allowed in some parents, and then not ours to make.
            let _ = File::open(parent).and_then(|parent| parent.sync_all());
        }
        let mut disk = Disk::shared(path)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(during("open the lock file in"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.take(32).read_to_string(&mut pid);
                return Err(LogError::Locked { pid: pid.trim().parse().unwrap_or(0) });
            }
            Err(TryLockError::Error(e)) => return Err(during("lock")(e)),
        }
        match disk.dir.try_lock() {
            Ok(()) => {}
            // Somebody has deleted the lock file of a process that runs.
            Err(TryLockError::WouldBlock) => return Err(LogError::Locked { pid: 0 }),
            // Some network file systems lock no directories.
            Err(TryLockError::Error(e)) => tracing::debug!("{} cannot be locked itself: {e}", path.display()),
        }
        // The id is a courtesy to whoever is refused; on a full disk the lock is as good without it.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        disk.lock = Some(lock);
        Ok(disk)
    }

    /// The directory for reading only, locked or not.
    pub(super) fn shared(path: &Path) -> Result<Disk, LogError> {
        let dir = File::open(path).map_err(io_error(format!("cannot open {}", path.display())))?;
        let (readers, writers) = (Handles::new(READ_HANDLES), Handles::new(WRITE_HANDLES));
        Ok(Disk { path: path.into(), dir, lock: None, readers, writers })
    }

    fn reader(&self, name: &str) -> io::Result<Arc<File>> {
        self.readers.get(name, || File::open(self.path.join(name)))
    }

    fn writer(&self, name: &str) -> io::Result<Arc<File>> {
        self.writers.get(name, || OpenOptions::new().write(true).open(self.path.join(name)))
    }

    fn forget(&self, name: &str) {
        self.readers.forget(name);
        self.writers.forget(name);
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            match (entry.file_name().into_string(), entry.metadata()) {
                (Ok(name), Ok(meta)) if meta.is_file() => files.push((name, meta.len())),
                (_, Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path.join(name))?;
        self.forget(name);
        self.writers.get(name, || Ok(file)).map(drop)
    }

    fn read_at(&self, name: &str, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.reader(name)?.read_at(buf, at)
    }

    fn write_at(&self, name: &str, at: u64, data: &[u8]) -> io::Result<usize> {
        self.writer(name)?.write_at(data, at)
    }

    fn sync_data(&self, name: &str) -> io::Result<()> {
        self.writer(name)?.sync_data()
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.writer(name)?.set_len(len)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let renamed = std::fs::rename(self.path.join(from), self.path.join(to));
        self.forget(from);
        self.forget(to);
        renamed
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = std::fs::remove_file(self.path.join(name));
        // Only now: a reader in between would open it again and keep its blocks on the disk.
        self.forget(name);
        removed
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }
}

/// Open files, the least recently used first.
#[derive(Debug)]
struct Handles {
    most: usize,
    open: Mutex<Vec<(String, Arc<File>)>>,
}

impl Handles {
    fn new(most: usize) -> Handles {
        Handles { most, open: Mutex::new(Vec::new()) }
    }

    fn get(&self, name: &str, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        let mut handles = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Newest from the end: it is mostly the same file again.
        if let Some(i) = handles.iter().rposition(|(n, _)| n == name) {
            let last = handles.len() - 1;
            if i < last {
                handles[i..].rotate_left(1);
            }
            return Ok(handles[last].1.clone());
        }
        let file = Arc::new(open()?);
        if handles.len() >= self.most {
            handles.remove(0);
        }
        handles.push((name.into(), file.clone()));
        Ok(file)
    }

    fn forget(&self, name: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(n, _)| n != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After its engine had ended a directory was still locked, now and then: another thread of the process was making a child.
    #[test]
    fn copies_of_its_descriptors_keep_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let copies = [&disk.dir, disk.lock.as_ref().unwrap()].map(|file| file.try_clone().unwrap());
        assert!(matches!(Disk::open(dir.path()), Err(LogError::Locked { .. })));
        drop(disk);
        Disk::open(dir.path()).unwrap();
        drop(copies);
    }
}
