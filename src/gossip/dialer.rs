//! Whom to call, and when: the nodes that this one wants a link to and has none, and every seed, for ever.
//!
//! A seed is called again and again even when its node is linked: behind one name may be several nodes, or
//! another one by now, and two halves of a mesh that were seeded apart must find each other.
//!
//! Each such call is a handshake with both ends' certificates, and what it finds is mostly what was found before: so a
//! seed is looked at half as often after each same answer, down to a bound. Where a seed is no name but an IP address,
//! and the node that answers says in its record that this address is its own, nobody else can be expected there, and
//! the bound is a long one. It is looked at nevertheless, for what a node says of its address may be true of several,
//! behind a balancer or in networks that do not know of each other; and as often as any other again from when the node is
//! lost, says something else or is not who answers. Behind a name that leads to several nodes now one and now another
//! answers: it is looked at often, as it should be.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::{Config, DialId, Output};
use crate::id::NodeId;
use crate::replica::Address;
use crate::time::Moment;

/// A link that fell earlier than this says nothing good about its target.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The longest pause, more or less, between two looks at a seed: where its node says that its address is its own, and
/// where another may answer at any time.
const MAX_OWN_PAUSE: Duration = Duration::from_secs(16 * 60);
const MAX_PAUSE: Duration = Duration::from_secs(4 * 60);

/// Somebody to call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// Whoever answers there.
    Seed(Address),
    /// That node, wherever it says it is.
    Node(NodeId),
}

impl Target {
    /// Whether it is an IP address, and among those that the node there says are its own.
    fn is_own(&self, addresses: &[Address]) -> bool {
        match self {
            Self::Seed(seed) => seed.as_str().parse::<SocketAddr>().is_ok() && addresses.contains(seed),
            Self::Node(_) => false,
        }
    }
}

/// How it goes with one target.
#[derive(Debug)]
struct Attempts {
    /// Failures in a row.
    failed: u32,
    /// Not before this time.
    next_at: Moment,
    /// Whether an attempt is on its way.
    dialling: bool,
    /// For a seed: who answered last, how often in a row, and whether at an address of its own.
    answered: Option<NodeId>,
    same: u32,
    is_own: bool,
    /// When to look again who does, and how long after an answer that is where nothing is known.
    probe_at: Moment,
    pause: Duration,
}

impl Attempts {
    fn new(next_at: Moment) -> Self {
        Self {
            failed: 0,
            next_at,
            dialling: false,
            answered: None,
            same: 0,
            is_own: false,
            probe_at: next_at,
            pause: Duration::ZERO,
        }
    }

    /// What was known of who answers at a seed is doubtful: it is looked at no later than any other.
    fn doubt(&mut self, now: Moment) {
        self.same = 0;
        self.probe_at = self.probe_at.min(now + self.pause);
    }
}

/// Decides whom to call and when. Attempts to one target never overlap.
#[derive(Debug)]
pub(super) struct Dialer {
    own: NodeId,
    targets: BTreeMap<Target, Attempts>,
    dialling: BTreeMap<DialId, Target>,
    next_dial: u64,
    pace: Pace,
}

/// How fast nodes are called: some at once, and then one after another, for in a mesh that forms it is soon known
/// that it is too large for calling everybody.
#[derive(Debug)]
struct Pace {
    /// When all calls would have been made if each had waited for its turn (the generic cell rate algorithm).
    paid_until: Moment,
}

/// How many nodes are called at once, and how long each call after these waits for its turn.
const CALLS_AT_ONCE: u32 = 8;
const CALL_PAUSE: Duration = Duration::from_millis(100);

impl Pace {
    /// Makes a call if it is time for one.
    fn takes(&mut self, now: Moment) -> bool {
        let ahead = self.paid_until.since(now);
        if ahead >= CALL_PAUSE * CALLS_AT_ONCE {
            return false;
        }
        self.paid_until = self.paid_until.max(now) + CALL_PAUSE;
        true
    }

