//! Invitations, revocations, certificates.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/invites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Invite {
    /// For how long it holds; at most thirty days.
    pub ttl_ms: u64,
    /// How many machines may join with it.
    pub uses: u32,
    /// The groups of the policy that whoever joins is put into. They are there already.
    #[serde(default)]
    pub roles: BTreeSet<String>,
    /// Names of tunnels, or their beginnings and `*`: the policy gives whoever joins the right to expose them.
    #[serde(default)]
    pub may_expose: BTreeSet<String>,
    /// Attributes of whoever joins, `node/ID/NAME`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// Answer to `POST /v1/invites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Invited {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// What the machine needs. Whoever has it can join.
    pub token: String,
    /// Until when.
    pub expires_at: u64,
    /// How many machines may join with it.
    pub uses: u32,
}

/// Body of `POST /v1/revocations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Revoke {
    /// The node: its id, the beginning of its id, or its name if no other has it.
    pub node: String,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer to `POST /v1/revocations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revoked {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node's id.
    pub node: String,
    /// What people call it, if it is known.
    pub name: String,
    /// Whether this changed anything: not if it was revoked already, nor in a dry run.
    pub changed: bool,
}

/// Body of `POST /v1/nodes/{node}/forget`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forget {
    /// Only say what would be done. Has to be said: a node cannot be remembered again.
    pub dry_run: bool,
}

/// Answer to `POST /v1/nodes/{node}/forget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Forgotten {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node's id.
    pub node: String,
    /// What people call it, if it is known.
    pub name: String,
    /// Whether this changed anything: not if nothing was known of it, nor in a dry run.
    pub changed: bool,
}

/// Answer to `POST /v1/certificates/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// When the certificate that is shown from now on ends.
    pub expires_at: Option<u64>,
}
