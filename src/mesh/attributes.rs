//! The mesh as an attribute registry: what one node writes, all read.

use super::handle::{CommandError, MeshHandle, Stopped};
use crate::crdt::{Value, ValueError};
use crate::registry::SharedAttributeRegistry;
use crate::replica::{Attribute, AttributeKey, AttributeKeyError, AttributeName, Scope};

/// Attributes of the replicated state. Targets are the mesh, nodes, and the tunnels of a name; any node may write any.
///
/// Every side of a partition goes on reading and writing. What was written concurrently is kept: a record has the value
/// that a read finds and its [`siblings`](Attribute::siblings).
#[derive(Debug, Clone)]
pub struct MeshAttributeRegistry {
    mesh: MeshHandle,
}

impl MeshAttributeRegistry {
    /// Reads and writes in this mesh.
    pub fn new(mesh: MeshHandle) -> Self {
        Self { mesh }
    }
}

/// Why the mesh did not answer or did not write. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeshAttributeError {
    /// The name is not legal.
    #[error(transparent)]
    Name(#[from] AttributeKeyError),
    /// The value is too long.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The mesh refused.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The mesh has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl AsRef<[u8]> for Attribute {
    fn as_ref(&self) -> &[u8] {
        self.value.as_bytes()
    }
}

fn key(target: &Scope, attribute: &str) -> Result<AttributeKey, AttributeKeyError> {
    Ok(AttributeKey { scope: target.clone(), name: attribute.parse::<AttributeName>()? })
}

impl SharedAttributeRegistry for MeshAttributeRegistry {
    type Identifier = Scope;
    type Record = Attribute;
    type Error = MeshAttributeError;

    async fn read(&self, target: &Scope, attribute: &str) -> Result<Option<Attribute>, MeshAttributeError> {
        let Ok(key) = key(target, attribute) else { return Ok(None) };
        Ok(self.mesh.view(move |mesh| mesh.replica().attribute(&key)).await?)
    }

    async fn list(&self, target: &Scope) -> Result<Vec<(String, Attribute)>, MeshAttributeError> {
        let prefix = target.to_string();
        let list = self.mesh.view(move |mesh| {
            let attributes = mesh.replica().attributes(&prefix);
            attributes.map(|found| (found.key.name.to_string(), found)).collect()
        });
        Ok(list.await?)
    }

    async fn write(&self, target: &Scope, attribute: &str, value: Vec<u8>) -> Result<(), MeshAttributeError> {
        let (key, value) = (key(target, attribute)?, Value::try_from(&value[..])?);
        self.mesh.set(key, value).await?;
        Ok(())
    }

    async fn remove(&self, target: &Scope, attribute: &str) -> Result<bool, MeshAttributeError> {
        let Ok(key) = key(target, attribute) else { return Ok(false) };
        Ok(self.mesh.unset(key).await? == super::Written::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::alone;
    use super::*;
    use crate::registry::conformance::attribute_suite;

    attribute_suite!(of_the_mesh_and_a_node, async {
        let mesh = alone();
        let node = Scope::Node(mesh.handle().node());
        Some((MeshAttributeRegistry::new(mesh.handle()), [Scope::Mesh, node], mesh))
    });
    attribute_suite!(of_two_tunnels, async {
        let mesh = alone();
        let scopes = ["web", "web.eu"].map(|name| Scope::Tunnel(name.parse().unwrap()));
        Some((MeshAttributeRegistry::new(mesh.handle()), scopes, mesh))
    });
}
