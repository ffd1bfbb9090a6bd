//! Tunnels straight to holders that no link leads to.
//!
//! In a mesh too large for a full one a holder may be several links away. Passing streams on from node to node would have
//! each of them pay for it; so the node that needs the tunnel makes one for itself, to the holder or, where the holder
//! cannot be called, to one of its neighbours. It carries streams and no gossip, and goes when nothing has used it for a
//! while.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::id::NodeId;
use crate::mesh::connect::{ConnectError, Connector};
use crate::replica::Address;
use crate::tunnel::{ArcTunnel, CloseReason, Tunnel, TunnelControl, TunnelMonitoring};

/// How long a shortcut stays that no stream uses, and how often it is looked.
const IDLE: Duration = Duration::from_secs(30);
/// How long nothing is tried where nobody was reached.
const PAUSE: Duration = Duration::from_secs(5);
/// How many addresses are tried for one holder, and how long each may take.
pub(super) const MAX_ADDRESSES: usize = 6;
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

type Dialling = Pin<Box<dyn Future<Output = Result<ArcTunnel, ConnectError>> + Send>>;
/// An attempt for one holder, which all who need it wait for: whether somebody was reached, and when that was known.
type Attempt = Arc<OnceCell<(bool, Instant)>>;

/// Makes shortcuts, one at a time for each holder.
#[derive(Clone)]
pub(super) struct Shortcuts {
    dial: Arc<dyn Fn(Address, NodeId) -> Dialling + Send + Sync>,
    attempts: Arc<Mutex<BTreeMap<NodeId, Attempt>>>,
    idle: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Shortcuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shortcuts").finish_non_exhaustive()
    }
}

impl Shortcuts {
    /// Dials by `connector`. What keeps shortcuts runs in `tasks` and ends with `stop`.
    pub(super) fn new<C: Connector>(connector: C, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let connector = Arc::new(connector);
        let dial = move |address: Address, node: NodeId| -> Dialling {
            let connector = Arc::clone(&connector);
            Box::pin(async move { Ok(connector.connect(&address, Some(node)).await?.0) })
        };
        Self { dial: Arc::new(dial), attempts: Arc::default(), idle: IDLE, tasks: tasks.clone(), stop }
    }

    #[cfg(test)]
    pub(super) fn with_idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Reaches a holder, or whoever of these answers first; says whether anybody did.
    pub(super) async fn make(&self, holder: NodeId, addresses: &[(NodeId, Address)]) -> bool {
        let attempt = self.attempt(holder);
        let (reached, _) =
            attempt.get_or_init(async || (self.reach(holder, addresses).await, Instant::now())).await;
        if *reached {
            // The tunnel is there: the next one who finds none makes another.
            self.forget(&holder, &attempt);
        }
        *reached
    }

    /// The attempt under way, or the last one if it failed a moment ago.
    fn attempt(&self, holder: NodeId) -> Attempt {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.retain(|_, attempt| attempt.get().is_none_or(|(_, at)| at.elapsed() < PAUSE));
        Arc::clone(attempts.entry(holder).or_default())
    }

    fn forget(&self, holder: &NodeId, done: &Attempt) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.get(holder).is_some_and(|attempt| Arc::ptr_eq(attempt, done)) {
            attempts.remove(holder);
        }
    }

    async fn reach(&self, holder: NodeId, addresses: &[(NodeId, Address)]) -> bool {
        for (node, address) in addresses.iter().take(MAX_ADDRESSES) {
            match tokio::time::timeout(DIAL_TIMEOUT, (self.dial)(address.clone(), *node)).await {
                Ok(Ok(tunnel)) => {
                    tracing::debug!(holder = %holder.short(), node = %node.short(), %address, "shortcut made");
                    self.tasks.spawn(self.clone().keep(tunnel));
                    return true;
                }
                Ok(Err(error)) => tracing::debug!(node = %node.short(), %address, %error, "no shortcut"),
                Err(_elapsed) => tracing::debug!(node = %node.short(), %address, "no shortcut in time"),
            }
        }
        false
    }

    /// Closes a shortcut that nothing has used for a while.
    async fn keep(self, tunnel: ArcTunnel) {
        let unused = async {
            let mut unused_since = Instant::now();
            while unused_since.elapsed() < self.idle {
                sleep(self.idle / 4).await;
                if tunnel.streams() > 0 {
                    unused_since = Instant::now();
                }
            }
            // No stream begins on it any more; one that has just begun comes to its end.
            tunnel.retire();
            while tunnel.streams() > 0 {
                sleep(self.idle / 4).await;
            }
        };
        let reason = tokio::select! {
            () = unused => CloseReason::Superseded,
            () = self.stop.cancelled() => CloseReason::ShuttingDown,
            _closed = tunnel.on_closed() => return,
        };
        tunnel.close(reason);
    }
}
