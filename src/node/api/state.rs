//! The state as lines of JSON, for keeping and for putting back.

use data_encoding::BASE64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crdt::Value;
use crate::id::{Actor, Generation, NodeId};
use crate::replica::{self, AttributeKey, Piece};
use crate::time::Timestamp;

/// The format of the lines, in their first one.
pub const STATE_FORMAT: u32 = 1;

/// One line of `GET /v1/state`, and one of `POST /v1/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum StateLine {
    /// The first line: where the copy comes from.
    State(StateHead),
    /// An attribute.
    Attribute(KeptAttribute),
    /// A counter, all nodes' shares added up.
    Counter(KeptCounter),
    /// An element of a set.
    Element(KeptElement),
    /// That a node was revoked, with the proof.
    Revocation(KeptRevocation),
    /// Who may expose and connect what, with the proof.
    Policy(KeptPolicy),
    /// The last line: a copy without it is not whole.
    End(StateEnd),
}

/// Where a copy comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StateHead {
    /// [`STATE_FORMAT`]. A later version of snomesh may write a greater one.
    pub format: u32,
    /// The hash of the public key of the mesh's authority, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mesh: Option<String>,
    /// The id of the node, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// When it was begun, in milliseconds since 1970.
    pub at: u64,
}

/// How a copy ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StateEnd {
    /// How many lines are between the first one and this.
    pub lines: u64,
}

/// Bytes: as text where they are one, in base64 otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum KeptValue {
    /// UTF-8.
    Text(String),
    /// RFC 4648, with padding.
    Base64(String),
}

/// An attribute in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptAttribute {
    /// Its full name.
    pub key: String,
    /// The value that a read found.
    pub value: KeptValue,
    /// The values that were written concurrently with it and lost, best first. They are told and not put back.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub siblings: Vec<KeptValue>,
    /// When the winning value was written, in milliseconds since 1970. Not put back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub written_at: Option<u64>,
    /// The id of the node that wrote it. Not put back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub author: Option<String>,
}

/// A counter in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptCounter {
    /// Its full name.
    pub key: String,
    /// Its value, in decimal: it may have more digits than a number of JSON holds everywhere.
    pub value: String,
}

/// An element of a set in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptElement {
    /// The full name of the set.
    pub set: String,
    /// The element.
    pub value: KeptValue,
}

/// A revocation in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptRevocation {
    /// The id of the node.
    pub node: String,
    /// What proves it, in base64.
    pub proof: String,
}

/// A policy in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptPolicy {
    /// What proves it, in base64.
    pub proof: String,
}

/// The body of `POST /v1/state`. No two lines are about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportState {
    /// The lines, without a first and a last one.
    pub lines: Vec<StateLine>,
    /// Only say what would become of them.
    #[serde(default)]
    pub dry_run: bool,
    /// Leave attributes and counters alone that have another value.
    #[serde(default)]
    pub keep: bool,
}

/// The answer to `POST /v1/state`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportedState {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// How many were written, or would be.
    pub written: u64,
    /// How many were so already.
    pub unchanged: u64,
    /// How many have another value that was left alone.
    pub kept: u64,
    /// How many proofs are of another mesh, or older than what holds, and were left out.
    pub left_out: u64,
    /// Those that the mesh does not take.
    pub refused: Vec<RefusedLine>,
}

