//! What is done when a timer is due.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use super::Mesh;
use crate::gossip::link::Link;
use crate::gossip::timer::Timer;
use crate::gossip::{CloseReason, Event, LinkId, Member, Message, Output};
use crate::id::NodeId;
use crate::time::Now;

impl Mesh {
    pub(super) fn heartbeat(&mut self, now: Now) {
        let digest = self.cached_digest();
        let doubtful = 2 * self.config.heartbeat_interval;
        for (id, link) in &mut self.links {
            let message = Message::Heartbeat { digest, asks: false };
            self.outputs.push_back(Output::Datagram { link: *id, message });
            // Datagrams may be lost one after another: before a link is given up, it is asked where nothing is.
            if now.monotone.since(link.heard_at) >= doubtful {
                link.doubt();
                self.busy.insert(*id);
            }
        }
        // A little early or late, so that the nodes of a mesh do not beat as one.
        let interval = self.config.heartbeat_interval.mul_f64(self.rng.random_range(0.9..1.1));
        self.timers.set(Timer::Heartbeat, Some(now.monotone + interval));
    }

    pub(super) fn close_silent(&mut self, now: Now) {
        let timeout = self.config.link_timeout;
        // A link that is never introduced is of no use, however lively it is.
        let last_sign = |link: &Link| if link.is_established() { link.heard_at } else { link.up_at };
        let silent = |link: &Link| now.monotone.since(last_sign(link)) >= timeout;
        let lost: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| silent(link)).map(|(id, _)| *id).collect();
        for link in lost {
            let peer = self.links.get(&link).filter(|link| link.is_established()).map(|link| link.peer);
            self.close(now, link, CloseReason::Silent);
            if let Some(peer) = peer.filter(|peer| !self.is_linked(peer)) {
                self.doubt.lost(peer, self.linked_set().len(), &self.config, now.monotone);
            }
        }
        let next = self.links.values().map(|link| last_sign(link) + timeout).min();
        self.timers.set(Timer::Silence, next);
    }

    pub(super) fn ask(&mut self, now: Now) {
        let store = self.replica.store();
        let (asked, next) = self.gaps.ask(store, &mut self.links, &self.config, now.monotone, &mut self.rng);
        self.busy.extend(asked);
        self.timers.set(Timer::Want, next);
    }

    pub(super) fn judge(&mut self, now: Now) {
        let (changed, next) =
            self.members.judge(&self.linked_set(), self.doubt.until(), &self.config, now.monotone);
        let changed_any = !changed.is_empty();
        for Member { node, generation, state, .. } in changed {
            self.outputs.push_back(Output::Event(Event::Member { node, generation, state }));
        }
        if changed_any {
            // Who is there and who is not decides with whom to be linked.
            let pause = if self.overlay.is_partial() { Duration::from_secs(1) } else { Duration::ZERO };
            self.timers.set_by(Timer::Choose, now.monotone + pause);
        }
        self.timers.set(Timer::Verdict, next);
    }

    pub(super) fn dial(&mut self, now: Now) {
        if self.leaving {
            return;
        }
        let linked: BTreeSet<NodeId> = self.links.values().map(|link| link.peer).collect();
        let (members, overlay, outputs) = (&self.members, &self.overlay, &mut self.outputs);
        let addresses = |node: &NodeId| members.addresses(node);
        let served = |node: &NodeId| linked.contains(node) || overlay.does_without(node, members);
        let next = self.dialer.dial(now.monotone, served, addresses, |output| outputs.push_back(output));
        self.timers.set(Timer::Dial, next);
    }
}
