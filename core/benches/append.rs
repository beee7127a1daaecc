//! What the log adds to a bare write and fdatasync of the same bytes, by records per batch; and what opening costs.

#![allow(clippy::unwrap_used, missing_docs)]
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use klatch::config::Storage;
use klatch::log::{Batch, Disk, Log, Memory};
use klatch::message::Kind;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

fn fill(batch: &mut Batch, records: usize) {
    let data = format!("\"{}\"", "x".repeat(126));
    for n in 0..records {
        batch.push(Kind::Json, "lobby", "ann", &format!("m{n:08}"), data.as_bytes());
    }
}

fn append(c: &mut Criterion) {
    // On the disk that builds are on: temporary folders may be in memory.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut group = c.benchmark_group("append");
    for records in [1, 8, 64, 512] {
        let mut batch = Batch::new();
        fill(&mut batch, records);
        let bytes = vec![7; batch.bytes()];
        group.throughput(Throughput::Elements(records as u64));

        let dir = tempfile::tempdir_in(folder).unwrap();
        let disk = Arc::new(Disk::open(dir.path()).unwrap());
        let mut log = Log::open(disk, &Storage::default(), [1; 16], 0).unwrap();
        let mut written = Vec::new();
        group.bench_function(BenchmarkId::new("log", records), |b| {
            b.iter(|| {
                fill(&mut batch, records);
                log.append(&mut batch, 0, &mut written).unwrap();
                written.clear();
            });
            batch.clear();
        });

        let file = File::create(dir.path().join("bare")).unwrap();
        let mut at = 0;
        group.bench_function(BenchmarkId::new("bare", records), |b| {
            b.iter(|| {
                file.write_all_at(&bytes, at).unwrap();
                file.sync_data().unwrap();
                at += bytes.len() as u64;
            });
        });

        // Without a disk: the log's own work.
        group.bench_function(BenchmarkId::new("memory", records), |b| {
            b.iter_batched(
                || {
                    fill(&mut batch, records);
                    let log = Log::open(Arc::new(Memory::new()), &Storage::default(), [1; 16], 0).unwrap();
                    (log, std::mem::take(&mut batch))
                },
                |(mut log, mut batch)| {
                    log.append(&mut batch, 0, &mut written).unwrap();
                    written.clear();
                    (log, batch)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
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
