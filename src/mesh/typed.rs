//! Counters and sets, through the handle.

use super::handle::{CommandError, MeshHandle, Stopped, Written};
use crate::crdt::Value;
use crate::gossip::Durability;
use crate::replica::AttributeKey;

impl MeshHandle {
    /// Adds to a counter, or takes away, and gives its value with that. It is durable when this returns, as far as the
    /// mesh has a disk.
    ///
    /// Increments of all nodes add up, also those that are made on both sides of a partition.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing was counted.
    pub async fn increment(&self, key: AttributeKey, by: i64) -> Result<i128, CommandError> {
        let counted = key.clone();
        self.write(Durability::Disk, move |mesh, now| mesh.increment(now, &counted, by)).await?;
        Ok(self.counter(key).await?.unwrap_or(0))
    }

    /// The value of a counter; nothing if nobody has counted.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn counter(&self, key: AttributeKey) -> Result<Option<i128>, Stopped> {
        self.view(move |mesh| mesh.replica().counter(&key)).await
    }

    /// Adds an element to a set.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing was added.
    pub async fn add(&self, key: AttributeKey, element: Value) -> Result<Written, CommandError> {
        self.write(Durability::Disk, move |mesh, now| mesh.add(now, &key, element)).await
    }

    /// Removes an element from a set. An addition that is made elsewhere meanwhile survives it.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing was removed.
    pub async fn discard(&self, key: AttributeKey, element: Value) -> Result<Written, CommandError> {
        self.write(Durability::Disk, move |mesh, now| mesh.discard(now, &key, &element)).await
    }

    /// The elements of a set, in the order of their bytes.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn members_of(&self, key: AttributeKey) -> Result<Vec<Value>, Stopped> {
        self.view(move |mesh| mesh.replica().members(&key)).await
    }
}
