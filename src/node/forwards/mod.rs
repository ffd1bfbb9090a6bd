//! What a node exposes to the mesh and which tunnels it lets local programs reach.
//!
//! Both are the operator's wish: they are kept in `forwards.json` and hold again after a restart.

mod configured;
mod offer;
mod saved;
mod unmet;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::files::FileError;
use super::health::{HealthCheck, Monitor, Reported};
use super::metrics::Metrics;
use crate::id::{TunnelId, TunnelName};
use crate::mesh::health::Reserved;
use crate::mesh::{CommandError, Destination, Health, MeshHandle, Policy, Route, RouteError, Router, Weight};
use crate::replica::{Attributes, AttributesError};
use crate::service::{
    Listen, ListenerProxy, OpenError, Refusal, Target, TargetTable, UdpListenerProxy, bind_lowest,
};
use crate::tunnel::{CloseReason, Closed, TunnelStream};
use unmet::Unmet;

pub(super) use configured::{Applied, Wanted};
pub(super) use unmet::Wish;

/// Health checks that a node makes at a time; the others wait for their turn, which no check counts as its own time.
const MAX_CHECKS: usize = 64;

/// What is needed to open a stream from this node.
#[derive(Debug, Clone)]
pub(super) struct Opener {
    pub(super) mesh: MeshHandle,
    pub(super) router: Router,
    pub(super) targets: TargetTable,
    pub(super) metrics: Arc<Metrics>,
}

impl Opener {
    /// Opens a stream, for a visitor of a bind if it has one.
    pub(super) async fn open(
        &self,
        route: &Route,
        bind: Option<&str>,
        source: Option<IpAddr>,
    ) -> Result<TunnelStream, RouteError> {
        let begun = Instant::now();
        let opened = self.router.open(route, source).await;
        self.metrics.streams.opened(&route.destination.to_string(), bind, begun.elapsed(), opened)
    }

    /// Opens a stream for a visitor of a bind, whose end is told in the terms of a stream.
    async fn open_for_visitor(
        self,
        route: Arc<Route>,
        bind: Arc<str>,
        visitor: IpAddr,
    ) -> Result<TunnelStream, OpenError> {
        self.metrics.streams.accepted(&bind);
        self.open(&route, Some(&bind), Some(visitor)).await.map_err(|error| {
            let described: &dyn std::error::Error = &error;
            tracing::info!(destination = %route.destination, error = described, "visitor not served");
            match error {
                RouteError::Open(error) => error,
                RouteError::NotFound { .. } => OpenError::Refused(Refusal::NotFound),
                RouteError::NotPermitted { .. } => OpenError::Refused(Refusal::NotPermitted),
                RouteError::NoWay { .. } | RouteError::Unhealthy { .. } => {
                    OpenError::Refused(Refusal::TargetUnreachable)
                }
                RouteError::Stopped(_) => OpenError::Closed(Closed::Locally(CloseReason::ShuttingDown)),
            }
        })
    }
}

/// The forwards of one node.
#[derive(Debug)]
pub(super) struct Forwards {
    opener: Opener,
    file: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Held over a whole change, so that two changes of one name come one after the other.
    state: Arc<Mutex<State>>,
    /// Health checks that are made at a time.
    checks: Arc<Semaphore>,
    /// The number of the last change that is in the file. Taken before `state` where both are.
    saved: Mutex<u64>,
}

#[derive(Debug, Default)]
struct State {
    exposed: BTreeMap<TunnelName, Exposure>,
    /// By where they listen, as text.
    binds: BTreeMap<String, Binding>,
    /// What was asked for and does not hold.
    unmet: BTreeMap<Wish, Unmet>,
    /// How often any of that has changed.
    changes: u64,
    /// Nothing of it is to be picked. Ends with the node.
    draining: bool,
}

/// What is offered under a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    pub(super) target: Target,
    pub(super) attributes: Attributes,
    /// How it is found out whether the target serves; without it, it is taken to.
    pub(super) health: Option<HealthCheck>,
    pub(super) weight: Weight,
}

/// What is offered, as others are told.
#[derive(Debug, Clone)]
pub(super) struct Exposed {
    pub(super) name: TunnelName,
    pub(super) tunnel: TunnelId,
    pub(super) offer: Offer,
    /// What its checks came to, if it has any.
    pub(super) health: Option<Reported>,
    /// Whether the node is drained.
    pub(super) draining: bool,
}

