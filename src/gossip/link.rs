//! One link to a peer: what it has, what it was told, and what waits for room on its channels.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Channel, Message, Side, Versions};
use crate::crdt::{CausalContext, Delta, Lane, RangeSet, Revision, Store};
use crate::id::{Generation, NodeId};
use crate::replica::Replica;
use crate::time::{Moment, Now};

/// The most lanes in one context or want, and the most ranges of each: far below the limit of a frame.
const MAX_TOLD: usize = 1_024;
const MAX_TOLD_RANGES: usize = 32;

/// The state of a link. Its size depends on the number of actors and of gaps in what they wrote, and on nothing
/// else.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) side: Side,
    /// The peer's life, once its hello came.
    pub(super) generation: Option<Generation>,
    pub(super) up_at: Moment,
    /// When the peer was last heard, by any message: whatever comes is a sign of life.
    pub(super) heard_at: Moment,
    hello_sent: bool,
    /// What the peer has, or will have when the frames before the next one have arrived. Unknown until it
    /// said so, or its digest did.
    cursor: Option<CausalContext>,
    /// The state of affairs that the peer was told of. Unknown: then it is to be told everything.
    told: Option<Revision>,
    /// Whether it was told everything on this link.
    told_all: bool,
    /// Whether it is time to tell it the news.
    announces: bool,
    /// A complete context that does not fit into one frame: the last lane that was told.
    telling: Option<Lane>,
    /// Whether a heartbeat is to go on the control channel: the peer asks for one, or we doubt that it lives.
    beats: bool,
    doubts: bool,
    /// The lanes that the peer asked for.
    wanted: BTreeSet<Lane>,
    /// The lanes that the peer is to be asked for.
    asking: BTreeSet<Lane>,
    control_is_writable: bool,
    delta_is_writable: bool,
    /// Whether it was told of what this peer sends that it is ahead of the clock.
    drifting: bool,
    /// Since when both states have differed.
    differing_since: Option<Moment>,
}

impl Link {
    pub(super) fn new(peer: NodeId, side: Side, now: Moment) -> Self {
        Self {
            peer,
            side,
            generation: None,
            up_at: now,
            heard_at: now,
            hello_sent: false,
            cursor: None,
            told: None,
            told_all: false,
            announces: false,
            telling: None,
            beats: false,
            doubts: false,
            wanted: BTreeSet::new(),
            asking: BTreeSet::new(),
            control_is_writable: true,
            delta_is_writable: true,
            drifting: false,
            differing_since: None,
        }
    }

    /// Whether both sides have introduced themselves.
    pub(super) fn is_established(&self) -> bool {
        self.generation.is_some()
    }

    pub(super) fn set_writable(&mut self, channel: Channel) {
        match channel {
            Channel::Control => self.control_is_writable = true,
            Channel::Delta => self.delta_is_writable = true,
        }
    }

    /// The peer's hello: if its state is ours, it has what we have; else both tell each other all.
    pub(super) fn handle_hello(&mut self, generation: Generation, same_state: bool, store: &Store) {
        self.generation = Some(generation);
        if same_state {
            self.cursor = Some(store.context());
            self.told = Some(store.revision());
        } else {
            self.announces = true;
        }
    }

    /// What the peer says it has seen.
    pub(super) fn handle_context(&mut self, complete: bool, seen: CausalContext) {
        if complete {
            self.cursor = Some(seen);
            if !self.told_all {
                // It does not know what we have, although we thought that it did.
                self.told = None;
                self.announces = true;
            }
        } else if let Some(cursor) = &mut self.cursor {
            cursor.union(&seen);
        }
    }

    /// The peer asks for lanes and says what it has of them, which is truer than what we thought.
    pub(super) fn handle_want(&mut self, lanes: Vec<(Lane, RangeSet)>) {
        let cursor = self.cursor.get_or_insert_default();
        for (lane, seen) in lanes {
            cursor.remove_lane(&lane);
            cursor.insert_all(&lane, &seen);
            self.wanted.insert(lane);
        }
    }

    /// The peer has what it sent.
    pub(super) fn handle_delta(&mut self, delta: &Delta) {
        if let Some(cursor) = &mut self.cursor {
            advance(cursor, delta);
        }
    }

    /// What the peer sent was ahead of the clock beyond the bound, or was not. Says whether that is news.
    pub(super) fn handle_drift(&mut self, drifts: bool) -> bool {
        let news = drifts && !self.drifting;
        self.drifting = drifts;
        news
    }

