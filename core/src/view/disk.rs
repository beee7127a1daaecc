//! Opening, checking and discarding the files of a view.

use super::error::ViewError;
use super::ids::Bucket;
use super::keys::{self, Meta, Partition, State};
use super::store::IdTable;
use super::{Identity, ViewSettings};
use crate::ids::HashKey;
use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

/// Everything of a view lies in this folder of its directory, so that discarding it removes nothing else.
const FOLDER: &str = "fjall";
/// The file that fjall locks while a database is open.
const LOCK: &str = "lock";
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

/// A view's files, open.
pub(super) struct Disk {
    pub db: Database,
    pub main: Keyspace,
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

/// Opens the view in `dir`, or makes a fresh one if there is none that can be used.
pub(super) fn open(dir: &Path, identity: Identity, settings: &ViewSettings) -> Result<Opened, ViewError> {
    let folder = dir.join(FOLDER);
    if folder.try_exists()? {
        match open_old(&folder, identity, settings) {
            Err(ViewError::Damaged(why)) => {
                tracing::warn!(dir = %dir.display(), why, "the view cannot be used and is built again from the log");
            }
            other => return other,
        }
    }
    destroy(dir)?;
    create(&folder, identity, settings)
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
        Err(e) => return Err(ViewError::Storage(e.to_string())),
    };
    match lock.as_ref().map(File::try_lock) {
        Some(Err(TryLockError::WouldBlock)) => return Err(ViewError::InUse),
        Some(Err(TryLockError::Error(e))) => return Err(ViewError::Storage(e.to_string())),
        Some(Ok(())) | None => {}
    }
    let removed = match fs::symlink_metadata(&folder) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&folder),
        Ok(_) => fs::remove_file(&folder),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(ViewError::Storage(e.to_string())),
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

fn create(folder: &Path, identity: Identity, settings: &ViewSettings) -> Result<Opened, ViewError> {
    fs::create_dir_all(folder).map_err(|e| ViewError::Storage(e.to_string()))?;
    let db = database(folder, settings)?;
    let main = db.keyspace(MAIN, main_options)?;
    let meta = Meta { format: keys::FORMAT, identity, hash_key: HashKey::random() };
    let state = State::default();
    let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&main, keys::META, meta.encode());
    batch.insert(&main, keys::STATE, state.encode());
    batch.commit()?;
    let partitions = vec![Partition::default(); identity.partitions as usize];
    Ok(Opened { disk: Disk { db, main }, meta, state, partitions, buckets: Vec::new(), fresh: true })
}

fn open_old(folder: &Path, identity: Identity, settings: &ViewSettings) -> Result<Opened, ViewError> {
    // Without it fjall would take the folder for an empty one and put a database beside what is in there.
    if !folder.join("version").try_exists()? {
        return Err(ViewError::damaged("its version file is missing"));
    }
    let db = database(folder, settings)?;
    let lost = |what: &str| ViewError::damaged(format!("it has no {what}"));
    if !db.keyspace_exists(MAIN) {
        return Err(lost("main table"));
    }
    let main = db.keyspace(MAIN, main_options)?;
    let meta = Meta::decode(&main.get(keys::META)?.ok_or_else(|| lost("description"))?)?;
    if meta.format != keys::FORMAT {
        return Err(ViewError::damaged(format!("its format is {}, not {}", meta.format, keys::FORMAT)));
    }
    if meta.identity != identity {
        return Err(ViewError::damaged("it belongs to another log"));
    }
    let state = State::decode(&main.get(keys::STATE)?.ok_or_else(|| lost("state"))?)?;
    let mut partitions = Vec::with_capacity(identity.partitions as usize);
    for partition in 0..identity.partitions {
        let value = main.get(keys::partition(partition))?;
        partitions.push(value.map(|v| Partition::decode(&v)).transpose()?.unwrap_or_default());
    }
    let buckets = open_buckets(&db, &state)?;
    Ok(Opened { disk: Disk { db, main }, meta, state, partitions, buckets, fresh: false })
}

/// The buckets that the state lists. A table that it does not list was made or dropped by a flush that did not end.
fn open_buckets(db: &Database, state: &State) -> Result<Vec<Bucket>, ViewError> {
    let mut extra: BTreeSet<String> =
        db.list_keyspace_names().iter().map(|n| n.to_string()).filter(|n| n.starts_with(IDS)).collect();
    let mut buckets = Vec::with_capacity(state.buckets.len());
    for &(number, start, width, flush) in &state.buckets {
        let name = format!("{IDS}{number}");
        if !extra.remove(&name) {
            return Err(ViewError::damaged("a table of ids is missing"));
        }
        let table = db.keyspace(&name, ids_options)?;
        // Tables are recovered one by one: this one may have lost what the others have kept.
        let mark = table.get(keys::MARK)?;
        if mark.as_deref() != Some(&flush.to_le_bytes()) {
            return Err(ViewError::damaged("a table of ids is not as new as the rows"));
        }
        buckets.push(Bucket { number, start, width, flush, table: IdTable::Disk(table) });
    }
    for name in extra {
        let table = db.keyspace(&name, ids_options)?;
        db.delete_keyspace(table)?;
    }
    Ok(buckets)
}

impl Disk {
    /// A table for a new bucket of ids.
    pub fn make_ids(&self, number: u32) -> Result<Keyspace, ViewError> {
        Ok(self.db.keyspace(&format!("{IDS}{number}"), ids_options)?)
    }
}
