//! What a cache knows of each name, without asking anybody.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::id::{TunnelId, TunnelName};

/// The names of a cache, and when what is known of them ends.
///
/// **Epochs.** Every write of a name begins and ends one. What a question brings that was asked in an earlier epoch is
/// given to those who asked and not kept: it may be older than the write.
#[derive(Debug)]
pub(super) struct Table<I, A> {
    names: HashMap<TunnelName, Slot<I, A>>,
    expiries: BTreeMap<(Instant, u64), TunnelName>,
    /// Numbers epochs and facts: none is used twice, so that whoever comes late never meets his own number.
    next_serial: u64,
    /// Whether a task is there that lets go of what has expired.
    pub(super) swept: bool,
}

#[derive(Debug)]
struct Slot<I, A> {
    epoch: u64,
    /// How many writes are under way.
    writing: usize,
    known: Option<Known<I>>,
    /// The question to the source that is under way in this epoch.
    flight: Option<watch::Receiver<Option<A>>>,
}

#[derive(Debug)]
struct Known<I> {
    expiry: (Instant, u64),
    fact: Fact<I>,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact<I> {
    /// This was put into the cache under that identifier.
    Filled { identifier: I, tunnel: TunnelId },
    /// The source has nothing.
    Absent,
}

/// What somebody who asks for a name has to do.
pub(super) enum Next<I, A> {
    /// Act on what is known.
    Known(Fact<I>),
    /// Wait for the answer to the question that is under way.
    Wait(watch::Receiver<Option<A>>),
    /// Ask the source, in this epoch, and tell all who wait.
    Ask { epoch: u64, answer: watch::Sender<Option<A>>, wait: watch::Receiver<Option<A>> },
}

impl<I, A> Default for Table<I, A> {
    fn default() -> Self {
        Self { names: HashMap::new(), expiries: BTreeMap::new(), next_serial: 0, swept: false }
    }
}

impl<I: Clone, A> Table<I, A> {
    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    fn slot(&mut self, name: &TunnelName) -> &mut Slot<I, A> {
        let epoch = self.serial();
        let new = || Slot { epoch, writing: 0, known: None, flight: None };
        self.names.entry(name.clone()).or_insert_with(new)
    }

    /// How many names something is known of.
    pub(super) fn len(&self) -> usize {
        self.expiries.len()
    }

    /// What is to be done to learn of a name.
    pub(super) fn ask(&mut self, name: &TunnelName, now: Instant) -> Next<I, A> {
        let slot = self.slot(name);
        if let Some(known) = slot.known.as_ref().filter(|known| known.expiry.0 > now) {
            return Next::Known(known.fact.clone());
        }
        if let Some(flight) = &slot.flight {
            return Next::Wait(flight.clone());
        }
        let (answer, wait) = watch::channel(None);
        slot.flight = Some(wait.clone());
        Next::Ask { epoch: slot.epoch, answer, wait }
    }

    /// The question of that epoch is answered, or nobody answers it any more.
    pub(super) fn land(&mut self, name: &TunnelName, epoch: u64) {
        if let Some(slot) = self.names.get_mut(name).filter(|slot| slot.epoch == epoch) {
            slot.flight = None;
        }
        self.tidy(name);
    }

    /// Keeps a fact that was found in that epoch until `expires`. What is to be taken out of the cache comes back:
    /// either what was known before, or this if it is too late for it.
    pub(super) fn keep(
        &mut self,
        name: &TunnelName,
        epoch: u64,
        fact: Fact<I>,
        expires: Instant,
    ) -> Option<I> {
        let expiry = (expires, self.serial());
        let Some(slot) = self.names.get_mut(name).filter(|slot| slot.epoch == epoch) else {
            return identifier(fact);
        };
        let before = slot.known.replace(Known { expiry, fact });
        self.expiries.insert(expiry, name.clone());
        let before = before?;
        self.expiries.remove(&before.expiry);
        identifier(before.fact)
    }

    /// Forgets what is known of a name, if it is still that.
    pub(super) fn forget(&mut self, name: &TunnelName, tunnel: TunnelId) -> Option<I> {
        let slot = self.names.get_mut(name)?;
        let known = slot
            .known
            .take_if(|known| matches!(known.fact, Fact::Filled { tunnel: known, .. } if known == tunnel))?;
        self.expiries.remove(&known.expiry);
        self.tidy(name);
        identifier(known.fact)
    }

    /// A write begins; its epoch, and what is to be taken out of the cache.
    pub(super) fn begin_write(&mut self, name: &TunnelName) -> (u64, Option<I>) {
        self.slot(name).writing += 1;
        self.advance(name)
    }

    /// A write ends. What it made of the name is kept if no other write met it; what is to be taken out of the cache.
    pub(super) fn end_write(
        &mut self,
        name: &TunnelName,
        epoch: u64,
        made: Option<(Fact<I>, Instant)>,
    ) -> Vec<I> {
        let alone = self.names.get(name).is_some_and(|slot| slot.epoch == epoch);
        let (epoch, gone) = self.advance(name);
        let mut gone = Vec::from_iter(gone);
        match made {
            Some((fact, expires)) if alone => gone.extend(self.keep(name, epoch, fact, expires)),
            made => gone.extend(made.and_then(|(fact, _)| identifier(fact))),
        }
        if let Some(slot) = self.names.get_mut(name) {
            slot.writing = slot.writing.saturating_sub(1);
        }
        self.tidy(name);
        gone
    }

    fn advance(&mut self, name: &TunnelName) -> (u64, Option<I>) {
        let epoch = self.serial();
        let slot = self.slot(name);
        slot.epoch = epoch;
        slot.flight = None;
        let Some(known) = slot.known.take() else { return (epoch, None) };
        self.expiries.remove(&known.expiry);
        (epoch, identifier(known.fact))
    }

    /// Lets go of what has expired, and of what is too much; what is to be taken out of the cache.
    pub(super) fn expire(&mut self, now: Instant, max: usize) -> Vec<I> {
        let mut gone = Vec::new();
        while let Some((&expiry, name)) = self.expiries.first_key_value() {
            if expiry.0 > now && self.expiries.len() <= max {
                break;
            }
            let name = name.clone();
            self.expiries.remove(&expiry);
            let known = self.names.get_mut(&name).and_then(|slot| slot.known.take());
            gone.extend(known.and_then(|known| identifier(known.fact)));
            self.tidy(&name);
        }
        gone
    }

    /// When the next fact expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.keys().next().map(|(at, _)| *at)
    }

    /// A name that nothing is known of and nobody is busy with takes no memory.
    fn tidy(&mut self, name: &TunnelName) {
        let idle = |slot: &Slot<I, A>| slot.known.is_none() && slot.flight.is_none() && slot.writing == 0;
        if self.names.get(name).is_some_and(idle) {
            self.names.remove(name);
        }
    }

    /// How many names take memory.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.names.len()
    }
}

fn identifier<I>(fact: Fact<I>) -> Option<I> {
    match fact {
        Fact::Filled { identifier, .. } => Some(identifier),
        Fact::Absent => None,
    }
}
