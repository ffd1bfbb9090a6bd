//! The model check: every run there can be of a very small mesh.
//!
//! The simulator tries many runs and may miss one. Here a few replicas write a few times and send each other a few
//! deltas, and *every* order of that is tried, with messages that are lost, late, doubled and overtaken: a message that
//! was sent may arrive at any later moment, any number of times, or never. The replicas are the production ones; what
//! they must hold is computed from the history of writes, which shares no code with them. At any moment a replica may
//! let removals go; whoever lacks something below that floor can fetch, which takes effect as a whole. After each step it
//! is also asked what would become of this state if from now on everything arrived.
//!
//! States that were reached in different ways and are the same are looked at once, and the search goes breadth first:
//! what it finds is a shortest way to it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use snomesh::crdt::{CausalContext, Delta, Dot, Entry, Reconciliation, Row, Value};
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::replica::{AttributeKey, Path, Replica};
use snomesh::time::UnixMillis;

/// How much there is to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Replicas.
    pub(crate) nodes: usize,
    /// Keys that they write.
    pub(crate) keys: usize,
    /// Writes and removals, of all together.
    pub(crate) writes: usize,
    /// Messages, of all together. Each may arrive any number of times.
    pub(crate) sends: usize,
    /// How often removals are let go, by all together.
    pub(crate) collections: usize,
}

/// What one step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A node sets a key.
    Set(usize, usize),
    /// A node removes a key.
    Unset(usize, usize),
    /// A node sends another what that one lacks, all of it or as little as can be.
    Send(usize, usize, Extent),
    /// A message that was sent arrives, not for the last time perhaps.
    Deliver(usize),
    /// A node lets go of all removals that it may let go of.
    Collect(usize),
    /// A node agrees with another that has let go of something that it lacks.
    Fetch(usize, usize),
}

/// How much of what is missing a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    All,
    Least,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(node, key) => write!(f, "n{node} sets k{key}"),
            Self::Unset(node, key) => write!(f, "n{node} removes k{key}"),
            Self::Send(from, to, Extent::All) => write!(f, "n{from} sends n{to} all that it lacks"),
            Self::Send(from, to, Extent::Least) => write!(f, "n{from} sends n{to} a part of what it lacks"),
            Self::Deliver(message) => write!(f, "message {message} arrives"),
            Self::Collect(node) => write!(f, "n{node} lets removals go"),
            Self::Fetch(from, to) => write!(f, "n{to} fetches from n{from}"),
        }
    }
}

/// What came of the search.
#[derive(Debug)]
pub(crate) struct Report {
    /// States that are different.
    pub(crate) states: usize,
    /// Steps between them.
    pub(crate) steps: u64,
    /// The most steps that lead to a state.
    pub(crate) depth: usize,
    /// What does not hold, and a shortest way there.
    pub(crate) broken: Option<(String, Vec<Step>)>,
}

/// What happens to a message on its way, so that the check can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// Nothing.
    Honest,
    /// Removals are taken out, as if they had no name.
    #[cfg(test)]
    LosesRemovals,
    /// A part claims to be all.
    #[cfg(test)]
    ClaimsTooMuch,
    /// Who fetches is not told how far the other has collected.
    #[cfg(test)]
    WithoutFloors,
}

/// A write as history has it.
#[derive(Debug, Clone)]
struct Write {
    dot: Dot,
    key: usize,
    puts: bool,
    /// The writes of the key that its author had seen: one bit each. Once something was let go, only those that it
    /// names, for of the rest nobody can learn by it.
    past: u32,
}

/// Replicas, what is on its way between them, and what was written.
#[derive(Debug, Clone)]
struct State {
    replicas: Vec<Replica>,
    messages: Vec<(usize, Rc<Delta>)>,
    writes: Vec<Write>,
    collections: usize,
}

/// A name for a state, equal for equal states.
type Fingerprint = [u8; 16];

/// The time on the clock of a node: the last node's is behind, so that causality and stamps are not the same.
fn wall(node: usize, nodes: usize) -> UnixMillis {
    UnixMillis(if node + 1 == nodes { 1_000 } else { 2_000 })
}

fn key(number: usize) -> AttributeKey {
    format!("mesh/k{number}").parse().expect("a short key is legal")
}

