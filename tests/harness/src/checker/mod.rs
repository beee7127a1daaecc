//! Compares what clients saw with what the log holds, and names what is wrong.
//!
//! The log (read by [`crate::segments`] or [`crate::http`], decided by [`crate::log`]) is the truth: each
//! membership must have seen a stretch of its room's accepted records, whole and in order, and each ack must name
//! the place of its message.

mod messages;
mod runs;
#[cfg(test)]
mod tests;
mod verdict;

use crate::log::{Log, Room};
use crate::observe::ClientLog;
use std::collections::BTreeMap;
pub use verdict::{Counts, Expect, Verdict, Violation, Wrong};

/// How strict a check is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the run came to rest before it was checked: then every message has an answer, and every client that
    /// is still a member has seen its room to the end. Default true.
    pub complete: bool,
    /// What the run was meant to provoke.
    pub expect: Expect,
}

impl Default for Options {
    fn default() -> Options {
        Options { complete: true, expect: Expect::default() }
    }
}

/// Checks what these clients saw against this log.
pub fn check<'a>(clients: impl IntoIterator<Item = &'a ClientLog>, log: &Log, options: &Options) -> Verdict {
    let clients: Vec<&ClientLog> = clients.into_iter().collect();
    let mut verdict = Verdict::default();
    verdict.counts.records = log.records();
    let none = Room::default();
    // By room: the memberships that saw a stretch whole, as witnesses of the order, and the first epoch.
    let mut rooms: BTreeMap<&str, runs::RoomCheck<'_>> = BTreeMap::new();
    for client in &clients {
        for (place, seen) in client.rooms.iter().enumerate() {
            let room = rooms
                .entry(&seen.room)
                .or_insert_with(|| runs::RoomCheck::new(&seen.room, log.room(&seen.room).unwrap_or(&none)));
            room.client(client, place, options.complete, &mut verdict);
        }
        verdict.counts.drops += client.drops;
        for (name, count) in &client.errors {
            *verdict.errors.entry(name.clone()).or_default() += count;
        }
    }
    for room in rooms.values() {
        room.witnesses(&mut verdict);
    }
    messages::check(&clients, log, options.complete, &mut verdict);
    verdict.provoked(&options.expect);
    verdict
}
