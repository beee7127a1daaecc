//! What an engine does to the process that it lives in: nothing that stays, and nothing that the host has not asked for.
#![allow(clippy::unwrap_used, clippy::panic)]

mod calls;
mod hooks;
mod life;
mod panics;
mod process;
mod starts;

use klatch::{Builder, Engine, Event, EventStream, NextEvent};
use klatch_suite::ws::{Got, Ws};
use serde_json::Value;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Longer than anything takes that is to happen.
const SOON: Duration = Duration::from_secs(20);
/// The time that a stop is given.
const SECONDS: Duration = Duration::from_secs(5);

/// An engine that listens.
fn on(log: &str) -> Builder {
    Engine::builder().log(log).listen("127.0.0.1:0")
}

struct Client(Ws);

impl Client {
    /// Connects with this query.
    fn connect(engine: &Engine, query: &str) -> Client {
        let headers = [("Sec-WebSocket-Protocol".to_owned(), "klatch.v1".to_owned())];
        let opened = Ws::open(engine.addresses()[0], &format!("/ws?{query}"), &headers, &[]);
        Client(opened.unwrap().unwrap().0)
    }

    fn send(&mut self, frame: Value) {
        self.0.text(&frame.to_string()).unwrap();
    }

    /// The next frame of a type; those before it are dropped.
    fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame: Value = serde_json::from_str(&self.0.next_text().unwrap()).unwrap();
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// The code with which the engine closes, none if it closes without; frames before it are dropped.
    fn closed(&mut self) -> Option<u16> {
        loop {
            match self.0.read().unwrap() {
                Got::Close(code, _) => {
                    self.0.finish(code);
                    return Some(code);
                }
                Got::End => return None,
                _ => {}
            }
        }
    }
}

/// Takes the events up to one that is waited for.
fn until(events: &EventStream, is_it: impl Fn(&Event) -> bool) {
    loop {
        match events.next_within(SOON) {
            NextEvent::Event(e) if is_it(&e) => return,
            NextEvent::Event(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Set in the process of a test that runs alone.
const ALONE: &str = "KLATCH_TEST_ALONE";

/// The exit code of one that does not end.
const HUNG: i32 = 9;

/// Runs a test in a process of its own: what is counted or changed there is not another test's. Outside of it: what was said there, on
/// the standard output and on the other.
fn alone(run: impl FnOnce()) -> Option<[String; 2]> {
    if std::env::var_os(ALONE).is_some() {
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            // It has hung, or whoever started it has gone.
            std::process::exit(HUNG);
        });
        run();
        return None;
    }
    let test = std::thread::current().name().unwrap().to_owned();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take();
    let (ended, has_ended) = channel::<()>();
    std::thread::spawn(move || {
        let _ = has_ended.recv_timeout(Duration::from_secs(300));
        drop(input);
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    let passed = output.status.success() && said[0].contains("1 passed");
    let hung = if output.status.code() == Some(HUNG) { " (it hung)" } else { "" };
    assert!(passed, "{test}: {}{hung}\n{}", output.status, said.concat());
    Some(said)
}

/// How many threads this process has.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// How many descriptors this process has open, without the one that looks.
fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Bytes of memory that this process has resident.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Waits until it is so. A thread that has been joined is seen in `/proc` for a moment more.
fn becomes<T: PartialEq + std::fmt::Debug>(expected: T, now: impl Fn() -> T) {
    let until = Instant::now() + SOON;
    while now() != expected {
        assert!(Instant::now() < until, "{:?}, not {expected:?}", now());
        std::thread::yield_now();
    }
}
