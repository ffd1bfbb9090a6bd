//! Meshes in which every entry bears a seal of its author, and relays that would rather they did not.

use std::sync::Arc;

use super::*;
use crate::crdt::{CausalContext, Class, Entry, Item, Lane, Observed, RangeSet, Seal};
use crate::gossip::{Ask, Outcome, Tell};

fn sealed(count: usize, config: Config) -> World {
    let mut world = World::with(0, config);
    world.seals = true;
    for node in 0..count {
        let mesh = world.mesh(node, 1, Durability::Memory);
        world.nodes.push(Node::new(mesh));
    }
    world
}

fn lane(node: usize) -> Lane {
    Lane::new(Actor { node: id(node), generation: Generation(1) }, Class::Attribute)
}

impl World {
    /// The link between two nodes.
    fn link(&self, one: usize, other: usize) -> LinkId {
        let is_it = |pair: &(usize, usize)| [(one, other), (other, one)].contains(pair);
        *self.links.iter().find(|(_, pair)| is_it(pair)).expect("they are linked").0
    }

    /// All that one node has of another's attributes.
    fn delta_of(&mut self, at: usize, of: usize) -> Delta {
        self.nodes[at].mesh.replica.seal();
        self.nodes[at].mesh.replica.store().delta([&lane(of)], &CausalContext::new(), usize::MAX)
    }

    fn receive(&mut self, node: usize, from: usize, message: Message) {
        let (now, link) = (self.time(), self.link(node, from));
        self.nodes[node].mesh.handle_message(now, link, message);
        self.drain(node);
    }

    fn has_alarm(&self, node: usize, alarm: Alarm) -> bool {
        self.nodes[node].events.contains(&Event::Alarm(alarm))
    }
}

/// What a relay makes of an entry: another value, and the checksum that belongs to it.
fn forged(mut delta: Delta) -> Delta {
    let Item { key, entries } = &mut delta.items[0];
    let Entry { dot, observed, stamp, .. } = entries[0].clone();
    entries[0] = Entry::new(key, dot, observed, stamp, Some(value("forged")));
    delta
}

/// FEATURES B7.
#[test]
fn nodes_that_seal_what_they_write_agree_as_others_do() {
    let mut world = sealed(4, Config::default());
    world.converge();
    for number in 0..100 {
        world.set(number % 4, &format!("mesh/key-{}", number % 30), &number.to_string());
    }
    world.converge();
    world.isolate(3, true);
    world.set(3, "mesh/x", "apart");
    world.unset(1, "mesh/key-7");
    world.run(Duration::from_secs(12));
    world.nodes[2].mesh = world.mesh(2, 2, Durability::Memory);
    world.isolate(3, false);
    world.run(Duration::from_secs(12));
    world.converge();
    for node in 0..4 {
        assert_eq!(world.get(node, "mesh/x"), Some(value("apart")));
        assert_eq!(world.get(node, "mesh/key-7"), None);
        assert_eq!(world.nodes[node].mesh.replica().store().restored(), 0);
        let told =
            |event: &Event| matches!(event, Event::Alarm(Alarm::Forged { .. } | Alarm::Corrupt { .. }));
        assert!(!world.nodes[node].events.iter().any(told), "nobody is suspected");
    }
    world.run(Duration::from_secs(60));
    assert!(world.removed(0) > 0, "what shows that something died is kept");
    assert!(world.nodes.iter().all(|node| node.sent[6..] == [0; 3]), "nobody had to fetch");
}

/// FEATURES B7: along trees every entry but an author's own comes from a relay.
#[test]
fn seals_travel_along_trees() {
    let mut world = sealed(16, Config { full_mesh: 6, ..Config::default() });
    world.run(Duration::from_secs(30));
    world.agree();
    for number in 0..60 {
        world.set(number % 16, &format!("mesh/key-{}", number % 20), &number.to_string());
        world.run(Duration::from_millis(20));
    }
    world.agree();
    assert!(world.nodes.iter().all(|node| node.mesh.linked().count() < 15), "not all are linked");
    for node in &world.nodes {
        assert!(!node.events.iter().any(|event| matches!(event, Event::Alarm(_))));
        assert_eq!(node.mesh.replica().store().restored(), 0);
    }
}

