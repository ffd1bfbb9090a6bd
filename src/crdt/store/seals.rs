//! The seals of what is live, and how much of what others say is believed where entries are sealed.
//!
//! - An **entry** is believed under a genuine seal of its author, whoever brings it.
//! - That a write was seen, without its entry, is **hearsay**: believed up to the greatest counter that its author is known
//!   to have sealed, so that nobody can account for what is still to be written. It makes nothing dead that is held, and
//!   keeps no sealed entry out that comes after all: such a one is alive until something that is held replaces it. What
//!   hearsay keeps from being asked for, digests show, and it is fetched.
//! - So every death must have evidence. Removals stay, there are no floors, and no life is retired.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::lanes::{LaneNumber, Lanes};
use super::{Corrupt, Flaw, Store};
use crate::crdt::entry::{Fingerprint, checksum_of};
use crate::crdt::{CausalContext, Delta, Dot, Entry, Item, Key, Lane, Notary, Seal};
use crate::id::NodeId;

/// How far before a counter a seal may begin that speaks of it.
const SPAN: u64 = Seal::MAX_ENTRIES as u64 - 1;

/// All seals that a store needs to prove what it holds.
#[derive(Debug, Clone)]
pub(super) struct Seals {
    notary: Arc<dyn Notary>,
    /// By the numbers of the lanes.
    lanes: BTreeMap<u32, LaneSeals>,
    /// The lanes with something to be sealed.
    to_seal: BTreeSet<u32>,
}

#[derive(Debug, Clone, Default)]
struct LaneSeals {
    /// Those with a live entry, by their first counters. An author that contradicts itself has several of one.
    held: BTreeMap<u64, SmallVec<[Held; 1]>>,
    /// The one that reaches furthest, be all its entries dead.
    head: Option<Arc<Seal>>,
    /// What this node has written and not sealed. Of what is dead only the last is kept, to say how far it came.
    unsealed: BTreeMap<u64, Unsealed>,
}

#[derive(Debug, Clone)]
struct Held {
    seal: Arc<Seal>,
    /// A bit for each entry that is live here, and [`PINNED`].
    live: u32,
}

/// What a seal proves is being taken up: it stays, whichever of its entries die meanwhile.
const PINNED: u32 = 1 << 31;

#[derive(Debug, Clone)]
struct Unsealed {
    hash: Fingerprint,
    is_live: bool,
}

impl Held {
    fn bit(&self, counter: u64) -> u32 {
        let place = counter.checked_sub(self.seal.first).filter(|place| *place <= SPAN);
        place.map_or(0, |place| 1 << place)
    }
}

impl LaneSeals {
    fn covering_mut(&mut self, counter: u64) -> impl Iterator<Item = &mut Held> {
        let held = self.held.range_mut(counter.saturating_sub(SPAN)..=counter);
        held.flat_map(|(_, held)| held).filter(move |held| held.seal.last() >= counter)
    }

    fn covering(&self, counter: u64) -> impl Iterator<Item = &Held> {
        let held = self.held.range(counter.saturating_sub(SPAN)..=counter);
        held.flat_map(|(_, held)| held).filter(move |held| held.seal.last() >= counter)
    }

