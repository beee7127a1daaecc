//! Reading a whole log and finding what is sound, what is incomplete and what is damaged.

use super::error::{Damage, LogError, io_error};
use super::files::{Files, read_around};
use super::format::{
    Found, LogId, MAX_CONTENT, MAX_SEQUENCE, MIN_RECORD, Mark, Place, RECORD_HEAD, SEGMENT_HEAD, SegmentHead,
    segment_first, segment_name, u32_at, u64_at,
};
use super::notes::{Accepted, SYNCED, Synced, SyncedFile};
use super::order::longest_run;
use super::strays::{sound_batches, take_strays};
use super::window::Window;
use std::collections::HashMap;

/// Bytes between two entries of a segment's index.
const INDEX_STEP: u64 = 1 << 20;

/// A segment file, as readers need to know it.
#[derive(Debug)]
pub(super) struct Segment {
    /// The file's name: the first sequence that it can hold.
    pub first: u64,
    /// The last sequence before the next segment, whether or not its record is sound; `first - 1` if it is empty.
    pub last: u64,
    /// Where its synced bytes end.
    pub end: u64,
    /// The timestamp of its newest record, or of its making.
    pub time: u64,
    /// A sequence and the place of the batch that begins with it, every megabyte or so.
    pub index: Vec<(u64, u64)>,
    /// Damage, in order.
    pub holes: Vec<Hole>,
    /// What was counted when it was surveyed.
    pub counted: Counts,
}

/// What a survey counted in a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub records: u64,
    pub batches: u64,
    /// The timestamp of the first sound record.
    pub first_time: Option<u64>,
    /// The timestamp of the last one.
    pub last_time: Option<u64>,
}

impl Segment {
    pub fn new(first: u64, created: u64) -> Segment {
        let (end, last) = (SEGMENT_HEAD as u64, first.saturating_sub(1));
        let (index, holes) = (Vec::new(), Vec::new());
        Segment { first, last, end, time: created, index, holes, counted: Counts::default() }
    }

    /// Whether it may be appended to: it has a head and no damage. That records are missing before it is none of its own.
    pub fn takes_more(&self) -> bool {
        self.end >= SEGMENT_HEAD as u64 && self.holes.iter().all(|hole| hole.damage.to == 0)
    }

    /// Takes note of a batch at the end.
    pub fn extend(&mut self, first: u64, last: u64, time: u64, bytes: u64) {
        if self.index.last().is_none_or(|(_, at)| self.end - at >= INDEX_STEP) {
            self.index.push((first, self.end));
        }
        self.last = last;
        self.time = self.time.max(time);
        self.end += bytes;
    }
}

/// A damaged stretch of a segment.
#[derive(Debug)]
pub(super) struct Hole {
    pub damage: Damage,
    /// Records within it that are sound all the same.
    pub salvaged: Vec<Found>,
}

/// What a survey found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub id: Option<LogId>,
    /// What was accepted earlier of this log.
    pub accepted: Accepted,
    /// The segments, without one that was never finished.
    pub segments: Vec<Segment>,
    /// Damage that has no place in `segments`.
    pub elsewhere: Vec<Damage>,
    /// An incomplete last batch: file, from, to.
    pub torn: Option<(String, u64, u64)>,
    /// What the disk could not read: file, from, to. All of it is damage.
    pub unreadable: Vec<(String, u64, u64)>,
    /// A last segment whose head was never finished: its name and size.
    pub unfinished: Option<(String, u64)>,
    /// Segments that retention had dropped, but for the removal.
    pub expired: Vec<String>,
    /// The last sequence that was read; 0 if none.
    pub last: u64,
    /// The latest timestamp of a record.
    pub last_time: u64,
    /// The next sequence that nothing speaks of: no record, file name or synced file.
    pub next: u64,
    /// Whether the end of the log is damaged, so that sequences after `next` may have been used.
    pub tail_damaged: bool,
    /// Where the last batch begins in the last segment, if that one ends with a sound batch.
    pub last_batch: Option<u64>,
    /// Bytes of the damaged end.
    tail_bytes: u64,
    /// The last file by its name.
    newest: u64,
}

/// Sequences left out after a damaged end: more than a log can sync between two writings of the `synced` file.
const LEAVE_OUT: u64 = 1 << 20;

