//! What a client of a replay is, and how it comes back.

use crate::client::{Link, State};
use std::time::{Duration, Instant};

/// One client of the replay.
pub(super) struct Actor {
    pub(super) state: State,
    pub(super) link: Option<Link>,
    /// Upgraded, so that frames can be sent.
    pub(super) open: bool,
    /// When to connect again.
    pub(super) back_at: Option<Instant>,
    pub(super) tries: u32,
    /// Connections begun; with several nodes, each is to the next one.
    pub(super) dials: usize,
    pub(super) down_since: Option<Instant>,
    /// For each of the state's messages its number in the run.
    pub(super) numbers: Vec<usize>,
    /// Messages without an answer.
    pub(super) under_way: usize,
    bucket: Bucket,
}

impl Actor {
    pub(super) fn new(state: State, rate: u32) -> Actor {
        Actor {
            state,
            link: None,
            open: false,
            back_at: None,
            tries: 0,
            dials: 0,
            down_since: None,
            numbers: Vec::new(),
            under_way: 0,
            bucket: Bucket { rate: f64::from(rate), tokens: f64::from(rate) * 2.0, at: Instant::now() },
        }
    }

    /// Whether it may publish now; if so that is counted.
    pub(super) fn may_publish(&mut self, now: Instant) -> bool {
        self.bucket.take(now)
    }
}

/// Keeps a connection below the server's limit.
struct Bucket {
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        if self.rate == 0.0 {
            return true;
        }
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.rate * 2.0);
        self.at = now;
        let has = self.tokens >= 1.0;
        self.tokens -= if has { 1.0 } else { 0.0 };
        has
    }
}

/// Waiting time before the `tries`th attempt to come back: anything up to 50 ms doubled each time, up to 2 s, so that
/// thousands do not come in the same instant.
pub(super) fn backoff(tries: u32, random: &mut Random) -> Duration {
    let most = (50u64 << tries.min(6)).min(2000);
    Duration::from_micros(random.below(most * 1000))
}

/// A small generator of numbers, the same for the same seed (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}
