//! Buckets of message ids by time, so that old ids are dropped as a whole.

use super::error::ViewError;
use super::store::IdTable;

/// Most buckets in a view. Past it the times of a bucket grow wider instead, so that records with odd times cannot
/// make tables without end.
pub(super) const MAX_BUCKETS: usize = 64;
/// Times of a bucket until [`forget_ids`](super::View::forget_ids) has told the window, in milliseconds.
pub(super) const DEFAULT_WIDTH: u64 = 3_600_000;
/// Least times of a bucket, in milliseconds: a table is not made more often than this.
pub(super) const MIN_WIDTH: u64 = 600_000;

/// Ids whose times are below `start + width`, and not below `start` except in the first bucket.
#[derive(Clone)]
pub(super) struct Bucket {
    pub number: u32,
    pub start: u64,
    pub width: u64,
    /// How often it was written.
    pub writes: u64,
    pub table: IdTable,
}

impl Bucket {
    /// No id in the bucket has this time or a later one.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.width)
    }
}

/// The bucket for an id of this time, made with `make` if there is none yet. Buckets are ordered by their start.
pub(super) fn bucket_for(
    buckets: &mut Vec<Bucket>,
    time: u64,
    width: u64,
    make: impl FnOnce() -> Result<(u32, IdTable), ViewError>,
) -> Result<usize, ViewError> {
    let after = buckets.partition_point(|b| b.start <= time);
    let before = after.checked_sub(1);
    let (empty, full) = (buckets.is_empty(), buckets.len() >= MAX_BUCKETS);
    let start = match before.and_then(|i| buckets.get_mut(i)) {
        Some(bucket) if time < bucket.end() => return Ok(after - 1),
        // What is in this bucket is below its end, so a later start splits nothing.
        Some(bucket) if !full => (time - time % width).max(bucket.end()),
        Some(bucket) => {
            bucket.width = (time - bucket.start).saturating_add(1);
            return Ok(after - 1);
        }
        None if empty => time - time % width,
        None => return Ok(0),
    };
    let (number, table) = make()?;
    buckets.insert(after, Bucket { number, start, width, writes: 0, table });
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(buckets: &mut Vec<Bucket>, time: u64) -> (usize, u32) {
        let number = buckets.len() as u32;
        let i = bucket_for(buckets, time, 1000, || Ok((number, IdTable::Memory(number)))).unwrap();
        (i, buckets[i].number)
    }

    #[test]
    fn times_that_go_on_make_buckets_in_order() {
        let mut b = Vec::new();
        assert_eq!(place(&mut b, 5_500), (0, 0));
        assert_eq!(place(&mut b, 5_999), (0, 0));
        assert_eq!(place(&mut b, 6_000), (1, 1));
        assert_eq!(place(&mut b, 9_100), (2, 2));
        // Between two, and before all.
        assert_eq!(place(&mut b, 7_200), (2, 3));
        assert_eq!(place(&mut b, 100), (0, 0));
        assert_eq!(
            b.iter().map(|b| (b.start, b.end())).collect::<Vec<_>>(),
            [(5_000, 6_000), (6_000, 7_000), (7_000, 8_000), (9_000, 10_000)]
        );
    }

    #[test]
    fn odd_times_do_not_make_tables_without_end() {
        let mut b = Vec::new();
        for i in 0..1000u64 {
            let time = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let (i, _) = place(&mut b, time);
            assert!(time < b[i].end() || b[i].end() == u64::MAX);
        }
        assert_eq!(b.len(), MAX_BUCKETS);
        for pair in b.windows(2) {
            assert!(pair[0].end() <= pair[1].start);
        }
    }
}
