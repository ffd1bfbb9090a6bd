//! What this node writes itself: by command, of its own accord, and again in a new life.

use std::time::Duration;

use rand::RngExt;

use super::{Mesh, Unpersisted};
use crate::crdt::{Class, Corrupt, Delta, Item, Lane, RangeSet, Value};
use crate::gossip::members::RESTLESS_WITHIN;
use crate::gossip::quota::OVERHEAD;
use crate::gossip::{Alarm, Durability, Event, MemberState, Output, Record, Ticket};
use crate::id::{Actor, Generation, NodeId, TunnelId, TunnelName};
use crate::replica::{AttributeKey, Attributes, NodeRecord, Prepared, WriteError};
use crate::time::Now;

/// The least time between two lives that a running node takes up.
const REBIRTH_INTERVAL: Duration = Duration::from_secs(10);

/// Commands.
impl Mesh {
    /// Carries out commands whose writes shall be as durable as that, and no less than [`Durability::Memory`] is:
    /// a mesh in memory makes nothing durable.
    pub fn with_durability<T>(&mut self, durability: Durability, command: impl FnOnce(&mut Self) -> T) -> T {
        if self.config.durability == Durability::Memory {
            return command(self);
        }
        let before = std::mem::replace(&mut self.durability, durability);
        let done = command(self);
        self.durability = before;
        done
    }

    /// Sets an attribute. `None` if it has that value already and no siblings; with
    /// [`Durability::Disk`] it takes effect when the ticket is persisted, else at once.
    ///
    /// # Errors
    ///
    /// [`WriteError`], also while this node's clock is off against most of its peers'; nothing was written.
    pub fn set(&mut self, now: Now, key: &AttributeKey, value: Value) -> Result<Option<Ticket>, WriteError> {
        self.check_clock(now)?;
        self.check_quota(now)?;
        let prepared = self.replica.set(now.wall, key, value)?;
        Ok(self.commit(now, prepared))
    }

    /// Removes an attribute, siblings included. `None` if it is not set.
    ///
    /// # Errors
    ///
    /// [`WriteError`], also while this node's clock is off against most of its peers'; nothing was written.
    pub fn unset(&mut self, now: Now, key: &AttributeKey) -> Result<Option<Ticket>, WriteError> {
        self.check_clock(now)?;
        self.check_quota(now)?;
        let prepared = self.replica.unset(now.wall, key)?;
        Ok(self.commit(now, prepared))
    }

    /// Adds to a counter, or takes away. `None` if `by` is zero.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing was counted.
    pub fn increment(&mut self, now: Now, key: &AttributeKey, by: i64) -> Result<Option<Ticket>, WriteError> {
        self.check_quota(now)?;
        let prepared = self.replica.increment(now.wall, key, by)?;
        Ok(self.commit(now, prepared))
    }

    /// Adds an element to a set. `None` if it is in it.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing was added.
    pub fn add(
        &mut self,
        now: Now,
        key: &AttributeKey,
        element: Value,
    ) -> Result<Option<Ticket>, WriteError> {
        self.check_quota(now)?;
        let prepared = self.replica.add(now.wall, key, element)?;
        Ok(self.commit(now, prepared))
    }

    /// Removes an element from a set. `None` if it is not in it.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing was removed.
    pub fn discard(
        &mut self,
        now: Now,
        key: &AttributeKey,
        element: &Value,
    ) -> Result<Option<Ticket>, WriteError> {
        self.check_quota(now)?;
        let prepared = self.replica.discard(now.wall, key, element)?;
        Ok(self.commit(now, prepared))
    }

    /// Registers a tunnel that this node holds. `None` if it is registered so already.
    ///
    /// # Errors
    ///
    /// [`WriteError`], also while this node's clock is off against most of its peers'; nothing was written.
    pub fn register(
        &mut self,
        now: Now,
        name: &TunnelName,
        tunnel: TunnelId,
        attributes: &Attributes,
    ) -> Result<Option<Ticket>, WriteError> {
        let prepared = self.replica.register(now.wall, name, tunnel, attributes)?;
        self.held.insert((name.clone(), tunnel), attributes.clone());
        Ok(self.commit(now, prepared))
    }

    /// Takes back exactly that registration of this node. `None` if it is gone already.
    ///
    /// # Errors
    ///
    /// [`WriteError::NotHeld`] if another node holds it; nothing was written.
    pub fn deregister(
        &mut self,
        now: Now,
        name: &TunnelName,
        tunnel: TunnelId,
    ) -> Result<Option<Ticket>, WriteError> {
        let prepared = self.replica.deregister(now.wall, name, tunnel)?;
        self.held.remove(&(name.clone(), tunnel));
        Ok(self.commit(now, prepared))
    }