impl Survey {
    /// All damage, in order.
    pub fn damage(&self) -> Vec<Damage> {
        let holes = self.segments.iter().flat_map(|s| s.holes.iter().map(|h| h.damage.clone()));
        self.elsewhere.iter().cloned().chain(holes).collect()
    }

    /// A first sequence for a new segment, which no record that was ever synced has had. It comes behind all files by its name.
    pub fn unused(&self) -> u64 {
        let left_out = if self.tail_damaged { LEAVE_OUT + self.tail_bytes / MIN_RECORD as u64 } else { 0 };
        (self.next + left_out).max(self.newest + 1)
    }

    /// The last segment, if it is sound and nothing was written to it: it follows all damage that there is.
    pub fn fresh(&self) -> Option<&Segment> {
        let whole = self.torn.is_none() && self.unfinished.is_none();
        self.segments.last().filter(|last| {
            whole && last.first == self.next && last.takes_more() && last.end == SEGMENT_HEAD as u64
        })
    }
}

/// A visitor of sound records: place, sequence, timestamp, body. Records come in order.
pub(super) type Visit<'a> = &'a mut dyn FnMut(Place, &Found, &[u8]);

/// Reads the whole log.
///
/// How a segment is judged depends on its own file and name, the name of the next one, and the log's id. So damage that has a
/// segment behind it is described alike each time, until something happens to one of these.
pub(super) fn survey(
    files: &dyn Files,
    synced: SyncedFile,
    accepted: Option<&Accepted>,
    visit: Visit<'_>,
) -> Result<Survey, LogError> {
    let mut survey = Survey::default();
    let listed = files.list().map_err(io_error("cannot list the log's files"))?;
    let mut names: Vec<(u64, u64)> =
        listed.into_iter().filter_map(|(name, size)| Some((segment_first(&name)?, size))).collect();
    names.sort_unstable();
    survey.newest = names.last().map_or(0, |(first, _)| *first);
    let heads = names.iter().map(|(first, _)| read_head(files, *first)).collect::<Result<Vec<_>, _>>()?;
    let mut synced = match synced {
        SyncedFile::Good(synced) => Some(synced),
        SyncedFile::Missing => None,
        SyncedFile::Bad(len) => {
            survey.elsewhere.push(synced_damage(len));
            None
        }
    };
    survey.id = choose_id(heads.iter().filter_map(|h| h.as_ref().ok()), synced.as_ref(), accepted);
    if survey.id.is_none() {
        // No head checks. If the id in one of them is right nonetheless, its batches will show it.
        survey.id = heads.iter().find_map(|h| h.as_ref().err().copied().flatten());
    }
    survey.accepted = accepted.filter(|a| Some(a.log) == survey.id).cloned().unwrap_or_default();
    if synced.is_some_and(|s| Some(s.id) != survey.id) {
        survey.elsewhere.push(synced_damage(files_len(files, SYNCED)));
        synced = None;
    }
    let mut files_left: Vec<_> = names.into_iter().zip(heads).collect();
    if let Some(kept) = synced.map(|s| s.first) {
        let expired = files_left.iter().take_while(|((first, _), _)| *first < kept).count();
        survey.expired = files_left.drain(..expired).map(|((first, _), _)| segment_name(first)).collect();
    }
    let mark = Mark::new(&survey.id.unwrap_or_default());
    take_strays(files, mark, &mut files_left, &mut survey.elsewhere)?;
    let follows = survey.accepted.next;
    let (mut floor, mut limit) = (0, u64::MAX);
    // What follows accepted damage was there before that was accepted: a last file is one that was never begun only behind it.
    let before_last = files_left.len().checked_sub(2).and_then(|i| files_left.get(i));
    if before_last.map_or(follows == 0, |((before, _), _)| *before >= follows)
        && let Some(((first, size), _)) =
            files_left.pop_if(|((_, size), head)| head.is_err() && *size <= SEGMENT_HEAD as u64)
    {
        survey.unfinished = Some((segment_name(first), size));
        (floor, limit) = (first.saturating_sub(1), first);
    }
    if follows > 0 && files_left.last().is_none_or(|((last, _), _)| *last < follows) {
        let damage = Damage { file: segment_name(follows), from: 0, to: 0, missing: Vec::new() };
        survey.elsewhere.push(damage);
        survey.tail_damaged = true;
    }
    let begin = synced.map(|s| s.first).or(files_left.first().map(|((first, _), _)| *first)).unwrap_or(1);
    let mut walk = Walk { files, mark, visit, survey, limit, expected: begin.max(1) };
    let synced = synced.map_or(0, |s| s.last).max(floor);
    if files_left.is_empty() {
        walk.nothing_left(synced);
    }
    let mut left = files_left.into_iter().peekable();
    while let Some(((first, size), head)) = left.next() {
        let next = left.peek().map(|((next, _), _)| *next);
        walk.segment(first, size, head.ok(), next, synced)?;
    }
    let Walk { mut survey, expected, .. } = walk;
    survey.next = expected.max(synced + 1).max(follows);
    Ok(survey)
}

