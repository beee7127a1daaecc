//! Connections of a web server of Node's: their sockets go over to the engine.

use crate::engine::Engine;
use crate::error::guard;
use klatch::{Code, Error};
use napi_derive::napi;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

fn refused(e: io::Error) -> Error {
    Error::new(Code::Internal, format!("the system refused a descriptor: {e}"))
}

fn address_of(text: &str) -> SocketAddr {
    // A socket that has been reset does not know where it was from.
    text.parse().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// A descriptor of our own for the same socket.
#[allow(unsafe_code, reason = "JavaScript has descriptors as numbers")]
fn own(descriptor: i32) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: JavaScript takes the number from a socket that it has open, and closes it after this call, on this thread.
    unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()
}

#[napi]
impl Engine {
    /// Serves a socket that JavaScript has read this from, and closes next: without a word to the peer, for ours stays open.
    #[napi]
    pub fn serve(&self, descriptor: i32, address: String, read: &[u8]) -> napi::Result<()> {
        guard(|| {
            let io = TcpStream::from(own(descriptor).map_err(refused)?);
            self.shared.engine()?.serve(io, address_of(&address), read)
        })
    }

    /// The other end of a socket that the engine serves; a descriptor. For what only JavaScript can read and write, behind TLS for instance.
    #[napi]
    pub fn serve_pair(&self, address: String, read: &[u8]) -> napi::Result<i32> {
        guard(|| {
            let (ours, theirs) = UnixStream::pair().map_err(refused)?;
            let io = TcpStream::from(OwnedFd::from(ours));
            self.shared.engine()?.serve(io, address_of(&address), read)?;
            Ok(theirs.into_raw_fd())
        })
    }
}
