//! What a replica has seen: a version vector, and exactly which dots beyond it.

use std::convert::Infallible;

use crdts::{CvRDT, VClock};
use smallvec::SmallVec;

use super::{Dot, Lane, RangeSet};

/// The contiguous part of a causal context: per lane the counter up to which nothing is missing.
///
/// A newtype around [`crdts::VClock`], whose serde layout is not our wire format.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionVector(VClock<Lane>);

impl VersionVector {
    /// The counter up to which nothing of `lane` is missing.
    pub fn contiguous(&self, lane: &Lane) -> u64 {
        self.0.get(lane)
    }

    /// Whether every dot is in it that is in `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.0 >= other.0
    }

    /// The greatest vector below both: what is stable among the two.
    pub fn meet(&mut self, other: &Self) {
        self.0.glb(&other.0);
    }
}

impl CvRDT for VersionVector {
    type Validation = Infallible;

    fn validate_merge(&self, _: &Self) -> Result<(), Infallible> {
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}

/// So many lanes are put into a context one by one, each time moving those behind them.
const FEW: usize = 8;

/// A set of dots, exact: per lane its ranges of counters.
///
/// Lanes without a dot are not in it, nor are parts of a [past](Lane::past) that is, so that equal sets are equal values.
///
/// One row of lanes in order: what most deltas account for is one lane and takes no memory of its own, and what a link
/// remembers of thousands takes no more than they do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CausalContext {
    lanes: SmallVec<[(Lane, RangeSet); 1]>,
}

impl CausalContext {
    /// The empty context.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no dot is in it.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// How many lanes have a dot in it.
    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// A bound on the bytes that it takes on the wire, near enough for batching.
    pub fn size(&self) -> usize {
        self.lanes().map(|(_, counters)| 44 + 12 * counters.range_count()).sum()
    }

    /// Its lanes with their counters, in the order of the lanes.
    pub fn lanes(&self) -> impl Iterator<Item = (&Lane, &RangeSet)> {
        self.lanes.iter().map(|(lane, counters)| (lane, counters))
    }

    /// The counters of one lane: all there can be, of one that is part of a past.
    pub fn lane(&self, lane: &Lane) -> Option<&RangeSet> {
        match self.place(lane) {
            Ok(place) => Some(&self.lanes[place].1),
            Err(place) => self.past_at(place, lane).map(|_| RangeSet::all()),
        }
    }

    /// The past in it that a lane is part of.
    pub fn past_with(&self, lane: &Lane) -> Option<&Lane> {
        let (Ok(place) | Err(place)) = self.place(lane);
        self.past_at(place, lane)
    }

    /// Where a lane is, or would be.
    fn place(&self, lane: &Lane) -> Result<usize, usize> {
        // Most often whatever comes belongs at the end, or there is but one.
        match self.lanes.last() {
            Some((last, _)) if last < lane => Err(self.lanes.len()),
            Some(_) => self.lanes.binary_search_by(|(other, _)| other.cmp(lane)),
            None => Err(0),
        }
    }

    /// The past that a lane, which is or would be there, is part of.
    fn past_at(&self, place: usize, lane: &Lane) -> Option<&Lane> {
        // No other lane of the node stands between a lane that is gone and the past that it is part of.
        self.lanes.get(place).map(|(next, _)| next).filter(|next| next.buries(lane))
    }

    /// Whether `dot` is in it.
    pub fn contains(&self, dot: &Dot) -> bool {
        self.lane(&dot.lane).is_some_and(|seen| seen.contains(dot.counter))
    }

    /// Adds one dot; says whether it is new.
    pub fn insert(&mut self, dot: &Dot) -> bool {
        if dot.lane.is_past() {
            return self.insert_all(&dot.lane, &RangeSet::from(dot.counter..=dot.counter));
        }
        self.lane_mut(&dot.lane).is_some_and(|seen| seen.insert(dot.counter))
    }

    /// Adds counters of one lane; says whether any is new.
    pub fn insert_all(&mut self, lane: &Lane, counters: &RangeSet) -> bool {
        if counters.is_empty() {
            return false;
        }
        let grew = self.lane_mut(lane).is_some_and(|seen| seen.union(counters));
        if grew && lane.is_past() {
            self.drop_parts(lane, false);
        }
        grew
    }

