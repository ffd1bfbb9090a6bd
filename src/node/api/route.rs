//! Which tunnel a destination means, and a stream to it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Bytes;
use crate::mesh::{self, Way};

/// What a connection is upgraded to by `POST /v1/connect`: frames of a length, four bytes big-endian, and as many bytes,
/// both ways. Length 0 is the end of a direction, length 2^32 - 1 says that the sender reads no more.
pub const CONNECT_PROTOCOL: &str = "snomesh-stream/1";

/// `GET /v1/resolve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resolution {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// What was asked for: a name, `NAME@NODE`, or a selector.
    pub to: String,
    /// By which policy the candidates are ordered.
    pub policy: String,
    /// The tunnels that are meant, in the order in which they would be tried; with `explain`, then those that are not.
    pub candidates: Vec<Candidate>,
}

/// A tunnel that might be meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its id.
    pub tunnel: String,
    /// The id of the node that holds it.
    pub holder: String,
    /// What people call that node, if it is known.
    pub holder_name: String,
    /// `here`, `direct`, `relay`, `shortcut` (a tunnel is made when a stream needs it) or `none`.
    pub way: String,
    /// The node between, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay: Option<String>,
    /// The round-trip time of the link that leads there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_micros: Option<u64>,
    /// How many streams of the node that was asked go there now.
    #[serde(default)]
    pub streams: usize,
    /// Its share of visitors under the policy `weighted`.
    #[serde(default = "one")]
    pub weight: u16,
    /// Whether it is meant and can be reached.
    pub chosen: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// What it was registered with, overlaid with what the mesh has under `tunnel/NAME/`.
    pub attributes: BTreeMap<String, Bytes>,
}

fn one() -> u16 {
    1
}

impl From<&mesh::Candidate> for Candidate {
    fn from(candidate: &mesh::Candidate) -> Self {
        let (way, relay, rtt) = match candidate.way {
            Way::Here => ("here", None, None),
            Way::Direct { rtt } => ("direct", None, Some(rtt)),
            Way::Over { relay, rtt } => ("relay", Some(relay), Some(rtt)),
            Way::Shortcut => ("shortcut", None, None),
            Way::None => ("none", None, None),
        };
        let registration = &candidate.registration;
        let attributes = candidate.attributes.iter();
        Self {
            name: registration.name.to_string(),
            tunnel: registration.tunnel.to_string(),
            holder: registration.holder.node.to_string(),
            holder_name: candidate.label.clone(),
            way: way.into(),
            relay: relay.map(|relay| relay.to_string()),
            rtt_micros: rtt.and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
            streams: candidate.streams,
            weight: candidate.weight().get(),
            chosen: candidate.refused.is_none(),
            reason: candidate.refused.as_ref().map(ToString::to_string),
            attributes: attributes.map(|(name, value)| (name.clone(), value.as_slice().into())).collect(),
        }
    }
}
