//! What a state costs in memory, counted where it is allocated: requested bytes, the same on every machine.
//!
//! A program of its own, for it counts everything that its process allocates.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does: by a panic that says where"
)]

use std::alloc::System;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use snomesh::crdt::{CausalContext, Lane, Notary, Value};
use snomesh::id::{Actor, Generation, NodeId, TunnelId};
use snomesh::replica::{AttributeKey, Attributes, NodeRecord, Prepared, Replica};
use snomesh::time::UnixMillis;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WALL: UnixMillis = UnixMillis(1_700_000_000_000);

/// The bytes that are allocated now.
fn held() -> isize {
    let stats = ALLOCATOR.stats();
    isize::try_from(stats.bytes_allocated).unwrap() - isize::try_from(stats.bytes_deallocated).unwrap()
}

/// Tests of one process take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn replica(node: u8) -> Replica {
    let actor = Actor { node: NodeId::from_bytes([node; 32]), generation: Generation(1) };
    Replica::new(actor, Duration::from_secs(10))
}

/// A key of 22 bytes in the store. Their order and that in which they are made have nothing to do with each other.
fn key(number: usize) -> AttributeKey {
    format!("mesh/key-{:08}", number * 7_919 % 99_999_989).parse().unwrap()
}

fn value(number: usize) -> Value {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Value::try_from(&bytes[..]).unwrap()
}

fn put(replica: &mut Replica, number: usize, what: usize) {
    let prepared = replica.set(WALL, &key(number), value(what)).unwrap().unwrap();
    replica.merge(WALL, &prepared.delta).unwrap();
    replica.take_changed();
}

/// DESIGN.md §8: no growth over 100 overwrites.
#[test]
fn overwriting_does_not_grow_the_state() {
    const KEYS: usize = 5_000;
    let _alone = alone();
    let mut replica = replica(1);
    (0..KEYS).for_each(|number| put(&mut replica, number, number));
    // Once, for the order of the writes is another one from now on.
    (0..KEYS).for_each(|number| put(&mut replica, number * 31 % KEYS, KEYS + number));
    let before = held();
    for round in 2..102 {
        for number in 0..KEYS {
            put(&mut replica, number * (2 * round + 1) % KEYS, round * KEYS + number);
        }
    }
    assert_eq!(replica.store().len(), KEYS);
    let grown = held() - before;
    println!("{} bytes a key more than before", grown as f64 / KEYS as f64);
    assert!(grown * 20 < before, "from {before} bytes by {grown}");
}

