//! One client on one socket, for tests that go step by step.

use super::state::{JoinOptions, Outcome, Seen, State};
use crate::observe::ClientLog;
use crate::target::Target;
use crate::wire::{Frame, Payload};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tungstenite::{ClientRequestBuilder, Message, WebSocket};

/// Why a client's call failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection could not be made or broke.
    Connection(String),
    /// The server closed the connection with this code and reason.
    Closed(u16, String),
    /// Nothing came within the client's timeout.
    Timeout,
    /// A frame that is not of the protocol.
    Malformed(String),
    /// The server refused the request: the error's name.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connection(text) => write!(f, "connection: {text}"),
            Failure::Closed(code, reason) => write!(f, "closed by the server: {code} {reason}"),
            Failure::Timeout => write!(f, "no answer in time"),
            Failure::Malformed(text) => write!(f, "not a frame of the protocol: {text}"),
            Failure::Refused(name) => write!(f, "refused: {name}"),
        }
    }
}

impl std::error::Error for Failure {}

/// A blocking client. All it sends and sees goes to its [`ClientLog`].
///
/// While a call waits for its reply, other frames are kept for [`Client::take`], 65,536 at most.
pub struct Client {
    target: Target,
    state: State,
    socket: Option<WebSocket<TcpStream>>,
    kept: VecDeque<(Seen, String)>,
    timeout: Duration,
}

const KEPT: usize = 65_536;

impl Client {
    /// Connects to `ws://HOST:PORT[/path?query]` as `user` (empty: anonymous), added to the query.
    pub fn connect(url: &str, user: &str) -> Result<Client, Failure> {
        let mut target = Target::parse(url).map_err(|e| Failure::Connection(e.to_string()))?;
        if !user.is_empty() {
            target = target.with("user", user);
        }
        let name = if user.is_empty() { "anonymous" } else { user };
        let mut client = Client {
            target,
            state: State::new(name, user),
            socket: None,
            kept: VecDeque::new(),
            timeout: Duration::from_secs(10),
        };
        client.dial()?;
        Ok(client)
    }

    fn dial(&mut self) -> Result<(), Failure> {
        let failed = |e: &dyn fmt::Display| Failure::Connection(e.to_string());
        let stream = self.target.connect(self.timeout).map_err(|e| failed(&e))?;
        wait(&stream, self.timeout).map_err(|e| failed(&e))?;
        let uri = self.target.to_string().parse().map_err(|e| failed(&e))?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol("klatch.v1");
        let (socket, _) = tungstenite::client(request, stream).map_err(|e| failed(&e))?;
        self.socket = Some(socket);
        if !self.target.path.contains('?') {
            // Who names nothing in the query is greeted only after a first frame.
            self.send_text(r#"{"type":"connect"}"#)?;
        }
        self.until(|seen| matches!(seen, Seen::Welcome).then_some(()))
    }

    /// How long calls wait from now on. Default 10 s.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
        if let Some(socket) = &self.socket {
            // A connection that has ended says so at the next call.
            let _ = wait(socket.get_ref(), timeout);
        }
    }

    /// What it did and saw so far.
    pub fn log(&self) -> &ClientLog {
        self.state.log()
    }

    /// Its state: positions, memberships.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Closes and hands over what it saw.
    pub fn into_log(mut self) -> ClientLog {
        if let Some(mut socket) = self.socket.take() {
            let _ = socket.close(None);
            let _ = socket.flush();
        }
        self.state.into_log()
    }

    /// Joins a room; whether its position was resumed from (true without one).
    pub fn join(&mut self, room: &str, options: JoinOptions) -> Result<bool, Failure> {
        let frame = self.state.join(room, options);
        let place = self.state.room(room);
        self.send_text(frame)?;
        self.until(|seen| match seen {
            Seen::Joined { room, recovered } if *room == place => Some(Ok(*recovered)),
            Seen::Refused { error, room: Some(room), .. } if *room == place => Some(Err(error.clone())),
            _ => None,
        })?
        .map_err(Failure::Refused)
    }

    /// Leaves a room.
    pub fn leave(&mut self, room: &str) -> Result<(), Failure> {
        let frame = self.state.leave(room);
        let place = self.state.room(room);
        self.send_text(frame)?;
        self.until(|seen| match seen {
            Seen::Left { room } if *room == place => Some(Ok(())),
            Seen::Refused { error, room: Some(room), .. } if *room == place => Some(Err(error.clone())),
            _ => None,
        })?
        .map_err(Failure::Refused)
    }

