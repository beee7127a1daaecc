//! A topic that is given more partitions while everybody writes to it.

use crate::*;
use klatch_kafka_tests::expected::partition;
use klatch_kafka_tests::oracle::{Dump, Record};
use klatch_kafka_tests::writers::{Kind, Writer};
use klatch_suite::members::listen;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

const MORE: u32 = 24;

/// Who has written a record of another program, and the how-manieth of that one's in its room it is.
fn mark(value: &str) -> Option<(Kind, u64)> {
    let value: serde_json::Value = serde_json::from_str(value).ok()?;
    let kind = Kind::ALL.into_iter().find(|kind| value["from"] == format!("{kind:?}"))?;
    Some((kind, value["n"].as_u64()?))
}

/// Whose records are in the dump, and in which partition each.
fn written(dump: &Dump) -> Vec<(Kind, u32)> {
    let of = |r: &Record| Some((mark(r.value.as_ref()?.text()?)?.0, r.partition));
    dump.records.iter().filter_map(of).collect()
}

/// Tells that it is over when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn x18_partitions_that_are_added_under_load_move_no_room() {
    let world = World::new(Cluster::one().start());
    let ([a, b], urls) = two(&world);
    // Of some rooms the keys go elsewhere once there are more partitions.
    let rooms: Vec<String> = (0..9).map(|n| format!("room-{n}")).collect();
    let moved = rooms.iter().filter(|r| partition(r, PARTITIONS) != partition(r, MORE)).count();
    assert!((2..8).contains(&moved), "{moved} move");
    let live = urls.each_ref().map(|url| listen(url, &rooms, None));
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        // Also if something fails here.
        let ends = Ends(&done);
        let own = threads.spawn(|| {
            let mut ann = client(&urls[0], "ann");
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                for room in &rooms {
                    stored(&mut ann, room, &format!("m{n}"), &n.to_string());
                }
                n += 1;
            }
            ann
        });
        let mut writers: Vec<Writer> =
            Kind::ALL.into_iter().map(|kind| Writer::start(kind, &world.cluster, TOPIC)).collect();
        let mut round = 0;
        let mut write = |writers: &mut [Writer]| {
            for writer in writers {
                let kind = writer.kind();
                rooms.iter().for_each(|room| {
                    writer.write(room, &format!(r#"{{"from":"{kind:?}","n":{round}}}"#));
                });
            }
            round += 1;
            world.oracle.dump(TOPIC)
        };
        let until = Instant::now() + PATIENCE;
        // All of them write.
        loop {
            let there = written(&write(&mut writers));
            if Kind::ALL.iter().all(|kind| there.iter().any(|(k, _)| k == kind)) {
                break;
            }
            assert!(Instant::now() < until, "some do not write");
        }
        assert_eq!(world.expected().misplaced, 0);
        world.oracle.partitions(TOPIC, MORE);
        // All of them have noticed.
        let news = |dump: &Dump, kind| written(dump).iter().any(|(k, p)| *k == kind && *p >= PARTITIONS);
        loop {
            let dump = write(&mut writers);
            if Kind::ALL.iter().all(|kind| news(&dump, *kind)) {
                break;
            }
            assert!(Instant::now() < until, "some have not noticed the new partitions");
        }
        write(&mut writers);
        writers.into_iter().for_each(Writer::finish);
        drop(ends);
        drop(own.join().unwrap());
    });
    end(&urls[0], &rooms);

    let expected = world.expected();
    println!("{} records, {} misplaced", expected.log.records(), expected.misplaced);
    assert!(expected.misplaced > 0);
    for (live, (name, url)) in live.into_iter().zip(["a", "b"].iter().zip(&urls)) {
        let seen = live.join().unwrap();
        same(&format!("a member at {name}"), &seen, &expected.rooms);
        tells(name, url, &expected.rooms);
        // What each of them wrote comes in the order in which it did, and begins with its first.
        for (room, publications) in &seen {
            let mut last: HashMap<String, u64> = HashMap::new();
            for publication in publications {
                let publication: serde_json::Value = serde_json::from_str(publication).unwrap();
                let Some((kind, n)) = mark(&publication["data"].to_string()) else { continue };
                let before = last.insert(format!("{kind:?}"), n);
                assert!(before.map_or(n == 0, |before| before < n), "{room}: {kind:?}: {n} after {before:?}");
            }
            assert_eq!(last.len(), Kind::ALL.len(), "{room}");
        }
    }
    // What lies in the partitions that were added counts too.
    for node in [&a, &b] {
        until(|| metric(&node.url(), "klatch_kafka_misplaced_total") == expected.misplaced as u64);
    }
    // One that starts now finds the same.
    let c = world.node("c").start();
    tells("c", &c.url(), &expected.rooms);
}
