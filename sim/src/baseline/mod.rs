//! The mesh protocol beside the ways of spreading writes that it was chosen over, under one workload.
//!
//! Everything runs over the same latencies, with the same writers at the same times, and counts the same things:
//! how long a write takes to everybody, how often its payload is carried, what is said besides, and what is said
//! when nothing happens. The protocol is the production core; the others are their textbook selves and get what
//! would cost them something for free: a graph that stands, members that are known, frames as short as ours.
//!
//! It refuses to judge correctness: that is what scenarios are for. Links lose nothing and have no limit here.

mod arena;
mod budgets;
mod digests;
mod mesh;
mod relays;
mod table;

use std::time::Duration;

use arena::{Arena, Measured, Workload};
pub(crate) use budgets::Budgets;
pub(crate) use table::{insert, print, print_budgets};

use crate::random::Seed;

/// A way of spreading writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The protocol under test.
    Mesh,
    /// Everybody passes a new write on to all neighbours.
    Flood,
    /// Everybody passes a new write on to some nodes at random, and asks one at random each second for the rest.
    FanOut,
    /// One tree for all authors.
    Tree,
    /// Nobody passes anything on; each asks some at random each second with a digest.
    Digests,
}

impl Way {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 5] = [Self::Mesh, Self::Flood, Self::FanOut, Self::Tree, Self::Digests];

    fn name(self) -> &'static str {
        match self {
            Self::Mesh => "snomesh",
            Self::Flood => "flood",
            Self::FanOut => "random fan-out",
            Self::Tree => "one shared tree",
            Self::Digests => "digests only",
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// How.
    pub(crate) way: Way,
    /// Among how many nodes.
    pub(crate) nodes: usize,
    /// With one writer.
    pub(crate) one: Measured,
    /// With all nodes writing.
    pub(crate) all: Measured,
    /// With all writing while one in twenty falls.
    pub(crate) falling: Measured,
    /// Until the mesh stood, from nothing; the others begin with one that stands.
    pub(crate) formed_after: Option<Duration>,
}

/// Measures one way among so many nodes.
pub(crate) fn measure(way: Way, nodes: usize, seed: Seed) -> Row {
    let workloads = [Workload::one_writer(), Workload::all_writing(nodes), Workload::while_nodes_fall(nodes)];
    let (measured, formed_after) = match way {
        Way::Mesh => Arena::new(mesh::Mesh::new(nodes, seed), nodes, seed).run(&workloads),
        Way::Flood => Arena::new(relays::Relays::flood(nodes, seed), nodes, seed).run(&workloads),
        Way::FanOut => Arena::new(relays::Relays::fan_out(nodes, seed), nodes, seed).run(&workloads),
        Way::Tree => Arena::new(relays::Relays::tree(nodes, seed), nodes, seed).run(&workloads),
        Way::Digests => Arena::new(digests::Digests::new(nodes, seed), nodes, seed).run(&workloads),
    };
    let [one, all, falling] = measured.try_into().expect("as many measurements as workloads");
    let formed_after = if way == Way::Mesh { formed_after } else { None };
    Row { way, nodes, one, all, falling, formed_after }
}

/// Measures what a mesh of so many nodes must keep to as a whole.
pub(crate) fn measure_budgets(nodes: usize, seed: Seed) -> Budgets {
    Arena::new(mesh::Mesh::new(nodes, seed), nodes, seed).budgets()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FEATURES S6: what the table says of twelve nodes.
    #[test]
    fn the_protocol_carries_a_write_once_and_loses_none() {
        let row = measure(Way::Mesh, 12, Seed(1));
        assert!(row.formed_after.is_some());
        for measured in [&row.one, &row.all, &row.falling] {
            assert_eq!(measured.incomplete, 0);
        }
        assert!(row.one.copies <= 1.02 && row.all.copies <= 1.02, "{} {}", row.one.copies, row.all.copies);
        // Who loses the way to an author asks somebody else at once, and may be told twice.
        assert!(row.falling.copies <= 1.1, "{}", row.falling.copies);
        // The arena's own doings: the others are what they are called.
        let flood = measure(Way::Flood, 12, Seed(1));
        assert!(flood.one.copies > 3.0 && flood.falling.incomplete == 0);
        let tree = measure(Way::Tree, 12, Seed(1));
        assert!((tree.one.copies - 1.0).abs() < 1e-9);
        let digests = measure(Way::Digests, 12, Seed(1));
        let median = |measured: &Measured| measured.to_all[measured.to_all.len() / 2];
        assert!(median(&digests.one) > 4 * median(&row.one));
        assert!(digests.one.idle > row.one.idle);
    }

    /// DESIGN §8, what a mesh keeps to as a whole: with five nodes here, with more by the command.
    #[test]
    fn five_nodes_keep_to_the_budgets() {
        let measured = measure_budgets(5, Seed(1));
        let within = |measured: Option<Duration>, seconds: u64| {
            measured.is_some_and(|measured| measured <= Duration::from_secs(seconds))
        };
        assert!(within(measured.suspected_after, 4) && within(measured.down_after, 10), "{measured:?}");
        assert!(
            within(measured.healed.one_after, 15) && within(measured.healed.agreed_after, 16),
            "{measured:?}"
        );
        assert!(within(measured.healed.known_after, 2), "{measured:?}");
        assert!(within(measured.loaded_after, 1), "{measured:?}");
        // It was carried, and to everybody once: the values whole, of the keys what is new.
        assert!((0.82..=1.25).contains(&measured.load_bytes), "{measured:?}");
        assert!(measured.idle_after <= 1.1 * measured.idle_before, "{measured:?}");
    }

    /// DESIGN §8: once halves are one mesh, what was written apart is everywhere two round trips later, whoever has a link
    /// to whom by then. A round trip takes 160 ms here at most.
    #[test]
    fn halves_that_meet_know_everything_two_round_trips_later() {
        for seed in 0..4 {
            let healed = measure_budgets(16, Seed(seed)).healed;
            let later = healed.known_after.unwrap().saturating_sub(healed.one_after.unwrap());
            assert!(later <= Duration::from_millis(2 * 160), "{later:?} later with seed {seed}: {healed:?}");
        }
    }
}
