//! Who may expose and connect what.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/acl`: the policy that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acl {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// Its number; each new policy of a mesh has a greater one. Zero if nobody has ever set one.
    pub serial: u64,
    /// When the mesh's authority signed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signed_at: Option<u64>,
    /// What it says.
    pub policy: AclPolicy,
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AclPolicy {
    /// What holds for names that no rule speaks of.
    pub default: AclDefault,
    /// Nodes that rules name together, by the names of the groups.
    #[serde(default)]
    pub groups: BTreeMap<String, Vec<String>>,
    /// The rights. Their order does not matter.
    #[serde(default)]
    pub rules: Vec<AclRule>,
}

/// What holds for names that no rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AclDefault {
    /// Every node may.
    Allow,
    /// No node may.
    Deny,
}

/// A right, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AclRule {
    /// Nodes: `*` for all, `@GROUP`, or an id; in `PUT` also the name of a known node, or the beginning of its id.
    pub who: Vec<String>,
    /// What they may do.
    pub may: Vec<AclAct>,
    /// With which tunnels: names, beginnings of names such as `cam-*`, or `*` for all.
    pub what: Vec<String>,
}

/// What a node may do with tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AclAct {
    /// Offer them.
    Expose,
    /// Open streams to them.
    Connect,
}

/// Body of `PUT /v1/acl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetAcl {
    /// What is to hold on all nodes.
    pub policy: AclPolicy,
    /// Only if this is the number of the policy that holds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<u64>,
    /// Only say what would hold.
    #[serde(default)]
    pub dry_run: bool,
}

/// `GET /v1/acl/check`: what the policy says of one wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AclVerdict {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node's id.
    pub node: String,
    /// What it wants to do.
    pub may: AclAct,
    /// With tunnels of this name.
    pub what: String,
    /// Whether it may.
    pub permitted: bool,
    /// Why, or why not.
    pub reason: String,
}
