//! Those that pass on whatever is new: by flooding a graph, to some at random, or along one tree.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::arena::{Net, PAYLOAD, Protocol, WriteId};
use crate::random::{self, Generator, Seed};

/// What a frame with one write needs besides its payload: as much as ours did when it had no short form.
pub(super) const FRAME: u64 = 25;

/// To how many at random a write is passed on.
const FAN_OUT: usize = 5;
/// How often somebody is asked for what was missed, and the bytes of a question per author that wrote.
const PULL_INTERVAL: Duration = Duration::from_secs(1);
const PULL_HEAD: u64 = 24;
const PULL_ENTRY: u64 = 6;

/// How a node chooses to whom it passes on.
enum Choice {
    Neighbours(Vec<Vec<usize>>),
    Random(usize),
}

/// Nodes that pass on what is new.
pub(super) struct Relays {
    choice: Choice,
    seen: Vec<BTreeSet<WriteId>>,
    /// Who wrote: what a digest would name.
    authors: BTreeSet<usize>,
}

/// What travels.
pub(super) enum Message {
    Write(WriteId),
    Have(BTreeSet<WriteId>),
}

impl Relays {
    pub(super) fn flood(nodes: usize, seed: Seed) -> Self {
        Self::new(nodes, Choice::Neighbours(graph(nodes, &mut seed.generator("graph", &[]))))
    }

    pub(super) fn fan_out(nodes: usize, _: Seed) -> Self {
        Self::new(nodes, Choice::Random(FAN_OUT.min(nodes - 1)))
    }

    /// The tree of shortest ways from the first node over the same graph that is flooded.
    pub(super) fn tree(nodes: usize, seed: Seed) -> Self {
        let graph = graph(nodes, &mut seed.generator("graph", &[]));
        let mut tree = vec![Vec::new(); nodes];
        let (mut reached, mut edge) = (BTreeSet::from([0]), VecDeque::from([0]));
        while let Some(node) = edge.pop_front() {
            for &other in &graph[node] {
                if reached.insert(other) {
                    tree[node].push(other);
                    tree[other].push(node);
                    edge.push_back(other);
                }
            }
        }
        Self::new(nodes, Choice::Neighbours(tree))
    }

    fn new(nodes: usize, choice: Choice) -> Self {
        Self { choice, seen: vec![BTreeSet::new(); nodes], authors: BTreeSet::new() }
    }

    fn take(&mut self, net: &mut Net<Message>, node: usize, from: Option<usize>, write: WriteId) {
        if !self.seen[node].insert(write) {
            return;
        }
        net.delivered(node, write);
        let to = match &self.choice {
            Choice::Neighbours(graph) => graph[node].clone(),
            Choice::Random(count) => {
                let mut to = BTreeSet::new();
                while to.len() < *count {
                    let other = net.anybody();
                    if other != node {
                        to.insert(other);
                    }
                }
                to.into_iter().collect()
            }
        };
        for other in to.into_iter().filter(|other| Some(*other) != from) {
            net.send(node, other, Message::Write(write), 1, PAYLOAD + FRAME);
        }
    }
}

/// A ring of two neighbours on each side, and three more for each at random: as many links as the mesh has.
fn graph(nodes: usize, generator: &mut Generator) -> Vec<Vec<usize>> {
    let mut graph = vec![BTreeSet::new(); nodes];
    for node in 0..nodes {
        let ring = [1, 2].map(|step| (node + step) % nodes);
        let chance = [(); 3].map(|()| random::index(generator, nodes));
        for other in ring.into_iter().chain(chance).filter(|other| *other != node) {
            graph[node].insert(other);
            graph[other].insert(node);
        }
    }
    graph.into_iter().map(|neighbours| neighbours.into_iter().collect()).collect()
}

impl Protocol for Relays {
    type Message = Message;

    fn start(&mut self, net: &mut Net<Message>) {
        if matches!(self.choice, Choice::Random(_)) {
            for node in 0..net.nodes() {
                let first = random::duration(&mut net.generator, Duration::ZERO, PULL_INTERVAL);
                net.wake_at(node, net.now + first);
            }
        }
    }

    fn is_formed(&self) -> bool {
        true
    }

    fn write(&mut self, net: &mut Net<Message>, node: usize, write: WriteId) {
        self.authors.insert(node);
        self.take(net, node, None, write);
    }

    fn receive(&mut self, net: &mut Net<Message>, node: usize, from: usize, message: Message) {
        match message {
            Message::Write(write) => self.take(net, node, Some(from), write),
            Message::Have(theirs) => {
                let missing: Vec<WriteId> = self.seen[node].difference(&theirs).copied().collect();
                for write in missing {
                    net.send(node, from, Message::Write(write), 1, PAYLOAD + FRAME);
                }
            }
        }
    }

    fn wake(&mut self, net: &mut Net<Message>, node: usize) {
        let other = net.anybody();
        if other != node {
            let digest = PULL_HEAD + PULL_ENTRY * self.authors.len() as u64;
            net.send(node, other, Message::Have(self.seen[node].clone()), 0, digest);
        }
        net.wake_at(node, net.now + PULL_INTERVAL);
    }
}
