//! The process killed and the power cut at every operation, and disks that fail or fill up.

use super::super::faulty::{Fault, Operation};
use super::*;
use std::io::ErrorKind;

/// What a run left behind, by what it knows.
#[derive(Default)]
struct Run {
    /// Messages acknowledged, from 1 on.
    acked: u64,
    /// Messages of the batch that failed, if one did.
    in_flight: u64,
}

const OPTIONS: Storage =
    Storage { segment_bytes: 1500, retain_bytes: 0, retain_age_ms: 0, accept_damage: false };

/// Opens, appends batches of 1 to 6 messages, ticks now and then, and closes; ends at the first error.
///
/// The messages' numbers are their sequences.
fn run(files: &Arc<Faulty>, options: &Storage, run: &mut Run) -> Result<(), LogError> {
    let mut log = open(files, options)?;
    for turn in 0..14u64 {
        let len = 1 + turn % 6;
        run.in_flight = len;
        append(&mut log, run.acked + 1, len)?;
        run.acked += len;
        run.in_flight = 0;
        if turn % 4 == 3 {
            log.tick(1_000_000)?;
        }
    }
    log.close()
}

/// What must hold after a restart: all that was acknowledged, perhaps the whole batch in flight, nothing else.
fn check(log: &Log, run: &Run, what: &str) -> u64 {
    assert_eq!(log.state(), State::Good, "{what}: {:?}", log.damage());
    let records = all(&log.reader(), 0);
    let first = log.reader().first_sequence();
    let last = log.next_sequence() - 1;
    assert!(
        last == run.acked || last == run.acked + run.in_flight,
        "{what}: acked {}, has {last}",
        run.acked
    );
    assert_eq!(sequences(&records), (first..=last).collect::<Vec<_>>(), "{what}");
    for record in &records {
        assert_eq!(record.body(), &body(record.offset())[..], "{what}");
    }
    last
}

/// Goes on from a restart: ten new messages, and all is there at the next opening.
fn go_on(files: &Arc<Faulty>, options: &Storage, before: &Run, what: &str) {
    let mut log = open(files, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let last = check(&log, before, what);
    (1..=10).for_each(|n| drop(append(&mut log, last + n, 1).unwrap()));
    log.tick(1_000_000).unwrap();
    log.close().unwrap();
    let log = open(files, options).unwrap();
    check(&log, &Run { acked: last + 10, in_flight: 0 }, what);
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

fn retaining() -> Storage {
    Storage { retain_bytes: 3000, ..OPTIONS }
}

#[test]
fn killed_at_every_operation() {
    for options in [OPTIONS, retaining()] {
        for seed in 0..4 {
            let stops = everywhere(Fault::Kill, seed, &options, |files, left, what| {
                go_on(files, &options, left, what);
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
                go_on(files, &options, left, what);
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
                        check(&opened.unwrap(), left, what);
                        break;
                    }
                    assert!(opened.is_err());
                    again += 1;
                    let what = format!("{what}, then {second:?} at {n} of the recovery");
                    go_on(&Arc::new(files.restart()), &retaining(), left, &what);
                }
            });
        }
    }
    assert!(again > 500, "only {again}");
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
            let left = Run { acked, in_flight: 1 };
            go_on(&Arc::new(files.restart()), &OPTIONS, &left, "restarted");
            go_on(&Arc::new(files.cut_power()), &OPTIONS, &left, "after a power cut");
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
        go_on(&Arc::new(files.restart()), &OPTIONS, &Run { acked: 3, in_flight: 0 }, "restarted");
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
                go_on(
                    &Arc::new(files),
                    &OPTIONS,
                    &Run { acked, in_flight: 0 },
                    &format!("with {more} bytes"),
                );
            }
        }
        files.set_space(None);
        append(&mut log, acked + 1, 4).unwrap();
        assert_eq!(log.state(), State::Good);
        log.close().unwrap();
        go_on(&files, &OPTIONS, &Run { acked: acked + 4, in_flight: 0 }, "with room");
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
    go_on(&files, &OPTIONS, &Run { acked: 4, in_flight: 0 }, "after a close that failed");
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
    go_on(&Arc::new(files.restart()), &OPTIONS, &Run { acked: 3, in_flight: 0 }, "restarted");
}
