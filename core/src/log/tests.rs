//! Tests of the log: what it does on sound disks. The modules below are about disks that are not.

use super::faulty::Faulty;
use super::*;
use crate::config::Storage;
use crate::message::{Kind, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod accepted;
mod careless;
mod crash;
mod damage;
mod disks;
mod model;
mod oracle;
mod senseless;
mod sweep;
mod unreadable;

const ID: [u8; 16] = *b"a log's own id 1";

/// Settings with small segments.
fn small(segment_bytes: u64) -> Storage {
    Storage { segment_bytes, ..Storage::default() }
}

/// The `n`-th message of a test, all different; every 7th is binary.
fn message<T>(n: u64, take: impl FnOnce(Kind, &str, &str, &str, &[u8]) -> T) -> T {
    let (room, user) = (format!("room-{}", n % 5), if n.is_multiple_of(3) { "" } else { "ann" });
    let id = if n.is_multiple_of(2) { format!("m{n}") } else { String::new() };
    if n.is_multiple_of(7) {
        take(Kind::Binary, &room, user, &id, &n.to_le_bytes())
    } else {
        let text = format!("{{\"n\":{n},\"text\":\"{}\"}}", "é".repeat(n as usize % 23));
        take(Kind::Json, &room, user, &id, text.as_bytes())
    }
}

/// A batch of the messages `from..from + len`.
fn batch(from: u64, len: u64) -> Batch {
    let mut batch = Batch::new();
    (from..from + len).for_each(|n| message(n, |k, r, u, i, d| batch.push(k, r, u, i, d)));
    batch
}

/// The body that message `n` has as a record.
fn body(n: u64) -> Vec<u8> {
    let mut body = Vec::new();
    message(n, |kind, room, user, id, data| Record::encode(&mut body, kind, room, user, id, data));
    body
}

fn open<F: Files + 'static>(files: &Arc<F>, options: &Storage) -> Result<Log, LogError> {
    Log::open(files.clone(), options, ID, 1000)
}

/// Appends the messages `from..from + len` as one batch.
fn append(log: &mut Log, from: u64, len: u64) -> Result<Vec<(Record, Place)>, LogError> {
    let (mut batch, mut written) = (batch(from, len), Vec::new());
    log.append(&mut batch, 1000 + from, &mut written)?;
    assert!(batch.is_empty());
    Ok(written)
}

/// Everything from a sequence on, and each record read again by its place.
fn all(reader: &Reader, from: u64) -> Vec<Record> {
    let mut records = Vec::new();
    for batch in reader.scan(from) {
        for (record, place) in batch.unwrap() {
            assert_eq!(reader.read(&place, record.offset()).unwrap(), record);
            assert_eq!(Place::from_bytes(place.to_bytes()), place);
            records.push(record);
        }
    }
    records
}

fn sequences(records: &[Record]) -> Vec<u64> {
    records.iter().map(Record::offset).collect()
}

#[test]
fn a_new_log_is_empty_and_the_first_sequence_is_1() {
    let files = Arc::new(Memory::new());
    let mut log = Log::open(files.clone(), &Storage::default(), ID, 5).unwrap();
    assert_eq!((log.id(), log.next_sequence(), log.last_time(), log.state()), (ID, 1, 0, State::Good));
    let reader = log.reader();
    assert_eq!((reader.first_sequence(), reader.last_sequence(), all(&reader, 0)), (1, 0, vec![]));
    let written = append(&mut log, 10, 3).unwrap();
    assert_eq!(written.iter().map(|(r, _)| r.offset()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(reader.last_sequence(), 3);
    assert_eq!(all(&reader, 0), written.iter().map(|(r, _)| r.clone()).collect::<Vec<_>>());
    // The id is the log's, whatever a later opening would give a new one.
    log.close().unwrap();
    let log = Log::open(files, &Storage::default(), [9; 16], 5).unwrap();
    assert_eq!((log.id(), log.next_sequence(), log.last_time()), (ID, 4, 1010));
}

#[test]
fn timestamps_never_run_back_even_over_a_restart() {
    let files = Arc::new(Memory::new());
    let mut written = Vec::new();
    let mut log = Log::open(files.clone(), &Storage::default(), ID, 0).unwrap();
    log.append(&mut batch(1, 2), 500, &mut written).unwrap();
    log.append(&mut batch(3, 1), 400, &mut written).unwrap();
    drop(log);
    let mut log = Log::open(files, &Storage::default(), ID, 0).unwrap();
    log.append(&mut batch(4, 1), 300, &mut written).unwrap();
    log.append(&mut batch(5, 1), 501, &mut written).unwrap();
    assert_eq!(written.iter().map(|(r, _)| r.time()).collect::<Vec<_>>(), [500, 500, 500, 500, 501]);
}

#[test]
fn one_batch_is_one_write_one_sync_and_one_buffer() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &Storage::default()).unwrap();
    let before = files.counts();
    let written = append(&mut log, 1, 512).unwrap();
    let after = files.counts();
    assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (2, 1, 1));
    // Neighbours' bodies lie one head apart, so they are slices of the same bytes.
    let (a, b) = (written[0].0.body(), written[1].0.body());
    assert_eq!(a.as_ptr() as usize + a.len() + 24, b.as_ptr() as usize);
    // An empty batch does nothing.
    log.append(&mut Batch::new(), 0, &mut Vec::new()).unwrap();
    assert_eq!(files.counts(), after);
}

