//! The names of single writes.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use crate::id::{Actor, Generation, NodeId};

/// What travels ahead of what: each class has a sequence of its own per actor, so that neither makes gaps in
/// the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Registrations and node records: small, and needed to find anything at all.
    Registry,
    /// Attributes.
    Attribute,
    /// No writes of its own: it stands for all that a node wrote up to a generation, in contexts and in what writes
    /// had seen. See [`Lane::past`].
    Past,
}

/// One sequence of writes: an actor and a class.
///
/// A reference-counted name, because every entry bears one and an actor's name is 40 bytes. It compares by content; that
/// one thread makes the same name only once is for memory's sake, for each link remembers the lanes of the whole mesh.
#[derive(Clone)]
pub struct Lane {
    /// What the node's id begins with, beside the pointer: most comparisons end here, and need not look behind it.
    head: u64,
    name: Arc<Name>,
}

struct Name {
    actor: Actor,
    class: Class,
    /// A hash of both, made once: it stands for the name where many dots are hashed.
    tag: u128,
}

/// The names that a thread has made and somebody still holds: hash consing, as Filliâtre and Conchon have it ("Type-safe
/// modular hash-consing", 2006), with weak references.
///
/// By what a node's id begins with, and the life and class in one number. Of two names that agree in that only one is
/// here, and the other has a copy for each that asks: who makes ids alike wins nothing but that.
struct Names {
    made: BTreeMap<(u64, u64), Weak<Name>>,
    /// How many there are when those that nobody holds are dropped.
    sweep_at: usize,
}

thread_local! {
    static NAMES: RefCell<Names> =
        const { RefCell::new(Names { made: BTreeMap::new(), sweep_at: Names::FEW }) };
}

impl Names {
    /// So many are never worth a sweep.
    const FEW: usize = 16;

    /// The name, as it was made before or made now.
    fn name(&mut self, actor: Actor, class: Class) -> Arc<Name> {
        let key = (actor.node.head(), actor.generation.0 << 2 | class as u64);
        if let Some(name) = self.made.get(&key).and_then(Weak::upgrade) {
            return if (name.actor, name.class) == (actor, class) { name } else { Name::new(actor, class) };
        }
        if self.made.len() >= self.sweep_at {
            self.made.retain(|_, name| name.strong_count() > 0);
            self.sweep_at = (self.made.len() * 2).max(Self::FEW);
        }
        let name = Name::new(actor, class);
        self.made.insert(key, Arc::downgrade(&name));
        name
    }
}

impl Name {
    fn new(actor: Actor, class: Class) -> Arc<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(actor.node.as_bytes());
        hasher.update(&actor.generation.0.to_le_bytes());
        hasher.update(&[class as u8]);
        let tag = hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default();
        Arc::new(Self { actor, class, tag: u128::from_le_bytes(tag) })
    }
}

impl Lane {
    /// Names the sequence of `actor`'s writes of `class`.
    pub fn new(actor: Actor, class: Class) -> Self {
        // A thread that ends has no table any more.
        let name = NAMES.try_with(|names| names.borrow_mut().name(actor, class));
        Self { head: actor.node.head(), name: name.unwrap_or_else(|_ending| Name::new(actor, class)) }
    }

    /// Stands for all lanes of a node up to that generation, that one included: whoever has seen its dot 1, the only
    /// one, has nothing more to learn of any of them. So the lives that a node has left behind take one name together.
    pub fn past(node: NodeId, generation: Generation) -> Self {
        Self::new(Actor { node, generation }, Class::Past)
    }

    /// Whether it is a [`past`](Self::past).
    pub fn is_past(&self) -> bool {
        self.class() == Class::Past
    }

    /// Whether it is a [`past`](Self::past) of which the other lane is a part, itself included.
    pub fn buries(&self, other: &Self) -> bool {
        let (past, part) = (self.actor(), other.actor());
        self.is_past() && past.node == part.node && past.generation >= part.generation
    }

    /// The other lane in which its actor writes in that life; a past has none.
    pub fn other(&self) -> Option<Self> {
        let class = match self.class() {
            Class::Registry => Class::Attribute,
            Class::Attribute => Class::Registry,
            Class::Past => return None,
        };
        Some(Self::new(self.actor(), class))
    }

    /// Whose writes.
    pub fn actor(&self) -> Actor {
        self.name.actor
    }

    /// Whose, without a copy.
    pub(super) fn name(&self) -> (&NodeId, Generation) {
        (&self.name.actor.node, self.name.actor.generation)
    }

    /// Which of them.
    pub fn class(&self) -> Class {
        self.name.class
    }

    /// A 128-bit hash of the name.
    pub(super) fn tag(&self) -> u128 {
        self.name.tag
    }

    fn parts(&self) -> (&Actor, Class) {
        (&self.name.actor, self.name.class)
    }

    /// The dot of this lane with that counter.
    pub fn dot(&self, counter: u64) -> Dot {
        Dot { lane: self.clone(), counter }
    }
}

impl PartialEq for Lane {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && (Arc::ptr_eq(&self.name, &other.name) || self.parts() == other.parts())
    }
}

impl Eq for Lane {}

impl Hash for Lane {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.parts().hash(hasher);
    }
}

impl PartialOrd for Lane {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lane {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| {
            if Arc::ptr_eq(&self.name, &other.name) {
                Ordering::Equal
            } else {
                self.parts().cmp(&other.parts())
            }
        })
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class() {
            Class::Registry => "r",
            Class::Attribute => "a",
            Class::Past => "p",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(id: [u8; 32], generation: u64) -> Lane {
        Lane::new(Actor { node: NodeId::from_bytes(id), generation: Generation(generation) }, Class::Registry)
    }

    /// HARDENING: what a link has heard of costs no second copy of the name.
    #[test]
    fn a_name_that_is_held_is_made_once() {
        let (first, again) = (lane([7; 32], 3), lane([7; 32], 3));
        assert!(Arc::ptr_eq(&first.name, &again.name));
        let other = lane([7; 32], 4);
        assert!(first != other && !Arc::ptr_eq(&first.name, &other.name));
    }

    #[test]
    fn names_that_begin_alike_are_not_mixed_up() {
        let (mut id, first) = ([7; 32], lane([7; 32], 3));
        id[31] = 8;
        let other = lane(id, 3);
        assert_ne!(first, other);
        assert_eq!((other.actor().node, other.tag() == first.tag()), (NodeId::from_bytes(id), false));
        assert_eq!(lane(id, 3), other);
    }

    /// HARDENING: a peer that spells out ever more names makes nobody remember them.
    #[test]
    fn names_that_nobody_holds_are_forgotten() {
        let held: Vec<Lane> = (0..100).map(|generation| lane([1; 32], generation)).collect();
        for number in 0..100_000_u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            drop(lane(id, 1));
        }
        let kept = NAMES.with_borrow(|names| names.made.len());
        assert!(kept <= 2 * held.len(), "{kept}");
        assert!(Arc::ptr_eq(&held[50].name, &lane([1; 32], 50).name));
    }
}
