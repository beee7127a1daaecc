//! The frames of the native protocol, as a client sees them.

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::hash::Hasher;

/// A frame from the server: the fields of every type in one struct, absent ones empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Frame<'a> {
    /// The type: `welcome`, `joined`, `publication`, `ack`, `error` and so on.
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    /// The number of the request that this answers.
    #[serde(rename = "ref")]
    pub reference: Option<u64>,
    /// The room.
    #[serde(borrow)]
    pub room: Text<'a>,
    /// Which incarnation of the room's stream.
    #[serde(borrow)]
    pub epoch: Text<'a>,
    /// The position of a publication, ack or join.
    pub offset: Option<u64>,
    /// The room's last offset.
    pub last: Option<u64>,
    /// The offset of the publication before.
    pub prev: Option<u64>,
    /// The log's time, in milliseconds since 1970.
    pub time: Option<u64>,
    /// The sender; empty if anonymous.
    #[serde(borrow)]
    pub user: Text<'a>,
    /// The message's id; empty if the client gave none.
    #[serde(borrow)]
    pub id: Text<'a>,
    /// The data as it came, byte for byte.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// Binary data in base64.
    #[serde(borrow)]
    pub bytes: Option<Text<'a>>,
    /// Whether a join with `since` went on from there.
    pub recovered: Option<bool>,
    /// Whether the id had been accepted before.
    pub duplicate: bool,
    /// The number of an error or disconnect.
    pub code: Option<u16>,
    /// The name of an error, disconnect or signal.
    #[serde(borrow)]
    pub name: Text<'a>,
    /// A text for people.
    #[serde(borrow)]
    pub message: Text<'a>,
    /// When a retry may succeed, in milliseconds.
    pub retry_after_ms: u64,
    /// Of a failed publish: `not_stored` or `unknown`.
    #[serde(borrow)]
    pub outcome: Text<'a>,
    /// Whether to connect again after a disconnect.
    pub reconnect: Option<bool>,
    /// A page of history.
    #[serde(borrow)]
    pub publications: Vec<Frame<'a>>,
    /// Whether a page's range holds more.
    pub more: bool,
    /// Members of the room.
    pub count: Option<u64>,
}

impl<'a> Frame<'a> {
    /// Reads one frame.
    pub fn parse(text: &'a str) -> Result<Frame<'a>, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The payload of a publication.
    pub fn payload(&self) -> Payload<'_> {
        match (&self.bytes, self.data) {
            (Some(bytes), _) => Payload::Binary(&bytes.0),
            (None, data) => Payload::Json(data.map_or("null", RawValue::get)),
        }
    }

    /// The hash of a publication's content; see [`content`].
    pub fn content(&self) -> u64 {
        let offset = self.offset.unwrap_or_default();
        content(offset, self.time.unwrap_or_default(), &self.user.0, &self.id.0, body(self.payload()))
    }
}

/// A message's data as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// JSON text.
    Json(&'a str),
    /// Bytes in base64.
    Binary(&'a str),
}

/// The hash of a message's body: its kind and its bytes as they travel.
pub fn body(payload: Payload<'_>) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    let (kind, text) = match payload {
        Payload::Json(text) => (0, text),
        Payload::Binary(text) => (1, text),
    };
    hasher.write_u8(kind);
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The hash of all that a publication says: offset, time, user, id and body. An id that was not given is `~offset`.
pub fn content(offset: u64, time: u64, user: &str, id: &str, body: u64) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write_u64(offset);
    hasher.write_u64(time);
    hasher.write_usize(user.len());
    hasher.write(user.as_bytes());
    hasher.write(id_at(id, offset).as_bytes());
    hasher.write_u64(body);
    hasher.finish()
}

/// The id of a message: as given, or `~` and the offset.
pub fn id_at(id: &str, offset: u64) -> Cow<'_, str> {
    match id {
        "" => Cow::Owned(format!("~{offset}")),
        id => Cow::Borrowed(id),
    }
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

/// A string of a frame, borrowed where it has no escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(s)))
            }
            fn visit_str<E>(self, s: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(s.to_owned())))
            }
        }
        deserializer.deserialize_str(V)
    }
}

/// A request from a client.
#[derive(Debug, Default, Serialize)]
pub struct Request<'a> {
    /// The type: `connect`, `join`, `leave`, `publish`, `signal`, `history`, `presence` or `ping`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The client's number for it.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<u64>,
    /// The room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<&'a str>,
    /// The message's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// Publications before the live stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<u32>,
    /// The position to go on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The epoch of that position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<&'a str>,
    /// Whether the member gets its own publications.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<&'a str>,
}

impl Request<'_> {
    /// The frame's text.
    pub fn text(&self) -> String {
        // Strings, numbers and raw JSON: nothing in it can fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_keeps_its_data_byte_for_byte() {
        let text = r#"{"type":"publication","room":"l\u00f6","offset":131,"prev":130,"time":5,"user":"ann","id":"m1","data":{"b" : 1, "a":"\u0041"}}"#;
        let frame = Frame::parse(text).unwrap();
        assert_eq!((&*frame.room, frame.prev, &*frame.id), ("lö", Some(130), "m1"));
        assert_eq!(frame.payload(), Payload::Json(r#"{"b" : 1, "a":"\u0041"}"#));
        let other = text.replace(r"\u0041", "A");
        assert_ne!(frame.content(), Frame::parse(&other).unwrap().content());
    }

    #[test]
    fn base64_pads() {
        let all: Vec<String> = ["", "f", "fo", "foo", "foob"].iter().map(|s| base64(s.as_bytes())).collect();
        assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
        assert_eq!(base64(&[255, 254, 253]), "//79");
    }

    #[test]
    fn a_given_id_and_a_made_one_differ_only_if_they_do() {
        assert_eq!(content(7, 1, "u", "", 3), content(7, 1, "u", "~7", 3));
        assert_ne!(content(7, 1, "u", "a", 3), content(7, 1, "u", "b", 3));
    }
}
