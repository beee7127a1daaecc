//! One established connection: its socket, its session, and what only an unusual moment needs.

use crate::points::{Rule, broken};
use crate::server::admission::Permit;
use crate::server::net::Socket;
use crate::session::Session;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use tokio_tungstenite::tungstenite::protocol::WebSocketContext;

/// See the module. Idle, it has no buffer.
#[derive(Debug)]
pub(crate) struct Conn<S> {
    pub(crate) io: S,
    pub(crate) session: Session,
    pub(crate) generation: u32,
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    /// When something came from it (steady clock).
    pub(crate) seen_ms: u64,
    /// When it was pinged without an answer yet; 0 if it was not.
    pub(crate) pinged_ms: u64,
    /// When the wheel looks at it next; 0 if it does not.
    pub(crate) timer_ms: u64,
    /// It was let in, and the host's events know of it.
    pub(crate) announced: bool,
    pub(crate) extra: Option<Box<Extra>>,
    pub(crate) _permit: Permit,
}

/// What only an unusual connection has: part of a frame, tungstenite at work, a backlog, a hook under way, a close under way.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Bytes that were read and not used: part of a frame, or whole ones if `stalled`.
    pub(crate) partial: Vec<u8>,
    /// The session was busy when these came.
    pub(crate) stalled: bool,
    /// The socket may have more to read than was read.
    pub(crate) unread: bool,
    pub(crate) ws: Option<Box<WebSocketContext>>,
    /// A fragmented message is unfinished, of so many fragments.
    pub(crate) mid: bool,
    pub(crate) fragments: usize,
    pub(crate) backlog: VecDeque<Bytes>,
    pub(crate) bytes: usize,
    /// When the socket last took something of the backlog.
    pub(crate) progress_ms: u64,
    pub(crate) closing: Closing,
    /// The hook call under way.
    pub(crate) hook: Option<PendingHook>,
    /// The history request under way: its room and ref.
    pub(crate) request: Option<(std::sync::Arc<str>, crate::command::Ref)>,
    /// The first frame, which waits for the authorizer.
    pub(crate) first: Option<String>,
    /// History is being read for it. One read at a time, and only while there is no backlog: what a client asks for it must
    /// also take.
    pub(crate) reading: bool,
    /// The read that waits for that.
    pub(crate) parked: Option<crate::server::reader::Job>,
    /// So much of the backlog is history that was asked for. It does not count as slow: that it is one page at a time bounds it.
    pub(crate) allowance: usize,
}

/// How far a close has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Closing {
    #[default]
    No,
    /// The close frame is in the backlog; nothing is read any more.
    Draining,
    /// Everything is out; waiting until this time for the peer to end it.
    Lingering(u64),
}

/// A hook call under way.
#[derive(Debug)]
pub(crate) struct PendingHook {
    pub(crate) call: u64,
    pub(crate) deadline_ms: u64,
    pub(crate) what: HookFor,
}

/// What the call was about.
#[derive(Debug)]
pub(crate) enum HookFor {
    Connect,
    Join(std::sync::Arc<str>, crate::command::JoinOptions, crate::command::Ref),
    Publish(crate::session::Message),
}

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The socket or the backlog has it.
    Fine,
    /// The backlog has begun with it.
    Began,
    /// The backlog is over its bound.
    Slow,
    /// The socket is broken.
    Dead,
}

impl<S: Socket> Conn<S> {
    pub(crate) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(crate) fn has_backlog(&self) -> bool {
        self.extra.as_ref().is_some_and(|x| !x.backlog.is_empty())
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.extra.as_ref().is_some_and(|x| x.closing != Closing::No)
    }

    /// Whether history may be read for it now.
    pub(crate) fn may_read(&self) -> bool {
        self.extra.as_ref().is_none_or(|x| {
            !x.reading && x.parked.is_none() && x.backlog.is_empty() && x.closing == Closing::No
        })
    }

    /// One write; what the socket does not take is kept, as a slice of `shared` if there is one.
    pub(crate) fn send(&mut self, bytes: &[u8], shared: Option<&Bytes>, limit: usize, now_ms: u64) -> Sent {
        if self.is_closing() {
            return Sent::Fine;
        }
        let mut n = 0;
        let waiting = self.has_backlog();
        if !waiting {
            match self.io.send(bytes) {
                Ok(k) if k == bytes.len() => return Sent::Fine,
                Ok(k) => n = k,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return Sent::Dead,
            }
        }
        let rest = match shared {
            Some(s) => s.slice(n..),
            None => Bytes::copy_from_slice(bytes.get(n..).unwrap_or_default()),
        };
        let x = self.extra();
        if waiting && x.bytes + rest.len() > limit + x.allowance && broken(Rule::SlowIsClosed) {
            return Sent::Fine;
        }
        if !waiting {
            x.progress_ms = now_ms;
        }
        x.bytes += rest.len();
        x.backlog.push_back(rest);
        match (x.bytes > limit + x.allowance, waiting) {
            (true, _) => Sent::Slow,
            (false, true) => Sent::Fine,
            (false, false) => Sent::Began,
        }
    }

    /// Writes of the backlog what the socket takes. An error: the socket is broken.
    pub(crate) fn drain(&mut self, now_ms: u64) -> Result<(), ()> {
        let Conn { io, extra: Some(x), .. } = self else { return Ok(()) };
        while !x.backlog.is_empty() {
            let parts: Vec<_> = x.backlog.iter().take(64).map(|b| IoSlice::new(b)).collect();
            let mut n = match io.send_parts(&parts) {
                Ok(n) => n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
                Err(_) => return Err(()),
            };
            x.progress_ms = now_ms;
            x.bytes -= n.min(x.bytes);
            while let Some(b) = x.backlog.front_mut()
                && n > 0
            {
                if n < b.len() {
                    let _ = b.split_to(n);
                    break;
                }
                n -= b.len();
                x.backlog.pop_front();
            }
        }
        Ok(())
    }

    /// Gives the unusual state back when there is nothing in it.
    pub(crate) fn tidy(&mut self) {
        if self.extra.as_ref().is_some_and(|x| {
            x.ws.is_none()
                && x.partial.is_empty()
                && x.backlog.is_empty()
                && x.allowance == 0
                && !x.reading
                && x.parked.is_none()
                && x.first.is_none()
                && !x.unread
                && !x.mid
                && x.hook.is_none()
                && x.request.is_none()
                && x.closing == Closing::No
        }) {
            self.extra = None;
        }
    }
}
