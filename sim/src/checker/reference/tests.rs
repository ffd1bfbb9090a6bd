use snomesh::crdt::{Delta, Item};
use snomesh::id::Generation;
use snomesh::time::UnixMillis;

use super::*;

fn lane(node: u8, generation: u64, class: Class) -> Lane {
    Lane::new(Actor { node: NodeId::from_bytes([node; 32]), generation: Generation(generation) }, class)
}

fn key() -> Key {
    "attr/mesh/x".parse().unwrap()
}

fn entry(node: u8, counter: u64, observed: &[(u8, u64)], stamp: u64, value: Option<&[u8]>) -> Entry {
    let of = |node: u8| lane(node, 1, Class::Attribute);
    let observed = Observed::new(observed.iter().map(|(node, counter)| (of(*node), *counter)));
    let value = value.map(|bytes| Value::try_from(bytes).unwrap());
    Entry::new(&key(), of(node).dot(counter), observed, Timestamp(stamp), value)
}

fn replica() -> Replica {
    let actor = Actor { node: NodeId::from_bytes([9; 32]), generation: Generation(1) };
    Replica::new(actor, std::time::Duration::from_secs(10))
}

fn merge(replica: &mut Replica, entries: &[&Entry]) {
    let items =
        entries.iter().map(|entry| Item { key: key(), entries: [(*entry).clone()].into_iter().collect() });
    let delta = Delta { items: items.collect(), ..Delta::default() };
    replica.merge(UnixMillis(0), &delta).unwrap();
}

/// A node that writes twice, and another that writes without having heard of it.
fn history() -> (Reference, [Entry; 3]) {
    let entries =
        [entry(1, 1, &[], 5, Some(b"a")), entry(1, 2, &[], 6, Some(b"b")), entry(2, 1, &[], 5, Some(b"c"))];
    let mut reference = Reference::default();
    let (mut one, other) = (Seen::default(), Seen::default());
    for entry in &entries[..2] {
        let write = reference.author(&one, &key(), entry, Basis::Seen).unwrap();
        reference.see(&mut one, write, &mut News::default());
    }
    reference.author(&other, &key(), &entries[2], Basis::Seen).unwrap();
    (reference, entries)
}

#[test]
fn a_store_that_merges_as_it_should_passes() {
    let (mut reference, [a, b, c]) = history();
    let (mut replica, mut seen) = (replica(), Seen::default());
    for (entries, values) in [(vec![&b], 1), (vec![&c, &a], 2)] {
        merge(&mut replica, &entries);
        let news = reference.follow(&mut seen, &replica.store().context()).unwrap();
        assert!(news.unknown.is_empty());
        assert_eq!(reference.check_key(&mut seen, &replica, news.keys[0]), Ok(values));
    }
}

#[test]
fn a_missing_sibling_and_a_resurrected_value_are_caught() {
    let (mut reference, [a, b, c]) = history();
    let (mut replica, mut seen) = (replica(), Seen::default());
    merge(&mut replica, &[&a, &b, &c]);
    reference.follow(&mut seen, &replica.store().context()).unwrap();
    for wrong in [vec![&b], vec![&a, &c]] {
        let mut replica = self::replica();
        merge(&mut replica, &wrong);
        let broken = reference.check_key(&mut seen, &replica, 0).unwrap_err();
        assert_eq!(broken.checker, Checker::Merge, "{broken:?}");
    }
}

#[test]
fn a_read_that_goes_back_is_caught() {
    let (mut reference, [a, b, _]) = history();
    let (mut replica, mut seen) = (replica(), Seen::default());
    merge(&mut replica, &[&b]);
    reference.follow(&mut seen, &replica.store().context()).unwrap();
    reference.check_key(&mut seen, &replica, 0).unwrap();
    // A register and a reference that both forgot the later write.
    seen.maximal[0] = vec![reference.find(&a.dot).unwrap()];
    let mut replica = self::replica();
    merge(&mut replica, &[&a]);
    assert_eq!(reference.check_key(&mut seen, &replica, 0).unwrap_err().checker, Checker::Monotone);
}

#[test]
fn a_value_that_is_shown_again_is_caught() {
    let (mut reference, [_, b, _]) = history();
    let mut seen = Seen::default();
    let shown = |reference: &Reference, seen: &Seen, text: &[u8]| {
        reference.check_shown(seen, &key(), &Value::try_from(text).unwrap())
    };
    assert_eq!(shown(&reference, &seen, b"a"), Ok(()));
    let context = CausalContext::from_iter([(b.dot.lane, RangeSet::up_to(2))]);
    reference.follow(&mut seen, &context).unwrap();
    assert_eq!(shown(&reference, &seen, b"b"), Ok(()));
    assert_eq!(shown(&reference, &seen, b"a").unwrap_err().checker, Checker::History);
}

