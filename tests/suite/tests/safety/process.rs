//! What belongs to the process: none of it is touched, and what changes of it under an engine changes nothing for it.

use crate::{Client, SECONDS, alone, on};
use klatch::{HistoryQuery, Message, Settings};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a library might change in passing.
fn of_the_process() -> Vec<String> {
    // This thread's: one that is just starting another has its signals blocked.
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/{file}")).unwrap();
    let wanted =
        ["Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "Cap", "NoNewPrivs", "Seccomp"];
    let status = read("status");
    let mut all: Vec<String> =
        status.lines().filter(|l| wanted.iter().any(|w| l.starts_with(w))).map(str::to_owned).collect();
    assert!(all.len() > wanted.len(), "{all:?}");
    all.extend(["limits", "oom_score_adj", "comm"].map(read));
    all.push(fs::read_to_string("/proc/self/coredump_filter").unwrap());
    all.push(std::env::current_dir().unwrap().display().to_string());
    all.extend(std::env::vars().map(|(name, value)| format!("{name}={value}")));
    let descriptors = [0, 1, 2].map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap());
    all.extend(descriptors.map(|to| to.display().to_string()));
    all
}

/// Nor does it print, or set a subscriber of `tracing`, or a panic hook: see also `panics.rs`.
#[test]
fn an_engine_changes_nothing_of_the_process_and_says_nothing() {
    let said = alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let before = of_the_process();
        for log in ["memory", dir.path().to_str().unwrap()] {
            let engine = on(log).start().unwrap();
            assert_eq!(of_the_process(), before);
            let mut client = Client::connect(&engine, "user=ann&room=lobby");
            client.next_of("joined");
            client.send(json!({"type": "publish", "room": "lobby", "data": 1}));
            client.next_of("publication");
            client.0.text("nonsense").unwrap();
            client.next_of("error");
            // Things worth a warning.
            assert!(on("redis://x").start().is_err());
            assert!(log == "memory" || on(log).start().is_err());
            assert_eq!(of_the_process(), before);
            engine.stop(SECONDS).unwrap();
            assert_eq!(of_the_process(), before);
        }
        assert!(!tracing::dispatcher::has_been_set(), "the host's to set");
    });
    if let Some([_, errors]) = said {
        assert_eq!(errors, "", "it has printed");
    }
}

/// The directory is where it was when the engine was started.
#[test]
fn a_relative_directory_stays_where_it_was() {
    alone(|| {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::env::set_current_dir(here.path()).unwrap();
        let mut settings = Settings::default();
        settings.log = "chat/log".into();
        settings.storage.segment_bytes = 64 << 10;
        settings.storage.retain_bytes = 640 << 10;
        let engine = klatch::Engine::builder().settings(settings.clone()).start().unwrap();
        std::env::set_current_dir(there.path()).unwrap();
        // Enough for new segments, for retention, and for a batch that is read back.
        let data = format!("\"{}\"", "x".repeat(30_000));
        for _ in 0..100 {
            engine.publish(Message::json("lobby", &data)).wait().unwrap();
        }
        let newest = HistoryQuery { backward: true, ..HistoryQuery::default() };
        assert!(!engine.history("lobby", newest).unwrap().publications.is_empty());
        engine.stop(SECONDS).unwrap();
        let names =
            |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names(there.path()), Vec::<std::ffi::OsString>::new());
        assert_eq!(names(here.path()), ["chat"]);
        settings.log = here.path().join("chat/log").to_str().unwrap().into();
        let again = klatch::Engine::builder().settings(settings).start().unwrap();
        assert_eq!(again.history("lobby", newest).unwrap().last, 100);
    });
}

/// A child that the host runs gets nothing of the engine: no descriptor of it is inherited.
#[test]
fn a_child_process_inherits_no_descriptor() {
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let list = || {
            let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
            String::from_utf8(listed.stdout).unwrap().lines().count()
        };
        let before = list();
        let engine = on(dir.path().to_str().unwrap()).start().unwrap();
        let mut client = Client::connect(&engine, "user=ann&room=lobby");
        client.next_of("joined");
        assert_eq!(list(), before);
    });
}
