//! When lives are over, who says so, and what goes with them.
//!
//! A node retires its own earlier lives itself. Those of a node that is gone are retired by the one with the smallest id of
//! those that are there. Neither the time nor who does it matters for safety: see `replica::retirement`.

use std::time::Duration;

use super::Mesh;
use crate::crdt::{CausalContext, Delta, RangeSet, Reconciliation};
use crate::gossip::timer::Timer;
use crate::gossip::{Durability, Event, Member, MemberState, Output, Record};
use crate::id::{Actor, Generation, NodeId};
use crate::time::{Now, UnixMillis};

/// The most keys that are written anew in one go: others wait meanwhile.
const MAX_SAVED: usize = 1_024;

/// When to go on with it.
const SAVE_PAUSE: Duration = Duration::from_millis(100);

/// How many times `evict_after` it is remembered what was testified while somebody is away.
const LAST_WORDS: u32 = 30;

/// After how many looks anybody saves what the one whose turn it is has not.
const MAX_WAITED: u32 = 6;

impl Mesh {
    /// Retires what can be retired, and saves what would go with it.
    ///
    /// What others testify is heeded by everybody, and so is what was said by hand.
    pub(super) fn retire(&mut self, now: Now) {
        if self.replica.is_sealed() {
            return;
        }
        self.fence_later_life(now);
        self.save(now);
        let Some(evict_after) = self.config.evict_after else { return };
        let Actor { node: own, generation } = self.actor();
        if let Some(before) = generation.0.checked_sub(1).map(Generation)
            && self.is_settled(&own, before)
        {
            let earlier = self.replica.store().seen_of_lives(&own, before);
            if let Some((last, _)) = earlier.lanes().last() {
                let upto = last.actor().generation;
                self.testify(now, own, upto);
            }
        }
        if !self.is_first() {
            return;
        }
        let gone: Vec<NodeId> =
            self.members.gone(&self.config, now.monotone).map(|member| member.node).collect();
        for node in gone {
            if let Some(latest) = self.replica.store().generation(&node)
                && !self.is_linked(&node)
            {
                self.testify(now, node, latest);
            }
        }
        self.forget_testimonies(now, evict_after);
    }

    fn testify(&mut self, now: Now, node: NodeId, upto: Generation) {
        if self.replica.unretired().any(|pending| pending == node) {
            return;
        }
        // Nothing can come after the end of time; then they stay.
        if let Ok(prepared) = self.replica.testify(now.wall, node, upto) {
            self.commit(now, prepared);
        }
    }

    /// Takes back what was testified so long ago that everybody has heard of it. As long as somebody is away who may come back
    /// with what these lives had written, all is remembered that was said; at last it is forgotten all the same.
    fn forget_testimonies(&mut self, now: Now, evict_after: Duration) {
        let patience = evict_after.max(self.config.collect_after);
        let times = if self.awaits_somebody(now, patience) { LAST_WORDS } else { 1 };
        let patience = u64::try_from(patience.saturating_mul(times).as_millis()).unwrap_or(u64::MAX);
        let old = self.replica.testified_before(UnixMillis(now.wall.0.saturating_sub(patience)));
        let nodes: Vec<NodeId> = old.map(|(node, _)| node).take(MAX_SAVED).collect();
        for node in nodes {
            if let Ok(prepared) = self.replica.forget_testimony(now.wall, node) {
                self.commit(now, prepared);
            }
        }
    }

    /// Whether somebody is away, or was evicted and has not come back, or is back and need not have heard of everything
    /// yet. Who has just started, or is alone, does not know.
    fn awaits_somebody(&self, now: Now, patience: Duration) -> bool {
        let store = self.replica.store();
        let hears_within = self.config.collect_after.max(self.config.reconcile_timeout);
        let is_back = |member: &Member| {
            now.monotone.since(member.came_at) < hears_within
                && (member.returned || store.retired(&member.node) > Generation(0))
        };
        let is_evicted =
            |node: &NodeId| store.generation(node).is_none_or(|latest| latest <= store.retired(node));
        let mut states = self.members.iter().map(|member| member.state).peekable();
        now.monotone.since(self.up_since) < patience
            || states.peek().is_none()
            || states.any(|state| state != MemberState::Alive)
            || self.members.iter().any(is_back)
            || self.replica.testified_before(UnixMillis(u64::MAX)).any(|(node, _)| is_evicted(&node))
    }

    /// Whether of those that are there none has a smaller id.
    fn is_first(&self) -> bool {
        let own = self.actor().node;
        let first = self.members.iter().find(|member| member.state == MemberState::Alive);
        first.is_none_or(|first| own < first.node)
    }

    /// Whether nothing was heard of a node's lives up to one for long: then their last words have come as far as they come.
    ///
    /// That all members have the same of them was tried as a reason to be quicker, and is none: a node that has just started
    /// knows no members, and its disk may be an old one.
    fn is_settled(&self, node: &NodeId, upto: Generation) -> bool {
        self.replica.store().changed_at(node, upto) <= self.ripe()
    }

    /// Writes anew what only some hold of lives that are said to be over: of its own lives a node at once, of others
    /// whose turn it is.
    pub(super) fn save(&mut self, now: Now) {
        let pending: Vec<NodeId> = self.replica.unretired().collect();
        self.waited.retain(|node, _| pending.contains(node));
        for node in pending {
            let waited = self.waited.entry(node).or_default();
            *waited = waited.saturating_add(1);
            let late = *waited > MAX_WAITED;
            if (node == self.actor().node && self.replica.is_accused().is_none()) || late || self.is_first() {
                let Ok(saved) = self.replica.save(now.wall, node, MAX_SAVED) else { continue };
                if saved.len() >= MAX_SAVED {
                    self.timers.set_by(Timer::Collect, now.monotone + SAVE_PAUSE);
                }
                self.commit(now, saved);
            }
        }
    }

    /// Writes anew what would be lost by agreeing with a peer. Says whether there is such a thing: then it must not be
    /// agreed yet.
    pub(super) fn save_from(&mut self, now: Now, with: &Reconciliation) -> bool {
        if self.replica.is_sealed() || self.replica.at_stake(with).is_empty() {
            return false;
        }
        let saved = self.replica.save_from(now.wall, with).unwrap_or_default();
        self.commit(now, saved);
        true
    }

    /// Lives were retired: nothing is remembered of them any more.
    pub(super) fn observe_retired(&mut self, now: Now, tell: bool) {
        for past in self.replica.take_retired() {
            let Actor { node, generation } = past.actor();
            self.gaps.bury(&past);
            self.links.values_mut().for_each(|link| link.bury(&past));
            if tell && self.config.durability == Durability::Disk {
                let ticket = self.ticket();
                let accounted = CausalContext::from_iter([(past, RangeSet::up_to(1))]);
                let record = Record::Delta(Delta { accounted, ..Delta::default() });
                self.outputs.push_back(Output::Persist { ticket, record });
            }
            if self.replica.store().generation(&node).is_some_and(|latest| latest > generation) {
                continue;
            }
            self.trees.forget(&node);
            self.links.values_mut().for_each(|link| link.forget(&node));
            let is_over = self.members.get(&node).is_some_and(|member| member.generation <= generation);
            if is_over && let Some(member) = self.members.remove(&node, now.monotone) {
                let event =
                    Event::Member { node, generation: member.generation, state: MemberState::Evicted };
                if tell {
                    self.outputs.push_back(Output::Event(event));
                }
                self.timers.set_by(Timer::Choose, now.monotone);
                self.timers.set_by(Timer::Verdict, now.monotone);
            }
        }
    }
}
