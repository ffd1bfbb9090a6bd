//! Who can be reached: a judgement over what the nodes' own records say of their links.
//!
//! Each node publishes to whom it has links. A link counts when both its ends name it; of its own links this
//! node needs no second opinion about its own end. A node to which no chain of such links leads is suspect, and
//! after a while down. There are no rumours: only a node's own record, in its latest generation, speaks for it,
//! so that nobody can revive a node that is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::{Config, MemberState};
use crate::id::{Generation, NodeId};
use crate::replica::{Address, NodeRecord, NodeView};
use crate::time::Moment;

/// What this node thinks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// In which of its lives.
    pub generation: Generation,
    /// What it says of itself.
    pub record: NodeRecord,
    /// Whether it can be reached.
    pub state: MemberState,
    /// Since when it cannot.
    unreachable_at: Option<Moment>,
}

/// All nodes but this one.
#[derive(Debug)]
pub(super) struct Members {
    own: NodeId,
    members: BTreeMap<NodeId, Member>,
}

impl Members {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, members: BTreeMap::new() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    pub(super) fn state(&self, node: &NodeId) -> Option<MemberState> {
        self.members.get(node).map(|member| member.state)
    }

    pub(super) fn addresses(&self, node: &NodeId) -> &[Address] {
        self.members.get(node).map_or(&[], |member| &member.record.addresses)
    }

    /// Takes a node's newest record; says whether the node is new.
    pub(super) fn update(&mut self, view: NodeView, now: Moment) -> bool {
        let NodeView { node, generation, record, .. } = view;
        if node == self.own {
            return false;
        }
        if let Some(member) = self.members.get_mut(&node) {
            if member.generation < generation {
                // A new life begins as the first one did: unconfirmed, but not suspected.
                member.unreachable_at = Some(now);
            }
            member.generation = generation;
            member.record = record;
            return false;
        }
        let member =
            Member { node, generation, record, state: MemberState::Alive, unreachable_at: Some(now) };
        self.members.insert(node, member);
        true
    }

    /// Judges everybody anew. Returns those of whom the judgement changed, and when time alone may change it.
    pub(super) fn judge(
        &mut self,
        linked: &BTreeSet<NodeId>,
        config: &Config,
        now: Moment,
    ) -> (Vec<Member>, Option<Moment>) {
        let reachable = self.reachable(linked);
        let mut changed = Vec::new();
        let mut next: Option<Moment> = None;
        for member in self.members.values_mut() {
            member.unreachable_at =
                if reachable.contains(&member.node) { None } else { member.unreachable_at.or(Some(now)) };
            let state = match member.unreachable_at {
                _ if member.record.leaving => MemberState::Left,
                None => MemberState::Alive,
                Some(since) => {
                    let (suspect_at, down_at) = (since + config.suspect_after, since + config.down_after);
                    let (state, later) = if now < suspect_at {
                        // Not proven yet: a node that was down stays so until it is reached.
                        let down = member.state == MemberState::Down;
                        (if down { MemberState::Down } else { MemberState::Alive }, Some(suspect_at))
                    } else if now < down_at && member.state != MemberState::Down {
                        (MemberState::Suspect, Some(down_at))
                    } else {
                        (MemberState::Down, None)
                    };
                    next = [next, later].into_iter().flatten().min();
                    state
                }
            };
            if member.state != state {
                member.state = state;
                changed.push(member.clone());
            }
        }
        (changed, next)
    }

    /// The nodes that links lead to which both their ends name.
    fn reachable(&self, linked: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut reachable: BTreeSet<NodeId> = linked.clone();
        let mut edge: Vec<NodeId> = linked.iter().copied().collect();
        while let Some(node) = edge.pop() {
            let Some(member) = self.members.get(&node) else { continue };
            for other in &member.record.links {
                let confirmed =
                    self.members.get(other).is_some_and(|other| other.record.links.contains(&node));
                if confirmed && reachable.insert(*other) {
                    edge.push(*other);
                }
            }
        }
        reachable
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::Timestamp;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    fn view(byte: u8, generation: u64, links: &[u8], leaving: bool) -> NodeView {
        let links = links.iter().map(|&byte| node(byte)).collect();
        let record = NodeRecord { links, leaving, ..NodeRecord::default() };
        NodeView { node: node(byte), generation: Generation(generation), record, stamp: Timestamp(0) }
    }

    fn at(seconds: u64) -> Moment {
        Moment(0) + Duration::from_secs(seconds)
    }

    fn judge(members: &mut Members, linked: &[u8], now: Moment) -> Vec<(NodeId, MemberState)> {
        let linked = linked.iter().map(|&byte| node(byte)).collect();
        let (changed, _) = members.judge(&linked, &Config::default(), now);
        changed.into_iter().map(|member| (member.node, member.state)).collect()
    }

    /// FEATURES P4.
    #[test]
    fn a_node_without_confirmed_links_is_suspected_and_then_down() {
        let mut members = Members::new(node(0));
        assert!(members.update(view(1, 1, &[0, 2], false), at(0)));
        assert!(members.update(view(2, 1, &[0, 1], false), at(0)));
        assert_eq!(judge(&mut members, &[1, 2], at(0)), []);
        // The link to 2 falls, but 1 still leads there.
        assert_eq!(judge(&mut members, &[1], at(1)), []);
        // 1 does not name 2 any more: what 2 says is not confirmed.
        assert!(!members.update(view(1, 1, &[0], false), at(2)));
        assert_eq!(judge(&mut members, &[1], at(2)), []);
        assert_eq!(judge(&mut members, &[1], at(3)), [(node(2), MemberState::Suspect)]);
        assert_eq!(judge(&mut members, &[1], at(6)), []);
        assert_eq!(judge(&mut members, &[1], at(7)), [(node(2), MemberState::Down)]);
        assert_eq!(judge(&mut members, &[1, 2], at(8)), [(node(2), MemberState::Alive)]);
    }

    #[test]
    fn time_alone_is_waited_for() {
        let mut members = Members::new(node(0));
        members.update(view(1, 1, &[], false), at(0));
        let config = Config::default();
        let (_, next) = members.judge(&BTreeSet::new(), &config, at(0));
        assert_eq!(next, Some(at(0) + config.suspect_after));
        let (_, next) = members.judge(&BTreeSet::new(), &config, at(1));
        assert_eq!(next, Some(at(0) + config.down_after));
        let (_, next) = members.judge(&BTreeSet::new(), &config, at(10));
        assert_eq!(next, None);
    }

    #[test]
    fn whoever_said_goodbye_has_left_and_not_fallen() {
        let mut members = Members::new(node(0));
        members.update(view(1, 1, &[0], false), at(0));
        judge(&mut members, &[1], at(0));
        members.update(view(1, 1, &[0], true), at(1));
        assert_eq!(judge(&mut members, &[1], at(1)), [(node(1), MemberState::Left)]);
        assert_eq!(judge(&mut members, &[], at(99)), []);
        members.update(view(1, 2, &[0], false), at(100));
        assert_eq!(judge(&mut members, &[1], at(100)), [(node(1), MemberState::Alive)]);
    }

    #[test]
    fn this_node_judges_itself_never() {
        let mut members = Members::new(node(0));
        assert!(!members.update(view(0, 1, &[], false), at(0)));
        assert_eq!(members.iter().count(), 0);
    }
}
