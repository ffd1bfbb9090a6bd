//! What came of the replicated state here: how many changes, from whom, and how long they took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::gossip::{Alarm, Event, MemberState};
use crate::id::{Actor, NodeId};
use crate::time::{Timestamp, UnixMillis};

/// The upper bounds of the histogram's buckets, in milliseconds: stamps are no finer.
pub const PROPAGATION_BOUNDS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// What came of the replicated state since the start. Exact: events are counted where they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Changes of attributes and registrations that this node wrote.
    pub local: u64,
    /// Those that others wrote.
    pub remote: u64,
    /// Removals, of which nobody can tell who made them.
    pub removals: u64,
    /// How long the values of others took to get here.
    pub propagation: Propagation,
    /// How often another node became alive, suspect, down, left, evicted.
    pub transitions: [u64; 5],
    /// How often another life of this node was found.
    pub doubles: u64,
    /// How often a peer sent what was damaged.
    pub corruptions: u64,
    /// How often a peer sent what another node is said to have written, without that node's seal.
    pub forgeries: u64,
    /// How often a peer was met that seals its entries and this node does not, or the other way round.
    pub unlike: u64,
    /// How often a peer's clock was found beyond the drift bound.
    pub drifts: u64,
}

/// How long values took from their origin's stamp until they were applied here, by both wall clocks.
///
/// Only values written since this node is up count: what is older was not on its way, this node was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Propagation {
    /// How many took at most [`PROPAGATION_BOUNDS`], each counted once; the last of all: longer.
    pub buckets: [u64; PROPAGATION_BOUNDS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl Propagation {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The counters behind [`Changes`].
#[derive(Debug, Default)]
pub(super) struct ChangeCounters {
    started_at: u64,
    local: AtomicU64,
    remote: AtomicU64,
    removals: AtomicU64,
    buckets: [AtomicU64; PROPAGATION_BOUNDS.len() + 1],
    sum_millis: AtomicU64,
    transitions: [AtomicU64; 5],
    doubles: AtomicU64,
    corruptions: AtomicU64,
    forgeries: AtomicU64,
    unlike: AtomicU64,
    drifts: AtomicU64,
}

impl ChangeCounters {
    pub(super) fn new(wall: UnixMillis) -> Self {
        Self { started_at: wall.0, ..Self::default() }
    }

    /// Counts an event that is about to be published on this node.
    pub(super) fn count(&self, event: &Event, own: NodeId, wall: UnixMillis) {
        match event {
            Event::Attribute { origin: Some(origin), .. } => {
                self.count_write(origin.author, origin.stamp, own, wall);
            }
            Event::Registered(registration) => {
                self.count_write(registration.holder, registration.stamp, own, wall);
            }
            Event::Attribute { origin: None, .. } | Event::Deregistered { .. } => add(&self.removals, 1),
            Event::Member { state, .. } => add(&self.transitions[place(*state)], 1),
            Event::Alarm(Alarm::Double { .. }) => add(&self.doubles, 1),
            // It has happened to this node, and it is a transition at all others.
            Event::Alarm(Alarm::Dead { .. }) => {}
            Event::Alarm(Alarm::Corrupt { .. }) => add(&self.corruptions, 1),
            Event::Alarm(Alarm::Forged { .. }) => add(&self.forgeries, 1),
            Event::Alarm(Alarm::Seals { .. }) => add(&self.unlike, 1),
            Event::Alarm(Alarm::Drift { .. }) => add(&self.drifts, 1),
            Event::Revocation { .. } | Event::Policy => {}
            Event::LinkUp { .. } | Event::LinkDown { .. } => {}
            // What a counter or a set has become is nobody's alone.
            Event::Counter { .. } | Event::Element { .. } => {}
        }
    }

    fn count_write(&self, author: Actor, stamp: Timestamp, own: NodeId, wall: UnixMillis) {
        if author.node == own {
            return add(&self.local, 1);
        }
        add(&self.remote, 1);
        let written = stamp.to_wall().0;
        if written >= self.started_at {
            // A clock that is behind its peer's would make it negative.
            let took = wall.0.saturating_sub(written);
            let bucket = PROPAGATION_BOUNDS.partition_point(|bound| *bound < took);
            add(&self.buckets[bucket], 1);
            add(&self.sum_millis, took);
        }
    }

    pub(super) fn read(&self) -> Changes {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Changes {
            local: read(&self.local),
            remote: read(&self.remote),
            removals: read(&self.removals),
            propagation: Propagation {
                buckets: std::array::from_fn(|at| read(&self.buckets[at])),
                sum: Duration::from_millis(read(&self.sum_millis)),
            },
            transitions: std::array::from_fn(|at| read(&self.transitions[at])),
            doubles: read(&self.doubles),
            corruptions: read(&self.corruptions),
            forgeries: read(&self.forgeries),
            unlike: read(&self.unlike),
            drifts: read(&self.drifts),
        }
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

/// The place of a state in [`Changes::transitions`].
fn place(state: MemberState) -> usize {
    match state {
        MemberState::Alive => 0,
        MemberState::Suspect => 1,
        MemberState::Down => 2,
        MemberState::Left => 3,
        MemberState::Evicted => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::Origin;
    use crate::id::Generation;

    const OWN: NodeId = NodeId::from_bytes([1; 32]);
    const OTHER: NodeId = NodeId::from_bytes([2; 32]);

    fn written(author: NodeId, at: u64) -> Event {
        let author = Actor { node: author, generation: Generation(1) };
        let origin = Origin { author, stamp: Timestamp::from_wall(UnixMillis(at)) };
        let key = "mesh/x".parse().unwrap();
        Event::Attribute { key, value: None, siblings: 0, origin: Some(origin) }
    }

    #[test]
    fn values_of_others_are_timed_and_our_own_are_not() {
        let counters = ChangeCounters::new(UnixMillis(1_000));
        counters.count(&written(OWN, 1_000), OWN, UnixMillis(1_005));
        counters.count(&written(OTHER, 1_000), OWN, UnixMillis(1_005));
        counters.count(&written(OTHER, 1_000), OWN, UnixMillis(1_006));
        counters.count(&written(OTHER, 2_000), OWN, UnixMillis(1_999));
        counters.count(&written(OTHER, 1_000), OWN, UnixMillis(99_000));
        let changes = counters.read();
        assert_eq!((changes.local, changes.remote), (1, 4));
        assert_eq!(changes.propagation.buckets[..4], [1, 0, 1, 1]);
        assert_eq!(changes.propagation.buckets.last(), Some(&1));
        assert_eq!((changes.propagation.count(), changes.propagation.sum.as_millis()), (4, 98_011));
    }

    #[test]
    fn what_was_written_before_this_node_was_up_is_not_timed() {
        let counters = ChangeCounters::new(UnixMillis(1_000));
        counters.count(&written(OTHER, 999), OWN, UnixMillis(5_000));
        assert_eq!((counters.read().remote, counters.read().propagation.count()), (1, 0));
    }
}
