//! The production core in the arena: every frame is encoded to be counted, and handed over as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use snomesh::crdt::{Delta, Lane, Revision, Value};
use snomesh::gossip::{
    Channel, Config, DialId, LinkId, MemberState, Mesh as Core, Message as Said, Output, Side,
};
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::replica::AttributeKey;
use snomesh::time::{Moment, Now, UnixMillis};
use snomesh::wire;

use super::arena::{Net, Protocol, WriteId};
use crate::random::{self, Seed};

/// Nodes start within this time.
const STARTS: Duration = Duration::from_secs(5);
/// How long a call to somebody who is not there takes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many keys each node writes in turn.
const KEYS: u32 = 10;

/// All nodes.
pub(super) struct Mesh {
    nodes: Vec<Node>,
    places: BTreeMap<NodeId, usize>,
    /// Where each link leads: the peer, and the peer's name for it.
    links: BTreeMap<LinkId, (usize, LinkId)>,
    encoders: BTreeMap<(LinkId, Channel), wire::Encoder>,
    next_link: u64,
    /// The writes under way, by lane and counter.
    writes: BTreeMap<Lane, BTreeMap<u64, WriteId>>,
    written: u32,
}

struct Node {
    id: NodeId,
    core: Option<Core>,
    wakes_at: Option<Moment>,
    revision: Revision,
    seed: u64,
}

/// What arrives at a node.
pub(super) enum Message {
    Up { link: LinkId, side: Side },
    Down { link: LinkId },
    DialFailed { dial: DialId },
    Said { link: LinkId, said: Said },
}

impl Mesh {
    pub(super) fn new(nodes: usize, seed: Seed) -> Self {
        let node = |number: usize| {
            let mut generator = seed.generator("core", &[number as u64]);
            let mut bytes = [0; 32];
            rand::Rng::fill_bytes(&mut generator, &mut bytes);
            let seed = random::number(&mut generator, 0, u64::MAX);
            Node {
                id: NodeId::from_bytes(bytes),
                core: None,
                wakes_at: None,
                revision: Revision::default(),
                seed,
            }
        };
        let nodes: Vec<Node> = (0..nodes).map(node).collect();
        let places = nodes.iter().enumerate().map(|(place, node)| (node.id, place)).collect();
        Self {
            nodes,
            places,
            links: BTreeMap::new(),
            encoders: BTreeMap::new(),
            next_link: 0,
            writes: BTreeMap::new(),
            written: 0,
        }
    }

    fn start_node(&mut self, node: usize, now: Moment) {
        let address = |number: usize| format!("n{number}.sim:1").parse().expect("a legal address");
        let config = Config {
            addresses: vec![address(node)],
            seeds: if node == 0 { vec![] } else { vec![address(0)] },
            ..Config::default()
        };
        let actor = Actor { node: self.nodes[node].id, generation: Generation(1 << 50) };
        self.nodes[node].core = Some(Core::new(config, actor, self.nodes[node].seed, time(now)));
    }

    /// Gives a node an input, and carries out what follows.
    fn feed(&mut self, net: &mut Net<Message>, node: usize, input: impl FnOnce(&mut Core, Now)) {
        let now = time(net.now);
        let Some(core) = &mut self.nodes[node].core else { return };
        input(core, now);
        while let Some(output) = self.nodes[node].core.as_mut().and_then(|core| core.poll_output(now)) {
            self.carry_out(net, node, output);
        }
        self.note_deliveries(net, node);
        let node_state = &mut self.nodes[node];
        let next = node_state.core.as_ref().and_then(Core::next_timeout);
        if let Some(at) = next
            && node_state.wakes_at.is_none_or(|wakes_at| at < wakes_at)
        {
            node_state.wakes_at = Some(at);
            net.wake_at(node, at);
        }
    }

