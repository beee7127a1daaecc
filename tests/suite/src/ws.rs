//! A WebSocket client written from RFC 6455, blocking, without a library: it must be able to send what no library would.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The sample nonce of the RFC, and what a server must make of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, lower case but for values.
    pub head: String,
    /// The body.
    pub body: String,
}

/// What came from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A close frame: its code (0 if it has none) and reason.
    Close(u16, String),
    /// The end of the stream, or a reset.
    End,
}

/// A frame to be sent, as wrong as need be.
#[derive(Clone, Debug)]
pub struct Out<'a> {
    /// Which.
    pub opcode: u8,
    /// Whether it is the last of its message.
    pub fin: bool,
    /// The three reserved bits.
    pub rsv: u8,
    /// Clients must mask.
    pub masked: bool,
    /// What is in it.
    pub payload: &'a [u8],
}

impl Out<'_> {
    /// The frame's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        let mask = u8::from(self.masked) << 7;
        match self.payload.len() {
            n @ 0..126 => out.push(mask | n as u8),
            n @ 126..65_536 => {
                out.push(mask | 126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(mask | 127);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        if self.masked {
            let key = [0x5A, 0x03, 0xC7, 0x91];
            out.extend_from_slice(&key);
            out.extend(self.payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
        } else {
            out.extend_from_slice(self.payload);
        }
        out
    }
}

/// A client's end of a WebSocket.
#[derive(Debug)]
pub struct Ws {
    io: TcpStream,
    buf: Vec<u8>,
    /// Pings are answered without being asked.
    pub answers_pings: bool,
}

impl Ws {
    /// Asks for an upgrade of `path`, and sends `with` before it is answered. The inner error is an HTTP refusal.
    pub fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(String, String)],
        with: &[u8],
    ) -> io::Result<Result<(Ws, Answer), Answer>> {
        let mut io = TcpStream::connect_timeout(&address, PATIENCE)?;
        io.set_nodelay(true)?;
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        io.write_all(&[request.as_bytes(), with].concat())?;
        let mut buf = Vec::new();
        let answer = read_answer(&mut io, &mut buf)?;
        if answer.status != 101 {
            return Ok(Err(answer));
        }
        if !answer.head.contains(ACCEPT) {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("wrong accept key: {}", answer.head)));
        }
        Ok(Ok((Ws { io, buf, answers_pings: true }, answer)))
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes)
    }

    /// Sends a text message.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.write(&Out { opcode: 1, fin: true, rsv: 0, masked: true, payload: text.as_bytes() }.bytes())
    }

    /// What comes next, within [`PATIENCE`]; pings are answered before they are returned.
    pub fn read(&mut self) -> io::Result<Got> {
        let timed_out = || io::Error::new(ErrorKind::TimedOut, "nothing came in time");
        self.next_within(PATIENCE)?.ok_or_else(timed_out)
    }

    /// The same within another time; none if nothing comes.
    pub fn next_within(&mut self, patience: Duration) -> io::Result<Option<Got>> {
        let until = Instant::now() + patience;
        loop {
            if let Some(got) = self.parse()? {
                if let (Got::Ping(payload), true) = (&got, self.answers_pings) {
                    let pong = Out { opcode: 10, fin: true, rsv: 0, masked: true, payload }.bytes();
                    // The server may have gone already; what it said is still to be read.
                    let _ = self.io.write_all(&pong);
                }
                return Ok(Some(got));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.io.set_read_timeout(Some(left))?;
            let mut chunk = [0; 16 << 10];
            match self.io.read(&mut chunk) {
                Ok(0) => return Ok(Some(Got::End)),
                Ok(n) => self.buf.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(Some(Got::End)),
                Err(e) => return Err(e),
            }
        }
    }

    /// The next text message; everything but pings and pongs before it is an error.
    pub fn next_text(&mut self) -> io::Result<String> {
        loop {
            match self.read()? {
                Got::Text(text) => return Ok(text),
                Got::Ping(_) | Got::Pong(_) => {}
                other => {
                    let text = format!("a text message was to come, not {other:?}");
                    return Err(io::Error::new(ErrorKind::InvalidData, text));
                }
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<Got>> {
        let broken = |text: &str| Err(io::Error::new(ErrorKind::InvalidData, text.to_owned()));
        let [first, second, rest @ ..] = &self.buf[..] else { return Ok(None) };
        if first & 0xF0 != 0x80 {
            return broken("the server sent a fragment or reserved bits");
        }
        if second & 0x80 != 0 {
            return broken("the server sent a masked frame");
        }
        let (head, len) = match (second & 0x7F, rest) {
            (126, [a, b, ..]) => (4, u16::from_be_bytes([*a, *b]) as usize),
            (127, [a, b, c, d, e, f, g, h, ..]) => {
                (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize)
            }
            (126 | 127, _) => return Ok(None),
            (n, _) => (2, n as usize),
        };
        if self.buf.len() < head + len {
            return Ok(None);
        }
        let opcode = first & 0x0F;
        let payload = self.buf[head..head + len].to_vec();
        self.buf.drain(..head + len);
        Ok(Some(match opcode {
            1 => match String::from_utf8(payload) {
                Ok(text) => Got::Text(text),
                Err(_) => return broken("the server sent text that is not UTF-8"),
            },
            2 => Got::Binary(payload),
            8 => match &payload[..] {
                [a, b, reason @ ..] => {
                    Got::Close(u16::from_be_bytes([*a, *b]), String::from_utf8_lossy(reason).into_owned())
                }
                _ => Got::Close(0, String::new()),
            },
            9 => Got::Ping(payload),
            10 => Got::Pong(payload),
            other => return broken(&format!("the server sent opcode {other}")),
        }))
    }

    /// Sends a close frame.
    pub fn close(&mut self, code: u16) -> io::Result<()> {
        self.write(&Out { opcode: 8, fin: true, rsv: 0, masked: true, payload: &code.to_be_bytes() }.bytes())
    }

    /// Says that nothing more comes; what the server says can still be read.
    pub fn end(&self) {
        // The server may be quicker.
        let _ = self.io.shutdown(Shutdown::Write);
    }

    /// Answers a close and ends this side of the connection.
    pub fn finish(&mut self, code: u16) {
        // The server may be quicker.
        let _ = self.close(code);
        let _ = self.io.shutdown(Shutdown::Both);
    }
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut io = TcpStream::connect_timeout(&address, PATIENCE)?;
    write!(io, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    read_answer(&mut io, &mut Vec::new())
}

fn read_answer(io: &mut TcpStream, buf: &mut Vec<u8>) -> io::Result<Answer> {
    io.set_read_timeout(Some(PATIENCE))?;
    let mut fill = |buf: &mut Vec<u8>| -> io::Result<()> {
        let mut chunk = [0; 4096];
        match io.read(&mut chunk)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                buf.extend_from_slice(&chunk[..n]);
                Ok(())
            }
        }
    };
    let end = loop {
        match buf.windows(4).position(|w| w == b"\r\n\r\n") {
            Some(end) => break end + 4,
            None => fill(buf)?,
        }
    };
    let head: String = String::from_utf8_lossy(&buf[..end])
        .lines()
        .map(|line| match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}\n", name.to_ascii_lowercase()),
            None => format!("{line}\n"),
        })
        .collect();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no status line"))?;
    let length: usize = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .and_then(|v| v.parse().ok())
        .unwrap_or_default();
    while buf.len() < end + length {
        fill(buf)?;
    }
    let body = String::from_utf8_lossy(&buf[end..end + length]).into_owned();
    buf.drain(..end + length);
    Ok(Answer { status, head, body })
}
