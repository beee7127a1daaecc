//! Damage: noticed, reported with its range, nothing cut, everything sound still readable.

use super::*;
use std::collections::BTreeSet;

const OPTIONS: Storage =
    Storage { segment_bytes: 2200, retain_bytes: 0, retain_age_ms: 0, accept_damage: false };
const ACCEPT: Storage = Storage { accept_damage: true, ..OPTIONS };

/// A log of 60 messages, in batches of 1 to 5, over some segments, closed.
fn closed() -> Arc<Faulty> {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &OPTIONS).unwrap();
    let mut n = 1;
    while n <= 60 {
        let len = (1 + n % 5).min(61 - n);
        append(&mut log, n, len).unwrap();
        n += len;
    }
    log.close().unwrap();
    files
}

pub(super) fn segments(files: &Faulty) -> Vec<(String, u64)> {
    let mut files = files.list().unwrap();
    files.retain(|(name, _)| name.ends_with(".log"));
    files.sort();
    files
}

pub(super) fn contents(files: &Faulty) -> Vec<(String, Vec<u8>)> {
    let names = files.list().unwrap().into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), read(files, &name))).collect()
}

pub(super) fn read(files: &Faulty, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    files.edit(name, |b| bytes.clone_from(b));
    bytes
}

pub(super) fn missing(damage: &[Damage]) -> BTreeSet<u64> {
    damage.iter().flat_map(|d| &d.missing).flat_map(|(first, last)| *first..=*last).collect()
}

/// A damaged log: refused appends, unchanged files, all records readable but those reported. Returns the damage.
fn check_damaged(files: &Arc<Faulty>, last: u64, what: &str) -> Vec<Damage> {
    let before = contents(files);
    let mut log = open(files, &OPTIONS).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(log.state(), State::Damaged, "{what}");
    let damage = log.damage().to_vec();
    assert!(!damage.is_empty(), "{what}");
    assert!(matches!(append(&mut log, 1, 1), Err(LogError::Damaged)), "{what}");
    assert_eq!(log.tick(u64::MAX).unwrap(), None);
    let lost = missing(&damage);
    let records = all(&log.reader(), 0);
    let want: Vec<u64> = (1..=last).filter(|n| !lost.contains(n)).collect();
    assert_eq!(sequences(&records), want, "{what}: {damage:?}");
    let later: Vec<u64> = want.into_iter().filter(|n| *n > last / 2).collect();
    assert_eq!(sequences(&all(&log.reader(), last / 2 + 1)), later, "{what}");
    for record in &records {
        assert_eq!(record.body(), &body(record.offset())[..], "{what}");
    }
    // The scan tells of what it passed.
    let mut scan = log.reader().scan(0);
    while scan.next().is_some() {}
    let of_segments = damage.iter().filter(|d| d.file.ends_with(".log"));
    if !records.is_empty() {
        assert_eq!(scan.skipped().iter().collect::<Vec<_>>(), of_segments.collect::<Vec<_>>(), "{what}");
    }
    log.close().unwrap();
    assert_eq!(contents(files), before, "{what}: nothing may be changed");
    damage
}

/// Accepts the damage: writing goes on beyond anything used, and later openings are quiet.
fn check_accepted(files: &Arc<Faulty>, damage: &[Damage], last: u64, what: &str) {
    let before = contents(files);
    let mut log = open(files, &ACCEPT).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!((log.state(), log.damage()), (State::Good, damage), "{what}");
    let next = log.next_sequence();
    assert!(next > last, "{what}: {next}");
    let written = (next..next + 10).flat_map(|n| append(&mut log, n, 1).unwrap());
    assert_eq!(written.map(|(r, _)| r.offset()).collect::<Vec<_>>(), (next..next + 10).collect::<Vec<_>>());
    log.close().unwrap();
    for (name, bytes) in before.iter().filter(|(name, _)| name.ends_with(".log")) {
        assert_eq!(&read(files, name), bytes, "{what}: nothing may be cut");
    }
    let lost = missing(damage);
    let want: Vec<u64> = (1..=last).filter(|n| !lost.contains(n)).chain(next..next + 10).collect();
    for _ in 0..2 {
        let log = open(files, &OPTIONS).unwrap();
        assert_eq!((log.state(), log.damage()), (State::Good, &[][..]), "{what}");
        let records = all(&log.reader(), 0);
        assert_eq!(sequences(&records), want, "{what}");
        for record in &records {
            assert_eq!(record.body(), &body(record.offset())[..], "{what}");
        }
    }
}

