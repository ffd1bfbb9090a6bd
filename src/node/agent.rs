//! What the admin API is about: the running node, seen from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use data_encoding::HEXLOWER;
use tokio_util::sync::CancellationToken;

use super::admin::Http;
use super::api::{self, API_VERSION, state_name};
use super::control::Controls;
use super::forwards::Forwards;
use super::metrics::Metrics;
use super::trust::Keys;
use crate::auth::Act;
use crate::clock::WallClock;
use crate::daemon::PeersView;
use crate::gossip::{Member, MemberState, Mesh, Progress};
use crate::id::{Generation, NodeId};
use crate::mesh::{MeshHandle, PROPAGATION_BOUNDS, Stopped, Storage};
use crate::replica::{Address, Registration};
use crate::tunnel::Tunnel;

/// What does not change while a node runs.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) generation: Generation,
    /// The hash of the public key of the mesh's authority.
    pub(super) mesh: NodeId,
    pub(super) listen: SocketAddr,
    pub(super) advertised: Vec<Address>,
    pub(super) seeds: Vec<Address>,
    pub(super) admin: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) started_at: Instant,
    /// What each certificate is for, and when it ends to be valid, in seconds since 1970.
    pub(super) certificates: Vec<(&'static str, f64)>,
}

/// The running node.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) facts: Facts,
    pub(super) mesh: MeshHandle,
    pub(super) peers: PeersView,
    pub(super) forwards: Forwards,
    pub(super) metrics: Arc<Metrics>,
    pub(super) http: Http,
    /// What the node can be told while it runs, where somebody can do it.
    pub(super) controls: Controls,
    pub(super) keys: Arc<Keys>,
    /// Cancelled when the node begins to stop.
    pub(super) stop: CancellationToken,
}

/// Whether the node serves as it should, and why not.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) reasons: Vec<String>,
}

/// What a status needs of the mesh, read in one go.
struct Summary {
    counts: api::Counts,
    tunnels: usize,
    attributes: usize,
    digest: [u8; 16],
    /// The addresses of the nodes that a link leads to.
    linked: BTreeSet<Address>,
}

impl Agent {
    pub(super) async fn status(&self) -> Result<api::Status, Stopped> {
        let summary = self.mesh.view(Summary::of).await?;
        let seeds = self.seeds(&summary);
        let reasons = self.readiness_of(&summary, &seeds).reasons;
        let storage = storage_name(&self.mesh.storage().borrow());
        let facts = &self.facts;
        let exposed = self.forwards.exposed().await.into_iter();
        let exposed = exposed.map(|(name, target, tunnel)| api::Exposed {
            name: name.to_string(),
            target: target.to_string(),
            tunnel: tunnel.to_string(),
        });
        Ok(api::Status {
            api_version: API_VERSION.into(),
            node: facts.node.to_string(),
            name: facts.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            generation: facts.generation.0,
            uptime_ms: u64::try_from(facts.started_at.elapsed().as_millis()).unwrap_or(u64::MAX),
            mesh: facts.mesh.to_string(),
            listen: facts.listen.to_string(),
            advertised: facts.advertised.iter().map(ToString::to_string).collect(),
            admin: facts.admin.display().to_string(),
            http: self.http.listening().await.map(|address| address.to_string()),
            data_dir: facts.data_dir.display().to_string(),
            ready: reasons.is_empty(),
            reasons,
            certificate_expires_at: self.keys.certificate_expires_at().map(|at| at.0),
            storage: storage.into(),
            nodes: summary.counts,
            tunnels: summary.tunnels,
            attributes: summary.attributes,
            digest: HEXLOWER.encode(&summary.digest),
            seeds,
            exposed: exposed.collect(),
            binds: self.binds().await,
        })
    }

    pub(super) async fn readiness(&self) -> Result<Readiness, Stopped> {
        let summary = self.mesh.view(Summary::of).await?;
        Ok(self.readiness_of(&summary, &self.seeds(&summary)))
    }

    pub(super) async fn digest(&self) -> Result<String, Stopped> {
        Ok(HEXLOWER.encode(&self.mesh.view(Mesh::digest).await?))
    }

    /// All nodes, this one first.
    pub(super) async fn nodes(&self) -> Result<Vec<api::Node>, Stopped> {
        let (members, progress) =
            self.mesh.view(|mesh| (mesh.members().cloned().collect::<Vec<_>>(), mesh.progress())).await?;
        let facts = &self.facts;
        let local = api::Node {
            node: facts.node.to_string(),
            name: facts.name.clone(),
            state: state_name(MemberState::Alive).into(),
            local: true,
            linked: false,
            rtt_micros: None,
            generation: facts.generation.0,
            version: env!("CARGO_PKG_VERSION").into(),
            addresses: facts.advertised.iter().map(ToString::to_string).collect(),
            links: progress.keys().map(ToString::to_string).collect(),
            behind: None,
            in_sync: None,
            sent_bytes: 0,
            received_bytes: 0,
        };
        let others = members.into_iter().map(|member| self.other(member, &progress));
        Ok(std::iter::once(local).chain(others).collect())
    }

