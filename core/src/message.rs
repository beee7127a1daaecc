//! Records, positions and publications.

use bytes::Bytes;
use std::borrow::Cow;

/// What the data of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// One JSON value, as UTF-8 text, byte for byte as it was sent.
    Json = 0,
    /// Bytes that klatch does not look into.
    Binary = 1,
}

/// A place in a room's stream. Offsets strictly increase within a room and epoch, and may skip.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which incarnation of the room's stream; see [`Epoch`].
    pub epoch: Epoch,
    /// The offset; 0 is before every record.
    pub offset: u64,
}

/// An opaque id of one incarnation of a room's stream. When it changes, old offsets mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for Epoch {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Epoch, Self::Err> {
        u64::from_str_radix(s, 16).map(Epoch)
    }
}

/// A message as it lies in the log.
///
/// The body is `[kind u8][room length u8][user length u8][id length u8][room][user][id][data]`. A body in a
/// `Record` has been checked: lengths fit, room, user, id and JSON data are UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    offset: u64,
    time: u64,
    body: Bytes,
}

const HEAD: usize = 4;

impl Record {
    /// Appends the body of a record to `out`. Names are at most 255 bytes long (the engine's limits are lower).
    pub fn encode(out: &mut Vec<u8>, kind: Kind, room: &str, user: &str, id: &str, data: &[u8]) {
        debug_assert!(room.len() < 256 && user.len() < 256 && id.len() < 256);
        out.reserve(HEAD + room.len() + user.len() + id.len() + data.len());
        out.extend_from_slice(&[kind as u8, room.len() as u8, user.len() as u8, id.len() as u8]);
        out.extend_from_slice(room.as_bytes());
        out.extend_from_slice(user.as_bytes());
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(data);
    }

    /// A record from its parts as read back; `None` if the body is not well formed.
    pub fn decode(offset: u64, time: u64, body: Bytes) -> Option<Record> {
        Record::is_body(&body).then_some(Record { offset, time, body })
    }

    /// Whether the bytes are the body of a record.
    pub fn is_body(body: &[u8]) -> bool {
        let [kind, room, user, id, rest @ ..] = body else { return false };
        let (room, user, id) = (*room as usize, *user as usize, *id as usize);
        let text = if *kind == Kind::Json as u8 {
            Some(rest)
        } else if *kind == Kind::Binary as u8 {
            rest.get(..room + user + id)
        } else {
            None
        };
        let Some(text) = text.and_then(|text| std::str::from_utf8(text).ok()) else { return false };
        // Each name ends where a character ends, or the names themselves would not be UTF-8.
        room > 0
            && text.is_char_boundary(room)
            && text.is_char_boundary(room + user)
            && text.is_char_boundary(room + user + id)
            && text.len() >= room + user + id
    }

    /// A record whose body was just encoded by [`Record::encode`] or checked.
    pub fn trusted(offset: u64, time: u64, body: Bytes) -> Record {
        Record { offset, time, body }
    }

    /// The offset in the room's stream.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The log's time of it, in milliseconds since 1970 UTC.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// The whole body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    fn part(&self, from: usize, len: usize) -> &str {
        // Checked at decode; a fault here shows as an empty name, not as a panic.
        self.body.get(from..from + len).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }

    fn len(&self, i: usize) -> usize {
        self.body.get(i).copied().unwrap_or_default() as usize
    }

    /// What the data is.
    pub fn kind(&self) -> Kind {
        if self.len(0) == Kind::Binary as usize { Kind::Binary } else { Kind::Json }
    }

    /// The room's name.
    pub fn room(&self) -> &str {
        self.part(HEAD, self.len(1))
    }

    /// The user who sent it; empty for an anonymous one.
    pub fn user(&self) -> &str {
        self.part(HEAD + self.len(1), self.len(2))
    }

    /// The id as the client gave it; empty if it gave none.
    pub fn given_id(&self) -> &str {
        self.part(HEAD + self.len(1) + self.len(2), self.len(3))
    }

    /// The message's id: the client's, or `~` and the offset if it gave none.
    pub fn id(&self) -> Cow<'_, str> {
        match self.given_id() {
            "" => Cow::Owned(format!("~{}", self.offset)),
            id => Cow::Borrowed(id),
        }
    }

    /// The data: JSON text or bytes, by [`Record::kind`].
    pub fn data(&self) -> Bytes {
        let from = HEAD + self.len(1) + self.len(2) + self.len(3);
        self.body.slice(from.min(self.body.len())..)
    }

    /// The same without a new reference.
    pub fn data_slice(&self) -> &[u8] {
        self.body.get(HEAD + self.len(1) + self.len(2) + self.len(3)..).unwrap_or_default()
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record({} {:?} by {:?})", self.offset, self.room(), self.user())
    }
}

/// A message as it is delivered: an accepted record and the offset of the room's publication before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The record.
    pub record: Record,
    /// The offset of the previous publication of the room; 0 if there is none.
    pub prev: u64,
}

impl Publication {
    /// The room's name.
    pub fn room(&self) -> &str {
        self.record.room()
    }
    /// The offset.
    pub fn offset(&self) -> u64 {
        self.record.offset()
    }
    /// The previous publication's offset in this room, or 0. A client that last saw another offset has a gap.
    pub fn prev(&self) -> u64 {
        self.prev
    }
    /// The log's time, in milliseconds since 1970 UTC.
    pub fn time(&self) -> u64 {
        self.record.time()
    }
    /// The sender; empty for an anonymous one.
    pub fn user(&self) -> &str {
        self.record.user()
    }
    /// The message's id.
    pub fn id(&self) -> Cow<'_, str> {
        self.record.id()
    }
    /// What the data is.
    pub fn kind(&self) -> Kind {
        self.record.kind()
    }
    /// The data.
    pub fn data(&self) -> Bytes {
        self.record.data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: Kind, room: &str, user: &str, id: &str, data: &[u8]) -> Bytes {
        let mut b = Vec::new();
        Record::encode(&mut b, kind, room, user, id, data);
        b.into()
    }

    #[test]
    fn round_trip() {
        let r = Record::decode(7, 9, body(Kind::Json, "lobby", "änn", "m1", b"{\"a\":1}")).unwrap();
        assert_eq!(
            (r.room(), r.user(), r.given_id(), &r.data()[..]),
            ("lobby", "änn", "m1", &b"{\"a\":1}"[..])
        );
        assert_eq!(r.id(), "m1");
        let r = Record::decode(7, 9, body(Kind::Binary, "lobby", "", "", &[255, 0])).unwrap();
        assert_eq!((r.user(), &*r.id(), r.data_slice(), r.kind()), ("", "~7", &[255, 0][..], Kind::Binary));
    }

    #[test]
    fn broken_bodies_are_refused() {
        assert!(Record::decode(1, 1, body(Kind::Json, "", "u", "i", b"1")).is_none());
        assert!(Record::decode(1, 1, Bytes::from_static(&[0, 9, 0, 0, b'a'])).is_none());
        assert!(Record::decode(1, 1, Bytes::from_static(&[2, 1, 0, 0, b'a'])).is_none());
        assert!(Record::decode(1, 1, Bytes::from_static(&[0, 1, 0, 0, 0xC3])).is_none());
        // A name that ends within a character.
        assert!(Record::decode(1, 1, Bytes::from_static(&[0, 1, 1, 0, 0xC3, 0xA4])).is_none());
        assert!(Record::decode(1, 1, Bytes::from_static(&[0, 1])).is_none());
    }
}
