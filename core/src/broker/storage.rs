//! What the embedded and the memory broker share: one log, its tail, and the step from publishes to publications.

use crate::broker::Health;
use crate::broker::append::{Append, Outcome};
use crate::broker::tail::{Origin, Tail, checkpoint, view_error};
use crate::codes::Code;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::ids::{HashKey, MessageKey, random_bytes};
use crate::log::{Batch, Files, Log, LogError, Place, Reader, State};
use crate::message::{Publication, Record};
use crate::metrics::Metrics;
use crate::points::{Rule, broken};
use crate::room::hub::Hub;
use crate::view::{Checkpoint, Identity, OwnedRow, ViewAt, ViewError};
use std::sync::Arc;

/// The writer's side of a log: owned by one thread, or by whoever holds its lock.
#[derive(Debug)]
pub struct Storage {
    log: Log,
    tail: Arc<Tail>,
    metrics: Arc<Metrics>,
    batch: Batch,
    keys: Vec<Option<MessageKey>>,
    written: Vec<(Record, Place)>,
    failed: Option<Error>,
    /// What the view has not written is as much as may wait in memory.
    view_full: bool,
    /// The upkeep of the log fails, and the operator knows.
    neglected: bool,
    /// Retention waits for the view, and the operator knows.
    view_behind: bool,
}

/// What [`open`] makes.
#[derive(Debug)]
pub struct Opened {
    /// The writer's side.
    pub storage: Storage,
    /// The readers' side.
    pub reader: Reader,
    /// The tail.
    pub tail: Arc<Tail>,
}

/// The error of a log as the API's error.
pub fn log_error(e: &LogError) -> Error {
    let code = match e {
        LogError::Locked { .. } => Code::DataDirLocked,
        LogError::Full => Code::StorageFull,
        LogError::Failed { .. } => Code::StorageFailed,
        LogError::Damaged => Code::LogDamaged,
        _ => Code::DataDirUnusable,
    };
    Error::new(code, e.to_string())
}

/// Opens a log and brings its view up to it.
pub fn open(
    files: Arc<dyn Files>,
    view_at: &ViewAt,
    settings: &Settings,
    metrics: Arc<Metrics>,
    now_ms: u64,
) -> Result<Opened> {
    let log = Log::open(files, &settings.storage, random_bytes(), now_ms).map_err(|e| log_error(&e))?;
    let reader = log.reader();
    let identity = Identity { log: contents(&log), partitions: 1 };
    let mut view = view_at.open(identity, &settings.view).map_err(|e| unusable_view(&e))?;
    if let Some(c) = view.checkpoint(0)
        && !is_of_this_log(c, &reader)
    {
        tracing::warn!(sequence = c.sequence, "the view does not fit the log; rebuilding it");
        drop(view);
        view_at.destroy().map_err(|e| unusable_view(&e))?;
        view = view_at.open(identity, &settings.view).map_err(|e| unusable_view(&e))?;
    }
    if view.checkpoint(0).is_none() && reader.first_sequence() > 1 {
        view.begin_after(0, reader.first_sequence() - 1);
    }
    let view = Arc::new(view);
    let hub = Arc::new(Hub::new(view.clone(), &settings.limits, metrics.clone()));
    let checkpoint = view.checkpoint(0);
    let from = checkpoint.map_or(0, |c| c.sequence) + 1 + u64::from(broken(Rule::FromTheCheckpoint));
    // A fresh view knows nothing that the log does not tell from here on. Any other knows ids from before `from`, whether or not the
    // log still has their records; where retention has dropped the last of them, the log still knows that none was later than its floor.
    let complete_since = match checkpoint {
        None => 0,
        Some(c) => record_at(&reader, c.sequence).map_or(log.time_floor(), |r| r.time()) + 1,
    };
    let tail = Arc::new(Tail::new(0, log.id(), complete_since, view.clone(), hub, settings, metrics.clone()));
    let mut storage = Storage {
        log,
        tail: tail.clone(),
        metrics,
        batch: Batch::new(),
        keys: Vec::new(),
        written: Vec::new(),
        failed: None,
        view_full: false,
        neglected: false,
        view_behind: false,
    };
    storage.catch_up(&reader, from)?;
    view.trim_below(0, reader.first_sequence()).map_err(|e| view_error(&e))?;
    storage.metrics.log_first_offset.set(reader.first_sequence());
    storage.metrics.log_last_offset.set(reader.last_sequence());
    Ok(Opened { storage, reader, tail })
}

