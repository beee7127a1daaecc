//! Real directories: torn tails, the lock, verify.

use super::*;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn open_disk(dir: &Path, options: &Storage) -> Result<Log, LogError> {
    Log::open(Arc::new(Disk::open(dir)?), options, ID, 1000)
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// R18: what was appended after a torn tail was lost at the next start, because the tail was passed over, not cut.
#[test]
fn r18_torn_tail_at_every_byte_of_the_last_three_records() {
    for in_one_batch in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open_disk(dir.path(), &small(1 << 20)).unwrap();
        (1..=20).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
        log.tick(0).unwrap();
        let last: Vec<Place> = if in_one_batch {
            append(&mut log, 21, 3).unwrap().into_iter().map(|(_, place)| place).collect()
        } else {
            (21..=23).map(|n| append(&mut log, n, 1).unwrap()[0].1).collect()
        };
        drop(log);
        let name = "00000000000000000001.log";
        let size = fs::metadata(dir.path().join(name)).unwrap().len();
        for len in last[0].at as u64 - 24..=size {
            let torn = tempfile::tempdir().unwrap();
            copy(dir.path(), torn.path());
            fs::OpenOptions::new().write(true).open(torn.path().join(name)).unwrap().set_len(len).unwrap();
            let whole = last.iter().filter(|p| p.at as u64 + p.len as u64 <= len).count() as u64;
            let before = 20 + if in_one_batch { whole / 3 * 3 } else { whole };

            let mut log = open_disk(torn.path(), &small(1 << 20)).unwrap();
            assert_eq!((log.state(), log.next_sequence()), (State::Good, before + 1), "cut to {len}");
            append(&mut log, before + 1, 1).unwrap();
            append(&mut log, before + 2, 9).unwrap();
            drop(log);
            let log = open_disk(torn.path(), &small(1 << 20)).unwrap();
            let records = all(&log.reader(), 0);
            assert_eq!(sequences(&records), (1..=before + 10).collect::<Vec<_>>(), "cut to {len}");
            assert!(records.iter().all(|r| r.body() == &body(r.offset())[..]));
        }
    }
}

#[test]
fn one_opening_at_a_time_by_whatever_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not/yet/there");
    let link = dir.path().join("link");
    let disk = Disk::open(&path).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for way in [&path, &link] {
        match Disk::open(way) {
            Err(LogError::Locked { pid }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
    }
    // As long as anything of it is in use: a reader too.
    let log = Log::open(Arc::new(disk), &Storage::default(), ID, 0).unwrap();
    let reader = log.reader();
    drop(log);
    assert!(matches!(Disk::open(&path), Err(LogError::Locked { .. })));
    drop(reader);
    drop(Disk::open(&link).unwrap());
    assert!(path.join("lock").exists(), "the lock file is never deleted");
    drop(Disk::open(&path).unwrap());
}

/// X20: the lock file was deleted, and a second opener got in; or one that was left behind kept the owner out.
#[test]
fn x20_the_lock_holds_without_its_file_and_a_file_alone_is_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("lock");
    let disk = Disk::open(dir.path()).unwrap();
    for left_behind in [None, Some("1\n"), Some("no id"), Some("")] {
        fs::remove_file(&lock).unwrap();
        if let Some(text) = left_behind {
            fs::write(&lock, text).unwrap();
        }
        for _ in 0..2 {
            // Who holds it nobody can tell, but that it is held.
            let refused = Disk::open(dir.path());
            assert!(matches!(refused, Err(LogError::Locked { pid: 0 })), "{left_behind:?}: {refused:?}");
        }
        fs::write(&lock, "").unwrap();
    }
    drop(disk);
    // A file with the id of a process that runs, and is another's, blocks nobody.
    fs::write(&lock, format!("{}\n", std::os::unix::process::parent_id())).unwrap();
    drop(Disk::open(dir.path()).unwrap());
    assert_eq!(fs::read_to_string(&lock).unwrap(), format!("{}\n", std::process::id()));
}

