//! All keys of a store: each in a slot, found by its name, and in order.
//!
//! Slots are numbered without gaps: where one becomes free the last key is moved into it, so that memory follows the number of
//! keys down as well. Names are found by a hash that is seeded, so that nobody who chooses names can choose which ones meet.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use hashbrown::HashTable;

use super::lanes::Lanes;
use super::order::{Order, Position};
use super::packed::Packed;
use crate::crdt::{Entry, Register};

/// How many slots are allocated at a time, from the second time on.
const CHUNK: usize = 512;
/// The table gives memory back when it has room for so many times the keys.
const SLACK: usize = 4;

/// Where a key lies. Not its name: another one may lie there later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

impl Slot {
    fn place(self) -> (usize, usize) {
        (self.0 as usize / CHUNK, self.0 as usize % CHUNK)
    }
}

/// A slot in the table of names, beside the hash of its name: so that growing reads no names.
#[derive(Debug, Clone, Copy)]
struct Named {
    hash: u32,
    slot: Slot,
}

impl Named {
    /// The 64 bits that the table wants, of both ends of which it makes use.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn again(&self) -> u64 {
        Self::spread(self.hash)
    }
}

/// That a key is not there, and the hash of its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vacant {
    hash: u32,
}

/// All keys of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    slots: Vec<Vec<Packed>>,
    count: usize,
    table: HashTable<Named>,
    order: Order,
    /// What does not fit a packed key.
    elsewhere: BTreeMap<Slot, Register>,
    seed: u64,
}