/// What a view of this log is a view of: the log's id, and which of its records are lost. A view from before a loss has rows that
/// lead nowhere, and would make the sound records beside them unreadable; so it is another view.
fn contents(log: &Log) -> [u8; 16] {
    let mut id = log.id();
    if !log.lost().is_empty() {
        let lost: Vec<u8> =
            log.lost().iter().flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()]).flatten().collect();
        let mark = HashKey(id).body(0, &lost).to_le_bytes();
        id.iter_mut().zip(mark).for_each(|(i, m)| *i ^= m);
    }
    id
}

/// Whether a view that has followed a log up to here can follow this one: not if it is ahead, or of another past of it, or if
/// retention has dropped records that it has not seen.
fn is_of_this_log(seen: Checkpoint, reader: &Reader) -> bool {
    match record_at(reader, seen.sequence) {
        Some(record) => checkpoint(&record) == seen,
        None => seen.sequence + 1 == reader.first_sequence(),
    }
}

fn unusable_view(e: &ViewError) -> Error {
    Error::new(Code::DataDirUnusable, format!("the view cannot be opened: {e}"))
}

fn record_at(reader: &Reader, sequence: u64) -> Option<Record> {
    let mut scan = reader.scan(sequence);
    let batch = scan.next()?.ok()?;
    batch.into_iter().map(|(r, _)| r).find(|r| r.offset() == sequence)
}

impl Storage {
    /// Reads what the view has not seen yet.
    fn catch_up(&mut self, reader: &Reader, from: u64) -> Result<()> {
        let mut count = 0u64;
        for batch in reader.scan(from) {
            let batch = batch.map_err(|e| log_error(&e))?;
            let records: Vec<_> = batch
                .into_iter()
                .filter(|(r, _)| r.offset() >= from)
                .map(|(r, p)| (r, p.to_bytes()))
                .collect();
            let Some(last) = records.last().map(|r| checkpoint(&r.0)) else { continue };
            let origins = std::iter::repeat_n(Origin::Read, records.len());
            self.tail.accept(&records, origins, last).map_err(|e| view_error(&e))?;
            count += records.len() as u64;
            if self.tail.view().overlay_bytes() > OVERLAY {
                self.flush_early()?;
            }
        }
        if count > 0 {
            self.flush_early()?;
            tracing::info!(records = count, "the view has read what it lacked of the log");
        }
        Ok(())
    }

    /// A flush before the engine runs. On a full disk it must start too: then what was read waits in memory, up to a bound.
    fn flush_early(&self) -> Result<()> {
        let view = self.tail.view();
        match view.flush() {
            Err(ViewError::Full(_)) if view.overlay_bytes() <= MOST_AT_START => Ok(()),
            Err(e @ ViewError::Full(_)) => Err(Error::new(Code::StorageFull, e.to_string())),
            flushed => flushed.map(drop).map_err(|e| view_error(&e)),
        }
    }

