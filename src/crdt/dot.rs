//! The names of single writes.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::id::Actor;

/// What travels ahead of what: each class has a sequence of its own per actor, so that neither makes gaps in
/// the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Registrations and node records: small, and needed to find anything at all.
    Registry,
    /// Attributes.
    Attribute,
}

/// One sequence of writes: an actor and a class.
///
/// A reference-counted name, because every entry bears one and an actor's name is 40 bytes; it compares by
/// content, so that a store may hold several copies.
#[derive(Clone)]
pub struct Lane(Arc<(Actor, Class)>);

impl Lane {
    /// Names the sequence of `actor`'s writes of `class`.
    pub fn new(actor: Actor, class: Class) -> Self {
        Self(Arc::new((actor, class)))
    }

    /// Whose writes.
    pub fn actor(&self) -> Actor {
        self.0.0
    }

    /// Which of them.
    pub fn class(&self) -> Class {
        self.0.1
    }

    /// The dot of this lane with that counter.
    pub fn dot(&self, counter: u64) -> Dot {
        Dot { lane: self.clone(), counter }
    }
}

impl PartialEq for Lane {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Lane {}

impl Hash for Lane {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.hash(hasher);
    }
}

impl PartialOrd for Lane {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lane {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class() {
            Class::Registry => "r",
            Class::Attribute => "a",
        };
        write!(f, "{}{class}", self.actor())
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of one write: the `counter`-th of its lane, counting from 1.
///
/// Orders by lane and then by counter: total, over global names, never over the order of arrival.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The sequence it belongs to.
    pub lane: Lane,
    /// Its place therein. Zero names no write.
    pub counter: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lane, self.counter)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
