//! Which tunnels a destination means, and why the others are not meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Destination;
use super::shortcut::MAX_ADDRESSES;
use crate::auth::{Access, Act};
use crate::gossip::{Member, MemberState, Mesh};
use crate::id::{NodeId, TunnelName};
use crate::mesh::Weight;
use crate::mesh::health::{self, Health};
use crate::replica::{Address, Registration, Requirement, Selector};

/// The most tunnels that an explanation lists.
const MAX_CANDIDATES: usize = 1_024;

/// A tunnel that might be meant.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The tunnel.
    pub registration: Registration,
    /// What it was registered with, without the mesh's own, overlaid with what the mesh has under `tunnel/<name>/`.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// What people call its holder, if that is known.
    pub label: String,
    /// What this node thinks of its holder; nothing of itself and of strangers.
    pub state: Option<MemberState>,
    /// How it is reached.
    pub way: Way,
    /// How many streams of this node go there now.
    pub streams: usize,
    /// Why it is not meant; `None` if it is.
    pub refused: Option<Refused>,
}

impl Candidate {
    /// What share of the visitors its holder wants.
    pub fn weight(&self) -> Weight {
        Weight::of(&self.registration.attributes)
    }
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
    /// Its holder has not found its target healthy, or is drained.
    Unhealthy(Health),
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
            Self::Unhealthy(Health::Starting) => f.write_str("its first health check is not done"),
            Self::Unhealthy(Health::Draining) => f.write_str("its holder is drained"),
            Self::Unhealthy(_) => f.write_str("its target fails its health checks"),
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

/// A tunnel, all its attributes, and what of the selector they do not meet.
#[derive(Debug, Clone)]
struct Tunnel {
    registration: Registration,
    attributes: BTreeMap<String, Vec<u8>>,
    unmet: Option<Requirement>,
}

/// The tunnels that meet the selector of one destination, so that not every stream there is held against all tunnels of the
/// mesh. What was found holds until a registration or an attribute of tunnels changes.
#[derive(Debug, Default)]
pub(super) struct Matches {
    met: Vec<Tunnel>,
    /// What the mesh said of its tunnels when that was found.
    of: Option<u64>,
    /// How many tunnels the selector was held against so far.
    compared: usize,
}

impl Matches {
    fn look(&mut self, mesh: &Mesh, selector: &Selector) -> Vec<Tunnel> {
        let now = mesh.tunnels_changed();
        if self.of != Some(now) {
            let all = tunnels(mesh, mesh.replica().registrations(), Some(selector));
            self.compared += all.len();
            self.met = all.into_iter().filter(|tunnel| tunnel.unmet.is_none()).collect();
            self.of = Some(now);
        }
        self.met.clone()
    }
}

fn tunnels(
    mesh: &Mesh,
    registrations: impl IntoIterator<Item = Registration>,
    selector: Option<&Selector>,
) -> Vec<Tunnel> {
    let mut overlays: BTreeMap<TunnelName, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    let registrations = registrations.into_iter();
    let tunnels = registrations.map(|registration| {
        let mut attributes = health::plain(&registration.attributes);
        let overlay =
            overlays.entry(registration.name.clone()).or_insert_with(|| overlay(mesh, &registration.name));
        attributes.extend(overlay.iter().map(|(name, value)| (name.clone(), value.clone())));
        let unmet = selector
            .and_then(|selector| selector.unmet(|name| attributes.get(name).map(Vec::as_slice)).cloned());
        Tunnel { registration, attributes, unmet }
    });
    tunnels.collect()
}

/// The tunnels of the name; or all that a selector was held against, those that are refused too; or, where those that met
/// it are remembered, these alone.
pub(super) fn seen(
    mesh: &Mesh,
    access: &Access,
    own_label: &str,
    destination: &Destination,
    remembered: Option<&Mutex<Matches>>,
) -> Vec<Seen> {
    let found = match (destination, remembered) {
        (Destination::Name { name, .. }, _) => tunnels(mesh, mesh.replica().registrations_of(name), None),
        (Destination::Selector(selector), None) => {
            tunnels(mesh, mesh.replica().registrations(), Some(selector))
        }
        (Destination::Selector(selector), Some(remembered)) => {
            remembered.lock().unwrap_or_else(PoisonError::into_inner).look(mesh, selector)
        }
    };
    let own = mesh.actor().node;
    let members: BTreeMap<NodeId, &Member> = mesh.members().map(|member| (member.node, member)).collect();
    let linked: BTreeSet<NodeId> = mesh.linked().collect();
    let mut refused = 0;
    let seen = found.into_iter().filter_map(|Tunnel { registration, attributes, unmet }| {
        let holder = registration.holder.node;
        let member = members.get(&holder);
        let label = match member {
            Some(member) => member.record.label.clone(),
            None if holder == own => own_label.to_owned(),
            None => String::new(),
        };
        let state = member.map(|member| member.state);
        let unmet = match destination {
            Destination::Name { node: Some(node), .. } if !node.means(holder, &label) => {
                Some(Refused::OtherNode)
            }
            Destination::Name { .. } | Destination::Selector(_) => unmet.map(Refused::Unmet),
        };
        let refused_by_state = match state {
            Some(MemberState::Down) => Some(Refused::Down),
            Some(MemberState::Left | MemberState::Evicted) => Some(Refused::Left),
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
        let unhealthy = match Health::of(&registration.attributes) {
            Health::Healthy => None,
            health => Some(Refused::Unhealthy(health)),
        };
        let why = unmet.or(refused_by_policy).or(refused_by_state).or(unhealthy);
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
        let candidate =
            Candidate { registration, attributes, label, state, way: Way::None, streams: 0, refused: why };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::Value;
    use crate::gossip::Config;
    use crate::id::{Actor, Generation, TunnelId};
    use crate::replica::{AttributeKey, Attributes};
    use crate::time::{Moment, Now, UnixMillis};

    const NOW: Now = Now { monotone: Moment(0), wall: UnixMillis(1) };

    fn mesh() -> Mesh {
        let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) };
        Mesh::new(Config::default(), actor, 1, NOW)
    }

    fn register(mesh: &mut Mesh, number: u64, colour: &str) {
        let attributes = [("colour".to_owned(), colour.as_bytes().to_vec())].into();
        let attributes = Attributes::new(attributes).unwrap();
        let name = format!("t{number}").parse().unwrap();
        mesh.register(NOW, &name, TunnelId(number), &attributes).unwrap();
    }

    fn set(mesh: &mut Mesh, key: &str, value: &str) {
        let key: AttributeKey = key.parse().unwrap();
        mesh.set(NOW, &key, Value::try_from(value.as_bytes()).unwrap()).unwrap();
    }

    /// A selector is held against the tunnels of the mesh when they have changed, and not for each visitor.
    #[test]
    fn a_selector_is_held_against_all_tunnels_once_per_change_of_theirs() {
        let mut mesh = mesh();
        (0..100).for_each(|number| register(&mut mesh, number, if number < 3 { "red" } else { "blue" }));
        let destination: Destination = "colour=red".parse().unwrap();
        let remembered = Mutex::new(Matches::default());
        let visit = |mesh: &Mesh| {
            let access = Access::default();
            let names = |remembered| {
                let seen = seen(mesh, &access, "", &destination, remembered).into_iter();
                let meant = seen.filter(|seen| seen.candidate.refused.is_none());
                meant.map(|seen| seen.candidate.registration.name.to_string()).collect::<Vec<_>>()
            };
            let found = names(Some(&remembered));
            assert_eq!(found, names(None), "what is remembered is what is");
            (found.len(), remembered.lock().unwrap().compared)
        };
        assert_eq!(visit(&mesh), (3, 100));
        assert_eq!(visit(&mesh), (3, 100));
        // What has nothing to do with tunnels changes nothing.
        set(&mut mesh, "mesh/colour", "red");
        assert_eq!(visit(&mesh), (3, 100));
        register(&mut mesh, 100, "red");
        assert_eq!((visit(&mesh), visit(&mesh)), ((4, 201), (4, 201)));
        set(&mut mesh, "tunnel/t7/colour", "red");
        set(&mut mesh, "tunnel/t0/colour", "blue");
        set(&mut mesh, "tunnel/t1/colour", "blue");
        assert_eq!((visit(&mesh), visit(&mesh)), ((3, 302), (3, 302)));
        mesh.deregister(NOW, &"t7".parse().unwrap(), TunnelId(7)).unwrap();
        assert_eq!((visit(&mesh), visit(&mesh)), ((2, 402), (2, 402)));
    }
}
