//! Nodes, the way between them, writers, and what is counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use snomesh::time::Moment;

use crate::random::{self, Generator, Seed};

/// A write's key and value, in bytes.
pub(super) const PAYLOAD: u64 = 22 + 100;

/// How often it is looked at what stands still: only while the mesh forms.
pub(super) const STEP: Duration = Duration::from_millis(100);
/// How long everything may take to form, and stays at rest before it is measured.
pub(super) const FORMING: Duration = Duration::from_secs(120);
pub(super) const SETTLING: Duration = Duration::from_secs(30);
/// How long it is at rest to measure what is said then.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// How long the last write may take after the workload has ended.
const REST: Duration = Duration::from_secs(15);

/// One write of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WriteId(pub(super) u32);

/// A way of spreading writes, for all nodes at once.
pub(super) trait Protocol {
    /// What travels.
    type Message;

    /// All nodes are started.
    fn start(&mut self, net: &mut Net<Self::Message>);
    /// Whether all nodes are ready for the workload.
    fn is_formed(&self) -> bool;
    /// A node writes.
    fn write(&mut self, net: &mut Net<Self::Message>, node: usize, write: WriteId);
    /// Something arrives.
    fn receive(&mut self, net: &mut Net<Self::Message>, node: usize, from: usize, message: Self::Message);
    /// A node asked to be woken.
    fn wake(&mut self, net: &mut Net<Self::Message>, node: usize);
}

/// Who writes how often for how long, and whether nodes fall meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workload {
    writers: usize,
    writes: u32,
    lasts: Duration,
    /// One in so many nodes falls in the middle.
    falls: Option<usize>,
}

impl Workload {
    pub(super) fn one_writer() -> Self {
        Self { writers: 1, writes: 500, lasts: Duration::from_secs(50), falls: None }
    }

    pub(super) fn all_writing(nodes: usize) -> Self {
        let writes = u32::try_from(nodes * 10).unwrap_or(u32::MAX).clamp(200, 3_000);
        Self { writers: nodes, writes, lasts: Duration::from_secs(20), falls: None }
    }

    pub(super) fn while_nodes_fall(nodes: usize) -> Self {
        Self { writes: 200, falls: Some(20), ..Self::all_writing(nodes) }
    }
}

/// What came of a workload.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// From each write until all had it, sorted; those that did not come to an end are not in it.
    pub(crate) to_all: Vec<Duration>,
    /// The writes that somebody who lives never got.
    pub(crate) incomplete: usize,
    /// How often a payload was carried, for each that had to be.
    pub(crate) copies: f64,
    /// Everything said but payloads, over the payloads that had to be carried.
    pub(crate) control: f64,
    /// Bytes said per node and second when nothing happened before it.
    pub(crate) idle: f64,
}

enum Event<M> {
    Arrive { node: usize, from: usize, message: M },
    Wake { node: usize },
    Write { node: usize, write: WriteId },
    Fall { node: usize },
}

/// What a protocol may use.
pub(super) struct Net<M> {
    pub(super) now: Moment,
    pub(super) generator: Generator,
    places: Vec<(f64, f64)>,
    dead: Vec<bool>,
    /// Whether the first half of the nodes and the second do not reach each other.
    pub(super) cut: bool,
    /// When, in which order, and where the event lies.
    queue: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    events: Vec<Option<Event<M>>>,
    free: Vec<usize>,
    next: u64,
    pub(super) counts: Counts,
    writes: BTreeMap<WriteId, Spread>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) payloads: u64,
    pub(super) bytes: u64,
}

impl Counts {
    /// The bytes that are no payload: less than none where keys begin alike, and are not told whole.
    fn control(&self) -> f64 {
        self.bytes as f64 - (self.payloads * PAYLOAD) as f64
    }
}

#[derive(Debug)]
struct Spread {
    at: Moment,
    missing: BTreeSet<usize>,
    complete_at: Option<Moment>,
}

impl<M> Net<M> {
    /// How long something takes from one node to another: they lie on a map that light crosses in 80 ms.
    pub(super) fn delay(&self, one: usize, other: usize) -> Duration {
        let ((x, y), (u, v)) = (self.places[one], self.places[other]);
        Duration::from_millis(1) + Duration::from_secs_f64(0.08 * ((x - u).powi(2) + (y - v).powi(2)).sqrt())
    }

    pub(super) fn nodes(&self) -> usize {
        self.places.len()
    }

    /// A node at random.
    pub(super) fn anybody(&mut self) -> usize {
        random::index(&mut self.generator, self.places.len())
    }

    pub(super) fn is_dead(&self, node: usize) -> bool {
        self.dead[node]
    }

    /// Whether nothing comes from one node to another.
    pub(super) fn is_apart(&self, one: usize, other: usize) -> bool {
        let half = self.places.len() / 2;
        self.cut && (one < half) != (other < half)
    }

    /// A node falls.
    pub(super) fn kill(&mut self, node: usize) {
        self.dead[node] = true;
        let writes: Vec<WriteId> = self.writes.keys().copied().collect();
        writes.into_iter().for_each(|write| self.delivered(node, write));
    }

    /// Sends, and counts: so many payloads, and so many bytes in all.
    pub(super) fn send(&mut self, from: usize, to: usize, message: M, payloads: u64, bytes: u64) {
        self.counts.payloads += payloads;
        self.counts.bytes += bytes;
        let at = self.now + self.delay(from, to);
        self.push(at, Event::Arrive { node: to, from, message });
    }

    /// Sends what is counted elsewhere, or is nobody's affair.
    pub(super) fn send_after(&mut self, from: usize, to: usize, after: Duration, message: M) {
        self.push(self.now + after, Event::Arrive { node: to, from, message });
    }

