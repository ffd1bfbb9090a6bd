//! One link to a peer: what it has, what it was told, and what waits for room on its channels.

use std::collections::BTreeSet;
use std::time::Duration;

use super::audit::Audit;
use super::branches::Branches;
use super::overlay::Overlay;
use super::reconcile::Serve;
use super::window::{Taken, Window};
use super::{Ask, Channel, Message, Side};
use crate::crdt::{CausalContext, Delta, Lane, RangeSet, Revision, Store};
use crate::id::{Generation, NodeId};
use crate::replica::Replica;
use crate::time::Moment;

mod serving;
mod telling;

/// The most lanes in one context or want, and the most ranges of each: far below the limit of a frame.
pub(super) const MAX_TOLD: usize = 1_024;
const MAX_TOLD_RANGES: usize = 32;

/// How long a link of a large mesh has to have been wanted before it counts as one that stays.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// How far a peer has come, as this node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many of this node's own writes the peer neither has nor is about to get.
    pub behind: u64,
    /// When the peer was last heard.
    pub heard_at: Moment,
    /// Since when its heartbeats have told of another state than ours; nothing while they tell of the same.
    pub differing_since: Option<Moment>,
}

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
    /// The lanes that the peer lacks something of below their floors, and that it was told so of.
    stale: BTreeSet<Lane>,
    offered: BTreeSet<Lane>,
    /// Whether what the peer was fetching is void.
    offers_again: bool,
    /// What the peer fetches, and what it asks for while too many others do.
    pub(super) serve: Option<Serve>,
    pub(super) waits: Option<(u64, Ask)>,
    control_is_writable: bool,
    /// What may be sent on the delta channel, and what came on it.
    window: Window,
    taken: Taken,
    /// Whether it was told of what this peer sends that it is ahead of the clock.
    drifting: bool,
    audit: Audit,
    /// Whether this end wants the link, what the peer was told of that, and what it has said itself. In a full mesh all
    /// are wanted without a word; in a large one each end says which it wants, and so does whoever is told.
    wanted_here: bool,
    told_wanted: Option<bool>,
    wanted_there: Option<bool>,
    declares: bool,
    surplus_since: Option<Moment>,
    /// Since when either has wanted it, and whether that is long enough for it to stay.
    wanted_since: Option<Moment>,
    is_settled: bool,
    /// Whose writes are passed on here.
    branches: Branches,
    /// The lanes whose authors' writes the peer is to be asked not to pass on.
    pruning: BTreeSet<Lane>,
    /// The lanes with something to pass on, found by what has changed up to `passed`.
    fresh: BTreeSet<Lane>,
    passed: Revision,
    /// Whether this node's own lanes are to be looked through whatever has changed: the peer has said anew what it has.
    rechecks: bool,
    /// The lanes that the peer is to be told of although their author is linked with it, or was.
    retelling: BTreeSet<Lane>,
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
            stale: BTreeSet::new(),
            offered: BTreeSet::new(),
            offers_again: false,
            serve: None,
            waits: None,
            control_is_writable: true,
            window: Window::new(now),
            taken: Taken::default(),
            drifting: false,
            audit: Audit::default(),
            wanted_here: true,
            told_wanted: None,
            wanted_there: None,
            declares: false,
            surplus_since: None,
            wanted_since: None,
            is_settled: false,
            branches: Branches::default(),
            pruning: BTreeSet::new(),
            fresh: BTreeSet::new(),
            passed: Revision::default(),
            rechecks: true,
            retelling: BTreeSet::new(),
        }
    }

    /// Whether both sides have introduced themselves.
    pub(super) fn is_established(&self) -> bool {
        self.generation.is_some()
    }

    pub(super) fn set_writable(&mut self, channel: Channel) {
        match channel {
            Channel::Control => self.control_is_writable = true,
            Channel::Delta => self.window.set_writable(),
        }
    }

    /// The peer's hello: if its state is ours, it has what we have; else both tell each other all.
    pub(super) fn handle_hello(&mut self, generation: Generation, same_state: bool, store: &Store) {
        self.generation = Some(generation);
        // Of what was there before, the peer asks for what it lacks.
        self.passed = store.revision();
        if same_state {
            self.cursor = Some(store.context());
            self.told = Some(store.revision());
        } else {
            self.announces = true;
        }
    }

    /// What the peer says it has seen. Says whether it has just agreed with us, and it is our turn to agree with it.
    pub(super) fn handle_context(&mut self, complete: bool, seen: CausalContext) -> bool {
        let mut served = None;
        if complete {
            self.offered.clear();
            self.stale.clear();
            // It says so when it has agreed.
            served = self.serve.take_if(|serve| serve.is_finished());
            self.cursor = Some(seen);
            self.rechecks = true;
            if !self.told_all {
                // It does not know what we have, although we thought that it did.
                self.told = None;
                self.announces = true;
            }
        } else if let Some(cursor) = &mut self.cursor {
            cursor.union(&seen);
        }
        served.is_some_and(|serve| serve.is_mutual) && self.audit.take_fetch()
    }

    /// The peer asks for lanes and says what it has of them, which is truer than what we thought. Where it has no
    /// better way to them, it gets from now on what comes of their authors.
    pub(super) fn handle_want(&mut self, lanes: Vec<(Lane, RangeSet)>, has_better: impl Fn(&NodeId) -> bool) {
        let cursor = self.cursor.get_or_insert_default();
        self.rechecks = true;
        for (lane, seen) in lanes {
            self.offered.remove(&lane);
            cursor.remove_lane(&lane);
            cursor.insert_all(&lane, &seen);
            let author = lane.actor().node;
            if !has_better(&author) {
                self.branches.set(author, true);
            }
            self.wanted.insert(lane);
        }
    }

    /// The peer gets the writes of these lanes' authors another way.
    pub(super) fn handle_prune(&mut self, lanes: impl Iterator<Item = Lane>) {
        for author in lanes.map(|lane| lane.actor().node) {
            self.branches.set(author, false);
            self.fresh.retain(|lane| lane.actor().node != author);
        }
    }

    /// What comes of a lane comes another way: the peer is not to pass on its author's writes here.
    pub(super) fn prune(&mut self, lane: Lane) {
        self.branches.refuse(lane.actor().node);
        self.pruning.insert(lane);
    }

    /// Whether what comes of an author is what was on its way when the peer was told to bring nothing.
    pub(super) fn refuses(&self, author: &NodeId) -> bool {
        self.branches.refuses(author)
    }

    /// Whether the peer has asked for that author's writes, and gets them from here.
    pub(super) fn serves(&self, author: &NodeId) -> bool {
        self.branches.passes(author) == Some(true)
    }

    /// Whether it was wanted for so long that it will most likely stay.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Looks whether it was.
    pub(super) fn settle(&mut self, now: Moment) {
        if self.is_neighbour() {
            let since = *self.wanted_since.get_or_insert(now);
            self.is_settled |= now.since(since) >= SETTLED_AFTER;
        }
    }

    /// An author's probe is to be passed on.
    pub(super) fn probe(&mut self, lane: Lane, number: u64) {
        self.branches.probe(lane, number);
    }

    /// The peer has passed an author's probe on, and so does not get the author's writes here.
    pub(super) fn handle_probe(&mut self, author: NodeId) {
        self.branches.set(author, false);
    }

    /// Whether the peer wants this link. Says whether so the last wish for it has gone.
    pub(super) fn handle_neighbour(&mut self, wanted: bool) -> bool {
        let before = self.is_neighbour();
        self.wanted_there = Some(wanted);
        self.declares = true;
        self.is_cut(before)
    }

    /// Whether this end wants it. Says whether so the last wish for it has gone.
    pub(super) fn want(&mut self, wanted: bool) -> bool {
        let before = self.is_neighbour();
        self.wanted_here = wanted;
        self.is_cut(before)
    }

    /// Nothing is passed on over a link that nobody wants; where one is wanted again, the peer may lack something.
    fn is_cut(&mut self, before: bool) -> bool {
        self.rechecks |= !before && self.is_neighbour();
        let is_cut = before && !self.is_neighbour();
        if is_cut {
            (self.wanted_since, self.is_settled) = (None, false);
            self.branches.clear();
        }
        is_cut
    }

    /// The peer is to be told that this end wants the link, too.
    pub(super) fn declare(&mut self) {
        self.declares = true;
    }

    /// Whether the peer is to be told what this end wants.
    pub(super) fn has_wish(&self) -> bool {
        self.told_wanted.map_or(self.declares || !self.wanted_here, |told| told != self.wanted_here)
    }

    /// Whether either end wants it: such links are published, and writes are passed on over them.
    pub(super) fn is_neighbour(&self) -> bool {
        self.wanted_here || self.wanted_there == Some(true)
    }

    /// Whether there is something of an author whose writes the peer has neither asked for nor gets another way.
    pub(super) fn take_offers(&mut self) -> bool {
        self.branches.take_offers()
    }

    /// How much is remembered that grows and shrinks.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        let ranges =
            self.cursor.iter().flat_map(CausalContext::lanes).map(|(_, seen)| 1 + seen.range_count());
        let lanes = [&self.wanted, &self.asking, &self.stale, &self.offered, &self.pruning, &self.fresh];
        ranges.sum::<usize>()
            + lanes.map(BTreeSet::len).iter().sum::<usize>()
            + self.branches.remembered()
            + self.retelling.len()
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.branches.remembered()
    }

    /// Since when neither has wanted it.
    pub(super) fn surplus_since(&mut self, now: Moment) -> Option<Moment> {
        self.surplus_since = if self.is_neighbour() { None } else { Some(self.surplus_since.unwrap_or(now)) };
        self.surplus_since
    }

    /// The peer is to be told what is here of these lanes, for their author may not do it.
    pub(super) fn retell<'a>(&mut self, lanes: impl Iterator<Item = &'a Lane>) {
        self.retelling.extend(lanes.cloned());
    }

    /// Lives of a node are over and known here as a whole: what is remembered of their lanes says nothing any more.
    /// Whether the peer knows them as a whole too, it says itself.
    pub(super) fn bury(&mut self, past: &Lane) {
        let lanes = [&mut self.wanted, &mut self.asking, &mut self.stale, &mut self.offered];
        for lanes in lanes.into_iter().chain([&mut self.pruning, &mut self.fresh, &mut self.retelling]) {
            lanes.retain(|lane| !past.buries(lane));
        }
        let knows = self.cursor.as_ref().is_some_and(|cursor| cursor.past_with(past).is_some());
        if let Some(cursor) = self.cursor.as_mut().filter(|_| !knows) {
            cursor.bury(past);
        }
    }

    /// An author writes no more.
    pub(super) fn forget(&mut self, author: &NodeId) {
        self.branches.forget(author);
    }

    /// A frame came of the delta channel.
    pub(super) fn take(&mut self, weight: u64) {
        self.taken.add(weight);
    }

    /// The peer has taken so much of the delta channel.
    pub(super) fn handle_taken(&mut self, weight: u64, now: Moment) {
        self.window.acknowledge(weight, now);
    }

    /// The peer has what it sent.
    pub(super) fn handle_delta(&mut self, delta: &Delta) {
        if let Some(cursor) = &mut self.cursor {
            serving::advance(cursor, delta);
        }
    }

    /// What the peer sent was ahead of the clock beyond the bound, or was not. Says whether that is news.
    pub(super) fn handle_drift(&mut self, drifts: bool) -> bool {
        let news = drifts && !self.drifting;
        self.drifting = drifts;
        news
    }

    /// How far the peer has come. What others wrote they send themselves, and it need not tell us that it has it.
    pub(super) fn progress(&self, replica: &Replica) -> Progress {
        let (store, author) = (replica.store(), replica.actor().node);
        let lacks = |known: &CausalContext| {
            let own = store.lanes_of(&author).filter(|lane| !lane.is_past());
            let own = own.filter_map(|lane| Some((lane, store.seen_of(lane)?)));
            own.map(|(lane, seen)| known.lane(lane).map_or(seen.len(), |known| seen.difference(known).len()))
                .sum()
        };
        // Nothing is known of what it has before it said so: then its digest has said that it has all of it.
        let behind = self.cursor.as_ref().map_or(0, lacks);
        Progress { behind, heard_at: self.heard_at, differing_since: self.audit.differing_since() }
    }

    /// Whether the peer may get what others have written.
    pub(super) fn is_waiting(&self, overlay: &Overlay) -> bool {
        !self.wanted.is_empty() || !self.branches.is_empty() || overlay.is_partial()
    }

    /// The digest of the peer's state came by: where both have differed for too long, the peer is told everything.
    pub(super) fn handle_digest(
        &mut self,
        theirs: [u8; 16],
        ours: [u8; 16],
        audit_after: Duration,
        now: Moment,
    ) {
        if self.audit.compare(theirs, ours, audit_after, now) {
            self.tell_all();
        }
    }

    /// Whether the peer has said that it has seen exactly what was seen here.
    pub(super) fn has_seen_the_same(&self, store: &Store) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| *cursor == store.context())
    }

    /// Whether it is time to fetch from this peer what telling does not bring: it differs and has seen the same.
    pub(super) fn take_difference(&mut self, store: &Store, audit_after: Duration, now: Moment) -> bool {
        self.audit.is_in_vain(audit_after, now) && self.has_seen_the_same(store) && self.audit.take_fetch()
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
        self.announces = self.is_established() && (self.is_neighbour() || !self.told_all);
    }

    /// The peer is to be asked for a lane.
    pub(super) fn ask(&mut self, lane: Lane) {
        self.branches.ask(&lane.actor().node);
        self.asking.insert(lane);
    }

    /// Whether the peer has something of a lane that we have not.
    pub(super) fn has_more(&self, lane: &Lane, ours: Option<&RangeSet>) -> bool {
        let theirs = self.cursor.as_ref().and_then(|cursor| cursor.lane(lane));
        theirs.is_some_and(|theirs| ours.is_none_or(|ours| !ours.is_superset(theirs)))
    }

    /// What the peer is known to have.
    pub(super) fn cursor(&self) -> Option<&CausalContext> {
        self.cursor.as_ref()
    }

    /// The peer has this, or will have when what was sent has arrived.
    pub(super) fn has(&mut self, seen: &CausalContext) {
        if let Some(cursor) = &mut self.cursor {
            cursor.union(seen);
        }
    }

    /// The peer is to be told all that was seen here, for it cannot know.
    pub(super) fn tell_all(&mut self) {
        self.told = None;
        self.announces = true;
    }

    /// Takes the room for a control frame, if there is any.
    pub(super) fn take_control_room(&mut self) -> bool {
        self.generation.is_some() && std::mem::take(&mut self.control_is_writable)
    }

    /// Takes the room for a frame of the delta channel, if there is any, and says how large it may be about.
    pub(super) fn take_delta_room(&mut self, budget: usize) -> Option<usize> {
        self.generation.is_some().then(|| self.window.take_room(budget)).flatten()
    }

    /// A frame goes out on the delta channel.
    pub(super) fn send(&mut self, message: &Message, now: Moment) {
        self.window.add(message.weight(), now);
    }

    /// The lanes that the peer is to be told of that it has to fetch.
    pub(super) fn take_stale(&mut self) -> BTreeSet<Lane> {
        let rest = self.stale.iter().nth(MAX_TOLD).cloned();
        let rest = rest.map(|lane| self.stale.split_off(&lane)).unwrap_or_default();
        let stale = std::mem::replace(&mut self.stale, rest);
        self.offers_again = false;
        self.offered.extend(stale.iter().cloned());
        stale
    }

    /// Whether there are such lanes and the peer does not fetch them already, or has to begin anew.
    pub(super) fn has_stale(&self) -> bool {
        (self.offers_again || !self.stale.is_empty()) && self.serve.is_none()
    }

    /// What the peer fetches is not what it was any more: it has to begin anew.
    pub(super) fn offer_again(&mut self) {
        if self.serve.take().is_some() {
            self.stale.append(&mut self.offered);
            self.offers_again = true;
        }
    }

    /// Whether a frame of the delta channel may be made now.
    pub(super) fn has_delta_room(&self, now: Moment) -> bool {
        self.window.is_writable() && self.is_established() && self.gathers_until(now).is_none()
    }

    /// Until when what the peer lacks gathers before it is sent.
    pub(super) fn gathers_until(&self, now: Moment) -> Option<Moment> {
        self.window.gathers_until(now)
    }
}

/// What one frame tells of a lane. To say less than one has seen costs a little traffic and nothing else.
pub(super) fn first_ranges(seen: &RangeSet) -> RangeSet {
    if seen.range_count() <= MAX_TOLD_RANGES {
        seen.clone()
    } else {
        seen.ranges().take(MAX_TOLD_RANGES).collect()
    }
}
