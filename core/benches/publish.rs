//! What a publish costs in this process, on the embedded log: throughput with 512 in flight, CPU a publish, and the ack's latency with
//! one in flight beside a bare synced append of the same bytes.
//!
//! `cargo bench -p klatch --bench publish [-- DIRECTORY]`. The directory's disk is what is measured; default: the system's temporary one.

#![allow(missing_docs, clippy::print_stdout)]

use klatch::{Engine, Message, Settings};
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const IN_FLIGHT: usize = 512;
const DATA: &str = r#"{"text":"hey, are we still on for tonight? I can bring the board game and some snacks, see you at eight, ok"}"#;

fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

fn engine(dir: &Path) -> Engine {
    let mut settings = Settings::default();
    settings.log = dir.display().to_string();
    settings.shards = 1;
    Engine::builder().settings(settings).start().expect("start")
}

fn message(rooms: usize, i: usize, ids: bool) -> Message {
    let m = Message::json(&format!("room-{}", i % rooms), DATA).user(&format!("user-{}", i % 97));
    if ids { m.id(&format!("m-{i}")) } else { m }
}

fn throughput(name: &str, dir: &Path, rooms: usize, ids: bool) {
    let dir = dir.join(name);
    let engine = engine(&dir);
    let count = 400_000;
    let (began, cpu_before) = (Instant::now(), cpu());
    let mut waiting = VecDeque::new();
    let mut i = 0;
    while i < count {
        // Refilled in halves, as a host does that publishes what it has gathered.
        let batch: Vec<_> = (i..(i + IN_FLIGHT / 2).min(count)).map(|i| message(rooms, i, ids)).collect();
        i += batch.len();
        waiting.extend(engine.publish_batch(batch));
        if waiting.len() >= IN_FLIGHT {
            // The last first: answers come in order, and one wake-up for all of them is what a host's event loop sees too.
            let done: Vec<_> = waiting.drain(..IN_FLIGHT / 2).collect();
            for p in done.into_iter().rev() {
                p.wait().expect("stored");
            }
        }
    }
    for p in waiting {
        p.wait().expect("stored");
    }
    let (took, used) = (began.elapsed(), cpu() - cpu_before);
    engine.stop(Duration::from_secs(60)).expect("stop");
    let all = cpu() - cpu_before;
    println!(
        "{name:24} {:8.0} publishes/s  {:5.2} us CPU/publish  ({:.2} with what the view did at stop)",
        count as f64 / took.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count as f64,
        all.as_secs_f64() * 1e6 / count as f64,
    );
}

fn percentiles(mut v: Vec<Duration>) -> String {
    v.sort_unstable();
    let p = |q: f64| v[((v.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e6;
    format!("p50 {:6.0}  p99 {:6.0}  max {:6.0} us", p(0.5), p(0.99), p(1.0))
}

fn latency(dir: &Path) {
    let engine = engine(&dir.join("latency"));
    let mut bare = File::create(dir.join("bare")).expect("create");
    let record = vec![b'x'; DATA.len() + 100];
    let (mut acks, mut appends) = (Vec::new(), Vec::new());
    for round in 0..40 {
        for i in 0..100 {
            let began = Instant::now();
            engine.publish(message(1, round * 100 + i, true)).wait().expect("stored");
            acks.push(began.elapsed());
        }
        for _ in 0..100 {
            let began = Instant::now();
            bare.write_all(&record).and_then(|()| bare.sync_data()).expect("append");
            appends.push(began.elapsed());
        }
    }
    println!("ack, 1 in flight         {}", percentiles(acks));
    println!("bare append + fdatasync  {}", percentiles(appends));
    engine.stop(Duration::from_secs(60)).expect("stop");
}

fn main() {
    let given = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let temporary = tempfile::Builder::new().prefix("klatch-bench").tempdir();
    let temporary = temporary.expect("a temporary directory");
    let dir = given.map_or_else(|| temporary.path().to_path_buf(), Into::into);
    throughput("1-room", &dir, 1, false);
    throughput("500-rooms", &dir, 500, false);
    throughput("500-rooms-ids", &dir, 500, true);
    throughput("10000-rooms-ids", &dir, 10_000, true);
    latency(&dir);
}