#[test]
fn every_byte_flipped_is_noticed_and_costs_no_sound_record() {
    let sound = closed();
    assert!(segments(&sound).len() >= 3);
    let mut lost = 0;
    for (name, size) in sound.list().unwrap() {
        for at in 0..size {
            let files = Arc::new(sound.restart());
            files.edit(&name, |b| b[at as usize] ^= 1 << (at % 8));
            let what = format!("{name} byte {at}");
            let damage = check_damaged(&files, 60, &what);
            let covers = |d: &Damage| d.file == name && (d.from..d.to).contains(&at);
            assert!(damage.iter().any(covers), "{what}: {damage:?}");
            // At most the one record that the byte is of.
            assert!(missing(&damage).len() <= 1, "{what}: {damage:?}");
            lost += missing(&damage).len();
            if at % 16 == 0 {
                check_accepted(&files, &damage, 60, &what);
            }
        }
    }
    assert!(lost > 3000, "only {lost}");
}

#[test]
fn a_flip_is_noticed_without_a_synced_file_too_but_for_the_last_batch() {
    let sound = closed();
    sound.remove("synced").unwrap();
    let (last, _) = segments(&sound).pop().unwrap();
    let mut cut = 0;
    for (name, size) in segments(&sound) {
        for at in (0..size).step_by(3) {
            let files = Arc::new(sound.restart());
            files.edit(&name, |b| b[at as usize] ^= 0xFF);
            let log = open(&files, &OPTIONS).unwrap();
            if log.state() == State::Good {
                // It passes for a batch that was being written, and is cut whole.
                assert!(name == last && log.next_sequence() >= 56, "{name} byte {at}");
                cut += 1;
            }
        }
    }
    assert!(cut > 0);
}

#[test]
fn every_length_of_the_last_segment_of_a_closed_log_is_noticed() {
    let sound = closed();
    let (name, size) = segments(&sound).pop().unwrap();
    for len in 0..size {
        let files = Arc::new(sound.restart());
        files.edit(&name, |b| b.truncate(len as usize));
        let what = format!("cut to {len}");
        let damage = check_damaged(&files, 60, &what);
        assert!(missing(&damage).contains(&60), "{what}");
        if len % 7 == 0 {
            check_accepted(&files, &damage, 60, &what);
        }
    }
}

#[test]
fn zeros_and_noise_anywhere_cost_only_what_they_hit() {
    let sound = closed();
    for (name, size) in segments(&sound) {
        for (from, len) in (0..size).step_by(37).zip([1, 30, 100, 400, 5000].into_iter().cycle()) {
            for noise in [false, true] {
                let files = Arc::new(sound.restart());
                let to = (from + len).min(size);
                files.edit(&name, |b| {
                    b[from as usize..to as usize].iter_mut().enumerate().for_each(|(i, b)| {
                        *b = if noise { b.wrapping_mul(31).wrapping_add(i as u8 | 1) } else { 0 };
                    });
                });
                let what = format!("{name} bytes {from} to {to}, noise: {noise}");
                let changed = read(&files, &name) != read(&sound, &name);
                if changed {
                    let damage = check_damaged(&files, 60, &what);
                    assert!(missing(&damage).len() as u64 <= 2 + (to - from) / 29, "{what}: {damage:?}");
                    check_accepted(&files, &damage, 60, &what);
                }
            }
        }
    }
}

