//! How fast the pure core is: writing, merging, finding what a peer lacks, encoding and decoding.
//!
//! `cargo bench --bench core`. Times are this machine's; each group holds a figure of a plain standard map on
//! the same keys, so that the ratio can be carried elsewhere.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use snomesh::crdt::{CausalContext, Delta, Lane};
use snomesh::gossip::Message;
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::replica::{AttributeKey, Replica};
use snomesh::time::UnixMillis;
use snomesh::wire;

use common::{key, value};

const WALL: UnixMillis = UnixMillis(1_700_000_000_000);

fn actor(node: u8) -> Actor {
    Actor { node: NodeId::from_bytes([node; 32]), generation: Generation(1) }
}

fn replica(node: u8) -> Replica {
    Replica::new(actor(node), Duration::from_secs(10))
}

fn put(replica: &mut Replica, number: usize, what: usize) {
    let prepared = replica.set(WALL, &key(number), value(what)).expect("the clock has room");
    replica.merge_own(WALL, &prepared.expect("the value is new").delta);
    // As the mesh does after each write: what has changed is told.
    replica.take_changed();
}

fn filled(count: usize) -> Replica {
    let mut replica = replica(1);
    for number in 0..count {
        put(&mut replica, number, number);
    }
    replica
}

/// Other keys, whose order is not that in which they are made.
fn scattered(count: usize) -> Replica {
    let mut replica = replica(1);
    for number in 0..count {
        put(&mut replica, number * 7_919_191 % 99_999_989, number);
    }
    replica
}

fn lanes(replica: &Replica) -> Vec<Lane> {
    replica.store().context().lanes().map(|(lane, _)| lane.clone()).collect()
}

fn all_of(replica: &Replica) -> Delta {
    replica.store().delta(&lanes(replica), &CausalContext::new(), usize::MAX)
}

fn writing(c: &mut Criterion) {
    let mut group = c.benchmark_group("put");
    let mut replica = filled(100_000);
    let mut next = 0;
    group.bench_function("overwrite 1 of 100,000", |b| {
        b.iter(|| {
            next += 1;
            put(&mut replica, next * 7_919 % 100_000, next + 100_000);
        });
    });
    let mut map: BTreeMap<String, Vec<u8>> =
        (0..100_000).map(|number| (key(number).to_string(), value(number).as_bytes().to_vec())).collect();
    group.bench_function("std BTreeMap, the same", |b| {
        b.iter(|| {
            next += 1;
            map.insert(key(next * 7_919 % 100_000).to_string(), value(next).as_bytes().to_vec())
        });
    });
    group.finish();
}

fn reading(c: &mut Criterion) {
    let mut group = c.benchmark_group("get");
    let replica = filled(100_000);
    let keys: Vec<AttributeKey> = (0..100_000).map(key).collect();
    let mut next = 0;
    group.bench_function("1 of 100,000", |b| {
        b.iter(|| {
            next += 7_919;
            replica.attribute(&keys[next % 100_000]).expect("it is there").value
        });
    });
    let map: BTreeMap<String, Vec<u8>> =
        (0..100_000).map(|number| (keys[number].to_string(), value(number).as_bytes().to_vec())).collect();
    let names: Vec<String> = keys.iter().map(AttributeKey::to_string).collect();
    group.bench_function("std BTreeMap, the same", |b| {
        b.iter(|| {
            next += 7_919;
            map[&names[next % 100_000]].clone()
        });
    });
    group.finish();
}