/// FEATURES B7.
#[test]
fn a_relay_that_forges_is_refused_and_loses_its_link() {
    let mut world = sealed(3, Config::default());
    world.converge();
    world.set(0, "mesh/x", "1");
    world.converge();
    world.cut.insert((0, 2));
    world.set(0, "mesh/x", "2");
    world.run(Duration::from_millis(6));
    let before = world.nodes[2].mesh.digest();
    let delta = forged(world.delta_of(1, 0));
    world.receive(2, 1, Message::Delta(delta));
    assert!(world.has_alarm(2, Alarm::Forged { peer: id(1) }));
    assert_eq!(world.nodes[2].mesh.digest(), before);
    assert!(!world.nodes[2].mesh.linked().any(|peer| peer == id(1)));
    world.cut.clear();
    world.converge();
    assert_eq!(world.get(2, "mesh/x"), Some(value("2")));
}

/// A node takes a later life when another is found that bears its name: nobody else can make it look so.
#[test]
fn a_relay_makes_nobody_take_another_life() {
    let mut world = sealed(2, Config::default());
    world.converge();
    world.set(0, "mesh/x", "1");
    world.converge();
    let before = world.nodes[0].mesh.actor();
    let accounted = CausalContext::from_iter([
        (lane(0), RangeSet::up_to(1_000)),
        (Lane::new(Actor { node: id(0), generation: Generation(900) }, Class::Registry), RangeSet::up_to(1)),
    ]);
    world.receive(0, 1, Message::Delta(Delta { accounted, ..Delta::default() }));
    world.run(Duration::from_secs(15));
    assert_eq!(world.nodes[0].mesh.actor(), before, "what is accounted for is hearsay");
    let key = Path::Attribute(key("mesh/y")).to_key();
    let entry = Entry::new(&key, lane(0).dot(50), Observed::default(), Timestamp(1), Some(value("forged")));
    let items = vec![Item { key, entries: [entry].into_iter().collect() }];
    world.receive(0, 1, Message::Delta(Delta { items, ..Delta::default() }));
    assert!(world.has_alarm(0, Alarm::Forged { peer: id(1) }));
    assert_eq!(world.nodes[0].mesh.actor(), before, "and so is an entry without a seal");
    world.set(0, "mesh/x", "2");
    world.converge();
    assert_eq!(world.get(1, "mesh/x"), Some(value("2")));
}

/// FEATURES B7: another node that bears the name and has the key is found as ever.
#[test]
fn a_double_that_seals_is_outlived() {
    let mut world = sealed(2, Config::default());
    world.converge();
    let mut double = world.mesh(0, 1, Durability::Memory);
    let now = world.time();
    for number in 0..20 {
        double.set(now, &key(&format!("mesh/double-{number}")), value("1")).unwrap();
    }
    double.replica.seal();
    let delta = double.replica.store().delta([&lane(0)], &CausalContext::new(), usize::MAX);
    world.receive(0, 1, Message::Delta(delta));
    assert!(world.nodes[0].mesh.actor().generation > Generation(1));
    assert_eq!(world.get(0, "mesh/double-3"), Some(value("1")));
}

/// FEATURES B7: a relay that accounts for what it keeps back delays it, no longer than until somebody who has it is heard.
#[test]
fn what_a_relay_accounts_for_and_keeps_back_is_fetched_from_others() {
    let mut world = sealed(3, Config::default());
    world.converge();
    world.cut.insert((0, 2));
    world.cut.insert((0, 1));
    world.run(Duration::from_secs(12));
    for number in 0..20 {
        world.set(0, &format!("mesh/key-{number}"), "1");
    }
    let told = Delta { items: vec![], ..world.delta_of(0, 0) };
    for node in [1, 2] {
        world.receive(node, 3 - node, Message::Delta(told.clone()));
        assert!(world.nodes[node].mesh.replica().store().seen(&lane(0).dot(20)), "it is believed");
        assert_eq!(world.get(node, "mesh/key-3"), None);
    }
    world.cut.clear();
    world.converge();
    for node in 0..3 {
        assert_eq!(world.get(node, "mesh/key-3"), Some(value("1")), "n{node}");
    }
    assert!(world.nodes[2].sent[7] > 0, "it fetched");
}

