//! Tunnels, and what this node offers and reaches.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bytes, Paged};
use crate::mesh::{self, Policy};

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
    /// Whether its holder takes what is behind it to serve, and is not drained; if not, nobody picks it.
    #[serde(default = "yes")]
    pub healthy: bool,
    /// The same in a word: `healthy`, `starting`, `unhealthy`, or `draining`.
    #[serde(default)]
    pub health: String,
    /// Its share of visitors under the policy `weighted`.
    #[serde(default = "one")]
    pub weight: u16,
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
    /// How to find out whether the service serves; without it, it is taken to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub health: Option<HealthCheck>,
    /// Its share of visitors under the policy `weighted`, 1 to 1,000; 1.
    #[serde(default = "one")]
    pub weight: u16,
}

/// How to find out whether a service serves, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// `tcp`: it takes a connection; `http:/PATH`: it answers `GET` with a status from 200 to 399; `cmd:/PATH ARGUMENT…`:
    /// that program ends with 0.
    pub check: String,
    /// From the end of one check to the beginning of the next, 100 ms to 24 h; `5s`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub interval: Option<String>,
    /// How long a check may take, 10 ms to 60 s; `2s`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeout: Option<String>,
    /// So many successes in a row make an unhealthy service healthy; 2.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rise: Option<u32>,
    /// So many failures in a row make a healthy one unhealthy; 3.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fall: Option<u32>,
}

/// What the health checks of a service came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `healthy`, `unhealthy`, or `starting`: its first check is not done.
    pub state: String,
    /// Since when that is so.
    pub since: u64,
    /// What was wrong with the last check; nothing if it succeeded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<String>,
    /// How it is checked.
    pub check: HealthCheck,
}

fn yes() -> bool {
    true
}

fn one() -> u16 {
    1
}

/// What a health is called.
pub fn health_name(health: mesh::Health) -> &'static str {
    match health {
        mesh::Health::Healthy => "healthy",
        mesh::Health::Starting => "starting",
        mesh::Health::Failing => "unhealthy",
        mesh::Health::Draining => "draining",
    }
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
    /// What others are told of it: `healthy`, `starting`, `unhealthy`, or `draining`.
    #[serde(default)]
    pub state: String,
    /// Its share of visitors under the policy `weighted`.
    #[serde(default = "one")]
    pub weight: u16,
    /// What its health checks came to, if it has any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub health: Option<Health>,
}

/// A local port that leads into a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bind {
    /// Where it listens.
    pub listen: String,
    /// Where it leads: the name of a tunnel, `NAME@NODE`, or a selector.
    pub tunnel: String,
    /// Which of several holders comes first: `last`, `first`, `round-robin`, `nearest`, `least-conn`, `random`,
    /// `weighted` or `hash:src`.
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