#[test]
fn a_batch_beyond_the_format_is_refused_and_harms_nothing() {
    let mut log = Log::open(Arc::new(Memory::new()), &Storage::default(), ID, 0).unwrap();
    let mut large = Batch::new();
    large.push(Kind::Binary, "r", "", "", &vec![0; 64 << 20]);
    assert!(matches!(log.append(&mut large, 0, &mut Vec::new()), Err(LogError::TooLarge)));
    assert_eq!(append(&mut log, 1, 1).unwrap()[0].0.offset(), 1);
}

#[test]
fn a_place_says_nothing_without_its_sequence() {
    let mut log = Log::open(Arc::new(Memory::new()), &small(2000), ID, 0).unwrap();
    let written: Vec<_> = (1..40).flat_map(|n| append(&mut log, n, 1).unwrap()).collect();
    let reader = log.reader();
    let (record, place) = written[20].clone();
    assert_eq!(reader.read(&place, 21).unwrap(), record);
    assert!(matches!(reader.read(&place, 22), Err(LogError::Corrupt { .. })));
    assert!(matches!(reader.read(&place, 40), Err(LogError::NotFound { sequence: 40 })));
    for wrong in [
        Place { at: place.at + 1, ..place },
        Place { at: place.at - 24, ..place },
        Place { len: place.len - 1, ..place },
        Place { len: place.len + 1, ..place },
    ] {
        assert!(matches!(reader.read(&wrong, 21), Err(LogError::Corrupt { .. })), "{wrong:?}");
    }
    for wrong in [
        Place { segment: 2, ..place },
        Place { at: 0, ..place },
        Place { at: u32::MAX, ..place },
        Place { len: u32::MAX, ..place },
        Place { len: 0, ..place },
    ] {
        assert!(matches!(reader.read(&wrong, 21), Err(LogError::NotFound { .. })), "{wrong:?}");
    }
}

#[test]
fn a_scan_begins_anywhere_and_ends_at_what_was_synced_at_its_beginning() {
    let mut log = Log::open(Arc::new(Memory::new()), &small(3000), ID, 0).unwrap();
    (0..30).for_each(|n| drop(append(&mut log, n * 4, 4).unwrap()));
    let reader = log.reader();
    for from in 0..=121 {
        let want: Vec<u64> = (from.max(1)..=120).collect();
        assert_eq!(sequences(&all(&reader, from)), want, "from {from}");
    }
    let scan = reader.scan(119);
    append(&mut log, 200, 5).unwrap();
    let seen: Vec<u64> = scan.flat_map(Result::unwrap).map(|(r, _)| r.offset()).collect();
    assert_eq!(seen, [119, 120]);
    assert_eq!(reader.last_sequence(), 125);
}

#[test]
fn a_scan_in_a_large_segment_begins_near_its_record() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &Storage::default()).unwrap();
    for n in 0..40 {
        let mut b = Batch::new();
        b.push(Kind::Binary, "r", "", "", &vec![n; 200_000]);
        log.append(&mut b, 0, &mut Vec::new()).unwrap();
    }
    // What appending knows and what opening knows.
    let restarted = Arc::new(files.restart());
    let reopened = open(&restarted, &Storage::default()).unwrap();
    for (files, log) in [(files, log), (restarted, reopened)] {
        // The first batches no longer check; a scan from 30 on does not touch them.
        files.edit("00000000000000000001.log", |b| b[60..2_000_000].fill(0));
        let mut scan = log.reader().scan(30);
        assert_eq!(scan.next().unwrap().unwrap()[0].0.offset(), 30);
        assert!(log.reader().scan(1).next().unwrap().is_err());
    }
}

