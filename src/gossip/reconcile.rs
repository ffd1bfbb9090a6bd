//! Agreeing with a peer that lacks what was collected here: which ranges of keys to compare, and what of them to
//! send.
//!
//! A delta cannot bring what killed a write once that was collected. So whoever is behind a peer's floors *fetches*:
//! it asks for the peer's context, then compares ranges of keys with it, dividing those that differ until few
//! enough keys are left to name their entries, and at last asks for the peer's floors. What it learns is gathered
//! and takes effect as a whole: see [`Reconciliation`]. A peer without any key names nothing and is sent everything,
//! frame by frame: then this is a snapshot.
//!
//! **Invariant:** what a fetching node counts as seen is the context that it was told *first*. Every key is compared
//! after that, and the floors come last; so whatever the peer had seen then is live in what it sent, or killed by
//! something in it, or at or below a floor. What comes in from others meanwhile is compared again at the end.
//!
//! **Invariant:** while it serves, a node does not collect; and when it agrees with another meanwhile, those that it
//! serves begin anew. Otherwise the peer would be left without a write of whose death it heard, without what had
//! killed it being in the context that it was told: if nobody else knew that, two replicas would have seen the same
//! and differ.
//!
//! Whoever serves keeps the present request and its place in it, and nothing else. All answers are made from the
//! state as it is when there is room for a frame.

use std::collections::{BTreeMap, BTreeSet};

use super::link::{MAX_TOLD, first_ranges};
use super::{Ask, LinkId, Outcome, Summary, Tell};
use crate::crdt::{CausalContext, Delta, Dot, Item, Key, KeyRange, Lane, Reconciliation, Store};
use crate::time::Moment;

/// How many parts a range that differs is divided into. More of them cost bytes, fewer cost round trips.
const PARTS: usize = 16;

/// The most entries of a range that are named one by one instead of being divided further.
const MAX_NAMED: usize = 24;

/// The most ranges in one request, and about the most entries that it names: far below the limit of a frame.
const MAX_RANGES: usize = 512;
const MAX_NAMED_IN_ALL: usize = 4_096;

/// How many peers are served at once. Others wait, or ask somebody else.
pub(super) const MAX_SERVED: usize = 2;

/// The peer did not answer what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misbehaved;

/// What this node fetches from one peer.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) link: LinkId,
    /// When the peer last answered.
    pub(super) quiet_since: Moment,
    /// The number of the last request.
    pub(super) number: u64,
    gathered: Reconciliation,
    /// The ranges that are to be compared, by where they begin.
    todo: BTreeMap<Option<Key>, KeyRange>,
    /// What was asked and not answered yet.
    asked: Asked,
    /// The request that is to be sent next.
    next: Next,
    /// The keys of what came, or was written here, since it began.
    news: BTreeSet<Key>,
}

#[derive(Debug)]
enum Asked {
    Nothing,
    Context {
        after: Option<Lane>,
    },
    /// The ranges without an answer, the last one first, each with whether its entries were named; and the names.
    Ranges {
        ranges: Vec<(KeyRange, bool)>,
        named: BTreeMap<Dot, Key>,
    },
    Floors {
        after: Option<Lane>,
    },
}

#[derive(Debug, Clone)]
enum Next {
    Nothing,
    Context { after: Option<Lane> },
    Ranges,
    Floors { after: Option<Lane> },
}

impl Fetch {
    /// Begins to fetch over a link.
    ///
    /// Its requests are numbered from `number` on; nobody else's on this link may be.
    pub(super) fn new(link: LinkId, number: u64, now: Moment) -> Self {
        let todo = BTreeMap::from([(None, KeyRange::default())]);
        let next = Next::Context { after: None };
        let (gathered, asked) = (Reconciliation::default(), Asked::Nothing);
        Self { link, quiet_since: now, number, gathered, todo, asked, next, news: BTreeSet::new() }
    }

    /// Something came from another peer, or was written here.
    pub(super) fn note(&mut self, delta: &Delta) {
        self.news.extend(delta.items.iter().map(|item| item.key.clone()));
    }

