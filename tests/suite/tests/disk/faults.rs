//! R17: a call of the log fails.
//!
//! Elsewhere memory and disk disagreed after a failed fsync, and a second one "succeeded" for data that the system had dropped
//! (tursodatabase/turso#2091, neon#8140, clockworklabs/SpacetimeDB#985).

use crate::publishers::{Publisher, holds};
use crate::{PATIENCE, ROOM, check, ready};
use klatch_harness::checker::Expect;
use klatch_harness::client::{Client, Outcome};
use klatch_harness::process::Server;
use klatch_suite::history::get;
use klatch_suite::server::stop;
use klatch_suite::strace::{Tracer, threads};
use klatch_suite::{Launch, files};
use std::path::Path;

/// What an injected fault looks like in what strace says.
const INJECTED: &str = "(INJECTED)";
const SYNCS: &str = "fdatasync,fsync,sync_file_range,msync,sync,syncfs";
const RENAMES: &str = "/^rename";

/// A call that fails, and what is expected of it.
struct Fault {
    name: &'static str,
    /// What is injected, in strace's words.
    inject: &'static [&'static str],
    /// Only calls on this file of the log's directory; all of the log's thread if there is none.
    file: Option<&'static str>,
    /// Small segments, so that new ones are made all the time.
    small: bool,
}

const SEGMENT: Option<&str> = Some("00000000000000000001.log");

const FAULTS: &[Fault] = &[
    Fault {
        name: "the first sync",
        inject: &["fdatasync,fsync:error=EIO:when=1"],
        file: SEGMENT,
        small: false,
    },
    Fault {
        name: "the third sync",
        inject: &["fdatasync,fsync:error=EIO:when=3"],
        file: SEGMENT,
        small: false,
    },
    Fault {
        name: "the 50th sync",
        inject: &["fdatasync,fsync:error=EIO:when=50"],
        file: SEGMENT,
        small: false,
    },
    Fault {
        name: "a sync that finds the disk full",
        inject: &["fdatasync,fsync:error=ENOSPC:when=7"],
        file: SEGMENT,
        small: false,
    },
    Fault {
        name: "the first write",
        inject: &["pwrite64,write,pwritev,writev:error=EIO:when=1"],
        file: SEGMENT,
        small: false,
    },
    Fault {
        name: "the 50th write",
        inject: &["pwrite64,write,pwritev,writev:error=EIO:when=50"],
        file: SEGMENT,
        small: false,
    },
    Fault {
        name: "a write without room that cannot be cut back",
        inject: &["pwrite64:error=ENOSPC:when=20", "ftruncate:error=EIO"],
        file: SEGMENT,
        small: false,
    },
    Fault { name: "the note's rename", inject: &["/^rename:error=EIO:when=1"], file: None, small: false },
    Fault {
        name: "the note's write",
        inject: &["pwrite64:error=EIO:when=1"],
        file: Some("synced.new"),
        small: false,
    },
    Fault {
        name: "the note's sync",
        inject: &["fdatasync:error=EIO:when=1"],
        file: Some("synced.new"),
        small: false,
    },
    Fault { name: "the directory's sync", inject: &["fsync:error=EIO:when=1"], file: Some(""), small: false },
    Fault {
        name: "the fifth sync of any file",
        inject: &["fdatasync,fsync:error=EIO:when=5"],
        file: None,
        small: true,
    },
    Fault {
        name: "the 30th sync of any file",
        inject: &["fdatasync,fsync:error=EIO:when=30"],
        file: None,
        small: true,
    },
    Fault {
        name: "the 9th file that is opened",
        inject: &["openat:error=EIO:when=9"],
        file: None,
        small: true,
    },
    Fault {
        name: "the making of a segment",
        inject: &["fsync:error=EIO:when=4"],
        file: Some(""),
        small: true,
    },
];