/// A number for a long run, given in the environment; in a short one it is smaller.
fn many(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// SCENARIOS G-12: what came and went leaves nothing behind but what says that it was there. `SNOMESH_KEYS=1000000` is how
/// many shall.
#[test]
fn memory_returns_when_keys_have_come_and_gone() {
    let keys = many("SNOMESH_KEYS", 50_000);
    let _alone = alone();
    let mut replica = replica(1);
    (0..100).for_each(|number| put(&mut replica, number, number));
    let before = held();
    (100..keys).for_each(|number| put(&mut replica, number, number));
    let full = held() - before;
    for number in 100..keys {
        let prepared = replica.unset(WALL, &key(number)).unwrap().unwrap();
        replica.merge(WALL, &prepared.delta).unwrap();
        replica.take_changed();
    }
    replica.collect(usize::MAX, |_| true);
    assert_eq!(replica.store().len(), 100);
    let left = held() - before;
    println!("{left} bytes of {full} are left of {keys} keys");
    assert!(left < 64 * 1024, "{left} bytes of {full} are left");
}

fn settle(replica: &mut Replica, prepared: Option<Prepared>) {
    if let Some(prepared) = prepared {
        replica.merge(WALL, &prepared.delta).unwrap();
    }
    replica.take_changed();
}

fn sync(from: &Replica, to: &mut Replica) {
    let context = from.store().context();
    let lanes = context.lanes().map(|(lane, _)| lane);
    let delta = from.store().delta(lanes, &to.store().context(), usize::MAX);
    to.merge(WALL, &delta).unwrap();
    to.take_changed();
}

/// A node joins in one of its lives, writes, and is gone: whoever stays retires all of its lives up to this one, and forgets
/// in the end what it had said of that.
fn join_and_leave(stays: &mut Replica, node: NodeId, life: u64) {
    let actor = Actor { node, generation: Generation(life) };
    let mut guest = Replica::new(actor, Duration::from_secs(10));
    let (name, tunnel) = ("web".parse().unwrap(), TunnelId(life));
    let prepared = guest.publish(WALL, &NodeRecord::default()).unwrap();
    settle(&mut guest, prepared);
    let prepared = guest.register(WALL, &name, tunnel, &Attributes::default()).unwrap();
    settle(&mut guest, prepared);
    let prepared = guest.set(WALL, &key(1_000_000), value(usize::try_from(life).unwrap())).unwrap();
    settle(&mut guest, prepared);
    sync(&guest, stays);
    // What it had written somebody else writes over.
    let prepared = stays.unset(WALL, &key(1_000_000)).unwrap();
    settle(stays, prepared);
    let prepared = stays.testify(WALL, node, Generation(life)).unwrap();
    settle(stays, prepared);
    let prepared = stays.forget_testimony(WALL, node).unwrap();
    settle(stays, prepared);
    stays.collect(usize::MAX, |_| true);
    stays.forget_lanes();
    stays.take_retired();
    assert_eq!(stays.store().retired(&node), Generation(life));
}

/// SCENARIOS G-08: of 20,000 lives of one node nothing is left but one number. Exact: as many names and keys as after the
/// first, and as many bytes but for the slack of tables.
#[test]
fn memory_returns_when_lives_have_come_and_gone() {
    const LIVES: u64 = 20_000;
    let _alone = alone();
    let mut stays = replica(1);
    (0..100).for_each(|number| put(&mut stays, number, number));
    let guest = NodeId::from_bytes([2; 32]);
    let counts = |of: &Replica| (of.store().lane_counts(), of.store().lane_names(), of.store().len());
    join_and_leave(&mut stays, guest, 1);
    let (first, before) = (counts(&stays), held());
    (2..=LIVES).for_each(|life| join_and_leave(&mut stays, guest, life));
    assert_eq!(first, ((1, 1), 2, 100), "one lane, one past, a name for each, and the keys that stay");
    assert_eq!(counts(&stays), first);
    let left = held() - before;
    println!("{left} bytes are left of {LIVES} lives");
    assert!(left < 4 * 1024, "{left} bytes are left");
}

/// What is kept of a node that was there once: one number, for as long as the mesh lives.
#[test]
fn a_node_that_is_gone_costs_its_name() {
    let nodes = many("SNOMESH_NODES", 400);
    let _alone = alone();
    let mut stays = replica(1);
    let before = held();
    for number in 0..nodes {
        let mut name = [9; 32];
        name[..8].copy_from_slice(&number.to_be_bytes());
        join_and_leave(&mut stays, NodeId::from_bytes(name), 1);
    }
    let counts = (stays.store().lane_counts(), stays.store().lane_names(), stays.store().len());
    assert_eq!(counts, ((1, nodes), 1 + nodes, 0));
    let each = (held() - before) as f64 / nodes as f64;
    println!("{each:.0} bytes for each of {nodes} nodes that are gone");
    assert!(each < 700.0, "{each} bytes a node");
}

/// DESIGN.md §8: at most 165 bytes an attribute, all included, whatever the number and whoever wrote them.
#[test]
fn an_attribute_costs_little_more_than_its_key_and_its_value() {
    let _alone = alone();
    let before = held();
    let mut own = replica(1);
    let mut worst: f64 = 0.0;
    for number in 0..250_000 {
        put(&mut own, number, number);
        if number > 50_000 && number % 5_000 == 0 {
            worst = worst.max((held() - before) as f64 / (number + 1) as f64);
        }
    }
    println!("own: {:.1} bytes an attribute, {worst:.1} at the worst", (held() - before) as f64 / 250_000.0);
    assert!(worst <= 165.0, "{worst} bytes an attribute");

    let mut other = replica(2);
    let lanes: Vec<Lane> = own.store().context().lanes().map(|(lane, _)| lane.clone()).collect();
    let before = held();
    loop {
        let delta = own.store().delta(&lanes, &other.store().context(), 64 * 1024);
        if delta.is_empty() {
            break;
        }
        other.merge(WALL, &delta).unwrap();
        other.take_changed();
    }
    assert_eq!(own.store().digest(), other.store().digest());
    assert_eq!(other.store().delta(&lanes, &CausalContext::new(), 1).items.len(), 1);
    let learned = (held() - before) as f64 / 250_000.0;
    println!("learned: {learned:.1} bytes an attribute");
    assert!(learned <= 165.0, "{learned} bytes an attribute");
}

/// Whose signatures are none: what they cost in memory is the same.
#[derive(Debug)]
struct Pen;

impl Notary for Pen {
    fn key(&self) -> [u8; 32] {
        [7; 32]
    }

    fn sign(&self, _: &[u8]) -> [u8; 64] {
        [7; 64]
    }

    fn is_genuine(&self, _: &NodeId, _: &[u8; 32], _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
}

/// FEATURES B7: what seals add to an attribute, in groups of sixteen and one by one.
#[test]
fn a_seal_costs_what_it_says() {
    const KEYS: usize = 50_000;
    let _alone = alone();
    let cost = |group: Option<usize>| {
        let before = held();
        let mut own = replica(1);
        if group.is_some() {
            own = own.sealed(Arc::new(Pen));
        }
        for number in 0..KEYS {
            let prepared = own.set(WALL, &key(number), value(number)).unwrap().unwrap();
            own.merge_own(WALL, &prepared.delta);
            own.take_changed();
            if group.is_some_and(|group| (number + 1) % group == 0) {
                own.seal();
            }
        }
        own.seal();
        (held() - before) as f64 / KEYS as f64
    };
    let plain = cost(None);
    let (grouped, single) = (cost(Some(16)) - plain, cost(Some(1)) - plain);
    println!("{plain:.1} bytes an attribute; {grouped:.1} more in groups of 16, {single:.1} more alone");
    assert!(grouped <= 40.0, "{grouped} bytes more");
    assert!(single <= 280.0, "{single} bytes more");
}
