//! Files that check by their CRCs and make no sense: written by another program, or by memory that flips bits before a CRC is
//! made. All of these were found by tests/fuzz.

use super::super::format::{
    BATCH_HEAD, MAX_SEQUENCE, Mark, RECORD_HEAD, SEGMENT_HEAD, SegmentHead, segment_name,
};
use super::super::notes::Synced;
use super::*;

const ACCEPT: Storage =
    Storage { segment_bytes: 128 << 20, retain_bytes: 0, retain_age_ms: 0, accept_damage: true };
const FIRST: &str = "00000000000000000001.log";

/// A closed log of the messages 1 to 6, two a batch.
fn closed() -> Arc<Memory> {
    let files = Arc::new(Memory::new());
    let mut log = open(&files, &Storage::default()).unwrap();
    (0..3).for_each(|n| drop(append(&mut log, 1 + 2 * n, 2).unwrap()));
    log.close().unwrap();
    files
}

/// A batch with right CRCs of any bodies.
fn sealed(first: u64, bodies: &[&[u8]]) -> Vec<u8> {
    let (mut bytes, mut starts) = (vec![0; BATCH_HEAD], Vec::new());
    for body in bodies {
        starts.push(bytes.len() as u32);
        bytes.resize(bytes.len() + RECORD_HEAD, 0);
        bytes.extend_from_slice(body);
    }
    Mark::new(&ID).seal(&mut bytes, &starts, first, 2000);
    bytes
}

fn extend(files: &Memory, name: &str, bytes: &[u8]) {
    let size = files.list().unwrap().into_iter().find(|(n, _)| n == name).unwrap().1;
    files.write_at(name, size, bytes).unwrap();
}

/// Opens the log with its damage accepted, appends one record, and opens it again.
fn goes_on(files: &Arc<Memory>) -> Vec<u64> {
    let mut log = open(files, &ACCEPT).unwrap();
    assert_eq!(log.state(), State::Good);
    let next = log.next_sequence();
    append(&mut log, 7, 1).unwrap();
    let read = sequences(&all(&log.reader(), 0));
    assert_eq!(read.last(), Some(&next));
    log.close().unwrap();
    let log = open(files, &Storage::default()).unwrap();
    assert_eq!((log.state(), log.damage()), (State::Good, &[][..]));
    assert_eq!(sequences(&all(&log.reader(), 0)), read);
    read
}

/// Sums of a sequence and a count overflowed: the opening panicked, or went on with sequence 0.
#[test]
fn sequences_near_the_end_of_their_type_check_nowhere() {
    for sequence in [MAX_SEQUENCE + 1, 1 << 63, u64::MAX - 1, u64::MAX] {
        let files = closed();
        extend(&files, FIRST, &sealed(sequence, &[&body(7)]));
        assert_eq!(goes_on(&files).len(), 7, "a batch at {sequence}");

        let files = closed();
        Synced { id: ID, first: 1, last: sequence }.write(&*files).unwrap();
        assert_eq!(open(&files, &Storage::default()).unwrap().state(), State::Damaged);
        assert_eq!(goes_on(&files).len(), 7, "synced up to {sequence}");

        // A file of such a name is none of the log's.
        let files = closed();
        let head = SegmentHead { id: ID, first: sequence, created: 0 }.encode();
        files.create(&segment_name(sequence)).unwrap();
        extend(&files, &segment_name(sequence), &head);
        assert_eq!(open(&files, &Storage::default()).unwrap().state(), State::Good);
        assert_eq!(goes_on(&files), [1, 2, 3, 4, 5, 6, 7], "a file of {sequence}");

        let files = closed();
        files.truncate(FIRST, 0).unwrap();
        extend(&files, FIRST, &head);
        let log = open(&files, &Storage::default()).unwrap();
        assert_eq!(log.lost(), [(1, 6)], "a head of {sequence}");
        assert_eq!(goes_on(&files).len(), 1);
    }
}

