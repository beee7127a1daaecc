//! Connections that the host has accepted and hands over, with what it has read of them already.

use crate::codes::Code;
use crate::config::Limit;
use crate::error::{Error, Result};
use crate::server::http::{self, Site};
use bytes::{Buf, Bytes};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// A socket, and what was read of it before it came here.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) read: Bytes,
    pub(crate) io: TcpStream,
}

impl AsyncRead for Given {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let n = this.read.len().min(buf.remaining());
        buf.put_slice(&this.read[..n]);
        this.read.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Given {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Has a connection served as if it had come to one of the engine's listeners. As many as `limits.handshakes` may be in their handshake.
pub(crate) fn serve(
    io: std::net::TcpStream,
    address: SocketAddr,
    read: &[u8],
    site: Arc<Site>,
    runtime: &Handle,
) -> Result<()> {
    let refused = |limit: Limit, text: &str| {
        site.shared.metrics.handshakes_refused.inc();
        Error::new(Code::Busy, text).at(limit)
    };
    let Ok(place) = site.given.clone().try_acquire_owned() else {
        return Err(refused(Limit::Handshakes, "as many connections are in their handshake as may be"));
    };
    let Some(permit) = site.admission.arrive(address.ip()) else {
        let text = "this address has as many connections as it may";
        return Err(refused(Limit::ConnectionsPerAddress, text));
    };
    let unusable = |e: io::Error| Error::new(Code::Internal, format!("the connection cannot be served: {e}"));
    io.set_nonblocking(true).map_err(unusable)?;
    let read = Bytes::copy_from_slice(read);
    runtime.spawn(async move {
        // Here, for it is the runtime's thread that watches it.
        let Ok(io) = TcpStream::from_std(io) else { return };
        Box::pin(http::serve(Given { read, io }, address, Instant::now(), permit, &site)).await;
        drop(place);
    });
    Ok(())
}
