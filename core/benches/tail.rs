//! The tail and the hub without a disk: from records that are durable to batches at the shards.
//!
//! `cargo bench -p klatch --bench tail`. Each figure is a batch of 512 records; divide by 512 for one.

#![allow(missing_docs)]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use klatch::Settings;
use klatch::broker::append::{ConnectionKey, Reply};
use klatch::broker::tail::{Origin, Tail, checkpoint};
use klatch::message::{Kind, Record};
use klatch::metrics::Metrics;
use klatch::room::hub::{Accepted, Hub, RoomBatch, RoomKey, ShardPort};
use klatch::view::{Identity, View};
use std::hint::black_box;
use std::sync::Arc;

const BATCH: u64 = 512;
const DATA: &[u8] =
    br#"{"text":"hey, are we still on for tonight? I can bring the board game and some snacks, see you at eight, ok"}"#;

/// A shard that throws everything away.
#[derive(Debug)]
struct Nowhere;

impl ShardPort for Nowhere {
    fn reconnect(&self, _: Option<Vec<RoomKey>>) {}

    fn deliver(&self, batches: &mut Vec<RoomBatch>, replies: &mut Vec<Reply>) {
        black_box(&batches);
        batches.clear();
        replies.clear();
    }
    fn waiting(&self) -> usize {
        0
    }
    fn presence(&self, _: RoomKey, _: Bytes) {}
    fn signal(&self, _: RoomKey, _: Option<ConnectionKey>, _: Bytes) {}
}

fn hub(rooms: u64, shards: u32) -> (Arc<View>, Arc<Hub>) {
    let settings = Settings::default();
    let view = Arc::new(View::memory(Identity { log: [1; 16], partitions: 1 }, &settings.view));
    let hub = Arc::new(Hub::new(view.clone(), &settings.limits, Arc::new(Metrics::default())));
    hub.set_ports((0..shards).map(|_| Arc::new(Nowhere) as Arc<dyn ShardPort>).collect());
    for r in 0..rooms {
        for s in 0..shards {
            let key = RoomKey { slot: r as u32, generation: 0 };
            hub.route(&name(r).into(), s, key).expect("route");
        }
    }
    (view, hub)
}

fn name(room: u64) -> String {
    format!("room-{room}")
}

fn records(from: u64, rooms: u64, ids: bool) -> Vec<(Record, [u8; 16])> {
    (from..from + BATCH)
        .map(|offset| {
            let id = if ids { format!("m-{offset}") } else { String::new() };
            let mut body = Vec::new();
            Record::encode(&mut body, Kind::Json, &name(offset % rooms), "user-1", &id, DATA);
            (Record::trusted(offset, 1_764_000_000_000 + offset, body.into()), [0; 16])
        })
        .collect()
}

fn tail(c: &mut Criterion) {
    let mut group = c.benchmark_group("tail");
    group.throughput(Throughput::Elements(BATCH));
    for (label, rooms, ids) in
        [("1 room", 1, false), ("500 rooms", 500, false), ("500 rooms, ids", 500, true)]
    {
        let (view, hub) = hub(rooms, 1);
        let tail = Tail::new(0, [1; 16], 0, view.clone(), hub, &Settings::default(), Arc::default());
        let mut next = 1;
        group.bench_function(label, |b| {
            b.iter_batched(
                || {
                    view.flush().expect("flush");
                    next += BATCH;
                    records(next - BATCH, rooms, ids)
                },
                |records| {
                    let last = checkpoint(&records.last().expect("a batch").0);
                    let origins = std::iter::repeat_n(Origin::Read, records.len());
                    tail.accept(&records, origins, last).expect("accept");
                },
                BatchSize::PerIteration,
            );
        });
    }
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("hub");
    group.throughput(Throughput::Elements(BATCH));
    for (label, rooms, shards) in
        [("1 room, 1 shard", 1, 1), ("500 rooms, 1 shard", 500, 1), ("500 rooms, 8 shards", 500, 8)]
    {
        let (_, hub) = hub(rooms, shards);
        let mut next = 1;
        group.bench_function(label, |b| {
            b.iter_batched(
                || {
                    next += BATCH;
                    let accepted = |(r, _): (Record, _)| {
                        let room = r.room().into();
                        Accepted::new(r, room)
                    };
                    records(next - BATCH, rooms, false).into_iter().map(accepted).collect::<Vec<_>>()
                },
                |mut batch| {
                    hub.place(&mut batch).expect("place");
                    assert!(hub.publish(&batch, Vec::new()).is_empty(), "nobody waits for it");
                },
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, tail, fan_out);
criterion_main!(benches);
