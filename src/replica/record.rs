//! The values that the mesh itself writes: node records and registrations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::Value;
use crate::id::NodeId;

/// Where a node listens: `HOST:PORT`, resolved anew at every attempt to reach it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Arc<str>);

impl Address {
    /// The longest address, in bytes: a host name of 253, a colon and a port, brackets included.
    pub const MAX_LEN: usize = 261;

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let host_is_legal = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(legal),
        };
        let port_is_legal =
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
        if !host_is_legal || !port_is_legal || text.len() > Self::MAX_LEN {
            return Err(AddressError);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is not an [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address is HOST:PORT, with an IPv6 host in brackets and a port from 1 to 65535")]
pub struct AddressError;

/// What a tunnel's holder says of it when it registers it: never changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes(BTreeMap<String, Vec<u8>>);

impl Attributes {
    /// The most bytes that names and values take together.
    pub const MAX_LEN: usize = 4 * 1024;
    /// The longest name, in bytes.
    pub const MAX_NAME_LEN: usize = 128;

    /// Checks the limits.
    ///
    /// # Errors
    ///
    /// [`AttributesError`] if a name or the sum is too long; the caller's fault, nothing was registered.
    pub fn new(attributes: BTreeMap<String, Vec<u8>>) -> Result<Self, AttributesError> {
        if attributes.keys().any(|name| name.is_empty() || name.len() > Self::MAX_NAME_LEN) {
            return Err(AttributesError::Name);
        }
        let len = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        if len > Self::MAX_LEN {
            return Err(AttributesError::TooLong { len });
        }
        Ok(Self(attributes))
    }

    /// Name by name, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    pub(super) fn to_value(&self) -> Value {
        let mut writer = Writer::new();
        writer.count(self.0.len());
        for (name, value) in &self.0 {
            writer.bytes(name.as_bytes());
            writer.bytes(value);
        }
        Value::try_from(&writer.finish()[..]).expect("the limits keep it far below a value's")
    }

    pub(super) fn of_value(value: &Value) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value.as_bytes());
        let mut attributes = BTreeMap::new();
        for _ in 0..reader.count(Self::MAX_LEN, "count of attributes")? {
            let name = reader.text(Self::MAX_NAME_LEN, "an attribute's name")?.to_owned();
            let value = reader.bytes(Self::MAX_LEN, "an attribute's value")?.to_vec();
            if attributes.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(Malformed::NotCanonical);
            }
            attributes.insert(name, value);
        }
        reader.finish()?;
        Self::new(attributes).ok().ok_or(Malformed::Illegal { what: "a registration" })
    }
}

/// Why attributes cannot be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttributesError {
    /// A name is empty or over [`Attributes::MAX_NAME_LEN`].
    #[error("an attribute's name has 1 to {} bytes", Attributes::MAX_NAME_LEN)]
    Name,
    /// Names and values are over [`Attributes::MAX_LEN`].
    #[error("the attributes have {len} bytes, at most {} are allowed", Attributes::MAX_LEN)]
    TooLong {
        /// How many they have.
        len: usize,
    },
}

/// What a node says of itself. Its generation is that of the record's author.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeRecord {
    /// What people call it: at most 63 bytes, not necessarily unique.
    pub label: String,
    /// The version of its program.
    pub version: String,
    /// Where it listens, best first.
    pub addresses: Vec<Address>,
    /// The nodes that it has links to, as it sees them: evidence for who can be reached.
    pub links: BTreeSet<NodeId>,
    /// Whether it is about to go, and will not be missed.
    pub leaving: bool,
}

impl NodeRecord {
    /// The longest label and version, in bytes.
    pub const MAX_TEXT_LEN: usize = 63;
    /// The most addresses.
    pub const MAX_ADDRESSES: usize = 16;
    /// The most links.
    pub const MAX_LINKS: usize = 1_024;

