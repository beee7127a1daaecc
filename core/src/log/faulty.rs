//! A model disk that fails on purpose, for tests.

use super::files::Files;
use super::memory::{read_bytes, write_bytes};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard};

/// What changes a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Write,
    Sync,
    Truncate,
    Rename,
    Remove,
    SyncDir,
}

/// What happens at the planned operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is gone in the middle of the operation. What was written so far stays. Every later operation fails.
    Kill,
    /// The power is gone: of what was not synced, a part is lost.
    PowerCut,
    /// The operation fails with this kind of error, once; a write may take a part of the data first. A failed sync
    /// loses what was to be synced, as Linux does, though it can still be read.
    Error(io::ErrorKind),
}

/// The plan: the `nth` operation (from 1, counted from now) that is an `on`, or any, meets the fault.
#[derive(Clone, Copy, Debug)]
struct Plan {
    on: Option<Operation>,
    left: u64,
    fault: Fault,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a read sees.
    live: Vec<u8>,
    /// What is on the disk.
    durable: Vec<u8>,
    /// What makes `live` of `durable`.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Entry {
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug, Default)]
struct Model {
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    pending: Vec<Entry>,
    plan: Option<Plan>,
    /// Bytes that all files together may have.
    space: Option<u64>,
    dead: bool,
    power_cut: bool,
    operations: u64,
    syncs: u64,
    writes: u64,
    random: u64,
    /// What cannot be read: file, from, to.
    unreadable: Vec<(String, u64, u64)>,
}

/// A disk that stops or fails at a planned operation. It counts operations and knows what a power cut would leave.
#[derive(Debug, Default)]
pub(crate) struct Faulty(Mutex<Model>);

impl Faulty {
    /// An empty disk. Equal seeds tear and lose equally.
    pub(crate) fn new(seed: u64) -> Faulty {
        Faulty(Mutex::new(Model { random: seed, ..Model::default() }))
    }

    /// Plans a fault at the `nth` operation from now, counting only those of the kind `on` if that is given.
    pub(crate) fn plan(&self, on: Option<Operation>, nth: u64, fault: Fault) {
        self.model().plan = Some(Plan { on, left: nth, fault });
    }

    /// Whether the plan has come true.
    pub(crate) fn happened(&self) -> bool {
        self.model().plan.is_none()
    }

    /// Whether it has stopped, and every operation fails.
    pub(crate) fn is_dead(&self) -> bool {
        self.model().dead
    }

    /// Whether it stopped because the power was cut.
    pub(crate) fn lost_power(&self) -> bool {
        self.model().power_cut
    }

    /// It stops now: no later operation changes it.
    pub(crate) fn die(&self) {
        self.model().dead = true;
    }

    /// No fault is planned any more.
    pub(crate) fn forget_plan(&self) {
        self.model().plan = None;
    }

    /// All files as a read sees them.
    pub(crate) fn live(&self) -> Vec<(String, Vec<u8>)> {
        let m = self.model();
        m.names.iter().filter_map(|(name, i)| Some((name.clone(), m.inodes.get(*i)?.live.clone()))).collect()
    }

    /// Makes reads that touch these bytes of a file fail with EIO, and only those; none: makes all readable again.
    pub(crate) fn set_unreadable(&self, range: Option<(&str, u64, u64)>) {
        self.model().unreadable = range.iter().map(|(name, from, to)| ((*name).into(), *from, *to)).collect();
    }

    /// Limits the bytes of all files together, or lifts the limit.
    pub(crate) fn set_space(&self, bytes: Option<u64>) {
        self.model().space = bytes;
    }

    /// Bytes of all files together.
    pub(crate) fn used(&self) -> u64 {
        self.model().used()
    }

    /// Operations, writes and syncs so far.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let m = self.model();
        (m.operations, m.writes, m.syncs)
    }

    /// The disk as the next process finds it: after a power cut without what was lost. No fault is planned on it.
    pub(crate) fn restart(&self) -> Faulty {
        let mut m = self.model().clone();
        if m.power_cut {
            m.lose();
        }
        (m.plan, m.dead, m.power_cut) = (None, false, false);
        Faulty(Mutex::new(m))
    }

    /// The same after the power is cut now.
    pub(crate) fn cut_power(&self) -> Faulty {
        self.model().power_cut = true;
        self.restart()
    }

    /// The same, with a chance of its own.
    pub(crate) fn seeded(&self, seed: u64) -> Faulty {
        let m = self.restart();
        m.model().random = seed;
        m
    }

    /// A number below this, by the seed.
    pub(crate) fn random(&self, below: u64) -> u64 {
        self.model().random(below)
    }

    /// A file's bytes, to look at and to damage.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut m = self.model();
        let inode = m.names[name];
        let file = &mut m.inodes[inode];
        edit(&mut file.live);
        file.durable = file.live.clone();
        file.pending.clear();
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap()
    }
}

