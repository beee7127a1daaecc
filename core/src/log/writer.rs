//! The one writer of a log.

use super::batch::Batch;
use super::error::{Damage, LogError, State, no_room};
use super::files::{Files, read_full, write_full};
use super::format::{
    BATCH_HEAD, LogId, MAX_CONTENT, MAX_SEQUENCE, Place, RECORD_HEAD, SEGMENT_HEAD, SegmentHead, segment_name,
};
use super::notes::{Accepted, SYNCED, Synced, SyncedFile, has_room};
use super::reader::{Index, Reader, Shared};
use super::survey::{Segment, Survey, survey};
use crate::config::Storage;
use crate::message::Record;
use crate::points::{Rule, broken};
use bytes::Bytes;
use std::io;
use std::mem;
use std::sync::Arc;

/// Largest segment, whatever the setting says: places in a segment have 32 bits.
const MAX_SEGMENT: u64 = 1 << 30;

/// The open log: the one that appends, syncs and drops.
///
/// Dropping it without [`Log::close`] is like a crash: nothing acknowledged is lost.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    options: Storage,
    state: State,
    /// What failed, once the state is [`State::Failed`].
    failure: String,
    /// The segment that is appended to, and where its sound bytes end.
    active: u64,
    end: u64,
    /// Whether a write was cut back there, which is not durable yet.
    cut: bool,
    next: u64,
    last_time: u64,
    /// No record gets an earlier timestamp.
    floor: u64,
    damage: Vec<Damage>,
    lost: Vec<(u64, u64)>,
    /// What the synced file says.
    noted: Option<Synced>,
}

impl Log {
    /// Opens the log in `files`, or makes a new one with `new_id` if there is none.
    ///
    /// Reads all of it. An incomplete last batch is cut; with other damage the log opens in [`State::Damaged`] and
    /// nothing on disk is changed, unless `options.accept_damage` is set: then a new segment is made in which writing
    /// goes on, and the damage before it is recorded as accepted.
    pub fn open(
        files: Arc<dyn Files>,
        options: &Storage,
        new_id: [u8; 16],
        now_ms: u64,
    ) -> Result<Log, LogError> {
        let note = Synced::read(&*files)?;
        let accepted = Accepted::read(&*files)?;
        let mut found = survey(&*files, note, accepted.as_ref(), &mut |_, _, _| {})?;
        for (file, from, to) in &found.unreadable {
            tracing::error!(
                "the disk cannot read {file}, bytes {from} to {to}; what was there counts as damaged"
            );
        }
        let mut damage = found.damage();
        let mut lost = lost_in(&damage);
        damage.retain(|d| !found.accepted.covers(d));
        for d in &damage {
            tracing::warn!("the log is damaged: {d}");
        }
        let id = found.id.unwrap_or(new_id);
        let noted = match note {
            SyncedFile::Good(noted) if noted.id == id => Some(noted),
            _ => None,
        };
        if !damage.is_empty() && !options.accept_damage {
            let log = Log::new(files, id, options, found, damage, noted, State::Damaged);
            return Ok(Log { lost, ..log });
        }
        let (created, was_empty) = (now_ms.max(found.last_time), found.segments.is_empty());
        if !damage.is_empty() {
            found = accept(&*files, note, &found, id, created)?;
            lost = lost_in(&found.damage());
        } else {
            recover(&*files, &found, noted)?;
            if was_empty {
                let first = found.next;
                make_segment(&*files, &SegmentHead { id, first, created }).map_err(Making::into_error)?;
                found.segments.push(Segment::new(first, created));
            }
        }
        let log = Log::new(files, id, options, found, damage, noted, State::Good);
        let mut log = Log { lost, ..log };
        if was_empty || !log.damage.is_empty() {
            log.note(log.first_kept()).map_err(opening("write the synced file"))?;
        }
        Ok(log)
    }

