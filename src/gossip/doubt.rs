//! When this node should rather think that it is itself who is cut off.
//!
//! One neighbour that falls silent has probably fallen. If most do at once, it is more likely that this node's own
//! way to them is broken, for a moment or for long: then nobody is judged until that has had time to show. (Lifeguard,
//! Dadgar et al., DSN-W 2018, is where a node's doubt in its own health comes from.)

use std::collections::BTreeMap;

use super::Config;
use crate::id::NodeId;
use crate::time::Moment;

/// Fewer losses than this say nothing, however few links there are.
const LEAST_LOSSES: usize = 3;

/// What this node has lost of late, and until when it blames itself for it.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    lost: BTreeMap<NodeId, Moment>,
    until: Option<Moment>,
}

impl Doubt {
    /// The last link to a peer fell silent; so many peers are linked still.
    pub(super) fn lost(&mut self, peer: NodeId, left: usize, config: &Config, now: Moment) {
        self.lost.retain(|_, at| now.since(*at) < config.link_timeout);
        let before = self.is_mostly_lost(left + 1);
        self.lost.insert(peer, now);
        if !before && self.is_mostly_lost(left) {
            self.until = Some(now + config.self_blame);
        }
    }

    /// A peer is linked again: so it was not gone, or is back.
    pub(super) fn found(&mut self, peer: &NodeId) {
        self.lost.remove(peer);
    }

    fn is_mostly_lost(&self, left: usize) -> bool {
        self.lost.len() >= LEAST_LOSSES.max(left)
    }

    /// Before then, nobody's silence counts.
    pub(super) fn until(&self) -> Option<Moment> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    #[test]
    fn who_loses_most_links_at_once_blames_itself_for_a_while() {
        let config = Config::default();
        let at = |millis| Moment(0) + Duration::from_millis(millis);
        let mut doubt = Doubt::default();
        for (number, left) in [(1, 5), (2, 4)] {
            doubt.lost(node(number), left, &config, at(1_000));
            assert_eq!(doubt.until(), None);
        }
        doubt.lost(node(3), 3, &config, at(1_500));
        assert_eq!(doubt.until(), Some(at(1_500) + config.self_blame));
        // It is the same disaster: it does not blame itself for ever.
        doubt.lost(node(4), 2, &config, at(1_600));
        assert_eq!(doubt.until(), Some(at(1_500) + config.self_blame));
    }

    #[test]
    fn losses_one_after_another_or_of_few_are_the_others_affair() {
        let config = Config::default();
        let mut doubt = Doubt::default();
        for number in 0..6 {
            let now = Moment(0) + config.link_timeout * u32::from(number);
            doubt.lost(node(number), usize::from(6 - number), &config, now);
            assert_eq!(doubt.until(), None);
        }
        let mut doubt = Doubt::default();
        doubt.lost(node(1), 1, &config, Moment(0));
        doubt.lost(node(2), 0, &config, Moment(0));
        assert_eq!(doubt.until(), None, "two say nothing");
        // Three of ten are not most.
        let mut doubt = Doubt::default();
        for number in 1..=3 {
            doubt.lost(node(number), usize::from(10 - number), &config, Moment(0));
            assert_eq!(doubt.until(), None, "{number} of ten");
        }
        // Nor are those that are back.
        let mut doubt = Doubt::default();
        doubt.lost(node(1), 2, &config, Moment(0));
        doubt.lost(node(2), 1, &config, Moment(0));
        doubt.found(&node(1));
        doubt.found(&node(2));
        doubt.lost(node(3), 2, &config, Moment(0));
        assert_eq!(doubt.until(), None, "two are back");
        let mut doubt = Doubt::default();
        doubt.lost(node(1), 1, &config, Moment(0));
        // Whoever flaps is one, however often.
        for _ in 0..9 {
            doubt.found(&node(1));
            doubt.lost(node(1), 0, &config, Moment(0));
        }
        assert_eq!(doubt.until(), None);
    }
}
