//! The part of the state that outlives its nodes, one piece at a time: what a copy for keeping holds.
//!
//! Registrations and the records of nodes are not in it: they hold for as long as the node lives that wrote them.

use super::{Attribute, AttributeKey, Path, Replica};
use crate::crdt::{Key, KeyRange, Value};
use crate::id::NodeId;

/// The most keys that are looked at, and the most bytes of values that are taken, in one go: somebody waits meanwhile.
const MAX_KEYS: usize = 1_024;
const MAX_BYTES: usize = 1024 * 1024;

/// One piece of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// An attribute.
    Attribute(Attribute),
    /// A counter, all nodes' shares added up.
    Counter {
        /// The counter.
        key: AttributeKey,
        /// Its value.
        value: i128,
    },
    /// An element of a set.
    Element {
        /// The set.
        set: AttributeKey,
        /// The element.
        element: Value,
    },
    /// What somebody said of a node's key; whether that counts, its signature says.
    Revocation {
        /// Whose key.
        node: NodeId,
        /// What was said.
        proof: Value,
    },
    /// What somebody said of who may do what; whether that counts, its signature says.
    Policy(Value),
}

/// Some pieces, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pieces {
    /// The pieces.
    pub pieces: Vec<Piece>,
    /// Where to go on, if there is more.
    pub next: Option<Key>,
}

impl Replica {
    /// The pieces from a key on, or from the first: as many as are read in a moment.
    pub fn pieces(&self, from: Option<Key>) -> Pieces {
        let mut found = Pieces::default();
        let mut bytes = 0;
        let range = KeyRange { from, until: None };
        for (looked_at, row) in self.store().range(&range).enumerate() {
            if looked_at >= MAX_KEYS || bytes >= MAX_BYTES {
                found.next = Some(row.key());
                break;
            }
            let before = found.pieces.len();
            self.pieces_at(&row.key(), &mut found.pieces);
            bytes += found.pieces[before..].iter().map(Piece::len).sum::<usize>();
        }
        found
    }

    fn pieces_at(&self, key: &Key, found: &mut Vec<Piece>) {
        match Path::of(key) {
            Some(Path::Attribute(key)) => found.extend(self.attribute(&key).map(Piece::Attribute)),
            Some(Path::Counter { counter, node }) if self.counts_first(&counter) == Some(node) => {
                let value = self.counter(&counter);
                found.extend(value.map(|value| Piece::Counter { key: counter, value }));
            }
            Some(Path::Element { set, element }) => {
                let element = self.element(&set, element);
                found.extend(element.map(|element| Piece::Element { set, element }));
            }
            Some(Path::Revocation(node)) => {
                let proofs = self.revocations_of(&node).into_iter();
                found.extend(proofs.map(|proof| Piece::Revocation { node, proof }));
            }
            Some(Path::Policy) => found.extend(self.policies().into_iter().map(Piece::Policy)),
            Some(Path::Node(_) | Path::Registration { .. } | Path::Counter { .. } | Path::Retirement(_))
            | None => {}
        }
    }

    /// The first of the nodes that have a share of a counter: where it is met, the whole counter is told.
    fn counts_first(&self, counter: &AttributeKey) -> Option<NodeId> {
        let prefix = Path::counts_of(counter);
        let mut shares = self.store().prefix(&prefix).filter_map(|row| match Path::of(&row.key())? {
            Path::Counter { counter: found, node } if found == *counter => Some(node),
            _ => None,
        });
        shares.next()
    }
}

impl Piece {
    /// Whether it is an attribute, a counter or a set whose full name begins so.
    pub fn is_under(&self, prefix: &str) -> bool {
        match self {
            Self::Attribute(Attribute { key, .. })
            | Self::Counter { key, .. }
            | Self::Element { set: key, .. } => key.to_string().starts_with(prefix),
            Self::Revocation { .. } | Self::Policy(_) => false,
        }
    }