/// Tries everything within the bounds.
pub(crate) fn explore(bounds: Bounds, carrier: Carrier) -> Report {
    let first = State::new(bounds.nodes);
    let name = first.fingerprint();
    let mut reached: HashMap<Fingerprint, Option<(Fingerprint, Step)>> = HashMap::from([(name, None)]);
    let mut open = VecDeque::from([(first, name, 0)]);
    let mut report = Report { states: 0, steps: 0, depth: 0, broken: None };
    while let Some((state, name, depth)) = open.pop_front() {
        report.states += 1;
        report.depth = report.depth.max(depth);
        if let Some(what) = state.broken(carrier) {
            report.broken = Some((what, way_to(&reached, name)));
            return report;
        }
        for step in state.steps(bounds) {
            let Some(next) = state.take(step, carrier) else { continue };
            report.steps += 1;
            let next_name = next.fingerprint();
            reached.entry(next_name).or_insert_with(|| {
                open.push_back((next, next_name, depth + 1));
                Some((name, step))
            });
        }
    }
    report
}

fn way_to(reached: &HashMap<Fingerprint, Option<(Fingerprint, Step)>>, name: Fingerprint) -> Vec<Step> {
    let mut way = Vec::new();
    let mut at = name;
    while let Some(Some((before, step))) = reached.get(&at) {
        way.push(*step);
        at = *before;
    }
    way.reverse();
    way
}

impl State {
    fn new(nodes: usize) -> Self {
        let replica = |number: usize| {
            let mut id = [0; 32];
            id[0] = u8::try_from(number).unwrap_or(u8::MAX);
            let actor = Actor { node: NodeId::from_bytes(id), generation: Generation(1) };
            Replica::new(actor, Duration::from_secs(10))
        };
        Self {
            replicas: (0..nodes).map(replica).collect(),
            messages: Vec::new(),
            writes: Vec::new(),
            collections: 0,
        }
    }

