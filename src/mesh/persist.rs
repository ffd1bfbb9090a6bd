//! When and what the driver makes durable.
//!
//! The disk is written to as a peer is sent to: from the state as it is when there is room, never from a queue. What
//! is remembered meanwhile is which keys and lanes have changed, so that a slow disk costs no more memory than the
//! state has keys, and a value that was overwritten before its turn is never written.
//!
//! A *round* takes all that has changed: first the keys, in batches, then what was seen of the lanes when the round
//! began. So the disk never claims to have seen what it does not have; what it has and has not claimed yet it claims
//! when it is read again.

use std::collections::{BTreeMap, BTreeSet, btree_set};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::journal::{Batch, Journal, Report};
use crate::crdt::{CausalContext, Entry, Key, Lane, RangeSet};
use crate::gossip::{Mesh, Record, Ticket};

/// The least time between the beginnings of two rounds, if the first was of more than one write: under load, this long
/// writes gather for one `fsync`.
pub(super) const GATHER: Duration = Duration::from_millis(5);
/// How many keys go into one batch: bounds what the driver copies at a time.
const MAX_BATCH: usize = 16_384;

/// What has changed since the last round, and the round that is under way.
#[derive(Debug)]
pub(super) struct Persister {
    journal: Journal,
    keys: BTreeSet<Key>,
    lanes: BTreeSet<Lane>,
    /// The floors that were written.
    floors: CausalContext,
    /// The last ticket that was asked for, and the last one that is durable.
    noted: Ticket,
    durable: Ticket,
    round: Option<Round>,
    /// When the next round may begin.
    free_at: Instant,
}

#[derive(Debug)]
struct Round {
    keys: btree_set::IntoIter<Key>,
    lanes: Vec<(Lane, RangeSet)>,
    /// Everything up to it is durable when the round is.
    ticket: Ticket,
    /// The batch under way is the round's last.
    is_last: bool,
}

impl Persister {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            journal,
            keys: BTreeSet::new(),
            lanes: BTreeSet::new(),
            floors: CausalContext::new(),
            noted: Ticket::default(),
            durable: Ticket::default(),
            round: None,
            free_at: Instant::now(),
        }
    }

    /// Remembers what the core wants durable.
    pub(super) fn note(&mut self, ticket: Ticket, record: &Record) {
        self.noted = self.noted.max(ticket);
        let delta = match record {
            Record::Delta(delta) => delta,
            Record::Reconciled(reconciliation) => {
                self.keys.extend(reconciliation.dead.iter().map(|(key, _)| key.clone()));
                &reconciliation.delta
            }
            Record::Collected(keys) => {
                self.keys.extend(keys.iter().cloned());
                return;
            }
        };
        for item in &delta.items {
            self.keys.insert(item.key.clone());
            for entry in &item.entries {
                if !self.lanes.contains(&entry.dot.lane) {
                    self.lanes.insert(entry.dot.lane.clone());
                }
            }
        }
        for (lane, _) in delta.accounted.lanes() {
            if !self.lanes.contains(lane) {
                self.lanes.insert(lane.clone());
            }
        }
    }

    /// Whether everything up to that ticket is durable.
    pub(super) fn is_durable(&self, ticket: Ticket) -> bool {
        self.durable >= ticket
    }

    /// Whether nothing is under way and nothing is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.round.is_none() && self.durable >= self.noted
    }

    /// When the next round should begin, if one should.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let due = self.round.is_none() && self.durable < self.noted;
        due.then_some(self.free_at)
    }

    /// Begins a round if one is due.
    pub(super) fn begin(&mut self, mesh: &Mesh) {
        let now = Instant::now();
        if self.next_at().is_none_or(|at| at > now) {
            return;
        }
        // What is retired meanwhile is kept under the name that it has now.
        let store = mesh.replica().store();
        let lanes: BTreeSet<Lane> = self.lanes.iter().map(|lane| store.home(lane)).collect();
        self.lanes.clear();
        let lanes = lanes.into_iter().map(|lane| {
            let mut seen = mesh.replica().store().seen_of(&lane).cloned().unwrap_or_default();
            for (_, delta) in mesh.unpersisted() {
                if let Some(own) = delta.accounted.lane(&lane) {
                    seen.union(own);
                }
            }
            (lane, seen)
        });
        self.round = Some(Round {
            lanes: lanes.collect(),
            keys: std::mem::take(&mut self.keys).into_iter(),
            ticket: self.noted,
            is_last: false,
        });
        // Who writes alone and waits for each write has nobody to gather with.
        let alone = self.noted.0.saturating_sub(self.durable.0) <= 1;
        self.free_at = if alone { now } else { now + GATHER };
        self.send(mesh);
    }

    /// What became of the last batch. Waits for ever if none is under way.
    pub(super) async fn report(&mut self) -> Report {
        self.journal.report().await
    }

    /// The batch under way is durable. Gives back what else is, if that ends the round.
    pub(super) fn committed(&mut self, mesh: &Mesh) -> Option<Ticket> {
        let round = self.round.as_ref()?;
        if !round.is_last {
            self.send(mesh);
            return None;
        }
        self.durable = round.ticket;
        self.round = None;
        Some(self.durable)
    }

    /// Sends the next batch of the round.
    fn send(&mut self, mesh: &Mesh) {
        let Some(round) = &mut self.round else { return };
        let keys: Vec<Key> = round.keys.by_ref().take(MAX_BATCH).collect();
        let pending = pending(mesh);
        let store = mesh.replica().store();
        let mut batch =
            Batch { clock: mesh.replica().last_stamp(), horizon: store.horizon(), ..Batch::default() };
        let floors = store.floors();
        let raised = floors.lanes().filter(|(lane, floor)| self.floors.lane(lane) != Some(floor));
        batch.floors = raised.map(|(lane, floor)| (lane.clone(), floor.contiguous())).collect();
        self.floors = floors;
        batch.registers.reserve(keys.len());
        for key in keys {
            let mut register = store.register(&key).unwrap_or_default();
            let seals = store.seals_of(&key);
            if !seals.is_empty() {
                batch.seals.insert(key.clone(), seals);
            }
            for entry in pending.get(&key).into_iter().flatten() {
                register.insert((*entry).clone(), |_| ());
            }
            batch.registers.push((key, register));
        }
        round.is_last = round.keys.len() == 0;
        if round.is_last {
            batch.lanes = std::mem::take(&mut round.lanes);
            batch.heads = batch.lanes.iter().filter_map(|(lane, _)| store.head_of(lane).cloned()).collect();
        }
        self.journal.send(batch);
    }
}

/// The own writes that wait for the disk, by key.
fn pending(mesh: &Mesh) -> BTreeMap<&Key, SmallVec<[&Entry; 1]>> {
    let mut pending: BTreeMap<&Key, SmallVec<[&Entry; 1]>> = BTreeMap::new();
    for item in mesh.unpersisted().flat_map(|(_, delta)| &delta.items) {
        pending.entry(&item.key).or_default().extend(&item.entries);
    }
    pending
}
