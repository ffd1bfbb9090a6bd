//! Two to five nodes on virtual time, with links that work or are cut. Everything harsher is the simulator's.

mod overlay;
mod overload;
mod picture;
mod retire;
mod seals;
mod seeds;

use std::time::Duration;

use super::*;
use crate::crdt::Value;
use crate::crdt::seal_tests::Pen;
use crate::gossip::Durability;
use crate::id::Generation;
use crate::replica::{Address, AttributeKey, Path, WriteError};
use crate::time::UnixMillis;
use crate::wire;

const DELAY: Duration = Duration::from_millis(5);

/// What is on its way to a node.
enum Arrival {
    Frame { link: LinkId, from: usize, channel: Option<Channel>, bytes: Vec<u8> },
    Up { link: LinkId, peer: usize, side: Side },
    Down { link: LinkId },
    DialFailed { dial: DialId },
}

struct Node {
    mesh: Mesh,
    events: Vec<Event>,
    /// Frames sent per message kind: hello, context, want, delta, heartbeat, what shapes the overlay, offer, ask,
    /// tell.
    sent: [usize; 9],
    /// Bytes of what was sent and not lost.
    bytes: usize,
    /// How often it called somebody.
    calls: usize,
    frozen: bool,
}

/// A world of nodes; node `n` has the address `n<n>:1` and knows node 0 as its seed.
struct World {
    nodes: Vec<Node>,
    /// Both ends of a link bear the same number here.
    links: BTreeMap<LinkId, (usize, usize)>,
    arrivals: BTreeMap<(Moment, u64), (usize, Arrival)>,
    /// What the sender and the receiver of each channel remember, by link, sender and channel.
    encoders: BTreeMap<(LinkId, usize, Channel), wire::Encoder>,
    decoders: BTreeMap<(LinkId, usize, Channel), wire::Decoder>,
    cut: BTreeSet<(usize, usize)>,
    loses_datagrams: bool,
    /// A node whose transport takes one delta of each peer and then no other.
    clogged: Option<usize>,
    now: Moment,
    next: u64,
    /// Whether new nodes seal what they write.
    seals: bool,
    /// What the nodes are made with, besides their addresses.
    config: Config,
    /// Whether the ways between nodes are of all lengths.
    is_wide: bool,
    /// The nodes behind the seed's address, who answer in turn, and whom some reach there first.
    behind_seed: Vec<usize>,
    first_behind_seed: BTreeMap<usize, usize>,
    /// Who is where, besides at `n<n>:1`. A node that is in such a place says that it is there.
    places: BTreeMap<Address, usize>,
}

impl Node {
    fn new(mesh: Mesh) -> Self {
        Self { mesh, events: Vec::new(), sent: [0; 9], bytes: 0, calls: 0, frozen: false }
    }
}

fn id(node: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(node).unwrap() + 1; 32])
}

fn address(node: usize) -> Address {
    format!("n{node}:1").parse().unwrap()
}

fn key(text: &str) -> AttributeKey {
    text.parse().unwrap()
}

fn value(text: &str) -> Value {
    text.as_bytes().try_into().unwrap()
}

impl World {
    fn new(count: usize) -> Self {
        Self::with(count, Config::default())
    }

    fn with(count: usize, config: Config) -> Self {
        let mut world = Self {
            config,
            seals: false,
            is_wide: false,
            behind_seed: Vec::new(),
            first_behind_seed: BTreeMap::new(),
            places: BTreeMap::new(),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            encoders: BTreeMap::new(),
            decoders: BTreeMap::new(),
            cut: BTreeSet::new(),
            loses_datagrams: false,
            clogged: None,
            now: Moment(0),
            next: 0,
        };
        for node in 0..count {
            let mesh = world.mesh(node, 1, Durability::Memory);
            world.nodes.push(Node::new(mesh));
        }
        world
    }

