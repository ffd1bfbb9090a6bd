//! Tunnels, and what this node offers and reaches.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bytes, Paged};
use crate::mesh::Policy;

/// `GET /v1/tunnels`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TunnelList {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// Registrations, by name and tunnel.
    pub tunnels: Vec<Tunnel>,
    /// There are more: ask for those `after` this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

impl Paged for TunnelList {
    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn append(&mut self, page: Self) {
        self.tunnels.extend(page.tunnels);
        self.next = page.next;
    }
}

/// One registration of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// The name that it is found by.
    pub name: String,
    /// Its id.
    pub tunnel: String,
    /// The id of the node that holds it.
    pub holder: String,
    /// What people call that node, if it is known.
    pub holder_name: String,
    /// What the node that is asked thinks of it.
    pub holder_state: String,
    /// Whether a lookup of the name finds this one.
    pub chosen: bool,
    /// When it was registered.
    pub registered_at: u64,
    /// What its holder says of it.
    pub attributes: BTreeMap<String, Bytes>,
}

/// The body of `PUT /v1/tunnels/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expose {
    /// `HOST:PORT` of the local service.
    pub target: String,
    /// What to say of it.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// A local service that a node offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exposed {
    /// The name of its tunnel.
    pub name: String,
    /// Where the service is.
    pub target: String,
    /// The id of its registration.
    pub tunnel: String,
}

/// A local port that leads into a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bind {
    /// Where it listens.
    pub listen: String,
    /// Where it leads: the name of a tunnel, `NAME@NODE`, or a selector.
    pub tunnel: String,
    /// Which of several holders comes first: `last`, `first`, `round-robin`, `nearest`, `random` or `hash:src`.
    #[serde(default = "default_policy")]
    pub policy: String,
}

fn default_policy() -> String {
    Policy::default().to_string()
}

/// `GET /v1/binds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindList {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// By address.
    pub binds: Vec<Bind>,
}
