//! WebSocket frames in. Whole plain text frames (nearly all there are) are unmasked where they lie in the shard's read buffer.
//! Every other frame (control, fragmented, reserved bits, unmasked, wrong) is fed, one whole frame at a time, to a tungstenite
//! context that exists only while such a frame or a fragmented message is in flight.

use crate::protocol::frame;
use std::io::{self, Cursor, ErrorKind, Read, Write};
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

/// tungstenite's state of one connection.
pub(crate) fn context(max_message: usize) -> Box<WebSocketContext> {
    let config = WebSocketConfig::default()
        .read_buffer_size(128)
        .write_buffer_size(0)
        .max_write_buffer_size(256 << 10)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message));
    Box::new(WebSocketContext::new(Role::Server, Some(config)))
}

/// A frame's header, where its payload begins, and where it ends.
pub(crate) type Head = (FrameHeader, usize, usize);

/// The header, or none if it is not complete. A payload over the limit is an error before it has arrived.
pub(crate) fn head(b: &[u8], max_message: usize) -> Result<Option<Head>, Error> {
    let mut c = Cursor::new(b);
    let Some((h, len)) = FrameHeader::parse(&mut c)? else { return Ok(None) };
    if len > max_message as u64 {
        return Err(CapacityError::MessageTooLong { size: len as usize, max_size: max_message }.into());
    }
    let at = c.position() as usize;
    Ok(Some((h, at, at + len as usize)))
}

/// A whole, masked data frame without extensions; true for text.
pub(crate) fn plain(h: &FrameHeader) -> Option<bool> {
    if !h.is_final || h.mask.is_none() || h.rsv1 | h.rsv2 | h.rsv3 {
        return None;
    }
    match h.opcode {
        OpCode::Data(Data::Text) => Some(true),
        OpCode::Data(Data::Binary) => Some(false),
        _ => None,
    }
}

/// Whether the frame is part of a fragmented message.
pub(crate) fn is_fragment(h: &FrameHeader) -> bool {
    matches!(h.opcode, OpCode::Data(d) if !h.is_final || d == Data::Continue)
}

/// Whether no message is unfinished after the frame (`mid`: one was unfinished before it).
pub(crate) fn finishes(h: &FrameHeader, mid: bool) -> bool {
    match h.opcode {
        OpCode::Data(_) => h.is_final,
        OpCode::Control(_) => !mid,
    }
}

/// Removes the mask.
pub(crate) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let m = u32::from_ne_bytes(mask);
    let wide = u64::from(m) << 32 | u64::from(m);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for w in words {
        *w = (u64::from_ne_bytes(*w) ^ wide).to_ne_bytes();
    }
    for (x, k) in rest.iter_mut().zip(mask.iter().cycle()) {
        *x ^= k;
    }
}

/// What came out of a frame that tungstenite looked at.
#[derive(Debug)]
pub(crate) enum Got {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

/// Feeds one frame; what tungstenite writes goes to `out`. An error ends the connection once `out` is sent.
pub(crate) fn feed(
    ws: &mut WebSocketContext,
    input: &[u8],
    out: &mut Vec<u8>,
    mut each: impl FnMut(Got),
) -> Result<(), Error> {
    let mut tap = Tap { input, out };
    loop {
        match ws.read(&mut tap) {
            Ok(Message::Text(t)) => each(Got::Text(t.as_str().to_owned())),
            Ok(Message::Binary(b)) => each(Got::Binary(b.to_vec())),
            // The pong or the close reply is queued; the next read writes it.
            Ok(_) => {}
            Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// The close frame that answers a protocol error; none where the close handshake is done or the peer has gone.
pub(crate) fn close_for(e: &Error) -> Option<Vec<u8>> {
    match e {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(frame::close(1002, "protocol error")),
        Error::Capacity(_) => Some(frame::close(1009, "message too big")),
        Error::Utf8(_) => Some(frame::close(1007, "text is not UTF-8")),
        _ => None,
    }
}

/// The stream that tungstenite sees: it reads what the shard has read and writes to the member's backlog.
struct Tap<'a> {
    input: &'a [u8],
    out: &'a mut Vec<u8>,
}

impl Read for Tap<'_> {
    fn read(&mut self, b: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.input.read(b)
    }
}

impl Write for Tap<'_> {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(b);
        Ok(b.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
