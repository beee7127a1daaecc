//! X25: a machine that was started a moment ago.
//!
//! Elsewhere an `Instant` from which a longer time was taken than the machine had been up panicked (openab#1459, graph-node#1805,
//! restate#2794).

use crate::ROOM;
use klatch_suite::Launch;
use klatch_suite::crowd::{Crowd, Plan};
use klatch_suite::history::{get, history};
use klatch_suite::server::stop;
use klatch_suite::ws::{Got, Ws};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const UPTIME: u64 = 5;

fn open(address: SocketAddr, path: &str) -> Ws {
    Ws::open(address, path, &[], &[]).unwrap().unwrap().0
}

/// How the server closes it: the code, 0 where there is none, and after how long.
fn closed(mut ws: Ws) -> (u16, Duration) {
    let began = Instant::now();
    loop {
        match ws.next_within(crate::PATIENCE).unwrap() {
            Some(Got::Close(code, _)) => return (code, began.elapsed()),
            Some(Got::End) => return (0, began.elapsed()),
            Some(_) => {}
            None => panic!("it is not closed"),
        }
    }
}

#[test]
fn x25_timers_hold_on_a_machine_that_is_up_for_five_seconds() {
    let up = fs::read_to_string("/proc/uptime").unwrap();
    let up: u64 = up.split('.').next().unwrap().parse().unwrap();
    let back = format!("-{}", up.saturating_sub(UPTIME));
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .under(&["unshare", "--time", "--monotonic", &back, "--boottime", &back])
        .set("limits.handshake_timeout_ms", 1_000)
        .set("limits.http_timeout_ms", 2_000)
        .set("limits.heartbeat_ms", 1_000)
        .set("limits.heartbeat_timeout_ms", 1_000)
        .set("limits.publish_rate", 50)
        .set("limits.request_rate", 100)
        .set("storage.retain_age_ms", 3_600_000)
        .start();
    let here = fs::read_link("/proc/self/ns/time").unwrap();
    assert_ne!(fs::read_link(format!("/proc/{}/ns/time", server.id())).unwrap(), here, "its time is its own");

    let mut members = Crowd::new(&server.url(), &Plan::new(ROOM, "member", 5));
    members.join();
    let address = server.address();
    // What is to end by a timer, each on a thread of its own.
    let silent = std::thread::spawn(move || {
        let mut io = TcpStream::connect(address).unwrap();
        let began = Instant::now();
        io.set_read_timeout(Some(crate::PATIENCE)).unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).unwrap();
        began.elapsed()
    });
    let keeping = std::thread::spawn(move || {
        let mut io = TcpStream::connect(address).unwrap();
        let began = Instant::now();
        io.set_read_timeout(Some(crate::PATIENCE)).unwrap();
        let mut all = Vec::new();
        // One request after the other; refused in the end.
        while write!(io, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").is_ok() {
            let mut part = [0; 4096];
            match io.read(&mut part) {
                Ok(n) if n > 0 => all.extend_from_slice(&part[..n]),
                _ => break,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(all.starts_with(b"HTTP/1.1 200"));
        began.elapsed()
    });
    let nobody = std::thread::spawn(move || closed(open(address, "/ws")));
    let deaf = std::thread::spawn(move || {
        let mut ws = open(address, "/ws?user=deaf");
        ws.answers_pings = false;
        closed(ws)
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        members.publish(0, 256);
        let until = Instant::now() + Duration::from_millis(100);
        members.until("the next", |_| Instant::now() > until);
    }
    // Nothing ends before its time, and everything ends.
    assert!(silent.join().unwrap() >= Duration::from_millis(950));
    assert!(keeping.join().unwrap() >= Duration::from_millis(1_950));
    let (code, after) = nobody.join().unwrap();
    assert!(code == 4003 && after >= Duration::from_millis(950), "{code} {after:?}");
    let (code, after) = deaf.join().unwrap();
    assert!(code == 4002 && after >= Duration::from_millis(1_950), "{code} {after:?}");

    // Those who answer are still there, and rates are as ever.
    assert!(members.closes().is_empty(), "{:?}", members.closes());
    let before = members.answered();
    for _ in 0..150 {
        members.publish(1, 64);
    }
    members.until("the rate limit", |c| c.errors().contains_key("rate_limited"));
    members.until("everything to be stored", |c| c.answered() == before + 150);
    members.reach(members.last());
    let last = members.last();
    crate::check(&members.into_logs(), data.path(), klatch_harness::checker::Expect::default());
    assert_eq!(history(&server.url(), ROOM, 100).last, last);
    assert_eq!(get(&server.url(), "/readyz").0, 200);
    let said = server.output();
    assert!(!said.iter().any(|l| l.contains("panic") || l.contains("ERROR")), "{said:?}");
    stop(server);
}
