//! What others have and this node lacks, and whom to ask for it.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::link::Link;
use super::{Config, LinkId};
use crate::crdt::{CausalContext, Delta, Lane, Store};
use crate::id::NodeId;
use crate::time::Moment;

/// A lane of which some peer has more than we.
#[derive(Debug)]
struct Gap {
    /// The last counter of it that anybody has told of.
    last: u64,
    /// Since when nothing has come of it: it was noticed, asked for, or served then.
    quiet_since: Moment,
    /// Whom we asked for it.
    asked: Option<LinkId>,
    /// Whether nobody but a linked author is about to push it: it was there before the link that told of it, no way to its
    /// author is known, or the mesh is full.
    old: bool,
}

/// All known gaps. The author of a lane pushes it by itself to whoever is linked with it; so a gap is first
/// waited for, and somebody is asked only if nothing comes; and somebody else, if nothing comes of that.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    gaps: BTreeMap<Lane, Gap>,
}

impl Gaps {
    /// A peer has told what it has; `is_old` says of whose writes nobody else is about to push them. Says whether there is
    /// anything new to wait for.
    pub(super) fn notice(
        &mut self,
        seen: &CausalContext,
        is_old: impl Fn(&NodeId) -> bool,
        store: &Store,
        now: Moment,
    ) -> bool {
        let mut noticed = false;
        for (lane, theirs) in seen.lanes() {
            if store.seen_of(lane).is_none_or(|ours| !ours.is_superset(theirs)) {
                let gap = self.gaps.entry(lane.clone()).or_insert_with(|| {
                    noticed = true;
                    Gap { last: 0, quiet_since: now, asked: None, old: is_old(&lane.actor().node) }
                });
                gap.last = gap.last.max(theirs.last().unwrap_or(0));
            }
        }
        noticed
    }

    /// Something came, and was merged. What is complete now is no gap any more, and a long transfer is not asked for again
    /// while it goes on.
    pub(super) fn served(&mut self, delta: &Delta, store: &Store, now: Moment) {
        if self.gaps.is_empty() {
            return;
        }
        let entries = delta.items.iter().flat_map(|item| item.entries.iter().map(|entry| &entry.dot.lane));
        for lane in delta.accounted.lanes().map(|(lane, _)| lane).chain(entries) {
            let Some(gap) = self.gaps.get_mut(lane) else { continue };
            gap.quiet_since = now;
            if store.seen_of(lane).is_some_and(|seen| seen.contiguous() >= gap.last) {
                self.gaps.remove(lane);
            }
        }
    }

    /// What is part of a past is not missing any more.
    pub(super) fn bury(&mut self, past: &Lane) {
        self.gaps.retain(|lane, _| !past.buries(lane));
    }

    /// Asks for what is due, and says when the next is.
    pub(super) fn ask(
        &mut self,
        store: &Store,
        links: &mut BTreeMap<LinkId, Link>,
        config: &Config,
        now: Moment,
        rng: &mut Xoshiro256PlusPlus,
    ) -> (Vec<LinkId>, Option<Moment>) {
        let (mut asked, mut next) = (Vec::new(), None);
        self.gaps.retain(|lane, gap| {
            // Looking at all links is dear, and may be in vain when it is time.
            let due = gap.due(lane, links, config);
            if due > now {
                next = Some(next.map_or(due, |next: Moment| next.min(due)));
                return true;
            }
            let ours = store.seen_of(lane);
            let mut sources: Vec<LinkId> =
                links.iter().filter(|(_, link)| link.has_more(lane, ours)).map(|(id, _)| *id).collect();
            if sources.is_empty() {
                return false;
            }
            // Somebody who did not answer is asked again only if nobody else is there.
            if sources.len() > 1 {
                sources.retain(|source| Some(*source) != gap.asked);
            }
            let source = sources[rng.random_range(0..sources.len())];
            links.get_mut(&source).expect("sources are links").ask(lane.clone());
            (gap.quiet_since, gap.asked) = (now, Some(source));
            asked.push(source);
            let due = gap.due(lane, links, config);
            next = Some(next.map_or(due, |next: Moment| next.min(due)));
            true
        });
        (asked, next)
    }
}

impl Gap {
    /// When to ask, or to ask somebody else.
    fn due(&self, lane: &Lane, links: &BTreeMap<LinkId, Link>, config: &Config) -> Moment {
        let actor = lane.actor();
        let pushes = |link: &Link| link.peer == actor.node && link.generation == Some(actor.generation);
        match self.asked {
            // Over a link that nobody wants comes what was asked for, and nothing that is told of meanwhile.
            Some(link) if links.get(&link).is_some_and(|link| !link.is_neighbour()) => {
                self.quiet_since + config.want_after
            }
            Some(link) if links.contains_key(&link) => self.quiet_since + config.want_timeout,
            // Pushed by its author, or passed on along a tree, it may be on its way.
            None if !self.old || links.values().any(pushes) => self.quiet_since + config.want_after,
            Some(_) | None => self.quiet_since,
        }
    }
}