/// A head that checks, or the bytes where its log id would be.
pub(super) type Head = Result<SegmentHead, Option<LogId>>;

fn read_head(files: &dyn Files, first: u64) -> Result<Head, LogError> {
    let name = segment_name(first);
    let mut head = [0; SEGMENT_HEAD];
    let n = read_around(files, &name, 0, &mut head, &mut Vec::new());
    let n = n.map_err(io_error(format!("cannot read {name}")))?;
    match SegmentHead::decode(&head[..n]) {
        Ok(Some(head)) => Ok(Ok(head)),
        Ok(None) => Ok(Err(head[..n].get(12..28).and_then(|id| id.try_into().ok()))),
        Err(version) => Err(LogError::Version { file: name, version }),
    }
}

/// The id of the accepted file, unless all others name other ones; else the one that most heads carry; among equals, and
/// without any, the synced file's.
fn choose_id<'a>(
    heads: impl Iterator<Item = &'a SegmentHead>,
    synced: Option<&Synced>,
    accepted: Option<&Accepted>,
) -> Option<LogId> {
    let mut votes: HashMap<LogId, (usize, bool)> = HashMap::new();
    for head in heads {
        votes.entry(head.id).or_default().0 += 1;
    }
    if let Some(synced) = synced {
        votes.entry(synced.id).or_default().1 = true;
    }
    if let Some(accepted) = accepted.filter(|a| votes.is_empty() || votes.contains_key(&a.log)) {
        return Some(accepted.log);
    }
    votes.into_iter().max_by_key(|(id, votes)| (*votes, *id)).map(|(id, _)| id)
}

fn files_len(files: &dyn Files, name: &str) -> u64 {
    let listed = files.list().unwrap_or_default();
    listed.into_iter().find(|(n, _)| n == name).map_or(0, |(_, len)| len)
}

fn synced_damage(len: u64) -> Damage {
    Damage { file: SYNCED.into(), from: 0, to: len, missing: Vec::new() }
}

struct Walk<'a> {
    files: &'a dyn Files,
    mark: Mark,
    visit: Visit<'a>,
    survey: Survey,
    /// The first sequence of an unfinished segment: where it ends up as one that is damaged, nothing from there on could be
    /// read in an earlier one, so it is not read before either.
    limit: u64,
    /// The sequence that comes next if nothing is missing.
    expected: u64,
}

