//! The mesh as a tunnel registry: what one daemon registers, all find.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::handle::{CommandError, MeshHandle, Stopped};
use crate::id::{TunnelId, TunnelName};
use crate::registry::{self, TunnelRegistry};
use crate::replica::{Attributes, AttributesError, Registration, WriteError};

/// Registers a daemon's tunnels in the replicated state.
///
/// The tunnels between nodes are not registered: they are the mesh, and known by the nodes' own records.
#[derive(Debug, Clone)]
pub struct MeshRegistry {
    mesh: MeshHandle,
    held: Arc<Mutex<Held>>,
}

/// Which registration of a tunnel is the one that stands. Their dots would not do: a node that has to take up a new life
/// registers again what it holds, and its daemon knows nothing of that.
#[derive(Debug, Default)]
struct Held {
    next: u64,
    standing: BTreeMap<(TunnelName, TunnelId), u64>,
}

/// Names one registration that this node has made in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeshIdentifier {
    /// Nothing for a tunnel between nodes.
    registered: Option<(TunnelName, TunnelId, u64)>,
}

impl MeshRegistry {
    /// Registers in this mesh.
    pub fn new(mesh: MeshHandle) -> Self {
        Self { mesh, held: Arc::default() }
    }
}

/// Why the mesh did not answer or did not register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeshRegistryError {
    /// What the tunnel's peer tells of itself is above the limits.
    #[error(transparent)]
    Attributes(#[from] AttributesError),
    /// The mesh refused.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The mesh has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl From<WriteError> for MeshRegistryError {
    fn from(error: WriteError) -> Self {
        Self::Command(error.into())
    }
}

impl From<Registration> for registry::Registration {
    fn from(registration: Registration) -> Self {
        let Registration { name, tunnel, holder, attributes, .. } = registration;
        let attributes = attributes.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
        Self { name, tunnel, node: None, holder: Some(holder.node), attributes: Arc::new(attributes) }
    }
}

impl TunnelRegistry for MeshRegistry {
    type Identifier = MeshIdentifier;
    type Record = Registration;
    type Error = MeshRegistryError;

    async fn lookup(&self, name: &TunnelName) -> Result<Option<Registration>, MeshRegistryError> {
        Ok(self.mesh.lookup(name.clone()).await?.into_iter().next())
    }

    async fn register(
        &self,
        registration: registry::Registration,
    ) -> Result<MeshIdentifier, MeshRegistryError> {
        let registry::Registration { name, tunnel, node, attributes, .. } = registration;
        if node.is_some_and(|node| node.to_string() == name.as_str()) {
            return Ok(MeshIdentifier { registered: None });
        }
        let attributes = attributes.iter().map(|(name, value)| (name.clone(), value.clone()));
        let attributes = Attributes::new(attributes.collect())?;
        let held = Arc::clone(&self.held);
        let registered = self.mesh.call(move |mesh, now| {
            mesh.register(now, &name, tunnel, &attributes)?;
            // Within the command, so that the numbers are in the order of the writes.
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            held.next += 1;
            let serial = held.next;
            held.standing.insert((name.clone(), tunnel), serial);
            Ok::<_, WriteError>((name, tunnel, serial))
        });
        Ok(MeshIdentifier { registered: Some(registered.await??) })
    }

    async fn deregister_identifier(
        &self,
        identifier: MeshIdentifier,
    ) -> Result<Option<Registration>, MeshRegistryError> {
        let Some((name, tunnel, serial)) = identifier.registered else { return Ok(None) };
        let held = Arc::clone(&self.held);
        let deregistered = self.mesh.call(move |mesh, now| {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (name.clone(), tunnel);
            if held.standing.get(&key) != Some(&serial) {
                return Ok(None);
            }
            let record = mesh.replica().registration(&name, tunnel);
            mesh.deregister(now, &name, tunnel)?;
            held.standing.remove(&key);
            Ok::<_, WriteError>(record)
        });
        Ok(deregistered.await??)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::alone;
    use super::*;
    use crate::registry::conformance::{registration, tunnel_suite};

    tunnel_suite!(as_any_tunnel_registry, async {
        let mesh = alone();
        let of = |record: &Registration| registry::Registration::from(record.clone());
        Some((MeshRegistry::new(mesh.handle()), of, mesh))
    });

    /// FEATURES P5: what its holder may not expose is found by nobody who looks.
    #[tokio::test]
    async fn a_lookup_passes_over_what_its_holder_may_not_expose() {
        use crate::auth::test_mesh::TestMesh;
        use crate::auth::{Policy, SignedPolicy};
        let mesh = alone();
        let registry = MeshRegistry::new(mesh.handle());
        registry.register(registration("web", 1)).await.unwrap();
        let name = registration("web", 1).name;
        assert!(registry.lookup(&name).await.unwrap().is_some());
        let decree = |serial, open| {
            let policy = Policy { open, ..Policy::default() };
            let signed = SignedPolicy::sign(&TestMesh::new().ca, serial, crate::time::UnixMillis(1), policy);
            mesh.handle().access().adopt(&signed.unwrap())
        };
        assert!(decree(1, false));
        assert_eq!(registry.lookup(&name).await.unwrap(), None);
        assert!(decree(2, true));
        assert!(registry.lookup(&name).await.unwrap().is_some());
    }

    /// FEATURES S20.
    #[tokio::test]
    async fn a_tunnel_between_nodes_is_not_registered() {
        let mesh = alone();
        let node = mesh.handle().node();
        let registry = MeshRegistry::new(mesh.handle());
        let between = registry::Registration { node: Some(node), ..registration(&node.to_string(), 1) };
        let identifier = registry.register(between.clone()).await.unwrap();
        assert_eq!(registry.lookup(&between.name).await.unwrap(), None);
        assert_eq!(registry.deregister_identifier(identifier).await.unwrap(), None);
    }
}
