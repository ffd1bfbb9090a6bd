//! The reference: every write that was ever made, with the set of all writes that it had seen on its key.
//!
//! It shares no code with the core's merge. The core keeps maximal entries and a counter per lane; the
//! reference keeps sets of writes and asks one question: is this write in the past of that one? What a node's
//! register must hold follows from the writes that the node says it has seen.

mod check;

use std::collections::{BTreeMap, BTreeSet};

use snomesh::crdt::{CausalContext, Class, Dot, Entry, Key, Lane, Observed, RangeSet, Value};
use snomesh::id::{Actor, NodeId};
use snomesh::replica::Replica;
use snomesh::time::Timestamp;

use super::{Broken, Checker};

/// A write, by the order in which the simulator learnt of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WriteId(u32);

impl WriteId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of the writes of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Past(Vec<u64>);

impl Past {
    fn contains(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn insert(&mut self, number: u32) {
        let word = number as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % 64);
    }

    fn union(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }
}

/// A write as the reference knows it.
#[derive(Debug)]
struct Write {
    dot: Dot,
    key: usize,
    /// Its number among the writes of its key.
    number: u32,
    past: Past,
    stamp: Timestamp,
    /// Nothing for a removal.
    value: Option<Value>,
    /// What it says itself that it had seen. That may be less than it had: what was removed and collected leaves
    /// no trace on its key.
    observed: Observed,
}

#[derive(Debug)]
struct LaneWrites {
    lane: Lane,
    /// By counter, from 1.
    writes: Vec<Option<WriteId>>,
}

/// All writes.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    keys: BTreeMap<Key, usize>,
    names: Vec<Key>,
    lanes: BTreeMap<Lane, usize>,
    by_lane: Vec<LaneWrites>,
    by_key: Vec<Vec<WriteId>>,
    /// A text is one write's, unless a workload repeats what is there.
    by_value: BTreeMap<(usize, Value), Vec<WriteId>>,
    writes: Vec<Write>,
    /// Up to which life all of a node are retired anywhere.
    retired: BTreeMap<NodeId, u64>,
}

/// What one node has seen, in one life.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    lanes: Vec<RangeSet>,
    /// By key: the writes that were seen and are in no other seen write's past.
    maximal: Vec<Vec<WriteId>>,
    /// By key: what a read found last.
    read: Vec<Option<WriteId>>,
    generations: BTreeMap<NodeId, u64>,
    /// Up to which life it takes all writes of a node for seen, whether it has seen them or not.
    retired: BTreeMap<NodeId, u64>,
    /// Of those that it takes for seen and had not: what it holds something of that had seen them.
    outdone: BTreeSet<WriteId>,
}

/// How it is known what a write had seen on its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Basis {
    /// All that its author had seen: a command.
    Seen,
    /// What its own life had written there: so a holder takes a registration back.
    Own,
    /// What it says itself. A node writes some things of its own accord, in the middle of an input or of its
    /// restoring, and only it knows what it had seen by then.
    Told,
}

/// What a change of a node's context brought.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct News {
    /// The keys that it touched, each once.
    pub(crate) keys: Vec<usize>,
    /// The writes that are new.
    pub(crate) writes: Vec<WriteId>,
    /// The writes that are taken for seen since they belong to lives that are over. Those that the node holds, and those
    /// that something which it holds had seen, it has really seen.
    pub(crate) claimed: Vec<WriteId>,
    /// The dots that are new and that the reference does not know.
    pub(crate) unknown: Vec<Dot>,
}

impl Reference {
    /// The number of a key, made if it is new.
    pub(crate) fn key(&mut self, key: &Key) -> usize {
        if let Some(&number) = self.keys.get(key) {
            return number;
        }
        self.names.push(key.clone());
        self.by_key.push(Vec::new());
        self.keys.insert(key.clone(), self.names.len() - 1);
        self.names.len() - 1
    }

    /// The name of a key.
    pub(crate) fn key_name(&self, key: usize) -> &Key {
        &self.names[key]
    }

    /// How many keys there are.
    pub(crate) fn key_count(&self) -> usize {
        self.names.len()
    }

