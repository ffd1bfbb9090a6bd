//! Sets of counters as sorted ranges: exact, and one range long where nothing is missing.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use smallvec::SmallVec;

/// A set of counters of one lane, as disjoint ranges that do not touch, in ascending order.
///
/// All operations keep that form, so that equal sets are equal values.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RangeSet {
    ranges: SmallVec<[(u64, u64); 1]>,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counters from 1 to `last`.
    pub fn up_to(last: u64) -> Self {
        Self::from(1..=last)
    }

    /// All counters there can be.
    pub fn all() -> &'static Self {
        static ALL: LazyLock<RangeSet> = LazyLock::new(|| RangeSet::up_to(u64::MAX));
        &ALL
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Its ranges in ascending order, never touching.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u64>> + '_ {
        self.ranges.iter().map(|&(first, last)| first..=last)
    }

    /// How many ranges it takes to write it down.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// How many counters are in it; saturates.
    pub fn len(&self) -> u64 {
        self.ranges
            .iter()
            .fold(0, |sum: u64, &(first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// The smallest counter in it.
    pub fn first(&self) -> Option<u64> {
        self.ranges.first().map(|&(first, _)| first)
    }

    /// The greatest counter in it.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last().map(|&(_, last)| last)
    }

    /// The greatest counter up to which nothing is missing: what a version vector can say of it.
    pub fn contiguous(&self) -> u64 {
        self.ranges.first().filter(|&&(first, _)| first <= 1).map_or(0, |&(_, last)| last)
    }

    /// Whether `counter` is in it.
    pub fn contains(&self, counter: u64) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= counter);
        after > 0 && self.ranges[after - 1].1 >= counter
    }

    /// Whether every counter of `other` is in it.
    pub fn is_superset(&self, other: &Self) -> bool {
        other.ranges.iter().all(|&(first, last)| {
            let after = self.ranges.partition_point(|range| range.0 <= first);
            after > 0 && self.ranges[after - 1].1 >= last
        })
    }

    /// Adds one counter; says whether it is new.
    pub fn insert(&mut self, counter: u64) -> bool {
        if self.contains(counter) {
            return false;
        }
        self.insert_range(counter..=counter);
        true
    }

    /// Adds a range; an empty one changes nothing.
    pub fn insert_range(&mut self, range: RangeInclusive<u64>) {
        let (mut first, mut last) = range.into_inner();
        if first > last {
            return;
        }
        // All ranges that overlap or touch the new one melt into it.
        let from = self.ranges.partition_point(|range| range.1 < first && range.1 + 1 < first);
        let to = self.ranges.partition_point(|range| range.0 <= last || range.0 - 1 <= last);
        if from < to {
            first = first.min(self.ranges[from].0);
            last = last.max(self.ranges[to - 1].1);
            self.ranges[from] = (first, last);
            self.ranges.drain(from + 1..to);
        } else {
            self.ranges.insert(from, (first, last));
        }
    }

    /// Adds all of `other`; says whether anything was new.
    pub fn union(&mut self, other: &Self) -> bool {
        if self.is_superset(other) {
            return false;
        }
        for range in other.ranges() {
            self.insert_range(range);
        }
        true
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = Self::new();
        let mut holes = other.ranges.iter().peekable();
        for &(mut first, last) in &self.ranges {
            while holes.next_if(|hole| hole.1 < first).is_some() {}
            let mut exhausted = false;
            while let Some(&&(hole_first, hole_last)) = holes.peek().filter(|hole| hole.0 <= last) {
                if first < hole_first {
                    rest.ranges.push((first, hole_first - 1));
                }
                if hole_last >= last {
                    exhausted = true;
                    break;
                }
                first = hole_last + 1;
                holes.next();
            }
            if !exhausted {
                rest.ranges.push((first, last));
            }
        }
        rest
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.difference(&self.difference(other))
    }

    /// What is in it and not above `limit`.
    #[must_use]
    pub fn truncated(&self, limit: u64) -> Self {
        self.intersection(&Self::up_to(limit))
    }
}

impl From<RangeInclusive<u64>> for RangeSet {
    fn from(range: RangeInclusive<u64>) -> Self {
        let mut set = Self::new();
        set.insert_range(range);
        set
    }
}

impl FromIterator<RangeInclusive<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert_range(range);
        }
        set
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The slow and obvious set.
    fn expand(set: &RangeSet) -> BTreeSet<u64> {
        set.ranges().flatten().collect()
    }

    fn canonical(set: &RangeSet) -> bool {
        set.ranges.iter().all(|(first, last)| first <= last)
            && set.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0)
    }

    fn any_set() -> impl Strategy<Value = RangeSet> {
        prop::collection::vec((1u64..40, 0u64..6), 0..8)
            .prop_map(|ranges| ranges.into_iter().map(|(first, more)| first..=first + more).collect())
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_counters(a in any_set(), b in any_set(), counter in 1u64..50) {
            let (left, right) = (expand(&a), expand(&b));
            prop_assert!(canonical(&a));
            prop_assert_eq!(a.contains(counter), left.contains(&counter));
            prop_assert_eq!(a.len(), left.len() as u64);
            prop_assert_eq!(a.is_superset(&b), left.is_superset(&right));
            prop_assert_eq!(a.contiguous(), (1..).take_while(|counter| left.contains(counter)).count() as u64);

            let mut union = a.clone();
            let grew = union.union(&b);
            prop_assert!(canonical(&union));
            prop_assert_eq!(expand(&union), &left | &right);
            prop_assert_eq!(grew, union != a);

            let difference = a.difference(&b);
            prop_assert!(canonical(&difference));
            prop_assert_eq!(expand(&difference), &left - &right);
            prop_assert_eq!(expand(&a.intersection(&b)), &left & &right);

            let mut one = a;
            prop_assert_eq!(one.insert(counter), !left.contains(&counter));
            prop_assert!(canonical(&one));
        }
    }

    #[test]
    fn the_greatest_counter_is_no_special_case() {
        let mut set = RangeSet::from(u64::MAX..=u64::MAX);
        set.insert_range(1..=u64::MAX - 1);
        assert_eq!(set, RangeSet::up_to(u64::MAX));
        assert_eq!(set.len(), u64::MAX);
        assert!(set.difference(&RangeSet::up_to(u64::MAX)).is_empty());
    }
}
