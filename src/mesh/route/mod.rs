//! Streams to tunnels, wherever in the mesh they are held.

mod destination;
mod going;
mod policy;
mod resolve;
mod shortcut;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::Connector;
use super::handle::{MeshHandle, Stopped};
use crate::daemon::PeersView;
use crate::id::NodeId;
use crate::replica::Address;
use crate::service::{Kind, Loopback, NEGOTIATION_TIMEOUT, OpenError, RouteTarget, open_by};
use crate::tunnel::{Tunnel, TunnelStream};

pub use destination::{Destination, DestinationError, NodeHint};
pub use policy::{ParsePolicyError, Policy, Turn};
pub use resolve::{Candidate, Refused, Way};

/// How many holders are tried for one stream.
const MAX_ATTEMPTS: usize = 4;
/// How long all attempts for one stream may take together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(9);
/// How long a stream waits for a way to a holder that is known, and how often it looks.
const WAY_TIMEOUT: Duration = Duration::from_secs(2);
const WAY_CHECK: Duration = Duration::from_millis(50);
/// How many nodes between are tried for one holder.
const MAX_RELAYS: usize = 2;

/// Told of what a [`Router`] finds, in the task of whoever asks: it must return at once.
pub trait RouteObserver: std::fmt::Debug + Send + Sync {
    /// A destination was looked up for a stream; `found` says whether anybody is meant who can be reached.
    fn resolved(&self, took: Duration, found: bool);

    /// A holder that had been found did not take the stream.
    fn stale(&self);
}

/// Opens streams to destinations.
#[derive(Debug, Clone)]
pub struct Router {
    observer: Option<Arc<dyn RouteObserver>>,
    going: Arc<going::Going>,
    mesh: MeshHandle,
    peers: PeersView,
    local: Option<(Arc<str>, Loopback)>,
    shortcuts: Option<shortcut::Shortcuts>,
}

/// How a candidate may be reached that is not linked.
#[derive(Debug, Default)]
struct Detours {
    /// The nodes over which its holder is reached, the nearest first.
    relays: Vec<NodeId>,
    /// Where to call for a shortcut.
    addresses: Vec<(NodeId, Address)>,
}

/// A destination, how its holders are chosen among, and how often that was done.
#[derive(Debug)]
pub struct Route {
    /// Where streams go.
    pub destination: Destination,
    /// To which of several holders.
    pub policy: Policy,
    /// What goes over them.
    pub kind: Kind,
    opened: AtomicUsize,
    /// What a selector meets; read in the driver.
    matches: Arc<Mutex<resolve::Matches>>,
}

/// Why no stream was opened. No byte of it went anywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// No tunnel is meant, or the holders of all that are meant are down.
    #[error("no node that can be reached holds a tunnel that \"{destination}\" means")]
    NotFound {
        /// Where it was to go.
        destination: Destination,
    },
    /// A holder is known and there is no way to it.
    #[error("node {} holds the tunnel, and no link leads there", holder.short())]
    NoWay {
        /// The last holder that was tried.
        holder: NodeId,
    },
    /// The mesh's policy does not let this node connect to any tunnel that is meant, or not the nodes offer them that do.
    #[error("the mesh's policy does not permit this node to connect to \"{destination}\"")]
    NotPermitted {
        /// Where it was to go.
        destination: Destination,
    },
    /// The holders of all tunnels that are meant say that what is behind them is not healthy, or are drained.
    #[error("whatever \"{destination}\" means fails its health checks, or its holder is drained")]
    Unhealthy {
        /// Where it was to go.
        destination: Destination,
    },
    /// The way was there, and the stream was refused: the last of all that were tried.
    #[error("the stream was not opened")]
    Open(#[from] OpenError),
    /// The mesh has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Route {
    /// A route that has not been taken yet.
    pub fn new(destination: Destination, policy: Policy, kind: Kind) -> Self {
        // Begins anywhere, so that routes that are taken once are spread as well.
        let opened = AtomicUsize::new(rand::random_range(0..1 << 16));
        Self { destination, policy, kind, opened, matches: Arc::default() }
    }

    fn turn(&self, source: Option<IpAddr>) -> Turn {
        Turn { number: self.opened.fetch_add(1, Ordering::Relaxed), source, random: rand::random() }
    }
}

impl Router {
    /// Routes by what `mesh` knows over the tunnels in `peers`.
    pub fn new(mesh: MeshHandle, peers: PeersView) -> Self {
        Self { observer: None, going: Arc::default(), mesh, peers, local: None, shortcuts: None }
    }

