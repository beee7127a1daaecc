//! The view against a plain model, on both stores, with reopening, damage, and readers at work during flushes.

use super::*;
use std::sync::atomic::AtomicBool;
use std::thread;
use tempfile::TempDir;

mod damage;
mod model;
mod reopen;

const ME: Identity = Identity { log: [1; 16], partitions: 2 };

fn settings(history_per_room: u64) -> ViewSettings {
    ViewSettings { history_per_room, ..ViewSettings::default() }
}

fn open(dir: &TempDir) -> View {
    View::open(dir.path(), ME, &settings(0)).unwrap()
}

/// Calls `test` with a view on disk and with one in memory.
fn both(history: u64, test: impl Fn(View)) {
    let dir = TempDir::new().unwrap();
    test(View::open(dir.path(), ME, &settings(history)).unwrap());
    test(View::memory(ME, &settings(history)));
}

fn at(sequence: u64) -> Checkpoint {
    Checkpoint { sequence, check: sequence * 7 }
}

/// Adds rows `from..=to` of a room, each one's prev being the offset before.
fn add(view: &View, room: &str, from: u64, to: u64) {
    let room: Arc<str> = room.into();
    let places: Vec<_> = (from..=to).map(|o| o.to_be_bytes()).collect();
    let rows: Vec<_> = (from..=to)
        .zip(&places)
        .map(|(offset, place)| Row { room: &room, offset, prev: offset - 1, place })
        .collect();
    view.add(0, &rows, &[], at(to));
}

fn offsets(view: &View, room: &str, query: RowQuery) -> (Vec<u64>, bool, u64) {
    let page = view.rows(room, query).unwrap();
    for row in &page.rows {
        assert_eq!(row.place[..], row.offset.to_be_bytes());
    }
    (page.rows.iter().map(|r| r.offset).collect(), page.more, page.floor)
}

fn newest(limit: usize) -> RowQuery {
    RowQuery { limit, backward: true, ..RowQuery::default() }
}

fn forward(after: u64, limit: usize) -> RowQuery {
    RowQuery { after, limit, ..RowQuery::default() }
}

#[test]
fn pages_in_both_directions_across_all_layers() {
    both(0, |view| {
        add(&view, "a", 1, 1000);
        view.flush().unwrap();
        add(&view, "a", 1001, 1400);
        view.flush().unwrap();
        add(&view, "a", 1401, 1500);
        assert_eq!(offsets(&view, "a", newest(3)), (vec![1498, 1499, 1500], true, 0));
        assert!(!offsets(&view, "a", newest(1500)).1);
        assert!(offsets(&view, "a", newest(1499)).1);
        assert_eq!(offsets(&view, "a", forward(1498, 2)), (vec![1499, 1500], false, 0));
        assert_eq!(offsets(&view, "a", forward(1500, 2)), (vec![], false, 0));
        assert_eq!(offsets(&view, "a", forward(999, 3)), (vec![1000, 1001, 1002], true, 0));
        assert_eq!(offsets(&view, "a", forward(0, 0)), (vec![], true, 0));
        assert_eq!(offsets(&view, "a", forward(u64::MAX, 5)), (vec![], false, 0));
        let between = RowQuery { after: 1398, before: 1403, limit: 9, backward: true };
        assert_eq!(offsets(&view, "a", between), (vec![1399, 1400, 1401, 1402], false, 0));
        assert_eq!(offsets(&view, "a", RowQuery { limit: 2, ..between }).0, [1401, 1402]);
        assert_eq!(offsets(&view, "b", newest(5)), (vec![], false, 0));
        assert_eq!((view.last("a").unwrap(), view.last("b").unwrap()), (1500, 0));
    });
}

#[test]
fn names_that_begin_alike_are_different_rooms() {
    both(0, |view| {
        for (i, room) in ["a", "ab", "a\u{1}", "é", &"x".repeat(255)].iter().enumerate() {
            let first = 10 * (i as u64 + 1);
            add(&view, room, first, first + 1);
            if i == 2 {
                view.flush().unwrap();
            }
        }
        assert_eq!(view.rooms().unwrap(), 5);
        view.flush().unwrap();
        assert_eq!(view.rooms().unwrap(), 5);
        assert_eq!(offsets(&view, "a", newest(9)), (vec![10, 11], false, 9));
        assert_eq!(offsets(&view, "ab", newest(9)), (vec![20, 21], false, 19));
        assert_eq!(offsets(&view, "a\u{1}", newest(9)), (vec![30, 31], false, 29));
    });
}

