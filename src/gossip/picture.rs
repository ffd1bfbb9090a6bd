//! What the events of a mesh change, as one value.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, MemberState, Mesh};
use crate::crdt::Value;
use crate::event::Published;
use crate::id::{Generation, NodeId, TunnelId, TunnelName};
use crate::replica::{AttributeKey, ElementId, Registration};

/// Everything that events tell of: a node's view of the mesh at one moment.
///
/// [`Picture::of`] takes it, [`apply`](Self::apply) carries it on. What is in it is what readers see; the replicated
/// state itself stays with the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picture {
    /// Attributes: the value that a read finds, and how many concurrent values lost.
    pub attributes: BTreeMap<AttributeKey, (Value, usize)>,
    /// Counters.
    pub counters: BTreeMap<AttributeKey, i128>,
    /// The elements of sets.
    pub elements: BTreeMap<(AttributeKey, ElementId), Value>,
    /// Registrations of all nodes.
    pub registrations: BTreeMap<(TunnelName, TunnelId), Registration>,
    /// What this node thinks of each other, in which of its lives.
    pub members: BTreeMap<NodeId, (Generation, MemberState)>,
    /// To whom this node has links.
    pub links: BTreeSet<NodeId>,
}

/// What an event is about. Texts of attributes, counters and sets are their full names, for filters by prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Topic {
    /// An attribute.
    Attribute(AttributeKey),
    /// A counter.
    Counter(AttributeKey),
    /// An element of a set.
    Element(AttributeKey, ElementId),
    /// A registration.
    Registration(TunnelName, TunnelId),
    /// What this node thinks of another.
    Member(NodeId),
    /// Whether there is a link to another.
    Link(NodeId),
}

impl Topic {
    /// Whether it is an attribute, a counter or a set whose full name begins with `prefix`.
    pub fn is_under(&self, prefix: &str) -> bool {
        match self {
            Self::Attribute(key) | Self::Counter(key) | Self::Element(key, _) => {
                key.to_string().starts_with(prefix)
            }
            Self::Registration(..) | Self::Member(_) | Self::Link(_) => false,
        }
    }
}

impl Picture {
    /// The mesh as it is.
    pub fn of(mesh: &Mesh) -> Self {
        let replica = mesh.replica();
        let mut elements = BTreeMap::new();
        for key in replica.sets("").into_keys() {
            for element in replica.members(&key) {
                elements.insert((key.clone(), ElementId::of(&element)), element);
            }
        }
        Self {
            attributes: replica
                .attributes("")
                .map(|found| (found.key, (found.value, found.siblings.len())))
                .collect(),
            counters: replica.counters(""),
            elements,
            registrations: replica
                .registrations()
                .map(|found| ((found.name.clone(), found.tunnel), found))
                .collect(),
            members: mesh.members().map(|member| (member.node, (member.generation, member.state))).collect(),
            links: mesh.linked().collect(),
        }
    }

    /// Carries it on by one event. Alarms, revocations and policies change nothing in it.
    pub fn apply(&mut self, event: &Event) {
        match event.clone() {
            Event::Attribute { key, value, siblings, .. } => {
                put(&mut self.attributes, key, value.map(|value| (value, siblings)));
            }
            Event::Counter { key, value } => put(&mut self.counters, key, value),
            Event::Element { key, id, element } => put(&mut self.elements, (key, id), element),
            Event::Registered(found) => {
                self.registrations.insert((found.name.clone(), found.tunnel), found);
            }
            Event::Deregistered { name, tunnel } => {
                self.registrations.remove(&(name, tunnel));
            }
            Event::Member { node, generation, state } => {
                self.members.insert(node, (generation, state));
            }
            Event::LinkUp { peer } => {
                self.links.insert(peer);
            }
            Event::LinkDown { peer } => {
                self.links.remove(&peer);
            }
            // Whether a revocation or a policy counts only the authority's key can say: it is not part of what readers see.
            Event::Revocation { .. } | Event::Policy | Event::Alarm(_) => {}
        }
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// The mesh keeps its own state; a second copy beside the events would double its memory. Snapshots are taken there.
impl Published for Event {
    type State = ();
    type Key = Topic;
    /// Each event of a topic says how it is.
    type Latest = Self;

    fn apply(&self, (): &mut ()) {}

    fn latest(&self, (): &()) -> Option<(Topic, Self)> {
        let topic = match self {
            Self::Attribute { key, .. } => Topic::Attribute(key.clone()),
            Self::Counter { key, .. } => Topic::Counter(key.clone()),
            Self::Element { key, id, .. } => Topic::Element(key.clone(), *id),
            Self::Registered(found) => Topic::Registration(found.name.clone(), found.tunnel),
            Self::Deregistered { name, tunnel } => Topic::Registration(name.clone(), *tunnel),
            Self::Member { node, .. } => Topic::Member(*node),
            Self::LinkUp { peer } | Self::LinkDown { peer } => Topic::Link(*peer),
            Self::Revocation { .. } | Self::Policy | Self::Alarm(_) => return None,
        };
        Some((topic, self.clone()))
    }
}
