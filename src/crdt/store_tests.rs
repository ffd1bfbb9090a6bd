//! Convergence of stores, against references that share no code with them.

use std::collections::BTreeMap;

use crdts::{MVReg, Orswot};
use proptest::prelude::*;

use super::super::laws;
use super::super::seal::tests::Pen;
use super::super::{Observed, Value};
use super::*;
use crate::time::Timestamp;

/// The attribute lane of a node that is named by one byte.
pub(in super::super) fn lane(author: u8) -> Lane {
    lane_of(author, 1, Class::Attribute)
}

fn lane_of(author: u8, generation: u64, class: Class) -> Lane {
    Lane::new(Actor { node: NodeId::from_bytes([author; 32]), generation: Generation(generation) }, class)
}

pub(super) fn key(number: u8) -> Key {
    format!("k{number}").parse().unwrap()
}

pub(super) fn value(bytes: &[u8]) -> Value {
    bytes.try_into().unwrap()
}

fn write(store: &mut Store, author: &Lane, at: &Key, observed: Observed, what: Option<Value>) -> Dot {
    let dot = author.dot(store.seen_of(author).and_then(RangeSet::last).unwrap_or(0) + 1);
    let stamp = store.row(at).map_or(Timestamp(0), |row| row.stamp()).successor().unwrap();
    let entry = Entry::new(at, dot.clone(), observed, stamp, what);
    let accounted = CausalContext::from_iter([(author.clone(), RangeSet::from(dot.counter..=dot.counter))]);
    let items = vec![Item { key: at.clone(), entries: [entry].into_iter().collect() }];
    let delta = Delta { accounted, items, seals: vec![] };
    if store.is_sealed() {
        store.merge_own(&delta);
    } else {
        store.merge(&delta).unwrap();
    }
    dot
}

pub(super) fn put(store: &mut Store, author: &Lane, at: &Key, what: Option<Value>) -> Dot {
    let observed = store.register(at).map(|register| register.observed_by(author)).unwrap_or_default();
    write(store, author, at, observed, what)
}

fn lanes_in(store: &Store) -> Vec<Lane> {
    store.lanes.iter().map(|state| state.lane.clone()).collect()
}

/// All keys with their states, unpacked.
fn registers(store: &Store) -> Vec<(Key, Register)> {
    store.prefix("").map(|row| (row.key(), row.register())).collect()
}

pub(super) fn delta_for(from: &Store, receiver: &CausalContext) -> Delta {
    from.delta(&lanes_in(from), receiver, usize::MAX)
}

/// Says whether the index is what it must be: the dots of each key's entries and all that these had observed.
fn assert_index(store: &Store) {
    assert!(store.keys.is_sound(), "keys are found by name and in order");
    let shares = store.lanes.iter().map(LaneState::hash);
    let digest = shares.fold(0, u128::wrapping_add).to_le_bytes();
    assert_eq!(store.digest(), digest, "the digest is kept true to the state");
    let registers = registers(store);
    let mut expected: BTreeMap<Lane, BTreeMap<u64, Key>> = BTreeMap::new();
    for (key, register) in &registers {
        let dots = register.entries().iter().map(|entry| (entry.dot.lane.clone(), entry.dot.counter));
        let observed = register.entries().iter().flat_map(|entry| entry.observed.iter().cloned());
        for (lane, counter) in observed.chain(dots) {
            expected.entry(lane).or_default().insert(counter, key.clone());
        }
    }
    let key = |slot: &Slot| store.keys.packed(*slot).key();
    let indices = store.lanes.iter().filter(|state| !state.index.is_empty());
    let indices = indices.map(|state| {
        let index = state.index.iter().map(|(counter, slot)| (*counter, key(slot)));
        (state.lane.clone(), index.collect())
    });
    let indices: BTreeMap<Lane, BTreeMap<u64, Key>> = indices.collect();
    assert_eq!(indices, expected, "the index is what the registers have and had observed");
    for state in store.lanes.iter() {
        let entries = registers.iter().flat_map(|(_, register)| register.values());
        let sum = entries
            .filter(|entry| entry.dot.lane == state.lane)
            .fold(0u128, |sum, entry| sum.wrapping_add(entry.digest()));
        assert_eq!(state.live, sum, "the sum of live values of {}", state.lane);
    }
}

