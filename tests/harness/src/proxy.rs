//! A proxy between clients and a correct server that makes it a broken one, to see that the checker notices.
//!
//! It counts what can be noticed. A lost publication cannot be if its member leaves before another one comes: it could as well have left
//! before the lost one was sent. So a loss counts only as long as its member has not left and its connection stands.

use crate::client::{Event, Fleet, Link, Opening};
use crate::target::Target;
use crate::wire::Frame;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tungstenite::Utf8Bytes;

/// What the proxy does to the frames of a correct server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Loses one in N publications.
    Drop,
    /// Sends one in N publications twice.
    Double,
    /// Holds one in N publications until after the next one of its room. One that has no next within half a second
    /// goes on its way, and is not counted.
    Swap,
    /// Answers each publish at once with a guessed position, and loses one in N of them.
    AckEarly,
    /// Loses the first live publication after a join's history, at one in N joins.
    SkipAtSeam,
    /// Changes one in N publications: the data, the user and the time in turn.
    Alter,
}

/// A running proxy for WebSocket connections; stopped when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    waker: mio::Waker,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// How often a fault strikes if nothing else is said.
pub const ONE_IN: u64 = 5000;

impl Proxy {
    /// A proxy on a port of its own in front of the server at this `ws://` URL; every `one_in`th time the fault strikes.
    pub fn start(server: &str, fault: Fault, one_in: u64) -> io::Result<Proxy> {
        let target = Target::parse(server)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let mut fleet = Fleet::new()?;
        fleet.listen(listener)?;
        let waker = fleet.waker()?;
        let (faults, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut relay = Relay {
            fleet,
            target,
            fault,
            one_in: one_in.max(1),
            seen: 0,
            faults: faults.clone(),
            pairs: HashMap::new(),
            opened: 0,
        };
        let stopped = stop.clone();
        let thread =
            std::thread::Builder::new().name("proxy".to_owned()).spawn(move || relay.run(&stopped))?;
        Ok(Proxy { address, faults, stop, waker, thread: Some(thread) })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// How often the fault has struck, as far as it must be noticed if the run ends now: read it while clients that are still members are
    /// connected. Losses of a member with nothing after them count once, as it is behind whatever their number.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One of the two connections of a client.
struct Side {
    other: Link,
    to_server: bool,
    /// What a client sent before the server's side was open. Bounded by what it may send before its welcome.
    early: Vec<Utf8Bytes>,
    open: bool,
    /// By room, on the server's side: what is held back, and since when.
    held: HashMap<String, (Utf8Bytes, Instant)>,
    /// By room: the last offset of its history, where the first publication after it is to be lost.
    seams: HashMap<String, u64>,
    /// By room: publications lost, with none after them that was not.
    lost: HashMap<String, u64>,
    /// By room: its last offset seen, to guess from, and its epoch.
    last: HashMap<String, (u64, String)>,
}

const EARLY: usize = 1024;
const HELD: Duration = Duration::from_millis(500);

struct Relay {
    fleet: Fleet,
    target: Target,
    fault: Fault,
    one_in: u64,
    seen: u64,
    faults: Arc<AtomicU64>,
    pairs: HashMap<Link, Side>,
    opened: u32,
}

impl Relay {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            self.fleet.turn(Duration::from_millis(100), &mut events)?;
            for (link, event) in events.drain(..) {
                self.event(link, event)?;
            }
            if self.fault == Fault::Swap {
                self.release();
            }
        }
        Ok(())
    }

    fn event(&mut self, link: Link, event: Event) -> io::Result<()> {
        match event {
            Event::Accepted(opening) => self.pair(link, &opening),
            Event::Open => {
                if let Some(side) =
                    self.pairs.get(&link).map(|s| s.other).and_then(|c| self.pairs.get_mut(&c))
                {
                    side.open = true;
                    for text in std::mem::take(&mut side.early) {
                        self.fleet.send(link, text);
                    }
                }
                Ok(())
            }
            Event::Text(text) => {
                let Some(side) = self.pairs.get(&link) else { return Ok(()) };
                let other = side.other;
                if side.to_server {
                    self.request(link, other, text)
                } else {
                    self.reply(link, other, text)
                }
                Ok(())
            }
            Event::Binary(bytes) => {
                if let Some(side) = self.pairs.get(&link) {
                    self.fleet.send_binary(side.other, bytes);
                }
                Ok(())
            }
            Event::Closed { code, reason } => {
                if let Some(side) = self.pairs.remove(&link) {
                    let other = self.pairs.remove(&side.other);
                    // A resume brings what was lost last; nothing was wrong then.
                    //
                    let unseen = side.lost.len() + other.map_or(0, |other| other.lost.len());
                    self.faults.fetch_sub(unseen as u64, Ordering::Relaxed);
                    match code {
                        // 1005 and 1006 stand for the absence of a code and are never sent.
                        Some(code) if !matches!(code, 1005 | 1006) => {
                            self.fleet.close(side.other, code, &reason);
                        }
                        _ => self.fleet.cut(side.other),
                    }
                }
                Ok(())
            }
        }
    }

    fn pair(&mut self, client: Link, opening: &Opening) -> io::Result<()> {
        let target = self.target.at(&opening.path);
        // The server sees as many addresses as there would be without the proxy.
        self.opened += 1;
        let source = target.source(self.opened);
        let server = self.fleet.open(&target, opening, source)?;
        let side = |other, to_server| Side {
            other,
            to_server,
            early: Vec::new(),
            open: false,
            held: HashMap::new(),
            seams: HashMap::new(),
            lost: HashMap::new(),
            last: HashMap::new(),
        };
        self.pairs.insert(client, side(server, true));
        self.pairs.insert(server, side(client, false));
        Ok(())
    }

    /// Whether this is the one in N.
    fn is_next(&mut self) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(self.one_in)
    }