    fn carry_out(&mut self, net: &mut Net<Message>, node: usize, output: Output) {
        match output {
            Output::Send { link, channel, message } => {
                let bytes = self.encoders.entry((link, channel)).or_default().encode(&message);
                let header = wire::header(bytes.len()).map_or(0, |header| header.len());
                self.deliver(net, node, link, message, bytes.len() + header);
                if let Some(core) = &mut self.nodes[node].core {
                    core.link_writable(time(net.now), link, channel);
                }
            }
            Output::Datagram { link, message } => {
                let len = wire::encode(&message).len();
                self.deliver(net, node, link, message, len);
            }
            Output::Dial { dial, address, .. } => self.dial(net, node, dial, address.as_str()),
            Output::Close { link, .. } => {
                if let Some((peer, there)) = self.forget(link) {
                    net.send_after(node, peer, net.delay(node, peer), Message::Down { link: there });
                }
            }
            Output::Persist { .. } | Output::Event(_) => {}
        }
    }

    fn deliver(&mut self, net: &mut Net<Message>, node: usize, link: LinkId, said: Said, len: usize) {
        let Some(&(peer, there)) = self.links.get(&link) else { return };
        let payloads = if let Said::Delta(delta) = &said { payloads(delta) } else { 0 };
        net.send(node, peer, Message::Said { link: there, said }, payloads, len as u64);
    }

    fn dial(&mut self, net: &mut Net<Message>, node: usize, dial: DialId, address: &str) {
        let number = address.strip_prefix('n').and_then(|rest| rest.split('.').next()?.parse().ok());
        let there =
            |peer: &usize| *peer < self.nodes.len() && !net.is_dead(*peer) && !net.is_apart(node, *peer);
        let peer = number.filter(there);
        match peer.filter(|peer| self.nodes[*peer].core.is_some()) {
            Some(peer) => {
                let (here, there) = (LinkId(self.next_link), LinkId(self.next_link + 1));
                self.next_link += 2;
                self.links.insert(here, (peer, there));
                self.links.insert(there, (node, here));
                let delay = net.delay(node, peer);
                net.send_after(peer, node, delay * 2, Message::Up { link: here, side: Side::Connect(dial) });
                net.send_after(node, peer, delay * 3, Message::Up { link: there, side: Side::Listen });
            }
            None => net.send_after(node, node, DIAL_TIMEOUT, Message::DialFailed { dial }),
        }
    }

    fn forget(&mut self, link: LinkId) -> Option<(usize, LinkId)> {
        self.encoders.remove(&(link, Channel::Control));
        self.encoders.remove(&(link, Channel::Delta));
        self.links.remove(&link)
    }

    /// Tells the arena which of the writes under way a node has got.
    fn note_deliveries(&mut self, net: &mut Net<Message>, node: usize) {
        let Node { core: Some(core), revision, .. } = &mut self.nodes[node] else { return };
        let store = core.replica().store();
        for lane in store.lanes_since(*revision) {
            let (Some(writes), Some(seen)) = (self.writes.get(lane), store.seen_of(lane)) else { continue };
            for (counter, write) in writes.iter().rev().take(200) {
                if seen.contains(*counter) {
                    net.delivered(node, *write);
                }
            }
        }
        *revision = store.revision();
    }
}

/// What is looked at from outside.
impl Mesh {
    fn living<'a>(&'a self, net: &'a Net<Message>) -> impl Iterator<Item = &'a Core> {
        let cores = self.nodes.iter().enumerate().filter(|(node, _)| !net.is_dead(*node));
        cores.filter_map(|(_, node)| node.core.as_ref())
    }

    /// Whether all who live have the same state.
    pub(super) fn agrees(&self, net: &Net<Message>) -> bool {
        let mut digests = self.living(net).map(Core::digest);
        let first = digests.next();
        digests.all(|digest| Some(digest) == first)
    }

    /// Whether all who live have what each node says of itself and every key of this workload.
    pub(super) fn has_all(&self, net: &Net<Message>) -> bool {
        self.living(net).all(|core| core.replica().store().len() >= self.nodes.len() + self.written as usize)
    }

    /// Whether all who live think so of a node, or worse.
    pub(super) fn all_think(&self, net: &Net<Message>, of: usize, state: MemberState) -> bool {
        let id = self.nodes[of].id;
        self.living(net).all(|core| {
            core.members().find(|member| member.node == id).is_none_or(|member| member.state >= state)
        })
    }

