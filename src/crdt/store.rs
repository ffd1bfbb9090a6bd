//! All keys of a replica, what it has seen, and the index that makes one serve the other.

mod changed;
mod collect;
mod corrupt;
mod keys;
mod lanes;
mod order;
mod packed;
mod retire;
mod row;
mod seals;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crdts::{CmRDT, CvRDT};
use smallvec::SmallVec;

use self::changed::ChangedKeys;
use self::keys::{Keys, Slot, Vacant};
use self::lanes::{LaneNumber, LaneState, Lanes};
use self::seals::{Seals, Verified};
use super::Dot;
use super::{CausalContext, Class, Delta, Entry, Item, Key, Lane, RangeSet, Register, Seal, Verdict};
use crate::id::{Actor, Generation, NodeId};
use crate::time::Timestamp;

pub use collect::{KeyRange, Reconciliation, Removal};
pub use corrupt::{Corrupt, Flaw};
pub use retire::{Testimony, Unready};
pub use row::Row;

/// How many lanes may have changed before the digest is taken anew: about what [`Store::digest`] hashes at most.
const MAX_CHANGED_LANES: usize = 16;

/// Counts the changes of a store's context, locally: what has changed since another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

/// The replicated state: a register per key, the exact context, and per lane the index of what covers what.
///
/// **The index** maps each lane's counters to keys, over the dots *and* the observed counters of every key's
/// entries. So the keys that a delta must bring are one range scan away, and it needs no
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
///
/// **Pasts.** The lanes of lives that are over can be [retired](Self::retire): one [past](Lane::past) per node takes the
/// place of them all. It has no index, and its floor is its end: nothing of it is ever served by a delta.
#[derive(Debug, Clone, Default)]
pub struct Store {
    keys: Keys,
    lanes: Lanes,
    /// The greatest generation in the context, per node.
    generations: BTreeMap<NodeId, Generation>,
    /// The lanes by the time of their last change.
    recent: BTreeMap<Revision, LaneNumber>,
    /// The wrapping sum of the lanes' shares in the digest, and the lanes whose share is to be taken anew.
    shares: u128,
    changed_lanes: Vec<LaneNumber>,
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
    changed: ChangedKeys,
    /// The pasts that were made since somebody asked.
    retired_now: Vec<Lane>,
    /// The seals of what is live, if entries are sealed.
    seals: Option<Box<Seals>>,
}

/// A removal that came.
#[derive(Debug, Clone)]
struct Removed {
    since: Revision,
    lane: LaneNumber,
    counter: u64,
}

impl Store {
    /// An empty store that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose table of names is arranged by `seed`: whoever does not know it cannot choose names that are
    /// slow to find. Nothing else depends on it.
    pub fn seeded(seed: u64) -> Self {
        Self { keys: Keys::new(seed), ..Self::default() }
    }

    /// The state of a key.
    pub fn register(&self, key: &Key) -> Option<Register> {
        self.row(key).map(|row| row.register())
    }

