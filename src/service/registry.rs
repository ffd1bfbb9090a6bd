//! Several services as one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{AnyError, MappedService, OfferedStream, Refusal, RouteAddress, Service};
use crate::tunnel::ArcTunnel;

type Serving<'a, E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send + 'a>>;

/// The object-safe twin of [`Service`].
trait DynService<E>: Send + Sync {
    fn accepts(&self, address: &RouteAddress, tunnel: &ArcTunnel) -> bool;
    fn handle(&self, address: RouteAddress, stream: OfferedStream, tunnel: ArcTunnel) -> Serving<'_, E>;
}

impl<E, S: Service<Error = E> + Send + Sync> DynService<E> for S {
    fn accepts(&self, address: &RouteAddress, tunnel: &ArcTunnel) -> bool {
        Service::accepts(self, address, tunnel)
    }

    fn handle(&self, address: RouteAddress, stream: OfferedStream, tunnel: ArcTunnel) -> Serving<'_, E> {
        Box::pin(Service::handle(self, address, stream, tunnel))
    }
}

/// Services in order: the first that accepts an address serves it. Their errors become the registry's.
#[derive(Clone)]
pub struct ServiceRegistry<E = AnyError> {
    services: Vec<Arc<dyn DynService<E>>>,
}

impl<E> Default for ServiceRegistry<E> {
    fn default() -> Self {
        Self { services: Vec::new() }
    }
}

impl ServiceRegistry {
    /// A registry without services: every stream is refused. Its errors are of any type; for another one see
    /// [`ServiceRegistry::default`].
    pub fn new() -> Self {
        Self::default()
    }
}

impl<E: Into<AnyError> + Send + 'static> ServiceRegistry<E> {
    /// Adds a service behind those that are there already.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Error: Into<E>> + Send + Sync + 'static,
    {
        self.services.push(Arc::new(MappedService::<S, E>::new(service)));
        self
    }

    fn find(&self, address: &RouteAddress, tunnel: &ArcTunnel) -> Option<&Arc<dyn DynService<E>>> {
        self.services.iter().find(|service| service.accepts(address, tunnel))
    }
}

impl<E> std::fmt::Debug for ServiceRegistry<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceRegistry").field("services", &self.services.len()).finish()
    }
}

impl<E: Into<AnyError> + Send + 'static> Service for ServiceRegistry<E> {
    type Error = E;

    fn accepts(&self, address: &RouteAddress, tunnel: &ArcTunnel) -> bool {
        self.find(address, tunnel).is_some()
    }

    async fn handle(&self, address: RouteAddress, stream: OfferedStream, tunnel: ArcTunnel) -> Result<(), E> {
        if let Some(service) = self.find(&address, &tunnel) {
            return service.handle(address, stream, tunnel).await;
        }
        // The opener may be gone already, and then needs no answer.
        let _gone = stream.refuse(Refusal::NoSuchService).await;
        Ok(())
    }
}