/// A line that the mesh does not take. The others of its request were taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedLine {
    /// Which one of the request, from 0.
    pub index: u64,
    /// Why.
    pub reason: String,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateLineError {
    /// A text is not what its place asks for.
    #[error("{place} {text:?}: {why}")]
    Text {
        /// Which place.
        place: &'static str,
        /// What stands there, or the beginning of it.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is the first or the last line of a copy, in the middle.
    #[error("only the first line says where a copy comes from, and only the last one that it ends")]
    Misplaced,
}

impl StateLine {
    /// The piece that it is about.
    ///
    /// # Errors
    ///
    /// [`StateLineError`].
    pub fn to_piece(&self) -> Result<Piece, StateLineError> {
        Ok(match self {
            Self::Attribute(kept) => Piece::Attribute(replica::Attribute {
                key: key(&kept.key)?,
                value: kept.value.decode()?,
                siblings: Vec::new(),
                // It is written anew: these two say nothing.
                stamp: Timestamp(0),
                author: Actor { node: NodeId::from_bytes([0; 32]), generation: Generation(0) },
            }),
            Self::Counter(kept) => {
                let value = kept.value.parse().map_err(|error| fault("value", &kept.value, &error))?;
                Piece::Counter { key: key(&kept.key)?, value }
            }
            Self::Element(kept) => Piece::Element { set: key(&kept.set)?, element: kept.value.decode()? },
            Self::Revocation(kept) => Piece::Revocation {
                node: kept.node.parse().map_err(|error| fault("node", &kept.node, &error))?,
                proof: base64("proof", &kept.proof)?,
            },
            Self::Policy(kept) => Piece::Policy(base64("proof", &kept.proof)?),
            Self::State(_) | Self::End(_) => return Err(StateLineError::Misplaced),
        })
    }
}

impl From<&Piece> for StateLine {
    fn from(piece: &Piece) -> Self {
        match piece {
            Piece::Attribute(attribute) => Self::Attribute(KeptAttribute {
                key: attribute.key.to_string(),
                value: (&attribute.value).into(),
                siblings: attribute.siblings.iter().map(KeptValue::from).collect(),
                written_at: Some(attribute.stamp.to_wall().0),
                author: Some(attribute.author.node.to_string()),
            }),
            Piece::Counter { key, value } => {
                Self::Counter(KeptCounter { key: key.to_string(), value: value.to_string() })
            }
            Piece::Element { set, element } => {
                Self::Element(KeptElement { set: set.to_string(), value: element.into() })
            }
            Piece::Revocation { node, proof } => Self::Revocation(KeptRevocation {
                node: node.to_string(),
                proof: BASE64.encode(proof.as_bytes()),
            }),
            Piece::Policy(proof) => Self::Policy(KeptPolicy { proof: BASE64.encode(proof.as_bytes()) }),
        }
    }
}

impl From<&Value> for KeptValue {
    fn from(value: &Value) -> Self {
        match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_no_text) => Self::Base64(BASE64.encode(value.as_bytes())),
        }
    }
}

impl KeptValue {
    fn decode(&self) -> Result<Value, StateLineError> {
        match self {
            Self::Text(text) => text.as_bytes().try_into().map_err(|error| fault("value", text, &error)),
            Self::Base64(text) => base64("value", text),
        }
    }
}

fn key(text: &str) -> Result<AttributeKey, StateLineError> {
    text.parse().map_err(|error| fault("key", text, &error))
}

fn base64(place: &'static str, text: &str) -> Result<Value, StateLineError> {
    let bytes = BASE64.decode(text.as_bytes()).map_err(|error| fault(place, text, &error))?;
    Value::try_from(&bytes[..]).map_err(|error| fault(place, text, &error))
}

fn fault(place: &'static str, text: &str, why: &dyn std::error::Error) -> StateLineError {
    let mut shown: String = text.chars().take(60).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    StateLineError::Text { place, text: shown, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_the_piece_that_it_was_written_of() {
        let value = |bytes: &[u8]| Value::try_from(bytes).unwrap();
        let key: AttributeKey = "tunnel/web/env".parse().unwrap();
        let node = NodeId::from_bytes([7; 32]);
        let pieces = [
            Piece::Counter { key: key.clone(), value: i128::from(i64::MIN) * 3 },
            Piece::Element { set: key.clone(), element: value(b"\xff\x00") },
            Piece::Element { set: key, element: value("grün".as_bytes()) },
            Piece::Revocation { node, proof: value(b"proof") },
            Piece::Policy(value(b"policy")),
        ];
        for piece in pieces {
            let text = serde_json::to_string(&StateLine::from(&piece)).unwrap();
            let read: StateLine = serde_json::from_str(&text).unwrap();
            assert_eq!(read.to_piece().unwrap(), piece, "{text}");
        }
    }

    #[test]
    fn what_a_line_says_wrongly_is_named() {
        let wrong = [
            (r#"{"attribute":{"key":"mesh/a b","value":{"text":"x"}}}"#, "key \"mesh/a b\""),
            (r#"{"attribute":{"key":"mesh/a","value":{"base64":"x"}}}"#, "value \"x\""),
            (r#"{"counter":{"key":"mesh/a","value":"1.5"}}"#, "value \"1.5\""),
            (r#"{"revocation":{"node":"me","proof":""}}"#, "node \"me\""),
            (r#"{"end":{"lines":1}}"#, "only the first line"),
        ];
        for (text, names) in wrong {
            let line: StateLine = serde_json::from_str(text).unwrap();
            let error = line.to_piece().unwrap_err().to_string();
            assert!(error.starts_with(names), "{text}: {error}");
        }
        let long =
            format!(r#"{{"attribute":{{"key":"mesh/a","value":{{"text":"{}"}}}}}}"#, "x".repeat(70_000));
        let line: StateLine = serde_json::from_str(&long).unwrap();
        assert!(line.to_piece().unwrap_err().to_string().len() < 300);
        assert!(
            serde_json::from_str::<StateLine>(r#"{"attribute":{"key":"a","value":{"text":"x"},"ttl":1}}"#)
                .is_err()
        );
    }
}
