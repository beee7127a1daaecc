//! Damage everywhere in a log of 3,000 messages of the recorded chat: each byte flipped in turn, and what else disks and
//! operators do to files. Each is noticed and reported with its range, no wrong record is read, and no record is lost that the
//! damage did not touch.
//!
//! Precisely: for every byte of every file of the log one bit is flipped and the whole log is opened, which checks all of it.
//! Then it is damaged; the damage covers the byte; what is reported as lost is exactly the record that the byte is of, if it
//! is one's; and the segment of the byte is read through. Every 64th time all segments are read through: what is read of the
//! others is the same each time. The log is in memory; all cores take part.

use super::damage::missing;
use super::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

const OPTIONS: Storage =
    Storage { segment_bytes: 64 << 10, retain_bytes: 0, retain_age_ms: 0, accept_damage: false };
const RECORDS: u64 = 3000;

/// Records that are lost at most beside those in a block that moved, when whole batches came to a wrong place with it: those of
/// a batch that it has broken (150 here) and some about as many as it brought.
const MOVED: usize = 200;

/// A sound log and what is in it.
struct Sound {
    files: BTreeMap<String, Vec<u8>>,
    /// Every record: its segment, its range there, and itself. The record of sequence 1 is the first.
    records: Vec<(String, Range<usize>, Record)>,
}

fn chat(id: [u8; 16], first: usize) -> Sound {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/irc.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut messages = lines.filter(|line| line["event"] == "message").skip(first);
    let files = Arc::new(Memory::new());
    let mut log = Log::open(files.clone(), &OPTIONS, id, 1000).unwrap();
    let (mut written, mut batches) = (Vec::new(), 0);
    while log.next_sequence() <= RECORDS {
        // One publish at a time, and now and then what had gathered.
        let gathered = if batches % 40 == 39 { 150 } else { 1 + batches % 9 };
        let mut batch = Batch::new();
        for n in 0..gathered.min(RECORDS + 1 - log.next_sequence()) {
            let line = messages.next().unwrap();
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            let id = format!("{batches}-{n}");
            batch.push(Kind::Json, &text("room"), &text("sender"), &id, line["text"].to_string().as_bytes());
        }
        log.append(&mut batch, 1000 + batches, &mut written).unwrap();
        batches += 1;
    }
    log.close().unwrap();
    let records = written.into_iter().map(|(record, place)| {
        let at = place.at as usize;
        (format!("{:020}.log", place.segment), at..at + place.len as usize, record)
    });
    Sound { files: contents(&files), records: records.collect() }
}

fn contents(files: &Memory) -> BTreeMap<String, Vec<u8>> {
    let read = |(name, len): (String, u64)| {
        let mut bytes = vec![0; len as usize];
        files.read_at(&name, 0, &mut bytes).unwrap();
        (name, bytes)
    };
    files.list().unwrap().into_iter().map(read).collect()
}

fn with(contents: &BTreeMap<String, Vec<u8>>) -> Arc<Memory> {
    let files = Arc::new(Memory::new());
    for (name, bytes) in contents {
        files.create(name).unwrap();
        files.write_at(name, 0, bytes).unwrap();
    }
    files
}

impl Sound {
    fn segments(&self) -> Vec<&String> {
        self.files.keys().filter(|name| name.ends_with(".log")).collect()
    }

    /// Reads from a sequence to another, and holds it against what was written. Returns the sequences read.
    fn read(&self, log: &Log, from: u64, to: u64, what: &str) -> Vec<u64> {
        let mut read = Vec::new();
        for batch in log.reader().scan(from) {
            for (record, _) in batch.unwrap_or_else(|e| panic!("{what}: {e}")) {
                let offset = record.offset();
                if offset > to {
                    return read;
                }
                assert!(record == self.records[offset as usize - 1].2, "{what}: another record {offset}");
                read.push(offset);
            }
        }
        read
    }

