//! The network under the daemons: sockets that are queues, and what lies between them.
//!
//! A packet takes its path's delay and whatever the faults of the moment do to it. Unlike on the links of the first
//! tier nothing here is reliable or in order: that is what the QUIC above is for. Time is the runtime's, in whole
//! milliseconds, for that is how fine its timers are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use snomesh::id::NodeId;
use snomesh::time::Moment;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::coverage::{Coverage, Point};
use crate::fault::{Blocked, Faults, Weather};
use crate::random::{self, Generator, Seed};
use crate::scenario::Net;
use crate::trace::{Keep, Kind, Trace};

/// The largest payload of a packet that passes: Ethernet's, less the headers of IPv4 and UDP.
const MAX_PAYLOAD: usize = 1_500 - 28;
/// How long a packet waits for its turn on a path before it is dropped instead: a router's buffer.
const QUEUE: Duration = Duration::from_millis(500);
/// What waits there at any rate, however slow the path is: some packets.
const QUEUE_BYTES: u64 = 16 * 1_024;
/// How many packets a socket holds for a node that does not read them.
const SOCKET_PACKETS: usize = 4_096;
/// Where all nodes listen.
const UDP_PORT: u16 = 4_433;

/// The address of a node: each has a network of its own, as nodes of a mesh have.
pub(super) fn address_of(node: usize) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(node).unwrap_or(u32::MAX).to_be_bytes();
    (Ipv4Addr::new(10, high, low, 1), UDP_PORT).into()
}

/// The node at an address.
fn node_at(address: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(v4) = address else { return None };
    let [_, high, low, _] = v4.ip().octets();
    Some(usize::from(u16::from_be_bytes([high, low])))
}

/// A packet on its way, ordered by when it arrives, then by when it was sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    arrives_at: Moment,
    number: u64,
    from: usize,
    to: usize,
    ecn: Option<u8>,
    bytes: Box<[u8]>,
}

/// One direction between two nodes.
#[derive(Debug)]
struct Path {
    generator: Generator,
    delay: Duration,
    bandwidth: u64,
    /// When the last byte of what was sent will have left.
    free_at: Moment,
    /// The greatest number of a packet that arrived.
    last: u64,
}

/// All that packets meet. Clones are the same network.
#[derive(Debug, Clone)]
pub(super) struct Network {
    shared: Arc<Mutex<Shared>>,
    /// A packet arrives before all others that are on their way.
    sooner: Arc<Notify>,
}

/// What is in the network, and what is known of it.
#[derive(Debug)]
pub(super) struct Shared {
    seed: Seed,
    net: Net,
    began_at: Instant,
    paths: BTreeMap<(usize, usize), Path>,
    inboxes: BTreeMap<usize, Arc<Mutex<Inbox>>>,
    /// How many nodes there are addresses for.
    nodes: usize,
    flying: BinaryHeap<Reverse<Flight>>,
    sent: u64,
    /// What goes wrong at the moment.
    pub(super) faults: Faults,
    /// Everything has healed: subscribers may catch up.
    pub(super) healed: bool,
    /// What happened.
    pub(super) coverage: Coverage,
    /// Every packet that was sent and every one that arrived.
    pub(super) trace: Trace,
    /// How many records there are.
    pub(super) events: u64,
    /// When which node took a tunnel to which other for authenticated.
    pub(super) joined: Vec<(Moment, usize, Option<NodeId>)>,
}

impl Network {
    /// A network in which nothing flies. Must be made in the runtime.
    pub(super) fn new(seed: Seed, nodes: usize, net: &Net, faults: Faults, trace: Trace) -> Self {
        let shared = Shared {
            seed,
            net: net.clone(),
            began_at: Instant::now(),
            paths: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            nodes,
            flying: BinaryHeap::new(),
            sent: 0,
            faults,
            healed: false,
            coverage: Coverage::default(),
            trace,
            events: 0,
            joined: Vec::new(),
        };
        Self { shared: Arc::new(Mutex::new(shared)), sooner: Arc::new(Notify::new()) }
    }

