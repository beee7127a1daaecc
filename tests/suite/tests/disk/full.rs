//! X21: the disk is full.
//!
//! Elsewhere the journal would not open again (Graylog2#2613, logstash#8098, scylladb#6653). Here the log and the view share the disk,
//! and each meets its end.

use crate::publishers::{Publisher, holds};
use crate::{PATIENCE, ROOM, check, ready, wait_until};
use klatch_harness::checker::Expect;
use klatch_harness::client::{Client, JoinOptions, Outcome, Seen, Since};
use klatch_harness::process::Server;
use klatch_suite::Launch;
use klatch_suite::history::{History, history};
use klatch_suite::server::{stop, verify};
use klatch_suite::ws::Ws;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A file system of its own in memory, gone with the test.
struct Tmpfs<'a>(&'a Path);

impl Tmpfs<'_> {
    fn mount<'a>(at: &'a Path, size: &str) -> Tmpfs<'a> {
        fs::create_dir_all(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "klatch-test"], at);
        Tmpfs(at)
    }

    fn resize(&self, size: &str) {
        run("mount", &["-o", &format!("remount,size={size}")], self.0);
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        // Whoever still has files open in it keeps it for as long.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn run(program: &str, args: &[&str], at: &Path) {
    let done = Command::new(program).args(args).arg(at).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "this test must be allowed to mount: {program} {args:?}: {said}");
}

fn launch(data: &Path) -> Launch {
    // Several segments, so that one is to be made where there is no room for it.
    Launch::new(data).arg("--log-level").arg("info").set("storage.segment_bytes", 1 << 20)
}

/// Publishes, large ones and then small ones, until nothing more fits and the server says so. A publisher that was refused may be wrong
/// a moment later: the view puts its files together, on the same disk, and gives room back.
fn fill(server: &Server, publishers: &mut [Publisher]) {
    wait_until("the disk to be full", || {
        for bytes in [4000, 1] {
            std::thread::scope(|scope| {
                let poured: Vec<_> =
                    publishers.iter_mut().map(|p| scope.spawn(|| while p.pour(100, bytes) {})).collect();
                poured.into_iter().for_each(|p| p.join().unwrap());
            });
        }
        for publisher in &mut *publishers {
            assert_eq!(publisher.unknown(), 0, "what does not fit is certainly not stored");
            assert!(publisher.refusals().all(|e| e == "storage_full"), "{:?}", publisher.outcomes);
        }
        ready(server) == (503, "storage_full".into())
    });
}

/// That history can be read, and a member can resume.
fn reads_go_on(server: &Server, publishers: &[Publisher]) -> History {
    let all = holds(server, publishers, 0);
    let mut member = Client::connect(&server.url(), "late").unwrap();
    member.set_timeout(PATIENCE);
    let from = all.publications.len() / 2;
    let since =
        Since { epoch: all.epoch.clone(), offset: klatch_suite::history::offset(&all.publications[from]) };
    assert!(member.join(ROOM, JoinOptions { since: Some(since), ..JoinOptions::default() }).unwrap());
    for expected in &all.publications[from + 1..] {
        let (offset, text) = loop {
            let (seen, text) = member.take().unwrap();
            if let Seen::Publication { offset, .. } = seen {
                break (offset, text);
            }
        };
        assert_eq!((offset, &text), (klatch_suite::history::offset(expected), expected));
    }
    all
}

/// Sends everything again that was not stored, which it now is.
fn goes_on(publishers: &mut [Publisher]) {
    for publisher in publishers {
        assert!(publisher.retry() > 0);
    }
}

#[test]
fn x21_a_full_disk_takes_no_message_and_goes_on_by_itself_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Tmpfs::mount(dir.path(), "8m");
    let data = dir.path().join("data");
    let ballast = [dir.path().join("first"), dir.path().join("second")];
    fs::write(&ballast[0], vec![1; 3 << 20]).unwrap();
    fs::write(&ballast[1], vec![1; 1 << 20]).unwrap();
    let server = launch(&data).start();
    let mut publishers: Vec<Publisher> =
        ["ann", "bob", "eve"].iter().map(|name| Publisher::join(&server, name)).collect();

    fill(&server, &mut publishers);
    reads_go_on(&server, &publishers);
    fs::remove_file(&ballast[0]).unwrap();
    // Nobody publishes: whoever asks before sending anything must be told.
    wait_until("the server to say that there is room", || ready(&server) == (200, "ready".into()));
    goes_on(&mut publishers);

    // Full again, also for the view, and now it is started anew.
    wait_until("the view to find no room either", || {
        fill(&server, &mut publishers);
        server.says("the view cannot be written", Duration::from_secs(2))
    });
    let before = reads_go_on(&server, &publishers);
    let mut server = server;
    server.kill().unwrap();
    let mut server = launch(&data).start();
    assert_eq!(reads_go_on(&server, &publishers), before);
    for publisher in &mut publishers {
        publisher.client.reconnect(Some(&server.url())).unwrap();
    }
    fill(&server, &mut publishers);
    // What was stored is known, by its id.
    let first: Vec<_> = publishers.iter().map(|p| p.outcomes[&0].clone()).collect();
    for (name, outcome) in ["ann", "bob", "eve"].iter().zip(&first) {
        let Outcome::Stored { offset, .. } = *outcome else { panic!("{outcome:?}") };
        let again = Client::connect(&server.url(), name).unwrap().publish(
            ROOM,
            &format!("{name}-0"),
            &format!("\"{}\"", "x".repeat(4000)),
        );
        assert_eq!(again.unwrap(), Outcome::Stored { offset, duplicate: true });
    }
    // A stop does what it can, and the next start is as good.
    let status = server.stop(PATIENCE).unwrap();
    println!("the stop on a full disk: {status}");
    let server = launch(&data).start();
    for publisher in &mut publishers {
        publisher.client.reconnect(Some(&server.url())).unwrap();
    }
    assert_eq!(
        reads_go_on(&server, &publishers).publications[..before.publications.len()],
        before.publications
    );

    fs::remove_file(&ballast[1]).unwrap();
    goes_on(&mut publishers);
    assert!(publishers.iter_mut().all(|p| p.pour(20, 500)));
    assert_eq!(ready(&server), (200, "ready".into()));
    let last = reads_go_on(&server, &publishers).last;
    let logs: Vec<_> = publishers.into_iter().map(|p| p.into_log(last)).collect();
    check(&logs, &data, Expect { messages: 1000, ..Expect::default() });
    stop(server);
    assert!(verify(&data).status.success());
    drop(mount);
}

