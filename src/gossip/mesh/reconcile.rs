//! When removals go, and what follows from it: fetching from a peer that let go of what would have told of them.

use std::collections::{BTreeSet, VecDeque};

use super::Mesh;
use crate::crdt::{CausalContext, Delta, Lane, Reconciliation, Revision};
use crate::gossip::link::Link;
use crate::gossip::reconcile::{Fetch, MAX_SERVED, Serve};
use crate::gossip::timer::Timer;
use crate::gossip::{
    Alarm, Ask, Channel, CloseReason, Durability, Event, LinkId, MemberState, Message, Output, Record, Tell,
};
use crate::time::{Moment, Now};

/// The most keys that are looked at in one go: the core must not stand still over them.
const MAX_LOOKED_AT: usize = 16_384;

/// How many `reconcile_timeout`s a peer is served at most: as long as a large state needs over a slow link.
const MAX_SERVED_FOR: u32 = 60;

/// What is remembered of collecting and fetching.
#[derive(Debug, Default)]
pub(super) struct Reconcile {
    /// What this node fetches: from one peer at a time.
    fetch: Option<Fetch>,
    /// The number of the last request of the last fetch.
    number: u64,
    /// The links whose peers have offered to be fetched from.
    offers: BTreeSet<LinkId>,
    /// Which change of the context came last at some times, up to `collect_after` ago.
    ages: VecDeque<(Moment, Revision)>,
    /// The last change that is older than that.
    ripe: Revision,
}

impl Reconcile {
    /// Something came from a peer by a delta, or was written here: in a life that is over for the peer which is fetched from,
    /// without this node knowing.
    pub(super) fn note(&mut self, delta: &Delta) {
        if let Some(fetch) = &mut self.fetch {
            fetch.note(delta);
        }
    }
}

/// Letting go.
impl Mesh {
    /// Lets removals go that every member has seen, as far as can be known, and those that are old.
    ///
    /// Neither is needed for safety: whoever lacks one of them fetches. It only should be rare.
    pub(super) fn collect(&mut self, now: Now) {
        let interval = self.config.collect_interval;
        self.timers.set(Timer::Collect, Some(now.monotone + interval));
        let Reconcile { ages, ripe, .. } = &mut self.reconcile;
        ages.push_back((now.monotone, self.replica.store().revision()));
        while let Some((at, revision)) = ages.front().copied()
            && now.monotone.since(at) >= self.config.collect_after
        {
            *ripe = revision;
            ages.pop_front();
        }
        self.replica.forget_lanes();
        if self.replica.store().removed() == 0 || self.links.values().any(|link| link.serve.is_some()) {
            return;
        }
        let ripe = *ripe;
        // Members that are down count: they may be back soon, and be spared from fetching.
        let members = self.members.iter().filter(|member| member.state != MemberState::Left);
        let links = &self.links;
        let cursors: Option<Vec<&CausalContext>> = members
            .map(|member| {
                let link = links.values().find(|link| link.peer == member.node && link.is_established());
                link.and_then(|link| link.cursor())
            })
            .collect();
        let has = |cursor: &CausalContext, (lane, counter): &(Lane, u64)| {
            cursor.lane(lane).is_some_and(|seen| seen.contiguous() >= *counter)
        };
        let is_stable = |cover: &[(Lane, u64)]| {
            let cursors = cursors.as_ref();
            cursors.is_some_and(|all| all.iter().all(|cursor| cover.iter().all(|dot| has(cursor, dot))))
        };
        let keys =
            self.replica.collect(MAX_LOOKED_AT, |removal| removal.since <= ripe || is_stable(removal.cover));
        if !keys.is_empty() && self.config.durability == Durability::Disk {
            let ticket = self.ticket();
            self.outputs.push_back(Output::Persist { ticket, record: Record::Collected(keys) });
        }
    }
}

/// Fetching and being fetched from.
impl Mesh {
    /// A peer says that what this node lacks can only be fetched.
    pub(super) fn handle_offer(&mut self, now: Now, link: LinkId, floors: &CausalContext) {
        // Whoever is fetched from and offers has changed its mind about what it told.
        let begins_anew = self.stop_fetching(link);
        let store = self.replica.store();
        let lacks = |lane: &Lane| {
            let (seen, floor) = (store.seen_of(lane), floors.lane(lane));
            floor.is_some_and(|floor| seen.is_none_or(|seen| !seen.is_superset(floor)))
        };
        if begins_anew || floors.lanes().any(|(lane, _)| lacks(lane)) {
            self.reconcile.offers.insert(link);
            self.fetch(now);
        } else if let Some(state) = self.links.get_mut(&link) {
            // It does not know what this node has.
            floors.lanes().for_each(|(lane, _)| state.ask(lane.clone()));
        }
    }