    /// Publishes JSON text and waits for the outcome. An empty id means none.
    pub fn publish(&mut self, room: &str, id: &str, data: &str) -> Result<Outcome, Failure> {
        let (message, frame) = self.state.publish(room, id, Payload::Json(data));
        self.send_text(frame)?;
        self.outcome(message)
    }

    /// Publishes JSON text without waiting; the message's place in [`ClientLog::publishes`].
    pub fn begin(&mut self, room: &str, id: &str, data: &str) -> Result<usize, Failure> {
        let (message, frame) = self.state.publish(room, id, Payload::Json(data));
        self.send_text(frame)?;
        Ok(message)
    }

    /// Sends a message again with the same id and waits for the outcome.
    pub fn retry(&mut self, message: usize) -> Result<Outcome, Failure> {
        match self.state.send_again(message) {
            Some(frame) => self.send_text(frame)?,
            None => return Err(Failure::Refused("the message is settled".to_owned())),
        }
        self.outcome(message)
    }

    /// Waits for the outcome of a message.
    pub fn outcome(&mut self, wanted: usize) -> Result<Outcome, Failure> {
        self.until(|seen| match seen {
            Seen::Published { message, outcome } if *message == wanted => Some(outcome.clone()),
            Seen::Publication { answers: Some(message), offset, .. } if *message == wanted => {
                Some(Outcome::Stored { offset: *offset, duplicate: false })
            }
            _ => None,
        })
    }

    /// Forgets the frames that were kept, for one who has no use for them.
    pub fn forget_kept(&mut self) {
        self.kept.clear();
    }

    /// The next frame, kept or new, and what it meant.
    pub fn take(&mut self) -> Result<(Seen, String), Failure> {
        match self.kept.pop_front() {
            Some(kept) => Ok(kept),
            None => self.receive(),
        }
    }

    /// Breaks the connection without a word, as a network does.
    pub fn cut(&mut self) {
        self.socket = None;
        self.kept.clear();
        self.state.closed();
    }

    /// Connects again (to another address if one is given), resumes every room and sends again what had no answer.
    pub fn reconnect(&mut self, url: Option<&str>) -> Result<(), Failure> {
        if self.socket.is_some() {
            self.cut();
        }
        if let Some(url) = url {
            let target = Target::parse(url).map_err(|e| Failure::Connection(e.to_string()))?;
            self.target =
                if self.state.user().is_empty() { target } else { target.with("user", self.state.user()) };
        }
        self.dial()?;
        for frame in self.state.resume() {
            self.send_text(frame)?;
        }
        Ok(())
    }

    /// Sends any text as one frame.
    pub fn send_text(&mut self, text: impl Into<String>) -> Result<(), Failure> {
        let Some(socket) = &mut self.socket else {
            return Err(Failure::Connection("not connected".to_owned()));
        };
        socket.send(Message::text(text.into())).map_err(|e| Failure::Connection(e.to_string()))
    }

    /// Waits until a frame means what `wanted` looks for; frames before it are kept.
    pub fn until<T>(&mut self, mut wanted: impl FnMut(&Seen) -> Option<T>) -> Result<T, Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let (seen, text) = self.receive()?;
            let found = wanted(&seen);
            // A publication that acknowledges is still a publication to be read by `take`.
            if found.is_none() || matches!(seen, Seen::Publication { .. }) {
                if self.kept.len() >= KEPT {
                    return Err(Failure::Malformed(
                        "too many frames kept while waiting for a reply".to_owned(),
                    ));
                }
                self.kept.push_back((seen, text));
            }
            if let Some(found) = found {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(Failure::Timeout);
            }
        }
    }

    fn receive(&mut self) -> Result<(Seen, String), Failure> {
        let Some(socket) = &mut self.socket else {
            return Err(Failure::Connection("not connected".to_owned()));
        };
        let failure = loop {
            match socket.read() {
                Ok(Message::Text(text)) => {
                    let frame =
                        Frame::parse(&text).map_err(|e| Failure::Malformed(format!("{e}: {text}")))?;
                    return Ok((self.state.frame(&frame), text.to_string()));
                }
                Ok(Message::Close(frame)) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    break Failure::Closed(code, reason);
                }
                Ok(Message::Binary(_)) => return Err(Failure::Malformed("a binary frame".to_owned())),
                Ok(_) => {}
                Err(tungstenite::Error::Io(e))
                    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                {
                    return Err(Failure::Timeout);
                }
                Err(e) => break Failure::Connection(e.to_string()),
            }
        };
        self.socket = None;
        self.state.closed();
        Err(failure)
    }
}

fn wait(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))
}
