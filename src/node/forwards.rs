//! What a node exposes to the mesh and which tunnels it lets local programs reach.
//!
//! Both are the operator's wish: they are kept in `forwards.json` and hold again after a restart.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::files::{self, FileError};
use super::loopback::Loopback;
use crate::id::{TunnelId, TunnelName};
use crate::mesh::{CommandError, MeshHandle, RouteError, Router};
use crate::replica::Attributes;
use crate::service::{Declared, OpenError, Refusal, Target, TargetTable, TcpListenerProxy};
use crate::tunnel::{CloseReason, Closed, TunnelStream};

/// What is needed to open a stream by name from this node.
#[derive(Debug, Clone)]
pub(super) struct Opener {
    pub(super) mesh: MeshHandle,
    pub(super) router: Router,
    pub(super) loopback: Loopback,
    pub(super) targets: TargetTable,
}

impl Opener {
    /// Opens a stream to the last registered tunnel of that name that can be reached; to a service of this node
    /// without a network.
    async fn open(&self, name: TunnelName) -> Result<TunnelStream, RouteError> {
        let found = self.mesh.lookup(name.clone()).await?;
        let ours = found.iter().position(|found| found.holder.node == self.mesh.node());
        let Some(ours) = ours.filter(|_| self.targets.find(&name).is_some()) else {
            return self.router.open(&name).await;
        };
        if ours > 0 {
            if let Ok(stream) = self.router.open(&name).await {
                return Ok(stream);
            }
            return Ok(self.loopback.open(&name).await?);
        }
        match self.loopback.open(&name).await {
            Ok(stream) => Ok(stream),
            Err(_unreachable) if found.len() > 1 => self.router.open(&name).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The same for a visitor of a bind, whose end is told in the terms of a stream.
    async fn open_for_visitor(self, name: TunnelName) -> Result<TunnelStream, OpenError> {
        let shown = name.clone();
        self.open(name).await.map_err(|error| {
            let described: &dyn std::error::Error = &error;
            tracing::info!(tunnel = %shown, error = described, "visitor not served");
            match error {
                RouteError::Open(error) => error,
                RouteError::NotFound { .. } => OpenError::Refused(Refusal::NotFound),
                RouteError::NoWay { .. } => OpenError::Refused(Refusal::TargetUnreachable),
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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    exposed: BTreeMap<TunnelName, Exposure>,
    binds: BTreeMap<SocketAddr, Binding>,
}

#[derive(Debug)]
struct Exposure {
    target: Target,
    tunnel: TunnelId,
    attributes: Attributes,
}

#[derive(Debug)]
struct Binding {
    tunnel: TunnelName,
    stop: CancellationToken,
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
    tunnel: String,
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
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another bind of this node has the address.
    #[error("{listen} is bound to tunnel \"{tunnel}\" already")]
    Bound {
        /// The address.
        listen: SocketAddr,
        /// Where it leads.
        tunnel: TunnelName,
    },
    /// It holds, but will not after a restart.
    #[error("the change holds only until the node stops: {0}")]
    Save(#[from] FileError),
}

impl Forwards {
    /// No forwards yet; what was saved in `file` waits for [`restore`](Self::restore).
    pub(super) fn new(opener: Opener, file: PathBuf) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { opener, file, stop, tasks, state: Mutex::default() }
    }

    /// Takes up again what held when the node stopped. What does not hold any more is said and left out.
    pub(super) async fn restore(&self) {
        let saved: Saved = match files::read(&self.file) {
            Ok(None) => return,
            Ok(Some(text)) => match serde_json::from_str(&text) {
                Ok(saved) => saved,
                Err(error) => {
                    tracing::warn!(file = %self.file.display(), %error, "forwards are damaged and not taken up");
                    return;
                }
            },
            Err(error) => {
                tracing::warn!(%error, "forwards are not taken up");
                return;
            }
        };
        for SavedExposure { name, target, attributes } in saved.exposed {
            let (Ok(name), Ok(target), Ok(attributes)) =
                (name.parse(), target.parse(), Attributes::new(attributes))
            else {
                tracing::warn!(?name, "a saved exposure is not legal and not taken up");
                continue;
            };
            if let Err(error) = self.expose(name, target, attributes).await {
                tracing::warn!(%error, "a service is not exposed again");
            }
        }
        for SavedBind { listen, tunnel } in saved.binds {
            let (Ok(listen), Ok(tunnel)) = (listen.parse(), tunnel.parse()) else {
                tracing::warn!(?listen, "a saved bind is not legal and not taken up");
                continue;
            };
            if let Err(error) = self.bind(listen, tunnel).await {
                tracing::warn!(%error, "a tunnel is not bound again");
            }
        }
    }

    /// Offers a local service to the mesh. A name that this node exposes already leads to the new target.
    pub(super) async fn expose(
        &self,
        name: TunnelName,
        target: Target,
        attributes: Attributes,
    ) -> Result<TunnelId, ForwardError> {
        let mut state = self.state.lock().await;
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
        state.exposed.insert(name, Exposure { target, tunnel, attributes });
        self.save(&state)?;
        Ok(tunnel)
    }

    /// Takes an offer back; streams that are open go on. Says whether there was one.
    pub(super) async fn unexpose(&self, name: &TunnelName) -> Result<bool, ForwardError> {
        let mut state = self.state.lock().await;
        let Some(exposure) = state.exposed.get(name) else { return Ok(false) };
        self.opener.mesh.deregister(name.clone(), exposure.tunnel).await?;
        self.opener.targets.withdraw(name);
        state.exposed.remove(name);
        self.save(&state)?;
        Ok(true)
    }

    /// Lets local programs reach a tunnel at an address of this machine; port 0 takes a free one. Whether anybody
    /// holds such a tunnel is found out anew by each visitor.
    pub(super) async fn bind(
        &self,
        listen: SocketAddr,
        tunnel: TunnelName,
    ) -> Result<SocketAddr, ForwardError> {
        let mut state = self.state.lock().await;
        if let Some(binding) = state.binds.get(&listen) {
            let same = binding.tunnel == tunnel;
            let bound = || ForwardError::Bound { listen, tunnel: binding.tunnel.clone() };
            return same.then_some(listen).ok_or_else(bound);
        }
        let failed = |source| ForwardError::Listen { listen, source };
        let proxy = TcpListenerProxy::bind(listen).await.map_err(failed)?;
        let bound = proxy.local_addr().map_err(failed)?;
        let stop = self.stop.child_token();
        let (opener, name) = (self.opener.clone(), tunnel.clone());
        let open = move || opener.clone().open_for_visitor(name.clone());
        self.tasks.spawn(proxy.run(open, stop.clone()));
        state.binds.insert(bound, Binding { tunnel, stop });
        self.save(&state)?;
        Ok(bound)
    }

    /// Stops listening there; visitors are cut off. Says whether there was such a bind.
    pub(super) async fn unbind(&self, listen: SocketAddr) -> Result<bool, ForwardError> {
        let mut state = self.state.lock().await;
        let Some(binding) = state.binds.remove(&listen) else { return Ok(false) };
        binding.stop.cancel();
        self.save(&state)?;
        Ok(true)
    }

    /// What is exposed, by name.
    pub(super) async fn exposed(&self) -> Vec<(TunnelName, Target, TunnelId)> {
        let state = self.state.lock().await;
        let exposed = state.exposed.iter();
        exposed.map(|(name, exposed)| (name.clone(), exposed.target.clone(), exposed.tunnel)).collect()
    }

    /// What is bound, by address.
    pub(super) async fn binds(&self) -> Vec<(SocketAddr, TunnelName)> {
        let state = self.state.lock().await;
        state.binds.iter().map(|(listen, binding)| (*listen, binding.tunnel.clone())).collect()
    }

    /// Ends all binds and waits for that. What was saved stays saved.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn save(&self, state: &State) -> Result<(), FileError> {
        let exposed = state.exposed.iter().map(|(name, exposure)| SavedExposure {
            name: name.to_string(),
            target: exposure.target.to_string(),
            attributes: exposure.attributes.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        });
        let binds = state.binds.iter().map(|(listen, binding)| SavedBind {
            listen: listen.to_string(),
            tunnel: binding.tunnel.to_string(),
        });
        let saved = Saved { exposed: exposed.collect(), binds: binds.collect() };
        let text = serde_json::to_string_pretty(&saved).expect("texts and numbers are JSON");
        files::write(&self.file, &text, 0o600)
    }
}

/// Draws an id that no other tunnel of any node has.
fn draw_tunnel() -> TunnelId {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness once it has booted");
    TunnelId(u64::from_be_bytes(bytes))
}
