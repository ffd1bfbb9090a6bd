//! Registries behind one type, with identifiers and records that only the registry itself understands.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Registration, TunnelRegistry};
use crate::id::TunnelName;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ErasedRegistryError>> + Send + 'a>>;

/// An identifier or a record of some registry; ask with [`Erased::downcast_ref`] for the type that it has there.
#[derive(Clone)]
pub struct Erased(Arc<dyn Any + Send + Sync>);

impl Erased {
    /// The value, if it is of this type.
    pub fn downcast_ref<T: 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Erased(..)")
    }
}

/// An error of some registry.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ErasedRegistryError(Box<dyn Error + Send + Sync>);

/// The object-safe twin of [`TunnelRegistry`].
trait DynTunnelRegistry: Send + Sync {
    fn lookup<'a>(&'a self, name: &'a TunnelName) -> Answer<'a, Option<Erased>>;
    fn register(&self, registration: Registration) -> Answer<'_, Erased>;
    fn deregister_identifier(&self, identifier: Erased) -> Answer<'_, Option<Erased>>;
}

fn erase<T: Send + Sync + 'static>(value: T) -> Erased {
    Erased(Arc::new(value))
}

fn failed(error: impl Error + Send + Sync + 'static) -> ErasedRegistryError {
    ErasedRegistryError(Box::new(error))
}

impl<R: TunnelRegistry> DynTunnelRegistry for R {
    fn lookup<'a>(&'a self, name: &'a TunnelName) -> Answer<'a, Option<Erased>> {
        Box::pin(async move { Ok(TunnelRegistry::lookup(self, name).await.map_err(failed)?.map(erase)) })
    }

    fn register(&self, registration: Registration) -> Answer<'_, Erased> {
        Box::pin(
            async move { Ok(erase(TunnelRegistry::register(self, registration).await.map_err(failed)?)) },
        )
    }

    fn deregister_identifier(&self, identifier: Erased) -> Answer<'_, Option<Erased>> {
        Box::pin(async move {
            // What another registry has named is not registered here.
            let Some(identifier) = identifier.downcast_ref::<R::Identifier>() else { return Ok(None) };
            let removed = TunnelRegistry::deregister_identifier(self, identifier.clone()).await;
            Ok(removed.map_err(failed)?.map(erase))
        })
    }
}

/// Any registry, chosen at run time. Clones are handles of the same one.
#[derive(Clone)]
pub struct ErasedTunnelRegistry(Arc<dyn DynTunnelRegistry>);

impl ErasedTunnelRegistry {
    /// Hides what kind of registry it is.
    pub fn new(registry: impl TunnelRegistry) -> Self {
        Self(Arc::new(registry))
    }
}

impl fmt::Debug for ErasedTunnelRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErasedTunnelRegistry(..)")
    }
}

impl TunnelRegistry for ErasedTunnelRegistry {
    type Identifier = Erased;
    type Record = Erased;
    type Error = ErasedRegistryError;

    async fn lookup(&self, name: &TunnelName) -> Result<Option<Erased>, ErasedRegistryError> {
        self.0.lookup(name).await
    }

    async fn register(&self, registration: Registration) -> Result<Erased, ErasedRegistryError> {
        self.0.register(registration).await
    }

    async fn deregister_identifier(&self, identifier: Erased) -> Result<Option<Erased>, ErasedRegistryError> {
        self.0.deregister_identifier(identifier).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{ErasedTunnelRegistry, erase};
    use crate::id::{TunnelId, TunnelName};
    use crate::registry::{InMemoryTunnelRegistry, Registration, TunnelRegistry};

    /// FEATURES S18.
    #[tokio::test]
    async fn an_erased_registry_does_what_the_registry_does() {
        let registry = ErasedTunnelRegistry::new(InMemoryTunnelRegistry::new());
        let name: TunnelName = "web".parse().unwrap();
        let registration =
            Registration { name: name.clone(), tunnel: TunnelId(1), node: None, attributes: Arc::default() };
        let identifier = registry.register(registration.clone()).await.unwrap();
        let found = registry.lookup(&name).await.unwrap().unwrap();
        assert_eq!(found.downcast_ref(), Some(&registration));
        assert!(registry.deregister_identifier(erase("foreign")).await.unwrap().is_none());
        assert!(registry.lookup(&name).await.unwrap().is_some());
        assert!(registry.deregister_identifier(identifier).await.unwrap().is_some());
        assert!(registry.lookup(&name).await.unwrap().is_none());
    }
}
