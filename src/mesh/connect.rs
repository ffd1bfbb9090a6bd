//! How the driver reaches an address.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use crate::auth::AuthenticationHandler;
use crate::daemon::{AttachError, AuthenticationFailure, ModularDaemon};
use crate::id::NodeId;
use crate::registry::TunnelRegistry;
use crate::replica::Address;
use crate::service::{OpenError, Service};
use crate::tunnel::quic::{DialError, QuicEndpoint};
use crate::tunnel::{ArcTunnel, CloseReason, TunnelControl};

/// Makes tunnels to other nodes: the production one dials by QUIC, tests may join duplex tunnels.
///
/// One that keeps a node from dialling some addresses:
///
/// ```
/// use snomesh::id::NodeId;
/// use snomesh::mesh::{ConnectError, Connector};
/// use snomesh::replica::Address;
/// use snomesh::tunnel::ArcTunnel;
///
/// struct Apart<C>(C, Vec<Address>);
///
/// impl<C: Connector> Connector for Apart<C> {
///     async fn connect(
///         &self,
///         address: &Address,
///         expect: Option<NodeId>,
///     ) -> Result<(ArcTunnel, NodeId), ConnectError> {
///         if self.1.contains(address) {
///             return Err(ConnectError::Resolve(std::io::ErrorKind::NotFound.into()));
///         }
///         self.0.connect(address, expect).await
///     }
/// }
///
/// # struct Anybody;
/// # impl Connector for Anybody {
/// #     async fn connect(&self, _: &Address, node: Option<NodeId>) -> Result<(ArcTunnel, NodeId), ConnectError> {
/// #         let (near, _far) = snomesh::tunnel::duplex::DuplexTunnel::pair();
/// #         Ok((ArcTunnel::new(near), node.unwrap_or(NodeId::from_bytes([1; 32]))))
/// #     }
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (near, far): (Address, Address) = ("10.0.0.1:7667".parse().unwrap(), "10.0.0.2:7667".parse().unwrap());
/// let apart = Apart(Anybody, vec![far.clone()]);
/// assert!(apart.connect(&near, None).await.is_ok() && apart.connect(&far, None).await.is_err());
/// # });
/// ```
pub trait Connector: Send + Sync + 'static {
    /// Reaches whoever listens at `address`, and gives back a tunnel whose peer has proved who it is.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; nothing is left behind.
    fn connect(
        &self,
        address: &Address,
        expect: Option<NodeId>,
    ) -> impl Future<Output = Result<(ArcTunnel, NodeId), ConnectError>> + Send;
}

/// Why an address was not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host's name cannot be resolved: a wrong name, or no name service.
    #[error("the address cannot be resolved")]
    Resolve(#[source] io::Error),
    /// Nobody answered, or somebody whom this node does not trust.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// This node takes no more tunnels.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The peer was not authenticated, or did not authenticate this node.
    #[error(transparent)]
    Authentication(#[from] AuthenticationFailure),
    /// The peer is no node of a mesh: it has no identity.
    #[error("the peer has no identity")]
    NoIdentity,
    /// The peer does not talk gossip.
    #[error("the peer does not take part in the mesh")]
    Gossip(#[from] OpenError),
}

/// How it goes with one address that is dialled again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialStatus {
    /// Where.
    pub address: Address,
    /// Failures in a row; zero when the last attempt succeeded.
    pub failures: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// Dials by QUIC and hands the tunnels to a daemon, which authenticates and serves them.
#[derive(Debug)]
pub struct DaemonConnector<R, S, A> {
    endpoint: QuicEndpoint,
    daemon: ModularDaemon<R, S, A>,
}

impl<R, S, A> Clone for DaemonConnector<R, S, A> {
    fn clone(&self) -> Self {
        Self { endpoint: self.endpoint.clone(), daemon: self.daemon.clone() }
    }
}

impl<R, S, A> DaemonConnector<R, S, A> {
    /// Dials from `endpoint` for `daemon`.
    pub fn new(endpoint: QuicEndpoint, daemon: ModularDaemon<R, S, A>) -> Self {
        Self { endpoint, daemon }
    }
}

impl<R, S, A> Connector for DaemonConnector<R, S, A>
where
    R: TunnelRegistry,
    S: Service + Send + Sync + 'static,
    A: AuthenticationHandler,
{
    async fn connect(
        &self,
        address: &Address,
        expect: Option<NodeId>,
    ) -> Result<(ArcTunnel, NodeId), ConnectError> {
        let resolved = tokio::net::lookup_host(address.as_str()).await.map_err(ConnectError::Resolve)?;
        let mut resolved: Vec<SocketAddr> = resolved.collect();
        if expect.is_none() {
            // Behind a seed's name may be several nodes, and resolvers that sort would have all of us meet only the first.
            let first = rand::random_range(0..resolved.len().max(1));
            resolved.rotate_left(first);
        }
        let mut last = None;
        for candidate in resolved {
            match self.endpoint.dial(candidate, expect).await {
                Ok(tunnel) => {
                    let peer = self.daemon.attach(tunnel)?.authenticated().await?;
                    let Some(node) = peer.node else {
                        peer.tunnel.close(CloseReason::Denied);
                        return Err(ConnectError::NoIdentity);
                    };
                    return Ok((peer.tunnel, node));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| ConnectError::Resolve(io::ErrorKind::NotFound.into()), ConnectError::Dial))
    }
}
