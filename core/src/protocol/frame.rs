//! WebSocket frames out (RFC 6455 section 5.2): unmasked and unfragmented.

use crate::message::Record;
use crate::protocol::native::encode;

/// Appends one text frame whose payload `write` appends.
pub fn text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    // Most payloads need the two-byte length; the others are moved afterwards.
    out.extend_from_slice(&[0x81, 126, 0, 0]);
    let at = out.len();
    write(out);
    let len = out.len() - at;
    if len < 126 {
        out[start + 1] = len as u8;
        out.copy_within(at.., start + 2);
        out.truncate(out.len() - 2);
    } else if let Ok(len) = u16::try_from(len) {
        out[start + 2..at].copy_from_slice(&len.to_be_bytes());
    } else {
        out[start + 1] = 127;
        out.splice(start + 2..at, (len as u64).to_be_bytes());
    }
}

/// Appends one binary frame.
pub fn binary(out: &mut Vec<u8>, payload: &[u8]) {
    let start = out.len();
    text(out, |out| out.extend_from_slice(payload));
    out[start] = 0x82;
}

/// Appends the frame of a publication.
pub fn publication(out: &mut Vec<u8>, record: &Record, prev: u64) {
    text(out, |out| encode::record(out, record, prev));
}

/// The payload of a frame made by [`text`].
pub fn payload(frame: &[u8]) -> &[u8] {
    let head = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.get(head..).unwrap_or_default()
}

/// A close frame with a code and a short reason.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.len().min(123)];
    let mut out = vec![0x88, 2 + reason.len() as u8];
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason);
    out
}

/// A ping frame without a payload.
pub const PING: [u8; 2] = [0x89, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_form() {
        for (len, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = b"before".to_vec();
            text(&mut out, |o| o.resize(o.len() + len, b'x'));
            let frame = &out[6..];
            assert_eq!(frame.len(), head + len);
            assert_eq!(frame[0], 0x81);
            assert_eq!(payload(frame).len(), len);
            assert!(payload(frame).iter().all(|b| *b == b'x'));
        }
    }
}
