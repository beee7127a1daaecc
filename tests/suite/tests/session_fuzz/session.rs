//! One hostile connection: sends what its author makes up, and holds the server to its protocol.

use crate::commands::{Author, Command, Published};
use klatch::{Code, Disconnect};
use klatch_suite::random::Random;
use klatch_suite::ws::{Got, Out, PATIENCE, Ws};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What sessions have met, and how often.
pub type Seen = BTreeMap<String, u64>;

/// Answers to the client's first frame that end the connection, and what else may end one that did nothing fatal: too many bad
/// requests.
const PROTOCOL: u16 = 4502;

/// A request that was sent.
struct Waiting {
    reference: u64,
    text: String,
    publishes: Option<Published>,
}

pub struct Session<'a> {
    name: &'a str,
    user: String,
    ws: Ws,
    author: Author,
    seen: &'a mut Seen,
    /// Requests without an answer, in the order sent.
    waiting: Vec<Waiting>,
    /// Publishes whose publication has come, for which that may have been the answer; or it came as history, and the answer comes
    /// yet.
    published: HashSet<u64>,
    /// Junk without an answer.
    junk: Vec<String>,
    pings: Vec<Vec<u8>>,
    /// The close codes of which one must come; none: nothing fatal was sent.
    fatal: Option<(&'static [u16], String)>,
    over: bool,
    /// What it sent and what came for it alone, for whoever reads a failure.
    story: Vec<String>,
}

