//! The daemon: tunnels come and go, are authenticated, registered, served, and cleaned up after.
//!
//! ```text
//!   attach / run ──▶ connected ──▶ authenticated ──▶ disconnected
//!                        │         in the peer view,      ▲
//!                        │         then registered        │
//!                        └── authentication failed ───────┘
//! ```
//!
//! One daemon is client and server: it does not matter who dialled, see [`crate::tunnel::Side`]. Each tunnel has a task
//! and so has each stream; they share nothing that one of them could hold up. A panic ends the stream it happens in.
//!
//! **Invariant:** a tunnel that is not authenticated is never in [`PeersView`], never registered and never served.
//!
//! **Invariant:** the peer view changes before the registry is asked, at both ends of a tunnel's life, and before the
//! event that tells of it.

mod config;
mod dropkick;
mod events;
mod life;
mod lifecycle;
mod limits;
mod pace;
mod peers;
mod source;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{AuthenticationHandler, MutualTls};
use crate::event::Snapshot;
use crate::id::TunnelId;
use crate::registry::{InMemoryTunnelRegistry, TunnelRegistry};
use crate::service::{Service, ServiceRegistry};
use crate::tunnel::{CloseReason, Closed, Tunnel, TunnelControl, TunnelSource};
use limits::Places;

pub use config::DaemonConfig;
pub use dropkick::Dropkick;
pub use events::{Coalescing, Events, RecvError, Subscription};
pub use lifecycle::{TunnelEvent, TunnelPhase, TunnelStatus, TunnelTable};
pub use limits::Limits;
pub use peers::{Peer, PeersView};
pub use source::AttachedSource;

/// Told of peers as they come and go, in the task that handles the tunnel: it must return at once and not block.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use snomesh::daemon::{ModularDaemon, Peer, TunnelObserver};
/// use snomesh::tunnel::Closed;
///
/// /// Counts who is there.
/// #[derive(Default)]
/// struct Gauge(AtomicUsize);
///
/// impl TunnelObserver for Gauge {
///     fn joined(&self, _: &Peer) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///     }
///
///     fn left(&self, _: &Peer, _: &Closed) {
///         self.0.fetch_sub(1, Ordering::Relaxed);
///     }
/// }
///
/// let daemon = ModularDaemon::builder().observer(Arc::new(Gauge::default())).build();
/// # assert!(daemon.peers().is_empty());
/// ```
///
/// Unlike an event subscription it cannot lag. Every `joined` is followed by one `left` of the same tunnel.
pub trait TunnelObserver: Send + Sync + 'static {
    /// A tunnel was authenticated and is in the peer view.
    fn joined(&self, peer: &Peer);

    /// A tunnel has ended and is no longer in the peer view.
    fn left(&self, peer: &Peer, closed: &Closed);
}

/// Why a peer was not authenticated. Its tunnel is closed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticationFailure {
    /// The handler refused the peer.
    #[error("not authenticated")]
    Refused(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The handler was not done in time.
    #[error("not authenticated in time")]
    TimedOut,
    /// The peer has as many tunnels as a node may have.
    #[error("the peer has too many tunnels")]
    TooManyTunnels,
    /// The tunnel ended meanwhile.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The handler panicked, which is its own bug.
    #[error("the authentication broke down")]
    Broken,
}

/// A tunnel was not taken; it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The daemon stops.
    #[error("shutting down")]
    ShuttingDown,
    /// The daemon has as many tunnels as it may have.
    #[error("too many tunnels")]
    TooManyTunnels,
}

/// A tunnel that was taken and is being authenticated.
#[derive(Debug)]
pub struct Attached {
    /// The id that the tunnel has been given.
    pub id: TunnelId,
    outcome: oneshot::Receiver<Result<Peer, AuthenticationFailure>>,
}

impl Attached {
    /// Waits until the peer is authenticated and in the peer view. Nobody has to wait: the tunnel goes on by itself.
    ///
    /// # Errors
    ///
    /// [`AuthenticationFailure`].
    pub async fn authenticated(self) -> Result<Peer, AuthenticationFailure> {
        self.outcome.await.unwrap_or(Err(AuthenticationFailure::Broken))
    }
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything came to its end by itself.
    Clean,
    /// Streams were cut at the deadline; then everything was cleaned up.
    Cut,
    /// So many tasks do not end even when they are told to: handlers that block, or a registry that hangs.
    Stuck(usize),
}

/// Client and server in one; clones are handles of the same daemon.
#[derive(Debug)]
pub struct ModularDaemon<R = InMemoryTunnelRegistry, S = ServiceRegistry, A = MutualTls> {
    core: Arc<Core<R, S, A>>,
}

impl<R, S, A> Clone for ModularDaemon<R, S, A> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core) }
    }
}

/// Where the ids of tunnels come from.
type TunnelIds = Arc<dyn Fn() -> TunnelId + Send + Sync>;

