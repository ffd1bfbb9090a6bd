//! One name for all lives that a node has left behind.
//!
//! Every start of a process makes new lanes, and their names would stay for ever. What was seen of the lanes of lives that
//! are over is therefore put down once, as a [`Testimony`], and whoever has seen just that may let a [past](Lane::past)
//! stand for them. It claims more than was seen: every write that anybody ever made in these lanes. So nobody may have
//! seen more than the testimony says, and hold it, without writing it anew first; see decision 21 for why that is
//! enough.
//!
//! Values that such a life has put stay under the dots that they have. What it said of itself is void; its entries are
//! let go as removals are.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use super::lanes::{LaneNumber, LaneState};
use super::packed::Packed;
use super::{Removed, Row, Store};
use crate::crdt::{CausalContext, Class, Dot, Entry, Key, Lane, Observed, RangeSet, Revision};
use crate::id::{Actor, Generation, NodeId};

/// How many lives of a node that are retired a write names one by one among those that it had seen.
const MAX_NAMED_LIVES: usize = 4;

/// What somebody had seen of the lives of a node that are over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Testimony {
    /// Whose lives.
    pub node: NodeId,
    /// Up to this one they had been retired before.
    pub base: Generation,
    /// Up to this one they are over.
    pub upto: Generation,
    /// What was seen of their lanes of [`Class::Attribute`].
    pub seen: CausalContext,
}

/// Why lives cannot be retired here yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unready {
    /// Earlier lives have to be retired first.
    Base,
    /// Something was not seen here yet.
    Lacking,
    /// Something is held here that the witness had not seen: in these keys.
    Beyond(BTreeMap<Key, SmallVec<[Entry; 1]>>),
}

impl Testimony {
    /// Whether a write belongs to these lives, and the witness had not seen it. What such lives said of themselves does
    /// not count.
    pub fn lacks(&self, dot: &Dot) -> bool {
        let Actor { node, generation } = dot.lane.actor();
        let concerned = node == self.node && self.base < generation && generation <= self.upto;
        concerned && dot.lane.class() == Class::Attribute && !self.seen.contains(dot)
    }
}

impl Store {
    /// Whether a lane is part of a past, or is one.
    pub fn is_retired(&self, lane: &Lane) -> bool {
        self.lanes.past_of(lane).is_some()
    }

    /// The lane, or the past that it is part of.
    pub fn home(&self, lane: &Lane) -> Lane {
        self.lanes.past_of(lane).map_or_else(|| lane.clone(), |past| self.lanes[past].lane.clone())
    }

    /// The lane, or the past that it is part of.
    pub(super) fn home_of(&self, lane: LaneNumber) -> LaneNumber {
        let state = &self.lanes[lane];
        if state.buried { self.lanes.past_of(&state.lane).unwrap_or(lane) } else { lane }
    }

    /// Whether what was put there counts no more: a life that is retired said it of itself.
    pub(super) fn is_buried(&self, lane: LaneNumber) -> bool {
        let state = &self.lanes[lane];
        state.buried && state.lane.class() == Class::Registry
    }

    /// Up to which of a node's lives all are retired; none if that is zero.
    pub fn retired(&self, node: &NodeId) -> Generation {
        self.lanes.past(node).map_or(Generation(0), |(upto, _)| upto)
    }

    /// The last change of what was seen of a node's lives, not retired, up to one.
    pub fn changed_at(&self, node: &NodeId, upto: Generation) -> Revision {
        self.unretired(node, upto).map(|(_, state)| state.revision).max().unwrap_or_default()
    }

    /// What was seen of a node's lives, not retired, up to one.
    pub fn seen_of_lives(&self, node: &NodeId, upto: Generation) -> CausalContext {
        self.unretired(node, upto).map(|(lane, state)| (lane.clone(), state.seen.clone())).collect()
    }

    /// How many lanes there are of which something was seen and that are not retired, and how many pasts.
    pub fn lane_counts(&self) -> (usize, usize) {
        let seen: Vec<bool> = self
            .lanes
            .iter()
            .filter(|state| !state.seen.is_empty())
            .map(|state| state.lane.is_past())
            .collect();
        let pasts = seen.iter().filter(|is_past| **is_past).count();
        (seen.len() - pasts, pasts)
    }

