//! Listening: sockets are accepted on the engine's tokio thread, speak HTTP there, and move into a shard once upgraded.

use crate::codes::Code;
use crate::config::Limit;
use crate::error::{Error, Result};
use crate::server::admission::Permit;
use crate::server::descriptors::Reserve;
use crate::server::given::Given;
use crate::server::http::{self, Site};
use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 4096;

/// Said to a connection for which there is no file left.
const NO_FILES: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Binds an address given as text. Port 0 picks a free one.
pub(crate) fn bind(address: &str) -> Result<TcpListener> {
    let unusable = |e: &dyn std::fmt::Display| {
        Error::new(Code::AddressUnusable, format!("cannot listen on {address}: {e}"))
    };
    let resolved = address.to_socket_addrs().map_err(|e| unusable(&e))?.next();
    let resolved =
        resolved.ok_or_else(|| unusable(&"it names no address; write host:port or [ipv6]:port"))?;
    let listen = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if resolved.is_ipv6() {
            // [::] means IPv6 alone, so that 0.0.0.0 beside it does not collide.
            socket.set_only_v6(true)?;
        }
        socket.bind(&resolved.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    listen().map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => {
            unusable(&"the port is in use; stop what uses it, or choose another port (0 picks a free one)")
        }
        ErrorKind::PermissionDenied => unusable(&"not permitted; ports below 1024 need rights of their own"),
        _ => unusable(&e),
    })
}

/// Accepts until `stop` turns true.
pub(crate) async fn accept(listener: TcpListener, site: Arc<Site>, mut stop: watch::Receiver<bool>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(l) => l,
        Err(e) => {
            tracing::error!(error = %e, "cannot watch the listening socket");
            return;
        }
    };
    let handshakes = Arc::new(Semaphore::new(site.shared.policy.limits.handshakes.max(1)));
    let reserve = Reserve::new(site.shared.policy.limits.files_reserved);
    let mut complained_ms = 0;
    // Once in ten seconds, or the operator's disk fills too.
    let mut complain = |what: &dyn Fn()| {
        let now = site.shared.clock.steady_ms();
        if now >= complained_ms + 10_000 {
            complained_ms = now;
            what();
        }
    };
    loop {
        // A place first: what is over the limit waits in the kernel.
        let place = match handshakes.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                site.shared.metrics.limit_hits[Limit::Handshakes].inc();
                let Ok(place) = handshakes.clone().acquire_owned().await else { return };
                place
            }
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((io, address)) => {
                if let Some(most) = reserve.reached(&io) {
                    complain(&|| {
                        tracing::warn!(
                            most,
                            "almost all files that this process may open are; connections are refused"
                        );
                    });
                    site.shared.metrics.limit_hits[Limit::FilesReserved].inc();
                    site.shared.metrics.handshakes_refused.inc();
                    // All that it costs is this write; whether it arrives is the peer's luck.
                    let _ = io.try_write(NO_FILES);
                    continue;
                }
                let site = site.clone();
                let Some(permit) = site.admission.arrive(address.ip()) else {
                    site.shared.metrics.handshakes_refused.inc();
                    continue;
                };
                tokio::spawn(async move {
                    speak(io, address, permit, &site).await;
                    drop(place);
                });
                // One that has spoken already is served before the next is accepted, so that a rush has few buffers at once.
                tokio::task::yield_now().await;
            }
            Err(e) => {
                // Out of descriptors, or the peer has gone again. Never spin: the one does not pass by itself.
                let passing = matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted);
                if !passing {
                    complain(&|| {
                        tracing::warn!(error = %e, "cannot accept connections; trying again every 100 ms");
                    });
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Serves a connection from its first byte on. Until then it has no buffer: half-open connections are many where somebody means
/// harm.
async fn speak(io: TcpStream, address: SocketAddr, permit: Permit, site: &Arc<Site>) {
    let since = Instant::now();
    let patience = Duration::from_millis(site.shared.policy.limits.handshake_timeout_ms);
    // A look, for that it can be read is a guess until it was tried.
    match tokio::time::timeout(patience, io.peek(&mut [0])).await {
        Ok(Ok(1)) => serve(io, address, since, permit, site).await,
        spoken => {
            let metrics = &site.shared.metrics;
            metrics.handshakes_refused.inc();
            if spoken.is_err() {
                metrics.limit_hits[Limit::HandshakeTimeoutMs].inc();
            }
        }
    }
}

/// [`http::serve`] apart from those who wait: its future is some kilobytes.
fn serve<'a>(
    io: TcpStream,
    address: SocketAddr,
    since: Instant,
    permit: Permit,
    site: &'a Arc<Site>,
) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
    Box::pin(http::serve(Given { read: Bytes::new(), io }, address, since, permit, site))
}

/// The addresses that listeners are bound to.
pub(crate) fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|l| l.local_addr().ok()).collect()
}
