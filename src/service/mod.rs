//! Services: what is offered on the streams that peers open.
//!
//! Every stream begins with a [`negotiation`] that names a [`RouteAddress`]. A [`Service`] says which addresses it
//! serves; a [`ServiceRegistry`] is several of them in order, and a service itself.

pub mod address;
pub mod negotiation;
mod registry;
mod route;
mod splice;
mod target;
mod tcp;

use std::error::Error;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::tunnel::ArcTunnel;

pub use address::{AddressError, RouteAddress};
pub use negotiation::{
    NEGOTIATION_TIMEOUT, NegotiationError, OfferedStream, OpenError, Refusal, open, open_by,
};
pub use registry::ServiceRegistry;
pub use route::{RouteService, RouteTarget, TunnelLookup};
pub use splice::{SpliceError, splice_streams, splice_tcp};
pub use target::{Declared, DialTargetError, ParseTargetError, TARGET_TIMEOUT, Target, TargetTable};
pub use tcp::{ProxyError, TcpListenerProxy, TcpProxyService};

/// Any error of a service, where its type is of no further interest.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// Serves streams at some addresses.
pub trait Service: Send + Sync {
    /// How serving one stream fails. Such a failure ends that stream and nothing else.
    type Error: Into<AnyError> + Send + 'static;

    /// Whether this service is the one for an address, opened in this tunnel. Must not block.
    fn accepts(&self, address: &RouteAddress, tunnel: &ArcTunnel) -> bool;

    /// Serves one stream: first decides by [`OfferedStream::accept`] or [`OfferedStream::refuse`].
    ///
    /// Runs in a task of its own, which is ended with the tunnel.
    fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        tunnel: ArcTunnel,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

macro_rules! serve_through {
    ($($pointer:ty),*) => {$(
        impl<S: Service + ?Sized> Service for $pointer {
            type Error = S::Error;

            fn accepts(&self, address: &RouteAddress, tunnel: &ArcTunnel) -> bool {
                (**self).accepts(address, tunnel)
            }

            fn handle(
                &self,
                address: RouteAddress,
                stream: OfferedStream,
                tunnel: ArcTunnel,
            ) -> impl Future<Output = Result<(), Self::Error>> + Send {
                (**self).handle(address, stream, tunnel)
            }
        }
    )*};
}

serve_through!(&S, &mut S, Box<S>, Arc<S>);

/// A service whose errors are turned into `E`.
pub struct MappedService<S, E> {
    service: S,
    mapped: PhantomData<fn() -> E>,
}

impl<S, E> MappedService<S, E> {
    /// Maps the errors of a service.
    pub fn new(service: S) -> Self {
        Self { service, mapped: PhantomData }
    }

    /// The service as it was; give it to [`MappedService::new`] again to map otherwise.
    pub fn into_inner(mapped: Self) -> S {
        mapped.service
    }
}

impl<S: std::fmt::Debug, E> std::fmt::Debug for MappedService<S, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MappedService").field(&self.service).finish()
    }
}

impl<S, E> Service for MappedService<S, E>
where
    S: Service<Error: Into<E>>,
    E: Into<AnyError> + Send + 'static,
{
    type Error = E;

    fn accepts(&self, address: &RouteAddress, tunnel: &ArcTunnel) -> bool {
        self.service.accepts(address, tunnel)
    }

    async fn handle(&self, address: RouteAddress, stream: OfferedStream, tunnel: ArcTunnel) -> Result<(), E> {
        self.service.handle(address, stream, tunnel).await.map_err(Into::into)
    }
}
