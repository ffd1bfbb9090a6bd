//! Sources of tunnels that come and go while the daemon runs.

use std::fmt;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ModularDaemon;
use crate::auth::AuthenticationHandler;
use crate::registry::TunnelRegistry;
use crate::service::Service;
use crate::tunnel::TunnelSource;

/// A source whose tunnels a daemon takes. Dropped, it stays attached; the daemon's shutdown ends it.
pub struct AttachedSource<T> {
    stop: CancellationToken,
    /// Gives the source back.
    task: JoinHandle<T>,
}

impl<T> fmt::Debug for AttachedSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachedSource").field("is_finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl<T: TunnelSource + 'static> AttachedSource<T> {
    pub(super) fn start<R, S, A>(daemon: ModularDaemon<R, S, A>, mut source: T, tasks: &TaskTracker) -> Self
    where
        R: TunnelRegistry,
        S: Service + Send + Sync + 'static,
        A: AuthenticationHandler,
    {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tasks.spawn(async move {
            // A tunnel that comes at this moment stays with the source: waiting for one is safe to cancel.
            let _ended = stopped.run_until_cancelled(daemon.take_from(&mut source)).await;
            source
        });
        Self { stop, task }
    }

    /// Takes no more tunnels from the source and gives it back. Tunnels that it has yielded live on. Nothing if the
    /// source has panicked.
    pub async fn detach(self) -> Option<T> {
        self.stop.cancel();
        self.task.await.ok()
    }
}

impl<T> AttachedSource<T> {
    /// Whether the source has no more tunnels, or the daemon has stopped.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}