#[test]
fn missing_segments_are_noticed_wherever_they_were() {
    let sound = closed();
    let names = segments(&sound);
    for mask in 1..1usize << names.len() {
        let files = Arc::new(sound.restart());
        for (i, (name, _)) in names.iter().enumerate() {
            if mask & 1 << i != 0 {
                files.remove(name).unwrap();
            }
        }
        let damage = check_damaged(&files, 60, &format!("without {mask:b}"));
        assert!(!missing(&damage).is_empty());
        check_accepted(&files, &damage, 60, &format!("without {mask:b}"));
    }
}

#[test]
fn another_logs_segment_is_not_read_as_this_ones() {
    let sound = closed();
    let other = Arc::new(Faulty::new(2));
    let mut log = Log::open(other.clone(), &OPTIONS, *b"another log's id", 1000).unwrap();
    (1..=60).for_each(|n| drop(append(&mut log, n + 1000, 1).unwrap()));
    log.close().unwrap();
    let foreign = read(&other, "00000000000000000001.log");
    for (name, _) in segments(&sound) {
        let files = Arc::new(sound.restart());
        files.edit(&name, |b| b.clone_from(&foreign));
        let damage = check_damaged(&files, 60, &format!("{name} replaced"));
        assert_eq!((damage[0].from, damage[0].to), (0, foreign.len() as u64));
        check_accepted(&files, &damage, 60, &format!("{name} replaced"));
    }
    // The same for its `synced` file.
    let files = Arc::new(sound.restart());
    let synced = read(&other, "synced");
    files.edit("synced", |b| b.clone_from(&synced));
    let damage = check_damaged(&files, 60, "synced replaced");
    assert_eq!(damage, [Damage { file: "synced".into(), from: 0, to: 48, missing: vec![] }]);
    check_accepted(&files, &damage, 60, "synced replaced");
}

#[test]
fn a_segment_of_the_same_log_in_the_wrong_place_is_damage() {
    let sound = closed();
    let names = segments(&sound);
    for (from, _) in &names {
        for (to, _) in &names {
            if from != to {
                let files = Arc::new(sound.restart());
                let bytes = read(&sound, from);
                files.edit(to, |b| b.clone_from(&bytes));
                let what = format!("{from} in place of {to}");
                let damage = check_damaged(&files, 60, &what);
                check_accepted(&files, &damage, 60, &what);
            }
        }
    }
}

#[test]
fn damage_found_later_is_not_covered_by_what_was_accepted() {
    let files = closed();
    let (first, _) = segments(&files).swap_remove(0);
    files.edit(&first, |b| b[100] ^= 1);
    let damage = check_damaged(&files, 60, "first");
    check_accepted(&files, &damage, 60, "first");
    files.edit(&first, |b| b[400] ^= 1);
    let log = open(&files, &OPTIONS).unwrap();
    assert_eq!(log.state(), State::Damaged);
    assert_eq!(log.damage().len(), 1);
    assert!((log.damage()[0].from..log.damage()[0].to).contains(&400));
    drop(log);
    // The `synced` file is written anew, so the same damage to it is noticed a second time.
    let files = closed();
    for _ in 0..2 {
        files.edit("synced", |b| b[30] ^= 1);
        assert_eq!(open(&files, &OPTIONS).unwrap().state(), State::Damaged);
        assert_eq!(open(&files, &ACCEPT).unwrap().state(), State::Good);
        assert_eq!(open(&files, &OPTIONS).unwrap().state(), State::Good);
    }
}

#[test]
fn a_record_of_accepted_damage_that_does_not_check_accepts_nothing() {
    let files = closed();
    let (first, _) = segments(&files).swap_remove(0);
    files.edit(&first, |b| b[100] ^= 1);
    drop(open(&files, &ACCEPT).unwrap());
    for at in 0..read(&files, "accepted").len() {
        let files = Arc::new(files.restart());
        files.edit("accepted", |b| b[at] ^= 1);
        let state = open(&files, &OPTIONS).unwrap().state();
        // The case of a digit of the CRC and the last line's end say nothing, so they need not be noticed.
        assert!(state == State::Damaged || at + 9 >= read(&files, "accepted").len(), "byte {at}");
    }
}

