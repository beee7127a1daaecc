//! The log over files to which anything has happened.
//!
//! The input is read as deeds: a log is written, then its files are flipped, cut, moved, mixed, and given parts that check but
//! make no sense. After each round the log is opened. It never panics; it yields only records whose bytes check by the
//! format's page, in order, and says of every gap that it is one; it changes nothing before damage is accepted, and then goes
//! on with everything that was readable.

#![no_main]

#[path = "../src/deeds.rs"]
mod deeds;
#[path = "../src/page.rs"]
mod page;

use deeds::{Deeds, Disk, Input};
use klatch::fuzzing;
use klatch::log::{Batch, Log, LogError, Place, Reader, State};
use klatch::{Kind, Record};
use libfuzzer_sys::fuzz_target;

/// The id of a log that the input makes.
const ID: [u8; 16] = *b"a log's own id 1";

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let disk = Disk::default();
    let mut storage = klatch::config::Storage::default();
    storage.segment_bytes = [300, 1000, 5000, 1 << 20][input.byte() as usize % 4];
    write(&disk, &storage, &mut input);
    for round in 0..3 {
        let mut deeds = Deeds::begin(&disk, round == 0);
        deeds.run(&mut input);
        if !opened(&disk, &storage, &deeds, &mut input) || input.is_over() {
            break;
        }
        if round == 0 {
            storage.retain_bytes = [0, 0, 0, 2000][input.byte() as usize % 4];
        }
    }
});

/// A sound log.
fn write(disk: &Disk, storage: &klatch::config::Storage, input: &mut Input<'_>) {
    let mut log = Log::open(disk.files.clone(), storage, ID, 1000).expect("a new log");
    append(&mut log, input);
    if input.byte().is_multiple_of(2) {
        log.close().expect("nothing fails in memory");
    }
}

/// Appends up to 15 batches; returns the records.
fn append(log: &mut Log, input: &mut Input<'_>) -> Vec<Record> {
    let mut written = Vec::new();
    for _ in 0..input.byte() % 16 {
        let mut batch = Batch::new();
        let shape = input.byte();
        for i in 0..=shape % 4 {
            let kind = if shape & 4 == 0 { Kind::Json } else { Kind::Binary };
            let data = vec![b'0' + i; usize::from(shape >> 3) * usize::from(i)];
            batch.push(kind, "room", "ann", if shape & 8 == 0 { "" } else { "id" }, &data);
        }
        let mut now = Vec::new();
        match log.append(&mut batch, u64::from(shape) * 10, &mut now) {
            Ok(()) => written.append(&mut now),
            Err(LogError::Full) => break,
            Err(e) => panic!("nothing fails in memory: {e}"),
        }
    }
    if input.byte().is_multiple_of(4) {
        log.tick(1 << 50).expect("nothing fails in memory");
    }
    written.into_iter().map(|(record, _)| record).collect()
}

/// Opens the log, and holds what it says against its files. Returns whether the files are a log that goes on.
fn opened(disk: &Disk, storage: &klatch::config::Storage, deeds: &Deeds, input: &mut Input<'_>) -> bool {
    let before = disk.snapshot();
    let report = match fuzzing::verify(&*disk.files) {
        Ok(report) => report,
        Err(LogError::Version { .. }) => return false,
        Err(e) => panic!("verify: {e}"),
    };
    assert_eq!(disk.snapshot(), before, "verify changes nothing");
    let _ = report.to_string();
    let mut log = match Log::open(disk.files.clone(), storage, ID, 0) {
        Ok(log) => log,
        Err(LogError::Full) if disk.is_exhausted() => return false,
        Err(e) => panic!("open: {e}"),
    };
    assert_eq!(log.damage(), report.damage, "open and verify differ");
    let mut records = read(disk, &log.reader(), log.lost());
    assert_eq!(report.records, records.len() as u64, "verify counts {report}");
    let ends = records.first().zip(records.last()).map(|(first, last)| (first.offset(), last.offset()));
    assert_eq!(report.sequences, ends);
    if report.torn.is_none() {
        deeds.check_kept(&records);
    }
    match log.state() {
        State::Good => assert!(report.is_sound()),
        State::Damaged => {
            assert!(!report.is_sound());
            let mut batch = Batch::new();
            batch.push(Kind::Json, "room", "", "", b"1");
            let refused = log.append(&mut batch, 0, &mut Vec::new());
            assert!(matches!(refused, Err(LogError::Damaged)), "{refused:?}");
            assert_eq!(log.tick(u64::MAX).expect("a damaged log does nothing"), None);
            log.close().expect("nothing to be done");
            assert_eq!(disk.snapshot(), before, "nothing may be changed");
            let mut accept = storage.clone();
            accept.accept_damage = true;
            log = match Log::open(disk.files.clone(), &accept, ID, 0) {
                Ok(log) => log,
                Err(LogError::Full) if disk.is_exhausted() => return false,
                Err(e) => panic!("accept: {e}"),
            };
            let before = std::mem::replace(&mut records, read(disk, &log.reader(), log.lost()));
            // Where other damage is accepted, an incomplete batch is not cut but damage too: its whole records stay.
            let kept =
                records.starts_with(&before) && (report.torn.is_some() || records.len() == before.len());
            assert!(kept, "accepting changes what can be read: {before:?} was, {records:?} is");
        }
        state => panic!("opened {state:?}"),
    }
    goes_on(disk, storage, log, records, input)
}

