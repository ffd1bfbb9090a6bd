//! The node itself and its state as a whole.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bind, Exposed};

/// `GET /v1/status`: the node and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node's id.
    pub node: String,
    /// What people call it.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// Which of its lives this is.
    pub generation: u64,
    /// How long it has been up.
    pub uptime_ms: u64,
    /// The hash of the public key of the mesh's authority: equal on all nodes of one mesh.
    pub mesh: String,
    /// The UDP address that it listens on.
    pub listen: String,
    /// Where it tells others to reach it.
    pub advertised: Vec<String>,
    /// The socket of this API.
    pub admin: String,
    /// The address of loopback on which it is open to whoever has the token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub http: Option<String>,
    /// Its directory.
    pub data_dir: String,
    /// Whether it serves as it should.
    pub ready: bool,
    /// Why not, one sentence each.
    pub reasons: Vec<String>,
    /// When the node's certificate ends.
    pub certificate_expires_at: Option<u64>,
    /// Whether it is drained: all nodes pass its tunnels over until it is resumed.
    #[serde(default)]
    pub draining: bool,
    /// How many streams its targets serve now.
    #[serde(default)]
    pub serving: u64,
    /// How durable what it acknowledges is: `durable`, `memory`, or `full` while the disk takes no durable write.
    pub storage: String,
    /// How many other nodes it knows, by what it thinks of them.
    pub nodes: Counts,
    /// How many registrations of tunnels it knows.
    pub tunnels: usize,
    /// How many attributes it knows.
    pub attributes: usize,
    /// The digest of the replicated state, in hexadecimal: equal on two nodes exactly when their states are.
    pub digest: String,
    /// The addresses that it was told to join, and what came of it.
    pub seeds: Vec<Seed>,
    /// What it offers to the mesh.
    pub exposed: Vec<Exposed>,
    /// Which tunnels it lets local programs reach, and where.
    pub binds: Vec<Bind>,
    /// How clients of snocat are served, where they are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compat: Option<Compat>,
}

/// How clients of snocat's protocol are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compat {
    /// The UDP address that they call.
    pub listen: String,
    /// The ports that they are granted.
    pub public: String,
    /// How many there are.
    pub clients: usize,
}

/// How many other nodes there are, by what this one thinks of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// They can be reached.
    pub alive: usize,
    /// They cannot, for a moment.
    pub suspect: usize,
    /// They cannot, for long.
    pub down: usize,
    /// They said that they would go.
    pub left: usize,
    /// Those that this node has a link to.
    pub linked: usize,
}

/// An address that a node was told to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// The address.
    pub address: String,
    /// Whether the last attempt reached a node of this mesh.
    pub reached: bool,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// `GET /v1/digest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Digest {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The digest of the replicated state, in hexadecimal.
    pub digest: String,
}
