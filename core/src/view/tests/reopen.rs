//! A store that takes no more writes is opened again under its view.

use super::*;
use std::fs;

/// As after a write that failed: it takes no more, and nothing of it can be read.
fn close(view: &View) {
    view.shared_mut().buckets = Arc::default();
    *view.store.write().unwrap() = Store::Closed("a test".into());
}

fn id(n: u64) -> (MessageKey, IdEntry) {
    (MessageKey(u128::from(n)), IdEntry { offset: n, body: n, time: 1_000_000 + n })
}

/// Adds a row and its id, and is asked for both.
fn one(view: &View, offset: u64) {
    add(view, "a", offset, offset);
    view.add(0, &[], &[id(offset)], at(offset));
}

fn holds(view: &View, last: u64) {
    assert_eq!(offsets(view, "a", forward(0, 100)).0, (1..=last).collect::<Vec<_>>());
    for n in 1..=last {
        assert_eq!(view.id(id(n).0, 0).unwrap(), Some(id(n).1), "{n}");
    }
    assert_eq!(view.id(id(last + 1).0, 0).unwrap(), None);
}

#[test]
fn a_closed_store_knows_nothing_rather_than_little_and_the_next_flush_opens_it() {
    let dir = TempDir::new().unwrap();
    let view = open(&dir);
    one(&view, 1);
    view.flush().unwrap();
    one(&view, 2);
    close(&view);
    // What memory has is told; of the rest nobody may believe that there is nothing.
    assert_eq!(view.id(id(2).0, 0).unwrap(), Some(id(2).1));
    assert!(matches!(view.id(id(1).0, 0), Err(ViewError::Storage(_))));
    assert!(matches!(view.last("b"), Err(ViewError::Storage(_))));
    assert!(matches!(view.rows("a", forward(0, 9)), Err(ViewError::Storage(_))));
    assert!(matches!(view.rows("b", forward(0, 9)), Err(ViewError::Storage(_))));
    assert!(view.rooms().is_err() && view.store().sync().is_err());
    view.flush().unwrap();
    holds(&view, 2);
    one(&view, 3);
    view.close().unwrap();
    drop(view);
    let view = open(&dir);
    assert!(!view.was_rebuilt());
    holds(&view, 3);
}

/// The flush that failed may have reached the disk: then its layer is there already, and is not written twice.
#[test]
fn a_flush_that_failed_may_be_on_the_disk_or_not() {
    for written in [false, true] {
        let dir = TempDir::new().unwrap();
        let view = open(&dir);
        one(&view, 1);
        view.flush().unwrap();
        let before = view.shared().partitions.clone();
        one(&view, 2);
        let bytes = view.overlay_bytes();
        let layer = Arc::new(std::mem::take(&mut view.shared_mut().active));
        if written {
            view.shared_mut().frozen = Some(layer.clone());
            view.flush().unwrap();
            view.overlay_bytes.store(bytes, Relaxed);
        }
        {
            let mut shared = view.shared_mut();
            (shared.frozen, shared.partitions) = (Some(layer), before);
        }
        one(&view, 3);
        close(&view);
        let flushed = view.flush().unwrap();
        assert_eq!((flushed.rows, view.overlay_bytes()), (if written { 1 } else { 2 }, 0));
        holds(&view, 3);
        drop(view);
        holds(&open(&dir), 3);
    }
}

#[test]
fn another_store_than_the_one_that_was_closed_is_not_taken() {
    let dir = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    for dir in [&dir, &other] {
        let view = open(dir);
        one(&view, 1);
        view.flush().unwrap();
    }
    let view = open(&dir);
    one(&view, 2);
    close(&view);
    let aside = other.path().join("aside");
    fs::rename(dir.path().join("fjall"), &aside).unwrap();
    fs::rename(other.path().join("fjall"), dir.path().join("fjall")).unwrap();
    assert!(matches!(view.flush(), Err(ViewError::Damaged(_))));
    assert!(matches!(view.id(id(1).0, 0), Err(ViewError::Storage(_))));
    // Nothing was lost by it.
    fs::remove_dir_all(dir.path().join("fjall")).unwrap();
    fs::rename(aside, dir.path().join("fjall")).unwrap();
    view.flush().unwrap();
    holds(&view, 2);
}

/// Where nothing was ever written, a store is made, with the secret that the keys in memory were made with.
#[test]
fn a_view_that_began_in_memory_is_written_once_that_is_possible() {
    let dir = TempDir::new().unwrap();
    let fresh = open(&dir);
    let home = disk::Home { dir: dir.path().into(), identity: ME, settings: settings(0) };
    drop(fresh);
    let view = View { home: Some(home), ..View::memory(ME, &settings(0)) };
    one(&view, 1);
    view.flush().unwrap();
    let key = view.hash_key();
    drop(view);
    let view = open(&dir);
    assert_eq!((view.was_rebuilt(), view.hash_key()), (false, key));
    holds(&view, 1);
}

/// Whoever had seen an earlier message of a room in that partition was told that nothing was missing.
#[test]
fn what_was_said_of_records_that_are_gone_outlives_another_opening() {
    let dir = TempDir::new().unwrap();
    let view = open(&dir);
    one(&view, 1);
    view.flush().unwrap();
    view.begin_after(0, 50);
    one(&view, 60);
    close(&view);
    view.flush().unwrap();
    assert_eq!((view.begun_after(0), view.last("b").unwrap()), (50, 50));
    view.close().unwrap();
    drop(view);
    assert_eq!(open(&dir).begun_after(0), 50);
}
