//! What happens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bytes, state_name};
use crate::gossip::{self, Alarm};
use crate::mesh::Health;
use crate::replica;

/// One event of `GET /v1/events` and `GET /v1/watch/attributes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
        /// The id of the node that wrote the winning value.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        author: Option<String>,
        /// When, by that node's clock.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        written_at: Option<u64>,
    },
    /// A counter changed.
    Counter {
        /// Which one.
        key: String,
        /// Its value, in decimal, if anybody has counted.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        value: Option<String>,
    },
    /// An element was added to a set or removed from it.
    Element {
        /// Which set.
        key: String,
        /// Which element: a hash of it.
        id: String,
        /// The element, if it is in the set now.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        element: Option<Bytes>,
    },
    /// A tunnel was registered.
    Registered {
        /// Its name.
        name: String,
        /// Its id.
        tunnel: String,
        /// The node that holds it.
        holder: String,
        /// Whether its holder takes what is behind it to serve. It is registered anew when that changes.
        #[serde(default = "yes")]
        healthy: bool,
        /// When it was registered, by that node's clock.
        #[serde(default)]
        written_at: u64,
    },
    /// A registration went.
    Deregistered {
        /// Its name.
        name: String,
        /// Its id.
        tunnel: String,
    },
    /// Somebody says that a node's key is not to be believed any more.
    Revocation {
        /// Whose key.
        node: String,
    },
    /// Somebody says something new about who may expose and connect what; it holds if the authority has signed it.
    Policy,
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

impl From<&replica::Attribute> for Event {
    fn from(attribute: &replica::Attribute) -> Self {
        Self::Attribute {
            key: attribute.key.to_string(),
            value: Some((&attribute.value).into()),
            siblings: attribute.siblings.len(),
            author: Some(attribute.author.node.to_string()),
            written_at: Some(attribute.stamp.to_wall().0),
        }
    }
}

impl From<&gossip::Event> for Event {
    fn from(event: &gossip::Event) -> Self {
        match event {
            gossip::Event::Attribute { key, value, siblings, origin } => Self::Attribute {
                key: key.to_string(),
                value: value.as_ref().map(Bytes::from),
                siblings: *siblings,
                author: origin.map(|origin| origin.author.node.to_string()),
                written_at: origin.map(|origin| origin.stamp.to_wall().0),
            },
            gossip::Event::Counter { key, value } => {
                Self::Counter { key: key.to_string(), value: value.map(|value| value.to_string()) }
            }
            gossip::Event::Element { key, id, element } => Self::Element {
                key: key.to_string(),
                id: id.to_string(),
                element: element.as_ref().map(Bytes::from),
            },
            gossip::Event::Registered(registration) => Self::Registered {
                name: registration.name.to_string(),
                tunnel: registration.tunnel.to_string(),
                holder: registration.holder.node.to_string(),
                healthy: Health::of(&registration.attributes) == Health::Healthy,
                written_at: registration.stamp.to_wall().0,
            },
            gossip::Event::Deregistered { name, tunnel } => {
                Self::Deregistered { name: name.to_string(), tunnel: tunnel.to_string() }
            }
            gossip::Event::Member { node, generation, state } => Self::Member {
                node: node.to_string(),
                generation: generation.0,
                state: state_name(*state).into(),
            },
            gossip::Event::Revocation { node } => Self::Revocation { node: node.to_string() },
            gossip::Event::Policy => Self::Policy,
            gossip::Event::LinkUp { peer } => Self::LinkUp { peer: peer.to_string() },
            gossip::Event::LinkDown { peer } => Self::LinkDown { peer: peer.to_string() },
            gossip::Event::Alarm(alarm) => Self::Alarm { message: alarm_text(alarm) },
        }
    }
}

fn yes() -> bool {
    true
}

fn alarm_text(alarm: &Alarm) -> String {
    match alarm {
        Alarm::Double { doubled, next } => format!(
            "somebody else writes as {doubled}, or its disk was turned back; this node goes on as generation {next}"
        ),
        Alarm::Dead { gone, next } => {
            format!("{gone} was evicted while it was away; this node goes on as generation {next}")
        }
        Alarm::Corrupt { peer } => format!("{peer} sent an entry that failed its checksum"),
        Alarm::Forged { peer } => {
            format!("{peer} sent an entry in the name of another node, who has not signed it")
        }
        Alarm::Seals { peer } => {
            format!("registry.trust is signed here or at {peer}, and not at both: no link to it is possible")
        }
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
    fn events_bear_their_type() {
        let event = Event::Member { node: "n".into(), generation: 7, state: "alive".into() };
        assert_eq!(json(&event), r#"{"type":"member","node":"n","generation":7,"state":"alive"}"#);
        assert_eq!(json(&Event::Lagged { missed: 3 }), r#"{"type":"lagged","missed":3}"#);
        let later: Event = serde_json::from_str(r#"{"type":"eclipse","moon":true}"#).unwrap();
        assert_eq!(later, Event::Unknown);
    }
}
