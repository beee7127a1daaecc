//! What a message costs through klatch.h, beside the same work through the Rust API: a C program and this one take turns.
//!
//! `cargo bench -p klatch-ffi --bench compare [-- ROUNDS [MODE]]`. All of it in memory, on one thread, so that nothing but the calls is measured. Prints
//! nanoseconds a message, each the median of the rounds, and the median of the rounds' ratios with their range.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use klatch::{Engine, Message, NextEvent, Settings, Start};
use klatch_suite::ws::Ws;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DATA: &str = r#"{"text":"hey, are we still on for tonight? I can bring the board game and some snacks, see you at eight, ok"}"#;
const PATIENCE: Duration = Duration::from_secs(10);
const MODES: &[(&str, usize)] = &[
    ("publish_wait", 200_192),
    ("publish_then", 200_192),
    ("publish_batch", 200_192),
    ("read", 102_400),
    ("events", 40_000),
];

/// Everything in memory, and no bound in the way.
fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.log = "memory".into();
    settings.listen = vec!["127.0.0.1:0".into()];
    settings.shards = 1;
    settings.view.history_per_room = 1000;
    settings.limits.event_queue = 1_000_000;
    settings.limits.subscription_bytes = 1 << 30;
    settings.limits.request_rate = 0;
    settings
}

fn message() -> Message {
    Message::json("lobby", DATA).user("ann")
}

fn batch(engine: &Engine) {
    for publishing in engine.publish_batch((0..256).map(|_| message()).collect()) {
        assert!(publishing.wait_within(PATIENCE).unwrap().position.offset > 0);
    }
}

fn publishing(count: usize, mut publish: impl FnMut(usize)) -> f64 {
    (0..count / 8).for_each(&mut publish);
    let began = Instant::now();
    (0..count).for_each(&mut publish);
    began.elapsed().as_nanos() as f64 / count as f64
}

fn reading(engine: &Engine, count: usize) -> f64 {
    let mut subscription = engine.subscribe("lobby", Start::Live).unwrap();
    (0..count / 256).for_each(|_| batch(engine));
    let (mut bytes, mut seen) = (0, 0);
    let began = Instant::now();
    while seen < count {
        let publications = subscription.next_batch(64, PATIENCE).unwrap();
        for p in &publications {
            bytes += p.room().len() + p.user().len() + p.id().len() + p.data().len() + p.offset() as usize;
        }
        seen += publications.len();
    }
    let took = began.elapsed().as_nanos() as f64;
    black_box(bytes);
    took / seen as f64
}

fn events(engine: &Engine, count: usize) -> f64 {
    let stream = engine.events();
    println!("{}", engine.addresses()[0].port());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let mut bytes = 0;
    let began = Instant::now();
    for _ in 0..count {
        match stream.next_within(PATIENCE) {
            NextEvent::Event(
                klatch::Event::Joined { connection, user, room }
                | klatch::Event::Left { connection, user, room },
            ) => {
                bytes += connection.len() + user.len() + room.len();
            }
            other => drop(black_box(other)),
        }
    }
    let took = began.elapsed().as_nanos() as f64;
    black_box(bytes);
    took / count as f64
}

/// The work in Rust.
fn work(mode: &str, count: usize, settings: &str) -> f64 {
    let settings = Settings::from_json(settings).unwrap();
    let engine = Engine::builder().settings(settings).start().unwrap();
    let wait = |_| assert!(engine.publish(message()).wait_within(PATIENCE).unwrap().position.offset > 0);
    let then = |_| engine.publish(message()).then(|ack| assert!(ack.unwrap().position.offset > 0));
    let several = |i: usize| {
        if i.is_multiple_of(256) {
            batch(&engine);
        }
    };
    let ns = match mode {
        "publish_wait" => publishing(count, wait),
        "publish_then" => publishing(count, then),
        "publish_batch" => publishing(count, several),
        "read" => reading(&engine, count),
        _ => events(&engine, count),
    };
    engine.stop(PATIENCE).unwrap();
    ns
}

/// Runs a program once; what a message cost it.
fn measure(command: &mut Command, mode: &str, count: usize) -> f64 {
    let json = serde_json::to_string(&settings()).unwrap();
    command.args([mode, &count.to_string(), &json]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    if mode == "events" {
        output.read_line(&mut line).unwrap();
        let address = format!("127.0.0.1:{}", line.trim()).parse().unwrap();
        let mut client = Ws::open(address, "/ws?user=ann", &[], &[]).unwrap().unwrap().0;
        // One event has come already.
        for n in 0..count / 2 {
            client.text(&format!(r#"{{"type":"join","room":"room-{}","ref":1}}"#, n % 10)).unwrap();
            client.text(&format!(r#"{{"type":"leave","room":"room-{}","ref":2}}"#, n % 10)).unwrap();
            while !client.next_text().unwrap().contains(r#""ref":2"#) {}
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        line.clear();
        output.read_line(&mut line).unwrap();
    } else {
        output.read_line(&mut line).unwrap();
    }
    assert!(child.wait().unwrap().success());
    line.trim().parse().unwrap()
}

/// Compiles the C program, with the library that was built with this.
fn compile(dir: &Path) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = std::env::current_exe().unwrap().parent().unwrap().join("libklatch_c.so");
    for name in ["libklatch.so", "libklatch.so.0"] {
        std::os::unix::fs::symlink(&library, dir.join(name)).unwrap();
    }
    let program = dir.join("compare");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(here.join("../include"));
    cc.arg(here.join("benches/compare.c")).arg("-o").arg(&program).arg("-L").arg(dir);
    cc.arg(format!("-Wl,-rpath,{}", dir.display())).arg("-lklatch");
    assert!(cc.status().unwrap().success());
    program
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [mode, count, settings] = &args[..] {
        return println!("{:.1}", work(mode, count.parse().unwrap(), settings));
    }
    let rounds: usize = args.first().map_or(7, |n| n.parse().expect("a number of rounds"));
    let dir = tempfile::tempdir().unwrap();
    let (c, rust) = (compile(dir.path()), std::env::current_exe().unwrap());
    println!("| | Rust, ns | C, ns | C to Rust |\n| --- | --- | --- | --- |");
    for (mode, count) in MODES.iter().filter(|m| args.get(1).is_none_or(|only| only == m.0)) {
        let (mut in_rust, mut in_c, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let run = |which: &Path| measure(&mut Command::new(which), mode, *count);
            // Who goes first takes turns too.
            let (r, c) = if round % 2 == 0 {
                let r = run(&rust);
                (r, run(&c))
            } else {
                let c = run(&c);
                (run(&rust), c)
            };
            in_rust.push(r);
            in_c.push(c);
            ratios.push(c / r);
        }
        let ratio = median(&mut ratios);
        println!(
            "| {mode} | {:.0} | {:.0} | {ratio:.2} ({:.2}-{:.2}) |",
            median(&mut in_rust),
            median(&mut in_c),
            ratios[0],
            ratios[ratios.len() - 1],
        );
    }
}
