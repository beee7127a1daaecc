//! X22: the power fails.
//!
//! Elsewhere messages had been acknowledged before they were synced (nats-server#7564, #7594). XFS can be told to stop as if the power
//! had: what was not synced is gone, and the next mount finds what a disk would have.

use crate::publishers::{Publisher, holds};
use crate::{PATIENCE, ROOM, check, ready, wait_until};
use klatch_harness::checker::Expect;
use klatch_harness::client::{Client, Outcome};
use klatch_suite::Launch;
use klatch_suite::random::{Random, seed};
use klatch_suite::server::{stop, verify};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How many times the power fails; `KLATCH_POWER_CYCLES` says otherwise.
const CYCLES: u64 = 12;

/// A disk in a file.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "this test needs xfsprogs, loop devices and mounts: {command:?}: {said}");
}

impl Disk {
    fn new(dir: &Path) -> Disk {
        let disk = Disk { image: dir.join("image"), at: dir.join("disk") };
        std::fs::File::create(&disk.image).unwrap().set_len(400 << 20).unwrap();
        std::fs::create_dir(&disk.at).unwrap();
        run(Command::new("mkfs.xfs").arg("-q").arg(&disk.image));
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-t", "xfs", "-o", "loop"]).args([&self.image, &self.at]));
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(&self.at));
    }

    /// Nothing reaches it from now on, not even what waits in the file system's own log.
    fn cut_the_power(&self) {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may not be mounted.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

/// Stops every thread of a process in its tracks. A sync that is under way while XFS is told to stop may end well although nothing
/// was stored; with the power the process is gone too, and nobody hears of it.
fn freeze(process: u32) {
    let pid = Pid::from_raw(process as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = || {
        std::fs::read_dir(format!("/proc/{process}/task")).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    };
    wait_until("the server to stand still", stopped);
}

fn cycles() -> u64 {
    std::env::var("KLATCH_POWER_CYCLES").map_or(CYCLES, |n| n.parse().unwrap())
}

#[test]
fn x22_what_was_acknowledged_is_there_after_the_power_has_failed() {
    let seed = seed();
    println!("seed {seed} (set KLATCH_SEED to repeat the choices)");
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(dir.path());
    let data = disk.at.join("data");
    // Small segments, so that the power fails while one is made, too.
    let launch = Launch::new(&data).arg("--log-level").arg("warn").set("storage.segment_bytes", 64 << 10);
    // All of it is compared, and a quick machine publishes more than a room's history holds.
    let launch = launch.set("view.history_per_room", 0);
    let mut server = launch.start();
    let names = ["ann", "bob", "eve"];
    let mut publishers: Vec<Publisher> = names.iter().map(|name| Publisher::join(&server, name)).collect();
    let mut survived = 0;
    for cycle in 0..cycles() {
        let after = Duration::from_micros(random.below(1_500_000));
        std::thread::scope(|scope| {
            let poured: Vec<_> =
                publishers.iter_mut().map(|p| scope.spawn(|| p.pour(1_000_000, 300))).collect();
            // It is the moment that is wanted, no event.
            std::thread::sleep(after);
            freeze(server.id());
            disk.cut_the_power();
            server.kill().unwrap();
            assert!(poured.into_iter().all(|p| !p.join().unwrap()), "nobody felt it");
        });
        let unknown: usize = publishers.iter().map(Publisher::unknown).sum();
        disk.unmount();
        disk.mount();
        server = launch.start();
        assert_eq!(ready(&server), (200, "ready".into()), "{:?}", server.output());
        let stored: usize = publishers.iter().map(|p| p.stored().count()).sum();
        survived += holds(&server, &publishers, unknown).publications.len() - stored;
        for (publisher, name) in publishers.iter_mut().zip(names) {
            publisher.client.reconnect(Some(&server.url())).unwrap();
            // The newest that were acknowledged are known by their ids.
            let stored = publisher.outcomes.iter().rev();
            let newest: Vec<_> = stored
                .filter(|(_, o)| matches!(o, Outcome::Stored { .. }))
                .take(5)
                .map(|(n, o)| (*n, o.clone()))
                .collect();
            for (n, outcome) in newest {
                let Outcome::Stored { offset, .. } = outcome else { continue };
                let mut again = Client::connect(&server.url(), name).unwrap();
                again.set_timeout(PATIENCE);
                let data = format!("\"{}\"", "x".repeat(300));
                let again = again.publish(ROOM, &format!("{name}-{n}"), &data).unwrap();
                assert_eq!(again, Outcome::Stored { offset, duplicate: true }, "{name}-{n} in cycle {cycle}");
            }
            publisher.retry();
        }
    }
    println!("{survived} messages whose outcome nobody knew had been stored");
    assert!(publishers.iter_mut().all(|p| p.pour(20, 300)));
    let last = holds(&server, &publishers, 0).last;
    let logs: Vec<_> = publishers.into_iter().map(|p| p.into_log(last)).collect();
    check(&logs, &data, Expect { messages: cycles() * 10, resumes: cycles() * 3, ..Expect::default() });
    stop(server);
    assert!(verify(&data).status.success());
    disk.unmount();
}
