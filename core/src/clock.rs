//! Time as the engine sees it, so that a test can hold it still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time. Only this module reads the system's clocks.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since 1970 UTC. May jump either way.
    fn wall_ms(&self) -> u64;
    /// Milliseconds since some moment before the engine began. Never runs back.
    fn steady_ms(&self) -> u64;
}

/// The longest wait: as good as for ever, and nothing overflows.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// A clock that begins at one hour, so that nothing computes a time before zero.
    #[allow(clippy::new_without_default)]
    pub fn new() -> SystemClock {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
    }

    fn steady_ms(&self) -> u64 {
        3_600_000 + self.0.elapsed().as_millis() as u64
    }
}

/// A clock that stands still until it is moved; for tests.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `ms`, on both scales.
    pub fn new(ms: u64) -> ManualClock {
        ManualClock(AtomicU64::new(ms))
    }

    /// Moves it forward.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn steady_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