    /// Lets a lane go, and a past that it is part of.
    pub fn remove_lane(&mut self, lane: &Lane) {
        match self.place(lane) {
            Ok(place) => {
                self.lanes.remove(place);
            }
            Err(place) if self.past_at(place, lane).is_some() => {
                self.lanes.remove(place);
            }
            Err(_) => {}
        }
    }

    /// Lets all go that is part of a past, and the past itself.
    pub fn bury(&mut self, past: &Lane) {
        self.drop_parts(past, true);
    }

    fn drop_parts(&mut self, past: &Lane, whole: bool) {
        let (here, after) = match self.place(past) {
            Ok(place) => (place, place + 1),
            Err(place) => (place, place),
        };
        let parts = self.lanes[..here].iter().rev().take_while(|(part, _)| past.buries(part)).count();
        self.lanes.drain(here - parts..if whole { after } else { here });
    }

    /// Adds all of `other`; says whether anything was new.
    pub fn union(&mut self, other: &Self) -> bool {
        let is_new = |(lane, _): &&(Lane, RangeSet)| self.place(lane).is_err();
        let many = other.lanes.len() > FEW;
        let new = if many { other.lanes.iter().filter(is_new).count() } else { 0 };
        if new > FEW {
            return self.union_in_one_row(other, new);
        }
        other.lanes.iter().fold(false, |grew, (lane, counters)| self.insert_all(lane, counters) || grew)
    }

    /// Adds all of `other` with many lanes that are new: nothing is moved more than once.
    fn union_in_one_row(&mut self, other: &Self, new: usize) -> bool {
        let own = std::mem::take(&mut self.lanes);
        self.lanes.reserve_exact(own.len() + new);
        let (mut own, mut grew) = (own.into_iter().peekable(), false);
        for (lane, counters) in &other.lanes {
            while let Some(before) = own.next_if(|(before, _)| before < lane) {
                self.lanes.push(before);
            }
            // What stands behind this lane may be the past that it is part of.
            match own.next_if(|(same, _)| same == lane) {
                Some(same) => self.lanes.push(same),
                None if own.peek().is_some_and(|(next, _)| next.buries(lane)) => continue,
                None => {}
            }
            grew |= self.insert_all(lane, counters);
        }
        self.lanes.extend(own);
        grew
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let rest = self.lanes.iter().map(|(lane, counters)| {
            (
                lane.clone(),
                other.lane(lane).map_or_else(|| counters.clone(), |known| counters.difference(known)),
            )
        });
        Self { lanes: rest.filter(|(_, counters)| !counters.is_empty()).collect() }
    }

    /// Its contiguous part.
    pub fn vector(&self) -> VersionVector {
        let dots = self.lanes().map(|(lane, counters)| crdts::Dot::new(lane.clone(), counters.contiguous()));
        VersionVector(dots.filter(|dot| dot.counter > 0).collect())
    }

    /// What is in it of a lane, to be added to; nothing of one that is part of a past, for nothing can be added.
    fn lane_mut(&mut self, lane: &Lane) -> Option<&mut RangeSet> {
        let place = match self.place(lane) {
            Ok(place) => place,
            Err(place) if self.past_at(place, lane).is_some() => return None,
            Err(place) => {
                self.lanes.insert(place, (lane.clone(), RangeSet::new()));
                place
            }
        };
        self.lanes.get_mut(place).map(|(_, counters)| counters)
    }
}

impl FromIterator<(Lane, RangeSet)> for CausalContext {
    fn from_iter<I: IntoIterator<Item = (Lane, RangeSet)>>(lanes: I) -> Self {
        let mut lanes: SmallVec<[(Lane, RangeSet); 1]> = lanes.into_iter().collect();
        if !lanes.is_sorted_by(|(one, _), (next, _)| one < next) {
            lanes.sort_by(|(one, _), (next, _)| one.cmp(next));
        }
        let mut context = Self { lanes: SmallVec::with_capacity(lanes.len()) };
        for (lane, counters) in &lanes {
            context.insert_all(lane, counters);
        }
        context
    }
}

impl CvRDT for CausalContext {
    type Validation = Infallible;

