//! Who can be reached: a judgement over what the nodes' own records say of their links.
//!
//! Each node publishes to whom it has links. A link counts when both its ends name it; of its own links this
//! node needs no second opinion about its own end. A node to which no chain of such links leads is suspect, and
//! after a while down. There are no rumours: only a node's own record, in its latest generation, speaks for it,
//! so that nobody can revive a node that is gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Config, MemberState};
use crate::id::{Generation, NodeId};
use crate::replica::{Address, NodeRecord, NodeView};
use crate::time::Moment;

/// How long a node that has changed its record is taken to look for neighbours still: it publishes the next one later, and
/// is missed later when nobody names it any more.
pub(super) const RESTLESS_WITHIN: Duration = Duration::from_secs(10);

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
    /// When it was heard of in this life for the first time: one that has just joined is not missed so soon.
    joined_at: Moment,
    /// When it said something new of itself last.
    heard_at: Moment,
    /// When it was there for the first time, or in another life, or again, and whether it had been there before.
    pub(super) came_at: Moment,
    pub(super) returned: bool,
}

/// All nodes but this one.
///
/// Which links both ends name is kept as records come, so that judging is a walk over what is known and costs no
/// comparison of names.
#[derive(Debug)]
pub(super) struct Members {
    own: NodeId,
    places: BTreeMap<NodeId, usize>,
    slots: Vec<Slot>,
    /// When it changed last which links there are: whoever is out of reach was within it until then.
    changed_at: Moment,
}

#[derive(Debug)]
struct Slot {
    member: Member,
    /// The places of those with which it has a link that both name.
    confirmed: Vec<usize>,
}

