//! HTTP that breaks the rules, or never ends.

use crate::{Guest, Victim, all, dial, said, status};
use klatch_suite::ws::{PATIENCE, Ws, get};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A request to upgrade with further header lines.
fn upgrade(lines: &str) -> String {
    format!(
        "GET /ws?user=mallory HTTP/1.1\r\nHost: x\r\n{lines}Connection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Sends a beginning, and a filling over and over, 20,000,000 bytes in writes of 4 KiB; returns what was said.
fn endless(address: SocketAddr, beginning: &[u8], filling: &[u8]) -> String {
    let mut io = dial(address);
    io.write_all(beginning).unwrap();
    let chunk: Vec<u8> = filling.iter().copied().cycle().take(4096).collect();
    for _ in 0..20_000_000 / 4096 {
        match io.write_all(&chunk) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            Err(e) => panic!("the server takes and takes, or waits: {e}"),
        }
    }
    String::from_utf8_lossy(&all(&mut io)).into_owned()
}

/// A header without end was parsed from its beginning each time that more of it came: minutes of processor time
/// (tungstenite-rs#376, CVE-2023-43669).
#[test]
fn r01_a_header_without_end_is_refused_early() {
    let victim = Victim::start(|l| l);
    let head = |line: &str| format!("GET /ws HTTP/1.1\r\nHost: x\r\n{line}");
    // Once before, so that what is only done once is done.
    endless(victim.address(), head("X-A: ").as_bytes(), b"a");
    for (what, beginning, filling) in [
        ("a value", head("X-A: "), &b"a"[..]),
        ("a name", head(""), b"a"),
        ("headers", head(""), b"X-A: a\r\n"),
        ("empty headers", head(""), b"a:\r\n"),
        ("white space", head("X-A:"), b" "),
        ("a continued header", head("X-A: a\r\n"), b" a\r\n"),
        ("a path", "GET /".into(), b"a"),
        ("a query", "GET /ws?room=".into(), b"%41"),
        ("a method", String::new(), b"A"),
        ("empty lines", String::new(), b"\r\n"),
        ("bytes", String::new(), b"\0\xFF"),
        ("a version", "GET / ".into(), b"H"),
    ] {
        let before = victim.processor();
        let answer = victim.while_served(|| endless(victim.address(), beginning.as_bytes(), filling));
        let spent = victim.processor() - before;
        // A reset may overtake the answer.
        assert!(matches!(status(&answer), None | Some(400 | 404 | 414 | 431)), "{what}: {answer}");
        // What the member beside costs is in it; to parse all again each time takes seconds.
        assert!(spent < Duration::from_millis(500), "{what}: {spent:?}");
    }
    // In pieces, slowly enough that an answer can be read: never taken.
    let mut io = dial(victim.address());
    io.write_all(format!("{}{}", head("X-A: "), "a".repeat(16 << 10)).as_bytes()).unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&all(&mut io))), Some(431));
    victim.unharmed();
}

/// The same byte by byte: what came is parsed again with each byte, so the bound on the head has to bound the work too.
#[test]
fn r01_a_head_byte_by_byte_costs_little() {
    let victim = Victim::start(|l| l);
    let fine = upgrade(&"a: b\r\n".repeat(90));
    let before = victim.processor();
    victim.while_served(|| {
        let mut io = dial(victim.address());
        for byte in fine.as_bytes() {
            io.write_all(&[*byte]).unwrap();
        }
        let mut answer = [0; 12];
        io.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        let mut io = dial(victim.address());
        io.write_all(b"GET /ws HTTP/1.1\r\nX-A: ").unwrap();
        for _ in 0..16 << 10 {
            if io.write_all(b"a").is_err() {
                break;
            }
        }
        assert!(matches!(status(&String::from_utf8_lossy(&all(&mut io))), None | Some(431)));
    });
    let spent = victim.processor() - before;
    assert!(spent < Duration::from_secs(2), "{spent:?}");
    victim.unharmed();
}

