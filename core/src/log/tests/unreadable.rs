//! Sectors that the disk can no longer read: damage like any other. Nothing else is lost, and nothing is cut.

use super::damage::{contents, missing, read, segments};
use super::*;

const OPTIONS: Storage =
    Storage { segment_bytes: 16 << 10, retain_bytes: 0, retain_age_ms: 0, accept_damage: false };
const LAST: u64 = 500;

/// A log of 500 messages in batches of 1 to 5 over some segments; closed or killed.
fn log(close: bool) -> Arc<Faulty> {
    let files = Arc::new(Faulty::new(1));
    let mut log = open(&files, &OPTIONS).unwrap();
    let mut n = 1;
    while n <= LAST {
        let len = (1 + n % 5).min(LAST + 1 - n);
        append(&mut log, n, len).unwrap();
        n += len;
    }
    if close {
        log.close().unwrap();
    }
    files
}

/// What is read of a log whose damage this is: everything but what is reported as missing.
fn check(log: &Log, damage: &[Damage], what: &str) {
    let lost = missing(damage);
    let want: Vec<u64> = (1..=LAST).filter(|n| !lost.contains(n)).collect();
    let records = all(&log.reader(), 0);
    assert_eq!(sequences(&records), want, "{what}: {damage:?}");
    assert!(records.iter().all(|r| r.body() == &body(r.offset())[..]), "{what}");
}

#[test]
fn each_block_that_cannot_be_read_costs_what_is_in_it_and_no_more() {
    let sound = log(true);
    assert!(segments(&sound).len() >= 3);
    let mut lost = 0;
    for (name, size) in segments(&sound) {
        for from in (0..size).step_by(4096) {
            let to = (from + 4096).min(size);
            let files = Arc::new(sound.restart());
            let before = contents(&files);
            files.set_unreadable(Some((&name, from + 1, to - 1)));
            let what = format!("{name} bytes {from} to {to}");
            let mut log = open(&files, &OPTIONS).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(log.state(), State::Damaged, "{what}");
            let damage = log.damage().to_vec();
            assert!(damage.iter().all(|d| d.file == name), "{what}: {damage:?}");
            assert!(damage.iter().map(|d| d.from).min() <= Some(from.max(48)), "{what}: {damage:?}");
            assert!(damage.iter().map(|d| d.to).max() >= Some(to), "{what}: {damage:?}");
            check(&log, &damage, &what);
            assert!(missing(&damage).len() as u64 <= 2 + (to - from) / 29, "{what}");
            lost += missing(&damage).len();
            assert!(matches!(append(&mut log, 1, 1), Err(LogError::Damaged)), "{what}");
            log.close().unwrap();
            assert_eq!(contents(&files), before, "{what}: nothing may be changed");

            // Read well again, it is sound: a cable may have been the cause.
            files.set_unreadable(None);
            let sound = open(&Arc::new(files.restart()), &OPTIONS).unwrap();
            assert_eq!(sound.state(), State::Good, "{what}");
            check(&sound, &[], &what);

            files.set_unreadable(Some((&name, from + 1, to - 1)));
            let mut log = open(&files, &Storage { accept_damage: true, ..OPTIONS }).unwrap();
            let next = log.next_sequence();
            assert_eq!(append(&mut log, next, 1).unwrap()[0].0.offset(), next, "{what}");
            log.close().unwrap();
            let log = open(&files, &OPTIONS).unwrap();
            assert_eq!((log.state(), log.damage()), (State::Good, &[][..]), "{what}");
            assert_eq!(all(&log.reader(), 0).len(), LAST as usize + 1 - missing(&damage).len(), "{what}");
        }
    }
    assert!(lost > 200, "only {lost}");
}

#[test]
fn an_unreadable_end_is_damage_and_not_an_incomplete_batch() {
    // Killed within the second in which the `synced` file does not know of the last batches: damage there is taken for
    // an incomplete batch. Bytes that the disk may give back tomorrow are not.
    let files = log(false);
    let (name, size) = segments(&files).pop().unwrap();
    let before = read(&files, &name);
    files.set_unreadable(Some((&name, size - 10, size)));
    let log = open(&files, &OPTIONS).unwrap();
    assert_eq!(log.state(), State::Damaged);
    check(&log, &[Damage { missing: vec![(log.next_sequence(), LAST)], ..log.damage()[0].clone() }], "end");
    drop(log);
    files.set_unreadable(None);
    assert_eq!(read(&files, &name), before);
    check(&open(&files, &OPTIONS).unwrap(), &[], "read well again");
}

#[test]
fn unreadable_notes_are_damage_too() {
    let files = log(true);
    files.set_unreadable(Some(("synced", 0, 48)));
    let log = open(&files, &OPTIONS).unwrap();
    assert_eq!(log.state(), State::Damaged);
    assert_eq!(log.damage(), [Damage { file: "synced".into(), from: 0, to: 48, missing: vec![] }]);
    drop(log);
    files.set_unreadable(None);
    let (first, _) = segments(&files).swap_remove(0);
    files.edit(&first, |b| b[100] ^= 1);
    drop(open(&files, &Storage { accept_damage: true, ..OPTIONS }).unwrap());
    assert_eq!(open(&files, &OPTIONS).unwrap().state(), State::Good);
    files.set_unreadable(Some(("accepted", 0, 1)));
    assert_eq!(open(&files, &OPTIONS).unwrap().state(), State::Damaged);
}