    /// Whether everybody who lives is there for everybody who does.
    pub(super) fn are_all_there(&self, net: &Net<Message>) -> bool {
        let dead = |id: &NodeId| self.places.get(id).is_none_or(|place| net.is_dead(*place));
        self.living(net)
            .all(|core| core.members().all(|member| member.state == MemberState::Alive || dead(&member.node)))
    }

    /// A node writes a key that nobody has written, and nobody counts when it is where.
    pub(super) fn put(&mut self, net: &mut Net<Message>, node: usize) {
        self.written += 1;
        let key: AttributeKey = format!("mesh/{node:05}.{:06}", self.written).parse().expect("a legal key");
        let value = Value::try_from(format!("{:0100}", self.written).as_bytes()).expect("a short value");
        self.feed(net, node, |core, now| {
            core.set(now, &key, value).expect("writing is possible");
        });
    }
}

/// How many of the workload's payloads a delta carries.
fn payloads(delta: &Delta) -> u64 {
    let attributes = delta.items.iter().filter(|item| item.key.as_str().starts_with("attr/"));
    attributes.map(|item| item.entries.iter().filter(|entry| entry.value.is_some()).count() as u64).sum()
}

fn time(now: Moment) -> Now {
    Now { monotone: now, wall: UnixMillis(1_700_000_000_000 + now.0 / 1_000_000) }
}

impl Protocol for Mesh {
    type Message = Message;

    fn start(&mut self, net: &mut Net<Message>) {
        for node in 0..self.nodes.len() {
            let at = if node == 0 {
                Duration::ZERO
            } else {
                random::duration(&mut net.generator, Duration::ZERO, STARTS)
            };
            net.wake_at(node, net.now + at);
        }
    }

    /// All have the same state, and nobody is out of reach for anybody.
    fn is_formed(&self) -> bool {
        let cores: Vec<&Core> = self.nodes.iter().filter_map(|node| node.core.as_ref()).collect();
        let all = self.nodes.len();
        if cores.len() < all || cores.iter().any(|core| core.replica().store().len() < all) {
            return false;
        }
        let first = cores[0].digest();
        cores.iter().all(|core| core.digest() == first)
    }

    fn write(&mut self, net: &mut Net<Message>, node: usize, write: WriteId) {
        self.written += 1;
        // 22 and 100 bytes.
        let key: AttributeKey =
            format!("mesh/{node:06}.{:05}", self.written % KEYS).parse().expect("a legal key");
        let value = Value::try_from(format!("{:0100}", self.written).as_bytes()).expect("a short value");
        let Some(core) = &mut self.nodes[node].core else { return };
        let lane = core.replica().own_lanes()[1].clone();
        let last = core.replica().store().seen_of(&lane).and_then(snomesh::crdt::RangeSet::last).unwrap_or(0);
        self.writes.entry(lane).or_default().insert(last + 1, write);
        self.feed(net, node, |core, now| {
            core.set(now, &key, value).expect("writing is possible");
        });
    }

    fn receive(&mut self, net: &mut Net<Message>, node: usize, from: usize, message: Message) {
        let peer = self.nodes[from].id;
        match message {
            Message::Up { link, side } => {
                if self.links.contains_key(&link) {
                    let peer = self.links.get(&link).map_or(peer, |(peer, _)| self.nodes[*peer].id);
                    self.feed(net, node, |core, now| core.link_up(now, link, peer, side));
                }
            }
            Message::Down { link } => {
                self.forget(link);
                self.feed(net, node, |core, now| core.link_down(now, link));
            }
            Message::DialFailed { dial } => self.feed(net, node, |core, now| core.dial_failed(now, dial)),
            Message::Said { link, said } => {
                self.feed(net, node, |core, now| core.handle_message(now, link, said));
            }
        }
        debug_assert!(self.places.contains_key(&peer), "links lead to nodes");
    }

    fn wake(&mut self, net: &mut Net<Message>, node: usize) {
        if self.nodes[node].core.is_none() {
            self.start_node(node, net.now);
        } else if self.nodes[node].wakes_at != Some(net.now) {
            // It asked to be woken earlier meanwhile.
            return;
        }
        self.nodes[node].wakes_at = None;
        self.feed(net, node, |core, now| {
            if core.next_timeout().is_some_and(|at| at <= now.monotone) {
                core.handle_timeout(now);
            }
        });
    }
}