    fn other(&self, member: Member, progress: &BTreeMap<NodeId, Progress>) -> api::Node {
        let progress = progress.get(&member.node);
        let tunnel = self.peers.node(member.node).into_iter().next().filter(|_| progress.is_some());
        let rtt = tunnel.as_ref().map(|peer| peer.tunnel.rtt().as_micros());
        let path = tunnel.map(|peer| peer.tunnel.path()).unwrap_or_default();
        api::Node {
            node: member.node.to_string(),
            name: member.record.label,
            state: if self.keys.denied().contains(member.node) {
                "revoked".into()
            } else {
                state_name(member.state).into()
            },
            local: false,
            linked: progress.is_some(),
            rtt_micros: rtt.and_then(|micros| u64::try_from(micros).ok()),
            generation: member.generation.0,
            version: member.record.version,
            addresses: member.record.addresses.iter().map(ToString::to_string).collect(),
            links: member.record.links.iter().map(ToString::to_string).collect(),
            behind: progress.map(|progress| progress.behind),
            in_sync: progress.map(|progress| progress.differing_since.is_none()),
            sent_bytes: path.sent_bytes,
            received_bytes: path.received_bytes,
        }
    }

    /// How far the replicated state has come everywhere.
    pub(super) async fn convergence(&self) -> Result<api::Convergence, Stopped> {
        let read = self.mesh.view(|mesh| {
            let names = mesh.members().map(|member| (member.node, member.record.label.clone()));
            let names: BTreeMap<_, _> = names.collect();
            (mesh.digest(), names, mesh.progress(), Census::of(mesh))
        });
        let (digest, names, progress, census) = read.await?;
        let changes = self.mesh.changes();
        let mut peers: Vec<_> = progress
            .into_iter()
            .map(|(node, progress)| api::PeerProgress {
                node: node.to_string(),
                name: names.get(&node).cloned().unwrap_or_default(),
                behind: progress.behind,
                in_sync: progress.differing_since.is_none(),
            })
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(api::Convergence {
            api_version: API_VERSION.into(),
            digest: HEXLOWER.encode(&digest),
            peers,
            propagation: api::Propagation {
                bounds_ms: PROPAGATION_BOUNDS.to_vec(),
                counts: changes.propagation.buckets.to_vec(),
                sum_ms: u64::try_from(changes.propagation.sum.as_millis()).unwrap_or(u64::MAX),
            },
            local_changes: changes.local,
            remote_changes: changes.remote,
            removals: changes.removals,
            siblings: census.siblings,
            tombstones: census.tombstones,
        })
    }

    /// All registrations, by name and tunnel.
    pub(super) async fn tunnels(&self) -> Result<Vec<api::Tunnel>, Stopped> {
        let (own, own_name) = (self.facts.node, self.facts.name.clone());
        let access = self.mesh.access().clone();
        self.mesh
            .view(move |mesh| {
                let names: BTreeMap<_, _> = mesh
                    .members()
                    .map(|member| (member.node, (member.record.label.clone(), member.state)))
                    .collect();
                let mut tunnels: Vec<api::Tunnel> = Vec::new();
                for registration in mesh.replica().registrations() {
                    let holder = registration.holder.node;
                    let (name, state) = match names.get(&holder) {
                        Some((name, state)) => (name.clone(), state_name(*state)),
                        None if holder == own => (own_name.clone(), state_name(MemberState::Alive)),
                        None => (String::new(), "unknown"),
                    };
                    let may = |node| access.permits(node, Act::Expose, &registration.name);
                    let mut found = mesh.lookup(&registration.name).into_iter();
                    let chosen = found.find(|found| may(found.holder.node));
                    let chosen = chosen.is_some_and(|chosen| chosen.tunnel == registration.tunnel);
                    tunnels.push(tunnel(&registration, name, state, chosen));
                }
                tunnels
            })
            .await
    }

    pub(super) async fn binds(&self) -> Vec<api::Bind> {
        let binds = self.forwards.binds().await.into_iter();
        binds
            .map(|(listen, route)| api::Bind {
                listen: listen.to_string(),
                tunnel: route.destination.to_string(),
                policy: route.policy.to_string(),
            })
            .collect()
    }