    /// All that can be tried next.
    fn steps(&self, bounds: Bounds) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..self.messages.len()).map(Step::Deliver).collect();
        if self.writes.len() < bounds.writes {
            // Keys differ in nothing but their names: the first one that is unused stands for all of them.
            let used = self.writes.iter().map(|write| write.key + 1).max().unwrap_or(0);
            let keys = bounds.keys.min(used + 1);
            let each = (0..bounds.nodes).flat_map(|node| (0..keys).map(move |key| (node, key)));
            steps.extend(each.flat_map(|(node, key)| [Step::Set(node, key), Step::Unset(node, key)]));
        }
        if self.messages.len() < bounds.sends {
            for from in 0..bounds.nodes {
                for to in (0..bounds.nodes).filter(|to| *to != from) {
                    steps.extend([Extent::All, Extent::Least].map(|extent| Step::Send(from, to, extent)));
                }
            }
        }
        if self.collections < bounds.collections {
            steps.extend((0..bounds.nodes).map(Step::Collect));
        }
        for from in 0..bounds.nodes {
            let lacking = (0..bounds.nodes).filter(|to| *to != from && self.is_below_floor(from, *to));
            steps.extend(lacking.map(|to| Step::Fetch(from, to)));
        }
        steps
    }

    /// Whether a node lacks something that another has collected, so that no message brings it.
    fn is_below_floor(&self, from: usize, to: usize) -> bool {
        let (store, known) = (self.replicas[from].store(), self.replicas[to].store());
        let all = store.context();
        all.lanes().any(|(lane, _)| store.is_below_floor(lane, known.seen_of(lane)))
    }

    /// The state after a step; `None` if the step does nothing.
    fn take(&self, step: Step, carrier: Carrier) -> Option<Self> {
        let mut next = self.clone();
        match step {
            Step::Set(node, number) => next.write(node, number, true)?,
            Step::Unset(node, number) => next.write(node, number, false)?,
            Step::Send(from, to, extent) => {
                let delta = self.missing(from, to, extent);
                let message = (to, Rc::new(carrier.carry(delta, || self.missing(from, to, Extent::All))));
                if message.1.is_empty() || self.messages.contains(&message) {
                    return None;
                }
                next.messages.push(message);
            }
            Step::Deliver(number) => {
                let (to, delta) = &self.messages[number];
                next.merge(*to, delta);
            }
            Step::Collect(node) => {
                next.collections += 1;
                if next.replicas[node].collect(usize::MAX, |_| true).is_empty() {
                    return None;
                }
            }
            Step::Fetch(from, to) => next.fetch(from, to, carrier),
        }
        Some(next)
    }

    fn write(&mut self, node: usize, number: usize, puts: bool) -> Option<()> {
        let (wall, key) = (wall(node, self.replicas.len()), key(number));
        let value = Value::try_from(&[u8::try_from(self.writes.len()).unwrap_or(u8::MAX)][..]);
        let replica = &mut self.replicas[node];
        let past = seen_of(replica, &self.writes, number);
        let prepared = if puts {
            replica.set(wall, &key, value.expect("one byte is a value"))
        } else {
            replica.unset(wall, &key)
        };
        let prepared = prepared.expect("the clocks are far from the end of time")?;
        let past = if self.collections == 0 { past } else { self.named_by(&prepared.delta, number) };
        self.writes.push(Write { dot: prepared.dot.clone(), key: number, puts, past });
        self.merge(node, &prepared.delta);
        Some(())
    }

    fn merge(&mut self, node: usize, delta: &Delta) {
        let wall = wall(node, self.replicas.len());
        self.replicas[node].merge(wall, delta).expect("nothing damages entries");
        self.replicas[node].take_changed();
    }

    /// The writes of a key that a new write says it had seen: one bit each.
    fn named_by(&self, delta: &Delta, number: usize) -> u32 {
        let entries: Vec<&Entry> = delta.items.iter().flat_map(|item| &item.entries).collect();
        let names = |write: &Write| {
            entries.iter().any(|entry| {
                let earlier = entry.dot.lane == write.dot.lane && entry.dot.counter > write.dot.counter;
                earlier || entry.observed.counter(&write.dot.lane) >= write.dot.counter
            })
        };
        let named = self.writes.iter().enumerate().filter(|(_, write)| write.key == number && names(write));
        named.fold(0, |named, (place, _)| named | 1 << place)
    }

    fn fetch(&mut self, from: usize, to: usize, carrier: Carrier) {
        let wall = wall(to, self.replicas.len());
        let learnt = self.replicas[from].store().reconciliation(self.replicas[to].store());
        let learnt = carrier.carry_all(learnt);
        self.replicas[to].reconcile(wall, &learnt).expect("nothing damages entries");
        self.replicas[to].take_changed();
    }

    fn missing(&self, from: usize, to: usize, extent: Extent) -> Delta {
        let (known, budget) = (
            self.replicas[to].store().context(),
            match extent {
                Extent::All => usize::MAX,
                Extent::Least => 1,
            },
        );
        let store = self.replicas[from].store();
        let seen = store.context();
        store.delta(seen.lanes().map(|(lane, _)| lane), &known, budget)
    }

    /// What does not hold in this state, or if from here on everything arrived.
    fn broken(&self, carrier: Carrier) -> Option<String> {
        for node in 0..self.replicas.len() {
            if let Some(what) = self.differs_from_history(node) {
                return Some(what);
            }
        }
        let contexts: Vec<CausalContext> =
            self.replicas.iter().map(|replica| replica.store().context()).collect();
        for (one, here) in contexts.iter().enumerate() {
            for (other, there) in contexts.iter().enumerate().skip(one + 1) {
                if here == there && !self.same_state(one, other) {
                    return Some(format!("n{one} and n{other} have seen the same and hold something else"));
                }
            }
        }
        self.at_rest(carrier)
    }

    /// If everything arrives, all hold the same, and what history says.
    fn at_rest(&self, carrier: Carrier) -> Option<String> {
        let mut rest = self.clone();
        let count = rest.replicas.len();
        // News travels one node a round.
        for _ in 0..count {
            for from in 0..count {
                for to in (0..count).filter(|to| *to != from) {
                    let delta = rest.missing(from, to, Extent::All);
                    rest.merge(to, &delta);
                    if rest.is_below_floor(from, to) {
                        rest.fetch(from, to, carrier);
                    }
                }
            }
        }
        for node in 0..count {
            if let Some(lacking) =
                rest.writes.iter().find(|write| !rest.replicas[node].store().seen(&write.dot))
            {
                return Some(format!("n{node} never learns of {}, though everything arrives", lacking.dot));
            }
            if let Some(what) = rest.differs_from_history(node) {
                return Some(format!("if everything arrives, {what}"));
            }
            if !rest.same_state(0, node) {
                return Some(format!("if everything arrives, n0 and n{node} hold something else"));
            }
        }
        None
    }

    /// A key holds the writes that the node has seen and that no other write that it has seen had seen.
    fn differs_from_history(&self, node: usize) -> Option<String> {
        let replica = &self.replicas[node];
        let keys = self.writes.iter().map(|write| write.key + 1).max().unwrap_or(0);
        for number in 0..keys {
            let seen = seen_of(replica, &self.writes, number);
            // A write that knows all that another knew is the end of it.
            let past = |write: usize| self.writes[write].past;
            let ends =
                |one: usize, other: usize| past(one) & (1 << other) != 0 && past(other) & !past(one) == 0;
            let dead = bits(seen).filter(|write| bits(seen).any(|other| ends(other, *write)));
            let dead = dead.fold(0, |dead, write| dead | 1 << write);
            let register = replica.store().register(&Path::Attribute(key(number)).to_key());
            for (place, write) in self.writes.iter().enumerate().filter(|(_, write)| write.key == number) {
                let wanted = seen & !dead & (1 << place) != 0;
                let found = register.as_ref().is_some_and(|register| register.entry(&write.dot).is_some());
                // A removal that everybody has seen may be forgotten; a value must be there or not.
                if (write.puts || found) && wanted != found {
                    let how = if found { "still holds" } else { "does not hold" };
                    return Some(format!("n{node} {how} {} of k{number}", write.dot));
                }
            }
        }
        None
    }

    /// Whether two replicas hold the same, byte for byte; each lets removals go when it likes.
    fn same_state(&self, one: usize, other: usize) -> bool {
        let (here, there) = (self.replicas[one].store(), self.replicas[other].store());
        let collected = self.collections > 0;
        let values = |row: Row<'_>| {
            let values: Vec<Entry> = row.register().values().into_iter().cloned().collect();
            (!values.is_empty()).then(|| (row.key(), values))
        };
        let same = here.prefix("").filter_map(values).eq(there.prefix("").filter_map(values));
        here.digest() == there.digest() && same && (collected || here.prefix("").eq(there.prefix("")))
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        for replica in &self.replicas {
            feed_context(&mut hasher, &replica.store().context());
            feed_context(&mut hasher, &replica.store().floors());
            hasher.update(&replica.store().horizon().0.to_le_bytes());
            for row in replica.store().prefix("") {
                hasher.update(row.name().as_bytes());
                for entry in row.register().entries() {
                    hasher.update(&entry.checksum.to_le_bytes());
                }
            }
            hasher.update(&replica.last_stamp().0.to_le_bytes());
        }
        // In whatever order they were sent: all of them may arrive at any time.
        let mut messages: Vec<Fingerprint> = self.messages.iter().map(fingerprint_of).collect();
        messages.sort_unstable();
        for message in &messages {
            hasher.update(message);
        }
        hasher.update(&self.collections.to_le_bytes());
        for write in &self.writes {
            hasher.update(write.dot.lane.actor().node.as_bytes());
            hasher.update(&write.dot.counter.to_le_bytes());
            hasher.update(&write.past.to_le_bytes());
            hasher.update(&[u8::try_from(write.key).unwrap_or(u8::MAX), u8::from(write.puts)]);
        }
        short(&hasher)
    }
}

