//! Views that were damaged, exchanged, removed, or left behind by a process that was killed.

use super::*;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

const CHILD: &str = "KLATCH_TEST_VIEW_CHILD";

/// Not a test: what the test below kills. Adds and flushes until then, and prints each flushed sequence.
#[test]
#[ignore = "the body of a child process"]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let view = View::open(Path::new(&dir), ME, &settings(0)).unwrap();
    let begun = view.checkpoint(0).map_or(0, |c| c.sequence);
    for batch in 0u64.. {
        let from = begun + batch * 40 + 1;
        add(&view, "a", from, from + 39);
        add(&view, &format!("room {}", batch % 7), from, from + 39);
        let ids: Vec<_> = (from..from + 40).map(|n| (MessageKey(u128::from(n)), entry(n))).collect();
        view.add(0, &[], &ids, at(from + 39));
        if batch % 5 == 4 {
            view.flush().unwrap();
            println!("flushed {}", from + 39);
        }
    }
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_process_leaves_a_view_that_agrees_with_its_checkpoint() {
    let dir = TempDir::new().unwrap();
    for round in 1..=4 {
        let command = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "view::tests::damage::child", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut child = Killed(command.unwrap());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut flushed = lines.filter_map(|l| l.split("flushed ").nth(1).map(|n| n.parse::<u64>().unwrap()));
        let seen = flushed.nth(20 * round).expect("the child ended by itself");
        drop(child);
        let view = open(&dir);
        assert!(!view.was_rebuilt());
        let reached = view.checkpoint(0).unwrap();
        assert!(reached.sequence >= seen && reached == at(reached.sequence));
        assert_eq!(reached.sequence % 200, 0, "half a flush");
        let all = offsets(&view, "a", RowQuery { limit: 1 << 20, ..RowQuery::default() });
        assert_eq!(all, ((1..=reached.sequence).collect(), false, 0));
        let others = (0..7).map(|i| offsets(&view, &format!("room {i}"), newest(1 << 20)).0);
        let mut others: Vec<_> = others.flatten().collect();
        others.sort_unstable();
        assert_eq!(others, all.0);
        for n in 1..=reached.sequence + 100 {
            let expected = (n <= reached.sequence).then_some(entry(n));
            assert_eq!(view.id(MessageKey(u128::from(n)), 0).unwrap(), expected);
        }
    }
}

fn fill(dir: &Path) -> View {
    let view = View::open(dir, ME, &settings(0)).unwrap();
    write(&view, 0..12);
    view
}

