//! What must hold, at every step and at rest. Each check has a name, by which reports and planted faults
//! call it.

mod reference;
mod rest;

use std::fmt;

use snomesh::time::Moment;

pub(crate) use reference::{Basis, News, Reference, Seen, WriteId};
pub(crate) use rest::{Resting, at_rest};

/// The name of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Checker {
    /// After every merge a register holds what the reference says of the writes that the node has seen.
    Merge,
    /// A context only grows, and claims nothing that nobody wrote.
    Context,
    /// No read goes back in causal order.
    Monotone,
    /// A write wins over all that its author had seen, and bears a greater stamp.
    Causality,
    /// No dot names two writes.
    Dots,
    /// A subscriber is told exactly how much it missed, and everything else in order.
    Lag,
    /// At rest a subscriber's view is the replica.
    View,
    /// At rest all nodes hold the same.
    Agreement,
    /// At rest nothing is visible that somebody removed or replaced knowingly.
    Resurrection,
    /// At rest a counter is what was counted, each increment once.
    Counters,
    /// No event shows a value again that its node knew to be removed or replaced.
    History,
    /// At rest every write of a life that goes on is known everywhere.
    Delivery,
    /// Nothing happens more often, and nothing grows larger, than the scenario allows.
    Bounds,
    /// All nodes agree in time after everything has healed.
    Convergence,
    /// At rest nothing but heartbeats is sent.
    Silence,
    /// No verdict against a healthy node, and the right ones at rest.
    Membership,
    /// What a disk confirmed is there after a restart and at rest.
    Durability,
    /// A frame is decoded to what was encoded.
    Wire,
    /// The core sends only on channels that can take a frame, of links that are up.
    Discipline,
    /// A flipped bit is refused.
    Corruption,
    /// The core does not panic, whatever comes.
    Panic,
    /// Two nodes have one tunnel between them at rest, and none to a node that is gone.
    Links,
    /// After a daemon has ended no task of it is left.
    Tasks,
    /// Where nothing goes wrong both tiers end in the same state.
    Tiers,
}

impl Checker {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[
        Self::Merge,
        Self::Context,
        Self::Monotone,
        Self::Causality,
        Self::Dots,
        Self::Lag,
        Self::View,
        Self::Agreement,
        Self::Resurrection,
        Self::Counters,
        Self::History,
        Self::Delivery,
        Self::Bounds,
        Self::Convergence,
        Self::Silence,
        Self::Membership,
        Self::Durability,
        Self::Wire,
        Self::Discipline,
        Self::Corruption,
        Self::Panic,
        Self::Links,
        Self::Tasks,
        Self::Tiers,
    ];

    /// How reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Context => "context",
            Self::Monotone => "monotone",
            Self::Causality => "causality",
            Self::Dots => "dots",
            Self::Lag => "lag",
            Self::View => "view",
            Self::Agreement => "agreement",
            Self::Resurrection => "resurrection",
            Self::Counters => "counters",
            Self::History => "history",
            Self::Delivery => "delivery",
            Self::Bounds => "bounds",
            Self::Convergence => "convergence",
            Self::Silence => "silence",
            Self::Membership => "membership",
            Self::Durability => "durability",
            Self::Wire => "wire",
            Self::Discipline => "discipline",
            Self::Corruption => "corruption",
            Self::Panic => "panic",
            Self::Links => "links",
            Self::Tasks => "tasks",
            Self::Tiers => "tiers",
        }
    }

    /// What it holds, in one line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Merge => "after every merge a register holds what the reference says",
            Self::Context => "a context only grows, and claims nothing that nobody wrote",
            Self::Monotone => "no read on one node goes back in causal order",
            Self::Causality => "a write wins over all that its author had seen",
            Self::Dots => "no dot names two writes",
            Self::Lag => "a subscriber is told exactly how much it missed",
            Self::View => "at rest a subscriber's view is the replica",
            Self::Agreement => "at rest all nodes hold the same, byte for byte",
            Self::Resurrection => "at rest nothing is visible that was removed or replaced",
            Self::Counters => "at rest a counter is what was counted, each increment once",
            Self::History => "no event shows again what its node knew to be removed or replaced",
            Self::Delivery => "at rest every write of a life that goes on is known everywhere",
            Self::Bounds => "nothing happens more often or grows larger than the scenario allows",
            Self::Convergence => "all nodes agree in time after everything has healed",
            Self::Silence => "at rest nothing but heartbeats is sent",
            Self::Membership => "no healthy node takes a healthy one for down; right verdicts at rest",
            Self::Durability => "what a disk confirmed survives",
            Self::Wire => "a frame is decoded to what was encoded",
            Self::Discipline => "the core sends only on open channels that can take a frame",
            Self::Corruption => "a flipped bit is refused",
            Self::Panic => "the core does not panic, whatever comes",
            Self::Links => "tier quic: at rest two nodes have one tunnel, and none to a node that is gone",
            Self::Tasks => "tier quic: after a daemon has ended no task of it is left",
            Self::Tiers => "tier quic: where nothing goes wrong both tiers end in the same state",
        }
    }
}

impl fmt::Display for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// What.
    pub(crate) checker: Checker,
    /// When.
    pub(crate) at: Moment,
    /// Where, if at one node.
    pub(crate) node: Option<usize>,
    /// What was found and what was to be found.
    pub(crate) what: String,
}

/// A check that failed, before it is known when and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// What.
    pub(crate) checker: Checker,
    /// What was found and what was to be found.
    pub(crate) what: String,
}

impl Broken {
    /// Says what did not hold.
    pub(crate) fn new(checker: Checker, what: impl Into<String>) -> Self {
        Self { checker, what: what.into() }
    }
}
