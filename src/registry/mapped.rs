//! Registries with records and errors of other types.

use std::marker::PhantomData;

use super::{Registration, SharedAttributeRegistry, TunnelRegistry};
use crate::id::TunnelName;

/// A tunnel registry whose records become `D` and whose errors become `E`.
///
/// ```
/// use snomesh::id::{TunnelId, TunnelName};
/// use snomesh::registry::{InMemoryTunnelRegistry, MappedTunnelRegistry, Registration, TunnelRegistry};
///
/// #[derive(Clone, Debug, PartialEq)]
/// struct JustTheId(TunnelId);
/// impl From<Registration> for JustTheId {
///     fn from(registration: Registration) -> Self {
///         Self(registration.tunnel)
///     }
/// }
/// #[derive(Debug, thiserror::Error)]
/// #[error("no registry")]
/// struct NoRegistry;
/// impl From<std::convert::Infallible> for NoRegistry {
///     fn from(never: std::convert::Infallible) -> Self {
///         match never {}
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let registry = MappedTunnelRegistry::<_, JustTheId, NoRegistry>::new(InMemoryTunnelRegistry::new());
/// let name: TunnelName = "web".parse().unwrap();
/// let tunnel = TunnelId(7);
/// let registration =
///     Registration { name: name.clone(), tunnel, node: None, holder: None, attributes: Default::default() };
/// registry.register(registration).await.unwrap();
/// assert_eq!(registry.lookup(&name).await.unwrap(), Some(JustTheId(tunnel)));
/// # });
/// ```
pub struct MappedTunnelRegistry<R, D, E> {
    registry: R,
    mapped: PhantomData<fn() -> (D, E)>,
}

/// An attribute registry whose records become `D` and whose errors become `E`.
pub struct MappedAttributeRegistry<R, D, E> {
    registry: R,
    mapped: PhantomData<fn() -> (D, E)>,
}

macro_rules! wraps {
    ($mapped:ident) => {
        impl<R, D, E> $mapped<R, D, E> {
            /// Maps the records and errors of a registry.
            pub fn new(registry: R) -> Self {
                Self { registry, mapped: PhantomData }
            }

            /// The registry as it was; wrap it again to map otherwise.
            pub fn into_inner(mapped: Self) -> R {
                mapped.registry
            }
        }

        impl<R: std::fmt::Debug, D, E> std::fmt::Debug for $mapped<R, D, E> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($mapped)).field(&self.registry).finish()
            }
        }
    };
}

wraps!(MappedTunnelRegistry);
wraps!(MappedAttributeRegistry);

impl<R, D, E> TunnelRegistry for MappedTunnelRegistry<R, D, E>
where
    R: TunnelRegistry<Record: Into<D>, Error: Into<E>>,
    D: Clone + std::fmt::Debug + Send + Sync + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    type Identifier = R::Identifier;
    type Record = D;
    type Error = E;

    async fn lookup(&self, name: &TunnelName) -> Result<Option<D>, E> {
        Ok(self.registry.lookup(name).await.map_err(Into::into)?.map(Into::into))
    }

    async fn register(&self, registration: Registration) -> Result<R::Identifier, E> {
        self.registry.register(registration).await.map_err(Into::into)
    }

    async fn deregister_identifier(&self, identifier: R::Identifier) -> Result<Option<D>, E> {
        Ok(self.registry.deregister_identifier(identifier).await.map_err(Into::into)?.map(Into::into))
    }
}

impl<R, D, E> SharedAttributeRegistry for MappedAttributeRegistry<R, D, E>
where
    R: SharedAttributeRegistry<Record: Into<D>, Error: Into<E>>,
    D: Clone + std::fmt::Debug + Send + Sync + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    type Identifier = R::Identifier;
    type Record = D;
    type Error = E;

    async fn read(&self, target: &R::Identifier, attribute: &str) -> Result<Option<D>, E> {
        Ok(self.registry.read(target, attribute).await.map_err(Into::into)?.map(Into::into))
    }

    async fn list(&self, target: &R::Identifier) -> Result<Vec<(String, D)>, E> {
        let list = self.registry.list(target).await.map_err(Into::into)?;
        Ok(list.into_iter().map(|(name, record)| (name, record.into())).collect())
    }

    async fn write(&self, target: &R::Identifier, attribute: &str, value: Vec<u8>) -> Result<(), E> {
        self.registry.write(target, attribute, value).await.map_err(Into::into)
    }

    async fn remove(&self, target: &R::Identifier, attribute: &str) -> Result<bool, E> {
        self.registry.remove(target, attribute).await.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::conformance::{attribute_suite, tunnel_suite};
    use super::super::{AttributeError, InMemoryAttributeRegistry, InMemoryTunnelRegistry};
    use super::*;

    /// Another record.
    #[derive(Debug, Clone)]
    struct Boxed(Box<Registration>);

    impl From<Registration> for Boxed {
        fn from(registration: Registration) -> Self {
            Self(Box::new(registration))
        }
    }

    /// Another error.
    #[derive(Debug, thiserror::Error)]
    #[error("mapped")]
    struct Mapped(#[source] Option<AttributeError>);

    impl From<std::convert::Infallible> for Mapped {
        fn from(never: std::convert::Infallible) -> Self {
            match never {}
        }
    }

    impl From<AttributeError> for Mapped {
        fn from(error: AttributeError) -> Self {
            Self(Some(error))
        }
    }

    tunnel_suite!(as_any_tunnel_registry, async {
        let registry = MappedTunnelRegistry::<_, Boxed, Mapped>::new(InMemoryTunnelRegistry::new());
        Some((registry, |record: &Boxed| (*record.0).clone()))
    });
    attribute_suite!(as_any_attribute_registry, async {
        let registry = InMemoryAttributeRegistry::<u8>::new();
        Some((MappedAttributeRegistry::<_, Arc<[u8]>, Mapped>::new(registry), [1, 2]))
    });

    /// FEATURES S19.
    #[tokio::test]
    async fn errors_become_those_of_the_caller() {
        let registry = InMemoryAttributeRegistry::<u8>::new();
        let mapped = MappedAttributeRegistry::<_, Arc<[u8]>, Mapped>::new(registry);
        let Mapped(source) = mapped.write(&1, "a b", Vec::new()).await.unwrap_err();
        assert!(matches!(source, Some(AttributeError::Name(_))));
        let again = MappedAttributeRegistry::<_, Arc<[u8]>, AttributeError>::new(
            MappedAttributeRegistry::into_inner(mapped),
        );
        assert!(matches!(again.write(&1, "", Vec::new()).await, Err(AttributeError::Name(_))));
    }
}
