//! Plays real chat against a server over real sockets, and reports.

mod actor;
mod corpus;
mod driver;
mod histogram;
mod report;
mod stage;

pub use corpus::{Corpus, Script, Step};
pub use histogram::{Histogram, Latency};
pub use report::Report;

use crate::checker::{self, Expect};
use crate::log::Log;
use crate::observe::ClientLog;
use crate::target::Target;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How fast messages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as they are acknowledged.
    Max,
    /// So many messages a second over all rooms, or fewer if they are not acknowledged in time.
    PerSecond(f64),
}

/// What to replay against, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server: `ws://HOST:PORT[/ws]`.
    pub url: String,
    /// Other nodes with the same rooms. Clients are spread over all, and one that comes back goes to the next. Default: none.
    pub other_urls: Vec<String>,
    /// How fast. Default: as fast as possible.
    pub speed: Speed,
    /// Most messages, taken from all rooms in turn. Default: all.
    pub limit: Option<u64>,
    /// After how many of 1,000 messages a connection is broken without a word, to be resumed. Half of them are the
    /// sender's. Default 0.
    pub drops_per_1000: u32,
    /// Every so many messages one is sent a second time with the same id: by turns at once and after its ack.
    /// Default 0: none.
    pub duplicate_every: u64,
    /// For drops, jitter and message ids. A server that has kept the messages of an earlier replay answers one with the
    /// same seed with duplicates. Default: from the clock.
    pub seed: u64,
    /// Where the embedded log lies, if this process can read it. Default: the history over HTTP is read instead.
    pub log_dir: Option<PathBuf>,
    /// Whose history is read over HTTP. Default: that of `url`.
    pub history_url: Option<String>,
    /// How long a client tries to come back before the run fails. Default 30 s.
    pub reconnect_for: Duration,
    /// Clients that are in each room from the beginning and only listen. Default 1.
    pub listeners: usize,
    /// One connection per sender that joins all its rooms, instead of one per room and sender. Default false.
    pub per_sender: bool,
    /// Messages of one room that may be under way at once; never two of one sender. Default: 1 with
    /// [`Speed::PerSecond`], so that the log's order is the corpus's, and 16 with [`Speed::Max`].
    pub window: Option<usize>,
    /// Publishes a second that one connection keeps to, with twice as many at once; 0: any number. Default 45.
    pub publish_rate: u32,
    /// How long a sending may be without an answer while its connection stands. Past it the checker says so, and the
    /// message is sent again. Default 15 s, more than the server's `publish_timeout_ms`.
    pub answer_timeout: Duration,
    /// With nothing happening for this long, a run counts as come to rest. Default 30 s, for a disk may hold up everything for seconds; it
    /// is waited for only where something is missing.
    pub patience: Duration,
    /// What the run is meant to provoke; it fails if it does not.
    pub expect: Expect,
}

impl Options {
    /// The defaults for this server.
    pub fn new(url: impl Into<String>) -> Options {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Options {
            url: url.into(),
            other_urls: Vec::new(),
            speed: Speed::Max,
            limit: None,
            drops_per_1000: 0,
            duplicate_every: 0,
            seed: clock.map_or(1, |t| t.as_nanos() as u64),
            log_dir: None,
            history_url: None,
            reconnect_for: Duration::from_secs(30),
            listeners: 1,
            per_sender: false,
            window: None,
            publish_rate: 45,
            answer_timeout: Duration::from_secs(15),
            patience: Duration::from_secs(30),
            expect: Expect::default(),
        }
    }

    fn window(&self) -> usize {
        self.window.unwrap_or(if self.speed == Speed::Max { 16 } else { 1 }).max(1)
    }
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Messages to send.
    pub total: u64,
    /// Messages sent.
    pub sent: u64,
    /// Messages acknowledged or refused for good.
    pub answered: u64,
    /// Publications delivered.
    pub deliveries: u64,
    /// Open connections.
    pub connections: u64,
    /// Since the beginning.
    pub elapsed: Duration,
}