    /// Says that a node's key is not to be believed, with what proves it. `None` if that was said in the same words.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing was written.
    pub fn revoke(&mut self, now: Now, node: NodeId, proof: Value) -> Result<Option<Ticket>, WriteError> {
        let prepared = self.replica.revoke(now.wall, node, proof)?;
        Ok(self.commit(now, prepared))
    }

    /// Says who may expose and connect what, with what proves it. `None` if that was said in the same words.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing was written.
    pub fn decree(&mut self, now: Now, policy: Value) -> Result<Option<Ticket>, WriteError> {
        let prepared = self.replica.decree(now.wall, policy)?;
        Ok(self.commit(now, prepared))
    }

    /// Evicts a node that is not there, now: nobody waits for it any more. `None` if nothing is known of it.
    ///
    /// # Errors
    ///
    /// [`WriteError::Alive`] if it can be reached, or is this one, [`WriteError::Sealed`] where entries are sealed; nothing
    /// was written.
    pub fn forget(&mut self, now: Now, node: NodeId) -> Result<Option<Ticket>, WriteError> {
        let state = self.members.state(&node);
        if node == self.actor().node || state == Some(MemberState::Alive) || self.is_linked(&node) {
            return Err(WriteError::Alive);
        }
        if self.replica.is_sealed() {
            return Err(WriteError::Sealed);
        }
        let Some(latest) = self.replica.store().generation(&node) else { return Ok(None) };
        let prepared = self.replica.testify(now.wall, node, latest)?;
        Ok(self.commit(now, prepared))
    }

    /// Says to all that this node will go: it will have left and not fallen.
    pub fn leave(&mut self, now: Now) {
        self.leaving = true;
        self.publish(now);
    }
}

/// How writes take effect.
impl Mesh {
    /// Merges what a peer has sent, by `merge`. If it brings writes that this life of the node did not make, somebody else
    /// lives it too, or the disk was turned back: take a new one before anything is written under the old.
    pub(super) fn fenced<T>(
        &mut self,
        now: Now,
        delta: &Delta,
        merge: impl FnOnce(&mut Self) -> Result<T, Corrupt>,
    ) -> Result<T, Corrupt> {
        let double = self.double_in(delta);
        let outlive = |mesh: &mut Self| {
            if let Some((latest, is_accused)) = double {
                mesh.be_reborn(now, latest, is_accused);
            }
        };
        if !self.replica.is_sealed() {
            outlive(self);
            return merge(self);
        }
        // Where entries are sealed it has to be seen first that they are.
        let merged = merge(self)?;
        outlive(self);
        Ok(merged)
    }

    /// Whether a delta brings such writes: the latest life that it accounts for, and whether that is said to be over.
    fn double_in(&self, delta: &Delta) -> Option<(Option<Generation>, bool)> {
        let (own, store) = (self.replica.own_lanes(), self.replica.store());
        let is_own = |lane: &Lane| own.iter().any(|own| *own == lane || lane.buries(own));
        // Where entries are sealed, what is accounted for without one is hearsay.
        let believed = delta.accounted.lanes().filter(|_| !store.is_sealed());
        let accounted: Vec<(&Lane, &RangeSet)> = believed.filter(|(lane, _)| is_own(lane)).collect();
        let latest = accounted.iter().map(|(lane, _)| lane.actor().generation).max();
        let is_accused = accounted.iter().map(|(lane, _)| *lane).max().is_some_and(Lane::is_past);
        let unknown = |(lane, counters): (&Lane, &RangeSet)| {
            store.seen_of(lane).is_none_or(|seen| !seen.is_superset(counters))
        };
        let mut dots = delta.items.iter().flat_map(|item| &item.entries).map(|entry| &entry.dot);
        let is_double = accounted.into_iter().any(unknown)
            || dots.any(|dot| own.contains(&&dot.lane) && !store.seen(dot));
        is_double.then_some((latest, is_accused))
    }

    /// If a later life of this node is known, whatever this one says of itself is void: outlive it. Two nodes
    /// under one name would outbid each other for ever, so this is done once in a while.
    pub(super) fn fence_later_life(&mut self, now: Now) {
        let Actor { node, generation } = self.actor();
        let outlived = self.replica.store().generation(&node).is_some_and(|latest| latest > generation);
        // It is said to be dead: it goes on in a life of which that is not said.
        let accused = self.replica.is_accused();
        let rested = self.reborn_at.is_none_or(|at| now.monotone.since(at) >= REBIRTH_INTERVAL);
        if (outlived || accused.is_some()) && rested {
            self.be_reborn(now, accused, !outlived);
        }
    }

