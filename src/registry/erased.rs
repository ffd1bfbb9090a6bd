//! Registries behind one type, with identifiers and records that only the registry itself understands.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Registration, SharedAttributeRegistry, TunnelRegistry};
use crate::id::TunnelName;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ErasedRegistryError>> + Send + 'a>>;

/// An identifier or a record of some registry; ask with [`Erased::downcast_ref`] for the type that it has there.
#[derive(Clone)]
pub struct Erased(Arc<dyn Any + Send + Sync>);

impl Erased {
    /// Hides the type of a value.
    pub fn new<T: Send + Sync + 'static>(value: T) -> Self {
        Self(Arc::new(value))
    }

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

/// The record of an attribute of some registry: its bytes for everybody, itself for those who know its type.
#[derive(Clone)]
pub struct ErasedAttribute(Arc<dyn DynAttribute>);

/// The object-safe twin of an attribute's record.
trait DynAttribute: Send + Sync {
    fn bytes(&self) -> &[u8];
    fn any(&self) -> &dyn Any;
}

impl<T: AsRef<[u8]> + Send + Sync + 'static> DynAttribute for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }

    fn any(&self) -> &dyn Any {
        self
    }
}

impl ErasedAttribute {
    /// The record as the registry made it, if it is of this type.
    pub fn downcast_ref<T: 'static>(&self) -> Option<&T> {
        self.0.any().downcast_ref()
    }
}

impl AsRef<[u8]> for ErasedAttribute {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for ErasedAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErasedAttribute({} B)", self.as_ref().len())
    }
}

/// An error of some registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErasedRegistryError {
    /// The registry failed, as its own error says.
    #[error(transparent)]
    Registry(Box<dyn Error + Send + Sync>),
    /// The identifier is of another type than the registry's: the caller's fault, nothing changed.
    #[error("the identifier is of another registry")]
    ForeignIdentifier,
}

/// The object-safe twin of [`TunnelRegistry`].
trait DynTunnelRegistry: Send + Sync {
    fn lookup<'a>(&'a self, name: &'a TunnelName) -> Answer<'a, Option<Erased>>;
    fn register(&self, registration: Registration) -> Answer<'_, Erased>;
    fn deregister_identifier(&self, identifier: Erased) -> Answer<'_, Option<Erased>>;
}

/// The object-safe twin of [`SharedAttributeRegistry`].
trait DynAttributeRegistry: Send + Sync {
    fn read<'a>(&'a self, target: &'a Erased, attribute: &'a str) -> Answer<'a, Option<ErasedAttribute>>;
    fn list<'a>(&'a self, target: &'a Erased) -> Answer<'a, Vec<(String, ErasedAttribute)>>;
    fn write<'a>(&'a self, target: &'a Erased, attribute: &'a str, value: Vec<u8>) -> Answer<'a, ()>;
    fn remove<'a>(&'a self, target: &'a Erased, attribute: &'a str) -> Answer<'a, bool>;
}

fn failed(error: impl Error + Send + Sync + 'static) -> ErasedRegistryError {
    ErasedRegistryError::Registry(Box::new(error))
}

fn own<I: 'static>(identifier: &Erased) -> Result<&I, ErasedRegistryError> {
    identifier.downcast_ref().ok_or(ErasedRegistryError::ForeignIdentifier)
}

impl<R: TunnelRegistry> DynTunnelRegistry for R {
    fn lookup<'a>(&'a self, name: &'a TunnelName) -> Answer<'a, Option<Erased>> {
        Box::pin(
            async move { Ok(TunnelRegistry::lookup(self, name).await.map_err(failed)?.map(Erased::new)) },
        )
    }

    fn register(&self, registration: Registration) -> Answer<'_, Erased> {
        Box::pin(async move {
            Ok(Erased::new(TunnelRegistry::register(self, registration).await.map_err(failed)?))
        })
    }

    fn deregister_identifier(&self, identifier: Erased) -> Answer<'_, Option<Erased>> {
        Box::pin(async move {
            let identifier = own::<R::Identifier>(&identifier)?.clone();
            let removed = TunnelRegistry::deregister_identifier(self, identifier).await;
            Ok(removed.map_err(failed)?.map(Erased::new))
        })
    }
}

