//! Opening the store again under a view that is in use.
//!
//! A store that was refused one write takes no more: fjall cannot know what of it has reached the disk. Reads go on, and what is
//! added waits in memory; but that has a bound, and the end of a full disk must not wait for a restart. So the next flush that finds
//! room closes the store and opens it again. It then holds what it held at the last flush that was done, or, where the one that
//! failed has reached the disk after all, that one's layer too. Anything else is not this view.

use super::disk::{self, Home, Opened};
use super::error::ViewError;
use super::flush::Flusher;
use super::ids::Bucket;
use super::keys::Partition;
use super::store::Store;
use super::{Checkpoint, Shared, View};
use std::fs::{self, File};
use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

/// Room that must be there beside what waits to be written, in bytes: fjall writes tables anew before it drops old ones.
const SPARE: u64 = 1 << 20;
/// A file that is written to see whether the disk takes one.
const TRIAL: &str = "trial";

impl View {
    /// Does nothing while the store works. Else opens it again, or makes it where there was no room for it at the start.
    pub(super) fn reopen(&self, flusher: &mut Flusher) -> Result<(), ViewError> {
        let Some(home) = &self.home else { return Ok(()) };
        match &*self.store() {
            Store::Disk(disk) if disk.works() => return Ok(()),
            Store::Disk(disk) if disk.is_condemned() => {
                return Err(ViewError::damaged("it is built again from the log at the next start"));
            }
            _ => home.has_room(self.overlay_bytes() as u64)?,
        }
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        // All that holds the files lets go of them before they are opened again.
        flusher.forget_tables();
        self.shared_mut().buckets = Arc::default();
        *store = Store::Closed("it is being opened again".into());
        match self.opened(home) {
            Ok((opened, has_frozen)) => {
                *store = self.adopt(flusher, opened, has_frozen);
                tracing::info!("the view can be written again");
                Ok(())
            }
            Err(e) => {
                *store = Store::Closed(e.to_string());
                Err(e)
            }
        }
    }

    /// The store as it is on disk, and whether it holds the frozen layer already.
    fn opened(&self, home: &Home) -> Result<(Opened, bool), ViewError> {
        let (before, after) = {
            let shared = self.shared();
            let before = checkpoints(&shared.partitions);
            let mut after = before.clone();
            for (partition, checkpoint) in shared.frozen.iter().flat_map(|f| &f.checkpoints) {
                if let Some(c) = after.get_mut(*partition as usize) {
                    *c = Some(*checkpoint);
                }
            }
            (before, after)
        };
        if before.iter().all(Option::is_none) {
            // Everything is in memory still.
            return Ok((disk::open_anew(home, self.hash_key)?, false));
        }
        let opened = disk::open_again(home)?;
        let found = checkpoints(&opened.partitions);
        if opened.meta.hash_key == self.hash_key && (found == before || found == after) {
            return Ok((opened, found != before));
        }
        Err(ViewError::damaged("it is not what it was before a write failed"))
    }

    fn adopt(&self, flusher: &mut Flusher, opened: Opened, has_frozen: bool) -> Store {
        flusher.resume(&opened.state);
        let mut shared = self.shared_mut();
        let Shared { frozen, partitions, buckets, dirty, .. } = &mut *shared;
        if has_frozen && let Some(layer) = frozen.take() {
            self.overlay_bytes.fetch_sub(layer.bytes, Relaxed);
        }
        for (now, stored) in partitions.iter_mut().zip(opened.partitions) {
            let begins = now.begins.max(stored.begins);
            *dirty |= now.trim != stored.trim || begins != stored.begins;
            *now = Partition { trim: now.trim, begins, ..stored };
        }
        // Buckets may have been given up since the last flush that was done.
        let gone = |b: &Bucket| b.end() <= flusher.oldest();
        let (old, kept): (Vec<_>, Vec<_>) = opened.buckets.into_iter().partition(gone);
        *dirty |= !old.is_empty();
        flusher.drop_tables(old);
        *buckets = Arc::new(kept);
        Store::Disk(opened.disk)
    }
}

fn checkpoints(partitions: &[Partition]) -> Vec<Option<Checkpoint>> {
    partitions.iter().map(|p| p.checkpoint).collect()
}

impl Home {
    /// Whether so much that waits can be written. Looked at before the store is closed: while it is, nothing in it can be read.
    fn has_room(&self, waiting: u64) -> Result<(), ViewError> {
        let system = |e: io::Error| ViewError::system(&e);
        fs::create_dir_all(&self.dir).map_err(system)?;
        let disk = rustix::fs::statvfs(&self.dir).map_err(|e| system(e.into()))?;
        let (free, wanted) = (disk.f_bavail.saturating_mul(disk.f_frsize), SPARE + 2 * waiting);
        if free < wanted {
            return Err(ViewError::Full(format!("{free} bytes are free and {wanted} are wanted")));
        }
        // Other reasons than bytes: inodes, a quota, descriptors, a disk that takes nothing.
        let trial = self.dir.join(TRIAL);
        let written = File::create(&trial).and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_data()
        });
        written.and_then(|()| fs::remove_file(&trial)).map_err(system)
    }
}
