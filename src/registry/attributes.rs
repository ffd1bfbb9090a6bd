//! An attribute registry in memory, and the limits that all of them share.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;

use super::SharedAttributeRegistry;
use crate::crdt::{self, Value};
use crate::replica::{AttributeKeyError, AttributeName};

/// An attribute cannot be: the caller's fault, nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// Its name is not legal.
    #[error(transparent)]
    Name(#[from] AttributeKeyError),
    /// Its value is over [`Value::MAX_LEN`].
    #[error(transparent)]
    Value(#[from] crdt::ValueError),
}

/// Attributes of this process only, of targets that are named by an `I`.
#[derive(Debug)]
pub struct InMemoryAttributeRegistry<I: Eq + Hash> {
    /// Guards are never held across an await or another call of the map; no map in it is empty.
    targets: DashMap<I, BTreeMap<String, Arc<[u8]>>>,
}

impl<I: Eq + Hash> InMemoryAttributeRegistry<I> {
    /// A registry without attributes.
    pub fn new() -> Self {
        Self { targets: DashMap::new() }
    }
}

impl<I: Eq + Hash> Default for InMemoryAttributeRegistry<I> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: Clone + Debug + Eq + Hash + Send + Sync + 'static> SharedAttributeRegistry
    for InMemoryAttributeRegistry<I>
{
    type Identifier = I;
    type Record = Arc<[u8]>;
    type Error = AttributeError;

    async fn read(&self, target: &I, attribute: &str) -> Result<Option<Arc<[u8]>>, AttributeError> {
        Ok(self.targets.get(target).and_then(|attributes| attributes.get(attribute).cloned()))
    }

    async fn list(&self, target: &I) -> Result<Vec<(String, Arc<[u8]>)>, AttributeError> {
        let list = self.targets.get(target).map(|attributes| {
            attributes.iter().map(|(name, value)| (name.clone(), Arc::clone(value))).collect()
        });
        Ok(list.unwrap_or_default())
    }

    async fn write(&self, target: &I, attribute: &str, value: Vec<u8>) -> Result<(), AttributeError> {
        attribute.parse::<AttributeName>()?;
        if value.len() > Value::MAX_LEN {
            return Err(crdt::ValueError { len: value.len() }.into());
        }
        self.targets.entry(target.clone()).or_default().insert(attribute.to_owned(), value.into());
        Ok(())
    }

    async fn remove(&self, target: &I, attribute: &str) -> Result<bool, AttributeError> {
        let mut removed = false;
        self.targets.remove_if_mut(target, |_, attributes| {
            removed = attributes.remove(attribute).is_some();
            attributes.is_empty()
        });
        Ok(removed)
    }
}
