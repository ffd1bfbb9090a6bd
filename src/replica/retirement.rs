//! Lives that are over: who says so, what was seen of them, and when that takes effect.
//!
//! ```text
//! retired/<node id>     that all lives of a node up to one are over, and what the witness had seen of them; and what was
//!                       testified of that node before
//! ```
//!
//! Anybody may testify, at any time, also wrongly: a node that is told to be dead goes on in a later life. What is testified
//! takes effect ([`Store::retire`](crate::crdt::Store::retire)) where just that was seen. A replica that lacks some of it is
//! served or fetches; one that holds more [writes it anew](Replica::save) first, under a name of its own. So nothing is
//! lost that anybody held who hears of it in time; and nothing has to be remembered of a life that is over.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use super::{Path, Prepared, Replica, WriteError, counter};
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{CausalContext, Class, Entry, Item, Key, Lane, RangeSet, Reconciliation, Testimony, Value};
use crate::id::{Actor, Generation, NodeId};
use crate::time::{Timestamp, UnixMillis};

/// What all keys of testimonies begin with.
const PREFIX: &str = "retired/";

/// How many earlier testimonies one takes along at most.
const MAX_SAID: usize = 64;

/// The testimonies that have not taken effect here.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending(BTreeSet<NodeId>);

/// Writes down what was testified, one after the other; of what does not fit, the oldest is left out, as long as it is not
/// above a life. Nothing if that does not help.
fn to_value(said: &[Testimony], retired: Generation) -> Option<Value> {
    let recent = said.len().saturating_sub(MAX_SAID);
    let may_go = said.iter().take_while(|testimony| testimony.upto <= retired).count();
    (recent..=may_go).find_map(|first| {
        let mut writer = Writer::new();
        said[first..].iter().for_each(|testimony| write(&mut writer, testimony));
        Value::try_from(&writer.finish()[..]).ok()
    })
}

fn write(writer: &mut Writer, testimony: &Testimony) {
    writer.varint(testimony.base.0);
    writer.varint(testimony.upto.0);
    writer.count(testimony.seen.lane_count());
    for (lane, seen) in testimony.seen.lanes() {
        writer.varint(lane.actor().generation.0);
        writer.count(seen.range_count());
        let mut end = 0;
        for range in seen.ranges() {
            writer.varint(range.start() - end);
            writer.varint(range.end() - range.start());
            end = *range.end();
        }
    }
}

fn of_value(node: NodeId, value: &Value) -> Result<Vec<Testimony>, Malformed> {
    let mut reader = Reader::new(value.as_bytes());
    let mut said = Vec::new();
    while said.is_empty() || reader.remaining() > 0 {
        said.push(read(node, &mut reader)?);
    }
    Ok(said)
}

fn read(node: NodeId, reader: &mut Reader<'_>) -> Result<Testimony, Malformed> {
    const ILLEGAL: Malformed = Malformed::Illegal { what: "a testimony" };
    let (base, upto) = (Generation(reader.varint()?), Generation(reader.varint()?));
    let mut seen = CausalContext::new();
    let mut last = base;
    for _ in 0..reader.count(Value::MAX_LEN, "count of lives")? {
        let generation = Generation(reader.varint()?);
        if generation <= last || generation > upto {
            return Err(ILLEGAL);
        }
        let mut counters = RangeSet::new();
        let mut end: u64 = 0;
        for _ in 0..reader.count(Value::MAX_LEN, "count of ranges")? {
            let first = end.checked_add(reader.varint()?).filter(|first| *first > 0).ok_or(ILLEGAL)?;
            end = first.checked_add(reader.varint()?).ok_or(ILLEGAL)?;
            counters.insert_range(first..=end);
        }
        seen.insert_all(&Lane::new(Actor { node, generation }, Class::Attribute), &counters);
        last = generation;
    }
    Ok(Testimony { node, base, upto, seen })
}

/// Whether two witnesses speak of the same life: they may have known different things of it.
fn is_disputed(said: &[Testimony]) -> bool {
    let overlap = |one: &Testimony, other: &Testimony| one.base < other.upto && other.base < one.upto;
    said.iter().enumerate().any(|(place, one)| said[place + 1..].iter().any(|other| overlap(one, other)))
}

