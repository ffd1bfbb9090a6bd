//! What becomes of links: which of several to one peer stays, and what follows when one comes or goes.

use std::collections::BTreeSet;

use super::Mesh;
use crate::gossip::link::Link;
use crate::gossip::timer::Timer;
use crate::gossip::{CloseReason, Event, LinkId, Output, Side};
use crate::id::NodeId;
use crate::time::Now;

impl Mesh {
    pub(super) fn linked_set(&self) -> BTreeSet<NodeId> {
        self.links.values().filter(|link| link.is_established()).map(|link| link.peer).collect()
    }

    pub(super) fn is_linked(&self, node: &NodeId) -> bool {
        self.links.values().any(|link| link.peer == *node && link.is_established())
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
        if rivals.is_empty() {
            self.outputs.push_back(Output::Event(Event::LinkUp { peer }));
            self.links_changed(now);
        }
    }

    /// A link came or went: the record must say so, and other nodes may be in or out of reach.
    pub(super) fn links_changed(&mut self, now: Now) {
        self.timers.set_by(Timer::Record, now.monotone + self.config.record_delay);
        self.timers.set_by(Timer::Verdict, now.monotone);
    }
}
