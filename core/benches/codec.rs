//! The native protocol's hot paths: a publish decoded, a publication encoded.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use klatch::config::Limits;
use klatch::message::{Kind, Publication, Record};
use klatch::protocol::native::{decode, encode};
use std::hint::black_box;

/// Data of about `size` bytes: a line of text in an object, or many small fields.
fn data(size: usize, fields: bool) -> String {
    if fields {
        let field = r#"{"key":"some \n text","n":12345,"l":[1,2,3]}"#;
        format!("[{}]", vec![field; size / (field.len() + 1)].join(","))
    } else {
        format!(r#"{{"text":"{}"}}"#, "x".repeat(size - 11))
    }
}

fn codec(c: &mut Criterion) {
    let limits = Limits::default();
    for (name, data) in [
        ("128 B text", data(128, false)),
        ("4 KiB text", data(4096, false)),
        ("4 KiB fields", data(4096, true)),
    ] {
        let frame =
            format!(r#"{{"type":"publish","ref":4,"room":"lobby","id":"b5cf1e2a-4d1c","data":{data}}}"#);
        let mut group = c.benchmark_group("decode publish");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(name, |b| b.iter(|| decode(black_box(&frame), &limits).is_ok()));
        group.finish();

        let mut body = Vec::new();
        Record::encode(&mut body, Kind::Json, "lobby", "ann", "b5cf1e2a-4d1c", data.as_bytes());
        let publication = Publication {
            record: Record::trusted(123_456_789, 1_764_076_361_000, body.into()),
            prev: 123_456_788,
        };
        let mut out = Vec::with_capacity(8192);
        encode::publication(&mut out, &publication);
        let mut group = c.benchmark_group("encode publication");
        group.throughput(Throughput::Bytes(out.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                encode::publication(&mut out, black_box(&publication));
                out.len()
            })
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