#[test]
fn accepted_damage_is_believed_only_with_its_crc() {
    let files = closed();
    let (first, _) = segments(&files).swap_remove(0);
    let with = |at: usize| {
        let files = Arc::new(files.restart());
        files.edit(&first, |b| b[at] ^= 1);
        drop(open(&files, &ACCEPT).unwrap());
        files
    };
    let (one, other) = (with(100), with(900));
    let accepted = read(&other, "accepted");
    let crc = read(&one, "accepted").split_off(read(&one, "accepted").len() - 9);
    let forged = [&accepted[..accepted.len() - 9], &crc].concat();
    other.edit("accepted", |b| *b = forged);
    assert_eq!(open(&other, &OPTIONS).unwrap().state(), State::Damaged);
}

#[test]
fn an_incomplete_batch_is_cut_off_the_file_and_not_only_passed_over() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &OPTIONS).unwrap();
    (1..=5).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
    drop(log);
    let (name, size) = segments(&files).remove(0);
    files.edit(&name, |b| b.extend([7; 5000]));
    let mut log = open(&files, &OPTIONS).unwrap();
    assert_eq!(segments(&files), [(name, size)]);
    // Or what was left behind would be damage once another segment follows.
    (6..=60).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
    log.close().unwrap();
    let log = open(&files, &OPTIONS).unwrap();
    assert_eq!((log.state(), all(&log.reader(), 0).len()), (State::Good, 60));
}

#[test]
fn a_sequence_is_not_used_again_even_if_its_record_left_no_trace() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &Storage::default()).unwrap();
    let cut = append(&mut log, 1, 1).unwrap()[0].1;
    append(&mut log, 2, 10).unwrap();
    log.tick(0).unwrap();
    // Acknowledged, and lost within the second in which the synced file does not know of them.
    append(&mut log, 12, 500).unwrap();
    drop(log);
    let name = "00000000000000000001.log";
    files.edit(name, |b| b.truncate((cut.at + cut.len) as usize));
    let end = (cut.at + cut.len) as u64;
    let mut log = open(&files, &ACCEPT).unwrap();
    assert_eq!(log.damage(), [Damage { file: name.into(), from: end, to: end, missing: vec![(2, 11)] }]);
    assert!(log.next_sequence() > 511 + 1_000_000);
    append(&mut log, 1, 1).unwrap();
    log.close().unwrap();
    assert_eq!(open(&files, &OPTIONS).unwrap().state(), State::Good);
}

#[test]
fn what_was_seen_before_damage_was_accepted_survives_the_next_power_cut() {
    use super::super::faulty::{Fault, Operation};
    // Killed between the write and the sync of the last batch, in a log that has damage elsewhere: the batch is there for
    // the next opening and its readers, and accepting the damage begins another segment.
    for seed in 0..32 {
        for cause in [Fault::Kill, Fault::Error(std::io::ErrorKind::Other)] {
            let files = Arc::new(Faulty::new(seed));
            let mut log = open(&files, &OPTIONS).unwrap();
            (1..=30).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
            log.tick(0).unwrap();
            files.plan(Some(Operation::Sync), 1, cause);
            assert!(append(&mut log, 31, 3).is_err());
            drop(log);
            let files = Arc::new(files.restart());
            let (first, _) = segments(&files).swap_remove(0);
            files.edit(&first, |b| b[100] ^= 1);
            let log = open(&files, &ACCEPT).unwrap();
            assert_eq!((log.state(), all(&log.reader(), 0).len()), (State::Good, 32));
            let log = open(&Arc::new(files.cut_power()), &OPTIONS).unwrap();
            let what = format!("seed {seed}, {cause:?}");
            assert_eq!(log.state(), State::Good, "{what}: {:?}", log.damage());
            assert_eq!(all(&log.reader(), 0).len(), 32, "{what}");
        }
    }
}

