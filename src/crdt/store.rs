//! All keys of a replica, what it has seen, and the index that makes one serve the other.

mod collect;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crdts::{CmRDT, CvRDT};
use smallvec::SmallVec;

use super::{CausalContext, Class, Delta, Dot, Entry, Item, Key, Lane, RangeSet, Register, Verdict};
use crate::id::{Actor, Generation, NodeId};
use crate::time::Timestamp;

pub use collect::{KeyRange, Reconciliation, Removal};

/// Counts the changes of a store's context, locally: what has changed since another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

/// An entry does not bear the checksum that belongs to it: it was damaged on its way, by a neighbour's memory
/// or by a bug, and the delta that brought it was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the entry {dot} of key {key:?} does not match its checksum")]
pub struct Corrupt {
    /// The key that the entry was under.
    pub key: Key,
    /// The entry.
    pub dot: Dot,
}

/// The replicated state: a register per key, the exact context, and per lane the index of what covers what.
///
/// **The index** maps each lane's counters to keys, over every key's dots *and* observed counters, the
/// greatest per lane and key. So the keys that a delta must bring are one range scan away, and it needs no
/// buffer of past writes: the live state, read through the index, is the buffer.
///
/// **Generations.** In lanes of [`Class::Registry`] a node speaks of its own life: whatever it said in an
/// earlier generation is void as soon as a later one is in the context. That hides it from views and does not
/// touch the state: letting go of it was tried and diverged, for it makes dots dead that nothing which travels
/// with them accounts for.
///
/// **Floors.** Removals may be let go at any moment ([`collect`](Self::collect)). Each lane's floor remembers the
/// greatest counter that went that way: whoever lacks a dot at or below it cannot be served by a delta, which
/// could not bring what killed it, but [reconciles](Self::reconcile).
#[derive(Debug, Clone, Default)]
pub struct Store {
    registers: BTreeMap<Key, Register>,
    lanes: BTreeMap<Lane, LaneState>,
    /// The greatest generation in the context, per node.
    generations: BTreeMap<NodeId, Generation>,
    /// The lanes by the time of their last change.
    recent: BTreeMap<Revision, Lane>,
    /// The wrapping sum of the lanes' shares in the digest, and the lanes whose share is to be taken anew: those that the
    /// last merge has changed.
    shares: u128,
    changed_lanes: BTreeSet<Lane>,
    revision: Revision,
    equivocations: u64,
    /// How many entries were found lost here, and came back.
    restored: u64,
    /// The removals, in about the order in which they came. Those that were replaced since are passed over.
    removed: VecDeque<Removed>,
    /// How many removals there are.
    removals: usize,
    /// The greatest stamp of the removals that went.
    horizon: Timestamp,
    /// The keys whose registers changed since somebody asked.
    changed: BTreeSet<Key>,
}

#[derive(Debug, Clone, Default)]
struct LaneState {
    seen: RangeSet,
    index: BTreeMap<u64, Key>,
    /// The wrapping sum of the digests of this lane's live values.
    live: u128,
    /// Its part of [`Store::shares`].
    share: u128,
    revision: Revision,
    /// The greatest counter that went with a collected removal.
    floor: u64,
}

impl LaneState {
    /// Its share in the digest: what was seen of it and what of that is a live value.
    fn hash(&self, lane: &Lane) -> u128 {
        if self.seen.is_empty() {
            return 0;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&lane.tag().to_le_bytes());
        hasher.update(&self.live.to_le_bytes());
        for range in self.seen.ranges() {
            hasher.update(&range.start().to_le_bytes());
            hasher.update(&range.end().to_le_bytes());
        }
        u128::from_le_bytes(hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default())
    }
}

/// A removal that came.
#[derive(Debug, Clone)]
struct Removed {
    since: Revision,
    key: Key,
    dot: Dot,
}

impl Store {
    /// An empty store that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of a key.
    pub fn register(&self, key: &Key) -> Option<&Register> {
        self.registers.get(key)
    }

