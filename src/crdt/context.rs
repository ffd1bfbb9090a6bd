//! What a replica has seen: a version vector, and exactly which dots beyond it.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crdts::{CvRDT, VClock};

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

/// A set of dots, exact: per lane its ranges of counters.
///
/// Lanes without a dot are not in it, nor are parts of a [past](Lane::past) that is, so that equal sets are equal values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CausalContext {
    lanes: BTreeMap<Lane, RangeSet>,
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
        self.lanes.iter()
    }

    /// The counters of one lane: all there can be, of one that is part of a past.
    pub fn lane(&self, lane: &Lane) -> Option<&RangeSet> {
        self.lanes.get(lane).or_else(|| self.past_with(lane).map(|_| RangeSet::all()))
    }

    /// The past in it that a lane is part of.
    pub fn past_with(&self, lane: &Lane) -> Option<&Lane> {
        // No other lane of the node stands between a lane that is gone and the past that it is part of.
        self.lanes.range(lane..).next().map(|(next, _)| next).filter(|next| next.buries(lane))
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
        if self.lanes.remove(lane).is_none()
            && let Some(past) = self.past_with(lane).cloned()
        {
            self.lanes.remove(&past);
        }
    }

    /// Lets all go that is part of a past, and the past itself.
    pub fn bury(&mut self, past: &Lane) {
        self.drop_parts(past, true);
    }

    fn drop_parts(&mut self, past: &Lane, whole: bool) {
        while let Some(part) = self.lanes.range(..past).next_back().map(|(lane, _)| lane.clone()) {
            if !past.buries(&part) {
                break;
            }
            self.lanes.remove(&part);
        }
        if whole {
            self.lanes.remove(past);
        }
    }

    /// Adds all of `other`; says whether anything was new.
    pub fn union(&mut self, other: &Self) -> bool {
        other.lanes.iter().fold(false, |grew, (lane, counters)| self.insert_all(lane, counters) || grew)
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
        let dots =
            self.lanes.iter().map(|(lane, counters)| crdts::Dot::new(lane.clone(), counters.contiguous()));
        VersionVector(dots.filter(|dot| dot.counter > 0).collect())
    }

    /// What is in it of a lane, to be added to; nothing of one that is part of a past, for nothing can be added.
    fn lane_mut(&mut self, lane: &Lane) -> Option<&mut RangeSet> {
        if !self.lanes.contains_key(lane) {
            if self.past_with(lane).is_some() {
                return None;
            }
            self.lanes.insert(lane.clone(), RangeSet::new());
        }
        self.lanes.get_mut(lane)
    }
}

impl FromIterator<(Lane, RangeSet)> for CausalContext {
    fn from_iter<I: IntoIterator<Item = (Lane, RangeSet)>>(lanes: I) -> Self {
        let mut context = Self::new();
        for (lane, counters) in lanes {
            context.insert_all(&lane, &counters);
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
    use proptest::prelude::*;

    use super::super::laws;
    use super::super::store::tests::lane;
    use super::*;

    fn any_context() -> impl Strategy<Value = CausalContext> {
        prop::collection::vec((0u8..3, 1u64..8), 0..8).prop_map(|dots| {
            let mut context = CausalContext::new();
            for (author, counter) in dots {
                context.insert(&lane(author).dot(counter));
            }
            context
        })
    }

    proptest! {
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