#[test]
fn accepting_survives_a_stop_at_every_operation() {
    use super::super::faulty::Fault;
    for (fault, seed) in [Fault::Kill, Fault::PowerCut].into_iter().flat_map(|f| (0..8).map(move |s| (f, s)))
    {
        for tail in [false, true] {
            let sound = closed();
            let names = segments(&sound);
            let (name, size) = if tail { names.last().unwrap() } else { &names[1] };
            sound.edit(name, |b| b[*size as usize - 3] ^= 1);
            let mut stops = 0;
            for n in 1.. {
                let files = Arc::new(sound.seeded(seed * 1000 + n));
                files.plan(None, n, fault);
                let opened = open(&files, &ACCEPT);
                if !files.happened() {
                    opened.unwrap();
                    break;
                }
                stops += 1;
                let files = Arc::new(files.restart());
                let mut log = open(&files, &ACCEPT).unwrap();
                assert_eq!(log.state(), State::Good);
                let next = log.next_sequence();
                append(&mut log, next, 1).unwrap();
                log.close().unwrap();
                let log = open(&files, &OPTIONS).unwrap();
                let what = format!("{fault:?} at {n}");
                assert_eq!(log.state(), State::Good, "{what}: {:?}", log.damage());
                let want: Vec<u64> = (1..=60).filter(|s| !tail || *s < 60).chain([next]).collect();
                let got = sequences(&all(&log.reader(), 0));
                assert!(tail && got == want || !tail && got.ends_with(&[60, next]), "{what}: {got:?}");
            }
            assert!(stops > 8, "only {stops}");
        }
    }
}

#[test]
fn the_rest_of_a_large_damaged_batch_is_still_read() {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &Storage::default()).unwrap();
    let written = append(&mut log, 1, 512).unwrap();
    let to = append(&mut log, 513, 1).unwrap()[0].1.at - 24;
    log.close().unwrap();
    let (broken, whole) = (written[99].1, written[299].1);
    files.edit("00000000000000000001.log", |b| {
        // A wrong length, and a record that is gone altogether.
        b[broken.at as usize + 2] ^= 0x40;
        b[whole.at as usize..(whole.at + whole.len) as usize].fill(0);
    });
    let damage = check_damaged(&files, 513, "batch of 512");
    assert_eq!(damage.len(), 1);
    assert_eq!(damage[0].missing, [(100, 100), (300, 300)]);
    assert_eq!(
        damage[0].to_string(),
        format!("00000000000000000001.log bytes 48 to {to}: lost sequences 100, 300")
    );
}

#[test]
fn data_that_imitates_the_format_is_only_data() {
    // A client that knows the format, but not the log's id, sends whole segments and records as its data.
    let other = Arc::new(Faulty::new(2));
    let mut log = Log::open(other.clone(), &OPTIONS, [0; 16], 1000).unwrap();
    (1..=30).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
    let forged = read(&other, "00000000000000000001.log");
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &Storage::default()).unwrap();
    append(&mut log, 1, 1).unwrap();
    log.tick(0).unwrap();
    let mut large = Batch::new();
    large.push(Kind::Binary, "r", "", "", &forged);
    log.append(&mut large, 1000, &mut Vec::new()).unwrap();
    let size = segments(&files)[0].1;
    drop(log);
    for len in (size - forged.len() as u64..size).step_by(11) {
        let files = Arc::new(files.restart());
        files.edit("00000000000000000001.log", |b| b.truncate(len as usize));
        let log = open(&files, &OPTIONS).unwrap();
        assert_eq!((log.state(), sequences(&all(&log.reader(), 0))), (State::Good, vec![1]));
    }
}

#[test]
fn a_later_format_is_refused_and_left_alone() {
    let files = closed();
    let (name, _) = segments(&files).pop().unwrap();
    files.edit(&name, |b| {
        b[8] = 2;
        let crc = crc32c::crc32c(&b[..44]).to_le_bytes();
        b[44..48].copy_from_slice(&crc);
    });
    let before = contents(&files);
    let opened = Log::open(files.clone(), &ACCEPT, ID, 0);
    assert!(matches!(opened, Err(LogError::Version { version: 2, .. })));
    assert_eq!(contents(&files), before);
}
