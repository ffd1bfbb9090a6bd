//! What a node holds, shows and reads, against what the reference says of the writes that it has seen.

use snomesh::crdt::{Dot, Entry, Key, Lane, Value};
use snomesh::replica::{Path, Replica};

use super::{Reference, Seen, WriteId};
use crate::checker::{Broken, Checker};

impl Reference {
    /// Says whether a command names all that its author held when it was given: what it does not name and yet
    /// replaces, nobody else can know to be replaced. Only removals that were let go cannot be named.
    ///
    /// # Errors
    ///
    /// [`Checker::Causality`].
    pub(crate) fn check_observed(
        &self,
        seen: &Seen,
        replica: &Replica,
        key: &Key,
        entry: &Entry,
    ) -> Result<(), Broken> {
        let register = replica.store().register(key).unwrap_or_default();
        let Some(&key) = self.keys.get(key) else { return Ok(()) };
        let unnamed = seen.maximal.get(key).into_iter().flatten().find(|write| {
            let dot = self.dot(**write);
            let is_held = !entry.covers(dot) && (self.is_value(**write) || !is_collected(replica, dot));
            is_held && !self.is_buried(seen, register.entries(), **write)
        });
        match unnamed {
            Some(write) => {
                let what =
                    format!("{} does not say that its author had seen {}", entry.dot, self.dot(*write));
                Err(Broken::new(Checker::Causality, what))
            }
            None => Ok(()),
        }
    }

    /// Compares a register with what the reference says, and the read with the last one.
    ///
    /// Returns how many values stand side by side.
    ///
    /// # Errors
    ///
    /// [`Checker::Merge`], [`Checker::Dots`] or [`Checker::Monotone`].
    pub(crate) fn check_key(&self, seen: &mut Seen, replica: &Replica, key: usize) -> Result<usize, Broken> {
        let register = replica.store().register(&self.names[key]);
        let entries = register.as_ref().map_or(&[][..], |register| register.entries());
        self.bury_values(seen, entries, key);
        let expected = seen.maximal.get(key).map_or(&[][..], |maximal| &maximal[..]);
        let found = entries.iter().map(|entry| self.find(&entry.dot));
        let found: Vec<WriteId> = found.flatten().collect();
        let missing = expected.iter().filter(|write| !found.contains(write));
        let kept = missing
            .filter(|write| self.counts(replica, **write) || !is_collected(replica, self.dot(**write)));
        let surplus: Vec<&WriteId> = found.iter().filter(|write| !expected.contains(write)).collect();
        let told: &Seen = seen;
        // A removal that a node let go is in its log again after a restart, while what took the removal's place may have
        // been let go where the node learnt of that. It hides nothing; only what is held here has to have replaced it.
        let known = surplus.iter().filter(|write| {
            let killer = self.told_dead(***write, |other| {
                if self.is_value(***write) {
                    told.knows(self, other) && !self.is_hollow(told, other)
                } else {
                    register.as_ref().is_some_and(|held| held.entry(other).is_some())
                }
            });
            killer.is_some()
        });
        if found.len() != entries.len() || kept.count() + known.count() > 0 {
            let dots =
                |dots: Vec<String>| if dots.is_empty() { "nothing".to_owned() } else { dots.join(", ") };
            let found = dots(entries.iter().map(|entry| entry.dot.to_string()).collect());
            let expected = dots(expected.iter().map(|write| self.dot(*write).to_string()).collect());
            let what =
                format!("{} holds {found}; by the writes that were seen it is {expected}", self.names[key]);
            return Err(Broken::new(Checker::Merge, what));
        }
        for entry in entries {
            let write = &self.writes[self.find(&entry.dot).expect("it was just compared").index()];
            if write.stamp != entry.stamp || write.value != entry.value {
                let what = format!("{} of {} is not what its author wrote", entry.dot, self.names[key]);
                return Err(Broken::new(Checker::Dots, what));
            }
        }
        if !surplus.is_empty() {
            // What was removed, collected and written anew by others shows until this node has fetched.
            return Ok(entries.iter().filter(|entry| entry.value.is_some()).count());
        }
        match Path::of(&self.names[key]) {
            Some(Path::Registration { name, tunnel }) => {
                let found = replica.registration(&name, tunnel).map(|found| found.dot);
                self.check_read(seen, found, key)?;
            }
            Some(Path::Attribute(_) | Path::Counter { .. } | Path::Element { .. }) => {
                let winner = register.as_ref().and_then(|register| register.winner());
                self.check_read(seen, winner.map(|entry| entry.dot.clone()), key)?;
            }
            Some(Path::Node(_) | Path::Revocation(_) | Path::Retirement(_) | Path::Policy) | None => {}
        }
        Ok(entries.iter().filter(|entry| entry.value.is_some()).count())
    }

    /// Takes those for dead that are not held and that something has replaced of which only what lives are over tells: a
    /// write of such a life that was seen elsewhere, or the past that a write had seen, which takes more for seen than
    /// was (decision 21 says of whom).
    fn bury_values(&self, seen: &mut Seen, entries: &[Entry], key: usize) {
        let Some(maximal) = seen.maximal.get(key) else { return };
        let dead: Vec<WriteId> =
            maximal.iter().filter(|write| self.is_buried(seen, entries, **write)).copied().collect();
        if !dead.is_empty() {
            seen.maximal[key].retain(|write| !dead.contains(write));
        }
    }