    /// The state of a key, where it lies.
    pub fn row(&self, key: &Key) -> Option<Row<'_>> {
        self.keys.find(key.as_str()).map(|slot| Row::new(self, slot))
    }

    /// The keys that begin with `prefix`, in order, removed ones included until they are collected.
    pub fn prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = Row<'a>> {
        self.rows_from(prefix).take_while(move |row| row.name().starts_with(prefix))
    }

    /// The keys that are not below a text, in order.
    pub fn rows_from<'a>(&'a self, from: &str) -> impl Iterator<Item = Row<'a>> + use<'a> {
        self.keys.slots(self.keys.position(from), self.keys.end()).map(|slot| Row::new(self, slot))
    }

    /// How many keys there are, removed ones included until they are collected.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// How often one dot came with two contents.
    pub fn equivocations(&self) -> u64 {
        self.equivocations
    }

    /// Whether a write was seen, live or dead.
    pub fn seen(&self, dot: &Dot) -> bool {
        self.seen_of(&dot.lane).is_some_and(|seen| seen.contains(dot.counter))
    }

    /// What was seen of one lane: all there can be, of one that is retired.
    pub fn seen_of(&self, lane: &Lane) -> Option<&RangeSet> {
        match self.lanes.get(lane) {
            Some(state) if !state.buried => Some(&state.seen),
            Some(_) => Some(RangeSet::all()),
            None => self.lanes.past_of(lane).map(|_| RangeSet::all()),
        }
    }

    /// The lanes of all lives of a node that something was seen of.
    pub fn lanes_of(&self, node: &NodeId) -> impl Iterator<Item = &Lane> {
        let (node, generation) = (*node, Generation(0));
        let first = Lane::new(Actor { node, generation }, Class::Registry);
        self.lanes.from(first).map(|state| &state.lane).take_while(move |lane| lane.actor().node == node)
    }

    /// All that was seen.
    pub fn context(&self) -> CausalContext {
        self.lanes.iter().map(|state| (state.lane.clone(), state.seen.clone())).collect()
    }

    /// The time of the last change of the context.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What was seen of the lanes that have changed since then.
    pub fn context_since(&self, since: Revision) -> CausalContext {
        let changed = self.states_since(since);
        changed.map(|state| (state.lane.clone(), state.seen.clone())).collect()
    }

    /// The lanes of which something was seen since then.
    pub fn lanes_since(&self, since: Revision) -> impl Iterator<Item = &Lane> {
        self.states_since(since).map(|state| &state.lane)
    }

    fn states_since(&self, since: Revision) -> impl Iterator<Item = &LaneState> {
        let recent = self.recent.range(Revision(since.0.saturating_add(1))..);
        recent.map(|(_, number)| &self.lanes[*number])
    }

    /// The greatest generation of a node in the context.
    pub fn generation(&self, node: &NodeId) -> Option<Generation> {
        self.generations.get(node).copied()
    }

    /// Whether what this lane said is void: it spoke of an earlier life of its node.
    pub fn is_void(&self, lane: &Lane) -> bool {
        let Actor { node, generation } = lane.actor();
        lane.class() == Class::Registry
            && (self.generation(&node).is_some_and(|latest| latest > generation) || self.is_retired(lane))
    }

    /// A hash of the whole state: equal on two replicas exactly when their contexts and live values are equal
    /// (up to collisions of 128 bits).
    ///
    /// Removals do not count, so that the time of their collection does not either.
    ///
    /// It is a sum over lanes, of which only those few are hashed that have changed since it was taken last.
    pub fn digest(&self) -> [u8; 16] {
        let changed = self.changed_lanes.iter().map(|number| &self.lanes[*number]);
        let sum =
            changed.fold(self.shares, |sum, state| sum.wrapping_sub(state.share).wrapping_add(state.hash()));
        sum.to_le_bytes()
    }

    /// Takes the shares of the changed lanes into the sum, once there are some.
    fn settle_digest(&mut self) {
        if self.changed_lanes.len() < MAX_CHANGED_LANES {
            return;
        }
        for number in std::mem::take(&mut self.changed_lanes) {
            let state = &mut self.lanes[number];
            let share = state.hash();
            self.shares = self.shares.wrapping_sub(state.share).wrapping_add(share);
            (state.share, state.has_changed) = (share, false);
        }
    }

    fn note_changed(&mut self, number: LaneNumber) {
        if !std::mem::replace(&mut self.lanes[number].has_changed, true) {
            self.changed_lanes.push(number);
        }
    }

    /// The keys that have changed, or may read otherwise, since the last call, in order.
    pub fn take_changed(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.changed).into_sorted()
    }

    /// Merges a delta; [`take_changed`](Self::take_changed) tells what it changed.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if an entry fails its checksum, or lacks the seal that it needs: the sender's fault or that of the
    /// sender's sender; nothing was merged and nothing counts as seen.
    pub fn merge(&mut self, delta: &Delta) -> Result<(), Corrupt> {
        // Everything is verified before anything is merged, and hashed once.
        let Verified { news, seals } = self.verified(delta)?;
        self.admit(&seals);
        let accounted = self.believed(&delta.accounted);
        self.take_up(news, &accounted);
        self.sweep(&seals);
        Ok(())
    }

    /// Merges a delta whose checksums were computed here and not sent anywhere since.
    pub(crate) fn merge_own(&mut self, delta: &Delta) {
        let entries = delta.items.iter().flat_map(|item| item.entries.iter().map(|entry| (&item.key, entry)));
        self.take_up(entries, &delta.accounted);
        self.note_own(delta);
    }

    fn take_up<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a Key, &'a Entry)>,
        accounted: &CausalContext,
    ) {
        self.settle_digest();
        for (key, entry) in entries {
            // A dot may come twice in one delta.
            if self.is_news(key, entry) {
                let lane = self.lanes.meet(&entry.dot.lane);
                if self.is_unexplained(key, entry) {
                    self.note_back();
                }
                self.see(lane, |seen| seen.insert(entry.dot.counter));
                self.insert(key, lane, entry);
            }
        }
        for (lane, counters) in accounted.lanes() {
            let lane = self.lanes.meet(lane);
            self.see(lane, |seen| seen.union(counters));
        }
    }

    /// The delta that brings a receiver who knows `known` up to date in some lanes, each given once, in their order
    /// and about `budget` bytes. No more lanes are taken than fit.
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
        let mut builder = DeltaBuilder {
            store: self,
            known,
            budget,
            size: 0,
            served: BTreeSet::new(),
            items: vec![],
            seals: BTreeSet::new(),
        };
        let mut accounted = CausalContext::new();
        for lane in lanes {
            let Some(state) = self.lanes.get(lane) else { continue };
            if self.is_below_floor(lane, known.lane(lane)) {
                continue;
            }
            let missing =
                known.lane(lane).map_or_else(|| state.seen.clone(), |known| state.seen.difference(known));
            let outcome = builder.collect(state, &missing);
            let served = outcome.as_ref().err().unwrap_or(&missing);
            if accounted.insert_all(lane, served)
                && let Some(seals) = &self.seals
            {
                builder.size += seals.gather_head(&self.lanes, lane, &mut builder.seals);
            }
            // A lane without an entry to be brought takes room too, where it takes a seal.
            if outcome.is_err() || (self.is_sealed() && builder.size >= budget) {
                break;
            }
        }
        Delta { accounted, items: builder.items, seals: builder.seals.into_iter().collect() }
    }

    /// Whether merging the entry could change anything: it was not seen, or contradicts what is live.
    fn is_news(&self, key: &Key, entry: &Entry) -> bool {
        if !self.seen(&entry.dot) {
            return true;
        }
        let present = self.row(key).and_then(|row| row.checksum_of(&entry.dot));
        present.map_or_else(|| self.is_unexplained(key, entry), |checksum| checksum != entry.checksum)
    }

    /// Joins an entry to its key. That its dot was seen is noted apart.
    fn insert(&mut self, key: &Key, lane: LaneNumber, entry: &Entry) {
        let verdict = match self.keys.place_of(key.as_str()) {
            Err(vacant) => {
                self.begin(vacant, key, lane, entry);
                Verdict::Live
            }
            Ok(slot) if self.keys.packed(slot).precedes(lane, entry) => {
                self.overwrite(slot, lane, entry);
                Verdict::Live
            }
            Ok(slot) => {
                let mut verdict = Verdict::Dead;
                self.update(slot, |register, gone| verdict = register.insert(entry.clone(), gone));
                verdict
            }
        };
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
        if let Some(seals) = &mut self.seals {
            seals.acquire(lane, entry.dot.counter, entry.checksum);
        }
        if entry.value.is_some() && !self.is_buried(lane) {
            let home = self.home_of(lane);
            let state = &mut self.lanes[home];
            state.live = state.live.wrapping_add(entry.digest());
            self.note_changed(home);
        } else {
            self.removals += 1;
            self.note_removed(Removed { since: self.revision, lane, counter: entry.dot.counter });
        }
        self.changed.note(key);
    }

    /// An entry of a key that is not there.
    fn begin(&mut self, at: Vacant, key: &Key, lane: LaneNumber, entry: &Entry) {
        let slot = self.keys.insert(at, key.as_str(), entry, &mut self.lanes);
        self.lanes[lane].index.insert(entry.dot.counter, slot);
        // A past has no index.
        for (seen, counter) in entry.observed.iter().filter(|(seen, _)| !seen.is_past()) {
            let seen = self.lanes.meet(seen);
            self.lanes[seen].index.insert(*counter, slot);
        }
    }

    /// An entry in the place of the only one, which it does nothing but follow in its lane.
    fn overwrite(&mut self, slot: Slot, lane: LaneNumber, entry: &Entry) {
        let before = self.keys.packed_mut(slot);
        let (counter, value) = (before.counter(), before.value().is_some());
        let digest = value.then(|| before.digest(&self.lanes));
        before.overwrite(entry);
        self.forget(lane, counter, digest);
        let index = &mut self.lanes[lane].index;
        index.remove(&counter);
        index.insert(entry.dot.counter, slot);
    }

    /// An entry went: a value, with its digest, or a removal.
    fn forget(&mut self, lane: LaneNumber, counter: u64, digest: Option<u128>) {
        if let Some(seals) = &mut self.seals {
            seals.release(lane, counter);
        }
        match digest.filter(|_| !self.is_buried(lane)) {
            Some(digest) => {
                let home = self.home_of(lane);
                let state = &mut self.lanes[home];
                state.live = state.live.wrapping_sub(digest);
                self.note_changed(home);
            }
            None => self.removals -= 1,
        }
    }

    /// Changes the state of a key and keeps index and sums true to it.
    fn update(&mut self, slot: Slot, change: impl FnOnce(&mut Register, &mut dyn FnMut(&Entry))) {
        let mut register = self.keys.register(slot, &self.lanes);
        let before = register.places();
        let mut gone: SmallVec<[(Dot, Option<u128>); 1]> = SmallVec::new();
        change(&mut register, &mut |entry| {
            let digest = entry.value.is_some().then(|| entry.digest());
            gone.push((entry.dot.clone(), digest));
        });
        let after = register.places();
        for (Dot { lane, counter }, digest) in gone {
            let lane = self.lanes.meet(&lane);
            self.forget(lane, counter, digest);
        }
        for (lane, counter) in before.iter().filter(|covered| !after.contains(covered)) {
            let lane = self.lanes.meet(lane);
            self.lanes[lane].index.remove(counter);
        }
        for (lane, counter) in after.iter().filter(|covered| !before.contains(covered)) {
            if lane.is_past() {
                continue;
            }
            let lane = self.lanes.meet(lane);
            self.lanes[lane].index.insert(*counter, slot);
        }
        if register.is_empty() {
            self.remove_key(slot);
        } else {
            self.keys.replace(slot, register, &mut self.lanes);
        }
    }

    /// Takes a key out that has no entries left. The key that lies in its slot from then on is found there.
    fn remove_key(&mut self, slot: Slot) {
        if self.keys.remove(slot).is_none() {
            return;
        }
        for (lane, counter) in self.keys.register(slot, &self.lanes).places() {
            if lane.is_past() {
                continue;
            }
            let lane = self.lanes.meet(&lane);
            self.lanes[lane].index.insert(counter, slot);
        }
    }

    /// Changes what was seen of a lane, and notes when.
    fn see(&mut self, number: LaneNumber, change: impl FnOnce(&mut RangeSet) -> bool) {
        if self.lanes[number].buried {
            return;
        }
        if self.lanes[number].lane.is_past() {
            return self.bury(number);
        }
        let state = &mut self.lanes[number];
        let is_new = state.seen.is_empty();
        if !change(&mut state.seen) {
            return;
        }
        self.revision.0 += 1;
        self.recent.remove(&state.revision);
        state.revision = self.revision;
        self.recent.insert(self.revision, number);
        let Actor { node, generation } = state.lane.actor();
        self.note_changed(number);
        if !is_new {
            return;
        }
        let latest = self.generations.entry(node).or_insert(generation);
        if *latest < generation {
            *latest = generation;
            self.note_void(&node);
        }
    }

    /// A later life of a node was seen: what it said of the earlier ones reads otherwise now.
    fn note_void(&mut self, node: &NodeId) {
        let void =
            self.lanes_of(node).filter(|lane| self.is_void(lane)).filter_map(|lane| self.lanes.get(lane));
        let slots = void.flat_map(|state| state.index.values());
        let keys: Vec<Key> = slots.map(|slot| self.keys.packed(*slot).key()).collect();
        keys.iter().for_each(|key| self.changed.note(key));
    }
}

