//! What the view costs: adding and flushing, for each row, and reading the newest page.
//!
//! `cargo bench -p klatch --bench view`. The criterion figures are wall time of the threads that call; before them a
//! table tells the CPU time of the whole process (the store's background threads included) for each row; with `ROOMS=n` in the environment, for that number of rooms only.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use criterion::{Criterion, Throughput};
use klatch::config::ViewSettings;
use klatch::ids::MessageKey;
use klatch::view::{Checkpoint, IdEntry, Identity, Row, RowQuery, View};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BATCH: u64 = 512;
/// Batches between two flushes.
const BATCHES: u64 = 64;
const ME: Identity = Identity { log: [7; 16], partitions: 1 };

/// A tail: adds batches to rooms in turn.
struct Tail {
    view: View,
    rooms: Vec<Arc<str>>,
    last: Vec<u64>,
    sequence: u64,
    ids: bool,
    _dir: Option<TempDir>,
}

impl Tail {
    fn new(rooms: usize, ids: bool, disk: bool) -> Tail {
        let dir = TempDir::new().unwrap();
        let settings = ViewSettings::default();
        let view =
            if disk { View::open(dir.path(), ME, &settings).unwrap() } else { View::memory(ME, &settings) };
        let names = (0..rooms).map(|i| format!("room-{i:06}").into()).collect();
        Tail { view, rooms: names, last: vec![0; rooms], sequence: 0, ids, _dir: Some(dir) }
    }

    fn batch(&mut self) -> Duration {
        let place = [5u8; 16];
        let mut rows = Vec::with_capacity(BATCH as usize);
        let mut ids = Vec::new();
        for _ in 0..BATCH {
            self.sequence += 1;
            let room = (self.sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % self.rooms.len();
            let prev = std::mem::replace(&mut self.last[room], self.sequence);
            rows.push(Row { room: &self.rooms[room], offset: self.sequence, prev, place: &place });
            if self.ids {
                let key = u128::from(self.sequence).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
                let entry = IdEntry { offset: self.sequence, body: 1, time: 1 << 40 | self.sequence };
                ids.push((MessageKey(key), entry));
            }
        }
        let checkpoint = Checkpoint { sequence: self.sequence, check: 9 };
        let begin = Instant::now();
        self.view.add(0, &rows, &ids, checkpoint);
        begin.elapsed()
    }

    fn round(&mut self) -> (Duration, Duration) {
        let added = (0..BATCHES).map(|_| self.batch()).sum();
        let begin = Instant::now();
        self.view.flush().unwrap();
        (added, begin.elapsed())
    }
}

/// CPU time that the process and its threads have used, in user mode and in the kernel.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Counted in hundredths of a second on Linux.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn table() {
    println!("rows   rooms  ids    ns a row: add  flush   CPU of the process");
    for ids in [false, true] {
        for rooms in std::env::var("ROOMS").map_or(vec![1, 500, 10_000], |r| vec![r.parse().unwrap()]) {
            let mut tail = Tail::new(rooms, ids, true);
            let (mut add, mut flush) = (Duration::ZERO, Duration::ZERO);
            let rows = 40 * BATCH * BATCHES;
            let before = cpu();
            while tail.sequence < rows {
                let (a, f) = tail.round();
                add += a;
                flush += f;
            }
            tail.view.close().unwrap();
            let used = cpu() - before;
            let ns = |d: Duration| d.as_nanos() as u64 / rows;
            println!("{rows} {rooms:>6}  {ids:<5} {:>13} {:>6} {:>8}", ns(add), ns(flush), ns(used));
        }
    }
}

fn main() {
    if std::env::args().any(|a| a == "--bench") {
        table();
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("view/add and flush");
    group.throughput(Throughput::Elements(BATCH * BATCHES)).sample_size(20);
    for disk in [true, false] {
        for ids in [false, true] {
            for rooms in [1, 500, 10_000] {
                let store = if disk { "disk" } else { "memory" };
                let mut tail = Tail::new(rooms, ids, disk);
                let with = if ids { "with ids" } else { "without ids" };
                group.bench_function(format!("{store}, {rooms} rooms, {with}"), |b| b.iter(|| tail.round()));
            }
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("view/read");
    for rooms in [1, 500, 10_000] {
        let mut tail = Tail::new(rooms, true, true);
        for _ in 0..50 {
            tail.round();
        }
        let query = RowQuery { limit: 50, backward: true, ..RowQuery::default() };
        let mut room = 0;
        group.bench_function(format!("newest 50 of one of {rooms} rooms"), |b| {
            b.iter(|| {
                room = (room + 7) % rooms;
                black_box(tail.view.rows(&tail.rooms[room], query).unwrap())
            })
        });
        let mut key = 0u128;
        group.bench_function(format!("an id that is not there, {rooms} rooms"), |b| {
            b.iter(|| {
                key = key.wrapping_add(0x9E37_79B9_7F4A_7C15_1234_5678_9ABC_DEF1);
                black_box(tail.view.id(MessageKey(key), 0).unwrap())
            })
        });
    }
    group.finish();
}
