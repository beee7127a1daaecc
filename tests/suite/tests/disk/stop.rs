//! X23: the last sync of a stop fails.
//!
//! Elsewhere a clean close deleted the log although its fsync had failed (ArcadeData/arcadedb#4934).

use crate::publishers::{Publisher, holds};
use crate::{PATIENCE, check, wait_until};
use klatch_harness::checker::Expect;
use klatch_suite::server::{stop, verify};
use klatch_suite::strace::{Tracer, threads};
use klatch_suite::{Launch, files};

/// What fails while the server stops: the call, and the file of the log that it is on.
const FAULTS: &[(&str, &str)] = &[
    ("fdatasync,fsync:error=EIO", "00000000000000000001.log"),
    ("fdatasync,fsync:error=EIO", "synced.new"),
    ("pwrite64:error=EIO", "synced.new"),
    ("/^rename:error=EIO", "synced.new"),
    ("fsync,fdatasync:error=EIO", ""),
];

#[test]
fn x23_a_stop_whose_last_sync_fails_says_so_and_keeps_everything() {
    for (inject, file) in FAULTS {
        println!("{inject} of {file:?}");
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap();
        let mut server = Launch::new(&data).arg("--log-level").arg("warn").start();
        let mut publisher = Publisher::join(&server, "ann");
        assert!(publisher.pour(200, 500));
        let before = holds(&server, std::slice::from_ref(&publisher), 0);
        // It has written down how far it has synced: what is asked for now is the stop's alone.
        let note = data.join("synced");
        let noted = || std::fs::read(&note).is_ok_and(|b| b[36..44] == before.last.to_le_bytes());
        wait_until("the note of the last sync", noted);
        let kept = files::log_files(&data);
        if *file != "00000000000000000001.log" {
            // So that there is something to write down.
            assert!(publisher.pour(1, 500));
        }
        let path = data.join(file).display().to_string();
        let log = threads(server.id(), &["klatch-log"]);
        let tracer = Tracer::threads(&log, &["-e", &format!("inject={inject}"), "-P", &path]);
        let status = server.stop(PATIENCE).unwrap();
        let seen = tracer.ended();
        assert!(seen.iter().any(|l| l.contains("(INJECTED)")), "{seen:?}");
        assert_eq!(status.code(), Some(1), "{:?}", server.output());
        let said = "the engine did not stop well: storage_failed: the log's disk failed: cannot ";
        assert!(server.says(said, PATIENCE), "{:?}", server.output());

        let left = files::log_files(&data);
        for (name, bytes) in &kept {
            assert!(
                left.get(name).is_some_and(|b| name == "synced" || b.starts_with(bytes)),
                "{name} is gone"
            );
        }
        let server = Launch::new(&data).start();
        let after = holds(&server, std::slice::from_ref(&publisher), 0);
        assert_eq!(after.publications[..before.publications.len()], before.publications);
        publisher.client.reconnect(Some(&server.url())).unwrap();
        assert!(publisher.pour(20, 500));
        let last = holds(&server, std::slice::from_ref(&publisher), 0).last;
        check(&[publisher.into_log(last)], &data, Expect { messages: 220, ..Expect::default() });
        stop(server);
        assert!(verify(&data).status.success());
    }
}
