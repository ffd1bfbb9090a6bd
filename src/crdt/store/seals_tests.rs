//! What a relay can do where entries are sealed, and what sealing costs and changes: nothing of what is replicated.

use std::collections::BTreeMap;

use super::super::tests::{bring, delta_for, key, lane, put, value};
use super::*;
use crate::crdt::seal::tests::Pen;
use crate::crdt::{Item, Observed, RangeSet, Reconciliation, Value};
use crate::time::Timestamp;

const A: u8 = 0;
const RELAY: u8 = 1;
const VICTIM: u8 = 2;

fn pen(node: u8) -> Pen {
    Pen::of(lane(node).actor().node)
}

fn store(node: u8) -> Store {
    Store::new().sealed(Arc::new(pen(node)))
}

/// An author with some writes, told to a relay.
fn told(keys: u8) -> [Store; 2] {
    let (mut author, mut relay) = (store(A), store(RELAY));
    for number in 0..keys {
        put(&mut author, &lane(A), &key(number), Some(value(&[number])));
    }
    author.seal();
    bring(&author, &mut relay);
    [author, relay]
}

fn refused(delta: &Delta) {
    let mut victim = store(VICTIM);
    let outcome = victim.merge(delta);
    assert_eq!(outcome.map_err(|corrupt| corrupt.flaw), Err(Flaw::Seal));
    assert_eq!(victim, Store::new());
    assert!(victim.take_changed().is_empty());
    let with = Reconciliation { delta: delta.clone(), ..Reconciliation::default() };
    assert_eq!(victim.reconcile(&with).map_err(|corrupt| corrupt.flaw), Err(Flaw::Seal), "fetched");
    assert_eq!(victim, Store::new());
}

/// All that a relay has of an author, with one thing changed and the checksum made to match.
fn changed(relay: &Store, change: impl FnOnce(&mut Key, &mut Entry)) -> Delta {
    let mut delta = delta_for(relay, &CausalContext::new());
    let Item { key, entries } = &mut delta.items[0];
    change(key, &mut entries[0]);
    entries[0].checksum = entries[0].hash(key);
    delta
}

/// FEATURES B7.
#[test]
fn a_relay_passes_on_what_is_sealed_and_can_change_none_of_it() {
    let [author, relay] = told(3);
    let mut victim = store(VICTIM);
    bring(&relay, &mut victim);
    assert_eq!(victim, author);
    assert_eq!(victim.digest(), author.digest());
    refused(&changed(&relay, |_, entry| entry.value = Some(value(b"forged"))));
    refused(&changed(&relay, |_, entry| entry.value = None));
    refused(&changed(&relay, |_, entry| entry.stamp = Timestamp(u64::MAX)));
    refused(&changed(&relay, |_, entry| entry.observed = Observed::new([(lane(VICTIM), 7)])));
    refused(&changed(&relay, |at, _| *at = key(9)));
    refused(&changed(&relay, |_, entry| entry.dot.counter = 17));
    refused(&changed(&relay, |_, entry| entry.dot.lane = lane(VICTIM)));
}

/// FEATURES B7.
#[test]
fn a_relay_makes_no_entry_in_the_name_of_another() {
    let [_, relay] = told(1);
    let entry =
        Entry::new(&key(0), lane(A).dot(2), Observed::default(), Timestamp(9), Some(value(b"forged")));
    let hashes = Box::from([entry.fingerprint(&key(0))]);
    let item = Item { key: key(0), entries: [entry].into_iter().collect() };
    let delta = |seals| Delta {
        accounted: CausalContext::from_iter([(lane(A), RangeSet::up_to(2))]),
        items: vec![item.clone()],
        seals,
    };
    refused(&delta(vec![]));
    let own = Seal::new(&pen(RELAY), lane(A), 2, hashes);
    refused(&delta(vec![Arc::new(own.clone())]));
    refused(&delta(vec![Arc::new(Seal { key: pen(A).key(), ..own })]));
    // A seal of the author's, beside which another hash was put.
    let genuine = relay.head_of(&lane(A)).unwrap();
    let mut more = Seal::clone(genuine);
    more.hashes = [more.hashes[0], item.entries[0].fingerprint(&key(0))].into();
    refused(&delta(vec![Arc::new(more)]));
}

