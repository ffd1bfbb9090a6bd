//! A UDP relay with a delay and a loss, for machines whose kernel has no netem. Standard library only:
//!
//!     rustc -O tests/netns/relay.rs && ./relay LISTEN TARGET DELAY_MS LOSS_PERCENT SEED
//!
//! Each client gets a socket of its own towards the target, so that answers find their way back. Packets keep their
//! order, are delayed by the same time both ways, and are lost by a generator with a seed.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A packet on its way, and the socket and address that it leaves by.
type Packet = (Instant, Vec<u8>, Arc<UdpSocket>, SocketAddr);

/// Packets in the order of their coming, which is that of their going.
#[derive(Default)]
struct Line {
    packets: Mutex<VecDeque<Packet>>,
    more: Condvar,
}

impl Line {
    fn push(&self, packet: Packet) {
        self.packets.lock().unwrap().push_back(packet);
        self.more.notify_one();
    }

    fn carry(&self) {
        loop {
            let mut packets = self.packets.lock().unwrap();
            while packets.is_empty() {
                packets = self.more.wait(packets).unwrap();
            }
            let (due, bytes, socket, to) = packets.pop_front().unwrap();
            drop(packets);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A target that is down refuses; so would a network.
            let _lost = socket.send_to(&bytes, to);
        }
    }
}

/// Xorshift: losses need no better.
struct Luck(u64);

impl Luck {
    fn loses(&mut self, percent: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % 10_000 < percent * 100
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, delay, loss, seed] = &arguments[..] else {
        eprintln!("usage: relay LISTEN TARGET DELAY_MS LOSS_PERCENT SEED");
        std::process::exit(2);
    };
    let target: SocketAddr = target.parse().expect("TARGET is IP:PORT");
    let delay = Duration::from_millis(delay.parse().expect("DELAY_MS is a number"));
    let loss: u64 = loss.parse().expect("LOSS_PERCENT is a number");
    let seed: u64 = seed.parse().expect("SEED is a number");
    let front = Arc::new(UdpSocket::bind(listen.as_str()).expect("LISTEN can be bound"));
    let line = Arc::new(Line::default());
    let carrier = Arc::clone(&line);
    thread::spawn(move || carrier.carry());
    let mut luck = Luck(seed.max(1));
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = [0; 65_536];
    loop {
        let Ok((len, client)) = front.recv_from(&mut buffer) else { continue };
        let back = backs.entry(client).or_insert_with(|| {
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let back = Arc::new(UdpSocket::bind(any).expect("a socket"));
            let (answers, front, line) = (Arc::clone(&back), Arc::clone(&front), Arc::clone(&line));
            let mut luck = Luck(seed ^ u64::from(client.port()) ^ 0x9e37_79b9_7f4a_7c15);
            thread::spawn(move || {
                let mut buffer = [0; 65_536];
                loop {
                    let Ok((len, _)) = answers.recv_from(&mut buffer) else { continue };
                    if !luck.loses(loss) {
                        line.push((Instant::now() + delay, buffer[..len].to_vec(), Arc::clone(&front), client));
                    }
                }
            });
            back
        });
        if !luck.loses(loss) {
            line.push((Instant::now() + delay, buffer[..len].to_vec(), Arc::clone(back), target));
        }
    }
}
