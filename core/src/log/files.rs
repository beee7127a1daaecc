//! The file layer below the log.

use std::fmt::Debug;
use std::io;

/// Flat, named files of one directory, as the log needs them.
///
/// Nothing is durable before [`sync_data`](Files::sync_data) of the file, and no creation, rename or removal before
/// [`sync_dir`](Files::sync_dir).
pub trait Files: Send + Sync + Debug {
    /// Names and sizes of all files, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Makes a new, empty file; an error if there is one of that name.
    fn create(&self, name: &str) -> io::Result<()>;
    /// Reads at a place into `buf`; returns how many bytes, 0 only at the end of the file.
    fn read_at(&self, name: &str, at: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes at a place; returns how many bytes were written, which may be fewer than given.
    fn write_at(&self, name: &str, at: u64, data: &[u8]) -> io::Result<usize>;
    /// Makes a file's bytes and length durable.
    fn sync_data(&self, name: &str) -> io::Result<()>;
    /// Cuts a file to a length.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;
    /// Renames a file, in place of one of the new name if there is one.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// Reads until `buf` is full or the file ends; returns how many bytes.
pub(super) fn read_full(files: &dyn Files, name: &str, at: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match files.read_at(name, at + done as u64, rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Read at once where the disk has failed to give more.
const BLOCK: u64 = 4096;

/// [`read_full`] around what the disk cannot read: that is zeros in `buf`, and its ranges are added to `unreadable`.
pub(super) fn read_around(
    files: &dyn Files,
    name: &str,
    at: u64,
    buf: &mut [u8],
    unreadable: &mut Vec<(u64, u64)>,
) -> io::Result<usize> {
    match read_full(files, name, at, buf) {
        Err(e) if is_unreadable(&e) => {}
        got => return got,
    }
    let (mut from, mut done) = (at, 0);
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let len = rest.len().min((BLOCK - from % BLOCK) as usize);
        let block = rest.get_mut(..len).unwrap_or_default();
        match read_full(files, name, from, block) {
            Ok(n) if n < len => return Ok(done + n),
            Ok(_) => {}
            Err(e) if is_unreadable(&e) => {
                block.fill(0);
                let to = from + len as u64;
                match unreadable.last_mut() {
                    Some(last) if last.0 <= from && last.1 >= from => last.1 = last.1.max(to),
                    _ => unreadable.push((from, to)),
                }
            }
            Err(e) => return Err(e),
        }
        from += len as u64;
        done += len;
    }
    Ok(done)
}

/// Whether the disk has lost these bytes, as opposed to a system that refuses to read.
fn is_unreadable(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    // ENODATA, EBADMSG, EILSEQ, EUCLEAN and EREMOTEIO: what block devices and file systems say of bad sectors and checksums.
    const LINUX: [i32; 5] = [61, 74, 84, 117, 121];
    let code = error.raw_os_error();
    code == Some(EIO) || cfg!(target_os = "linux") && code.is_some_and(|code| LINUX.contains(&code))
}

/// Writes all of `data`; one write, unless the system takes less.
pub(super) fn write_full(files: &dyn Files, name: &str, mut at: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match files.write_at(name, at, data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                data = data.get(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A whole file of at most `max` bytes; `None` if there is none. What cannot be read of it is zeros.
pub(super) fn read_small(files: &dyn Files, name: &str, max: usize) -> io::Result<Option<Vec<u8>>> {
    let listed = files.list()?.into_iter().find(|(n, _)| n == name);
    let Some((_, len)) = listed else { return Ok(None) };
    let (mut data, mut unreadable) = (vec![0; max.min(len as usize)], Vec::new());
    match read_around(files, name, 0, &mut data, &mut unreadable) {
        Ok(n) => {
            data.truncate(n);
            for (from, to) in unreadable {
                tracing::error!("the disk cannot read {name}, bytes {from} to {to}");
            }
            Ok(Some(data))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts a small file in place of an older one, whole and durable or not at all.
///
/// On an error the old file stays, or the new one is there but perhaps not durable; both are whole.
pub(super) fn replace(files: &dyn Files, name: &str, data: &[u8]) -> io::Result<()> {
    let new = format!("{name}.new");
    match files.remove(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    files.create(&new)?;
    let written = write_full(files, &new, 0, data).and_then(|()| files.sync_data(&new));
    if let Err(e) = written {
        // Best effort: the next call removes it too.
        let _ = files.remove(&new);
        return Err(e);
    }
    files.rename(&new, name)?;
    files.sync_dir()
}