    /// Tells an observer of what is found.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn RouteObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Reaches what this node, called `label`, has registered itself through `loopback`.
    #[must_use]
    pub fn with_local(mut self, label: &str, loopback: Loopback) -> Self {
        self.local = Some((label.into(), loopback));
        self
    }

    /// Makes tunnels of its own, by `connector`, to holders that no link leads to, directly or over one node: in a mesh too
    /// large for a full one. They go when no stream has used them for half a minute; at the latest with `stop`. What keeps
    /// them runs in `tasks`.
    #[must_use]
    pub fn with_shortcuts(
        mut self,
        connector: impl Connector,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        self.shortcuts = Some(shortcut::Shortcuts::new(connector, tasks, stop));
        self
    }

    #[cfg(test)]
    pub(in crate::mesh) fn with_idle(mut self, idle: Duration) -> Self {
        self.shortcuts = self.shortcuts.map(|shortcuts| shortcuts.with_idle(idle));
        self
    }

    /// All tunnels that might be meant: those that are first, in the order in which they are tried, then those that are
    /// not, with the reason. Of the latter a thousand at most.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn resolve(
        &self,
        destination: &Destination,
        policy: Policy,
    ) -> Result<Vec<Candidate>, Stopped> {
        let turn = Turn { random: rand::random(), ..Turn::default() };
        let found = self.find(destination, policy, turn, None).await?;
        Ok(found.into_iter().map(|(candidate, _)| candidate).collect())
    }

    /// Opens a stream to one of the tunnels that a route means. What is behind the tunnel has accepted it when this
    /// returns; until then other holders are tried, and never afterwards.
    ///
    /// # Errors
    ///
    /// [`RouteError`] of the last holder that was tried.
    pub async fn open(&self, route: &Route, source: Option<IpAddr>) -> Result<TunnelStream, RouteError> {
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let mut failure = RouteError::NotFound { destination: route.destination.clone() };
        let begun = Instant::now();
        let found = self.await_way(route, source, &mut failure).await?;
        if let Some(observer) = &self.observer {
            observer.resolved(begun.elapsed(), !found.is_empty());
        }
        for (candidate, detours) in found.into_iter().take(MAX_ATTEMPTS) {
            // Counted from now on, so that those who come meanwhile do not all go there.
            let going = self.going.begin(candidate.registration.tunnel);
            let opened = timeout_at(deadline, self.open_at(&candidate, &detours, route.kind)).await;
            match opened.unwrap_or(Err(OpenError::TimedOut.into())) {
                Ok(stream) => return Ok(stream.observed_by(going)),
                Err(error) => {
                    let holder = candidate.registration.holder;
                    tracing::debug!(destination = %route.destination, %holder, %error, "holder not reached");
                    if let Some(observer) = &self.observer {
                        observer.stale();
                    }
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// Those that are meant and can be reached. A holder may be known some moments before a way to it is: that is waited
    /// for.
    async fn await_way(
        &self,
        route: &Route,
        source: Option<IpAddr>,
        failure: &mut RouteError,
    ) -> Result<Vec<(Candidate, Detours)>, Stopped> {
        let (turn, until) = (route.turn(source), Instant::now() + WAY_TIMEOUT);
        loop {
            let matches = Some(Arc::clone(&route.matches));
            let mut found = self.find(&route.destination, route.policy, turn, matches).await?;
            let lost = found.iter().find(|(found, _)| found.refused == Some(Refused::NoWay));
            let lost = lost.map(|(found, _)| found.registration.holder.node);
            let destination = || route.destination.clone();
            for (found, _) in &found {
                match found.refused {
                    Some(Refused::MayNot | Refused::HolderMayNot) => {
                        *failure = RouteError::NotPermitted { destination: destination() };
                        break;
                    }
                    Some(Refused::Unhealthy(_)) => {
                        *failure = RouteError::Unhealthy { destination: destination() }
                    }
                    _ => {}
                }
            }
            found.retain(|(found, _)| found.refused.is_none());
            match lost {
                Some(holder) if found.is_empty() => *failure = RouteError::NoWay { holder },
                _ => return Ok(found),
            }
            if Instant::now() >= until {
                return Ok(found);
            }
            sleep(WAY_CHECK).await;
        }
    }

    /// The candidates in order, each with the other ways to its holder.
    async fn find(
        &self,
        destination: &Destination,
        policy: Policy,
        turn: Turn,
        matches: Option<Arc<Mutex<resolve::Matches>>>,
    ) -> Result<Vec<(Candidate, Detours)>, Stopped> {
        let label = self.local.as_ref().map_or_else(|| "".into(), |(label, _)| Arc::clone(label));
        let sought = destination.clone();
        let access = self.mesh.access().clone();
        let seen =
            self.mesh.view(move |mesh| resolve::seen(mesh, &access, &label, &sought, matches.as_deref()));
        let seen = seen.await?;
        let mut detours = std::collections::BTreeMap::new();
        let mut candidates = Vec::with_capacity(seen.len());
        for resolve::Seen { mut candidate, neighbours, addresses } in seen {
            let relays = self.by_distance(neighbours);
            candidate.way = self.way(candidate.registration.holder.node, &relays, &addresses);
            candidate.streams = self.going.count(candidate.registration.tunnel);
            if candidate.way == Way::None && candidate.refused.is_none() {
                candidate.refused = Some(Refused::NoWay);
            }
            let relays = relays.into_iter().map(|(_, relay)| relay).collect();
            detours.insert(candidate.registration.dot.clone(), Detours { relays, addresses });
            candidates.push(candidate);
        }
        policy.order(&mut candidates, turn);
        let found = candidates.into_iter().map(|candidate| {
            let detours = detours.remove(&candidate.registration.dot).unwrap_or_default();
            (candidate, detours)
        });
        Ok(found.collect())
    }

    /// Those nodes that a tunnel leads to, the nearest first.
    fn by_distance(&self, nodes: Vec<NodeId>) -> Vec<(Duration, NodeId)> {
        let reached = nodes.into_iter().filter_map(|node| Some((self.rtt(node)?, node)));
        let mut reached: Vec<_> = reached.collect();
        reached.sort_unstable();
        reached
    }

    fn rtt(&self, node: NodeId) -> Option<Duration> {
        Some(self.peers.node(node).first()?.tunnel.rtt())
    }

    fn way(&self, holder: NodeId, relays: &[(Duration, NodeId)], addresses: &[(NodeId, Address)]) -> Way {
        if holder == self.mesh.node() {
            return Way::Here;
        }
        match (self.rtt(holder), relays.first()) {
            (Some(rtt), _) => Way::Direct { rtt },
            (None, Some(&(rtt, relay))) => Way::Over { relay, rtt },
            (None, None) if self.shortcuts.is_some() && !addresses.is_empty() => Way::Shortcut,
            (None, None) => Way::None,
        }
    }

    async fn open_at(
        &self,
        candidate: &Candidate,
        detours: &Detours,
        kind: Kind,
    ) -> Result<TunnelStream, RouteError> {
        let registration = &candidate.registration;
        let (holder, name, id) = (registration.holder.node, &registration.name, registration.tunnel);
        let target = RouteTarget::Target(name.clone(), kind);
        if holder == self.mesh.node() {
            return match (self.peers.tunnel(id), &self.local) {
                (Some(peer), _) => Ok(open_in_time(&peer.tunnel, &target).await?),
                (None, Some((_, loopback))) => Ok(loopback.open(&target).await?),
                (None, None) => Err(RouteError::NoWay { holder }),
            };
        }
        let target = RouteTarget::Tunnel(name.clone(), Some(id), kind);
        let mut relays = detours.relays.clone();
        if let (Way::Shortcut, Some(shortcuts)) = (candidate.way, &self.shortcuts) {
            if !shortcuts.make(holder, &detours.addresses).await {
                return Err(RouteError::NoWay { holder });
            }
            // Not the holder itself but a neighbour of it may have answered.
            let called = detours.addresses.iter().map(|(node, _)| *node).collect();
            relays = self.by_distance(called).into_iter().map(|(_, relay)| relay).collect();
        }
        if self.rtt(holder).is_some() {
            return self.open_over(holder, &target).await;
        }
        let target = RouteTarget::Via(holder, Box::new(target));
        let mut failure = RouteError::NoWay { holder };
        for &relay in relays.iter().take(MAX_RELAYS) {
            match self.open_over(relay, &target).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Opens a stream in one of the tunnels to a node: in the next one if a tunnel ends meanwhile.
    async fn open_over(&self, node: NodeId, target: &RouteTarget) -> Result<TunnelStream, RouteError> {
        let mut failure = RouteError::NoWay { holder: node };
        for peer in self.peers.node(node) {
            match open_in_time(&peer.tunnel, target).await {
                Ok(stream) => return Ok(stream),
                Err(error @ OpenError::Closed(_)) => failure = error.into(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(failure)
    }
}

async fn open_in_time(
    tunnel: &crate::tunnel::ArcTunnel,
    target: &RouteTarget,
) -> Result<TunnelStream, OpenError> {
    open_by(tunnel, &target.address(), Instant::now() + NEGOTIATION_TIMEOUT).await
}