    /// The lanes of a node's lives behind those that are retired, up to one.
    fn unretired(&self, node: &NodeId, upto: Generation) -> impl Iterator<Item = (&Lane, &LaneState)> {
        let (node, generation) = (*node, Generation(0));
        let first = Lane::new(Actor { node, generation }, Class::Registry);
        let states = self.lanes.from(first).take_while(move |state| {
            let of = state.lane.actor();
            of.node == node && of.generation <= upto
        });
        states.filter(|state| !state.lane.is_past()).map(|state| (&state.lane, state))
    }

    /// What a write had seen, with one name for all but the last few lives of a node that are retired.
    ///
    /// That name says more than was seen: so it is not used where a life may yet turn out to go on, or its last words to
    /// be on their way.
    pub fn compact(&self, observed: Observed) -> Observed {
        let mut lives: BTreeMap<NodeId, BTreeSet<Generation>> = BTreeMap::new();
        for (lane, _) in observed.iter().filter(|(lane, _)| self.is_retired(lane)) {
            let Actor { node, generation } = lane.actor();
            lives.entry(node).or_default().insert(generation);
        }
        let long_over = |node: &NodeId| lives.get(node)?.iter().rev().nth(MAX_NAMED_LIVES).copied();
        if !lives.keys().any(|node| long_over(node).is_some()) {
            return observed;
        }
        Observed::new(observed.iter().map(|(lane, counter)| {
            let Actor { node, generation } = lane.actor();
            match long_over(&node).filter(|upto| generation <= *upto) {
                Some(upto) => (Lane::past(node, upto), 1),
                None => (lane.clone(), *counter),
            }
        }))
    }

    /// What is known here of a node's lives up to one; nothing if there is nothing to retire.
    ///
    /// A write of which only those have heard that replaced it counts as seen: they are here.
    pub fn testimony(&self, node: &NodeId, upto: Generation) -> Option<Testimony> {
        let base = self.retired(node);
        self.unretired(node, upto).next()?;
        let seen = self.unretired(node, upto).filter(|(lane, _)| lane.class() == Class::Attribute);
        let seen = seen.map(|(lane, state)| (lane.clone(), state.known())).collect();
        Some(Testimony { node: *node, base, upto, seen })
    }

    /// Lets one name stand for all that a node wrote up to a life, if just that was seen here which was testified; does
    /// nothing if it stands already.
    ///
    /// # Errors
    ///
    /// [`Unready`]; nothing has changed.
    pub fn retire(&mut self, testimony: &Testimony) -> Result<(), Unready> {
        let Testimony { node, base, upto, seen } = testimony;
        let past = Lane::past(*node, *upto);
        if self.is_retired(&past) {
            return Ok(());
        }
        let retired = self.retired(node);
        if retired < *base {
            return Err(Unready::Base);
        }
        let news = seen.lanes().filter(|(lane, _)| lane.actor().generation > retired);
        for (lane, seen) in news {
            if self.lanes.get(lane).is_none_or(|state| !state.known().is_superset(seen)) {
                return Err(Unready::Lacking);
            }
        }
        let beyond = self.beyond(testimony);
        if !beyond.is_empty() {
            return Err(Unready::Beyond(beyond));
        }
        self.settle_digest();
        let past = self.lanes.meet(&past);
        self.bury(past);
        Ok(())
    }

    /// What is held here of a node's lives that are retired already and the witness had not seen: another witness had. It
    /// looks at every key.
    pub fn beyond_in_past(&self, testimony: &Testimony) -> BTreeMap<Key, SmallVec<[Entry; 1]>> {
        let retired = self.retired(&testimony.node);
        let mut beyond: BTreeMap<Key, SmallVec<[Entry; 1]>> = BTreeMap::new();
        for row in self.prefix("").filter(|_| testimony.base < retired) {
            let is_beyond =
                |entry: &&Entry| entry.dot.lane.actor().generation <= retired && testimony.lacks(&entry.dot);
            let register = row.register();
            let entries: SmallVec<[Entry; 1]> =
                register.entries().iter().filter(is_beyond).cloned().collect();
            if !entries.is_empty() {
                beyond.insert(row.key(), entries);
            }
        }
        beyond
    }

