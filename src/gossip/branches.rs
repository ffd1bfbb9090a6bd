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
    branches: BTreeMap<NodeId, Branch>,
    /// Authors of whom there is something to offer, and whether one has come to them.
    offering: BTreeSet<NodeId>,
    has_offers: bool,
    /// The probes that are to be passed on: an author's lane, and its number.
    probing: BTreeMap<Lane, u64>,
}

/// One author's writes over one link.
#[derive(Debug, Default, Clone, Copy)]
struct Branch {
    /// Whether they are passed on.
    passes: bool,
    /// Whether the peer was told that they come another way, and not asked for them since.
    refused: bool,
}

impl Branches {
    /// Whether nobody has said anything.
    pub(super) fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }

    /// Whether an author's writes are passed on, if that was ever said.
    pub(super) fn passes(&self, author: &NodeId) -> Option<bool> {
        self.branches.get(author).map(|branch| branch.passes)
    }

    /// The peer has asked for an author's writes, or has them another way.
    pub(super) fn set(&mut self, author: NodeId, passes: bool) {
        self.branches.entry(author).or_default().passes = passes;
    }

    /// Whether the peer has been told that an author's writes come another way, and not been asked for them since: what
    /// comes of them was on its way.
    pub(super) fn refuses(&self, author: &NodeId) -> bool {
        self.branches.get(author).is_some_and(|branch| branch.refused)
    }

    /// The peer is told that an author's writes come another way. It gets them another way itself, unless it has asked.
    pub(super) fn refuse(&mut self, author: NodeId) {
        self.branches.entry(author).or_default().refused = true;
    }

    /// The peer is asked for an author's writes.
    pub(super) fn ask(&mut self, author: &NodeId) {
        if let Some(branch) = self.branches.get_mut(author) {
            branch.refused = false;
        }
    }

    /// There is something of an author of whom the peer may know nothing.
    pub(super) fn offer(&mut self, author: NodeId) {
        if !self.branches.contains_key(&author) {
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
            self.branches.entry(author).or_default();
        }
    }

    /// An author's probe is to be passed on. If the peer gets it here first, it asks for the author's writes, and else it
    /// gets them another way: whatever it had asked for before. Here they come another way.
    pub(super) fn probe(&mut self, lane: Lane, number: u64) {
        self.branches.insert(lane.actor().node, Branch { passes: false, refused: true });
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
        self.branches.remove(author);
        self.offering.remove(author);
        self.probing.retain(|lane, _| lane.actor().node != *author);
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.branches.len() + self.offering.len() + self.probing.len()
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
        assert!(branches.refuses(&node(1)));
        assert_eq!(branches.take_probes(2), [(lane(1), 7), (lane(2), 7)]);
        assert_eq!(branches.take_probes(2), [(lane(3), 8)]);
        assert_eq!(branches.take_probes(2), []);
    }

    #[test]
    fn whoever_was_told_to_bring_nothing_is_believed_again_when_it_is_asked() {
        let mut branches = Branches::default();
        branches.ask(&node(1));
        branches.set(node(1), true);
        branches.refuse(node(1));
        assert!(branches.refuses(&node(1)) && !branches.refuses(&node(2)));
        assert_eq!(branches.passes(&node(1)), Some(true), "what it has asked for it gets");
        branches.ask(&node(1));
        assert!(!branches.refuses(&node(1)));
    }
}
