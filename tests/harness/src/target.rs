//! Where a server is.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};

/// The address of a server from a `ws://` or `http://` URL, with its path and query.
///
/// For tests on this machine: no TLS, and of a name's addresses the first is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The socket address.
    pub address: SocketAddr,
    /// Path and query, `/ws` if the URL has none.
    pub path: String,
}

impl Target {
    /// Reads a URL such as `ws://127.0.0.1:8080/ws?room=lobby`. `InvalidInput` if it is none of ours.
    pub fn parse(url: &str) -> io::Result<Target> {
        let bad = || {
            let text = format!("{url:?} is not ws://HOST:PORT[/path] or http://HOST:PORT[/path]");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let rest = url.strip_prefix("ws://").or_else(|| url.strip_prefix("http://")).ok_or_else(bad)?;
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = match path {
            "" | "/" => "/ws".to_owned(),
            query if query.starts_with('?') => format!("/ws{query}"),
            path => path.to_owned(),
        };
        let port = host.rsplit(':').next().filter(|p| p.parse::<u16>().is_ok());
        let host = if port.is_some() { host.to_owned() } else { format!("{host}:80") };
        let address = host.to_socket_addrs().map_err(|_| bad())?.next().ok_or_else(bad)?;
        Ok(Target { address, path })
    }

    /// The same server with a query added, names and values percent-encoded.
    pub fn with(&self, name: &str, value: &str) -> Target {
        let mark = if self.path.contains('?') { '&' } else { '?' };
        let path = format!("{}{mark}{name}={}", self.path, encode(value));
        Target { address: self.address, path }
    }

    /// The same server with another path.
    pub fn at(&self, path: &str) -> Target {
        Target { address: self.address, path: path.to_owned() }
    }

    /// Connects, within `timeout`.
    pub fn connect(&self, timeout: std::time::Duration) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, timeout)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The loopback address for the `n`th connection to come from, for servers that limit connections per address:
    /// 150 from each of 127.0.0.1, 127.0.0.2 and so on. `None` where the target is not on 127.0.0.1 or this is not
    /// Linux, which alone has all of 127.0.0.0/8 at hand.
    pub fn source(&self, n: u32) -> Option<Ipv4Addr> {
        let here = self.address.ip() == Ipv4Addr::LOCALHOST && cfg!(target_os = "linux");
        here.then(|| Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + n / 150 % 4096))
    }

    /// Begins to connect without waiting, from the loopback address `source` and with a receive buffer of so many bytes if
    /// they are given.
    pub(crate) fn begin(
        &self,
        source: Option<Ipv4Addr>,
        receive_buffer: Option<usize>,
    ) -> io::Result<TcpStream> {
        use rustix::net::sockopt::set_socket_recv_buffer_size;
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
        let family = if self.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // Not for the servers that this process starts.
        let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let stream = TcpStream::from(fd);
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        if let Some(bytes) = receive_buffer {
            set_socket_recv_buffer_size(&stream, bytes)?;
        }
        if let Some(source) = source {
            bind(&stream, &SocketAddr::from((source, 0)))?;
        }
        match connect(&stream, &self.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(stream),
            Err(e) => Err(e.into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.address, self.path)
    }
}

/// Percent-encodes everything but letters, digits, `-`, `_`, `.` and `~`.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let t = Target::parse("ws://127.0.0.1:81").unwrap();
        assert_eq!((t.address.to_string().as_str(), t.path.as_str()), ("127.0.0.1:81", "/ws"));
        let t = Target::parse("http://[::1]:9/a?b=c").unwrap();
        assert_eq!((t.address.to_string().as_str(), t.path.as_str()), ("[::1]:9", "/a?b=c"));
        assert_eq!(t.with("room", "a b/ü").path, "/a?b=c&room=a%20b%2F%C3%BC");
        assert_eq!(Target::parse("ws://127.0.0.1:1?x=1").unwrap().path, "/ws?x=1");
        assert!(Target::parse("wss://127.0.0.1").is_err());
        assert!(Target::parse("ws://127.0.0.1:99999").is_err());
    }
}