    /// When the next one may be made, if none may be now.
    fn next_at(&self, now: Moment) -> Moment {
        now + self.paid_until.since(now).saturating_sub(CALL_PAUSE * (CALLS_AT_ONCE - 1))
    }
}

impl Dialer {
    /// Starts with the seeds, all to be called at once.
    pub(super) fn new(own: NodeId, seeds: &[Address], now: Moment) -> Self {
        let targets = seeds.iter().map(|seed| (Target::Seed(seed.clone()), Attempts::new(now))).collect();
        Self { own, targets, dialling: BTreeMap::new(), next_dial: 0, pace: Pace { paid_until: now } }
    }

    /// Calls these nodes from now on, and no others. Of two nodes the one with the smaller id calls first.
    pub(super) fn aim<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeId>, config: &Config, now: Moment) {
        let mut kept = BTreeMap::new();
        for node in nodes {
            let target = Target::Node(*node);
            let courtesy = if self.own < *node { Duration::ZERO } else { config.dial_courtesy };
            let attempts = self.targets.remove(&target);
            kept.insert(target, attempts.unwrap_or_else(|| Attempts::new(now + courtesy)));
        }
        self.targets.retain(|target, _| matches!(target, Target::Seed(_)));
        self.targets.append(&mut kept);
    }

    /// Makes the calls that are due to those whom no link leads to, and says when the next is.
    ///
    /// `addresses` gives a node's addresses; one without any cannot be called.
    pub(super) fn dial<'a>(
        &mut self,
        now: Moment,
        linked: impl Fn(&NodeId) -> bool,
        addresses: impl Fn(&NodeId) -> &'a [Address],
        mut output: impl FnMut(Output),
    ) -> Option<Moment> {
        let mut next = None;
        for (target, attempts) in &mut self.targets {
            let (expect, choices) = match target {
                Target::Seed(address) => (attempts.answered, std::slice::from_ref(address)),
                Target::Node(node) => (Some(*node), addresses(node)),
            };
            let reached = expect.is_some_and(|node| node == self.own || linked(&node));
            let is_seed = matches!(target, Target::Seed(_));
            if attempts.dialling || (reached && !is_seed) || choices.is_empty() {
                continue;
            }
            let due = if reached { attempts.probe_at } else { attempts.next_at };
            if due > now {
                next = Some(next.map_or(due, |next: Moment| next.min(due)));
                continue;
            }
            if !is_seed && !self.pace.takes(now) {
                let due = self.pace.next_at(now);
                next = Some(next.map_or(due, |next: Moment| next.min(due)));
                continue;
            }
            let dial = DialId(self.next_dial);
            self.next_dial += 1;
            attempts.dialling = true;
            self.dialling.insert(dial, target.clone());
            let address = choices[attempts.failed as usize % choices.len()].clone();
            // Whoever answers at a seed is welcome, for it may have changed hands.
            let expect = matches!(target, Target::Node(_)).then_some(expect).flatten();
            output(Output::Dial { dial, address, expect });
        }
        next
    }

    /// Somebody answered who says that `addresses` are its own. A seed is looked at again after `probe_after`, more or
    /// less, or ever more rarely while one node answers at an address of its own. Says whether it was a seed.
    pub(super) fn answered(
        &mut self,
        dial: DialId,
        (node, addresses): (NodeId, &[Address]),
        probe_after: Duration,
        now: Moment,
        rng: &mut Xoshiro256PlusPlus,
    ) -> bool {
        let Some(target) = self.dialling.remove(&dial) else { return false };
        if let Some(attempts) = self.targets.get_mut(&target) {
            attempts.dialling = false;
            let again = attempts.answered == Some(node);
            attempts.same = if again { attempts.same.saturating_add(1) } else { 0 };
            attempts.is_own = target.is_own(addresses);
            attempts.answered = Some(node);
            let jitter = rng.random_range(0.5..1.5);
            attempts.pause = probe_after.mul_f64(jitter);
            let bound = if attempts.is_own { MAX_OWN_PAUSE } else { MAX_PAUSE };
            let rarely = probe_after.saturating_mul(1 << attempts.same.min(16)).min(bound);
            attempts.probe_at = now + rarely.max(probe_after).mul_f64(jitter);
        }
        matches!(target, Target::Seed(_))
    }

    /// A node says that `addresses` are its own, and no others.
    pub(super) fn claimed(&mut self, node: NodeId, addresses: &[Address], now: Moment) {
        for (target, attempts) in &mut self.targets {
            if attempts.is_own && attempts.answered == Some(node) && !target.is_own(addresses) {
                attempts.is_own = false;
                attempts.doubt(now);
            }
        }
    }

    /// Nobody answered.
    pub(super) fn failed(
        &mut self,
        dial: DialId,
        config: &Config,
        now: Moment,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let Some(target) = self.dialling.remove(&dial) else { return };
        if let Some(attempts) = self.targets.get_mut(&target) {
            attempts.dialling = false;
            attempts.failed = attempts.failed.saturating_add(1);
            attempts.next_at = now + backoff(attempts.failed, config, rng);
            attempts.same = 0;
            attempts.probe_at = attempts.next_at;
        }
    }

    /// The last link to a node fell after it had stood for `stood`.
    pub(super) fn lost(
        &mut self,
        node: NodeId,
        stood: Duration,
        config: &Config,
        now: Moment,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let own = self.own;
        for (target, attempts) in &mut self.targets {
            let concerned = match target {
                Target::Seed(_) => attempts.answered == Some(node),
                Target::Node(target) => *target == node,
            };
            if concerned {
                attempts.failed = if stood < STABLE_AFTER { attempts.failed.saturating_add(1) } else { 0 };
                let courtesy = if own < node { Duration::ZERO } else { config.dial_courtesy };
                attempts.next_at = now + courtesy + backoff(attempts.failed, config, rng);
                attempts.doubt(now);
            }
        }
    }
}

