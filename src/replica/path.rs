//! What the keys of the store mean.
//!
//! ```text
//! node/<node id>                       a node's own record
//! tunnel/<tunnel name>/<tunnel id>     one registration, written by the holder alone
//! attr/mesh/<name>                     an attribute of the mesh
//! attr/node/<node id>/<name>           an attribute of a node
//! attr/tunnel/<tunnel name>/<name>     an attribute of all tunnels of that name
//! revoked/<node id>                    that a node's key is not to be believed, signed by the mesh's authority
//! retired/<node id>                    that lives of a node are over
//! policy                               who may expose and connect what, signed by the mesh's authority
//! sum/<scope>/<name>/<node id>         what one node has counted: the counters, with scopes like those of attributes
//! set/<scope>/<name>/<element id>      one element: the sets
//! ```
//!
//! The kind is part of the key: an attribute, a counter and a set may have one name and have nothing to do with each
//! other.
//!
//! A key that is none of these comes from a later version: it is replicated like any other and shows in no view.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::ElementId;
use crate::crdt::{Class, Key};
use crate::id::{NodeId, ParseIdError, TunnelId, TunnelName};

/// The key of the policy: there is one.
const POLICY: &str = "policy";

const PARTS_MAKE_A_KEY: &str = "the parts of a path are made of a key's characters and not longer than a key";

/// A key of the store, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// A node's own record.
    Node(NodeId),
    /// One registration.
    Registration {
        /// The name that it is found by.
        name: TunnelName,
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// An attribute.
    Attribute(AttributeKey),
    /// That a node's key is not to be believed. Whether that is so only its signature says, not who wrote it.
    Revocation(NodeId),
    /// That lives of a node are over, and what was seen of them.
    Retirement(NodeId),
    /// Who may expose and connect what. Whether that is so only its signature says, not who wrote it.
    Policy,
    /// One node's share of a counter.
    Counter {
        /// The counter.
        counter: AttributeKey,
        /// Whose share.
        node: NodeId,
    },
    /// One element of a set.
    Element {
        /// The set.
        set: AttributeKey,
        /// Which element.
        element: ElementId,
    },
}

impl Path {
    /// All registrations of one name begin with this.
    pub(super) fn registrations_of(name: &TunnelName) -> String {
        format!("tunnel/{name}/")
    }

    /// All shares of one counter begin with this, and so do those of counters with longer names.
    pub(super) fn counts_of(counter: &AttributeKey) -> String {
        format!("sum/{counter}/")
    }

    /// All elements of one set begin with this, and so do those of sets with longer names.
    pub(super) fn elements_of(set: &AttributeKey) -> String {
        format!("set/{set}/")
    }

    /// Takes a key apart, if this version knows what it means.
    pub fn of(key: &Key) -> Option<Self> {
        if key.as_str() == POLICY {
            return Some(Self::Policy);
        }
        let (family, rest) = key.as_str().split_once('/')?;
        match family {
            "node" => rest.parse().ok().map(Self::Node),
            "tunnel" => {
                let (name, tunnel) = rest.split_once('/')?;
                Some(Self::Registration { name: name.parse().ok()?, tunnel: tunnel.parse().ok()? })
            }
            "attr" => rest.parse().ok().map(Self::Attribute),
            "revoked" => rest.parse().ok().map(Self::Revocation),
            "retired" => rest.parse().ok().map(Self::Retirement),
            "sum" => {
                let (counter, node) = rest.rsplit_once('/')?;
                Some(Self::Counter { counter: counter.parse().ok()?, node: node.parse().ok()? })
            }
            "set" => {
                let (set, element) = rest.rsplit_once('/')?;
                Some(Self::Element { set: set.parse().ok()?, element: element.parse().ok()? })
            }
            _ => None,
        }
    }

    /// The key that it stands for.
    pub fn to_key(&self) -> Key {
        let key = match self {
            Self::Node(node) => format!("node/{node}"),
            Self::Registration { name, tunnel } => format!("tunnel/{name}/{tunnel}"),
            Self::Attribute(attribute) => return attribute.to_key(),
            Self::Revocation(node) => format!("revoked/{node}"),
            Self::Retirement(node) => format!("retired/{node}"),
            Self::Policy => POLICY.to_owned(),
            Self::Counter { counter, node } => format!("sum/{counter}/{node}"),
            Self::Element { set, element } => format!("set/{set}/{element}"),
        };
        key.parse().expect(PARTS_MAKE_A_KEY)
    }

    /// What its writes travel with.
    pub fn class(&self) -> Class {
        match self {
            Self::Node(_) | Self::Registration { .. } => Class::Registry,
            Self::Attribute(_) | Self::Counter { .. } | Self::Element { .. } => Class::Attribute,
            // It outlives the life, and the node, that said it.
            Self::Revocation(_) | Self::Retirement(_) | Self::Policy => Class::Attribute,
        }
    }
}

/// Whose an attribute is: the "target's key-space".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The mesh's.
    Mesh,
    /// A node's.
    Node(NodeId),
    /// That of all tunnels of one name.
    Tunnel(TunnelName),
}

/// The name of an attribute within its scope: 1 to 128 characters of a [`Key`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttributeName(Arc<str>);

impl AttributeName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AttributeName {
    type Err = AttributeKeyError;

