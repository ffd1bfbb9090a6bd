//! Fetching between replicas that have collected what they liked, while writes go on.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::crdt::{Register, Value};
use crate::id::{Actor, Generation, NodeId};
use crate::replica::{AttributeKey, Replica};
use crate::time::UnixMillis;
use crate::wire;

const NOW: Moment = Moment(0);

fn replica(node: u8) -> Replica {
    let actor = Actor { node: NodeId::from_bytes([node; 32]), generation: Generation(1) };
    Replica::new(actor, Duration::from_secs(10))
}

fn key(number: usize) -> AttributeKey {
    format!("mesh/key-{number:05}").parse().unwrap()
}

/// Sets a key, or removes it, at a time that grows with every write.
fn write(replica: &mut Replica, at: usize, value: Option<u64>, wall: u64) {
    let wall = UnixMillis(wall);
    let prepared = match value {
        Some(value) => replica.set(wall, &key(at), Value::try_from(&value.to_le_bytes()[..]).unwrap()),
        None => replica.unset(wall, &key(at)),
    };
    if let Some(prepared) = prepared.unwrap() {
        replica.merge(wall, &prepared.delta).unwrap();
    }
}

/// What a delta can bring.
fn push(from: &Replica, to: &mut Replica) -> Delta {
    let context = from.store().context();
    let known = to.store().context();
    let delta = from.store().delta(context.lanes().map(|(lane, _)| lane), &known, usize::MAX);
    to.merge(UnixMillis(0), &delta).unwrap();
    delta
}

/// What it took.
#[derive(Debug, Default)]
struct Cost {
    requests: usize,
    asked: usize,
    told: usize,
    entries: usize,
}

/// `replicas[to]` fetches from `replicas[from]` in frames of about `budget` bytes; `meanwhile` happens between
/// any two of them, and says what it brought to the one that fetches.
fn fetch(
    replicas: &mut [Replica],
    from: usize,
    to: usize,
    budget: usize,
    mut meanwhile: impl FnMut(&mut [Replica]) -> Option<Delta>,
) -> Cost {
    let mut cost = Cost::default();
    let (mut fetch, mut serve) = (Fetch::new(LinkId(1), 0, NOW), Serve::new(NOW));
    loop {
        let ask = fetch.request(replicas[to].store()).expect("nothing is asked and nothing is complete");
        cost.requests += 1;
        cost.asked += wire::encode(&crate::gossip::Message::Ask { number: 1, ask: ask.clone() }).len();
        serve.handle(fetch.number, ask, NOW);
        while let Some((number, tell)) = serve.next(replicas[from].store(), budget, NOW) {
            if let Some(delta) = meanwhile(replicas) {
                fetch.note(&delta);
            }
            if let Tell::Ranges { items, .. } = &tell {
                cost.entries += items.iter().map(|item| item.entries.len()).sum::<usize>();
            }
            cost.told += wire::encode(&crate::gossip::Message::Tell { number, tell: tell.clone() }).len();
            if fetch.handle(tell, replicas[to].store(), NOW).expect("an honest peer") {
                let reconciliation = fetch.finish();
                let record = crate::gossip::Record::Reconciled(Box::new(reconciliation.clone()));
                assert_eq!(wire::decode_record(&wire::encode_record(&record)), Ok(record));
                replicas[to].reconcile(UnixMillis(0), &reconciliation).unwrap();
                return cost;
            }
        }
        assert!(cost.requests < 1_000, "it does not come to an end");
    }
}

fn values(replica: &Replica) -> Vec<(Key, Vec<crate::crdt::Entry>)> {
    let values = |register: &Register| register.values().into_iter().cloned().collect::<Vec<_>>();
    let all = replica.store().prefix("").map(|row| (row.key(), values(&row.register())));
    all.filter(|(_, values)| !values.is_empty()).collect()
}

fn is_behind(of: &Replica, peer: &Replica) -> bool {
    let known = of.store().context();
    peer.store().context().lanes().any(|(lane, _)| peer.store().is_below_floor(lane, known.lane(lane)))
}

