//! Reading: from bytes to commands.

use super::Shard;
use crate::codes::Disconnect;
use crate::config::Limit;
use crate::protocol::native::decode::{self, Refused};
use crate::server::conn::Closing;
use crate::server::net::{Net, Socket};
use crate::server::wire::{self, Got};
use crate::session::Failure;
use std::io::ErrorKind;
use std::mem::take;
use std::sync::Arc;

/// Size of a shard's read buffer.
pub(super) const READ: usize = 64 << 10;

/// What processing a buffer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// All whole frames were used; so many bytes are left, the beginning of one.
    All(usize),
    /// The session became busy; so many bytes are left.
    Stalled(usize),
    /// The connection has ended.
    Ended,
}

impl<N: Net> Shard<N> {
    /// Reads what is there, one buffer at most.
    pub(super) fn read(&mut self, i: u32) {
        let policy = self.shared.clone();
        let policy = &policy.policy;
        let Some(c) = self.conn(i) else { return };
        if let Some(x) = &c.extra
            && x.closing != Closing::No
        {
            return self.read_to_end(i);
        }
        if c.session.is_busy(policy) {
            c.extra().unread = true;
            return;
        }
        let mut buf = take(&mut self.buf);
        let mut kept = Vec::new();
        let Some(c) = self.conns.get_mut(i as usize).and_then(Option::as_mut) else { return };
        if let Some(x) = &mut c.extra {
            kept = take(&mut x.partial);
            x.unread = take(&mut x.stalled);
            if x.unread {
                // Whole frames from before: these first, and nothing is read until they are done.
                self.buf = buf;
                match self.kept_frames(i, kept) {
                    Done::Ended => self.dead.push(i),
                    Done::All(_) => self.again.push(i),
                    Done::Stalled(_) => {}
                }
                return;
            }
        }
        let mut ended = false;
        let mut came = 0;
        match c.io.read(&mut buf) {
            Ok(0) => ended = true,
            Ok(n) => {
                came = n;
                // The time for the first frame is not prolonged by anything.
                if !c.session.is_new() {
                    c.seen_ms = self.now_ms;
                    c.pinged_ms = 0;
                }
                // A full buffer means that there may be more. A short one was all: what comes behind it, the end too, raises an
                // event of its own.
                if came == buf.len() {
                    self.again.push(i);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock || e.kind() == ErrorKind::Interrupted => {}
            Err(_) => ended = true,
        }
        let done = if kept.is_empty() {
            let done = self.frames(i, &mut buf[..came]);
            self.keep(i, done, |left| buf[came - left..came].to_vec());
            done
        } else {
            kept.extend_from_slice(&buf[..came]);
            self.kept_frames(i, kept)
        };
        if ended || done == Done::Ended {
            self.dead.push(i);
        }
        self.buf = buf;
    }

    /// Takes the frames of what was kept, and of what came behind it.
    fn kept_frames(&mut self, i: u32, mut kept: Vec<u8>) -> Done {
        let done = self.frames(i, &mut kept);
        // The beginning of a frame that is still not whole stays where it is: one that comes byte by byte costs a copy of each
        // byte, not of all before it.
        self.keep(i, done, |left| if left == kept.len() { kept } else { kept[kept.len() - left..].to_vec() });
        done
    }

    /// Keeps what is left for a later turn.
    fn keep(&mut self, i: u32, done: Done, bytes: impl FnOnce(usize) -> Vec<u8>) {
        let (Done::All(left) | Done::Stalled(left)) = done else { return };
        if left > 0
            && let Some(c) = self.conn(i)
        {
            let x = c.extra();
            x.partial = bytes(left);
            x.stalled = matches!(done, Done::Stalled(_));
        }
    }

    /// A connection that is being closed: its input is thrown away until it ends.
    fn read_to_end(&mut self, i: u32) {
        let mut buf = take(&mut self.buf);
        if let Some(c) = self.conn(i) {
            match c.io.read(&mut buf) {
                Ok(n) if n > 0 => self.again.push(i),
                Err(e) if e.kind() == ErrorKind::WouldBlock || e.kind() == ErrorKind::Interrupted => {}
                _ => self.dead.push(i),
            }
        }
        self.buf = buf;
    }

    /// Takes the frames of a buffer.
    fn frames(&mut self, i: u32, mut b: &mut [u8]) -> Done {
        let shared = self.shared.clone();
        let policy = &shared.policy;
        let max = policy.limits.message_bytes;
        while !b.is_empty() {
            let Some(c) = self.conns.get_mut(i as usize).and_then(Option::as_mut) else {
                return Done::All(0);
            };
            if c.is_closing() {
                return Done::All(0);
            }
            if c.session.is_busy(policy) {
                return Done::Stalled(b.len());
            }
            let (head, at, end) = match wire::head(b, max) {
                Ok(Some(h)) if h.2 <= b.len() => h,
                Ok(_) => return Done::All(b.len()),
                Err(e) => return self.protocol_error(i, &e),
            };
            let (whole, rest) = take(&mut b).split_at_mut(end);
            b = rest;
            let (mid, fragments) = c.extra.as_ref().map_or((false, 0), |x| (x.mid, x.fragments));
            if !mid && let (Some(text), Some(mask)) = (wire::plain(&head), head.mask) {
                let payload = &mut whole[at..];
                wire::unmask(payload, mask);
                if !text {
                    self.binary(i, payload);
                    continue;
                }
                match std::str::from_utf8(payload) {
                    Ok(text) => self.message(i, text),
                    Err(e) => {
                        let e = tokio_tungstenite::tungstenite::Error::Utf8(e.to_string());
                        return self.protocol_error(i, &e);
                    }
                }
                continue;
            }
            if wire::is_fragment(&head) && fragments >= policy.limits.fragments {
                self.write(i, &crate::protocol::frame::close(1008, "too many fragments"));
                self.shared.metrics.disconnects_protocol.inc();
                self.hit(Limit::Fragments);
                self.finish(i, Some(Disconnect::Protocol));
                return Done::All(0);
            }
            let x = c.extra();
            let mut ws = x.ws.take().unwrap_or_else(|| wire::context(max));
            let (mut out, mut got) = (Vec::new(), Vec::new());
            let fed = wire::feed(&mut ws, whole, &mut out, |g| got.push(g));
            let done = wire::finishes(&head, mid);
            x.mid = !done;
            x.fragments = if done { 0 } else { fragments + usize::from(wire::is_fragment(&head)) };
            if !done {
                x.ws = Some(ws);
            }
            for g in got {
                match g {
                    Got::Text(text) => self.message(i, &text),
                    Got::Binary(payload) => self.binary(i, &payload),
                }
            }
            if !out.is_empty() {
                self.write(i, &out);
            }
            if let Err(e) = fed {
                return self.protocol_error(i, &e);
            }
            if let Some(c) = self.conn(i) {
                c.tidy();
            }
        }
        Done::All(0)
    }

    /// Ends a connection that broke the WebSocket protocol, or whose closing handshake is done.
    fn protocol_error(&mut self, i: u32, e: &tokio_tungstenite::tungstenite::Error) -> Done {
        let why = match wire::close_for(e) {
            Some(close) => {
                self.shared.metrics.disconnects_protocol.inc();
                if matches!(e, tokio_tungstenite::tungstenite::Error::Capacity(_)) {
                    self.hit(Limit::MessageBytes);
                }
                self.write(i, &close);
                Some(Disconnect::Protocol)
            }
            None if matches!(e, tokio_tungstenite::tungstenite::Error::ConnectionClosed) => None,
            None => return Done::Ended,
        };
        self.finish(i, why);
        Done::All(0)
    }

    /// One binary message of a client.
    fn binary(&mut self, i: u32, payload: &[u8]) {
        if self.echo {
            let mut out = Vec::new();
            crate::protocol::frame::binary(&mut out, payload);
            return self.write(i, &out);
        }
        self.close(i, Disconnect::Protocol, "binary frames are not part of this protocol; send JSON text");
    }

    /// One message of a client.
    pub(super) fn message(&mut self, i: u32, text: &str) {
        if self.echo {
            return self.say(i, |out| out.extend_from_slice(text.as_bytes()));
        }
        let shared = self.shared.clone();
        let now = self.now_ms;
        let mut effects = take(&mut self.effects);
        let Some(c) = self.conns.get_mut(i as usize).and_then(Option::as_mut) else { return };
        let taken = match decode::decode(text, &shared.policy.limits) {
            Ok(command) => c.session.command(command, &shared.policy, now, &mut effects),
            Err(refused) => {
                let connect = refused.connect;
                c.session.refused(failure(refused), connect, &shared.policy, &mut effects)
            }
        };
        if !taken {
            c.extra().first = Some(text.to_owned());
        }
        self.effects = effects;
        self.apply(i);
    }

    /// The session may no longer be busy: what it left unread is read in the next turn.
    pub(super) fn resume(&mut self, i: u32) {
        let shared = self.shared.clone();
        let Some(c) = self.conn(i) else { return };
        if c.extra.as_ref().is_some_and(|x| x.stalled || x.unread) && !c.session.is_busy(&shared.policy) {
            self.again.push(i);
        }
    }
}

fn failure(r: Refused) -> Failure {
    Failure {
        error: r.error,
        reference: r.reference,
        id: r.id.map(String::into_boxed_str),
        room: r.room.map(Arc::from),
        publish: r.publish,
    }
}
