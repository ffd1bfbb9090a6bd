//! What a delta changes: the state, and everything that follows from it.

use super::Mesh;
use crate::crdt::{Corrupt, Delta};
use crate::gossip::timer::Timer;
use crate::gossip::{Alarm, CloseReason, Durability, Event, LinkId, Member, Output};
use crate::id::NodeId;
use crate::replica::Path;
use crate::time::Now;

impl Mesh {
    pub(super) fn handle_delta(&mut self, now: Now, link: LinkId, delta: &Delta) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer) else { return };
        self.fence_double(now, delta);
        match self.replica.merge(now.wall, delta) {
            Err(Corrupt { .. }) => {
                self.outputs.push_back(Output::Event(Event::Alarm(Alarm::Corrupt { peer })));
                return self.close(now, link, CloseReason::Misbehaved);
            }
            Ok(beyond) => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.handle_delta(delta);
                    if link.handle_drift(!beyond.is_zero()) {
                        self.outputs.push_back(Output::Event(Event::Alarm(Alarm::Drift { peer, beyond })));
                    }
                }
            }
        }
        self.gaps.served(delta, now.monotone);
        if self.config.durability == Durability::Disk {
            let ticket = self.ticket();
            self.outputs.push_back(Output::Persist { ticket, delta: delta.clone() });
        }
        self.observe_changes(now, true);
        self.fence_later_life(now);
    }

    /// Tells subscribers what changed, and draws the consequences.
    pub(super) fn observe_changes(&mut self, now: Now, tell: bool) {
        self.busy.extend(self.links.iter().filter(|(_, link)| link.is_waiting()).map(|(id, _)| *id));
        self.timers.set_by(Timer::Announce, now.monotone + self.config.announce_interval);
        let mut stale = Vec::new();
        for path in self.replica.take_changed() {
            let event = match path {
                Path::Node(node) => {
                    self.observe_record(now, node);
                    continue;
                }
                Path::Attribute(key) => {
                    let found = self.replica.attribute(&key);
                    let siblings = found.as_ref().map_or(0, |found| found.siblings.len());
                    Event::Attribute { key, value: found.map(|found| found.value), siblings }
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
    }

    /// A node has said something new of itself.
    pub(super) fn observe_record(&mut self, now: Now, node: NodeId) {
        let Some(view) = self.replica.node(&node) else { return };
        let leaving = view.record.leaving;
        let new = self.members.update(view, now.monotone);
        if node == self.actor().node {
            return;
        }
        if leaving {
            self.dialer.remove(node);
        } else {
            self.dialer.add(node, &self.config, now.monotone);
            self.timers.set_by(Timer::Dial, now.monotone);
        }
        if new {
            self.tell_member(node);
        }
        self.timers.set_by(Timer::Verdict, now.monotone);
    }

    pub(super) fn tell_member(&mut self, node: NodeId) {
        if let Some(Member { node, generation, state, .. }) = self.members.get(&node) {
            let (node, generation, state) = (*node, *generation, *state);
            self.outputs.push_back(Output::Event(Event::Member { node, generation, state }));
        }
    }
}