    /// Goes on in a life later than any that is known, and says there what it had said before.
    fn be_reborn(&mut self, now: Now, after: Option<Generation>, is_accused: bool) {
        let doubled = self.actor();
        let least = doubled.generation.max(after.unwrap_or(doubled.generation));
        let latest = self.replica.store().generation(&doubled.node).unwrap_or(least).max(least);
        // Low bits at random, for a double may do the same at this very moment.
        let next = Generation::after(latest, now.wall, self.rng.random());
        self.reborn_at = Some(now.monotone);
        self.replica.rebirth(next);
        let alarm =
            if is_accused { Alarm::Dead { gone: doubled, next } } else { Alarm::Double { doubled, next } };
        self.outputs.push_back(Output::Event(Event::Alarm(alarm)));
        // All at once: between its first word and its last, this life would have lost what it holds.
        let mut said = Vec::from_iter(self.prepare_record(now));
        for ((name, tunnel), attributes) in &self.held {
            // Nothing can come after the end of time; then the tunnel stays unknown, as the alarm says.
            let prepared = self.replica.register(now.wall, name, *tunnel, attributes);
            said.extend(prepared.ok().flatten());
        }
        self.commit(now, said);
    }

    /// What an earlier life of this node had registered is taken back by this one.
    pub(super) fn disown(&mut self, now: Now, name: &TunnelName, tunnel: TunnelId) {
        // Nothing can come after the end of time: then it stays, and stays void.
        if let Ok(prepared) = self.replica.disown(now.wall, name, tunnel) {
            self.commit(now, prepared);
        }
    }

    /// A node whose clock is wrong must not write: for as long as it is wrong it would win, or lose, against all who
    /// write at the same time.
    fn check_clock(&self, now: Now) -> Result<(), WriteError> {
        self.clock_error(now).map_or(Ok(()), |ahead| Err(WriteError::ClockOff { ahead }))
    }

    fn check_quota(&mut self, now: Now) -> Result<(), WriteError> {
        self.quota.check(now.monotone).map_err(|retry_after| WriteError::Busy { retry_after })
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Lets own writes take effect, each now or when it is durable, and returns the ticket of the last one.
    ///
    /// What a node says of its own life waits for no disk: after a restart a later life voids it anyway, so that a
    /// disk which stands still or is full holds up attributes and neither membership nor tunnels.
    pub(super) fn commit(
        &mut self,
        now: Now,
        prepared: impl IntoIterator<Item = Prepared>,
    ) -> Option<Ticket> {
        let (mut last, mut changed) = (None, false);
        for Prepared { dot, delta } in prepared {
            let is_attribute = dot.lane.class() == Class::Attribute;
            if is_attribute {
                self.quota.take(cost(&delta));
            }
            let ticket = self.ticket();
            last = Some(ticket);
            if self.config.durability == Durability::Disk {
                self.outputs.push_back(Output::Persist { ticket, record: Record::Delta(delta.clone()) });
            }
            let durability = self.durability;
            // Writes of one class take effect in the order of their making.
            let waits = durability == Durability::Disk || !self.unpersisted.is_empty();
            if waits && is_attribute {
                self.unpersisted.push_back(Unpersisted { ticket, delta, durability });
            } else {
                self.merge_own(now, &delta);
                changed = true;
            }
        }
        if changed {
            self.observe_changes(now, true);
        }
        last
    }

    /// What it changes is observed by the caller.
    pub(super) fn merge_own(&mut self, now: Now, delta: &Delta) {
        self.replica.merge_own(now.wall, delta);
        self.reconcile.note(delta);
        self.busy.extend(self.links.keys());
    }

    pub(super) fn publish(&mut self, now: Now) {
        let record = self.prepare_record(now);
        self.commit(now, record);
    }

    /// What this node says of itself now, if that is not what it said last.
    fn prepare_record(&mut self, now: Now) -> Option<Prepared> {
        let record = NodeRecord {
            label: self.config.label.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.config.addresses.clone(),
            links: self.neighbours(),
            leaving: self.leaving,
        };
        // Nothing can come after the end of time; the next change tries again.
        let prepared = self.replica.publish(now.wall, &record).ok().flatten()?;
        let often = match self.published {
            Some((at, often)) if now.monotone.since(at) < RESTLESS_WITHIN => often.saturating_add(1),
            Some(_) => 0,
            // Whoever has just started will have more links in a moment.
            None => 1,
        };
        self.published = Some((now.monotone, often));
        Some(prepared)
    }
}

/// What a write takes of the quota.
fn cost(delta: &Delta) -> u64 {
    let item = |item: &Item| {
        let values = item.entries.iter().filter_map(|entry| entry.value.as_ref());
        item.key.as_str().len() + values.map(|value| value.as_bytes().len()).sum::<usize>()
    };
    OVERHEAD + delta.items.iter().map(item).sum::<usize>() as u64
}
