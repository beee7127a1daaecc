//! What the log holds, read by a program in another language, is what every history page and every client got, byte for byte.

// Helpers of tests are not tests to clippy, so what it allows in those is said here.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use klatch_harness::checker::{self, Expect};
use klatch_harness::client::{Client, Outcome};
use klatch_harness::log::{Log, LogRecord};
use klatch_harness::replay::{self, Options};
use klatch_harness::segments;
use klatch_harness::wire::base64;
use klatch_suite::files::segments as segments_of;
use klatch_suite::members::{END, listen, pages, same};
use klatch_suite::senders::{ODD, odd_ones, twins};
use klatch_suite::server::stop;
use klatch_suite::{Launch, corpus, tests_dir};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

const MESSAGES: u64 = 6000;

/// A line of tests/oracle/read_log.py.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Line {
    offset: u64,
    time: u64,
    room: String,
    user: String,
    id: String,
    kind: String,
    /// The data in base64, whatever its kind.
    data: String,
}

fn oracle(dir: &Path) -> Vec<Line> {
    let script = tests_dir().join("oracle/read_log.py");
    let run = Command::new("python3").arg(script).arg(dir).output().expect("this test needs python3");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// What the harness' own reader makes of the same files, in the other one's words.
fn own_reader(dir: &Path) -> Vec<Line> {
    let line = |r: LogRecord| Line {
        id: if r.id.is_empty() { format!("~{}", r.offset) } else { r.id },
        kind: if r.binary { "binary" } else { "json" }.into(),
        data: if r.binary { r.data } else { base64(r.data.as_bytes()) },
        offset: r.offset,
        time: r.time,
        room: r.room,
        user: r.user,
    };
    segments::records(dir).unwrap().into_iter().map(line).collect()
}

/// The rule for duplicates on what the oracle read, and each room's publications as docs/protocol.md says they are written.
fn expected(lines: &[Line]) -> (Log, BTreeMap<String, Vec<String>>) {
    let mut log = Log::default();
    let texts: Vec<String> = lines.iter().map(data).collect();
    for (line, data) in lines.iter().zip(&texts) {
        let made = line.id.starts_with('~');
        log.push(LogRecord {
            offset: line.offset,
            time: line.time,
            room: line.room.clone(),
            user: line.user.clone(),
            id: if made { String::new() } else { line.id.clone() },
            binary: line.kind == "binary",
            data: data.clone(),
        });
    }
    let mut rooms: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut prev: HashMap<&str, u64> = HashMap::new();
    for (line, data) in lines.iter().zip(&texts) {
        if log.room(&line.room).unwrap().find(line.offset).is_none() {
            continue;
        }
        let text = |s: &str| serde_json::to_string(s).unwrap();
        let prev = prev.entry(&line.room).or_default();
        let user =
            if line.user.is_empty() { String::new() } else { format!(r#","user":{}"#, text(&line.user)) };
        let id =
            if line.id.starts_with('~') { String::new() } else { format!(r#","id":{}"#, text(&line.id)) };
        let data =
            if line.kind == "binary" { format!(r#""bytes":"{data}""#) } else { format!(r#""data":{data}"#) };
        rooms.entry(line.room.clone()).or_default().push(format!(
            r#"{{"type":"publication","room":{},"offset":{},"prev":{prev},"time":{}{user}{id},{data}}}"#,
            text(&line.room),
            line.offset,
            line.time,
        ));
        *prev = line.offset;
    }
    (log, rooms)
}

/// The data as it travels.
fn data(line: &Line) -> String {
    if line.kind == "binary" { line.data.clone() } else { String::from_utf8(decode(&line.data)).unwrap() }
}

fn decode(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> =
        text.bytes().filter_map(|b| DIGITS.iter().position(|d| *d == b)).map(|n| n as u32).collect();
    let word = |chunk: &[u32]| {
        let word = chunk.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - chunk.len()));
        word.to_be_bytes()[1..chunk.len()].to_vec()
    };
    digits.chunks(4).flat_map(word).collect()
}

#[test]
fn log_history_and_clients_are_the_same_byte_for_byte() {
    let data = tempfile::tempdir().unwrap();
    // Several segments.
    let launch = Launch::new(data.path()).set("storage.segment_bytes", 128 << 10);
    let server = launch.start();
    let url = server.url();
    let corpus = corpus().limited(MESSAGES);
    let mut rooms: Vec<String> = corpus.scripts.iter().map(|s| s.room.clone()).collect();
    rooms.push(ODD.to_owned());
    let live = listen(&url, &rooms, None);
    let twins = {
        let url = url.clone();
        std::thread::spawn(move || twins([&url, &url]))
    };
    let odd = odd_ones(&url);

    let options = Options {
        publish_rate: 0,
        drops_per_1000: 20,
        duplicate_every: 10,
        expect: Expect {
            messages: MESSAGES,
            deliveries: MESSAGES * 10,
            resumes: 50,
            duplicates: MESSAGES / 20,
            resets_at_most: Some(0),
            ..Expect::default()
        },
        ..Options::new(url.clone())
    };
    // The replay's clients are held against what the oracle read.
    let report =
        replay::run_with(corpus, &options, |_| (), |_| Ok(expected(&oracle(data.path())).0)).unwrap();
    println!("{report}");
    assert!(report.ok(), "{report}");

    let twins = twins.join().unwrap();
    let mut last = Client::connect(&url, "reader").unwrap();
    for room in &rooms {
        assert!(matches!(last.publish(room, END, "0").unwrap(), Outcome::Stored { .. }));
    }
    let live = live.join().unwrap();
    let lines = oracle(data.path());
    assert!(segments_of(data.path()).len() >= 3, "several segments");
    assert!(lines == own_reader(data.path()), "the two readers of the log differ");
    let (log, rooms_of_log) = expected(&lines);
    println!("{} records in {} rooms", lines.len(), rooms_of_log.len());
    same("a member that was there all the time", &live, &rooms_of_log);

    let others: Vec<_> = twins.into_iter().chain([odd, last]).map(Client::into_log).collect();
    let verdict = checker::check(&others, &log, &checker::Options::default());
    println!("twins and odd ones: {verdict}");
    assert!(verdict.ok(), "{verdict}");

    same("history by 500", &pages(&url, &rooms, 500), &rooms_of_log);
    same("history by 7", &pages(&url, &rooms, 7), &rooms_of_log);
    same("a member that reads all of it", &listen(&url, &rooms, Some(0)).join().unwrap(), &rooms_of_log);

    // And after a restart, with another view.
    stop(server);
    fs::remove_dir_all(data.path().join("view")).unwrap();
    let server = launch.start();
    assert!(oracle(data.path()) == lines, "a restart changed the log");
    same("history after a restart", &pages(&server.url(), &rooms, 500), &rooms_of_log);
    let again = listen(&server.url(), &rooms, Some(0)).join().unwrap();
    same("a member after a restart", &again, &rooms_of_log);
    stop(server);
}
