//! What a log holds, and which of its records count: the reference for the rule on duplicates.

use crate::wire::{Payload, body, content};
use std::collections::HashMap;

/// A record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its offset.
    pub offset: u64,
    /// The log's time, in milliseconds since 1970.
    pub time: u64,
    /// The room.
    pub room: String,
    /// The sender; empty if anonymous.
    pub user: String,
    /// The id as given; empty if none was.
    pub id: String,
    /// Whether `data` is base64 of bytes, not JSON.
    pub binary: bool,
    /// The data as it travels.
    pub data: String,
}

impl LogRecord {
    /// The hash of its body; see [`crate::wire::body`].
    pub fn body(&self) -> u64 {
        body(if self.binary { Payload::Binary(&self.data) } else { Payload::Json(&self.data) })
    }
}

/// Why a record is not a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The same message again.
    Duplicate,
    /// The same id with another body.
    Conflict,
}

/// An accepted record, as its publication should be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its offset.
    pub offset: u64,
    /// The hash of what a publication of it says; see [`crate::wire::content`].
    pub content: u64,
    /// The hash of its body.
    pub body: u64,
    /// The sender.
    pub user: Box<str>,
    /// The id as given.
    pub id: Box<str>,
}

/// One room of a log.
#[derive(Debug, Default)]
pub struct Room {
    /// The epoch, where the source says it.
    pub epoch: Option<String>,
    /// Publications, in log order.
    pub accepted: Vec<Accepted>,
    /// Records that are none.
    pub refused: HashMap<u64, Refused>,
    keys: HashMap<(Box<str>, Box<str>), Key>,
}

#[derive(Debug)]
struct Key {
    latest: u64,
    body: u64,
    /// Places in `accepted`.
    accepted: Vec<usize>,
}

impl Room {
    /// The place of an offset among the accepted.
    pub fn find(&self, offset: u64) -> Option<usize> {
        self.accepted.binary_search_by_key(&offset, |a| a.offset).ok()
    }

    /// The accepted record of a message that was given an id, if there is one; the newest if the window let in several.
    pub fn by_id(&self, user: &str, id: &str) -> Vec<&Accepted> {
        let places = self.keys.get(&(user.into(), id.into())).map_or(&[][..], |k| &k.accepted);
        places.iter().filter_map(|place| self.accepted.get(*place)).collect()
    }
}

/// A log's records by room, each decided as it comes.
#[derive(Debug)]
pub struct Log {
    rooms: HashMap<String, Room>,
    window: u64,
    records: u64,
}

impl Default for Log {
    fn default() -> Log {
        Log::new(60 * 60 * 1000)
    }
}

impl Log {
    /// An empty log with this window for duplicates in milliseconds; `default()` has an hour.
    pub fn new(window: u64) -> Log {
        Log { rooms: HashMap::new(), window, records: 0 }
    }

    /// Takes in the next record. Records come in log order; one that does not (a room's offset that does not
    /// increase) is ignored, and [`crate::segments`] has reported it.
    pub fn push(&mut self, record: LogRecord) {
        self.records += 1;
        let room = self.rooms.entry(record.room.clone()).or_default();
        let LogRecord { offset, time, user, id, .. } = &record;
        if room.accepted.last().is_some_and(|last| last.offset >= *offset) {
            return;
        }
        let body = record.body();
        let place = room.accepted.len();
        if !id.is_empty() {
            // A duplicate has an earlier record of its key at most the window before it, whatever that one was.
            let key = room.keys.entry((user.as_str().into(), id.as_str().into()));
            let key = key.or_insert(Key { latest: 0, body, accepted: Vec::new() });
            let within = !key.accepted.is_empty() && time.saturating_sub(key.latest) <= self.window;
            key.latest = *time;
            if within {
                let why = if key.body == body { Refused::Duplicate } else { Refused::Conflict };
                room.refused.insert(*offset, why);
                return;
            }
            key.body = body;
            key.accepted.push(place);
        }
        room.accepted.push(Accepted {
            offset: *offset,
            content: content(*offset, *time, user, id, body),
            body,
            user: user.as_str().into(),
            id: id.as_str().into(),
        });
    }

    /// Notes a room's epoch, and that the room exists.
    pub fn set_epoch(&mut self, room: &str, epoch: &str) {
        self.rooms.entry(room.to_owned()).or_default().epoch = Some(epoch.to_owned());
    }

    /// One room.
    pub fn room(&self, name: &str) -> Option<&Room> {
        self.rooms.get(name)
    }

    /// All rooms.
    pub fn rooms(&self) -> impl Iterator<Item = (&str, &Room)> {
        self.rooms.iter().map(|(name, room)| (name.as_str(), room))
    }

    /// Records taken in, whatever became of them.
    pub fn records(&self) -> u64 {
        self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(window: u64, records: &[(u64, u64, &str, &str, &str)]) -> Log {
        let mut log = Log::new(window);
        for (offset, time, user, id, data) in records {
            log.push(LogRecord {
                offset: *offset,
                time: *time,
                room: "r".into(),
                user: (*user).into(),
                id: (*id).into(),
                binary: false,
                data: (*data).into(),
            });
        }
        log
    }

    fn accepted(log: &Log) -> Vec<u64> {
        log.room("r").unwrap().accepted.iter().map(|a| a.offset).collect()
    }

    #[test]
    fn a_duplicate_prolongs_the_window() {
        // 3 is within the window of 2, although it is beyond that of 1; 4 is beyond that of 3.
        let log = log(
            10,
            &[
                (1, 100, "u", "a", "1"),
                (2, 110, "u", "a", "1"),
                (3, 120, "u", "a", "1"),
                (4, 131, "u", "a", "1"),
            ],
        );
        assert_eq!(accepted(&log), [1, 4]);
        assert_eq!(log.room("r").unwrap().refused[&3], Refused::Duplicate);
        assert_eq!(log.room("r").unwrap().by_id("u", "a").len(), 2);
    }

    #[test]
    fn another_body_is_a_conflict_and_prolongs_too() {
        let log = log(10, &[(1, 100, "u", "a", "1"), (2, 109, "u", "a", "2"), (3, 118, "u", "a", "2")]);
        assert_eq!(accepted(&log), [1]);
        assert_eq!(log.room("r").unwrap().refused[&2], Refused::Conflict);
        assert_eq!(log.room("r").unwrap().refused[&3], Refused::Conflict);
    }

    #[test]
    fn other_users_and_records_without_an_id_are_their_own() {
        let log = log(
            10,
            &[(1, 1, "u", "a", "1"), (2, 1, "v", "a", "1"), (3, 1, "", "", "1"), (4, 1, "", "", "1")],
        );
        assert_eq!(accepted(&log), [1, 2, 3, 4]);
    }
}
