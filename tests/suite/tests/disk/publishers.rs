//! Publishers that go on until the disk fails them, and try again what was not stored.

use crate::ROOM;
use klatch_harness::client::{Client, Failure, JoinOptions, Outcome, Seen};
use klatch_harness::observe::ClientLog;
use klatch_harness::process::Server;
use klatch_suite::history::{self, History, history};
use std::collections::BTreeMap;
use std::time::Duration;

/// Publishes of one publisher that are under way at once.
const WINDOW: usize = 8;
/// How long a publisher waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member that publishes, and what became of each of its messages.
pub struct Publisher {
    pub client: Client,
    name: String,
    sent: usize,
    /// The newest outcome of each message, by its number.
    pub outcomes: BTreeMap<usize, Outcome>,
}

impl Publisher {
    /// A member of the room.
    pub fn join(server: &Server, name: &str) -> Publisher {
        let mut client = Client::connect(&server.url(), name).unwrap();
        client.set_timeout(PATIENCE);
        client.join(ROOM, JoinOptions::default()).unwrap();
        Publisher { client, name: name.into(), sent: 0, outcomes: BTreeMap::new() }
    }

    /// Publishes `count` messages of so many bytes, several under way at once; stops early once one was not stored. Returns with none
    /// under way; whether all were stored.
    pub fn pour(&mut self, count: usize, bytes: usize) -> bool {
        let end = self.sent + count;
        let mut good = true;
        while self.outcomes.len() < self.sent || (good && self.sent < end) {
            while good && self.sent < end && self.sent - self.outcomes.len() < WINDOW {
                let data = format!("\"{}\"", "x".repeat(bytes));
                let id = format!("{}-{}", self.name, self.sent);
                let begun = self.client.begin(ROOM, &id, &data);
                self.sent += 1;
                match begun {
                    Ok(message) => assert_eq!(message + 1, self.sent),
                    Err(e) => return self.lost(&e),
                }
            }
            good &= self.settle_one();
        }
        good
    }

    /// Waits for the next outcome; whether it was stored. Where the connection ends, nobody knows what became of the rest.
    fn settle_one(&mut self) -> bool {
        let next = self.client.until(|seen| match seen {
            Seen::Published { message, outcome } => Some((*message, outcome.clone())),
            Seen::Publication { answers: Some(message), offset, .. } => {
                Some((*message, Outcome::Stored { offset: *offset, duplicate: false }))
            }
            _ => None,
        });
        // What the others publish is checked by the log.
        self.client.forget_kept();
        let (message, outcome) = match next {
            Ok(next) => next,
            Err(e) => return self.lost(&e),
        };
        let stored = matches!(outcome, Outcome::Stored { .. });
        self.outcomes.insert(message, outcome);
        stored
    }

    /// The connection has ended, be it while something was read or written.
    fn lost(&mut self, e: &Failure) -> bool {
        assert!(matches!(e, Failure::Connection(_) | Failure::Closed(..)), "{}: {e}", self.name);
        for message in 0..self.sent {
            self.outcomes.entry(message).or_insert(Outcome::Unknown { retry_after_ms: 0 });
        }
        false
    }

    /// The offsets of what is stored.
    pub fn stored(&self) -> impl Iterator<Item = u64> {
        self.outcomes.values().filter_map(|outcome| match outcome {
            Outcome::Stored { offset, .. } => Some(*offset),
            _ => None,
        })
    }

    /// How many have an outcome that nobody knows.
    pub fn unknown(&self) -> usize {
        self.outcomes.values().filter(|o| matches!(o, Outcome::Unknown { .. })).count()
    }

    /// The errors of what is certainly not stored.
    pub fn refusals(&self) -> impl Iterator<Item = &str> {
        self.outcomes.values().filter_map(|outcome| match outcome {
            Outcome::NotStored { error, .. } => Some(&**error),
            _ => None,
        })
    }

    /// Publishes one more and returns what became of it.
    pub fn try_one(&mut self) -> Outcome {
        let id = format!("{}-{}", self.name, self.sent);
        let outcome = self.client.publish(ROOM, &id, "1").unwrap();
        self.outcomes.insert(self.sent, outcome.clone());
        self.sent += 1;
        outcome
    }

    /// Sends again what is not stored, until all of it is. How many there were.
    pub fn retry(&mut self) -> usize {
        let open = |(n, o): (&usize, &Outcome)| (!matches!(o, Outcome::Stored { .. })).then_some(*n);
        let again: Vec<usize> = self.outcomes.iter().filter_map(open).collect();
        for message in &again {
            let outcome = self.client.retry(*message).unwrap();
            assert!(matches!(outcome, Outcome::Stored { .. }), "{} {message}: {outcome:?}", self.name);
            self.outcomes.insert(*message, outcome);
        }
        again.len()
    }

    /// What it saw, once it has seen everything up to `last`.
    pub fn into_log(mut self, last: u64) -> ClientLog {
        let room = self.client.state().room(ROOM);
        while self.client.state().position(room).offset < last {
            self.client.take().unwrap();
        }
        self.client.into_log()
    }
}

/// That the server's history holds exactly these offsets, some of which no publisher knows of.
pub fn holds(server: &Server, publishers: &[Publisher], unknown: usize) -> History {
    let all = history(&server.url(), ROOM, 500);
    let offsets: Vec<u64> = all.publications.iter().map(|p| history::offset(p)).collect();
    let mut stored: Vec<u64> = publishers.iter().flat_map(Publisher::stored).collect();
    stored.sort_unstable();
    assert!(stored.windows(2).all(|pair| pair[0] < pair[1]), "two messages have one place");
    let more = offsets.iter().filter(|o| stored.binary_search(o).is_err()).count();
    let missing: Vec<&u64> = stored.iter().filter(|o| offsets.binary_search(o).is_err()).collect();
    assert!(missing.is_empty(), "acknowledged and not in the history: {missing:?}");
    assert!(more <= unknown, "{more} in the history that nobody was told of, at most {unknown} could be");
    all
}
