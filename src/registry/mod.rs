//! Registries: what is known of tunnels beyond this daemon.
//!
//! A [`TunnelRegistry`] tells who holds a tunnel of some name; a [`SharedAttributeRegistry`] holds what may change
//! about it. Both may be stale, may know tunnels of other processes and machines, and alter only their own. What a
//! daemon itself holds at this very moment is in its [`crate::daemon::PeersView`], not here.
//!
//! | registry | known to | made of |
//! |---|---|---|
//! | [`InMemoryTunnelRegistry`], [`InMemoryAttributeRegistry`] | this process | maps |
//! | [`MeshRegistry`](crate::mesh::MeshRegistry), [`MeshAttributeRegistry`](crate::mesh::MeshAttributeRegistry) | every node | the replicated state |
//! | `redis::RedisTunnelRegistry` (feature `redis-store`) | all who use that Redis server or cluster | keys with leases |
//! | [`CacheTunnelRegistry`] | as its source | two others |
//! | [`MappedTunnelRegistry`], [`MappedAttributeRegistry`] | as the mapped | another, with records and errors of other types |
//! | [`ErasedTunnelRegistry`], [`ErasedAttributeRegistry`] | as the erased | any other, chosen at run time |
//!
//! One suite of conformance tests holds for all of them.

mod attributes;
mod cache;
#[cfg(test)]
pub(crate) mod conformance;
mod erased;
mod mapped;
mod memory;
#[cfg(feature = "redis-store")]
pub mod redis;
mod value;

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use crate::id::{NodeId, TunnelId, TunnelName};

pub use attributes::{AttributeError, InMemoryAttributeRegistry};
pub use cache::{CacheConfig, CacheIdentifier, CacheRegistryError, CacheTunnelRegistry};
pub use erased::{
    Erased, ErasedAttribute, ErasedAttributeRegistry, ErasedRegistryError, ErasedTunnelRegistry,
};
pub use mapped::{MappedAttributeRegistry, MappedTunnelRegistry};
pub use memory::{InMemoryTunnelRegistry, MemoryIdentifier};
pub use value::{AttributeValue, Bincode, Json, Raw, Utf8, ValueCodecError};

/// What is registered of a tunnel. It is never changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// What the tunnel is called.
    pub name: TunnelName,
    /// Which tunnel it is.
    pub tunnel: TunnelId,
    /// Who the peer has proved to be, if its transport proves anything.
    pub node: Option<NodeId>,
    /// The node that holds the tunnel, where a registry knows of more than one; whoever registers leaves it out.
    pub holder: Option<NodeId>,
    /// What the peer told of itself when it authenticated.
    pub attributes: Arc<HashMap<String, Vec<u8>>>,
}

/// Knows tunnels by name.
///
/// Of several tunnels under one name the last one named is found; when it goes, the one before re-appears.
///
/// ```
/// use std::sync::Arc;
/// use snomesh::id::TunnelId;
/// use snomesh::registry::{InMemoryTunnelRegistry, Registration, TunnelRegistry};
///
/// /// Registers a tunnel wherever the caller likes to, and takes exactly that registration back.
/// async fn announce<R: TunnelRegistry>(registry: &R, tunnel: Registration) -> Result<(), R::Error> {
///     let name = tunnel.name.clone();
///     let identifier = registry.register(tunnel).await?;
///     assert!(registry.lookup(&name).await?.is_some());
///     assert!(registry.deregister_identifier(identifier.clone()).await?.is_some());
///     assert!(registry.deregister_identifier(identifier).await?.is_none());
///     Ok(())
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let name = "web".parse().unwrap();
/// let tunnel =
///     Registration { name, tunnel: TunnelId(1), node: None, holder: None, attributes: Arc::default() };
/// announce(&InMemoryTunnelRegistry::new(), tunnel).await.unwrap();
/// # });
/// ```
pub trait TunnelRegistry: Send + Sync + 'static {
    /// Names one registration, never one that came before or after it under the same name.
    type Identifier: Clone + Debug + Send + Sync + 'static;
    /// What a lookup finds.
    type Record: Clone + Debug + Send + Sync + 'static;
    /// How the registry fails.
    type Error: Error + Send + Sync + 'static;

    /// The record of the tunnel that the name stands for, if there is any.
    ///
    /// # Errors
    ///
    /// The registry's own; nothing changed.
    fn lookup(
        &self,
        name: &TunnelName,
    ) -> impl Future<Output = Result<Option<Self::Record>, Self::Error>> + Send;

    /// Registers a tunnel; it takes precedence over those registered under the name before.
    ///
    /// # Errors
    ///
    /// The registry's own; the tunnel is not registered.
    fn register(
        &self,
        registration: Registration,
    ) -> impl Future<Output = Result<Self::Identifier, Self::Error>> + Send;

    /// Removes exactly the registration that the identifier names and gives back its record, or `None` if it is gone
    /// already. A successor under the same name is not touched.
    ///
    /// # Errors
    ///
    /// The registry's own; the registration may still be there.
    fn deregister_identifier(
        &self,
        identifier: Self::Identifier,
    ) -> impl Future<Output = Result<Option<Self::Record>, Self::Error>> + Send;
}