    fn mesh(&self, node: usize, generation: u64, durability: Durability) -> Mesh {
        let first = if node == 0 { vec![] } else { vec![address(0)] };
        let seeds = if self.config.seeds.is_empty() { first } else { self.config.seeds.clone() };
        let places = self.places.iter().filter(|(_, who)| **who == node).map(|(place, _)| place.clone());
        let addresses = [address(node)].into_iter().chain(places).collect();
        let config = Config { addresses, seeds, durability, ..self.config.clone() };
        let actor = Actor { node: id(node), generation: Generation(generation) };
        let mesh = Mesh::new(config, actor, node as u64, self.time());
        if self.seals { mesh.sealed(Arc::new(Pen::of(actor.node))) } else { mesh }
    }

    fn time(&self) -> Now {
        Now { monotone: self.now, wall: UnixMillis(1_000_000 + self.now.0 / 1_000_000) }
    }

    /// How long something takes from one node to another.
    fn delay(&self, one: usize, other: usize) -> Duration {
        if !self.is_wide {
            return DELAY;
        }
        let pair = [one.min(other), one.max(other)].map(|node| u8::try_from(node).unwrap());
        Duration::from_millis(1 + u64::from(blake3::hash(&pair).as_bytes()[0]) * 60 / 256)
    }

    fn schedule(&mut self, after: Duration, node: usize, arrival: Arrival) {
        self.next += 1;
        self.arrivals.insert((self.now + after, self.next), (node, arrival));
    }

    fn connected(&self, one: usize, other: usize) -> bool {
        !self.cut.contains(&(one.min(other), one.max(other)))
    }

    fn drain(&mut self, node: usize) {
        let now = self.time();
        while let Some(output) = self.nodes[node].mesh.poll_output(now) {
            match output {
                Output::Send { link, channel, message } => {
                    self.send(node, link, Some(channel), &message);
                    let (one, other) = self.links.get(&link).copied().unwrap_or_default();
                    let peer = if one == node { other } else { one };
                    if channel == Channel::Control || self.clogged != Some(peer) {
                        self.nodes[node].mesh.link_writable(now, link, channel);
                    }
                }
                Output::Datagram { .. } if self.loses_datagrams => {}
                Output::Datagram { link, message } => self.send(node, link, None, &message),
                Output::Dial { dial, address, .. } => {
                    self.nodes[node].calls += 1;
                    self.dial(node, dial, &address);
                }
                Output::Close { link, .. } => {
                    if let Some((one, other)) = self.links.remove(&link) {
                        let peer = if one == node { other } else { one };
                        if self.connected(one, other) {
                            self.schedule(self.delay(one, other), peer, Arrival::Down { link });
                        }
                    }
                }
                Output::Persist { ticket, .. } => self.nodes[node].mesh.handle_persisted(now, ticket),
                Output::Event(event) => self.nodes[node].events.push(event),
            }
        }
    }

    fn send(&mut self, node: usize, link: LinkId, channel: Option<Channel>, message: &Message) {
        let kind = match message {
            Message::Hello { .. } => 0,
            Message::Context { .. } => 1,
            Message::Want { .. } => 2,
            Message::Delta(_) => 3,
            Message::Heartbeat { .. } => 4,
            Message::Taken { .. }
            | Message::Neighbour { .. }
            | Message::Prune { .. }
            | Message::Probe { .. } => 5,
            Message::Offer { .. } => 6,
            Message::Ask { .. } => 7,
            Message::Tell { .. } => 8,
        };
        self.nodes[node].sent[kind] += 1;
        let Some(&(one, other)) = self.links.get(&link) else { return };
        if self.connected(one, other) {
            let bytes = match channel {
                Some(channel) => self.encoders.entry((link, node, channel)).or_default().encode(message),
                None => wire::encode(message),
            };
            self.nodes[node].bytes += bytes.len();
            let peer = if one == node { other } else { one };
            self.schedule(self.delay(one, other), peer, Arrival::Frame { link, from: node, channel, bytes });
        }
    }

    fn dial(&mut self, node: usize, dial: DialId, address: &Address) {
        let there = self.places.get(address).copied();
        let mut other =
            there.or_else(|| (0..self.nodes.len()).find(|other| *address == self::address(*other)));
        if !self.behind_seed.is_empty() && self.config.seeds.contains(address) {
            self.behind_seed.rotate_left(1);
            other = self.first_behind_seed.remove(&node).or_else(|| self.behind_seed.first().copied());
        }
        match other.filter(|other| self.connected(node, *other)) {
            Some(other) => {
                self.next += 1;
                let link = LinkId(self.next);
                self.links.insert(link, (node, other));
                let delay = self.delay(node, other);
                self.schedule(2 * delay, node, Arrival::Up { link, peer: other, side: Side::Connect(dial) });
                self.schedule(delay, other, Arrival::Up { link, peer: node, side: Side::Listen });
            }
            None => self.schedule(Duration::from_secs(5), node, Arrival::DialFailed { dial }),
        }
    }