/// R19: two processes on one directory corrupted it.
#[test]
fn r19_another_process_is_refused_by_name_and_let_in_after_a_kill() {
    const DIR: &str = "KLATCH_TEST_LOCK_DIR";
    if let Some(dir) = std::env::var_os(DIR) {
        // The child: holds the lock until it is killed.
        let _disk = Disk::open(Path::new(&dir)).unwrap();
        println!("locked");
        let _ = std::io::stdin().lines().next();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "log::tests::disks::r19_another_process_is_refused_by_name_and_let_in_after_a_kill";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(DIR, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    let locked = std::io::BufRead::lines(out).any(|line| line.unwrap().ends_with("locked"));
    let refused = Disk::open(dir.path());
    let pid = child.id();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(locked);
    assert!(
        matches!(refused, Err(LogError::Locked { pid: holder }) if holder == pid),
        "{refused:?}, not {pid}"
    );
    Disk::open(dir.path()).unwrap();
}

#[test]
fn errors_name_what_could_not_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let e = Disk::open(&dir.path().join("file")).unwrap_err();
    assert!(matches!(e, LogError::Io { .. }) && e.to_string().contains("file"), "{e}");
    assert!(verify(&dir.path().join("nothing")).is_err());
}

#[test]
fn many_segments_are_read_with_few_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_disk(dir.path(), &small(100)).unwrap();
    (1..=150).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
    assert_eq!(sequences(&all(&log.reader(), 0)), (1..=150).collect::<Vec<_>>());
    let here = dir.path().canonicalize().unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let open = open.filter(|path| path.starts_with(&here)).count();
    assert!(open <= 64 + 4 + 2, "{open}");
}

#[test]
fn dropped_segments_are_closed_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_disk(dir.path(), &Storage { retain_bytes: 1, ..small(500) }).unwrap();
    (1..=50).for_each(|n| drop(append(&mut log, n, 1).unwrap()));
    all(&log.reader(), 0);
    log.tick(0).unwrap().unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let here = dir.path().canonicalize().unwrap();
    let gone = open.filter(|p| p.starts_with(&here) && p.to_string_lossy().ends_with("(deleted)")).count();
    assert_eq!(gone, 0);
}

#[test]
fn verify_tells_all_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.id.as_ref(), report.records, report.is_sound()), (None, 0, true));
    assert_eq!(report.to_string(), "no log here\n");

    let mut log = open_disk(dir.path(), &small(2000)).unwrap();
    (0..30).for_each(|n| drop(append(&mut log, n * 2 + 1, 2).unwrap()));
    // On a running log, where a batch may be half written.
    let last = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let last = last.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap();
    let size = fs::metadata(&last).unwrap().len();
    let mut torn = fs::read(&last).unwrap();
    torn.extend_from_slice(b"half a batch");
    fs::write(&last, &torn).unwrap();
    let report = verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{report}");
    let file = last.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(report.torn, Some(Range { file, from: size, to: size + 12 }));
    assert_eq!((report.records, report.batches, report.rooms), (60, 30, 5));
    assert_eq!((report.sequences, report.times), (Some((1, 60)), Some((1001, 1059))));
    assert_eq!(report.synced, Some(0));
    assert_eq!(report.segments.iter().map(|s| s.records).sum::<u64>(), 60);
    assert_eq!(fs::read(&last).unwrap(), torn);
    drop(log);

    let mut log = open_disk(dir.path(), &small(2000)).unwrap();
    append(&mut log, 61, 1).unwrap();
    log.close().unwrap();
    let first = dir.path().join("00000000000000000001.log");
    let mut bytes = fs::read(&first).unwrap();
    bytes[90] ^= 1;
    fs::write(&first, &bytes).unwrap();
    let report = verify(dir.path()).unwrap();
    assert!(!report.is_sound() && report.torn.is_none());
    assert_eq!(report.damage[0].missing, [(1, 1)]);
    assert_eq!((report.records, report.sequences, report.synced), (60, Some((2, 61)), Some(61)));
    let text = report.to_string();
    for part in [
        "60 records in 30 batches of 5 rooms",
        "sequences 2 to 61, 1970-01-01 00:00:01 UTC to 1970-01-01 00:00:01 UTC",
        "DAMAGE: 00000000000000000001.log bytes 48 to ",
        ": lost sequences 1\n",
    ] {
        assert!(text.contains(part), "{part:?} not in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["damage"][0]["missing"], serde_json::json!([[1, 1]]));
    assert_eq!(json["id"], "61206c6f672773206f776e2069642031");

    let log = open_disk(dir.path(), &Storage { accept_damage: true, ..small(2000) }).unwrap();
    log.close().unwrap();
    let report = verify(dir.path()).unwrap();
    assert!(report.is_sound() && report.accepted.len() == 1, "{report}");
}

#[test]
fn verify_beside_a_writer_that_drops_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open_disk(dir.path(), &Storage { retain_bytes: 20_000, ..small(2000) }).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let verifier = s.spawn(|| {
            let mut reports = 0;
            while !over.load(Ordering::SeqCst) || reports == 0 {
                let report = verify(dir.path()).unwrap();
                assert!(report.is_sound(), "{report}");
                reports += 1;
            }
        });
        for n in 0..300 {
            append(&mut log, n, 4).unwrap();
            if n % 10 == 0 {
                log.tick(0).unwrap();
            }
        }
        over.store(true, Ordering::SeqCst);
        verifier.join().unwrap();
    });
    assert!(log.reader().first_sequence() > 1);
}
