//! What a node exposes to the mesh and which tunnels it lets local programs reach.
//!
//! Both are the operator's wish: they are kept in `forwards.json` and hold again after a restart.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::files::{self, FileError};
use super::metrics::Metrics;
use crate::id::{TunnelId, TunnelName};
use crate::mesh::{CommandError, Destination, MeshHandle, Policy, Route, RouteError, Router};
use crate::replica::Attributes;
use crate::service::{
    Declared, Listen, ListenerProxy, OpenError, Refusal, Target, TargetTable, UdpListenerProxy, bind_lowest,
};
use crate::store;

use crate::tunnel::{CloseReason, Closed, TunnelStream};

/// The longest file of forwards that is read, in bytes: some hundred thousand of them.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// What is needed to open a stream from this node.
#[derive(Debug, Clone)]
pub(super) struct Opener {
    pub(super) mesh: MeshHandle,
    pub(super) router: Router,
    pub(super) targets: TargetTable,
    pub(super) metrics: Arc<Metrics>,
}

impl Opener {
    /// Opens a stream for a visitor of a bind, whose end is told in the terms of a stream.
    async fn open_for_visitor(self, route: Arc<Route>, visitor: IpAddr) -> Result<TunnelStream, OpenError> {
        let opened = self.router.open(&route, Some(visitor)).await;
        self.metrics.opened(&route.destination.to_string(), result_of(&opened));
        opened.map_err(|error| {
            let described: &dyn std::error::Error = &error;
            tracing::info!(destination = %route.destination, error = described, "visitor not served");
            match error {
                RouteError::Open(error) => error,
                RouteError::NotFound { .. } => OpenError::Refused(Refusal::NotFound),
                RouteError::NotPermitted { .. } => OpenError::Refused(Refusal::NotPermitted),
                RouteError::NoWay { .. } => OpenError::Refused(Refusal::TargetUnreachable),
                RouteError::Stopped(_) => OpenError::Closed(Closed::Locally(CloseReason::ShuttingDown)),
            }
        })
    }
}

/// How an attempt went, in a word.
fn result_of(opened: &Result<TunnelStream, RouteError>) -> &'static str {
    match opened {
        Ok(_) => "ok",
        Err(RouteError::NotFound { .. }) => "not_found",
        Err(RouteError::NoWay { .. }) => "no_route",
        Err(
            RouteError::NotPermitted { .. } | RouteError::Open(OpenError::Refused(Refusal::NotPermitted)),
        ) => "acl",
        Err(RouteError::Open(OpenError::Refused(_))) => "refused",
        Err(RouteError::Open(_)) => "failed",
        Err(RouteError::Stopped(_)) => "stopped",
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
    state: Mutex<State>,
    /// The number of the last change that is in the file. Taken before `state` where both are.
    saved: Mutex<u64>,
}

#[derive(Debug, Default)]
struct State {
    exposed: BTreeMap<TunnelName, Exposure>,
    /// By where they listen, as text.
    binds: BTreeMap<String, Binding>,
    /// How often any of that has changed.
    changes: u64,
}

#[derive(Debug)]
struct Exposure {
    target: Target,
    tunnel: TunnelId,
    attributes: Attributes,
    keeper: Keeper,
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

/// What the configuration wants to be forwarded.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) tunnels: BTreeMap<TunnelName, (Target, Attributes)>,
    /// By where to listen, as text.
    pub(super) binds: BTreeMap<String, (Listen, Destination, Policy)>,
}

/// What a configuration changed, a sentence each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) done: Vec<String>,
    pub(super) failed: Vec<String>,
}