    fn new(
        files: Arc<dyn Files>,
        id: LogId,
        options: &Storage,
        found: Survey,
        damage: Vec<Damage>,
        noted: Option<Synced>,
        state: State,
    ) -> Log {
        let (active, end, time) = found.segments.last().map_or((0, 0, 0), |s| (s.first, s.end, s.time));
        let index = Index { segments: found.segments, last: found.last };
        Log {
            shared: Arc::new(Shared::new(files, id, index)),
            options: options.clone(),
            state,
            failure: String::new(),
            active,
            end,
            cut: false,
            next: found.next,
            last_time: found.last_time,
            floor: found.last_time.max(time),
            damage,
            lost: Vec::new(),
            noted,
        }
    }

    /// The log's random id, made when the log was.
    pub fn id(&self) -> [u8; 16] {
        self.shared.id
    }

    /// The sequence of the next record; 1 in a new log.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The timestamp of the last record in milliseconds since 1970 UTC; 0 if there is none.
    pub fn last_time(&self) -> u64 {
        self.last_time
    }

    /// No record of the log has a later timestamp than this, and none that follows an earlier one. Unlike [`Log::last_time`] it knows
    /// of records that retention has dropped.
    pub fn time_floor(&self) -> u64 {
        self.floor
    }

    /// Whether it takes records.
    pub fn state(&self) -> State {
        self.state
    }

    /// Damage that was not accepted before this opening. Empty for a sound log.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Sequences between the log's ends that it held once and holds no more, as inclusive ranges: of all damage found at this
    /// opening, whether it was accepted or not.
    pub fn lost(&self) -> &[(u64, u64)] {
        &self.lost
    }

    /// A reader.
    pub fn reader(&self) -> Reader {
        Reader(self.shared.clone())
    }

    /// Appends a batch: one write, one sync. Then its records are added to `written`, in order, and it is cleared.
    ///
    /// Their sequences go on from the last one, and all get the timestamp `now_ms`, or that of the previous record or
    /// of the segment's making if it is later. Their bodies share one buffer. On an error nothing is added, the batch keeps its records, and the
    /// error tells what is known:
    /// - [`LogError::Full`]: certainly not stored; what was written is cut back, and a later append tries again.
    /// - [`LogError::Failed`]: not known. Final: every later append fails with it, until the log is opened anew.
    /// - [`LogError::Damaged`], [`LogError::TooLarge`]: not stored.
    pub fn append(
        &mut self,
        batch: &mut Batch,
        now_ms: u64,
        written: &mut Vec<(Record, Place)>,
    ) -> Result<(), LogError> {
        match self.state {
            State::Damaged => return Err(LogError::Damaged),
            State::Failed => return Err(LogError::Failed(self.failure.clone())),
            State::Good | State::Full => {}
        }
        if batch.is_empty() {
            return Ok(());
        }
        if batch.bytes() > MAX_CONTENT {
            return Err(LogError::TooLarge);
        }
        if self.next + batch.len() as u64 - 1 > MAX_SEQUENCE {
            return Err(self.full());
        }
        let time = now_ms.max(self.floor);
        let most = self.options.segment_bytes.min(MAX_SEGMENT);
        if self.end > SEGMENT_HEAD as u64 && self.end + batch.bytes() as u64 > most {
            self.roll(time)?;
        }
        self.shared.mark.seal(&mut batch.buf, &batch.starts, self.next, time);
        self.store(&batch.buf)?;
        self.state = State::Good;

        let (at, bytes) = (self.end, batch.bytes() as u64);
        let (first, last) = (self.next, self.next + batch.len() as u64 - 1);
        self.end += bytes;
        self.next = last + 1;
        self.last_time = time;
        self.floor = time;
        {
            let mut index = self.shared.write();
            index.last = last;
            if let Some(segment) = index.segments.last_mut() {
                segment.extend(first, last, time, bytes);
            }
        }
        // The buffer is theirs now; the batch begins with a new one.
        let buf = Bytes::from(mem::take(&mut batch.buf));
        let ends = batch.starts.iter().skip(1).map(|s| *s as usize).chain([buf.len()]);
        written.extend(batch.starts.iter().zip(ends).zip(first..).map(|((start, end), sequence)| {
            let start = *start as usize;
            let (at, len) = ((at + start as u64) as u32, (end - start) as u32);
            let record = Record::trusted(sequence, time, buf.slice(start + RECORD_HEAD..end));
            (record, Place { segment: self.active, at, len })
        }));
        batch.clear();
        Ok(())
    }

