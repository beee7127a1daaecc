//! The process killed and the power cut at every operation, and disks that fail or fill up.

use super::super::faulty::{Fault, Operation};
use super::*;
use std::io::ErrorKind;

/// What a run left behind, by what it knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Messages acknowledged, from 1 on. Their numbers are their sequences.
    pub acked: u64,
    /// Messages of the batch that failed, if one did.
    pub in_flight: u64,
    /// The first sequence that retention has said it left.
    pub first: u64,
}

impl Run {
    pub(super) fn acked(acked: u64) -> Run {
        Run { acked, ..Run::default() }
    }
}

pub(super) const OPTIONS: Storage =
    Storage { segment_bytes: 1500, retain_bytes: 0, retain_age_ms: 0, accept_damage: false };

/// Opens, appends batches of 1 to 6 messages, ticks now and then, and closes; ends at the first error.
pub(super) fn run<F: Files + 'static>(
    files: &Arc<F>,
    options: &Storage,
    run: &mut Run,
) -> Result<(), LogError> {
    let mut log = open(files, options)?;
    for turn in 0..14u64 {
        let len = 1 + turn % 6;
        run.in_flight = len;
        append(&mut log, run.acked + 1, len)?;
        run.acked += len;
        run.in_flight = 0;
        if turn % 4 == 3
            && let Some(first) = log.tick(1_000_000)?
        {
            run.first = first;
        }
    }
    log.close()
}

/// What must hold after a restart: all that was acknowledged and retention has left, perhaps the whole batch in flight,
/// nothing else, each as it was written. Returns the last sequence.
pub(super) fn check(log: &Log, run: &Run) -> Result<u64, String> {
    if log.state() != State::Good {
        return Err(format!("{:?}: {:?}", log.state(), log.damage()));
    }
    let mut records = Vec::new();
    for batch in log.reader().scan(0) {
        records.extend(batch.map_err(|e| e.to_string())?.into_iter().map(|(record, _)| record));
    }
    let (first, last) = (log.reader().first_sequence(), log.next_sequence() - 1);
    if last != run.acked && last != run.acked + run.in_flight {
        return Err(format!("it ends with {last}, not as {run:?} does"));
    }
    if first < run.first || sequences(&records) != (first..=last).collect::<Vec<_>>() {
        return Err(format!("of {first} to {last} it has {:?}; {run:?}", sequences(&records)));
    }
    match records.iter().find(|r| r.body() != &body(r.offset())[..]) {
        Some(other) => Err(format!("{} is not what was written", other.offset())),
        None => Ok(last),
    }
}

/// Goes on from a restart: ten new messages, and all is there at the next opening.
pub(super) fn go_on<F: Files + 'static>(
    files: &Arc<F>,
    options: &Storage,
    before: &Run,
) -> Result<(), String> {
    let text = |e: LogError| e.to_string();
    let mut log = open(files, options).map_err(text)?;
    let last = check(&log, before)?;
    for n in 1..=10 {
        append(&mut log, last + n, 1).map_err(text)?;
    }
    log.tick(1_000_000).map_err(text)?;
    log.close().map_err(text)?;
    check(&open(files, options).map_err(text)?, &Run { acked: last + 10, ..before.clone() }).map(drop)
}