/// FEATURES B7: of another's writes it can say that they were made, once they were, and never that they are dead.
#[test]
fn what_a_relay_accounts_for_kills_nothing_and_keeps_nothing_out() {
    let [mut author, relay] = told(2);
    let mut victim = store(VICTIM);
    let claim = |counters, seals: Vec<Arc<Seal>>| Delta {
        accounted: CausalContext::from_iter([(lane(A), RangeSet::up_to(counters))]),
        items: vec![],
        seals,
    };
    victim.merge(&claim(1 << 40, vec![])).unwrap();
    assert!(!victim.seen(&lane(A).dot(1)), "its author is not known to have written anything");
    assert_eq!(victim.generation(&lane(A).actor().node), None);
    let head = vec![Arc::clone(relay.head_of(&lane(A)).unwrap())];
    victim.merge(&claim(1 << 40, head.clone())).unwrap();
    assert_eq!(victim.seen_of(&lane(A)), Some(&RangeSet::up_to(2)), "as far as its author came");
    let forged = vec![Arc::new(Seal { signature: [7; 64], ..Seal::clone(&head[0]) })];
    assert!(store(VICTIM).merge(&claim(2, forged)).is_err());

    // What was said to be dead comes after all, and what is still to come is no less welcome.
    put(&mut author, &lane(A), &key(5), Some(value(b"later")));
    author.seal();
    victim.merge(&delta_for(&author, &CausalContext::new())).unwrap();
    assert_eq!(victim, author);
    assert_eq!(victim.digest(), author.digest());
    assert_eq!(victim.restored(), 2);

    // What is held does not die by hearsay either, whatever is said to have been collected.
    let with = Reconciliation {
        delta: claim(3, vec![]),
        floors: CausalContext::from_iter([(lane(A), RangeSet::up_to(3))]),
        horizon: Timestamp(u64::MAX),
        dead: vec![(key(0), lane(A).dot(1)), (key(5), lane(A).dot(3))],
    };
    victim.reconcile(&with).unwrap();
    assert_eq!(victim, author);
    assert_eq!((victim.floors(), victim.horizon()), (CausalContext::new(), Timestamp::default()));
}

/// A life that is over is nobody's to declare.
#[test]
fn nobody_is_believed_that_the_lives_of_another_are_over() {
    let [author, _] = told(2);
    let mut victim = store(VICTIM);
    bring(&author, &mut victim);
    let past = Lane::past(lane(A).actor().node, lane(A).actor().generation);
    let accounted = CausalContext::from_iter([(past.clone(), RangeSet::up_to(1))]);
    let with = Reconciliation { delta: Delta { accounted, ..Delta::default() }, ..Reconciliation::default() };
    victim.reconcile(&with).unwrap();
    assert!(!victim.is_retired(&past));
    assert_eq!(victim, author);
}

/// An old write that its author really made is dead wherever a later one has come.
#[test]
fn a_relay_that_sends_an_old_entry_again_brings_nothing_back() {
    let [mut author, relay] = told(1);
    let old = delta_for(&relay, &CausalContext::new());
    put(&mut author, &lane(A), &key(0), None);
    author.seal();
    let mut victim = store(VICTIM);
    bring(&author, &mut victim);
    assert!(victim.collect(usize::MAX, |_| true).is_empty(), "what shows that it is dead is kept");
    victim.merge(&old).unwrap();
    assert!(victim.register(&key(0)).unwrap().is_removed());
    assert_eq!(victim, author);
}

/// FEATURES B7: a signature for sixteen entries, verified once however they come.
#[test]
fn a_seal_is_made_for_many_entries_and_verified_once() {
    let [author, relay] = told(40);
    let seals = delta_for(&relay, &CausalContext::new()).seals;
    assert_eq!(seals.iter().map(|seal| seal.hashes.len()).collect::<Vec<_>>(), [16, 16, 8]);
    let pen = pen(VICTIM);
    let mut victim = Store::new().sealed(Arc::new(pen.clone()));
    let mut pieces = 0;
    while victim != author {
        victim.merge(&author.delta([&lane(A)], &victim.context(), 600)).unwrap();
        pieces += 1;
    }
    victim.merge(&delta_for(&relay, &CausalContext::new())).unwrap();
    assert!(pieces > 3, "{pieces}");
    assert_eq!(pen.asked(), 3);
}

#[test]
fn a_seal_goes_with_its_last_entry_and_the_last_of_a_lane_stays() {
    let held = |store: &Store| {
        let seals = store.seals.as_ref().unwrap();
        seals.lanes.values().map(|lane| lane.held.values().flatten().count()).sum::<usize>()
    };
    let [mut author, mut relay] = told(40);
    assert_eq!((held(&author), held(&relay)), (3, 3));
    for number in 0..15 {
        put(&mut author, &lane(A), &key(number), None);
    }
    author.seal();
    bring(&author, &mut relay);
    assert_eq!((held(&author), held(&relay)), (4, 4), "the sixteenth lives");
    put(&mut author, &lane(A), &key(15), None);
    author.seal();
    bring(&author, &mut relay);
    assert_eq!((held(&author), held(&relay)), (4, 4));
    assert_eq!(relay.head_of(&lane(A)).unwrap().last(), 56);
    assert_eq!(relay, author);
}

/// `survivors_converge_where_entries_are_sealed` found it.
#[test]
fn a_seal_stays_while_one_of_its_entries_dies_and_another_comes_in_one_message() {
    let (mut author, mut relay, mut victim) = (store(A), store(RELAY), store(VICTIM));
    put(&mut author, &lane(A), &key(0), Some(value(b"v")));
    put(&mut author, &lane(A), &key(2), Some(value(b"v")));
    author.seal();
    relay.merge(&author.delta([&lane(A)], &CausalContext::new(), 1)).unwrap();
    assert!(relay.seen(&lane(A).dot(2)) && !relay.seen(&lane(A).dot(1)));
    put(&mut author, &lane(A), &key(2), Some(value(b"w")));
    author.seal();
    bring(&author, &mut relay);
    bring(&relay, &mut victim);
    assert_eq!(victim, author);
}