    fn step(&mut self) {
        let timeout = self.nodes.iter().enumerate().filter(|(_, node)| !node.frozen);
        let timeout = timeout.filter_map(|(number, node)| Some((node.mesh.next_timeout()?, number))).min();
        let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
        match (timeout, arrival) {
            (Some((at, node)), arrival) if arrival.is_none_or(|arrival| at < arrival) => {
                self.now = self.now.max(at);
                let now = self.time();
                self.nodes[node].mesh.handle_timeout(now);
                self.drain(node);
            }
            (_, Some(_)) => {
                let ((at, _), (node, arrival)) = self.arrivals.pop_first().unwrap();
                self.now = self.now.max(at);
                let now = self.time();
                let mesh = &mut self.nodes[node].mesh;
                match arrival {
                    Arrival::Frame { link, from, channel, bytes } => {
                        let message = match channel {
                            Some(channel) => {
                                self.decoders.entry((link, from, channel)).or_default().decode(&bytes)
                            }
                            None => wire::decode(&bytes),
                        };
                        mesh.handle_message(now, link, message.expect("what a node sends is legal"));
                    }
                    Arrival::Up { link, peer, side } => mesh.link_up(now, link, id(peer), side),
                    Arrival::Down { link } => mesh.link_down(now, link),
                    Arrival::DialFailed { dial } => mesh.dial_failed(now, dial),
                }
                self.drain(node);
            }
            _ => panic!("nothing will ever happen"),
        }
    }

    /// When the next thing happens.
    fn next_at(&self) -> Option<Moment> {
        let awake = self.nodes.iter().filter(|node| !node.frozen);
        let timeouts = awake.filter_map(|node| node.mesh.next_timeout());
        timeouts.chain(self.arrivals.first_key_value().map(|((at, _), _)| *at)).min()
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until all nodes hold the same, whatever their links are.
    fn agree(&mut self) {
        let start = self.now;
        let digests =
            |world: &Self| world.nodes.iter().map(|node| node.mesh.digest()).collect::<BTreeSet<_>>();
        while digests(self).len() > 1 {
            assert!(self.now.since(start) < Duration::from_secs(60), "the nodes do not agree");
            self.run(Duration::from_millis(20));
        }
    }

    /// Runs until all nodes hold the same, and says how long that took.
    fn converge(&mut self) -> Duration {
        let start = self.now;
        while !self.converged() {
            assert!(self.now.since(start) < Duration::from_secs(60), "the nodes do not converge");
            self.step();
        }
        self.now.since(start)
    }

    fn converged(&self) -> bool {
        let digests: BTreeSet<[u8; 16]> = self.nodes.iter().map(|node| node.mesh.digest()).collect();
        let full = |node: &Node| node.mesh.linked().count() == self.nodes.len() - 1;
        digests.len() == 1 && self.nodes.iter().all(full)
    }

    fn set(&mut self, node: usize, name: &str, text: &str) {
        let now = self.time();
        self.nodes[node].mesh.set(now, &key(name), value(text)).unwrap();
        self.drain(node);
    }

    fn get(&self, node: usize, name: &str) -> Option<Value> {
        self.nodes[node].mesh.replica().attribute(&key(name)).map(|found| found.value)
    }

    fn isolate(&mut self, node: usize, cut: bool) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let pair = (node.min(other), node.max(other));
            if cut {
                self.cut.insert(pair)
            } else {
                self.cut.remove(&pair)
            };
        }
    }

    fn state(&self, of: usize, by: usize) -> Option<MemberState> {
        self.nodes[by].mesh.members().find(|member| member.node == id(of)).map(|member| member.state)
    }
}