    /// The record as a value; what is above the limits is cut off.
    pub(super) fn to_value(&self) -> Value {
        let text = |text: &str| {
            text.chars()
                .scan(0, |len, c| {
                    *len += c.len_utf8();
                    (*len <= Self::MAX_TEXT_LEN).then_some(c)
                })
                .collect::<String>()
        };
        let mut writer = Writer::new();
        writer.bytes(text(&self.label).as_bytes());
        writer.bytes(text(&self.version).as_bytes());
        writer.count(self.addresses.len().min(Self::MAX_ADDRESSES));
        for address in self.addresses.iter().take(Self::MAX_ADDRESSES) {
            writer.bytes(address.as_str().as_bytes());
        }
        writer.count(self.links.len().min(Self::MAX_LINKS));
        for node in self.links.iter().take(Self::MAX_LINKS) {
            writer.raw(node.as_bytes());
        }
        writer.byte(u8::from(self.leaving));
        Value::try_from(&writer.finish()[..]).expect("the limits keep it below a value's")
    }

    pub(super) fn of_value(value: &Value) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value.as_bytes());
        let label = reader.text(Self::MAX_TEXT_LEN, "a node's label")?.to_owned();
        let version = reader.text(Self::MAX_TEXT_LEN, "a node's version")?.to_owned();
        let mut addresses = Vec::new();
        for _ in 0..reader.count(Self::MAX_ADDRESSES, "count of addresses")? {
            let address = reader.text(Address::MAX_LEN, "an address")?;
            addresses.push(address.parse().ok().ok_or(Malformed::Illegal { what: "an address" })?);
        }
        let mut links = BTreeSet::new();
        for _ in 0..reader.count(Self::MAX_LINKS, "count of links")? {
            let node = NodeId::from_bytes(reader.array()?);
            if links.last().is_some_and(|last| *last >= node) {
                return Err(Malformed::NotCanonical);
            }
            links.insert(node);
        }
        let leaving = reader.flag()?;
        reader.finish()?;
        Ok(Self { label, version, addresses, links, leaving })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:7667", "seed.example.com:1", "[::1]:65535", "n_3:7"] {
            assert_eq!(good.parse::<Address>().unwrap().as_str(), good);
        }
        for bad in
            ["", "host", "host:", ":1", "host:0", "host:65536", "::1:7667", "[::1:7", "a b:1", "host:+1"]
        {
            assert_eq!(bad.parse::<Address>(), Err(AddressError), "{bad}");
        }
    }

    #[test]
    fn node_records_survive_their_bytes() {
        let record = NodeRecord {
            label: "edge-17".into(),
            version: "0.1.0".into(),
            addresses: vec!["127.0.0.1:7667".parse().unwrap(), "[::1]:7667".parse().unwrap()],
            links: [3, 1, 2].map(|byte| NodeId::from_bytes([byte; 32])).into(),
            leaving: true,
        };
        assert_eq!(NodeRecord::of_value(&record.to_value()), Ok(record));
    }

    #[test]
    fn a_label_is_cut_between_characters() {
        let record = NodeRecord { label: "ä".repeat(40), ..NodeRecord::default() };
        let cut = NodeRecord::of_value(&record.to_value()).unwrap();
        assert_eq!(cut.label, "ä".repeat(31));
    }

    #[test]
    fn attributes_survive_their_bytes_and_end_at_the_limit() {
        let attributes =
            |len| Attributes::new([("a".to_owned(), vec![7; len]), ("b".to_owned(), vec![])].into());
        let largest = attributes(Attributes::MAX_LEN - 2).unwrap();
        assert_eq!(Attributes::of_value(&largest.to_value()), Ok(largest));
        let error = AttributesError::TooLong { len: Attributes::MAX_LEN + 1 };
        assert_eq!(attributes(Attributes::MAX_LEN - 1), Err(error));
        assert_eq!(Attributes::new([(String::new(), vec![])].into()), Err(AttributesError::Name));
    }

    #[test]
    fn attributes_in_another_order_are_refused() {
        let mut writer = Writer::new();
        writer.count(2);
        for name in ["b", "a"] {
            writer.bytes(name.as_bytes());
            writer.bytes(b"");
        }
        let value = Value::try_from(&writer.finish()[..]).unwrap();
        assert_eq!(Attributes::of_value(&value), Err(Malformed::NotCanonical));
    }
}
