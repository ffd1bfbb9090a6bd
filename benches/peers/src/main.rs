//! The same work done by a mesh of daemons and by `chitchat`, one after the other, over UDP on loopback.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml [NODES KEYS]
//! ```
//!
//! For 3, 10 and 30 nodes and 100 and 1,000 keys of each node (22 bytes, values of 100 bytes): how long until all nodes
//! have all keys when all write at once, and with how many bytes; how long one write takes until the last node has it;
//! what an idle mesh says; processor time of it all. Bytes are payloads of UDP packets, counted at the socket, on both
//! sides: encryption and acknowledgements are in ours, there are none in theirs. Both run in this process.

mod mesh;
mod neighbour;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How long all nodes have to get all keys.
const PATIENCE: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(5);

/// What nodes have seen and said.
#[derive(Debug, Default)]
pub struct Tally {
    /// Writes of others that nodes have come to know.
    seen: AtomicU64,
    changed: Notify,
    /// Payload bytes of UDP packets sent.
    pub bytes: AtomicU64,
    /// UDP packets sent.
    pub packets: AtomicU64,
}

impl Tally {
    /// A node has come to know so many writes of others.
    pub fn saw(&self, count: u64) {
        self.seen.fetch_add(count, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// A packet was sent.
    pub fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.packets.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nodes have come to know `count` writes in all. Says whether they did in time.
    async fn reaches(&self, count: u64) -> bool {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                if self.seen.load(Ordering::Relaxed) >= count {
                    return;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, reached).await.is_ok()
    }
}

/// Something that spreads keys among nodes.
pub trait Cluster: Sized {
    /// How many single writes are timed: as many as a minute or so allows.
    const SINGLE: usize = 200;

    /// Starts so many nodes and waits until all know all.
    fn start(nodes: usize, tally: Arc<Tally>) -> impl Future<Output = Self>;

    /// One node writes.
    fn write(&self, node: usize, key: String, value: String) -> impl Future<Output = ()>;

    /// Ends it.
    fn stop(self) -> impl Future<Output = ()>;
}

/// The processor time of this process so far.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// A key is `mesh/n00-key-0000000000`, 22 bytes.
fn key(node: usize, number: usize) -> String {
    format!("mesh/n{node:02}-k-{number:010}")
}

/// A value of 100 characters that no compression makes much shorter: three quarters of its bits are drawn.
fn value(node: usize, number: usize) -> String {
    const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // Splitmix64 (Steele, Lea and Flood 2014), from a start for each value.
    let mut state = (node as u64) << 32 | number as u64;
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        char::from(CHARACTERS[(mixed >> 58) as usize])
    };
    (0..100).map(|_| draw()).collect()
}

async fn measure<C: Cluster>(name: &str, nodes: usize, keys: usize) {
    let tally = Arc::new(Tally::default());
    let begun = Instant::now();
    let cluster = C::start(nodes, Arc::clone(&tally)).await;
    let joined = begun.elapsed();
    let others = (nodes - 1) as u64;

    // All nodes write all their keys at once.
    let (bytes, processor, begun) = (tally.bytes.load(Ordering::Relaxed), processor_time(), Instant::now());
    let written = (0..nodes).map(|node| {
        let cluster = &cluster;
        async move {
            for number in 0..keys {
                cluster.write(node, key(node, number), value(node, number)).await;
            }
        }
    });
    for write in written {
        write.await;
    }
    let total = (nodes * keys) as u64 * others;
    let all = if tally.reaches(total).await {
        format!("{:.0?}", begun.elapsed())
    } else {
        format!("not within {PATIENCE:?}")
    };
    let least = total * (22 + 100);
    let bulk = (tally.bytes.load(Ordering::Relaxed) - bytes) as f64 / least as f64;
    let bulk_processor = processor_time().saturating_sub(processor);

    // One write at a time.
    sleep(Duration::from_secs(2)).await;
    let mut expected = tally.seen.load(Ordering::Relaxed);
    let mut times = Vec::new();
    for number in 0..C::SINGLE {
        let begun = Instant::now();
        let (node, number) = (number % nodes, keys + number);
        cluster.write(node, key(node, number), value(node, number)).await;
        expected += others;
        if !tally.reaches(expected).await {
            break;
        }
        times.push(begun.elapsed());
    }
    times.sort();

    // Nothing to say.
    sleep(Duration::from_secs(2)).await;
    let (bytes, packets) = (tally.bytes.load(Ordering::Relaxed), tally.packets.load(Ordering::Relaxed));
    let processor = processor_time();
    sleep(IDLE).await;
    let each = |count: u64| count as f64 / IDLE.as_secs_f64() / nodes as f64;
    let idle_bytes = each(tally.bytes.load(Ordering::Relaxed) - bytes);
    let idle_packets = each(tally.packets.load(Ordering::Relaxed) - packets);
    let idle_processor = processor_time().saturating_sub(processor).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    let percentile = |percent: usize| match times.len() {
        0 => "never".to_owned(),
        len => format!("{:.1?}", times[(len - 1) * percent / 100]),
    };
    println!(
        "| {name} | {nodes} | {keys} | {joined:.0?} | {all} | {bulk:.2} | {:.1} s | {} · {} | {idle_bytes:.0} B, {idle_packets:.1} packets | {idle_processor:.1} % |",
        bulk_processor.as_secs_f64(),
        percentile(50),
        percentile(99),
    );
    cluster.stop().await;
}

fn run(measured: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be had");
    runtime.block_on(measured);
    runtime.shutdown_timeout(Duration::from_secs(2));
}

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let cases: Vec<(usize, usize)> = match arguments[..] {
        [nodes, keys] => vec![(nodes, keys)],
        _ => [3, 10, 30].into_iter().flat_map(|nodes| [100, 1_000].map(|keys| (nodes, keys))).collect(),
    };
    println!(
        "| | nodes | keys of each | joined | all have all | bytes ÷ least | processor | one write, p50 · p99 | idle, per node and second | idle processor |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (nodes, keys) in cases {
        run(measure::<mesh::Mesh>("snomesh", nodes, keys));
        run(measure::<neighbour::Chitchat<20>>("chitchat, 20 ms", nodes, keys));
        run(measure::<neighbour::Chitchat<1_000>>("chitchat, 1 s", nodes, keys));
    }
}
