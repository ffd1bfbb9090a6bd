//! How far others' wall clocks are from this node's, and whether it is this one that is wrong.
//!
//! A hello brings the time at the peer. What this node's own clock jumps afterwards is seen against its monotone
//! clock; what a peer's jumps is seen with its next hello, or by the peer itself. Merging never looks at any of
//! this: a wrong clock makes a node's concurrent writes win or lose unjustly, and nothing diverge.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::time::{Now, UnixMillis};

/// What a peer's clock showed, and what this node's did when it heard of it.
#[derive(Debug, Clone, Copy)]
struct Reading {
    theirs: UnixMillis,
    ours: Now,
}

/// The last reading of each peer that a link leads to.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    readings: BTreeMap<NodeId, Reading>,
}

impl Clocks {
    /// A hello came.
    pub(super) fn read(&mut self, peer: NodeId, theirs: UnixMillis, now: Now) {
        self.readings.insert(peer, Reading { theirs, ours: now });
    }

    /// No link leads to that peer any more.
    pub(super) fn forget(&mut self, peer: &NodeId) {
        self.readings.remove(peer);
    }

    /// How many milliseconds each peer's clock is ahead of this node's, up to a delay; negative if it is behind.
    pub(super) fn ahead(&self, now: Now) -> impl Iterator<Item = (NodeId, i64)> {
        self.readings.iter().map(move |(peer, Reading { theirs, ours })| {
            let passed = now.monotone.since(ours.monotone).as_millis();
            let theirs = theirs.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
            let ahead = i128::from(theirs) - i128::from(now.wall.0);
            (*peer, i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX }))
        })
    }

    /// By how many milliseconds this node's clock is ahead (negative: behind), if more than half of its peers, and
    /// at least two, agree that it is so by more than `bound`.
    pub(super) fn own_error(&self, bound: u64, now: Now) -> Option<i64> {
        let mut ahead: Vec<i64> = self.ahead(now).map(|(_, ahead)| ahead).collect();
        ahead.sort_unstable();
        // If more than half agree, the one in the middle is among them on both sides of it.
        let (low, high) = (ahead.get((ahead.len().max(1) - 1) / 2)?, ahead.get(ahead.len() / 2)?);
        let off = |ahead: &i64| ahead.unsigned_abs() > bound;
        let agree = off(low) && off(high) && (*low < 0) == (*high < 0);
        (ahead.len() >= 2 && agree)
            .then(|| if *low < 0 { high.saturating_neg() } else { low.saturating_neg() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Moment;

    const BOUND: u64 = 10_000;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    /// At that second since the start, with a clock that is so many seconds off.
    fn at(second: u64, off: i64) -> Now {
        let wall = (1_000_000_000 + second * 1_000).saturating_add_signed(off * 1_000);
        Now { monotone: Moment(second * 1_000_000_000), wall: UnixMillis(wall) }
    }

    fn clocks(peers: &[i64]) -> Clocks {
        let mut clocks = Clocks::default();
        for (peer, off) in (1..).zip(peers) {
            clocks.read(node(peer), at(0, *off).wall, at(0, 0));
        }
        clocks
    }

    /// SCENARIOS G-30.
    #[test]
    fn the_majority_decides_whose_clock_is_off() {
        for (peers, error) in [
            (&[][..], None),
            (&[3_600], None),
            (&[3_600, 3_600], Some(-3_600_000)),
            (&[3_600, 0], None),
            (&[-60, -70, 0], Some(60_000)),
            (&[-60, 0, 0], None),
            (&[60, -60, 60, -60], None),
            (&[9, 9, 9], None),
        ] {
            assert_eq!(clocks(peers).own_error(BOUND, at(0, 0)), error, "{peers:?}");
        }
    }

    #[test]
    fn a_jump_of_the_own_clock_is_noticed_without_a_word() {
        let clocks = clocks(&[0, 1, -1]);
        assert_eq!(clocks.own_error(BOUND, at(100, 0)), None);
        assert_eq!(clocks.own_error(BOUND, at(100, 3_600)), Some(3_600_000));
        assert_eq!(clocks.own_error(BOUND, at(100, -3_600)), Some(-3_600_000));
        let ahead: Vec<i64> = clocks.ahead(at(100, 5)).map(|(_, ahead)| ahead).collect();
        assert_eq!(ahead, [-5_000, -4_000, -6_000]);
    }

    #[test]
    fn whoever_is_gone_has_no_vote() {
        let mut clocks = clocks(&[3_600, 3_600]);
        clocks.forget(&node(1));
        assert_eq!(clocks.own_error(BOUND, at(0, 0)), None);
    }
}
