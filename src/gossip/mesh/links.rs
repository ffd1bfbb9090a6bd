//! What becomes of links: which of several to one peer stays, and what follows when one comes or goes.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use super::Mesh;
use crate::gossip::link::Link;
use crate::gossip::members::RESTLESS_WITHIN;
use crate::gossip::timer::Timer;
use crate::gossip::{CloseReason, Event, LinkId, MemberState, Output, Side};
use crate::id::NodeId;
use crate::time::Now;

/// With how many of the nodes that it wants a node must be linked before it lets go of others.
const ENOUGH_LINKS: usize = 3;
/// How often one of the nodes that are down is called, in a partial view.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// How often it is looked whom to be linked with although nothing has changed.
const RECHOOSE_INTERVAL: Duration = Duration::from_secs(10);
/// How often its delay doubles at most.
const MAX_RESTLESS: u32 = 4;

impl Mesh {
    pub(super) fn linked_set(&self) -> BTreeSet<NodeId> {
        self.links.values().filter(|link| link.is_established()).map(|link| link.peer).collect()
    }

    pub(super) fn is_linked(&self, node: &NodeId) -> bool {
        self.links.values().any(|link| link.peer == *node && link.is_established())
    }

    /// Those to whom a link leads that either end wants.
    pub(super) fn neighbours(&self) -> BTreeSet<NodeId> {
        let links = self.links.values().filter(|link| link.is_established() && link.is_neighbour());
        links.map(|link| link.peer).collect()
    }

    /// How often a seed is called that is linked already: all nodes together not more often than a small mesh.
    pub(super) fn seed_interval(&self) -> Duration {
        let times = (self.members.len() / self.config.full_mesh.max(1)).max(1);
        self.config.seed_interval * u32::try_from(times).unwrap_or(u32::MAX)
    }

    /// Tells some peers what was seen here of a node's writes, which it will perhaps not tell them itself.
    pub(super) fn retell(&mut self, author: NodeId, to: impl Fn(&NodeId) -> bool) {
        let store = self.replica.store();
        for link in self.links.values_mut().filter(|link| link.peer != author && to(&link.peer)) {
            link.retell(store.lanes_of(&author));
        }
    }

    /// Chooses with whom to be linked, tells peers so, and gives up links that neither end has wanted for long.
    pub(super) fn choose(&mut self, now: Now) {
        let (callable, mut next) = self.members.callable(&self.config, now.monotone);
        let there = |node: &&NodeId| self.members.state(node) != Some(MemberState::Down);
        let others: BTreeSet<NodeId> = callable.iter().filter(there).copied().collect();
        self.overlay.choose(&others, self.config.full_mesh);
        if self.overlay.is_partial() {
            // Besides, one of those that are down: so the parts of a mesh that was split find each other again.
            let down: Vec<&NodeId> = callable.difference(&others).collect();
            let probed =
                if down.is_empty() { None } else { Some(down[self.rng.random_range(0..down.len())]) };
            self.dialer.aim(self.overlay.chosen().iter().chain(probed), &self.config, now.monotone);
            next = Some(now.monotone + if down.is_empty() { RECHOOSE_INTERVAL } else { PROBE_INTERVAL });
        } else {
            self.dialer.aim(callable.iter(), &self.config, now.monotone);
        }
        self.timers.set_by(Timer::Dial, now.monotone);
        let surplus = self.note_wanted(now);
        self.ask_for_unknown();
        for link in surplus {
            self.close(now, link, CloseReason::Surplus);
        }
        self.probe(now);
        let is_settled =
            |link: &Link| link.is_neighbour() && (link.is_settled() || !self.overlay.is_partial());
        if self.links.values().any(|link| link.is_established() && !is_settled(link)) {
            next = [next, Some(now.monotone + self.config.surplus_after / 4)].into_iter().flatten().min();
        }
        self.timers.set(Timer::Choose, next);
    }

    /// Whether a node has found enough of those that it wants to be linked with.
    fn has_enough_links(&self) -> bool {
        let found = |link: &&Link| link.is_established() && self.overlay.wants(&link.peer);
        self.links.values().filter(found).count() >= ENOUGH_LINKS
    }

