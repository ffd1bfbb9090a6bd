//! How far the replicated state has come everywhere, and how fast.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/convergence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Convergence {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The digest of the replicated state here.
    pub digest: String,
    /// The peers that a link leads to, by name.
    pub peers: Vec<PeerProgress>,
    /// How long values of others took from their origin's stamp until they were applied here.
    pub propagation: Propagation,
    /// Changes that this node made.
    pub local_changes: u64,
    /// Changes that others made.
    pub remote_changes: u64,
    /// Removals, whoever made them.
    pub removals: u64,
    /// Values that lost against a concurrent one.
    pub siblings: u64,
    /// Removals that are still remembered.
    pub tombstones: u64,
}

/// How far one peer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerProgress {
    /// Its id.
    pub node: String,
    /// What people call it.
    pub name: String,
    /// How many writes of the node that was asked the peer neither has nor is about to get.
    pub behind: u64,
    /// Whether its last heartbeat told of the same state.
    pub in_sync: bool,
}

/// A histogram of milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Propagation {
    /// The upper bounds of the buckets but for the last, which has none.
    pub bounds_ms: Vec<u64>,
    /// How many are in each bucket, each counted once.
    pub counts: Vec<u64>,
    /// All of them together.
    pub sum_ms: u64,
}
