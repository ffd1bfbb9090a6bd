//! What the admin API is about: the running node, seen from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use data_encoding::HEXLOWER;
use tokio_util::sync::CancellationToken;

use super::CompatConfig;
use super::admin::Http;
use super::api::{self, API_VERSION, state_name};
use super::census::{Census, Counter};
use super::control::Controls;
use super::forwards::{Exposed, Forwards};
use super::listing::{self, NodePage, Page};
use super::metrics::Metrics;
use super::trust::Keys;
use crate::auth::Act;
use crate::clock::WallClock;
use crate::compat::{PublicPorts, Server};
use crate::daemon::PeersView;
use crate::gossip::{Member, MemberState, Mesh, Progress};
use crate::id::{Generation, NodeId, TunnelId, TunnelName};
use crate::mesh::health::plain;
use crate::mesh::{Health, MeshHandle, PROPAGATION_BOUNDS, Stopped, Storage, Weight};
use crate::replica::{Address, Path, Registration};
use crate::service::Listen;
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
    /// What each certificate was for at the start, and when it ends to be valid, in seconds since 1970.
    pub(super) certificates: Vec<(&'static str, f64)>,
    /// How clients of snocat are served, if they are.
    pub(super) compat: Option<CompatFacts>,
}

/// How clients of snocat are served.
#[derive(Debug, Clone)]
pub(super) struct CompatFacts {
    pub(super) listen: SocketAddr,
    pub(super) public: PublicPorts,
    pub(super) clients: PeersView,
}

impl CompatFacts {
    pub(super) fn of((server, config): (&Server, &CompatConfig)) -> Self {
        let listen = server.local_addr().unwrap_or(config.listen);
        Self { listen, public: config.public.clone(), clients: server.peers() }
    }
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
    pub(super) counter: Arc<Counter>,
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
    digest: [u8; 16],
    /// The addresses of the nodes that a link leads to.
    linked: BTreeSet<Address>,
}

