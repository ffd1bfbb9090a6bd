//! A tunnel registry in memory.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use super::{Registration, TunnelRegistry};
use crate::id::TunnelName;

/// A registry of this process only, where the last entry of a name wins.
#[derive(Debug, Default)]
pub struct InMemoryTunnelRegistry {
    /// By serial number, the last one last, and never empty. Guards are never held across an await or another call of
    /// the map.
    entries: DashMap<TunnelName, Vec<(u64, Registration)>>,
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
        Ok(self.entries.get(name).and_then(|entries| Some(entries.last()?.1.clone())))
    }

    async fn register(&self, registration: Registration) -> Result<MemoryIdentifier, Infallible> {
        let name = registration.name.clone();
        let mut entries = self.entries.entry(name.clone()).or_default();
        // Drawn under the guard, so that the last one of a name is the greatest.
        let serial = self.registered.fetch_add(1, Ordering::Relaxed);
        entries.push((serial, registration));
        Ok(MemoryIdentifier { name, serial })
    }

    async fn deregister_identifier(
        &self,
        identifier: MemoryIdentifier,
    ) -> Result<Option<Registration>, Infallible> {
        let mut removed = None;
        self.entries.remove_if_mut(&identifier.name, |_, entries| {
            let found = entries.iter().position(|(serial, _)| *serial == identifier.serial);
            removed = found.map(|at| entries.remove(at).1);
            entries.is_empty()
        });
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{attribute_suite, registration, tunnel_suite};
    use super::super::{InMemoryAttributeRegistry, TunnelRegistry};
    use super::*;
    use crate::id::TunnelId;

    tunnel_suite!(as_any_tunnel_registry, async {
        Some((InMemoryTunnelRegistry::new(), |record: &Registration| record.clone()))
    });
    attribute_suite!(as_any_attribute_registry, async {
        Some((InMemoryAttributeRegistry::<u8>::new(), [1, 2]))
    });

    /// FEATURES S10.
    #[tokio::test]
    async fn it_forgets_names_with_their_last_entry() {
        let registry = InMemoryTunnelRegistry::new();
        let first = registry.register(registration("web", 1)).await.unwrap();
        let second = registry.register(registration("web", 2)).await.unwrap();
        assert_eq!(registry.len(), 1);
        let found = registry.lookup(&first.name).await.unwrap();
        assert_eq!(found.map(|found| found.tunnel), Some(TunnelId(2)));
        for identifier in [first, second] {
            registry.deregister_identifier(identifier).await.unwrap().unwrap();
        }
        assert!(registry.is_empty());
    }
}
