//! What a peer is told on the control channel: who this is, that it lives, what was seen here and what it lacks.

use std::collections::BTreeSet;

use super::{Link, MAX_TOLD, first_ranges};
use crate::crdt::{CausalContext, Lane, Store};
use crate::gossip::members::Members;
use crate::gossip::overlay::Overlay;
use crate::gossip::{Message, Versions};
use crate::replica::Replica;
use crate::time::Now;

impl Link {
    /// The next frame of the control channel, if it has room and there is something to say.
    pub(in crate::gossip) fn next_control(
        &mut self,
        replica: &Replica,
        members: &Members,
        overlay: &Overlay,
        now: Now,
    ) -> Option<Message> {
        if !self.control_is_writable {
            return None;
        }
        let message = self.control(replica, members, overlay, now)?;
        self.control_is_writable = false;
        Some(message)
    }

    fn control(
        &mut self,
        replica: &Replica,
        members: &Members,
        overlay: &Overlay,
        now: Now,
    ) -> Option<Message> {
        let store = replica.store();
        if !self.hello_sent {
            self.hello_sent = true;
            let generation = replica.actor().generation;
            return Some(Message::Hello {
                versions: Versions::over(store),
                generation,
                digest: store.digest(),
                wall: now.wall,
            });
        }
        if std::mem::take(&mut self.beats) {
            return Some(Message::Heartbeat {
                digest: store.digest(),
                asks: std::mem::take(&mut self.doubts),
            });
        }
        if let Some(weight) = self.taken.news() {
            return Some(Message::Taken { weight });
        }
        if self.is_established() && self.has_wish() {
            self.told_wanted = Some(self.wanted_here);
            return Some(Message::Neighbour { wanted: self.wanted_here });
        }
        let probes = if self.is_established() { self.branches.take_probes(MAX_TOLD) } else { Vec::new() };
        if !probes.is_empty() {
            return Some(Message::Probe { probes });
        }
        // The context comes before a want, so that the peer knows at once what else to send.
        let announces = std::mem::take(&mut self.announces);
        if let Some(news) = announces.then(|| self.news(replica, members, overlay)).flatten() {
            return Some(news);
        }
        if !self.pruning.is_empty() {
            return Some(Message::Prune { lanes: first_lanes(&mut self.pruning) });
        }
        if self.asking.is_empty() {
            return None;
        }
        let lanes = first_lanes(&mut self.asking).into_iter();
        let lanes: BTreeSet<Lane> = lanes.map(|lane| store.home(&lane)).collect();
        let lanes = lanes.into_iter().map(|lane| {
            let seen = store.seen_of(&lane).map(first_ranges).unwrap_or_default();
            (lane, seen)
        });
        Some(Message::Want { lanes: lanes.collect() })
    }

    /// What the peer was not told yet of what was seen here, as much as fits into a frame.
    ///
    /// Authors serve those with whom they are linked: of their writes nothing is told while they say that they
    /// are. A mesh in which everybody told everybody of every write would mostly talk of what all know.
    fn news(&mut self, replica: &Replica, members: &Members, overlay: &Overlay) -> Option<Message> {
        let (store, own) = (replica.store(), replica.actor().node);
        // Whoever is told of an author's writes asks for them if it gets them no other way.
        self.branches.offered();
        if self.told.is_none() || self.telling.is_some() {
            return Some(self.everything(store));
        }
        let news = store.context_since(self.told.replace(store.revision())?);
        let again: CausalContext = std::mem::take(&mut self.retelling)
            .into_iter()
            .map(|lane| store.home(&lane))
            .filter_map(|lane| Some((lane.clone(), store.seen_of(&lane)?.clone())))
            .collect();
        let served = |lane: &Lane| {
            let author = lane.actor().node;
            let serves = |author| !overlay.is_partial() && members.claims(author, &self.peer);
            author == own || author == self.peer || serves(&author)
        };
        let news = news.lanes().filter(|(lane, _)| again.lane(lane).is_none() && !served(lane));
        // What the peer has itself is no news.
        let cursor = self.cursor.as_ref();
        let seen = news.chain(again.lanes()).filter(|(lane, seen)| {
            cursor.and_then(|cursor| cursor.lane(lane)).is_none_or(|known| !known.is_superset(seen))
        });
        let seen: CausalContext = seen.map(|(lane, seen)| (lane.clone(), first_ranges(seen))).collect();
        if seen.lane_count() > MAX_TOLD {
            self.told = None;
            return Some(self.everything(store));
        }
        (!seen.is_empty()).then_some(Message::Context { complete: false, seen })
    }

    /// All that was seen here, in as many frames as it takes: the first one says that it begins anew.
    fn everything(&mut self, store: &Store) -> Message {
        let told = self.telling.take();
        let complete = told.is_none();
        if complete {
            // What changes while the frames go out is news afterwards.
            self.told = Some(store.revision());
            self.told_all = true;
        }
        let context = store.context();
        let mut rest = context.lanes().filter(|(lane, _)| told.as_ref().is_none_or(|told| *lane > told));
        let seen: CausalContext =
            rest.by_ref().take(MAX_TOLD).map(|(lane, seen)| (lane.clone(), first_ranges(seen))).collect();
        if rest.next().is_some() {
            self.telling = seen.lanes().last().map(|(lane, _)| lane.clone());
            self.announces = true;
        }
        Message::Context { complete, seen }
    }
}

/// Takes as many lanes as one frame tells.
fn first_lanes(lanes: &mut BTreeSet<Lane>) -> Vec<Lane> {
    let rest = lanes.iter().nth(MAX_TOLD).cloned();
    let rest = rest.map(|lane| lanes.split_off(&lane)).unwrap_or_default();
    std::mem::replace(lanes, rest).into_iter().collect()
}