    /// The write of that name.
    pub(crate) fn find(&self, dot: &Dot) -> Option<WriteId> {
        let lane = &self.by_lane[*self.lanes.get(&dot.lane)?];
        *lane.writes.get(usize::try_from(dot.counter.checked_sub(1)?).ok()?)?
    }

    /// Whether `earlier` is in the past of `later`; both are on one key.
    pub(crate) fn is_past(&self, earlier: WriteId, later: WriteId) -> bool {
        self.writes[later.index()].past.contains(self.writes[earlier.index()].number)
    }

    /// The name of a write.
    pub(crate) fn dot(&self, write: WriteId) -> &Dot {
        &self.writes[write.index()].dot
    }

    /// The key of a write.
    pub(crate) fn key_of(&self, write: WriteId) -> usize {
        self.writes[write.index()].key
    }

    /// The latest write of a key that is known.
    pub(crate) fn last_write(&self, key: &Key) -> Option<&Dot> {
        self.by_key[*self.keys.get(key)?].last().map(|write| self.dot(*write))
    }

    /// The writes of a key.
    pub(crate) fn writes_of(&self, key: usize) -> &[WriteId] {
        &self.by_key[key]
    }

    /// The latest stamp that a write had seen on its key.
    pub(crate) fn latest_seen_by(&self, write: WriteId) -> Timestamp {
        let earlier =
            self.writes_of(self.key_of(write)).iter().filter(|earlier| self.is_past(**earlier, write));
        earlier.map(|earlier| self.writes[earlier.index()].stamp).max().unwrap_or_default()
    }

    /// Whether a write puts something.
    pub(crate) fn is_value(&self, write: WriteId) -> bool {
        self.writes[write.index()].value.is_some()
    }

    /// Whether a write puts something, and not of a life that is over what that life had said of itself.
    fn counts(&self, replica: &Replica, write: WriteId) -> bool {
        let lane = &self.dot(write).lane;
        self.is_value(write) && !(lane.class() == Class::Registry && replica.store().is_retired(lane))
    }

    fn lane(&mut self, lane: &Lane) -> usize {
        if let Some(&number) = self.lanes.get(lane) {
            return number;
        }
        self.by_lane.push(LaneWrites { lane: lane.clone(), writes: Vec::new() });
        self.lanes.insert(lane.clone(), self.by_lane.len() - 1);
        self.by_lane.len() - 1
    }

