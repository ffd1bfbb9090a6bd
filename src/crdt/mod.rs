//! The replicated values and their laws, knowing nothing of tunnels, nodes or messages.
//!
//! Every mutation is one event with one [`Dot`]. For each dot a replica is in one of *unseen < live < dead* and
//! only moves upward: the store keeps the live entries and the [`CausalContext`] of what it has seen; what is
//! seen and not live is dead. Two replicas with equal contexts hold equal states.
//!
//! The shapes are those of the delta-state literature: Almeida, Shoker, Baquero, "Delta State Replicated Data
//! Types" (2018) for contexts and deltas; Shapiro et al., "A comprehensive study of CRDTs" (2011) for the
//! multi-value register.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]

mod context;
mod delta;
mod dot;
mod entry;
pub mod laws;
mod range_set;
mod register;
mod seal;
mod store;

pub use context::{CausalContext, VersionVector};
pub use delta::{Delta, Item};
pub use dot::{Class, Dot, Lane};
pub use entry::{Entry, Key, KeyError, Observed, Value, ValueError};
pub use range_set::RangeSet;
pub use register::{Register, Verdict};
#[cfg(test)]
pub(crate) use seal::tests as seal_tests;
pub use seal::{Notary, Seal};
pub use store::{Corrupt, Flaw, KeyRange, Reconciliation, Removal, Revision, Row, Store, Testimony, Unready};
