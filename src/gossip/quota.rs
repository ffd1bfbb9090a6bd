//! How much a node may write: at the rate that the mesh has agreed on, and for a while faster.
//!
//! Whoever writes faster than its peers can take it in harms all of them, and what it wrote last comes last. Links hold
//! up nothing but themselves, so it is the writer who is told.

use std::time::Duration;

use crate::time::Moment;

/// What a write costs besides its key and its value: about what it takes in a frame and in memory.
pub(super) const OVERHEAD: u64 = 64;

/// A bucket that every write fills, and that time empties.
#[derive(Debug)]
pub(super) struct Quota {
    /// Bytes that leave it in a second.
    rate: u64,
    /// Bytes that it holds.
    burst: u64,
    /// Bytes times 10^9 that are in it, so that no reading of the clock rounds any away.
    level: u128,
    read_at: Moment,
}

const NANOS: u128 = 1_000_000_000;

impl Quota {
    pub(super) fn new(rate: u64, burst: u64, now: Moment) -> Self {
        Self { rate, burst, level: 0, read_at: now }
    }

    /// Whether there is room for a write, however large it is.
    ///
    /// # Errors
    ///
    /// After what time there is.
    pub(super) fn check(&mut self, now: Moment) -> Result<(), Duration> {
        let left = now.since(self.read_at).as_nanos() * u128::from(self.rate);
        self.level = self.level.saturating_sub(left);
        self.read_at = self.read_at.max(now);
        let over = (self.level + 1).saturating_sub(u128::from(self.burst) * NANOS);
        if over == 0 {
            return Ok(());
        }
        let wait = over.div_ceil(u128::from(self.rate.max(1)));
        Err(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// Something was written.
    pub(super) fn take(&mut self, bytes: u64) {
        self.level += u128::from(bytes) * NANOS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_that_is_full_says_when_it_is_not() {
        let start = Moment(5);
        let mut quota = Quota::new(1_000, 3_000, start);
        quota.take(2_999);
        assert_eq!(quota.check(start), Ok(()));
        quota.take(501);
        let wait = quota.check(start).unwrap_err();
        assert_eq!(wait, SECOND / 2 + Duration::from_nanos(1));
        assert_eq!(quota.check(start + (wait - Duration::from_nanos(1))), Err(Duration::from_nanos(1)));
        assert_eq!(quota.check(start + wait), Ok(()));
        // Empty is empty: rest is not saved up.
        assert_eq!(quota.check(start + 100 * SECOND), Ok(()));
        quota.take(3_000);
        assert!(quota.check(start + 100 * SECOND).is_err());
    }

    #[test]
    fn over_long_the_rate_is_kept_however_often_the_clock_is_read() {
        let mut quota = Quota::new(7, 100, Moment(0));
        let mut written = 0;
        for step in 0..1_000_000_u64 {
            if quota.check(Moment(step * 100_003)).is_ok() {
                quota.take(1);
                written += 1;
            }
        }
        // A hundred seconds at seven bytes, the bucket, and the write that fills it.
        assert_eq!(written, 7 * 100 + 100 + 1);
    }
}
