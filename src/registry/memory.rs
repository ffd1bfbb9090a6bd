//! A registry in memory.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use super::{Registration, TunnelRegistry};
use crate::id::TunnelName;

/// A registry of this process only, where the last entry of a name wins and replaces the one before.
#[derive(Debug, Default)]
pub struct InMemoryTunnelRegistry {
    /// Guards are never held across an await or another call of the map.
    entries: DashMap<TunnelName, (u64, Registration)>,
    registered: AtomicU64,
}

/// Names one registration of an [`InMemoryTunnelRegistry`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemoryIdentifier {
    name: TunnelName,
    serial: u64,
}

impl InMemoryTunnelRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many names are registered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no name is registered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl TunnelRegistry for InMemoryTunnelRegistry {
    type Identifier = MemoryIdentifier;
    type Record = Registration;
    type Error = Infallible;

    async fn lookup(&self, name: &TunnelName) -> Result<Option<Registration>, Infallible> {
        Ok(self.entries.get(name).map(|entry| entry.1.clone()))
    }

    async fn register(&self, registration: Registration) -> Result<MemoryIdentifier, Infallible> {
        let serial = self.registered.fetch_add(1, Ordering::Relaxed);
        let name = registration.name.clone();
        self.entries.insert(name.clone(), (serial, registration));
        Ok(MemoryIdentifier { name, serial })
    }

    async fn deregister_identifier(
        &self,
        identifier: MemoryIdentifier,
    ) -> Result<Option<Registration>, Infallible> {
        let removed = self.entries.remove_if(&identifier.name, |_, entry| entry.0 == identifier.serial);
        Ok(removed.map(|(_, (_, registration))| registration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TunnelId;

    fn registration(tunnel: u64) -> Registration {
        let name = "web".parse().unwrap();
        Registration { name, tunnel: TunnelId(tunnel), node: None, attributes: Default::default() }
    }

    async fn found(registry: &InMemoryTunnelRegistry) -> Option<TunnelId> {
        registry.lookup(&"web".parse().unwrap()).await.unwrap().map(|record| record.tunnel)
    }

    /// FEATURES S10.
    #[tokio::test]
    async fn the_last_entry_of_a_name_wins() {
        let registry = InMemoryTunnelRegistry::new();
        registry.register(registration(1)).await.unwrap();
        registry.register(registration(2)).await.unwrap();
        assert_eq!(found(&registry).await, Some(TunnelId(2)));
    }

    /// Failure 12 of the original: a stale deregistration removed its successor.
    #[tokio::test]
    async fn a_stale_identifier_never_removes_the_successor() {
        let registry = InMemoryTunnelRegistry::new();
        let first = registry.register(registration(1)).await.unwrap();
        let second = registry.register(registration(2)).await.unwrap();
        assert_eq!(registry.deregister_identifier(first).await.unwrap(), None);
        assert_eq!(found(&registry).await, Some(TunnelId(2)));
        assert_eq!(registry.deregister_identifier(second.clone()).await.unwrap(), Some(registration(2)));
        assert_eq!(registry.deregister_identifier(second).await.unwrap(), None);
        assert!(registry.is_empty());
    }
}