/// [`go_on`] where it must succeed.
fn goes_on(files: &Arc<Faulty>, options: &Storage, before: &Run, what: &str) {
    go_on(files, options, before).unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// Runs with the fault at the first, second, ... operation until a run meets none. Returns how many met one.
fn everywhere(
    fault: Fault,
    seed: u64,
    options: &Storage,
    mut then: impl FnMut(&Arc<Faulty>, &Run, &str),
) -> u64 {
    for n in 1.. {
        let files = Arc::new(Faulty::new(seed * 1000 + n));
        files.plan(None, n, fault);
        let mut left = Run::default();
        let result = run(&files, options, &mut left);
        if !files.happened() {
            result.unwrap();
            return n - 1;
        }
        assert!(result.is_err());
        then(&Arc::new(files.restart()), &left, &format!("{fault:?}, seed {seed}, at {n}"));
    }
    0
}

pub(super) fn retaining() -> Storage {
    Storage { retain_bytes: 3000, ..OPTIONS }
}

/// The settings after a stop: now the same, now with segments so small that each batch begins one.
pub(super) fn then(options: &Storage, n: u64) -> Storage {
    if n.is_multiple_of(2) { options.clone() } else { Storage { segment_bytes: 100, ..options.clone() } }
}

#[test]
fn killed_at_every_operation() {
    for options in [OPTIONS, retaining()] {
        for seed in 0..4 {
            let stops = everywhere(Fault::Kill, seed, &options, |files, left, what| {
                goes_on(files, &then(&options, seed), left, what);
            });
            assert!(stops > 60, "only {stops}");
        }
    }
}

#[test]
fn power_cut_at_every_operation() {
    for options in [OPTIONS, retaining()] {
        for seed in 0..16 {
            let stops = everywhere(Fault::PowerCut, seed, &options, |files, left, what| {
                goes_on(files, &then(&options, seed), left, what);
            });
            assert!(stops > 60, "only {stops}");
        }
    }
}

#[test]
fn stopped_again_at_every_operation_of_the_recovery() {
    let mut again = 0;
    for (first, second) in [
        (Fault::Kill, Fault::Kill),
        (Fault::Kill, Fault::PowerCut),
        (Fault::PowerCut, Fault::Kill),
        (Fault::PowerCut, Fault::PowerCut),
    ] {
        for seed in 0..2 {
            everywhere(first, seed, &retaining(), |files, left, what| {
                for n in 1.. {
                    let files = Arc::new(files.seeded(seed * 7919 + n));
                    files.plan(None, n, second);
                    let opened = open(&files, &retaining());
                    if !files.happened() {
                        check(&opened.unwrap(), left).unwrap_or_else(|e| panic!("{what}: {e}"));
                        break;
                    }
                    assert!(opened.is_err());
                    again += 1;
                    let what = format!("{what}, then {second:?} at {n} of the recovery");
                    goes_on(&Arc::new(files.restart()), &retaining(), left, &what);
                }
            });
        }
    }
    assert!(again > 500, "only {again}");
}

/// Stopped at a random operation, again and again, in openings, appends, rolls and retention alike.
#[test]
fn power_cut_and_killed_over_and_over() {
    let (mut stops, mut in_recovery, mut dropped) = (0, 0, 0);
    for seed in 0..300 {
        let mut files = Arc::new(Faulty::new(seed));
        let mut known = Run::default();
        let random = Faulty::new(!seed);
        for round in 0..12 {
            let fault = if random.random(4) == 0 { Fault::Kill } else { Fault::PowerCut };
            // Often while it opens.
            let most = if random.random(2) == 0 { 8 } else { 70 };
            files.plan(None, 1 + random.random(most), fault);
            match open(&files, &retaining()) {
                Err(_) => in_recovery += 1,
                Ok(mut log) => {
                    let last = check(&log, &known);
                    known.acked = last.unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}"));
                    known.in_flight = 0;
                    while !files.happened() {
                        known.in_flight = 1 + random.random(6);
                        if append(&mut log, known.acked + 1, known.in_flight).is_err() {
                            break;
                        }
                        known.acked += known.in_flight;
                        known.in_flight = 0;
                        if random.random(3) == 0
                            && let Ok(Some(first)) = log.tick(1_000_000)
                        {
                            (known.first, dropped) = (first, dropped + 1);
                        }
                    }
                }
            }
            assert!(files.happened());
            stops += 1;
            files = Arc::new(files.restart());
        }
        goes_on(&files, &retaining(), &known, &format!("seed {seed}, in the end"));
    }
    assert!(stops == 3600 && in_recovery > 500 && dropped > 500, "{stops} {in_recovery} {dropped}");
}

#[test]
fn what_was_seen_after_a_restart_survives_the_next_power_cut() {
    // Killed after the write and before the sync: the batch is there for the next opening, and its readers.
    for seed in 0..32 {
        let files = Arc::new(Faulty::new(seed));
        let mut log = open(&files, &OPTIONS).unwrap();
        append(&mut log, 1, 3).unwrap();
        files.plan(Some(Operation::Sync), 1, Fault::Kill);
        assert!(append(&mut log, 4, 3).is_err());
        let files = Arc::new(files.restart());
        let log = open(&files, &OPTIONS).unwrap();
        assert_eq!(all(&log.reader(), 0).len(), 6);
        let log = open(&Arc::new(files.cut_power()), &OPTIONS).unwrap();
        assert_eq!((log.state(), all(&log.reader(), 0).len()), (State::Good, 6));
    }
}