    /// Appends as many of `appends` as one batch takes (they leave it), syncs, and lets the tail pass them. Everything that was
    /// taken is answered when this returns.
    pub fn step(&mut self, appends: &mut Vec<Append>, now_ms: u64, steady_ms: u64) {
        let rest = appends.split_off(batch_of(appends.iter()).0);
        let mut taken = std::mem::replace(appends, rest);
        if let Some(error) = &self.failed {
            self.tail.refuse(taken.drain(..), error);
            return;
        }
        if let Err(error) = self.make_room() {
            self.tail.refuse(taken.drain(..), &error);
            return;
        }
        self.tail.prepare(&mut taken);
        let now_ms = now_ms.max(self.log.last_time());
        self.tail.admit(&mut taken, &mut self.keys, now_ms, steady_ms, None);
        if taken.is_empty() {
            return;
        }
        self.batch.clear();
        for a in &taken {
            self.batch.push(a.kind, &a.room, &a.user, &a.id, &a.data);
        }
        self.written.clear();
        let size = self.batch.bytes() as u64;
        match self.log.append(&mut self.batch, now_ms, &mut self.written) {
            Ok(()) => {
                self.metrics.storage_refusing.set(0);
                self.metrics.log_batches.inc();
                self.metrics.log_bytes.add(size);
            }
            Err(e) => return self.append_failed(&e),
        }
        let records: Vec<_> = self.written.drain(..).map(|(r, p)| (r, p.to_bytes())).collect();
        let Some(last) = records.last().map(|r| checkpoint(&r.0)) else { return };
        self.metrics.log_last_offset.set(last.sequence);
        let origins = self.keys.iter().map(|k| Origin::Own(*k));
        if let Err(e) = self.tail.accept(&records, origins, last) {
            // The messages are stored but this node cannot show them any more: refuse to go on rather than to diverge.
            self.view_failed(&e);
            self.tail.fail(&Outcome::Unknown(Error::new(
                Code::Unknown,
                "the view failed; retry with the same id",
            )));
        }
    }

    /// Sees to it that the rows of another batch may wait in memory, where the view's own thread has not been quick enough. Without
    /// room for them nothing is stored, until the view can be written.
    fn make_room(&mut self) -> Result<()> {
        if self.tail.view().overlay_bytes() <= 2 * OVERLAY {
            return Ok(());
        }
        match self.tail.view().flush() {
            Ok(flushed) if flushed.deferred && self.tail.view().overlay_bytes() > MOST_DEFERRED => {
                let error = "the view's store has yet to put its files together; slow down";
                Err(Error::new(Code::Busy, error).after(250))
            }
            Ok(_) => Ok(()),
            Err(ViewError::Damaged(why)) => Err(self.view_failed(&ViewError::Damaged(why))),
            Err(e) => {
                if !std::mem::replace(&mut self.view_full, true) {
                    tracing::error!(error = %e, "nothing is stored until the view can be written");
                }
                self.metrics.storage_refusing.set(1);
                Err(Error::new(Code::StorageFull, e.to_string()))
            }
        }
    }

    fn view_failed(&mut self, e: &ViewError) -> Error {
        tracing::error!(error = %e, "the view failed; restart the engine and it is rebuilt from the log");
        let error = Error::new(Code::StorageFailed, "the view failed; it is rebuilt at the next start");
        self.failed = Some(error.clone());
        self.metrics.storage_refusing.set(1);
        error
    }

    fn append_failed(&mut self, e: &LogError) {
        let error = log_error(e);
        if self.metrics.storage_refusing.get() == 0 {
            tracing::error!(error = %e, "the log refuses to store");
        }
        self.metrics.storage_refusing.set(1);
        match error.code() {
            // Certainly nothing of it is in the log.
            Code::StorageFull | Code::LogDamaged => {
                self.tail.fail(&Outcome::NotStored(error));
            }
            _ => {
                if broken(Rule::UnknownIsUnknown) {
                    self.tail.fail(&Outcome::NotStored(error.clone()));
                }
                self.tail.fail(&Outcome::Unknown(Error::new(Code::Unknown, error.message())));
                self.failed = Some(Error::new(Code::StorageFailed, error.message()));
            }
        }
    }