/// Each of these flushes has 50 rows of one room, 50 ids, and a row of another room that is larger than a block of
/// the store.
fn write(view: &View, flushes: std::ops::Range<u64>) {
    let big: Arc<str> = "big".into();
    for i in flushes {
        let (from, to) = (i * 50 + 1, i * 50 + 50);
        add(view, "a", from, to);
        let ids: Vec<_> = (from..=to).map(|n| (MessageKey(u128::from(n)), entry(n))).collect();
        let row = Row { room: &big, offset: to, prev: i * 50, place: &[i as u8; 5000] };
        view.add(0, &[row], &ids, at(to));
        view.flush().unwrap();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A file without the zeros at its end (journals are made long in advance), and its whole length.
fn content(path: &Path) -> (Vec<u8>, u64) {
    let mut bytes = fs::read(path).unwrap();
    let len = bytes.len() as u64;
    bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
    (bytes, len)
}

/// The view either says that something is wrong, or agrees with its checkpoint in everything.
fn check(view: &View) -> Result<(), ViewError> {
    let reached = view.checkpoint(0).map_or(0, |c| c.sequence);
    assert_eq!(view.last("a")?, reached);
    let page = view.rows("a", RowQuery { limit: 5000, ..RowQuery::default() })?;
    assert_eq!(page.rows.iter().map(|r| r.offset).collect::<Vec<_>>(), (1..=reached).collect::<Vec<_>>());
    let page = view.rows("big", RowQuery { limit: 5000, ..RowQuery::default() })?;
    let big: Vec<_> = page.rows.iter().map(|r| (r.offset, r.place.to_vec())).collect();
    assert_eq!(big, (0..reached / 50).map(|i| (i * 50 + 50, vec![i as u8; 5000])).collect::<Vec<_>>());
    for n in 1..=1000 {
        let expected = (n <= reached).then_some(entry(n));
        assert_eq!(view.id(MessageKey(u128::from(n)), 0)?, expected, "id {n} of {reached}");
    }
    Ok(())
}

#[test]
fn a_view_of_another_log_is_begun_anew() {
    let dir = TempDir::new().unwrap();
    let secret = fill(dir.path()).hash_key();
    for other in [Identity { log: [2; 16], ..ME }, Identity { partitions: 3, ..ME }, ME] {
        let view = View::open(dir.path(), other, &settings(0)).unwrap();
        assert!(view.was_rebuilt());
        assert_ne!(view.hash_key(), secret);
        assert_eq!((view.last("a").unwrap(), view.checkpoint(0)), (0, None));
        drop(view);
        assert!(!View::open(dir.path(), other, &settings(0)).unwrap().was_rebuilt());
    }
}

#[test]
fn a_view_of_another_format_is_begun_anew() {
    let dir = TempDir::new().unwrap();
    let view = fill(dir.path());
    let mut meta = keys::Meta { format: keys::FORMAT + 1, identity: ME, hash_key: view.hash_key() };
    let put = |view: &View, meta: &keys::Meta| {
        let store = view.store();
        let mut batch = store.batch(1).unwrap();
        batch.put(keys::META.to_vec(), meta.encode());
        batch.commit().unwrap();
    };
    put(&view, &meta);
    drop(view);
    let view = open(&dir);
    assert!(view.was_rebuilt());
    meta.format = keys::FORMAT;
    put(&view, &meta);
    drop(view);
    assert!(!open(&dir).was_rebuilt());
}

#[test]
fn lost_writes_are_noticed() {
    let dir = TempDir::new().unwrap();
    let view = open(&dir);
    // More flushes than marks are kept.
    for n in 1..=keys::MARKS + 50 {
        view.add(0, &[], &[(MessageKey(u128::from(n)), entry(n))], at(n));
        view.flush().unwrap();
    }
    drop(view);
    let view = open(&dir);
    assert!(!view.was_rebuilt());
    assert_eq!(view.id(MessageKey(3), 0).unwrap(), Some(entry(3)));
    drop(view);
    for (id_table, n, put) in [
        (false, 90, false),
        (false, 4146, false),
        (false, 4147, true),
        (true, 2000, false),
        (true, 4200, true),
    ] {
        let copy = TempDir::new().unwrap();
        for path in files(dir.path()) {
            let to = copy.path().join(path.strip_prefix(dir.path()).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(path, to).unwrap();
        }
        let view = open(&copy);
        assert!(!view.was_rebuilt());
        let bucket = view.shared().buckets[0].table.clone();
        let store = view.store();
        let (Store::Disk(disk), store::IdTable::Disk(ids)) = (&*store, &bucket) else { unreachable!() };
        let table = if id_table { ids } else { &disk.main };
        if put {
            table.insert(keys::mark(n), []).unwrap()
        } else {
            table.remove(keys::mark(n)).unwrap()
        }
        drop(store);
        drop((view, bucket));
        assert!(open(&copy).was_rebuilt(), "{n} in the table of ids: {id_table}, put: {put}");
    }
}

#[test]
fn an_open_view_is_neither_opened_again_nor_destroyed() {
    let dir = TempDir::new().unwrap();
    let view = fill(dir.path());
    for identity in [ME, Identity { log: [2; 16], ..ME }] {
        assert_eq!(View::open(dir.path(), identity, &settings(0)).unwrap_err(), ViewError::InUse);
    }
    assert_eq!(View::destroy(dir.path()), Err(ViewError::InUse));
    // Not even if it can no longer be read.
    fs::remove_file(dir.path().join("fjall/version")).unwrap();
    assert_eq!(View::open(dir.path(), ME, &settings(0)).unwrap_err(), ViewError::InUse);
    check(&view).unwrap();
    drop(view);
    assert!(open(&dir).was_rebuilt());
}

#[test]
fn only_the_views_own_folder_is_removed() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("notes"), "mine").unwrap();
    drop(fill(dir.path()));
    View::destroy(dir.path()).unwrap();
    View::destroy(dir.path()).unwrap();
    assert_eq!(files(dir.path()), [dir.path().join("notes")]);
    // Missing altogether, a file where the folder should be, and garbage in the folder.
    assert!(open(&dir).was_rebuilt());
    View::destroy(dir.path()).unwrap();
    fs::write(dir.path().join("fjall"), "x").unwrap();
    assert!(open(&dir).was_rebuilt());
    for name in ["version", "0.jnl", "lock", "else"] {
        View::destroy(dir.path()).unwrap();
        fs::create_dir(dir.path().join("fjall")).unwrap();
        fs::write(dir.path().join("fjall").join(name), b"some garbage that is long enough").unwrap();
        let view = open(&dir);
        assert!(view.was_rebuilt());
        add(&view, "a", 1, 5);
        view.flush().unwrap();
        drop(view);
        assert_eq!(open(&dir).last("a").unwrap(), 5);
    }
    assert_eq!(fs::read(dir.path().join("notes")).unwrap(), b"mine");
}

/// Bits that are flipped in each file, one at a time.
const FLIPS: usize = 4;

/// Each file of a view is shortened, emptied, removed, or has bits flipped, one at a time. Whatever the store makes of
/// it, the view never answers wrongly: it is begun anew, or it says so, or it is whole, or it is an older whole one.
#[test]
fn damage_in_any_file_is_never_taken_for_content() {
    let home = TempDir::new().unwrap();
    let view = fill(home.path());
    // So that there are tables as well as a journal.
    if let Store::Disk(disk) = &*view.store() {
        disk.main.rotate_memtable_and_wait().unwrap();
        let bucket = view.shared().buckets[0].table.clone();
        let store::IdTable::Disk(ids) = bucket else { unreachable!() };
        ids.rotate_memtable_and_wait().unwrap();
    }
    write(&view, 12..20);
    drop(view);
    let mut outcomes = std::collections::BTreeMap::<&str, usize>::new();
    let originals: Vec<_> = files(home.path()).into_iter().map(|f| (f.clone(), content(&f))).collect();
    let mut random = 0x2545_F491_4F6C_DD1Du64;
    for victim in 0..originals.len() {
        for way in 0..7 + FLIPS {
            let dir = TempDir::new().unwrap();
            for (i, (path, (bytes, len))) in originals.iter().enumerate() {
                let (mut bytes, mut len) = (bytes.clone(), *len);
                if i == victim {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let place = random as usize % bytes.len().max(1);
                    match way {
                        0 => continue,
                        1 => len = 0,
                        2 => len = place as u64,
                        3 => len = (bytes.len() as u64).saturating_sub(1),
                        4 => len += 40,
                        5 => bytes.extend_from_slice(&[0xAB; 40]),
                        6 => bytes.truncate(place),
                        _ => bytes.get_mut(place).into_iter().for_each(|b| *b ^= 1 << (random >> 61)),
                    }
                }
                let to = dir.path().join(path.strip_prefix(home.path()).unwrap());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::write(&to, bytes).unwrap();
                fs::File::options().write(true).open(&to).unwrap().set_len(len).unwrap();
            }
            let outcome = match View::open(dir.path(), ME, &settings(0)) {
                Ok(view) => match check(&view) {
                    Ok(()) if view.was_rebuilt() => {
                        assert_eq!(view.checkpoint(0), None);
                        "begun anew"
                    }
                    Ok(()) if view.checkpoint(0) == Some(at(1000)) => "whole",
                    Ok(()) => "older",
                    Err(ViewError::Damaged(_)) => {
                        drop(view);
                        assert!(open(&dir).was_rebuilt(), "damage was found and forgotten");
                        "said so when read"
                    }
                    Err(e) => panic!("{e}"),
                },
                Err(e) => panic!("{e} after way {way} on {:?}", originals[victim].0),
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    // The damage reached every kind of outcome, or it was not damage enough.
    for outcome in ["begun anew", "said so when read", "older", "whole"] {
        assert!(outcomes.contains_key(outcome), "{outcomes:?}");
    }
}