#[test]
fn the_first_failed_write_or_sync_is_final() {
    for (on, most) in [(Operation::Write, 20), (Operation::Sync, 20), (Operation::SyncDir, 3)] {
        for n in 1..most {
            let files = Arc::new(Faulty::new(n));
            let mut log = open(&files, &OPTIONS).unwrap();
            files.plan(Some(on), n, Fault::Error(ErrorKind::Other));
            let mut acked = 0;
            let failed = (1..100).find_map(|n| match append(&mut log, n, 1) {
                Ok(_) => {
                    acked += 1;
                    None
                }
                Err(e) => Some(e),
            });
            assert!(matches!(failed, Some(LogError::Failed(_))), "{on:?} {n}: {failed:?}");
            assert_eq!(log.state(), State::Failed);
            // Nothing is tried again: not by an append, a tick or the close.
            let before = files.counts();
            let mut batch = batch(500, 1);
            let mut written = Vec::new();
            assert!(matches!(log.append(&mut batch, 0, &mut written), Err(LogError::Failed(_))));
            assert!(written.is_empty() && batch.len() == 1);
            assert_eq!(log.tick(5000).unwrap(), None);
            assert_eq!(files.counts(), before);
            // Reads go on, and see what was acknowledged and no more.
            let reader = log.reader();
            assert_eq!(sequences(&all(&reader, 0)), (1..=acked).collect::<Vec<_>>());
            assert!(matches!(log.close(), Err(LogError::Failed(_))));
            assert_eq!(files.counts(), before);
            let left = Run { in_flight: 1, ..Run::acked(acked) };
            goes_on(&Arc::new(files.restart()), &OPTIONS, &left, "restarted");
            goes_on(&Arc::new(files.cut_power()), &OPTIONS, &left, "after a power cut");
        }
    }
}

#[test]
fn a_batch_whose_sync_failed_is_written_again_before_it_counts() {
    // The system calls pages clean that a failed sync never wrote. The next opening sees the batch; once it has
    // opened, the batch must survive a power cut.
    for seed in 0..32 {
        let files = Arc::new(Faulty::new(seed));
        let mut log = open(&files, &OPTIONS).unwrap();
        append(&mut log, 1, 3).unwrap();
        files.plan(Some(Operation::Sync), 1, Fault::Error(ErrorKind::Other));
        assert!(append(&mut log, 4, 3).is_err());
        drop(log);
        let mut log = open(&files, &OPTIONS).unwrap();
        assert_eq!(log.next_sequence(), 7);
        append(&mut log, 7, 1).unwrap();
        let log = open(&Arc::new(files.cut_power()), &OPTIONS).unwrap();
        assert_eq!((log.state(), all(&log.reader(), 0).len()), (State::Good, 7));
    }
}

#[test]
fn a_failure_in_tick_is_final_too() {
    for on in [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDir] {
        let files = Arc::new(Faulty::new(1));
        let mut log = open(&files, &OPTIONS).unwrap();
        append(&mut log, 1, 3).unwrap();
        files.plan(Some(on), 1, Fault::Error(ErrorKind::Other));
        assert!(matches!(log.tick(0), Err(LogError::Failed(_))), "{on:?}");
        assert!(matches!(append(&mut log, 4, 1), Err(LogError::Failed(_))));
        goes_on(&Arc::new(files.restart()), &OPTIONS, &Run::acked(3), "restarted");
    }
}

#[test]
fn segments_that_cannot_be_removed_now_are_removed_later() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &retaining()).unwrap();
    (1..=60).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
    files.plan(Some(Operation::Remove), 1, Fault::Error(ErrorKind::Other));
    let first = log.tick(0).unwrap().unwrap();
    assert!(files.happened());
    log.close().unwrap();
    let listed = |files: &Faulty| files.list().unwrap().len();
    let before = listed(&files);
    let log = open(&files, &retaining()).unwrap();
    assert_eq!((log.state(), log.reader().first_sequence()), (State::Good, first));
    assert!(listed(&files) < before);
}

#[test]
fn a_full_disk_loses_nothing_and_is_left_when_there_is_room() {
    let mut met = [0; 2];
    for more in (0..1600).step_by(3) {
        let files = Arc::new(Faulty::new(more));
        let mut log = open(&files, &OPTIONS).unwrap();
        append(&mut log, 1, 3).unwrap();
        log.tick(0).unwrap();
        let segment = |files: &Faulty| files.list().unwrap().len();
        let segments = segment(&files);
        files.set_space(Some(files.used() + more));
        let mut acked = 3;
        loop {
            match append(&mut log, acked + 1, 2) {
                Ok(_) => acked += 2,
                Err(LogError::Full) => break,
                Err(e) => panic!("{e}"),
            }
        }
        met[(segment(&files) > segments) as usize] += 1;
        assert_eq!(log.state(), State::Full);
        // Still full, and refused again without harm; reads go on.
        assert!(matches!(append(&mut log, acked + 1, 4), Err(LogError::Full)));
        assert_eq!(sequences(&all(&log.reader(), 0)), (1..=acked).collect::<Vec<_>>());
        if more % 2 == 0 {
            // Stopped while full: certainly not stored means not there, even after a power cut.
            for files in [files.restart(), files.cut_power()] {
                files.set_space(None);
                goes_on(&Arc::new(files), &OPTIONS, &Run::acked(acked), &format!("with {more} bytes"));
            }
        }
        files.set_space(None);
        append(&mut log, acked + 1, 4).unwrap();
        assert_eq!(log.state(), State::Good);
        log.close().unwrap();
        goes_on(&files, &OPTIONS, &Run::acked(acked + 4), "with room");
    }
    assert!(met.iter().all(|n| *n > 40), "{met:?}");
}

