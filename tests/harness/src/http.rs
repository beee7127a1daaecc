//! A room's history over HTTP: what the log holds, for a checker that cannot read the server's disk.

use crate::log::{Log, LogRecord};
use crate::target::{Target, encode};
use crate::wire::{Frame, Payload};
use std::io::{self, Read, Write};
use std::time::Duration;

fn broken(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// One `GET` over a connection of its own: status and body. Waits at most 10 s for each read; takes at most 16 MiB.
pub fn get(target: &Target) -> io::Result<(u16, String)> {
    let timeout = Duration::from_secs(10);
    let mut stream = target.connect(timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", target.path, target.address)?;
    let mut reply = Vec::new();
    stream.take(16 << 20).read_to_end(&mut reply)?;
    let split =
        reply.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| broken("no end of the head"))?;
    let (head, body) = reply.split_at(split);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| broken("no status"))?;
    let body = body.get(4..).unwrap_or_default();
    let body = if head.contains("transfer-encoding: chunked") { unchunk(body)? } else { body.to_vec() };
    String::from_utf8(body).map(|body| (status, body)).map_err(|e| broken(e.to_string()))
}

fn unchunk(mut body: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end =
            body.windows(2).position(|w| w == b"\r\n").ok_or_else(|| broken("a chunk without a size"))?;
        let (size, rest) = body.split_at(end);
        let size = std::str::from_utf8(size).ok().and_then(|s| usize::from_str_radix(s.trim(), 16).ok());
        let size = size.ok_or_else(|| broken("a chunk's size is no number"))?;
        let rest = rest.get(2..).unwrap_or_default();
        if size == 0 {
            return Ok(out);
        }
        out.extend_from_slice(rest.get(..size).ok_or_else(|| broken("a chunk is cut"))?);
        body = rest.get(size + 2..).unwrap_or_default();
    }
}

/// The publications of these rooms, read page by page.
pub fn history<'a>(target: &Target, rooms: impl IntoIterator<Item = &'a str>) -> io::Result<Log> {
    let mut log = Log::default();
    for room in rooms {
        let mut after = 0;
        loop {
            let path = format!("/rooms/{}/history?after={after}&limit=500", encode(room));
            let (status, body) = get(&target.at(&path))?;
            if status != 200 {
                return Err(broken(format!("{status} for {path}: {body}")));
            }
            let page = Frame::parse(&body).map_err(|e| broken(format!("{e} in the answer to {path}")))?;
            log.set_epoch(room, &page.epoch);
            for publication in &page.publications {
                let offset = publication.offset.unwrap_or_default();
                if offset <= after {
                    return Err(broken(format!("{path}: offset {offset} is not after {after}")));
                }
                after = offset;
                let binary = matches!(publication.payload(), Payload::Binary(_));
                let (Payload::Json(text) | Payload::Binary(text)) = publication.payload();
                log.push(LogRecord {
                    offset,
                    time: publication.time.unwrap_or_default(),
                    room: room.to_owned(),
                    user: publication.user.to_string(),
                    id: publication.id.to_string(),
                    binary,
                    data: text.to_owned(),
                });
            }
            if !page.more {
                break;
            }
            if page.publications.is_empty() {
                return Err(broken(format!("{path} says there is more and gives nothing")));
            }
        }
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks() {
        assert_eq!(unchunk(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap(), b"abcde");
        assert!(unchunk(b"9\r\nabc").is_err());
        assert!(unchunk(b"x\r\n").is_err());
    }
}
