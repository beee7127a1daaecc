//! Starts that fail.

use crate::{SECONDS, alone, becomes, files, threads};
use klatch::{Code, Engine, Settings};
use std::fs::File;

/// Descriptors run out at every place of a start in turn, until there are enough.
fn with_too_few_files(log: &str) {
    let start = || {
        let mut settings = Settings::default();
        settings.shards = 4;
        settings.log = log.into();
        settings.listen = vec!["127.0.0.1:0".into(), "127.0.0.1:0".into()];
        Engine::builder().settings(settings).start()
    };
    let threads_before = threads();
    // What libraries keep for the whole process is there from now on.
    start().unwrap().stop(SECONDS).unwrap();
    becomes(threads_before, threads);
    let files_before = files();
    let null = || File::open("/dev/null");
    let mut failed = Vec::new();
    for spare in 0.. {
        let mut hoard: Vec<File> = (0..spare).map(|_| null().unwrap()).collect();
        let kept = hoard.len();
        hoard.extend(std::iter::from_fn(|| null().ok()));
        hoard.drain(..kept);
        let started = start();
        drop(hoard);
        match started {
            Ok(engine) => {
                engine.stop(SECONDS).unwrap();
                break;
            }
            Err(e) => failed.push(e),
        }
        becomes((threads_before, files_before), || (threads(), files()));
    }
    assert!(failed.len() > 10, "{} starts failed", failed.len());
    // `storage_full` also says that no file may be opened.
    let expected = [Code::Internal, Code::DataDirUnusable, Code::AddressUnusable, Code::StorageFull];
    assert!(failed.iter().all(|e| expected.contains(&e.code())), "{failed:?}");
    // The directory is free again, and nothing is amiss with it.
    let engine = start().unwrap();
    engine.publish(klatch::Message::json("lobby", "1")).wait().unwrap();
    engine.stop(SECONDS).unwrap();
    becomes((threads_before, files_before), || (threads(), files()));
}

#[test]
fn a_failed_start_leaves_no_threads_and_no_files() {
    alone(|| with_too_few_files("memory"));
}

#[test]
fn a_failed_start_leaves_no_threads_and_no_files_with_a_log_on_disk() {
    alone(|| with_too_few_files(tempfile::tempdir().unwrap().path().to_str().unwrap()));
}
