//! Connections that the host has accepted: its own web server's, which share its port with the engine.

use crate::{limits, memory};
use klatch::{Code, Engine};
use klatch_suite::ws::{Out, PATIENCE};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

const UPGRADE: &str = "GET /ws?user=ann&room=lobby HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A client's end, and the host's, with where it is from.
fn pair() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (host, address) = listener.accept().unwrap();
    (client, host, address)
}

/// Reads until this has come.
fn until(client: &mut impl Read, text: &str) -> String {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(text) {
        let mut byte = [0];
        client
            .read_exact(&mut byte)
            .unwrap_or_else(|e| panic!("{e}; got {:?}", String::from_utf8_lossy(&got)));
        got.push(byte[0]);
    }
    String::from_utf8_lossy(&got).into_owned()
}

fn text(text: &str) -> Vec<u8> {
    Out { opcode: 1, fin: true, rsv: 0, masked: true, payload: text.as_bytes() }.bytes()
}

fn open() -> klatch::Settings {
    let mut settings = limits(serde_json::json!({ "connections_per_address": 0, "publish_rate": 0 }));
    settings.open_users = true;
    settings.log = "memory".into();
    settings
}

/// Wherever the host stopped reading: in the head, behind it, or in frames that the client sent without waiting.
#[test]
fn what_was_read_and_what_comes_are_one_stream() {
    let engine = Engine::builder().settings(open()).start().unwrap();
    let publish = |n: usize| text(&format!(r#"{{"type":"publish","id":"m{n}","data":{n}}}"#));
    let many: Vec<u8> = (1..=400).flat_map(publish).collect();
    let bytes = [UPGRADE.as_bytes(), &many].concat();
    let head = UPGRADE.len();
    for cut in [0, 1, head - 1, head, head + 1, head + 9_000, bytes.len()] {
        let (mut client, host, address) = pair();
        engine.serve(host, address, &bytes[..cut]).unwrap();
        client.write_all(&bytes[cut..]).unwrap();
        let got = until(&mut client, r#""id":"m400""#);
        assert!(got.starts_with("HTTP/1.1 101 ") && got.contains(r#""user":"ann""#), "{got}");
        assert_eq!(got.matches(r#""id":"m"#).count(), 400, "cut at {cut}");
    }
    drop(engine);
}

#[test]
fn plain_requests_are_answered_too() {
    let engine = memory().start().unwrap();
    let (mut client, host, address) = pair();
    engine.serve(host, address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(until(&mut client, "ok\n").starts_with("HTTP/1.1 200 OK"));
    client.write_all(b"GET /rooms/lobby/history HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(until(&mut client, "\"last\":0").starts_with("HTTP/1.1 200 OK"));
}

/// What is behind TLS, which is the host's, comes by a socket that is not TCP's.
#[test]
fn it_need_not_be_tcp() {
    let engine = Engine::builder().settings(open()).start().unwrap();
    let (mut client, host) = UnixStream::pair().unwrap();
    let address = "192.0.2.7:1234".parse().unwrap();
    let events = engine.events();
    engine.serve(TcpStream::from(OwnedFd::from(host)), address, UPGRADE.as_bytes()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    until(&mut client, r#""type":"joined""#);
    client.write_all(&text(r#"{"type":"publish","data":7}"#)).unwrap();
    until(&mut client, r#""data":7"#);
    match events.next_within(PATIENCE) {
        klatch::NextEvent::Event(klatch::Event::Connected { address: from, .. }) => assert_eq!(from, address),
        other => panic!("{other:?}"),
    }
    assert_eq!(engine.metrics().connections.get(), 1);
    drop(client);
}

#[test]
fn limits_hold_and_a_stopped_engine_takes_none() {
    let settings = limits(serde_json::json!({ "handshakes": 2, "connections_per_address": 0 }));
    let engine = Engine::builder().settings(settings).log("memory").start().unwrap();
    let silent: Vec<_> = (0..2).map(|_| pair()).collect();
    let mut kept = Vec::new();
    for (client, host, address) in silent {
        engine.serve(host, address, b"GET / HT").unwrap();
        kept.push(client);
    }
    let (mut client, host, address) = pair();
    assert_eq!(engine.serve(host, address, b"").unwrap_err().code(), Code::Busy);
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 0, "a refused connection is closed");
    // One goes, and its place is free.
    kept.pop();
    loop {
        let (mut client, host, address) = pair();
        if engine.serve(host, address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").is_ok() {
            until(&mut client, "ok\n");
            break;
        }
        std::thread::yield_now();
    }
    engine.stop(PATIENCE).unwrap();
    let (_client, host, address) = pair();
    assert_eq!(engine.serve(host, address, b"").unwrap_err().code(), Code::Stopped);
}