    pub(super) fn wake_at(&mut self, node: usize, at: Moment) {
        self.push(at.max(self.now), Event::Wake { node });
    }

    /// A node has got a write.
    pub(super) fn delivered(&mut self, node: usize, write: WriteId) {
        let Some(spread) = self.writes.get_mut(&write) else { return };
        if spread.missing.remove(&node) && spread.missing.is_empty() {
            spread.complete_at.get_or_insert(self.now);
        }
    }

    fn push(&mut self, at: Moment, event: Event<M>) {
        self.next += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.queue.push(Reverse((at, self.next, place)));
        self.events[place] = Some(event);
    }
}

/// All nodes with their protocol.
pub(super) struct Arena<P: Protocol> {
    pub(super) protocol: P,
    pub(super) net: Net<P::Message>,
    next_write: u32,
}

impl<P: Protocol> Arena<P> {
    pub(super) fn new(protocol: P, nodes: usize, seed: Seed) -> Self {
        let mut generator = seed.generator("places", &[]);
        let mut coordinate = || random::number(&mut generator, 0, 1_000_000) as f64 / 1e6;
        let places = (0..nodes).map(|_| (coordinate(), coordinate())).collect();
        let net = Net {
            now: Moment(0),
            generator: seed.generator("arena", &[]),
            places,
            dead: vec![false; nodes],
            cut: false,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            next: 0,
            counts: Counts::default(),
            writes: BTreeMap::new(),
        };
        Self { protocol, net, next_write: 0 }
    }

    /// Lets the mesh form, and measures one workload after the other. Says how long forming took.
    pub(super) fn run(mut self, workloads: &[Workload]) -> (Vec<Measured>, Option<Duration>) {
        self.protocol.start(&mut self.net);
        let mut formed_after = None;
        while formed_after.is_none() && self.net.now < Moment(0) + FORMING {
            self.until(self.net.now + STEP);
            formed_after = self.protocol.is_formed().then(|| self.net.now.since(Moment(0)));
        }
        let measured = workloads.iter().map(|workload| self.measure(workload)).collect();
        (measured, formed_after)
    }

    pub(super) fn until(&mut self, end: Moment) {
        while let Some(Reverse((at, _, place))) = self.net.queue.peek().copied() {
            if at > end {
                break;
            }
            self.net.queue.pop();
            self.net.now = self.net.now.max(at);
            if let Some(event) = self.net.events[place].take() {
                self.net.free.push(place);
                self.handle(event);
            }
        }
        self.net.now = end;
    }

    fn handle(&mut self, event: Event<P::Message>) {
        let (protocol, net) = (&mut self.protocol, &mut self.net);
        match event {
            Event::Arrive { node, from, message } if !net.dead[node] && !net.is_apart(from, node) => {
                protocol.receive(net, node, from, message);
            }
            Event::Wake { node } if !net.dead[node] => protocol.wake(net, node),
            Event::Write { node, write } if !net.dead[node] => {
                let missing = (0..net.nodes()).filter(|other| *other != node && !net.dead[*other]).collect();
                net.writes.insert(write, Spread { at: net.now, missing, complete_at: None });
                protocol.write(net, node, write);
            }
            Event::Fall { node } => net.kill(node),
            Event::Arrive { .. } | Event::Wake { .. } | Event::Write { .. } => {}
        }
    }

    fn measure(&mut self, workload: &Workload) -> Measured {
        let net = &mut self.net;
        let settled = net.now + SETTLING;
        self.until(settled);
        let before = self.net.counts;
        self.until(settled + IDLE);
        let said = self.net.counts.bytes - before.bytes;
        let idle = said as f64 / IDLE.as_secs_f64() / self.net.nodes() as f64;
        self.net.writes.clear();
        let before = self.net.counts;
        let (start, end) = (self.net.now, self.net.now + workload.lasts);
        self.plan(workload, start);
        self.until(end + REST);
        let living = self.net.dead.iter().filter(|dead| !**dead).count() as u64;
        let spreads: Vec<&Spread> = self.net.writes.values().collect();
        let mut to_all: Vec<Duration> =
            spreads.iter().filter_map(|spread| Some(spread.complete_at?.since(spread.at))).collect();
        to_all.sort_unstable();
        let least = (spreads.len() as u64 * (living - 1)).max(1) as f64;
        let after = self.net.counts;
        // What would have been said anyway is not said for the writes.
        let anyway = idle * self.net.nodes() as f64 * (workload.lasts + REST).as_secs_f64();
        let control = after.control() - before.control() - anyway;
        Measured {
            incomplete: spreads.len() - to_all.len(),
            to_all,
            copies: (after.payloads - before.payloads) as f64 / least,
            control: control / (least * PAYLOAD as f64),
            idle,
        }
    }

    fn plan(&mut self, workload: &Workload, start: Moment) {
        let net = &mut self.net;
        let nanos = u64::try_from(workload.lasts.as_nanos()).unwrap_or(u64::MAX);
        let writers: Vec<usize> = (0..workload.writers).filter(|node| !net.dead[*node]).collect();
        for number in 0..workload.writes {
            let node = writers[number as usize % writers.len()];
            let at = start + Duration::from_nanos(random::number(&mut net.generator, 0, nanos));
            self.next_write += 1;
            net.push(at, Event::Write { node, write: WriteId(self.next_write) });
        }
        let Some(one_in) = workload.falls else { return };
        // The first node lives: it is the root of the shared tree, and would be the end of it.
        for node in (1..net.nodes()).step_by(one_in) {
            net.push(start + workload.lasts / 3, Event::Fall { node });
        }
    }
}