impl Session<'_> {
    /// A whole session; `step` is called for each command.
    pub fn run(address: SocketAddr, name: &str, random: Random, seen: &mut Seen, mut step: impl FnMut()) {
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        let user = format!("u{}", &digits[digits.len().saturating_sub(12)..]);
        let mut author = Author::new(random, user.clone());
        let (query, welcome) = author.query(&user);
        let opened = Ws::open(address, &format!("/ws?{query}"), &[], &[])
            .unwrap_or_else(|e| panic!("{name}: /ws?{query}: {e}"));
        let ws = match opened {
            Ok((ws, _)) if welcome => ws,
            Err(answer) if !welcome => {
                *seen.entry(format!("status {}", answer.status)).or_default() += 1;
                return assert_eq!(answer.status, 400, "{name}: /ws?{query}: {}", answer.body);
            }
            Ok(_) => panic!("{name}: /ws?{query} was let in"),
            Err(answer) => panic!("{name}: /ws?{query} was refused: {answer:?}"),
        };
        let user = if query.is_empty() { String::new() } else { user };
        let (waiting, published, junk, pings) = Default::default();
        let story = vec![format!("/ws?{query}")];
        let mut session = Session {
            name,
            user,
            ws,
            author,
            seen,
            waiting,
            published,
            junk,
            pings,
            fatal: None,
            over: false,
            story,
        };
        if query.is_empty() && session.author.below(2) == 0 {
            // Else the first command says that it is anonymous.
            session.send(Command::Request {
                text: r#"{"ref":0,"type":"connect","room":"shared","history":3}"#.into(),
                reference: 0,
                publishes: None,
            });
        }
        for _ in 0..1 + session.author.below(crate::COMMANDS) {
            let command = session.author.command();
            session.send(command);
            step();
            if session.fatal.is_some() || session.over {
                break;
            }
            // Sometimes it reads, and sometimes it has sent many before it does.
            if session.author.below(3) == 0 {
                session.read(Duration::from_millis(1));
            }
        }
        match session.author.below(6) {
            // Gone, perhaps in the middle of a frame.
            0 => {
                let frame =
                    Out { opcode: 1, fin: true, rsv: 0, masked: true, payload: b"{\"type\":\"ping\"}" }
                        .bytes();
                let cut = session.author.below(frame.len() as u64) as usize;
                // It may have been closed already.
                let _ = session.ws.write(&frame[..cut]);
            }
            _ => session.settle(),
        }
    }

    fn send(&mut self, command: Command) {
        let bytes = match command {
            Command::Request { text, reference, publishes } => {
                self.story.push(format!("> {text:.200}"));
                let frames = self.author.frames(&text);
                self.waiting.push(Waiting { reference, text, publishes });
                frames
            }
            Command::Junk(text) => {
                self.story.push(format!("> {text:.200}"));
                let frames = self.author.frames(&text);
                self.junk.push(text);
                frames
            }
            Command::Ping(payload) => {
                let frame = Out { opcode: 9, fin: true, rsv: 0, masked: true, payload: &payload }.bytes();
                self.pings.push(payload);
                frame
            }
            Command::Fatal(bytes, codes) => {
                let start = String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).into_owned();
                self.fatal = Some((codes, start));
                bytes
            }
        };
        // One that the server has closed says so when it is read.
        let _ = self.ws.write(&bytes);
    }

    /// Reads what has come, and what comes within this time.
    fn read(&mut self, patience: Duration) {
        while !self.over
            && let Some(got) = self.ws.next_within(patience).unwrap_or_else(|e| panic!("{}: {e}", self.name))
        {
            self.got(got);
        }
    }

    /// Reads until all is answered, or the connection ends as it must.
    fn settle(&mut self) {
        let until = Instant::now() + PATIENCE;
        while !self.over && (self.fatal.is_some() || self.is_waiting()) {
            let left = until.saturating_duration_since(Instant::now());
            let Some(got) = self.ws.next_within(left).unwrap_or_else(|e| panic!("{}: {e}", self.name)) else {
                let waiting: Vec<_> = self.waiting.iter().map(|w| &w.text).collect();
                let (junk, pings) = (&self.junk, &self.pings);
                let story = self.story.join("\n");
                panic!(
                    "{}: no answer to {waiting:?}, {junk:?}, {pings:?}, {:?}\n{story}",
                    self.name, self.fatal
                );
            };
            self.got(got);
        }
        if !self.over {
            self.ws.finish(1000);
        }
    }

    fn is_waiting(&self) -> bool {
        !(self.waiting.is_empty() && self.junk.is_empty() && self.pings.is_empty())
    }

    fn note(&mut self, what: &str) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
    }

    fn got(&mut self, got: Got) {
        match got {
            Got::Text(text) => {
                let frame: Value = serde_json::from_str(&text)
                    .unwrap_or_else(|e| panic!("{}: the server sent {text}: {e}", self.name));
                self.frame(&frame);
            }
            Got::Pong(payload) => {
                // Of several pings the last may be answered alone (RFC 6455, 5.5.3).
                let at = self.pings.iter().position(|p| *p == payload);
                let at = at.unwrap_or_else(|| panic!("{}: a pong that answers no ping", self.name));
                self.pings.drain(..=at);
                self.note("pong");
            }
            Got::Ping(_) => {}
            Got::Close(code, reason) => {
                self.note(&format!("close {code}"));
                match &self.fatal {
                    Some((codes, sent)) => {
                        let expected = codes.contains(&code) || code == PROTOCOL;
                        assert!(expected, "{}: {code} {reason} after {sent:?}, not {codes:?}", self.name);
                    }
                    None => assert_eq!(code, PROTOCOL, "{}: {reason}", self.name),
                }
                self.ws.finish(code);
                self.over = true;
            }
            Got::End => {
                assert!(self.fatal.is_some(), "{}: the connection ended without a close frame", self.name);
                self.over = true;
            }
            Got::Binary(_) => panic!("{}: a binary frame", self.name),
        }
    }

    fn answered(&mut self, reference: u64, frame: &Value) {
        match self.waiting.iter().position(|w| w.reference == reference) {
            Some(at) => drop(self.waiting.remove(at)),
            None => assert!(self.published.remove(&reference), "{}: it answers nothing: {frame}", self.name),
        }
    }

    fn frame(&mut self, frame: &Value) {
        let kind = frame["type"].as_str().unwrap_or_default();
        self.note(kind);
        let foreign = frame["user"].as_str().is_some_and(|user| user != self.user);
        let of_others = matches!(kind, "presence_event" | "signal") || (kind == "publication" && foreign);
        if !of_others {
            self.story.push(format!("< {:.200}", frame.to_string()));
        }
        let reference = frame["ref"].as_u64();
        match kind {
            "welcome" | "joined" | "left" | "ack" | "done" | "history" | "presence" | "pong" => {
                if frame["duplicate"] == true {
                    self.note("duplicate");
                }
                // What the query asked for has none.
                if let Some(reference) = reference {
                    self.answered(reference, frame);
                }
            }
            "publication" => {
                let (id, room) = (frame["id"].as_str(), frame["room"].as_str());
                let mine = frame["user"].as_str().unwrap_or_default() == self.user;
                // An id may be used in several rooms. Which one is the default room is not known here.
                // Where one names the room and another does not, it may be either's: the other's answer, if there is one, comes yet.
                for named in [room, None] {
                    let mut publishes = self.waiting.iter().map(|w| w.publishes.as_ref());
                    let at = publishes
                        .position(|p| p.is_some_and(|p| Some(&*p.id) == id && p.room.as_deref() == named));
                    if let Some(at) = at.filter(|_| mine) {
                        self.published.insert(self.waiting.remove(at).reference);
                    }
                }
            }
            "error" => {
                let name = frame["name"].as_str().unwrap_or_default().to_owned();
                let code = Code::ALL.iter().find(|c| Some(u64::from(c.number())) == frame["code"].as_u64());
                assert_eq!(code.map(|c| c.name()), Some(&*name), "{}: {frame}", self.name);
                self.note(&name);
                match reference {
                    Some(reference) => self.answered(reference, frame),
                    None => {
                        assert!(!self.junk.is_empty(), "{}: it answers nothing: {frame}", self.name);
                        self.junk.remove(0);
                    }
                }
            }
            "disconnect" => {
                let known =
                    Disconnect::ALL.iter().any(|d| Some(u64::from(d.number())) == frame["code"].as_u64());
                assert!(known, "{}: {frame}", self.name);
            }
            "signal" | "presence_event" => {}
            _ => panic!("{}: a frame of no known type: {frame}", self.name),
        }
    }
}