/// A message in a room of its own with a long name.
fn publish(n: usize) -> String {
    format!(r#"{{"type":"publish","ref":{n},"room":"{n:0>120}","id":"{n}","data":1}}"#)
}

/// Publishes that each take their part of what the view keeps in memory, until one is refused. How many are stored, and the errors.
fn fill_view(client: &mut Ws, from: usize, count: usize) -> (usize, Vec<String>) {
    let (mut sent, mut stored, mut errors) = (0, 0, Vec::new());
    while stored + errors.len() < sent || (errors.is_empty() && sent < count) {
        while errors.is_empty() && sent < count && sent - stored < 400 {
            client.text(&publish(from + sent)).unwrap();
            sent += 1;
        }
        let answer = client.next_text().unwrap();
        if answer.starts_with(r#"{"type":"ack""#) {
            stored += 1;
        } else {
            let error: serde_json::Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(error["outcome"], "not_stored", "{answer}");
            errors.push(error["name"].as_str().unwrap().to_owned());
        }
    }
    (stored, errors)
}

/// The log's disk has room and the view's has not: publishes go on for as long as memory may hold what the view cannot write, and
/// again once it can.
#[test]
fn x21_a_view_without_room_is_written_once_there_is_some() {
    for (size, what) in [("16k", "no room for the view"), ("400k", "the view cannot be written")] {
        println!("{size}");
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let view = data.join("view");
        let mount = Tmpfs::mount(&view, size);
        let server = launch(&data).start();
        let mut client = Ws::open(server.address(), "/ws?user=ann", &[], b"").unwrap().unwrap().0;
        assert!(client.next_text().unwrap().contains("welcome"));
        let mut publisher = Publisher::join(&server, "bob");
        assert!(publisher.pour(200, 100));
        let (stored, errors) = fill_view(&mut client, 0, 200_000);
        assert!(server.says(what, PATIENCE), "{:?}", server.output());
        println!("{stored} stored, {} refused", errors.len());
        assert!(stored > 20_000 && !errors.is_empty(), "{stored} stored");
        assert!(errors.iter().all(|e| e == "storage_full"), "{errors:?}");
        assert_eq!(ready(&server), (503, "storage_full".into()));
        assert_eq!(history(&server.url(), &format!("{:0>120}", stored - 1), 10).publications.len(), 1);
        let before = holds(&server, std::slice::from_ref(&publisher), 0);

        mount.resize("200m");
        wait_until("the server to say that there is room", || ready(&server) == (200, "ready".into()));
        assert!(server.says("the view can be written again", PATIENCE), "{:?}", server.output());
        assert_eq!(holds(&server, std::slice::from_ref(&publisher), 0), before);
        let (more, errors) = fill_view(&mut client, 300_000, 1000);
        assert_eq!((more, errors.len()), (1000, 0));
        assert!(publisher.pour(200, 100));
        // Each is where it was, from the disk now.
        for n in [0, stored / 2, stored - 1, 300_000, 300_999] {
            assert_eq!(history(&server.url(), &format!("{n:0>120}"), 10).publications.len(), 1, "{n}");
            client.text(&publish(n)).unwrap();
            let again = client.next_text().unwrap();
            assert!(again.contains(r#""duplicate":true"#), "{n}: {again}");
        }
        let last = holds(&server, std::slice::from_ref(&publisher), 0).last;
        stop(server);
        // The view was closed well: it is not read again from the log.
        let server = launch(&data).start();
        assert!(
            !server.output().iter().any(|l| l.contains("has read what it lacked")),
            "{:?}",
            server.output()
        );
        assert_eq!(history(&server.url(), ROOM, 500).last, last);
        stop(server);
        drop(mount);
    }
}