    /// Writes and syncs at the end of the active segment.
    fn store(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let (name, files) = (segment_name(self.active), self.shared.files.clone());
        if let Err(e) = write_full(&*files, &name, self.end, bytes) {
            if !no_room(&e) {
                return Err(self.fail("write", &name, &e));
            }
            // The batch was never whole on disk, so it cannot come back even if the cut is not durable.
            let cut = if broken(Rule::CutBack) { Ok(()) } else { files.truncate(&name, self.end) };
            return Err(match cut {
                Ok(()) => {
                    self.cut = true;
                    self.full()
                }
                Err(e) => self.fail("cut back", &name, &e),
            });
        }
        if broken(Rule::SyncBeforeAck) {
            return Ok(());
        }
        self.sync_active()
    }

    fn sync_active(&mut self) -> Result<(), LogError> {
        let name = segment_name(self.active);
        let synced = match self.shared.files.sync_data(&name) {
            Err(_) if broken(Rule::FailedSyncIsFinal) => self.shared.files.sync_data(&name),
            synced => synced,
        };
        synced.map_err(|e| self.fail("sync", &name, &e))?;
        self.cut = false;
        Ok(())
    }

    /// Begins the next segment.
    fn roll(&mut self, time: u64) -> Result<(), LogError> {
        if self.cut {
            // What was cut back must not come up again behind the sound batches once another segment follows.
            self.sync_active()?;
        }
        let head = SegmentHead { id: self.shared.id, first: self.next, created: time };
        match make_segment(&*self.shared.files, &head) {
            Ok(()) => {}
            Err(Making::NoRoom) => return Err(self.full()),
            Err(Making::Failed(e)) => return Err(self.fail("make", &segment_name(head.first), &e)),
        }
        self.shared.write().segments.push(Segment::new(head.first, time));
        self.active = head.first;
        self.end = SEGMENT_HEAD as u64;
        Ok(())
    }

    /// Begins a segment before there is anything to write to it, as a roll does that is stopped.
    #[cfg(test)]
    pub(crate) fn begin_segment(&mut self, now_ms: u64) -> Result<(), LogError> {
        self.roll(now_ms.max(self.floor))
    }

    fn full(&mut self) -> LogError {
        self.state = State::Full;
        LogError::Full
    }

    fn fail(&mut self, what: &str, name: &str, error: &io::Error) -> LogError {
        self.state = State::Failed;
        self.failure = format!("cannot {what} {name}: {error}");
        tracing::error!("the log takes no more records: {}", self.failure);
        LogError::Failed(self.failure.clone())
    }

    /// Whether [`Log::tick`] would drop a segment now.
    pub fn has_expired(&self, now_ms: u64) -> bool {
        !matches!(self.state, State::Damaged | State::Failed) && self.expired(now_ms).0 > 0
    }

    /// What [`Log::tick`] does without dropping anything, to be called in its place while nothing may be dropped. Errors as there.
    pub fn note_synced(&mut self) -> Result<(), LogError> {
        if matches!(self.state, State::Damaged | State::Failed) {
            return Ok(());
        }
        self.look_for_room();
        self.note_or_fail(self.first_kept())
    }

    fn look_for_room(&mut self) {
        if self.state == State::Full && has_room(&*self.shared.files) {
            self.state = State::Good;
        }
    }

    fn note_or_fail(&mut self, first: u64) -> Result<(), LogError> {
        self.note(first)
            .map_err(|e| if no_room(&e) { LogError::Full } else { self.fail("write", SYNCED, &e) })
    }

