//! The state of one key: its maximal entries.

use std::convert::Infallible;

use crdts::{CmRDT, CvRDT};
use smallvec::SmallVec;

use super::{Dot, Entry, Lane, Observed, Value};
use crate::time::Timestamp;

/// A multi-value register: the writes that no other write of the key has seen.
///
/// An entry that another one [replaces](Entry::replaces) goes; the rest stay, as siblings, and are never collapsed by
/// a merge. Whoever reads one value gets the winner by [`Entry::rank`].
///
/// It is a CRDT of its own while its entries remember all that they observed. Inside a [`Store`](super::Store)
/// the context says what was seen, so that entries may forget what is stable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Register {
    /// Sorted by dot, so that equal states are equal values.
    entries: SmallVec<[Entry; 1]>,
}

/// What became of an entry that met a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is live now; what it covered is gone.
    Live,
    /// An entry already here covers it, or is it.
    Dead,
    /// An entry with the same dot and another content is here: its author's generation was used twice. The
    /// greater one by content stays, everywhere.
    Equivocation {
        /// Whether that is the one that came.
        replaced: bool,
    },
}

impl Register {
    /// The state of a key with a single entry.
    pub(super) fn of(entry: Entry) -> Self {
        Self { entries: SmallVec::from_iter([entry]) }
    }

    /// All entries, removals included, in the order of their dots.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All entries, given away.
    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.entries.into_iter()
    }

    /// Whether no entry is left.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is nothing in it but removals.
    pub fn is_removed(&self) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(|entry| entry.value.is_none())
    }

    /// The entries that put a value, the winner first.
    pub fn values(&self) -> SmallVec<[&Entry; 1]> {
        let mut values: SmallVec<[&Entry; 1]> =
            self.entries.iter().filter(|entry| entry.value.is_some()).collect();
        values.sort_by(|left, right| right.rank().cmp(&left.rank()));
        values
    }

    /// The entry that a read of one value finds.
    pub fn winner(&self) -> Option<&Entry> {
        self.entries
            .iter()
            .filter(|entry| entry.value.is_some())
            .max_by(|left, right| left.rank().cmp(&right.rank()))
    }

    /// The entry of that name.
    pub fn entry(&self, dot: &Dot) -> Option<&Entry> {
        self.entries.binary_search_by(|entry| entry.dot.cmp(dot)).ok().map(|at| &self.entries[at])
    }

    /// The greatest stamp of its entries.
    pub fn stamp(&self) -> Timestamp {
        self.entries.iter().map(|entry| entry.stamp).max().unwrap_or_default()
    }

    /// Whether writing `value` (or removing, for `None`) would change what anybody reads.
    pub fn would_change(&self, value: Option<&Value>) -> bool {
        let values = self.values();
        values.len() > 1 || values.first().map(|entry| entry.value.as_ref()) != value.map(Some)
    }

    /// What a write by `author` observes here: the highest counter that the state covers, per other lane.
    pub fn observed_by(&self, author: &Lane) -> Observed {
        Observed::new(self.cover().into_iter().filter(|(lane, _)| lane != author))
    }

    /// What a removal of some entries alone observes, made by `author`: their dots, and what they had observed,
    /// so that nothing returns which they had superseded.
    pub fn observed_in(&self, author: &Lane, removed: impl Fn(&Entry) -> bool) -> Observed {
        let removed = self.entries.iter().filter(|entry| removed(entry));
        let seen = removed.flat_map(|entry| {
            let dot = (entry.dot.lane.clone(), entry.dot.counter);
            entry.observed.iter().cloned().chain([dot]).collect::<SmallVec<[(Lane, u64); 2]>>()
        });
        Observed::new(seen.filter(|(lane, _)| lane != author))
    }

    /// The highest counter that the state covers, per lane: over its entries' dots and what they observed.
    pub fn cover(&self) -> SmallVec<[(Lane, u64); 2]> {
        let mut cover: SmallVec<[(Lane, u64); 2]> = SmallVec::new();
        let mut add = |lane: &Lane, counter: u64| match cover.binary_search_by(|(known, _)| known.cmp(lane)) {
            Ok(at) => cover[at].1 = cover[at].1.max(counter),
            Err(at) => cover.insert(at, (lane.clone(), counter)),
        };
        for entry in &self.entries {
            add(&entry.dot.lane, entry.dot.counter);
            for (lane, counter) in entry.observed.iter() {
                add(lane, *counter);
            }
        }
        cover
    }

    /// The counters by which whoever lacks some of the state is told that it does: the dot of each entry and all that it had
    /// observed, also where another entry covers more of that lane. A removal stands so beside a later write of whoever let
    /// it go, and covers what that write knew nothing of.
    pub(super) fn places(&self) -> SmallVec<[(Lane, u64); 2]> {
        let mut places: SmallVec<[(Lane, u64); 2]> = SmallVec::new();
        for entry in &self.entries {
            let dot = (entry.dot.lane.clone(), entry.dot.counter);
            for place in entry.observed.iter().cloned().chain([dot]) {
                if let Err(at) = places.binary_search(&place) {
                    places.insert(at, place);
                }
            }
        }
        places
    }

    /// Joins one entry to the state. What went is given to `gone`.
    pub fn insert(&mut self, entry: Entry, mut gone: impl FnMut(&Entry)) -> Verdict {
        let mut verdict = Verdict::Live;
        if let Some(same) = self.entry(&entry.dot) {
            if *same == entry {
                return Verdict::Dead;
            }
            if content(same) >= content(&entry) {
                return Verdict::Equivocation { replaced: false };
            }
            verdict = Verdict::Equivocation { replaced: true };
            self.remove(&entry.dot, &mut gone);
        }
        if self.entries.iter().any(|present| present.replaces(&entry)) {
            return Verdict::Dead;
        }
        self.entries.retain(|present| {
            let covered = entry.replaces(present);
            if covered {
                gone(present);
            }
            !covered
        });
        let at = self.entries.partition_point(|present| present.dot < entry.dot);
        self.entries.insert(at, entry);
        verdict
    }

    /// Takes the entry of that name out. It is given to `gone`.
    pub fn remove(&mut self, dot: &Dot, mut gone: impl FnMut(&Entry)) {
        if let Ok(at) = self.entries.binary_search_by(|entry| entry.dot.cmp(dot)) {
            gone(&self.entries.remove(at));
        }
    }
}

