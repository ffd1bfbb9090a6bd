//! What it costs that every entry bears a seal of its author: time to write and to merge, and bytes.
//!
//! `cargo bench --bench seals`. Times are this machine's; each row stands beside the same without seals.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snomesh::auth::Identity;
use snomesh::crdt::{CausalContext, Delta, Lane, Notary};
use snomesh::gossip::Message;
use snomesh::id::{Actor, Generation};
use snomesh::replica::Replica;
use snomesh::time::UnixMillis;
use snomesh::wire;

use common::{key, value};

const WALL: UnixMillis = UnixMillis(1_700_000_000_000);
const KEYS: usize = 20_000;
const ROUNDS: usize = 5;

/// A node that seals in groups of that many writes, or not at all.
fn replica(identity: &Identity, group: Option<usize>) -> Replica {
    let actor = Actor { node: identity.node_id(), generation: Generation(1) };
    let replica = Replica::new(actor, Duration::from_secs(10));
    if group.is_some() { replica.sealed(Arc::new(identity.clone())) } else { replica }
}

fn fill(replica: &mut Replica, group: Option<usize>) {
    for number in 0..KEYS {
        let prepared = replica.set(WALL, &key(number), value(number)).expect("the clock has room");
        replica.merge_own(WALL, &prepared.expect("the value is new").delta);
        replica.take_changed();
        if group.is_some_and(|group| (number + 1) % group == 0) {
            replica.seal();
        }
    }
    replica.seal();
}

fn frames(replica: &Replica) -> Vec<Vec<u8>> {
    let lanes: Vec<Lane> = replica.store().context().lanes().map(|(lane, _)| lane.clone()).collect();
    let (mut encoder, mut known, mut frames) = (wire::Encoder::new(), CausalContext::new(), Vec::new());
    loop {
        let delta: Delta = replica.store().delta(&lanes, &known, 64 * 1024);
        if delta.is_empty() {
            return frames;
        }
        known.union(&delta.accounted);
        frames.push(encoder.encode(&Message::Delta(delta)));
    }
}

/// The best of some rounds, in nanoseconds for each of `count`.
fn best<T>(count: usize, mut round: impl FnMut() -> T) -> f64 {
    let took = (0..ROUNDS).map(|_| {
        let begun = Instant::now();
        black_box(round());
        begun.elapsed()
    });
    took.min().unwrap_or_default().as_nanos() as f64 / count as f64
}

fn main() {
    let (author, other) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]));
    let text = [7; 15 + 49 + 16 * 16];
    let signature = Notary::sign(&author, &text);
    let sign = best(200, || (0..200).map(|_| Notary::sign(&author, black_box(&text))[0]).max());
    let verify = best(200, || {
        (0..200).all(|_| other.is_genuine(&author.node_id(), &Notary::key(&author), &text, &signature))
    });
    println!("Ed25519: {:.1} µs to sign, {:.1} µs to verify", sign / 1e3, verify / 1e3);
    println!(
        "| entries under a seal | put, ns | decode and merge, ns | bytes on the wire for each entry of 22 + 32 |"
    );
    println!("|---|---|---|---|");
    for (name, group) in [("no seals", None), ("16", Some(16)), ("4", Some(4)), ("1", Some(1))] {
        let put = best(KEYS, || {
            let mut replica = replica(&author, group);
            fill(&mut replica, group);
            replica
        });
        let mut sender = replica(&author, group);
        fill(&mut sender, group);
        let frames = frames(&sender);
        let bytes: usize = frames.iter().map(Vec::len).sum();
        let merge = best(KEYS, || {
            let (mut decoder, mut receiver) = (wire::Decoder::new(), replica(&other, group));
            for frame in &frames {
                let Ok(Message::Delta(delta)) = decoder.decode(frame) else { panic!("a sound frame") };
                receiver.merge(WALL, &delta).expect("what was sealed is sound");
                receiver.take_changed();
            }
            receiver
        });
        println!("| {name} | {put:.0} | {merge:.0} | {:.1} |", bytes as f64 / KEYS as f64);
    }
}