#[test]
fn large_places_end_a_page_early() {
    both(0, |view| {
        let room: Arc<str> = "big".into();
        let place = vec![9; 400 << 10];
        let huge = vec![8; 4 << 20];
        for offset in 1..=6 {
            let place = if offset == 6 { &huge } else { &place };
            view.add(0, &[Row { room: &room, offset, prev: offset - 1, place }], &[], at(offset));
            if offset == 3 {
                view.flush().unwrap();
            }
        }
        for flushed in [false, true] {
            if flushed {
                view.flush().unwrap();
            }
            let page = |q| {
                let page = view.rows("big", q).unwrap();
                (page.rows.iter().map(|r| r.offset).collect::<Vec<_>>(), page.more)
            };
            assert_eq!(page(forward(0, 10)), (vec![1, 2], true));
            assert_eq!(page(forward(2, 10)), (vec![3, 4], true));
            assert_eq!(page(newest(10)), (vec![6], true));
            assert_eq!(page(RowQuery { before: 6, ..newest(10) }), (vec![4, 5], true));
            let row = view.rows("big", newest(1)).unwrap().rows.remove(0);
            assert_eq!(row.place, huge);
        }
    });
}

#[test]
fn history_is_trimmed_by_chunks() {
    both(1000, |view| {
        for i in 0..60 {
            add(&view, "a", i * 100 + 1, i * 100 + 100);
            view.flush().unwrap();
            let (rows, more, floor) = offsets(&view, "a", newest(10_000));
            let written = (i as usize + 1) * 100;
            assert!(rows.len() >= written.min(1000) && rows.len() <= 1000 + 512, "{} rows", rows.len());
            assert_eq!((rows[0] - 1, more), (floor, false));
        }
        // Small history, larger flush: the old rows go, whatever was written now stays until the next.
        add(&view, "a", 6001, 9000);
        view.flush().unwrap();
        assert_eq!(offsets(&view, "a", newest(10_000)).2, 6000);
        add(&view, "a", 9001, 9001);
        view.flush().unwrap();
        let (rows, _, floor) = offsets(&view, "a", newest(10_000));
        assert!(rows.len() >= 1000 && rows.len() <= 1512);
        assert_eq!(rows[0], floor + 1);
        assert_eq!(view.last("a").unwrap(), 9001);
    });
}

#[test]
fn rows_below_the_logs_beginning_are_gone_at_once_and_then_removed() {
    both(0, |view| {
        for i in 0..20 {
            add(&view, "a", i * 10 + 1, i * 10 + 10);
            view.flush().unwrap();
        }
        let room: Arc<str> = "other".into();
        view.add(1, &[Row { room: &room, offset: 5, prev: 0, place: &5u64.to_be_bytes() }], &[], at(5));
        add(&view, "a", 201, 210);
        view.trim_below(0, 95).unwrap();
        for _ in 0..2 {
            assert_eq!(offsets(&view, "a", forward(0, 2)), (vec![95, 96], true, 94));
            assert_eq!(offsets(&view, "a", newest(1000)).0.len(), 116);
            assert!(!view.flush().unwrap().unfinished);
        }
        // The chunk that holds the border stays; what is before it is removed.
        let stored = |view: &View| view.store().snapshot().room("a").unwrap().unwrap();
        assert_eq!((stored(&view).first, stored(&view).floor, stored(&view).count), (91, 90, 120));
        // A border beyond everything: no rows, but the last offset; and it never moves back.
        view.trim_below(0, 500).unwrap();
        view.trim_below(0, 1).unwrap();
        for _ in 0..2 {
            assert_eq!(offsets(&view, "a", newest(10)), (vec![], false, 210));
            view.flush().unwrap();
        }
        assert_eq!(stored(&view).count, 0);
        assert_eq!(view.last("a").unwrap(), 210);
        // The other partition is as it was.
        assert_eq!(offsets(&view, "other", newest(10)), (vec![5], false, 0));
        add(&view, "a", 600, 601);
        assert_eq!(offsets(&view, "a", newest(10)), (vec![600, 601], false, 599));
        view.flush().unwrap();
        assert_eq!(offsets(&view, "a", newest(10)), (vec![600, 601], false, 599));
    });
}