    /// Whether there is something to ask.
    pub(super) fn has_request(&self) -> bool {
        !matches!(self.next, Next::Nothing)
    }

    /// The next request, made from the state as it is.
    pub(super) fn request(&mut self, store: &Store) -> Option<Ask> {
        self.number += 1;
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => None,
            Next::Context { after } => {
                self.asked = Asked::Context { after: after.clone() };
                Some(Ask::Context { after })
            }
            Next::Ranges => Some(self.ranges(store)),
            Next::Floors { after } => {
                self.asked = Asked::Floors { after: after.clone() };
                Some(Ask::Floors { after })
            }
        }
    }

    fn ranges(&mut self, store: &Store) -> Ask {
        let (mut ranges, mut asked, mut named) = (Vec::new(), Vec::new(), BTreeMap::new());
        let begin = self.todo.first_key_value().and_then(|(from, _)| from.clone());
        let mut reached = begin.clone();
        while ranges.len() < MAX_RANGES && named.len() < MAX_NAMED_IN_ALL {
            let Some((from, range)) = self.todo.pop_first() else { break };
            if from != reached {
                ranges.push((from, Summary::Agreed));
            }
            reached = range.until.clone();
            let count: usize = store.range(&range).map(|row| row.entry_count()).sum();
            let parts = if count <= MAX_NAMED { vec![range] } else { divide(store, &range) };
            // A single key with very many entries cannot be divided: then they are named nevertheless.
            let names = parts.len() == 1;
            for part in parts {
                let summary = if names {
                    let entries = store.range(&part).flat_map(|row| {
                        row.register().into_entries().map(move |entry| (entry.dot, row.key()))
                    });
                    let entries: BTreeMap<Dot, Key> = entries.collect();
                    let dots = context_of(entries.keys());
                    named.extend(entries);
                    Summary::Dots(dots)
                } else {
                    Summary::Hash(store.fingerprint(&part))
                };
                ranges.push((part.until.clone(), summary));
                asked.push((part, names));
            }
            if reached.is_none() {
                break;
            }
        }
        asked.reverse();
        self.asked = Asked::Ranges { ranges: asked, named };
        Ask::Ranges { from: begin, ranges }
    }

    /// The peer answered. Says whether everything is gathered; then [`finish`](Self::finish) has it.
    ///
    /// # Errors
    ///
    /// [`Misbehaved`] if it is no answer to what was asked.
    pub(super) fn handle(&mut self, tell: Tell, store: &Store, now: Moment) -> Result<bool, Misbehaved> {
        self.quiet_since = now;
        match (std::mem::replace(&mut self.asked, Asked::Nothing), tell) {
            (Asked::Context { after }, Tell::Context { seen, last }) => {
                let end = progress(after.as_ref(), &seen, last)?;
                self.gathered.delta.accounted.union(&seen);
                self.next = if last { Next::Ranges } else { Next::Context { after: end } };
            }
            (Asked::Floors { after }, Tell::Floors { floors, horizon, last }) => {
                let end = progress(after.as_ref(), &floors, last)?;
                self.gathered.floors.union(&floors);
                self.gathered.horizon = self.gathered.horizon.max(horizon);
                self.next = Next::Floors { after: end };
                if last {
                    self.look_again(store);
                    self.next = if self.todo.is_empty() { Next::Nothing } else { Next::Ranges };
                    return Ok(self.todo.is_empty());
                }
            }
            (Asked::Ranges { ranges, named }, Tell::Ranges { outcomes, items, dead, seals }) => {
                if outcomes.is_empty() && items.is_empty() {
                    return Err(Misbehaved);
                }
                self.gather(ranges, named, outcomes, items, &dead)?;
                self.gathered.delta.seals.extend(seals);
                if matches!(self.asked, Asked::Nothing) {
                    if self.todo.is_empty() {
                        self.look_again(store);
                    }
                    self.next =
                        if self.todo.is_empty() { Next::Floors { after: None } } else { Next::Ranges };
                }
            }
            _ => return Err(Misbehaved),
        }
        Ok(false)
    }

    fn gather(
        &mut self,
        mut ranges: Vec<(KeyRange, bool)>,
        named: BTreeMap<Dot, Key>,
        outcomes: Vec<Outcome>,
        items: Vec<Item>,
        dead: &CausalContext,
    ) -> Result<(), Misbehaved> {
        for outcome in outcomes {
            let (range, names) = ranges.pop().ok_or(Misbehaved)?;
            match (outcome, names) {
                (Outcome::Same, false) | (Outcome::Told, true) => {}
                (Outcome::Differs, false) => {
                    self.todo.insert(range.from.clone(), range);
                }
                _ => return Err(Misbehaved),
            }
        }
        for (lane, counters) in dead.lanes() {
            // As many as were named at most, whatever the ranges say.
            if counters.len() > named.len() as u64 {
                return Err(Misbehaved);
            }
            for counter in counters.ranges().flatten() {
                let dot = lane.dot(counter);
                let key = named.get(&dot).ok_or(Misbehaved)?;
                self.gathered.dead.push((key.clone(), dot));
            }
        }
        self.gathered.delta.items.extend(items);
        if !ranges.is_empty() {
            self.asked = Asked::Ranges { ranges, named };
        }
        Ok(())
    }

    /// What came meanwhile, and belongs to what is accounted for, was not compared: it is old, or the life that wrote it is
    /// over for the peer. What was told of its key before is told again if it is still so: a write that the peer has seen
    /// replaced since would come back.
    fn look_again(&mut self, store: &Store) {
        let seen = &self.gathered.delta.accounted;
        let mut again = std::mem::take(&mut self.news);
        again.retain(|key| {
            let register = store.register(key).unwrap_or_default();
            register.entries().iter().any(|entry| seen.contains(&entry.dot))
        });
        if !again.is_empty() {
            self.gathered.delta.items.retain(|item| !again.contains(&item.key));
        }
        for key in again {
            let from = KeyRange { from: Some(key.clone()), until: None };
            let until = store.range(&from).nth(1).map(|next| next.key());
            self.todo.insert(Some(key.clone()), KeyRange { from: Some(key), until });
        }
    }

    /// All that was gathered.
    pub(super) fn finish(mut self) -> Reconciliation {
        let seals = &mut self.gathered.delta.seals;
        seals.sort();
        seals.dedup();
        self.gathered
    }
}