impl Replica {
    /// Testifies that all lives of a node up to one are over. Nothing if nothing of them is left to retire, if just that was
    /// said, or if more is missing of them than fits into a value.
    ///
    /// It takes along what was testified before: somebody may hear of that by this one alone.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn testify(
        &mut self,
        wall: UnixMillis,
        node: NodeId,
        upto: Generation,
    ) -> Result<Option<Prepared>, WriteError> {
        let path = Path::Retirement(node);
        let testimony = self.store().testimony(&node, upto).filter(|_| !self.is_unsettled(&path.to_key()));
        let mut said = self.testimonies(&node);
        let Some(testimony) = testimony.filter(|testimony| !said.contains(testimony)) else {
            return Ok(None);
        };
        said.push(testimony);
        // What has not taken effect here may tell of what this node lacks.
        let Some(value) = to_value(&said, self.store().retired(&node)) else { return Ok(None) };
        self.prepare(wall, &path, Some(value))
    }

    /// Takes back what was testified of a node, once it has taken effect wherever it is known. Nothing if it has not here.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn forget_testimony(
        &mut self,
        wall: UnixMillis,
        node: NodeId,
    ) -> Result<Option<Prepared>, WriteError> {
        if self.pending.0.contains(&node) {
            return Ok(None);
        }
        self.prepare(wall, &Path::Retirement(node), None)
    }

    /// What was testified of a node and not taken back, by one witness after the other or by several at a time.
    pub fn testimonies(&self, node: &NodeId) -> Vec<Testimony> {
        let register = self.store().register(&Path::Retirement(*node).to_key());
        let values = register.as_ref().map(|register| register.values()).unwrap_or_default();
        let said = values.into_iter().filter_map(|entry| of_value(*node, entry.value.as_ref()?).ok());
        let mut said: Vec<Testimony> = said.flatten().collect();
        said.sort_by_key(|testimony| (testimony.upto, testimony.base));
        said.dedup();
        said
    }

    /// The nodes of which nothing was testified since then, and something before.
    pub fn testified_before(&self, wall: UnixMillis) -> impl Iterator<Item = (NodeId, Timestamp)> {
        self.store().prefix(PREFIX).filter_map(move |row| {
            let is_old = !row.is_removed() && row.stamp().to_wall() < wall;
            match Path::of(&row.key()).filter(|_| is_old)? {
                Path::Retirement(node) => Some((node, row.stamp())),
                _ => None,
            }
        })
    }

    /// The nodes of which something is testified that has not taken effect here.
    pub fn unretired(&self) -> impl Iterator<Item = NodeId> {
        self.pending.0.iter().copied()
    }

    /// Up to which life this node is said to be dead, if its present one is among them: it has to go on in a later one
    /// before that takes effect here.
    pub fn is_accused(&self) -> Option<Generation> {
        let Actor { node, generation } = self.actor();
        if !self.pending.0.contains(&node) {
            return None;
        }
        let upto = self.testimonies(&node).into_iter().map(|testimony| testimony.upto).max();
        upto.filter(|upto| *upto >= generation)
    }

    /// Notes the testimonies among what was merged, and lets all take effect that can.
    pub(super) fn retire(&mut self, items: &[Item]) {
        // That a life is over, and all of it seen, is hearsay.
        if self.is_sealed() {
            return;
        }
        let testified = items.iter().filter(|item| item.key.as_str().starts_with(PREFIX));
        for path in testified.filter_map(|item| Path::of(&item.key)) {
            if let Path::Retirement(node) = path {
                self.pending.0.insert(node);
            }
        }
        for node in self.pending.0.clone() {
            let mut left = self.testimonies(&node);
            let disputed = is_disputed(&left);
            left.retain(|testimony| {
                let accuses = self.actor().node == node && testimony.upto >= self.actor().generation;
                accuses
                    || self.store.retire(testimony).is_err()
                    || (disputed && !self.store.beyond_in_past(testimony).is_empty())
            });
            if left.is_empty() {
                self.pending.0.remove(&node);
            }
        }
    }

    /// Writes anew, under its own name, what it holds of lives that are said to be over and the witness had not seen; of
    /// one key, if `limit` is that. Nothing if there is no such thing.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn save(
        &mut self,
        wall: UnixMillis,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Prepared>, WriteError> {
        let mut saved = Vec::new();
        let said = self.testimonies(&node);
        let disputed = is_disputed(&said);
        for testimony in said {
            for (key, entries) in self.beyond(&testimony, disputed) {
                if saved.len() >= limit {
                    return Ok(saved);
                }
                saved.extend(self.save_key(wall, key, &entries)?);
            }
        }
        Ok(saved)
    }

    /// What is held here of the lives that a testimony speaks of and its witness had not seen.
    fn beyond(&self, testimony: &Testimony, disputed: bool) -> BTreeMap<Key, SmallVec<[Entry; 1]>> {
        let mut beyond = self.store().beyond(testimony);
        if disputed {
            beyond.extend(self.store().beyond_in_past(testimony));
        }
        beyond
    }

    fn save_key(
        &mut self,
        _: UnixMillis,
        key: Key,
        entries: &[Entry],
    ) -> Result<Option<Prepared>, WriteError> {
        let own = self.own_lanes()[1].clone();
        let Some(register) = self.store().register(&key).filter(|_| !self.is_unsettled(&key)) else {
            return Ok(None);
        };
        // What stands there of this node's own is replaced by whatever it writes: so it takes part.
        let is_saved =
            |entry: &Entry| entry.dot.lane == own || entries.iter().any(|saved| saved.dot == entry.dot);
        let observed = register.observed_in(&own, is_saved);
        let saved: Vec<&Entry> = register.entries().iter().filter(|entry| is_saved(entry)).collect();
        // It is no news: among concurrent values it stands where it stood.
        let stamp = saved.iter().map(|entry| entry.stamp).max().unwrap_or_default().successor();
        let Some(stamp) = stamp else { return Ok(None) };
        let values = saved.iter().filter(|entry| entry.value.is_some());
        let winner = values.max_by(|left, right| left.rank().cmp(&right.rank()));
        let value = match Path::of(&key) {
            Some(Path::Counter { .. }) => counter::joined(&saved),
            _ => winner.and_then(|entry| entry.value.clone()),
        };
        Ok(Some(self.write_at(stamp, key, own, &observed, value)))
    }

    /// Writes anew what would be lost by agreeing with another replica and was not seen by whoever testified: of that,
    /// the testimonies among what is to be learnt count too. While there is such a thing, this must not agree.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn save_from(
        &mut self,
        wall: UnixMillis,
        with: &Reconciliation,
    ) -> Result<Vec<Prepared>, WriteError> {
        let mut saved = Vec::new();
        for (key, entries) in self.at_stake(with) {
            saved.extend(self.save_key(wall, key, &entries)?);
        }
        Ok(saved)
    }

    /// What [`save_from`](Self::save_from) writes anew, by keys.
    pub fn at_stake(&self, with: &Reconciliation) -> BTreeMap<Key, SmallVec<[Entry; 1]>> {
        let told = with.delta.items.iter().filter_map(|item| match Path::of(&item.key)? {
            Path::Retirement(node) => Some((node, item)),
            _ => None,
        });
        let told = told.flat_map(|(node, item)| {
            item.entries.iter().filter_map(move |entry| of_value(node, entry.value.as_ref()?).ok()).flatten()
        });
        let known = self.pending.0.iter().flat_map(|node| self.testimonies(node));
        let testimonies: Vec<Testimony> = told.chain(known).collect();
        let mut stake: BTreeMap<Key, SmallVec<[Entry; 1]>> = BTreeMap::new();
        for (key, dot) in with.dead.iter().filter(|(_, dot)| testimonies.iter().any(|said| said.lacks(dot))) {
            let held = self.store().row(key).and_then(|row| row.entry(dot));
            stake.entry(key.clone()).or_default().extend(held);
        }
        // What is known there to be replaced needs no saving.
        for item in &with.delta.items {
            if let Some(entries) = stake.get_mut(&item.key) {
                entries.retain(|entry| !item.entries.iter().any(|known| known.replaces(entry)));
            }
        }
        stake.retain(|_, entries| !entries.is_empty());
        stake
    }
}

#[cfg(test)]
#[path = "retirement_tests.rs"]
mod tests;
