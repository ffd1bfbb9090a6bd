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
    /// Whether what differs was fetched since the last audit.
    fetched: bool,
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
        self.fetched = false;
        true
    }

    /// Whether it is time to fetch from a peer that has seen the same: what both told each other has helped nothing, and
    /// nothing was fetched since.
    pub(super) fn is_in_vain(&self, after: Duration, now: Moment) -> bool {
        !self.fetched && (self.done > 1 || (self.done == 1 && now.since(self.still_since) >= after))
    }

    /// Whether what differs is to be fetched: once for each audit, as the peer does it or since the time has come.
    pub(super) fn take_fetch(&mut self) -> bool {
        self.differing_since.is_some() && !std::mem::replace(&mut self.fetched, true)
    }

    /// Since when both have differed, or were audited and differ still.
    pub(super) fn differing_since(&self) -> Option<Moment> {
        self.differing_since
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

    /// SCENARIOS G-35: what helps where telling does not is done with the next comparison, and once for each audit.
    #[test]
    fn what_differs_though_both_have_seen_the_same_is_fetched_once_for_each_audit() {
        let mut audit = Audit::default();
        let mut fetched = Vec::new();
        for second in 0..80 {
            let at = Moment(0) + Duration::from_secs(second);
            audit.compare([1; 16], [2; 16], AFTER, at);
            if audit.is_in_vain(AFTER, at) && audit.take_fetch() {
                fetched.push(second);
            }
        }
        assert_eq!(fetched, [5, 15, 35, 75]);
        audit.compare([1; 16], [1; 16], AFTER, Moment(0) + Duration::from_secs(80));
        assert!(!audit.take_fetch(), "nothing differs");
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
