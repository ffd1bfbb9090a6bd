//! One key of a store, as readers meet it.

use std::fmt;

use super::Store;
use super::keys::Slot;
use crate::crdt::{Dot, Entry, Key, Lane, Observed, Register, Value};
use crate::time::Timestamp;

/// A key of a store and its state, read where they lie: what nobody asks for is not unpacked.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    store: &'a Store,
    slot: Slot,
}

impl<'a> Row<'a> {
    pub(super) fn new(store: &'a Store, slot: Slot) -> Self {
        Self { store, slot }
    }

    /// The name of the key.
    pub fn name(&self) -> &'a str {
        let name = self.store.keys.packed(self.slot).name();
        std::str::from_utf8(name).expect("a key's characters are ASCII")
    }

    /// The key.
    pub fn key(&self) -> Key {
        self.store.keys.packed(self.slot).key()
    }

    /// All its entries.
    pub fn register(&self) -> Register {
        self.store.keys.register(self.slot, &self.store.lanes)
    }

    /// How many entries it has.
    pub fn entry_count(&self) -> usize {
        self.elsewhere().map_or(1, |register| register.entries().len())
    }

    /// How many of them put a value.
    pub fn value_count(&self) -> usize {
        match self.elsewhere() {
            Some(register) => register.entries().iter().filter(|entry| entry.value.is_some()).count(),
            None => usize::from(self.store.keys.packed(self.slot).value().is_some()),
        }
    }

    /// The bytes of these values together.
    pub fn value_bytes(&self) -> usize {
        match self.elsewhere() {
            Some(register) => {
                let values = register.entries().iter().filter_map(|entry| entry.value.as_ref());
                values.map(|value| value.as_bytes().len()).sum()
            }
            None => self.store.keys.packed(self.slot).value().map_or(0, <[u8]>::len),
        }
    }

    /// Whether there is nothing in it but removals.
    pub fn is_removed(&self) -> bool {
        self.value_count() == 0
    }

    /// The entry of that name.
    pub fn entry(&self, dot: &Dot) -> Option<Entry> {
        match self.elsewhere() {
            Some(register) => register.entry(dot).cloned(),
            None => self.checksum_of(dot).map(|_| self.store.keys.packed(self.slot).entry(&self.store.lanes)),
        }
    }

    /// The checksum of the entry of that name.
    pub(super) fn checksum_of(&self, dot: &Dot) -> Option<u32> {
        if let Some(register) = self.elsewhere() {
            return register.entry(dot).map(|entry| entry.checksum);
        }
        let packed = self.store.keys.packed(self.slot);
        let is_it = packed.counter() == dot.counter && self.store.lanes[packed.lane()].lane == dot.lane;
        is_it.then(|| packed.checksum())
    }

    /// What [`Register::would_change`] says.
    pub fn would_change(&self, value: Option<&Value>) -> bool {
        match self.elsewhere() {
            Some(register) => register.would_change(value),
            None => self.store.keys.packed(self.slot).value() != value.map(Value::as_bytes),
        }
    }

    /// What [`Register::stamp`] says.
    pub fn stamp(&self) -> Timestamp {
        self.elsewhere().map_or_else(|| self.store.keys.packed(self.slot).stamp(), Register::stamp)
    }

    /// What [`Register::observed_by`] says.
    pub fn observed_by(&self, author: &Lane) -> Observed {
        let packed = self.store.keys.packed(self.slot);
        if packed.is_plain() && self.store.lanes[packed.lane()].lane == *author {
            return Observed::default();
        }
        self.register().observed_by(author)
    }

    /// The digests of its entries, in the order of their dots.
    pub(super) fn digests(&self) -> impl Iterator<Item = u128> {
        let elsewhere = self.elsewhere();
        let packed = self.store.keys.packed(self.slot);
        let only = elsewhere.is_none().then(|| packed.digest(&self.store.lanes));
        elsewhere.into_iter().flat_map(Register::entries).map(Entry::digest).chain(only)
    }

    fn elsewhere(&self) -> Option<&'a Register> {
        self.store.keys.elsewhere(self.slot)
    }
}

/// Rows are equal when keys and entries are.
impl PartialEq for Row<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.register() == other.register()
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Row").field(&self.key()).field(&self.register()).finish()
    }
}