    /// Learns of a write from its author, who has seen `seen` at that time.
    ///
    /// `basis` says how much of that it looked at.
    ///
    /// # Errors
    ///
    /// [`Checker::Dots`] if the name was used before, [`Checker::Causality`] if its stamp is not above all that
    /// it says its author had seen; what it has to say is [`check_observed`](Self::check_observed)'s to judge.
    pub(crate) fn author(
        &mut self,
        seen: &Seen,
        key: &Key,
        entry: &Entry,
        basis: Basis,
    ) -> Result<WriteId, Broken> {
        if let Some(known) = self.find(&entry.dot) {
            let known = &self.writes[known.index()];
            let same =
                known.stamp == entry.stamp && known.value == entry.value && self.names[known.key] == *key;
            let what = || format!("{} was made twice: {key} and {}", entry.dot, self.names[known.key]);
            return if same {
                Ok(self.find(&entry.dot).expect("it was just found"))
            } else {
                Err(Broken::new(Checker::Dots, what()))
            };
        }
        let (key, lane) = (self.key(key), self.lane(&entry.dot.lane));
        let mut past = Past::default();
        // The last one of its own lane has all earlier ones in its past.
        let own = self.by_key[key].iter().rev().find(|write| {
            let dot = &self.writes[write.index()].dot;
            dot.lane == entry.dot.lane && dot.counter < entry.dot.counter
        });
        let maximal = seen.maximal.get(key).into_iter().flatten().filter(|_| basis == Basis::Seen);
        let told = self.by_key[key].iter().filter(|write| {
            let dot = &self.writes[write.index()].dot;
            let named = entry.observed.counter(&dot.lane) >= dot.counter;
            let meant = entry.observed.buries(&dot.lane) && seen.contains(self, dot);
            basis == Basis::Told && (named || meant)
        });
        let known: Vec<&WriteId> = own.into_iter().chain(maximal).chain(told).collect();
        let mut latest: Option<&Write> = None;
        for &write in &known {
            let stands = seen.maximal.get(key).is_some_and(|standing| standing.contains(write));
            let write = &self.writes[write.index()];
            past.union(&write.past);
            past.insert(write.number);
            // What its author had let go it need not outdo: nobody reads it any more.
            // What is written anew of a life that is over stands where it stood, whatever of its author's went before: a
            // removal, or what others have replaced since.
            let is_gone = basis == Basis::Told
                && write.dot.lane == entry.dot.lane
                && (write.value.is_none() || !stands);
            // What a lane had outdone itself, or stood below as it does here, is that lane's matter.
            let is_last = known
                .iter()
                .map(|other| self.dot(**other))
                .all(|other| other.lane != write.dot.lane || other.counter <= write.dot.counter);
            if entry.covers(&write.dot) && !is_gone && is_last {
                latest = latest.into_iter().chain([write]).max_by_key(|write| write.stamp);
            }
        }
        let latest = latest.map(|write| (write.stamp, write.dot.clone()));
        let number = u32::try_from(self.by_key[key].len()).expect("far fewer writes are simulated");
        let write = WriteId(u32::try_from(self.writes.len()).expect("far fewer writes are simulated"));
        let Entry { dot, stamp, value, observed, .. } = entry.clone();
        if let Some(value) = &value {
            self.by_value.entry((key, value.clone())).or_default().push(write);
        }
        self.writes.push(Write { dot, key, number, past, stamp, value, observed });
        self.by_key[key].push(write);
        let at = usize::try_from(entry.dot.counter.saturating_sub(1)).expect("counters are small here");
        let writes = &mut self.by_lane[lane].writes;
        if writes.len() <= at {
            writes.resize(at + 1, None);
        }
        writes[at] = Some(write);
        match latest.filter(|(latest, _)| entry.stamp <= *latest) {
            Some((latest, of)) => {
                let (dot, stamp) = (&entry.dot, entry.stamp);
                let what = format!("{dot} bears {stamp}, not above {latest} of {of}, which it had seen");
                Err(Broken::new(Checker::Causality, what))
            }
            None => Ok(write),
        }
    }

    /// Follows a node's context, of which `changed` has the lanes that changed.
    ///
    /// # Errors
    ///
    /// [`Checker::Context`] if it lost something.
    pub(crate) fn follow(&mut self, seen: &mut Seen, changed: &CausalContext) -> Result<News, Broken> {
        let mut news = News::default();
        for (lane, counters) in changed.lanes() {
            if lane.is_past() {
                self.bury(seen, lane, &mut news);
                continue;
            }
            let number = self.lane(lane);
            if seen.lanes.len() <= number {
                seen.lanes.resize(number + 1, RangeSet::new());
            }
            let lost = seen.lanes[number].difference(counters);
            if !lost.is_empty() {
                return Err(Broken::new(Checker::Context, format!("{lane} lost {lost:?} of what was seen")));
            }
            let new = counters.difference(&seen.lanes[number]);
            seen.lanes[number] = counters.clone();
            self.outlive(seen, lane, &mut news);
            for counter in new.ranges().flatten() {
                match self.find(&lane.dot(counter)) {
                    Some(write) => self.see(seen, write, &mut news),
                    None => news.unknown.push(lane.dot(counter)),
                }
            }
        }
        news.keys.sort_unstable();
        news.keys.dedup();
        Ok(news)
    }

    /// Lives of a node are over: whatever it wrote in them is taken for seen from now on.
    fn bury(&mut self, seen: &mut Seen, past: &Lane, news: &mut News) {
        let upto = past.actor().generation.0;
        for retired in [&mut seen.retired, &mut self.retired] {
            let retired = retired.entry(past.actor().node).or_default();
            *retired = upto.max(*retired);
        }
        self.outlive(seen, past, news);
        for lane in self.by_lane.iter().filter(|of| past.buries(&of.lane)) {
            for write in lane.writes.iter().flatten() {
                let is_maximal = |maximal: &Vec<WriteId>| maximal.contains(write);
                if seen.maximal.get(self.key_of(*write)).is_some_and(is_maximal) {
                    news.keys.push(self.key_of(*write));
                } else if !seen.contains(self, self.dot(*write)) {
                    news.claimed.push(*write);
                }
            }
        }
    }

