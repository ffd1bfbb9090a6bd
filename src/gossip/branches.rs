//! Whose writes are passed on over one link: its share in the tree of each author.
//!
//! In a small mesh an author's own links carry its writes, and others' only what a peer has asked for. In a large one
//! (after Plumtree, Leitão et al., SRDS 2007) there is one bit for each author; where it was never set there is something
//! to *offer*: its peer is told, and asks for it if it knows no way to the author.

use std::collections::{BTreeMap, BTreeSet};

use crate::crdt::Lane;
use crate::id::NodeId;

/// The branches over one link. Bounded by the authors there are.
#[derive(Debug, Default)]
pub(super) struct Branches {
    passes: BTreeMap<NodeId, bool>,
    /// Authors of whom there is something to offer, and whether one has come to them.
    offering: BTreeSet<NodeId>,
    has_offers: bool,
    /// The probes that are to be passed on: an author's lane, and its number.
    probing: BTreeMap<Lane, u64>,
}

impl Branches {
    /// Whether nobody has said anything.
    pub(super) fn is_empty(&self) -> bool {
        self.passes.is_empty()
    }

    /// Whether an author's writes are passed on, if that was ever said.
    pub(super) fn passes(&self, author: &NodeId) -> Option<bool> {
        self.passes.get(author).copied()
    }

    /// The peer has asked for an author's writes, or has them another way.
    pub(super) fn set(&mut self, author: NodeId, passes: bool) {
        self.passes.insert(author, passes);
    }

    /// The peer gets an author's writes another way unless it has asked for them.
    pub(super) fn leave(&mut self, author: NodeId) {
        self.passes.entry(author).or_insert(false);
    }

    /// There is something of an author of whom the peer may know nothing.
    pub(super) fn offer(&mut self, author: NodeId) {
        if !self.passes.contains_key(&author) {
            self.has_offers |= self.offering.insert(author);
        }
    }

    /// Whether there is something to offer that was not there the last time.
    pub(super) fn take_offers(&mut self) -> bool {
        std::mem::take(&mut self.has_offers)
    }

    /// The peer is told of all that there is: it asks for what it gets no other way.
    pub(super) fn offered(&mut self) {
        for author in std::mem::take(&mut self.offering) {
            self.leave(author);
        }
    }

    /// An author's probe is to be passed on. If the peer gets it here first, it asks for the author's writes, and else it
    /// gets them another way: whatever it had asked for before.
    pub(super) fn probe(&mut self, lane: Lane, number: u64) {
        self.set(lane.actor().node, false);
        self.probing.insert(lane, number);
    }

    /// The probes that are passed on now, at most so many.
    pub(super) fn take_probes(&mut self, most: usize) -> Vec<(Lane, u64)> {
        let rest = self.probing.keys().nth(most).cloned();
        let rest = rest.map(|lane| self.probing.split_off(&lane)).unwrap_or_default();
        std::mem::replace(&mut self.probing, rest).into_iter().collect()
    }

    /// Nothing is passed on any more, and nothing remembered.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// An author writes no more.
    pub(super) fn forget(&mut self, author: &NodeId) {
        self.passes.remove(author);
        self.offering.remove(author);
        self.probing.retain(|lane, _| lane.actor().node != *author);
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.passes.len() + self.offering.len() + self.probing.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::Class;
    use crate::id::{Actor, Generation};

    fn lane(byte: u8) -> Lane {
        let node = NodeId::from_bytes([byte; 32]);
        Lane::new(Actor { node, generation: Generation(1) }, Class::Registry)
    }

    fn node(byte: u8) -> NodeId {
        lane(byte).actor().node
    }

    #[test]
    fn an_author_is_offered_once_and_only_while_nothing_was_said_of_it() {
        let mut branches = Branches::default();
        branches.set(node(1), true);
        branches.offer(node(1));
        assert!(!branches.take_offers());
        branches.offer(node(2));
        assert!(branches.take_offers());
        branches.offer(node(2));
        assert!(!branches.take_offers());
        branches.offered();
        assert_eq!((branches.passes(&node(2)), branches.passes(&node(3))), (Some(false), None));
    }

    #[test]
    fn a_probe_begins_a_tree_anew_and_goes_out_once() {
        let mut branches = Branches::default();
        branches.set(node(1), true);
        for byte in [3, 1, 2] {
            branches.probe(lane(byte), 7);
        }
        branches.probe(lane(3), 8);
        assert_eq!((branches.passes(&node(1)), branches.passes(&node(2))), (Some(false), Some(false)));
        assert_eq!(branches.take_probes(2), [(lane(1), 7), (lane(2), 7)]);
        assert_eq!(branches.take_probes(2), [(lane(3), 8)]);
        assert_eq!(branches.take_probes(2), []);
    }
}
