//! Which of several holders comes first.

use std::cmp::Reverse;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;

use super::resolve::{Candidate, Way};
use crate::gossip::MemberState;

/// How the holders of a tunnel are put into order. The first one gets the stream; if it cannot be reached, the next.
///
/// Whatever the policy, a holder that is suspected to be gone comes behind those that are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// The last registered first: "last named wins".
    #[default]
    Last,
    /// The first registered first.
    First,
    /// Each in turn.
    RoundRobin,
    /// This node itself, then by round-trip time, then over other nodes.
    Nearest,
    /// By how many streams of this node go there now, the fewest first; then as [`Policy::Last`]. What other nodes have
    /// there is not known.
    LeastConnections,
    /// In no order.
    Random,
    /// In no order, but one with twice the [`Weight`](crate::mesh::Weight) comes first twice as often.
    Weighted,
    /// By the source's address: the same source gets the same holder while the holders are the same, and few sources
    /// another one when they change.
    SourceHash,
}

/// Every policy and what it is called.
const NAMES: [(Policy, &str); 8] = [
    (Policy::Last, "last"),
    (Policy::First, "first"),
    (Policy::RoundRobin, "round-robin"),
    (Policy::Nearest, "nearest"),
    (Policy::LeastConnections, "least-conn"),
    (Policy::Random, "random"),
    (Policy::Weighted, "weighted"),
    (Policy::SourceHash, "hash:src"),
];

/// A text is no [`Policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a policy is one of last, first, round-robin, nearest, least-conn, random, weighted, hash:src")]
pub struct ParsePolicyError;

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = NAMES.iter().find(|(policy, _)| policy == self).expect("every policy has a name");
        f.write_str(name)
    }
}

impl FromStr for Policy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, ParsePolicyError> {
        NAMES.iter().find(|(_, name)| *name == text).map(|(policy, _)| *policy).ok_or(ParsePolicyError)
    }
}

/// What a policy may depend on beside the candidates.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn {
    /// How many streams went before it, for [`Policy::RoundRobin`].
    pub number: usize,
    /// Who opens it, for [`Policy::SourceHash`].
    pub source: Option<IpAddr>,
    /// Some number or other, for [`Policy::Random`] and [`Policy::Weighted`].
    pub random: u64,
}

impl Policy {
    /// Puts candidates into order, those that are refused behind all others.
    pub(super) fn order(self, candidates: &mut [Candidate], turn: Turn) {
        let named = |candidate: &Candidate| {
            let registration = &candidate.registration;
            (registration.stamp, registration.dot.clone())
        };
        match self {
            Self::Last => candidates.sort_by_cached_key(|candidate| Reverse(named(candidate))),
            Self::First | Self::RoundRobin => candidates.sort_by_cached_key(named),
            Self::Nearest => candidates.sort_by_cached_key(|candidate| {
                let distance = match candidate.way {
                    Way::Here => (0, None),
                    Way::Direct { rtt } => (1, Some(rtt)),
                    Way::Over { rtt, .. } => (2, Some(rtt)),
                    Way::Shortcut => (3, None),
                    Way::None => (4, None),
                };
                (distance, Reverse(named(candidate)))
            }),
            Self::LeastConnections => {
                candidates.sort_by_cached_key(|candidate| (candidate.streams, Reverse(named(candidate))));
            }
            Self::Random => candidates.sort_by_cached_key(|candidate| rank(candidate, turn.random)),
            Self::Weighted => candidates.sort_by_cached_key(|candidate| arrival(candidate, turn.random)),
            Self::SourceHash => candidates.sort_by_cached_key(|candidate| rank(candidate, turn.source)),
        }
        let doubtful = |candidate: &Candidate| {
            (candidate.refused.is_some(), candidate.state == Some(MemberState::Suspect))
        };
        candidates.sort_by_key(doubtful);
        if self == Self::RoundRobin {
            let healthy = candidates.partition_point(|candidate| doubtful(candidate) == (false, false));
            if let Some(first) = turn.number.checked_rem(healthy) {
                candidates[..healthy].rotate_left(first);
            }
        }
    }
}

/// Rendezvous hashing: each source ranks the holders in an order of its own.
fn rank(candidate: &Candidate, source: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (candidate.registration.tunnel, source).hash(&mut hasher);
    hasher.finish()
}

