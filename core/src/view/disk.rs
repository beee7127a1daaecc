//! Opening, checking and discarding the files of a view.

use super::error::{ViewError, guard};
use super::ids::Bucket;
use super::keys::{self, Meta, Partition, State};
use super::store::IdTable;
use super::{Identity, ViewSettings};
use crate::ids::HashKey;
use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use xxhash_rust::xxh3::xxh3_128;

/// Everything of a view lies in this folder of its directory, so that discarding it removes nothing else.
const FOLDER: &str = "fjall";
/// The file that fjall locks while a database is open.
const LOCK: &str = "lock";
/// A file that says that the view was found damaged while it was open.
const DAMAGED: &str = "damaged";
const MAIN: &str = "main";
const IDS: &str = "ids-";

/// Memory for a table's newest content before it is written to a file, in bytes.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Journals are kept below this, in bytes; it bounds how long opening takes after a crash.
const JOURNAL_BYTES: u64 = 128 << 20;
/// Files that are kept open.
const OPEN_FILES: usize = 128;
/// Threads for background work. With more than one, fjall keeps one of them spinning while another compacts.
const WORKERS: usize = 1;

/// Where a view lies, and whose it is.
pub(super) struct Home {
    pub dir: PathBuf,
    pub identity: Identity,
    pub settings: ViewSettings,
}

/// A view's files, open.
pub(super) struct Disk {
    pub db: Database,
    pub main: Keyspace,
    folder: PathBuf,
    condemned: AtomicBool,
}

/// What an opened store knew.
pub(super) struct Opened {
    pub disk: Disk,
    pub meta: Meta,
    pub state: State,
    pub partitions: Vec<Partition>,
    pub buckets: Vec<Bucket>,
    /// It was made just now.
    pub fresh: bool,
}

/// Opens the view in its directory, or makes a fresh one if there is none that can be used.
pub(super) fn open(home: &Home) -> Result<Opened, ViewError> {
    if home.dir.join(FOLDER).try_exists()? {
        match open_again(home) {
            Err(ViewError::Damaged(why)) => {
                tracing::warn!(dir = %home.dir.display(), why, "the view cannot be used and is built again from the log");
            }
            other => return other,
        }
    }
    open_anew(home, HashKey::random())
}

/// Opens the view that is there.
pub(super) fn open_again(home: &Home) -> Result<Opened, ViewError> {
    guard(|| open_old(&home.dir.join(FOLDER), home.identity, &home.settings))
}

/// Makes a fresh view in place of whatever is there.
pub(super) fn open_anew(home: &Home, hash_key: HashKey) -> Result<Opened, ViewError> {
    destroy(&home.dir)?;
    guard(|| create(&home.dir.join(FOLDER), home.identity, hash_key, &home.settings))
}

/// Removes the view in `dir`, whatever state it is in.
pub(super) fn destroy(dir: &Path) -> Result<(), ViewError> {
    let folder = dir.join(FOLDER);
    // Held until everything is removed, so that no view is taken from under somebody.
    let lock = match File::options().read(true).write(true).open(folder.join(LOCK)) {
        Ok(file) => Some(file),
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory
            ) =>
        {
            None
        }
        Err(e) => return Err(ViewError::system(&e)),
    };
    match lock.as_ref().map(File::try_lock) {
        Some(Err(TryLockError::WouldBlock)) => return Err(ViewError::InUse),
        Some(Err(TryLockError::Error(e))) => return Err(ViewError::system(&e)),
        Some(Ok(())) | None => {}
    }
    let removed = match fs::symlink_metadata(&folder) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&folder),
        Ok(_) => fs::remove_file(&folder),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(ViewError::system(&e)),
        _ => Ok(()),
    }
}

fn database(folder: &Path, settings: &ViewSettings) -> Result<Database, ViewError> {
    let database = Database::builder(folder)
        .cache_size(settings.cache_bytes)
        .max_journaling_size(JOURNAL_BYTES)
        .max_cached_files(Some(OPEN_FILES))
        .worker_threads(WORKERS)
        .manual_journal_persist(true)
        .open()?;
    Ok(database)
}

fn main_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES).manual_journal_persist(true)
}

/// Ids are looked up mostly in vain, so their filters matter; they are written once.
fn ids_options() -> KeyspaceCreateOptions {
    let bloom = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(12.0));
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .manual_journal_persist(true)
        .filter_policy(FilterPolicy::all(bloom))
}

fn create(
    folder: &Path,
    identity: Identity,
    hash_key: HashKey,
    settings: &ViewSettings,
) -> Result<Opened, ViewError> {
    fs::create_dir_all(folder).map_err(|e| ViewError::system(&e))?;
    let db = database(folder, settings)?;
    let main = db.keyspace(MAIN, main_options)?;
    let meta = Meta { format: keys::FORMAT, identity, hash_key };
    let state = State::default();
    let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&main, keys::META, meta.encode());
    batch.insert(&main, keys::STATE, state.encode());
    batch.commit()?;
    let partitions = vec![Partition::default(); identity.partitions as usize];
    Ok(Opened {
        disk: Disk::new(db, main, folder),
        meta,
        state,
        partitions,
        buckets: Vec::new(),
        fresh: true,
    })
}