/// Two stores are equal when they have seen the same and hold the same.
impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        self.prefix("").eq(other.prefix("")) && self.context() == other.context()
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

/// A delta in the making.
struct DeltaBuilder<'a> {
    store: &'a Store,
    known: &'a CausalContext,
    budget: usize,
    size: usize,
    /// The keys that were found, and may be found again.
    served: BTreeSet<Slot>,
    items: Vec<Item>,
    seals: BTreeSet<Arc<Seal>>,
}

impl DeltaBuilder<'_> {
    /// Adds the keys that cover missing counters, the latest first, or as many as the budget allows.
    ///
    /// The index finds a key by the dots of its entries and by what each had observed. That is a missing one, or one that this
    /// replica has not seen itself but that a write which it has seen had observed.
    ///
    /// # Errors
    ///
    /// The missing counters that may be accounted for when the budget was spent: those above the first key
    /// that found no room. A key that covers one of them is found above it too, and was served.
    fn collect(&mut self, lane: &LaneState, missing: &RangeSet) -> Result<(), RangeSet> {
        let Some(first) = missing.first() else { return Ok(()) };
        // Seen by both: whatever these cover, the receiver's state covers.
        let shared = lane.seen.difference(missing);
        for range in RangeSet::from(first..=u64::MAX).difference(&shared).ranges().rev() {
            for (&counter, slot) in lane.index.range(range).rev() {
                if self.is_first(*slot) && !self.add(*slot) {
                    return Err(missing.difference(&RangeSet::up_to(counter)));
                }
            }
        }
        Ok(())
    }

    /// Whether a key is found for the first time. One that covers nothing but its own dot is never found again.
    fn is_first(&mut self, slot: Slot) -> bool {
        self.store.keys.packed(slot).is_plain() || self.served.insert(slot)
    }

    /// Adds a key's entries, as far as the receiver lacks them; says whether all found room.
    fn add(&mut self, slot: Slot) -> bool {
        let row = Row::new(self.store, slot);
        let mut item = Item { key: row.key(), entries: SmallVec::new() };
        let mut complete = true;
        for entry in row.register().into_entries().filter(|entry| !self.known.contains(&entry.dot)) {
            if self.size >= self.budget {
                complete = false;
                break;
            }
            self.size += Item::entry_size(&entry);
            if let Some(seals) = &self.store.seals {
                self.size += seals.gather(&self.store.lanes, &entry, &mut self.seals);
            }
            item.entries.push(entry);
        }
        if !item.entries.is_empty() {
            self.size += Item::head_size(&item.key);
            self.items.push(item);
        }
        complete
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
pub(super) mod tests;
