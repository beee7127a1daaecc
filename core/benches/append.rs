//! What the log adds to a bare write and fdatasync of the same bytes, by records per batch; and what opening costs.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use klatch::config::Storage;
use klatch::log::{Batch, Disk, Files, Log};
use klatch::message::Kind;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn fill(batch: &mut Batch, records: usize) {
    let data = format!("\"{}\"", "x".repeat(126));
    for n in 0..records {
        batch.push(Kind::Json, "lobby", "ann", &format!("m{n:08}"), data.as_bytes());
    }
}

/// Turns measured in one run.
const TURNS: usize = 400;

/// The log and the bare file by turns, so that both meet the same moods of the disk; the medians and their ratio.
fn by_turns(dir: &Path, records: usize) {
    let disk = Arc::new(Disk::open(dir).unwrap());
    let mut log = Log::open(disk, &Storage::default(), [1; 16], 0).unwrap();
    let file = File::create(dir.join("bare")).unwrap();
    let (mut batch, mut written, mut at) = (Batch::new(), Vec::new(), 0);
    let (mut of_log, mut of_bare) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let begun = Instant::now();
        fill(&mut batch, records);
        let bytes = vec![7; batch.bytes()];
        log.append(&mut batch, 0, &mut written).unwrap();
        of_log.push(begun.elapsed());
        written.clear();
        let begun = Instant::now();
        file.write_all_at(&bytes, at).unwrap();
        file.sync_data().unwrap();
        of_bare.push(begun.elapsed());
        at += bytes.len() as u64;
    }
    of_log.sort_unstable();
    of_bare.sort_unstable();
    let (log, bare) = (of_log[TURNS / 2], of_bare[TURNS / 2]);
    let ratio = log.as_secs_f64() / bare.as_secs_f64();
    println!(
        "append+sync by turns, {records} records: log {log:?}, bare {bare:?} (medians), ratio {ratio:.2}"
    );
}

fn append(c: &mut Criterion) {
    // On the disk that builds are on: temporary folders may be in memory.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut group = c.benchmark_group("append");
    for records in [1, 8, 64, 512] {
        let dir = tempfile::tempdir_in(folder).unwrap();
        by_turns(dir.path(), records);
        group.throughput(Throughput::Elements(records as u64));
        // The log's own work, without a disk.
        let mut log = Log::open(Arc::new(NoDisk), &Storage::default(), [1; 16], 0).unwrap();
        let (mut batch, mut written) = (Batch::new(), Vec::new());
        group.bench_function(BenchmarkId::new("without disk", records), |b| {
            b.iter(|| {
                fill(&mut batch, records);
                log.append(&mut batch, 0, &mut written).unwrap();
                written.clear();
            });
        });
    }
    group.finish();
}

/// Files that forget everything.
#[derive(Debug)]
struct NoDisk;

impl Files for NoDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }
    fn create(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn read_at(&self, _: &str, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn write_at(&self, _: &str, _: u64, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }
    fn sync_data(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

fn read(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = Arc::new(Disk::open(dir.path()).unwrap());
    let options = Storage::default();
    let mut log = Log::open(disk.clone(), &options, [1; 16], 0).unwrap();
    let (mut batch, mut written) = (Batch::new(), Vec::new());
    for _ in 0..2000 {
        fill(&mut batch, 512);
        log.append(&mut batch, 0, &mut written).unwrap();
        written.truncate(1);
    }
    let bytes = log.reader().scan(0).map(|b| b.unwrap().iter().map(|(_, p)| p.len as u64).sum::<u64>()).sum();
    log.close().unwrap();
    let mut group = c.benchmark_group("read");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    group.bench_function("open", |b| {
        b.iter(|| Log::open(disk.clone(), &options, [1; 16], 0).unwrap().next_sequence());
    });
    let reader = Log::open(disk.clone(), &options, [1; 16], 0).unwrap().reader();
    group.bench_function("scan", |b| b.iter(|| reader.scan(0).map(|b| b.unwrap().len()).sum::<usize>()));
    let (record, place) = written[0].clone();
    group.throughput(Throughput::Elements(1));
    group.bench_function("one record", |b| b.iter(|| reader.read(&place, record.offset()).unwrap()));
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
