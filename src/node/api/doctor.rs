//! Whether a node is well, check by check.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Doctor {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// In the order in which one would look.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name; stable.
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, in a sentence.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warn,
    /// It does not work.
    Fail,
}

/// The body of `POST /v1/ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ping {
    /// A node by its name or id, or a tunnel by its name.
    pub target: String,
}

/// What answered, and how soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pong {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// `node`: its daemon has answered; `tunnel`: the service behind it has accepted a connection.
    pub kind: String,
    /// What people call the node, or the tunnel.
    pub name: String,
    /// From the question to the answer.
    pub micros: u64,
}