#[test]
fn nodes_that_know_one_seed_become_a_full_mesh() {
    let mut world = World::new(5);
    world.converge();
    world.run(Duration::from_secs(10));
    assert!(world.converged());
    assert_eq!(world.links.len(), 10, "one link per pair");
    for by in 0..5 {
        for of in (0..5).filter(|of| *of != by) {
            assert_eq!(world.state(of, by), Some(MemberState::Alive));
        }
    }
}

/// FEATURES S6: 14 bytes stand around the first write that a link has the names for, with the frame's length.
#[test]
fn a_small_write_costs_few_bytes() {
    let mut world = World::new(2);
    world.converge();
    world.set(1, "mesh/x", "0");
    world.run(Duration::from_secs(5));
    let sent = world.nodes[1].bytes;
    world.set(1, "mesh/key-00000001", &"v".repeat(100));
    assert_eq!(world.nodes[1].bytes - sent, "attr/mesh/key-00000001".len() + 100 + 14 - wire::HEADER_LEN);
}

/// FEATURES S6.
#[test]
fn a_write_is_everywhere_after_one_hop() {
    let mut world = World::new(3);
    world.converge();
    world.run(Duration::from_secs(5));
    let start = world.now;
    world.set(1, "mesh/x", "1");
    while (0..3).any(|node| world.get(node, "mesh/x").is_none()) {
        world.step();
    }
    assert_eq!(world.now.since(start), DELAY);
}

#[test]
fn a_quiet_mesh_sends_heartbeats_alone() {
    let mut world = World::new(3);
    world.converge();
    world.run(Duration::from_secs(10));
    let before: Vec<[usize; 9]> = world.nodes.iter().map(|node| node.sent).collect();
    world.run(Duration::from_secs(30));
    for (node, before) in world.nodes.iter().zip(before) {
        // A hello now and then, to whoever looks who answers at the seed.
        assert!(node.sent[0] - before[0] <= 4);
        assert_eq!((&node.sent[1..4], &node.sent[5..]), (&before[1..4], &before[5..]));
        assert!(node.sent[4] - before[4] <= 2 * 34);
    }
}

#[test]
fn both_sides_of_a_cut_go_on_and_agree_when_it_heals() {
    let mut world = World::new(3);
    world.converge();
    world.set(2, "mesh/gone", "1");
    world.converge();
    world.isolate(2, true);
    world.run(Duration::from_secs(12));
    assert_eq!(world.state(2, 0), Some(MemberState::Down));
    assert_eq!(world.state(1, 0), Some(MemberState::Alive));
    world.set(0, "mesh/x", "left");
    world.set(2, "mesh/x", "right");
    let now = world.time();
    world.nodes[1].mesh.unset(now, &key("mesh/gone")).unwrap();
    world.drain(1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.get(1, "mesh/x"), Some(value("left")));
    world.isolate(2, false);
    assert!(world.converge() < Duration::from_secs(15));
    for node in 0..3 {
        assert_eq!(world.get(node, "mesh/x"), Some(value("right")));
        assert_eq!(world.get(node, "mesh/gone"), None);
        let read = world.nodes[node].mesh.replica().attribute(&key("mesh/x")).unwrap();
        assert_eq!(read.siblings, [value("left")]);
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.state(2, 0), Some(MemberState::Alive));
}

#[test]
fn what_a_dead_author_told_one_node_reaches_all() {
    let mut world = World::new(3);
    world.converge();
    // 2 can tell 1, but not 0; then it is gone.
    world.cut.insert((0, 2));
    world.set(2, "mesh/x", "last words");
    world.run(Duration::from_millis(6));
    world.isolate(2, true);
    world.nodes[2].frozen = true;
    assert_eq!((world.get(0, "mesh/x"), world.get(1, "mesh/x")), (None, Some(value("last words"))));
    world.run(Duration::from_secs(8));
    assert_eq!(world.get(0, "mesh/x"), Some(value("last words")));
}

#[test]
fn a_node_without_a_direct_link_is_served_by_another_and_stays_alive() {
    let mut world = World::new(3);
    world.converge();
    world.cut.insert((0, 2));
    world.run(Duration::from_secs(10));
    assert_eq!(world.state(2, 0), Some(MemberState::Alive), "1 leads there");
    world.set(2, "mesh/x", "1");
    world.run(Duration::from_secs(2));
    assert_eq!(world.get(0, "mesh/x"), Some(value("1")));
}