#[test]
fn a_sweep_goes_on_over_several_flushes() {
    both(0, |view| {
        for i in 1..=2500u64 {
            add(&view, &format!("room {i}"), i, i);
        }
        view.flush().unwrap();
        view.trim_below(0, 2400).unwrap();
        let unfinished = (0..3).map(|_| view.flush().unwrap().unfinished).collect::<Vec<_>>();
        assert_eq!(unfinished, [true, true, false]);
        let kept = view.store().snapshot().rooms(b"", 9999).unwrap();
        assert_eq!(kept.len(), 2500);
        assert_eq!(kept.iter().map(|(_, m)| m.count).sum::<u64>(), 101);
        assert_eq!(view.rooms().unwrap(), 2500);
        assert_eq!(view.flush().unwrap(), Flushed::default());
    });
}

fn entry(time: u64) -> IdEntry {
    IdEntry { offset: time / 2, body: time ^ 0xFF, time }
}

#[test]
fn ids_by_time() {
    const HOUR: u64 = 3_600_000;
    both(0, |view| {
        let key = |n: u64| MessageKey(u128::from(n) << 64 | u128::from(n));
        for hour in 0..5 {
            view.add(0, &[], &[(key(hour), entry(hour * HOUR + 5))], at(hour));
            // A key whose last record moves on.
            view.add(0, &[], &[(key(99), entry(hour * HOUR + 6))], at(hour));
            view.flush().unwrap();
        }
        assert_eq!(view.shared().buckets.len(), 5);
        assert_eq!(view.id(key(0), 0).unwrap(), Some(entry(5)));
        assert_eq!(view.id(key(0), 5).unwrap(), Some(entry(5)));
        assert_eq!(view.id(key(0), 6).unwrap(), None);
        assert_eq!(view.id(key(99), 0).unwrap(), Some(entry(4 * HOUR + 6)));
        assert_eq!(view.id(key(7), 0).unwrap(), None);
        view.add(0, &[], &[(key(99), entry(4 * HOUR + 7))], at(9));
        assert_eq!(view.id(key(99), 0).unwrap(), Some(entry(4 * HOUR + 7)), "the overlay is newer");
        view.forget_ids(3 * HOUR + HOUR / 2, HOUR);
        assert_eq!(view.shared().buckets.len(), 3, "hours 0 and 1 are older than half past two");
        view.flush().unwrap();
        assert_eq!(view.id(key(1), 0).unwrap(), None);
        assert_eq!(view.id(key(3), 3 * HOUR).unwrap(), Some(entry(3 * HOUR + 5)));
        assert_eq!(view.id(key(99), 0).unwrap(), Some(entry(4 * HOUR + 7)));
        view.forget_ids(100 * HOUR, HOUR);
        view.flush().unwrap();
        assert_eq!(view.shared().buckets.len(), 0);
        assert_eq!(view.id(key(99), 0).unwrap(), None);
        // What is out of the window already is not written any more.
        view.add(0, &[], &[(key(1), entry(5)), (key(2), entry(100 * HOUR))], at(10));
        view.flush().unwrap();
        assert_eq!(view.shared().buckets.len(), 1);
        assert_eq!(view.id(key(2), 100 * HOUR).unwrap(), Some(entry(100 * HOUR)));
    });
}

#[test]
fn what_cannot_be_is_left_out() {
    both(0, |view| {
        add(&view, "a", 5, 9);
        add(&view, "a", 7, 7);
        add(&view, "a", 9, 10);
        assert_eq!(offsets(&view, "a", newest(10)).0, [5, 6, 7, 8, 9, 10]);
        let room: Arc<str> = "b".into();
        view.add(2, &[Row { room: &room, offset: 1, prev: 0, place: b"" }], &[], at(1));
        assert_eq!((view.last("b").unwrap(), view.checkpoint(2)), (0, None));
        view.flush().unwrap();
        // Rows that were flushed once cannot come again: the checkpoint says so.
        add(&view, "a", 10, 11);
        assert!(matches!(view.flush(), Err(ViewError::Damaged(_))));
        assert!(view.overlay_bytes() > 0);
    });
}