    /// Whether a write is dead by something of which only what lives are over tells.
    fn is_buried(&self, seen: &Seen, entries: &[Entry], write: WriteId) -> bool {
        let dot = self.dot(write);
        let is_held = entries.iter().any(|entry| entry.dot == *dot);
        let buried = || entries.iter().any(|entry| entry.observed.buries(&dot.lane));
        !is_held && (buried() || self.is_hollow(seen, dot))
    }

    /// Whether a write may have been told of without what it put: whoever told had seen what replaced it, and took the
    /// listener, or was itself taken, for somebody who had seen that too, since the life that made it is over. It comes
    /// anew from whoever holds it.
    fn is_hollow(&self, seen: &Seen, dot: &Dot) -> bool {
        let Some(write) = self.find(dot) else { return false };
        let later = self.by_key[self.key_of(write)].iter().filter(|by| self.is_past(write, **by));
        later.map(|by| self.dot(*by)).any(|by| {
            let actor = by.lane.actor();
            let is_over = self.retired.get(&actor.node).is_some_and(|upto| actor.generation.0 <= *upto);
            is_over && !seen.contains(self, by)
        })
    }

    /// A write among those that count which says that it had seen this one and all that this one had.
    fn told_dead(&self, write: WriteId, counts: impl Fn(&Dot) -> bool) -> Option<&Dot> {
        let (key, dot) = (self.key_of(write), self.dot(write));
        // What has seen it was made after it.
        let after = self.writes[write.index()].number as usize + 1;
        let others = self.by_key[key][after..].iter().map(|other| &self.writes[other.index()]);
        let mut covering = others.filter(|other| {
            let knows = |lane: &Lane, counter: u64| {
                let later = other.dot.lane == *lane && other.dot.counter > counter;
                later || other.observed.counter(lane) >= counter || other.observed.buries(lane)
            };
            let observed = &self.writes[write.index()].observed;
            knows(&dot.lane, dot.counter) && observed.iter().all(|(lane, counter)| knows(lane, *counter))
        });
        covering.find(|other| counts(&other.dot)).map(|other| &other.dot)
    }

    /// A write that a node knows of, which says that it had replaced or removed this one.
    pub(crate) fn known_killer(&self, seen: &Seen, write: WriteId) -> Option<&Dot> {
        self.told_dead(write, |by| seen.knows(self, by))
    }

    /// Says whether a value may still be shown by a node: whether no write that it has seen had replaced or
    /// removed it.
    ///
    /// # Errors
    ///
    /// [`Checker::History`].
    pub(crate) fn check_shown(&self, seen: &Seen, key: &Key, value: &Value) -> Result<(), Broken> {
        let Some(key) = self.keys.get(key).copied() else { return Ok(()) };
        let Some(shown) = self.by_value.get(&(key, value.clone())) else { return Ok(()) };
        // Who removed it may not be known here, only somebody who writes the key anew and has let the removal go: then it
        // shows until this node has fetched.
        let killer = |shown: &WriteId| {
            let counts = |other: &Dot| seen.knows(self, other) && !self.is_hollow(seen, other);
            self.told_dead(*shown, counts).map(|by| (*shown, by))
        };
        // One of several writes of the same text that still stands is enough.
        match shown.iter().map(killer).collect::<Option<Vec<_>>>().and_then(|dead| dead.last().copied()) {
            Some((shown, killer)) => {
                let shown = self.dot(shown);
                let what = format!(
                    "{} shows {shown} again, which {killer} had replaced or removed",
                    self.names[key]
                );
                Err(Broken::new(Checker::History, what))
            }
            None => Ok(()),
        }
    }

    fn check_read(&self, seen: &mut Seen, found: Option<Dot>, key: usize) -> Result<(), Broken> {
        let readable = |write: &&WriteId| self.is_value(**write) && !seen.is_void(&self.dot(**write).lane);
        let expected = seen.maximal.get(key).into_iter().flatten().filter(readable);
        let rank = |write: &WriteId| {
            let write = &self.writes[write.index()];
            (write.stamp, write.dot.lane.actor(), write.dot.counter)
        };
        let expected = expected.max_by_key(|write| rank(write)).copied();
        let found = found.and_then(|dot| self.find(&dot));
        if found != expected {
            let text = |write: Option<WriteId>| {
                write.map_or_else(|| "nothing".to_owned(), |write| self.dot(write).to_string())
            };
            let what =
                format!("{} reads {}, the greatest is {}", self.names[key], text(found), text(expected));
            return Err(Broken::new(Checker::Merge, what));
        }
        if seen.read.len() <= key {
            seen.read.resize(key + 1, None);
        }
        let before = std::mem::replace(&mut seen.read[key], found);
        match (before, found) {
            (Some(before), Some(after)) if self.is_past(after, before) => {
                let (before, after) = (self.dot(before), self.dot(after));
                let what =
                    format!("{} read {before} and reads {after}, which that had replaced", self.names[key]);
                Err(Broken::new(Checker::Monotone, what))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a node let a removal go.
fn is_collected(replica: &Replica, dot: &Dot) -> bool {
    dot.counter <= replica.store().floor(&dot.lane)
}
