//! Which tunnels a destination means, and why the others are not meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::Destination;
use super::shortcut::MAX_ADDRESSES;
use crate::auth::{Access, Act};
use crate::gossip::{Member, MemberState, Mesh};
use crate::id::{NodeId, TunnelName};
use crate::replica::{Address, Registration, Requirement};

/// The most tunnels that an explanation lists.
const MAX_CANDIDATES: usize = 1_024;

/// A tunnel that might be meant.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The tunnel.
    pub registration: Registration,
    /// What it was registered with, overlaid with what the mesh has under `tunnel/<name>/`.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// What people call its holder, if that is known.
    pub label: String,
    /// What this node thinks of its holder; nothing of itself and of strangers.
    pub state: Option<MemberState>,
    /// How it is reached.
    pub way: Way,
    /// Why it is not meant; `None` if it is.
    pub refused: Option<Refused>,
}

/// How a holder is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is this node.
    Here,
    /// By a link of this node.
    Direct {
        /// Its round-trip time.
        rtt: Duration,
    },
    /// Over a node that has links to both.
    Over {
        /// That node.
        relay: NodeId,
        /// The round-trip time to it.
        rtt: Duration,
    },
    /// By a tunnel that is made when a stream needs it: to the holder, or to a node with a link to it.
    Shortcut,
    /// Not at all, at the moment.
    None,
}

/// Why a tunnel is not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// Its attributes do not meet this.
    Unmet(Requirement),
    /// The mesh's policy does not let its holder offer it.
    HolderMayNot,
    /// The mesh's policy does not let this node connect to it.
    MayNot,
    /// Another node was asked for.
    OtherNode,
    /// Its holder is down.
    Down,
    /// Its holder has left.
    Left,
    /// No link leads to its holder, directly or over one node.
    NoWay,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmet(requirement) => write!(f, "does not meet {requirement}"),
            Self::HolderMayNot => f.write_str("its holder may not expose it: snomesh acl show"),
            Self::MayNot => f.write_str("this node may not connect to it: snomesh acl show"),
            Self::OtherNode => f.write_str("held by another node"),
            Self::Down => f.write_str("its holder is down"),
            Self::Left => f.write_str("its holder has left"),
            Self::NoWay => f.write_str("no link leads to its holder"),
        }
    }
}

/// A candidate as the mesh sees it, and the nodes with links to its holder.
pub(super) struct Seen {
    pub(super) candidate: Candidate,
    pub(super) neighbours: Vec<NodeId>,
    /// Where to call if there is no such node: its own addresses, then those of the nodes that it is linked with.
    pub(super) addresses: Vec<(NodeId, Address)>,
}

/// The tunnels of the name, or all that a selector was held against; those that are refused too.
pub(super) fn seen(mesh: &Mesh, access: &Access, own_label: &str, destination: &Destination) -> Vec<Seen> {
    let mut overlays: BTreeMap<TunnelName, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    let registrations: Vec<Registration> = match destination {
        Destination::Name { name, .. } => mesh.replica().registrations_of(name),
        Destination::Selector(_) => mesh.replica().registrations().collect(),
    };
    let own = mesh.actor().node;
    let members: BTreeMap<NodeId, &Member> = mesh.members().map(|member| (member.node, member)).collect();
    let linked: BTreeSet<NodeId> = mesh.linked().collect();
    let mut refused = 0;
    let seen = registrations.into_iter().filter_map(|registration| {
        let holder = registration.holder.node;
        let member = members.get(&holder);
        let label = match member {
            Some(member) => member.record.label.clone(),
            None if holder == own => own_label.to_owned(),
            None => String::new(),
        };
        let state = member.map(|member| member.state);
        let mut attributes: BTreeMap<String, Vec<u8>> =
            registration.attributes.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
        let overlay =
            overlays.entry(registration.name.clone()).or_insert_with(|| overlay(mesh, &registration.name));
        attributes.extend(overlay.iter().map(|(name, value)| (name.clone(), value.clone())));
        let unmet = match destination {
            Destination::Name { node: Some(node), .. } if !node.means(holder, &label) => {
                Some(Refused::OtherNode)
            }
            Destination::Name { .. } => None,
            Destination::Selector(selector) => selector
                .unmet(|name| attributes.get(name).map(Vec::as_slice))
                .map(|requirement| Refused::Unmet(requirement.clone())),
        };
        let refused_by_state = match state {
            Some(MemberState::Down) => Some(Refused::Down),
            Some(MemberState::Left) => Some(Refused::Left),
            Some(MemberState::Alive | MemberState::Suspect) | None => None,
        };
        let permits = |node, act| access.permits(node, act, &registration.name);
        let refused_by_policy = if !permits(holder, Act::Expose) {
            Some(Refused::HolderMayNot)
        } else if holder != own && !permits(own, Act::Connect) {
            Some(Refused::MayNot)
        } else {
            None
        };
        let why = unmet.or(refused_by_policy).or(refused_by_state);
        // Explanations are for people: they need not be complete, answers must be.
        refused += usize::from(why.is_some());
        if why.is_some() && refused > MAX_CANDIDATES {
            return None;
        }
        // Its holder hears from whoever passes the stream on, and judges that one.
        let may_pass_on = |node: &NodeId| permits(*node, Act::Connect);
        let neighbours = member.into_iter().flat_map(|member| member.record.links.iter().copied());
        let neighbours: Vec<NodeId> = neighbours.filter(may_pass_on).collect();
        let is_near = |node: &NodeId| linked.contains(node);
        // In a full mesh whoever is not linked is out of reach.
        let is_far = mesh.is_partial() && !is_near(&holder) && !neighbours.iter().any(is_near);
        let addresses = match member.filter(|_| is_far) {
            Some(member) => addresses(member, &neighbours, &members),
            None => Vec::new(),
        };
        let candidate = Candidate { registration, attributes, label, state, way: Way::None, refused: why };
        Some(Seen { candidate, neighbours, addresses })
    });
    seen.collect()
}

/// The addresses of a node that no link leads to, and of some that it is linked with.
fn addresses(
    holder: &Member,
    neighbours: &[NodeId],
    members: &BTreeMap<NodeId, &Member>,
) -> Vec<(NodeId, Address)> {
    let neighbours = neighbours.iter().filter_map(|node| members.get(node).copied());
    let alive = neighbours.filter(|member| member.state == MemberState::Alive);
    let first = |member: &Member, count| -> Vec<(NodeId, Address)> {
        member.record.addresses.iter().take(count).map(|address| (member.node, address.clone())).collect()
    };
    let all = first(holder, MAX_ADDRESSES / 2).into_iter().chain(alive.flat_map(|member| first(member, 1)));
    all.take(MAX_ADDRESSES).collect()
}

fn overlay(mesh: &Mesh, name: &TunnelName) -> BTreeMap<String, Vec<u8>> {
    let attributes = mesh.replica().attributes_of(name).into_iter();
    attributes.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}