/// More headers than the parser kept, then a null pointer (CVE-2024-37890).
#[test]
fn x01_more_headers_than_are_kept() {
    let victim = Victim::start(|l| l);
    let named = |n: usize| {
        format!("{}{}: x\r\n", (b'a' + (n % 26) as u8) as char, (b'a' + (n / 26 % 26) as u8) as char)
    };
    victim.while_served(|| {
        for count in [101, 2000, 20_000] {
            let before: String = (0..count).map(named).collect();
            let request = upgrade(&before);
            let answer = said(victim.address(), request.as_bytes());
            assert!(matches!(status(&answer), None | Some(431)), "{count} before: {answer}");
            let request = upgrade("").replace("\r\n\r\n", &format!("\r\n{before}\r\n"));
            let answer = said(victim.address(), request.as_bytes());
            assert!(matches!(status(&answer), None | Some(431)), "{count} behind: {answer}");
        }
        // So many that they are kept: the needed ones are the last.
        let before: String = (0..90).map(named).collect();
        let mut io = dial(victim.address());
        io.write_all(upgrade(&before).as_bytes()).unwrap();
        let mut answer = [0; 12];
        io.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
    });
    victim.unharmed();
}

/// Connections that never say what they want were kept for ever (erebe/wstunnel#406, hyperium/hyper#3185,
/// anthropics/connect-rust#189).
#[test]
fn r05_slow_handshakes_end() {
    const SOCKETS: usize = 500;
    const TIMEOUT: Duration = Duration::from_secs(1);
    let millis = TIMEOUT.as_millis();
    // What bounds an answered connection's life must not be what ends these.
    let victim = Victim::start(|l| {
        l.set("limits.handshake_timeout_ms", millis).set("limits.http_timeout_ms", 600 * millis)
    });
    let hello = tls_hello();
    let begin = |bytes: &[u8]| -> Vec<TcpStream> {
        let begin = |_| {
            let mut io = dial(victim.address());
            io.write_all(bytes).unwrap();
            io
        };
        (0..SOCKETS).map(begin).collect()
    };
    // Each sends another of these bytes, now and then, until the server has ended all.
    let attack = |what: &str, mut sockets: Vec<TcpStream>, drip: &[u8]| {
        let began = Instant::now();
        let mut drip = drip.iter().cycle();
        while !sockets.is_empty() {
            assert!(began.elapsed() < PATIENCE + 4 * TIMEOUT, "{what}: {} are still open", sockets.len());
            sockets.retain_mut(|io| !has_ended(io));
            if let Some(byte) = drip.next() {
                // Some end between.
                sockets.iter_mut().for_each(|io| drop(io.write_all(&[*byte])));
            }
            std::thread::sleep(TIMEOUT / 8);
        }
    };
    let upgraded = || -> Vec<TcpStream> {
        let sockets = begin(upgrade("").replace("?user=mallory", "").as_bytes());
        for io in &sockets {
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                (&*io).read_exact(&mut byte).unwrap();
                answer.push(byte[0]);
            }
            assert!(answer.starts_with(b"HTTP/1.1 101"));
        }
        sockets
    };
    attack("silent", begin(b""), b"");
    let files = victim.files();
    victim.while_served(|| {
        attack("silent", begin(b""), b"");
        attack("a header's value", begin(b"GET /ws HTTP/1.1\r\nX-A: "), b"a");
        attack("headers", begin(b"GET /ws HTTP/1.1\r\n"), b"a:\r\n");
        attack("a request line", begin(b""), b"GET /");
        attack("TLS", begin(&hello[..hello.len() / 2]), b"");
        // Answered, and then nothing more is asked.
        attack("answered, then silent", begin(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), b"");
        attack("answered, then more", begin(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), b"G");
        // A body that does not come.
        attack("a body", begin(b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"), b"a");
        // Upgraded, and then no frame, or one that does not get whole, or only pings.
        attack("upgraded, then silent", upgraded(), b"");
        attack("upgraded, then a frame", upgraded(), &[b"\x81\xFE\x7F\xFF", &[b'a'; 1000][..]].concat());
        attack("upgraded, then pings", upgraded(), &crate::frame(true, 9, b""));
    });
    // The last were told and may linger for a moment.
    victim.settles_to(files);
    // What the allocator keeps, it keeps once.
    let before = victim.resident();
    victim.while_served(|| {
        attack("headers", begin(b"GET /ws HTTP/1.1\r\n"), b"a:\r\n");
        attack("upgraded, then silent", upgraded(), b"");
    });
    let grown = victim.resident().saturating_sub(before);
    assert!(grown < 2 << 20, "memory grew by {grown} bytes");
    victim.unharmed();
}

/// Those that ask for more and more and read nothing are not waited for.
#[test]
fn r05_clients_that_read_no_answers_are_ended() {
    let victim = Victim::start(|l| l.set("limits.http_timeout_ms", 1000));
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100_000);
    said(victim.address(), b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let files = victim.files();
    let asking = victim.while_served(|| {
        let ask = |_| {
            let mut io = dial(victim.address());
            io.set_nonblocking(true).unwrap();
            // As much as is taken.
            let _ = io.write(&request);
            io
        };
        let asking: Vec<TcpStream> = (0..20).map(ask).collect();
        victim.settles_to(files + 1);
        asking
    });
    drop(asking);
    victim.unharmed();
}

/// Whether the server has ended a connection; what it says is dropped.
fn has_ended(io: &mut TcpStream) -> bool {
    io.set_nonblocking(true).unwrap();
    let ended = loop {
        match io.read(&mut [0; 4096]) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(e) => break e.kind() != ErrorKind::WouldBlock,
        }
    };
    io.set_nonblocking(false).unwrap();
    ended
}