/// Appends, and opens again: everything is there, nothing is damaged.
fn goes_on(
    disk: &Disk,
    storage: &klatch::config::Storage,
    mut log: Log,
    mut records: Vec<Record>,
    input: &mut Input<'_>,
) -> bool {
    let next = log.next_sequence();
    assert!(records.last().is_none_or(|r| r.offset() < next), "a sequence is used twice");
    records.extend(append(&mut log, input));
    let first = log.reader().first_sequence();
    records.retain(|r| r.offset() >= first);
    assert_eq!(read(disk, &log.reader(), log.lost()), records, "what was appended is not there");
    let (last, lost) = (log.next_sequence(), log.lost().to_vec());
    if input.byte().is_multiple_of(2) {
        log.close().expect("nothing fails in memory");
    }
    let log = Log::open(disk.files.clone(), storage, ID, 0).expect("a log that was open can be opened");
    assert_eq!((log.state(), log.damage()), (State::Good, &[][..]));
    assert_eq!(log.next_sequence(), last);
    assert_eq!(read(disk, &log.reader(), log.lost()), records, "opening again changes what can be read");
    let kept =
        |ranges: &[(u64, u64)]| ranges.iter().filter(|(_, to)| *to >= first).copied().collect::<Vec<_>>();
    assert_eq!(kept(log.lost()), kept(&lost));
    let report = fuzzing::verify(&*disk.files).expect("a sound log");
    assert!(report.is_sound() && report.torn.is_none(), "{report}");
    true
}

/// Everything there is, each record held against its bytes.
fn read(disk: &Disk, reader: &Reader, lost: &[(u64, u64)]) -> Vec<Record> {
    let mut records: Vec<(Record, Place)> = Vec::new();
    for batch in reader.scan(0) {
        records.extend(batch.expect("what was found at open can be read"));
    }
    let mut last = None;
    for (record, place) in &records {
        let sequence = record.offset();
        page::check_record(&reader.id(), &disk.read(&page::segment_name(place.segment)), record, place);
        assert_eq!(&reader.read(place, sequence).expect("a scan tells places"), record);
        assert!(last.is_none_or(|last| last < sequence), "{last:?} before {sequence}");
        assert!(!lost.iter().any(|(from, to)| (*from..=*to).contains(&sequence)), "{sequence} is not lost");
        if let Some(last) = last {
            let covered = covers(lost, last + 1, sequence);
            assert!(covered, "nobody says that what is between {last} and {sequence} is lost: {lost:?}");
        }
        last = Some(sequence);
    }
    assert!(last.is_none_or(|last| last <= reader.last_sequence()));
    if let Some((middle, _)) = records.get(records.len() / 2) {
        let from = middle.offset();
        let scanned = reader.scan(from).flat_map(|batch| batch.expect("readable")).map(|(record, _)| record);
        assert!(scanned.eq(records.iter().map(|(r, _)| r.clone()).filter(|r| r.offset() >= from)));
    }
    records.into_iter().map(|(record, _)| record).collect()
}

/// Whether the ranges have all of `from..to`.
fn covers(lost: &[(u64, u64)], mut from: u64, to: u64) -> bool {
    for (first, last) in lost {
        if (*first..=*last).contains(&from) {
            from = last + 1;
        }
    }
    from >= to
}
