//! The names of things: nodes, their generations, tunnels.
//!
//! Every name is a newtype that is parsed at the edge and trusted inside. Nothing here knows how a name
//! came to be: a [`NodeId`] is the SHA-256 of a public key, but it is `tunnel` that hashes it.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::{BASE32_NOPAD, HEXLOWER};

use crate::time::UnixMillis;

/// Names a node: SHA-256 of the `SubjectPublicKeyInfo` of its TLS key.
///
/// Prints as 52 characters of lower-case base32 (RFC 4648, no padding), which is also a legal DNS label.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId([u8; 32]);

/// In the order of the bytes. The first eight of two hashes tell them apart, so they are compared as one number: ids
/// are what a large mesh compares most, and a call for each comparison was a quarter of its time.
impl Ord for NodeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head().cmp(&other.head()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for NodeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl NodeId {
    /// Takes the 32 bytes of the hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes as a number, in whose order ids are.
    pub(crate) fn head(&self) -> u64 {
        self.0.first_chunk().copied().map_or(0, u64::from_be_bytes)
    }

    /// The first eight characters: enough for people to tell the nodes of one mesh apart, not for programs.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let lower_case = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes =
            lower_case.then(|| BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()).flatten();
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Self).ok_or(ParseIdError::Node)
    }
}

/// Counts the lives of a node: new at every start of its process and greater than any before.
///
/// It guards dots: a counter that was lost with a disk is never used again under the same generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// How many low bits are drawn.
    const DRAWN_BITS: u32 = 8;

    /// The life after `last`, which begins now.
    ///
    /// It follows the clock, in milliseconds, so that what was turned back with a disk does not come again, and goes on
    /// without the clock where that is behind; the low bits are drawn, so that two copies of one disk differ either way.
    /// Greater than `last`, short of the end of numbers.
    #[must_use]
    pub fn after(last: Self, wall: UnixMillis, drawn: u8) -> Self {
        let next = (last.0 >> Self::DRAWN_BITS) + 1;
        let block = next.max(wall.0).min(u64::MAX >> Self::DRAWN_BITS);
        Self(block << Self::DRAWN_BITS | u64::from(drawn))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The author of dots: one node in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    /// Which node.
    pub node: NodeId,
    /// Which of its lives.
    pub generation: Generation,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node.short(), self.generation)
    }
}

/// Names one tunnel among all tunnels of all nodes: 64 bits that its holder drew at random.
///
/// Prints as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u64);

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0.to_be_bytes()))
    }
}

impl fmt::Debug for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelId({self})")
    }
}

impl FromStr for TunnelId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        bytes.map(|bytes| Self(u64::from_be_bytes(bytes))).ok_or(ParseIdError::Tunnel)
    }
}

/// What people call a tunnel: 1 to 63 of `a-z 0-9 . -`, beginning and ending with a letter or a digit.
///
/// Many tunnels may bear one name; see [`crate::replica`] for which of them a lookup finds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelName(Arc<str>);

impl TunnelName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TunnelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TunnelName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let edge =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-';
        let bytes = text.as_bytes();
        let legal = bytes.len() <= Self::MAX_LEN && edge(bytes.first()) && edge(bytes.last());
        if !legal || !bytes.iter().all(|&byte| inner(byte)) {
            return Err(ParseIdError::TunnelName);
        }
        Ok(Self(text.into()))
    }
}

/// Why a text is not the name it was to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// Not a [`NodeId`].
    #[error("a node id is 52 characters of a-z and 2-7")]
    Node,
    /// Not a [`TunnelId`].
    #[error("a tunnel id is 16 hexadecimal digits in lower case")]
    Tunnel,
    /// Not the id of an element of a set.
    #[error("an element's id is 26 characters of a-z and 2-7")]
    Element,
    /// Not a [`TunnelName`].
    #[error(
        "a tunnel's name is 1 to 63 of a-z, 0-9, '.' and '-', and begins and ends with a letter or a digit"
    )]
    TunnelName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_id_survives_its_text() {
        let id = NodeId::from_bytes([0xa7; 32]);
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse::<NodeId>(), Err(ParseIdError::Node));
        assert_eq!("".parse::<NodeId>(), Err(ParseIdError::Node));
    }

    #[test]
    fn node_ids_are_ordered_as_their_bytes() {
        let id = |place: usize, byte: u8| {
            let mut bytes = [7; 32];
            bytes[place] = byte;
            NodeId::from_bytes(bytes)
        };
        let ids: Vec<NodeId> =
            (0..32).flat_map(|place| [id(place, 6), id(place, 7), id(place, 0x80)]).collect();
        for (one, other) in ids.iter().flat_map(|one| ids.iter().map(move |other| (one, other))) {
            assert_eq!(one.cmp(other), one.as_bytes().cmp(other.as_bytes()));
        }
    }

    #[test]
    fn tunnel_id_survives_its_text() {
        let id = TunnelId(0x0123_4567_89ab_cdef);
        assert_eq!(id.to_string(), "0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("123".parse::<TunnelId>(), Err(ParseIdError::Tunnel));
    }

    #[test]
    fn tunnel_name_refuses_what_a_host_name_could_not_be() {
        for good in ["a", "web", "web-eu.1", &"x".repeat(63)] {
            assert_eq!(good.parse::<TunnelName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", ".a", "Web", "a_b", "a/b", "ä", &"x".repeat(64)] {
            assert_eq!(bad.parse::<TunnelName>(), Err(ParseIdError::TunnelName), "{bad}");
        }
    }
}