    /// Looks whether a peer has seen the same and holds something else for too long.
    pub(super) fn look_for_difference(&mut self, now: Now, link: LinkId) {
        if self.is_healing()
            && let Some(state) = self.links.get_mut(&link)
            && state.take_difference(self.replica.store(), self.config.audit_after, now.monotone)
        {
            self.handle_difference(now, link);
        }
    }

    /// Whether something can come of that. Where it can be nothing but a bug, it is not worth what it costs.
    fn is_healing(&self) -> bool {
        self.config.evict_after.is_some() || self.replica.is_sealed()
    }

    /// A peer has seen the same and holds something else. That must not be, and where it is, by a bug, by a disk or because
    /// two have retired lives of which they knew different things, both agree on what is dead.
    pub(super) fn handle_difference(&mut self, now: Now, link: LinkId) {
        self.reconcile.offers.insert(link);
        self.fetch(now);
    }

    /// The last change of the context that is older than `collect_after`.
    pub(super) fn ripe(&self) -> Revision {
        self.reconcile.ripe
    }

    /// Begins to fetch from somebody who has offered it, unless it goes on already.
    fn fetch(&mut self, now: Now) {
        if self.reconcile.fetch.is_some() {
            return;
        }
        if let Some(link) = self.reconcile.offers.pop_first() {
            self.reconcile.fetch = Some(Fetch::new(link, self.reconcile.number, now.monotone));
            self.timers.set_by(Timer::Reconcile, now.monotone + self.config.reconcile_timeout);
            self.busy.insert(link);
        }
    }

    fn stop_fetching(&mut self, link: LinkId) -> bool {
        let fetch = self.reconcile.fetch.take_if(|fetch| fetch.link == link);
        if let Some(fetch) = &fetch {
            self.reconcile.number = fetch.number;
        }
        fetch.is_some()
    }

    /// A peer fetches; or waits until fewer others do.
    pub(super) fn handle_ask(&mut self, now: Now, link: LinkId, number: u64, ask: Ask) {
        let served = self.links.values().filter(|link| link.serve.is_some()).count();
        let is_healing = self.is_healing();
        let Some(state) = self.links.get_mut(&link) else { return };
        let begins = state.serve.is_none();
        if begins {
            // What it was told before does not hold any more.
            if !matches!(ask, Ask::Context { after: None }) {
                return;
            }
            if served >= MAX_SERVED {
                state.waits = Some((number, ask));
                return;
            }
        }
        let is_mutual = begins && is_healing && state.has_seen_the_same(self.replica.store());
        let serve = state.serve.get_or_insert_with(|| Serve::new(now.monotone));
        serve.is_mutual |= is_mutual;
        serve.handle(number, ask, now.monotone);
        self.timers.set_by(Timer::Reconcile, now.monotone + self.config.reconcile_timeout);
    }

    /// Somebody was served: the next one is.
    pub(super) fn admit(&mut self, now: Now) {
        let waiting = self.links.iter().find(|(_, link)| link.waits.is_some()).map(|(id, _)| *id);
        let Some(link) = waiting else { return };
        if self.links.values().filter(|link| link.serve.is_some()).count() >= MAX_SERVED {
            return;
        }
        if let Some((number, ask)) = self.links.get_mut(&link).and_then(|state| state.waits.take()) {
            self.handle_ask(now, link, number, ask);
            self.busy.insert(link);
        }
    }