    fn reach(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.last())
    }

    fn has(&self, seal: &Seal) -> bool {
        let mut held = self.held.get(&seal.first).into_iter().flatten();
        held.any(|held| *held.seal == *seal) || self.head.as_deref() == Some(seal)
    }

    /// Keeps a seal that is genuine, at least until it is [swept](Self::sweep).
    fn admit(&mut self, seal: &Arc<Seal>, live: u32) {
        let live = live | PINNED;
        if self.reach() < seal.last() {
            self.head = Some(Arc::clone(seal));
        }
        let held = self.held.entry(seal.first).or_default();
        match held.iter_mut().find(|held| *held.seal == **seal) {
            Some(held) => held.live |= live,
            None => held.push(Held { seal: Arc::clone(seal), live }),
        }
    }

    /// Lets seals go that begin there and have no live entry.
    fn sweep(&mut self, first: u64) {
        if let Some(held) = self.held.get_mut(&first) {
            held.iter_mut().for_each(|held| held.live &= !PINNED);
            held.retain(|held| held.live != 0);
            if held.is_empty() {
                self.held.remove(&first);
            }
        }
    }

    /// An entry that is under a seal is live.
    fn acquire(&mut self, counter: u64, checksum: u32) {
        for held in self.covering_mut(counter) {
            if held.seal.hash_of(counter).is_some_and(|hash| checksum_of(hash) == checksum) {
                held.live |= held.bit(counter);
            }
        }
    }

    /// An entry is dead.
    fn release(&mut self, counter: u64) {
        let mut empty: SmallVec<[u64; 2]> = SmallVec::new();
        for (first, held) in self.held.range_mut(counter.saturating_sub(SPAN)..=counter) {
            held.retain(|held| {
                held.live &= !held.bit(counter);
                held.live != 0
            });
            if held.is_empty() {
                empty.push(*first);
            }
        }
        for first in empty {
            self.held.remove(&first);
        }
        let is_last = self.unsealed.last_key_value().is_some_and(|(last, _)| *last == counter);
        match self.unsealed.get_mut(&counter) {
            Some(unsealed) if is_last => unsealed.is_live = false,
            Some(_) => drop(self.unsealed.remove(&counter)),
            None => {}
        }
    }

    /// This node has written something.
    fn note(&mut self, counter: u64, unsealed: Unsealed) {
        if let Some((last, before)) = self.unsealed.last_key_value()
            && !before.is_live
        {
            let last = *last;
            self.unsealed.remove(&last);
        }
        self.unsealed.insert(counter, unsealed);
    }

    /// Seals all that is not.
    fn seal(&mut self, notary: &dyn Notary, lane: &Lane) {
        while let Some((first, _)) = self.unsealed.first_key_value() {
            let first = *first;
            let rest = self.unsealed.split_off(&(first + Seal::MAX_ENTRIES as u64));
            let group = std::mem::replace(&mut self.unsealed, rest);
            let count = group.last_key_value().map_or(0, |(last, _)| last - first + 1);
            let (mut hashes, mut live) =
                (vec![Fingerprint::default(); usize::try_from(count).unwrap_or(0)], 0);
            for (hash, (place, unsealed)) in hashes.iter_mut().enumerate().filter_map(|(place, hash)| {
                let unsealed = group.get(&(first + place as u64))?;
                Some((hash, (place, unsealed)))
            }) {
                *hash = unsealed.hash;
                live |= u32::from(unsealed.is_live) << place;
            }
            let seal = Arc::new(Seal::new(notary, lane.clone(), first, hashes.into()));
            self.admit(&seal, live);
            self.sweep(first);
        }
    }
}

impl Seals {
    pub(super) fn acquire(&mut self, lane: LaneNumber, counter: u64, checksum: u32) {
        if let Some(lane) = self.lanes.get_mut(&lane.bits()) {
            lane.acquire(counter, checksum);
        }
    }

    pub(super) fn release(&mut self, lane: LaneNumber, counter: u64) {
        if let Some(lane) = self.lanes.get_mut(&lane.bits()) {
            lane.release(counter);
        }
    }

    fn lane(&self, lanes: &Lanes, lane: &Lane) -> Option<&LaneSeals> {
        self.lanes.get(&lanes.number(lane)?.bits())
    }

    /// Adds the seals of an entry to a set; says how many bytes more it takes.
    pub(super) fn gather(&self, lanes: &Lanes, entry: &Entry, set: &mut BTreeSet<Arc<Seal>>) -> usize {
        let (counter, mut size) = (entry.dot.counter, 0);
        for held in self.lane(lanes, &entry.dot.lane).into_iter().flat_map(|lane| lane.covering(counter)) {
            let vouches = held.seal.hash_of(counter).is_some_and(|hash| checksum_of(hash) == entry.checksum);
            if vouches && set.insert(Arc::clone(&held.seal)) {
                size += held.seal.size();
            }
        }
        size
    }

    /// Adds the seal of a lane that reaches furthest; says how many bytes more the set takes.
    pub(super) fn gather_head(&self, lanes: &Lanes, lane: &Lane, set: &mut BTreeSet<Arc<Seal>>) -> usize {
        let head = self.lane(lanes, lane).and_then(|lane| lane.head.as_ref());
        head.filter(|head| set.insert(Arc::clone(head))).map_or(0, |head| head.size())
    }
}

