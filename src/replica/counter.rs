//! Counters: what all nodes have added and taken away, each counted once.
//!
//! ```text
//! sum/<scope>/<name>/<node id>     what that node has added and taken away
//! ```
//!
//! Each node writes a sub-key of its own, so that no increment is ever concurrent with another one of the same sub-key,
//! and the value of the counter is the sum over the nodes. Increments coalesce: what travels is what a node has counted
//! so far, once, however often it has counted.
//!
//! **Lives.** A node may come back without what it had counted, or with an old copy of it, and count on before it hears
//! of the rest. Therefore its value tells its lives apart: what one life has counted only grows, so that the greater of
//! two accounts of one life is the later one, and siblings of a sub-key are joined life by life. Nothing is lost and
//! nothing is counted twice (decision 0005).

use std::collections::{BTreeMap, BTreeSet};

use crdts::CvRDT;

use super::{AttributeKey, Path, Prepared, Replica, WriteError};
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{Entry, Item, Key, Register, Store, Value};
use crate::id::{Generation, NodeId};
use crate::time::UnixMillis;

/// How many lives of a node a counter tells apart; older ones are added together.
const MAX_LIVES: usize = 1_024;

/// How many of those that are retired it goes on telling apart.
const MAX_RETIRED_LIVES: usize = 4;

/// What somebody has added and taken away; neither ever shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    plus: u64,
    minus: u64,
}

impl Sum {
    fn total(self) -> i128 {
        i128::from(self.plus) - i128::from(self.minus)
    }

    /// The later of two accounts of the same thing.
    fn later(self, other: Self) -> Self {
        Self { plus: self.plus.max(other.plus), minus: self.minus.max(other.minus) }
    }

    fn plus(self, by: i64) -> Option<Self> {
        Some(if by >= 0 {
            Self { plus: self.plus.checked_add(by.unsigned_abs())?, ..self }
        } else {
            Self { minus: self.minus.checked_add(by.unsigned_abs())?, ..self }
        })
    }
}

/// What one node has counted, life by life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Tally {
    /// The lives up to this one, added together when they had become too many.
    folded: Option<(Generation, Sum)>,
    /// Those after it.
    lives: BTreeMap<Generation, Sum>,
}

impl Tally {
    fn total(&self) -> i128 {
        let folded = self.folded.map_or(0, |(_, sum)| sum.total());
        folded + self.lives.values().map(|sum| sum.total()).sum::<i128>()
    }

    /// Adds to what a life has counted; nothing if it cannot count that far.
    fn count(&mut self, life: Generation, by: i64) -> Option<()> {
        let sum = self.lives.entry(life).or_default();
        *sum = sum.plus(by)?;
        while self.lives.len() > MAX_LIVES {
            self.fold_oldest();
        }
        Some(())
    }

    fn fold_oldest(&mut self) {
        let Some((oldest, sum)) = self.lives.pop_first() else { return };
        let before = self.folded.map_or_else(Sum::default, |(_, folded)| folded);
        let plus = before.plus.saturating_add(sum.plus);
        self.folded = Some((oldest, Sum { plus, minus: before.minus.saturating_add(sum.minus) }));
    }

    /// Adds the lives up to one together, but for the last few of them: somebody who was away may know more of these.
    fn fold(&mut self, retired: Generation) {
        while self.lives.range(..=retired).count() > MAX_RETIRED_LIVES {
            self.fold_oldest();
        }
    }

    fn to_value(&self) -> Value {
        let mut writer = Writer::new();
        let mut put = |life: Generation, sum: Sum| {
            writer.varint(life.0);
            writer.varint(sum.plus);
            writer.varint(sum.minus);
        };
        // What is folded comes first, under the number before which there is no life of its own.
        let (life, sum) = self.folded.unwrap_or_else(|| (Generation(0), Sum::default()));
        put(life, sum);
        for (life, sum) in &self.lives {
            put(*life, *sum);
        }
        Value::try_from(&writer.finish()[..]).expect("so many lives are far below a value's limit")
    }