impl Carrier {
    /// What goes on its way instead of a message; `all` is everything that the receiver lacks.
    fn carry(self, delta: Delta, all: impl FnOnce() -> Delta) -> Delta {
        match self {
            Self::Honest => {
                let _not_needed = all;
                delta
            }
            #[cfg(test)]
            Self::LosesRemovals => {
                let mut delta = delta;
                for item in &mut delta.items {
                    item.entries.retain(|entry| entry.value.is_some());
                }
                delta.items.retain(|item| !item.entries.is_empty());
                delta
            }
            #[cfg(test)]
            Self::ClaimsTooMuch => Delta { accounted: all().accounted, ..delta },
            #[cfg(test)]
            Self::WithoutFloors => delta,
        }
    }

    /// What somebody learns who fetches.
    fn carry_all(self, learnt: Reconciliation) -> Reconciliation {
        match self {
            #[cfg(test)]
            Self::WithoutFloors => Reconciliation { floors: CausalContext::new(), ..learnt },
            #[cfg(test)]
            Self::LosesRemovals | Self::ClaimsTooMuch => learnt,
            Self::Honest => learnt,
        }
    }
}

/// The writes of a key that a replica has seen: one bit each.
fn seen_of(replica: &Replica, writes: &[Write], key: usize) -> u32 {
    let seen =
        writes.iter().enumerate().filter(|(_, write)| write.key == key && replica.store().seen(&write.dot));
    seen.fold(0, |seen, (place, _)| seen | 1 << place)
}

