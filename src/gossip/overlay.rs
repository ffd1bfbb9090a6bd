//! With whom to be linked: with everybody in a small mesh, with a few well-chosen nodes in a large one.
//!
//! Every node knows every other from the replicated records, so nothing has to be sampled or shuffled. Each
//! chooses its neighbours on the ring of node ids, which keeps the graph connected whatever else goes wrong, and
//! some at random, which keep it shallow: those with the smallest hash of both ids, so that the choice is the
//! same at every look and changes only where nodes come and go. After HyParView (Leitão et al., DSN 2007), with
//! the whole membership as the passive view.

use std::collections::BTreeSet;

use super::MemberState;
use super::members::Members;
use crate::id::NodeId;

/// How many neighbours on each side of the ring.
const RING: usize = 2;
/// How many at random. About as many more choose this node.
const RANDOM: usize = 3;

/// The nodes that this node wants to be linked with.
#[derive(Debug)]
pub(super) struct Overlay {
    own: NodeId,
    partial: bool,
    chosen: BTreeSet<NodeId>,
}

impl Overlay {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, partial: false, chosen: BTreeSet::new() }
    }

    /// Chooses among the nodes that are there, this one excluded. A mesh of up to `full_mesh` nodes is full; one
    /// that was partial is so down to three quarters of it, so that it does not waver.
    pub(super) fn choose(&mut self, others: &BTreeSet<NodeId>, full_mesh: usize) {
        let limit = if self.partial { full_mesh - full_mesh / 4 } else { full_mesh };
        self.partial = others.len() + 1 > limit;
        self.chosen.clear();
        if !self.partial {
            return;
        }
        let after = others.range(self.own..).chain(others).take(RING);
        let before = others.range(..self.own).rev().chain(others.iter().rev()).take(RING);
        self.chosen.extend(after.chain(before));
        let mut rest: Vec<(u64, NodeId)> =
            others.difference(&self.chosen).map(|other| (meeting(self.own, *other), *other)).collect();
        rest.sort_unstable();
        self.chosen.extend(rest.into_iter().take(RANDOM).map(|(_, other)| other));
    }

    /// Whether the mesh is too large for a full one.
    pub(super) fn is_partial(&self) -> bool {
        self.partial
    }

    /// Whether this node wants a link to that one.
    pub(super) fn wants(&self, node: &NodeId) -> bool {
        !self.partial || self.chosen.contains(node)
    }

    /// Whether a node is there and no link to it is wanted.
    pub(super) fn does_without(&self, node: &NodeId, members: &Members) -> bool {
        !self.wants(node) && members.state(node) == Some(MemberState::Alive)
    }

    /// The chosen nodes of a partial view.
    pub(super) fn chosen(&self) -> &BTreeSet<NodeId> {
        &self.chosen
    }
}

/// A number that two nodes have in common.
fn meeting(one: NodeId, other: NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(one.min(other).as_bytes());
    hasher.update(one.max(other).as_bytes());
    hasher.finalize().as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ids(count: u64) -> BTreeSet<NodeId> {
        (0..count).map(|number| NodeId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())).collect()
    }

    fn graph(nodes: &BTreeSet<NodeId>) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let mut graph: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for own in nodes {
            let mut others = nodes.clone();
            others.remove(own);
            let mut overlay = Overlay::new(*own);
            overlay.choose(&others, 48);
            assert!(overlay.is_partial());
            for other in overlay.chosen() {
                graph.entry(*own).or_default().insert(*other);
                graph.entry(*other).or_default().insert(*own);
            }
        }
        graph
    }

    /// How many steps it takes from a node to the farthest one, if all can be reached.
    fn eccentricity(graph: &BTreeMap<NodeId, BTreeSet<NodeId>>, from: NodeId) -> Option<usize> {
        let (mut seen, mut edge, mut steps) = (BTreeSet::from([from]), vec![from], 0);
        while seen.len() < graph.len() {
            edge = edge
                .iter()
                .flat_map(|node| &graph[node])
                .filter(|node| seen.insert(**node))
                .copied()
                .collect();
            if edge.is_empty() {
                return None;
            }
            steps += 1;
        }
        Some(steps)
    }

    /// FEATURES S6: few links, and everybody within a few steps.
    #[test]
    fn a_thousand_nodes_are_near_each_other_over_few_links() {
        let nodes = ids(1_000);
        let graph = graph(&nodes);
        let most = graph.values().map(BTreeSet::len).max().unwrap();
        let total: usize = graph.values().map(BTreeSet::len).sum();
        assert!(most <= 20 && total <= 10 * 1_000, "at most {most}, {total} in all");
        assert!(eccentricity(&graph, *nodes.first().unwrap()).unwrap() <= 6);
    }

    /// SCENARIOS G-10, G-20: the ring alone connects, and others' choices barely change when one goes.
    #[test]
    fn the_choice_is_stable_when_a_node_goes() {
        let nodes = ids(200);
        let before = graph(&nodes);
        let mut fewer = nodes;
        let gone = fewer.pop_last().unwrap();
        let after = graph(&fewer);
        let lost: usize = fewer.iter().map(|node| before[node].difference(&after[node]).count()).sum();
        // Its own links go; besides, who had chosen it chooses another.
        assert!(lost <= 3 * before[&gone].len(), "{lost} links changed for {}", before[&gone].len());
        assert!(eccentricity(&after, *fewer.first().unwrap()).is_some());
    }

    #[test]
    fn a_mesh_at_the_limit_does_not_waver() {
        let mut overlay = Overlay::new(NodeId::from_bytes([0; 32]));
        for (others, partial) in [(47, false), (48, true), (40, true), (36, true), (35, false), (47, false)] {
            overlay.choose(&ids(others), 48);
            assert_eq!(overlay.is_partial(), partial, "with {others} others");
            assert!(overlay.wants(&NodeId::from_bytes([9; 32])) != partial);
        }
    }

    #[test]
    fn a_ring_of_two_is_chosen_once() {
        let mut overlay = Overlay::new(NodeId::from_bytes([0; 32]));
        let others = ids(2);
        overlay.choose(&others, 1);
        assert_eq!(*overlay.chosen(), others);
    }
}
