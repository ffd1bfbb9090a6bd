//! The replica: a store with an author and a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::counter::Foreign;
use super::retirement::Pending;
use super::{AttributeKey, Attributes, NodeRecord, Path};
use crate::crdt::{
    CausalContext, Class, Corrupt, Delta, Dot, Entry, Item, Key, Lane, Notary, Observed, RangeSet,
    Reconciliation, Removal, Row, Store, Value,
};
use crate::id::{Actor, Generation, NodeId, TunnelId, TunnelName};
use crate::time::{Exhausted, Hlc, Timestamp, UnixMillis};

/// One node's copy of the replicated state, and its pen.
///
/// **Writing** has two steps, so that nobody sees a write that could be lost: a command such as [`set`](Self::set) makes
/// it, names it and orders it after all earlier ones; [`merge`](Self::merge) lets it take effect, once it is
/// as durable as its author wants it. Prepared writes must all be merged, in the order in which they were made.
#[derive(Debug, Clone)]
pub struct Replica {
    actor: Actor,
    registry: Lane,
    attribute: Lane,
    clock: Hlc,
    pub(super) store: Store,
    /// What was testified of lives that are over and has not taken effect.
    pub(super) pending: Pending,
    pub(super) foreign: Foreign,
    /// The counter of the last prepared write, per class.
    prepared: [u64; 2],
    /// The last write of each key that was prepared and not merged yet.
    unsettled: BTreeMap<Key, Unsettled>,
}

#[derive(Debug, Clone)]
struct Unsettled {
    dot: Dot,
    stamp: Timestamp,
    value: Option<Value>,
    observed: Observed,
}

/// A write that waits to take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its name.
    pub dot: Dot,
    /// What to merge, here and elsewhere.
    pub delta: Delta,
}

/// Why a write was refused. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The value to be replaced bears a stamp at the end of time: somebody's clock, or somebody's malice.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// This node's wall clock is off against those of most of its peers: it is to be set right.
    #[error(
        "this node's clock is {} ms {} the clocks of most nodes that it is linked with; set it right",
        ahead.unsigned_abs(),
        if *ahead < 0 { "behind" } else { "ahead of" }
    )]
    ClockOff {
        /// By how many milliseconds it is ahead; negative if it is behind.
        ahead: i64,
    },
    /// This node writes faster than the mesh has agreed to take: for longer than a burst lasts.
    #[error("too much is written here; try again in {} ms", retry_after.as_millis().max(1))]
    Busy {
        /// After what time there is room for a write, if nobody else takes it.
        retry_after: Duration,
    },
    /// This node does not hold a registration of that name.
    #[error("this node holds no such registration")]
    NotHeld,
    /// Entries are sealed, and nobody can prove of another node that a life of it is over.
    #[error("no node is forgotten in a mesh whose entries are sealed")]
    Sealed,
    /// A node that is to be forgotten can be reached.
    #[error("that node is there; stop it first")]
    Alive,
    /// What this node has added to the counter, or taken away, would be above 2^64 - 1.
    #[error("the counter cannot count that far")]
    Overflow,
}

impl Replica {
    /// An empty replica, written by `actor`, whose clock peers may push at most `max_drift` ahead.
    pub fn new(actor: Actor, max_drift: Duration) -> Self {
        Self {
            actor,
            registry: Lane::new(actor, Class::Registry),
            attribute: Lane::new(actor, Class::Attribute),
            clock: Hlc::new(max_drift),
            store: Store::new(),
            prepared: [0; 2],
            pending: Pending::default(),
            foreign: Foreign::default(),
            unsettled: BTreeMap::new(),
        }
    }

