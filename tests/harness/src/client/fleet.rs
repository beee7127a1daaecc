//! Thousands of WebSocket connections on one thread.

use crate::target::Target;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{
    Bytes, ClientHandshake, ClientRequestBuilder, Message, ServerHandshake, Utf8Bytes, WebSocket,
};

/// One connection of a [`Fleet`]; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link(usize);

/// What happened on a connection.
#[derive(Debug)]
pub enum Event {
    /// An accepted connection has been upgraded.
    Accepted(Opening),
    /// An opened connection has been upgraded.
    Open,
    /// A text frame.
    Text(Utf8Bytes),
    /// A binary frame.
    Binary(Bytes),
    /// The connection is over, or never came about.
    Closed {
        /// The close frame's code, if there was one.
        code: Option<u16>,
        /// The close frame's reason, or what failed.
        reason: String,
    },
}

/// What a client asks for when it connects.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// Path and query.
    pub path: String,
    /// Headers beyond those of every WebSocket handshake: `x-klatch-*`, `authorization` and the like.
    pub headers: Vec<(String, String)>,
    /// The subprotocols it offers.
    pub protocols: Vec<String>,
}

/// Answers a handshake and keeps what was asked for.
#[derive(Clone, Debug)]
struct Capture(Arc<Mutex<Opening>>);

impl Callback for Capture {
    // The size of the error is tungstenite's choice.
    #[allow(clippy::result_large_err)]
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        let mut opening = Opening {
            path: request.uri().path_and_query().map_or("/ws", |p| p.as_str()).to_owned(),
            ..Opening::default()
        };
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            match name.as_str() {
                "sec-websocket-protocol" => {
                    opening.protocols.extend(value.split(',').map(|p| p.trim().to_owned()));
                }
                "host" | "connection" | "upgrade" => {}
                name if name.starts_with("sec-websocket-") => {}
                name => opening.headers.push((name.to_owned(), value)),
            }
        }
        if let Some(protocol) = opening.protocols.first().and_then(|p| p.parse().ok()) {
            response.headers_mut().insert("sec-websocket-protocol", protocol);
        }
        if let Ok(mut seen) = self.0.lock() {
            *seen = opening;
        }
        Ok(response)
    }
}

enum Phase {
    Connecting(TcpStream, Box<ClientRequestBuilder>),
    Asking(Box<MidHandshake<ClientHandshake<TcpStream>>>),
    Answering(Box<MidHandshake<ServerHandshake<TcpStream, Capture>>>, Capture),
    Open(Box<WebSocket<TcpStream>>),
    Over,
}

struct Conn {
    phase: Phase,
    /// Has something to flush.
    dirty: bool,
    /// Is not read.
    paused: bool,
    close: Option<(u16, String)>,
}

/// Many connections, opened or accepted, driven by [`Fleet::turn`].
///
/// Limits: 1 MiB a frame; 8 MiB waiting to be written to one connection, past which it is closed; 64 frames of one
/// connection in one turn, so that a busy one does not starve the others.
pub struct Fleet {
    poll: Poll,
    ready: Events,
    conns: HashMap<usize, Conn>,
    dirty: Vec<usize>,
    /// Connections that may have more to read than was read.
    again: Vec<usize>,
    listener: Option<TcpListener>,
    next: usize,
    receive_buffer: Option<usize>,
}

const LISTENER: Token = Token(0);
const FRAMES_A_TURN: usize = 64;

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(8 << 20)
        .max_message_size(Some(1 << 20))
        .max_frame_size(Some(1 << 20))
}

impl Fleet {
    /// An empty fleet.
    pub fn new() -> io::Result<Fleet> {
        Ok(Fleet {
            poll: Poll::new()?,
            ready: Events::with_capacity(1024),
            conns: HashMap::new(),
            dirty: Vec::new(),
            again: Vec::new(),
            listener: None,
            next: 1,
            receive_buffer: None,
        })
    }

    /// Connections opened from now on have a receive buffer of so many bytes in the kernel, and not what the system chooses.
    /// The smaller it is, the sooner the server notices that a paused connection takes nothing.
    pub fn receive_buffer(&mut self, bytes: Option<usize>) {
        self.receive_buffer = bytes;
    }

