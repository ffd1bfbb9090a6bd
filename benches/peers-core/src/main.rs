//! The replicated state beside other replicated maps: the same keys, the same values, the same changes, in one run.
//!
//! `cargo run --release --manifest-path benches/peers-core/Cargo.toml [KEYS]` prints a table. Times are the processor's,
//! of the thread that works. Bytes are those of both directions: what the receiver says it has, and what it is sent.
//! Memory is what was requested from the allocator.

mod neighbours;
mod ours;

use std::alloc::System;

use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What is compared. Each operation is committed by itself, as a daemon does that is told one at a time.
trait Replica: Sized {
    const NAME: &'static str;
    fn new(author: u8) -> Self;
    fn put(&mut self, key: &str, value: &[u8]);
    fn get(&mut self, key: &str) -> Option<Vec<u8>>;
    /// Brings another replica up to date, by what is sent between the two. Returns how many bytes that is.
    fn sync(&mut self, other: &mut Self) -> usize;
}

/// 22 bytes.
fn key(number: usize) -> String {
    format!("attr/mesh/key-{:08}", number * 7_919_191 % 99_999_989)
}

fn value(number: usize) -> [u8; 32] {
    let mut value = [0; 32];
    for (at, part) in value.chunks_exact_mut(8).enumerate() {
        let part_of = (number * 4 + at) as u64;
        part.copy_from_slice(&part_of.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    value
}

fn held() -> i64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
}

/// The processor's time of this thread, in microseconds.
fn spent() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let before = spent();
    let done = work();
    (done, spent() - before)
}

fn filled<R: Replica>(author: u8, keys: usize) -> R {
    let mut replica = R::new(author);
    (0..keys).for_each(|number| replica.put(&key(number), &value(number)));
    replica
}

/// One row of the table; times in microseconds.
fn row<R: Replica>(keys: usize, overwrites: usize) {
    let before = held();
    let (mut own, put) = timed(|| filled::<R>(1, keys));
    let memory = (held() - before) as f64 / keys as f64;

    // A newcomer gets everything; then ten of all are changed.
    let mut other = R::new(2);
    let (all, apply) = timed(|| own.sync(&mut other));
    assert_eq!(other.get(&key(keys / 2)).as_deref(), Some(&value(keys / 2)[..]), "{}", R::NAME);
    own.sync(&mut other);
    let change = |own: &mut R, round: usize| {
        (0..10).for_each(|number| own.put(&key(number * (keys / 10) + round), &value(keys + 10 * round + number)));
    };
    let mut syncs = Vec::new();
    for round in 0..5 {
        change(&mut own, round);
        syncs.push(timed(|| own.sync(&mut other)));
    }
    assert_eq!(other.get(&key(4)).as_deref(), Some(&value(keys + 40)[..]), "{}", R::NAME);
    syncs.sort_by(|left, right| left.1.total_cmp(&right.1));
    let (bytes, cpu) = syncs[2];
    drop((own, other));

    // Every key of a tenth of them, ten times more.
    let few = keys / 10;
    let before = held();
    let mut own = filled::<R>(1, few);
    let fresh = (held() - before) as f64 / few as f64;
    let ((), overwrite) = timed(|| {
        for round in 1..=overwrites {
            (0..few).for_each(|number| own.put(&key(number), &value(round * few + number)));
        }
    });
    let grown = (held() - before) as f64 / few as f64;
    println!(
        "| {} | {:.2} | {:.2} | {memory:.0} | {fresh:.0} → {grown:.0} | {bytes} B, {cpu:.0} µs | {:.2} MB, {:.2} µs |",
        R::NAME,
        put / keys as f64,
        overwrite / (few * overwrites).max(1) as f64,
        all as f64 / 1e6,
        apply / keys as f64,
    );
}

fn main() {
    let keys = std::env::args().nth(1).map_or(100_000, |keys| keys.parse().expect("a number of keys"));
    println!("{keys} keys of 22 bytes, values of 32; a tenth of them overwritten ten times\n");
    println!(
        "| | put a new key, µs | overwrite, µs | memory, B a key | and after overwriting | 10 changed: bytes, both ends | \
         all: bytes, both ends a key |"
    );
    println!("|---|---|---|---|---|---|---|");
    row::<ours::Snomesh>(keys, 10);
    row::<neighbours::Loro>(keys, 10);
    row::<neighbours::Yrs>(keys, 10);
    row::<neighbours::Automerge>(keys, 10);
    row::<neighbours::CrdtsMap>(keys, 10);
}