fn killed() -> io::Error {
    io::Error::other("the process is gone")
}

impl Model {
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn used(&self) -> u64 {
        self.names.values().map(|i| self.inodes[*i].live.len() as u64).sum()
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(killed()) } else { Ok(()) }
    }

    /// Counts an operation; answers the fault if this is the planned one.
    fn begin(&mut self, operation: Operation) -> io::Result<Option<Fault>> {
        self.alive()?;
        self.operations += 1;
        self.writes += (operation == Operation::Write) as u64;
        self.syncs += (operation == Operation::Sync) as u64;
        let Some(plan) = self.plan.as_mut().filter(|p| p.on.is_none_or(|on| on == operation)) else {
            return Ok(None);
        };
        plan.left -= 1;
        if plan.left > 0 {
            return Ok(None);
        }
        let fault = plan.fault;
        self.plan = None;
        self.dead = matches!(fault, Fault::Kill | Fault::PowerCut);
        self.power_cut = fault == Fault::PowerCut;
        Ok(Some(fault))
    }

    /// For an operation that is done or not: an error at a fault, and perhaps it is done all the same.
    fn whole(&mut self, operation: Operation) -> io::Result<Option<io::Error>> {
        Ok(match self.begin(operation)? {
            None => None,
            Some(Fault::Error(kind)) => return Err(kind.into()),
            Some(_) if self.random(2) == 0 => return Err(killed()),
            Some(_) => Some(killed()),
        })
    }

    fn inode(&mut self, name: &str) -> io::Result<&mut Inode> {
        let i = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.inodes[i])
    }

    fn write(&mut self, name: &str, at: u64, data: &[u8]) -> io::Result<()> {
        let file = self.inode(name)?;
        write_bytes(&mut file.live, at, data);
        file.pending.push(Change::Write(at, data.to_vec()));
        Ok(())
    }

    /// Loses what was not synced, as far as a disk may: each file's changes and the directory's either in their order, so
    /// that a prefix stays and of the next write a part, or in any order, so that any of them stay and of each write any
    /// blocks. Where a file had grown, what was not written may be missing, zeros or noise.
    fn lose(&mut self) {
        let in_order = self.random(2) == 0;
        let mut names = self.durable_names.clone();
        let pending = std::mem::take(&mut self.pending);
        let keep = self.random(pending.len() as u64 + 1) as usize;
        for (n, entry) in pending.into_iter().enumerate() {
            let stays = if in_order { n < keep } else { self.random(2) == 0 };
            match entry {
                _ if !stays => {}
                Entry::Link(name, inode) => drop(names.insert(name, inode)),
                Entry::Unlink(name) => drop(names.remove(&name)),
                Entry::Rename(from, to, inode) => {
                    names.remove(&from);
                    names.insert(to, inode);
                }
            }
        }
        self.names = names.clone();
        self.durable_names = names;
        for i in 0..self.inodes.len() {
            let changes = std::mem::take(&mut self.inodes[i].pending);
            let keep = self.random(changes.len() as u64 + 1) as usize;
            let mut data = std::mem::take(&mut self.inodes[i].durable);
            for (n, change) in changes.into_iter().enumerate() {
                let stays = if in_order { n < keep } else { self.random(2) == 0 };
                let torn = !in_order || n == keep;
                match change {
                    Change::Truncate(len) if stays => data.truncate(len as usize),
                    Change::Write(at, new) if stays => write_bytes(&mut data, at, &new),
                    Change::Write(at, new) if torn => self.tear(&mut data, at as usize, &new, in_order),
                    _ => {}
                }
            }
            self.inodes[i].live = data.clone();
            self.inodes[i].durable = data;
        }
    }

    /// Writes a part: some first bytes, or some blocks.
    fn tear(&mut self, data: &mut Vec<u8>, at: usize, new: &[u8], first: bool) {
        let end = at + new.len();
        let noise = self.random(3) == 0;
        let grow = |data: &mut Vec<u8>, len: usize| {
            while data.len() < len {
                data.push(if noise { (data.len() * 167 + 13) as u8 } else { 0 });
            }
        };
        if first {
            let part = self.random(new.len() as u64 + 1) as usize;
            grow(data, at);
            write_bytes(data, at as u64, &new[..part]);
        } else {
            let block = [8, 64, 512, 4096][self.random(4) as usize];
            let mut from = at;
            while from < end {
                let to = end.min((from / block + 1) * block);
                if self.random(2) == 0 {
                    grow(data, from);
                    write_bytes(data, from as u64, &new[from - at..to - at]);
                }
                from = to;
            }
        }
        if self.random(2) == 0 {
            grow(data, end);
        }
    }
}