    /// What is in it. One thread uses it, and never across a wait.
    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plugs a node's socket in, in the place of the one before.
    pub(super) fn plug_in(&self, node: usize) -> Arc<Socket> {
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        self.lock().inboxes.insert(node, Arc::clone(&inbox));
        Arc::new(Socket { node, network: self.clone(), inbox, plugged: AtomicBool::new(true) })
    }

    /// Lets packets arrive, for ever.
    pub(super) async fn carry(self) {
        loop {
            let (next, began_at) = {
                let shared = self.lock();
                (shared.flying.peek().map(|Reverse(flight)| flight.arrives_at), shared.began_at)
            };
            let arrival = async {
                match next {
                    Some(at) => sleep_until(began_at + at.since(Moment(0))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = arrival => self.lock().arrive(),
                () = self.sooner.notified() => {}
            }
        }
    }

    /// The hash over all packets so far.
    pub(super) fn finish_trace(&self) -> String {
        let mut shared = self.lock();
        let nothing = Trace::new(&Keep::default(), || unreachable!("nobody reads it"));
        std::mem::replace(&mut shared.trace, nothing).finish().0
    }

    fn send(&self, from: usize, transmit: &Transmit<'_>) {
        let mut shared = self.lock();
        // At the address of a seed that is not there is nobody, for ever.
        let Some(to) = node_at(transmit.destination).filter(|to| *to < shared.nodes) else { return };
        let ecn = transmit.ecn.map(|ecn| ecn as u8);
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let before = shared.flying.peek().map(|Reverse(flight)| flight.arrives_at);
        for packet in transmit.contents.chunks(segment) {
            shared.send(from, to, ecn, packet);
        }
        let after = shared.flying.peek().map(|Reverse(flight)| flight.arrives_at);
        if after != before {
            self.sooner.notify_one();
        }
    }
}

impl Shared {
    /// The time since the run began.
    pub(super) fn now(&self) -> Moment {
        Moment(0) + self.began_at.elapsed()
    }

    /// Records something.
    pub(super) fn record(&mut self, node: Option<usize>, kind: Kind, a: u64, b: u64, bytes: &[u8]) {
        self.events += 1;
        let now = self.now();
        self.trace.record(now, node, kind, a, b, bytes);
    }

    fn send(&mut self, from: usize, to: usize, ecn: Option<u8>, bytes: &[u8]) {
        self.record(Some(from), Kind::Datagram, to as u64, bytes.len() as u64, bytes);
        let weather = self.faults.weather(from, to);
        let (now, loss) = (self.now(), weather.loss.unwrap_or(self.net.loss.0));
        if self.is_blocked(from, to) {
            return;
        }
        let duplicate = weather.duplicate.unwrap_or(self.net.duplicate.0);
        let path = self.path(from, to);
        let lost = random::chance(&mut path.generator, loss);
        let doubled = random::chance(&mut path.generator, duplicate);
        // What is too large does not get as far as the path.
        let departs_at =
            if bytes.len() > MAX_PAYLOAD { None } else { path.depart(now, bytes.len(), &weather) };
        let departs_at = departs_at.filter(|_| !lost);
        let Some(departs_at) = departs_at else {
            self.coverage.hit(Point::Lost);
            return;
        };
        self.coverage.add(Point::Duplicated, u64::from(doubled));
        for _ in 0..=u8::from(doubled) {
            let jitter = weather.jitter;
            let drawn = self.net.jitter;
            let path = self.path(from, to);
            let most = jitter.unwrap_or_else(|| drawn.draw(&mut path.generator));
            let jitter = random::duration(&mut path.generator, Duration::ZERO, most);
            let arrives_at = whole_millis(departs_at + weather.delay.unwrap_or(path.delay) + jitter);
            self.sent += 1;
            let flight = Flight { arrives_at, number: self.sent, from, to, ecn, bytes: bytes.into() };
            self.flying.push(Reverse(flight));
        }
    }

    /// Gives those who are there the packets that are due.
    fn arrive(&mut self) {
        let now = self.now();
        while self.flying.peek().is_some_and(|Reverse(flight)| flight.arrives_at <= now) {
            let Some(Reverse(flight)) = self.flying.pop() else { return };
            let Flight { number, from, to, .. } = flight;
            // What is on a cable when it is cut is gone.
            if self.is_blocked(from, to) {
                continue;
            }
            let last = &mut self.path(from, to).last;
            let overtaken = number < *last;
            *last = number.max(*last);
            self.coverage.add(Point::Reordered, u64::from(overtaken));
            self.record(Some(to), Kind::Heard, from as u64, flight.bytes.len() as u64, &flight.bytes);
            if let Some(inbox) = self.inboxes.get(&to) {
                inbox.lock().unwrap_or_else(PoisonError::into_inner).take(flight);
            }
        }
    }

    fn is_blocked(&mut self, from: usize, to: usize) -> bool {
        let blocked = self.faults.blocked(from, to);
        match blocked {
            Some(Blocked::BothWays) => self.coverage.hit(Point::BlockedByPartition),
            Some(Blocked::OneWay) => self.coverage.hit(Point::BlockedOneWay),
            None => {}
        }
        blocked.is_some()
    }

    fn path(&mut self, from: usize, to: usize) -> &mut Path {
        let (seed, net) = (self.seed, &self.net);
        self.paths.entry((from, to)).or_insert_with(|| {
            // As in the first tier: the same seed puts the nodes at the same distances.
            let (low, high) = (from.min(to) as u64, from.max(to) as u64);
            let mut generator = seed.generator("packets", &[from as u64, to as u64]);
            Path {
                delay: net.delay.draw(&mut seed.generator("delay", &[low, high])),
                bandwidth: net.bandwidth.draw(&mut generator).0.max(1),
                generator,
                free_at: Moment(0),
                last: 0,
            }
        })
    }
}

impl Path {
    /// When the last byte of a packet leaves, unless too much is waiting already.
    fn depart(&mut self, now: Moment, len: usize, weather: &Weather) -> Option<Moment> {
        let begins_at = self.free_at.max(now);
        let bandwidth = weather.bandwidth.map_or(self.bandwidth, |bytes| bytes.0.max(1));
        let takes = |bytes: u64| Duration::from_nanos(bytes * 1_000_000_000 / bandwidth);
        if begins_at.since(now) > QUEUE.max(takes(QUEUE_BYTES)) {
            return None;
        }
        self.free_at = begins_at + takes(len as u64);
        Some(self.free_at)
    }
}

/// The next moment at which a timer of the runtime may fire.
fn whole_millis(at: Moment) -> Moment {
    Moment(at.0.next_multiple_of(1_000_000))
}

/// What came for a socket and has not been read.
#[derive(Debug, Default)]
struct Inbox {
    packets: VecDeque<Flight>,
    reader: Option<Waker>,
}

impl Inbox {
    fn take(&mut self, flight: Flight) {
        if self.packets.len() < SOCKET_PACKETS {
            self.packets.push_back(flight);
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// The UDP socket of one life of a node.
#[derive(Debug)]
pub(super) struct Socket {
    node: usize,
    network: Network,
    inbox: Arc<Mutex<Inbox>>,
    plugged: AtomicBool,
}

impl Socket {
    /// Pulls the plug: nothing that this life still says is heard by anybody, nor does it hear anything.
    pub(super) fn unplug(&self) {
        self.plugged.store(false, Ordering::Relaxed);
        self.inbox().packets.clear();
        let mut shared = self.network.lock();
        // Unless another life has plugged in already.
        if shared.inboxes.get(&self.node).is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            shared.inboxes.remove(&self.node);
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.plugged.load(Ordering::Relaxed) {
            self.network.send(self.node, transmit);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some(flight) = inbox.packets.pop_front() else { break };
            let len = flight.bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&flight.bytes[..len]);
            *meta = RecvMeta {
                addr: address_of(flight.from),
                len,
                stride: len,
                ecn: flight.ecn.and_then(EcnCodepoint::from_bits),
                dst_ip: Some(address_of(self.node).ip()),
            };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(address_of(self.node))
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