/// What may happen among replicas. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Write {
        at: u8,
        key: u8,
        removes: bool,
    },
    /// A delta for one lane, made for a receiver that is believed to know `belief`/8 of what it knows, cut to
    /// its items without what they account for, or to a small budget.
    Send {
        from: u8,
        to: u8,
        lane: u8,
        belief: u8,
        cut: bool,
        small: bool,
    },
    Deliver {
        which: u8,
        again: bool,
        lost: bool,
    },
    Die {
        at: u8,
    },
    /// Whatever may be collected is.
    Collect {
        at: u8,
    },
}

/// What is on its way: a delta, or all of a replica's state as it was, for a receiver that lacks what was
/// collected.
#[derive(Debug, Clone)]
enum Packet {
    Delta(Delta),
    Snapshot(Box<Store>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let bool = any::<bool>;
    prop_oneof![
        8 => (0u8..7, 0u8..3, prop::bool::weighted(0.3)).prop_map(|(at, key, removes)| Step::Write { at, key, removes }),
        10 => (0u8..7, 0u8..7, 0u8..7, 0u8..16, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(from, to, lane, belief, cut, small)| Step::Send { from, to, lane, belief, cut, small }),
        7 => (any::<u8>(), bool(), prop::bool::weighted(0.2))
            .prop_map(|(which, again, lost)| Step::Deliver { which, again, lost }),
        1 => (0u8..7).prop_map(|at| Step::Die { at }),
    ]
}

fn any_step_and_collection() -> impl Strategy<Value = Step> {
    prop_oneof![8 => any_step(), 1 => (0u8..7).prop_map(|at| Step::Collect { at })]
}

/// The replicas of a history, and for every write what an obvious reference remembers of it.
struct History {
    stores: Vec<Option<Store>>,
    lanes: Vec<Lane>,
    wire: Vec<(usize, Packet)>,
    /// Per dot: its key, its value, and all dots of the key that its author had seen at the time, be it only
    /// through the eyes of another write.
    written: BTreeMap<Dot, (Key, Option<Value>, BTreeSet<Dot>)>,
}

impl History {
    fn new(replicas: u8) -> Self {
        Self::of(replicas, |_| Store::new())
    }

    /// The same among authors that seal what they write.
    fn sealed(replicas: u8) -> Self {
        Self::of(replicas, |author| Store::new().sealed(Arc::new(Pen::of(lane(author).actor().node))))
    }

    fn of(replicas: u8, store: impl Fn(u8) -> Store) -> Self {
        let stores = (0..replicas).map(|author| Some(store(author))).collect();
        Self { stores, lanes: (0..replicas).map(lane).collect(), wire: Vec::new(), written: BTreeMap::new() }
    }

    fn alive(&self, number: u8) -> Option<usize> {
        let at = usize::from(number) % self.stores.len();
        self.stores[at].is_some().then_some(at)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write { at, key: number, removes } => {
                let Some(at) = self.alive(at) else { return };
                let (key, author) = (key(number), self.lanes[at].clone());
                let what = (!removes).then(|| value(&self.written.len().to_le_bytes()));
                let store = self.stores[at].as_mut().unwrap();
                let on_key = self.written.iter().filter(|(dot, (on, ..))| *on == key && store.seen(dot));
                let seen = on_key.flat_map(|(dot, (.., seen))| seen.iter().chain([dot]).cloned()).collect();
                let dot = put(store, &author, &key, what.clone());
                self.written.insert(dot, (key, what, seen));
            }
            Step::Send { from, to, lane, belief, cut, small } => {
                let (Some(from), Some(to)) = (self.alive(from), self.alive(to)) else { return };
                self.stores[from].as_mut().unwrap().seal();
                let lane = &self.lanes[usize::from(lane) % self.lanes.len()];
                let (sender, receiver) =
                    (self.stores[from].as_ref().unwrap(), self.stores[to].as_ref().unwrap());
                let seen = receiver.seen_of(lane).cloned().unwrap_or_default();
                let known = seen.truncated(seen.last().unwrap_or(0) * u64::from(belief.min(8)) / 8);
                let known = CausalContext::from_iter([(lane.clone(), known)]);
                if sender.is_below_floor(lane, known.lane(lane)) {
                    self.wire.push((to, Packet::Snapshot(Box::new(sender.clone()))));
                    return;
                }
                let mut delta = sender.delta([lane], &known, if small { 60 } else { usize::MAX });
                if cut {
                    delta.accounted = CausalContext::new();
                    delta.items.truncate(usize::from(belief % 3));
                }
                self.wire.push((to, Packet::Delta(delta)));
            }
            Step::Deliver { which, again, lost } => {
                if self.wire.is_empty() {
                    return;
                }
                let at = usize::from(which) % self.wire.len();
                let (to, packet) = self.wire[at].clone();
                if !again {
                    self.wire.swap_remove(at);
                }
                if let Some(store) = self.stores[to].as_mut().filter(|_| !lost) {
                    match packet {
                        Packet::Delta(delta) => store.merge(&delta).unwrap(),
                        Packet::Snapshot(sender) => {
                            let reconciliation = sender.reconciliation(store);
                            store.reconcile(&reconciliation).unwrap();
                        }
                    }
                }
            }
            Step::Die { at } => {
                let survivors = self.stores.iter().flatten().count();
                if let Some(at) = self.alive(at).filter(|_| survivors > 2) {
                    self.stores[at] = None;
                }
            }
            Step::Collect { at } => {
                if let Some(at) = self.alive(at) {
                    self.stores[at].as_mut().unwrap().collect(usize::MAX, |_| true);
                }
            }
        }
    }