    /// The keys that begin with `prefix`, in order, removed ones included until they are collected.
    pub fn prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Key, &'a Register)> {
        let all = prefix
            .parse::<Key>()
            .map_or_else(|_| self.registers.range::<Key, _>(..), |from| self.registers.range(from..));
        all.skip_while(move |(key, _)| key.as_str() < prefix)
            .take_while(move |(key, _)| key.as_str().starts_with(prefix))
    }

    /// How many keys there are, removed ones included until they are collected.
    pub fn len(&self) -> usize {
        self.registers.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty()
    }

    /// How often one dot came with two contents.
    pub fn equivocations(&self) -> u64 {
        self.equivocations
    }

    /// Whether a write was seen, live or dead.
    pub fn seen(&self, dot: &Dot) -> bool {
        self.lanes.get(&dot.lane).is_some_and(|lane| lane.seen.contains(dot.counter))
    }

    /// What was seen of one lane.
    pub fn seen_of(&self, lane: &Lane) -> Option<&RangeSet> {
        self.lanes.get(lane).map(|state| &state.seen)
    }

    /// The lanes of all lives of a node that something was seen of.
    pub fn lanes_of(&self, node: &NodeId) -> impl Iterator<Item = &Lane> {
        let (node, generation) = (*node, Generation(0));
        let first = Lane::new(Actor { node, generation }, Class::Registry);
        self.lanes.range(first..).map(|(lane, _)| lane).take_while(move |lane| lane.actor().node == node)
    }

    /// All that was seen.
    pub fn context(&self) -> CausalContext {
        self.lanes.iter().map(|(lane, state)| (lane.clone(), state.seen.clone())).collect()
    }

    /// The time of the last change of the context.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What was seen of the lanes that have changed since then.
    pub fn context_since(&self, since: Revision) -> CausalContext {
        let changed = self.recent.range(Revision(since.0.saturating_add(1))..).map(|(_, lane)| lane);
        changed.filter_map(|lane| Some((lane.clone(), self.lanes.get(lane)?.seen.clone()))).collect()
    }

    /// The lanes of which something was seen since then.
    pub fn lanes_since(&self, since: Revision) -> impl Iterator<Item = &Lane> {
        self.recent.range(Revision(since.0.saturating_add(1))..).map(|(_, lane)| lane)
    }

    /// The greatest generation of a node in the context.
    pub fn generation(&self, node: &NodeId) -> Option<Generation> {
        self.generations.get(node).copied()
    }

    /// Whether what this lane said is void: it spoke of an earlier life of its node.
    pub fn is_void(&self, lane: &Lane) -> bool {
        let Actor { node, generation } = lane.actor();
        lane.class() == Class::Registry && self.generation(&node).is_some_and(|latest| latest > generation)
    }

    /// A hash of the whole state: equal on two replicas exactly when their contexts and live values are equal
    /// (up to collisions of 128 bits).
    ///
    /// Removals do not count, so that the time of their collection does not either.
    ///
    /// It costs no more than the last merge did: it is a sum over lanes, of which only those are hashed that it changed.
    pub fn digest(&self) -> [u8; 16] {
        let changed = self.changed_lanes.iter().filter_map(|lane| Some((lane, self.lanes.get(lane)?)));
        let sum = changed.fold(self.shares, |sum, (lane, state)| {
            sum.wrapping_sub(state.share).wrapping_add(state.hash(lane))
        });
        sum.to_le_bytes()
    }

    /// Takes the shares of the changed lanes into the sum.
    fn settle_digest(&mut self) {
        for lane in std::mem::take(&mut self.changed_lanes) {
            if let Some(state) = self.lanes.get_mut(&lane) {
                let share = state.hash(&lane);
                self.shares = self.shares.wrapping_sub(state.share).wrapping_add(share);
                state.share = share;
            }
        }
    }

    /// The keys that have changed, or may read otherwise, since the last call, in order.
    pub fn take_changed(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.changed)
    }

    /// Merges a delta; [`take_changed`](Self::take_changed) tells what it changed.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if an entry fails its checksum: the sender's fault or that of the sender's sender; nothing
    /// was merged and nothing counts as seen.
    pub fn merge(&mut self, delta: &Delta) -> Result<(), Corrupt> {
        self.settle_digest();
        // Everything is verified before anything is merged, and hashed once.
        for (key, entry) in self.verified(&delta.items)? {
            // A dot may come twice in one delta.
            if self.is_news(key, entry) {
                self.see(&entry.dot.lane, |seen| seen.insert(entry.dot.counter));
                self.insert(key, entry.clone());
            }
        }
        for (lane, counters) in delta.accounted.lanes() {
            self.see(lane, |seen| seen.union(counters));
        }
        Ok(())
    }

    /// The delta that brings a receiver who knows `known` up to date in some lanes, those of
    /// [`Class::Registry`] first, in about `budget` bytes.
    ///
    /// Of a lane that does not fit come the keys with the greatest counters, and only what lies above the rest
    /// is accounted for: a dot that a later one superseded is known to be dead where that later one is, never
    /// the other way round. Entries that the receiver knows are left out; a key too large for the budget is cut
    /// between entries. Some entry always comes along, so that whoever adds what was sent to `known` and asks
    /// again makes progress. Lanes of which the receiver lacks something [below the floor](Self::is_below_floor)
    /// are passed over.
    pub fn delta<'a>(
        &self,
        lanes: impl IntoIterator<Item = &'a Lane>,
        known: &CausalContext,
        budget: usize,
    ) -> Delta {
        let mut builder =
            DeltaBuilder { store: self, known, budget, size: 0, keys: BTreeSet::new(), items: Vec::new() };
        let mut lanes: Vec<&Lane> = lanes.into_iter().collect();
        lanes.sort_by_key(|lane| lane.class());
        let mut accounted = CausalContext::new();
        for lane in lanes {
            let Some(state) = self.lanes.get(lane) else { continue };
            if self.is_below_floor(lane, known.lane(lane)) {
                continue;
            }
            let missing =
                known.lane(lane).map_or_else(|| state.seen.clone(), |known| state.seen.difference(known));
            match builder.collect(state, &missing) {
                Ok(()) => accounted.insert_all(lane, &missing),
                Err(served) => {
                    accounted.insert_all(lane, &served);
                    break;
                }
            };
        }
        Delta { accounted, items: builder.items }
    }

    /// Whether merging the entry could change anything: it was not seen, or contradicts what is live.
    fn is_news(&self, key: &Key, entry: &Entry) -> bool {
        if !self.seen(&entry.dot) {
            return true;
        }
        let present = self.registers.get(key).and_then(|register| register.entry(&entry.dot));
        present.is_some_and(|present| present.checksum != entry.checksum)
    }

    /// The entries that are news, all of them verified before any is merged.
    fn verified<'a>(&self, items: &'a [Item]) -> Result<Vec<(&'a Key, &'a Entry)>, Corrupt> {
        let mut news: Vec<(&Key, &Entry)> = Vec::new();
        for item in items {
            for entry in item.entries.iter().filter(|entry| self.is_news(&item.key, entry)) {
                if entry.hash(&item.key) != entry.checksum {
                    return Err(Corrupt { key: item.key.clone(), dot: entry.dot.clone() });
                }
                news.push((&item.key, entry));
            }
        }
        Ok(news)
    }

    /// Joins an entry to its register. That its dot was seen is noted apart.
    fn insert(&mut self, key: &Key, entry: Entry) {
        let (dot, puts, digest) = (entry.dot.clone(), entry.value.is_some(), entry.digest());
        let mut verdict = Verdict::Dead;
        self.update(key, |register, gone| verdict = register.insert(entry, gone));
        match verdict {
            Verdict::Dead => return,
            Verdict::Equivocation { replaced } => {
                self.equivocations += 1;
                if !replaced {
                    return;
                }
                // The context is what it was, and yet the state is another.
                self.revision.0 += 1;
            }
            Verdict::Live => {}
        }
        if puts {
            let state = lane_mut(&mut self.lanes, &dot.lane);
            state.live = state.live.wrapping_add(digest);
            self.changed_lanes.insert(dot.lane);
        } else {
            self.removals += 1;
            self.note_removed(Removed { since: self.revision, key: key.clone(), dot });
        }
        self.changed.insert(key.clone());
    }

    /// Changes a register and keeps index and sums true to it.
    fn update(&mut self, key: &Key, change: impl FnOnce(&mut Register, &mut dyn FnMut(&Entry))) {
        if !self.registers.contains_key(key) {
            self.registers.insert(key.clone(), Register::default());
        }
        let register = self.registers.get_mut(key).expect("the register was just inserted");
        let before = register.places();
        let mut gone: SmallVec<[(Lane, Option<u128>); 1]> = SmallVec::new();
        change(register, &mut |entry| {
            let digest = entry.value.is_some().then(|| entry.digest());
            gone.push((entry.dot.lane.clone(), digest));
        });
        let after = register.places();
        if register.is_empty() {
            self.registers.remove(key);
        }
        for (lane, digest) in gone {
            match digest {
                Some(digest) => {
                    let state = lane_mut(&mut self.lanes, &lane);
                    state.live = state.live.wrapping_sub(digest);
                    self.changed_lanes.insert(lane);
                }
                None => self.removals -= 1,
            }
        }
        for (lane, counter) in before.iter().filter(|covered| !after.contains(covered)) {
            if let Some(state) = self.lanes.get_mut(lane) {
                state.index.remove(counter);
            }
        }
        for (lane, counter) in after.iter().filter(|covered| !before.contains(covered)) {
            lane_mut(&mut self.lanes, lane).index.insert(*counter, key.clone());
        }
    }

    /// Changes what was seen of a lane, and notes when.
    fn see(&mut self, lane: &Lane, change: impl FnOnce(&mut RangeSet) -> bool) {
        let state = lane_mut(&mut self.lanes, lane);
        if !change(&mut state.seen) {
            return;
        }
        self.revision.0 += 1;
        self.recent.remove(&state.revision);
        state.revision = self.revision;
        self.recent.insert(self.revision, lane.clone());
        self.changed_lanes.insert(lane.clone());
        let Actor { node, generation } = lane.actor();
        let latest = self.generations.entry(node).or_insert(generation);
        if *latest < generation {
            *latest = generation;
            self.note_void(&node);
        }
    }

    /// A later life of a node was seen: what it said of the earlier ones reads otherwise now.
    fn note_void(&mut self, node: &NodeId) {
        let void = self.lanes_of(node).filter(|lane| self.is_void(lane));
        let keys: Vec<Key> = void.flat_map(|lane| self.lanes[lane].index.values().cloned()).collect();
        self.changed.extend(keys);
    }
}

