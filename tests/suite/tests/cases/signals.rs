//! SIGPIPE: a library must not raise it in its host.

use crate::{Victim, all, dial};
use klatch::Engine;
use klatch_suite::strace::Tracer;
use std::io::Write;
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A library that ended its host by SIGPIPE (tokio-rs/mio#577, z-galaxy/zbus#1657, xroche/httrack#1689).
///
/// The server ignores the signal, as all Rust programs do, but a tracer sees it even so.
#[test]
fn r22_no_sigpipe_is_raised() {
    let victim = Victim::start(|l| l);
    let tracer = Tracer::attach(victim.server.id(), &["-e", "trace=none", "-e", "signal=SIGPIPE"]);
    let mut publisher = victim.guest("user=publisher&room=lobby");
    publisher.next_of("joined");
    for n in 0..100 {
        publisher.publish(&format!("h{n}"), &format!("\"{}\"", "a".repeat(2000)));
        publisher.next_of("publication");
    }
    // 500 clients that end with a reset while they are answered, half of them after they have said that no more comes.
    for n in 0..500 {
        let mut io = dial(victim.address());
        let request = "GET /rooms/lobby/history?limit=100 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1 + n % 4);
        io.write_all(request.as_bytes()).unwrap();
        match n % 3 {
            0 => drop(io.peek(&mut [0])),
            1 => drop(io.shutdown(Shutdown::Write)),
            _ => {
                let _ = io.peek(&mut [0]);
                let _ = io.shutdown(Shutdown::Write);
            }
        }
        // What was not read becomes a reset.
        drop(io);
    }
    // 500 members that do so while the room is served.
    for round in 0..50 {
        let members: Vec<_> = (0..10)
            .map(|n| {
                let mut member = victim.guest(&format!("user=m{n}&room=lobby&history=50"));
                member.next_of("joined");
                member
            })
            .collect();
        for n in 0..4 {
            publisher.publish(&format!("{round}.{n}"), "1");
        }
        for (n, member) in members.into_iter().enumerate() {
            if n % 2 == 0 {
                member.0.end();
            }
        }
        for n in 4..8 {
            publisher.publish(&format!("{round}.{n}"), "1");
        }
        for _ in 0..8 {
            publisher.next_of("publication");
        }
    }
    publisher.until_pong();
    let seen = tracer.detach();
    let signals: Vec<_> = seen.iter().filter(|l| l.contains("--- SIG")).collect();
    assert!(signals.is_empty(), "{} signals, such as {}", signals.len(), signals[0]);
    victim.unharmed();
}

/// The tracer would have seen one.
#[test]
fn r22_the_tracer_sees_a_sigpipe() {
    let mut child = Command::new("sh")
        // Not before the tracer watches.
        .args(["-c", "trap '' PIPE; read go; kill -PIPE $$; read end"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let tracer = Tracer::attach(child.id(), &["-e", "trace=none", "-e", "signal=SIGPIPE"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"go\nend\n").unwrap();
    child.wait().unwrap();
    let seen = tracer.ended();
    assert!(seen.iter().any(|l| l.contains("--- SIGPIPE")), "{seen:?}");
}

/// What this process does at which signal is the same before, with and after an engine, in each of its threads.
#[test]
fn r22_an_engine_leaves_signals_as_they_are() {
    let signals = |task: &str| -> Vec<String> {
        let status = std::fs::read_to_string(format!("/proc/self/task/{task}/status")).unwrap_or_default();
        let wanted = ["SigBlk:", "SigIgn:", "SigCgt:"];
        status.lines().filter(|l| wanted.iter().any(|w| l.starts_with(w))).map(str::to_owned).collect()
    };
    // Not the main thread's: while it starts another test it has them blocked.
    let me = std::fs::read_link("/proc/thread-self").unwrap();
    let me = me.file_name().unwrap().to_str().unwrap();
    let before = signals(me);
    assert_eq!(before.len(), 3);
    let engine = Engine::builder().log("memory").listen("127.0.0.1:0").start().unwrap();
    let mut io = dial(engine.addresses()[0]);
    io.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(!all(&mut io).is_empty());
    assert_eq!(signals(me), before);
    let mut threads = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().file_name().into_string().unwrap();
        let name = std::fs::read_to_string(format!("/proc/self/task/{task}/comm")).unwrap_or_default();
        if name.starts_with("klatch-") {
            threads += 1;
            assert_eq!(signals(&task), before, "{name}");
        }
    }
    assert!(threads >= 3, "{threads} threads of engines");
    engine.stop(Duration::from_secs(5)).unwrap();
    assert_eq!(signals(me), before);
}