    /// Notes on each link whether it is wanted here; returns those that neither end has wanted for long enough.
    /// Until a node has found some of those that it wants, it keeps whom it has.
    fn note_wanted(&mut self, now: Now) -> Vec<LinkId> {
        let own = self.actor().node;
        let settled = self.has_enough_links();
        let mut surplus = Vec::new();
        let (mut cut, mut changed) = (Vec::new(), false);
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.is_established()) {
            if link.want(!settled || self.overlay.wants(&link.peer)) {
                cut.push(*id);
            }
            if self.overlay.is_partial() {
                link.declare();
                link.settle(now.monotone);
            }
            if link.has_wish() {
                self.busy.insert(*id);
                changed = true;
            }
            // One end closes it, the other only if the first does not.
            let patience = self.config.surplus_after * if own < link.peer { 1 } else { 3 };
            if link.surplus_since(now.monotone).is_some_and(|since| now.monotone.since(since) >= patience) {
                surplus.push(*id);
            }
        }
        cut.into_iter().for_each(|link| self.graft(link, None));
        if changed {
            self.links_changed(now);
        }
        surplus
    }

    /// Closes a link from this side.
    pub(super) fn close(&mut self, now: Now, link: LinkId, reason: CloseReason) {
        self.outputs.push_back(Output::Close { link, reason });
        self.link_down(now, link);
    }

    /// Both hellos were exchanged. Of several links to one peer all but one go.
    pub(super) fn established(&mut self, now: Now, link: LinkId) {
        let own = self.actor().node;
        let Some(new) = self.links.get(&link) else { return };
        let peer = new.peer;
        // The later life of the peer counts more than who dialled, and of two links of one dialler it is the
        // dialler who closes the older one: so both ends close the same.
        let preferred = |link: &Link| {
            let dialler = if matches!(link.side, Side::Connect(_)) { own } else { peer };
            (link.generation, dialler == own.min(peer))
        };
        let rivals: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(id, other)| **id != link && other.peer == peer && other.is_established())
            .map(|(id, _)| *id)
            .collect();
        for rival in &rivals {
            let (Some(old), Some(new)) = (self.links.get(rival), self.links.get(&link)) else { break };
            let loser = match preferred(old).cmp(&preferred(new)) {
                std::cmp::Ordering::Less => *rival,
                std::cmp::Ordering::Greater => link,
                std::cmp::Ordering::Equal if matches!(new.side, Side::Connect(_)) => *rival.min(&link),
                std::cmp::Ordering::Equal => continue,
            };
            // Two nodes that call each other at once: both choose the same link, and the other one is as good.
            let raced = old.generation == new.generation && preferred(old) != preferred(new);
            let reason = if raced { CloseReason::Duplicate } else { CloseReason::Replaced };
            self.close(now, loser, reason);
        }
        let wanted = !self.has_enough_links() || self.overlay.wants(&peer);
        if self.overlay.is_partial()
            && let Some(link) = self.links.get_mut(&link)
        {
            link.declare();
            link.want(wanted);
            self.timers.set_by(Timer::Choose, now.monotone + self.config.surplus_after);
        }
        if rivals.is_empty() {
            self.doubt.found(&peer);
            self.outputs.push_back(Output::Event(Event::LinkUp { peer }));
            self.links_changed(now);
        }
    }

    /// A link came or went: the record must say so, and other nodes may be in or out of reach.
    ///
    /// One change of the record follows another ever later while they go on: neither a link that flaps nor a mesh
    /// in which everybody looks for neighbours makes all nodes hear of every step.
    pub(super) fn links_changed(&mut self, now: Now) {
        let lately = |at| now.monotone.since(at) < RESTLESS_WITHIN;
        let often = self.published.filter(|(at, _)| lately(*at)).map_or(0, |(_, often)| often);
        // While a large mesh forms, the second version of a record waits already, and longer.
        let forms = self.overlay.is_partial() && !self.links.values().any(Link::is_settled);
        let doubled = if forms { 2 * often } else { often.saturating_sub(1) };
        let delay = self.config.record_delay * (1 << doubled.min(MAX_RESTLESS));
        // After a rest it is most likely a node that has fallen, and everybody waits to hear so.
        let rests = self.published.is_some_and(|(at, _)| !lately(at));
        let delay = if rests { delay / 4 } else { delay };
        self.timers.set_by(Timer::Record, now.monotone + delay);
        self.members.links_changed(now.monotone);
        self.timers.set_by(Timer::Verdict, now.monotone);
    }
}
