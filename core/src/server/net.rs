//! What a shard asks of sockets. The product has TCP and mio's poll set; the simulation puts its own in their place.

use mio::net::TcpStream;
use mio::{Interest, Registry, Token, Waker};
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use std::fmt::Debug;
use std::io::{self, IoSlice, Read};
use std::net::Shutdown;

/// A stream socket that never blocks: where it would, it says [`io::ErrorKind::WouldBlock`].
pub(crate) trait Socket: Debug {
    /// Reads what has come; 0 at the end of the stream.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes what it takes of `bytes`.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;
    /// The same for several pieces in one go.
    fn send_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ends the stream to the peer; what was written still arrives.
    fn end(&self);
}

/// A poll set's side that sockets are put into. Edge-triggered, both directions at once: no further call when a backlog comes or
/// goes.
pub(crate) trait Net: Debug {
    /// Its sockets.
    type Socket: Socket;
    /// Takes an upgraded socket in; its events carry `slot`.
    fn register(&self, io: std::net::TcpStream, slot: u32) -> io::Result<Self::Socket>;
    /// Forgets one that is about to be dropped.
    fn deregister(&self, socket: &mut Self::Socket);
}

/// What a poll set told of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Which.
    pub(crate) slot: u32,
    /// There may be something to read.
    pub(crate) readable: bool,
    /// It may take something again.
    pub(crate) writable: bool,
    /// The peer has ended its side, or the socket is broken.
    pub(crate) ending: bool,
}

/// How a shard that sleeps in its poll set is woken.
pub(crate) trait Wake: Send + Sync + Debug {
    /// Wakes it, now or at its next poll.
    fn wake(&self);
}

/// std's vectored write can raise SIGPIPE, which would end a C host.
const FLAGS: SendFlags = SendFlags::NOSIGNAL;

impl Socket for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buf)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self, bytes, FLAGS)?)
    }

    fn send_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(sendmsg(self, parts, &mut SendAncillaryBuffer::default(), FLAGS)?)
    }

    fn end(&self) {
        // An error means that the peer has gone.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Net for Registry {
    type Socket = TcpStream;

    fn register(&self, io: std::net::TcpStream, slot: u32) -> io::Result<TcpStream> {
        let mut io = TcpStream::from_std(io);
        Registry::register(self, &mut io, Token(slot as usize), Interest::READABLE | Interest::WRITABLE)?;
        Ok(io)
    }

    fn deregister(&self, socket: &mut TcpStream) {
        // Closing the socket takes it out of the poll set in any case.
        let _ = Registry::deregister(self, socket);
    }
}

impl From<&mio::event::Event> for Ready {
    fn from(e: &mio::event::Event) -> Ready {
        Ready {
            slot: e.token().0 as u32,
            readable: e.is_readable(),
            writable: e.is_writable(),
            ending: e.is_read_closed() || e.is_error(),
        }
    }
}

impl Wake for Waker {
    fn wake(&self) {
        // An eventfd in the shard's own poll set: it fails only when the shard has gone.
        let _ = Waker::wake(self);
    }
}