    pub(super) fn handle_tell(&mut self, now: Now, link: LinkId, number: u64, tell: Tell) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer) else { return };
        let store = self.replica.store();
        // An answer to what was given up.
        let fetch =
            self.reconcile.fetch.as_mut().filter(|fetch| fetch.link == link && fetch.number == number);
        let Some(fetch) = fetch else { return };
        let is_sound = match &tell {
            Tell::Ranges { items, .. } => store.verify(items).is_ok(),
            Tell::Context { .. } | Tell::Floors { .. } => true,
        };
        match fetch.handle(tell, store, now.monotone).ok().filter(|_| is_sound) {
            None => {
                self.outputs.push_back(Output::Event(Event::Alarm(Alarm::Corrupt { peer })));
                self.close(now, link, CloseReason::Misbehaved);
            }
            Some(false) => {}
            Some(true) => {
                if let Some(fetch) = self.reconcile.fetch.take() {
                    self.reconcile.number = fetch.number;
                    self.agree(now, link, fetch.finish());
                }
            }
        }
    }

    /// Everything is fetched: it takes effect as a whole.
    fn agree(&mut self, now: Now, link: LinkId, reconciliation: Reconciliation) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer) else { return };
        let agreed = self.fenced(now, &reconciliation.delta, |mesh| {
            if mesh.save_from(now, &reconciliation) {
                return Ok(None);
            }
            mesh.replica.reconcile(now.wall, &reconciliation).map(Some)
        });
        let beyond = match agreed {
            Ok(Some(beyond)) => beyond,
            Ok(None) => return self.end_fetching(now, link),
            // Checksums were verified when it came, seals are now.
            Err(corrupt) => return self.refuse(now, link, &corrupt),
        };
        if let Some(state) = self.links.get_mut(&link) {
            state.has(&reconciliation.delta.accounted);
            if state.handle_drift(!beyond.is_zero()) {
                self.outputs.push_back(Output::Event(Event::Alarm(Alarm::Drift { peer, beyond })));
            }
        }
        // What was told to others was told before this.
        self.links.values_mut().for_each(Link::offer_again);
        self.gaps.served(&reconciliation.delta, self.replica.store(), now.monotone);
        if self.config.durability == Durability::Disk {
            let record = Record::Reconciled(Box::new(reconciliation));
            let ticket = self.ticket();
            self.outputs.push_back(Output::Persist { ticket, record });
        }
        // Before it is told what was lost with an earlier life: this node has it still, in the next one.
        self.fence_later_life(now);
        self.observe_changes(now, true);
        self.end_fetching(now, link);
    }

    /// Nobody waits any more for this node to fetch, neither the one whom it has asked, be it agreed or not, nor those who had
    /// offered: they hear what it has. Who has more to tell offers again, and what is still missing is asked for.
    fn end_fetching(&mut self, now: Now, link: LinkId) {
        for link in std::mem::take(&mut self.reconcile.offers).into_iter().chain([link]) {
            if let Some(state) = self.links.get_mut(&link) {
                state.tell_all();
                self.busy.insert(link);
            }
        }
        self.timers.set_by(Timer::Want, now.monotone);
    }

    /// A link is gone, and with it what was fetched or served over it.
    pub(super) fn reconcile_without(&mut self, now: Now, link: LinkId) {
        self.reconcile.offers.remove(&link);
        if self.stop_fetching(link) {
            self.fetch(now);
        }
        self.admit(now);
    }

    /// Whoever does not go on is not waited for.
    pub(super) fn give_up(&mut self, now: Now) {
        let timeout = self.config.reconcile_timeout;
        let is_over = |since: Moment| now.monotone.since(since) >= timeout;
        let slow = self.reconcile.fetch.as_ref().filter(|fetch| is_over(fetch.quiet_since));
        if let Some(link) = slow.map(|fetch| fetch.link) {
            self.stop_fetching(link);
            self.fetch(now);
            // What is still missing is asked for again, of somebody.
            self.timers.set_by(Timer::Want, now.monotone);
        }
        for link in self.links.values_mut() {
            // Nobody may keep this node from collecting for ever.
            let is_endless = |serve: &Serve| now.monotone.since(serve.since) >= MAX_SERVED_FOR * timeout;
            link.serve.take_if(|serve| is_over(serve.heard_at) || is_endless(serve));
        }
        self.admit(now);
        let served = self.links.values().filter_map(|link| link.serve.as_ref()).map(|serve| serve.heard_at);
        let fetched = self.reconcile.fetch.iter().map(|fetch| fetch.quiet_since);
        self.timers.set(Timer::Reconcile, served.chain(fetched).min().map(|since| since + timeout));
    }

    /// The next frame that has to do with fetching: what a peer should fetch, what is asked of it, what it is told.
    pub(super) fn next_reconcile(&mut self, now: Now, link: LinkId) -> Option<Output> {
        let (store, state) = (self.replica.store(), self.links.get_mut(&link)?);
        let fetch = self.reconcile.fetch.as_mut().filter(|fetch| fetch.link == link && fetch.has_request());
        if (state.has_stale() || fetch.is_some()) && state.take_control_room() {
            let asked = fetch.and_then(|fetch| Some((fetch.request(store)?, fetch.number)));
            let message = match asked {
                Some((ask, number)) => Message::Ask { number, ask },
                None => {
                    let (all, stale) = (store.floors(), state.take_stale());
                    let floors = all.lanes().filter(|(lane, _)| stale.contains(lane));
                    let floors = floors.map(|(lane, floor)| (lane.clone(), floor.clone())).collect();
                    Message::Offer { floors }
                }
            };
            return Some(Output::Send { link, channel: Channel::Control, message });
        }
        if state.serve.as_ref().is_some_and(Serve::has_answer)
            && let Some(budget) = state.take_delta_room(self.config.delta_budget)
        {
            self.replica.seal();
            let (store, serve) = (self.replica.store(), state.serve.as_mut()?);
            let (number, tell) = serve.next(store, budget, now.monotone)?;
            let message = Message::Tell { number, tell };
            state.send(&message, now.monotone);
            return Some(Output::Send { link, channel: Channel::Delta, message });
        }
        None
    }
}
