//! What the real server makes of a log that was cut short or damaged, of a view that is not the log's, and of a second process.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use klatch_harness::client::{Client, JoinOptions, Outcome, Seen, Since};
use klatch_harness::target::encode;
use klatch_suite::Launch;
use klatch_suite::files::{self, Batch};
use klatch_suite::history::{self, History, get, history};
use klatch_suite::random::{Random, seed};
use klatch_suite::server::{stop, verify};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Publishes a JSON text `count` times, each after the last one's ack, so that each is a batch of its own.
fn publish(url: &str, room: &str, prefix: &str, count: usize, data: &str) -> Vec<u64> {
    let mut client = Client::connect(url, "ann").unwrap();
    (0..count)
        .map(|n| match client.publish(room, &format!("{prefix}{n}"), data).unwrap() {
            Outcome::Stored { offset, duplicate: false } => offset,
            other => panic!("{prefix}{n}: {other:?}"),
        })
        .collect()
}

fn offsets(history: &History) -> Vec<u64> {
    history.publications.iter().map(|p| history::offset(p)).collect()
}

/// In memory where there is such a place: hundreds of starts wait for the disk otherwise, and what is tested is what the files say.
fn quick_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The bytes after a crash while a batch was written may be missing, or there and still zero.
#[derive(Clone, Copy, Debug)]
enum Torn {
    Cut,
    Zeros,
}

#[test]
fn a_log_torn_at_any_byte_of_its_last_records_goes_on() {
    const KEPT: usize = 5;
    let room = "torn";
    let dirs = quick_dir();
    let (data, before, work) =
        (dirs.path().join("data"), dirs.path().join("before"), dirs.path().join("work"));
    let server = Launch::new(&data).start();
    publish(&server.url(), room, "kept", KEPT, "1");
    stop(server);
    files::copy(&data, &before);
    let server = Launch::new(&data).start();
    publish(&server.url(), room, "last", 3, "1");
    let whole = history(&server.url(), room, 500);
    stop(server);
    let [segment] = &files::segments(&data)[..] else { panic!("one segment") };
    let name = segment.file_name().unwrap();
    let bytes = fs::read(segment).unwrap();
    let batches = files::batches(&bytes);
    assert!(batches.iter().all(|b| b.count == 1) && batches.len() == KEPT + 3, "{batches:?}");

    let from = batches[KEPT].from;
    for at in from..bytes.len() {
        for torn in [Torn::Cut, Torn::Zeros] {
            let mut left = bytes[..at].to_vec();
            if matches!(torn, Torn::Zeros) {
                left.resize(bytes.len(), 0);
            }
            // A crash leaves the `synced` file of up to a second before, and the view of about that time. One that knows more
            // than the log is left by whoever puts back an older copy of the log.
            let _ = fs::remove_dir_all(&work);
            files::copy(if at % 2 == 0 { &data } else { &before }, &work);
            fs::copy(before.join("synced"), work.join("synced")).unwrap();
            fs::write(work.join(name), left).unwrap();
            let there = batches.iter().filter(|b| b.to <= at).count();
            goes_on(&work, room, &whole, there, &format!("{torn:?} at byte {at}"));
        }
    }
    println!("{} places", bytes.len() - from);
}

/// That the first records are there, that more can be published, and that all of it is there after another start.
fn goes_on(dir: &Path, room: &str, whole: &History, there: usize, what: &str) {
    let server = Launch::new(dir).start();
    let found = history(&server.url(), room, 500);
    assert_eq!(found.epoch, whole.epoch, "{what}");
    assert_eq!(found.publications, whole.publications[..there], "{what}");
    assert_eq!(get(&server.url(), "/readyz").0, 200, "{what}");
    let new = publish(&server.url(), room, "new", 10, "2");
    let all = history(&server.url(), room, 500);
    assert_eq!(all.publications[..there], found.publications, "{what}");
    assert_eq!(offsets(&all)[there..], new, "{what}");
    stop(server);
    let server = Launch::new(dir).start();
    assert_eq!(history(&server.url(), room, 500), all, "{what}");
    stop(server);
    let report = verify(dir);

    assert!(report.status.success(), "{what}: {report:?}");
}