/// The last sequences are given out, and then the log is full: none is given twice.
#[test]
fn a_log_whose_sequences_are_used_up_is_full() {
    let files = closed();
    extend(&files, FIRST, &sealed(MAX_SEQUENCE - 2, &[&body(7)]));
    let accepted = open(&files, &ACCEPT);
    // The segment that would follow the damage leaves out more than there are.
    assert_eq!(accepted.unwrap().next_sequence(), MAX_SEQUENCE - 1);
    let mut log = open(&files, &Storage::default()).unwrap();
    assert!(matches!(append(&mut log, 1, 3), Err(LogError::Full)));
    assert_eq!(append(&mut log, 1, 2).unwrap()[1].0.offset(), MAX_SEQUENCE);
    assert!(matches!(append(&mut log, 1, 1), Err(LogError::Full)));
    log.close().unwrap();
    let mut log = open(&files, &Storage::default()).unwrap();
    assert_eq!((log.state(), all(&log.reader(), 0).len()), (State::Good, 9));
    assert!(matches!(append(&mut log, 1, 1), Err(LogError::Full)));
    log.close().unwrap();
    // Nor is there a segment for what comes after damage.
    extend(&files, &segment_name(MAX_SEQUENCE - 1), &sealed(1, &[&body(7)]));
    assert_eq!(open(&files, &Storage::default()).unwrap().state(), State::Damaged);
    assert!(matches!(open(&files, &ACCEPT), Err(LogError::Full)));
}

/// A body that is none passed the opening, and then every reader stopped at it: the engine did not start, while the log was
/// said to be sound.
#[test]
fn a_record_that_checks_and_is_none_costs_only_itself() {
    let bodies: [&[u8]; 4] = [b"\x02\x01\0\0r1", b"\0\x09\0\0r", b"\0\0\0\0\0", b"\0\x01\0\0r\xFF"];
    for bad in bodies {
        let files = closed();
        extend(&files, FIRST, &sealed(7, &[&body(7), bad, &body(9)]));
        extend(&files, FIRST, &sealed(10, &[&body(10)]));
        let log = open(&files, &Storage::default()).unwrap();
        assert_eq!((log.state(), log.lost()), (State::Damaged, &[(8, 8)][..]), "{bad:?}");
        assert_eq!(sequences(&all(&log.reader(), 0)), [1, 2, 3, 4, 5, 6, 7, 9, 10]);
        assert_eq!(goes_on(&files).len(), 10);
    }
}

/// Whatever was at the log's end and did not fit was cut off as an incomplete batch, a whole one too.
#[test]
fn a_whole_batch_is_never_cut() {
    let at_the_end = [sealed(2, &[&body(2)]), sealed(9, &[b"\0\x09\0\0r"]), sealed(7, &[b"\0\x09\0\0r"])];
    for bytes in at_the_end {
        let files = closed();
        extend(&files, FIRST, &bytes);
        let before = files.list().unwrap();
        let log = open(&files, &Storage::default()).unwrap();
        assert_eq!(log.state(), State::Damaged);
        assert_eq!(files.list().unwrap(), before);
        assert_eq!(goes_on(&files)[..6], [1, 2, 3, 4, 5, 6]);
        // Without its last byte it is a batch that was being written.
        let files = closed();
        extend(&files, FIRST, &bytes[..bytes.len() - 1]);
        assert_eq!(open(&files, &Storage::default()).unwrap().state(), State::Good);
        assert_eq!(files.list().unwrap(), closed().list().unwrap());
    }
}

/// A file without a head ended the segment before it at its name. While it was the last it was taken for one that was being
/// made; but once other damage was accepted, what lay beyond its name could not be read any more.
#[test]
fn a_file_that_holds_nothing_hides_nothing() {
    let first_batch = SEGMENT_HEAD + 2 * RECORD_HEAD;
    for (size, damaged) in [(0, false), (48, false), (0, true), (48, true)] {
        let files = closed();
        let stray = segment_name(3);
        files.create(&stray).unwrap();
        files.write_at(&stray, 0, &vec![7; size]).unwrap();
        if damaged {
            files.write_at(FIRST, first_batch as u64, b"?").unwrap();
        }
        let log = open(&files, &Storage::default()).unwrap();
        assert_eq!(log.state(), State::Damaged);
        let read = all(&log.reader(), 0);
        assert_eq!(read.len(), if damaged { 5 } else { 6 });
        assert_eq!(goes_on(&files)[..read.len()], sequences(&read));
    }
}