    /// That damage is noticed, and costs no record but those whose bytes are no longer at their places (`touched`, in the files
    /// as they were) and at most so many `more`.
    fn check(
        &self,
        damaged: &BTreeMap<String, Vec<u8>>,
        touched: &[(&str, Range<usize>)],
        more: usize,
        what: &str,
    ) -> usize {
        let log = Log::open(with(damaged), &OPTIONS, ID, 1000).unwrap_or_else(|e| panic!("{what}: {e}"));
        if *damaged == self.files {
            assert_eq!(log.state(), State::Good, "{what}");
            return 0;
        }
        assert_eq!(log.state(), State::Damaged, "{what}");
        let lost = missing(log.damage());
        let read = self.read(&log, 0, RECORDS, what);
        let want: Vec<u64> = (1..=RECORDS).filter(|n| !lost.contains(n)).collect();
        assert!(
            read == want,
            "{what}: what is read and what is reported lost are not all: {:?}",
            log.damage()
        );
        let hit = |n: u64| {
            let (segment, range, _) = &self.records[n as usize - 1];
            let hit = |(file, bytes): &(&str, Range<usize>)| {
                file == segment && bytes.start < range.end && range.start < bytes.end
            };
            touched.iter().any(hit)
        };
        let untouched = lost.iter().filter(|n| !hit(**n)).count();
        assert!(untouched <= more, "{what}: {untouched} were not touched and are lost: {:?}", log.damage());
        lost.len()
    }
}

