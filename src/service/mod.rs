//! Services: what is offered on the streams that peers open.
//!
//! Every stream begins with a [`negotiation`] that names a [`RouteAddress`]. A [`Service`] says which addresses it
//! serves; a [`ServiceRegistry`] is several of them in order, and a service itself.

pub mod address;
mod alone;
mod client;
mod datagram;
mod listener;
mod loopback;
pub mod negotiation;
mod program;
mod proxy;
mod registry;
mod route;
mod socket;
mod splice;
mod target;

use std::error::Error;
use std::future::Future;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use crate::tunnel::ArcTunnel;

pub use address::{AddressError, RouteAddress};
pub use client::{Client, Request, RequestError};
pub use datagram::{IDLE_TIMEOUT, UdpListenerProxy};
pub use listener::{Listen, ListenerProxy, ParseListenError, bind_lowest};
pub use loopback::Loopback;
pub use negotiation::{
    Dialect, NEGOTIATION_TIMEOUT, NegotiationError, OfferedStream, OpenError, Refusal, open, open_by, receive,
};
pub use program::{ParseProgramError, Program};
pub use proxy::{ProxyError, TargetService};
pub use registry::ServiceRegistry;
pub use route::{Kind, RouteService, RouteTarget, TunnelLookup};
pub use socket::LocalSocket;
pub use splice::{SpliceError, splice, splice_streams};
pub use target::{
    Declared, DialTargetError, HostPort, ParseTargetError, TARGET_TIMEOUT, Target, TargetObserver,
    TargetTable,
};

/// Any error of a service, where its type is of no further interest.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// Serves streams at some addresses.
///
/// ```
/// use snomesh::service::{OfferedStream, RouteAddress, Service, ServiceRegistry};
/// use snomesh::tunnel::ArcTunnel;
///
/// /// Sends back what it gets.
/// struct Echo;
///
/// impl Service for Echo {
///     type Error = std::io::Error;
///
///     fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
///         address.segments() == ["echo"]
///     }
///
///     async fn handle(
///         &self,
///         _: RouteAddress,
///         stream: OfferedStream,
///         _: ArcTunnel,
///     ) -> Result<(), std::io::Error> {
///         let mut stream = stream.accept().await?;
///         tokio::io::copy(&mut stream.recv, &mut stream.send).await?;
///         Ok(stream.send.finish()?)
///     }
/// }
///
/// let services = ServiceRegistry::new().with(Echo);
/// # drop(services);
/// ```
pub trait Service {
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

serve_through!(&S, &mut S, Box<S>, Rc<S>, Arc<S>);

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

    fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        tunnel: ArcTunnel,
    ) -> impl Future<Output = Result<(), E>> + Send {
        // The future is the service's: it may be sent even where the service itself may not be shared.
        let handled = self.service.handle(address, stream, tunnel);
        async move { handled.await.map_err(Into::into) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::TunnelDownlink;
    use crate::tunnel::duplex::DuplexTunnel;

    /// Serves one address, and fails with a number once it has accepted.
    struct Numbered(&'static str, u32);

    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    #[error("failure {0}")]
    struct Failure(u32);

    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    #[error("mapped")]
    struct Mapped(#[from] Failure);

    impl Service for Numbered {
        type Error = Failure;

        fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
            address.segments() == [self.0]
        }

        async fn handle(&self, _: RouteAddress, _: OfferedStream, _: ArcTunnel) -> Result<(), Failure> {
            Err(Failure(self.1))
        }
    }

    /// What serving one stream at an address comes to.
    async fn outcome<S: Service>(service: &S, text: &str) -> Result<(), S::Error> {
        let (near, far) = DuplexTunnel::pair();
        let address: RouteAddress = text.parse().unwrap();
        let deadline = tokio::time::Instant::now() + NEGOTIATION_TIMEOUT;
        let serve = async {
            let stream = far.incoming().await.unwrap().accept().await.unwrap();
            let (asked, offered) = receive(stream, deadline).await.unwrap();
            let tunnel = ArcTunnel::new(far.clone());
            assert!(service.accepts(&asked, &tunnel));
            service.handle(asked, offered, tunnel).await
        };
        let (opened, served) = tokio::join!(open(&near, &address), serve);
        opened.unwrap_err();
        served
    }

    /// FEATURES S17.
    #[tokio::test]
    async fn a_service_serves_through_every_kind_of_pointer() {
        let mut service = Numbered("x", 1);
        assert_eq!(outcome(&&service, "/x").await, Err(Failure(1)));
        assert_eq!(outcome(&&mut service, "/x").await, Err(Failure(1)));
        assert_eq!(outcome(&Box::new(service), "/x").await, Err(Failure(1)));
        assert_eq!(outcome(&Arc::new(Numbered("x", 2)), "/x").await, Err(Failure(2)));
        assert_eq!(outcome(&Rc::new(Numbered("x", 3)), "/x").await, Err(Failure(3)));
    }

    /// FEATURES S16.
    #[tokio::test]
    async fn a_mapped_service_can_be_mapped_again() {
        let mapped = MappedService::<_, Mapped>::new(Numbered("x", 1));
        assert_eq!(outcome(&mapped, "/x").await, Err(Mapped(Failure(1))));
        let again = MappedService::<_, AnyError>::new(MappedService::into_inner(mapped));
        assert_eq!(outcome(&again, "/x").await.unwrap_err().to_string(), "failure 1");
    }

    /// FEATURES S15, S19.
    #[tokio::test]
    async fn the_first_service_that_accepts_serves_and_its_error_becomes_the_registrys() {
        let registry = ServiceRegistry::<Mapped>::default()
            .with(Numbered("x", 1))
            .with(Numbered("y", 2))
            .with(Numbered("x", 3));
        assert_eq!(outcome(&registry, "/x").await, Err(Mapped(Failure(1))));
        assert_eq!(outcome(&registry, "/y").await, Err(Mapped(Failure(2))));
        let nested = ServiceRegistry::new().with(registry);
        assert_eq!(outcome(&nested, "/y").await.unwrap_err().to_string(), "mapped");
    }
}