#[test]
fn a_restarted_node_learns_everything_and_its_old_tunnels_are_gone() {
    let mut world = World::new(3);
    world.converge();
    world.set(2, "mesh/x", "1");
    let (name, now) = ("web".parse::<TunnelName>().unwrap(), world.time());
    world.nodes[2].mesh.register(now, &name, TunnelId(1), &Attributes::default()).unwrap();
    world.drain(2);
    world.converge();
    assert_eq!(world.nodes[0].mesh.lookup(&name).len(), 1);
    world.isolate(2, true);
    world.nodes[2].mesh = world.mesh(2, 2, Durability::Memory);
    world.isolate(2, false);
    world.converge();
    assert_eq!(world.get(2, "mesh/x"), Some(value("1")));
    for node in &world.nodes {
        assert!(node.mesh.lookup(&name).is_empty());
    }
}

/// FEATURES B1: the holder's fall hides its tunnels and the one before is found.
#[test]
fn a_tunnel_is_found_by_name_while_its_holder_can_be_reached() {
    let mut world = World::new(3);
    world.converge();
    let name: TunnelName = "web".parse().unwrap();
    for (node, tunnel) in [(1, 1), (2, 2)] {
        let now = world.time();
        world.nodes[node].mesh.register(now, &name, TunnelId(tunnel), &Attributes::default()).unwrap();
        world.drain(node);
        world.run(Duration::from_secs(1));
    }
    let found = |world: &World| {
        world.nodes[0].mesh.lookup(&name).iter().map(|found| found.tunnel.0).collect::<Vec<_>>()
    };
    assert_eq!(found(&world), [2, 1]);
    world.isolate(2, true);
    world.run(Duration::from_secs(12));
    assert_eq!(found(&world), [1]);
    world.isolate(2, false);
    world.converge();
    world.run(Duration::from_secs(1));
    assert_eq!(found(&world), [2, 1]);
}

#[test]
fn whoever_leaves_is_not_called_again() {
    let mut world = World::new(3);
    world.converge();
    let now = world.time();
    world.nodes[2].mesh.leave(now);
    world.drain(2);
    world.run(Duration::from_secs(1));
    world.isolate(2, true);
    world.nodes[2].frozen = true;
    world.run(Duration::from_secs(20));
    assert_eq!(world.state(2, 0), Some(MemberState::Left));
    assert!(world.nodes[0].mesh.dialer_is_idle());
}

impl Mesh {
    fn dialer_is_idle(&self) -> bool {
        self.timers.next_of(Timer::Dial).is_none()
    }
}

#[test]
fn a_write_that_waits_for_the_disk_is_seen_by_nobody() {
    let mut world = World::new(1);
    world.nodes[0].mesh = world.mesh(0, 1, Durability::Disk);
    let now = world.time();
    let mesh = &mut world.nodes[0].mesh;
    let ticket = mesh.set(now, &key("mesh/x"), value("1")).unwrap().unwrap();
    assert!(mesh.replica().attribute(&key("mesh/x")).is_none());
    let mut persisted = Vec::new();
    while let Some(output) = mesh.poll_output(now) {
        if let Output::Persist { ticket, record } = output {
            persisted.push((ticket, record));
        }
    }
    mesh.handle_persisted(now, ticket);
    assert!(mesh.replica().attribute(&key("mesh/x")).is_some());

    let mut reborn = world.mesh(0, 2, Durability::Disk);
    for (_, record) in &persisted {
        reborn.restore(now, record).unwrap();
    }
    assert_eq!(reborn.replica().attribute(&key("mesh/x")).unwrap().value, value("1"));
}