/// When a holder would come first if each came at random, as often as its weight says (Efraimidis and Spirakis, 2006):
/// the earliest of them is one of weight w with a probability of w out of the sum of all.
fn arrival(candidate: &Candidate, random: u64) -> u64 {
    // 52 bits of the hash, and never zero.
    #[expect(clippy::cast_precision_loss, reason = "52 bits are exact")]
    let uniform = ((rank(candidate, random) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    // Numbers that are not negative have the order of their bits.
    (-uniform.ln() / f64::from(candidate.weight().get())).to_bits()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::crdt::{Class, Dot, Lane};
    use crate::id::{Actor, Generation, NodeId, TunnelId};
    use crate::mesh::route::resolve::Refused;
    use crate::replica::{Attributes, Registration};
    use crate::time::Timestamp;

    fn candidate(number: u8, way: Way) -> Candidate {
        let holder = Actor { node: NodeId::from_bytes([number; 32]), generation: Generation(1) };
        Candidate {
            registration: Registration {
                name: "web".parse().unwrap(),
                tunnel: TunnelId(number.into()),
                holder,
                dot: Dot { lane: Lane::new(holder, Class::Registry), counter: 1 },
                stamp: Timestamp(number.into()),
                attributes: Attributes::default(),
            },
            attributes: Default::default(),
            label: String::new(),
            state: Some(MemberState::Alive),
            way,
            streams: 0,
            refused: None,
        }
    }

    fn millis(millis: u64) -> Way {
        Way::Direct { rtt: Duration::from_millis(millis) }
    }

    fn ids(candidates: &[Candidate]) -> Vec<u64> {
        candidates.iter().map(|candidate| candidate.registration.tunnel.0).collect()
    }

    fn ordered(policy: Policy, candidates: &[Candidate], turn: Turn) -> Vec<u64> {
        let mut candidates = candidates.to_vec();
        policy.order(&mut candidates, turn);
        ids(&candidates)
    }

    #[test]
    fn a_policy_survives_its_text() {
        for (policy, name) in NAMES {
            assert_eq!((name.parse(), policy.to_string().as_str()), (Ok(policy), name));
        }
        assert_eq!("best".parse::<Policy>(), Err(ParsePolicyError));
    }

    /// FEATURES P3.
    #[test]
    fn each_policy_has_its_order() {
        let over = Way::Over { relay: NodeId::from_bytes([9; 32]), rtt: Duration::from_millis(1) };
        let candidates =
            [candidate(1, millis(5)), candidate(2, over), candidate(3, Way::Here), candidate(4, millis(2))];
        let turn = |number| Turn { number, ..Turn::default() };
        assert_eq!(ordered(Policy::Last, &candidates, turn(0)), [4, 3, 2, 1]);
        assert_eq!(ordered(Policy::First, &candidates, turn(0)), [1, 2, 3, 4]);
        assert_eq!(ordered(Policy::Nearest, &candidates, turn(0)), [3, 4, 1, 2]);
        assert_eq!(ordered(Policy::RoundRobin, &candidates, turn(0)), [1, 2, 3, 4]);
        assert_eq!(ordered(Policy::RoundRobin, &candidates, turn(5)), [2, 3, 4, 1]);
        let mut busy = candidates;
        (busy[0].streams, busy[1].streams, busy[3].streams) = (1, 1, 2);
        assert_eq!(ordered(Policy::LeastConnections, &busy, turn(0)), [3, 2, 1, 4]);
    }

    #[test]
    fn whom_it_suspects_and_whom_it_refuses_comes_last() {
        let mut candidates = [1, 2, 3, 4].map(|number| candidate(number, millis(1)));
        candidates[3].state = Some(MemberState::Suspect);
        candidates[2].refused = Some(Refused::Down);
        for (_, policy) in [(0, Policy::Last), (1, Policy::Nearest)] {
            assert_eq!(ordered(policy, &candidates, Turn::default()), [2, 1, 4, 3]);
        }
        let turn = Turn { number: 3, ..Turn::default() };
        assert_eq!(ordered(Policy::RoundRobin, &candidates, turn), [2, 1, 4, 3]);
    }

    /// FEATURES P3: of 10,000 visitors each holder gets its share, within five standard deviations; and where it does not
    /// take one, the others share as if it were not there.
    #[test]
    fn holders_come_first_as_often_as_their_weights_say() {
        let weighted = |number: u8, weight: u16| {
            let mut candidate = candidate(number, millis(1));
            let attributes = &mut candidate.registration.attributes;
            *attributes = crate::mesh::Weight::try_from(weight).unwrap().mark(attributes).unwrap();
            candidate
        };
        let candidates = [weighted(1, 1), weighted(2, 2), weighted(3, 7)];
        let (mut firsts, mut seconds) = ([0_u32; 4], [0_u32; 4]);
        for random in 0..10_000 {
            let order = ordered(Policy::Weighted, &candidates, Turn { random, ..Turn::default() });
            firsts[usize::try_from(order[0]).unwrap()] += 1;
            if order[0] == 3 {
                seconds[usize::try_from(order[1]).unwrap()] += 1;
            }
        }
        let is_near = |found: u32, of: u32, share: f64| {
            let (found, of) = (f64::from(found), f64::from(of));
            (found - of * share).abs() <= 5.0 * (of * share * (1.0 - share)).sqrt()
        };
        assert!(is_near(firsts[1], 10_000, 0.1), "{firsts:?}");
        assert!(is_near(firsts[2], 10_000, 0.2), "{firsts:?}");
        assert!(is_near(firsts[3], 10_000, 0.7), "{firsts:?}");
        assert!(is_near(seconds[2], firsts[3], 2.0 / 3.0), "{seconds:?}");
    }

    #[test]
    fn a_source_keeps_its_holder_when_another_one_goes() {
        let candidates: Vec<_> = (1..=5).map(|number| candidate(number, millis(1))).collect();
        let mut firsts = BTreeSet::new();
        for source in 0..100 {
            let turn = Turn { source: Some([10, 0, 0, source].into()), ..Turn::default() };
            let order = ordered(Policy::SourceHash, &candidates, turn);
            firsts.insert(order[0]);
            let without_last: Vec<_> =
                candidates.iter().filter(|other| other.registration.tunnel.0 != order[4]).cloned().collect();
            assert_eq!(ordered(Policy::SourceHash, &without_last, turn), order[..4]);
        }
        assert_eq!(firsts.len(), 5);
    }
}
