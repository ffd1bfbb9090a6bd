//! The laws of a state-based and an operation-based replicated type, written once for ours and for theirs.
//!
//! Generic over the traits of the `crdts` crate, so that the same suite runs over its types and over this
//! module's. Each function panics with the law that was broken; property tests call them with what they drew.

use std::fmt::Debug;

use crdts::{CmRDT, CvRDT};

/// The join of two states.
fn join<T: CvRDT + Clone>(left: &T, right: &T) -> T {
    let mut joined = left.clone();
    joined.merge(right.clone());
    joined
}

/// Checks that `merge` is associative, commutative and idempotent.
///
/// # Panics
///
/// If it is not.
pub fn join_semilattice<T: CvRDT + Clone + PartialEq + Debug>(a: &T, b: &T, c: &T) {
    assert_eq!(join(a, b), join(b, a), "merge is commutative");
    assert_eq!(join(&join(a, b), c), join(a, &join(b, c)), "merge is associative");
    assert_eq!(&join(a, a), a, "merge is idempotent");
    assert_eq!(join(&join(a, b), b), join(a, b), "merging again changes nothing");
}

/// Checks that applying an operation equals merging the state that it makes of another replica's.
///
/// # Panics
///
/// If it does not.
pub fn operation_is_delta<T, D>(before: &T, delta: D)
where
    T: CvRDT + CmRDT<Op = D> + Clone + PartialEq + Debug,
    D: Clone,
{
    let mut once = before.clone();
    once.apply(delta.clone());
    let mut twice = once.clone();
    twice.apply(delta);
    assert_eq!(once, twice, "applying an operation twice changes nothing");
    assert_eq!(join(before, &once), once, "an operation only moves upward");
}

/// Checks that two operations commute.
///
/// # Panics
///
/// If they do not.
pub fn operations_commute<T, D>(before: &T, one: &D, other: &D)
where
    T: CmRDT<Op = D> + Clone + PartialEq + Debug,
    D: Clone,
{
    let (mut left, mut right) = (before.clone(), before.clone());
    left.apply(one.clone());
    left.apply(other.clone());
    right.apply(other.clone());
    right.apply(one.clone());
    assert_eq!(left, right, "operations commute");
}

#[cfg(test)]
mod tests {
    use crdts::{MVReg, Orswot, VClock};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_suite_holds_for_the_types_of_crdts(dots in prop::collection::vec((0u8..3, 0u8..3), 0..12)) {
            let mut clocks: [VClock<u8>; 3] = Default::default();
            let mut sets: [Orswot<u8, u8>; 3] = Default::default();
            let mut registers: [MVReg<u8, u8>; 3] = Default::default();
            for (step, (replica, other)) in dots.into_iter().enumerate() {
                let (here, there) = (usize::from(replica), usize::from(other));
                let value = u8::try_from(step).expect("few steps");
                let dot = clocks[here].inc(replica);
                clocks[here].apply(dot);
                let add = sets[here].add(value % 4, sets[here].read_ctx().derive_add_ctx(replica));
                sets[here].apply(add);
                let put = registers[here].write(value, registers[here].read_ctx().derive_add_ctx(replica));
                registers[here].apply(put);
                let (set, register) = (sets[here].clone(), registers[here].clone());
                sets[there].merge(set);
                registers[there].merge(register);
            }
            join_semilattice(&clocks[0], &clocks[1], &clocks[2]);
            join_semilattice(&sets[0], &sets[1], &sets[2]);
            join_semilattice(&registers[0], &registers[1], &registers[2]);
        }
    }

    #[test]
    #[should_panic(expected = "commutative")]
    fn a_last_writer_wins_by_arrival_is_caught() {
        #[derive(Debug, Clone, PartialEq)]
        struct Arrival(u8);
        impl CvRDT for Arrival {
            type Validation = std::convert::Infallible;
            fn validate_merge(&self, _: &Self) -> Result<(), Self::Validation> {
                Ok(())
            }
            fn merge(&mut self, other: Self) {
                *self = other;
            }
        }
        join_semilattice(&Arrival(1), &Arrival(2), &Arrival(3));
    }
}
