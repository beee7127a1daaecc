//! Members that keep every publication as it came, to be compared byte for byte.

use crate::history::history;
use klatch_harness::client::{Client, Failure, JoinOptions, Seen, Since};
use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

/// The last message of each room: who has it has them all.
pub const END: &str = "the end";

/// Each room's publications.
pub type Rooms = BTreeMap<String, Vec<String>>;

/// Joins the rooms, from a position if one is given, and keeps each publication as it came, until the one with the id [`END`] of each.
///
/// # Panics
/// If it cannot, or nothing comes for two minutes.
pub fn listen(url: &str, rooms: &[String], since: Option<u64>) -> JoinHandle<Rooms> {
    let mut client = ok(Client::connect(url, "reader"));
    for room in rooms {
        let since = since.map(|offset| Since { epoch: String::new(), offset });
        ok(client.join(room, JoinOptions { since, ..JoinOptions::default() }));
    }
    let count = rooms.len();
    std::thread::spawn(move || {
        client.set_timeout(Duration::from_secs(120));
        let (mut seen, mut ended) = (Rooms::new(), 0);
        while ended < count {
            let (what, text) = ok(client.take());
            if let Seen::Publication { room, .. } = what {
                ended += usize::from(text.contains(r#""id":"the end""#));
                let name = client.log().rooms.get(room).map(|r| r.room.clone()).unwrap_or_default();
                seen.entry(name).or_default().push(text);
            }
        }
        seen
    })
}

/// The history of these rooms, so many publications at a time.
///
/// # Panics
/// If the server does not answer.
pub fn pages(url: &str, rooms: &[String], limit: u32) -> Rooms {
    rooms.iter().map(|room| (room.clone(), history(url, room, limit).publications)).collect()
}

/// What a client's call gave.
#[track_caller]
pub(crate) fn ok<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

/// That two sources have the same publications, and where they begin to differ if they do not.
///
/// # Panics
/// If they do.
pub fn same(what: &str, found: &Rooms, log: &Rooms) {
    assert_eq!(found.keys().collect::<Vec<_>>(), log.keys().collect::<Vec<_>>(), "{what}: other rooms");
    for ((room, found), expected) in found.iter().zip(log.values()) {
        let differs = (0..expected.len().max(found.len())).find(|n| found.get(*n) != expected.get(*n));
        if let Some(n) = differs {
            panic!("{what}, {room}, {n}: {:?}, and the log has {:?}", found.get(n), expected.get(n));
        }
    }
}