/// The beginning of a TLS 1.2 ClientHello.
fn tls_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 0x03, 0x01, 0x00, 0xC8, 0x01, 0x00, 0x00, 0xC4, 0x03, 0x03];
    hello.extend((0..194).map(|n| n as u8));
    hello
}

/// A pattern for subdomains also took hosts that only look alike (CVE-2022-42975).
#[test]
fn r21_origins_that_look_alike_are_refused() {
    let connect = |victim: &Victim, origins: &[&str], host: Option<&str>| -> u16 {
        let mut request = upgrade("");
        for origin in origins {
            request = request.replace("Connection", &format!("Origin: {origin}\r\nConnection"));
        }
        if let Some(host) = host {
            request = request.replace("Host: x", &format!("Host: {host}"));
        }
        let mut io = dial(victim.address());
        io.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        io.read_exact(&mut answer).unwrap();
        status(&String::from_utf8_lossy(&answer)).unwrap()
    };
    let victim = Victim::start(|l| l.arg("--origin").arg("https://*.example.com"));
    for (origin, expected) in [
        ("https://a.example.com", 101),
        ("https://a.b.example.com", 101),
        ("HTTPS://A.EXAMPLE.COM", 101),
        ("https://evilexample.com", 403),
        ("https://example.com.evil.net", 403),
        ("https://a.example.com.evil.net", 403),
        ("https://a.example.com:444", 403),
        ("https://a.example.com:443", 403),
        ("https://a.example.com.", 403),
        ("https://example.com", 403),
        ("https://.example.com", 403),
        ("http://a.example.com", 403),
        ("wss://a.example.com", 403),
        ("https://a.example.com/", 403),
        ("https://evil.net/a.example.com", 403),
        ("https://evil.net/.example.com", 403),
        ("https://evil.net#.example.com", 403),
        ("https://evil.net?.example.com", 403),
        ("https://evil.net\\.example.com", 403),
        ("https://user@a.example.com", 403),
        ("https://evil.net:80@a.example.com", 403),
        ("https://a.example.com https://evil.net", 403),
        ("https://evil.net https://a.example.com", 403),
        ("https://evil.net, https://a.example.com", 403),
        ("https://\u{e9}.example.com", 403),
        ("null", 403),
        ("", 403),
        ("*", 403),
        ("a.example.com", 403),
        ("file://", 403),
    ] {
        assert_eq!(connect(&victim, &[origin], None), expected, "{origin}");
    }
    assert_eq!(connect(&victim, &[], None), 101, "no browser");
    let good = "https://a.example.com";
    assert_eq!(connect(&victim, &[good, good], None), 403, "two");
    assert_eq!(connect(&victim, &[good, "https://evil.net"], None), 403, "two");
    assert_eq!(connect(&victim, &["https://evil.net", good], None), 403, "two");
    victim.unharmed();

    // The default: only pages of the host that is asked for, port and all.
    let victim = Victim::start(|l| l);
    for (origin, host, expected) in [
        ("http://chat.example:8080", "chat.example:8080", 101),
        ("https://chat.example", "chat.example", 101),
        ("http://chat.example:8081", "chat.example:8080", 403),
        ("http://chat.example", "chat.example:8080", 403),
        ("http://evil.chat.example", "chat.example", 403),
        ("http://chat.example.evil.net", "chat.example", 403),
        ("null", "null", 403),
        ("null", "", 403),
        ("http://", "", 403),
    ] {
        assert_eq!(connect(&victim, &[origin], Some(host)), expected, "{origin} at {host}");
    }
    // An exact origin with a port, and everything.
    let victim = Victim::start(|l| l.arg("--origin").arg("https://a.example:8443"));
    assert_eq!(connect(&victim, &["https://a.example:8443"], None), 101);
    assert_eq!(connect(&victim, &["https://a.example"], None), 403);
    assert_eq!(connect(&victim, &["https://a.example:8444"], None), 403);
    assert_eq!(connect(&victim, &["https://b.a.example:8443"], None), 403);
    let victim = Victim::start(|l| l.arg("--origin").arg("*"));
    assert_eq!(connect(&victim, &["null"], None), 101);
    assert_eq!(connect(&victim, &["https://a", "https://b"], None), 403, "two are never right");
}