/// What of a delta is believed.
#[derive(Debug)]
pub(super) struct Verified<'a> {
    /// The entries that are news.
    pub(super) news: Vec<(&'a Key, &'a Entry)>,
    /// The seals that prove them, and those that prove how far authors have come.
    pub(super) seals: Vec<Arc<Seal>>,
}

/// Judges the seals of one delta, each once.
struct Judge<'a> {
    seals: &'a Seals,
    lanes: &'a Lanes,
    /// In order.
    brought: Vec<&'a Arc<Seal>>,
    verdicts: Vec<Option<bool>>,
    /// The one that vouched last: entries of one seal come one after another.
    last: usize,
}

impl<'a> Judge<'a> {
    fn new(seals: &'a Seals, lanes: &'a Lanes, brought: &'a [Arc<Seal>]) -> Self {
        let mut brought: Vec<&Arc<Seal>> = brought.iter().collect();
        brought.sort();
        let verdicts = vec![None; brought.len()];
        Self { seals, lanes, brought, verdicts, last: 0 }
    }

    /// Whether a seal was brought that is genuine and vouches for the entry.
    fn vouches_for(&mut self, dot: &Dot, hash: &Fingerprint) -> bool {
        let vouches = |seal: &Seal| seal.lane == dot.lane && seal.hash_of(dot.counter) == Some(hash);
        if self.brought.get(self.last).is_some_and(|seal| vouches(seal)) {
            return self.is_genuine(self.last);
        }
        let begins = |seal: &&Arc<Seal>| (&seal.lane, seal.first) <= (&dot.lane, dot.counter);
        let end = self.brought.partition_point(begins);
        let near = |seal: &Seal| seal.lane == dot.lane && seal.first.saturating_add(SPAN) >= dot.counter;
        let mut candidates = (0..end).rev().take_while(|at| near(self.brought[*at]));
        let Some(found) = candidates.find(|at| vouches(self.brought[*at])) else { return false };
        self.last = found;
        self.is_genuine(found)
    }

    fn is_genuine(&mut self, at: usize) -> bool {
        let (seals, lanes, seal) = (self.seals, self.lanes, self.brought[at]);
        *self.verdicts[at].get_or_insert_with(|| {
            // What is held was judged when it came.
            seals.lane(lanes, &seal.lane).is_some_and(|lane| lane.has(seal))
                || seal.is_genuine(&*seals.notary)
        })
    }

    /// Judges what shows how far authors have come who are accounted for beyond what is known; gives what is genuine.
    fn finish(mut self, accounted: &CausalContext) -> Result<Vec<Arc<Seal>>, Corrupt> {
        for (lane, counters) in accounted.lanes() {
            let last = counters.last().unwrap_or(0);
            let reach = self.seals.lane(self.lanes, lane).map_or(0, LaneSeals::reach);
            if last <= reach {
                continue;
            }
            let begin = self.brought.partition_point(|seal| seal.lane < *lane);
            let of_lane = (begin..self.brought.len()).take_while(|at| self.brought[*at].lane == *lane);
            let furthest = of_lane.max_by_key(|at| self.brought[*at].last());
            if furthest.is_some_and(|at| !self.is_genuine(at)) {
                return Err(Corrupt { key: None, dot: lane.dot(last), flaw: Flaw::Seal });
            }
        }
        let judged = self.brought.iter().zip(&self.verdicts);
        Ok(judged.filter(|(_, verdict)| **verdict == Some(true)).map(|(seal, _)| Arc::clone(seal)).collect())
    }
}

impl Store {
    /// The same, while it is empty, believing nobody but the authors themselves, as the [`Notary`] proves.
    #[must_use]
    pub fn sealed(self, notary: Arc<dyn Notary>) -> Self {
        let seals = Seals { notary, lanes: BTreeMap::new(), to_seal: BTreeSet::new() };
        if self.is_empty() { Self { seals: Some(Box::new(seals)), ..self } } else { self }
    }

    /// Whether entries are believed under their authors' seals only.
    pub fn is_sealed(&self) -> bool {
        self.seals.is_some()
    }

