//! The reference: every write that was ever made, with the set of all writes that it had seen on its key.
//!
//! It shares no code with the core's merge. The core keeps maximal entries and a counter per lane; the
//! reference keeps sets of writes and asks one question: is this write in the past of that one? What a node's
//! register must hold follows from the writes that the node says it has seen.

use std::collections::BTreeMap;

use snomesh::crdt::{CausalContext, Class, Dot, Entry, Key, Lane, Observed, RangeSet, Value};
use snomesh::id::{Actor, NodeId};
use snomesh::replica::{Path, Replica};
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

    /// Says whether a command names all that its author held when it was given: what it does not name and yet
    /// replaces, nobody else can know to be replaced. Only removals that were let go cannot be named.
    ///
    /// # Errors
    ///
    /// [`Checker::Causality`].
    pub(crate) fn check_observed(
        &self,
        seen: &Seen,
        replica: &Replica,
        key: &Key,
        entry: &Entry,
    ) -> Result<(), Broken> {
        let register = replica.store().register(key).unwrap_or_default();
        let Some(&key) = self.keys.get(key) else { return Ok(()) };
        let unnamed = seen.maximal.get(key).into_iter().flatten().find(|write| {
            let dot = self.dot(**write);
            let is_held = !entry.covers(dot) && (self.is_value(**write) || !is_collected(replica, dot));
            is_held && !self.is_buried(seen, register.entries(), **write)
        });
        match unnamed {
            Some(write) => {
                let what =
                    format!("{} does not say that its author had seen {}", entry.dot, self.dot(*write));
                Err(Broken::new(Checker::Causality, what))
            }
            None => Ok(()),
        }
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
        let mut latest: Option<&Write> = None;
        for write in own.into_iter().chain(maximal).chain(told) {
            let stands = seen.maximal.get(key).is_some_and(|standing| standing.contains(write));
            let write = &self.writes[write.index()];
            past.union(&write.past);
            past.insert(write.number);
            // What its author had let go it need not outdo: nobody reads it any more.
            // What is written anew of a life that is over stands where it stood, whatever of its author's went before.
            let is_gone = basis == Basis::Told
                && write.dot.lane == entry.dot.lane
                && (write.value.is_none() || !stands);
            if entry.covers(&write.dot) && !is_gone {
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

    /// Compares a register with what the reference says, and the read with the last one.
    ///
    /// Returns how many values stand side by side.
    ///
    /// # Errors
    ///
    /// [`Checker::Merge`], [`Checker::Dots`] or [`Checker::Monotone`].
    pub(crate) fn check_key(&self, seen: &mut Seen, replica: &Replica, key: usize) -> Result<usize, Broken> {
        let register = replica.store().register(&self.names[key]);
        let entries = register.as_ref().map_or(&[][..], |register| register.entries());
        self.bury_values(seen, entries, key);
        let expected = seen.maximal.get(key).map_or(&[][..], |maximal| &maximal[..]);
        let found = entries.iter().map(|entry| self.find(&entry.dot));
        let found: Vec<WriteId> = found.flatten().collect();
        let missing = expected.iter().filter(|write| !found.contains(write));
        let kept = missing
            .filter(|write| self.counts(replica, **write) || !is_collected(replica, self.dot(**write)));
        let surplus: Vec<&WriteId> = found.iter().filter(|write| !expected.contains(write)).collect();
        let told: &Seen = seen;
        // A removal that a node let go is in its log again after a restart, while what took the removal's place may have
        // been let go where the node learnt of that. It hides nothing; only what is held here has to have replaced it.
        let known = surplus.iter().filter(|write| {
            let killer = self.told_dead(***write, |other| {
                if self.is_value(***write) {
                    told.contains(self, other) && !self.is_hollow(told, other)
                } else {
                    register.as_ref().is_some_and(|held| held.entry(other).is_some())
                }
            });
            killer.is_some()
        });
        if found.len() != entries.len() || kept.count() + known.count() > 0 {
            let dots =
                |dots: Vec<String>| if dots.is_empty() { "nothing".to_owned() } else { dots.join(", ") };
            let found = dots(entries.iter().map(|entry| entry.dot.to_string()).collect());
            let expected = dots(expected.iter().map(|write| self.dot(*write).to_string()).collect());
            let what =
                format!("{} holds {found}; by the writes that were seen it is {expected}", self.names[key]);
            return Err(Broken::new(Checker::Merge, what));
        }
        for entry in entries {
            let write = &self.writes[self.find(&entry.dot).expect("it was just compared").index()];
            if write.stamp != entry.stamp || write.value != entry.value {
                let what = format!("{} of {} is not what its author wrote", entry.dot, self.names[key]);
                return Err(Broken::new(Checker::Dots, what));
            }
        }
        if !surplus.is_empty() {
            // What was removed, collected and written anew by others shows until this node has fetched.
            return Ok(entries.iter().filter(|entry| entry.value.is_some()).count());
        }
        match Path::of(&self.names[key]) {
            Some(Path::Registration { name, tunnel }) => {
                let found = replica.registration(&name, tunnel).map(|found| found.dot);
                self.check_read(seen, found, key)?;
            }
            Some(Path::Attribute(_) | Path::Counter { .. } | Path::Element { .. }) => {
                let winner = register.as_ref().and_then(|register| register.winner());
                self.check_read(seen, winner.map(|entry| entry.dot.clone()), key)?;
            }
            Some(Path::Node(_) | Path::Revocation(_) | Path::Retirement(_) | Path::Policy) | None => {}
        }
        Ok(entries.iter().filter(|entry| entry.value.is_some()).count())
    }

    /// Takes those for dead that are not held and that something has replaced of which only what lives are over tells: a
    /// write of such a life that was seen elsewhere, or the past that a write had seen, which takes more for seen than
    /// was (decision 21 says of whom).
    fn bury_values(&self, seen: &mut Seen, entries: &[Entry], key: usize) {
        let Some(maximal) = seen.maximal.get(key) else { return };
        let dead: Vec<WriteId> =
            maximal.iter().filter(|write| self.is_buried(seen, entries, **write)).copied().collect();
        if !dead.is_empty() {
            seen.maximal[key].retain(|write| !dead.contains(write));
        }
    }

    /// Whether a write is dead by something of which only what lives are over tells.
    fn is_buried(&self, seen: &Seen, entries: &[Entry], write: WriteId) -> bool {
        let dot = self.dot(write);
        let is_held = entries.iter().any(|entry| entry.dot == *dot);
        let buried = || entries.iter().any(|entry| entry.observed.buries(&dot.lane));
        !is_held && (buried() || self.is_hollow(seen, dot))
    }

    /// Whether a write may have been told of without what it put: whoever told had seen what replaced it, and took the
    /// listener, or was itself taken, for somebody who had seen that too, since the life that made it is over. It comes
    /// anew from whoever holds it.
    fn is_hollow(&self, seen: &Seen, dot: &Dot) -> bool {
        let Some(write) = self.find(dot) else { return false };
        let later = self.by_key[self.key_of(write)].iter().filter(|by| self.is_past(write, **by));
        later.map(|by| self.dot(*by)).any(|by| {
            let actor = by.lane.actor();
            let is_over = self.retired.get(&actor.node).is_some_and(|upto| actor.generation.0 <= *upto);
            is_over && !seen.contains(self, by)
        })
    }

    /// A write among those that count which says that it had seen this one and all that this one had.
    fn told_dead(&self, write: WriteId, counts: impl Fn(&Dot) -> bool) -> Option<&Dot> {
        let (key, dot) = (self.key_of(write), self.dot(write));
        // What has seen it was made after it.
        let after = self.writes[write.index()].number as usize + 1;
        let others = self.by_key[key][after..].iter().map(|other| &self.writes[other.index()]);
        let mut covering = others.filter(|other| {
            let knows = |lane: &Lane, counter: u64| {
                let later = other.dot.lane == *lane && other.dot.counter > counter;
                later || other.observed.counter(lane) >= counter || other.observed.buries(lane)
            };
            let observed = &self.writes[write.index()].observed;
            knows(&dot.lane, dot.counter) && observed.iter().all(|(lane, counter)| knows(lane, *counter))
        });
        covering.find(|other| counts(&other.dot)).map(|other| &other.dot)
    }

    /// Says whether a value may still be shown by a node: whether no write that it has seen had replaced or
    /// removed it.
    ///
    /// # Errors
    ///
    /// [`Checker::History`].
    pub(crate) fn check_shown(&self, seen: &Seen, key: &Key, value: &Value) -> Result<(), Broken> {
        let Some(key) = self.keys.get(key).copied() else { return Ok(()) };
        let Some(shown) = self.by_value.get(&(key, value.clone())) else { return Ok(()) };
        // Who removed it may not be known here, only somebody who writes the key anew and has let the removal go: then it
        // shows until this node has fetched.
        let killer = |shown: &WriteId| {
            let counts = |other: &Dot| seen.contains(self, other) && !self.is_hollow(seen, other);
            self.told_dead(*shown, counts).map(|by| (*shown, by))
        };
        // One of several writes of the same text that still stands is enough.
        match shown.iter().map(killer).collect::<Option<Vec<_>>>().and_then(|dead| dead.last().copied()) {
            Some((shown, killer)) => {
                let shown = self.dot(shown);
                let what = format!(
                    "{} shows {shown} again, which {killer} had replaced or removed",
                    self.names[key]
                );
                Err(Broken::new(Checker::History, what))
            }
            None => Ok(()),
        }
    }

    fn check_read(&self, seen: &mut Seen, found: Option<Dot>, key: usize) -> Result<(), Broken> {
        let readable = |write: &&WriteId| self.is_value(**write) && !seen.is_void(&self.dot(**write).lane);
        let expected = seen.maximal.get(key).into_iter().flatten().filter(readable);
        let rank = |write: &WriteId| {
            let write = &self.writes[write.index()];
            (write.stamp, write.dot.lane.actor(), write.dot.counter)
        };
        let expected = expected.max_by_key(|write| rank(write)).copied();
        let found = found.and_then(|dot| self.find(&dot));
        if found != expected {
            let text = |write: Option<WriteId>| {
                write.map_or_else(|| "nothing".to_owned(), |write| self.dot(write).to_string())
            };
            let what =
                format!("{} reads {}, the greatest is {}", self.names[key], text(found), text(expected));
            return Err(Broken::new(Checker::Merge, what));
        }
        if seen.read.len() <= key {
            seen.read.resize(key + 1, None);
        }
        let before = std::mem::replace(&mut seen.read[key], found);
        match (before, found) {
            (Some(before), Some(after)) if self.is_past(after, before) => {
                let (before, after) = (self.dot(before), self.dot(after));
                let what =
                    format!("{} read {before} and reads {after}, which that had replaced", self.names[key]);
                Err(Broken::new(Checker::Monotone, what))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a node let a removal go.
fn is_collected(replica: &Replica, dot: &Dot) -> bool {
    dot.counter <= replica.store().floor(&dot.lane)
}

impl Seen {
    /// Whether a write was seen.
    pub(crate) fn contains(&self, reference: &Reference, dot: &Dot) -> bool {
        let lane = reference.lanes.get(&dot.lane).and_then(|lane| self.lanes.get(*lane));
        lane.is_some_and(|seen| seen.contains(dot.counter))
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
mod tests {
    use snomesh::crdt::{Delta, Item};
    use snomesh::id::Generation;
    use snomesh::time::UnixMillis;

    use super::*;

    fn lane(node: u8, generation: u64, class: Class) -> Lane {
        Lane::new(Actor { node: NodeId::from_bytes([node; 32]), generation: Generation(generation) }, class)
    }

    fn key() -> Key {
        "attr/mesh/x".parse().unwrap()
    }

    fn entry(node: u8, counter: u64, observed: &[(u8, u64)], stamp: u64, value: Option<&[u8]>) -> Entry {
        let of = |node: u8| lane(node, 1, Class::Attribute);
        let observed = Observed::new(observed.iter().map(|(node, counter)| (of(*node), *counter)));
        let value = value.map(|bytes| Value::try_from(bytes).unwrap());
        Entry::new(&key(), of(node).dot(counter), observed, Timestamp(stamp), value)
    }

    fn replica() -> Replica {
        let actor = Actor { node: NodeId::from_bytes([9; 32]), generation: Generation(1) };
        Replica::new(actor, std::time::Duration::from_secs(10))
    }

    fn merge(replica: &mut Replica, entries: &[&Entry]) {
        let items = entries
            .iter()
            .map(|entry| Item { key: key(), entries: [(*entry).clone()].into_iter().collect() });
        let delta = Delta { items: items.collect(), ..Delta::default() };
        replica.merge(UnixMillis(0), &delta).unwrap();
    }

    /// A node that writes twice, and another that writes without having heard of it.
    fn history() -> (Reference, [Entry; 3]) {
        let entries = [
            entry(1, 1, &[], 5, Some(b"a")),
            entry(1, 2, &[], 6, Some(b"b")),
            entry(2, 1, &[], 5, Some(b"c")),
        ];
        let mut reference = Reference::default();
        let (mut one, other) = (Seen::default(), Seen::default());
        for entry in &entries[..2] {
            let write = reference.author(&one, &key(), entry, Basis::Seen).unwrap();
            reference.see(&mut one, write, &mut News::default());
        }
        reference.author(&other, &key(), &entries[2], Basis::Seen).unwrap();
        (reference, entries)
    }

    #[test]
    fn a_store_that_merges_as_it_should_passes() {
        let (mut reference, [a, b, c]) = history();
        let (mut replica, mut seen) = (replica(), Seen::default());
        for (entries, values) in [(vec![&b], 1), (vec![&c, &a], 2)] {
            merge(&mut replica, &entries);
            let news = reference.follow(&mut seen, &replica.store().context()).unwrap();
            assert!(news.unknown.is_empty());
            assert_eq!(reference.check_key(&mut seen, &replica, news.keys[0]), Ok(values));
        }
    }

    #[test]
    fn a_missing_sibling_and_a_resurrected_value_are_caught() {
        let (mut reference, [a, b, c]) = history();
        let (mut replica, mut seen) = (replica(), Seen::default());
        merge(&mut replica, &[&a, &b, &c]);
        reference.follow(&mut seen, &replica.store().context()).unwrap();
        for wrong in [vec![&b], vec![&a, &c]] {
            let mut replica = self::replica();
            merge(&mut replica, &wrong);
            let broken = reference.check_key(&mut seen, &replica, 0).unwrap_err();
            assert_eq!(broken.checker, Checker::Merge, "{broken:?}");
        }
    }

    #[test]
    fn a_read_that_goes_back_is_caught() {
        let (mut reference, [a, b, _]) = history();
        let (mut replica, mut seen) = (replica(), Seen::default());
        merge(&mut replica, &[&b]);
        reference.follow(&mut seen, &replica.store().context()).unwrap();
        reference.check_key(&mut seen, &replica, 0).unwrap();
        // A register and a reference that both forgot the later write.
        seen.maximal[0] = vec![reference.find(&a.dot).unwrap()];
        let mut replica = self::replica();
        merge(&mut replica, &[&a]);
        assert_eq!(reference.check_key(&mut seen, &replica, 0).unwrap_err().checker, Checker::Monotone);
    }

    #[test]
    fn a_value_that_is_shown_again_is_caught() {
        let (mut reference, [_, b, _]) = history();
        let mut seen = Seen::default();
        let shown = |reference: &Reference, seen: &Seen, text: &[u8]| {
            reference.check_shown(seen, &key(), &Value::try_from(text).unwrap())
        };
        assert_eq!(shown(&reference, &seen, b"a"), Ok(()));
        let context = CausalContext::from_iter([(b.dot.lane, RangeSet::up_to(2))]);
        reference.follow(&mut seen, &context).unwrap();
        assert_eq!(shown(&reference, &seen, b"b"), Ok(()));
        assert_eq!(shown(&reference, &seen, b"a").unwrap_err().checker, Checker::History);
    }

    #[test]
    fn a_text_that_was_written_twice_may_be_shown_while_one_of_them_stands() {
        let (mut reference, [_, b, _]) = history();
        let again = entry(3, 1, &[], 7, Some(b"a"));
        reference.author(&Seen::default(), &key(), &again, Basis::Seen).unwrap();
        let mut seen = Seen::default();
        let both = [(b.dot.lane, RangeSet::up_to(2)), (again.dot.lane, RangeSet::up_to(1))];
        reference.follow(&mut seen, &CausalContext::from_iter(both)).unwrap();
        let shown = |text: &[u8]| reference.check_shown(&seen, &key(), &Value::try_from(text).unwrap());
        assert_eq!(shown(b"a"), Ok(()));
    }

    /// Whoever removed a value and let the removal go writes the key anew: who has not heard of the removal shows both.
    #[test]
    fn a_death_that_nobody_told_here_is_no_resurrection() {
        let (mut reference, [_, b, _]) = history();
        let removal = entry(3, 1, &[(1, 2)], 7, None);
        let anew = entry(4, 1, &[], 8, Some(b"d"));
        let mut author = Seen::default();
        let all = [(b.dot.lane.clone(), RangeSet::up_to(2)), (removal.dot.lane.clone(), RangeSet::up_to(1))];
        reference.author(&Seen::default(), &key(), &removal, Basis::Told).unwrap();
        reference.follow(&mut author, &CausalContext::from_iter(all)).unwrap();
        reference.author(&author, &key(), &anew, Basis::Seen).unwrap();

        let mut seen = Seen::default();
        let some = [(b.dot.lane, RangeSet::up_to(2)), (anew.dot.lane.clone(), RangeSet::up_to(1))];
        reference.follow(&mut seen, &CausalContext::from_iter(some)).unwrap();
        let shown = |seen: &Seen| reference.check_shown(seen, &key(), &Value::try_from(&b"b"[..]).unwrap());
        assert_eq!(shown(&seen), Ok(()));
        assert_eq!(shown(&author).unwrap_err().checker, Checker::History);
    }

    #[test]
    fn a_write_that_does_not_name_what_its_author_held_is_caught() {
        let (mut reference, [_, b, _]) = history();
        let (mut replica, mut seen) = (replica(), Seen::default());
        merge(&mut replica, &[&b]);
        reference.follow(&mut seen, &replica.store().context()).unwrap();
        let check = |write: &Entry| reference.check_observed(&seen, &replica, &key(), write);
        assert_eq!(check(&entry(3, 1, &[(1, 2)], 7, None)), Ok(()));
        assert_eq!(check(&entry(3, 1, &[(1, 1)], 7, None)).unwrap_err().checker, Checker::Causality);
    }

    #[test]
    fn a_dot_that_names_two_writes_is_caught() {
        let (mut reference, [a, ..]) = history();
        let twice = Entry { stamp: Timestamp(9), ..a };
        let broken = reference.author(&Seen::default(), &key(), &twice, Basis::Seen).unwrap_err();
        assert_eq!(broken.checker, Checker::Dots);
    }

    #[test]
    fn a_stamp_that_does_not_grow_is_caught() {
        let (mut reference, [_, b, _]) = history();
        let mut seen = Seen::default();
        let write = reference.find(&b.dot).unwrap();
        reference.see(&mut seen, write, &mut News::default());
        let late = entry(3, 1, &[(1, 2)], 6, Some(b"d"));
        assert_eq!(
            reference.author(&seen, &key(), &late, Basis::Seen).unwrap_err().checker,
            Checker::Causality
        );
    }

    #[test]
    fn a_context_that_shrinks_is_caught_and_one_that_claims_too_much_is_told() {
        let (mut reference, [a, ..]) = history();
        let mut seen = Seen::default();
        let lane = a.dot.lane;
        let all = CausalContext::from_iter([(lane.clone(), RangeSet::up_to(3))]);
        assert_eq!(reference.follow(&mut seen, &all).unwrap().unknown, [lane.dot(3)]);
        let less = CausalContext::from_iter([(lane, RangeSet::up_to(2))]);
        assert_eq!(reference.follow(&mut seen, &less).unwrap_err().checker, Checker::Context);
    }

    #[test]
    fn a_later_life_voids_registrations_of_the_earlier_to_readers() {
        let key: Key = "tunnel/web/0000000000000001".parse().unwrap();
        let (old, new) = (lane(1, 1, Class::Registry), lane(1, 2, Class::Registry));
        let mut reference = Reference::default();
        let mut seen = Seen::default();
        let make = |lane: &Lane, stamp| {
            Entry::new(
                &key,
                lane.dot(1),
                Observed::default(),
                Timestamp(stamp),
                Value::try_from(&b"r"[..]).ok(),
            )
        };
        reference.author(&seen, &key, &make(&old, 1), Basis::Seen).unwrap();
        reference.follow(&mut seen, &CausalContext::from_iter([(old, RangeSet::up_to(1))])).unwrap();
        assert_eq!(seen.maximal(0).len(), 1);
        let other: Key = "node/x".parse().unwrap();
        reference.author(&seen, &other, &make(&new, 2), Basis::Seen).unwrap();
        let news =
            reference.follow(&mut seen, &CausalContext::from_iter([(new, RangeSet::up_to(1))])).unwrap();
        assert_eq!((seen.maximal(0).len(), news.keys), (1, vec![0, 1]));
        assert!(seen.is_void(&reference.dot(seen.maximal(0)[0]).lane));
    }
}
