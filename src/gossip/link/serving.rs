//! What a peer gets on the delta channel: what it lacks of this node's own writes, of those that are passed on to it, and of
//! what it has asked for.

use super::{Link, MAX_TOLD};
use crate::crdt::{CausalContext, Class, Delta, Lane, RangeSet, Store};
use crate::gossip::Message;
use crate::gossip::overlay::Overlay;
use crate::id::NodeId;
use crate::replica::Replica;
use crate::time::Moment;

impl Link {
    /// The next frame of the delta channel, if it has room and the peer lacks something: of this node's own
    /// writes, of what it asked for, or of what is passed on to it; in a partial view that is everything but what
    /// it gets another way. `links` is how many there are, which is how often such a frame is made.
    pub(in crate::gossip) fn next_delta(
        &mut self,
        replica: &Replica,
        overlay: &Overlay,
        budget: usize,
        links: usize,
        now: Moment,
    ) -> Option<Message> {
        if !self.has_delta_room(now) || self.cursor.is_none() {
            return None;
        }
        let (store, author) = (replica.store(), replica.actor().node);
        self.note_fresh(store, author, overlay);
        if self.fresh.is_empty() && self.wanted.is_empty() {
            return None;
        }
        let room = self.window.take_room(budget)?;
        let delta = self.lacking(store, room);
        if delta.is_empty() {
            self.window.give_back();
            return None;
        }
        let message = Message::Delta(delta);
        let weight = message.weight();
        self.window.add(weight, now);
        self.window.gather(weight, links, now);
        Some(message)
    }

    /// What the peer lacks of what it is to get, as much as fits: then it will have that. For every frame no more is looked
    /// at than it takes.
    fn lacking(&mut self, store: &Store, room: usize) -> Delta {
        let Self { cursor: Some(cursor), fresh, wanted, offered, stale, .. } = self else {
            return Delta::default();
        };
        let (mut settled, mut below) = (Vec::new(), Vec::new());
        let lacks = |lane: &&Lane| {
            // A past can only be fetched, and what lies below a floor: that is offered once, and whenever it is asked for.
            if store.is_below_floor(lane, cursor.lane(lane)) {
                below.push((*lane).clone());
            } else if !lane.is_past() && !has_all(cursor, store, lane) {
                return true;
            }
            settled.push((*lane).clone());
            false
        };
        let all = || fresh.iter().chain(wanted.iter().filter(|lane| !fresh.contains(*lane)));
        // What finds a tunnel goes first.
        let [registry, others] =
            [true, false].map(|first| all().filter(move |lane| (lane.class() == Class::Registry) == first));
        let delta = store.delta(registry.chain(others).filter(lacks).take(MAX_TOLD), cursor, room);
        stale.extend(below.into_iter().filter_map(|lane| match wanted.contains(&lane) {
            true => Some(store.home(&lane)),
            false => Some(lane).filter(|lane| !offered.contains(lane)),
        }));
        advance(cursor, &delta);
        let told = delta.accounted.lanes().map(|(lane, _)| lane);
        settled.extend(told.filter(|lane| has_all(cursor, store, lane)).cloned());
        for lane in settled {
            fresh.remove(&lane);
            wanted.remove(&lane);
        }
        delta
    }

    /// Finds the lanes that the peer may lack something of: this node's own, and those that are passed on to it. Only
    /// what has changed is looked at, for this is done on every link whenever anything comes.
    fn note_fresh(&mut self, store: &Store, author: NodeId, overlay: &Overlay) {
        let serves = !overlay.is_partial() || self.is_neighbour();
        let offers = overlay.is_partial() && self.is_neighbour();
        // No delta brings a past: whoever lacks it asks.
        for lane in store.lanes_since(self.passed).filter(|lane| !lane.is_past()) {
            let of = lane.actor().node;
            let passes = if of == author { serves } else { self.branches.passes(&of) == Some(true) };
            if passes {
                self.fresh.insert(lane.clone());
            }
            if offers && of != author && of != self.peer {
                self.branches.offer(of);
            }
        }
        self.passed = store.revision();
        if std::mem::take(&mut self.rechecks) && serves {
            self.fresh.extend(store.lanes_of(&author).filter(|lane| !lane.is_past()).cloned());
        }
    }
}

/// Whether somebody has all that was seen here of a lane. Of one that a write has observed that may be nothing.
fn has_all(cursor: &CausalContext, store: &Store, lane: &Lane) -> bool {
    let has = |ours: &RangeSet| cursor.lane(lane).is_some_and(|known| known.is_superset(ours));
    store.seen_of(lane).is_none_or(|ours| ours.is_empty() || has(ours))
}

/// A delta has been handed over: whoever gets it will have what it brings.
pub(super) fn advance(cursor: &mut CausalContext, delta: &Delta) {
    cursor.union(&delta.accounted);
    for entry in delta.items.iter().flat_map(|item| &item.entries) {
        cursor.insert(&entry.dot);
    }
}
