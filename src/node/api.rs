//! The JSON of the admin API, for both of its ends.
//!
//! Stable: fields are added, never renamed or removed, within one [`API_VERSION`]. Names are camel case, times are
//! milliseconds since 1970 UTC, ids are their text. A client ignores fields that it does not know.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::crdt::Value;
use crate::gossip::{self, Alarm, MemberState};
use crate::replica;

/// The version of the API, which every document names.
pub const API_VERSION: &str = "v1";

/// `GET /v1/status`: the node and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`API_VERSION`].
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
    /// Its directory.
    pub data_dir: String,
    /// Whether it serves as it should.
    pub ready: bool,
    /// Why not, one sentence each.
    pub reasons: Vec<String>,
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
}

/// How many other nodes there are, by what this one thinks of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// A local service that a node offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bind {
    /// Where it listens.
    pub listen: String,
    /// The name of the tunnel.
    pub tunnel: String,
}

/// `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeList {
    /// [`API_VERSION`].
    pub api_version: String,
    /// All nodes, this one first.
    pub nodes: Vec<Node>,
}

/// One node, as the one that is asked sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its id.
    pub node: String,
    /// What people call it; need not be unique.
    pub name: String,
    /// `alive`, `suspect`, `down` or `left`.
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
}

/// `GET /v1/tunnels`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelList {
    /// [`API_VERSION`].
    pub api_version: String,
    /// All registrations, by name and tunnel.
    pub tunnels: Vec<Tunnel>,
}

/// One registration of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// `GET /v1/attributes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttributeList {
    /// [`API_VERSION`].
    pub api_version: String,
    /// The attributes, by key.
    pub attributes: Vec<Attribute>,
}

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attribute {
    /// Its full name.
    pub key: String,
    /// The value that a read finds.
    pub value: Bytes,
    /// The values that were written concurrently with it and lost, best first.
    pub siblings: Vec<Bytes>,
    /// When the winning value was written.
    pub written_at: u64,
    /// The id of the node that wrote it.
    pub author: String,
}

/// Bytes: always in base64, and as text where they are one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bytes {
    /// RFC 4648, with padding.
    pub base64: String,
    /// The same, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
}

/// What a `PUT` or `DELETE` of an attribute did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// [`API_VERSION`].
    pub api_version: String,
    /// The attribute.
    pub key: String,
    /// Whether that changed anything.
    pub changed: bool,
}

/// The body of `PUT /v1/tunnels/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expose {
    /// `HOST:PORT` of the local service.
    pub target: String,
    /// What to say of it.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// `GET /v1/binds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindList {
    /// [`API_VERSION`].
    pub api_version: String,
    /// By address.
    pub binds: Vec<Bind>,
}

/// `GET /v1/digest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Digest {
    /// [`API_VERSION`].
    pub api_version: String,
    /// The digest of the replicated state, in hexadecimal.
    pub digest: String,
}

/// One event of `GET /v1/events` and `GET /v1/watch/attributes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Event {
    /// An attribute changed, or, while a snapshot is sent, is so.
    Attribute {
        /// Which one.
        key: String,
        /// The winning value, if it is set.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        value: Option<Bytes>,
        /// How many concurrent values lost.
        siblings: usize,
    },
    /// A tunnel was registered.
    Registered {
        /// Its name.
        name: String,
        /// Its id.
        tunnel: String,
        /// The node that holds it.
        holder: String,
    },
    /// A registration went.
    Deregistered {
        /// Its name.
        name: String,
        /// Its id.
        tunnel: String,
    },
    /// What this node thinks of another changed.
    Member {
        /// Of whom.
        node: String,
        /// In which of its lives.
        generation: u64,
        /// What it thinks.
        state: String,
    },
    /// A link to a peer is up.
    LinkUp {
        /// To whom.
        peer: String,
    },
    /// No link to that peer is left.
    LinkDown {
        /// To whom.
        peer: String,
    },
    /// Something that an operator should know.
    Alarm {
        /// In a sentence.
        message: String,
    },
    /// The reader was too slow and missed events. A watch sends its snapshot again, a plain stream goes on.
    Lagged {
        /// How many, exactly.
        missed: u64,
    },
    /// The snapshot is complete; what follows are changes.
    Synced,
    /// Of a kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// An error: RFC 9457, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of error, for programs.
    pub code: Code,
    /// What is wrong, in one sentence.
    pub title: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// What kind of error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// A key, a name, an address or a body is not legal.
    Invalid,
    /// A value or a body is over its limit.
    TooLarge,
    /// There is no such thing.
    NotFound,
    /// There is no such method for this path.
    MethodNotAllowed,
    /// Something else is in the way, for instance on an address.
    Conflict,
    /// It took too long.
    TimedOut,
    /// The node is not ready, or stops.
    Unavailable,
    /// A bug.
    #[serde(other)]
    Internal,
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self { base64: BASE64.encode(bytes), text: std::str::from_utf8(bytes).ok().map(str::to_owned) }
    }
}