    fn from_str(text: &str) -> Result<Self, AttributeKeyError> {
        if text.len() > Self::MAX_LEN {
            return Err(AttributeKeyError::TooLong { len: text.len() });
        }
        if Key::check(text).is_err() {
            return Err(AttributeKeyError::IllegalName);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for AttributeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An attribute's full name: `mesh/NAME`, `node/NODE-ID/NAME` or `tunnel/TUNNEL-NAME/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttributeKey {
    /// Whose it is.
    pub scope: Scope,
    /// What it is called.
    pub name: AttributeName,
}

impl AttributeKey {
    /// The key that it stands for. Keys of attributes are made most often, so neither formatted nor allocated twice.
    pub(super) fn to_key(&self) -> Key {
        let (mut text, mut len) = ([0; Key::MAX_LEN], 0);
        let mut push = |part: &str| {
            let end = len + part.len();
            text[len..end].copy_from_slice(part.as_bytes());
            len = end;
        };
        push("attr/");
        match &self.scope {
            Scope::Mesh => push("mesh/"),
            Scope::Tunnel(tunnel) => ["tunnel/", tunnel.as_str(), "/"].into_iter().for_each(&mut push),
            Scope::Node(_) => push(&self.scope.to_string()),
        }
        push(self.name.as_str());
        std::str::from_utf8(&text[..len]).ok().and_then(|text| text.parse().ok()).expect(PARTS_MAKE_A_KEY)
    }
}

/// What the full names of its attributes begin with, the slash included.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh/"),
            Self::Node(node) => write!(f, "node/{node}/"),
            Self::Tunnel(tunnel) => write!(f, "tunnel/{tunnel}/"),
        }
    }
}

impl fmt::Display for AttributeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.scope, self.name)
    }
}

impl FromStr for AttributeKey {
    type Err = AttributeKeyError;

    fn from_str(text: &str) -> Result<Self, AttributeKeyError> {
        let (scope, rest) = text.split_once('/').ok_or(AttributeKeyError::NoScope)?;
        let owner_and_name = || rest.split_once('/').ok_or(AttributeKeyError::NoScope);
        let (scope, name) = match scope {
            "mesh" => (Scope::Mesh, rest),
            "node" => {
                let (node, name) = owner_and_name()?;
                (Scope::Node(node.parse()?), name)
            }
            "tunnel" => {
                let (tunnel, name) = owner_and_name()?;
                (Scope::Tunnel(tunnel.parse()?), name)
            }
            _ => return Err(AttributeKeyError::NoScope),
        };
        Ok(Self { scope, name: name.parse()? })
    }
}

/// Why a text names no attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeKeyError {
    /// It does not begin with a scope.
    #[error("an attribute is written mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME")]
    NoScope,
    /// The owner is not a legal name.
    #[error("the attribute's owner is not legal")]
    IllegalOwner(#[from] ParseIdError),
    /// The name is empty or has a character that names do not have.
    #[error(
        "an attribute's name is made of A-Z, a-z, 0-9, '.', '_', ':', '/', '@' and '-', does not begin with '/' and has no '..'"
    )]
    IllegalName,
    /// The name is over [`AttributeName::MAX_LEN`].
    #[error("the attribute's name has {len} bytes, at most {} are allowed", AttributeName::MAX_LEN)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survives(path: &Path) {
        assert_eq!(Path::of(&path.to_key()), Some(path.clone()));
    }

    #[test]
    fn every_path_survives_its_key_even_at_full_length() {
        let node = NodeId::from_bytes([1; 32]);
        let tunnel: TunnelName = "t".repeat(63).parse().unwrap();
        let name: AttributeName = "n".repeat(128).parse().unwrap();
        survives(&Path::Node(node));
        survives(&Path::Revocation(node));
        survives(&Path::Policy);
        survives(&Path::Registration { name: tunnel.clone(), tunnel: TunnelId(7) });
        for scope in [Scope::Mesh, Scope::Node(node), Scope::Tunnel(tunnel)] {
            let key = AttributeKey { scope, name: name.clone() };
            survives(&Path::Attribute(key.clone()));
            survives(&Path::Counter { counter: key.clone(), node });
            let element = ElementId::of(&(&b"element"[..]).try_into().unwrap());
            survives(&Path::Element { set: key, element });
        }
    }

    #[test]
    fn names_of_attributes_may_have_slashes() {
        let key: AttributeKey = "mesh/limits/max_streams".parse().unwrap();
        assert_eq!(key.name.as_str(), "limits/max_streams");
        assert_eq!(key.to_string(), "mesh/limits/max_streams");
    }

    #[test]
    fn what_is_wrong_with_a_name_is_said() {
        assert_eq!("color".parse::<AttributeKey>(), Err(AttributeKeyError::NoScope));
        assert_eq!("world/x".parse::<AttributeKey>(), Err(AttributeKeyError::NoScope));
        assert_eq!("mesh/".parse::<AttributeKey>(), Err(AttributeKeyError::IllegalName));
        assert_eq!("mesh/a b".parse::<AttributeKey>(), Err(AttributeKeyError::IllegalName));
        let owner = AttributeKeyError::IllegalOwner(ParseIdError::TunnelName);
        assert_eq!("tunnel/Web/x".parse::<AttributeKey>(), Err(owner));
        let long = format!("mesh/{}", "x".repeat(129));
        assert_eq!(long.parse::<AttributeKey>(), Err(AttributeKeyError::TooLong { len: 129 }));
    }

    #[test]
    fn a_later_versions_key_means_nothing_yet() {
        assert_eq!(Path::of(&"queue/x".parse().unwrap()), None);
        assert_eq!(Path::of(&"tunnel/web".parse().unwrap()), None);
    }
}