    /// Notes that something is held which had seen a write that is claimed. What that write had replaced in its turn is not
    /// told by this: its author may have let go of that before it wrote what is held.
    pub(crate) fn outdo(&self, seen: &mut Seen, write: WriteId) {
        self.learn(seen, write);
        seen.outdone.insert(write);
    }

    /// Notes that a write was really seen.
    pub(crate) fn learn(&self, seen: &mut Seen, write: WriteId) {
        let dot = self.dot(write);
        let Some(&lane) = self.lanes.get(&dot.lane) else { return };
        if seen.lanes.len() <= lane {
            seen.lanes.resize(lane + 1, RangeSet::new());
        }
        seen.lanes[lane].insert(dot.counter);
    }

    /// A write is seen: it stands among the maximal ones, or some write that was seen knows better.
    pub(crate) fn see(&self, seen: &mut Seen, write: WriteId, news: &mut News) {
        let Write { key, number, ref past, .. } = self.writes[write.index()];
        news.keys.push(key);
        news.writes.push(write);
        if seen.maximal.len() <= key {
            seen.maximal.resize(key + 1, Vec::new());
        }
        let maximal = &mut seen.maximal[key];
        if maximal
            .iter()
            .any(|present| *present == write || self.writes[present.index()].past.contains(number))
        {
            return;
        }
        maximal.retain(|present| !past.contains(self.writes[present.index()].number));
        maximal.push(write);
    }

    /// After a later life of a node, what it said of itself in earlier ones reads otherwise.
    fn outlive(&self, seen: &mut Seen, lane: &Lane, news: &mut News) {
        let actor = lane.actor();
        let latest = seen.generations.entry(actor.node).or_insert(actor.generation.0);
        if *latest >= actor.generation.0 {
            return;
        }
        *latest = actor.generation.0;
        let earlier = |of: &Actor| of.node == actor.node && of.generation < actor.generation;
        let void =
            self.by_lane.iter().filter(|of| of.lane.class() == Class::Registry && earlier(&of.lane.actor()));
        for write in void.flat_map(|of| of.writes.iter().flatten()) {
            let key = self.writes[write.index()].key;
            if seen.maximal.get(key).is_some_and(|maximal| maximal.contains(write)) {
                news.keys.push(key);
            }
        }
    }
}

impl Seen {
    /// Whether a write was seen.
    pub(crate) fn contains(&self, reference: &Reference, dot: &Dot) -> bool {
        let lane = reference.lanes.get(&dot.lane).and_then(|lane| self.lanes.get(*lane));
        lane.is_some_and(|seen| seen.contains(dot.counter))
    }

    /// Whether a write was seen together with what it says that it had seen.
    pub(crate) fn knows(&self, reference: &Reference, dot: &Dot) -> bool {
        self.contains(reference, dot)
            && reference.find(dot).is_none_or(|write| !self.outdone.contains(&write))
    }

    /// Whether a write was seen, or belongs to a life that is over.
    pub(crate) fn claims(&self, reference: &Reference, dot: &Dot) -> bool {
        let actor = dot.lane.actor();
        let over = self.retired.get(&actor.node).is_some_and(|upto| actor.generation.0 <= *upto);
        over || self.contains(reference, dot)
    }

    /// The writes of a key that stand.
    #[cfg(test)]
    fn maximal(&self, key: usize) -> &[WriteId] {
        self.maximal.get(key).map_or(&[], |maximal| maximal)
    }

    fn is_void(&self, lane: &Lane) -> bool {
        let actor = lane.actor();
        lane.class() == Class::Registry
            && (self.generations.get(&actor.node).is_some_and(|latest| *latest > actor.generation.0)
                || self.retired.get(&actor.node).is_some_and(|upto| *upto >= actor.generation.0))
    }
}

#[cfg(test)]
mod tests;