impl Walk<'_> {
    /// No segment at all, though perhaps there were some.
    fn nothing_left(&mut self, synced: u64) {
        if self.expected <= synced {
            let damage = self.missing_before(synced + 1);
            self.survey.elsewhere.push(damage);
            self.survey.tail_damaged = true;
        }
    }

    /// Files that are not there, up to the one of this name.
    fn missing_before(&self, first: u64) -> Damage {
        let missing = vec![(self.expected, first - 1)];
        Damage { file: segment_name(self.expected), from: 0, to: 0, missing }
    }

    /// Reads a segment. `synced` is the last sequence that was surely there once.
    fn segment(
        &mut self,
        first: u64,
        size: u64,
        head: Option<SegmentHead>,
        next_name: Option<u64>,
        synced: u64,
    ) -> Result<(), LogError> {
        let name = segment_name(first);
        let failed = |e| LogError::Io { what: format!("cannot read {name}"), error: e };
        let mut window = Window::lenient(name.clone());
        let mut segment = Segment::new(first, head.map_or(0, |h| h.created));
        self.survey.last_batch = None;
        // Its head has been looked at already, but not for what cannot be read.
        window.get(self.files, 0, SEGMENT_HEAD, size).map_err(failed)?;
        if self.survey.segments.is_empty() && self.expected < first {
            // Retention did not drop what is missing here, or the synced file would say so.
            segment.holes.push(Hole { damage: self.missing_before(first), salvaged: Vec::new() });
            self.expected = first;
        }
        let ours = head.is_none_or(|h| Some(h.id) == self.survey.id);
        let head_bad = head.is_none_or(|h| h.first != first);
        let mut bad = None;
        let mut at = size.min(SEGMENT_HEAD as u64);
        if !ours || size <= at && head_bad {
            (bad, at) = (Some(0), size);
        } else if head_bad {
            let damage = Damage { file: name.clone(), from: 0, to: at, missing: Vec::new() };
            segment.holes.push(Hole { damage, salvaged: Vec::new() });
        }
        segment.end = at;
        // Once something does not check or is missing: the batches that are at their places.
        let mut placed: Option<Vec<u64>> = None;
        while at < size {
            let batch = window.batch(self.files, self.mark, at, size).map_err(failed)?;
            if placed.is_none() && batch.as_deref().is_none_or(|found| bounds(found).0 != self.expected) {
                placed = Some(self.placed(&mut window, at, size, next_name).map_err(failed)?);
            }
            let in_order = |found: &Vec<Found>| {
                let (first, last) = bounds(found);
                first >= self.expected
                    && last < next_name.unwrap_or(self.limit)
                    && placed.as_ref().is_none_or(|placed| placed.binary_search(&at).is_ok())
            };
            let Some(found) = batch.filter(in_order) else {
                bad.get_or_insert(at);
                at = window.find_mark(self.files, self.mark, at + 1, size).map_err(failed)?;
                continue;
            };
            let (batch_first, batch_last) = bounds(&found);
            let len = batch_len(&found);
            if bad.is_some() || self.expected < batch_first {
                let range = (bad.take().unwrap_or(at), at);
                self.hole(&mut segment, &mut window, range, batch_first).map_err(failed)?;
            }
            let bytes = window.get(self.files, at, len as usize, size).map_err(failed)?;
            for f in &found {
                visit_one(self.visit, first, at, f, f.body(bytes));
            }
            segment.end = at;
            let time = found.last().map_or(0, |f| f.time);
            segment.extend(batch_first, batch_last, time, len);
            segment.counted.batches += 1;
            count(&mut segment.counted, &found);
            self.survey.last = batch_last;
            self.survey.last_time = self.survey.last_time.max(time);
            self.survey.last_batch = Some(at);
            self.expected = batch_last + 1;
            at += len;
        }
        self.finish(segment, window, bad, size, next_name, synced).map_err(failed)
    }

    /// Where the sound batches begin that are in order, from `at` on.
    fn placed(
        &self,
        window: &mut Window,
        at: u64,
        size: u64,
        next_name: Option<u64>,
    ) -> std::io::Result<Vec<u64>> {
        let mut sound = sound_batches(self.files, self.mark, window, at, size)?;
        let limit = next_name.unwrap_or(self.limit);
        sound.retain(|(_, first, last)| *first >= self.expected && *last < limit);
        let firsts: Vec<u64> = sound.iter().map(|(_, first, _)| *first).collect();
        Ok(longest_run(&firsts).into_iter().filter_map(|i| sound.get(i)).map(|(at, ..)| *at).collect())
    }

    /// What a segment ends with: nothing, an incomplete batch, or damage.
    fn finish(
        &mut self,
        mut segment: Segment,
        mut window: Window,
        bad: Option<u64>,
        size: u64,
        next_name: Option<u64>,
        synced: u64,
    ) -> std::io::Result<()> {
        let from = bad.unwrap_or(size);
        if let Some(next) = next_name {
            if bad.is_some() || self.expected < next {
                self.hole(&mut segment, &mut window, (from, size), next)?;
            }
        } else if self.expected <= synced
            || bad == Some(0)
            || window.unreadable_after(from)
            // What was being written when the writer stopped is no whole batch.
            || window.is_whole(self.files, self.mark, from, size)?
        {
            let salvaged = self.salvage(&mut window, (from, size), u64::MAX)?;
            let next = salvaged.last().map_or(0, |f| f.sequence).max(synced) + 1;
            self.hole(&mut segment, &mut window, (from, size), next)?;
            self.survey.tail_damaged = true;
            self.survey.tail_bytes = size - from;
        } else if bad.is_some() {
            self.survey.torn = Some((window.name().into(), from, size));
        }
        segment.last = self.expected - 1;
        let unreadable = window.unreadable().into_iter();
        self.survey.unreadable.extend(unreadable.map(|(from, to)| (window.name().to_owned(), from, to)));
        if bad.is_some() {
            self.survey.last_batch = self.survey.last_batch.filter(|_| self.survey.torn.is_some());
        }
        self.survey.segments.push(segment);
        Ok(())
    }

    /// Records a stretch that does not check, and that the next sound sequence is `next`.
    fn hole(
        &mut self,
        segment: &mut Segment,
        window: &mut Window,
        (from, to): (u64, u64),
        next: u64,
    ) -> std::io::Result<()> {
        let salvaged = self.salvage(window, (from, to), next)?;
        let mut missing = Vec::new();
        let mut expected = self.expected;
        for sequence in salvaged.iter().map(|f| f.sequence).chain([next]) {
            if expected < sequence {
                missing.push((expected, sequence - 1));
            }
            expected = expected.max(sequence + 1);
        }
        for f in &salvaged {
            let bytes = window.get(self.files, f.at as u64, f.len, to)?;
            let whole = Found { at: 0, ..*f };
            visit_one(self.visit, segment.first, f.at as u64, &whole, whole.body(bytes));
            self.survey.last = f.sequence;
            self.survey.last_time = self.survey.last_time.max(f.time);
            segment.time = segment.time.max(f.time);
        }
        count(&mut segment.counted, &salvaged);
        let damage = Damage { file: window.name().into(), from, to, missing };
        segment.holes.push(Hole { damage, salvaged });
        segment.end = segment.end.max(to);
        self.expected = self.expected.max(next);
        Ok(())
    }

    /// Sound records within a damaged stretch, by their sequences and CRCs; their `at` is that of the file.
    ///
    /// What is found does not depend on `next`, as long as that is beyond any sequence the bytes have room for. Where a head
    /// belongs nothing is looked for: there is no place of a record.
    fn salvage(&self, window: &mut Window, (from, to): (u64, u64), next: u64) -> std::io::Result<Vec<Found>> {
        let room = self.expected.saturating_add((to - from) / MIN_RECORD as u64 + 1);
        let limit = next.min(room).min(self.limit).min(MAX_SEQUENCE + 1);
        let mut sound: Vec<Found> = Vec::new();
        // Data that looks like heads of records could make this search long; it gives up instead.
        let mut budget = (to - from).saturating_mul(64);
        let mut at = from.max(SEGMENT_HEAD as u64);
        while at + (MIN_RECORD as u64) <= to && self.expected < limit && budget > 0 {
            let head = window.get(self.files, at, RECORD_HEAD, to)?;
            let sequence = u64_at(head, 8).unwrap_or(0);
            let len = u32_at(head, 0).map_or(0, |len| RECORD_HEAD + len as usize);
            let possible = (self.expected..limit).contains(&sequence)
                && (MIN_RECORD..=MAX_CONTENT).contains(&len)
                && at + len as u64 <= to;
            let found = if possible {
                budget = budget.saturating_sub(len as u64);
                self.mark.record(window.get(self.files, at, len, to)?)
            } else {
                None
            };
            match found {
                Some(found) => {
                    sound.push(Found { at: at as usize, ..found });
                    at += len as u64;
                }
                None => at += 1,
            }
        }
        let sequences: Vec<u64> = sound.iter().map(|f| f.sequence).collect();
        Ok(longest_run(&sequences).into_iter().filter_map(|i| sound.get(i).copied()).collect())
    }
}

/// Bytes of a whole batch.
pub(super) fn batch_len(found: &[Found]) -> u64 {
    found.last().map_or(0, |f| (f.at + f.len) as u64)
}

pub(super) fn bounds(found: &[Found]) -> (u64, u64) {
    (found.first().map_or(0, |f| f.sequence), found.last().map_or(0, |f| f.sequence))
}

fn count(counts: &mut Counts, found: &[Found]) {
    counts.records += found.len() as u64;
    counts.first_time = counts.first_time.or(found.first().map(|f| f.time));
    counts.last_time = found.last().map(|f| f.time).or(counts.last_time);
}

fn visit_one(
    visit: &mut dyn FnMut(Place, &Found, &[u8]),
    segment: u64,
    batch: u64,
    found: &Found,
    body: &[u8],
) {
    let place = Place { segment, at: (batch + found.at as u64) as u32, len: found.len as u32 };
    visit(place, found, body);
}
