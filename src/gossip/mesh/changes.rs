//! What a delta changes: the state, and everything that follows from it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Mesh;
use crate::crdt::{Corrupt, Delta, Flaw, Lane};
use crate::gossip::timer::Timer;
use crate::gossip::{Alarm, CloseReason, Durability, Event, LinkId, Member, Origin, Output, Record};
use crate::id::NodeId;
use crate::replica::{Path, Scope};
use crate::time::Now;

/// How long consequences of records wait for more of them in a large mesh.
const CROWD_PAUSE: Duration = Duration::from_millis(200);

/// How long what came from others than its author gathers before all are told of it, in a full mesh: they may not be linked
/// with the author either.
const REPAIR_PAUSE: Duration = Duration::from_millis(20);

impl Mesh {
    pub(super) fn handle_delta(&mut self, now: Now, link: LinkId, delta: &Delta) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer) else { return };
        let before = self.replica.store().revision();
        let (stale, fresh) = self.sift_lanes(delta, peer);
        let merged = self.fenced(now, delta, |mesh| mesh.replica.merge(now.wall, delta));
        match merged {
            Err(corrupt) => return self.refuse(now, link, &corrupt),
            Ok(beyond) => {
                let id = link;
                if let Some(link) = self.links.get_mut(&id) {
                    link.handle_delta(delta);
                    // What is asked for while it is on its way comes twice: it is the way nevertheless.
                    let others = |lane: &Lane| !self.trees.come_over(&lane.actor().node, id);
                    stale.into_iter().filter(others).for_each(|lane| link.prune(lane));
                    if link.handle_drift(!beyond.is_zero()) {
                        self.outputs.push_back(Output::Event(Event::Alarm(Alarm::Drift { peer, beyond })));
                    }
                }
            }
        }
        self.note_ways(link, &fresh);
        if !self.overlay.is_partial() && fresh.iter().any(|lane| lane.actor().node != peer) {
            self.timers.set_by(Timer::Announce, now.monotone + REPAIR_PAUSE);
        }
        self.gaps.served(delta, self.replica.store(), now.monotone);
        self.reconcile.note(delta);
        if self.replica.store().revision() == before {
            // It brought nothing: nobody is to be told of it, and no disk has to keep it.
            return self.fence_later_life(now);
        }
        if self.config.durability == Durability::Disk {
            let ticket = self.ticket();
            self.outputs.push_back(Output::Persist { ticket, record: Record::Delta(delta.clone()) });
        }
        // Before it is told what was lost with an earlier life: this node has it still, in the next one.
        self.fence_later_life(now);
        self.observe_changes(now, true);
    }

    /// A peer sent what no author wrote.
    pub(super) fn refuse(&mut self, now: Now, link: LinkId, corrupt: &Corrupt) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer) else { return };
        let alarm = match corrupt.flaw {
            Flaw::Checksum => Alarm::Corrupt { peer },
            Flaw::Seal => Alarm::Forged { peer },
        };
        self.outputs.push_back(Output::Event(Event::Alarm(alarm)));
        self.close(now, link, CloseReason::Misbehaved);
    }

    /// The lanes of which a delta brings nothing that is new here, its sender's own excepted, of which it never
    /// brings too much; and those of which it brings something.
    fn sift_lanes(&self, delta: &Delta, peer: NodeId) -> (BTreeSet<Lane>, BTreeSet<Lane>) {
        let store = self.replica.store();
        let (mut stale, mut fresh) = (BTreeSet::new(), BTreeSet::new());
        let mut note = |lane: &Lane, known: bool| {
            let set = if known { &mut stale } else { &mut fresh };
            if !set.contains(lane) {
                set.insert(lane.clone());
            }
        };
        for (lane, counters) in delta.accounted.lanes() {
            note(lane, store.seen_of(lane).is_some_and(|seen| seen.is_superset(counters)));
        }
        for dot in delta.items.iter().flat_map(|item| &item.entries).map(|entry| &entry.dot) {
            note(&dot.lane, store.seen(dot));
        }
        stale.retain(|lane| !fresh.contains(lane) && lane.actor().node != peer);
        (stale, fresh)
    }

    /// Tells subscribers what changed, and draws the consequences.
    pub(super) fn observe_changes(&mut self, now: Now, tell: bool) {
        self.busy
            .extend(self.links.iter().filter(|(_, link)| link.is_waiting(&self.overlay)).map(|(id, _)| *id));
        self.timers.set_by(Timer::Announce, now.monotone + self.config.announce_interval);
        let mut stale = Vec::new();
        for path in self.replica.take_changed() {
            let of_tunnels = match &path {
                Path::Registration { .. } => true,
                Path::Attribute(key) => matches!(key.scope, Scope::Tunnel(_)),
                Path::Node(_)
                | Path::Revocation(_)
                | Path::Retirement(_)
                | Path::Policy
                | Path::Counter { .. }
                | Path::Element { .. } => false,
            };
            self.tunnels_changed += u64::from(of_tunnels);
            let event = match path {
                Path::Node(node) => {
                    self.observe_record(now, node);
                    continue;
                }
                Path::Revocation(node) => Event::Revocation { node },
                Path::Policy => Event::Policy,
                // Whoever is concerned by it is told what follows from it.
                Path::Retirement(_) => continue,
                Path::Attribute(key) => {
                    let found = self.replica.attribute(&key);
                    let siblings = found.as_ref().map_or(0, |found| found.siblings.len());
                    let origin =
                        found.as_ref().map(|found| Origin { author: found.author, stamp: found.stamp });
                    Event::Attribute { key, value: found.map(|found| found.value), siblings, origin }
                }
                Path::Counter { counter, .. } => {
                    let value = self.replica.counter(&counter);
                    Event::Counter { key: counter, value }
                }
                Path::Element { set, element: id } => {
                    let element = self.replica.element(&set, id);
                    Event::Element { key: set, id, element }
                }
                Path::Registration { name, tunnel } => match self.replica.registration(&name, tunnel) {
                    Some(registration) => Event::Registered(registration),
                    None => {
                        stale.push((name.clone(), tunnel));
                        Event::Deregistered { name, tunnel }
                    }
                },
            };
            if tell {
                self.outputs.push_back(Output::Event(event));
            }
        }
        for (name, tunnel) in stale {
            self.disown(now, &name, tunnel);
        }
        self.observe_retired(now, tell);
    }

    /// A node has said something new of itself.
    pub(super) fn observe_record(&mut self, now: Now, node: NodeId) {
        let Some(view) = self.replica.node(&node) else { return };
        let before = self.members.get(&node).map(|member| member.record.links.clone()).unwrap_or_default();
        let new = self.members.update(view, now.monotone);
        if node == self.actor().node {
            return;
        }
        self.dialer.claimed(node, self.members.addresses(&node), now.monotone);
        let links = self.members.get(&node).map(|member| member.record.links.clone()).unwrap_or_default();
        let lost: BTreeSet<NodeId> = before.difference(&links).copied().collect();
        if !lost.is_empty() {
            self.retell(node, |peer| lost.contains(peer));
        }
        if new {
            self.tell_member(node);
        }
        // In a large mesh records come in crowds: what follows from them is done once for many.
        let pause = if self.members.len() < self.config.full_mesh { Duration::ZERO } else { CROWD_PAUSE };
        self.timers.set_by(Timer::Verdict, now.monotone + pause);
        // The sooner a mesh that has grown too large for a full one ceases to be one, the fewer links are in vain.
        let pause = if self.overlay.is_partial() { 5 * pause } else { Duration::ZERO };
        self.timers.set_by(Timer::Choose, now.monotone + pause);
    }

    pub(super) fn tell_member(&mut self, node: NodeId) {
        if let Some(Member { node, generation, state, .. }) = self.members.get(&node) {
            let (node, generation, state) = (*node, *generation, *state);
            self.outputs.push_back(Output::Event(Event::Member { node, generation, state }));
        }
    }
}