/// What two entries of one dot are told apart by.
fn content(entry: &Entry) -> (Timestamp, &Option<Value>, u32) {
    (entry.stamp, &entry.value, entry.checksum)
}

impl CmRDT for Register {
    type Op = Entry;
    type Validation = Infallible;

    fn validate_op(&self, _: &Entry) -> Result<(), Infallible> {
        Ok(())
    }

    fn apply(&mut self, entry: Entry) {
        self.insert(entry, |_| ());
    }
}

impl CvRDT for Register {
    type Validation = Infallible;

    fn validate_merge(&self, _: &Self) -> Result<(), Infallible> {
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        for entry in other.entries {
            self.insert(entry, |_| ());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::laws;
    use super::super::store::tests::lane;
    use super::super::{Key, Observed};
    use super::*;

    fn key() -> Key {
        "k".parse().unwrap()
    }

    fn put(author: u8, counter: u64, observed: &[(u8, u64)], stamp: u64, value: Option<u8>) -> Entry {
        let observed = Observed::new(observed.iter().map(|&(author, counter)| (lane(author), counter)));
        let value = value.map(|byte| Value::try_from(&[byte][..]).unwrap());
        Entry::new(&key(), lane(author).dot(counter), observed, Timestamp(stamp), value)
    }

    /// Three replicas of one key that write and merge as told; the entries are all those that were written.
    fn history(steps: &[(u8, u8, bool)]) -> (Vec<Register>, Vec<Entry>) {
        let mut registers = vec![Register::default(); 3];
        let mut counters = [0; 3];
        let mut written = Vec::new();
        for (step, &(author, from, removes)) in steps.iter().enumerate() {
            let at = usize::from(author);
            let other = registers[usize::from(from)].clone();
            registers[at].merge(other);
            counters[at] += 1;
            let value = (!removes).then(|| Value::try_from(&[step.to_le_bytes()[0]][..]).unwrap());
            let observed = registers[at].observed_by(&lane(author));
            let stamp = Timestamp(registers[at].stamp().0 + 1);
            let entry = Entry::new(&key(), lane(author).dot(counters[at]), observed, stamp, value);
            registers[at].insert(entry.clone(), |_| ());
            written.push(entry);
        }
        (registers, written)
    }

    proptest! {
        #[test]
        fn states_and_operations_obey_the_laws(steps in prop::collection::vec((0u8..3, 0u8..3, any::<bool>()), 1..14)) {
            let (registers, written) = history(&steps);
            laws::join_semilattice(&registers[0], &registers[1], &registers[2]);
            let last = written.last().expect("at least one step");
            for entry in &written {
                laws::operations_commute(&Register::default(), entry, last);
                laws::operation_is_delta(&Register::default(), entry.clone());
            }
        }
    }

    #[test]
    fn concurrent_values_stay_as_siblings_and_one_of_them_wins_everywhere() {
        let (old, new) = (put(0, 1, &[], 5, Some(1)), put(1, 1, &[], 6, Some(2)));
        let (mut left, mut right) = (Register::default(), Register::default());
        left.insert(old.clone(), |_| ());
        left.insert(new.clone(), |_| ());
        right.insert(new.clone(), |_| ());
        right.insert(old, |_| ());
        assert_eq!(left, right);
        assert_eq!(left.values().len(), 2);
        assert_eq!(left.winner(), Some(&new));
    }

    #[test]
    fn equal_stamps_are_decided_by_the_dot() {
        let (low, high) = (put(0, 9, &[], 5, Some(9)), put(1, 1, &[], 5, Some(1)));
        let mut register = Register::default();
        register.insert(high.clone(), |_| ());
        register.insert(low, |_| ());
        assert_eq!(register.winner(), Some(&high));
    }

    #[test]
    fn a_removal_takes_what_it_saw_and_leaves_a_concurrent_put() {
        let mut register = Register::default();
        register.insert(put(0, 1, &[], 1, Some(1)), |_| ());
        register.insert(put(1, 1, &[], 2, Some(2)), |_| ());
        let mut gone = Vec::new();
        register.insert(put(2, 1, &[(0, 1)], 3, None), |entry| gone.push(entry.dot.clone()));
        assert_eq!(gone, [lane(0).dot(1)]);
        assert_eq!(register.values().len(), 1);
        assert_eq!(register.entries().len(), 2);
    }

    #[test]
    fn a_later_write_wins_over_what_it_saw_whatever_the_clocks_say() {
        let mut register = Register::default();
        register.insert(put(0, 1, &[], 1_000, Some(1)), |_| ());
        assert_eq!(register.insert(put(1, 1, &[(0, 1)], 3, Some(2)), |_| ()), Verdict::Live);
        assert_eq!(register.values().len(), 1);
        assert_eq!(register.insert(put(0, 1, &[], 1_000, Some(1)), |_| ()), Verdict::Dead);
    }

    #[test]
    fn one_dot_with_two_contents_ends_the_same_everywhere() {
        let (one, two) = (put(0, 1, &[], 1, Some(1)), put(0, 1, &[], 1, Some(2)));
        let (mut left, mut right) = (Register::default(), Register::default());
        left.insert(one.clone(), |_| ());
        assert_eq!(left.insert(two.clone(), |_| ()), Verdict::Equivocation { replaced: true });
        right.insert(two, |_| ());
        assert_eq!(right.insert(one, |_| ()), Verdict::Equivocation { replaced: false });
        assert_eq!(left, right);
    }

    #[test]
    fn a_write_of_the_same_value_changes_nothing_unless_it_settles_siblings() {
        let value = Value::try_from(&[1][..]).unwrap();
        let mut register = Register::default();
        assert!(!register.would_change(None) && register.would_change(Some(&value)));
        register.insert(put(0, 1, &[], 1, Some(1)), |_| ());
        assert!(!register.would_change(Some(&value)) && register.would_change(None));
        register.insert(put(1, 1, &[], 1, Some(1)), |_| ());
        assert!(register.would_change(Some(&value)));
    }
}