    /// Every survivor tells every other what it lacks, until nobody learns anything.
    fn reconcile(&mut self) {
        self.stores.iter_mut().flatten().for_each(Store::seal);
        loop {
            let mut learned = false;
            for from in 0..self.stores.len() {
                for to in 0..self.stores.len() {
                    let (Some(sender), Some(receiver)) = (&self.stores[from], &self.stores[to]) else {
                        continue;
                    };
                    let known = receiver.context();
                    let behind =
                        lanes_in(sender).iter().any(|lane| sender.is_below_floor(lane, known.lane(lane)));
                    if behind {
                        let reconciliation = sender.reconciliation(receiver);
                        self.stores[to].as_mut().unwrap().reconcile(&reconciliation).unwrap();
                        learned = true;
                        continue;
                    }
                    let delta = delta_for(sender, &known);
                    if from != to && !delta.is_empty() {
                        self.stores[to].as_mut().unwrap().merge(&delta).unwrap();
                        learned = true;
                    }
                }
            }
            if !learned {
                return;
            }
        }
    }

    /// The writes that any survivor has seen and no other such write has seen, by key.
    fn expected(&self) -> BTreeMap<Key, Vec<(Dot, Option<Value>)>> {
        let survivors: Vec<&Store> = self.stores.iter().flatten().collect();
        let known: Vec<_> =
            self.written.iter().filter(|(dot, _)| survivors.iter().any(|store| store.seen(dot))).collect();
        let mut expected: BTreeMap<Key, Vec<_>> = BTreeMap::new();
        for (dot, (key, value, _)) in &known {
            if !known.iter().any(|(_, (_, _, seen))| seen.contains(dot)) {
                expected.entry(key.clone()).or_default().push(((*dot).clone(), value.clone()));
            }
        }
        expected
    }

    /// What readers see, and nothing of what was removed.
    fn check_values(mut self) {
        self.reconcile();
        let mut expected = self.expected();
        expected.values_mut().for_each(|entries| entries.retain(|(_, value)| value.is_some()));
        expected.retain(|_, entries| !entries.is_empty());
        let survivors: Vec<&Store> = self.stores.iter().flatten().collect();
        for store in &survivors {
            let values = |register: &Register| {
                let values = register.entries().iter().filter(|entry| entry.value.is_some());
                values.map(|entry| (entry.dot.clone(), entry.value.clone())).collect::<Vec<_>>()
            };
            let mut state: BTreeMap<Key, Vec<_>> =
                store.prefix("").map(|row| (row.key(), values(&row.register()))).collect();
            state.retain(|_, entries| !entries.is_empty());
            assert_eq!(state, expected, "a survivor shows the maximal writes");
            assert_eq!(store.context(), survivors[0].context(), "survivors have seen the same");
            assert_eq!(store.digest(), survivors[0].digest(), "equal states have equal digests");
            assert_eq!(store.restored(), 0, "nothing was taken for lost");
            let entries = store.prefix("").flat_map(|row| row.register().into_entries());
            let removed = entries.filter(|entry| entry.value.is_none()).count();
            assert_eq!(store.removed(), removed, "removals are counted");
            assert_index(store);
        }
    }