/// Two stores are equal when they have seen the same and hold the same.
impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        self.registers == other.registers && self.context() == other.context()
    }
}

impl CvRDT for Store {
    type Validation = Corrupt;

    fn validate_merge(&self, _: &Self) -> Result<(), Corrupt> {
        Ok(())
    }

    /// Merges all that the other has seen. Between replicas travel deltas; this is for laws and oracles.
    fn merge(&mut self, other: Self) {
        // The trait has no error to return, and what a store holds is sound.
        self.reconcile(&other.reconciliation(self)).ok();
    }
}

impl CmRDT for Store {
    type Op = Delta;
    type Validation = Corrupt;

    fn validate_op(&self, delta: &Delta) -> Result<(), Corrupt> {
        self.clone().merge(delta)
    }

    /// Merges a delta that is not corrupt; a corrupt one changes nothing.
    fn apply(&mut self, delta: Delta) {
        // The trait has no error to return; `validate_op` has.
        self.merge(&delta).ok();
    }
}

/// The state of a lane, made if it is new. Looks the name up before it clones it: lanes are few and old.
fn lane_mut<'a>(lanes: &'a mut BTreeMap<Lane, LaneState>, lane: &Lane) -> &'a mut LaneState {
    if !lanes.contains_key(lane) {
        lanes.insert(lane.clone(), LaneState::default());
    }
    lanes.get_mut(lane).expect("the lane was just inserted")
}

