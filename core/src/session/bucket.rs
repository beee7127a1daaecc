//! A rate limit: a token bucket in eight bytes.

/// Tokens in thousandths and the time of the last look. Starts full.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    used: u32,
    at: u32,
}

impl Bucket {
    /// Takes one token of a bucket that holds `burst` and gains `rate` a second. `rate` 0 means no limit. If there is none,
    /// returns after how many milliseconds there will be one.
    pub fn take(&mut self, rate: u32, burst: u32, now_ms: u64) -> Result<(), u32> {
        if rate == 0 {
            return Ok(());
        }
        // The clock's low half is enough: a pause of 49 days fills any bucket, and at worst looks shorter.
        let now = now_ms as u32;
        let gained = u64::from(now.wrapping_sub(self.at)) * u64::from(rate);
        let used = u64::from(self.used).saturating_sub(gained);
        self.at = now;
        let capacity = u64::from(burst.max(1)) * 1000;
        if used + 1000 > capacity {
            self.used = used.min(u64::from(u32::MAX)) as u32;
            let missing = used + 1000 - capacity;
            return Err((missing.div_ceil(u64::from(rate))).clamp(1, 60_000) as u32);
        }
        self.used = (used + 1000).min(u64::from(u32::MAX)) as u32;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut b = Bucket::default();
        let now = 10_000_000;
        for _ in 0..100 {
            assert!(b.take(50, 100, now).is_ok());
        }
        assert_eq!(b.take(50, 100, now), Err(20));
        assert_eq!(b.take(50, 100, now + 19), Err(1));
        assert!(b.take(50, 100, now + 20).is_ok());
        assert!(b.take(50, 100, now + 20).is_err());
        assert!(b.take(0, 0, now).is_ok());
    }
}
