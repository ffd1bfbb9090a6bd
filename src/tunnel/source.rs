//! Where tunnels come from.

use std::future::Future;

use tokio::sync::mpsc;

use super::Tunnel;

/// Yields tunnels, one after the other, until it has no more.
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