    fn of_value(value: &Value) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value.as_bytes());
        let mut read = || {
            let (life, plus, minus) = (reader.varint()?, reader.varint()?, reader.varint()?);
            Ok::<_, Malformed>(((Generation(life), Sum { plus, minus }), reader.remaining()))
        };
        let (folded, mut left) = read()?;
        let mut lives = BTreeMap::new();
        let mut last = folded.0;
        while left > 0 {
            let ((life, sum), remaining) = read()?;
            if life <= last || lives.len() >= MAX_LIVES {
                return Err(Malformed::NotCanonical);
            }
            lives.insert(life, sum);
            (last, left) = (life, remaining);
        }
        let folded = (folded != (Generation(0), Sum::default())).then_some(folded);
        Ok(Self { folded, lives })
    }
}

/// The later account of each life; of two foldings the one that reaches further.
impl CvRDT for Tally {
    type Validation = std::convert::Infallible;

    fn validate_merge(&self, _: &Self) -> Result<(), Self::Validation> {
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        for (life, sum) in other.lives {
            let own = self.lives.entry(life).or_default();
            *own = own.later(sum);
        }
        self.folded = match (self.folded, other.folded) {
            (Some((life, sum)), Some((other_life, other))) if life == other_life => {
                Some((life, sum.later(other)))
            }
            (one, other) if other.map(|(life, _)| life) > one.map(|(life, _)| life) => other,
            (one, _) => one,
        };
        if let Some((reached, _)) = self.folded {
            self.lives.retain(|life, _| *life > reached);
        }
    }
}

/// What several entries of one share say together.
pub(super) fn joined(entries: &[&Entry]) -> Option<Value> {
    let said = entries.iter().filter_map(|entry| Tally::of_value(entry.value.as_ref()?).ok());
    let joined = said.reduce(|mut joined, said| {
        joined.merge(said);
        joined
    });
    joined.map(|joined| joined.to_value())
}

/// The shares that others have written anew: they read otherwise as soon as a life turns out to be over.
#[derive(Debug, Clone, Default)]
pub(super) struct Foreign {
    shares: BTreeMap<NodeId, Shares>,
    /// What this node had counted itself when another one wrote there, until it counts on: of a life that goes on nobody
    /// else is believed, and yet what the other wrote may have taken the place of the node's own.
    own: BTreeMap<Key, Tally>,
}

#[derive(Debug, Clone, Default)]
struct Shares {
    keys: BTreeSet<Key>,
    /// The node's latest life and up to which they are retired, as it was known when they were read last.
    read_at: Option<(Option<Generation>, Generation)>,
}

impl Foreign {
    /// Notes what others have written among what was merged.
    pub(super) fn note(&mut self, items: &[Item]) {
        for item in items.iter().filter(|item| item.key.as_str().starts_with("sum/")) {
            if let Some(Path::Counter { node, .. }) = Path::of(&item.key)
                && item.entries.iter().any(|entry| entry.dot.lane.actor().node != node)
            {
                self.shares.entry(node).or_default().keys.insert(item.key.clone());
            }
        }
    }

    /// The keys that read otherwise, since of their nodes something is known that was not.
    pub(super) fn take_changed(&mut self, store: &Store) -> Vec<Key> {
        let mut changed = Vec::new();
        self.shares.retain(|node, shares| {
            let known = Some((store.generation(node), store.retired(node)));
            if std::mem::replace(&mut shares.read_at, known) != known {
                let is_foreign = |entry: &Entry| entry.dot.lane.actor().node != *node;
                let holds =
                    |key: &Key| store.register(key).is_some_and(|held| held.entries().iter().any(is_foreign));
                shares.keys.retain(holds);
                changed.extend(shares.keys.iter().cloned());
            }
            !shares.keys.is_empty()
        });
        changed
    }
}