#[test]
fn what_is_overwritten_before_it_is_told_is_neither_kept_nor_signed() {
    let mut author = store(A);
    for number in 0..1_000u32 {
        put(&mut author, &lane(A), &key(0), Some(value(&number.to_le_bytes())));
    }
    put(&mut author, &lane(A), &key(1), Some(value(b"v")));
    let unsealed = |store: &Store| {
        store.seals.as_ref().unwrap().lanes.values().map(|lane| lane.unsealed.len()).sum::<usize>()
    };
    assert_eq!(unsealed(&author), 2);
    author.seal();
    assert_eq!(unsealed(&author), 0);
    let delta = delta_for(&author, &CausalContext::new());
    assert_eq!(delta.seals.len(), 1);
    let mut other = store(VICTIM);
    other.merge(&delta).unwrap();
    assert_eq!(other, author);
}

/// Only an author can contradict itself, and then one of both holds everywhere, as without seals.
#[test]
fn an_author_that_seals_one_dot_twice_ends_the_same_everywhere() {
    let writes = |what: &[u8]| {
        let mut author = store(A);
        put(&mut author, &lane(A), &key(0), Some(value(what)));
        author.seal();
        delta_for(&author, &CausalContext::new())
    };
    let (one, two) = (writes(b"one"), writes(b"two"));
    let (mut left, mut right) = (store(RELAY), store(VICTIM));
    for (store, deltas) in [(&mut left, [&one, &two]), (&mut right, [&two, &one])] {
        deltas.into_iter().for_each(|delta| store.merge(delta).unwrap());
    }
    assert_eq!(left, right);
    let mut third = store(9);
    bring(&left, &mut third);
    assert_eq!(third, right);
}

/// What was made durable before it was sealed is sealed when it is read; of nobody but this node.
#[test]
fn own_writes_that_were_told_to_nobody_are_sealed_when_they_are_read_again() {
    let mut author = store(A);
    for number in 0..20 {
        put(&mut author, &lane(A), &key(number), Some(value(&[number])));
    }
    let bare = delta_for(&author, &CausalContext::new());
    assert!(bare.seals.is_empty());
    let node = lane(A).actor().node;
    let (mut again, mut other) = (store(A), store(VICTIM));
    let sealed = again.seal_again(&node, &bare);
    again.merge(&sealed).unwrap();
    assert_eq!(again, author);
    bring(&again, &mut other);
    assert_eq!(other, author);
    let victim = store(VICTIM);
    assert_eq!(victim.seal_again(&lane(VICTIM).actor().node, &bare), bare, "others' are not");
    // What somebody else has put there in its name under a seal of its own is not made good.
    let mut forged = changed(&again, |_, entry| entry.value = Some(value(b"forged")));
    forged = again.seal_again(&node, &forged);
    assert!(store(A).merge(&forged).is_err());
}

/// What was sealed after it was made durable, told and replaced: nothing that is held says any more how far its author came.
#[test]
fn how_far_an_own_life_came_is_known_again_although_its_last_write_was_replaced() {
    let [mut author, mut other] = told(2);
    put(&mut author, &lane(A), &key(2), Some(value(b"v")));
    author.seal();
    bring(&author, &mut other);
    put(&mut other, &lane(RELAY), &key(2), Some(value(b"w")));
    other.seal();
    bring(&other, &mut author);
    let mut kept = delta_for(&author, &CausalContext::new());
    kept.seals.retain(|seal| seal.lane != lane(A) || seal.last() < 3);
    let mut again = store(A);
    let sealed = again.seal_again(&lane(A).actor().node, &kept);
    again.merge(&sealed).unwrap();
    assert_eq!(again, author);
    let mut newcomer = store(VICTIM);
    bring(&again, &mut newcomer);
    assert_eq!(newcomer, author);
}

fn registers(store: &Store) -> BTreeMap<Key, Vec<Option<Value>>> {
    let values =
        |row: super::super::Row<'_>| row.register().into_entries().map(|entry| entry.value).collect();
    store.prefix("").map(|row| (row.key(), values(row))).collect()
}

#[test]
fn nothing_of_it_shows_where_entries_are_not_sealed() {
    let [sealed, _] = told(5);
    let mut plain = Store::new();
    for number in 0..5 {
        put(&mut plain, &lane(A), &key(number), Some(value(&[number])));
    }
    plain.seal();
    assert!(delta_for(&plain, &CausalContext::new()).seals.is_empty());
    assert_eq!(plain.digest(), sealed.digest(), "the digest does not know seals");
    assert_eq!(registers(&plain), registers(&sealed));
    plain.merge(&delta_for(&sealed, &CausalContext::new())).unwrap();
    assert_eq!(plain, sealed);
}
