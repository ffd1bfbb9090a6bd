//! What an author signs, so that nobody who passes its writes on can change them or make others in its name.
//!
//! A batch does not survive its first hop: a delta is made from the state for one receiver, and an entry may travel with any
//! others. So what is signed is a list of hashes of entries, and whichever of them goes somewhere takes the list along.
//! See decision 15.

use std::fmt;

use super::entry::Fingerprint;
use super::{Class, Lane};
use crate::id::NodeId;

/// An author's signature over some of its entries.
///
/// They are of one lane, with consecutive counters from `first` on. A place that is all zeros is of an entry that was dead
/// before it was sealed, and vouches for none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seal {
    /// The lane.
    pub lane: Lane,
    /// The first counter.
    pub first: u64,
    /// The hashes of the entries; 1 to [`MAX_ENTRIES`](Self::MAX_ENTRIES).
    pub hashes: Box<[[u8; 16]]>,
    /// The author's public key, of which its node's id is a hash.
    pub key: [u8; 32],
    /// Its signature over [`text`](Self::text).
    pub signature: [u8; 64],
}

/// Signs what this node writes, and judges what others are said to have signed. The core knows no cryptography of its own.
pub trait Notary: fmt::Debug + Send + Sync {
    /// The public key of this node.
    fn key(&self) -> [u8; 32];

    /// This node's signature over a text.
    fn sign(&self, text: &[u8]) -> [u8; 64];

    /// Whether `author` is the node that has `key`, and has signed the text with it.
    fn is_genuine(&self, author: &NodeId, key: &[u8; 32], text: &[u8], signature: &[u8; 64]) -> bool;
}

impl Seal {
    /// The most entries under one signature: with more of them the last that lives bears longer lists, with fewer it is
    /// signed and verified more often.
    pub const MAX_ENTRIES: usize = 16;

    /// Seals entries.
    pub(super) fn new(notary: &dyn Notary, lane: Lane, first: u64, hashes: Box<[Fingerprint]>) -> Self {
        let mut seal = Self { lane, first, hashes, key: notary.key(), signature: [0; 64] };
        seal.signature = notary.sign(&seal.text());
        seal
    }

    /// The greatest counter that it speaks of: its author has come so far.
    pub fn last(&self) -> u64 {
        self.first.saturating_add(self.hashes.len() as u64).saturating_sub(1)
    }

    /// The hash of the entry with that counter, if the seal vouches for one.
    pub(super) fn hash_of(&self, counter: u64) -> Option<&Fingerprint> {
        let place = usize::try_from(counter.checked_sub(self.first)?).ok()?;
        self.hashes.get(place).filter(|hash| **hash != Fingerprint::default())
    }

    /// What is signed. No other text that this program signs begins so.
    pub fn text(&self) -> Vec<u8> {
        const HEAD: &[u8] = b"snomesh seal 1\n";
        let (node, generation) = self.lane.name();
        let mut text = Vec::with_capacity(HEAD.len() + 49 + 16 * self.hashes.len());
        text.extend(HEAD);
        text.extend(node.as_bytes());
        text.extend(generation.0.to_le_bytes());
        text.push(self.lane.class() as u8);
        text.extend(self.first.to_le_bytes());
        self.hashes.iter().for_each(|hash| text.extend(hash));
        text
    }

    /// Whether the author of the lane has signed it.
    pub(super) fn is_genuine(&self, notary: &dyn Notary) -> bool {
        let sound = self.lane.class() != Class::Past && self.first > 0 && !self.hashes.is_empty();
        sound && notary.is_genuine(self.lane.name().0, &self.key, &self.text(), &self.signature)
    }

    /// A bound on the bytes that it takes on the wire, near enough for batching.
    pub fn size(&self) -> usize {
        112 + 16 * self.hashes.len()
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({}:{}..={})", self.lane, self.first, self.last())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A node of a test as a notary: its id is its key, and whoever verifies can sign. Nobody here does so for others.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Pen {
        pub(crate) node: [u8; 32],
        /// How often it was asked whether a seal is genuine.
        pub(crate) asked: Arc<AtomicUsize>,
    }

    impl Pen {
        pub(crate) fn of(node: NodeId) -> Self {
            Self { node: *node.as_bytes(), asked: Arc::default() }
        }

        pub(crate) fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    fn signature(key: &[u8; 32], text: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        blake3::Hasher::new_keyed(key).update(text).finalize_xof().fill(&mut signature);
        signature
    }

    impl Notary for Pen {
        fn key(&self) -> [u8; 32] {
            self.node
        }

        fn sign(&self, text: &[u8]) -> [u8; 64] {
            signature(&self.node, text)
        }

        fn is_genuine(&self, author: &NodeId, key: &[u8; 32], text: &[u8], signed: &[u8; 64]) -> bool {
            self.asked.fetch_add(1, Ordering::Relaxed);
            author.as_bytes() == key && signature(key, text) == *signed
        }
    }
}