/// Divides a range into parts of about as many keys each.
fn divide(store: &Store, range: &KeyRange) -> Vec<KeyRange> {
    let count = store.range(range).count();
    let size = count.div_ceil(PARTS).max(1);
    let starts = store.range(range).step_by(size).skip(1).map(|row| row.key());
    let mut parts = Vec::new();
    let mut from = range.from.clone();
    for start in starts {
        parts.push(KeyRange { from, until: Some(start.clone()) });
        from = Some(start);
    }
    parts.push(KeyRange { from, until: range.until.clone() });
    parts
}

/// Checks that a piece of a list of lanes goes on where the last one ended; says where the next begins.
fn progress(after: Option<&Lane>, piece: &CausalContext, last: bool) -> Result<Option<Lane>, Misbehaved> {
    let (first, end) = (piece.lanes().next(), piece.lanes().last());
    let goes_on = first.is_none_or(|(first, _)| after.is_none_or(|after| first > after));
    if !goes_on || (first.is_none() && !last) {
        return Err(Misbehaved);
    }
    Ok(end.map(|(lane, _)| lane.clone()))
}

fn context_of<'a>(dots: impl Iterator<Item = &'a Dot>) -> CausalContext {
    let mut context = CausalContext::new();
    for dot in dots {
        context.insert(dot);
    }
    context
}

/// What this node answers to one peer.
#[derive(Debug)]
pub(super) struct Serve {
    /// When the peer last asked, or took an answer.
    pub(super) heard_at: Moment,
    /// When it began.
    pub(super) since: Moment,
    /// Whether the peer fetches although it had seen the same: then it may be this node that lacks something.
    pub(super) is_mutual: bool,
    ask: Option<Ask>,
    number: u64,
    /// Whether all was told.
    finished: bool,
    /// Within the request: how many ranges were answered, and where in the present one to go on.
    answered: usize,
    resume: Option<Key>,
    /// Of the entries that the present range names, those that are live here.
    live: CausalContext,
}

