//! Where tunnels come from.

use std::future::Future;

use tokio::sync::mpsc;

use super::Tunnel;

/// Yields tunnels, one after the other, until it has no more.
///
/// ```
/// use snomesh::daemon::ModularDaemon;
/// use snomesh::tunnel::TunnelSource;
/// use snomesh::tunnel::duplex::DuplexTunnel;
///
/// /// Yields one tunnel.
/// struct Once(Option<DuplexTunnel>);
///
/// impl TunnelSource for Once {
///     type Tunnel = DuplexTunnel;
///
///     async fn next(&mut self) -> Option<DuplexTunnel> {
///         self.0.take()
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let daemon = ModularDaemon::builder().build();
/// daemon.run(Once(Some(DuplexTunnel::pair().1))).await;
/// # });
/// ```
pub trait TunnelSource: Send {
    /// The tunnels that it yields.
    type Tunnel: Tunnel;

    /// Waits for the next tunnel; `None` if there will be none. Safe to cancel.
    fn next(&mut self) -> impl Future<Output = Option<Self::Tunnel>> + Send;
}

impl<T: Tunnel> TunnelSource for mpsc::Receiver<T> {
    type Tunnel = T;

    async fn next(&mut self) -> Option<T> {
        self.recv().await
    }
}