impl Members {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, places: BTreeMap::new(), slots: Vec::new(), changed_at: Moment(0) }
    }

    /// This node's own links have changed.
    pub(super) fn links_changed(&mut self, now: Moment) {
        self.changed_at = now;
    }

    /// When it changed last which links there are.
    pub(super) fn changed_at(&self) -> Moment {
        self.changed_at
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.places.values().map(|place| &self.slots[*place].member)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Member> {
        self.places.get(node).map(|place| &self.slots[*place].member)
    }

    pub(super) fn state(&self, node: &NodeId) -> Option<MemberState> {
        self.get(node).map(|member| member.state)
    }

    pub(super) fn addresses(&self, node: &NodeId) -> &[Address] {
        self.get(node).map_or(&[], |member| &member.record.addresses)
    }

    /// Whether a node says that it has a link to another.
    pub(super) fn claims(&self, node: &NodeId, other: &NodeId) -> bool {
        self.get(node).is_some_and(|member| member.record.links.contains(other))
    }

    /// Those with whom a link may make sense: all but those that have left, or were out of reach for too long to
    /// be called any more. Says when time alone will change that.
    pub(super) fn callable(&self, config: &Config, now: Moment) -> (BTreeSet<NodeId>, Option<Moment>) {
        let mut next = None;
        let callable = self.iter().filter(|member| {
            let forgotten_at = member.unreachable_at.map(|since| since + config.forget_after);
            match forgotten_at {
                _ if member.record.leaving => false,
                Some(at) if member.state == MemberState::Down => {
                    if at > now {
                        next = [next, Some(at)].into_iter().flatten().min();
                    }
                    at > now
                }
                Some(_) | None => true,
            }
        });
        (callable.map(|member| member.node).collect(), next)
    }

    /// Takes a node's newest record; says whether the node, or its life, is new.
    pub(super) fn update(&mut self, view: NodeView, now: Moment) -> bool {
        let NodeView { node, generation, record, .. } = view;
        if node == self.own {
            return false;
        }
        let known = self.places.get(&node).copied();
        let place = known.unwrap_or(self.slots.len());
        if known.is_none() {
            let member = Member {
                node,
                generation,
                record: NodeRecord::default(),
                state: MemberState::Alive,
                unreachable_at: Some(now),
                joined_at: now,
                heard_at: now,
                came_at: now,
                returned: false,
            };
            self.places.insert(node, place);
            self.slots.push(Slot { member, confirmed: Vec::new() });
        }
        let member = &mut self.slots[place].member;
        let another_life = member.generation < generation;
        if another_life {
            // A new life begins as the first one did: unconfirmed, but not suspected.
            member.unreachable_at = Some(now);
            member.joined_at = now;
            (member.came_at, member.returned) = (now, true);
        }
        member.generation = generation;
        member.heard_at = now;
        let before = std::mem::replace(&mut member.record, record);
        if before.links != member.record.links {
            self.changed_at = now;
        }
        self.confirm(place, &before.links);
        known.is_none() || another_life
    }

    /// Lets a node go; says whether it was there.
    pub(super) fn remove(&mut self, node: &NodeId, now: Moment) -> Option<Member> {
        let place = self.places.remove(node)?;
        self.changed_at = now;
        for other in std::mem::take(&mut self.slots[place].confirmed) {
            self.slots[other].confirmed.retain(|confirmed| *confirmed != place);
        }
        let gone = self.slots.swap_remove(place).member;
        // The last one has taken its place.
        let moved = self.slots.len();
        if let Some(Slot { member, confirmed }) = self.slots.get(place) {
            self.places.insert(member.node, place);
            for other in confirmed.clone() {
                for confirmed in &mut self.slots[other].confirmed {
                    if *confirmed == moved {
                        *confirmed = place;
                    }
                }
            }
        }
        Some(gone)
    }

    /// Those that nobody need wait for any more: they have said goodbye a good while ago, or were away for too long.
    pub(super) fn gone<'a>(&'a self, config: &'a Config, now: Moment) -> impl Iterator<Item = &'a Member> {
        self.iter().filter(move |member| {
            let patience = match member.state {
                MemberState::Left => Some(config.forget_after),
                MemberState::Down => config.evict_after,
                MemberState::Alive | MemberState::Suspect | MemberState::Evicted => None,
            };
            member.unreachable_at.zip(patience).is_some_and(|(since, patience)| now.since(since) >= patience)
        })
    }

    /// Notes which links of a node are confirmed now and which no longer.
    fn confirm(&mut self, place: usize, before: &BTreeSet<NodeId>) {
        let Member { node, record, .. } = &self.slots[place].member;
        let (node, gone, new): (NodeId, Vec<NodeId>, Vec<NodeId>) = (
            *node,
            before.difference(&record.links).copied().collect(),
            record.links.difference(before).copied().collect(),
        );
        for other in gone.iter().filter_map(|other| self.places.get(other).copied()) {
            self.slots[place].confirmed.retain(|confirmed| *confirmed != other);
            self.slots[other].confirmed.retain(|confirmed| *confirmed != place);
        }
        for other in new.iter().filter_map(|other| self.places.get(other).copied()) {
            if other != place && self.slots[other].member.record.links.contains(&node) {
                self.slots[place].confirmed.push(other);
                self.slots[other].confirmed.push(place);
            }
        }
    }

    /// Judges everybody anew. Returns those of whom the judgement changed, and when time alone may change it.
    ///
    /// Until `doubt` this node blames itself for it if it cannot reach somebody.
    pub(super) fn judge(
        &mut self,
        linked: &BTreeSet<NodeId>,
        doubt: Option<Moment>,
        config: &Config,
        now: Moment,
    ) -> (Vec<Member>, Option<Moment>) {
        let reachable = self.reachable(linked);
        let mut changed = Vec::new();
        let mut next: Option<Moment> = None;
        for place in self.places.values() {
            let member = &mut self.slots[*place].member;
            member.unreachable_at =
                if reachable[*place] { None } else { member.unreachable_at.or(Some(self.changed_at)) };
            let state = match member.unreachable_at {
                _ if member.record.leaving => MemberState::Left,
                None => MemberState::Alive,
                Some(since) => {
                    // Where links are found and given up, records of one overtake those of another.
                    let rested = since.since(member.heard_at) >= RESTLESS_WITHIN;
                    // Whoever joins has its links in its record a little later than its first word, and in a crowd its first
                    // ones are given up before it is heard of others.
                    let since = since.max(member.joined_at + config.join_grace);
                    let patience = if rested { config.suspect_after / 2 } else { config.suspect_after };
                    let (suspect_at, down_at) = (since + patience, since + config.down_after);
                    let suspect_at = doubt.map_or(suspect_at, |doubt| suspect_at.max(doubt));
                    let down_at = down_at.max(suspect_at);
                    let (state, later) = if now < suspect_at {
                        // Nothing new was proven: who was down stays so until it is reached, and who was suspect too.
                        let known = matches!(member.state, MemberState::Down | MemberState::Suspect);
                        (if known { member.state } else { MemberState::Alive }, Some(suspect_at))
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
                if state == MemberState::Alive {
                    (member.came_at, member.returned) = (now, true);
                }
                member.state = state;
                changed.push(member.clone());
            }
        }
        (changed, next)
    }

    /// From which of some nodes, by its place among them, links that both their ends name lead to each of others in the
    /// fewest steps, none of them on from `lost`.
    pub(super) fn nearest(&self, from: &[NodeId], to: &[NodeId], lost: Option<NodeId>) -> Vec<Option<usize>> {
        let lost = lost.and_then(|node| self.places.get(&node).copied());
        let mut nearest = vec![None; self.slots.len()];
        let mut edge: VecDeque<usize> = VecDeque::new();
        for (number, node) in from.iter().enumerate() {
            if let Some(place) = self.places.get(node) {
                nearest[*place] = Some(number);
                edge.push_back(*place);
            }
        }
        while let Some(place) = edge.pop_front() {
            let onward: &[usize] = if Some(place) == lost { &[] } else { &self.slots[place].confirmed };
            for &other in onward {
                if nearest[other].is_none() {
                    nearest[other] = nearest[place];
                    edge.push_back(other);
                }
            }
        }
        to.iter().map(|node| self.places.get(node).and_then(|place| nearest[*place])).collect()
    }

    /// Which nodes links lead to that both their ends name.
    fn reachable(&self, linked: &BTreeSet<NodeId>) -> Vec<bool> {
        let mut reachable = vec![false; self.slots.len()];
        let mut edge: Vec<usize> = linked.iter().filter_map(|node| self.places.get(node).copied()).collect();
        edge.iter().for_each(|place| reachable[*place] = true);
        while let Some(place) = edge.pop() {
            for &other in &self.slots[place].confirmed {
                if !std::mem::replace(&mut reachable[other], true) {
                    edge.push(other);
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
        let (changed, _) = members.judge(&linked, None, &Config::default(), now);
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
        assert_eq!(judge(&mut members, &[1], at(11)), []);
        // 1 does not name 2 any more: what 2 says is not confirmed.
        assert!(!members.update(view(1, 1, &[0], false), at(12)));
        assert_eq!(judge(&mut members, &[1], at(12)), []);
        assert_eq!(judge(&mut members, &[1], at(13)), [(node(2), MemberState::Suspect)]);
        assert_eq!(judge(&mut members, &[1], at(16)), []);
        assert_eq!(judge(&mut members, &[1], at(17)), [(node(2), MemberState::Down)]);
        assert_eq!(judge(&mut members, &[1, 2], at(18)), [(node(2), MemberState::Alive)]);
    }

    /// FEATURES P4: in a crowd of records it is judged later than they come, and counts from when they came.
    #[test]
    fn whoever_is_out_of_reach_is_so_since_the_links_changed() {
        let mut members = Members::new(node(0));
        members.update(view(1, 1, &[0, 2], false), at(0));
        members.update(view(2, 1, &[1], false), at(0));
        assert_eq!(judge(&mut members, &[1], at(0)), []);
        members.update(view(1, 1, &[0], false), at(10));
        // What changes no link changes nothing.
        members.update(view(1, 1, &[0], false), at(11));
        assert_eq!(judge(&mut members, &[1], at(11)), [(node(2), MemberState::Suspect)]);
        assert_eq!(judge(&mut members, &[1], at(14)), []);
        assert_eq!(judge(&mut members, &[1], at(15)), [(node(2), MemberState::Down)]);
    }

    #[test]
    fn whoever_had_rested_is_missed_sooner() {
        let half = Config::default().suspect_after / 2;
        for (lost_at, after) in [(at(9), 2 * half), (at(10), half)] {
            let mut members = Members::new(node(0));
            members.update(view(1, 1, &[0], false), at(0));
            assert_eq!(judge(&mut members, &[1], at(0)), []);
            members.links_changed(lost_at);
            assert_eq!(judge(&mut members, &[], lost_at), []);
            let (changed, _) = members.judge(&BTreeSet::new(), None, &Config::default(), lost_at + after / 2);
            assert_eq!(changed, [], "after {:?}", after / 2);
            assert_eq!(judge(&mut members, &[], lost_at + after), [(node(1), MemberState::Suspect)]);
        }
    }

    /// SCENARIOS G-10: whoever joins is not suspected before its neighbours had time to name it.
    #[test]
    fn a_newcomer_is_given_time_to_be_linked() {
        let mut members = Members::new(node(0));
        members.update(view(1, 1, &[0], false), at(0));
        members.update(view(2, 1, &[], false), at(0));
        assert_eq!(judge(&mut members, &[1], at(1)), []);
        // Its first link is given up for others that nobody has told of yet.
        members.update(view(1, 1, &[0, 2], false), at(1));
        members.update(view(2, 1, &[1], false), at(1));
        assert_eq!(judge(&mut members, &[1], at(1)), []);
        members.update(view(1, 1, &[0], false), at(2));
        assert_eq!(judge(&mut members, &[1], at(2)), []);
        assert_eq!(judge(&mut members, &[1], at(5)), []);
        members.update(view(1, 1, &[0, 2], false), at(5));
        assert_eq!(judge(&mut members, &[1], at(20)), []);
        members.update(view(2, 1, &[], false), at(21));
        assert_eq!(judge(&mut members, &[1], at(21)), []);
        assert_eq!(judge(&mut members, &[1], at(22)), [(node(2), MemberState::Suspect)], "it had time");
    }

    /// Records that come in any order, and change, leave the links that both ends name.
    #[test]
    fn confirmed_links_are_those_that_both_ends_name() {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(1);
        let mut members = Members::new(node(0));
        for _ in 0..2_000 {
            let links: Vec<u8> = (0..4).map(|_| rng.random_range(0..9)).collect();
            members.update(view(rng.random_range(1..9), 1, &links, false), at(0));
            if rng.random_range(0..20) == 0 {
                members.remove(&node(rng.random_range(1..9)), at(0));
            }
            assert!(members.places.iter().all(|(node, place)| members.slots[*place].member.node == *node));
            for slot in &members.slots {
                let names = |one: &Member, other: &Member| one.record.links.contains(&other.node);
                let expected = members.slots.iter().enumerate().filter(|(_, other)| {
                    let both = names(&slot.member, &other.member) && names(&other.member, &slot.member);
                    both && slot.member.node != other.member.node
                });
                let expected: BTreeSet<usize> = expected.map(|(place, _)| place).collect();
                let found: BTreeSet<usize> = slot.confirmed.iter().copied().collect();
                assert_eq!((found.len(), &found), (slot.confirmed.len(), &expected));
            }
        }
    }

    /// FEATURES S6: whoever looks for another way to an author asks who is nearest to it, and not over who is gone.
    #[test]
    fn the_nearest_of_some_is_found_over_links_that_both_ends_name() {
        let mut members = Members::new(node(0));
        for (of, links) in [(1, &[3][..]), (2, &[4]), (3, &[1, 5]), (4, &[2, 5]), (5, &[3, 4, 6]), (6, &[])] {
            members.update(view(of, 1, links, false), at(0));
        }
        let from = [node(1), node(2), node(3)];
        let to = [node(1), node(5), node(4), node(6), node(9)];
        // 6 does not name its link, and nothing is known of 9.
        assert_eq!(members.nearest(&from, &to, None), [Some(0), Some(2), Some(1), None, None]);
        assert_eq!(members.nearest(&from, &to, Some(node(3))), [Some(0), Some(1), Some(1), None, None]);
    }

    /// FEATURES P4: a target that is gone is not dialled for ever.
    #[test]
    fn whoever_is_gone_for_long_is_called_no_more() {
        let config = Config::default();
        let mut members = Members::new(node(0));
        members.update(view(1, 1, &[0], false), at(0));
        judge(&mut members, &[1], at(0));
        members.links_changed(at(1));
        judge(&mut members, &[], at(1));
        judge(&mut members, &[], at(20));
        let gone_at = at(1) + config.forget_after;
        assert_eq!(members.callable(&config, at(20)), (BTreeSet::from([node(1)]), Some(gone_at)));
        assert_eq!(members.callable(&config, gone_at), (BTreeSet::new(), None));
        judge(&mut members, &[1], gone_at);
        assert_eq!(members.callable(&config, gone_at).0.len(), 1);
    }

    #[test]
    fn time_alone_is_waited_for() {
        let mut members = Members::new(node(0));
        members.update(view(1, 1, &[0], false), at(0));
        let config = Config { join_grace: Duration::ZERO, ..Config::default() };
        let (_, next) = members.judge(&BTreeSet::new(), None, &config, at(0));
        assert_eq!(next, Some(at(0) + config.suspect_after));
        let (_, next) = members.judge(&BTreeSet::new(), None, &config, at(1));
        assert_eq!(next, Some(at(0) + config.down_after));
        let (_, next) = members.judge(&BTreeSet::new(), None, &config, at(10));
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
