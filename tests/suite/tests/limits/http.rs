//! Before the upgrade.

use crate::{Client, SOON, Stage, builder, publish};
use klatch::config::Limit;
use klatch_suite::Launch;
use klatch_suite::ws::Ws;
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A connection that speaks what it likes.
fn raw(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut io = TcpStream::connect(address).unwrap();
    io.set_read_timeout(Some(SOON)).unwrap();
    // One that is closed at once may be so before this.
    let _ = io.write_all(bytes);
    io
}

/// All that comes until the connection ends.
fn rest(mut io: TcpStream) -> String {
    let mut all = Vec::new();
    match io.read_to_end(&mut all) {
        Err(e) if e.kind() != ErrorKind::ConnectionReset => panic!("it does not end: {e}"),
        _ => String::from_utf8_lossy(&all).into_owned(),
    }
}

fn status(io: TcpStream) -> String {
    rest(io).lines().next().unwrap_or("closed without an answer").to_owned()
}

/// A request with a head of exactly so many bytes.
fn head(bytes: usize) -> String {
    let start = "GET /healthz HTTP/1.1\r\nConnection: close\r\nHost: x\r\nX-Long: ";
    format!("{start}{}\r\n\r\n", "a".repeat(bytes - start.len() - 4))
}

#[test]
fn limit_header_bytes() {
    // Less than the least buffer of the HTTP library, and more.
    for limit in [1000, 20_000] {
        let mut stage = Stage::new(json!({"header_bytes": limit}));
        let address = stage.engine.addresses()[0];
        assert_eq!(status(raw(address, head(limit).as_bytes())), "HTTP/1.1 200 OK");
        stage.counted(&[]);
        let refused = status(raw(address, head(limit + 1).as_bytes()));
        assert_eq!(refused, "HTTP/1.1 431 Request Header Fields Too Large");
        stage.reaches(Limit::HeaderBytes, 1);
        // One that does not end is refused as soon as it is too long.
        let endless = head(limit + 100).into_bytes();
        assert!(status(raw(address, &endless[..limit])).contains(" 431 "));
        stage.reaches(Limit::HeaderBytes, 2);
        stage.others_are_served();
        stage.counted(&[(Limit::HeaderBytes, 2)]);
    }
}

#[test]
fn limit_headers() {
    let mut stage = Stage::new(json!({"headers": 6}));
    let address = stage.engine.addresses()[0];
    let with = |n: usize| {
        let more: String = (2..n).map(|i| format!("X-{i}: 1\r\n")).collect();
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n")
    };
    assert_eq!(status(raw(address, with(6).as_bytes())), "HTTP/1.1 200 OK");
    stage.counted(&[]);
    assert!(status(raw(address, with(7).as_bytes())).contains(" 431 "));
    stage.reaches(Limit::Headers, 1);
    stage.others_are_served();
    stage.counted(&[(Limit::Headers, 1)]);
}

#[test]
fn limit_handshake_timeout_ms() {
    // HTTP goes by the system's clock.
    let mut stage = Stage::new(json!({"handshake_timeout_ms": 200}));
    let address = stage.engine.addresses()[0];
    assert_eq!(status(raw(address, b"")), "closed without an answer");
    assert_eq!(status(raw(address, b"GET / HTTP/1.1\r\nHost")), "closed without an answer");
    stage.reaches(Limit::HandshakeTimeoutMs, 2);
    stage.others_are_served();
    // The first frame goes by the engine's.
    let mut stage = Stage::timed(json!({"handshake_timeout_ms": 10_000}));
    let mut ann = Client::connect(&stage.engine, "");
    while stage.engine.metrics().connections.get() < 2 {
        std::thread::yield_now();
    }
    stage.pass(9_999);
    stage.counted(&[]);
    // The wheel that looks at it has teeth of 64 ms.
    stage.pass(64);
    assert_eq!(ann.closed(), Some(4003));
    stage.others_are_served();
    stage.counted(&[(Limit::HandshakeTimeoutMs, 1)]);
}

#[test]
fn limit_http_timeout_ms() {
    let mut stage = Stage::new(json!({"http_timeout_ms": 300}));
    let address = stage.engine.addresses()[0];
    let ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    // Answered, and kept alive; but not for ever, though each request comes in time.
    let mut io = raw(address, ask);
    let mut answers = 0;
    let mut buf = [0; 4096];
    loop {
        match io.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => {
                answers += buf[..n].windows(8).filter(|w| w == b"HTTP/1.1").count();
                let _ = io.write_all(ask);
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break,
            Err(e) => panic!("it lives on: {e}"),
        }
    }
    assert!(answers > 0);
    stage.reaches(Limit::HttpTimeoutMs, 1);
    // An upgraded connection is no HTTP connection any more.
    stage.others_are_served();
    stage.counted(&[(Limit::HttpTimeoutMs, 1)]);
}