struct Core<R, S, A> {
    registry: R,
    services: S,
    authentication: A,
    observers: Vec<Arc<dyn TunnelObserver>>,
    config: DaemonConfig,
    ids: TunnelIds,
    peers: PeersView,
    events: Events<TunnelEvent>,
    /// What of the configuration may change.
    limits: watch::Sender<Limits>,
    /// One per tunnel that lives.
    tunnels: Arc<Places>,
    /// Every task of the daemon, so that shutdown can wait for all of them.
    tasks: TaskTracker,
    /// Nothing new: neither tunnels nor streams.
    stop: CancellationToken,
    /// Nothing old either: streams that live are cut.
    cut: CancellationToken,
}

impl<R, S, A> std::fmt::Debug for Core<R, S, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModularDaemon").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

impl ModularDaemon {
    /// Begins to put a daemon together. Left as it is, it authenticates by mutual TLS, registers in memory and serves
    /// nothing.
    pub fn builder() -> DaemonBuilder {
        DaemonBuilder {
            registry: InMemoryTunnelRegistry::new(),
            services: ServiceRegistry::new(),
            authentication: MutualTls::default(),
            observers: Vec::new(),
            config: DaemonConfig::default(),
            ids: Arc::new(random_id),
            peers: PeersView::default(),
        }
    }
}

/// Puts a [`ModularDaemon`] together.
pub struct DaemonBuilder<R = InMemoryTunnelRegistry, S = ServiceRegistry, A = MutualTls> {
    registry: R,
    services: S,
    authentication: A,
    observers: Vec<Arc<dyn TunnelObserver>>,
    config: DaemonConfig,
    ids: TunnelIds,
    peers: PeersView,
}

impl<R, S, A> std::fmt::Debug for DaemonBuilder<R, S, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaemonBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<R, S, A> DaemonBuilder<R, S, A> {
    /// Registers tunnels there.
    pub fn registry<R2: TunnelRegistry>(self, registry: R2) -> DaemonBuilder<R2, S, A> {
        let Self { services, authentication, observers, config, ids, peers, .. } = self;
        DaemonBuilder { registry, services, authentication, observers, config, ids, peers }
    }

    /// Serves these services, for instance a [`ServiceRegistry`].
    pub fn services<S2: Service + Send + Sync + 'static>(self, services: S2) -> DaemonBuilder<R, S2, A> {
        let Self { registry, authentication, observers, config, ids, peers, .. } = self;
        DaemonBuilder { registry, services, authentication, observers, config, ids, peers }
    }

    /// Authenticates tunnels so.
    pub fn authentication<A2: AuthenticationHandler>(self, authentication: A2) -> DaemonBuilder<R, S, A2> {
        let Self { registry, services, observers, config, ids, peers, .. } = self;
        DaemonBuilder { registry, services, authentication, observers, config, ids, peers }
    }

    /// Tells this observer of peers, after those that were given before.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn TunnelObserver>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Sets limits and times.
    #[must_use]
    pub fn config(mut self, config: DaemonConfig) -> Self {
        self.config = config;
        self
    }

    /// Gives tunnels these ids instead of random ones. No two tunnels of any node may have the same, ever: it is by
    /// their ids that registrations are told apart.
    #[must_use]
    pub fn tunnel_ids(mut self, ids: impl Fn() -> TunnelId + Send + Sync + 'static) -> Self {
        self.ids = Arc::new(ids);
        self
    }

    /// The peer view that the daemon is going to have, for services that look tunnels up.
    pub fn peers(&self) -> PeersView {
        self.peers.clone()
    }
}

impl<R: TunnelRegistry, S: Service + Send + Sync + 'static, A: AuthenticationHandler> DaemonBuilder<R, S, A> {
    /// Makes the daemon. It does nothing before it has tunnels.
    pub fn build(self) -> ModularDaemon<R, S, A> {
        let core = Core {
            registry: self.registry,
            services: self.services,
            authentication: self.authentication,
            observers: self.observers,
            peers: self.peers,
            events: Events::new(self.config.event_capacity),
            limits: watch::Sender::new(Limits::from(&self.config)),
            tunnels: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            config: self.config,
            ids: self.ids,
        };
        ModularDaemon { core: Arc::new(core) }
    }
}

