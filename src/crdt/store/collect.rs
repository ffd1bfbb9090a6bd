//! Letting removals go, and agreeing with a replica that may never have seen them.
//!
//! Collection may happen at any moment and needs neither a clock nor acknowledgements: what makes it safe is what
//! is done afterwards. A floor per lane remembers how far it went. A receiver that lacks something at or below a
//! floor gets no delta of that lane but a [`Reconciliation`]: what the other has seen, the states that the receiver
//! lacks, and which of the receiver's entries are dead there. Where a write is seen and not live it is dead, and
//! the floors say which of these deaths nobody can prove any more. They are inherited with the rest.

use smallvec::SmallVec;

use super::seals::Verified;
use super::{Corrupt, Flaw, Removed, Row, Slot, Store};
use crate::crdt::{CausalContext, Class, Delta, Dot, Entry, Item, Key, Lane, RangeSet, Revision};
use crate::time::Timestamp;

/// All keys from one up to, and without, another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first key, or without a beginning.
    pub from: Option<Key>,
    /// The first key behind it, or without an end.
    pub until: Option<Key>,
}

/// A removal, as whoever decides about it sees it.
#[derive(Debug)]
pub struct Removal<'a> {
    /// Which key.
    pub key: &'a Key,
    /// Since which change of the context it is here.
    pub since: Revision,
    /// When it was made.
    pub stamp: Timestamp,
    /// What it covers, itself included: everything that it keeps from coming back. Lives that are retired are left out:
    /// of these everybody has all, or fetches it.
    pub cover: &'a [(Lane, u64)],
}

/// What one replica has to learn of another to agree with it, whatever either has collected.
///
/// It is made against the state of its receiver: everything that was live there when the two were compared is
/// also live at the other, or dead by one of the items, or among the dead, or not accounted for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciliation {
    /// All that the other had seen when it began, and the entries that were not live at its receiver.
    pub delta: Delta,
    /// How far the other has collected, by the end: of each lane the counters up to its floor.
    pub floors: CausalContext,
    /// The greatest stamp of what it has collected.
    pub horizon: Timestamp,
    /// The entries that are live at the receiver and not at the other.
    pub dead: Vec<(Key, Dot)>,
}

impl Store {
    /// How many removals there are that wait to be collected.
    pub fn removed(&self) -> usize {
        self.removals
    }

    /// How many entries were lost here, by a bug or a broken memory, and came back by reconciliation.
    pub fn restored(&self) -> u64 {
        self.restored
    }

    /// The greatest stamp of the removals that were collected: a new write of any key has to come after it.
    pub fn horizon(&self) -> Timestamp {
        self.horizon
    }

    /// The greatest counter of a lane that went with a collected removal.
    pub fn floor(&self, lane: &Lane) -> u64 {
        if self.is_retired(lane) { u64::MAX } else { self.lanes.get(lane).map_or(0, |state| state.floor) }
    }

    /// How far removals of each lane were collected, as sets of counters.
    pub fn floors(&self) -> CausalContext {
        let floors = self.lanes.iter().filter(|state| state.floor > 0);
        floors.map(|state| (state.lane.clone(), RangeSet::up_to(state.floor))).collect()
    }

    /// Whether somebody who knows that much of a lane lacks something at or below its floor.
    pub fn is_below_floor(&self, lane: &Lane, known: Option<&RangeSet>) -> bool {
        if self.is_retired(lane) {
            let all = if lane.is_past() { 1 } else { u64::MAX };
            return known.is_none_or(|known| known.contiguous() < all);
        }
        let Some(state) = self.lanes.get(lane).filter(|state| state.floor > 0) else { return false };
        let lacking = known.map_or_else(|| state.seen.first(), |known| state.seen.difference(known).first());
        lacking.is_some_and(|first| first <= state.floor)
    }