/// A sound log of several segments with two rooms, and what the server said about them.
struct Sound {
    dir: TempDir,
    rooms: Vec<(&'static str, History)>,
}

const ROOMS: [&str; 2] = ["lobby", "a/b ü"];

fn launch(dir: &Path) -> Launch {
    Launch::new(dir).set("storage.segment_bytes", 64 << 10)
}

impl Sound {
    fn new() -> Sound {
        let dir = quick_dir();
        let server = launch(dir.path()).start();
        let data = format!("{{\"text\":\"{}\"}}", "x".repeat(4000));
        for n in 0..30 {
            for room in ROOMS {
                publish(&server.url(), room, &format!("old{n}-"), 1, &data);
            }
        }
        let rooms = ROOMS.map(|room| (room, history(&server.url(), room, 7))).to_vec();
        stop(server);
        assert!(files::segments(dir.path()).len() >= 4, "{:?}", files::segments(dir.path()));
        Sound { dir, rooms }
    }

    fn copy(&self) -> TempDir {
        let copy = quick_dir();
        files::copy(self.dir.path(), copy.path());
        copy
    }
}

#[test]
fn a_damaged_log_is_read_and_not_written_until_that_is_accepted() {
    let sound = Sound::new();
    let seed = seed();
    println!("seed {seed} (set KLATCH_SEED to repeat the choices)");
    let mut random = Random::new(seed);
    // A byte of a batch in the middle of the second segment.
    let damaged = sound.copy();
    let segment = &files::segments(damaged.path())[1];
    let mut bytes = fs::read(segment).unwrap();
    let batches = files::batches(&bytes);
    let bad = batches[batches.len() / 2];
    let at = bad.from + random.below((bad.to - bad.from) as u64) as usize;
    bytes[at] ^= 1 << random.below(8);
    fs::write(segment, bytes).unwrap();
    println!("byte {at} of {} is flipped, in {bad:?}", segment.display());

    let report = verify(damaged.path());
    let text = String::from_utf8(report.stdout).unwrap();
    assert_eq!(report.status.code(), Some(1), "{text}");
    let name = segment.file_name().unwrap().to_str().unwrap();
    let range = format!("{name} bytes {} to {}", bad.from, bad.to);
    assert!(text.contains(&range) && text.contains("DAMAGED"), "{range}: {text}");

    // Whether a view that was made before the damage is there or not.
    for keep_view in [true, false] {
        let copy = quick_dir();
        files::copy(damaged.path(), copy.path());
        if !keep_view {
            fs::remove_dir_all(copy.path().join("view")).unwrap();
        }
        println!("view kept: {keep_view}");
        read_only(&sound, copy.path(), bad);
        accepted(&sound, copy.path(), bad);
    }
}

/// A publication without its `prev`, which names a record that may be lost.
fn without_prev(publication: &str) -> serde_json::Value {
    let mut value: serde_json::Value = serde_json::from_str(publication).unwrap();
    value.as_object_mut().unwrap().remove("prev").unwrap();
    value
}

/// That what the server tells of each room is what it told when the log was sound, without what is lost.
fn sound_part(sound: &Sound, url: &str, lost: Batch) {
    for (room, old) in &sound.rooms {
        let old: Vec<_> = old
            .publications
            .iter()
            .filter(|p| history::offset(p) != lost.first)
            .map(|p| without_prev(p))
            .collect();
        for limit in [1, 7, 500] {
            let now = history(url, room, limit);
            let now: Vec<_> = now.publications.iter().map(|p| without_prev(p)).take(old.len()).collect();
            assert_eq!(now.len(), old.len(), "{room} by {limit}");
            assert!(now == old, "{room} by {limit}: other publications than before the damage");
        }
    }
}

fn read_only(sound: &Sound, dir: &Path, lost: Batch) {
    let before = files::log_files(dir);
    let server = launch(dir).start();
    assert_eq!(get(&server.url(), "/readyz"), (503, "log_damaged\n".into()));
    assert_eq!(get(&server.url(), "/healthz").0, 200);
    sound_part(sound, &server.url(), lost);

    // Members: with the newest history, from a position before the damage, and from the one that is lost.
    for (room, old) in &sound.rooms {
        let all: Vec<u64> = offsets(old).into_iter().filter(|o| *o != lost.first).collect();
        let mut starts = vec![(JoinOptions { history: 100, ..JoinOptions::default() }, 0)];
        for since in [0, all[3], lost.first - 1, lost.first] {
            let position = Since { epoch: old.epoch.clone(), offset: since };
            starts.push((JoinOptions { since: Some(position), ..JoinOptions::default() }, since));
        }
        for (options, since) in starts {
            let mut member = Client::connect(&server.url(), "bob").unwrap();
            assert!(member.join(room, options).unwrap(), "{room} since {since}: not recovered");
            let wanted: Vec<u64> = all.iter().copied().filter(|o| *o > since).collect();
            assert_eq!(received(&mut member, wanted.len()), wanted, "{room} since {since}");
        }
    }

    let mut client = Client::connect(&server.url(), "ann").unwrap();
    match client.publish(ROOMS[0], "refused", "1").unwrap() {
        Outcome::NotStored { error, later: false, .. } => assert_eq!(error, "log_damaged"),
        other => panic!("{other:?}"),
    }
    // What was stored is still told apart from what was not.
    let data = format!("{{\"text\":\"{}\"}}", "x".repeat(4000));
    assert!(matches!(
        client.publish(ROOMS[0], "old0-0", &data).unwrap(),
        Outcome::Stored { offset: 1, duplicate: true }
    ));
    for text in ["DAMAGED".to_owned(), format!("bytes {} to {}", lost.from, lost.to)] {
        let said = server.says(&text, Duration::from_secs(20));
        assert!(said, "{text} is not said in\n{}", server.output().join("\n"));
    }
    stop(server);
    assert!(files::log_files(dir) == before, "a damaged log was changed");
}

/// The offsets of so many publications.
fn received(member: &mut Client, count: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    while offsets.len() < count {
        let (seen, text) = member.take().unwrap();
        if let Seen::Publication { offset, .. } = seen {
            offsets.push(offset);
        } else {
            assert!(matches!(seen, Seen::Welcome | Seen::Joined { .. } | Seen::Other), "{text}");
        }
    }
    offsets
}

fn accepted(sound: &Sound, dir: &Path, lost: Batch) {
    let server = launch(dir).arg("--accept-damage").start();
    assert_eq!(get(&server.url(), "/readyz").0, 200);
    let newest = sound.rooms.iter().map(|(_, h)| h.last).max().unwrap();
    let new: Vec<Vec<u64>> = ROOMS.map(|room| publish(&server.url(), room, "new", 10, "1")).to_vec();
    assert!(new.iter().flatten().all(|offset| *offset > newest), "{new:?}");
    stop(server);
    // From now on without being told again.
    let server = launch(dir).start();
    assert_eq!(get(&server.url(), "/readyz").0, 200);
    sound_part(sound, &server.url(), lost);
    for ((room, old), new) in sound.rooms.iter().zip(new) {
        let all: Vec<u64> = offsets(old).into_iter().filter(|o| *o != lost.first).chain(new).collect();
        assert_eq!(offsets(&history(&server.url(), room, 500)), all);
    }
    stop(server);
    let report = verify(dir);
    let text = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.status.success() && text.contains("accepted damage"), "{text}");
}

