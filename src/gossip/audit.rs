//! Whether the states at both ends of a link differ for longer than it takes to tell what is new.
//!
//! Heartbeats bring the digest of the peer's state. Where everything works, states that differ are on their way to being
//! the same; where something went wrong unnoticed, they stay as they are. Then both ends tell each other all that they
//! have seen: an *audit*.

use std::time::Duration;

use crate::time::Moment;

/// How often the time to the next audit doubles at most.
const MAX_DOUBLINGS: u32 = 4;

/// How many times longer than usual both may differ while either changes. While everybody writes, two states are hardly
/// ever the same when they are compared, and nothing is wrong.
const WHILE_CHANGING: u32 = 12;

/// What was found by comparing.
#[derive(Debug, Default)]
pub(super) struct Audit {
    differing_since: Option<Moment>,
    /// How often both told all because of it.
    done: u32,
    /// The digests that were compared last, and since when they have been these.
    compared: Option<([u8; 16], [u8; 16])>,
    still_since: Moment,
}

impl Audit {
    /// Compares two states; says whether it is time for an audit. What was in vain is tried ever later.
    pub(super) fn compare(&mut self, theirs: [u8; 16], ours: [u8; 16], after: Duration, now: Moment) -> bool {
        if theirs == ours {
            *self = Self::default();
            return false;
        }
        if self.compared.replace((theirs, ours)) != Some((theirs, ours)) {
            self.still_since = now;
        }
        let since = *self.differing_since.get_or_insert(now);
        let patience = after * (1 << self.done.min(MAX_DOUBLINGS));
        let is_still = now.since(self.still_since) >= after;
        if now.since(since) < if is_still { patience } else { patience * WHILE_CHANGING } {
            return false;
        }
        self.done += 1;
        self.differing_since = Some(now);
        true
    }

    /// Since when both have differed, or were audited and differ still.
    pub(super) fn differing_since(&self) -> Option<Moment> {
        self.differing_since
    }

    /// Whether an audit has changed nothing.
    pub(super) fn was_in_vain(&self) -> bool {
        self.done > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(5);

    /// When audits come in so many seconds with one comparison each, of digests that change so.
    fn audits(seconds: u8, theirs: impl Fn(u8) -> u8, ours: impl Fn(u8) -> u8) -> Vec<u8> {
        let mut audit = Audit::default();
        let due = |second: &u8| {
            let at = Moment(0) + Duration::from_secs(u64::from(*second));
            audit.compare([theirs(*second); 16], [ours(*second); 16], AFTER, at)
        };
        (0..seconds).filter(due).collect()
    }

    /// SCENARIOS G-35.
    #[test]
    fn what_stays_different_is_looked_at_ever_more_rarely() {
        assert_eq!(audits(200, |_| 1, |_| 2), [5, 15, 35, 75, 155]);
    }

    /// SCENARIOS G-35: that everybody writes is no reason to tell everything, and no excuse for ever.
    #[test]
    fn what_changes_is_given_time_and_looked_at_when_it_rests() {
        assert_eq!(audits(200, |second| second, |_| 255), [60, 180]);
        assert_eq!(audits(200, |_| 255, |second| second), [60, 180]);
        assert_eq!(audits(60, |second| second.min(20), |_| 255), [25, 35, 55]);
        assert_eq!(audits(200, |second| second, |second| second), Vec::<u8>::new());
        // Now and then they are the same.
        assert_eq!(audits(200, |second| second, |second| second - second % 50), Vec::<u8>::new());
    }
}
