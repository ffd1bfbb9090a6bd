//! What an operator changes about a node while it runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `POST /v1/reload` did with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reload {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// What holds from now on, one sentence each.
    pub applied: Vec<String>,
    /// What was changed in the files and holds only after a restart, by its key.
    pub needs_restart: Vec<String>,
    /// What could not be applied, and why: the rest holds nevertheless.
    pub failed: Vec<String>,
}

/// Answer to `POST /v1/drain` and `POST /v1/resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// Whether the node is drained from now on.
    pub draining: bool,
    /// Whether that is new.
    pub changed: bool,
    /// How many streams its targets serve now; they come to their own ends.
    pub serving: u64,
}

/// The body of `PUT /v1/debug/log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogLevel {
    /// A filter, for instance `info,snomesh::mesh=debug`.
    pub spec: String,
    /// For how many seconds; then the one before holds again. Without it, until the next change.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub for_seconds: Option<u64>,
}

/// What is logged, `GET` and `PUT /v1/debug/log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogState {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The filter that holds.
    pub spec: String,
}

/// A link to the dashboard: the answer of `POST /v1/ui/links`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UiLink {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// Works once, and for a few minutes.
    pub url: String,
}

/// The body of `POST /v1/ui/sessions`: what the link's code is exchanged for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UiCode {
    /// What stands behind `#` in the link.
    pub code: String,
}

/// The right to look, for some hours.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UiSession {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// To be shown as `Authorization: Bearer`.
    pub token: String,
}

impl std::fmt::Debug for UiSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UiSession(..)")
    }
}
