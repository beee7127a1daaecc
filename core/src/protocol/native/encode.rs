//! Publications and replies to frames. Each function appends one JSON object to `out`, without framing.

use super::text::{push_number, push_string};
use crate::codes::Disconnect;
use crate::command::Ref;
use crate::error::Error;
use crate::message::{Epoch, Kind, Publication, Record};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// The name of this protocol as a WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "klatch.v1";

/// The version of this protocol, as the welcome says it.
pub const VERSION: u32 = 1;

/// What became of a publish that was answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nobody will ever see the message.
    NotStored,
    /// It may have been stored: retry with the same id.
    Unknown,
}

impl Outcome {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::NotStored => "not_stored",
            Outcome::Unknown => "unknown",
        }
    }
}

/// A publication, as every member gets it: a pure function of the record and `prev`.
pub fn publication(out: &mut Vec<u8>, publication: &Publication) {
    record(out, &publication.record, publication.prev);
}

/// The same from the parts of a publication.
pub fn record(out: &mut Vec<u8>, record: &Record, prev: u64) {
    out.extend_from_slice(br#"{"type":"publication","room":"#);
    push_string(out, record.room());
    number(out, r#","offset":"#, record.offset());
    number(out, r#","prev":"#, prev);
    number(out, r#","time":"#, record.time());
    text_unless_empty(out, r#","user":"#, record.user());
    text_unless_empty(out, r#","id":"#, record.given_id());
    match record.kind() {
        Kind::Json => {
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(record.data_slice());
        }
        Kind::Binary => {
            out.extend_from_slice(br#","bytes":""#);
            push_base64(out, record.data_slice());
            out.push(b'"');
        }
    }
    out.push(b'}');
}

/// The first frame of every connection. `user` is empty for an anonymous one.
pub fn welcome(out: &mut Vec<u8>, connection: &str, user: &str, reference: Ref) {
    begin(out, "welcome", reference);
    number(out, r#","version":"#, u64::from(VERSION));
    text(out, r#","connection":"#, connection);
    text(out, r#","user":"#, user);
    out.push(b'}');
}

/// The answer to a join; the member's publications follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined<'a> {
    /// The join's ref.
    pub reference: Ref,
    /// The room.
    pub room: &'a str,
    /// The epoch of its stream.
    pub epoch: Epoch,
    /// The member's position: the publications that follow continue after it.
    pub offset: u64,
    /// The room's last offset at that moment.
    pub last: u64,
    /// For a join with a position: whether that could be resumed from.
    pub recovered: Option<bool>,
}

/// See [`Joined`].
pub fn joined(out: &mut Vec<u8>, joined: &Joined<'_>) {
    begin(out, "joined", joined.reference);
    text(out, r#","room":"#, joined.room);
    epoch(out, joined.epoch);
    number(out, r#","offset":"#, joined.offset);
    number(out, r#","last":"#, joined.last);
    if let Some(recovered) = joined.recovered {
        out.extend_from_slice(br#","recovered":"#);
        flag(out, recovered);
    }
    out.push(b'}');
}

/// The answer to a leave; no publication of the room follows.
pub fn left(out: &mut Vec<u8>, room: &str, reference: Ref) {
    begin(out, "left", reference);
    text(out, r#","room":"#, room);
    out.push(b'}');
}

/// The answer to a publish that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The publish's ref.
    pub reference: Ref,
    /// The room.
    pub room: &'a str,
    /// The epoch of its stream.
    pub epoch: Epoch,
    /// Where the message is.
    pub offset: u64,
    /// The id that the publish gave; empty if it gave none.
    pub id: &'a str,
    /// Whether a publish with the same id had been accepted before; `offset` is that one's.
    pub duplicate: bool,
}

/// See [`Ack`].
pub fn ack(out: &mut Vec<u8>, ack: &Ack<'_>) {
    begin(out, "ack", ack.reference);
    text(out, r#","room":"#, ack.room);
    epoch(out, ack.epoch);
    number(out, r#","offset":"#, ack.offset);
    text_unless_empty(out, r#","id":"#, ack.id);
    if ack.duplicate {
        out.extend_from_slice(br#","duplicate":true"#);
    }
    out.push(b'}');
}

/// An event of another member, or of the host; `room` is empty where it is for this connection alone, `user` for an anonymous one. `data`
/// is JSON text as it was sent.
pub fn signal(out: &mut Vec<u8>, room: &str, user: &str, name: &str, data: &str) {
    begin(out, "signal", None);
    text_unless_empty(out, r#","room":"#, room);
    text_unless_empty(out, r#","user":"#, user);
    text(out, r#","name":"#, name);
    out.extend_from_slice(br#","data":"#);
    out.extend_from_slice(data.as_bytes());
    out.push(b'}');
}

/// The answer to a signal that was delivered.
pub fn done(out: &mut Vec<u8>, reference: Ref) {
    begin(out, "done", reference);
    out.push(b'}');
}

/// A page of history. `more`: there are further publications in the direction read; `last`: the room's last offset.
pub fn history(
    out: &mut Vec<u8>,
    reference: Ref,
    room: &str,
    of: Epoch,
    publications: &[Publication],
    more: bool,
    last: u64,
) {
    begin(out, "history", reference);
    text(out, r#","room":"#, room);
    epoch(out, of);
    out.extend_from_slice(br#","publications":"#);
    list(out, publications, publication);
    out.extend_from_slice(br#","more":"#);
    flag(out, more);
    number(out, r#","last":"#, last);
    out.push(b'}');
}

/// Who is in a room: `count` members, and the named users among them with their connections there, sorted by name.
/// `truncated`: there are more users than the list has.
pub fn presence<S: AsRef<str>>(
    out: &mut Vec<u8>,
    reference: Ref,
    room: &str,
    count: u64,
    users: &[(S, u32)],
    truncated: bool,
) {
    begin(out, "presence", reference);
    text(out, r#","room":"#, room);
    number(out, r#","count":"#, count);
    out.extend_from_slice(br#","users":"#);
    list(out, users, |out, (user, connections)| {
        text(out, r#"{"user":"#, user.as_ref());
        number(out, r#","connections":"#, u64::from(*connections));
        out.push(b'}');
    });
    if truncated {
        out.extend_from_slice(br#","truncated":true"#);
    }
    out.push(b'}');
}

/// Who came to a room and who went since the last event: `changes` are the users that joined and those that left, or
/// `None` if they are too many to name.
pub fn presence_event<S: AsRef<str>>(
    out: &mut Vec<u8>,
    room: &str,
    changes: Option<(&[S], &[S])>,
    count: u64,
) {
    begin(out, "presence_event", None);
    text(out, r#","room":"#, room);
    if let Some((joined, left)) = changes {
        out.extend_from_slice(br#","joined":"#);
        list(out, joined, |out, user| push_string(out, user.as_ref()));
        out.extend_from_slice(br#","left":"#);
        list(out, left, |out, user| push_string(out, user.as_ref()));
    }
    number(out, r#","count":"#, count);
    out.push(b'}');
}

/// The answer to a ping.
pub fn pong(out: &mut Vec<u8>, reference: Ref) {
    begin(out, "pong", reference);
    out.push(b'}');
}

/// A failed request: what of it is known, the error, and for a publish its outcome.
pub fn error(
    out: &mut Vec<u8>,
    error: &Error,
    reference: Ref,
    id: Option<&str>,
    room: Option<&str>,
    outcome: Option<Outcome>,
) {
    begin(out, "error", reference);
    if let Some(id) = id {
        text(out, r#","id":"#, id);
    }
    if let Some(room) = room {
        text(out, r#","room":"#, room);
    }
    number(out, r#","code":"#, u64::from(error.code().number()));
    text(out, r#","name":"#, error.code().name());
    text(out, r#","message":"#, error.message());
    text(out, r#","retry":"#, error.retry().as_str());
    if error.retry_after_ms() > 0 {
        number(out, r#","retry_after_ms":"#, u64::from(error.retry_after_ms()));
    }
    if let Some(outcome) = outcome {
        text(out, r#","outcome":"#, outcome.as_str());
    }
    out.push(b'}');
}

/// Why the connection is about to be closed.
pub fn disconnect(out: &mut Vec<u8>, code: Disconnect, message: &str) {
    begin(out, "disconnect", None);
    number(out, r#","code":"#, u64::from(code.number()));
    text(out, r#","name":"#, code.name());
    out.extend_from_slice(br#","reconnect":"#);
    flag(out, code.reconnects());
    text(out, r#","message":"#, message);
    out.push(b'}');
}

/// `before` is in each case all that stands before the value, so that the fixed parts are copied and not made.
fn text(out: &mut Vec<u8>, before: &str, value: &str) {
    out.extend_from_slice(before.as_bytes());
    push_string(out, value);
}

fn text_unless_empty(out: &mut Vec<u8>, before: &str, value: &str) {
    if !value.is_empty() {
        text(out, before, value);
    }
}

fn number(out: &mut Vec<u8>, before: &str, value: u64) {
    out.extend_from_slice(before.as_bytes());
    push_number(out, value);
}

fn flag(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn begin(out: &mut Vec<u8>, kind: &str, reference: Ref) {
    text(out, r#"{"type":"#, kind);
    if let Some(reference) = reference {
        number(out, r#","ref":"#, reference);
    }
}

fn epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.extend_from_slice(br#","epoch":""#);
    out.extend((0..16).map(|i| b"0123456789abcdef"[(epoch.0 >> (60 - 4 * i)) as usize & 15]));
    out.push(b'"');
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut push: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push(out, item);
    }
    out.push(b']');
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let from = out.len();
    out.resize(from + bytes.len().div_ceil(3) * 4, 0);
    let written = out.get_mut(from..).and_then(|room| BASE64_STANDARD.encode_slice(bytes, room).ok());
    // The room is exact, so this cuts nothing.
    out.truncate(from + written.unwrap_or_default());
}

#[cfg(test)]
mod tests;
