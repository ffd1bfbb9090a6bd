//! Over which link the writes of each author come, so that others are asked for them when it goes; and how far each
//! author has got with looking for the fastest ways to everybody.

use std::collections::BTreeMap;
use std::time::Duration;

use super::LinkId;
use crate::id::{Actor, Generation, NodeId};
use crate::time::Moment;

/// How often an author may probe. Each probe passes every link once or twice, whoever has made it up.
const MIN_PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// The ways to all authors, and from this one.
#[derive(Debug, Default)]
pub(super) struct Trees {
    ways: BTreeMap<NodeId, LinkId>,
    probes: BTreeMap<NodeId, Probe>,
    /// How often this node has probed, and when last.
    own: u64,
    own_at: Option<Moment>,
}

#[derive(Debug)]
struct Probe {
    life: Generation,
    number: u64,
    at: Moment,
}

impl Trees {
    /// An author's writes come over that link from now on, or are to. Returns over which other one they came before.
    pub(super) fn come_by(&mut self, author: NodeId, link: LinkId) -> Option<LinkId> {
        self.ways.insert(author, link).filter(|before| *before != link)
    }

    /// Whether it is an author's newest probe, seen for the first time.
    pub(super) fn is_new_probe(&mut self, author: Actor, number: u64, now: Moment) -> bool {
        let probe = Probe { life: author.generation, number, at: now };
        let is_new = self.probes.get(&author.node).is_none_or(|last| {
            (last.life, last.number) < (probe.life, number) && now.since(last.at) >= MIN_PROBE_INTERVAL
        });
        if is_new {
            self.probes.insert(author.node, probe);
        }
        is_new
    }

    /// When this node has probed last.
    pub(super) fn probed_at(&self) -> Option<Moment> {
        self.own_at
    }

    /// This node probes: returns the number for it.
    pub(super) fn probe(&mut self, now: Moment) -> u64 {
        self.own_at = Some(now);
        self.own += 1;
        self.own
    }

    /// Whether an author's writes come over that link.
    pub(super) fn come_over(&self, author: &NodeId, link: LinkId) -> bool {
        self.ways.get(author) == Some(&link)
    }

    /// Whether it is known over which link an author's writes come.
    pub(super) fn knows(&self, author: &NodeId) -> bool {
        self.ways.contains_key(author)
    }

    /// Nothing comes of an author any more the way it came.
    pub(super) fn lose(&mut self, author: &NodeId) {
        self.ways.remove(author);
    }

    /// An author writes no more.
    pub(super) fn forget(&mut self, author: &NodeId) {
        self.lose(author);
        self.probes.remove(author);
    }

    /// A link brings nothing more: returns whose writes had come over it.
    pub(super) fn cut(&mut self, link: LinkId) -> Vec<NodeId> {
        let cut = |(author, way): (&NodeId, &LinkId)| (*way == link).then_some(*author);
        let orphans: Vec<NodeId> = self.ways.iter().filter_map(cut).collect();
        for author in &orphans {
            self.ways.remove(author);
        }
        orphans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    fn at(millis: u64) -> Moment {
        Moment(0) + Duration::from_millis(millis)
    }

    #[test]
    fn whoever_came_over_a_link_last_is_cut_off_with_it() {
        let mut trees = Trees::default();
        let came = [(1, 7), (2, 7), (3, 8), (2, 8)];
        let before = came.map(|(author, link)| trees.come_by(node(author), LinkId(link)));
        assert_eq!(before, [None, None, None, Some(LinkId(7))]);
        assert_eq!(trees.cut(LinkId(7)), [node(1)]);
        assert_eq!(trees.cut(LinkId(7)), []);
        assert_eq!(trees.cut(LinkId(8)), [node(2), node(3)]);
    }

    /// HARDENING: whoever makes probes up, in whosever name, is not passed on more often than this.
    #[test]
    fn a_probe_is_new_once_and_not_too_often() {
        let mut trees = Trees::default();
        let life = |generation| Actor { node: node(1), generation: Generation(generation) };
        assert!(trees.is_new_probe(life(5), 1, at(0)));
        assert!(!trees.is_new_probe(life(5), 1, at(20_000)), "the same again, another way");
        assert!(!trees.is_new_probe(life(5), 2, at(9_999)));
        assert!(trees.is_new_probe(life(5), 2, at(10_000)));
        assert!(!trees.is_new_probe(life(4), 9, at(30_000)), "of a former life");
        assert!(trees.is_new_probe(life(6), 1, at(30_000)));
    }
}