/// All that the view answers: pages in both directions, the beginning of streams, and what an id stands for.
fn answers(url: &str) -> Vec<String> {
    let mut answers = Vec::new();
    let data = format!("{{\"text\":\"{}\"}}", "x".repeat(4000));
    for room in ROOMS {
        let all = history(url, room, 7);
        answers.push(format!("{all:?}"));
        for query in ["backward=true&limit=3", "backward=true&before=20&limit=3", "after=5&before=9"] {
            answers.push(get(url, &format!("/rooms/{}/history?{query}", encode(room))).1);
        }
        let since = Since { epoch: all.epoch.clone(), offset: 20 };
        for options in [
            JoinOptions { history: 10, ..JoinOptions::default() },
            JoinOptions { since: Some(since), ..JoinOptions::default() },
        ] {
            let mut member = Client::connect(url, "bob").unwrap();
            let recovered = member.join(room, options).unwrap();
            let first = loop {
                let (seen, text) = member.take().unwrap();
                if matches!(seen, Seen::Publication { .. }) {
                    break text;
                }
            };
            answers.push(format!("{recovered} {first}"));
        }
        let mut client = Client::connect(url, "ann").unwrap();
        for n in [0, 15, 29] {
            answers.push(format!("{:?}", client.publish(room, &format!("old{n}-0"), &data).unwrap()));
            answers.push(format!("{:?}", client.publish(room, &format!("old{n}-0"), "2").unwrap()));
        }
    }
    answers
}