    /// Seals what was written here since the last time, sixteen writes of a lane at once. Nothing of it may be told before.
    pub fn seal(&mut self) {
        let Some(seals) = &mut self.seals else { return };
        for number in std::mem::take(&mut seals.to_seal) {
            let lane = &self.lanes[LaneNumber::from_bits(number)].lane;
            if let Some(state) = seals.lanes.get_mut(&number) {
                state.seal(&*seals.notary, lane);
            }
        }
    }

    /// Seals what a node has written that made it durable and had not told it to anybody: entries of its own without a seal.
    /// Also how far it came where that has been replaced since: a seal is not written down when the write had been before.
    pub fn seal_again(&self, node: &NodeId, delta: &Delta) -> Delta {
        let mut again = delta.clone();
        let Some(seals) = &self.seals else { return again };
        let mut bare: BTreeMap<&Lane, LaneSeals> = BTreeMap::new();
        for (key, entry) in entries_of(&delta.items) {
            let Dot { lane, counter } = &entry.dot;
            let is_under = |seal: &Arc<Seal>| seal.lane == *lane && seal.hash_of(*counter).is_some();
            if lane.name().0 == node && !delta.seals.iter().any(is_under) {
                let unsealed = Unsealed { hash: entry.fingerprint(key), is_live: true };
                bare.entry(lane).or_default().unsealed.insert(*counter, unsealed);
            }
        }
        for (lane, counters) in delta.accounted.lanes().filter(|(lane, _)| lane.name().0 == node) {
            let Some(last) = counters.last() else { continue };
            let is_shown = delta.seals.iter().any(|seal| seal.lane == *lane && seal.last() >= last);
            if !is_shown && !lane.is_past() {
                let dead = Unsealed { hash: Fingerprint::default(), is_live: false };
                bare.entry(lane).or_default().unsealed.entry(last).or_insert(dead);
            }
        }
        for (lane, mut bare) in bare {
            bare.seal(&*seals.notary, lane);
            again.seals.extend(bare.held.into_values().flatten().map(|held| held.seal));
            again.seals.extend(bare.head);
        }
        again.seals.sort();
        again.seals.dedup();
        again
    }

    /// Adds the seals that the entries of an item need to a set; says about how many bytes more that takes.
    pub fn add_seals_of(&self, item: &Item, set: &mut BTreeSet<Arc<Seal>>) -> usize {
        let Some(seals) = &self.seals else { return 0 };
        item.entries.iter().map(|entry| seals.gather(&self.lanes, entry, set)).sum()
    }

    /// The seals of a key's entries, in order.
    pub fn seals_of(&self, key: &Key) -> Vec<Arc<Seal>> {
        let (mut set, sealed) = (BTreeSet::new(), self.seals.as_ref().zip(self.register(key)));
        if let Some((seals, register)) = sealed {
            for entry in register.entries() {
                seals.gather(&self.lanes, entry, &mut set);
            }
        }
        set.into_iter().collect()
    }

    /// The seals that some entries need, and those that prove how far the authors have come who are accounted for.
    pub(super) fn proofs_of(&self, items: &[Item], accounted: &CausalContext) -> Vec<Arc<Seal>> {
        let mut set = BTreeSet::new();
        for item in items {
            self.add_seals_of(item, &mut set);
        }
        for (seals, (lane, _)) in
            self.seals.iter().flat_map(|seals| accounted.lanes().map(move |lane| (seals, lane)))
        {
            seals.gather_head(&self.lanes, lane, &mut set);
        }
        set.into_iter().collect()
    }

    /// The seal of a lane that reaches furthest.
    pub fn head_of(&self, lane: &Lane) -> Option<&Arc<Seal>> {
        self.seals.as_ref()?.lane(&self.lanes, lane)?.head.as_ref()
    }

