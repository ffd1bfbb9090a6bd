//! Streams to named tunnels, wherever in the mesh they are held.

use super::handle::{MeshHandle, Stopped};
use crate::daemon::PeersView;
use crate::id::{NodeId, TunnelName};
use crate::replica::Registration;
use crate::service::{OpenError, RouteAddress, open};
use crate::tunnel::TunnelStream;

/// Opens streams by the name of a tunnel.
#[derive(Debug, Clone)]
pub struct Router {
    mesh: MeshHandle,
    peers: PeersView,
}

/// Why no stream was opened. No byte of it went anywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Nobody holds a tunnel of that name, or whoever does is down.
    #[error("no node that can be reached holds a tunnel named {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// A holder is known and there is no way to it.
    #[error("node {} holds the tunnel, and no link leads there", holder.short())]
    NoWay {
        /// The last holder that was tried.
        holder: NodeId,
    },
    /// The way was there, and the stream was refused: the last of all that were tried.
    #[error("the stream was not opened")]
    Open(#[from] OpenError),
    /// The mesh has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Router {
    /// Routes by what `mesh` knows over the tunnels in `peers`.
    pub fn new(mesh: MeshHandle, peers: PeersView) -> Self {
        Self { mesh, peers }
    }

    /// Opens a stream to a tunnel of that name: the last registered one first, then the others. What is behind
    /// the tunnel has accepted the stream when this returns.
    ///
    /// # Errors
    ///
    /// [`RouteError`] of the last holder that was tried.
    pub async fn open(&self, name: &TunnelName) -> Result<TunnelStream, RouteError> {
        let mut failure = RouteError::NotFound { name: name.to_string() };
        for registration in self.mesh.lookup(name.clone()).await? {
            match self.open_at(&registration).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    tracing::debug!(%name, holder = %registration.holder, %error, "holder not reached");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn open_at(&self, registration: &Registration) -> Result<TunnelStream, RouteError> {
        let Registration { name, tunnel, holder, .. } = registration;
        let (holder, name, id) = (holder.node, name.to_string(), tunnel.to_string());
        if holder == self.mesh.node() {
            let peer =
                self.peers.tunnel(*tunnel).ok_or_else(|| RouteError::NotFound { name: name.clone() })?;
            return Ok(open(&peer.tunnel, &address(["target", &name])).await?);
        }
        if let Some(peer) = self.peers.node(holder).into_iter().next() {
            return Ok(open(&peer.tunnel, &address(["tunnel", &name, &id])).await?);
        }
        let relay = self.relay(holder).await?.and_then(|relay| self.peers.node(relay).into_iter().next());
        let relay = relay.ok_or(RouteError::NoWay { holder })?;
        let via = holder.to_string();
        Ok(open(&relay.tunnel, &address(["via", &via, "tunnel", &name, &id])).await?)
    }

    /// A node that has links both to this node and to `holder`.
    async fn relay(&self, holder: NodeId) -> Result<Option<NodeId>, Stopped> {
        let relay = self.mesh.view(move |mesh| {
            let held = mesh.replica().node(&holder)?.record.links;
            mesh.linked().find(|node| held.contains(node))
        });
        relay.await
    }
}

/// An address of short segments.
fn address<const N: usize>(segments: [&str; N]) -> RouteAddress {
    RouteAddress::from_segments(segments).expect("names and ids are far below the limit of an address")
}