impl Keys {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    fn hash(&self, name: &[u8]) -> u32 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write(name);
        u32::try_from(hasher.finish() >> 32).unwrap_or_default()
    }

    /// Where a key lies.
    pub(super) fn find(&self, name: &str) -> Option<Slot> {
        self.place_of(name).ok()
    }

    /// Where a key lies, or where it would be looked for.
    pub(super) fn place_of(&self, name: &str) -> Result<Slot, Vacant> {
        let (name, hash) = (name.as_bytes(), self.hash(name.as_bytes()));
        let is_it = |named: &Named| named.hash == hash && self.packed(named.slot).name() == name;
        self.table.find(Named::spread(hash), is_it).map(|named| named.slot).ok_or(Vacant { hash })
    }

    /// All keys, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Packed> {
        self.slots.iter().flatten()
    }

    pub(super) fn packed(&self, slot: Slot) -> &Packed {
        let (chunk, at) = slot.place();
        &self.slots[chunk][at]
    }

    pub(super) fn packed_mut(&mut self, slot: Slot) -> &mut Packed {
        let (chunk, at) = slot.place();
        &mut self.slots[chunk][at]
    }

    /// All entries of a key.
    pub(super) fn register(&self, slot: Slot, lanes: &Lanes) -> Register {
        match self.elsewhere(slot) {
            Some(register) => register.clone(),
            None => Register::of(self.packed(slot).entry(lanes)),
        }
    }

    /// The entries of a key that does not lie in its slot alone.
    pub(super) fn elsewhere(&self, slot: Slot) -> Option<&Register> {
        if self.packed(slot).is_elsewhere() { self.elsewhere.get(&slot) } else { None }
    }

    /// Adds a key that is not there, with its only entry.
    pub(super) fn insert(&mut self, at: Vacant, name: &str, entry: &Entry, lanes: &mut Lanes) -> Slot {
        let packed = Packed::new(name, entry, lanes);
        let is_packed = packed.is_some();
        let slot = self.push(at.hash, packed.unwrap_or_else(|| Packed::elsewhere(name)));
        if !is_packed {
            self.elsewhere.insert(slot, Register::of(entry.clone()));
        }
        slot
    }

    fn push(&mut self, hash: u32, packed: Packed) -> Slot {
        let slot = Slot(u32::try_from(self.count).expect("memory is exhausted before the numbers are"));
        match self.slots.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(packed),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(packed);
                self.slots.push(chunk);
            }
            None => self.slots.push(vec![packed]),
        }
        self.count += 1;
        self.table.insert_unique(Named::spread(hash), Named { hash, slot }, Named::again);
        let slots = &self.slots;
        self.order.insert(slot, |slot| name_in(slots, slot));
        slot
    }

    /// Puts all entries of a key in the place of those that were there; there must be one.
    pub(super) fn replace(&mut self, slot: Slot, register: Register, lanes: &mut Lanes) {
        let packed = self.packed(slot);
        let (name, was_elsewhere) = (packed.key(), packed.is_elsewhere());
        let packed = match register.entries() {
            [entry] => Packed::new(name.as_str(), entry, lanes),
            _ => None,
        };
        match packed {
            Some(packed) => {
                *self.packed_mut(slot) = packed;
                if was_elsewhere {
                    self.elsewhere.remove(&slot);
                }
            }
            None => {
                if !was_elsewhere {
                    *self.packed_mut(slot) = Packed::elsewhere(name.as_str());
                }
                self.elsewhere.insert(slot, register);
            }
        }
    }

    /// Takes a key out. Its slot has another key from now on, if there is one that had lain in the last slot: in the one that
    /// is returned.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Slot> {
        let last = Slot(u32::try_from(self.count - 1).expect("a slot has a number"));
        let slots = &self.slots;
        let (name, last_name) = (name_in(slots, slot), name_in(slots, last));
        let (hash, last_hash) = (self.hash(name), self.hash(last_name));
        self.order.remove(name, |slot| name_in(slots, slot));
        if slot != last {
            self.order.replace(last_name, slot, |slot| name_in(slots, slot));
        }
        self.elsewhere.remove(&slot);
        self.unname(hash, slot);
        let moved = self.pop();
        if self.table.capacity() > self.table.len() * SLACK {
            self.table.shrink_to(self.table.len() * 2, Named::again);
        }
        if slot == last {
            return None;
        }
        *self.packed_mut(slot) = moved;
        self.unname(last_hash, last);
        self.table.insert_unique(Named::spread(last_hash), Named { hash: last_hash, slot }, Named::again);
        if let Some(register) = self.elsewhere.remove(&last) {
            self.elsewhere.insert(slot, register);
        }
        Some(last)
    }

    /// Empties the last slot.
    fn pop(&mut self) -> Packed {
        let chunk = self.slots.last_mut().expect("a key lies in a chunk");
        let packed = chunk.pop().expect("no chunk is empty");
        if chunk.is_empty() {
            self.slots.pop();
            if self.slots.capacity() > SLACK * self.slots.len() + 64 {
                self.slots.shrink_to(2 * self.slots.len());
            }
        } else if self.slots.len() == 1 && self.slots[0].len() < CHUNK / SLACK {
            self.slots[0].shrink_to(CHUNK / SLACK);
        }
        self.count -= 1;
        packed
    }

    fn unname(&mut self, hash: u32, slot: Slot) {
        if let Ok(named) = self.table.find_entry(Named::spread(hash), |named| named.slot == slot) {
            named.remove();
        }
    }

    /// Where the first key is that is not below `name`.
    pub(super) fn position(&self, name: &str) -> Position {
        self.order.position(name.as_bytes(), |slot| self.packed(slot).name())
    }

    /// Behind the last key.
    pub(super) fn end(&self) -> Position {
        self.order.end()
    }

    /// The keys from one place up to another, in order.
    pub(super) fn slots(&self, from: Position, until: Position) -> impl Iterator<Item = Slot> {
        self.order.slots(from, until)
    }

    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        let all: Vec<Slot> = self.slots(self.position(""), self.end()).collect();
        let found = all.iter().copied().all(|slot| self.find(self.packed(slot).key().as_str()) == Some(slot));
        let elsewhere = self.elsewhere.keys().all(|slot| self.packed(*slot).is_elsewhere());
        found
            && elsewhere
            && self.order.is_sorted(|slot| self.packed(slot).name())
            && all.len() == self.count
            && self.table.len() == self.count
    }
}

