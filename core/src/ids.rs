//! Names, message ids and the keys made from them.

use crate::codes::Code;
use crate::config::Limit;
use crate::error::{Error, Result};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

/// Checks a room, user or event name: 1 to `max` bytes of UTF-8 without control characters.
///
/// Names are compared byte for byte everywhere (no Unicode normalisation, no case folding).
pub fn check_name(what: &str, name: &str, max: usize) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(Code::InvalidName, format!("a {what} name must not be empty")));
    }
    if name.len() > max {
        let text = format!("a {what} name has at most {max} bytes, this one has {}", name.len());
        return Err(Error::new(Code::InvalidName, text).at(Limit::NameBytes));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::new(Code::InvalidName, format!("a {what} name must not have control characters")));
    }
    Ok(())
}

/// Longest message id in bytes.
pub const MAX_ID: usize = 64;

/// Checks a message id given by a client: 1 to [`MAX_ID`] bytes, no control characters, not beginning with `~`.
pub fn check_id(id: &str) -> Result<()> {
    let bad = if id.is_empty() {
        "it is empty"
    } else if id.len() > MAX_ID {
        "it has more than 64 bytes"
    } else if id.starts_with('~') {
        "ids that begin with ~ are made by the engine"
    } else if id.chars().any(char::is_control) {
        "it has control characters"
    } else {
        return Ok(());
    };
    Err(Error::new(Code::InvalidId, format!("this message id cannot be used: {bad}")))
}

/// The key of one (room, user, id): equal keys mean equal triples, for it is a keyed 128-bit hash
/// whose secret no client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageKey(pub u128);

impl std::hash::Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, n: u128) {
        self.0 ^= n as u64 ^ (n >> 64) as u64;
    }
}

/// A map's hasher for [`MessageKey`]s, which are hashes with a secret already.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHasher(u64);

/// A map by [`MessageKey`].
pub type KeyMap<T> = std::collections::HashMap<MessageKey, T, std::hash::BuildHasherDefault<KeyHasher>>;

/// The secret of the hashes in one view. Kept with the view, because the view holds keys made with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl HashKey {
    /// A new secret.
    pub fn random() -> HashKey {
        HashKey(random_bytes())
    }

    /// The key of a message of this user in this room with this id.
    pub fn message(&self, room: &str, user: &str, id: &str) -> MessageKey {
        let mut h = SipHasher13::new_with_key(&self.0);
        h.write(&[room.len() as u8, user.len() as u8]);
        h.write(room.as_bytes());
        h.write(user.as_bytes());
        h.write(id.as_bytes());
        MessageKey(h.finish128().as_u128())
    }

    /// The hash of a message's body; equal for equal bytes of the same kind.
    pub fn body(&self, kind: u8, data: &[u8]) -> u64 {
        let mut h = SipHasher13::new_with_key(&self.0);
        h.write(&[kind]);
        h.write(data);
        h.finish128().h1
    }
}

/// Bytes from the operating system's random source.
///
/// The source failing is not something a chat engine can go on from, so it is the one place that panics.
#[allow(clippy::expect_used)]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(test)]
    if crate::points::in_tests::random_bytes(&mut bytes) {
        return bytes;
    }
    getrandom::fill(&mut bytes).expect("the operating system has no random source");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(check_name("room", "lobby", 128).is_ok());
        assert!(check_name("room", "日本語 🎉", 128).is_ok());
        assert!(check_name("room", &"a".repeat(128), 128).is_ok());
        for bad in ["", "a\0b", "a\nb", "\u{85}", &"a".repeat(129)] {
            assert_eq!(check_name("room", bad, 128).unwrap_err().code(), Code::InvalidName, "{bad:?}");
        }
    }

    #[test]
    fn ids() {
        assert!(check_id("m1").is_ok());
        for bad in ["", "~1", "a\u{7}", &"a".repeat(65)] {
            assert_eq!(check_id(bad).unwrap_err().code(), Code::InvalidId, "{bad:?}");
        }
    }

    #[test]
    fn keys_do_not_confuse_neighbours() {
        let k = HashKey([7; 16]);
        assert_ne!(k.message("ab", "c", "d"), k.message("a", "bc", "d"));
        assert_ne!(k.message("a", "b", "cd"), k.message("a", "bc", "d"));
        assert_eq!(k.message("a", "b", "c"), k.message("a", "b", "c"));
        assert_ne!(k.body(0, b"1"), k.body(1, b"1"));
    }
}
