//! The same trivial gossip on `turmoil` and on the sockets of the simulator's second tier, one after the other.
//!
//! ```text
//! cargo build --release -p snomesh-sim
//! cargo run --release --manifest-path benches/peers-sim/Cargo.toml -- target/release/sim [HOSTS] [SECONDS]
//! ```
//!
//! Each host counts, and every 100 ms tells two others, in turn, all counts that it knows. Both networks take 10 ms one
//! way and up to 1 ms more. Printed are messages that arrived, and how many of them each simulator carried in a second of
//! processor time.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use turmoil::net::UdpSocket;

const PORT: u16 = 4433;
const INTERVAL: Duration = Duration::from_millis(100);
const FANOUT: usize = 2;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(sim) = arguments.next() else {
        eprintln!("say where the simulator's program is: target/release/sim");
        std::process::exit(2);
    };
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (hosts, seconds) = (number(50) as usize, number(60));
    println!("{hosts} hosts, {seconds} s simulated");
    let ours = ours(&sim, hosts, seconds);
    let theirs = theirs(hosts, Duration::from_secs(seconds));
    println!("ratio of messages in a second: {:.1}", ours / theirs);
}

/// Runs the simulator's own program, which prints what it did.
fn ours(sim: &str, hosts: usize, seconds: u64) -> f64 {
    let begun = Instant::now();
    let lasts = format!("{seconds}s");
    let output = Command::new(sim).args(["gossip", "--hosts", &hosts.to_string(), "--for", &lasts]).output();
    let took = begun.elapsed();
    let output = output.expect("the program is there");
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.split_whitespace().next().and_then(|word| word.parse().ok());
    report("snomesh-sim, tier quic", messages.unwrap_or_else(|| panic!("no number in {text:?}")), took)
}

fn theirs(hosts: usize, lasts: Duration) -> f64 {
    let messages = Arc::new(AtomicU64::new(0));
    let mut sim = turmoil::Builder::new()
        .simulation_duration(lasts + Duration::from_secs(10))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(10))
        .max_message_latency(Duration::from_millis(11))
        .udp_capacity(4_096)
        .rng_seed(1)
        .build();
    for host in 0..hosts {
        let messages = Arc::clone(&messages);
        sim.host(name(host), move || run_host(host, hosts, Arc::clone(&messages)));
    }
    sim.client("clock", async move {
        tokio::time::sleep(lasts).await;
        Ok(())
    });
    let begun = Instant::now();
    sim.run().expect("nothing fails in it");
    report("turmoil 0.7.2", messages.load(Ordering::Relaxed), begun.elapsed())
}

fn report(name: &str, messages: u64, took: Duration) -> f64 {
    let each = messages as f64 / took.as_secs_f64();
    println!("{name:<24} {messages} messages in {:.2} s: {each:.0} in a second", took.as_secs_f64());
    each
}

fn name(host: usize) -> String {
    format!("host{host}")
}

async fn run_host(
    host: usize,
    hosts: usize,
    messages: Arc<AtomicU64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT)).await?;
    let mut counts = vec![0_u64; hosts];
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut buffer = vec![0; 8 * hosts];
    let mut turn = host;
    loop {
        tokio::select! {
            biased;
            received = socket.recv_from(&mut buffer) => {
                let (len, _) = received?;
                messages.fetch_add(1, Ordering::Relaxed);
                for (count, told) in counts.iter_mut().zip(buffer[..len].as_chunks::<8>().0) {
                    *count = (*count).max(u64::from_le_bytes(*told));
                }
            }
            _ = ticks.tick() => {
                counts[host] += 1;
                let bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
                for _ in 0..FANOUT {
                    turn = (turn + 1) % hosts;
                    if turn == host {
                        turn = (turn + 1) % hosts;
                    }
                    socket.send_to(&bytes, (name(turn), PORT)).await?;
                }
            }
        }
    }
}
