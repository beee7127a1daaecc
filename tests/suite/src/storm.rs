//! Connections in great numbers from few addresses, by a client that means no good.

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What a storm is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Storm {
    /// What each connection does.
    pub kind: Kind,
    /// The first address that they come from; the others are those behind it.
    pub from: Ipv4Addr,
    /// How many addresses.
    pub addresses: u32,
    /// Connections a second.
    pub per_second: u64,
    /// Connections in all.
    pub total: u64,
    /// How many are kept at once; the oldest goes, with a reset.
    pub hold: usize,
    /// Whether what is held stays until the storm is told to end.
    pub stay: bool,
}

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Nothing.
    Silent,
    /// Sends a header, one byte ten times a second.
    Trickle,
    /// Asks for an upgrade and says no more.
    Upgrade,
    /// Asks for an upgrade, naming its user, and says no more.
    Named,
    /// Asks `/healthz`, and keeps the connection.
    Health,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Connections that were begun.
    pub opened: u64,
    /// Connections that the system refused to begin.
    pub failed: u64,
    /// How long it took to begin them.
    pub took: Duration,
    /// How they ended, or stood when the storm gave them up: by status of the answer; `closed` and `silent` where there was none.
    pub ends: BTreeMap<String, u64>,
}

const UPGRADE: &str = "HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

struct Link {
    io: TcpStream,
    /// What it has yet to send.
    rest: Vec<u8>,
}

/// Storms until all connections were made, and `told` if it is to stay. `raging` is called once, when a tenth were made or all that
/// are held.
///
/// # Panics
/// If the address is none.
pub fn run(address: &str, storm: &Storm, told: impl Fn() -> bool, raging: impl Fn()) -> Report {
    klatch_harness::process::raise_files();
    let address: SocketAddr = address.parse().unwrap_or_else(|e| panic!("{address}: {e}"));
    let mut report = Report::default();
    let mut held: VecDeque<Link> = VecDeque::new();
    let request = match storm.kind {
        Kind::Silent => Vec::new(),
        Kind::Trickle => format!("GET /ws HTTP/1.1\r\nHost: x\r\nX-A: {}", "a".repeat(4000)).into_bytes(),
        Kind::Upgrade => format!("GET /ws {UPGRADE}").into_bytes(),
        Kind::Named => format!("GET /ws?user=storm {UPGRADE}").into_bytes(),
        Kind::Health => b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    };
    let began = Instant::now();
    let mut trickled = began;
    let enough = (storm.total / 10).max(1).min(storm.hold.max(1) as u64);
    let mut told_raging = false;
    while report.opened < storm.total || (storm.stay && !told()) {
        let due = (began.elapsed().as_secs_f64() * storm.per_second as f64) as u64;
        while report.opened < due.min(storm.total) {
            let source = u32::from(storm.from) + (report.opened % u64::from(storm.addresses.max(1))) as u32;
            report.opened += 1;
            report.took = began.elapsed();
            match open(address, source.into()) {
                Ok(io) => held.push_back(Link { io, rest: request.clone() }),
                Err(_) => report.failed += 1,
            }
            if let Some(link) = held.back_mut()
                && storm.kind != Kind::Trickle
            {
                link.send(usize::MAX);
            }
            while held.len() > storm.hold {
                if let Some(link) = held.pop_front() {
                    *report.ends.entry(link.end()).or_default() += 1;
                }
            }
        }
        if trickled.elapsed() >= Duration::from_millis(100) {
            trickled = Instant::now();
            let most = if storm.kind == Kind::Trickle { 1 } else { usize::MAX };
            held.iter_mut().filter(|l| !l.rest.is_empty()).for_each(|l| l.send(most));
        }
        if report.opened >= enough && !told_raging {
            told_raging = true;
            raging();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for link in held {
        *report.ends.entry(link.end()).or_default() += 1;
    }
    report
}

fn open(address: SocketAddr, source: Ipv4Addr) -> std::io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let io = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bind(&io, &SocketAddr::from((source, 0)))?;
    // Its end is a reset: it keeps no port in TIME_WAIT.
    set_socket_linger(&io, Some(Duration::ZERO))?;
    match connect(&io, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(io.into()),
        Err(e) => Err(e.into()),
    }
}

impl Link {
    /// Sends so many bytes of the rest, as far as the socket takes them. What cannot be sent is told by [`Link::end`].
    fn send(&mut self, most: usize) {
        let part = self.rest.get(..most.min(self.rest.len())).unwrap_or_default();
        match self.io.write(part) {
            Ok(n) => drop(self.rest.drain(..n)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(_) => self.rest.clear(),
        }
    }

    fn end(mut self) -> String {
        let mut head = [0; 12];
        match self.io.read(&mut head) {
            Ok(0) => "closed".into(),
            Ok(n) => {
                let text = String::from_utf8_lossy(head.get(..n).unwrap_or_default()).into_owned();
                text.strip_prefix("HTTP/1.1 ").unwrap_or(&text).to_owned()
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => "silent".into(),
            Err(_) => "closed".into(),
        }
    }
}