#[test]
fn readers_see_only_what_was_synced_while_the_writer_appends() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::open(dir.path()).unwrap());
    let mut log = Log::open(disk, &Storage { retain_bytes: 40_000, ..small(8000) }, ID, 0).unwrap();
    let over = AtomicBool::new(false);
    let over = &over;
    std::thread::scope(|s| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let reader = log.reader();
                s.spawn(move || {
                    let mut scans = 0;
                    loop {
                        let last_turn = over.load(Ordering::SeqCst);
                        let last = reader.last_sequence();
                        let from = last.saturating_sub(100);
                        let mut seen = Vec::new();
                        for records in reader.scan(from) {
                            for (record, place) in records.unwrap() {
                                match reader.read(&place, record.offset()) {
                                    Ok(again) => assert_eq!(again, record),
                                    Err(LogError::NotFound { .. }) => {
                                        assert!(record.offset() < reader.first_sequence())
                                    }
                                    Err(e) => panic!("{e}"),
                                }
                                assert_eq!(record.body(), &body(record.offset() - 1)[..]);
                                seen.push(record.offset());
                            }
                        }
                        assert!(seen.is_sorted());
                        assert!(*seen.last().unwrap_or(&0) >= last || reader.first_sequence() > last);
                        scans += 1;
                        if last_turn {
                            return (scans, seen.len());
                        }
                    }
                })
            })
            .collect();
        for n in 0..400 {
            append(&mut log, n * 3, 3).unwrap();
            if n % 20 == 0 {
                log.tick(0).unwrap();
            }
        }
        over.store(true, Ordering::SeqCst);
        for reader in readers {
            let (scans, seen) = reader.join().unwrap();
            assert!(scans >= 1 && seen >= 100, "{scans} scans, {seen} records in the last");
        }
    });
    assert!(log.reader().first_sequence() > 1);
}

#[test]
fn retention_by_size_drops_whole_oldest_segments_and_never_the_active_one() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &Storage { retain_bytes: 6000, ..small(2000) }).unwrap();
    let written: Vec<_> = (1..=100).flat_map(|n| append(&mut log, n, 1).unwrap()).collect();
    assert!(files.used() > 8000);
    let first = log.tick(0).unwrap().unwrap();
    assert!(files.used() <= 6000 + 48);
    assert!(files.used() > 3000, "no more than needed");
    assert_eq!(log.tick(0).unwrap(), None);
    let reader = log.reader();
    assert_eq!(reader.first_sequence(), first);
    assert_eq!(sequences(&all(&reader, 0)), (first..=100).collect::<Vec<_>>());
    assert!(matches!(reader.read(&written[0].1, 1), Err(LogError::NotFound { sequence: 1 })));
    log.close().unwrap();
    // A segment larger than all that may be kept stays while it is the active one.
    let mut log = open(&files, &Storage { retain_bytes: 1, ..small(2000) }).unwrap();
    let first = log.tick(0).unwrap().unwrap();
    assert_eq!(all(&log.reader(), 0).first().unwrap().offset(), first);
    append(&mut log, 101, 1).unwrap();
    log.close().unwrap();
    let log = open(&files, &small(2000)).unwrap();
    assert_eq!((log.state(), log.reader().first_sequence()), (State::Good, first));
}

#[test]
fn retention_by_age_goes_by_the_newest_record_of_a_segment() {
    let options = Storage { retain_age_ms: 1000, ..small(500) };
    let mut log = Log::open(Arc::new(Memory::new()), &options, ID, 0).unwrap();
    let mut last_of_segment = Vec::new();
    for n in 1..=40 {
        let mut written = Vec::new();
        log.append(&mut batch(n, 1), n * 100, &mut written).unwrap();
        let place = written[0].1;
        match last_of_segment.last_mut() {
            Some((segment, last)) if *segment == place.segment => *last = n,
            _ => last_of_segment.push((place.segment, n)),
        }
    }
    for now in (0..6000).step_by(50) {
        log.tick(now).unwrap();
        let kept = last_of_segment.iter().find(|(_, last)| last * 100 + 1000 >= now);
        let want = kept.unwrap_or(last_of_segment.last().unwrap()).0;
        assert_eq!(log.reader().first_sequence(), want, "at {now}");
    }
    assert!(last_of_segment.len() > 5);
    assert_eq!(log.reader().first_sequence(), last_of_segment.last().unwrap().0);
}

#[test]
fn tick_writes_the_synced_file_only_when_it_changed() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &Storage::default()).unwrap();
    append(&mut log, 1, 1).unwrap();
    let before = files.counts().0;
    log.tick(0).unwrap();
    let once = files.counts().0;
    assert!(once > before);
    log.tick(0).unwrap();
    assert_eq!(files.counts().0, once);
}