    /// The same, while it is empty, with a store whose table of keys is arranged by a number that nobody else knows: see
    /// [`Store::seeded`].
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        if self.store.is_empty() { Self { store: Store::seeded(seed), ..self } } else { self }
    }

    /// The same, while it is empty, in a mesh where entries are believed under their authors' seals only: see
    /// [`Store::sealed`].
    #[must_use]
    pub fn sealed(self, notary: Arc<dyn Notary>) -> Self {
        Self { store: self.store.sealed(notary), ..self }
    }

    /// Whether entries are believed under their authors' seals only.
    pub fn is_sealed(&self) -> bool {
        self.store.is_sealed()
    }

    /// Seals what took effect of this replica's writes since the last time: before any of it is told to anybody.
    pub fn seal(&mut self) {
        self.store.seal();
    }

    /// Who writes here.
    pub fn actor(&self) -> Actor {
        self.actor
    }

    /// The state itself.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The last reading of its clock.
    pub fn last_stamp(&self) -> Timestamp {
        self.clock.last()
    }

    /// The sequences that this replica writes.
    pub fn own_lanes(&self) -> [&Lane; 2] {
        [&self.registry, &self.attribute]
    }

    /// Goes on writing as a later life of the node: what it said of itself in the earlier one becomes void
    /// with the first write of the new one.
    ///
    /// Writes that were prepared and not merged stay those of the earlier life; what they said of it is to be
    /// said again.
    pub fn rebirth(&mut self, generation: Generation) {
        self.actor.generation = generation;
        self.registry = Lane::new(self.actor, Class::Registry);
        self.attribute = Lane::new(self.actor, Class::Attribute);
        self.prepared = [0; 2];
        self.unsettled.retain(|_, unsettled| unsettled.dot.lane.class() != Class::Registry);
    }

    /// Sets an attribute. Nothing if it has that value and no siblings already.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn set(
        &mut self,
        wall: UnixMillis,
        key: &AttributeKey,
        value: Value,
    ) -> Result<Option<Prepared>, WriteError> {
        self.prepare_at(wall, key.to_key(), Class::Attribute, Some(value))
    }

    /// Removes an attribute, siblings included. Nothing if it is not set.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn unset(&mut self, wall: UnixMillis, key: &AttributeKey) -> Result<Option<Prepared>, WriteError> {
        self.prepare_at(wall, key.to_key(), Class::Attribute, None)
    }

    /// Registers a tunnel that this node holds.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn register(
        &mut self,
        wall: UnixMillis,
        name: &TunnelName,
        tunnel: TunnelId,
        attributes: &Attributes,
    ) -> Result<Option<Prepared>, WriteError> {
        self.prepare(wall, &Path::Registration { name: name.clone(), tunnel }, Some(attributes.to_value()))
    }

    /// Takes back what this node, in this life, has registered there, and nothing else. Nothing if it has not.
    ///
    /// # Errors
    ///
    /// [`WriteError::NotHeld`] if only others have.
    pub fn deregister(
        &mut self,
        wall: UnixMillis,
        name: &TunnelName,
        tunnel: TunnelId,
    ) -> Result<Option<Prepared>, WriteError> {
        let path = Path::Registration { name: name.clone(), tunnel };
        let (key, own) = (path.to_key(), self.registry.clone());
        let is_own = |entry: &Entry| entry.dot.lane == own;
        let register = self.store.register(&key);
        let observed = match (self.unsettled.get(&key), register) {
            (Some(unsettled), _) if unsettled.value.is_some() => unsettled.observed.clone(),
            (Some(_), _) | (None, None) => return Ok(None),
            (None, Some(register)) if register.values().into_iter().any(is_own) => {
                register.observed_in(&own, is_own)
            }
            (None, Some(register)) if register.winner().is_some() => return Err(WriteError::NotHeld),
            (None, Some(_)) => return Ok(None),
        };
        let settled = self.settled(self.store.row(&key));
        self.write(wall, key, own, settled, (observed, None)).map(Some)
    }

    /// Takes back what this node registered there in an earlier life, now that it is heard of again: nobody
    /// else may. Nothing if there is no such thing.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn disown(
        &mut self,
        wall: UnixMillis,
        name: &TunnelName,
        tunnel: TunnelId,
    ) -> Result<Option<Prepared>, WriteError> {
        let path = Path::Registration { name: name.clone(), tunnel };
        let key = path.to_key();
        let Some(register) = self.store.register(&key) else { return Ok(None) };
        let (node, own) = (self.actor.node, self.registry.clone());
        let is_stale = |entry: &Entry| entry.dot.lane.actor().node == node && entry.dot.lane != own;
        let stale = register.values().into_iter().any(is_stale);
        if !stale
            || self.unsettled.contains_key(&key)
            || register.entries().iter().any(|entry| entry.dot.lane == own)
        {
            return Ok(None);
        }
        let observed = register.observed_in(&own, is_stale);
        let settled = self.settled(self.store.row(&key));
        self.write(wall, key, own, settled, (observed, None)).map(Some)
    }

    /// Says that a node's key is not to be believed. Nothing if that was said in the very same words.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn revoke(
        &mut self,
        wall: UnixMillis,
        node: NodeId,
        proof: Value,
    ) -> Result<Option<Prepared>, WriteError> {
        self.prepare(wall, &Path::Revocation(node), Some(proof))
    }

    /// Says who may expose and connect what. Nothing if that was said in the very same words.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn decree(&mut self, wall: UnixMillis, policy: Value) -> Result<Option<Prepared>, WriteError> {
        self.prepare(wall, &Path::Policy, Some(policy))
    }

    /// Says what this node wants to be known of itself.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exhausted`].
    pub fn publish(&mut self, wall: UnixMillis, record: &NodeRecord) -> Result<Option<Prepared>, WriteError> {
        self.prepare(wall, &Path::Node(self.actor.node), Some(record.to_value()))
    }

    /// What this node has written to a key last, while that is not settled.
    pub(super) fn unsettled_value(&self, key: &Key) -> Option<&Value> {
        self.unsettled.get(key)?.value.as_ref()
    }

    /// Whether a write of this node to a key is not settled yet.
    pub(super) fn is_unsettled(&self, key: &Key) -> bool {
        self.unsettled.contains_key(key)
    }

    pub(super) fn prepare(
        &mut self,
        wall: UnixMillis,
        path: &Path,
        value: Option<Value>,
    ) -> Result<Option<Prepared>, WriteError> {
        self.prepare_at(wall, path.to_key(), path.class(), value)
    }

    fn prepare_at(
        &mut self,
        wall: UnixMillis,
        key: Key,
        class: Class,
        value: Option<Value>,
    ) -> Result<Option<Prepared>, WriteError> {
        let lane = self.lane(class);
        let register = self.store.row(&key);
        let changes = match (self.unsettled.get(&key), register) {
            (Some(unsettled), _) => unsettled.value != value,
            // A record of an earlier life must be written again, be it the same.
            (None, Some(register)) if class == Class::Registry && value.is_some() => {
                register.would_change(value.as_ref())
                    || register.register().winner().is_some_and(|entry| entry.dot.lane != lane)
            }
            (None, Some(register)) => register.would_change(value.as_ref()),
            (None, None) => value.is_some(),
        };
        if !changes {
            return Ok(None);
        }
        let settled = self.settled(register);
        let observed = register.map(|register| register.observed_by(&lane)).unwrap_or_default();
        let observed = match self.unsettled.get(&key) {
            // What the write before has seen, this one has seen, whatever became of it since.
            Some(unsettled) => {
                let before = unsettled.observed.iter().filter(|(seen, _)| *seen != lane);
                Observed::new(observed.iter().chain(before).cloned())
            }
            None => observed,
        };
        self.write(wall, key, lane, settled, (observed, value)).map(Some)
    }

    /// The stamp that a write of a key has to come after: what was removed and collected is to be outlived too, if it may
    /// have been on this key.
    pub(super) fn settled(&self, row: Option<Row<'_>>) -> Timestamp {
        row.map_or_else(|| self.store.horizon(), |row| row.stamp())
    }

    pub(super) fn write(
        &mut self,
        wall: UnixMillis,
        key: Key,
        lane: Lane,
        settled: Timestamp,
        (observed, value): (Observed, Option<Value>),
    ) -> Result<Prepared, WriteError> {
        let unsettled = self.unsettled.get(&key).map(|unsettled| unsettled.stamp).unwrap_or_default();
        let stamp = self.clock.tick(wall, settled.max(unsettled))?;
        Ok(self.write_at(stamp, key, lane, &observed, value))
    }

    /// Makes a write that bears a given stamp.
    pub(super) fn write_at(
        &mut self,
        stamp: Timestamp,
        key: Key,
        lane: Lane,
        observed: &Observed,
        value: Option<Value>,
    ) -> Prepared {
        // What says that this life is over is no news to it, and nothing that it writes is part of that.
        let seen = observed.iter().filter(|(seen, _)| !seen.buries(&lane)).cloned();
        let observed = self.store.compact(Observed::new(seen));
        let seen = self.store.seen_of(&lane).and_then(RangeSet::last).unwrap_or(0);
        let prepared = &mut self.prepared[lane.class() as usize];
        let counter = seen.max(*prepared) + 1;
        *prepared = counter;
        let dot = lane.dot(counter);
        let unsettled =
            Unsettled { dot: dot.clone(), stamp, value: value.clone(), observed: observed.clone() };
        self.unsettled.insert(key.clone(), unsettled);
        let entry = Entry::new(&key, dot.clone(), observed, stamp, value);
        let accounted = CausalContext::from_iter([(lane, RangeSet::from(counter..=counter))]);
        Prepared {
            dot,
            delta: Delta {
                accounted,
                items: vec![Item { key, entries: [entry].into_iter().collect() }],
                seals: Vec::new(),
            },
        }
    }

    /// Lets a delta take effect: an own prepared one, a peer's, or one from this node's earlier life.
    ///
    /// Returns how far ahead of this node's clock its stamps are beyond the bound: zero from a healthy peer.
    /// The clock follows up to the bound, and the merge never depends on it.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if an entry fails its checksum, or lacks the seal that it needs: the sender's fault; nothing was merged.
    pub fn merge(&mut self, wall: UnixMillis, delta: &Delta) -> Result<Duration, Corrupt> {
        self.keep_shares(&delta.items);
        self.store.merge(delta)?;
        Ok(self.settle(wall, &delta.items))
    }

    /// Lets take effect what this node had made durable. What it wrote itself and told to nobody has no seal yet.
    ///
    /// # Errors
    ///
    /// [`Corrupt`], as [`merge`](Self::merge); nothing was merged.
    pub fn restore(&mut self, wall: UnixMillis, delta: &Delta) -> Result<Duration, Corrupt> {
        if !self.is_sealed() {
            return self.merge(wall, delta);
        }
        let delta = self.store.seal_again(&self.actor.node, delta);
        self.merge(wall, &delta)
    }

    /// Lets a write take effect that this replica has prepared: its checksum was computed here and need not be again.
    pub fn merge_own(&mut self, wall: UnixMillis, delta: &Delta) {
        self.store.merge_own(delta);
        // An own stamp is never ahead of the own clock by more than what it had seen already was.
        self.settle(wall, &delta.items);
    }

    /// Agrees with another replica, as a whole. Returns what [`merge`](Self::merge) does.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if an entry fails its checksum: the sender's fault; nothing was merged.
    pub fn reconcile(&mut self, wall: UnixMillis, with: &Reconciliation) -> Result<Duration, Corrupt> {
        self.keep_shares(&with.delta.items);
        self.store.reconcile(with)?;
        Ok(self.settle(wall, &with.delta.items))
    }

    /// Lets removals go that are ripe, of up to `limit` that are looked at; says of which keys.
    ///
    /// None goes whose stamp the clock has not reached: writes that come after it bear a greater one, and should
    /// not have to reach ahead of the clock for that.
    pub fn collect(&mut self, limit: usize, mut is_ripe: impl FnMut(&Removal<'_>) -> bool) -> Vec<Key> {
        let now = self.clock.last();
        self.store.collect(limit, |removal| removal.stamp <= now && is_ripe(removal))
    }

    /// Lets the removals of some keys go again that were let go here before: what came after that was made and merged
    /// without them. Those that are not as far go later.
    pub fn collect_again(&mut self, keys: &[Key]) {
        let keys: BTreeSet<&Key> = keys.iter().collect();
        self.store.collect(usize::MAX, |removal| keys.contains(removal.key));
    }

    fn settle(&mut self, wall: UnixMillis, items: &[Item]) -> Duration {
        let mut latest = Timestamp::default();
        for item in items {
            latest = item.entries.iter().map(|entry| entry.stamp).max().unwrap_or_default().max(latest);
            if !self.unsettled.is_empty()
                && self.unsettled.get(&item.key).is_some_and(|unsettled| self.store.seen(&unsettled.dot))
            {
                self.unsettled.remove(&item.key);
            }
        }
        self.foreign.note(items);
        self.retire(items);
        self.clock.observe(wall, latest)
    }

    /// Lets its clock follow a reading of an earlier life. Returns how far that is beyond the bound.
    pub fn observe_clock(&mut self, wall: UnixMillis, last: Timestamp) -> Duration {
        self.clock.observe(wall, last)
    }

    /// The [pasts](Lane::past) that took the place of lanes since the last call.
    pub fn take_retired(&mut self) -> Vec<Lane> {
        self.store.take_retired()
    }

    /// Forgets what nothing names any more of lives that are over.
    pub fn forget_lanes(&mut self) {
        self.store.forget_lanes();
    }

    /// What the last merges changed, as far as this version knows what it means.
    pub fn take_changed(&mut self) -> Vec<Path> {
        let mut changed = self.store.take_changed();
        let also = self.foreign.take_changed(&self.store);
        if !also.is_empty() {
            changed.extend(also);
            changed.sort();
            changed.dedup();
        }
        changed.iter().filter_map(Path::of).collect()
    }

    fn lane(&self, class: Class) -> Lane {
        match class {
            Class::Registry => self.registry.clone(),
            Class::Attribute | Class::Past => self.attribute.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crate::id::NodeId;

    use super::*;

    const WALL: UnixMillis = UnixMillis(1_000);

    pub(in crate::replica) const MAX_DRIFT: Duration = Duration::from_secs(10);

    pub(in crate::replica) fn replica(node: u8, generation: u64) -> Replica {
        let actor = Actor { node: NodeId::from_bytes([node; 32]), generation: Generation(generation) };
        Replica::new(actor, MAX_DRIFT)
    }

    pub(in crate::replica) fn key(text: &str) -> AttributeKey {
        text.parse().unwrap()
    }

    pub(in crate::replica) fn value(text: &str) -> Value {
        text.as_bytes().try_into().unwrap()
    }

    pub(in crate::replica) fn settle(replica: &mut Replica, prepared: Option<Prepared>) -> Option<Dot> {
        let prepared = prepared?;
        replica.merge(WALL, &prepared.delta).unwrap();
        Some(prepared.dot)
    }

    pub(in crate::replica) fn sync(from: &Replica, to: &mut Replica) {
        let context = from.store().context();
        let delta =
            from.store().delta(context.lanes().map(|(lane, _)| lane), &to.store().context(), usize::MAX);
        to.merge(WALL, &delta).unwrap();
    }

    #[test]
    fn a_write_that_changes_nothing_makes_no_dot() {
        let mut a = replica(1, 1);
        let first = a.set(WALL, &key("mesh/x"), value("1")).unwrap();
        assert_eq!(settle(&mut a, first).unwrap().counter, 1);
        assert_eq!(a.set(WALL, &key("mesh/x"), value("1")).unwrap(), None);
        assert_eq!(a.unset(WALL, &key("mesh/y")).unwrap(), None);
        assert_eq!(a.store().seen_of(a.own_lanes()[1]).unwrap().last(), Some(1));
    }

    #[test]
    fn an_unsettled_write_is_invisible_and_ordered_before_the_next() {
        let mut a = replica(1, 1);
        let settled = a.set(WALL, &key("mesh/x"), value("old")).unwrap();
        settle(&mut a, settled);
        let new = a.set(WALL, &key("mesh/x"), value("new")).unwrap();
        assert_eq!(a.attribute(&key("mesh/x")).unwrap().value, value("old"));
        // Writing the old value again is a change, for the new one is on its way.
        let old = a.set(WALL, &key("mesh/x"), value("old")).unwrap();
        assert_eq!(a.set(WALL, &key("mesh/x"), value("old")).unwrap(), None);
        settle(&mut a, new);
        assert_eq!(a.attribute(&key("mesh/x")).unwrap().value, value("new"));
        assert_eq!(settle(&mut a, old).unwrap().counter, 3);
        let read = a.attribute(&key("mesh/x")).unwrap();
        assert_eq!((read.value, read.siblings.len()), (value("old"), 0));
    }

    /// FEATURES P9.
    #[test]
    fn concurrent_values_are_siblings_until_somebody_writes_over_them() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        for (replica, text) in [(&mut a, "a"), (&mut b, "b")] {
            let prepared = replica.set(WALL, &key("mesh/x"), value(text)).unwrap();
            settle(replica, prepared);
        }
        sync(&a, &mut b);
        sync(&b, &mut a);
        let read = a.attribute(&key("mesh/x")).unwrap();
        assert_eq!(Some(&read), b.attribute(&key("mesh/x")).as_ref());
        assert_eq!((read.value, read.siblings), (value("b"), vec![value("a")]));
        let prepared = a.set(WALL, &key("mesh/x"), value("b")).unwrap();
        settle(&mut a, prepared);
        sync(&a, &mut b);
        assert!(b.attribute(&key("mesh/x")).unwrap().siblings.is_empty());
    }

    /// FEATURES B1.
    #[test]
    fn the_last_named_wins_and_the_one_before_reappears() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        let name: TunnelName = "web".parse().unwrap();
        let prepared = a.register(UnixMillis(1), &name, TunnelId(1), &Attributes::default()).unwrap();
        settle(&mut a, prepared);
        let prepared = b.register(UnixMillis(2), &name, TunnelId(2), &Attributes::default()).unwrap();
        settle(&mut b, prepared);
        sync(&b, &mut a);
        sync(&a, &mut b);
        let found = a.registrations_of(&name);
        assert_eq!(found.iter().map(|found| found.tunnel).collect::<Vec<_>>(), [TunnelId(2), TunnelId(1)]);
        assert_eq!(a.deregister(WALL, &name, TunnelId(2)), Err(WriteError::NotHeld));

        let prepared = b.deregister(WALL, &name, TunnelId(2)).unwrap();
        settle(&mut b, prepared);
        sync(&b, &mut a);
        assert_eq!(a.registrations_of(&name).first().map(|found| found.tunnel), Some(TunnelId(1)));
        assert_eq!(b.deregister(WALL, &name, TunnelId(2)), Ok(None));
    }

    #[test]
    fn rebirth_voids_registrations_and_keeps_attributes() {
        let mut a = replica(1, 1);
        let name: TunnelName = "web".parse().unwrap();
        let prepared = a.register(WALL, &name, TunnelId(1), &Attributes::default()).unwrap();
        settle(&mut a, prepared);
        let prepared = a.set(WALL, &key("mesh/x"), value("1")).unwrap();
        settle(&mut a, prepared);
        a.rebirth(Generation(2));
        let prepared = a.publish(WALL, &NodeRecord::default()).unwrap();
        settle(&mut a, prepared);
        assert!(a.registrations_of(&name).is_empty());
        assert!(a.attribute(&key("mesh/x")).is_some());
        let prepared = a.register(WALL, &name, TunnelId(1), &Attributes::default()).unwrap();
        assert_eq!(settle(&mut a, prepared).unwrap().lane.actor().generation, Generation(2));
        assert_eq!(a.registrations_of(&name).len(), 1);
    }

    #[test]
    fn a_record_that_another_node_wrote_says_nothing() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        let forged = Path::Node(a.actor().node);
        let prepared = b.prepare(WALL, &forged, Some(NodeRecord::default().to_value())).unwrap();
        settle(&mut b, prepared);
        sync(&b, &mut a);
        assert_eq!(a.nodes().count(), 0);
        let prepared = a.publish(WALL, &NodeRecord::default()).unwrap();
        settle(&mut a, prepared);
        assert_eq!(a.node(&a.actor().node).unwrap().generation, Generation(1));
    }

    #[test]
    fn a_peer_with_a_fast_clock_is_told_apart_and_merged() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        let prepared = a.set(UnixMillis(100_000), &key("mesh/x"), value("1")).unwrap();
        let delta = prepared.unwrap().delta;
        assert_eq!(b.merge(UnixMillis(0), &delta).unwrap(), Duration::from_secs(90));
        assert!(b.attribute(&key("mesh/x")).is_some());
        let prepared = b.set(UnixMillis(0), &key("mesh/x"), value("2")).unwrap();
        settle(&mut b, prepared);
        assert_eq!(b.attribute(&key("mesh/x")).unwrap().value, value("2"));
    }

    #[test]
    fn attributes_are_listed_by_prefix() {
        let mut a = replica(1, 1);
        for name in ["mesh/a", "mesh/b/c", "tunnel/web/x"] {
            let prepared = a.set(WALL, &key(name), value("1")).unwrap();
            settle(&mut a, prepared);
        }
        let list = |prefix| a.attributes(prefix).map(|found| found.key.to_string()).collect::<Vec<_>>();
        assert_eq!(list("mesh/"), ["mesh/a", "mesh/b/c"]);
        assert_eq!(list("tunnel/web"), ["tunnel/web/x"]);
        assert_eq!(list("").len(), 3);
        assert!(list("mesh/z").is_empty());
    }

    #[test]
    fn what_is_deregistered_before_it_is_durable_stays_so() {
        let mut a = replica(1, 1);
        let name: TunnelName = "web".parse().unwrap();
        let registered = a.register(WALL, &name, TunnelId(1), &Attributes::default()).unwrap();
        let deregistered = a.deregister(WALL, &name, TunnelId(1)).unwrap();
        settle(&mut a, registered);
        settle(&mut a, deregistered);
        assert!(a.registrations_of(&name).is_empty());
    }

    #[test]
    fn a_write_after_a_collected_removal_bears_a_greater_stamp() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        let prepared = a.set(UnixMillis(9_000), &key("mesh/x"), value("1")).unwrap();
        settle(&mut a, prepared);
        let prepared = a.unset(UnixMillis(9_000), &key("mesh/x")).unwrap().unwrap();
        let removed = prepared.delta.items[0].entries[0].stamp;
        settle(&mut a, Some(prepared));
        assert_eq!(a.collect(usize::MAX, |_| true).len(), 1);
        // A node with a slow clock that learns of the removal only by what is gone.
        let reconciliation = a.store().reconciliation(b.store());
        b.reconcile(UnixMillis(0), &reconciliation).unwrap();
        let late = b.set(UnixMillis(0), &key("mesh/x"), value("2")).unwrap().unwrap();
        assert!(late.delta.items[0].entries[0].stamp > removed);
    }

    #[test]
    fn a_removal_ahead_of_the_clock_is_not_collected() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        for text in [Some("1"), None] {
            let far = UnixMillis(1_000_000);
            let prepared = match text {
                Some(text) => a.set(far, &key("mesh/x"), value(text)).unwrap(),
                None => a.unset(far, &key("mesh/x")).unwrap(),
            };
            settle(&mut a, prepared);
        }
        sync(&a, &mut b);
        assert!(b.collect(usize::MAX, |_| true).is_empty());
        assert_eq!(a.collect(usize::MAX, |_| true).len(), 1);
    }

    #[test]
    fn two_writes_under_way_never_bear_one_stamp() {
        let mut a = replica(1, 1);
        let far = UnixMillis(1_000_000_000);
        let mut b = replica(2, 1);
        let prepared = b.set(far, &key("mesh/x"), value("far")).unwrap();
        settle(&mut a, prepared);
        let one = a.set(WALL, &key("mesh/x"), value("1")).unwrap().unwrap();
        let two = a.set(WALL, &key("mesh/x"), value("2")).unwrap().unwrap();
        let stamp = |prepared: &Prepared| prepared.delta.items[0].entries[0].stamp;
        assert!(stamp(&one) < stamp(&two));
    }

    /// A removal that forgot what the value it removes had superseded would let that return.
    #[test]
    fn a_deregistration_remembers_what_the_registration_had_superseded() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        let name: TunnelName = "web".parse().unwrap();
        let foreign = b.register(WALL, &name, TunnelId(1), &Attributes::default()).unwrap();
        settle(&mut b, foreign.clone());
        settle(&mut a, foreign);
        let own = a.prepare(
            WALL,
            &Path::Registration { name: name.clone(), tunnel: TunnelId(1) },
            Some(value("own")),
        );
        settle(&mut a, own.unwrap());
        let gone = a.deregister(WALL, &name, TunnelId(1)).unwrap();
        settle(&mut a, gone);
        sync(&a, &mut b);
        assert_eq!(a.store(), b.store());
        assert!(b.registrations_of(&name).is_empty());
    }
}