    fn validate_merge(&self, _: &Self) -> Result<(), Infallible> {
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.union(&other);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::store::tests::lane;
    use super::super::{Class, laws};
    use super::*;
    use crate::id::{Actor, Generation, NodeId};

    fn any_context() -> impl Strategy<Value = CausalContext> {
        prop::collection::vec((0u8..3, 1u64..8), 0..8).prop_map(|dots| {
            let mut context = CausalContext::new();
            for (author, counter) in dots {
                context.insert(&lane(author).dot(counter));
            }
            context
        })
    }

    /// Of several lives of two nodes, with pasts.
    fn any_lanes() -> impl Strategy<Value = Vec<(Lane, RangeSet)>> {
        let class = prop_oneof![Just(Class::Registry), Just(Class::Attribute), Just(Class::Past)];
        prop::collection::vec((0u8..4, 1u64..6, class, 1u64..4), 0..40).prop_map(|lanes| {
            let lanes = lanes.into_iter().map(|(node, generation, class, last)| {
                let actor =
                    Actor { node: NodeId::from_bytes([node; 32]), generation: Generation(generation) };
                let last = if class == Class::Past { 1 } else { last };
                (Lane::new(actor, class), RangeSet::up_to(last))
            });
            lanes.collect()
        })
    }

    /// What the row of lanes stands for: all dots but those of a past's parts.
    fn obvious(lanes: &[(Lane, RangeSet)]) -> BTreeMap<Lane, RangeSet> {
        let mut all = BTreeMap::<Lane, RangeSet>::new();
        for (lane, counters) in lanes {
            all.entry(lane.clone()).or_default().union(counters);
        }
        let pasts: Vec<Lane> = all.keys().filter(|lane| lane.is_past()).cloned().collect();
        all.retain(|lane, _| !pasts.iter().any(|past| past != lane && past.buries(lane)));
        all
    }

    fn shown(context: &CausalContext) -> BTreeMap<Lane, RangeSet> {
        context.lanes().map(|(lane, counters)| (lane.clone(), counters.clone())).collect()
    }

    proptest! {
        #[test]
        fn lanes_stand_in_order_and_pasts_for_their_parts(a in any_lanes(), b in any_lanes()) {
            let whole: CausalContext = a.iter().cloned().collect();
            prop_assert_eq!(shown(&whole), obvious(&a));
            prop_assert!(whole.lanes.is_sorted_by(|(one, _), (next, _)| one < next));
            let mut united = whole.clone();
            let other: CausalContext = b.iter().cloned().collect();
            let grew = united.union(&other);
            prop_assert_eq!(shown(&united), obvious(&[a.clone(), b.clone()].concat()));
            prop_assert_eq!(grew, united != whole);
            for (lane, counters) in &b {
                let seen = whole.lane(lane).is_some_and(|seen| seen.is_superset(counters));
                prop_assert_eq!(seen, !whole.clone().insert_all(lane, counters));
            }
            let mut without = united.clone();
            for (past, _) in b.iter().filter(|(lane, _)| lane.is_past()) {
                without.bury(past);
                prop_assert!(without.lanes().all(|(lane, _)| !past.buries(lane)));
            }
            for (lane, _) in &a {
                united.remove_lane(lane);
                prop_assert!(united.lane(lane).is_none());
            }
        }

        #[test]
        fn contexts_and_their_vectors_obey_the_laws(a in any_context(), b in any_context(), c in any_context()) {
            laws::join_semilattice(&a, &b, &c);
            laws::join_semilattice(&a.vector(), &b.vector(), &c.vector());
        }

        #[test]
        fn what_is_missing_completes_the_other(a in any_context(), b in any_context()) {
            let mut completed = b.clone();
            completed.union(&a.difference(&b));
            let mut joined = a;
            joined.merge(b);
            prop_assert_eq!(completed, joined);
        }

        #[test]
        fn a_vector_claims_nothing_that_is_not_there(a in any_context()) {
            let vector = a.vector();
            for (lane, counters) in a.lanes() {
                let claimed = vector.contiguous(lane);
                prop_assert!(counters.is_superset(&RangeSet::up_to(claimed)));
                prop_assert!(!counters.contains(claimed + 1));
            }
        }
    }

    #[test]
    fn the_stable_part_is_what_both_vectors_cover() {
        let mut a =
            CausalContext::from_iter([(lane(0), RangeSet::up_to(5)), (lane(1), RangeSet::up_to(2))]).vector();
        let b = CausalContext::from_iter([(lane(0), RangeSet::up_to(3))]).vector();
        assert!(a.covers(&b) && !b.covers(&a));
        a.meet(&b);
        assert_eq!(a, b);
    }
}