/// A scanner's request to speak HTTP/2 crashed the server (engine.io#658). Whatever knocks on the port gets a refusal or an end.
#[test]
fn x05_whatever_scanners_send_is_refused() {
    let victim =
        Victim::start(|l| l.set("limits.handshake_timeout_ms", 1000).set("limits.http_timeout_ms", 3000));
    let post =
        |lines: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n{body}").into_bytes();
    let get =
        |lines: &str| format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n").into_bytes();
    let line = |line: &str| format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes();
    let h2c = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
               HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    let mut requests: Vec<(&str, Vec<u8>)> = vec![
        ("h2c", h2c.into()),
        ("h2c and websocket", h2c.replace("h2c\r", "h2c, websocket\r").into()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d".to_vec()),
        ("TLS", tls_hello()),
        ("TLS, cut", tls_hello()[..40].to_vec()),
        ("SSL 2", b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("SOCKS 5", b"\x05\x02\0\x02".to_vec()),
        ("SOCKS 4", b"\x04\x01\0\x50\x7f\0\0\x01x\0".to_vec()),
        ("RDP", b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0".to_vec()),
        ("a PROXY line", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec()),
        (
            "PROXY, binary",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02".to_vec(),
        ),
        ("SMTP", b"EHLO x\r\n".to_vec()),
        ("RTSP", b"OPTIONS / RTSP/1.0\r\n\r\n".to_vec()),
        ("SIP", b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm\r\n\r\n".to_vec()),
        ("memcached", b"stats\r\n".to_vec()),
        ("redis", b"*1\r\n$4\r\nINFO\r\n".to_vec()),
        ("zero bytes", vec![0; 100]),
        ("all bytes", (0..=255).collect()),
        ("nothing but line ends", b"\r\n\r\n\r\n\r\n".to_vec()),
        ("HTTP/0.9", b"GET /\r\n".to_vec()),
        ("HTTP/1.2", line("GET / HTTP/1.2")),
        ("HTTP/3.0", line("GET / HTTP/3.0")),
        ("a version without end", line("GET / HTTP/1.11111111111111111111")),
        ("CONNECT", line("CONNECT evil.net:443 HTTP/1.1")),
        ("TRACE", line("TRACE / HTTP/1.1")),
        ("a method of its own", line("X-Y_Z!# / HTTP/1.1")),
        ("a method that is none", line("G(T / HTTP/1.1")),
        ("another host's URI", line("GET http://evil.net/ws HTTP/1.1")),
        ("a URI without a slash", line("GET ws HTTP/1.1")),
        ("an asterisk", line("OPTIONS * HTTP/1.1")),
        ("spaces in the path", line("GET /a b HTTP/1.1")),
        ("bytes in the path", b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec()),
        ("a zero byte in the path", b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a zero byte in a header", get("X-A: a\0b\r\n")),
        ("a zero byte in a name", get("X\0A: b\r\n")),
        ("a line end in a header", get("X-A: a\rb\r\n")),
        ("space before the colon", get("X-A : b\r\n")),
        ("no colon", get("X-A\r\n")),
        ("no name", get(": b\r\n")),
        ("a continued header", get("X-A: a\r\n b\r\n")),
        ("a continued first header", b"GET / HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n".to_vec()),
        ("bare carriage returns", b"GET / HTTP/1.1\rHost: x\r\r".to_vec()),
        ("a gigabyte that does not come", post("Content-Length: 1073741824\r\n", "")),
        ("more than can be counted", post("Content-Length: 18446744073709551616\r\n", "")),
        ("less than nothing", post("Content-Length: -1\r\n", "")),
        ("a signed length", post("Content-Length: +5\r\n", "hello")),
        ("a hexadecimal length", post("Content-Length: 0x5\r\n", "hello")),
        ("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello")),
        ("a list of lengths", post("Content-Length: 5, 6\r\n", "hello")),
        ("a length and chunks", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("chunks", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        ("chunks without end", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n")),
        ("a chunk of all memory", post("Transfer-Encoding: chunked\r\n", "FFFFFFFFFFFFFFFF\r\nhello")),
        ("a chunk's size without end", post("Transfer-Encoding: chunked\r\n", &"0".repeat(10_000))),
        (
            "a chunk's extension without end",
            post("Transfer-Encoding: chunked\r\n", &format!("5;{}", "a".repeat(50_000))),
        ),
        ("chunks, not last", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        ("chunks by another name", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        ("chunks twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("will there be a body", post("Content-Length: 5\r\nExpect: 100-continue\r\n", "")),
        ("an expectation of its own", post("Content-Length: 5\r\nExpect: tea\r\n", "")),
        ("two hosts", get("Host: y\r\n")),
        ("no host", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec()),
        ("an upgrade by POST", upgrade("").replace("GET", "POST").into()),
        ("an upgrade of HTTP/1.0", upgrade("").replace("HTTP/1.1", "HTTP/1.0").into()),
        ("an upgrade with a body", upgrade("Content-Length: 5\r\n").into()),
        ("an upgrade in chunks", upgrade("Transfer-Encoding: chunked\r\n").into()),
        ("an upgrade without a key", upgrade("").replace("Sec-WebSocket-Key", "X").into()),
        ("an upgrade to version 12", upgrade("").replace("13", "12").into()),
    ];
    for path in [
        "/ws%00",
        "/ws%2e",
        "//ws",
        "/./ws",
        "/ws/",
        "/../../etc/passwd",
        "/rooms//history",
        "/rooms/%/history",
        "/WS",
    ] {
        requests.push((path, line(&format!("GET {path} HTTP/1.1"))));
    }
    victim.while_served(|| {
        for (what, request) in &requests {
            let answer = said(victim.address(), request);
            let status = status(&answer);
            assert!(matches!(status, None | Some(400..=599)), "{what}: {answer}");
            assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{what} got two answers: {answer}");
        }
    });
    victim.unharmed();
}

/// A proxy and a server that do not agree where a request ends let one client's bytes become another's request. What could be
/// read in two ways, and every body, is refused, and nothing behind it is read as a request.
#[test]
fn x05_no_request_is_smuggled() {
    let victim = Victim::start(|l| l);
    let inner = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = inner.len();
    for method in ["GET", "POST", "HEAD", "PUT"] {
        for (lines, body) in [
            (format!("Content-Length: {length}\r\n"), String::new()),
            (format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), String::new()),
            (format!("Content-Length: {length}\r\nContent-Length: 0\r\n"), String::new()),
            (format!("Content-Length: 0, {length}\r\n"), String::new()),
            (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), "0\r\n\r\n".into()),
            (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), "0\r\n\r\n".into()),
            ("Transfer-Encoding: chunked\r\n".into(), "0\r\n\r\n".into()),
            ("Transfer-Encoding : chunked\r\n".into(), String::new()),
            ("Transfer-Encoding: \x0bchunked\r\n".into(), String::new()),
            ("Transfer-Encoding:\r\n chunked\r\n".into(), String::new()),
            ("Transfer-Encoding: identity\r\n".into(), String::new()),
            ("Transfer-Encoding: chunked, identity\r\n".into(), String::new()),
            (format!("X: y\rContent-Length: {length}\r\n"), String::new()),
            (format!("X: y\nContent-Length: {length}\r\n"), String::new()),
        ] {
            for path in ["/", "/ws", "/healthz"] {
                let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n{body}{inner}");
                let answer = said(victim.address(), request.as_bytes());
                assert!(!answer.contains("200 OK"), "{request:?}: {answer}");
                assert!(matches!(status(&answer), None | Some(400..=599)), "{request:?}: {answer}");
                assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{request:?} got two answers: {answer}");
            }
        }
    }
    // Requests in a row are fine, and frames right behind the last.
    let mut io = dial(victim.address());
    let frame = crate::frame(true, 1, br#"{"type":"ping","ref":5}"#);
    let row = [inner.repeat(100).as_bytes(), upgrade("").as_bytes(), &frame[..]].concat();
    io.write_all(&row).unwrap();
    let mut answers = Vec::new();
    while !answers.ends_with(br#"{"type":"pong","ref":5}"#) {
        let mut chunk = [0; 4096];
        let n = io.read(&mut chunk).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&answers));
        answers.extend_from_slice(&chunk[..n]);
    }
    let answers = String::from_utf8_lossy(&answers);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 100);
    assert_eq!(answers.matches("HTTP/1.1 101").count(), 1);
    // A request behind an upgrade is no request any more.
    let answer = said(victim.address(), [upgrade("").as_bytes(), inner.as_bytes()].concat().as_slice());
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert_eq!(get(victim.address(), "/healthz").unwrap().status, 200);
    victim.unharmed();
}

/// Names by query, header and path, with what does not belong there.
#[test]
fn r08_zero_bytes_in_requests_are_refused() {
    let victim = Victim::start(|l| l);
    for path in
        ["/ws?room=a%00b", "/ws?user=%00", "/ws?user=a&room=%00", "/ws?token=a%00&user=a", "/ws?room=%00b"]
    {
        let refused = Ws::open(victim.address(), path, &[], &[]).unwrap().unwrap_err();
        assert_eq!(refused.status, 400, "{path}: {refused:?}");
    }
    for path in ["/ws%00", "/ws%00?room=a", "/%00ws", "/rooms/a%00b", "/healthz%00"] {
        assert_eq!(get(victim.address(), path).unwrap().status, 404, "{path}");
    }
    for path in ["/rooms/a%00b/history", "/rooms/%00/history", "/rooms/a%C2%80/history", "/rooms/%0A/history"]
    {
        let answer = get(victim.address(), path).unwrap();
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.contains("invalid_name"), "{path}: {}", answer.body);
    }
    for name in ["x-klatch-room", "x-klatch-user", "authorization"] {
        let answer = said(victim.address(), upgrade(&format!("{name}: Bearer a\0b\r\n")).as_bytes());
        assert!(matches!(status(&answer), None | Some(400)), "{name}: {answer}");
    }
    let mut guest = Guest::connect(victim.address(), "user=a&room=a");
    assert_eq!(guest.next_of("joined")["room"], "a");
    victim.unharmed();
}

/// What is not UTF-8 in query, path and headers.
#[test]
fn r06_what_is_not_utf8_in_requests_is_refused() {
    let victim = Victim::start(|l| l);
    for bytes in [
        "%FF",
        "%C3%28",
        "%ED%A0%BD",
        "%F0%9F%98",
        "%C0%AF",
        "%",
        "%4",
        "%GG",
        "%u0041",
        "%ED%A0%BD%ED%B8%80",
    ] {
        for key in ["room", "user", "token", "epoch", bytes] {
            let path = format!("/ws?{key}=a{bytes}");
            let refused = Ws::open(victim.address(), &path, &[], &[]).unwrap().unwrap_err();
            assert_eq!(refused.status, 400, "{path}: {refused:?}");
        }
        let path = format!("/rooms/a{bytes}/history");
        assert_eq!(get(victim.address(), &path).unwrap().status, 400, "{path}");
    }
    for name in ["x-klatch-room", "x-klatch-user"] {
        let request = upgrade("X: y\r\n").into_bytes();
        let at = request.windows(4).position(|w| w == b"X: y").unwrap();
        let request = [&request[..at], name.as_bytes(), b": a\xED\xA0\xBD", &request[at + 4..]].concat();
        // The query's user wins over the header's; without it, the header counts.
        let text: Vec<u8> = {
            let from = request.windows(13).position(|w| w == b"?user=mallory").unwrap();
            [&request[..from], &request[from + 13..]].concat()
        };
        assert_eq!(status(&said(victim.address(), &text)), Some(400), "{name}");
    }
    victim.unharmed();
}