/// Replays a corpus and checks what came of it; `progress` is called about ten times a second.
///
/// Raises this process's limit of open files, as each client needs one. Fails only if it cannot begin: a malformed URL, no sockets. What goes wrong later is in the report.
pub fn run(corpus: Corpus, options: &Options, progress: impl FnMut(&Progress)) -> io::Result<Report> {
    run_with(corpus, options, progress, |rooms| {
        if let Some(dir) = &options.log_dir {
            return crate::segments::read(dir);
        }
        let target = Target::parse(options.history_url.as_deref().unwrap_or(&options.url))?;
        crate::http::history(&target, rooms.iter().map(String::as_str))
    })
}

/// [`run`] with another way to find out what the log holds: called once at the end with the names of the rooms.
pub fn run_with(
    corpus: Corpus,
    options: &Options,
    progress: impl FnMut(&Progress),
    log: impl FnOnce(&[String]) -> io::Result<Log>,
) -> io::Result<Report> {
    let corpus = match options.limit {
        Some(most) => corpus.limited(most),
        None => corpus,
    };
    crate::process::raise_files();
    let rooms: Vec<String> = corpus.scripts.iter().map(|s| s.room.clone()).collect();
    let (mut report, clients) = driver::Driver::new(corpus, options)?.run(progress)?;
    match log(&rooms) {
        Ok(log) => {
            report.in_order = in_order(&clients, &log, options);
            let strict = checker::Options {
                // A run that was cut short has not come to rest.
                complete: report.failures.is_empty(),
                expect: options.expect.clone(),
            };
            let verdict = checker::check(&clients, &log, &strict);
            report.errors = verdict.errors.clone();
            report.verdict = Some(verdict);
        }
        Err(e) => report.failures.push(format!("the log cannot be read: {e}")),
    }
    Ok(report)
}

/// The prefix of the ids of a run.
fn prefix(seed: u64) -> String {
    format!("{seed:x}-")
}

/// Whether the log has each room's messages in the order in which the corpus has them, or each sender's in the order in
/// which it sent them.
fn in_order(clients: &[ClientLog], log: &Log, options: &Options) -> bool {
    let prefix = prefix(options.seed);
    let number = |id: &str| id.strip_prefix(&prefix).and_then(|n| n.parse::<u64>().ok());
    let by_sender = options.window() > 1;
    let rooms: std::collections::HashSet<&str> =
        clients.iter().flat_map(|c| &c.rooms).map(|r| r.room.as_str()).collect();
    rooms.into_iter().filter_map(|name| log.room(name)).all(|room| {
        let mut last: HashMap<&str, u64> = HashMap::new();
        room.accepted.iter().filter_map(|a| Some((a, number(&a.id)?))).all(|(record, n)| {
            let last = last.entry(if by_sender { &record.user } else { "" }).or_default();
            let rises = n > *last;
            *last = n;
            rises
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogRecord;
    use crate::observe::RoomLog;

    #[test]
    fn an_order_that_is_not_the_corpuss_is_seen() {
        let log_of = |messages: &[(&str, u64)]| {
            let mut log = Log::default();
            for ((user, n), offset) in messages.iter().zip(1..) {
                let id = format!("{}{n}", prefix(255));
                let (room, user, data) = ("r".into(), (*user).into(), "1".into());
                log.push(LogRecord { offset, time: 1, room, user, id, binary: false, data });
            }
            log
        };
        let clients = [ClientLog {
            rooms: vec![RoomLog { room: "r".into(), ..RoomLog::default() }],
            ..ClientLog::default()
        }];
        let by_sender = Options { seed: 255, window: Some(2), ..Options::new("") };
        let by_room = Options { window: Some(1), ..by_sender.clone() };
        for (messages, of_sender, of_room) in [
            (&[("a", 1), ("b", 2), ("a", 3)][..], true, true),
            (&[("b", 2), ("a", 1), ("a", 3)], true, false),
            (&[("b", 2), ("a", 3), ("a", 1)], false, false),
        ] {
            let log = log_of(messages);
            assert_eq!(in_order(&clients, &log, &by_sender), of_sender, "{messages:?}");
            assert_eq!(in_order(&clients, &log, &by_room), of_room, "{messages:?}");
        }
    }
}