#[derive(Debug, Clone)]
enum Step {
    Write { at: usize, key: usize, value: Option<u64> },
    Push { from: usize, to: usize },
    Collect { at: usize },
    Fetch { from: usize, to: usize, budget: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let at = || 0usize..3;
    prop_oneof![
        6 => (at(), 0usize..60, prop::option::weighted(0.55, any::<u64>()))
            .prop_map(|(at, key, value)| Step::Write { at, key, value }),
        3 => (at(), at()).prop_map(|(from, to)| Step::Push { from, to }),
        1 => at().prop_map(|at| Step::Collect { at }),
        1 => (at(), at(), 1usize..400).prop_map(|(from, to, budget)| Step::Fetch { from, to, budget }),
    ]
}

/// Does one thing that is no fetch; says what it brought to whom.
fn act(replicas: &mut [Replica], step: &Step, wall: &mut u64) -> Option<(usize, Delta)> {
    *wall += 1;
    match *step {
        Step::Write { at, key, value } => write(&mut replicas[at], key, value, *wall),
        Step::Collect { at } => {
            replicas[at].collect(usize::MAX, |_| true);
        }
        Step::Push { from, to } if from != to => {
            let [sender, receiver] = replicas.get_disjoint_mut([from, to]).unwrap();
            return Some((to, push(sender, receiver)));
        }
        Step::Push { .. } | Step::Fetch { .. } => {}
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// FEATURES P10: whoever fetches in pieces, while everybody goes on writing, pushing and collecting (whoever
    /// serves does not collect), ends where an exchange in one piece does; also if whoever served it then dies.
    #[test]
    fn fetching_while_all_goes_on_converges(
        before in prop::collection::vec(any_step(), 10..120),
        during in prop::collection::vec(any_step(), 0..60),
        dies in any::<bool>(),
    ) {
        let mut replicas = [1, 2, 3].map(replica);
        let mut wall = 1_000;
        let mut during = during.iter();
        let mut alive = vec![0, 1, 2];
        for step in &before {
            act(&mut replicas, step, &mut wall);
            if let Step::Fetch { from, to, budget } = *step && from != to {
                fetch(&mut replicas, from, to, budget, |replicas| {
                    let step = during.next()?;
                    if matches!(step, Step::Collect { at } if *at == from) {
                        return None;
                    }
                    let (arrived, delta) = act(replicas, step, &mut wall)?;
                    (arrived == to).then_some(delta)
                });
                if dies && during.len() == 0 {
                    alive.retain(|at| *at != from);
                    break;
                }
            }
        }
        for _ in 0..3 {
            for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)] {
                if !alive.contains(&from) || !alive.contains(&to) {
                    continue;
                }
                if is_behind(&replicas[to], &replicas[from]) {
                    fetch(&mut replicas, from, to, 300, |_| None);
                }
                let [sender, receiver] = replicas.get_disjoint_mut([from, to]).unwrap();
                push(sender, receiver);
            }
        }
        let first = &replicas[alive[0]];
        for other in alive.iter().map(|at| &replicas[*at]) {
            prop_assert_eq!(other.store().context(), first.store().context());
            prop_assert_eq!(values(other), values(first));
            prop_assert_eq!(other.store().digest(), first.store().digest());
            prop_assert_eq!(other.store().restored(), 0);
        }
    }
}

/// The bytes follow what differs, not what is there.
#[test]
fn only_differences_travel() {
    let mut replicas = [1, 2].map(replica);
    for number in 0..5_000 {
        write(&mut replicas[0], number, Some(1), 1_000);
    }
    let [one, other] = &mut replicas;
    push(one, other);
    for number in (0..5_000).step_by(500) {
        write(one, number, None, 2_000);
        write(one, number + 1, Some(2), 2_000);
    }
    one.collect(usize::MAX, |_| true);
    assert!(is_behind(other, one));
    let cost = fetch(&mut replicas, 0, 1, 64 * 1024, |_| None);
    assert_eq!(values(&replicas[0]), values(&replicas[1]));
    assert_eq!(cost.entries, 10, "the keys that have another value");
    assert!(cost.asked + cost.told < 16_000, "{cost:?}");
    assert!(cost.requests <= 6, "{cost:?}");
    let again = fetch(&mut replicas, 0, 1, 64 * 1024, |_| None);
    assert!(again.requests == 3 && again.asked + again.told < 1_000, "{again:?}");
}

/// A newcomer gets a snapshot: everything once, and nothing else.
#[test]
fn a_newcomer_is_sent_everything_once() {
    let mut replicas = [1, 2].map(replica);
    for number in 0..2_000 {
        write(&mut replicas[0], number, Some(1), 1_000);
    }
    write(&mut replicas[0], 7, None, 2_000);
    replicas[0].collect(usize::MAX, |_| true);
    let cost = fetch(&mut replicas, 0, 1, 10_000, |_| None);
    assert_eq!((cost.requests, cost.entries), (3, 1_999));
    assert_eq!(values(&replicas[0]), values(&replicas[1]));
    assert_eq!(replicas[1].store().floors(), replicas[0].store().floors());
}

#[test]
fn answers_to_what_was_not_asked_are_refused() {
    let store = Store::new();
    let answer = |tell| {
        let mut fetch = Fetch::new(LinkId(1), 0, NOW);
        fetch.request(&store);
        fetch.handle(tell, &store, NOW)
    };
    let lane = Lane::new(
        Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) },
        crate::crdt::Class::Attribute,
    );
    let nothing = CausalContext::new();
    let dots = CausalContext::from_iter([(lane, crate::crdt::RangeSet::up_to(3))]);
    let floors = Tell::Floors { floors: nothing.clone(), horizon: Default::default(), last: true };
    assert_eq!(answer(floors), Err(Misbehaved));
    assert_eq!(answer(Tell::Context { seen: nothing.clone(), last: false }), Err(Misbehaved));
    assert_eq!(answer(Tell::Context { seen: dots.clone(), last: true }), Ok(false));

    let mut fetch = Fetch::new(LinkId(1), 0, NOW);
    fetch.request(&store);
    fetch.handle(Tell::Context { seen: nothing.clone(), last: true }, &store, NOW).unwrap();
    for (outcomes, dead) in [
        (vec![], nothing.clone()),
        (vec![Outcome::Same], nothing.clone()),
        (vec![Outcome::Told, Outcome::Told], nothing),
        (vec![Outcome::Told], dots),
    ] {
        fetch.next = Next::Ranges;
        fetch.todo.insert(None, KeyRange::default());
        fetch.request(&store);
        let tell = Tell::Ranges { outcomes, items: vec![], dead, seals: vec![] };
        assert_eq!(fetch.handle(tell, &store, NOW), Err(Misbehaved));
    }
}