#[test]
fn a_view_that_is_missing_damaged_or_not_the_logs_is_made_again() {
    let sound = Sound::new();
    let seed = seed();
    println!("seed {seed} (set KLATCH_SEED to repeat the choices)");
    let mut random = Random::new(seed);
    let server = launch(sound.dir.path()).start();
    let expected = answers(&server.url());
    assert!(
        expected.iter().any(|a| a.contains("duplicate: true"))
            && expected.iter().any(|a| a.contains("conflict"))
    );
    stop(server);
    let again = |dir: &TempDir, what: &str| {
        println!("{what}");
        let server = launch(dir.path()).start();
        assert!(answers(&server.url()) == expected, "{what}: other answers than with the view as it was");
        stop(server);
    };

    let copy = sound.copy();
    fs::remove_dir_all(copy.path().join("view")).unwrap();
    again(&copy, "no view");

    // Another log's: as old, and with the same rooms and offsets.
    let other = Sound::new();
    fs::remove_dir_all(copy.path().join("view")).unwrap();
    files::copy(&other.dir.path().join("view"), &copy.path().join("view"));
    again(&copy, "another log's view");

    // Garbage in one file at a time, and in all.
    let view = sound.dir.path().join("view");
    let names: Vec<_> =
        files::all_files(&view).iter().map(|p| p.strip_prefix(&view).unwrap().to_owned()).collect();
    assert!(names.len() > 2, "{names:?}");
    let mut sets: Vec<_> = names.iter().map(|name| vec![name.clone()]).collect();
    sets.push(names);
    for set in sets {
        for how in ["garbage", "a flipped bit", "half", "no file"] {
            let copy = sound.copy();
            for name in &set {
                let path = copy.path().join("view").join(name);
                if how == "no file" {
                    fs::remove_file(path).unwrap();
                    continue;
                }
                let mut bytes = fs::read(&path).unwrap();
                match how {
                    "garbage" => bytes = random.bytes(bytes.len()),
                    "half" => bytes.truncate(bytes.len() / 2),
                    _ if bytes.is_empty() => {}
                    _ => {
                        let at = random.below(bytes.len() as u64) as usize;
                        bytes[at] ^= 1 << random.below(8);
                    }
                }
                fs::write(&path, bytes).unwrap();
            }
            again(&copy, &format!("{how} in {set:?}"));
        }
    }
}

/// An older copy of the view is put back, and an older copy of the log under the newer view.
#[test]
fn a_view_that_is_older_or_newer_than_the_log_is_brought_up_to_it() {
    let sound = Sound::new();
    let (older, newer) = (sound.copy(), sound.copy());
    let server = launch(older.path()).start();
    let before = answers(&server.url());
    stop(server);
    let server = launch(newer.path()).start();
    let data = format!("{{\"text\":\"{}\"}}", "x".repeat(4000));
    for n in 30..60 {
        for room in ROOMS {
            publish(&server.url(), room, &format!("old{n}-"), 1, &data);
        }
    }
    let after = answers(&server.url());
    assert!(before != after);
    stop(server);
    let view = |dir: &TempDir| dir.path().join("view");
    for (what, log, other, expected) in
        [("an older view", &newer, &older, &after), ("a newer view", &older, &newer, &before)]
    {
        println!("{what}");
        let copy = quick_dir();
        files::copy(log.path(), copy.path());
        fs::remove_dir_all(view(&copy)).unwrap();
        files::copy(&view(other), &view(&copy));
        let server = launch(copy.path()).start();
        assert!(answers(&server.url()) == *expected, "{what}: other answers than with the log's own");
        // New offsets follow the log's own, whatever the view had seen.
        let last = history(&server.url(), ROOMS[0], 500).last;
        let new = publish(&server.url(), ROOMS[0], "new", 3, "1");
        assert!(new[0] > last);
        assert_eq!(offsets(&history(&server.url(), ROOMS[0], 500)).last(), new.last());
        stop(server);
    }
}

#[test]
fn a_second_process_is_refused_and_told_who_has_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let server = Launch::new(dir.path()).start();
    let refused = Launch::new(dir.path()).run();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("process {}", server.id())), "{said}");
    // The first one is none the worse for it, and a kill leaves no lock behind.
    publish(&server.url(), "r", "a", 1, "1");
    drop(server);
    let server = Launch::new(dir.path()).start();
    assert_eq!(history(&server.url(), "r", 10).publications.len(), 1);
    stop(server);
}