    /// The same, and counts it.
    fn strikes(&mut self) -> bool {
        let strikes = self.is_next();
        if strikes {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        strikes
    }

    /// Loses a publication of this room: its member is behind.
    fn lose(&mut self, server: Link, room: String) {
        if let Some(side) = self.pairs.get_mut(&server) {
            let lost = side.lost.entry(room).or_default();
            *lost += 1;
            if *lost == 1 {
                self.faults.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A publication of this room goes to its member: what was lost before it is a gap now.
    fn pass(&mut self, server: Link, client: Link, room: &str, text: Utf8Bytes) {
        if let Some(lost) = self.pairs.get_mut(&server).and_then(|side| side.lost.remove(room)) {
            self.faults.fetch_add(lost - 1, Ordering::Relaxed);
        }
        self.fleet.send(client, text);
    }

    /// The member leaves: nothing of this room may come after, and what was lost last is not seen to be missing.
    fn left(&mut self, server: Link, client: Link, room: &str) {
        let Some(side) = self.pairs.get_mut(&server) else { return };
        side.seams.remove(room);
        if side.lost.remove(room).is_some() {
            self.faults.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some((held, _)) = side.held.remove(room) {
            self.fleet.send(client, held);
        }
    }

    /// A frame from a client to the server.
    fn request(&mut self, client: Link, server: Link, text: Utf8Bytes) {
        if self.fault == Fault::AckEarly
            && let Ok(frame) = Frame::parse(&text)
            && &*frame.kind == "publish"
        {
            let guess = self.pairs.get_mut(&server).and_then(|s| s.last.get_mut(&*frame.room)).map(
                |(last, epoch)| {
                    *last += 1;
                    (*last, epoch.clone())
                },
            );
            if let Some((offset, epoch)) = guess {
                let ack = serde_json::json!({
                    "type": "ack", "ref": frame.reference, "room": &*frame.room, "epoch": epoch, "offset": offset,
                    "id": &*frame.id,
                });
                self.fleet.send(client, ack.to_string());
                if self.strikes() {
                    return;
                }
            }
        }
        match self.pairs.get_mut(&client) {
            Some(side) if !side.open => {
                if side.early.len() < EARLY {
                    side.early.push(text);
                }
            }
            _ => {
                self.fleet.send(server, text);
            }
        }
    }

    /// A frame from the server to a client.
    fn reply(&mut self, server: Link, client: Link, text: Utf8Bytes) {
        let is = |kind: &str| text.strip_prefix(r#"{"type":""#).is_some_and(|rest| rest.starts_with(kind));
        let (joined, left) = (is("joined\""), is("left\""));
        if self.fault == Fault::None || !(joined || left || is("publication\"")) {
            self.fleet.send(client, text);
            return;
        }
        let Ok(frame) = Frame::parse(&text) else {
            self.fleet.send(client, text);
            return;
        };
        let (room, offset) = (frame.room.to_string(), frame.offset.unwrap_or_default());
        let last = frame.last.unwrap_or_default();
        if left {
            self.left(server, client, &room);
            self.fleet.send(client, text);
            return;
        }
        if joined {
            let strikes = self.fault == Fault::SkipAtSeam && self.is_next();
            if let Some(side) = self.pairs.get_mut(&server) {
                side.last.insert(room.clone(), (last, frame.epoch.to_string()));
                if strikes {
                    side.seams.insert(room, last);
                }
            }
            self.fleet.send(client, text);
            return;
        }
        if let Some((last, _)) = self.pairs.get_mut(&server).and_then(|s| s.last.get_mut(&room)) {
            *last = (*last).max(offset);
        }
        let fault = self.fault;
        match fault {
            Fault::Drop if self.is_next() => self.lose(server, room),
            Fault::Double if self.strikes() => {
                self.fleet.send(client, text.clone());
                self.fleet.send(client, text);
            }
            Fault::Swap => {
                let earlier = self.pairs.get_mut(&server).and_then(|s| s.held.remove(&room));
                self.seen += 1;
                match earlier {
                    Some((held, _)) => {
                        self.faults.fetch_add(1, Ordering::Relaxed);
                        self.fleet.send(client, text);
                        self.fleet.send(client, held);
                    }
                    None if self.seen.is_multiple_of(self.one_in) => {
                        if let Some(side) = self.pairs.get_mut(&server) {
                            side.held.insert(room, (text, Instant::now()));
                        }
                    }
                    None => {
                        self.fleet.send(client, text);
                    }
                }
            }
            Fault::SkipAtSeam => {
                let seam = self.pairs.get(&server).and_then(|s| s.seams.get(&room)).copied();
                if seam.is_some_and(|last| offset > last) {
                    if let Some(side) = self.pairs.get_mut(&server) {
                        side.seams.remove(&room);
                    }
                    self.lose(server, room);
                } else {
                    self.pass(server, client, &room, text);
                }
            }
            Fault::Alter if self.strikes() => {
                let altered = alter(&frame, &text, self.faults.load(Ordering::Relaxed));
                self.fleet.send(client, altered);
            }
            _ => self.pass(server, client, &room, text),
        }
    }

    fn release(&mut self) {
        for side in self.pairs.values_mut().filter(|s| !s.held.is_empty()) {
            let late: Vec<String> = side
                .held
                .iter()
                .filter(|(_, (_, since))| since.elapsed() > HELD)
                .map(|(room, _)| room.clone())
                .collect();
            for room in late {
                if let Some((text, _)) = side.held.remove(&room) {
                    self.fleet.send(side.other, text);
                }
            }
        }
    }
}

/// The publication with one thing changed.
fn alter(frame: &Frame<'_>, text: &str, turn: u64) -> String {
    let user = format!(r#""user":{},"#, serde_json::Value::from(&*frame.user));
    match (turn % 3, text.find(r#","data":"#).or_else(|| text.find(r#","bytes":"#))) {
        (1, Some(at)) => format!(r#"{},"data":"something else"}}"#, text.get(..at).unwrap_or_default()),
        (2, _) if text.contains(&user) => text.replacen(&user, r#""user":"mallory","#, 1),
        _ => {
            let time = frame.time.unwrap_or_default();
            text.replacen(&format!(r#""time":{time}"#), &format!(r#""time":{}"#, time + 1), 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn altering_changes_the_content_each_time() {
        let text = r#"{"type":"publication","room":"r","offset":2,"prev":1,"time":9,"user":"ann","id":"a","data":{"x":1}}"#;
        let frame = Frame::parse(text).unwrap();
        for turn in 0..3 {
            let altered = alter(&frame, text, turn);
            assert_ne!(Frame::parse(&altered).unwrap().content(), frame.content(), "{altered}");
        }
    }
}