/// FEATURES B6: two nodes that write under one name in one life.
#[test]
fn a_doubled_life_is_found_and_left() {
    let mut world = World::new(2);
    world.converge();
    let (name, now) = ("web".parse::<TunnelName>().unwrap(), world.time());
    world.nodes[1].mesh.register(now, &name, TunnelId(1), &Attributes::default()).unwrap();
    world.drain(1);
    world.converge();
    let mut double = Replica::new(world.nodes[1].mesh.actor(), Duration::ZERO);
    for (name, text) in [("mesh/a", "1"), ("mesh/b", "2")] {
        let prepared = double.set(now.wall, &key(name), value(text)).unwrap().unwrap();
        double.merge(now.wall, &prepared.delta).unwrap();
    }
    let lanes: Vec<_> = double.store().context().lanes().map(|(lane, _)| lane.clone()).collect();
    let delta = double.store().delta(&lanes, &crate::crdt::CausalContext::new(), usize::MAX);
    let link = *world.links.keys().next().unwrap();
    for node in [0, 1] {
        world.nodes[node].mesh.handle_message(now, link, Message::Delta(delta.clone()));
        world.drain(node);
    }
    let alarms = |event: &&Event| matches!(event, Event::Alarm(Alarm::Double { .. }));
    assert_eq!(world.nodes[1].events.iter().filter(alarms).count(), 1);
    assert!(world.nodes[1].mesh.actor().generation > Generation(1));
    world.converge();
    assert_eq!(world.nodes[0].mesh.lookup(&name).len(), 1, "the tunnel was registered again");
    assert_eq!(world.get(0, "mesh/b"), Some(value("2")));
}

/// FEATURES B6: a node whose clock or disk was turned back finds that it has lived later already.
#[test]
fn a_node_that_was_turned_back_outlives_what_is_known_of_it() {
    let mut world = World::new(3);
    world.nodes[2].mesh = world.mesh(2, 9, Durability::Memory);
    world.converge();
    world.isolate(2, true);
    world.nodes[2].mesh = world.mesh(2, 5, Durability::Memory);
    let (name, now) = ("web".parse::<TunnelName>().unwrap(), world.time());
    world.nodes[2].mesh.register(now, &name, TunnelId(1), &Attributes::default()).unwrap();
    world.isolate(2, false);
    world.run(Duration::from_secs(12));
    world.converge();
    assert!(world.nodes[2].mesh.actor().generation > Generation(9));
    for node in &world.nodes {
        assert_eq!(node.mesh.lookup(&name).len(), 1);
    }
    let alarms = |event: &&Event| matches!(event, Event::Alarm(Alarm::Double { .. }));
    assert_eq!(world.nodes[2].events.iter().filter(alarms).count(), 1);
}

/// What was registered in an earlier life is not only hidden but taken back, once it is heard of again.
#[test]
fn a_new_life_takes_back_what_the_old_one_had_registered() {
    let mut world = World::new(2);
    world.converge();
    let (name, now) = ("web".parse::<TunnelName>().unwrap(), world.time());
    world.nodes[1].mesh.register(now, &name, TunnelId(1), &Attributes::default()).unwrap();
    world.drain(1);
    world.converge();
    world.isolate(1, true);
    world.nodes[1].mesh = world.mesh(1, 2, Durability::Memory);
    world.isolate(1, false);
    world.run(Duration::from_secs(12));
    world.converge();
    let key = Path::Registration { name, tunnel: TunnelId(1) }.to_key();
    for node in &world.nodes {
        let register = node.mesh.replica().store().register(&key);
        assert!(register.is_none_or(|register| register.winner().is_none()));
    }
}

#[test]
fn datagrams_that_are_all_lost_cost_no_link() {
    let mut world = World::new(2);
    world.converge();
    world.loses_datagrams = true;
    world.run(Duration::from_secs(60));
    let fell = |node: &Node| node.events.iter().any(|event| matches!(event, Event::LinkDown { .. }));
    assert!(!world.nodes.iter().any(fell));
}

#[test]
fn a_context_of_more_lanes_than_a_frame_holds_is_told_in_pieces() {
    let mut world = World::new(2);
    let now = world.time();
    let accounted: crate::crdt::CausalContext = (1..3_000u64)
        .map(|life| {
            let actor = Actor { node: id(7), generation: Generation(life) };
            (crate::crdt::Lane::new(actor, crate::crdt::Class::Attribute), crate::crdt::RangeSet::up_to(life))
        })
        .collect();
    world.nodes[1].mesh.restore(now, &Record::Delta(Delta { accounted, ..Delta::default() })).unwrap();
    world.converge();
    assert!(world.nodes[1].sent[1] >= 3);
}