    /// Stops reading a connection: what comes waits in the kernel, and no event follows, not even its end.
    pub fn pause(&mut self, link: Link) {
        if let Some(conn) = self.conns.get_mut(&link.0) {
            conn.paused = true;
        }
    }

    /// Reads it again.
    pub fn unpause(&mut self, link: Link) {
        if let Some(conn) = self.conns.get_mut(&link.0)
            && std::mem::take(&mut conn.paused)
        {
            self.again.push(link.0);
        }
    }

    /// Accepts WebSocket connections too, whatever path and subprotocol they ask for.
    pub fn listen(&mut self, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        self.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// A handle that ends a waiting [`Fleet::turn`] from another thread. At most one per fleet.
    pub fn waker(&self) -> io::Result<mio::Waker> {
        mio::Waker::new(self.poll.registry(), Token(usize::MAX))
    }

    /// Begins a connection; [`Event::Open`] or [`Event::Closed`] follows. `source` is the loopback address to come
    /// from, for servers that limit connections per address.
    pub fn open(&mut self, target: &Target, opening: &Opening, source: Option<Ipv4Addr>) -> io::Result<Link> {
        let uri = target.to_string().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let mut request = ClientRequestBuilder::new(uri);
        for (name, value) in &opening.headers {
            request = request.with_header(name, value);
        }
        for protocol in &opening.protocols {
            request = request.with_sub_protocol(protocol);
        }
        let stream = TcpStream::from_std(target.begin(source, self.receive_buffer)?);
        self.add(stream, |stream| Phase::Connecting(stream, Box::new(request)))
    }

    fn add(&mut self, mut stream: TcpStream, phase: impl FnOnce(TcpStream) -> Phase) -> io::Result<Link> {
        let id = self.next;
        self.next += 1;
        self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
        self.conns.insert(id, Conn { phase: phase(stream), dirty: false, paused: false, close: None });
        Ok(Link(id))
    }

    /// How many connections there are, in whatever phase.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Queues a text frame; written at the next turn. False if the connection is not open or its queue is full.
    pub fn send(&mut self, link: Link, text: impl Into<Utf8Bytes>) -> bool {
        self.write(link, Message::Text(text.into()))
    }

    /// Queues a binary frame, as [`Fleet::send`].
    pub fn send_binary(&mut self, link: Link, bytes: impl Into<Bytes>) -> bool {
        self.write(link, Message::Binary(bytes.into()))
    }

    /// Queues a close frame; the connection ends when the peer has answered it.
    pub fn close(&mut self, link: Link, code: u16, reason: &str) -> bool {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
        self.write(link, Message::Close(Some(frame)))
    }

    fn write(&mut self, link: Link, message: Message) -> bool {
        let Some(conn) = self.conns.get_mut(&link.0) else { return false };
        let Phase::Open(socket) = &mut conn.phase else { return false };
        if !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push(link.0);
        }
        match socket.write(message) {
            Ok(()) => true,
            // It is in the buffer and goes out when the socket takes it.
            Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => true,
            Err(_) => false,
        }
    }

    /// Ends a connection at once, without a close frame. No event follows.
    pub fn cut(&mut self, link: Link) {
        self.conns.remove(&link.0);
    }

