//! What readers see of the state.

use std::collections::BTreeMap;

use super::{AttributeKey, AttributeName, Attributes, NodeRecord, Path, Replica};
use crate::crdt::{Dot, Entry, Register, Value};
use crate::id::{Actor, Generation, NodeId, TunnelId, TunnelName};
use crate::time::Timestamp;

/// An attribute that somebody has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its full name.
    pub key: AttributeKey,
    /// The value that a read finds: the greatest by stamp, author, counter and content.
    pub value: Value,
    /// The values that were written concurrently with it and lost, best first.
    pub siblings: Vec<Value>,
    /// When the winning value was written.
    pub stamp: Timestamp,
    /// Who wrote it.
    pub author: Actor,
}

/// A tunnel that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The name that it is found by.
    pub name: TunnelName,
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The node that holds it, in the life in which it registered it.
    pub holder: Actor,
    /// The write that made it, for deregistering exactly it.
    pub dot: Dot,
    /// When it was registered.
    pub stamp: Timestamp,
    /// What its holder says of it.
    pub attributes: Attributes,
}

/// What a node says of itself, in its latest life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Which node.
    pub node: NodeId,
    /// In which life.
    pub generation: Generation,
    /// What it says.
    pub record: NodeRecord,
    /// When it said so.
    pub stamp: Timestamp,
}

impl Replica {
    /// One attribute.
    pub fn attribute(&self, key: &AttributeKey) -> Option<Attribute> {
        attribute(key, &self.store().register(&key.to_key())?)
    }

    /// The attributes whose full names begin with `prefix`, in order. The empty prefix gives all.
    pub fn attributes(&self, prefix: &str) -> impl Iterator<Item = Attribute> {
        let prefix = format!("attr/{prefix}");
        let rows = self.store().rows_from(&prefix);
        rows.take_while(move |row| row.name().starts_with(&prefix)).filter_map(|row| {
            match Path::of(&row.key())? {
                Path::Attribute(key) => attribute(&key, &row.register()),
                _ => None,
            }
        })
    }

    /// The attributes that all tunnels of a name have, by their names: those of the scope `tunnel/<name>`.
    pub fn attributes_of(&self, tunnel: &TunnelName) -> BTreeMap<AttributeName, Value> {
        let prefix = format!("attr/tunnel/{tunnel}/");
        let keys = self.store().prefix(&prefix).filter_map(|row| match Path::of(&row.key())? {
            Path::Attribute(key) => Some((key.name.clone(), attribute(&key, &row.register())?.value)),
            Path::Node(_)
            | Path::Registration { .. }
            | Path::Counter { .. }
            | Path::Element { .. }
            | Path::Revocation(_)
            | Path::Retirement(_)
            | Path::Policy => None,
        });
        keys.collect()
    }

    /// One registration.
    pub fn registration(&self, name: &TunnelName, tunnel: TunnelId) -> Option<Registration> {
        let path = Path::Registration { name: name.clone(), tunnel };
        self.registration_at(path.clone(), &self.store().register(&path.to_key())?)
    }

    /// All registrations of a name, the last registered first ("last named wins").
    pub fn registrations_of(&self, name: &TunnelName) -> Vec<Registration> {
        let prefix = Path::registrations_of(name);
        let keys = self.store().prefix(&prefix);
        let mut found: Vec<_> =
            keys.filter_map(|row| self.registration_at(Path::of(&row.key())?, &row.register())).collect();
        found.sort_by(|left, right| (right.stamp, &right.dot).cmp(&(left.stamp, &left.dot)));
        found
    }

    /// All registrations, by name and tunnel.
    pub fn registrations(&self) -> impl Iterator<Item = Registration> {
        self.store()
            .prefix("tunnel/")
            .filter_map(|row| self.registration_at(Path::of(&row.key())?, &row.register()))
    }

    /// What a node says of itself.
    pub fn node(&self, node: &NodeId) -> Option<NodeView> {
        self.node_at(*node, &self.store().register(&Path::Node(*node).to_key())?)
    }

    /// What all nodes say of themselves, by node.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView> {
        self.store().prefix("node/").filter_map(|row| match Path::of(&row.key())? {
            Path::Node(node) => self.node_at(node, &row.register()),
            _ => None,
        })
    }

    /// What was said of one node's key, all siblings: proofs, true or not.
    pub fn revocations_of(&self, node: &NodeId) -> Vec<Value> {
        let register = self.store().register(&Path::Revocation(*node).to_key());
        register.as_ref().map(proofs).unwrap_or_default()
    }

    /// What was said of who may expose and connect what, all siblings: policies, of the authority or not.
    pub fn policies(&self) -> Vec<Value> {
        self.store().register(&Path::Policy.to_key()).as_ref().map(proofs).unwrap_or_default()
    }

    /// The nodes that somebody said are not to be believed, with what was said.
    pub fn revocations(&self) -> impl Iterator<Item = (NodeId, Vec<Value>)> {
        self.store().prefix("revoked/").filter_map(|row| match Path::of(&row.key())? {
            Path::Revocation(node) => Some((node, proofs(&row.register()))),
            _ => None,
        })
    }

    /// What a node said of itself in an earlier life does not count.
    fn spoken(&self, register: &Register) -> Option<Entry> {
        let values = register.values();
        values.into_iter().find(|entry| !self.store().is_void(&entry.dot.lane)).cloned()
    }

    fn registration_at(&self, path: Path, register: &Register) -> Option<Registration> {
        let Path::Registration { name, tunnel } = path else { return None };
        let Entry { dot, stamp, value, .. } = self.spoken(register)?;
        // A value that its holder has garbled is still a tunnel that it holds.
        let attributes = Attributes::of_value(&value?).unwrap_or_default();
        Some(Registration { name, tunnel, holder: dot.lane.actor(), dot, stamp, attributes })
    }

    /// A node's record counts only if the node itself wrote it.
    fn node_at(&self, node: NodeId, register: &Register) -> Option<NodeView> {
        let own =
            |entry: &&&Entry| entry.dot.lane.actor().node == node && !self.store().is_void(&entry.dot.lane);
        let values = register.values();
        let Entry { dot, stamp, value, .. } = values.iter().find(own)?;
        let record = NodeRecord::of_value(value.as_ref()?).ok()?;
        Some(NodeView { node, generation: dot.lane.actor().generation, record, stamp: *stamp })
    }
}

fn proofs(register: &Register) -> Vec<Value> {
    register.values().into_iter().filter_map(|entry| entry.value.clone()).collect()
}

fn attribute(key: &AttributeKey, register: &Register) -> Option<Attribute> {
    let values = register.values();
    let (winner, losers) = values.split_first()?;
    Some(Attribute {
        key: key.clone(),
        value: winner.value.clone()?,
        siblings: losers.iter().filter_map(|entry| entry.value.clone()).collect(),
        stamp: winner.stamp,
        author: winner.dot.lane.actor(),
    })
}