fn name_in(slots: &[Vec<Packed>], slot: Slot) -> &[u8] {
    let (chunk, at) = slot.place();
    slots[chunk][at].name()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::tests::lane;
    use super::*;
    use crate::crdt::{Key, Lane, Observed, Value};
    use crate::time::Timestamp;

    fn key(name: &str) -> Key {
        name.parse().unwrap()
    }

    fn entry(key: &Key, counter: u64, observed: Vec<(Lane, u64)>, value: Option<Vec<u8>>) -> Entry {
        let value = value.map(|bytes| Value::try_from(&bytes[..]).unwrap());
        Entry::new(key, lane(0).dot(counter), Observed::new(observed), Timestamp(counter), value)
    }

    /// What lies in a slot is what was put there: on either side of what fits.
    #[test]
    fn every_entry_survives_being_packed() {
        let many = |count: u64| {
            let lanes = (0..count).map(|life| {
                let actor = crate::id::Actor { generation: crate::id::Generation(life), ..lane(1).actor() };
                (Lane::new(actor, lane(1).class()), 1 << life.min(63))
            });
            lanes.collect::<Vec<_>>()
        };
        for name in ["k".to_owned(), "k".repeat(256)] {
            for seen in [0, 1, 2, 255, 256, 300] {
                for value in [None, Some(Vec::new()), Some(vec![7; 32]), Some(vec![1; Value::MAX_LEN])] {
                    let (mut keys, mut lanes, key) = (Keys::default(), Lanes::default(), key(&name));
                    let first = entry(&key, 1, many(seen), value.clone());
                    let vacant = keys.place_of(key.as_str()).unwrap_err();
                    let slot = keys.insert(vacant, key.as_str(), &first, &mut lanes);
                    assert_eq!(keys.register(slot, &lanes), Register::of(first.clone()));
                    let second = entry(&key, 2, many(256 - seen.min(256)), value);
                    let mut register = Register::of(first);
                    register.insert(second, |_| ());
                    keys.replace(slot, register.clone(), &mut lanes);
                    assert_eq!(keys.register(slot, &lanes), register);
                    assert!(keys.is_sound());
                }
            }
        }
    }

    proptest! {
        /// Against a map, whose order and whose memory are not ours.
        #[test]
        fn keys_are_found_and_in_order_whatever_comes_and_goes(
            steps in prop::collection::vec((0u32..4, 0u32..3_000), 1..2_500),
            stride in prop_oneof![Just(1u32), Just(2_999), Just(1_237)],
        ) {
            let (mut keys, mut lanes, mut expected) = (Keys::new(9), Lanes::default(), BTreeMap::new());
            for (step, (what, number)) in steps.into_iter().enumerate() {
                // Mostly one after another, from either end or all over.
                let number = if what < 3 { u32::try_from(step).unwrap() * stride % 3_000 } else { number };
                let (key, counter) = (key(&format!("key-{number:04}")), step as u64 + 1);
                match keys.place_of(key.as_str()) {
                    Ok(slot) => {
                        if let Some(from) = keys.remove(slot) {
                            prop_assert!(from > slot);
                        }
                        prop_assert!(expected.remove(&key).is_some());
                    }
                    Err(vacant) => {
                        let entry = entry(&key, counter, Vec::new(), Some(vec![1]));
                        let slot = keys.insert(vacant, key.as_str(), &entry, &mut lanes);
                        prop_assert_eq!(slot, Slot(u32::try_from(expected.len()).unwrap()));
                        expected.insert(key, counter);
                    }
                }
            }
            prop_assert!(keys.is_sound());
            let rows = keys.slots(keys.position("key-1500"), keys.end());
            let rows: Vec<_> = rows.map(|slot| (keys.packed(slot).key(), keys.packed(slot).counter())).collect();
            let upper = expected.range(key("key-1500")..).map(|(key, counter)| (key.clone(), *counter));
            prop_assert_eq!(rows, upper.collect::<Vec<_>>());
            prop_assert_eq!(keys.len(), expected.len());
            // And down again, from one end, until nothing is left.
            for (gone, (key, _)) in expected.into_iter().enumerate() {
                let slot = keys.find(key.as_str()).unwrap();
                keys.remove(slot);
                prop_assert!(gone % 50 > 0 || keys.is_sound());
            }
            prop_assert!(keys.len() == 0 && keys.is_sound());
        }
    }
}