    fn check(mut self) {
        self.reconcile();
        let expected = self.expected();
        let survivors: Vec<&Store> = self.stores.iter().flatten().collect();
        for store in &survivors {
            let state: BTreeMap<Key, Vec<_>> = store
                .prefix("")
                .map(|row| {
                    let entries = row.register().into_entries().map(|entry| (entry.dot, entry.value));
                    (row.key(), entries.collect())
                })
                .collect();
            assert_eq!(state, expected, "a survivor holds the maximal writes");
            assert_eq!(store.context(), survivors[0].context(), "survivors have seen the same");
            assert_eq!(store.digest(), survivors[0].digest(), "equal states have equal digests");
            assert_eq!(store.restored(), 0, "nobody was told of a death without its cause");
            assert_index(store);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12_000, ..ProptestConfig::default() })]

    /// FEATURES S6, B1: whatever is lost, doubled, reordered or cut, and whoever dies, survivors agree with the
    /// reference.
    #[test]
    fn survivors_converge_to_the_reference(replicas in 3u8..7, steps in prop::collection::vec(any_step(), 20..110)) {
        let mut history = History::new(replicas);
        for step in &steps {
            history.step(step);
        }
        history.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12_000, ..ProptestConfig::default() })]

    /// FEATURES S6, SCENARIOS G-12, G-34: the same, while everybody lets removals go whenever it likes.
    #[test]
    fn survivors_converge_whenever_removals_are_collected(
        replicas in 3u8..7,
        steps in prop::collection::vec(any_step_and_collection(), 20..140),
    ) {
        let mut history = History::new(replicas);
        for step in &steps {
            history.step(step);
        }
        history.check_values();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, ..ProptestConfig::default() })]

    /// FEATURES B7, S6: where entries are sealed nothing else is replicated, and nobody collects.
    #[test]
    fn survivors_converge_where_entries_are_sealed(
        replicas in 3u8..7,
        steps in prop::collection::vec(any_step_and_collection(), 20..110),
    ) {
        let mut history = History::sealed(replicas);
        for step in &steps {
            history.step(step);
        }
        history.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn stores_obey_the_laws(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut history = History::new(3);
        for step in steps.iter().filter(|step| !matches!(step, Step::Die { .. })) {
            history.step(step);
        }
        let stores: Vec<Store> = history.stores.iter().flatten().cloned().collect();
        laws::join_semilattice(&stores[0], &stores[1], &stores[2]);
        let [one, other] = [&stores[1], &stores[2]].map(|store| delta_for(store, &CausalContext::new()));
        laws::operations_commute(&stores[0], &one, &other);
        laws::operation_is_delta(&stores[0], one);
    }

    /// A delta in pieces does what the whole does: I14 of the design's invariants.
    #[test]
    fn a_delta_in_pieces_equals_the_whole(steps in prop::collection::vec(any_step(), 1..60), budget in 1usize..200) {
        let mut history = History::new(3);
        for step in steps.iter().filter(|step| !matches!(step, Step::Die { .. })) {
            history.step(step);
        }
        let [from, to, _] = [0, 1, 2].map(|at| history.stores[at].clone().unwrap());
        let mut whole = to.clone();
        whole.merge(&delta_for(&from, &to.context())).unwrap();
        let (mut pieces, mut sent) = (to.clone(), to.context());
        loop {
            let delta = from.delta(&lanes_in(&from), &sent, budget);
            if delta.is_empty() {
                break;
            }
            let before = sent.clone();
            sent.union(&delta.accounted);
            for entry in delta.items.iter().flat_map(|item| &item.entries) {
                sent.insert(&entry.dot);
            }
            prop_assert_ne!(&before, &sent, "every piece is progress");
            pieces.merge(&delta).unwrap();
        }
        prop_assert_eq!(pieces, whole);
    }

    /// Against `crdts::MVReg`, one per key, on the same writes and full merges.
    #[test]
    fn agrees_with_the_multi_value_register_of_crdts(
        steps in prop::collection::vec((0u8..3, 0u8..3, 0u8..2, any::<bool>()), 1..40)
    ) {
        let mut stores = vec![Store::new(); 3];
        let mut oracle: Vec<[MVReg<u64, u8>; 2]> = vec![Default::default(); 3];
        for (step, (at, other, on, writes)) in steps.into_iter().enumerate() {
            let (here, there, on_key) = (usize::from(at), usize::from(other), usize::from(on));
            if writes {
                put(&mut stores[here], &lane(at), &key(on), Some(value(&(step as u64).to_le_bytes())));
                let register = &mut oracle[here][on_key];
                let op = register.write(step as u64, register.read_ctx().derive_add_ctx(at));
                register.apply(op);
            } else {
                let delta = delta_for(&stores[there], &stores[here].context());
                stores[here].merge(&delta).unwrap();
                let theirs = oracle[there].clone();
                for (register, other) in oracle[here].iter_mut().zip(theirs) {
                    CvRDT::merge(register, other);
                }
            }
            for on in 0..2u8 {
                let register = stores[here].register(&key(on));
                let mut ours: Vec<Value> = register
                    .map_or_else(Vec::new, |register| register.values().iter().filter_map(|entry| entry.value.clone()).collect());
                let theirs = oracle[here][usize::from(on)].read().val;
                let mut theirs: Vec<Value> = theirs.iter().map(|number| value(&number.to_le_bytes())).collect();
                ours.sort();
                theirs.sort();
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    /// Against a flat `crdts::Orswot` of keys: a key is there exactly if adds win over removals that had not
    /// seen them.
    #[test]
    fn agrees_with_the_observed_remove_set_of_crdts(
        steps in prop::collection::vec((0u8..3, 0u8..3, 0u8..3, 0u8..3), 1..40)
    ) {
        let mut stores = vec![Store::new(); 3];
        let mut oracle: Vec<Orswot<u8, u8>> = vec![Orswot::new(); 3];
        for (step, (at, other, on, what)) in steps.into_iter().enumerate() {
            let (here, there) = (usize::from(at), usize::from(other));
            match what {
                0 => {
                    put(&mut stores[here], &lane(at), &key(on), Some(value(&step.to_le_bytes())));
                    let op = oracle[here].add(on, oracle[here].read_ctx().derive_add_ctx(at));
                    oracle[here].apply(op);
                }
                1 => {
                    put(&mut stores[here], &lane(at), &key(on), None);
                    let op = oracle[here].rm(on, oracle[here].contains(&on).derive_rm_ctx());
                    oracle[here].apply(op);
                }
                _ => {
                    let delta = delta_for(&stores[there], &stores[here].context());
                    stores[here].merge(&delta).unwrap();
                    let set = oracle[there].clone();
                    CvRDT::merge(&mut oracle[here], set);
                }
            }
            for on in 0..3u8 {
                let ours = stores[here].register(&key(on)).is_some_and(|register| register.winner().is_some());
                prop_assert_eq!(ours, oracle[here].contains(&on).val, "key {}", on);
            }
        }
    }
}

#[test]
fn overwriting_a_key_does_not_grow_anything() {
    let (mut store, author) = (Store::new(), lane(0));
    for number in 0..100u8 {
        put(&mut store, &author, &key(0), Some(value(&[number])));
    }
    assert_eq!(store.len(), 1);
    assert_eq!(store.lanes.get(&author).unwrap().index.len(), 1);
    assert_eq!(store.register(&key(0)).unwrap().entries().len(), 1);
    assert_eq!(store.seen_of(&author).unwrap().range_count(), 1);
}

#[test]
fn a_damaged_entry_refuses_its_whole_delta() {
    let mut sender = Store::new();
    put(&mut sender, &lane(0), &key(0), Some(value(b"a")));
    put(&mut sender, &lane(0), &key(1), Some(value(b"b")));
    let mut delta = delta_for(&sender, &CausalContext::new());
    delta.items[1].entries[0].value = Some(value(b"c"));
    let (key, dot) = (Some(delta.items[1].key.clone()), delta.items[1].entries[0].dot.clone());
    let damaged = Corrupt { key, dot, flaw: Flaw::Checksum };
    let mut receiver = Store::new();
    let refused = receiver.merge(&delta);
    assert_eq!(refused, Err(damaged));
    assert_eq!(receiver, Store::new());
    assert!(receiver.take_changed().is_empty());
}

#[test]
fn a_later_generation_voids_what_the_earlier_said_of_itself_in_any_order() {
    let (old, new) = (lane_of(7, 1, Class::Registry), lane_of(7, 2, Class::Registry));
    let kept = lane_of(7, 1, Class::Attribute);
    let (mut first, mut second) = (Store::new(), Store::new());
    put(&mut first, &old, &key(0), Some(value(b"tunnel")));
    put(&mut first, &kept, &key(1), Some(value(b"attribute")));
    put(&mut second, &new, &key(2), Some(value(b"record")));
    let [before, after] = [&first, &second].map(|store| delta_for(store, &CausalContext::new()));

    let (mut left, mut right) = (Store::new(), Store::new());
    left.merge(&before).unwrap();
    assert_eq!(left.take_changed().into_iter().collect::<Vec<_>>(), [key(0), key(1)]);
    left.merge(&after).unwrap();
    assert_eq!(left.take_changed().into_iter().collect::<Vec<_>>(), [key(0), key(2)]);
    right.merge(&after).unwrap();
    right.merge(&before).unwrap();
    for store in [&left, &right] {
        assert!(store.is_void(&old) && !store.is_void(&kept) && !store.is_void(&new));
        assert_index(store);
    }
    assert_eq!(left, right);
    assert_eq!(left.digest(), right.digest());
}

/// Found by the simulator: what covers a dot may be known by hearsay alone.
#[test]
fn a_dot_is_not_accounted_for_without_the_write_that_has_only_heard_of_its_successor() {
    let (author, other) = (lane(1), lane(2));
    let (mut first, mut second) = (Store::new(), Store::new());
    put(&mut first, &author, &key(0), Some(value(b"1")));
    let early = delta_for(&first, &CausalContext::new());
    put(&mut first, &author, &key(0), Some(value(b"2")));
    second.merge(&delta_for(&first, &CausalContext::new())).unwrap();
    put(&mut second, &other, &key(0), Some(value(b"3")));

    // This one saw the first write and the third, which had seen the second.
    let mut between = Store::new();
    between.merge(&early).unwrap();
    between.merge(&second.delta([&other], &CausalContext::new(), usize::MAX)).unwrap();
    assert!(!between.seen(&author.dot(2)));

    let mut last = Store::new();
    last.merge(&between.delta([&author], &CausalContext::new(), usize::MAX)).unwrap();
    assert!(last.seen(&author.dot(1)));
    assert_eq!(last.register(&key(0)), between.register(&key(0)));
}

#[test]
fn a_removal_that_observed_nothing_takes_its_authors_own_value_alone() {
    let (mut here, mut there) = (Store::new(), Store::new());
    let mine = put(&mut here, &lane(0), &key(0), Some(value(b"mine")));
    put(&mut there, &lane(1), &key(0), Some(value(b"theirs")));
    here.merge(&delta_for(&there, &CausalContext::new())).unwrap();
    assert_eq!(here.register(&key(0)).unwrap().values().len(), 2);
    write(&mut here, &lane(0), &key(0), Observed::default(), None);
    assert!(here.register(&key(0)).unwrap().entry(&mine).is_none());
    let register = here.register(&key(0)).unwrap();
    let values = register.values();
    assert_eq!(values.len(), 1);
    assert_eq!(values[0].value, Some(value(b"theirs")));
}

/// Accounting for each key by itself left a loose dot for each on the way.
#[test]
fn a_long_transfer_leaves_no_loose_dots_on_its_way() {
    let (mut sender, author) = (Store::new(), lane(0));
    for number in 0..600u32 {
        let at = format!("k{}", number.wrapping_mul(2_654_435_761) % 200).parse().unwrap();
        put(&mut sender, &author, &at, Some(value(&number.to_le_bytes())));
    }
    let mut receiver = Store::new();
    let mut pieces = 0;
    while receiver != sender {
        receiver.merge(&sender.delta([&author], &receiver.context(), 500)).unwrap();
        assert_eq!(receiver.seen_of(&author).unwrap().range_count(), 1);
        pieces += 1;
    }
    assert!(pieces > 10);
}

#[test]
fn what_changed_since_a_revision_is_told_once() {
    let mut store = Store::new();
    put(&mut store, &lane(0), &key(0), Some(value(b"a")));
    let revision = store.revision();
    assert!(store.context_since(revision).is_empty());
    put(&mut store, &lane(1), &key(0), Some(value(b"b")));
    put(&mut store, &lane(1), &key(0), Some(value(b"c")));
    assert_eq!(store.context_since(revision), CausalContext::from_iter([(lane(1), RangeSet::up_to(2))]));
}

/// What one replica brings another, however it has to.
pub(super) fn bring(from: &Store, to: &mut Store) {
    let known = to.context();
    if lanes_in(from).iter().any(|lane| from.is_below_floor(lane, known.lane(lane))) {
        to.reconcile(&from.reconciliation(to)).unwrap();
    } else {
        to.merge(&delta_for(from, &known)).unwrap();
    }
}

/// SCENARIOS G-12: whoever was away keeps nothing of what was removed and forgotten meanwhile.
#[test]
fn a_replica_that_was_away_learns_of_deaths_that_nobody_can_prove_any_more() {
    let (mut here, mut away) = (Store::new(), Store::new());
    put(&mut here, &lane(0), &key(0), Some(value(b"kept")));
    put(&mut here, &lane(0), &key(1), Some(value(b"removed")));
    bring(&here, &mut away);
    put(&mut here, &lane(1), &key(1), None);
    put(&mut away, &lane(2), &key(2), Some(value(b"news")));
    assert_eq!(here.collect(usize::MAX, |_| true), [key(1)]);
    assert_eq!((here.len(), here.removed()), (1, 0));
    assert!(delta_for(&here, &away.context()).is_empty(), "no delta can say it");
    bring(&here, &mut away);
    bring(&away, &mut here);
    assert!(away.register(&key(1)).is_none());
    assert_eq!(here, away);
    assert_eq!(here.floors(), away.floors());
    assert_eq!(here.horizon(), away.horizon());
}

/// SCENARIOS G-34: about one history in 24,000 of the model finds what happens otherwise.
#[test]
fn a_removal_stays_while_an_earlier_write_of_its_key_may_be_on_its_way() {
    let (mut author, mut other) = (Store::new(), Store::new());
    put(&mut author, &lane(0), &key(0), Some(value(b"early")));
    let early = delta_for(&author, &CausalContext::new());
    put(&mut author, &lane(0), &key(0), Some(value(b"late")));
    let late = Delta { items: delta_for(&author, &CausalContext::new()).items, ..Delta::default() };
    other.merge(&late).unwrap();
    put(&mut other, &lane(1), &key(0), None);
    assert!(other.collect(usize::MAX, |_| true).is_empty(), "the first write was not seen yet");
    other.merge(&early).unwrap();
    assert!(other.register(&key(0)).unwrap().is_removed());
    assert_eq!(other.collect(usize::MAX, |_| true), [key(0)]);
    other.merge(&early).unwrap();
    assert!(other.is_empty(), "an old delta brings nothing back");
}

#[test]
fn keys_that_come_and_go_leave_nothing_behind() {
    let (mut store, author) = (Store::new(), lane(0));
    for number in 0..10_000u32 {
        let at = format!("k{}", number % 1_000).parse().unwrap();
        put(&mut store, &author, &at, Some(value(&number.to_le_bytes())));
        put(&mut store, &author, &at, None);
        if number % 100 == 0 {
            store.collect(usize::MAX, |_| true);
        }
    }
    store.collect(usize::MAX, |_| true);
    assert!(store.is_empty() && store.removed.is_empty());
    assert!(store.lanes.get(&author).unwrap().index.is_empty());
    assert_eq!(store.floors(), CausalContext::from_iter([(author, RangeSet::up_to(20_000))]));
}

/// A has a value; B has removed it, let the removal go and written the key anew; C has all that B wrote, the removal too.
fn removed_let_go_and_written_anew() -> [Store; 3] {
    let (mut a, mut b, mut c) = (Store::new(), Store::new(), Store::new());
    put(&mut a, &lane(0), &key(0), Some(value(b"old")));
    bring(&a, &mut b);
    put(&mut b, &lane(1), &key(0), None);
    bring(&b, &mut c);
    b.collect(usize::MAX, |_| true);
    put(&mut b, &lane(1), &key(0), Some(value(b"new")));
    bring(&b, &mut c);
    [a, b, c]
}

/// The fetching of `gossip` found it: who lets a removal go forgets what it covered, and yet writes later in the same
/// lane.
#[test]
fn a_write_after_a_collected_removal_does_not_take_the_removal_from_those_who_have_it() {
    let [mut a, b, mut c] = removed_let_go_and_written_anew();
    // B is gone; C alone knows that the first value is dead.
    bring(&c, &mut a);
    for store in [&a, &c] {
        let register = store.register(&key(0)).unwrap();
        let values = register.values();
        assert_eq!(values.iter().map(|entry| entry.value.clone()).collect::<Vec<_>>(), [Some(value(b"new"))]);
    }
    c.collect(usize::MAX, |_| true);
    assert_eq!(c.register(&key(0)), b.register(&key(0)));
}

/// `sim replay chaos@0xdeadc078` found it: a removal beside a later write of its lane has the lower counter, and whoever
/// knows the later write and lacks the removal must be brought it all the same.
#[test]
fn a_removal_beside_a_later_write_of_its_lane_reaches_whoever_has_only_the_later_one() {
    let [mut a, b, c] = removed_let_go_and_written_anew();
    let new = b.register(&key(0)).unwrap().entries().iter().cloned().collect();
    let item = Item { key: key(0), entries: new };
    a.merge(&Delta { items: vec![item], ..Delta::default() }).unwrap();
    assert_eq!(a.register(&key(0)).unwrap().values().len(), 2);
    a.merge(&delta_for(&c, &a.context())).unwrap();
    assert_index(&c);
    assert_eq!(a, c);
}

/// `sim replay chaos@0x61ba0` found it: another's removal had seen an earlier write of the lane, and whoever knows the later
/// one of a state that was cut between its entries must not be told of the earlier one without the removal.
#[test]
fn a_removal_comes_with_the_writes_it_had_seen_although_a_later_one_of_their_lane_is_known() {
    let (mut a, mut b, mut c) = (Store::new(), Store::new(), Store::new());
    put(&mut a, &lane(0), &key(0), Some(value(b"old")));
    bring(&a, &mut b);
    put(&mut b, &lane(1), &key(0), Some(value(b"newer")));
    put(&mut b, &lane(2), &key(0), None);
    bring(&b, &mut c);
    b.collect(usize::MAX, |_| true);
    put(&mut b, &lane(1), &key(0), Some(value(b"new")));
    bring(&b, &mut c);
    // The later one is brought without the removal.
    let new = b.register(&key(0)).unwrap().entries().iter().cloned().collect();
    let item = Item { key: key(0), entries: new };
    a.merge(&Delta { items: vec![item], ..Delta::default() }).unwrap();
    let delta = c.delta([&lane(1)], &a.context(), usize::MAX);
    assert_eq!(delta.accounted, CausalContext::from_iter([(lane(1), RangeSet::up_to(1))]));
    a.merge(&delta).unwrap();
    assert_eq!(a.register(&key(0)), c.register(&key(0)));
}

/// What a peer had not seen when it was compared with is not dead there, however far its floors have come since.
#[test]
fn what_a_peer_had_not_seen_is_not_dead_there() {
    let mut store = Store::new();
    let dot = put(&mut store, &lane(0), &key(0), Some(value(b"v")));
    let mut with = Reconciliation {
        delta: Delta::default(),
        floors: CausalContext::from_iter([(lane(0), RangeSet::up_to(1))]),
        horizon: Timestamp::default(),
        dead: vec![(key(0), dot)],
    };
    store.reconcile(&with).unwrap();
    assert_eq!(store.len(), 1);
    with.delta.accounted = with.floors.clone();
    store.reconcile(&with).unwrap();
    assert!(store.is_empty());
}

/// A broken memory, or a bug: nothing tells of the entry's death, so it did not die.
#[test]
fn what_was_lost_comes_back_and_is_counted() {
    let (mut sound, mut broken) = (Store::new(), Store::new());
    let dot = put(&mut sound, &lane(0), &key(0), Some(value(b"v")));
    bring(&sound, &mut broken);
    let slot = broken.keys.find(key(0).as_str()).unwrap();
    broken.update(slot, |register, gone| register.remove(&dot, gone));
    assert_ne!(sound.digest(), broken.digest());
    let from_broken = broken.reconciliation(&sound);
    assert_eq!(from_broken.dead, [(key(0), dot)]);
    sound.reconcile(&from_broken).unwrap();
    assert_eq!(sound.len(), 1, "a neighbour's loss is not believed");
    broken.reconcile(&sound.reconciliation(&broken)).unwrap();
    assert_eq!(broken.restored(), 1);
    assert_eq!(sound, broken);
    assert_eq!(sound.digest(), broken.digest());
}

/// Who is served while lives are retired where it fetches from was told of them one by one, and hears of no floors of them.
#[test]
fn what_is_dead_without_a_trace_stays_below_a_floor_when_its_life_is_retired_meanwhile() {
    let (mut a, mut b) = (Store::new(), Store::new());
    put(&mut a, &lane(0), &key(0), Some(value(b"x")));
    put(&mut a, &lane(0), &key(0), None);
    a.collect(usize::MAX, |_| true);
    let began = a.reconciliation(&b);
    let testimony = a.testimony(&lane(0).actor().node, Generation(1)).unwrap();
    a.retire(&testimony).unwrap();
    b.reconcile(&Reconciliation { floors: a.floors(), ..began }).unwrap();
    assert!(b.seen(&lane(0).dot(1)) && b.is_below_floor(&lane(0), None), "nobody is served by a delta of it");
}

/// What a life that is over had said of itself is void: that two knew different things of it is no loss.
#[test]
fn what_is_void_is_not_brought_back_by_whoever_knew_less() {
    let own = lane_of(0, 1, Class::Registry);
    let mut a = Store::new();
    put(&mut a, &own, &key(0), Some(value(b"old")));
    let mut b = a.clone();
    put(&mut b, &own, &key(0), Some(value(b"new")));
    let testimony = a.testimony(&own.actor().node, Generation(1)).unwrap();
    a.retire(&testimony).unwrap();
    b.reconcile(&a.reconciliation(&b)).unwrap();
    assert_eq!((b.restored(), b.is_retired(&own)), (0, true));
    assert_eq!(a.digest(), b.digest());
    assert_index(&b);
}