#[test]
fn limit_handshakes() {
    let mut stage = Stage::new(json!({"handshakes": 2}));
    let address = stage.engine.addresses()[0];
    let half = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n";
    let first = raw(address, half);
    stage.counted(&[]);
    let mut second = raw(address, half);
    stage.reaches(Limit::Handshakes, 1);
    // Past it: waits in the kernel, until there is a place.
    let third = raw(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stage.others_are_served();
    third.set_nonblocking(true).unwrap();
    assert_eq!((&third).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    third.set_nonblocking(false).unwrap();
    second.write_all(b"Host: x\r\n\r\n").unwrap();
    assert_eq!(status(second), "HTTP/1.1 200 OK");
    assert_eq!(status(third), "HTTP/1.1 200 OK");
    drop(first);
    assert!(stage.hits(Limit::Handshakes) >= 1);
}

#[test]
fn limit_connections() {
    let mut stage = Stage::new(json!({"connections": 2}));
    let address = stage.engine.addresses()[0];
    let mut ann = Client::connect(&stage.engine, "user=ann");
    ann.next_of("welcome");
    stage.counted(&[]);
    assert_eq!(Client::open(address, "user=carl").err(), Some(503));
    stage.counted(&[(Limit::Connections, 1)]);
    stage.others_are_served();
    drop(ann);
    while stage.engine.metrics().connections.get() > 1 {
        std::thread::yield_now();
    }
    Client::connect(&stage.engine, "user=dave").next_of("welcome");
}

#[test]
fn limit_connections_per_address() {
    // Bob has the first address for himself.
    let stage = Stage::with(builder(json!({"connections_per_address": 2})).listen("[::1]:0").log("memory"));
    let other = stage.engine.addresses()[1];
    let mut two = [Client::open(other, "user=a").unwrap(), Client::open(other, "user=b").unwrap()];
    two.iter_mut().for_each(|client| drop(client.next_of("welcome")));
    stage.counted(&[]);
    assert_eq!(Client::open(other, "user=c").err(), Some(429));
    stage.counted(&[(Limit::ConnectionsPerAddress, 1)]);
    Client::connect(&stage.engine, "user=d").next_of("welcome");
    // Those that ask for nothing count too: 16 more than the limit may be in their handshake.
    let stage = Stage::with(builder(json!({"connections_per_address": 2})).listen("[::1]:0").log("memory"));
    let other = stage.engine.addresses()[1];
    let idle: Vec<_> = (0..18).map(|_| raw(other, b"GET /healthz HTTP/1.1\r\n")).collect();
    assert_eq!(status(raw(other, b"")), "closed without an answer");
    stage.counted(&[(Limit::ConnectionsPerAddress, 1)]);
    for mut io in idle {
        io.write_all(b"Host: x\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(status(io), "HTTP/1.1 200 OK");
    }
    // 0 is no limit.
    let stage = Stage::with(builder(json!({"connections_per_address": 0})).listen("[::1]:0").log("memory"));
    let mut many: Vec<_> =
        (0..30).map(|_| Client::open(stage.engine.addresses()[1], "user=a").unwrap()).collect();
    many.iter_mut().for_each(|client| drop(client.next_of("welcome")));
    stage.counted(&[]);
}

#[test]
fn limit_files_reserved() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    // A process of its own, which may open 100 files from here on.
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).set("limits.files_reserved", 20).start();
    let few = Rlimit { current: Some(100), maximum: Some(100) };
    prlimit(Pid::from_raw(server.id() as i32), Resource::Nofile, few).unwrap();
    // Those that it was given at its birth may have higher numbers.
    let open = || {
        let all = std::fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap();
        all.filter(|f| f.as_ref().unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap() < 100)
            .count()
    };
    let hits = || {
        let (_, text) = klatch_suite::history::get(&server.url(), "/metrics");
        let line =
            text.lines().find_map(|l| l.strip_prefix("klatch_limit_hits_total{limit=\"files_reserved\"} "));
        line.unwrap().to_owned()
    };
    let client = || Client::open(server.address(), "user=ann&room=lobby").unwrap();
    let mut all = Vec::new();
    while open() < 79 {
        all.push(client());
        all.last_mut().unwrap().next_of("joined");
    }
    assert_eq!(hits(), "0");
    all.push(client());
    all.last_mut().unwrap().next_of("joined");
    assert_eq!(open(), 80);
    let refused = status(raw(server.address(), b""));
    assert!(refused.contains(" 503 "), "{refused}");
    // Who is there is served.
    all[0].send(publish(1, json!(7)));
    all[1].next_of("publication");
    // And others, once one has left.
    all.pop();
    while open() > 79 {
        std::thread::yield_now();
    }
    assert_eq!(hits(), "1");
    klatch_suite::server::stop(server);
}

/// One address used to take all the places for handshakes, with connections that never asked for anything.
#[test]
fn x26_one_address_cannot_take_all_the_places_for_handshakes() {
    let limits = json!({"handshakes": 100, "connections_per_address": 10});
    let mut stage = Stage::with(builder(limits).listen("[::1]:0").log("memory"));
    let (first, other) = (stage.engine.addresses()[0], stage.engine.addresses()[1]);
    // The harm that one looping client does, five times as many as there are places.
    let idle: Vec<_> = (0..500).map(|_| raw(other, b"GET / HTTP/1.1\r\n")).collect();
    stage.reaches(Limit::ConnectionsPerAddress, 500 - 26);
    // Other addresses, whoever looks after the server, and the host.
    Client::connect(&stage.engine, "user=ann").next_of("welcome");
    assert_eq!(klatch_suite::ws::get(first, "/metrics").unwrap().status, 200);
    stage.others_are_served();
    stage.counted(&[(Limit::ConnectionsPerAddress, 500 - 26)]);
    // And the address itself once it holds nothing any more.
    drop(idle);
    while !Ws::open(other, "/ws?user=carl", &[], &[]).is_ok_and(|opened| opened.is_ok()) {
        std::thread::yield_now();
    }
}