/// The making of the segment after accepted damage was interrupted. The next opening removed it and appended to the damaged
/// one: behind less than a head, where nothing was found again, though it had been acknowledged. Now damage is accepted only when
/// that segment is there.
#[test]
fn a_segment_after_damage_that_was_not_finished_is_begun_again() {
    for (len, unfinished) in [(31, 0), (31, 20), (0, 48), (150, 0), (150, 48)] {
        let files = closed();
        files.truncate(FIRST, len).unwrap();
        let log = open(&files, &ACCEPT).unwrap();
        let made = segment_name(log.next_sequence());
        drop(log);
        files.truncate(&made, 0).unwrap();
        files.write_at(&made, 0, &vec![7; unfinished]).unwrap();
        assert_eq!(open(&files, &Storage::default()).unwrap().state(), State::Damaged, "it is missing");
        files.remove("accepted").unwrap();
        assert_eq!(open(&files, &Storage::default()).unwrap().state(), State::Damaged, "not accepted yet");
        drop(open(&files, &ACCEPT).unwrap());
        for n in 1..4 {
            let mut log = open(&files, &Storage::default()).unwrap();
            assert_eq!((log.state(), log.damage()), (State::Good, &[][..]), "{len}, {unfinished}");
            let before = all(&log.reader(), 0).len();
            append(&mut log, n, 1).unwrap();
            log.close().unwrap();
            let log = open(&files, &Storage::default()).unwrap();
            assert_eq!(log.state(), State::Good);
            assert_eq!(
                all(&log.reader(), 0).len(),
                before + 1,
                "{len}, {unfinished}: what was acknowledged is there"
            );
        }
    }
}

/// A damaged file of no bytes, which was accepted, was removed as one that was never begun when the segment after it was gone;
/// and then the log was damaged anew.
#[test]
fn accepted_damage_is_not_removed_as_a_segment_that_was_never_begun() {
    for len in [0, 31] {
        let files = closed();
        files.truncate(FIRST, len).unwrap();
        let log = open(&files, &ACCEPT).unwrap();
        let made = segment_name(log.next_sequence());
        log.close().unwrap();
        files.remove(&made).unwrap();
        let state = open(&files, &Storage::default()).unwrap().state();
        for _ in 0..2 {
            assert_eq!(open(&files, &Storage::default()).unwrap().state(), state, "{len}");
        }
        assert_eq!(goes_on(&files).len(), 1);
    }
}

/// Bytes of a record where a head belongs, in a file without one: the record counted as found, and could not be read.
#[test]
fn no_record_lies_where_a_head_belongs() {
    let record = sealed(1, &[b"\0\x01\0\0rnull"]).split_off(BATCH_HEAD);
    for (before, after) in [(0, 0), (5, 0), (5, 200)] {
        let files = closed();
        files.truncate(FIRST, 0).unwrap();
        extend(&files, FIRST, &vec![7; before]);
        extend(&files, FIRST, &record);
        extend(&files, FIRST, &vec![7; after]);
        let log = open(&files, &Storage::default()).unwrap();
        assert_eq!((log.lost(), all(&log.reader(), 0).len()), (&[(1, 6)][..], 0), "{before}, {after}");
        assert_eq!(goes_on(&files).len(), 1);
    }
}

/// Such a file may have a name beyond all that can be read, where a batch at a wrong place reaches it: the segment that was
/// made when the damage was accepted then came before it.
#[test]
fn what_follows_accepted_damage_comes_last_by_its_name() {
    let files = closed();
    let size = files.list().unwrap().into_iter().find(|(name, _)| name == FIRST).unwrap().1 as usize;
    let mut bytes = vec![0; size];
    files.read_at(FIRST, 0, &mut bytes).unwrap();
    bytes.splice(SEGMENT_HEAD..SEGMENT_HEAD, sealed(50, &[&body(7)]));
    files.write_at(FIRST, 0, &bytes).unwrap();
    files.create(&segment_name(36)).unwrap();
    assert_eq!(sequences(&all(&open(&files, &Storage::default()).unwrap().reader(), 0)), [1, 2, 3, 4, 5, 6]);
    assert_eq!(goes_on(&files)[..6], [1, 2, 3, 4, 5, 6]);
}
