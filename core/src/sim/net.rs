//! Sockets of the simulation: bytes in memory, with the edges that a poll set would tell.

use crate::server::net::{Net, Ready, Socket, Wake};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One connection, as the kernel has it.
#[derive(Debug, Default)]
pub(super) struct Link {
    up: VecDeque<u8>,
    down: VecDeque<u8>,
    /// How many bytes `down` takes.
    capacity: usize,
    client_ended: bool,
    server_ended: bool,
    broken: bool,
    /// The server was told that nothing more is taken.
    blocked: bool,
    readable: bool,
    writable: bool,
}

/// Both ends' handle of a link.
#[derive(Clone, Debug)]
pub(super) struct Ends(Arc<Mutex<Link>>);

impl Ends {
    pub(super) fn new(capacity: usize) -> Ends {
        Ends(Arc::new(Mutex::new(Link { capacity, ..Link::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes arrive at the server.
    pub(super) fn arrive(&self, bytes: impl Iterator<Item = u8>) {
        let mut link = self.lock();
        link.up.extend(bytes);
        link.readable = true;
    }

    /// The client reads at most `most` bytes. None: the stream has ended.
    pub(super) fn take(&self, most: usize) -> Option<Vec<u8>> {
        let mut link = self.lock();
        let n = link.down.len().min(most);
        if n == 0 && (link.server_ended || link.broken) {
            return None;
        }
        let bytes = link.down.drain(..n).collect();
        if n > 0 && std::mem::take(&mut link.blocked) {
            link.writable = true;
        }
        Some(bytes)
    }

    /// Whether the client would read something, or the end.
    pub(super) fn has_news(&self) -> bool {
        let link = self.lock();
        !link.down.is_empty() || link.server_ended || link.broken
    }

    /// The client ends its side.
    pub(super) fn end(&self) {
        let mut link = self.lock();
        link.client_ended = true;
        link.readable = true;
    }

    /// The link is gone; with `lossy` so are the bytes under way.
    pub(super) fn cut(&self, lossy: bool) {
        let mut link = self.lock();
        link.broken = true;
        link.readable = true;
        if lossy {
            link.up.clear();
            link.down.clear();
        }
    }

    /// What a poll set tells, once.
    pub(super) fn ready(&self, slot: u32) -> Option<Ready> {
        let mut link = self.lock();
        let (readable, writable) = (std::mem::take(&mut link.readable), std::mem::take(&mut link.writable));
        let ending = readable && (link.client_ended || link.broken);
        (readable || writable).then_some(Ready { slot, readable, writable, ending })
    }

    pub(super) fn is_ready(&self) -> bool {
        let link = self.lock();
        link.readable || link.writable
    }

    /// Whether the server has let go of it.
    pub(super) fn is_over(&self) -> bool {
        self.lock().server_ended
    }
}

/// The server's end.
#[derive(Debug)]
pub(super) struct SimSocket(pub(super) Ends);

impl Socket for SimSocket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut link = self.0.lock();
        if link.up.is_empty() {
            return match (link.broken, link.client_ended) {
                (true, _) => Err(ErrorKind::ConnectionReset.into()),
                (false, true) => Ok(0),
                (false, false) => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let n = link.up.len().min(buf.len());
        for (to, byte) in buf.iter_mut().zip(link.up.drain(..n)) {
            *to = byte;
        }
        Ok(n)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut link = self.0.lock();
        if link.broken || link.server_ended {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(link.capacity.saturating_sub(link.down.len()));
        link.blocked |= n < bytes.len();
        link.down.extend(bytes.iter().take(n));
        if n == 0 && !bytes.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    fn send_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        self.send(&all)
    }

    fn end(&self) {
        self.0.lock().server_ended = true;
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.0.lock().server_ended = true;
    }
}

/// A poll set without a system behind it.
#[derive(Debug)]
pub(super) struct SimNet;

impl Net for SimNet {
    type Socket = SimSocket;

    fn register(&self, _: std::net::TcpStream, _: u32) -> io::Result<SimSocket> {
        Err(ErrorKind::Unsupported.into())
    }

    fn deregister(&self, _: &mut SimSocket) {}
}

/// Wakes a shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Bell(Arc<AtomicBool>);

impl Bell {
    /// Whether it has rung since the last call.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    pub(super) fn has_rung(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