    /// Keeps house; to be called about once a second from the thread that appends.
    ///
    /// Looks whether a log that was full has room again, notes the last synced sequence in the `synced` file if it has
    /// changed, and drops the oldest segments by size and age, never the active one. Returns the new first sequence if it has dropped any. [`LogError::Full`] means
    /// to try again later, [`LogError::Failed`] is final as in [`Log::append`]. Does nothing in a log that is damaged
    /// or has failed.
    pub fn tick(&mut self, now_ms: u64) -> Result<Option<u64>, LogError> {
        if matches!(self.state, State::Damaged | State::Failed) {
            return Ok(None);
        }
        self.look_for_room();
        let (drop, first) = self.expired(now_ms);
        // Noted before anything is removed, so that what is missing then is known to have been dropped.
        self.note_or_fail(first)?;
        if drop == 0 {
            return Ok(None);
        }
        let dropped: Vec<Segment> = self.shared.write().segments.drain(..drop).collect();
        let files = &*self.shared.files;
        let removed = dropped.iter().try_for_each(|s| files.remove(&segment_name(s.first)));
        if let Err(e) = removed.and_then(|()| files.sync_dir()) {
            // Their time will come: the next opening removes what is left.
            tracing::warn!("cannot remove dropped segments of the log yet: {e}");
        }
        Ok(Some(first))
    }

    /// How many of the oldest segments may go, and the first sequence after them.
    fn expired(&self, now_ms: u64) -> (usize, u64) {
        let (bytes, age) = (self.options.retain_bytes, self.options.retain_age_ms);
        let mut first = self.first_kept();
        let index = self.shared.read();
        let mut total: u64 = index.segments.iter().map(|s| s.end).sum();
        let mut drop = 0;
        for pair in index.segments.windows(2) {
            let [oldest, next] = pair else { break };
            let too_large = bytes > 0 && total > bytes;
            let too_old = age > 0 && oldest.time.saturating_add(age) < now_ms;
            if !too_large && !too_old {
                break;
            }
            total -= oldest.end;
            drop += 1;
            first = next.first;
        }
        (drop, first)
    }

    /// The first sequence that retention has left.
    fn first_kept(&self) -> u64 {
        self.noted.map_or_else(|| self.reader().first_sequence(), |n| n.first)
    }

    fn note(&mut self, first: u64) -> io::Result<()> {
        let note = Synced { id: self.shared.id, first, last: self.next - 1 };
        if self.noted != Some(note) {
            note.write(&*self.shared.files)?;
            self.noted = Some(note);
        }
        Ok(())
    }

    /// Ends writing and notes the last synced sequence. On an error the files are kept as they are, and everything
    /// that was acknowledged is in them.
    pub fn close(mut self) -> Result<(), LogError> {
        match self.state {
            State::Damaged => return Ok(()),
            State::Failed => return Err(LogError::Failed(self.failure)),
            State::Good | State::Full => {}
        }
        self.sync_active()?;
        self.note_or_fail(self.first_kept())
    }
}

/// What a failed change means while the log is being opened.
fn opening(what: &str) -> impl FnOnce(io::Error) -> LogError + use<> {
    let what = format!("cannot {what}");
    move |error| if no_room(&error) { LogError::Full } else { LogError::Io { what, error } }
}

/// Brings a sound log into the state that appending begins from.
fn recover(files: &dyn Files, found: &Survey, noted: Option<Synced>) -> Result<(), LogError> {
    let failed = |what: &str, name: &str| opening(&format!("{what} {name}"));
    if let Some((name, size)) = &found.unfinished {
        tracing::info!("removing {name}, a segment of the log that was never begun ({size} bytes)");
        files.remove(name).map_err(failed("remove", name))?;
    }
    if !found.expired.is_empty() {
        // The note that they were dropped may not be durable yet, and no removal may overtake it.
        files.sync_dir().map_err(failed("sync", "the log's directory"))?;
    }
    for name in &found.expired {
        match files.remove(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", name)(e)),
            _ => {}
        }
    }
    if let Some((name, from, to)) = &found.torn {
        tracing::warn!("cutting an incomplete batch off the log's end: {name} bytes {from} to {to}");
        files.truncate(name, *from).map_err(failed("cut", name))?;
    }
    if let Some(last) = found.segments.last() {
        let known = noted.is_some_and(|n| n.last == found.last) && found.last_batch.is_some();
        if !known || found.torn.is_some() {
            settle(files, last, found.last_batch)?;
        } else if !broken(Rule::CutIsDurable) {
            // An opening before this one may have cut an incomplete batch off and been stopped before that was durable: a power
            // cut could bring it back, behind the segments that will have followed.
            let name = segment_name(last.first);
            files.sync_data(&name).map_err(failed("sync", &name))?;
        }
    }
    files.sync_dir().map_err(failed("sync", "the log's directory"))
}

