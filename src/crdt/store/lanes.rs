//! What is known of each lane, and the numbers that stand for lanes inside one store.
//!
//! A lane's name is 41 bytes and every entry bears at least one, so a store writes numbers instead. They say in which order
//! this replica met the lanes: nothing is ever ordered by them, and they are told to nobody.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use super::{Revision, Slot};
use crate::crdt::{Class, Lane, RangeSet};
use crate::id::{Actor, Generation, NodeId};

/// Stands for a lane inside one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneNumber(u32);

impl LaneNumber {
    /// How many bits a number has at most: memory is exhausted long before there are as many lanes.
    const BITS: u32 = 29;

    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    pub(super) fn place(self) -> usize {
        self.0 as usize
    }
}

/// What is known of one lane.
#[derive(Debug, Clone)]
pub(super) struct LaneState {
    pub(super) lane: Lane,
    pub(super) seen: RangeSet,
    /// The keys that cover counters of it: see [`Store`](super::Store).
    pub(super) index: BTreeMap<u64, Slot>,
    /// The wrapping sum of the digests of this lane's live values.
    pub(super) live: u128,
    /// Its part of the store's digest, when that was taken last.
    pub(super) share: u128,
    /// Whether it has changed since then.
    pub(super) has_changed: bool,
    pub(super) revision: Revision,
    /// The greatest counter that went with a collected removal.
    pub(super) floor: u64,
    /// Whether a past stands for it: then it is a name for entries, and nothing else of it counts.
    pub(super) buried: bool,
}

impl LaneState {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            seen: RangeSet::new(),
            index: BTreeMap::new(),
            live: 0,
            share: 0,
            has_changed: false,
            revision: Revision::default(),
            floor: 0,
            buried: false,
        }
    }

    /// Its share in the digest: what was seen of it and what of that is a live value.
    pub(super) fn hash(&self) -> u128 {
        if self.seen.is_empty() {
            return 0;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.lane.tag().to_le_bytes());
        hasher.update(&self.live.to_le_bytes());
        for range in self.seen.ranges() {
            hasher.update(&range.start().to_le_bytes());
            hasher.update(&range.end().to_le_bytes());
        }
        u128::from_le_bytes(hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default())
    }
}

/// All lanes of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Lanes {
    numbers: BTreeMap<Lane, LaneNumber>,
    states: Vec<LaneState>,
    /// The lane that was named last: writes of one lane come one after another.
    last: Option<LaneNumber>,
    /// The past of each node that has one.
    pasts: BTreeMap<NodeId, (Generation, LaneNumber)>,
    /// The numbers that stand for nothing, to be given again.
    free: Vec<LaneNumber>,
    /// How many lanes are buried, and how many of those there were when it was looked last which of them are still named.
    buried: usize,
    named: usize,
}

impl Lanes {
    /// The number of a lane that was met before.
    pub(super) fn number(&self, lane: &Lane) -> Option<LaneNumber> {
        match self.last.filter(|last| self[*last].lane == *lane) {
            Some(last) => Some(last),
            None => self.numbers.get(lane).copied(),
        }
    }

    /// The number of a lane, a new one if it was not met before.
    pub(super) fn meet(&mut self, lane: &Lane) -> LaneNumber {
        if let Some(number) = self.number(lane) {
            self.last = Some(number);
            return number;
        }
        let buried = self.past_of(lane).is_some();
        self.buried += usize::from(buried);
        let state = LaneState { buried, ..LaneState::new(lane.clone()) };
        let number = match self.free.pop() {
            Some(number) => {
                self[number] = state;
                number
            }
            None => {
                let number = u32::try_from(self.states.len()).ok();
                let number = number.filter(|number| number >> LaneNumber::BITS == 0);
                self.states.push(state);
                LaneNumber(number.expect("memory is exhausted before the numbers are"))
            }
        };
        self.numbers.insert(lane.clone(), number);
        self.last = Some(number);
        number
    }

    /// What is known of a lane.
    pub(super) fn get(&self, lane: &Lane) -> Option<&LaneState> {
        self.number(lane).map(|number| &self[number])
    }

    /// All that are known and not buried, in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &LaneState> {
        self.numbers.values().map(|number| &self[*number]).filter(|state| !state.buried)
    }

    /// Those of them from one name on.
    pub(super) fn from(&self, lane: Lane) -> impl Iterator<Item = &LaneState> {
        self.numbers.range(lane..).map(|(_, number)| &self[*number]).filter(|state| !state.buried)
    }

    /// The past that a lane is part of, or is.
    pub(super) fn past_of(&self, lane: &Lane) -> Option<LaneNumber> {
        let Actor { node, generation } = lane.actor();
        self.pasts.get(&node).filter(|(upto, _)| generation <= *upto).map(|(_, number)| *number)
    }

    /// The past of a node.
    pub(super) fn past(&self, node: &NodeId) -> Option<(Generation, LaneNumber)> {
        self.pasts.get(node).copied()
    }

    /// Lets a past stand for all lanes that are part of it. Gives their numbers back.
    pub(super) fn bury(&mut self, past: LaneNumber) -> Vec<LaneNumber> {
        let Actor { node, generation } = self[past].lane.actor();
        let first = Lane::new(Actor { node, generation: Generation(0) }, Class::Registry);
        let parts = self.numbers.range(first..self[past].lane.clone()).map(|(_, number)| *number);
        let parts: Vec<LaneNumber> = parts.filter(|number| !self[*number].buried).collect();
        for part in &parts {
            self[*part].buried = true;
        }
        self.pasts.insert(node, (generation, past));
        self.buried += parts.len();
        parts
    }

    /// How many lanes have a number.
    pub(super) fn name_count(&self) -> usize {
        self.numbers.len()
    }

    /// How many numbers there are, those that stand for nothing included.
    pub(super) fn number_count(&self) -> usize {
        self.states.len()
    }

    /// Whether lanes were buried since it was looked which of them are still named.
    pub(super) fn has_buried(&self) -> bool {
        self.buried > self.named
    }

    /// Forgets the buried lanes that have no index and are not marked as named by their numbers.
    pub(super) fn forget(&mut self, named: &[bool]) {
        // What stands where nothing does: any lane, buried, of which nothing is known.
        let Some((_, past)) = self.pasts.values().next() else { return };
        let nobody = LaneState { buried: true, ..LaneState::new(self[*past].lane.clone()) };
        let Self { numbers, states, free, .. } = self;
        numbers.retain(|_, number| {
            let state = &mut states[number.place()];
            let keeps = !state.buried || named[number.place()] || !state.index.is_empty();
            if !keeps {
                *state = nobody.clone();
                free.push(*number);
            }
            keeps
        });
        free.sort_unstable_by_key(|number| number.0);
        while free.pop_if(|last| last.place() + 1 == states.len()).is_some() {
            states.pop();
        }
        states.shrink_to(2 * states.len());
        free.shrink_to(2 * free.len());
        self.last = None;
        self.buried = self.numbers.values().filter(|number| self[**number].buried).count();
        self.named = self.buried;
    }
}

impl Index<LaneNumber> for Lanes {
    type Output = LaneState;

    fn index(&self, number: LaneNumber) -> &LaneState {
        &self.states[number.place()]
    }
}

impl IndexMut<LaneNumber> for Lanes {
    fn index_mut(&mut self, number: LaneNumber) -> &mut LaneState {
        &mut self.states[number.place()]
    }
}