    /// About once a second: the synced mark, retention, and whether there is room again.
    pub fn tick(&mut self, now_ms: u64) {
        let ticked =
            match self.log.has_expired(now_ms) && !broken(Rule::RetentionWaits) && self.view_is_behind() {
                true => self.log.note_synced().map(|()| None),
                false => self.log.tick(now_ms),
            };
        self.view_full &= self.tail.view().overlay_bytes() > 2 * OVERLAY;
        // Also where nobody publishes: a server that is full may be sent no more publishes until it says that it is not.
        if self.health() == Health::Up {
            self.metrics.storage_refusing.set(0);
        }
        match ticked {
            Ok(Some(first)) => {
                self.metrics.log_first_offset.set(first);
                if let Err(e) = self.tail.view().trim_below(0, first) {
                    tracing::warn!(error = %e, "the view cannot drop what the log no longer holds");
                }
            }
            Ok(None) => {}
            Err(e) if self.log.state() == State::Failed => {
                self.metrics.storage_refusing.set(1);
                self.failed = Some(log_error(&e));
                return;
            }
            // Once, not every second for as long as it lasts.
            Err(_) if self.neglected => return,
            Err(e) => {
                tracing::warn!(error = %e, "the log's upkeep failed; it is tried again every second");
                self.neglected = true;
                return;
            }
        }
        self.neglected = false;
    }

    /// Makes the view durable: the ids of records that retention drops are known by it alone, for as long as their window lasts.
    /// True if that cannot be done now; then nothing is dropped.
    fn view_is_behind(&mut self) -> bool {
        match self.tail.view().sync() {
            Ok(synced) => {
                self.view_behind = false;
                !synced
            }
            Err(e) => {
                if !std::mem::replace(&mut self.view_behind, true) {
                    tracing::warn!(error = %e, "the view cannot be written; the log drops nothing until it can");
                }
                true
            }
        }
    }

    /// Whether it stores.
    pub fn health(&self) -> Health {
        match (self.failed.is_some(), self.log.state()) {
            (true, _) | (_, State::Failed) => Health::StorageFailed,
            (_, State::Damaged) => Health::LogDamaged,
            (_, State::Full) => Health::StorageFull,
            _ if self.view_full => Health::StorageFull,
            _ => Health::Up,
        }
    }

    /// Syncs and closes. A view that cannot be written then is behind, no more: the next opening reads on in the log.
    pub fn close(self) -> Result<()> {
        if let Err(e) = self.tail.view().flush() {
            tracing::warn!(error = %e, "the view is left behind the log");
        }
        self.log.close().map_err(|e| log_error(&e))
    }
}

/// How many of these publishes one batch takes, at least one, and their size.
pub fn batch_of<'a>(appends: impl Iterator<Item = &'a Append>) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    for size in appends.map(Append::size).take(Batch::MAX_RECORDS) {
        if count > 0 && bytes + size >= Batch::MAX_BYTES {
            break;
        }
        (count, bytes) = (count + 1, bytes + size);
    }
    (count, bytes)
}

/// The view is flushed by the writer itself once this much waits; usually the view's own thread is quicker.
pub const OVERLAY: usize = 16 << 20;

/// What may wait in memory while the view's store puts its files together and takes nothing: that passes, so it is more than where it
/// cannot be written.
pub const MOST_DEFERRED: usize = 4 * OVERLAY;

/// What a start may leave in memory where the disk has no room for the view: that of some millions of messages.
const MOST_AT_START: usize = 256 << 20;

/// Rows as publications, by reading their places.
pub fn read(reader: &Reader, rows: &[OwnedRow]) -> Result<Vec<Publication>> {
    rows.iter()
        .map(|row| {
            let place = Place::from_bytes(row.place.as_ref().try_into().unwrap_or_default());
            let record = reader.read(&place, row.offset).map_err(|e| {
                Error::new(Code::Unavailable, format!("a record of the log cannot be read: {e}"))
            })?;
            Ok(Publication { record, prev: row.prev })
        })
        .collect()
}

#[cfg(test)]
mod tests;