    /// Looks at up to `limit` removals, the oldest first, and lets those go that are ripe; says of which keys.
    ///
    /// None goes before everything that it covers was seen: an earlier write of the key that is still on its way
    /// would be alive when it arrives.
    pub fn collect(&mut self, limit: usize, mut is_ripe: impl FnMut(&Removal<'_>) -> bool) -> Vec<Key> {
        let mut collected = Vec::new();
        // Where entries are sealed a death needs evidence.
        let limit = if self.is_sealed() { 0 } else { limit };
        for _ in 0..limit.min(self.removed.len()) {
            let Some(candidate) = self.removed.pop_front() else { break };
            let Some((slot, entry)) = self.removal(&candidate) else { continue };
            let key = Row::new(self, slot).key();
            let own = (entry.dot.lane.clone(), entry.dot.counter);
            let cover: SmallVec<[(Lane, u64); 2]> = entry.observed.iter().cloned().chain([own]).collect();
            let is_seen = |(lane, counter): &(Lane, u64)| {
                self.seen_of(lane).is_some_and(|seen| seen.contiguous() >= *counter)
            };
            let open: SmallVec<[(Lane, u64); 2]> =
                cover.iter().filter(|(lane, _)| !self.is_retired(lane)).cloned().collect();
            let removal = Removal { key: &key, since: candidate.since, stamp: entry.stamp, cover: &open };
            if !cover.iter().all(is_seen) || !is_ripe(&removal) {
                self.removed.push_back(candidate);
                continue;
            }
            self.horizon = self.horizon.max(entry.stamp);
            self.update(slot, |register, gone| register.remove(&entry.dot, gone));
            // Of a retired lane everything is below the floor already.
            for (lane, counter) in &open {
                let lane = self.lanes.meet(lane);
                let state = &mut self.lanes[lane];
                state.floor = state.floor.max(*counter);
            }
            collected.push(key);
        }
        self.shrink_removed();
        collected
    }

    /// Remembers that a removal came.
    pub(super) fn note_removed(&mut self, removed: Removed) {
        self.removed.push_back(removed);
        // Removals that were replaced leave records behind that say nothing any more.
        if self.removed.len() > 2 * self.removals + 64 {
            self.drop_replaced();
        }
    }

    pub(super) fn drop_replaced(&mut self) {
        let records = std::mem::take(&mut self.removed);
        self.removed = records.into_iter().filter(|record| self.removal(record).is_some()).collect();
    }

    /// Gives the memory of records back that are gone.
    fn shrink_removed(&mut self) {
        if self.removed.capacity() > 4 * self.removed.len() + 64 {
            self.removed.shrink_to(2 * self.removed.len());
        }
    }

    /// The removal that a record speaks of, if it still is there.
    fn removal(&self, record: &Removed) -> Option<(Slot, Entry)> {
        let state = &self.lanes[record.lane];
        let slot = *state.index.get(&record.counter)?;
        let entry = Row::new(self, slot).entry(&state.lane.dot(record.counter))?;
        (entry.value.is_none() || self.is_buried(record.lane)).then_some((slot, entry))
    }

    /// The keys of a range, in order.
    pub fn range<'a>(&'a self, range: &KeyRange) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let from = range.from.as_ref().map_or("", Key::as_str);
        let until =
            range.until.as_ref().map_or_else(|| self.keys.end(), |until| self.keys.position(until.as_str()));
        self.keys.slots(self.keys.position(from), until).map(|slot| Row::new(self, slot))
    }

    /// A hash of what is live in a range of keys, removals included: equal on two replicas exactly when they hold
    /// the same entries there (up to collisions of 64 bits of BLAKE3).
    pub fn fingerprint(&self, range: &KeyRange) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        // Hashing in larger pieces is much faster than an entry at a time.
        let mut block = [0; 1024];
        let mut filled = 0;
        for digest in self.range(range).flat_map(|row| row.digests().collect::<SmallVec<[u128; 1]>>()) {
            block[filled..filled + 16].copy_from_slice(&digest.to_le_bytes());
            filled += 16;
            if filled == block.len() {
                hasher.update(&block);
                filled = 0;
            }
        }
        hasher.update(&block[..filled]);
        hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
    }

    /// All that `receiver` has to learn to agree with this replica, in one piece: what an exchange over ranges
    /// comes to.
    pub fn reconciliation(&self, receiver: &Self) -> Reconciliation {
        let mut items = Vec::new();
        for row in self.prefix("") {
            let known = receiver.row(&row.key());
            let lacking =
                |entry: &Entry| known.and_then(|known| known.entry(&entry.dot)).as_ref() != Some(entry);
            items.push(Item {
                key: row.key(),
                entries: row.register().into_entries().filter(lacking).collect(),
            });
        }
        items.retain(|item| !item.entries.is_empty());
        let accounted = self.context();
        let seals = self.proofs_of(&items, &accounted);
        let live = |key: &Key, dot: &Dot| self.row(key).is_some_and(|row| row.checksum_of(dot).is_some());
        let all = receiver.prefix("").flat_map(|row| {
            row.register().into_entries().map(move |entry| (row.key(), entry.dot)).collect::<Vec<_>>()
        });
        Reconciliation {
            delta: Delta { accounted, items, seals },
            floors: self.floors(),
            horizon: self.horizon,
            dead: all.filter(|(key, dot)| !live(key, dot)).collect(),
        }
    }

    /// Says whether entries match their checksums, as far as they are news here. Seals are verified when they take effect.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] with the first one that does not.
    pub fn verify(&self, items: &[Item]) -> Result<(), Corrupt> {
        for item in items {
            let mut news = item.entries.iter().filter(|entry| self.is_news(&item.key, entry));
            if let Some(entry) = news.find(|entry| !entry.is_intact(&item.key)) {
                let (key, dot) = (Some(item.key.clone()), entry.dot.clone());
                return Err(Corrupt { key, dot, flaw: Flaw::Checksum });
            }
        }
        Ok(())
    }

    /// Agrees with another replica, as a whole; [`take_changed`](Self::take_changed) tells what that changed.
    ///
    /// An entry that is live there and was lost here, so that nothing tells of its death, comes back and is
    /// [counted](Self::restored). One that was lost there in this way stays here.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if an entry fails its checksum, or lacks the seal that it needs: the sender's fault; nothing was merged.
    pub fn reconcile(&mut self, with: &Reconciliation) -> Result<(), Corrupt> {
        self.settle_digest();
        let Verified { seals, .. } = self.verified(&with.delta)?;
        self.admit(&seals);
        let accounted = &*self.believed(&with.delta.accounted);
        // Where entries are sealed, nobody is believed that something died and left no trace.
        let (nothing, nowhere) = (Vec::new(), CausalContext::new());
        let (dead, floors) = if self.is_sealed() { (&nothing, &nowhere) } else { (&with.dead, &with.floors) };
        // First what is dead and leaves no trace: it must not keep out what lives on there.
        for (key, dot) in dead {
            let is_provable = floors.lane(&dot.lane).is_none_or(|floor| !floor.contains(dot.counter));
            // What killed it there is among the items, if it was not collected, and kills it here.
            if is_provable || !accounted.contains(dot) {
                continue;
            }
            let slot = self.keys.find(key.as_str());
            if let Some(slot) = slot.filter(|slot| Row::new(self, *slot).checksum_of(dot).is_some()) {
                self.update(slot, |register, gone| register.remove(dot, gone));
                // The context may be what it was, and yet the state is another.
                self.revision.0 += 1;
                self.changed.note(key);
            }
        }
        for item in &with.delta.items {
            for entry in &item.entries {
                self.reconcile_entry(&item.key, entry, accounted);
            }
        }
        for (lane, counters) in accounted.lanes() {
            let lane = self.lanes.meet(lane);
            self.see(lane, |seen| seen.union(counters));
        }
        // A past is below its floor as a whole, once it is seen.
        for (lane, counters) in floors.lanes().filter(|(lane, _)| !lane.is_past()) {
            let lane = self.lanes.meet(lane);
            let state = &mut self.lanes[lane];
            state.floor = state.floor.max(counters.last().unwrap_or(0));
        }
        // Lives that were retired there while it told of them have no floors of their own any more.
        for (lane, counters) in accounted.lanes().filter(|(lane, _)| floors.past_with(lane).is_some()) {
            let lane = self.lanes.meet(lane);
            let state = &mut self.lanes[lane];
            if !state.lane.is_past() {
                state.floor = state.floor.max(counters.last().unwrap_or(0));
            }
        }
        if !self.is_sealed() {
            self.horizon = self.horizon.max(with.horizon);
        }
        self.sweep(&seals);
        Ok(())
    }

    /// Joins one entry of another replica's state. Its dot is noted later if it is accounted for: the keys come
    /// in their own order, in which each dot would make a hole in its lane.
    fn reconcile_entry(&mut self, key: &Key, entry: &Entry, accounted: &CausalContext) {
        let counter = entry.dot.counter;
        let lane = self.lanes.meet(&entry.dot.lane);
        if self.is_news(key, entry) {
            if self.is_unexplained(key, entry) {
                self.note_back();
            }
            if !accounted.contains(&entry.dot) {
                self.see(lane, |seen| seen.insert(counter));
            }
            self.insert(key, lane, entry);
            return;
        }
        // What a life that is over there had said of itself is void.
        if entry.dot.lane.class() == Class::Registry && accounted.past_with(&entry.dot.lane).is_some() {
            return;
        }
        let is_below = counter <= self.floor(&entry.dot.lane);
        if self.explains(key, entry) || is_below || !entry.is_intact(key) {
            return;
        }
        self.note_back();
        self.insert(key, lane, entry);
    }
}