#[test]
fn overlay_bytes_follow_what_is_added() {
    both(0, |view| {
        assert_eq!(view.overlay_bytes(), 0);
        add(&view, "a", 1, 100);
        let one = view.overlay_bytes();
        assert!(one >= 100 * 8);
        add(&view, "a", 101, 200);
        assert!(view.overlay_bytes() < 2 * one);
        let flushed = view.flush().unwrap();
        assert_eq!((flushed.rows, flushed.rooms, flushed.deferred), (200, 1, false));
        assert_eq!(view.overlay_bytes(), 0);
        assert_eq!(view.flush().unwrap(), Flushed::default());
        assert_eq!(view.checkpoint(0), Some(at(200)));
        assert_eq!(view.checkpoint(1), None);
    });
}

#[test]
fn readers_see_contiguous_rows_while_a_flush_writes() {
    both(5000, |view| {
        let (view, done) = (Arc::new(view), Arc::new(AtomicBool::new(false)));
        let seen = Arc::new(AtomicUsize::new(0));
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let (view, done, seen) = (view.clone(), done.clone(), seen.clone());
                thread::spawn(move || {
                    let mut position = 0;
                    while !done.load(Relaxed) {
                        let page = match reader {
                            0 => view.rows("a", forward(position, 300)).unwrap(),
                            1 => view.rows("a", newest(700)).unwrap(),
                            _ => view.rows("a", RowQuery { before: position + 1, ..newest(300) }).unwrap(),
                        };
                        let last = view.last("a").unwrap();
                        for pair in page.rows.windows(2) {
                            assert_eq!(pair[1].prev, pair[0].offset);
                        }
                        if let (Some(first), Some(end)) = (page.rows.first(), page.rows.last()) {
                            if reader == 0 && position >= page.floor {
                                assert_eq!(first.prev, position, "resumed with a gap");
                            }
                            assert!(last >= end.offset && first.prev >= page.floor);
                            position = end.offset;
                            seen.fetch_add(page.rows.len(), Relaxed);
                        } else if reader == 0 {
                            assert!(page.floor <= position.max(last));
                        }
                        if reader == 2 {
                            position = last;
                        }
                    }
                })
            })
            .collect();
        let flusher = {
            let (view, done) = (view.clone(), done.clone());
            thread::spawn(move || {
                while !done.load(Relaxed) {
                    view.flush().unwrap();
                }
            })
        };
        // A busy machine may let the readers wait: it goes on until they have seen something.
        let mut i = 0;
        while i < 3000 || seen.load(Relaxed) == 0 {
            add(&view, "a", i * 10 + 1, i * 10 + 10);
            i += 1;
        }
        done.store(true, Relaxed);
        readers.into_iter().for_each(|r| r.join().unwrap());
        flusher.join().unwrap();
        view.flush().unwrap();
        assert_eq!(view.last("a").unwrap(), i * 10);
    });
}

#[test]
fn what_was_flushed_is_there_again() {
    let dir = TempDir::new().unwrap();
    let view = open(&dir);
    assert!(view.was_rebuilt());
    let (secret, id) = (view.hash_key(), (MessageKey(5), entry(77)));
    add(&view, "a", 1, 600);
    view.add(1, &[], &[id], at(900));
    view.trim_below(0, 10).unwrap();
    view.flush().unwrap();
    add(&view, "a", 601, 700);
    drop(view);
    let view = open(&dir);
    assert!(!view.was_rebuilt());
    assert_eq!(view.hash_key(), secret);
    assert_eq!((view.checkpoint(0), view.checkpoint(1)), (Some(at(600)), Some(at(900))));
    assert_eq!(offsets(&view, "a", newest(1)), (vec![600], true, 9));
    assert_eq!((view.id(id.0, 0).unwrap(), view.rooms().unwrap()), (Some(id.1), 1));
    add(&view, "a", 601, 700);
    view.close().unwrap();
    drop(view);
    assert_eq!(open(&dir).last("a").unwrap(), 700);
}