    /// Whether the peer waits for lanes that are not this node's own.
    pub(super) fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The digest of the peer's state came by. Says whether both have differed for too long.
    pub(super) fn handle_digest(&mut self, same_state: bool, audit_after: Duration, now: Moment) -> bool {
        if same_state {
            self.differing_since = None;
            return false;
        }
        let since = *self.differing_since.get_or_insert(now);
        if now.since(since) < audit_after {
            return false;
        }
        self.differing_since = Some(now);
        self.told = None;
        self.announces = true;
        true
    }

    /// The peer has not heard us for some time.
    pub(super) fn answer(&mut self) {
        self.beats = true;
    }

    /// We have not heard the peer for some time.
    pub(super) fn doubt(&mut self) {
        self.beats = true;
        self.doubts = true;
    }

    /// It is time to tell the peer what is new.
    pub(super) fn announce(&mut self) {
        self.announces = self.is_established();
    }

    /// The peer is to be asked for a lane.
    pub(super) fn ask(&mut self, lane: Lane) {
        self.asking.insert(lane);
    }

    /// Whether the peer has something of a lane that we have not.
    pub(super) fn has_more(&self, lane: &Lane, ours: Option<&RangeSet>) -> bool {
        let theirs = self.cursor.as_ref().and_then(|cursor| cursor.lane(lane));
        theirs.is_some_and(|theirs| ours.is_none_or(|ours| !ours.is_superset(theirs)))
    }

    /// The next frame of the control channel, if it has room and there is something to say.
    pub(super) fn next_control(&mut self, replica: &Replica, now: Now) -> Option<Message> {
        if !self.control_is_writable {
            return None;
        }
        let message = self.control(replica, now)?;
        self.control_is_writable = false;
        Some(message)
    }

    fn control(&mut self, replica: &Replica, now: Now) -> Option<Message> {
        let store = replica.store();
        if !self.hello_sent {
            self.hello_sent = true;
            let generation = replica.actor().generation;
            return Some(Message::Hello {
                versions: Versions::OURS,
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
        // The context comes before a want, so that the peer knows at once what else to send.
        let news = if std::mem::take(&mut self.announces) { self.news(store) } else { None };
        if news.is_some() || self.asking.is_empty() {
            return news;
        }
        let rest = self.asking.iter().nth(MAX_TOLD).cloned();
        let rest = rest.map(|lane| self.asking.split_off(&lane)).unwrap_or_default();
        let lanes = std::mem::replace(&mut self.asking, rest).into_iter();
        let lanes = lanes.map(|lane| {
            let seen = store.seen_of(&lane).map(first_ranges).unwrap_or_default();
            (lane, seen)
        });
        let lanes = lanes.collect();
        Some(Message::Want { lanes })
    }

    /// What the peer was not told yet of what was seen here, as much as fits into a frame.
    fn news(&mut self, store: &Store) -> Option<Message> {
        if self.told.is_none() || self.telling.is_some() {
            return Some(self.everything(store));
        }
        let news = store.context_since(self.told.replace(store.revision())?);
        // What the peer has itself is no news.
        let cursor = self.cursor.as_ref();
        let seen = news.lanes().filter(|(lane, seen)| {
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

    /// The next frame of the delta channel, if it has room and the peer lacks something: of this node's own
    /// writes, or of what it asked for.
    pub(super) fn next_delta(&mut self, replica: &Replica, budget: usize) -> Option<Message> {
        if !self.delta_is_writable || !self.is_established() {
            return None;
        }
        let (store, cursor) = (replica.store(), self.cursor.as_mut()?);
        let lacks = |lane: &Lane| {
            let ours = store.seen_of(lane);
            ours.is_some_and(|ours| cursor.lane(lane).is_none_or(|known| !known.is_superset(ours)))
        };
        self.wanted.retain(&lacks);
        let author = replica.actor().node;
        let own = store.lanes_of(&author).filter(|lane| lacks(lane));
        let lanes: BTreeSet<&Lane> = own.chain(&self.wanted).take(MAX_TOLD).collect();
        if lanes.is_empty() {
            return None;
        }
        let delta = store.delta(lanes, cursor, budget);
        advance(cursor, &delta);
        self.delta_is_writable = false;
        Some(Message::Delta(delta))
    }
}

/// What one frame tells of a lane. To say less than one has seen costs a little traffic and nothing else.
fn first_ranges(seen: &RangeSet) -> RangeSet {
    if seen.range_count() <= MAX_TOLD_RANGES {
        seen.clone()
    } else {
        seen.ranges().take(MAX_TOLD_RANGES).collect()
    }
}

/// A delta has been handed over: whoever gets it will have what it brings.
fn advance(cursor: &mut CausalContext, delta: &Delta) {
    cursor.union(&delta.accounted);
    for entry in delta.items.iter().flat_map(|item| &item.entries) {
        cursor.insert(&entry.dot);
    }
}
