//! What nodes say to each other. How it is written is `wire`'s affair.

use std::sync::Arc;

use crate::crdt::{CausalContext, Delta, Item, Key, Lane, RangeSet, Seal, Store};
use crate::id::Generation;
use crate::time::{Timestamp, UnixMillis};

/// The versions of the protocol that a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub min: u8,
    /// The highest.
    pub max: u8,
}

impl Versions {
    /// What this program speaks.
    pub const OURS: Self = Self { min: 1, max: 1 };

    /// What it speaks in a mesh whose entries are sealed: another language, for neither would believe the other.
    pub const SEALED: Self = Self { min: 129, max: 129 };

    /// What is spoken over a state.
    pub fn over(store: &Store) -> Self {
        if store.is_sealed() { Self::SEALED } else { Self::OURS }
    }

    /// Whether one speaks of sealed entries and the other does not.
    pub fn differ_in_seals(self, other: Self) -> bool {
        (self.max >= Self::SEALED.min) != (other.max >= Self::SEALED.min)
    }

    /// The highest version that both speak.
    pub fn common(self, other: Self) -> Option<u8> {
        let version = self.max.min(other.max);
        (version >= self.min && version >= other.min).then_some(version)
    }
}

/// One message on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first on every link, both ways, on the control channel.
    Hello {
        /// What the sender speaks.
        versions: Versions,
        /// In which of its lives it is.
        generation: Generation,
        /// The digest of its state: if it is the receiver's too, there is nothing to say.
        digest: [u8; 16],
        /// Its wall clock, to compare.
        wall: UnixMillis,
    },
    /// What the sender has seen, on the control channel: an acknowledgement, and news of what can be asked for.
    Context {
        /// Whether it is all that the sender has seen, or the lanes that changed since the last time.
        complete: bool,
        /// The lanes, each with all that was seen of it.
        seen: CausalContext,
    },
    /// A request for lanes, on the control channel, with what the sender has of them.
    Want {
        /// The lanes, each with what was seen of it, be it nothing.
        lanes: Vec<(Lane, RangeSet)>,
    },
    /// A piece of state, on the delta channel.
    Delta(Delta),
    /// A sign of life: a datagram that may be lost, or on the control channel where datagrams did not get through.
    Heartbeat {
        /// The digest of the sender's state, so that a lasting difference is noticed whatever went wrong.
        digest: [u8; 16],
        /// Whether the sender has not heard the receiver for some time, and wants to on the control channel.
        asks: bool,
    },
    /// Whether the sender wants this link, on the control channel. In a full mesh it does without a word.
    Neighbour {
        /// Whether it does.
        wanted: bool,
    },
    /// Do not pass on the writes of these lanes' authors on this link, on the control channel: they come another
    /// way. A [`Want`](Self::Want) takes it back.
    Prune {
        /// A lane of each, ascending.
        lanes: Vec<Lane>,
    },
    /// These authors look for the fastest ways to everybody, on the control channel: whoever hears it for the first time
    /// passes it on at once to its other neighbours, and wants their writes from where it came.
    Probe {
        /// A lane of each, ascending, and how often it has looked in that life.
        probes: Vec<(Lane, u64)>,
    },
    /// How much came on the delta channel since the link began, on the control channel: so that the sender knows how much
    /// is still on its way. Said only after much has come.
    Taken {
        /// The sum of the [weights](Self::weight).
        weight: u64,
    },
    /// News, on the control channel, that what the receiver lacks of these lanes lies below the sender's floors:
    /// no delta can bring it, but it can be fetched by [`Ask`].
    Offer {
        /// The lanes, each with the counters up to its floor.
        floors: CausalContext,
    },
    /// A step of fetching, on the control channel.
    Ask {
        /// Its number, for telling late answers apart.
        number: u64,
        /// What is asked.
        ask: Ask,
    },
    /// A piece of the answer to it, on the delta channel.
    Tell {
        /// The number of the request.
        number: u64,
        /// What is told.
        tell: Tell,
    },
}

impl Message {
    /// How much of the window of a link it takes: about its bytes, the same for both ends; nothing for what goes on the
    /// control channel.
    pub fn weight(&self) -> u64 {
        let bytes = match self {
            Self::Delta(delta) => delta.size(),
            Self::Tell { tell, .. } => tell.size(),
            _ => return 0,
        };
        HEAD + u64::try_from(bytes).unwrap_or(u64::MAX / 2)
    }
}

/// What every frame takes besides its contents.
const HEAD: u64 = 16;

impl Tell {
    fn size(&self) -> usize {
        match self {
            Self::Context { seen, .. } => seen.size(),
            Self::Ranges { outcomes, items, dead, seals } => {
                let seals = seals.iter().map(|seal| seal.size()).sum::<usize>();
                outcomes.len() + items.iter().map(Item::size).sum::<usize>() + dead.size() + seals
            }
            Self::Floors { floors, .. } => floors.size(),
        }
    }
}

/// What a node that fetches asks for: first the context, then ranges of keys, then the floors. The next request
/// follows when the one before has been answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// What the receiver has seen.
    Context {
        /// Of the lanes behind this one.
        after: Option<Lane>,
    },
    /// How what the receiver holds differs.
    Ranges {
        /// Where the first range begins.
        from: Option<Key>,
        /// Where each range ends, and what the sender holds in it. Each begins where the one before ends; only
        /// the last may have no end.
        ranges: Vec<(Option<Key>, Summary)>,
    },
    /// How far the receiver has collected.
    Floors {
        /// Of the lanes behind this one.
        after: Option<Lane>,
    },
}

/// What is held in a range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Summary {
    /// Nothing is asked about it.
    Agreed,
    /// Its [fingerprint](crate::crdt::Store::fingerprint).
    Hash([u8; 8]),
    /// The names of all its entries.
    Dots(CausalContext),
}

/// An answer, or a piece of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tell {
    /// What was seen.
    Context {
        /// The next lanes, each with what was seen of it.
        seen: CausalContext,
        /// Whether there are no more.
        last: bool,
    },
    /// How ranges differ.
    Ranges {
        /// Of the next ranges that were asked about, in their order.
        outcomes: Vec<Outcome>,
        /// The entries that the receiver did not name.
        items: Vec<Item>,
        /// The entries that it named and that are not live here.
        dead: CausalContext,
        /// Where entries are sealed: the seals of the items', in order.
        seals: Vec<Arc<Seal>>,
    },
    /// How far was collected.
    Floors {
        /// The next lanes, each with the counters up to its floor.
        floors: CausalContext,
        /// The greatest stamp of what was collected.
        horizon: Timestamp,
        /// Whether there are no more.
        last: bool,
    },
}

/// What became of a range that was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The hashes agree.
    Same,
    /// The hashes differ: to be asked about in parts.
    Differs,
    /// Its entries were named, and all that differs has been told.
    Told,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken() {
        let versions = |min, max| Versions { min, max };
        assert_eq!(versions(1, 3).common(versions(2, 5)), Some(3));
        assert_eq!(versions(2, 5).common(versions(1, 3)), Some(3));
        assert_eq!(versions(1, 1).common(versions(2, 2)), None);
    }
}
