//! The mergeable piece of state that replicas send each other.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{CausalContext, Entry, Key, Seal};

/// The state of one key at the moment when its delta was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which key.
    pub key: Key,
    /// All its entries, in the order of their dots.
    pub entries: SmallVec<[Entry; 1]>,
}

impl Item {
    /// A bound on the bytes that it takes on the wire, near enough for batching.
    pub fn size(&self) -> usize {
        Self::head_size(&self.key) + self.entries.iter().map(Self::entry_size).sum::<usize>()
    }

    pub(super) fn head_size(key: &Key) -> usize {
        4 + key.as_str().len()
    }

    pub(super) fn entry_size(entry: &Entry) -> usize {
        24 + 12 * entry.observed.iter().len() + entry.value.as_ref().map_or(0, |value| value.as_bytes().len())
    }
}

/// The dots that it *accounts for*, and the state of every key that covers one of them.
///
/// Whoever merges it has seen the items' dots at once and what it accounts for when all items are merged:
/// a dot that is accounted for and not live in an item is dead. So a superseded dot leaves no hole and never
/// hides its successor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// The dots that it accounts for.
    pub accounted: CausalContext,
    /// The keys that cover one of them, in the order in which they were found, each once.
    pub items: Vec<Item>,
    /// Where entries are [sealed](Seal): the seals of those that come along, and of each lane that is accounted for one that
    /// reaches as far. In their order, each once; else none.
    pub seals: Vec<Arc<Seal>>,
}

impl Delta {
    /// Whether merging it could change anything at all.
    pub fn is_empty(&self) -> bool {
        self.accounted.is_empty() && self.items.is_empty()
    }

    /// A bound on the bytes that it takes on the wire, near enough for batching.
    pub fn size(&self) -> usize {
        let seals = self.seals.iter().map(|seal| seal.size()).sum::<usize>();
        self.accounted.size() + self.items.iter().map(Item::size).sum::<usize>() + seals
    }
}