/// Holds attributes that many may change.
///
/// Names are those of [`AttributeName`](crate::replica::AttributeName), values have up to 64 KiB; [`AttributeValue`]
/// packs other types into them.
///
/// ```
/// use snomesh::registry::{AttributeValue, InMemoryAttributeRegistry, SharedAttributeRegistry, Utf8};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let registry = InMemoryAttributeRegistry::<&str>::new();
/// registry.write(&"door", "color", Utf8("green".into()).pack().unwrap()).await.unwrap();
/// let color = registry.read(&"door", "color").await.unwrap().unwrap();
/// assert_eq!(Utf8::unpack(&color), Ok(Utf8("green".into())));
/// assert!(registry.remove(&"door", "color").await.unwrap());
/// # });
/// ```
pub trait SharedAttributeRegistry: Send + Sync + 'static {
    /// Names what attributes belong to: the registry's key-space of a target.
    type Identifier: Clone + Debug + Send + Sync + 'static;
    /// The value of an attribute as the registry knows it.
    type Record: Clone + Debug + Send + Sync + 'static;
    /// How the registry fails.
    type Error: Error + Send + Sync + 'static;

    /// Reads one attribute of a target.
    ///
    /// # Errors
    ///
    /// The registry's own; nothing changed.
    fn read(
        &self,
        target: &Self::Identifier,
        attribute: &str,
    ) -> impl Future<Output = Result<Option<Self::Record>, Self::Error>> + Send;

    /// Reads all attributes of a target, in order of their names.
    ///
    /// # Errors
    ///
    /// The registry's own; nothing changed.
    fn list(
        &self,
        target: &Self::Identifier,
    ) -> impl Future<Output = Result<Vec<(String, Self::Record)>, Self::Error>> + Send;

    /// Sets an attribute of a target.
    ///
    /// # Errors
    ///
    /// The registry's own, also for a name or a value that is not legal; the attribute is as it was.
    fn write(
        &self,
        target: &Self::Identifier,
        attribute: &str,
        value: Vec<u8>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Removes an attribute of a target. Says whether there was one.
    ///
    /// # Errors
    ///
    /// The registry's own; the attribute is as it was.
    fn remove(
        &self,
        target: &Self::Identifier,
        attribute: &str,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;
}

impl<R: TunnelRegistry> TunnelRegistry for Arc<R> {
    type Identifier = R::Identifier;
    type Record = R::Record;
    type Error = R::Error;

    fn lookup(
        &self,
        name: &TunnelName,
    ) -> impl Future<Output = Result<Option<Self::Record>, Self::Error>> + Send {
        (**self).lookup(name)
    }

    fn register(
        &self,
        registration: Registration,
    ) -> impl Future<Output = Result<Self::Identifier, Self::Error>> + Send {
        (**self).register(registration)
    }

    fn deregister_identifier(
        &self,
        identifier: Self::Identifier,
    ) -> impl Future<Output = Result<Option<Self::Record>, Self::Error>> + Send {
        (**self).deregister_identifier(identifier)
    }
}

impl<R: SharedAttributeRegistry> SharedAttributeRegistry for Arc<R> {
    type Identifier = R::Identifier;
    type Record = R::Record;
    type Error = R::Error;

    fn read(
        &self,
        target: &Self::Identifier,
        attribute: &str,
    ) -> impl Future<Output = Result<Option<Self::Record>, Self::Error>> + Send {
        (**self).read(target, attribute)
    }

    fn list(
        &self,
        target: &Self::Identifier,
    ) -> impl Future<Output = Result<Vec<(String, Self::Record)>, Self::Error>> + Send {
        (**self).list(target)
    }

    fn write(
        &self,
        target: &Self::Identifier,
        attribute: &str,
        value: Vec<u8>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        (**self).write(target, attribute, value)
    }

    fn remove(
        &self,
        target: &Self::Identifier,
        attribute: &str,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send {
        (**self).remove(target, attribute)
    }
}