    /// What of a delta is news and was said by those whom it names.
    pub(super) fn verified<'a>(&self, delta: &'a Delta) -> Result<Verified<'a>, Corrupt> {
        let mut news: Vec<(&Key, &Entry)> = Vec::new();
        let mut judge = self.seals.as_deref().map(|seals| Judge::new(seals, &self.lanes, &delta.seals));
        for (key, entry) in entries_of(&delta.items).filter(|(key, entry)| self.is_news(key, entry)) {
            let hash = entry.fingerprint(key);
            let flawed = |flaw| Corrupt { key: Some(key.clone()), dot: entry.dot.clone(), flaw };
            if checksum_of(&hash) != entry.checksum {
                return Err(flawed(Flaw::Checksum));
            }
            if judge.as_mut().is_some_and(|judge| !judge.vouches_for(&entry.dot, &hash)) {
                return Err(flawed(Flaw::Seal));
            }
            news.push((key, entry));
        }
        let seals = judge.map_or(Ok(Vec::new()), |judge| judge.finish(&delta.accounted))?;
        Ok(Verified { news, seals })
    }

    /// Whether entries are sealed, and this one was said to be seen although it is not here, nor is what replaces it.
    pub(super) fn is_unexplained(&self, key: &Key, entry: &Entry) -> bool {
        self.is_sealed() && self.seen(&entry.dot) && !self.explains(key, entry)
    }

    /// Whether an entry is here, or one that replaces it.
    pub(super) fn explains(&self, key: &Key, entry: &Entry) -> bool {
        let register = self.register(key);
        register.is_some_and(|register| {
            register.entries().iter().any(|present| present.dot == entry.dot || present.replaces(entry))
        })
    }

    /// An entry comes back that was seen, or said to be, and is not here.
    pub(super) fn note_back(&mut self) {
        self.restored += 1;
        // The context is what it was, and yet the state is another.
        self.revision.0 += 1;
    }

    /// Keeps the seals of what is about to be taken up; [`sweep`](Self::sweep) lets those go that were not needed.
    pub(super) fn admit(&mut self, admitted: &[Arc<Seal>]) {
        let Some(seals) = &mut self.seals else { return };
        for seal in admitted {
            let number = self.lanes.meet(&seal.lane);
            seals.lanes.entry(number.bits()).or_default().admit(seal, 0);
        }
    }

    pub(super) fn sweep(&mut self, admitted: &[Arc<Seal>]) {
        let Some(seals) = &mut self.seals else { return };
        for seal in admitted {
            let number = self.lanes.number(&seal.lane);
            if let Some(lane) = number.and_then(|number| seals.lanes.get_mut(&number.bits())) {
                lane.sweep(seal.first);
            }
        }
    }

    /// Remembers what is to be sealed of what this node has written.
    pub(super) fn note_own(&mut self, delta: &Delta) {
        if self.seals.is_none() {
            return;
        }
        for (key, entry) in entries_of(&delta.items) {
            let is_live = self.row(key).is_some_and(|row| row.checksum_of(&entry.dot).is_some());
            let unsealed = Unsealed { hash: entry.fingerprint(key), is_live };
            let number = self.lanes.meet(&entry.dot.lane).bits();
            if let Some(seals) = &mut self.seals {
                seals.lanes.entry(number).or_default().note(entry.dot.counter, unsealed);
                seals.to_seal.insert(number);
            }
        }
    }

    /// What of what is accounted for is believed: all where nothing is sealed, else as far as authors are known to have come.
    pub(super) fn believed<'a>(&self, accounted: &'a CausalContext) -> Cow<'a, CausalContext> {
        let Some(seals) = &self.seals else { return Cow::Borrowed(accounted) };
        let reach = |lane: &Lane| seals.lane(&self.lanes, lane).map_or(0, LaneSeals::reach);
        if accounted.lanes().all(|(lane, counters)| !lane.is_past() && counters.last() <= Some(reach(lane))) {
            return Cow::Borrowed(accounted);
        }
        let lanes = accounted.lanes().filter(|(lane, _)| !lane.is_past());
        let lanes = lanes.map(|(lane, counters)| (lane.clone(), counters.truncated(reach(lane))));
        Cow::Owned(lanes.collect())
    }
}

fn entries_of(items: &[Item]) -> impl Iterator<Item = (&Key, &Entry)> {
    items.iter().flat_map(|item| item.entries.iter().map(|entry| (&item.key, entry)))
}

#[cfg(test)]
#[path = "seals_tests.rs"]
mod tests;
