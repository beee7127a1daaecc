//! Latencies, in little memory.

use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Counts of durations in buckets whose width is at most 1/32 of their value, from 1 microsecond up.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

const SUB: u64 = 32;
const SUB_BITS: u32 = SUB.trailing_zeros();
/// Up to 2^40 microseconds, twelve days; what is longer counts as that.
const BUCKETS: usize = (SUB as usize) * 37;

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS], count: 0, max: 0 }
    }
}

fn bucket(micros: u64) -> usize {
    let shift = (63 - (micros | SUB).leading_zeros()) - SUB_BITS;
    ((u64::from(shift) * SUB + (micros >> shift)) as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn top(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / SUB).saturating_sub(1);
    let base = bucket - shift * SUB;
    ((base + 1) << shift) - 1
}

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        let micros = duration.as_micros() as u64;
        if let Some(count) = self.buckets.get_mut(bucket(micros)) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(micros);
    }

    /// The value that this share of all is at or below, in microseconds, to 1/32 above.
    pub fn at(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return top(place).min(self.max);
            }
        }
        self.max
    }

    /// The usual percentiles.
    pub fn latency(&self) -> Latency {
        Latency {
            count: self.count,
            p50_us: self.at(0.5),
            p90_us: self.at(0.9),
            p99_us: self.at(0.99),
            p999_us: self.at(0.999),
            max_us: self.max,
        }
    }
}

/// Percentiles, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half are at most this.
    pub p50_us: u64,
    /// 90 in 100 are at most this.
    pub p90_us: u64,
    /// 99 in 100 are at most this.
    pub p99_us: u64,
    /// 999 in 1,000 are at most this.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        let (p50, p90, p99) = (ms(self.p50_us), ms(self.p90_us), ms(self.p99_us));
        let (p999, max) = (ms(self.p999_us), ms(self.max_us));
        write!(f, "p50 {p50:.2} ms, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_close_from_above() {
        let mut h = Histogram::default();
        for micros in 1..=100_000 {
            h.add(Duration::from_micros(micros));
        }
        for share in [0.5, 0.9, 0.99, 0.999] {
            let (exact, found) = (share * 100_000.0, h.at(share) as f64);
            assert!(found >= exact && found <= exact * (1.0 + 1.0 / 32.0) + 1.0, "{share}: {found}");
        }
        assert_eq!(h.latency().max_us, 100_000);
    }

    #[test]
    fn every_value_is_in_a_bucket_that_holds_it() {
        for micros in (0..5000).chain([1 << 20, (1 << 30) + 7, 1 << 39]) {
            let b = bucket(micros);
            assert!(top(b) >= micros && (b == 0 || top(b - 1) < micros), "{micros}");
        }
        assert_eq!(Histogram::default().at(0.5), 0);
    }
}
