//! Time as the core knows it: two numbers that it is handed, and the clock it stamps writes with.
//!
//! The core never asks for the time. Every input brings a [`Now`]: a monotone reading that timers compare,
//! and a wall clock that stamps writes and may be wrong.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A reading of a monotone clock: nanoseconds since an origin that means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// Saturates at the end of time, some 584 years after the origin.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000)
    }
}

/// A reading of the wall clock: milliseconds since 1970 UTC, right or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

/// What every input to the core brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For timers. Never goes back.
    pub monotone: Moment,
    /// For stamps. May jump.
    pub wall: UnixMillis,
}

/// A reading of a hybrid logical clock: 48 bits of unix milliseconds over a 16-bit counter.
///
/// The counter carries into the milliseconds, so that the successor of a timestamp always exists until
/// [`Timestamp::MAX`]. See Kulkarni et al., "Logical Physical Clocks", OPODIS 2014.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The last timestamp there is (in the year 10889). No write may bear it: it would have no successor.
    pub const MAX: Self = Self(u64::MAX);

    /// The first timestamp of a millisecond; saturates.
    pub fn from_wall(wall: UnixMillis) -> Self {
        Self(wall.0.min(u64::MAX >> 16) << 16)
    }

    /// The millisecond it falls into.
    pub fn to_wall(self) -> UnixMillis {
        UnixMillis(self.0 >> 16)
    }

    /// The next one, or `None` after [`Timestamp::MAX`].
    pub fn successor(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A hybrid logical clock: never goes back, follows what it is shown, but only up to a bound.
#[derive(Debug, Clone)]
pub struct Hlc {
    last: Timestamp,
    max_drift: Duration,
}

impl Hlc {
    /// Starts a clock that peers may push at most `max_drift` past the wall clock.
    pub fn new(max_drift: Duration) -> Self {
        Self { last: Timestamp::default(), max_drift }
    }

    /// The last reading.
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// Takes a reading greater than every earlier one and greater than `observed`.
    ///
    /// A reading above the drift bound is possible, where `observed` is: a write must come after what it has
    /// seen. It does not pull the clock itself along.
    ///
    /// # Errors
    ///
    /// [`Exhausted`] when there is no timestamp left above `observed`.
    pub fn tick(&mut self, wall: UnixMillis, observed: Timestamp) -> Result<Timestamp, Exhausted> {
        let own = self.last.successor().ok_or(Exhausted)?.max(Timestamp::from_wall(wall));
        self.last = own;
        let above = observed.successor().filter(|stamp| *stamp < Timestamp::MAX).ok_or(Exhausted)?;
        if own >= above {
            return Ok(own);
        }
        if above <= self.bound(wall) {
            self.last = above;
        }
        Ok(above)
    }

    /// Follows a remote reading, at most to the wall clock plus the drift bound.
    ///
    /// Returns how far the reading is beyond that bound: zero for a healthy peer.
    pub fn observe(&mut self, wall: UnixMillis, remote: Timestamp) -> Duration {
        let bound = self.bound(wall);
        self.last = self.last.max(remote.min(bound));
        Duration::from_millis(remote.to_wall().0.saturating_sub(bound.to_wall().0))
    }

    fn bound(&self, wall: UnixMillis) -> Timestamp {
        let drift = u64::try_from(self.max_drift.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_wall(UnixMillis(wall.0.saturating_add(drift)))
    }
}

/// A write was refused because it would have to come after the end of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value to be replaced bears a stamp at the end of time, nothing can come after it")]
pub struct Exhausted;

#[cfg(test)]
mod tests {
    use super::*;

    const DRIFT: Duration = Duration::from_secs(10);

    #[test]
    fn readings_grow_while_the_wall_clock_stands_or_goes_back() {
        let mut clock = Hlc::new(DRIFT);
        let first = clock.tick(UnixMillis(1_000), Timestamp::default()).unwrap();
        let second = clock.tick(UnixMillis(1_000), Timestamp::default()).unwrap();
        let third = clock.tick(UnixMillis(1), Timestamp::default()).unwrap();
        assert!(first < second && second < third);
        assert_eq!(first.to_wall(), UnixMillis(1_000));
    }

    #[test]
    fn the_counter_carries_into_the_milliseconds() {
        let stamp = Timestamp((7 << 16) | 0xffff);
        assert_eq!(stamp.successor().unwrap().to_wall(), UnixMillis(8));
    }

    #[test]
    fn a_peer_moves_the_clock_at_most_to_the_bound() {
        let mut clock = Hlc::new(DRIFT);
        let ahead = |ms| Timestamp::from_wall(UnixMillis(ms));
        assert_eq!(clock.observe(UnixMillis(0), ahead(9_999)), Duration::ZERO);
        assert_eq!(clock.last(), ahead(9_999));
        assert_eq!(clock.observe(UnixMillis(0), ahead(10_000)), Duration::ZERO);
        assert_eq!(clock.observe(UnixMillis(0), ahead(10_001)), Duration::from_millis(1));
        assert_eq!(clock.last(), ahead(10_000));
    }

    #[test]
    fn a_write_over_a_far_future_value_wins_without_pulling_the_clock_along() {
        let mut clock = Hlc::new(DRIFT);
        let far = Timestamp::from_wall(UnixMillis(1_000_000_000));
        let stamp = clock.tick(UnixMillis(5), far).unwrap();
        assert!(stamp > far);
        assert!(clock.last() < Timestamp::from_wall(UnixMillis(10_006)));
    }

    #[test]
    fn nothing_comes_after_the_end_of_time() {
        let mut clock = Hlc::new(DRIFT);
        assert_eq!(clock.tick(UnixMillis(5), Timestamp::MAX), Err(Exhausted));
        assert_eq!(clock.tick(UnixMillis(5), Timestamp(u64::MAX - 1)), Err(Exhausted));
        assert!(clock.tick(UnixMillis(5), Timestamp(u64::MAX - 2)).is_ok());
    }
}
