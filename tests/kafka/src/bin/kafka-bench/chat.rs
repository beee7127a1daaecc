//! How to talk to each server: as much of WebSocket, of klatch's protocol and of Socket.IO's as a load needs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The text of every message: its number between two of these, and filling.
const MARK: u8 = b'#';
const DIGITS: usize = 12;
/// Bytes of a message.
pub const SIZE: usize = 128;
/// Any mask will do, but one of zeros might be a short cut.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A message's text.
pub fn text(number: u64) -> String {
    format!("#{number:0DIGITS$}#{:x<1$}", "", SIZE - DIGITS - 2)
}

/// The number in what holds a message's text, wherever.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let at = bytes.iter().position(|b| *b == MARK)? + 1;
    let digits = bytes.get(at..at + DIGITS)?;
    let digit = |n: u64, b: &u8| Some(n * 10 + u64::from(b.checked_sub(b'0').filter(|d| *d < 10)?));
    digits.iter().try_fold(0, digit)
}

/// What a sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is in the log.
    Stored,
    /// It is not.
    NotStored,
    /// It may be.
    Unknown,
}

/// What a frame means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A message, to whoever is in the room.
    Message(u64),
    /// An answer about a message.
    Answer(u64, Told),
    /// Something to be answered.
    Ping,
    /// Nothing of interest.
    Other,
}

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// klatch's own protocol. A sender is answered by its own message.
    Klatch,
    /// Engine.IO 4 and Socket.IO 5, over WebSocket from the beginning.
    SocketIo,
}

impl Dialect {
    /// A member of a room. Blocks until it is one.
    pub fn join(self, server: SocketAddr, room: &str, user: &str) -> io::Result<TcpStream> {
        let mut socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let path = match self {
            Dialect::Klatch => format!("/ws?room={room}&user={user}"),
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".into(),
        };
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            head.extend(byte);
        }
        match self {
            Dialect::Klatch => until(&mut socket, br#"{"type":"joined""#)?,
            Dialect::SocketIo => {
                until(&mut socket, b"0{")?;
                let mut connect = Vec::new();
                frame(&mut connect, format!(r#"40{{"room":"{room}","user":"{user}"}}"#).as_bytes());
                socket.write_all(&connect)?;
                until(&mut socket, b"40{")?;
            }
        }
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Puts the sending of a message behind what is to be sent.
    pub fn publish(self, number: u64, out: &mut Vec<u8>) {
        let text = text(number);
        let body = match self {
            // An id of the usual length.
            Dialect::Klatch => {
                format!(r#"{{"type":"publish","ref":{number},"id":"{number:036}","data":"{text}"}}"#)
            }
            Dialect::SocketIo => format!(r#"42{number}["message","{text}"]"#),
        };
        frame(out, body.as_bytes());
    }

    /// What a frame says.
    pub fn meaning(self, body: &[u8]) -> Meaning {
        match self {
            Dialect::Klatch if body.starts_with(br#"{"type":"publication""#) => {
                number(body).map_or(Meaning::Other, Meaning::Message)
            }
            Dialect::Klatch if body.starts_with(br#"{"type":"error""#) => {
                let told: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
                let outcome = match told.get("outcome").and_then(|o| o.as_str()) {
                    Some("not_stored") => Told::NotStored,
                    _ => Told::Unknown,
                };
                told.get("ref")
                    .and_then(|r| r.as_u64())
                    .map_or(Meaning::Other, |n| Meaning::Answer(n, outcome))
            }
            Dialect::Klatch => Meaning::Other,
            Dialect::SocketIo if body.starts_with(b"42[") => {
                number(body).map_or(Meaning::Other, Meaning::Message)
            }
            Dialect::SocketIo if body.starts_with(b"43") => {
                let digits = body.iter().skip(2).take_while(|b| b.is_ascii_digit());
                let number = digits.fold(0, |n, b| n * 10 + u64::from(b - b'0'));
                let told = if body.ends_with(b"[true]") { Told::Stored } else { Told::NotStored };
                Meaning::Answer(number, told)
            }
            Dialect::SocketIo if body == b"2" => Meaning::Ping,
            Dialect::SocketIo => Meaning::Other,
        }
    }

    /// The answer to a [`Meaning::Ping`].
    pub fn pong(out: &mut Vec<u8>) {
        frame(out, b"3");
    }
}

/// Reads frames until one begins so.
fn until(socket: &mut TcpStream, beginning: &[u8]) -> io::Result<()> {
    loop {
        let mut bytes = vec![0; 2];
        socket.read_exact(&mut bytes)?;
        while head(&bytes).is_none() {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            bytes.extend(byte);
        }
        let mut body = vec![0; head(&bytes).map_or(0, |(_, length, _)| length)];
        socket.read_exact(&mut body)?;
        if body.starts_with(beginning) {
            return Ok(());
        }
        let refused = body.starts_with(b"44") || body.starts_with(br#"{"type":"error""#);
        if refused || bytes.first() == Some(&0x88) {
            return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned()));
        }
    }
}

/// Puts a masked text frame behind what is to be sent.
fn frame(out: &mut Vec<u8>, body: &[u8]) {
    masked(out, 0x81, body);
}

/// The answer to a WebSocket ping.
pub fn ws_pong(out: &mut Vec<u8>, body: &[u8]) {
    masked(out, 0x8a, body);
}

fn masked(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    match body.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(body.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
}

/// Of a server's frame: where its body begins, how long it is, and the opcode; none if more bytes are needed.
pub fn head(bytes: &[u8]) -> Option<(usize, usize, u8)> {
    let [first, second, ..] = *bytes else { return None };
    let wide = |n: usize| bytes.get(2..2 + n).map(|b| b.iter().fold(0, |l, b| l << 8 | usize::from(*b)));
    let (start, length) = match second {
        126 => (4, wide(2)?),
        127 => (10, wide(8)?),
        n => (2, usize::from(n)),
    };
    Some((start, length, first & 15))
}