/// A delta in the making.
struct DeltaBuilder<'a> {
    store: &'a Store,
    known: &'a CausalContext,
    budget: usize,
    size: usize,
    keys: BTreeSet<&'a Key>,
    items: Vec<Item>,
}

impl<'a> DeltaBuilder<'a> {
    /// Adds the keys that cover missing counters, the latest first, or as many as the budget allows.
    ///
    /// The index finds a key by the greatest counter that it covers, and by the dots of its entries. That is a missing one,
    /// or one that this replica has not seen itself but that a write which it has seen had observed.
    ///
    /// # Errors
    ///
    /// The missing counters that may be accounted for when the budget was spent: those above the first key
    /// that found no room. A key that covers one of them is found above it too, and was served.
    fn collect(&mut self, lane: &'a LaneState, missing: &RangeSet) -> Result<(), RangeSet> {
        let Some(first) = missing.first() else { return Ok(()) };
        // Seen by both: whatever these cover, the receiver's state covers.
        let shared = lane.seen.difference(missing);
        for range in RangeSet::from(first..=u64::MAX).difference(&shared).ranges().rev() {
            for (&counter, key) in lane.index.range(range).rev() {
                if self.keys.insert(key) && !self.add(key) {
                    return Err(missing.difference(&RangeSet::up_to(counter)));
                }
            }
        }
        Ok(())
    }

    /// Adds a key's entries, as far as the receiver lacks them; says whether all found room.
    fn add(&mut self, key: &'a Key) -> bool {
        let entries = self.store.registers.get(key).map_or(&[][..], Register::entries);
        let lacking = entries.iter().filter(|entry| !self.known.contains(&entry.dot));
        let mut item = Item { key: key.clone(), entries: SmallVec::new() };
        let mut complete = true;
        for entry in lacking {
            if self.size >= self.budget {
                complete = false;
                break;
            }
            item.entries.push(entry.clone());
            self.size += Item::entry_size(entry);
        }
        if !item.entries.is_empty() {
            self.size += Item::head_size(key);
            self.items.push(item);
        }
        complete
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
pub(super) mod tests;