impl<R: SharedAttributeRegistry<Record: AsRef<[u8]>>> DynAttributeRegistry for R {
    fn read<'a>(&'a self, target: &'a Erased, attribute: &'a str) -> Answer<'a, Option<ErasedAttribute>> {
        Box::pin(async move {
            let read = SharedAttributeRegistry::read(self, own(target)?, attribute).await;
            Ok(read.map_err(failed)?.map(|record| ErasedAttribute(Arc::new(record))))
        })
    }

    fn list<'a>(&'a self, target: &'a Erased) -> Answer<'a, Vec<(String, ErasedAttribute)>> {
        Box::pin(async move {
            let list = SharedAttributeRegistry::list(self, own(target)?).await.map_err(failed)?;
            Ok(list.into_iter().map(|(name, record)| (name, ErasedAttribute(Arc::new(record)))).collect())
        })
    }

    fn write<'a>(&'a self, target: &'a Erased, attribute: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        Box::pin(async move {
            SharedAttributeRegistry::write(self, own(target)?, attribute, value).await.map_err(failed)
        })
    }

    fn remove<'a>(&'a self, target: &'a Erased, attribute: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            SharedAttributeRegistry::remove(self, own(target)?, attribute).await.map_err(failed)
        })
    }
}

/// Any tunnel registry, chosen at run time. Clones are handles of the same one.
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

/// Any attribute registry, chosen at run time. Clones are handles of the same one.
///
/// Targets are [`Erased::new`] of the registry's own identifiers.
#[derive(Clone)]
pub struct ErasedAttributeRegistry(Arc<dyn DynAttributeRegistry>);

impl ErasedAttributeRegistry {
    /// Hides what kind of registry it is.
    pub fn new<R: SharedAttributeRegistry<Record: AsRef<[u8]>>>(registry: R) -> Self {
        Self(Arc::new(registry))
    }
}

impl fmt::Debug for ErasedAttributeRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErasedAttributeRegistry(..)")
    }
}

impl SharedAttributeRegistry for ErasedAttributeRegistry {
    type Identifier = Erased;
    type Record = ErasedAttribute;
    type Error = ErasedRegistryError;

    async fn read(
        &self,
        target: &Erased,
        attribute: &str,
    ) -> Result<Option<ErasedAttribute>, ErasedRegistryError> {
        self.0.read(target, attribute).await
    }

    async fn list(&self, target: &Erased) -> Result<Vec<(String, ErasedAttribute)>, ErasedRegistryError> {
        self.0.list(target).await
    }

    async fn write(
        &self,
        target: &Erased,
        attribute: &str,
        value: Vec<u8>,
    ) -> Result<(), ErasedRegistryError> {
        self.0.write(target, attribute, value).await
    }

    async fn remove(&self, target: &Erased, attribute: &str) -> Result<bool, ErasedRegistryError> {
        self.0.remove(target, attribute).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{attribute_suite, found, registration, tunnel_suite};
    use super::super::{
        InMemoryAttributeRegistry, InMemoryTunnelRegistry, Registration, SharedAttributeRegistry,
        TunnelRegistry,
    };
    use super::{Arc, Erased, ErasedAttributeRegistry, ErasedRegistryError, ErasedTunnelRegistry};

    fn of(record: &Erased) -> Registration {
        record.downcast_ref::<Registration>().unwrap().clone()
    }

    tunnel_suite!(as_any_tunnel_registry, async {
        Some((ErasedTunnelRegistry::new(InMemoryTunnelRegistry::new()), of))
    });
    attribute_suite!(as_any_attribute_registry, async {
        let registry = ErasedAttributeRegistry::new(InMemoryAttributeRegistry::<u8>::new());
        Some((registry, [Erased::new(1_u8), Erased::new(2_u8)]))
    });

    /// FEATURES S18.
    #[tokio::test]
    async fn a_foreign_identifier_is_refused_and_removes_nothing() {
        let registry = ErasedTunnelRegistry::new(InMemoryTunnelRegistry::new());
        let given = registration("web", 1);
        registry.register(given.clone()).await.unwrap();
        let foreign = registry.deregister_identifier(Erased::new("foreign")).await.unwrap_err();
        assert!(matches!(foreign, ErasedRegistryError::ForeignIdentifier));
        assert_eq!(found(&registry, of, &given.name).await, Some(1));
        let attributes = ErasedAttributeRegistry::new(InMemoryAttributeRegistry::<u8>::new());
        let foreign = attributes.write(&Erased::new(1_u16), "a", Vec::new()).await.unwrap_err();
        assert!(matches!(foreign, ErasedRegistryError::ForeignIdentifier));
    }

    /// FEATURES S18.
    #[tokio::test]
    async fn registries_of_different_kinds_live_in_one_list() {
        let kinds = [
            ErasedTunnelRegistry::new(InMemoryTunnelRegistry::new()),
            ErasedTunnelRegistry::new(Arc::new(InMemoryTunnelRegistry::new())),
        ];
        for registry in &kinds {
            registry.register(registration("web", 7)).await.unwrap();
            assert_eq!(found(registry, of, &"web".parse().unwrap()).await, Some(7));
        }
    }
}