#[test]
fn a_damaged_entry_costs_the_link_and_nothing_else() {
    let mut world = World::new(2);
    world.converge();
    world.run(Duration::from_secs(1));
    let mut author = Replica::new(Actor { node: id(7), generation: Generation(1) }, Duration::ZERO);
    let now = world.time();
    let prepared = author.set(now.wall, &key("mesh/a"), value("1")).unwrap().unwrap();
    let mut delta = prepared.delta;
    delta.items[0].entries[0].checksum ^= 1;
    let (link, before) = (*world.links.keys().next().unwrap(), world.nodes[0].mesh.digest());
    world.nodes[0].mesh.handle_message(now, link, Message::Delta(delta));
    assert_eq!(world.nodes[0].mesh.digest(), before);
    world.drain(0);
    let alarm = Event::Alarm(Alarm::Corrupt { peer: id(1) });
    assert!(world.nodes[0].events.contains(&alarm));
    world.converge();
}

#[test]
fn a_node_that_slept_blames_itself() {
    let closed = |steps: &[u64]| {
        let mut world = World::new(2);
        world.converge();
        for milliseconds in steps {
            world.now = world.now + Duration::from_millis(*milliseconds);
            let now = world.time();
            world.nodes[1].mesh.handle_timeout(now);
        }
        world.drain(1);
        world.nodes[1].events.iter().any(|event| matches!(event, Event::LinkDown { .. }))
    };
    assert!(closed(&[500; 20]), "nobody was heard for ten seconds");
    assert!(!closed(&[10_000]), "it did not listen for ten seconds");
}

impl World {
    fn unset(&mut self, node: usize, name: &str) {
        let now = self.time();
        self.nodes[node].mesh.unset(now, &key(name)).unwrap();
        self.drain(node);
    }

    fn removed(&self, node: usize) -> usize {
        self.nodes[node].mesh.replica().store().removed()
    }
}

/// SCENARIOS G-12.
#[test]
fn removals_go_when_all_have_seen_them_and_not_before() {
    let mut world = World::new(3);
    world.converge();
    world.set(0, "mesh/x", "1");
    world.converge();
    world.isolate(2, true);
    world.unset(1, "mesh/x");
    world.run(Duration::from_secs(60));
    assert_eq!((world.removed(0), world.removed(1)), (1, 1), "one is away");
    world.isolate(2, false);
    world.converge();
    world.run(Duration::from_secs(30));
    for node in 0..3 {
        assert_eq!(world.removed(node), 0);
        assert_eq!(world.get(node, "mesh/x"), None);
    }
    assert!(world.nodes.iter().all(|node| node.sent[6..] == [0; 3]), "nobody had to fetch");
}

/// FEATURES B4. SCENARIOS G-12, G-34: longer away than removals are remembered.
#[test]
fn a_node_that_was_away_for_too_long_fetches_and_keeps_nothing_removed() {
    let mut world = World::new(0);
    world.config.collect_after = Duration::from_secs(20);
    for node in 0..3 {
        let mesh = world.mesh(node, 1, Durability::Memory);
        world.nodes.push(Node::new(mesh));
    }
    world.converge();
    for number in 0..100 {
        world.set(0, &format!("mesh/key-{number}"), "1");
    }
    world.converge();
    world.isolate(2, true);
    for number in 0..50 {
        world.unset(1, &format!("mesh/key-{number}"));
    }
    world.set(2, "mesh/key-0", "written while away");
    world.run(Duration::from_secs(60));
    assert_eq!((world.removed(0), world.removed(1)), (0, 0));
    world.isolate(2, false);
    world.converge();
    for node in 0..3 {
        assert_eq!(world.get(node, "mesh/key-0"), Some(value("written while away")));
        assert_eq!(world.get(node, "mesh/key-1"), None);
        assert_eq!(world.nodes[node].mesh.replica().attributes("").count(), 51);
    }
    assert!(world.nodes[2].sent[7] > 0, "it fetched");
    let before: Vec<[usize; 9]> = world.nodes.iter().map(|node| node.sent).collect();
    world.run(Duration::from_secs(40));
    let quiet = world.nodes.iter().zip(before).all(|(node, before)| node.sent[6..] == before[6..]);
    assert!(quiet, "once is enough");
}

