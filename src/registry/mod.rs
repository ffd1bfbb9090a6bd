//! Registries: what is known of tunnels beyond this daemon.
//!
//! A [`TunnelRegistry`] tells who holds a tunnel of some name; a [`SharedAttributeRegistry`] holds what may change
//! about it. Both may be stale, may know tunnels of other processes and machines, and alter only their own. What a
//! daemon itself holds at this very moment is in its [`crate::daemon::PeersView`], not here.

mod erased;
mod memory;

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use crate::id::{NodeId, TunnelId, TunnelName};

pub use erased::{Erased, ErasedRegistryError, ErasedTunnelRegistry};
pub use memory::{InMemoryTunnelRegistry, MemoryIdentifier};

/// What is registered of a tunnel. It is never changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// What the tunnel is called.
    pub name: TunnelName,
    /// Which tunnel it is.
    pub tunnel: TunnelId,
    /// Who the peer has proved to be, if its transport proves anything.
    pub node: Option<NodeId>,
    /// What the peer told of itself when it authenticated.
    pub attributes: Arc<HashMap<String, Vec<u8>>>,
}

/// Knows tunnels by name.
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
    /// The registry's own; the attribute is as it was.
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