    /// What came of the addresses to join. One whose node is linked some other way counts as reached.
    fn seeds(&self, summary: &Summary) -> Vec<api::Seed> {
        let dials = self.mesh.dials();
        let seeds = self.facts.seeds.iter().map(|address| {
            let dial = dials.iter().find(|dial| dial.address == *address);
            let reached = summary.linked.contains(address) || dial.is_some_and(|dial| dial.error.is_none());
            let error = dial.and_then(|dial| dial.error.as_deref()).filter(|_| !reached).map(explained);
            api::Seed { address: address.to_string(), reached, error }
        });
        seeds.collect()
    }

    fn readiness_of(&self, summary: &Summary, seeds: &[api::Seed]) -> Readiness {
        let mut reasons = Vec::new();
        if self.stop.is_cancelled() {
            reasons.push("the node is shutting down".to_owned());
        }
        if *self.mesh.storage().borrow() == Storage::NoRoom {
            reasons.push("the disk is full: no durable write is taken until there is room".to_owned());
        }
        if self.keys.denied().contains(self.facts.node) {
            reasons.push("this node was revoked: no other lets it in".to_owned());
        }
        let expires_at = self.keys.certificate_expires_at();
        if expires_at.is_some_and(|at| at <= WallClock::system().now()) {
            reasons.push("the node's certificate has ended: no other lets it in".to_owned());
        }
        let counts = &summary.counts;
        let known = counts.alive + counts.suspect + counts.down;
        if counts.linked == 0 && !seeds.is_empty() {
            reasons.push("none of the addresses to join could be reached".to_owned());
            reasons.extend(seeds.iter().map(|seed| match &seed.error {
                Some(error) => format!("{}: {error}", seed.address),
                None => format!("{}: no link", seed.address),
            }));
        } else if counts.linked == 0 && known > 0 {
            reasons.push(format!("no link to any of the {known} other nodes"));
        }
        Readiness { reasons }
    }
}

impl Summary {
    fn of(mesh: &Mesh) -> Self {
        let mut counts = api::Counts::default();
        let linked: BTreeSet<NodeId> = mesh.linked().collect();
        let mut addresses = BTreeSet::new();
        for member in mesh.members() {
            match member.state {
                MemberState::Alive => counts.alive += 1,
                MemberState::Suspect => counts.suspect += 1,
                MemberState::Down => counts.down += 1,
                MemberState::Left => counts.left += 1,
            }
            if linked.contains(&member.node) {
                addresses.extend(member.record.addresses.iter().cloned());
            }
        }
        counts.linked = linked.len();
        Self {
            counts,
            tunnels: mesh.replica().registrations().count(),
            attributes: usize::try_from(Census::of(mesh).attributes).unwrap_or(usize::MAX),
            digest: mesh.digest(),
            linked: addresses,
        }
    }
}

fn storage_name(storage: &Storage) -> &'static str {
    match storage {
        Storage::Memory => "memory",
        Storage::Durable => "durable",
        Storage::NoRoom => "full",
        Storage::Failed(_) => "failed",
    }
}

/// How many keys there are, without looking at their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Census {
    pub(super) attributes: u64,
    pub(super) tunnels: u64,
    pub(super) nodes: u64,
    /// Removed, and remembered.
    pub(super) tombstones: u64,
    /// Values that lost against a concurrent one.
    pub(super) siblings: u64,
}

impl Census {
    pub(super) fn of(mesh: &Mesh) -> Self {
        let mut census = Self::default();
        let store = mesh.replica().store();
        let mut live = |prefix: &str| {
            let mut live = 0;
            for (_, register) in store.prefix(prefix) {
                let values = register.entries().iter().filter(|entry| entry.value.is_some()).count() as u64;
                *(if values > 0 { &mut live } else { &mut census.tombstones }) += 1;
                census.siblings += values.saturating_sub(1);
            }
            live
        };
        let [attributes, tunnels, nodes] = ["attr/", "tunnel/", "node/"].map(&mut live);
        Self { attributes, tunnels, nodes, ..census }
    }
}

/// Says what a refused certificate mostly means, which is not in the words of TLS.
fn explained(error: &str) -> String {
    if error.contains("invalid peer certificate") {
        return format!("a node of another mesh answers there, or no node at all ({error})");
    }
    error.to_owned()
}

fn tunnel(registration: &Registration, holder_name: String, state: &str, chosen: bool) -> api::Tunnel {
    let attributes = registration.attributes.iter();
    api::Tunnel {
        name: registration.name.to_string(),
        tunnel: registration.tunnel.to_string(),
        holder: registration.holder.node.to_string(),
        holder_name,
        holder_state: state.into(),
        chosen,
        registered_at: registration.stamp.to_wall().0,
        attributes: attributes.map(|(name, value)| (name.to_owned(), value.into())).collect(),
    }
}