#[test]
fn a_full_disk_does_not_keep_the_log_from_ticking_and_closing_later() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &OPTIONS).unwrap();
    append(&mut log, 1, 3).unwrap();
    files.set_space(Some(files.used() + 20));
    assert!(matches!(log.tick(0), Err(LogError::Full)));
    assert!(matches!(log.tick(0), Err(LogError::Full)));
    files.set_space(None);
    log.tick(0).unwrap();
    append(&mut log, 4, 1).unwrap();
    files.set_space(Some(files.used() + 20));
    assert!(matches!(log.close(), Err(LogError::Full)));
    files.set_space(None);
    goes_on(&files, &OPTIONS, &Run::acked(4), "after a close that failed");
}

#[test]
fn a_cut_back_that_fails_is_final() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &OPTIONS).unwrap();
    append(&mut log, 1, 3).unwrap();
    files.set_space(Some(files.used() + 70));
    files.plan(Some(Operation::Truncate), 1, Fault::Error(ErrorKind::Other));
    assert!(matches!(append(&mut log, 4, 2), Err(LogError::Failed(_))));
    files.set_space(None);
    goes_on(&Arc::new(files.restart()), &OPTIONS, &Run::acked(3), "restarted");
}

/// Segments that found no room for their heads were removed, but not durably: a power cut brought them back, and they counted as
/// damage.
#[test]
fn a_segment_that_was_never_begun_does_not_come_back() {
    for seed in 0..200 {
        let files = Arc::new(Faulty::new(seed));
        let mut log = open(&files, &OPTIONS).unwrap();
        append(&mut log, 1, 4).unwrap();
        for n in 0..3 {
            // So large that it must begin a segment; the small one that follows goes into the old one.
            files.set_space(Some(files.used() + 20));
            assert!(matches!(append(&mut log, 5 + n, 40), Err(LogError::Full)));
            files.set_space(None);
            append(&mut log, 5 + n, 1).unwrap();
        }
        assert_eq!(log.reader().last_sequence(), 7);
        drop(log);
        let files = Arc::new(files.cut_power());
        goes_on(&files, &OPTIONS, &Run::acked(7), &format!("seed {seed}"));
    }
}

/// An opening cut an incomplete batch off and was stopped before that was durable; the next one found nothing to cut. Once segments
/// had followed, a power cut brought the batch back behind sound ones, as damage.
#[test]
fn an_incomplete_batch_that_was_cut_off_does_not_come_back() {
    let mut met = 0;
    for seed in 0..400 {
        let files = Arc::new(Faulty::new(seed));
        let mut log = open(&files, &OPTIONS).unwrap();
        append(&mut log, 1, 4).unwrap();
        log.tick(1_000_000).unwrap();
        files.plan(Some(Operation::Sync), 1, Fault::PowerCut);
        assert!(append(&mut log, 5, 6).is_err());
        drop(log);
        // The incomplete batch is there after the power is back, and the process is killed right after its cut.
        let files = Arc::new(files.restart());
        files.plan(Some(Operation::Truncate), 1, Fault::Kill);
        let opened = open(&files, &OPTIONS);
        if !files.happened() {
            continue;
        }
        assert!(opened.is_err());
        met += 1;
        let files = Arc::new(files.restart());
        let mut log = open(&files, &then(&OPTIONS, 1)).unwrap();
        let last = log.next_sequence() - 1;
        append(&mut log, last + 1, 3).unwrap();
        append(&mut log, last + 4, 3).unwrap();
        drop(log);
        let files = Arc::new(files.cut_power());
        goes_on(&files, &OPTIONS, &Run::acked(last + 6), &format!("seed {seed}"));
    }
    assert!(met > 20, "only {met} incomplete batches");
}