    /// Writes what is queued, waits up to `timeout` for something to happen, and adds it to `events`.
    pub fn turn(&mut self, timeout: Duration, events: &mut Vec<(Link, Event)>) -> io::Result<()> {
        for id in std::mem::take(&mut self.dirty) {
            self.flush(id, events);
        }
        let again = std::mem::take(&mut self.again);
        let wait = if again.is_empty() && events.is_empty() { timeout } else { Duration::ZERO };
        match self.poll.poll(&mut self.ready, Some(wait)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        let mut work = again;
        for event in &self.ready {
            match event.token() {
                Token(usize::MAX) => {}
                token => work.push(token.0),
            }
        }
        work.sort_unstable();
        work.dedup();
        for id in work {
            if Token(id) == LISTENER {
                self.accept()?;
            } else {
                self.drive(id, events);
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        // Edge-triggered: take all there are. A failure of one (reset while it waited) is no failure of the listener.
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    let capture = Capture(Arc::default());
                    self.add(stream, |stream| {
                        let start = ServerHandshake::start(stream, capture.clone(), Some(config()));
                        Phase::Answering(Box::new(start), capture)
                    })?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn flush(&mut self, id: usize, events: &mut Vec<(Link, Event)>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Phase::Open(socket) = &mut conn.phase else { return };
        match socket.flush() {
            Ok(()) => conn.dirty = false,
            // `dirty` stays set: the next event of this socket flushes.
            Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
            // What the peer said before it went can still be read, so reading reports the end.
            Err(_) => self.drive(id, events),
        }
    }

    fn drive(&mut self, id: usize, events: &mut Vec<(Link, Event)>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let link = Link(id);
        let failed = match std::mem::replace(&mut conn.phase, Phase::Over) {
            Phase::Open(socket) => {
                conn.phase = Phase::Open(socket);
                self.read(id, events);
                return;
            }
            Phase::Connecting(stream, request) => match connected(&stream) {
                Ok(true) => match tungstenite::client::client_with_config(*request, stream, Some(config())) {
                    Ok((socket, _)) => return self.opened(id, socket, Event::Open, events),
                    Err(HandshakeError::Interrupted(mid)) => {
                        conn.phase = Phase::Asking(Box::new(mid));
                        return;
                    }
                    Err(HandshakeError::Failure(e)) => e.to_string(),
                },
                Ok(false) => {
                    conn.phase = Phase::Connecting(stream, request);
                    return;
                }
                Err(e) => e.to_string(),
            },
            Phase::Asking(mid) => match mid.handshake() {
                Ok((socket, _)) => return self.opened(id, socket, Event::Open, events),
                Err(HandshakeError::Interrupted(mid)) => {
                    conn.phase = Phase::Asking(Box::new(mid));
                    return;
                }
                Err(HandshakeError::Failure(e)) => e.to_string(),
            },
            Phase::Answering(mid, capture) => match mid.handshake() {
                Ok(socket) => {
                    let opening = capture.0.lock().map(|o| o.clone()).unwrap_or_default();
                    return self.opened(id, socket, Event::Accepted(opening), events);
                }
                Err(HandshakeError::Interrupted(mid)) => {
                    conn.phase = Phase::Answering(Box::new(mid), capture);
                    return;
                }
                Err(HandshakeError::Failure(e)) => e.to_string(),
            },
            Phase::Over => "over".to_owned(),
        };
        self.conns.remove(&id);
        events.push((link, Event::Closed { code: None, reason: failed }));
    }

    fn opened(
        &mut self,
        id: usize,
        socket: WebSocket<TcpStream>,
        event: Event,
        events: &mut Vec<(Link, Event)>,
    ) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.phase = Phase::Open(Box::new(socket));
            events.push((Link(id), event));
            // Frames may have come with the handshake.
            self.read(id, events);
        }
    }

    fn read(&mut self, id: usize, events: &mut Vec<(Link, Event)>) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.paused) else { return };
        let Phase::Open(socket) = &mut conn.phase else { return };
        let link = Link(id);
        for _ in 0..FRAMES_A_TURN {
            match socket.read() {
                Ok(Message::Text(text)) => events.push((link, Event::Text(text))),
                Ok(Message::Binary(bytes)) => events.push((link, Event::Binary(bytes))),
                Ok(Message::Close(frame)) => {
                    conn.close = frame.map(|f| (u16::from(f.code), f.reason.to_string()));
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    if conn.dirty {
                        conn.dirty = false;
                        match socket.flush() {
                            Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                                conn.dirty = true;
                            }
                            // The next event of this socket, its end, is read.
                            _ => {}
                        }
                    }
                    return;
                }
                Err(e) => {
                    let (code, reason) = match conn.close.take() {
                        Some((code, reason)) => (Some(code), reason),
                        None => (None, e.to_string()),
                    };
                    self.conns.remove(&id);
                    events.push((link, Event::Closed { code, reason }));
                    return;
                }
            }
        }
        self.again.push(id);
    }
}

/// Whether a connect has come about; an error if it failed.
fn connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(e) = stream.take_error()? {
        return Err(e);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(e) => Err(e),
    }
}
