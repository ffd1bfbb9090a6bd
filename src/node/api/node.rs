//! Nodes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Paged;
use crate::gossip::MemberState;

/// `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeList {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// This one first, then the others by their keys.
    pub nodes: Vec<Node>,
    /// There are more: ask for those `after` this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

impl Paged for NodeList {
    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn append(&mut self, page: Self) {
        self.nodes.extend(page.nodes);
        self.next = page.next;
    }
}

/// One node, as the one that is asked sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its id.
    pub node: String,
    /// What people call it; need not be unique.
    pub name: String,
    /// `alive`, `suspect`, `down`, `left` or `revoked`.
    pub state: String,
    /// Whether it is the one that was asked.
    pub local: bool,
    /// Whether the one that was asked has a link to it.
    pub linked: bool,
    /// The round-trip time of that link.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_micros: Option<u64>,
    /// Which of its lives this is.
    pub generation: u64,
    /// The version of its program.
    pub version: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// The ids of the nodes that it says it has links to.
    #[serde(default)]
    pub links: Vec<String>,
    /// How many writes of the one that was asked this node neither has nor is about to get, if linked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub behind: Option<u64>,
    /// Whether its last heartbeat told of the same state, if linked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub in_sync: Option<bool>,
    /// Bytes of UDP payload sent to it over the present link.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Bytes of UDP payload received from it over the present link.
    #[serde(default)]
    pub received_bytes: u64,
}

/// What the API calls a state of a member.
pub fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
        MemberState::Left => "left",
        MemberState::Evicted => "evicted",
    }
}
