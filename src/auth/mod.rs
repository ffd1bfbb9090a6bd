//! Who a peer is: identities, the mesh's authority, and the handshake that makes a tunnel count.
//!
//! A QUIC connection that stands is not yet an authenticated tunnel. An [`AuthenticationHandler`] makes it one: it is
//! given a fresh tunnel and gives back a name, or refuses. [`MutualTls`] takes the identity that TLS has proved and
//! exchanges hellos, so that each side knows that the other one accepts it.

mod access;
mod bearer;
mod ca;
mod decree;
mod hello;
mod identity;
mod join;
mod notary;
mod policy;
mod renew;
mod request;
mod revocation;
mod tls;
mod token;

#[cfg(test)]
pub(crate) mod test_mesh;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

use crate::id::TunnelName;
use crate::tunnel::ArcTunnel;

#[cfg(feature = "node")]
pub(crate) use ca::BACKDATED;

pub use access::Access;
pub use bearer::{BearerError, BearerSecret, BearerToken, Grant, SecretLength};
pub use ca::{CaError, MeshCa, NodeCertificate, Validity};
pub use decree::DecreeError;
pub use hello::{HelloError, MAX_HELLO, MutualTls, PROTOCOL_VERSIONS, ProtocolVersions};
pub use identity::{Identity, IdentityError};
pub use join::{JoinAnswer, JoinRefusal, JoinRequest, guest_door_tls, guest_tls};
pub use policy::{
    Act, GroupName, Judgement, Pattern, Policy, PolicyError, Rule, SignPolicyError, SignedPolicy, Who,
};
pub use renew::{PassedRenewal, RenewalError, RenewalRequest};
pub use revocation::Revocation;
pub use tls::{CredentialsError, DenyList, MeshCredentials};
pub use token::{MESH_LEN, SECRET_LEN, Token, TokenError};

/// What a handler learned of a peer: from here on the tunnel has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// The tunnel's name.
    pub name: TunnelName,
    /// What the peer told of itself, never to be changed.
    pub attributes: Arc<HashMap<String, Vec<u8>>>,
}

/// Finds out who is at the other end of a fresh tunnel.
///
/// ```
/// use std::sync::Arc;
/// use snomesh::auth::{Authenticated, AuthenticationHandler};
/// use snomesh::tunnel::{ArcTunnel, Tunnel};
/// use tokio::time::Instant;
///
/// /// Takes everybody who has proved an identity, and calls him by it.
/// struct AnyIdentity;
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("no identity")]
/// struct Anonymous;
///
/// impl AuthenticationHandler for AnyIdentity {
///     type Error = Anonymous;
///
///     async fn authenticate(&self, tunnel: &ArcTunnel, _: Instant) -> Result<Authenticated, Anonymous> {
///         let node = tunnel.identity().ok_or(Anonymous)?;
///         let name = node.to_string().parse().expect("a node id is a legal name");
///         Ok(Authenticated { name, attributes: Arc::default() })
///     }
/// }
///
/// let daemon = snomesh::daemon::ModularDaemon::builder().authentication(AnyIdentity).build();
/// # assert!(daemon.peers().is_empty());
/// ```
pub trait AuthenticationHandler: Send + Sync + 'static {
    /// Why a peer was refused.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Authenticates a tunnel that nobody else uses yet; both sides run it at the same time.
    ///
    /// The caller gives up at the deadline, whatever the handler does, and closes the tunnel after a refusal.
    fn authenticate(
        &self,
        tunnel: &ArcTunnel,
        deadline: Instant,
    ) -> impl Future<Output = Result<Authenticated, Self::Error>> + Send;
}

impl<A: AuthenticationHandler> AuthenticationHandler for Arc<A> {
    type Error = A::Error;

    fn authenticate(
        &self,
        tunnel: &ArcTunnel,
        deadline: Instant,
    ) -> impl Future<Output = Result<Authenticated, Self::Error>> + Send {
        (**self).authenticate(tunnel, deadline)
    }
}

/// Accepts every peer under one fixed name and proves nothing: for tests and for tunnels within a process.
#[derive(Debug, Clone)]
pub struct NoOp {
    name: TunnelName,
}

impl NoOp {
    /// Calls every tunnel `name`.
    pub fn named(name: TunnelName) -> Self {
        Self { name }
    }
}

impl AuthenticationHandler for NoOp {
    type Error = std::convert::Infallible;

    async fn authenticate(&self, _: &ArcTunnel, _: Instant) -> Result<Authenticated, Self::Error> {
        Ok(Authenticated { name: self.name.clone(), attributes: Arc::default() })
    }
}