    /// What is held here of a node's lives that are to be retired and the witness had not seen.
    pub fn beyond(&self, testimony: &Testimony) -> BTreeMap<Key, SmallVec<[Entry; 1]>> {
        let Testimony { node, upto, seen, .. } = testimony;
        let mut beyond: BTreeMap<Key, SmallVec<[Entry; 1]>> = BTreeMap::new();
        for (lane, state) in self.unretired(node, *upto).filter(|(lane, _)| lane.class() == Class::Attribute)
        {
            let none = RangeSet::new();
            let unseen = state.known().difference(seen.lane(lane).unwrap_or(&none));
            for (counter, slot) in unseen.ranges().flat_map(|range| state.index.range(range)) {
                let row = Row::new(self, *slot);
                if let Some(entry) = row.entry(&lane.dot(*counter)) {
                    beyond.entry(row.key()).or_default().push(entry);
                }
            }
        }
        beyond
    }

    /// Lets a past take the place of all lanes that are part of it.
    pub(super) fn bury(&mut self, number: LaneNumber) {
        let past = self.lanes[number].lane.clone();
        if self.is_retired(&past) {
            return;
        }
        let Actor { node, generation } = past.actor();
        self.revision.0 += 1;
        let (revision, mut live, mut said) = (self.revision, 0u128, Vec::new());
        for part in self.lanes.bury(number) {
            let state = &mut self.lanes[part];
            self.shares = self.shares.wrapping_sub(state.share);
            self.recent.remove(&state.revision);
            if state.lane.class() == Class::Registry {
                said.extend(state.index.iter().map(|(counter, slot)| (part, *counter, *slot)));
            } else {
                live = live.wrapping_add(state.live);
            }
            (state.share, state.live, state.floor) = (0, 0, 0);
            state.seen = RangeSet::new();
        }
        let state = &mut self.lanes[number];
        (state.seen, state.live, state.floor, state.revision) = (RangeSet::up_to(1), live, 1, revision);
        self.recent.insert(revision, number);
        self.note_changed(number);
        let latest = self.generations.entry(node).or_insert(generation);
        *latest = generation.max(*latest);
        for (lane, counter, slot) in said {
            let row = Row::new(self, slot);
            let (key, dot) = (row.key(), self.lanes[lane].lane.dot(counter));
            if row.entry(&dot).is_some_and(|entry| entry.value.is_some()) {
                self.removals += 1;
                self.note_removed(Removed { since: revision, lane, counter });
            }
            self.changed.note(&key);
        }
        self.retired_now.push(past);
    }

    /// Forgets the names of lanes for which a past stands and that no entry bears any more, if any were retired since the
    /// last time. It looks at every key.
    pub fn forget_lanes(&mut self) {
        // Seals know lanes by their numbers; there no life is retired.
        if self.is_sealed() || !self.lanes.has_buried() {
            return;
        }
        self.drop_replaced();
        // Of a buried lane there is nothing in the digest.
        self.changed_lanes.retain(|lane| !self.lanes[*lane].buried);
        let mut named = vec![false; self.lanes.number_count()];
        let removed = self.removed.iter().map(|record| record.lane);
        for lane in self.keys.all().flat_map(Packed::named).chain(removed) {
            named[lane.place()] = true;
        }
        self.lanes.forget(&named);
    }

    /// How many names of lanes are remembered.
    pub fn lane_names(&self) -> usize {
        self.lanes.name_count()
    }

    /// The pasts that took the place of lanes since the last call.
    pub fn take_retired(&mut self) -> Vec<Lane> {
        std::mem::take(&mut self.retired_now)
    }
}

impl LaneState {
    /// What was seen, and what is known to be replaced by what was.
    fn known(&self) -> RangeSet {
        let mut known = self.seen.clone();
        let holes = RangeSet::all().difference(&self.seen);
        for (counter, _) in holes.ranges().flat_map(|hole| self.index.range(hole)) {
            known.insert(*counter);
        }
        known
    }
}
