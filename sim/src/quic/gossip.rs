//! A trivial gossip over the sockets of this tier: what the network and the runtime cost, without the product.
//!
//! Each host counts, and every so often tells two others, in turn, all counts that it knows. `benches/peers-sim` has the
//! same program on another simulator.

use std::future::poll_fn;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::AsyncUdpSocket;
use quinn::udp::{RecvMeta, Transmit};
use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::network::{Network, Socket, address_of};
use crate::fault::Faults;
use crate::random::Seed;
use crate::scenario::Net;
use crate::trace::Trace;

/// How often a host tells others.
const INTERVAL: Duration = Duration::from_millis(100);
/// How many others it tells each time.
const FANOUT: usize = 2;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// Messages that arrived.
    pub(crate) messages: u64,
    /// The hash over all packets.
    pub(crate) trace_hash: String,
}

/// Lets so many hosts gossip for so long.
pub(crate) fn gossip(hosts: usize, lasts: Duration, seed: Seed, trace: Trace) -> Told {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without a network asks nothing of the system");
    runtime.block_on(async {
        let net = Net::default();
        let network = Network::new(seed, hosts, &net, Faults::default(), trace);
        let messages = Arc::new(AtomicU64::new(0));
        let mut tasks = vec![tokio::spawn(network.clone().carry())];
        for host in 0..hosts {
            tasks.push(tokio::spawn(run_host(host, hosts, network.plug_in(host), Arc::clone(&messages))));
        }
        sleep(lasts).await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let trace_hash = network.finish_trace();
        Told { messages: messages.load(Ordering::Relaxed), trace_hash }
    })
}

async fn run_host(host: usize, hosts: usize, socket: Arc<Socket>, messages: Arc<AtomicU64>) {
    let mut counts = vec![0_u64; hosts];
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = vec![0; 8 * hosts];
    let mut turn = host;
    loop {
        tokio::select! {
            biased;
            len = receive(&socket, &mut buffer) => {
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
                    let transmit = Transmit {
                        destination: address_of(turn),
                        ecn: None,
                        contents: &bytes,
                        segment_size: None,
                        src_ip: None,
                    };
                    socket.try_send(&transmit).expect("a simulated socket takes everything");
                }
            }
        }
    }
}

async fn receive(socket: &Socket, buffer: &mut [u8]) -> usize {
    poll_fn(|cx| {
        let mut meta = [RecvMeta::default()];
        let received = socket.poll_recv(cx, &mut [IoSliceMut::new(buffer)], &mut meta);
        received.map(|received| received.map(|_one| meta[0].len))
    })
    .await
    .expect("a simulated socket does not fail")
}