impl Replica {
    /// What a node has counted, as far as it says so itself, and what others say of lives that are over: they write it anew
    /// when it would get lost. What else others wrote there, or what makes no sense, says nothing.
    fn tally(&self, node: NodeId, register: &Register) -> Tally {
        let latest = self.store().generation(&node).unwrap_or(Generation(0));
        let is_over = |life: Generation| life < latest || life <= self.store().retired(&node);
        let mut joined = Tally::default();
        for entry in register.values() {
            let said = entry.value.as_ref().and_then(|value| Tally::of_value(value).ok());
            let Some(mut said) = said else { continue };
            if entry.dot.lane.actor().node != node {
                said.lives.retain(|life, _| is_over(*life));
                said.folded = said.folded.filter(|(life, _)| is_over(*life));
            }
            joined.merge(said);
        }
        joined
    }
}

impl Replica {
    /// Remembers what this node has counted where others have written, before that takes effect.
    pub(super) fn keep_shares(&mut self, items: &[Item]) {
        let own = self.actor().node;
        for item in items.iter().filter(|item| item.key.as_str().starts_with("sum/")) {
            let is_foreign = |entry: &Entry| entry.dot.lane.actor().node != own;
            let is_own = matches!(Path::of(&item.key), Some(Path::Counter { node, .. }) if node == own);
            if is_own
                && item.entries.iter().any(is_foreign)
                && let Some(register) = self.store().register(&item.key)
            {
                let tally = self.tally(own, &register);
                self.foreign.own.entry(item.key.clone()).or_default().merge(tally);
            }
        }
    }

    /// Adds to a counter, or takes away. Nothing if `by` is zero.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing was counted.
    pub fn increment(
        &mut self,
        wall: UnixMillis,
        key: &AttributeKey,
        by: i64,
    ) -> Result<Option<Prepared>, WriteError> {
        if by == 0 {
            return Ok(None);
        }
        let actor = self.actor();
        let path = Path::Counter { counter: key.clone(), node: actor.node };
        let at = path.to_key();
        let mut own =
            self.store().register(&at).map(|register| self.tally(actor.node, &register)).unwrap_or_default();
        // What is on its way to the disk counts already.
        if let Some(unsettled) = self.unsettled_value(&at).and_then(|value| Tally::of_value(value).ok()) {
            own.merge(unsettled);
        }
        if let Some(kept) = self.foreign.own.get(&at) {
            own.merge(kept.clone());
        }
        own.count(actor.generation, by).ok_or(WriteError::Overflow)?;
        self.foreign.own.remove(&at);
        own.fold(self.store().retired(&actor.node));
        self.prepare(wall, &path, Some(own.to_value()))
    }

    /// The value of a counter; nothing if nobody has counted.
    pub fn counter(&self, key: &AttributeKey) -> Option<i128> {
        let prefix = Path::counts_of(key);
        let mut value = None;
        for row in self.store().prefix(&prefix) {
            if let Some(Path::Counter { counter, node }) = Path::of(&row.key())
                && counter == *key
                && !row.is_removed()
            {
                *value.get_or_insert(0) += self.tally(node, &row.register()).total();
            }
        }
        value
    }