impl<R: TunnelRegistry, S: Service + Send + Sync + 'static, A: AuthenticationHandler> ModularDaemon<R, S, A> {
    /// Takes the tunnels of a source until it has no more or the daemon stops. Several sources may run at once, of
    /// different kinds of tunnels.
    pub async fn run<T: TunnelSource>(&self, mut source: T) {
        self.take_from(&mut source).await;
    }

    async fn take_from<T: TunnelSource>(&self, source: &mut T) {
        while let Some(Some(tunnel)) = self.core.stop.run_until_cancelled(source.next()).await {
            if let Err(error) = self.attach(tunnel) {
                tracing::debug!(%error, "tunnel not taken");
            }
        }
    }

    /// Takes the tunnels of a source like [`run`](Self::run), in a task of its own, until the source has no more, it is
    /// [detached](AttachedSource::detach), or the daemon stops. Must be called in a runtime.
    pub fn attach_source<T: TunnelSource + 'static>(&self, source: T) -> AttachedSource<T> {
        AttachedSource::start(self.clone(), source, &self.core.tasks)
    }

    /// Takes one tunnel, for instance one that was dialled, and handles it from now on in a task of its own. Must be
    /// called in a runtime.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; the tunnel is closed.
    pub fn attach(&self, tunnel: impl Tunnel) -> Result<Attached, AttachError> {
        // A shutdown that begins now waits for what is attached here.
        let _waited_for = self.core.tasks.token();
        if self.core.stop.is_cancelled() {
            tunnel.close(CloseReason::ShuttingDown);
            return Err(AttachError::ShuttingDown);
        }
        let limit = self.core.limits.borrow().max_tunnels;
        let Some(place) = self.core.tunnels.try_take(limit) else {
            tunnel.close(CloseReason::TooManyTunnels);
            return Err(AttachError::TooManyTunnels);
        };
        let id = (self.core.ids)();
        let (told, outcome) = oneshot::channel();
        let life = life::live(Arc::clone(&self.core), tunnel.into_shared(), id, told);
        self.core.tasks.spawn(async move {
            life.await;
            drop(place);
        });
        Ok(Attached { id, outcome })
    }

    /// Gives it other limits from now on, also for the tunnels that it has. Those that are there stay, and so do their
    /// streams; where there are more than there may be, newcomers are turned away or wait until there are fewer.
    pub fn limit(&self, limits: Limits) {
        self.core.limits.send_replace(limits);
    }

    /// The limits that hold.
    pub fn limits(&self) -> Limits {
        *self.core.limits.borrow()
    }

    /// The tunnels that the daemon holds.
    pub fn peers(&self) -> PeersView {
        self.core.peers.clone()
    }

    /// Subscribes to what happens to tunnels from now on.
    pub fn subscribe(&self) -> Subscription<TunnelEvent> {
        self.core.events.subscribe()
    }

    /// All tunnels as they are, authenticated or not, and a subscription to what happens to them from then on: no gap and
    /// no overlap. After [`RecvError::Lagged`] ask the subscription to [`resync`](Subscription::resync).
    ///
    /// ```
    /// use snomesh::daemon::{ModularDaemon, RecvError};
    /// use snomesh::event::Published;
    ///
    /// /// Keeps a table of all tunnels that is exact whenever it has caught up.
    /// async fn follow(daemon: &ModularDaemon) {
    ///     let (snapshot, mut events) = daemon.subscribe_with_snapshot();
    ///     let mut table = snapshot.state;
    ///     loop {
    ///         match events.recv().await {
    ///             Ok((_, event)) => event.apply(&mut table),
    ///             Err(RecvError::Lagged(_)) => table = events.resync().state,
    ///             Err(_) => return,
    ///         }
    ///     }
    /// }
    /// ```
    pub fn subscribe_with_snapshot(&self) -> (Snapshot<TunnelTable>, Subscription<TunnelEvent>) {
        self.core.events.subscribe_with_snapshot()
    }

    /// Subscribes to how tunnels are after their last change, of those that `wants` takes. Cannot lag: a tunnel that
    /// changes again before it was looked at is told of once.
    pub fn coalesce(&self, wants: impl Fn(&TunnelId) -> bool + Send + 'static) -> Coalescing<TunnelEvent> {
        self.core.events.coalesce(wants)
    }

    /// The registry that tunnels are registered in.
    pub fn registry(&self) -> &R {
        &self.core.registry
    }

    /// The services that peers get.
    pub fn services(&self) -> &S {
        &self.core.services
    }

    /// Closes a tunnel. Says whether there was one.
    pub fn disconnect(&self, id: TunnelId, reason: CloseReason) -> bool {
        let peer = self.core.peers.tunnel(id);
        peer.inspect(|peer| peer.tunnel.close(reason)).is_some()
    }

    /// Stops: takes nothing new, lets streams come to their end until the configured deadline, then closes all tunnels
    /// with a reason and waits until everything is deregistered. Calling it again waits again.
    pub async fn shutdown(&self) -> Drained {
        let core = &self.core;
        core.stop.cancel();
        core.tasks.close();
        let mut drained = Drained::Clean;
        let drain_timeout = core.limits.borrow().drain_timeout;
        if timeout(drain_timeout, core.tasks.wait()).await.is_err() {
            drained = Drained::Cut;
            core.cut.cancel();
            if timeout(core.config.cut_timeout, core.tasks.wait()).await.is_err() {
                drained = Drained::Stuck(core.tasks.len());
            }
        }
        core.events.close();
        drained
    }
}

/// Draws an id that no other tunnel of any node has.
fn random_id() -> TunnelId {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness once it has booted");
    TunnelId(u64::from_be_bytes(bytes))
}

/// Turns a constant into what the configuration wants.
const fn at_least_one(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("not zero")
}