fn bits(set: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |place| set & (1 << place) != 0)
}

fn fingerprint_of((to, delta): &(usize, Rc<Delta>)) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&to.to_le_bytes());
    feed_context(&mut hasher, &delta.accounted);
    for item in &delta.items {
        hasher.update(item.key.as_str().as_bytes());
        for entry in &item.entries {
            hasher.update(&entry.checksum.to_le_bytes());
        }
    }
    short(&hasher)
}

fn feed_context(hasher: &mut blake3::Hasher, context: &CausalContext) {
    for (lane, counters) in context.lanes() {
        hasher.update(lane.actor().node.as_bytes());
        for range in counters.ranges() {
            hasher.update(&range.start().to_le_bytes());
            hasher.update(&range.end().to_le_bytes());
        }
    }
    hasher.update(&[0xff]);
}

fn short(hasher: &blake3::Hasher) -> Fingerprint {
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Bounds = Bounds { nodes: 3, keys: 2, writes: 3, sends: 2, collections: 0 };
    const COLLECTING: Bounds = Bounds { keys: 1, writes: 3, collections: 1, ..SMALL };

    fn steps(report: &Report) -> String {
        let Some((what, way)) = &report.broken else { return String::new() };
        let way: Vec<String> = way.iter().map(ToString::to_string).collect();
        format!("{what}: {}", way.join(", "))
    }

    #[test]
    fn nothing_that_three_nodes_and_two_keys_can_do_makes_them_differ() {
        let report = explore(SMALL, Carrier::Honest);
        assert_eq!(steps(&report), "");
        assert!(report.states > 10_000, "{report:?}");
    }

    #[test]
    fn removals_may_be_let_go_at_any_moment() {
        let report = explore(COLLECTING, Carrier::Honest);
        assert_eq!(steps(&report), "");
        assert!(report.states > 5_000, "{report:?}");
    }

    #[test]
    fn floors_that_are_not_inherited_are_found() {
        let report = explore(COLLECTING, Carrier::WithoutFloors);
        let (_, way) = report.broken.as_ref().expect("what was removed comes back or stays");
        assert!(way.iter().any(|step| matches!(step, Step::Collect(_))), "{}", steps(&report));
    }

    #[test]
    fn the_search_is_the_same_every_time() {
        let bounds = Bounds { writes: 2, ..SMALL };
        let (one, same) = (explore(bounds, Carrier::Honest), explore(bounds, Carrier::Honest));
        assert_eq!((one.states, one.steps, one.depth), (same.states, same.steps, same.depth));
    }

    #[test]
    fn a_removal_that_does_not_travel_is_found_by_a_shortest_way() {
        let report = explore(SMALL, Carrier::LosesRemovals);
        let (_, way) = report.broken.as_ref().expect("a value comes back or stays");
        assert!(way.len() <= 6, "{}", steps(&report));
        assert!(way.iter().any(|step| matches!(step, Step::Unset(..))), "{}", steps(&report));
    }

    #[test]
    fn a_part_that_claims_to_be_all_is_found() {
        let report = explore(SMALL, Carrier::ClaimsTooMuch);
        let (_, way) = report.broken.as_ref().expect("something is taken for seen that never came");
        assert!(way.iter().any(|step| matches!(step, Step::Send(_, _, Extent::Least))), "{}", steps(&report));
    }
}