#[test]
fn a_text_that_was_written_twice_may_be_shown_while_one_of_them_stands() {
    let (mut reference, [_, b, _]) = history();
    let again = entry(3, 1, &[], 7, Some(b"a"));
    reference.author(&Seen::default(), &key(), &again, Basis::Seen).unwrap();
    let mut seen = Seen::default();
    let both = [(b.dot.lane, RangeSet::up_to(2)), (again.dot.lane, RangeSet::up_to(1))];
    reference.follow(&mut seen, &CausalContext::from_iter(both)).unwrap();
    let shown = |text: &[u8]| reference.check_shown(&seen, &key(), &Value::try_from(text).unwrap());
    assert_eq!(shown(b"a"), Ok(()));
}

/// Whoever removed a value and let the removal go writes the key anew: who has not heard of the removal shows both.
#[test]
fn a_death_that_nobody_told_here_is_no_resurrection() {
    let (mut reference, [_, b, _]) = history();
    let removal = entry(3, 1, &[(1, 2)], 7, None);
    let anew = entry(4, 1, &[], 8, Some(b"d"));
    let mut author = Seen::default();
    let all = [(b.dot.lane.clone(), RangeSet::up_to(2)), (removal.dot.lane.clone(), RangeSet::up_to(1))];
    reference.author(&Seen::default(), &key(), &removal, Basis::Told).unwrap();
    reference.follow(&mut author, &CausalContext::from_iter(all)).unwrap();
    reference.author(&author, &key(), &anew, Basis::Seen).unwrap();

    let mut seen = Seen::default();
    let some = [(b.dot.lane, RangeSet::up_to(2)), (anew.dot.lane.clone(), RangeSet::up_to(1))];
    reference.follow(&mut seen, &CausalContext::from_iter(some)).unwrap();
    let shown = |seen: &Seen| reference.check_shown(seen, &key(), &Value::try_from(&b"b"[..]).unwrap());
    assert_eq!(shown(&seen), Ok(()));
    assert_eq!(shown(&author).unwrap_err().checker, Checker::History);
}

#[test]
fn a_write_that_does_not_name_what_its_author_held_is_caught() {
    let (mut reference, [_, b, _]) = history();
    let (mut replica, mut seen) = (replica(), Seen::default());
    merge(&mut replica, &[&b]);
    reference.follow(&mut seen, &replica.store().context()).unwrap();
    let check = |write: &Entry| reference.check_observed(&seen, &replica, &key(), write);
    assert_eq!(check(&entry(3, 1, &[(1, 2)], 7, None)), Ok(()));
    assert_eq!(check(&entry(3, 1, &[(1, 1)], 7, None)).unwrap_err().checker, Checker::Causality);
}

#[test]
fn a_dot_that_names_two_writes_is_caught() {
    let (mut reference, [a, ..]) = history();
    let twice = Entry { stamp: Timestamp(9), ..a };
    let broken = reference.author(&Seen::default(), &key(), &twice, Basis::Seen).unwrap_err();
    assert_eq!(broken.checker, Checker::Dots);
}

#[test]
fn a_stamp_that_does_not_grow_is_caught() {
    let (mut reference, [_, b, _]) = history();
    let mut seen = Seen::default();
    let write = reference.find(&b.dot).unwrap();
    reference.see(&mut seen, write, &mut News::default());
    let late = entry(3, 1, &[(1, 2)], 6, Some(b"d"));
    assert_eq!(reference.author(&seen, &key(), &late, Basis::Seen).unwrap_err().checker, Checker::Causality);
}

#[test]
fn a_context_that_shrinks_is_caught_and_one_that_claims_too_much_is_told() {
    let (mut reference, [a, ..]) = history();
    let mut seen = Seen::default();
    let lane = a.dot.lane;
    let all = CausalContext::from_iter([(lane.clone(), RangeSet::up_to(3))]);
    assert_eq!(reference.follow(&mut seen, &all).unwrap().unknown, [lane.dot(3)]);
    let less = CausalContext::from_iter([(lane, RangeSet::up_to(2))]);
    assert_eq!(reference.follow(&mut seen, &less).unwrap_err().checker, Checker::Context);
}

#[test]
fn a_later_life_voids_registrations_of_the_earlier_to_readers() {
    let key: Key = "tunnel/web/0000000000000001".parse().unwrap();
    let (old, new) = (lane(1, 1, Class::Registry), lane(1, 2, Class::Registry));
    let mut reference = Reference::default();
    let mut seen = Seen::default();
    let make = |lane: &Lane, stamp| {
        Entry::new(&key, lane.dot(1), Observed::default(), Timestamp(stamp), Value::try_from(&b"r"[..]).ok())
    };
    reference.author(&seen, &key, &make(&old, 1), Basis::Seen).unwrap();
    reference.follow(&mut seen, &CausalContext::from_iter([(old, RangeSet::up_to(1))])).unwrap();
    assert_eq!(seen.maximal(0).len(), 1);
    let other: Key = "node/x".parse().unwrap();
    reference.author(&seen, &other, &make(&new, 2), Basis::Seen).unwrap();
    let news = reference.follow(&mut seen, &CausalContext::from_iter([(new, RangeSet::up_to(1))])).unwrap();
    assert_eq!((seen.maximal(0).len(), news.keys), (1, vec![0, 1]));
    assert!(seen.is_void(&reference.dot(seen.maximal(0)[0]).lane));
}