    /// The counters whose full names begin with `prefix`, by name. The empty prefix gives all.
    pub fn counters(&self, prefix: &str) -> BTreeMap<AttributeKey, i128> {
        let mut counters = BTreeMap::new();
        let keys = format!("sum/{prefix}");
        for row in self.store().prefix(&keys) {
            if let Some(Path::Counter { counter, node }) = Path::of(&row.key())
                && !row.is_removed()
                && counter.to_string().starts_with(prefix)
            {
                *counters.entry(counter).or_default() += self.tally(node, &row.register()).total();
            }
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use crdts::{CmRDT, PNCounter};
    use proptest::prelude::*;

    use super::super::state::tests::{MAX_DRIFT, key, replica, settle, sync};
    use super::*;
    use crate::crdt::laws;
    use crate::id::Actor;

    const WALL: UnixMillis = UnixMillis(1_000);

    fn count(replica: &mut Replica, by: i64) {
        let prepared = replica.increment(WALL, &key("mesh/hits"), by).unwrap();
        settle(replica, prepared);
    }

    fn hits(replica: &Replica) -> Option<i128> {
        replica.counter(&key("mesh/hits"))
    }

    fn tallies() -> impl Strategy<Value = Tally> {
        let sum = || (0u64..9, 0u64..9).prop_map(|(plus, minus)| Sum { plus, minus });
        let folded = prop::option::of((0u64..4, sum()));
        (folded, prop::collection::btree_map(0u64..6, sum(), 0..4)).prop_map(|(folded, lives)| {
            let folded = folded.map(|(life, sum)| (Generation(life), sum));
            let reached = folded.map_or(0, |(life, _)| life.0 + 1);
            let lives = lives.into_iter().filter(|(life, _)| *life >= reached.max(1));
            let folded = folded.filter(|folded| *folded != (Generation(0), Sum::default()));
            Tally { folded, lives: lives.map(|(life, sum)| (Generation(life), sum)).collect() }
        })
    }

    /// What happens to a mesh of three nodes.
    #[derive(Debug, Clone)]
    enum Step {
        Count(usize, i64),
        Sync(usize, usize),
        /// The node starts again with all it had.
        Restart(usize),
        /// With nothing.
        Lose(usize),
        /// With the copy that was made last.
        Restore(usize),
        Copy(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let node = || 0usize..3;
        let step = prop_oneof![
            6 => (node(), -5i64..9).prop_map(|(node, by)| Step::Count(node, by)),
            6 => (node(), node()).prop_map(|(from, to)| Step::Sync(from, to)),
            1 => node().prop_map(Step::Restart),
            1 => node().prop_map(Step::Lose),
            1 => node().prop_map(Step::Restore),
            1 => node().prop_map(Step::Copy),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// A node, and beside it `crdts`' own counter, whose actors are the lives.
    #[derive(Debug)]
    struct Pair {
        ours: Replica,
        theirs: PNCounter<Actor>,
        copy: Option<(Replica, PNCounter<Actor>)>,
    }

    /// Another replica with the same state, in another life.
    fn again(of: &Replica, generation: u64) -> Replica {
        let node = of.actor().node;
        let mut again = Replica::new(Actor { node, generation: Generation(generation) }, MAX_DRIFT);
        sync(of, &mut again);
        again
    }

    proptest! {
        /// FEATURES P9.
        #[test]
        fn joining_tallies_obeys_the_laws(a in tallies(), b in tallies(), c in tallies()) {
            laws::join_semilattice(&a, &b, &c);
            prop_assert_eq!(Tally::of_value(&a.to_value()), Ok(a));
        }

        /// FEATURES P9, B6. The oracle is `crdts::PNCounter`, which knows nothing of lives and disks.
        #[test]
        fn counters_agree_with_the_oracle_through_restarts_lost_disks_and_old_copies(steps in steps()) {
            let new = |node: u8| Pair { ours: replica(node + 1, 1), theirs: PNCounter::new(), copy: None };
            let mut nodes = [new(0), new(1), new(2)];
            let mut generation = 1;
            for step in steps {
                generation += 1;
                match step {
                    Step::Count(node, by) => {
                        let Pair { ours, theirs, .. } = &mut nodes[node];
                        count(ours, by);
                        let (actor, steps) = (ours.actor(), by.unsigned_abs());
                        let op = if by < 0 { theirs.dec_many(actor, steps) } else { theirs.inc_many(actor, steps) };
                        theirs.apply(op);
                    }
                    Step::Sync(from, to) if from != to => {
                        let [from, to] = nodes.get_disjoint_mut([from, to]).unwrap();
                        sync(&from.ours, &mut to.ours);
                        to.theirs.merge(from.theirs.clone());
                    }
                    Step::Sync(..) => {}
                    Step::Restart(node) => nodes[node].ours = again(&nodes[node].ours, generation),
                    Step::Lose(node) => {
                        let actor = Actor { generation: Generation(generation), ..nodes[node].ours.actor() };
                        nodes[node].ours = Replica::new(actor, MAX_DRIFT);
                        nodes[node].theirs = PNCounter::new();
                    }
                    Step::Restore(node) => if let Some((ours, theirs)) = &nodes[node].copy {
                        (nodes[node].ours, nodes[node].theirs) = (again(ours, generation), theirs.clone());
                    },
                    Step::Copy(node) => {
                        let Pair { ours, theirs, copy } = &mut nodes[node];
                        *copy = Some((again(ours, ours.actor().generation.0), theirs.clone()));
                    }
                }
                for Pair { ours, theirs, .. } in &nodes {
                    prop_assert_eq!(hits(ours).unwrap_or(0).to_string(), theirs.read().to_string());
                }
            }
        }
    }

    /// FEATURES P9.
    #[test]
    fn a_thousand_increments_travel_as_one_item() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        assert_eq!(hits(&a), None);
        for _ in 0..1_000 {
            count(&mut a, 1);
        }
        let context = a.store().context();
        let delta = a.store().delta(context.lanes().map(|(lane, _)| lane), &b.store().context(), usize::MAX);
        assert_eq!((delta.items.len(), delta.items[0].entries.len()), (1, 1));
        b.merge(WALL, &delta).unwrap();
        count(&mut b, -1);
        assert_eq!(hits(&b), Some(999));
        assert_eq!(a.increment(WALL, &key("mesh/hits"), 0), Ok(None));
    }

    #[test]
    fn increments_on_their_way_to_the_disk_add_up() {
        let mut a = replica(1, 1);
        let first = a.increment(WALL, &key("mesh/hits"), 2).unwrap();
        let second = a.increment(WALL, &key("mesh/hits"), 3).unwrap();
        assert_eq!(hits(&a), None);
        settle(&mut a, first);
        assert_eq!(hits(&a), Some(2));
        settle(&mut a, second);
        assert_eq!(hits(&a), Some(5));
    }

    #[test]
    fn what_another_node_writes_into_ones_share_does_not_count() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        count(&mut a, 5);
        sync(&a, &mut b);
        let mut forged = Tally::default();
        forged.count(Generation(1), 1_000).unwrap();
        let path = Path::Counter { counter: key("mesh/hits"), node: a.actor().node };
        let prepared = b.prepare(WALL, &path, Some(forged.to_value())).unwrap();
        settle(&mut b, prepared);
        sync(&b, &mut a);
        count(&mut a, 1);
        // The forger has superseded what was there; its owner still knows what it had counted.
        assert_eq!(hits(&a), Some(6));
    }

    /// One node has counted; another has seen it and heard from a third, who has not, that the first is dead. Gives both, and
    /// what the second writes anew.
    fn saved_by_another(by: i64) -> (Replica, Replica, Vec<Prepared>) {
        let (mut a, mut b, mut c) = (replica(1, 1), replica(2, 1), replica(3, 1));
        let node = a.actor().node;
        let prepared = a.publish(WALL, &crate::replica::NodeRecord::default()).unwrap();
        settle(&mut a, prepared);
        for replica in [&mut b, &mut c] {
            sync(&a, replica);
        }
        count(&mut a, by);
        sync(&a, &mut b);
        let said = c.testify(WALL, node, Generation(1)).unwrap();
        settle(&mut c, said);
        sync(&c, &mut b);
        let saved = b.save(WALL, node, usize::MAX).unwrap();
        (a, b, saved)
    }

    /// A node that was cut off is evicted and counts on before it hears of that; but what it had counted, which a witness had
    /// not seen, comes back to it written anew by another.
    #[test]
    fn a_node_that_counts_on_before_it_hears_that_it_is_dead_keeps_what_it_had_counted() {
        let (mut a, mut b, saved) = saved_by_another(3);
        for prepared in &saved {
            settle(&mut b, Some(prepared.clone()));
            a.merge(WALL, &prepared.delta).unwrap();
        }
        count(&mut a, 8);
        sync(&b, &mut a);
        assert_eq!(a.is_accused(), Some(Generation(1)));
        a.rebirth(Generation(2));
        let prepared = a.publish(WALL, &crate::replica::NodeRecord::default()).unwrap();
        settle(&mut a, prepared);
        assert_eq!(hits(&a), Some(11));
    }

    /// Somebody writes anew what a life had counted last, and is heard of before that the life is over is.
    #[test]
    fn a_share_that_counts_from_now_on_is_told_as_a_change() {
        let (_, mut b, saved) = saved_by_another(8);
        settle(&mut b, saved.into_iter().next());
        let mut d = replica(4, 1);
        let delta = b.store().delta([b.own_lanes()[1]], &d.store().context(), usize::MAX);
        d.merge(WALL, &delta).unwrap();
        d.take_changed();
        assert_eq!(hits(&d), Some(0), "nobody says that this life is over");
        let learnt = b.store().reconciliation(d.store());
        d.reconcile(WALL, &learnt).unwrap();
        assert_eq!(hits(&d), Some(8));
        let counter = |path: &Path| matches!(path, Path::Counter { .. });
        assert!(d.take_changed().iter().any(counter));
    }

    #[test]
    fn counters_of_names_within_each_other_are_apart_and_listed_by_prefix() {
        let mut a = replica(1, 1);
        for (name, by) in [("mesh/a", 1), ("mesh/a/b", 2), ("mesh/ab", 3), ("tunnel/web/a", 4)] {
            let prepared = a.increment(WALL, &key(name), by).unwrap();
            settle(&mut a, prepared);
        }
        assert_eq!(a.counter(&key("mesh/a")), Some(1));
        assert_eq!(a.counter(&key("mesh/a/b")), Some(2));
        let list = |prefix| {
            let list = a.counters(prefix).into_iter();
            list.map(|(key, value)| (key.to_string(), value)).collect::<Vec<_>>()
        };
        assert_eq!(list("mesh/a/"), [("mesh/a/b".to_owned(), 2)]);
        assert_eq!(list("").len(), 4);
        // A prefix is one of names, not of what lies below them.
        let node = a.actor().node.to_string();
        assert_eq!(list(&format!("mesh/a/{}", &node[..3])), []);
    }

    #[test]
    fn more_lives_than_are_told_apart_are_added_together_and_lose_nothing() {
        let mut tally = Tally::default();
        for life in 1..=MAX_LIVES as u64 + 10 {
            tally.count(Generation(life), 1).unwrap();
        }
        assert_eq!((tally.lives.len(), tally.total()), (MAX_LIVES, MAX_LIVES as i128 + 10));
        assert_eq!(Tally::of_value(&tally.to_value()), Ok(tally));
    }

    #[test]
    fn a_counter_that_cannot_count_that_far_says_so() {
        let mut a = replica(1, 1);
        for _ in 0..2 {
            count(&mut a, i64::MAX);
        }
        count(&mut a, 1);
        assert_eq!(a.increment(WALL, &key("mesh/hits"), 1), Err(WriteError::Overflow));
        assert_eq!(hits(&a), Some(i128::from(u64::MAX)));
        count(&mut a, i64::MIN);
        assert_eq!(hits(&a), Some(i128::from(u64::MAX) + i128::from(i64::MIN)));
    }
}