/// Doubles with every failure up to a bound, with full jitter (Brooker, "Exponential Backoff And Jitter", 2015)
/// above a tenth, so that two callers that fell together do not call together.
fn backoff(failed: u32, config: &Config, rng: &mut Xoshiro256PlusPlus) -> Duration {
    let full = config.dial_backoff.saturating_mul(1 << failed.min(16)).min(config.max_dial_backoff);
    full.mul_f64(rng.random_range(0.1..=1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    const PROBE: Duration = Duration::from_secs(30);

    fn calls(dialer: &mut Dialer, now: u64, linked: &[NodeId]) -> (Vec<Output>, Option<Moment>) {
        let here = [address("there:1")];
        let mut calls = Vec::new();
        let next =
            dialer.dial(Moment(now), |node| linked.contains(node), |_| &here, |output| calls.push(output));
        (calls, next)
    }

    #[test]
    fn attempts_to_one_target_never_overlap_and_pause_longer_each_time() {
        let (config, mut rng) = (Config::default(), Xoshiro256PlusPlus::seed_from_u64(1));
        let mut dialer = Dialer::new(node(1), &[address("seed:1")], Moment(0));
        let mut now = 0;
        let mut longest = 0;
        for attempt in 0..20 {
            let (made, _) = calls(&mut dialer, now, &[]);
            assert_eq!(
                made,
                [Output::Dial { dial: DialId(attempt), address: address("seed:1"), expect: None }]
            );
            assert_eq!(calls(&mut dialer, now, &[]), (vec![], None));
            dialer.failed(DialId(attempt), &config, Moment(now), &mut rng);
            let (made, next) = calls(&mut dialer, now, &[]);
            assert!(made.is_empty());
            longest = longest.max(next.unwrap().0 - now);
            now = next.unwrap().0;
        }
        let bound = u64::try_from(config.max_dial_backoff.as_nanos()).unwrap();
        assert!(longest <= bound && longest > bound / 4);
    }

    #[test]
    fn whoever_is_linked_is_not_called_until_the_link_falls() {
        let (config, mut rng) = (Config::default(), Xoshiro256PlusPlus::seed_from_u64(1));
        let mut dialer = Dialer::new(node(1), &[address("seed:1")], Moment(0));
        calls(&mut dialer, 0, &[]);
        assert!(dialer.answered(DialId(0), (node(2), &[]), PROBE, Moment(0), &mut rng));
        assert!(calls(&mut dialer, 1, &[node(2)]).0.is_empty());
        dialer.lost(node(2), Duration::from_secs(60), &config, Moment(1), &mut rng);
        let (made, next) = calls(&mut dialer, 1, &[]);
        assert!(made.is_empty());
        assert_eq!(calls(&mut dialer, next.unwrap().0, &[]).0.len(), 1);
    }

    /// SCENARIOS G-20: another node may answer there by now.
    #[test]
    fn a_seed_that_was_reached_is_looked_at_again() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        for reached in [node(1), node(2)] {
            let mut dialer = Dialer::new(node(1), &[address("seed:1")], Moment(0));
            calls(&mut dialer, 0, &[]);
            assert!(dialer.answered(DialId(0), (reached, &[]), PROBE, Moment(0), &mut rng));
            let (made, next) = calls(&mut dialer, 1, &[node(2)]);
            assert!(made.is_empty());
            let next = next.unwrap();
            assert!(next >= Moment(0) + PROBE / 2 && next <= Moment(0) + 2 * PROBE);
            let (made, _) = calls(&mut dialer, next.0, &[node(2)]);
            assert_eq!(made, [Output::Dial { dial: DialId(1), address: address("seed:1"), expect: None }]);
        }
    }

    /// The pauses between looks at a seed at which somebody answers who says that addresses are its own.
    struct Looks {
        dialer: Dialer,
        seed: Address,
        now: Moment,
        made: u64,
        rng: Xoshiro256PlusPlus,
    }

    impl Looks {
        fn at(seed: &str) -> Self {
            let seed = address(seed);
            let dialer = Dialer::new(node(1), std::slice::from_ref(&seed), Moment(0));
            Self { dialer, seed, now: Moment(0), made: 0, rng: Xoshiro256PlusPlus::seed_from_u64(1) }
        }

        /// Waits until it is called, and has that node answer. Says how long that took.
        fn look(&mut self, answers: u8, own: &[Address]) -> Duration {
            let began_at = self.now;
            let (mut made, next) = calls(&mut self.dialer, self.now.0, &[node(2), node(3)]);
            if let Some(next) = next {
                self.now = next;
                (made, _) = calls(&mut self.dialer, next.0, &[node(2), node(3)]);
            }
            let dial = DialId(self.made);
            assert_eq!(made, [Output::Dial { dial, address: self.seed.clone(), expect: None }]);
            self.made += 1;
            assert!(self.dialer.answered(dial, (node(answers), own), PROBE, self.now, &mut self.rng));
            self.now.since(began_at)
        }

        /// Has the same node answer until it is looked at it as rarely as ever.
        fn settle(&mut self, answers: u8, own: &[Address]) {
            for _ in 0..12 {
                self.look(answers, own);
            }
            assert!(self.look(answers, own) > 4 * PROBE);
        }
    }

    /// The first answer says who it is, and only the second that it still is. After that the pauses double up to `bound`.
    fn assert_doubling(seed: &str, answers: u8, own: &[Address], bound: Duration) {
        let mut looks = Looks::at(seed);
        for number in 0..20 {
            let pause = looks.look(answers, own);
            let usual = PROBE.saturating_mul(1 << number.clamp(1, 10) >> 1).min(bound);
            let usual = if number == 0 { Duration::ZERO } else { usual };
            assert!(pause >= usual / 2 && pause <= usual * 3 / 2, "{seed}, {number}: {pause:?}");
        }
    }

    #[test]
    fn an_ip_address_of_the_node_that_answers_is_looked_at_ever_more_rarely_and_for_ever() {
        for (seed, answers) in [("192.0.2.1:1", 2), ("[2001:db8::1]:1", 2), ("192.0.2.1:1", 1)] {
            let own = [address("there:1"), address(seed)];
            assert_doubling(seed, answers, &own, Duration::from_secs(960));
        }
    }

    #[test]
    fn a_name_and_an_address_that_nobody_says_is_its_own_are_looked_at_less_rarely() {
        let own = [address("there:1"), address("192.0.2.1:1")];
        for seed in ["there:1", "192.0.2.2:1", "192.0.2.1:2"] {
            assert_doubling(seed, 2, &own, Duration::from_secs(240));
        }
    }

    #[test]
    fn a_name_behind_which_now_one_and_now_another_answers_is_looked_at_as_often_as_ever() {
        let mut looks = Looks::at("there:1");
        for number in 0..20 {
            assert!(looks.look(2 + number % 2, &[]) <= PROBE * 3 / 2);
        }
    }

    #[test]
    fn a_seed_is_looked_at_as_often_as_ever_when_its_node_is_another_is_lost_or_moves() {
        let config = Config::default();
        let (here, elsewhere) = ([address("192.0.2.1:1")], [address("192.0.2.2:1")]);
        let mut looks = Looks::at("192.0.2.1:1");
        looks.settle(2, &here);
        looks.look(3, &here);
        assert!(looks.look(3, &here) <= PROBE * 3 / 2);

        looks.settle(3, &here);
        looks.dialer.lost(node(2), Duration::ZERO, &config, looks.now, &mut looks.rng);
        looks.dialer.claimed(node(2), &elsewhere, looks.now);
        looks.dialer.claimed(node(3), &here, looks.now);
        assert!(looks.look(3, &here) > 4 * PROBE);
        looks.dialer.lost(node(3), Duration::ZERO, &config, looks.now, &mut looks.rng);
        assert!(looks.look(3, &here) <= PROBE * 3 / 2);

        looks.settle(3, &here);
        looks.dialer.claimed(node(3), &elsewhere, looks.now);
        assert!(looks.look(3, &elsewhere) <= PROBE * 3 / 2);
    }

    #[test]
    fn whoever_is_no_longer_aimed_at_is_not_called() {
        let config = Config::default();
        let mut dialer = Dialer::new(node(1), &[], Moment(0));
        dialer.aim([node(2), node(3)].iter(), &config, Moment(0));
        dialer.aim([node(3)].iter(), &config, Moment(0));
        let (made, _) = calls(&mut dialer, 0, &[]);
        assert!(matches!(made[..], [Output::Dial { expect: Some(there), .. }] if there == node(3)));
    }

    /// SCENARIOS G-10: who hears of many at once does not call all of them at once.
    #[test]
    fn some_are_called_at_once_and_the_others_one_after_another() {
        let config = Config::default();
        let others: Vec<NodeId> = (2..42).map(node).collect();
        let mut dialer = Dialer::new(node(1), &[], Moment(0));
        dialer.aim(others.iter(), &config, Moment(0));
        let (made, mut next) = calls(&mut dialer, 0, &[]);
        assert_eq!(made.len(), 8);
        let mut made = made.len();
        while let Some(at) = next {
            let (more, later) = calls(&mut dialer, at.0, &[]);
            assert!(more.len() <= 1);
            made += more.len();
            assert!(later.is_none_or(|later| later > at));
            next = later;
        }
        assert_eq!(made, others.len());
    }

    #[test]
    fn of_two_nodes_the_smaller_id_calls_first() {
        let config = Config::default();
        for (own, other, at_once) in [(1, 2, true), (2, 1, false)] {
            let mut dialer = Dialer::new(node(own), &[], Moment(0));
            dialer.aim([node(other)].iter(), &config, Moment(0));
            let (made, next) = calls(&mut dialer, 0, &[]);
            assert_eq!((made.len() == 1, next.is_none()), (at_once, at_once));
        }
    }
}