/// A newcomer is served by whoever has collected, one after another, and by few at once.
#[test]
fn newcomers_fetch_what_was_collected_around() {
    let mut world = World::new(2);
    world.converge();
    for number in 0..30 {
        world.set(0, &format!("mesh/key-{number}"), "1");
        world.unset(1, &format!("mesh/key-{}", number / 2));
    }
    world.converge();
    world.run(Duration::from_secs(30));
    assert_eq!((world.removed(0), world.removed(1)), (0, 0));
    for node in 2..7 {
        let mesh = world.mesh(node, 1, Durability::Memory);
        world.nodes.push(Node::new(mesh));
    }
    world.converge();
    let expected = world.nodes[0].mesh.replica().attributes("").count();
    for node in &world.nodes {
        assert_eq!(node.mesh.replica().attributes("").count(), expected);
    }
}

/// A newcomer that fetched from one of those who had offered it gets what the others write afterwards at once: they know that
/// they need not wait for it any more.
#[test]
fn what_was_fetched_elsewhere_is_not_waited_for() {
    for count in 2..6 {
        let mut world = World::new(count);
        world.converge();
        for node in 0..count {
            world.set(node, &format!("mesh/key-{node}"), "1");
            world.unset(node, &format!("mesh/key-{node}"));
        }
        world.converge();
        world.run(Duration::from_secs(30));
        // It calls all of them at once.
        world.config.seeds = (0..count).map(address).collect();
        let mesh = world.mesh(count, 1, Durability::Memory);
        world.nodes.push(Node::new(mesh));
        world.converge();
        let offered: usize = (0..count).map(|node| world.nodes[node].sent[6]).sum();
        assert!(offered >= count, "everybody offers it what they have written");
        for node in 0..count {
            world.set(node, "mesh/next", &format!("of {node}"));
            world.run(Duration::from_millis(100));
            assert_eq!(
                world.get(count, "mesh/next"),
                Some(value(&format!("of {node}"))),
                "{node} of {count}"
            );
        }
    }
}

/// SCENARIOS G-30: merging goes on whatever the clock shows; only writing is refused.
#[test]
fn a_node_whose_clock_is_wrong_refuses_to_write_until_it_is_right() {
    let mut world = World::new(3);
    world.converge();
    let right = world.time();
    let wrong = Now { wall: UnixMillis(right.wall.0 + 3_600_000), ..right };
    let mesh = &mut world.nodes[1].mesh;
    assert_eq!(mesh.clock_error(right), None);
    let refused = mesh.set(wrong, &key("mesh/x"), value("1"));
    assert!(
        matches!(refused, Err(WriteError::ClockOff { ahead }) if (3_590_000..=3_600_100).contains(&ahead))
    );
    let name = "web".parse().unwrap();
    assert!(
        mesh.register(wrong, &name, TunnelId(1), &Attributes::default()).is_ok(),
        "what it holds, it holds"
    );
    assert!(mesh.set(right, &key("mesh/x"), value("1")).is_ok());
    assert_eq!(mesh.clocks(right).count(), 2);
}

/// A write may have seen what this node wrote in an earlier life and has lost: there is nothing of it to be told.
#[test]
fn an_own_lane_that_was_only_observed_is_not_told_for_ever() {
    let mut world = World::new(2);
    world.converge();
    world.run(Duration::from_secs(1));
    let now = world.time();
    let mut lost = Replica::new(Actor { node: id(0), generation: Generation(0) }, Duration::ZERO);
    let first = lost.set(now.wall, &key("mesh/a"), value("1")).unwrap().unwrap();
    let mut author = Replica::new(Actor { node: id(7), generation: Generation(1) }, Duration::ZERO);
    author.merge(now.wall, &first.delta).unwrap();
    let second = author.set(now.wall, &key("mesh/a"), value("2")).unwrap().unwrap();
    let link = *world.links.keys().next().unwrap();
    let before = world.nodes[0].sent[3];
    world.nodes[0].mesh.handle_message(now, link, Message::Delta(second.delta));
    world.drain(0);
    assert_eq!(world.nodes[0].sent[3], before, "it has written nothing");
}