impl Fault {
    /// Has it happen to a running server, from now on.
    fn arm(&self, server: &Server, data: &Path) -> Tracer {
        let data = data.canonicalize().unwrap();
        let mut args: Vec<String> = vec!["-s".into(), "8".into()];
        let mut traced = format!("{SYNCS},{RENAMES},pwrite64,ftruncate");
        for inject in self.inject {
            traced = format!("{traced},{}", inject.split(':').next().unwrap());
            args.extend(["-e".into(), format!("inject={inject}")]);
        }
        args.extend(["-e".into(), format!("trace={traced}")]);
        if let Some(file) = self.file {
            let path = if file.is_empty() { data } else { data.join(file) };
            args.extend(["-P".into(), path.display().to_string()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = threads(server.id(), &["klatch-log"]);
        assert_eq!(log.len(), 1);
        Tracer::threads(&log, &args)
    }
}

fn launch(data: &Path, small: bool) -> Launch {
    let launch = Launch::new(data).arg("--log-level").arg("warn");
    if small { launch.set("storage.segment_bytes", 64 << 10) } else { launch }
}

/// Three publishers until the fault stops them; then all that must hold until the log is opened again, and after.
fn fails(fault: &Fault, killed: bool) {
    println!("{}; killed: {killed}", fault.name);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let mut server = launch(data, fault.small).start();
    let mut publishers: Vec<Publisher> =
        ["ann", "bob", "eve"].iter().map(|name| Publisher::join(&server, name)).collect();
    assert!(publishers.iter_mut().all(|p| p.pour(20, 500)));
    let tracer = fault.arm(&server, data);
    let stopped = std::thread::scope(|scope| {
        let poured: Vec<_> = publishers.iter_mut().map(|p| scope.spawn(|| p.pour(20_000, 500))).collect();
        poured.into_iter().map(|p| p.join().unwrap()).all(|good| !good)
    });
    assert!(stopped, "the fault was never felt");
    let unknown: usize = publishers.iter().map(Publisher::unknown).sum();
    for publisher in &mut publishers {
        assert!(publisher.refusals().all(|e| e == "storage_failed"), "{:?}", publisher.outcomes);
        // And so it stays.
        for _ in 0..3 {
            match publisher.try_one() {
                Outcome::NotStored { error, later: false, .. } => assert_eq!(error, "storage_failed"),
                other => panic!("after the fault: {other:?}"),
            }
        }
    }
    assert_eq!(ready(&server), (503, "storage_failed".into()));
    assert_eq!(get(&server.url(), "/healthz").0, 200);
    // What was not synced is shown to nobody.
    let before = holds(&server, &publishers, 0);
    for publisher in &mut publishers {
        // A retry of what nobody knows is not answered from memory.
        assert!(!matches!(publisher.try_one(), Outcome::Stored { .. }));
    }

    if killed {
        server.kill().unwrap();
    } else {
        let status = server.stop(PATIENCE).unwrap();
        assert_eq!(status.code(), Some(1), "{:?}", server.output());
        assert!(
            server.says("the engine did not stop well: storage_failed", PATIENCE),
            "{:?}",
            server.output()
        );
    }
    let said = server.output();
    assert_eq!(said.iter().filter(|l| l.contains("the log takes no more records")).count(), 1, "{said:?}");
    let seen = tracer.ended();
    let hit = seen.iter().position(|l| l.contains(INJECTED)).unwrap_or_else(|| panic!("never: {seen:?}"));
    // On the log's thread the view may be let go, which syncs its own files; the log itself syncs data with `fdatasync`.
    let sync = if fault.file.is_some() { "sync(" } else { "fdatasync(" };
    let tried: Vec<_> = seen[hit..].iter().filter(|l| l.contains(sync) || l.contains("pwrite64(")).collect();
    let tried: Vec<_> = tried.into_iter().filter(|l| !l.contains(INJECTED)).collect();
    assert!(tried.is_empty(), "the log went on after {:?}: {tried:?}", seen[hit]);

    let server = launch(data, fault.small).start();
    assert_eq!(ready(&server), (200, "ready".into()));
    let after = holds(&server, &publishers, unknown);
    assert_eq!(after.publications[..before.publications.len()], before.publications);
    for publisher in &mut publishers {
        publisher.client.reconnect(Some(&server.url())).unwrap();
        println!("{} tried again", publisher.retry());
        assert!(publisher.pour(20, 500));
    }
    let last = holds(&server, &publishers, 0).last;
    let logs: Vec<_> = publishers.into_iter().map(|p| p.into_log(last)).collect();
    check(&logs, data, Expect { messages: 120, ..Expect::default() });
    stop(server);
    assert!(klatch_suite::server::verify(data).status.success());
}

#[test]
fn r17_after_a_fault_of_the_disk_nothing_is_stored_until_the_log_is_opened_again() {
    for (n, fault) in FAULTS.iter().enumerate() {
        fails(fault, n % 2 == 0);
    }
}

/// The view's files fail, and those of the log beside them do not: everything is stored and shown as before.
#[test]
fn r17_a_fault_of_the_views_files_harms_no_message() {
    // What is injected, and whether the view is written again once it is over, or built again at the next start.
    for (error, heals) in [("ENOSPC", true), ("EIO", false)] {
        println!("{error}");
        let dir = tempfile::tempdir().unwrap();
        let server = Launch::new(dir.path()).arg("--log-level").arg("info").start();
        let mut publishers: Vec<Publisher> =
            ["ann", "bob"].iter().map(|name| Publisher::join(&server, name)).collect();
        assert!(publishers.iter_mut().all(|p| p.pour(100, 500)));
        let view = threads(server.id(), &["klatch-view", "fjall:worker"]);
        assert_eq!(view.len(), 2);
        let calls = "write,pwrite64,writev,fdatasync,fsync,ftruncate,/^rename";
        let mut args = vec![format!("-etrace={calls}"), format!("-einject={calls}:error={error}")];
        let home = dir.path().canonicalize().unwrap().join("view");
        let journals =
            files::all_files(&home).into_iter().filter(|f| f.extension().is_some_and(|e| e == "jnl"));
        // The last is written to see whether there is room.
        let files = journals.chain([home.join("trial")]);
        args.extend(files.map(|f| format!("-P{}", f.display())));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let tracer = Tracer::threads(&view, &args);
        assert!(publishers.iter_mut().all(|p| p.pour(100, 500)));
        assert!(server.says("the view cannot be written", PATIENCE), "{:?}", server.output());
        assert!(publishers.iter_mut().all(|p| p.pour(100, 500)));
        assert_eq!(ready(&server), (200, "ready".into()));
        let before = holds(&server, &publishers, 0);
        assert_eq!(before.publications.len(), 600);
        assert_eq!(again(&server, 0), publishers[0].outcomes[&0]);
        assert!(tracer.detach().iter().any(|l| l.contains(INJECTED)));

        if heals {
            assert!(server.says("the view can be written again", PATIENCE), "{:?}", server.output());
        }
        assert!(publishers.iter_mut().all(|p| p.pour(100, 500)));
        assert_eq!(holds(&server, &publishers, 0).publications[..600], before.publications);
        stop(server);
        let server = Launch::new(dir.path()).arg("--log-level").arg("info").start();
        assert_eq!(
            server.says("the view cannot be used", std::time::Duration::ZERO),
            !heals,
            "{:?}",
            server.output()
        );
        let all = holds(&server, &publishers, 0);
        assert_eq!(all.publications[..600], before.publications);
        assert_eq!(again(&server, 0), publishers[0].outcomes[&0]);
        for publisher in &mut publishers {
            publisher.client.reconnect(Some(&server.url())).unwrap();
        }
        let logs: Vec<_> = publishers.into_iter().map(|p| p.into_log(all.last)).collect();
        check(&logs, dir.path(), Expect { messages: 800, ..Expect::default() });
        stop(server);
    }
}

/// What the server says of a message of ann's that is sent once more; as it was said the first time.
fn again(server: &Server, n: usize) -> Outcome {
    let data = format!("\"{}\"", "x".repeat(500));
    let mut client = Client::connect(&server.url(), "ann").unwrap();
    match client.publish(ROOM, &format!("ann-{n}"), &data).unwrap() {
        Outcome::Stored { offset, duplicate: true } => Outcome::Stored { offset, duplicate: false },
        other => panic!("{other:?}"),
    }
}
