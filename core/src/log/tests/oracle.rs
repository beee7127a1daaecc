//! The log's files as a program in another language reads them.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn oracle(dir: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle/read_log.py");
    let run = Command::new("python3").arg(script).arg(dir).output();
    run.expect("the tests need python3, which reads the log as an independent oracle")
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn check(value: &Value, record: &Record) {
    assert_eq!(value["offset"], record.offset());
    assert_eq!(value["time"], record.time());
    assert_eq!(value["room"], record.room());
    assert_eq!(value["user"], record.user());
    assert_eq!(value["id"], *record.id());
    assert_eq!(value["kind"], if record.kind() == Kind::Json { "json" } else { "binary" });
    assert_eq!(STANDARD.decode(value["data"].as_str().unwrap()).unwrap(), record.data_slice());
}

#[test]
fn the_oracle_reads_the_same_and_tells_damage() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::open(dir.path()).unwrap());
    let mut log = Log::open(disk, &small(4000), ID, 0).unwrap();
    let mut written = Vec::new();
    for n in 0..40 {
        written.extend(append(&mut log, n * 5, 1 + n % 5).unwrap());
    }
    let mut other = Batch::new();
    other.push(Kind::Json, "日本語 🎉", "änn", "m-🎉", "\"\\u0000 ☃\"".as_bytes());
    other.push(Kind::Binary, "r", "", "", &(0..=255).collect::<Vec<u8>>());
    log.append(&mut other, 9, &mut written).unwrap();
    log.close().unwrap();

    let output = oracle(dir.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = lines(&output);
    assert_eq!(read.len(), written.len());
    read.iter().zip(&written).for_each(|(value, (record, _))| check(value, record));

    // An incomplete end is passed over; damage is an error.
    let (last, place) = written.pop().unwrap();
    let file = dir.path().join(format!("{:020}.log", place.segment));
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let output = oracle(dir.path());
    assert!(output.status.success());
    assert_eq!(lines(&output).len() as u64, last.offset() - 2, "without the last batch, which has two");
    std::fs::write(&file, &bytes).unwrap();
    let first = dir.path().join(format!("{:020}.log", 1));
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    assert!(!oracle(dir.path()).status.success());
}