impl Agent {
    pub(super) async fn status(&self) -> Result<api::Status, Stopped> {
        let summary = self.mesh.view(Summary::of).await?;
        let census = self.census().await?;
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let seeds = self.seeds(&summary);
        let reasons = self.readiness_of(&summary, &seeds).reasons;
        let storage = storage_name(&self.mesh.storage().borrow());
        let facts = &self.facts;
        let exposed = self.forwards.exposed().await.into_iter();
        let exposed = exposed.map(|exposed| api::Exposed::from(&exposed));
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
            draining: self.forwards.is_draining().await,
            serving: self.metrics.streams.serving(),
            storage: storage.into(),
            nodes: summary.counts,
            tunnels: count(census.registrations),
            attributes: count(census.attributes),
            digest: HEXLOWER.encode(&summary.digest),
            seeds,
            exposed: exposed.collect(),
            binds: self.binds().await,
            compat: facts.compat.as_ref().map(|compat| api::Compat {
                listen: compat.listen.to_string(),
                public: Listen::Ports(compat.public.ip, compat.public.ports.clone()).to_string(),
                clients: compat.clients.len(),
            }),
        })
    }

    pub(super) async fn readiness(&self) -> Result<Readiness, Stopped> {
        let summary = self.mesh.view(Summary::of).await?;
        Ok(self.readiness_of(&summary, &self.seeds(&summary)))
    }

    /// What each certificate is for, and when it ends to be valid, in seconds since 1970.
    pub(super) fn certificates(&self) -> Vec<(&'static str, f64)> {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds are exact for millennia")]
        let own = self.keys.certificate_expires_at().map(|at| at.0 as f64 / 1_000.0);
        // The node's own may have been replaced since it started.
        let at = |kind, at| if kind == "node" { own.unwrap_or(at) } else { at };
        self.facts.certificates.iter().map(|(kind, end)| (*kind, at(*kind, *end))).collect()
    }

    /// How many keys there are; of a large state as of a moment ago.
    pub(super) async fn census(&self) -> Result<Census, Stopped> {
        self.counter.read(&self.mesh).await
    }

    pub(super) async fn digest(&self) -> Result<String, Stopped> {
        Ok(HEXLOWER.encode(&self.mesh.view(Mesh::digest).await?))
    }

    /// All nodes, this one first.
    pub(super) async fn nodes(&self) -> Result<Vec<api::Node>, Stopped> {
        Ok(self.nodes_of(NodePage::whole()).await?.0)
    }

    /// A page of the nodes, this one first, and where the next one begins.
    pub(super) async fn nodes_of(&self, page: NodePage) -> Result<(Vec<api::Node>, Option<String>), Stopped> {
        let NodePage { after, limit } = page;
        let own = self.facts.node;
        let after = after.filter(|after| *after != own);
        let local = (after.is_none() && page.after.is_none()).then_some(());
        let others = limit - local.map_or(0, |()| 1);
        let read = self.mesh.view(move |mesh| {
            let mut members = mesh.members().filter(|member| after.is_none_or(|after| member.node > after));
            let page: Vec<Member> = members.by_ref().take(others).cloned().collect();
            (page, members.next().is_some(), mesh.progress())
        });
        let (members, more, progress) = read.await?;
        let next = more.then(|| members.last().map_or(own, |last| last.node).to_string());
        let local = local.map(|()| self.local(&progress));
        let others = members.into_iter().map(|member| self.other(member, &progress));
        Ok((local.into_iter().chain(others).collect(), next))
    }

    fn local(&self, progress: &BTreeMap<NodeId, Progress>) -> api::Node {
        let facts = &self.facts;
        api::Node {
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
        }
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
            (mesh.digest(), names, mesh.progress())
        });
        let ((digest, names, progress), census) = (read.await?, self.census().await?);
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

    /// A page of the registrations, by name and tunnel, and where the next one begins: all, or those that are `healthy`,
    /// or those that are not.
    pub(super) async fn tunnels(
        &self,
        page: Page,
        healthy: Option<bool>,
    ) -> Result<(Vec<api::Tunnel>, Option<String>), Stopped> {
        let (own, own_name) = (self.facts.node, self.facts.name.clone());
        let access = self.mesh.access().clone();
        self.mesh
            .view(move |mesh| {
                let names: BTreeMap<_, _> = mesh
                    .members()
                    .map(|member| (member.node, (member.record.label.clone(), member.state)))
                    .collect();
                // The tunnels of a name stand together, and which of them is found first is one question.
                let mut first: Option<(TunnelName, Option<TunnelId>)> = None;
                listing::read(mesh, "tunnel", &page, |key| {
                    let Some(Path::Registration { name, tunnel: id }) = Path::of(key) else { return None };
                    let registration = mesh.replica().registration(&name, id)?;
                    let is_healthy = Health::of(&registration.attributes) == Health::Healthy;
                    if healthy.is_some_and(|wanted| wanted != is_healthy) {
                        return None;
                    }
                    if first.as_ref().is_none_or(|(of, _)| *of != name) {
                        let may = |node| access.permits(node, Act::Expose, &name);
                        let chosen = mesh.lookup(&name).into_iter().find(|found| {
                            Health::of(&found.attributes) == Health::Healthy && may(found.holder.node)
                        });
                        let chosen = chosen.map(|found| found.tunnel);
                        first = Some((name, chosen));
                    }
                    let chosen = first.as_ref().is_some_and(|(_, chosen)| *chosen == Some(id));
                    let holder = registration.holder.node;
                    let (label, state) = match names.get(&holder) {
                        Some((label, state)) => (label.clone(), state_name(*state)),
                        None if holder == own => (own_name.clone(), state_name(MemberState::Alive)),
                        None => (String::new(), "unknown"),
                    };
                    let size = registration.attributes.iter().map(|(name, value)| name.len() + value.len());
                    let size = size.sum();
                    Some((tunnel(&registration, label, state, chosen), size))
                })
            })
            .await
    }

    /// The names of tunnels, each once, at most so many.
    pub(super) async fn tunnel_names(&self, limit: usize) -> Result<Vec<String>, Stopped> {
        self.mesh
            .view(move |mesh| {
                let all = mesh.replica().store().prefix("tunnel/");
                let live = all.filter(|row| !row.is_removed());
                let mut names: Vec<String> = Vec::new();
                for row in live {
                    let name = row.name().split('/').nth(1).unwrap_or_default();
                    if names.last().is_none_or(|last| last != name) {
                        if names.len() == limit {
                            break;
                        }
                        names.push(name.to_owned());
                    }
                }
                names
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
                // Those are members no more.
                MemberState::Evicted => {}
            }
            if linked.contains(&member.node) {
                addresses.extend(member.record.addresses.iter().cloned());
            }
        }
        counts.linked = linked.len();
        Self { counts, digest: mesh.digest(), linked: addresses }
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

/// Says what a refused certificate mostly means, which is not in the words of TLS.
fn explained(error: &str) -> String {
    if error.contains("invalid peer certificate: Revoked") {
        return format!("this node was revoked, or the one that answers there ({error})");
    }
    if error.contains("invalid peer certificate") {
        return format!("a node of another mesh answers there, or no node at all ({error})");
    }
    error.to_owned()
}

fn tunnel(registration: &Registration, holder_name: String, state: &str, chosen: bool) -> api::Tunnel {
    let attributes = plain(&registration.attributes).into_iter();
    let health = Health::of(&registration.attributes);
    api::Tunnel {
        name: registration.name.to_string(),
        tunnel: registration.tunnel.to_string(),
        holder: registration.holder.node.to_string(),
        holder_name,
        holder_state: state.into(),
        healthy: health == Health::Healthy,
        health: api::health_name(health).into(),
        weight: Weight::of(&registration.attributes).get(),
        chosen,
        registered_at: registration.stamp.to_wall().0,
        attributes: attributes.map(|(name, value)| (name, value.as_slice().into())).collect(),
    }
}

impl From<&Exposed> for api::Exposed {
    fn from(exposed: &Exposed) -> Self {
        let state = api::health_name(exposed.state()).to_owned();
        let Exposed { name, tunnel, offer, health, .. } = exposed;
        let health = health.as_ref().zip(offer.health.as_ref()).map(|(reported, check)| api::Health {
            state: api::health_name(reported.health).into(),
            since: reported.since.0,
            failure: reported.failure.clone(),
            check: check.words(),
        });
        let (name, target, weight) = (name.to_string(), offer.target.to_string(), offer.weight.get());
        Self { name, target, tunnel: tunnel.to_string(), state, weight, health }
    }
}
