//! Whatever happens to a log after damage to it was accepted: it is judged alike at each opening, and can be accepted again.

use super::damage::{contents, read, segments};
use super::*;

const OPTIONS: Storage =
    Storage { segment_bytes: 300, retain_bytes: 0, retain_age_ms: 0, accept_damage: false };
const ACCEPT: Storage = Storage { accept_damage: true, ..OPTIONS };

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Remove,
    CutTo(usize),
    Flip(usize),
    CopyTo(u64),
}

const DEEDS: [Deed; 7] = [
    Deed::Remove,
    Deed::CutTo(0),
    Deed::CutTo(31),
    Deed::CutTo(100),
    Deed::Flip(4),
    Deed::Flip(100),
    Deed::CopyTo(3),
];

/// Does it, if there is such a file and it changes that.
fn happens(files: &Faulty, name: &str, deed: Deed) -> bool {
    if !contents(files).iter().any(|(n, _)| n == name) {
        return false;
    }
    let before = read(files, name);
    match deed {
        Deed::Remove => files.remove(name).unwrap(),
        Deed::CutTo(len) => files.edit(name, |b| b.truncate(len)),
        Deed::Flip(at) => files.edit(name, |b| b.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1)),
        Deed::CopyTo(first) => {
            let to = format!("{first:020}.log");
            let _ = files.remove(&to);
            files.create(&to).unwrap();
            files.edit(&to, |b| b.clone_from(&before));
            return true;
        }
    }
    deed == Deed::Remove || read(files, name) != before
}

/// A closed log of segments with two or three records each.
fn closed(records: u64) -> Arc<Faulty> {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &OPTIONS).unwrap();
    (1..=records).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
    log.close().unwrap();
    files
}

/// Opens the log as it is and accepts what is damaged; it stays as it was then found, with or without new records. Returns
/// whether it was damaged.
fn is_judged_alike(files: &Arc<Faulty>, records: u64, what: &str) -> bool {
    let opened = |options: &Storage| open(files, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let before = contents(files);
    let log = opened(&OPTIONS);
    let mut read = sequences(&all(&log.reader(), 0));
    let is_damaged = log.state() == State::Damaged;
    drop(log);
    if is_damaged {
        assert_eq!(contents(files), before, "{what}: changed");
        let log = opened(&ACCEPT);
        assert_eq!(sequences(&all(&log.reader(), 0)), read, "{what}");
    }
    for more in [0, records] {
        let mut log = opened(&OPTIONS);
        assert_eq!((log.state(), log.damage()), (State::Good, &[][..]), "{what}: damaged anew");
        assert_eq!(sequences(&all(&log.reader(), 0)), read, "{what}");
        let next = log.next_sequence();
        assert!(read.last().is_none_or(|last| *last < next), "{what}: {next} is used twice");
        (next..next + more).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
        read.extend(next..next + more);
        log.close().unwrap();
    }
    let log = opened(&OPTIONS);
    assert_eq!((log.state(), sequences(&all(&log.reader(), 0))), (State::Good, read), "{what}");
    is_damaged
}

/// Damage was accepted; then files were lost, and what was accepted was told anew, at once or only after an opening that had found
/// nothing.
#[test]
fn a_log_with_accepted_damage_is_judged_alike_at_each_opening() {
    let mut anew = 0;
    // Records at first, the segment to which something happens, and the records that follow once that was accepted.
    let logs = [(2, 0, 0), (2, 0, 4), (7, 0, 0), (7, 1, 2), (7, 2, 4)];
    for (first, (had, segment, records)) in DEEDS.into_iter().flat_map(|deed| logs.map(|log| (deed, log))) {
        let what = format!("{first:?} to segment {segment} of {had} records, then {records}");
        let accepted = closed(had);
        let segments = segments(&accepted);
        assert_eq!(segments.len(), if had == 2 { 1 } else { 3 }, "{segments:?}");
        happens(&accepted, &segments[segment].0, first);
        assert!(is_judged_alike(&accepted, records, &what), "{what}: not damaged");
        let names: Vec<String> = contents(&accepted).into_iter().map(|(name, _)| name).collect();
        let deeds: Vec<(&String, Deed)> = names.iter().flat_map(|n| DEEDS.map(|d| (n, d))).collect();
        for one in 0..deeds.len() {
            for other in one..deeds.len() {
                let files = Arc::new(accepted.restart());
                let (one, other) = (deeds[one], deeds[other]);
                let changed = happens(&files, one.0, one.1);
                if (one == other || happens(&files, other.0, other.1)) && changed {
                    anew += is_judged_alike(&files, 2, &format!("{what}, then {one:?} and {other:?}")) as u64;
                }
            }
        }
    }
    assert!(anew > 10_000, "only {anew}");
}

/// Two files of another log were accepted. Once retention had dropped the log's own, those were more: all that followed counted
/// as another log's.
#[test]
fn files_of_another_log_do_not_outvote_it() {
    let (files, other) = (closed(8), Arc::new(Faulty::new(2)));
    let mut log = Log::open(other.clone(), &OPTIONS, *b"another log's id", 0).unwrap();
    append(&mut log, 1, 1).unwrap();
    let foreign = read(&other, "00000000000000000001.log");
    segments(&files)[2..].iter().for_each(|(name, _)| files.edit(name, |b| b.clone_from(&foreign)));
    drop(open(&files, &ACCEPT).unwrap());
    let retain_bytes = segments(&files)[1..].iter().map(|(_, size)| size).sum::<u64>() - 1;
    let mut log = open(&files, &Storage { retain_bytes, ..OPTIONS }).unwrap();
    let written = append(&mut log, 8, 1).unwrap()[0].0.clone();
    assert_eq!(log.tick(0).unwrap(), Some(6));
    log.close().unwrap();
    let log = open(&files, &OPTIONS).unwrap();
    assert_eq!((log.state(), all(&log.reader(), 0)), (State::Good, vec![written]));
}
