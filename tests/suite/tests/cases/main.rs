//! Faults that others have met, tried on the real server: each test is named after its case, R01 to X28, and tries that case and
//! its neighbours.
#![allow(clippy::unwrap_used, clippy::panic)]

mod data;
mod delivery;
mod http;
mod signals;
mod wire;

use klatch_harness::process::Server;
use klatch_suite::Launch;
use klatch_suite::ws::{Got, Out, PATIENCE, Ws};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The server that is attacked, in a process of its own, so that what an attack costs can be seen.
struct Victim {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Victim {
    /// In memory: most attacks do not get as far as the log.
    fn start(configure: impl FnOnce(Launch) -> Launch) -> Victim {
        Victim::on("memory".as_ref(), configure)
    }

    fn on(log: &std::path::Path, configure: impl FnOnce(Launch) -> Launch) -> Victim {
        let dir = tempfile::tempdir().unwrap();
        let log = if log.as_os_str() == "memory" { log.to_owned() } else { dir.path().join(log) };
        Victim { server: configure(Launch::new(&log)).start(), _dir: dir }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// A connection that has been welcomed.
    fn guest(&self, query: &str) -> Guest {
        Guest::connect(self.address(), query)
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Bytes of memory that are resident.
    fn resident(&self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    /// Begins to watch the most that is resident.
    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.server.id()), "5").unwrap();
    }

    /// The most that was resident since then.
    fn peak(&self) -> u64 {
        self.status("VmHWM:") * 1024
    }

    /// Processor time so far, user's and kernel's; in steps of 10 ms.
    fn processor(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.server.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |n: usize| fields[n].parse::<u64>().unwrap();
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    /// Open files and sockets.
    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.server.id())).unwrap().count()
    }

    /// Waits until it has no more files and sockets open than these: it ends connections in its own time.
    fn settles_to(&self, files: usize) {
        let until = Instant::now() + PATIENCE;
        while self.files() > files {
            assert!(Instant::now() < until, "{} files and sockets are still open, not {files}", self.files());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Attacks while a member of another room publishes and gets its publications; it must not notice.
    fn while_served<T>(&self, attack: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let mut bystander = self.guest("user=bystander&room=bystanders");
        bystander.next_of("joined");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        std::thread::scope(|threads| {
            let served = threads.spawn(|| {
                let mut n = 0;
                loop {
                    let last = over.load(Ordering::Acquire);
                    bystander.publish(&format!("{number}.{n}"), &n.to_string());
                    assert_eq!(bystander.next_of("publication")["data"], n);
                    // And newcomers are let in.
                    if n % 4 == 0 {
                        self.guest("user=newcomer&room=bystanders").next_of("joined");
                    }
                    n += 1;
                    // Once more after the attack.
                    if last {
                        return;
                    }
                    // Seldom enough that what it stores is not taken for what an attack costs.
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            // Over even if it panics, or the other would go on for ever.
            struct Over<'a>(&'a AtomicBool);
            impl Drop for Over<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Release);
                }
            }
            let result = {
                let _over = Over(&over);
                attack()
            };
            served.join().unwrap();
            result
        })
    }

    /// Nothing has happened that an operator would hear of, and new clients are served.
    fn unharmed(&self) {
        let said = self.server.output();
        let bad: Vec<_> = said.iter().filter(|l| l.contains("panic") || l.contains("ERROR")).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        let mut guest = self.guest("user=after&room=after");
        guest.next_of("joined");
        guest.publish("after", "1");
        guest.next_of("publication");
    }
}

/// One connection of the native protocol.
struct Guest(Ws);

impl Guest {
    fn connect(address: SocketAddr, query: &str) -> Guest {
        let headers = [("Sec-WebSocket-Protocol".to_owned(), "klatch.v1".to_owned())];
        let opened = Ws::open(address, &format!("/ws?{query}"), &headers, &[]).unwrap();
        let (ws, _) = opened.unwrap_or_else(|answer| panic!("{answer:?}"));
        let mut guest = Guest(ws);
        guest.next_of("welcome");
        guest
    }

    fn send(&mut self, frame: &Value) {
        self.0.text(&frame.to_string()).unwrap();
    }

    fn text(&mut self, text: &str) {
        self.0.text(text).unwrap();
    }

    /// Publishes JSON text to the default room.
    fn publish(&mut self, id: &str, data: &str) {
        self.text(&format!(r#"{{"type":"publish","id":"{id}","data":{data}}}"#));
    }

    fn next(&mut self) -> Value {
        let text = self.0.next_text().unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The next frame of a type; those before it are dropped.
    fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next();
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Everything that comes until the answer to a ping.
    fn until_pong(&mut self) -> Vec<Value> {
        self.send(&json!({"type": "ping", "ref": 4711}));
        let mut frames = Vec::new();
        loop {
            let frame = self.next();
            if frame["type"] == "pong" && frame["ref"] == 4711 {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// The code with which the server closes; what comes before it is dropped. None: it ends without one.
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

/// A masked frame.
fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    Out { opcode, fin, rsv: 0, masked: true, payload }.bytes()
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// A connection on which anything may be said.
fn dial(address: SocketAddr) -> TcpStream {
    let io = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    io.set_nodelay(true).unwrap();
    io.set_read_timeout(Some(PATIENCE)).unwrap();
    io.set_write_timeout(Some(PATIENCE)).unwrap();
    io
}

/// All that the server says until it ends the connection; it must.
fn all(io: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match io.read_to_end(&mut said) {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("the server neither answers nor ends this: {:?}", String::from_utf8_lossy(&said))
        }
        // It may end with a reset, if it has not read everything.
        _ => said,
    }
}

/// Sends this and returns all that comes until the end.
fn said(address: SocketAddr, request: &[u8]) -> String {
    let mut io = dial(address);
    // The server may answer and end before it has everything.
    let _ = io.write_all(request);
    String::from_utf8_lossy(&all(&mut io)).into_owned()
}

/// The status of an HTTP answer; none if there is no answer.
fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}