impl Exposed {
    /// Whether it serves, as far as that is checked, and is to be picked.
    pub(super) fn state(&self) -> Health {
        if self.draining {
            return Health::Draining;
        }
        self.health.as_ref().map_or(Health::Healthy, |reported| reported.health)
    }
}

#[derive(Debug)]
struct Exposure {
    tunnel: TunnelId,
    offer: Offer,
    keeper: Keeper,
    /// Its checks, if it has any.
    monitor: Option<Monitor>,
    /// What they have come to, as far as the mesh was told or would have been if the node were not drained.
    health: Health,
}

#[derive(Debug)]
struct Binding {
    /// Where it was asked to listen, which is where it listens but for ranges and free ports.
    asked: Listen,
    bound: Listen,
    route: Arc<Route>,
    stop: CancellationToken,
    keeper: Keeper,
    /// Empty when nobody listens there any more.
    ended: TaskTracker,
}

impl Binding {
    fn leads_to(&self, destination: &Destination, policy: Policy) -> bool {
        self.route.destination == *destination && self.route.policy == policy
    }
}

/// Who remembers a forward, and so who may take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// `forwards.json`: it was asked for at the admin API.
    Forwards,
    /// The configuration's files.
    Configuration,
}

/// Why a forward was not changed. Everything is as before, unless it could not be saved: then it holds until the
/// node stops.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    /// The mesh did not take the registration.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The address cannot be listened on, for the reason that the system gives.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: Listen,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another bind of this node has the address.
    #[error("{listen} is bound to \"{destination}\" already")]
    Bound {
        /// The address.
        listen: Listen,
        /// Where it leads.
        destination: Destination,
    },
    /// Its attributes are the mesh's own.
    #[error(transparent)]
    Reserved(#[from] Reserved),
    /// Its attributes leave no room for what the mesh says of its health.
    #[error(transparent)]
    Attributes(#[from] AttributesError),
    /// It stands in the configuration, which is where it is changed.
    #[error("{what} stands in the configuration")]
    Configured {
        /// Which tunnel or bind.
        what: String,
    },
    /// What was saved of it is nothing that this version can read.
    #[error("what was saved of it is not legal")]
    Illegal,
    /// Nothing is ever dialled there.
    #[error("{target} is never dialled: it is this node itself, or an address that is no service of anybody")]
    Forbidden {
        /// Where.
        target: Target,
    },
    /// It holds, but will not after a restart.
    #[error("the change holds only until the node stops: {0}")]
    Save(#[from] FileError),
}

impl Forwards {
    /// No forwards yet; what was saved in `file` waits for [`restore`](Self::restore).
    pub(super) fn new(opener: Opener, file: PathBuf) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let checks = Arc::new(Semaphore::new(MAX_CHECKS));
        Self { opener, file, stop, tasks, state: Arc::default(), checks, saved: Mutex::default() }
    }

    /// Lets local programs reach a destination at an address of this machine; port 0 takes a free one, a range its
    /// lowest free one. Whether anybody holds such a tunnel is found out anew by each visitor.
    pub(super) async fn bind(
        &self,
        listen: Listen,
        destination: Destination,
        policy: Policy,
    ) -> Result<Listen, ForwardError> {
        let mut state = self.state.lock().await;
        let wish = Wish::bind(&listen);
        let bound = self.listen(&mut state, listen, (destination, policy), Keeper::Forwards).await?;
        state.fulfil_wish(&wish);
        let change = state.changes;
        drop(state);
        self.save(change).await?;
        Ok(bound)
    }

    async fn listen(
        &self,
        state: &mut State,
        listen: Listen,
        (destination, policy): (Destination, Policy),
        keeper: Keeper,
    ) -> Result<Listen, ForwardError> {
        if let Some(binding) = state.binds.get(&listen.to_string()) {
            let bound = || {
                let destination = binding.route.destination.clone();
                ForwardError::Bound { listen: listen.clone(), destination }
            };
            return binding.leads_to(&destination, policy).then(|| listen.clone()).ok_or_else(bound);
        }
        let route = Arc::new(Route::new(destination, policy, listen.kind()));
        let stop = self.stop.child_token();
        let ended = TaskTracker::new();
        let started = self.serve(&listen, Arc::clone(&route), &stop, &ended).await;
        let bound = started.map_err(|source| ForwardError::Listen { listen: listen.clone(), source })?;
        ended.close();
        if let Listen::Tcp(address) = &bound {
            self.opener.targets.keep_from_tcp(address.port(), true);
        }
        let binding = Binding { asked: listen, bound: bound.clone(), route, stop, keeper, ended };
        state.binds.insert(bound.to_string(), binding);
        state.changes += 1;
        Ok(bound)
    }

    /// Begins to serve visitors, and says where.
    async fn serve(
        &self,
        listen: &Listen,
        route: Arc<Route>,
        stop: &CancellationToken,
        ended: &TaskTracker,
    ) -> io::Result<Listen> {
        let opener = self.opener.clone();
        let open = |bound: &Listen| {
            let bind: Arc<str> = bound.to_string().into();
            move |visitor: IpAddr| {
                opener.clone().open_for_visitor(Arc::clone(&route), Arc::clone(&bind), visitor)
            }
        };
        let proxy = match listen {
            Listen::Tcp(address) => ListenerProxy::bind(*address).await?,
            Listen::Ports(ip, ports) => bind_lowest(*ip, ports.clone()).await?.into(),
            Listen::Unix(path) => ListenerProxy::bind_unix(path)?,
            Listen::Udp(address) => {
                let proxy = UdpListenerProxy::bind(*address).await?;
                let bound = Listen::Udp(proxy.local_addr()?);
                let open = open(&bound);
                let serving = proxy.run(move |source| open(source.ip()), stop.clone());
                self.tasks.spawn(ended.track_future(serving));
                return Ok(bound);
            }
        };
        let bound = proxy.local_addr()?;
        self.tasks.spawn(ended.track_future(proxy.run(open(&bound), stop.clone())));
        Ok(bound)
    }

    /// Ends a bind, so that its address is free.
    async fn close(&self, binding: &Binding) {
        binding.stop.cancel();
        binding.ended.wait().await;
        self.opener.metrics.streams.forget_bind(&binding.bound.to_string());
        if let Listen::Tcp(address) = &binding.bound {
            self.opener.targets.keep_from_tcp(address.port(), false);
        }
    }

    /// Stops listening there; visitors are cut off. Says whether there was such a bind.
    pub(super) async fn unbind(&self, listen: &Listen) -> Result<bool, ForwardError> {
        let mut state = self.state.lock().await;
        let keeper = state.binds.get(&listen.to_string()).map(|binding| binding.keeper);
        refuse_configured(keeper, || format!("the bind of {listen}"))?;
        match state.binds.remove(&listen.to_string()) {
            Some(binding) => {
                self.close(&binding).await;
                state.changes += 1;
            }
            None if state.withdraw_wish(&Wish::bind(listen)) => {}
            None => return Ok(false),
        }
        let change = state.changes;
        drop(state);
        self.save(change).await?;
        Ok(true)
    }

    /// What is exposed, by name.
    pub(super) async fn exposed(&self) -> Vec<Exposed> {
        let state = self.state.lock().await;
        let exposed = state.exposed.iter();
        let exposed = exposed.map(|(name, exposure)| Exposed {
            name: name.clone(),
            tunnel: exposure.tunnel,
            offer: exposure.offer.clone(),
            health: exposure.monitor.as_ref().map(Monitor::reported),
            draining: state.draining,
        });
        exposed.collect()
    }

    /// Whether what is exposed is to be passed over.
    pub(super) async fn is_draining(&self) -> bool {
        self.state.lock().await.draining
    }

    /// What is bound, by address.
    pub(super) async fn binds(&self) -> Vec<(Listen, Arc<Route>)> {
        let state = self.state.lock().await;
        state.binds.values().map(|binding| (binding.bound.clone(), Arc::clone(&binding.route))).collect()
    }

    /// What is behind the tunnels that this node offers.
    pub(super) fn targets(&self) -> &TargetTable {
        &self.opener.targets
    }

    /// Opens a stream to the mesh, and counts it.
    pub(super) async fn open(&self, route: &Route) -> Result<TunnelStream, RouteError> {
        self.opener.open(route, None, None).await
    }

    /// Finds tunnels of the mesh.
    pub(super) fn router(&self) -> &Router {
        &self.opener.router
    }

    /// Runs something that ends with the node, if not by itself before.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Ends all binds and waits for that. What was saved stays saved.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What stands in the configuration is changed there, or it would be back after the next reload.
fn refuse_configured(keeper: Option<Keeper>, what: impl FnOnce() -> String) -> Result<(), ForwardError> {
    if keeper == Some(Keeper::Configuration) {
        return Err(ForwardError::Configured { what: what() });
    }
    Ok(())
}