impl Serve {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            heard_at: now,
            since: now,
            is_mutual: false,
            ask: None,
            number: 0,
            finished: false,
            answered: 0,
            resume: None,
            live: CausalContext::new(),
        }
    }

    /// The peer asks; what it had asked before is forgotten.
    pub(super) fn handle(&mut self, number: u64, ask: Ask, now: Moment) {
        self.heard_at = now;
        self.number = number;
        self.finished = false;
        self.answered = 0;
        self.resume = None;
        self.live = CausalContext::new();
        self.ask = Some(ask);
    }

    /// Whether there is something to answer.
    pub(super) fn has_answer(&self) -> bool {
        self.ask.is_some()
    }

    /// Whether all was told, and the peer has but to agree.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The next frame of the answer, with the number of the request.
    pub(super) fn next(&mut self, store: &Store, budget: usize, now: Moment) -> Option<(u64, Tell)> {
        let ask = self.ask.take()?;
        self.heard_at = now;
        let tell = match ask {
            Ask::Context { after } => {
                let (seen, last) = piece(&store.context(), after.as_ref());
                Tell::Context { seen, last }
            }
            Ask::Floors { after } => {
                let (floors, last) = piece(&store.floors(), after.as_ref());
                self.finished = last;
                Tell::Floors { floors, horizon: store.horizon(), last }
            }
            Ask::Ranges { from, ranges } => {
                let (tell, complete) = self.compare(store, from.as_ref(), &ranges, budget);
                if !complete {
                    self.ask = Some(Ask::Ranges { from, ranges });
                }
                tell
            }
        };
        Some((self.number, tell))
    }

    fn compare(
        &mut self,
        store: &Store,
        from: Option<&Key>,
        ranges: &[(Option<Key>, Summary)],
        budget: usize,
    ) -> (Tell, bool) {
        let (mut outcomes, mut items, mut dead, mut size) = (Vec::new(), Vec::new(), CausalContext::new(), 0);
        let mut seals = BTreeSet::new();
        while let Some((until, summary)) = ranges.get(self.answered) {
            let begin = match self.answered.checked_sub(1).map(|before| &ranges[before].0) {
                Some(end) => end.as_ref(),
                None => from,
            };
            let mut range = KeyRange { from: begin.cloned(), until: until.clone() };
            match summary {
                Summary::Agreed => {}
                Summary::Hash(theirs) if store.fingerprint(&range) == *theirs => outcomes.push(Outcome::Same),
                Summary::Hash(_) => outcomes.push(Outcome::Differs),
                Summary::Dots(theirs) => {
                    range.from = self.resume.take().or(range.from);
                    for row in store.range(&range) {
                        if size >= budget {
                            self.resume = Some(row.key());
                            let seals = seals.into_iter().collect();
                            return (Tell::Ranges { outcomes, items, dead, seals }, false);
                        }
                        let mut item = Item { key: row.key(), entries: smallvec::SmallVec::new() };
                        for entry in row.register().into_entries() {
                            if theirs.contains(&entry.dot) {
                                self.live.insert(&entry.dot);
                            } else {
                                item.entries.push(entry);
                            }
                        }
                        if !item.entries.is_empty() {
                            size += item.size() + store.add_seals_of(&item, &mut seals);
                            items.push(item);
                        }
                    }
                    dead.union(&theirs.difference(&std::mem::take(&mut self.live)));
                    outcomes.push(Outcome::Told);
                }
            }
            self.answered += 1;
        }
        (Tell::Ranges { outcomes, items, dead, seals: seals.into_iter().collect() }, true)
    }
}

/// As much of a list of lanes as one frame tells, and whether it is the rest.
fn piece(all: &CausalContext, after: Option<&Lane>) -> (CausalContext, bool) {
    let mut rest = all.lanes().filter(|(lane, _)| after.is_none_or(|after| *lane > after));
    let piece = rest.by_ref().take(MAX_TOLD).map(|(lane, seen)| (lane.clone(), first_ranges(seen))).collect();
    (piece, rest.next().is_none())
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
