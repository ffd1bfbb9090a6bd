//! The way between nodes: latencies, loss, cuts, and what is counted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use snomesh::time::Moment;

/// A kind of failure detector: all its nodes.
pub trait Detector: Sized {
    /// What it is called.
    const NAME: &'static str;
    /// What travels, and what a node reminds itself of.
    type Message;

    fn new(nodes: usize, seed: u64) -> Self;
    /// A node starts, knowing the first one.
    fn start(&mut self, net: &mut Net<Self::Message>, node: usize);
    /// Something arrives.
    fn receive(&mut self, net: &mut Net<Self::Message>, node: usize, from: usize, message: Self::Message);
    /// Whether a node holds each of the others for up; nothing for whom it does not know.
    fn verdicts(&self, node: usize) -> Vec<Option<bool>>;
}

/// What a detector may use.
pub struct Net<M> {
    pub now: Moment,
    pub generator: Xoshiro256PlusPlus,
    /// Bytes that were said, without the transport's share.
    pub bytes: u64,
    /// How many packets of a thousand are lost.
    pub lost_per_mille: u32,
    pub dead: Vec<bool>,
    /// Whether nothing passes between two nodes.
    cut: Vec<Vec<bool>>,
    places: Vec<(f64, f64)>,
    queue: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    events: Vec<Option<Arrival<M>>>,
    free: Vec<usize>,
    next: u64,
}

struct Arrival<M> {
    node: usize,
    from: usize,
    message: M,
}

impl<M> Net<M> {
    pub fn new(nodes: usize, seed: u64) -> Self {
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        let places = (0..nodes).map(|_| (generator.random(), generator.random())).collect();
        Self {
            now: Moment(0),
            generator,
            bytes: 0,
            lost_per_mille: 0,
            dead: vec![false; nodes],
            cut: vec![vec![false; nodes]; nodes],
            places,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            next: 0,
        }
    }

    /// How long a packet takes: the nodes lie on a map that light crosses in 80 ms.
    pub fn delay(&self, one: usize, other: usize) -> Duration {
        let ((x, y), (u, v)) = (self.places[one], self.places[other]);
        let (across, down): (f64, f64) = (x - u, y - v);
        Duration::from_millis(1) + Duration::from_secs_f64(0.08 * (across * across + down * down).sqrt())
    }

    pub fn set_cut(&mut self, one: usize, other: usize, is_cut: bool) {
        self.cut[one][other] = is_cut;
        self.cut[other][one] = is_cut;
    }

    pub fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cut[one][other]
    }

    /// Whether the next packet is lost.
    pub fn loses(&mut self) -> bool {
        self.lost_per_mille > 0 && self.generator.random_range(0..1_000) < self.lost_per_mille
    }

    /// A packet, which may be lost.
    pub fn send(&mut self, from: usize, to: usize, bytes: usize, message: M) {
        self.bytes += bytes as u64;
        if !self.is_cut(from, to) && !self.loses() {
            self.at(self.now + self.delay(from, to), to, from, message);
        }
    }

    /// Something comes to a node at a time, whatever the network does.
    pub fn at(&mut self, at: Moment, node: usize, from: usize, message: M) {
        self.next += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(Arrival { node, from, message });
        self.queue.push(Reverse((at.max(self.now), self.next, place)));
    }
}

/// Lets everything happen up to a time.
pub fn run_until<D: Detector>(detector: &mut D, net: &mut Net<D::Message>, end: Moment) {
    while let Some(&Reverse((at, _, place))) = net.queue.peek() {
        if at > end {
            break;
        }
        net.queue.pop();
        net.now = at;
        net.free.push(place);
        let Some(Arrival { node, from, message }) = net.events[place].take() else { continue };
        if !net.dead[node] {
            detector.receive(net, node, from, message);
        }
    }
    net.now = end;
}
