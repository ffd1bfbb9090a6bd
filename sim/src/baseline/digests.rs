//! Digests only, as in Scuttlebutt (van Renesse et al., LADIS 2008) and chitchat: each second a node tells some
//! others what it has; they answer with what it lacks and what they have.

use std::collections::BTreeSet;
use std::time::Duration;

use super::arena::{Net, PAYLOAD, Protocol, WriteId};
use super::relays::FRAME;
use crate::random::{self, Seed};

const INTERVAL: Duration = Duration::from_secs(1);
/// With how many nodes at a time.
const PEERS: usize = 3;
/// A digest names every node with its heartbeat and its version, by numbers as short as ours.
const HEAD: u64 = 24;
const ENTRY: u64 = 8;

/// What so many payloads take together, with half a message's frame each: they share one.
fn said(payloads: u64) -> u64 {
    payloads * PAYLOAD + payloads * FRAME / 2
}

/// Nodes that compare.
pub(super) struct Digests {
    seen: Vec<BTreeSet<WriteId>>,
}

/// What travels.
pub(super) enum Message {
    /// What the sender has.
    Syn(BTreeSet<WriteId>),
    /// What the receiver lacks, and what the sender has.
    SynAck(Vec<WriteId>, BTreeSet<WriteId>),
    /// What the receiver lacks.
    Ack(Vec<WriteId>),
}

impl Digests {
    pub(super) fn new(nodes: usize, _: Seed) -> Self {
        Self { seen: vec![BTreeSet::new(); nodes] }
    }

    fn digest(net: &Net<Message>) -> u64 {
        HEAD + ENTRY * net.nodes() as u64
    }

    fn take(&mut self, net: &mut Net<Message>, node: usize, writes: Vec<WriteId>) {
        for write in writes {
            if self.seen[node].insert(write) {
                net.delivered(node, write);
            }
        }
    }

    fn lacking(&self, node: usize, theirs: &BTreeSet<WriteId>) -> Vec<WriteId> {
        self.seen[node].difference(theirs).copied().collect()
    }
}

impl Protocol for Digests {
    type Message = Message;

    fn start(&mut self, net: &mut Net<Message>) {
        for node in 0..net.nodes() {
            let first = random::duration(&mut net.generator, Duration::ZERO, INTERVAL);
            net.wake_at(node, net.now + first);
        }
    }

    fn is_formed(&self) -> bool {
        true
    }

    fn write(&mut self, net: &mut Net<Message>, node: usize, write: WriteId) {
        self.take(net, node, vec![write]);
    }

    fn receive(&mut self, net: &mut Net<Message>, node: usize, from: usize, message: Message) {
        match message {
            Message::Syn(theirs) => {
                let lacking = self.lacking(node, &theirs);
                let (payloads, digest) = (lacking.len() as u64, Self::digest(net));
                let answer = Message::SynAck(lacking, self.seen[node].clone());
                net.send(node, from, answer, payloads, digest + said(payloads));
            }
            Message::SynAck(writes, theirs) => {
                self.take(net, node, writes);
                let lacking = self.lacking(node, &theirs);
                let payloads = lacking.len() as u64;
                net.send(node, from, Message::Ack(lacking), payloads, HEAD + said(payloads));
            }
            Message::Ack(writes) => self.take(net, node, writes),
        }
    }

    fn wake(&mut self, net: &mut Net<Message>, node: usize) {
        for _ in 0..PEERS {
            let other = net.anybody();
            if other != node {
                let digest = Self::digest(net);
                net.send(node, other, Message::Syn(self.seen[node].clone()), 0, digest);
            }
        }
        net.wake_at(node, net.now + INTERVAL);
    }
}