impl Files for Faulty {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let m = self.model();
        m.alive()?;
        Ok(m.names.iter().map(|(name, i)| (name.clone(), m.inodes[*i].live.len() as u64)).collect())
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let mut m = self.model();
        let after = m.whole(Operation::Create)?;
        if m.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = m.inodes.len();
        m.inodes.push(Inode::default());
        m.names.insert(name.into(), inode);
        m.pending.push(Entry::Link(name.into(), inode));
        after.map_or(Ok(()), Err)
    }

    fn read_at(&self, name: &str, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut m = self.model();
        m.alive()?;
        let end = at + buf.len() as u64;
        if m.unreadable.iter().any(|(file, from, to)| file == name && *from < end && at < *to) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(read_bytes(&m.inode(name)?.live, at, buf))
    }

    fn write_at(&self, name: &str, at: u64, data: &[u8]) -> io::Result<usize> {
        let mut m = self.model();
        let fault = m.begin(Operation::Write)?;
        let grows = (at + data.len() as u64).saturating_sub(m.inode(name)?.live.len() as u64);
        let room = m.space.map_or(u64::MAX, |space| space.saturating_sub(m.used()));
        match fault {
            None if grows <= room => {
                m.write(name, at, data)?;
                Ok(data.len())
            }
            None => match data.len() - (grows - room) as usize {
                0 => Err(io::ErrorKind::StorageFull.into()),
                part => {
                    m.write(name, at, &data[..part])?;
                    Ok(part)
                }
            },
            Some(fault) => {
                // A disk without room has not taken all.
                let full = fault == Fault::Error(io::ErrorKind::StorageFull);
                let part = m.random(data.len() as u64 + !full as u64) as usize;
                m.write(name, at, &data[..part])?;
                match fault {
                    Fault::Error(kind) if part == 0 || part == data.len() => Err(kind.into()),
                    Fault::Error(_) => {
                        // A short write, and the error when the rest is written.
                        m.plan = Some(Plan { on: Some(Operation::Write), left: 1, fault });
                        Ok(part)
                    }
                    _ => Err(killed()),
                }
            }
        }
    }

    fn sync_data(&self, name: &str) -> io::Result<()> {
        let mut m = self.model();
        if let Some(fault) = m.begin(Operation::Sync)? {
            return Err(match fault {
                Fault::Error(kind) => {
                    m.inode(name)?.pending.clear();
                    kind.into()
                }
                _ => killed(),
            });
        }
        let file = m.inode(name)?;
        // Only what was written since: bytes that a failed sync lost stay lost.
        for change in std::mem::take(&mut file.pending) {
            match change {
                Change::Write(at, data) => write_bytes(&mut file.durable, at, &data),
                Change::Truncate(len) => file.durable.truncate(len as usize),
            }
        }
        Ok(())
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let mut m = self.model();
        let after = m.whole(Operation::Truncate)?;
        let file = m.inode(name)?;
        file.live.truncate(len as usize);
        file.pending.push(Change::Truncate(len));
        after.map_or(Ok(()), Err)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut m = self.model();
        let after = m.whole(Operation::Rename)?;
        let inode = m.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        m.names.insert(to.into(), inode);
        m.pending.push(Entry::Rename(from.into(), to.into(), inode));
        after.map_or(Ok(()), Err)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut m = self.model();
        // Removing what is not there changes nothing, so it is no place to stop at.
        m.alive()?;
        if !m.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let after = m.whole(Operation::Remove)?;
        m.names.remove(name);
        m.pending.push(Entry::Unlink(name.into()));
        after.map_or(Ok(()), Err)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut m = self.model();
        if let Some(fault) = m.begin(Operation::SyncDir)? {
            return Err(match fault {
                Fault::Error(kind) => kind.into(),
                _ => killed(),
            });
        }
        m.durable_names = m.names.clone();
        m.pending.clear();
        Ok(())
    }
}