/// A million keys in frames as large as those of a link, brought to a newcomer. Beside it what has to be done at least: each
/// key found a place in order, and its value kept.
fn snapshot(c: &mut Criterion) {
    const KEYS: usize = 1_000_000;
    let mut group = c.benchmark_group("snapshot of 1,000,000 keys");
    group.throughput(Throughput::Elements(KEYS as u64));
    group.warm_up_time(Duration::from_millis(1)).sample_size(10);
    for (name, sender) in [("in order", filled(KEYS)), ("scattered", scattered(KEYS))] {
        let own = lanes(&sender);
        let (mut encoder, mut known, mut frames) = (wire::Encoder::new(), CausalContext::new(), Vec::new());
        loop {
            let delta = sender.store().delta(&own, &known, 64 * 1024);
            if delta.is_empty() {
                break;
            }
            known.union(&delta.accounted);
            frames.push(encoder.encode(&Message::Delta(delta)));
        }
        println!("{name}: {} bytes in {} frames", frames.iter().map(Vec::len).sum::<usize>(), frames.len());
        drop(sender);
        group.bench_function(BenchmarkId::new("decode and merge", name), |b| {
            b.iter_with_large_drop(|| {
                let (mut decoder, mut receiver) = (wire::Decoder::new(), replica(2));
                for frame in &frames {
                    let Ok(Message::Delta(delta)) = decoder.decode(frame) else { panic!("a sound frame") };
                    receiver.merge(WALL, &delta).expect("own writes are sound");
                    receiver.take_changed();
                }
                receiver
            });
        });
        let mut all = Vec::new();
        let mut decoder = wire::Decoder::new();
        for frame in &frames {
            let Ok(Message::Delta(delta)) = decoder.decode(frame) else { panic!("a sound frame") };
            let values = delta.items.into_iter().map(|item| {
                let value = item.entries[0].value.as_ref().expect("nothing was removed").as_bytes().to_vec();
                (item.key.as_str().to_owned(), value)
            });
            all.extend(values);
        }
        group.bench_function(BenchmarkId::new("std BTreeMap, the same", name), |b| {
            b.iter_with_large_drop(|| {
                let mut map = BTreeMap::new();
                for (key, value) in &all {
                    map.insert(key.clone(), value.clone());
                }
                map
            });
        });
    }
    group.finish();
}

fn merging(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge");
    let delta = all_of(&filled(1_000));
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("1,000 new keys", |b| {
        b.iter_batched(|| replica(2), |mut receiver| receiver.merge(WALL, &delta), BatchSize::SmallInput);
    });
    let mut receiver = replica(2);
    receiver.merge(WALL, &delta).expect("own writes are sound");
    group.bench_function("1,000 known keys", |b| b.iter(|| receiver.merge(WALL, black_box(&delta))));
    group.finish();
}

/// Ten changed keys, whatever the number of keys: finding, encoding, decoding and merging them.
fn catching_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("10 changed of n");
    for count in [10_000, 100_000, 1_000_000] {
        let mut sender = filled(count);
        let known = sender.store().context();
        for change in 0..10 {
            put(&mut sender, change * (count / 10), count + change);
        }
        let own = lanes(&sender);
        let delta = sender.store().delta(&own, &known, usize::MAX);
        let frame = wire::encode(&Message::Delta(delta.clone()));
        println!("10 changed of {count}: {} bytes on the wire", frame.len());
        group.bench_function(BenchmarkId::new("find and encode", count), |b| {
            b.iter(|| wire::encode(&Message::Delta(sender.store().delta(&own, &known, usize::MAX))));
        });
        group.bench_function(BenchmarkId::new("decode", count), |b| {
            b.iter(|| wire::decode(black_box(&frame)));
        });
    }
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    let delta = Message::Delta(all_of(&filled(1_000)));
    let frame = wire::encode(&delta);
    println!(
        "1,000 keys of 22 + 32 bytes: {} bytes, {:.1} an item",
        frame.len(),
        frame.len() as f64 / 1_000.0
    );
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("encode 1,000 keys", |b| b.iter(|| wire::encode(black_box(&delta))));
    group.bench_function("decode 1,000 keys", |b| b.iter(|| wire::decode(black_box(&frame))));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = writing, reading, merging, catching_up, encoding, snapshot
}
criterion_main!(benches);