#[test]
fn every_byte_of_a_log_of_3000_records_flipped_in_turn() {
    let sound = chat(ID, 0);
    let segments = sound.segments();
    assert!(segments.len() >= 5 && sound.records.len() == RECORDS as usize, "{}", segments.len());
    // Per file, whose record each byte is; 0 for heads.
    let mut places = Vec::new();
    for (name, bytes) in &sound.files {
        let mut owners = vec![0; bytes.len()];
        let mine = (1..).zip(&sound.records).filter(|(_, (segment, ..))| segment == name);
        let mut bounds = (u64::MAX, 0);
        for (sequence, (_, range, _)) in mine {
            owners[range.clone()].fill(sequence);
            bounds = (bounds.0.min(sequence), sequence);
        }
        places.extend(owners.into_iter().enumerate().map(|(at, owner)| (name, at, owner, bounds)));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let began = std::time::Instant::now();
    let lost: u64 = std::thread::scope(|s| {
        let part = places.len().div_ceil(threads);
        let workers: Vec<_> =
            places.chunks(part).map(|places| s.spawn(|| flip_each(&sound, places))).collect();
        workers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    println!("{} bytes, {lost} of records, {:?}", places.len(), began.elapsed());
    let of_records: usize = sound.records.iter().map(|(_, range, _)| range.len()).sum();
    assert_eq!(lost, of_records as u64);
}

/// Flips a bit of each of these bytes; returns how often a record was lost.
fn flip_each(sound: &Sound, places: &[(&String, usize, u64, (u64, u64))]) -> u64 {
    let files = with(&sound.files);
    let mut lost = 0;
    for &(name, at, owner, (first, last)) in places {
        let was = sound.files[name][at];
        files.write_at(name, at as u64, &[was ^ 1 << (at % 8)]).unwrap();
        let log = Log::open(files.clone(), &OPTIONS, ID, 1000);
        let what = format!("{name} byte {at}, of {owner}");
        let log = log.unwrap_or_else(|e| panic!("{what}: {e}"));
        let damage = log.damage();
        assert_eq!(log.state(), State::Damaged, "{what}");
        let covered = |d: &Damage| d.file == *name && (d.from..d.to).contains(&(at as u64));
        assert!(damage.iter().any(covered), "{what}: {damage:?}");
        let gone: Vec<u64> = missing(damage).into_iter().collect();
        assert_eq!(gone, if owner == 0 { vec![] } else { vec![owner] }, "{what}: {damage:?}");
        assert_eq!((log.reader().first_sequence(), log.next_sequence()), (1, RECORDS + 1), "{what}");
        let (from, to) = if at % 64 == 0 { (0, RECORDS) } else { (first, last) };
        let read = sound.read(&log, from, to, &what);
        assert!(read.iter().copied().eq((from.max(1)..=to).filter(|n| *n != owner)), "{what}: {read:?}");
        lost += gone.len() as u64;
        drop(log);
        files.write_at(name, at as u64, &[was]).unwrap();
    }
    assert!(contents(&files) == sound.files, "a damaged log was changed");
    lost
}

#[test]
fn every_byte_of_the_record_of_accepted_damage_flipped_in_turn() {
    let sound = chat(ID, 0);
    let mut damaged = sound.files.clone();
    let segments = sound.segments();
    for name in &segments[1..4] {
        damaged.get_mut(*name).unwrap()[5000] ^= 1;
    }
    let files = with(&damaged);
    Log::open(files.clone(), &Storage { accept_damage: true, ..OPTIONS }, ID, 1000).unwrap().close().unwrap();
    let accepted = contents(&files)["accepted"].clone();
    let mut harmless = 0;
    for at in 0..accepted.len() {
        files.write_at("accepted", at as u64, &[accepted[at] ^ 1 << (at % 8)]).unwrap();
        let log = Log::open(files.clone(), &OPTIONS, ID, 1000).unwrap();
        let lost = missing(log.damage());
        if log.state() == State::Good {
            // The case of a digit of the CRC says nothing.
            assert!(at + 9 >= accepted.len(), "byte {at}");
            harmless += 1;
        } else {
            assert_eq!(lost.len(), 3, "byte {at}: nothing counts as accepted");
        }
        files.write_at("accepted", at as u64, &accepted[at..=at]).unwrap();
    }
    assert!(harmless <= 9 && accepted.len() > 300, "{harmless} of {}", accepted.len());
}

#[test]
fn zeros_blocks_in_wrong_places_and_segments_cut_short_or_lost() {
    let sound = chat(ID, 0);
    let other = chat(*b"another log's id", 3000);
    let mut cases = 0;
    let mut lost = 0;
    let mut case =
        |damaged: BTreeMap<String, Vec<u8>>, touched: &[(&str, Range<usize>)], more: usize, what: String| {
            lost += sound.check(&damaged, touched, more, &what);
            cases += 1;
        };
    let changed = |name: &String, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut files = sound.files.clone();
        edit(files.get_mut(name).unwrap());
        files
    };
    for (n, name) in sound.segments().into_iter().enumerate() {
        let len = sound.files[name].len();
        // Runs of zeros.
        for (from, run) in (n * 7..len).step_by(211).zip([2, 24, 100, 512, 4096, 30_000].into_iter().cycle())
        {
            let range = from..(from + run).min(len);
            let damaged = changed(name, &|b| b[range.clone()].fill(0));
            case(damaged, &[(name, range.clone())], 0, format!("{name}: zeros at {range:?}"));
        }
        for block in [512, 4096] {
            let blocks = len / block;
            for i in (0..blocks).step_by(if block == 512 { 3 } else { 1 }) {
                for j in [i + 1, (i * 5 + 3) % blocks, blocks - 1] {
                    let (a, b) = (i.min(j % blocks), i.max(j % blocks));
                    if a == b {
                        continue;
                    }
                    let at = |i: usize| i * block..(i + 1) * block;
                    // Two blocks in each other's places.
                    let damaged = changed(name, &|bytes| {
                        let (left, right) = bytes.split_at_mut(b * block);
                        left[at(a)].swap_with_slice(&mut right[..block]);
                    });
                    let what = format!("{name}: blocks {a} and {b} of {block}");
                    case(damaged, &[(name, at(a)), (name, at(b))], MOVED, format!("{what} swapped"));
                    // One written over the other.
                    for (from, to) in [(a, b), (b, a)] {
                        let damaged = changed(name, &|bytes| bytes.copy_within(at(from), to * block));
                        case(damaged, &[(name, at(to))], MOVED, format!("{what}: {from} over {to}"));
                    }
                }
                // One twice, so that all that follows has moved.
                let damaged = changed(name, &|bytes| {
                    let twice = bytes[i * block..(i + 1) * block].to_vec();
                    bytes.splice(i * block..i * block, twice);
                });
                let moved = i * block..i * block + 2 * block;
                case(damaged, &[(name, moved)], MOVED, format!("{name}: block {i} of {block} twice"));
            }
        }
        // Cut short, also where other segments follow.
        for left in (0..len).step_by(211) {
            let damaged = changed(name, &|b| b.truncate(left));
            case(damaged, &[(name, left..len)], 0, format!("{name}: cut to {left}"));
        }
        let mut without = sound.files.clone();
        without.remove(name);
        case(without, &[(name, 0..len)], 0, format!("{name} is gone"));
        // Another log's, of the same name or in this one's place; and another one of this log.
        for foreign in other.segments().into_iter().map(|n| &other.files[n]).chain(sound.files.values()) {
            if foreign.len() > 48 && *foreign != sound.files[name] {
                let damaged = changed(name, &|b| b.clone_from(foreign));
                case(damaged, &[(name, 0..len)], 0, format!("{name}: another segment"));
            }
        }
    }
    let damaged = changed(&"synced".into(), &|b| b.clone_from(&other.files["synced"]));
    case(damaged, &[], 0, "another log's synced file".into());
    println!("{cases} cases, {lost} records lost");
    assert!(cases > 5000 && lost > 100_000, "{cases} cases, {lost} records lost");
}