    /// How many bytes of values it has.
    fn len(&self) -> usize {
        let len = |value: &Value| value.as_bytes().len();
        match self {
            Self::Attribute(attribute) => {
                len(&attribute.value) + attribute.siblings.iter().map(len).sum::<usize>()
            }
            Self::Counter { .. } => 0,
            Self::Element { element: value, .. }
            | Self::Revocation { proof: value, .. }
            | Self::Policy(value) => len(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::{key, replica, settle, sync, value};
    use super::*;
    use crate::id::TunnelId;
    use crate::time::UnixMillis;

    const WALL: UnixMillis = UnixMillis(1_000);

    fn all(replica: &Replica) -> (Vec<Piece>, usize) {
        let (mut pieces, mut pages, mut from) = (Vec::new(), 0, None);
        loop {
            let page = replica.pieces(from);
            pieces.extend(page.pieces);
            pages += 1;
            from = page.next;
            if from.is_none() {
                return (pieces, pages);
            }
        }
    }

    /// A counter that two nodes count is one piece, and so is each sibling's attribute; what lives with its node is none.
    #[test]
    fn everything_that_outlives_its_nodes_is_told_once() {
        let (mut one, mut other) = (replica(1, 1), replica(2, 1));
        for (replica, by) in [(&mut one, 5), (&mut other, -7)] {
            let counted = replica.increment(WALL, &key("mesh/hits"), by).unwrap();
            settle(replica, counted);
            let deeper = replica.increment(WALL, &key("mesh/hits.deep"), 1).unwrap();
            settle(replica, deeper);
            let set = replica.set(WALL, &key("mesh/name"), value(&by.to_string())).unwrap();
            settle(replica, set);
        }
        let added = one.add(WALL, &key("mesh/sites"), value("eu")).unwrap();
        settle(&mut one, added);
        let unset = one.set(WALL, &key("mesh/gone"), value("x")).unwrap();
        settle(&mut one, unset);
        let unset = one.unset(WALL, &key("mesh/gone")).unwrap();
        settle(&mut one, unset);
        let registered =
            one.register(WALL, &"web".parse().unwrap(), TunnelId(1), &crate::replica::Attributes::default());
        settle(&mut one, registered.unwrap());
        let (policy, proof) = (value("policy"), value("proof"));
        let decreed = one.decree(WALL, policy.clone()).unwrap();
        settle(&mut one, decreed);
        let node = one.actor().node;
        let revoked = one.revoke(WALL, node, proof.clone()).unwrap();
        settle(&mut one, revoked);
        sync(&one, &mut other);
        sync(&other, &mut one);
        let (pieces, _) = all(&one);
        assert_eq!(pieces, all(&other).0);
        let attribute = one.attribute(&key("mesh/name")).unwrap();
        assert_eq!(attribute.siblings.len(), 1);
        assert_eq!(
            pieces,
            [
                Piece::Attribute(attribute),
                Piece::Policy(policy),
                Piece::Revocation { node, proof },
                Piece::Element { set: key("mesh/sites"), element: value("eu") },
                Piece::Counter { key: key("mesh/hits.deep"), value: 2 },
                Piece::Counter { key: key("mesh/hits"), value: -2 },
            ]
        );
    }

    #[test]
    fn a_page_is_bounded_by_keys_and_by_bytes_and_none_is_told_twice_or_left_out() {
        let mut many = replica(1, 1);
        for number in 0..2_500 {
            let set = many.set(WALL, &key(&format!("mesh/{number:05}")), value("x")).unwrap();
            settle(&mut many, set);
        }
        let (pieces, pages) = all(&many);
        assert_eq!((pieces.len(), pages), (2_500, 3));
        let mut large = replica(1, 1);
        for number in 0..40 {
            let set = large
                .set(WALL, &key(&format!("mesh/{number:05}")), value(&"x".repeat(Value::MAX_LEN)))
                .unwrap();
            settle(&mut large, set);
        }
        let (pieces, pages) = all(&large);
        assert_eq!((pieces.len(), pages), (40, 3));
    }
}