impl From<&Value> for Bytes {
    fn from(value: &Value) -> Self {
        value.as_bytes().into()
    }
}

impl Bytes {
    /// The bytes themselves; nothing if the base64 is damaged.
    pub fn decode(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.base64.as_bytes()).ok()
    }
}

impl From<&replica::Attribute> for Attribute {
    fn from(attribute: &replica::Attribute) -> Self {
        Self {
            key: attribute.key.to_string(),
            value: (&attribute.value).into(),
            siblings: attribute.siblings.iter().map(Bytes::from).collect(),
            written_at: attribute.stamp.to_wall().0,
            author: attribute.author.node.to_string(),
        }
    }
}

impl From<&replica::Attribute> for Event {
    fn from(attribute: &replica::Attribute) -> Self {
        Self::Attribute {
            key: attribute.key.to_string(),
            value: Some((&attribute.value).into()),
            siblings: attribute.siblings.len(),
        }
    }
}

impl From<&gossip::Event> for Event {
    fn from(event: &gossip::Event) -> Self {
        match event {
            gossip::Event::Attribute { key, value, siblings } => Self::Attribute {
                key: key.to_string(),
                value: value.as_ref().map(Bytes::from),
                siblings: *siblings,
            },
            gossip::Event::Registered(registration) => Self::Registered {
                name: registration.name.to_string(),
                tunnel: registration.tunnel.to_string(),
                holder: registration.holder.node.to_string(),
            },
            gossip::Event::Deregistered { name, tunnel } => {
                Self::Deregistered { name: name.to_string(), tunnel: tunnel.to_string() }
            }
            gossip::Event::Member { node, generation, state } => Self::Member {
                node: node.to_string(),
                generation: generation.0,
                state: state_name(*state).into(),
            },
            gossip::Event::LinkUp { peer } => Self::LinkUp { peer: peer.to_string() },
            gossip::Event::LinkDown { peer } => Self::LinkDown { peer: peer.to_string() },
            gossip::Event::Alarm(alarm) => Self::Alarm { message: alarm_text(alarm) },
        }
    }
}

/// What the API calls a state of a member.
pub fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
        MemberState::Left => "left",
    }
}

fn alarm_text(alarm: &Alarm) -> String {
    match alarm {
        Alarm::Double { doubled, next } => format!(
            "somebody else writes as {doubled}, or its disk was turned back; this node goes on as generation {next}"
        ),
        Alarm::Corrupt { peer } => format!("{peer} sent an entry that failed its checksum"),
        Alarm::Drift { peer, beyond } => {
            format!("the clock of {peer} is {} ms beyond the drift bound", beyond.as_millis())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn bytes_are_base64_and_text_only_where_they_are_one() {
        let text = Bytes::from("grün".as_bytes());
        assert_eq!(json(&text), r#"{"base64":"Z3LDvG4=","text":"grün"}"#);
        let binary = Bytes::from([0xff, 0x00].as_slice());
        assert_eq!(json(&binary), r#"{"base64":"/wA="}"#);
        assert_eq!(binary.decode().unwrap(), [0xff, 0x00]);
    }

    #[test]
    fn events_bear_their_type() {
        let event = Event::Member { node: "n".into(), generation: 7, state: "alive".into() };
        assert_eq!(json(&event), r#"{"type":"member","node":"n","generation":7,"state":"alive"}"#);
        assert_eq!(json(&Event::Lagged { missed: 3 }), r#"{"type":"lagged","missed":3}"#);
        let later: Event = serde_json::from_str(r#"{"type":"eclipse","moon":true}"#).unwrap();
        assert_eq!(later, Event::Unknown);
    }

    #[test]
    fn problems_have_codes_for_programs() {
        let problem =
            Problem { status: 404, code: Code::NotFound, title: "no tunnel \"web\"".into(), hint: None };
        assert_eq!(json(&problem), r#"{"status":404,"code":"not_found","title":"no tunnel \"web\""}"#);
    }
}