/// `forwards.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    exposed: Vec<SavedExposure>,
    binds: Vec<SavedBind>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedExposure {
    name: String,
    target: String,
    attributes: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedBind {
    listen: String,
    /// A destination; older files have names here, which are destinations too.
    tunnel: String,
    #[serde(default)]
    policy: Option<String>,
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
    /// It stands in the configuration, which is where it is changed.
    #[error("{what} stands in the configuration")]
    Configured {
        /// Which tunnel or bind.
        what: String,
    },
    /// It holds, but will not after a restart.
    #[error("the change holds only until the node stops: {0}")]
    Save(#[from] FileError),
}

impl Forwards {
    /// No forwards yet; what was saved in `file` waits for [`restore`](Self::restore).
    pub(super) fn new(opener: Opener, file: PathBuf) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { opener, file, stop, tasks, state: Mutex::default(), saved: Mutex::default() }
    }

    /// Takes up again what held when the node stopped. What does not hold any more is said and left out.
    pub(super) async fn restore(&self) {
        let saved: Saved = match files::read_up_to(&self.file, MAX_FILE) {
            Ok(None) => return,
            Ok(Some(text)) => match serde_json::from_str(&text) {
                Ok(saved) => saved,
                Err(error) => return self.set_aside(&error),
            },
            Err(error) => return self.set_aside(&error),
        };
        for SavedExposure { name, target, attributes } in saved.exposed {
            let (Ok(name), Ok(target), Ok(attributes)) =
                (name.parse(), target.parse(), Attributes::new(attributes))
            else {
                tracing::warn!(?name, "a saved exposure is not legal and not taken up");
                continue;
            };
            let offer = (name, target, attributes);
            if let Err(error) = self.offer(&mut *self.state.lock().await, offer, Keeper::Forwards).await {
                tracing::warn!(%error, "a service is not exposed again");
            }
        }
        for SavedBind { listen, tunnel, policy } in saved.binds {
            let policy = policy.map_or_else(|| Ok(Policy::default()), |policy| policy.parse());
            let (Ok(listen), Ok(destination), Ok(policy)) = (listen.parse(), tunnel.parse(), policy) else {
                tracing::warn!(?listen, "a saved bind is not legal and not taken up");
                continue;
            };
            let mut state = self.state.lock().await;
            if let Err(error) = self.listen(&mut state, listen, (destination, policy), Keeper::Forwards).await
            {
                tracing::warn!(%error, "a tunnel is not bound again");
            }
        }
    }

    /// What cannot be taken up is not written over by the next change either.
    fn set_aside(&self, error: &dyn std::error::Error) {
        match store::set_aside(&self.file) {
            Ok(aside) => {
                let aside = aside.unwrap_or_default();
                tracing::error!(%error, aside = %aside.display(), "forwards cannot be read: they are kept aside");
            }
            Err(kept) => tracing::error!(%error, %kept, "forwards cannot be read and are not taken up"),
        }
    }

    /// Makes what the configuration wants hold, by difference: what is as it was is not touched.
    pub(super) async fn configure(&self, wanted: &Wanted) -> Applied {
        let mut applied = Applied::default();
        let mut note = |done: String, outcome: Result<(), ForwardError>| match outcome {
            Ok(()) => applied.done.push(done),
            Err(error) => applied.failed.push(format!("not {done}: {error}")),
        };
        let mut state = self.state.lock().await;
        let configured = |keeper: &Keeper| *keeper == Keeper::Configuration;
        let gone = state.exposed.iter().filter(|(_, exposure)| configured(&exposure.keeper));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone.iter().filter(|name| !wanted.tunnels.contains_key(*name)) {
            note(format!("tunnel \"{name}\" taken back"), self.withdraw(&mut state, name).await);
        }
        let gone = state.binds.iter().filter(|(_, binding)| configured(&binding.keeper));
        let gone = gone.filter(|(_, binding)| {
            let wanted = wanted.binds.get(&binding.asked.to_string());
            !wanted.is_some_and(|(_, destination, policy)| binding.leads_to(destination, *policy))
        });
        let gone: Vec<_> = gone.map(|(listen, _)| listen.clone()).collect();
        for listen in &gone {
            if let Some(binding) = state.binds.remove(listen) {
                self.close(&binding).await;
                state.changes += 1;
                note(format!("bind {listen} taken back"), Ok(()));
            }
        }
        for (name, (target, attributes)) in &wanted.tunnels {
            let same = state.exposed.get(name).is_some_and(|exposure| {
                configured(&exposure.keeper)
                    && exposure.target == *target
                    && exposure.attributes == *attributes
            });
            if !same {
                let offer = (name.clone(), target.clone(), attributes.clone());
                let outcome = self.offer(&mut state, offer, Keeper::Configuration).await;
                note(format!("tunnel \"{name}\" offered at {target}"), outcome.map(drop));
            }
        }
        for (listen, destination, policy) in wanted.binds.values() {
            let holds = |binding: &Binding| configured(&binding.keeper) && binding.asked == *listen;
            if !state.binds.values().any(holds) {
                let route = (destination.clone(), *policy);
                let outcome = self.listen(&mut state, listen.clone(), route, Keeper::Configuration).await;
                note(format!("bind {listen} to \"{destination}\" made"), outcome.map(drop));
            }
        }
        let change = state.changes;
        drop(state);
        if let Err(error) = self.save(change).await {
            applied.failed.push(format!("not saved: {error}"));
        }
        applied
    }

    /// Offers a local service to the mesh. A name that this node exposes already leads to the new target.
    pub(super) async fn expose(
        &self,
        name: TunnelName,
        target: Target,
        attributes: Attributes,
    ) -> Result<TunnelId, ForwardError> {
        let mut state = self.state.lock().await;
        refuse_configured(state.exposed.get(&name).map(|exposure| exposure.keeper), || {
            format!("tunnel \"{name}\"")
        })?;
        let tunnel = self.offer(&mut state, (name, target, attributes), Keeper::Forwards).await?;
        let change = state.changes;
        drop(state);
        self.save(change).await?;
        Ok(tunnel)
    }

    async fn offer(
        &self,
        state: &mut State,
        (name, target, attributes): (TunnelName, Target, Attributes),
        keeper: Keeper,
    ) -> Result<TunnelId, ForwardError> {
        let known = state.exposed.get(&name).map(|exposure| exposure.tunnel);
        let tunnel = known.unwrap_or_else(draw_tunnel);
        let declared = Declared { target: target.clone(), id: Some(tunnel) };
        let before = self.opener.targets.declare(name.clone(), declared);
        let registered = self.opener.mesh.register(name.clone(), tunnel, attributes.clone()).await;
        if let Err(error) = registered {
            match before {
                Some(before) => self.opener.targets.declare(name, before),
                None => self.opener.targets.withdraw(&name),
            };
            return Err(error.into());
        }
        state.exposed.insert(name, Exposure { target, tunnel, attributes, keeper });
        state.changes += 1;
        Ok(tunnel)
    }

    /// Takes an offer back; streams that are open go on. Says whether there was one.
    pub(super) async fn unexpose(&self, name: &TunnelName) -> Result<bool, ForwardError> {
        let mut state = self.state.lock().await;
        let Some(exposure) = state.exposed.get(name) else { return Ok(false) };
        refuse_configured(Some(exposure.keeper), || format!("tunnel \"{name}\""))?;
        self.withdraw(&mut state, name).await?;
        let change = state.changes;
        drop(state);
        self.save(change).await?;
        Ok(true)
    }

    async fn withdraw(&self, state: &mut State, name: &TunnelName) -> Result<(), ForwardError> {
        if let Some(exposure) = state.exposed.get(name) {
            self.opener.mesh.deregister(name.clone(), exposure.tunnel).await?;
            self.opener.targets.withdraw(name);
            state.exposed.remove(name);
            state.changes += 1;
        }
        Ok(())
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
        let bound = self.listen(&mut state, listen, (destination, policy), Keeper::Forwards).await?;
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
        let open = move |visitor: IpAddr| opener.clone().open_for_visitor(Arc::clone(&route), visitor);
        let proxy = match listen {
            Listen::Tcp(address) => ListenerProxy::bind(*address).await?,
            Listen::Ports(ip, ports) => bind_lowest(*ip, ports.clone()).await?.into(),
            Listen::Unix(path) => ListenerProxy::bind_unix(path)?,
            Listen::Udp(address) => {
                let proxy = UdpListenerProxy::bind(*address).await?;
                let bound = proxy.local_addr()?;
                let serving = proxy.run(move |source| open(source.ip()), stop.clone());
                self.tasks.spawn(ended.track_future(serving));
                return Ok(Listen::Udp(bound));
            }
        };
        let bound = proxy.local_addr()?;
        self.tasks.spawn(ended.track_future(proxy.run(open, stop.clone())));
        Ok(bound)
    }

    /// Ends a bind, so that its address is free.
    async fn close(&self, binding: &Binding) {
        binding.stop.cancel();
        binding.ended.wait().await;
        if let Listen::Tcp(address) = &binding.bound {
            self.opener.targets.keep_from_tcp(address.port(), false);
        }
    }

    /// Stops listening there; visitors are cut off. Says whether there was such a bind.
    pub(super) async fn unbind(&self, listen: &Listen) -> Result<bool, ForwardError> {
        let mut state = self.state.lock().await;
        let keeper = state.binds.get(&listen.to_string()).map(|binding| binding.keeper);
        refuse_configured(keeper, || format!("the bind of {listen}"))?;
        let Some(binding) = state.binds.remove(&listen.to_string()) else { return Ok(false) };
        self.close(&binding).await;
        state.changes += 1;
        let change = state.changes;
        drop(state);
        self.save(change).await?;
        Ok(true)
    }

    /// What is exposed, by name.
    pub(super) async fn exposed(&self) -> Vec<(TunnelName, Target, TunnelId)> {
        let state = self.state.lock().await;
        let exposed = state.exposed.iter();
        exposed.map(|(name, exposed)| (name.clone(), exposed.target.clone(), exposed.tunnel)).collect()
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

    /// Opens streams to the mesh.
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

    /// Saves a change, unless somebody has saved it meanwhile along with a later one: changes that come together cost one
    /// file.
    async fn save(&self, change: u64) -> Result<(), FileError> {
        let mut saved = self.saved.lock().await;
        if *saved >= change {
            return Ok(());
        }
        let (changes, text) = {
            let state = self.state.lock().await;
            (state.changes, state.text())
        };
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || files::write(&file, &text, 0o600));
        written.await.expect("writing a file does not panic")?;
        *saved = changes;
        Ok(())
    }
}

impl State {
    /// What of it is kept in the file.
    fn text(&self) -> String {
        let ours = |keeper: Keeper| keeper == Keeper::Forwards;
        let exposed = self.exposed.iter().filter(|(_, exposure)| ours(exposure.keeper));
        let exposed = exposed.map(|(name, exposure)| SavedExposure {
            name: name.to_string(),
            target: exposure.target.to_string(),
            attributes: exposure.attributes.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        });
        let binds = self.binds.values().filter(|binding| ours(binding.keeper));
        let binds = binds.map(|binding| SavedBind {
            // A free port stays the same one after a restart; of a range it is again the lowest.
            listen: match &binding.asked {
                range @ Listen::Ports(..) => range.to_string(),
                Listen::Tcp(_) | Listen::Udp(_) | Listen::Unix(_) => binding.bound.to_string(),
            },
            tunnel: binding.route.destination.to_string(),
            policy: Some(binding.route.policy.to_string()),
        });
        let saved = Saved { exposed: exposed.collect(), binds: binds.collect() };
        serde_json::to_string(&saved).expect("texts and numbers are JSON")
    }
}

/// What stands in the configuration is changed there, or it would be back after the next reload.
fn refuse_configured(keeper: Option<Keeper>, what: impl FnOnce() -> String) -> Result<(), ForwardError> {
    if keeper == Some(Keeper::Configuration) {
        return Err(ForwardError::Configured { what: what() });
    }
    Ok(())
}

/// Draws an id that no other tunnel of any node has.
fn draw_tunnel() -> TunnelId {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness once it has booted");
    TunnelId(u64::from_be_bytes(bytes))
}