fn open_old(folder: &Path, identity: Identity, settings: &ViewSettings) -> Result<Opened, ViewError> {
    // Without it fjall would take the folder for an empty one and put a database beside what is in there.
    if !folder.join("version").try_exists()? {
        return Err(ViewError::damaged("its version file is missing"));
    }
    if folder.join(DAMAGED).try_exists()? {
        return Err(ViewError::damaged("it was found damaged when it was last open"));
    }
    check_manifests(folder)?;
    let db = database(folder, settings)?;
    let lost = |what: &str| ViewError::damaged(format!("it has no {what}"));
    if !db.keyspace_exists(MAIN) {
        return Err(lost("main table"));
    }
    let main = db.keyspace(MAIN, main_options)?;
    // All is read through a snapshot, as later: where the journal is lost, fjall begins to count its writes anew, and
    // a snapshot shows nothing of what is there.
    let read = db.snapshot();
    let meta = Meta::decode(&read.get(&main, keys::META)?.ok_or_else(|| lost("description"))?)?;
    if meta.format != keys::FORMAT {
        return Err(ViewError::damaged(format!("its format is {}, not {}", meta.format, keys::FORMAT)));
    }
    if meta.identity != identity {
        return Err(ViewError::damaged("it belongs to another log"));
    }
    let state = State::decode(&read.get(&main, keys::STATE)?.ok_or_else(|| lost("state"))?)?;
    check_marks(&read, &main, state.writes)?;
    let mut partitions = Vec::with_capacity(identity.partitions as usize);
    for partition in 0..identity.partitions {
        let value = read.get(&main, keys::partition(partition))?;
        partitions.push(value.map(|v| Partition::decode(&v)).transpose()?.unwrap_or_default());
    }
    let buckets = open_buckets(&db, &read, &state)?;
    Ok(Opened { disk: Disk::new(db, main, folder), meta, state, partitions, buckets, fresh: false })
}

/// Whether a table has its last writes, all of them and no other. Tables are recovered one by one, and a flipped bit in
/// the journal can make one skip a write.
fn check_marks(read: &Snapshot, table: &Keyspace, writes: u64) -> Result<(), ViewError> {
    let mut next = writes.saturating_sub(keys::MARKS) + 1;
    for mark in read.range(table, keys::mark(next)..=keys::mark(u64::MAX)) {
        let (key, expected) = (mark.key()?, keys::mark(next));
        // A message's key may lie among them; it is shorter.
        if key.len() != expected.len() {
            continue;
        }
        if *key != expected[..] {
            return Err(ViewError::damaged("a table has lost writes"));
        }
        next += 1;
    }
    if next == writes + 1 {
        Ok(())
    } else {
        Err(ViewError::damaged("a table has not the writes it should have"))
    }
}

/// fjall writes a checksum of each table's list of files (in `current`: the number of the list, its XXH3, a zero) but
/// does not compare it; a flipped bit in such a list can hide rows.
fn check_manifests(folder: &Path) -> Result<(), ViewError> {
    for table in fs::read_dir(folder.join("keyspaces"))? {
        let table = table?.path();
        let current = match fs::read(table.join("current")) {
            Ok(current) => current,
            // A table that was dropped or not made to the end.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(e.into()),
        };
        let bad = || ViewError::damaged("a list of files does not agree with its checksum");
        let (number, rest) = current.split_first_chunk().ok_or_else(bad)?;
        let list = fs::read(table.join(format!("v{}", u64::from_le_bytes(*number))))?;
        let mut expected = xxh3_128(&list).to_le_bytes().to_vec();
        expected.push(0);
        if expected != rest {
            return Err(bad());
        }
    }
    Ok(())
}

/// The buckets that the state lists. A table that it does not list was made or dropped by a flush that did not end.
fn open_buckets(db: &Database, read: &Snapshot, state: &State) -> Result<Vec<Bucket>, ViewError> {
    let mut extra: BTreeSet<String> =
        db.list_keyspace_names().iter().map(|n| n.to_string()).filter(|n| n.starts_with(IDS)).collect();
    let mut buckets = Vec::with_capacity(state.buckets.len());
    for &(number, start, width, writes) in &state.buckets {
        let name = format!("{IDS}{number}");
        if !extra.remove(&name) {
            return Err(ViewError::damaged("a table of ids is missing"));
        }
        let table = db.keyspace(&name, ids_options)?;
        check_marks(read, &table, writes)?;
        buckets.push(Bucket { number, start, width, writes, table: IdTable::Disk(table) });
    }
    for name in extra {
        let table = db.keyspace(&name, ids_options)?;
        db.delete_keyspace(table)?;
    }
    Ok(buckets)
}

impl Disk {
    fn new(db: Database, main: Keyspace, folder: &Path) -> Disk {
        Disk { db, main, folder: folder.into(), condemned: AtomicBool::new(false) }
    }

    /// Whether the store takes writes. One of whose writes has failed, in the foreground or behind it, takes no more.
    pub fn works(&self) -> bool {
        !matches!(self.db.persist(PersistMode::Buffer), Err(fjall::Error::Poisoned))
    }

    /// Whether it was found damaged.
    pub fn is_condemned(&self) -> bool {
        self.condemned.load(Relaxed)
    }

    /// Makes the next opening discard the view. Damage in rows shows only when they are read, so it would be opened
    /// again otherwise.
    pub fn condemn(&self) {
        self.condemned.store(true, Relaxed);
        if let Err(e) = File::create(self.folder.join(DAMAGED)) {
            tracing::warn!(error = %e, "the damaged view cannot be marked as such");
        }
    }

    /// A table for a new bucket of ids.
    pub fn make_ids(&self, number: u32) -> Result<Keyspace, ViewError> {
        Ok(self.db.keyspace(&format!("{IDS}{number}"), ids_options)?)
    }
}
