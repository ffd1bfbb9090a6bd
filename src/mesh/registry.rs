//! The mesh as a tunnel registry: what one daemon registers, all find.

use std::collections::BTreeMap;

use super::handle::{CommandError, MeshHandle, Stopped};
use crate::id::{TunnelId, TunnelName};
use crate::registry::{Registration, TunnelRegistry};
use crate::replica::{self, Attributes, AttributesError};

/// Registers a daemon's tunnels in the replicated state.
///
/// The tunnels between nodes are not registered: they are the mesh, and known by the nodes' own records.
#[derive(Debug, Clone)]
pub struct MeshRegistry {
    mesh: MeshHandle,
}

impl MeshRegistry {
    /// Registers in this mesh.
    pub fn new(mesh: MeshHandle) -> Self {
        Self { mesh }
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

impl TunnelRegistry for MeshRegistry {
    /// Name and tunnel; nothing for a tunnel between nodes.
    type Identifier = Option<(TunnelName, TunnelId)>;
    type Record = replica::Registration;
    type Error = MeshRegistryError;

    async fn lookup(&self, name: &TunnelName) -> Result<Option<replica::Registration>, MeshRegistryError> {
        Ok(self.mesh.lookup(name.clone()).await?.into_iter().next())
    }

    async fn register(&self, registration: Registration) -> Result<Self::Identifier, MeshRegistryError> {
        let Registration { name, tunnel, node, attributes } = registration;
        if node.is_some_and(|node| node.to_string() == name.as_str()) {
            return Ok(None);
        }
        let attributes: BTreeMap<String, Vec<u8>> =
            attributes.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        self.mesh.register(name.clone(), tunnel, Attributes::new(attributes)?).await?;
        Ok(Some((name, tunnel)))
    }

    async fn deregister_identifier(
        &self,
        identifier: Self::Identifier,
    ) -> Result<Option<replica::Registration>, MeshRegistryError> {
        let Some((name, tunnel)) = identifier else { return Ok(None) };
        let sought = name.clone();
        let record = self.mesh.view(move |mesh| mesh.replica().registration(&sought, tunnel)).await?;
        self.mesh.deregister(name, tunnel).await?;
        Ok(record)
    }
}