/// Makes the last batch durable, which the last opening may have left unsynced.
///
/// It is written again first: after a sync that failed, the system may hold pages that never reached the disk and
/// count them as clean, so that another sync would do nothing. The bytes are the same, so whatever of them a power
/// cut lets through changes nothing.
fn settle(files: &dyn Files, last: &Segment, last_batch: Option<u64>) -> Result<(), LogError> {
    let name = segment_name(last.first);
    let from = last_batch.unwrap_or(0);
    let mut bytes = vec![0; (last.end - from) as usize];
    let written = read_full(files, &name, from, &mut bytes).and_then(|n| {
        if n < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_full(files, &name, from, &bytes)
    });
    written.and_then(|()| files.sync_data(&name)).map_err(opening(&format!("settle {name}")))
}

fn lost_in(damage: &[Damage]) -> Vec<(u64, u64)> {
    damage.iter().flat_map(|d| d.missing.iter().copied()).collect()
}

/// Gives all damage up: makes the segment that follows it, and then records what is damaged in the log as it is now. So it is not
/// foretold how the damage will be found again, and a log of which that segment is missing was damaged anew.
fn accept(
    files: &dyn Files,
    note: SyncedFile,
    found: &Survey,
    id: LogId,
    created: u64,
) -> Result<Survey, LogError> {
    let next = match found.fresh() {
        // An acceptance that was stopped has made it. It may not be durable.
        Some(fresh) => {
            settle(files, fresh, None)?;
            files.sync_dir().map_err(opening("sync the log's directory"))?;
            fresh.first
        }
        None => {
            if let Some(last) = found.segments.last() {
                // Nothing will be appended to it any more, and readers may have seen its last batch.
                let name = segment_name(last.first);
                match found.last_batch {
                    None if !last.holes.is_empty() => {
                        files.sync_data(&name).map_err(opening(&format!("sync {name}")))?;
                    }
                    last_batch => settle(files, last, last_batch)?,
                }
            }
            let first = found.unused();
            make_segment(files, &SegmentHead { id, first, created }).map_err(Making::into_error)?;
            first
        }
    };
    let accepted = Accepted { log: id, next, damage: Vec::new() };
    let mut again = survey(files, note, Some(&accepted), &mut |_, _, _| {})?;
    again.accepted.damage = again.damage();
    // That file is written anew, and new damage to it is to be noticed.
    again.accepted.damage.retain(|d| d.file != SYNCED);
    again.accepted.write(files).map_err(opening("record accepted damage"))?;
    tracing::warn!("the log's damage is accepted; it goes on with sequence {next}");
    Ok(again)
}

/// Why a segment could not be made.
enum Making {
    /// No room; nothing of it is left.
    NoRoom,
    Failed(io::Error),
}

impl Making {
    fn into_error(self) -> LogError {
        match self {
            Making::NoRoom => LogError::Full,
            Making::Failed(error) => LogError::Io { what: "cannot make a segment of the log".into(), error },
        }
    }
}

/// Makes a segment with its head, durably.
fn make_segment(files: &dyn Files, head: &SegmentHead) -> Result<(), Making> {
    if head.first > MAX_SEQUENCE {
        return Err(Making::NoRoom);
    }
    let name = segment_name(head.first);
    let made = files.create(&name).and_then(|()| write_full(files, &name, 0, &head.encode()));
    match made {
        Ok(()) => {}
        Err(e) if no_room(&e) => {
            // Durably, or a power cut would bring it back, behind what the log has stored by then.
            return match files.remove(&name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Making::NoRoom),
                removed => match removed.and_then(|()| files.sync_dir()) {
                    Err(e) => Err(Making::Failed(e)),
                    Ok(()) => Err(Making::NoRoom),
                },
            };
        }
        Err(e) => return Err(Making::Failed(e)),
    }
    files.sync_data(&name).and_then(|()| files.sync_dir()).map_err(Making::Failed)
}

const _: () = assert!(MAX_SEGMENT + (MAX_CONTENT + BATCH_HEAD) as u64 <= u32::MAX as u64);