/// FEATURES B7: of what is fetched the same holds as of what is sent.
#[test]
fn a_relay_that_forges_what_is_fetched_from_it_is_refused() {
    for forges in [false, true] {
        let mut world = sealed(3, Config::default());
        world.converge();
        world.cut.insert((0, 2));
        world.cut.insert((1, 2));
        world.set(0, "mesh/x", "1");
        world.run(Duration::from_millis(10));
        let sound = world.delta_of(1, 0);
        let delta = if forges { forged(sound) } else { sound };
        let (now, link) = (world.time(), world.link(2, 1));
        let victim = &mut world.nodes[2].mesh;
        victim.handle_difference(now, link);
        let mut answers = vec![
            Tell::Floors { floors: CausalContext::new(), horizon: Timestamp::default(), last: true },
            Tell::Ranges {
                outcomes: vec![],
                items: delta.items,
                dead: CausalContext::new(),
                seals: delta.seals,
            },
            Tell::Context { seen: delta.accounted, last: true },
        ];
        while let Some(output) = victim.poll_output(now) {
            let Output::Send { link: on, channel, message } = output else { continue };
            victim.link_writable(now, on, channel);
            let Message::Ask { number, ask } = message else { continue };
            let mut tell = answers.pop().expect("it asks three times");
            if let (Ask::Ranges { ranges, .. }, Tell::Ranges { outcomes, .. }) = (&ask, &mut tell) {
                *outcomes = ranges.iter().map(|_| Outcome::Told).collect();
            }
            victim.handle_message(now, on, Message::Tell { number, tell });
        }
        assert!(answers.is_empty());
        let read = victim.replica().attribute(&key("mesh/x")).map(|found| found.value);
        assert_eq!(read, (!forges).then(|| value("1")));
        assert_eq!(victim.links.contains_key(&link), !forges, "the link goes with what was forged");
    }
}

/// FEATURES B7: somebody who has written on the disk is believed as little.
#[test]
fn what_was_forged_on_the_disk_is_not_read() {
    let mut world = sealed(2, Config::default());
    world.converge();
    world.set(0, "mesh/x", "1");
    world.converge();
    let (sound, now) = (world.delta_of(1, 0), world.time());
    let mut again = world.mesh(1, 2, Durability::Disk);
    assert!(again.restore(now, &Record::Delta(forged(sound.clone()))).is_err());
    assert_eq!(again.replica().store().len(), 0);
    again.restore(now, &Record::Delta(sound)).unwrap();
    assert!(again.replica().attribute(&key("mesh/x")).is_some());
}

/// What waits for the disk is sealed after it, and what was durable and never told when it is read again.
#[test]
fn durable_writes_survive_a_restart_under_seals() {
    let mut world = sealed(2, Config::default());
    world.nodes[1].mesh = world.mesh(1, 2, Durability::Disk);
    let now = world.time();
    let mut records = Vec::new();
    for number in 0..20 {
        let mesh = &mut world.nodes[1].mesh;
        mesh.set(now, &key(&format!("mesh/key-{number}")), value("1")).unwrap();
        while let Some(output) = mesh.poll_output(now) {
            if let Output::Persist { ticket, record } = output {
                records.push(record);
                mesh.handle_persisted(now, ticket);
            }
        }
    }
    world.nodes[1].mesh = world.mesh(1, 3, Durability::Disk);
    for record in &records {
        world.nodes[1].mesh.restore(now, record).unwrap();
    }
    world.converge();
    assert_eq!(world.get(0, "mesh/key-19"), Some(value("1")));
}

/// FEATURES B7: all nodes of a mesh seal, or none.
#[test]
fn a_node_that_seals_and_one_that_does_not_are_no_mesh() {
    let mut world = sealed(1, Config::default());
    world.seals = false;
    let mesh = world.mesh(1, 1, Durability::Memory);
    world.nodes.push(Node::new(mesh));
    world.run(Duration::from_secs(3));
    for (node, peer) in [(0, 1), (1, 0)] {
        assert_eq!(world.nodes[node].mesh.linked().count(), 0);
        assert!(world.has_alarm(node, Alarm::Seals { peer: id(peer) }), "n{node} is told why");
    }
}

/// That a node is gone for good nobody can prove.
#[test]
fn no_life_is_retired_by_the_word_of_others() {
    let mut world = sealed(3, Config { evict_after: Some(Duration::from_secs(20)), ..Config::default() });
    world.converge();
    let now = world.time();
    world.isolate(2, true);
    world.run(Duration::from_secs(120));
    let now = Now { monotone: world.now, ..now };
    assert_eq!(world.nodes[0].mesh.forget(now, id(2)), Err(WriteError::Sealed));
    for node in 0..2 {
        assert_eq!(world.nodes[node].mesh.replica().store().retired(&id(2)), Generation(0));
    }
}

#[test]
fn a_seal_is_at_most_for_a_group_of_writes_made_at_once() {
    let mut world = sealed(2, Config::default());
    world.converge();
    world.run(Duration::from_secs(2));
    let now = world.time();
    for number in 0..40 {
        world.nodes[0].mesh.set(now, &key(&format!("mesh/key-{number}")), value("1")).unwrap();
    }
    world.drain(0);
    let delta = world.delta_of(0, 0);
    let sizes: Vec<usize> = delta.seals.iter().map(|seal: &Arc<Seal>| seal.hashes.len()).collect();
    assert_eq!(sizes, [16, 16, 8]);
    world.converge();
}
