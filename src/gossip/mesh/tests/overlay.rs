//! Meshes that are too large to be full, made small by a low limit; and halves that must find each other.

use super::*;
use crate::crdt::Lane;

const NODES: usize = 28;

/// Some nodes that may not all be linked with each other, at rest.
fn large() -> World {
    let mut world = World::with(NODES, Config { full_mesh: 8, ..Config::default() });
    world.run(Duration::from_secs(30));
    world.agree();
    world
}

/// Far apart, each with few links.
fn wide(nodes: usize) -> World {
    let config = Config { full_mesh: 8, ..Config::default() };
    let mut world = World { is_wide: true, ..World::with(nodes, config) };
    world.run(Duration::from_secs(40));
    world.agree();
    world
}

fn is_verdict(event: &Event) -> bool {
    matches!(event, Event::Member { state: MemberState::Suspect | MemberState::Down, .. })
}

/// FEATURES S6: everybody knows everybody over few links.
#[test]
fn a_mesh_above_the_limit_has_few_links_and_one_state() {
    let world = large();
    for node in 0..NODES {
        let links = world.nodes[node].mesh.linked().count();
        assert!((4..=16).contains(&links), "node {node} has {links} links");
        for of in (0..NODES).filter(|of| *of != node) {
            assert_eq!(world.state(of, node), Some(MemberState::Alive), "{of} to {node}");
        }
    }
    let told = world.nodes.iter().flat_map(|node| &node.events).filter(|event| is_verdict(event)).count();
    assert_eq!(told, 0, "nobody was suspected while the mesh formed");
}

/// FEATURES S6, SCENARIOS G-10, G-24: what a mesh costs that begins too large for a full one, in copies of records: each
/// node's has to go to each other. Links are found one after another and most of the first ones are given up again, which
/// must neither be told step by step nor make everybody pass everything on everywhere.
#[test]
fn a_large_mesh_forms_with_few_copies() {
    for (nodes, is_wide) in [(50, true), (50, false), (60, true), (100, true), (100, false)] {
        let mut world = World::new(nodes);
        world.is_wide = is_wide;
        world.run(Duration::from_secs(20));
        world.agree();
        let copies: usize = world.nodes.iter().map(|node| node.sent[3]).sum();
        let least = nodes * (nodes - 1);
        assert!(
            copies <= 4 * least,
            "{nodes} nodes, far apart: {is_wide}: {copies} deltas, {least} at least"
        );
        let suspected = world.nodes.iter().flat_map(|node| &node.events).filter(|event| is_verdict(event));
        assert_eq!(suspected.count(), 0, "{nodes} nodes, far apart: {is_wide}");
        let links: usize = world.nodes.iter().map(|node| node.mesh.linked().count()).sum();
        assert!(links <= 10 * nodes, "{links} ends of links");
    }
}

/// FEATURES S6: at rest there are heartbeats and nothing else.
#[test]
fn a_large_mesh_at_rest_is_quiet() {
    let mut world = large();
    let before: Vec<([usize; 9], usize)> = world.nodes.iter().map(|node| (node.sent, node.bytes)).collect();
    world.run(Duration::from_secs(20));
    for (node, (sent, bytes)) in world.nodes.iter().zip(before) {
        assert_eq!((&node.sent[1..4], &node.sent[5..]), (&sent[1..4], &sent[5..]));
        let idle = (node.bytes - bytes) / 20;
        assert!(idle <= 400, "{idle} bytes a second");
    }
}

/// How long a frame takes from a node to each other over the fastest links.
fn fastest(world: &World, from: usize) -> Vec<Duration> {
    let mut fastest = vec![Duration::MAX; NODES];
    fastest[from] = Duration::ZERO;
    // As many rounds as the longest way could have steps (Bellman and Ford).
    for _ in 0..NODES {
        for node in 0..NODES {
            for peer in world.nodes[node].mesh.linked() {
                let peer = (0..NODES).find(|other| id(*other) == peer).unwrap();
                let over = fastest[node].saturating_add(world.delay(node, peer));
                fastest[peer] = fastest[peer].min(over);
            }
        }
    }
    fastest
}

/// FEATURES S6, SCENARIOS G-24, G-27: before anybody has written, there is a tree for each author, of the fastest ways.
#[test]
fn the_first_write_reaches_everybody_once_and_by_the_fastest_way() {
    let mut world = wide(NODES);
    for writer in 0..NODES {
        let copies = |world: &World| world.nodes.iter().map(|node| node.sent[3]).sum::<usize>();
        let (before, start) = (copies(&world), world.now);
        let fastest = fastest(&world, writer);
        let most = *fastest.iter().max().unwrap();
        let text = writer.to_string();
        world.set(writer, "mesh/x", &text);
        while (0..NODES).any(|node| world.get(node, "mesh/x") != Some(value(&text))) {
            world.step();
        }
        let took = world.now.since(start);
        assert!(took <= most + Duration::from_millis(1), "{writer}: {took:?}, {most:?} at best");
        world.run(Duration::from_secs(1));
        // An author serves its neighbours itself, also one that is reached faster another way.
        let linked = |node: &usize| world.nodes[writer].mesh.linked().any(|peer| peer == id(*node));
        let slower = |node: &usize| fastest[*node] < world.delay(writer, *node);
        let twice = (0..NODES).filter(linked).filter(slower).count();
        assert_eq!(copies(&world) - before, NODES - 1 + twice, "of the write by {writer}");
    }
}

/// SCENARIOS G-22: whoever passed writes on may fall; those behind it hear of them another way.
#[test]
fn a_tree_heals_when_a_relay_falls() {
    let mut world = large();
    for number in 0..6 {
        world.set(0, "mesh/x", &number.to_string());
        world.run(Duration::from_secs(1));
    }
    // All neighbours of the writer but one.
    let fallen: Vec<usize> = (1..NODES)
        .filter(|node| world.nodes[0].mesh.linked().any(|peer| peer == id(*node)))
        .skip(1)
        .collect();
    for node in &fallen {
        world.isolate(*node, true);
        world.nodes[*node].frozen = true;
    }
    let start = world.now;
    world.set(0, "mesh/x", "after");
    let rest = |node: &usize| !fallen.contains(node);
    while (0..NODES).filter(rest).any(|node| world.get(node, "mesh/x") != Some(value("after"))) {
        assert!(world.now.since(start) < Duration::from_secs(12), "somebody does not hear of it");
        world.step();
    }
}

/// SCENARIOS G-22: whoever loses the link over which an author's writes came asks its neighbours for them at once,
/// and does not wait until one is missing.
#[test]
fn a_lost_way_to_an_author_is_replaced_before_it_is_missed() {
    let mut world = large();
    for number in 0..6 {
        world.set(0, "mesh/x", &number.to_string());
        world.run(Duration::from_secs(1));
    }
    // Two steps away from the writer, and the one between.
    let linked = |world: &World, one: usize, other: usize| {
        world.nodes[one].mesh.linked().any(|peer| peer == id(other))
    };
    let far = (1..NODES).find(|node| !linked(&world, 0, *node)).expect("not all are neighbours of one");
    let between: Vec<usize> = (1..NODES).filter(|node| linked(&world, far, *node)).collect();
    let wants = world.nodes[far].sent[2];
    for relay in between {
        world.cut.insert((far.min(relay), far.max(relay)));
        world.run(Duration::from_secs(5));
        if world.nodes[far].sent[2] > wants {
            break;
        }
    }
    assert!(world.nodes[far].sent[2] > wants, "nothing was written, and yet it has asked");
    let start = world.now;
    world.set(0, "mesh/x", "next");
    while world.get(far, "mesh/x") != Some(value("next")) {
        world.step();
    }
    assert!(world.now.since(start) <= 8 * DELAY, "{:?}", world.now.since(start));
}

impl World {
    /// Says that whoever is to bring some author's writes to a node does so.
    fn assert_ways(&self, fallen: &BTreeSet<usize>, when: &str) {
        let mesh =
            |of: &NodeId| self.nodes.iter().map(|node| &node.mesh).find(|mesh| mesh.actor().node == *of);
        for node in (0..self.nodes.len()).filter(|node| !fallen.contains(node)) {
            let own = &self.nodes[node].mesh;
            for author in (0..self.nodes.len()).filter(|author| *author != node && !fallen.contains(author)) {
                let over = |link: &LinkId| own.trees.come_over(&id(author), *link);
                let way = own.links.iter().find(|(link, _)| over(link)).map(|(_, link)| link.peer);
                let serves = |peer: &NodeId| {
                    let mut back = mesh(peer).into_iter().flat_map(|mesh| mesh.links.values());
                    *peer == id(author) || back.any(|link| link.peer == id(node) && link.serves(&id(author)))
                };
                assert!(way.is_some_and(|peer| serves(&peer)), "{when}: nothing of {author} comes to {node}");
            }
        }
    }
}

/// SCENARIOS G-22: something of an author may be on its way still from one who was told to bring nothing. It comes first,
/// and must not turn the way back: both would be told to bring nothing.
#[test]
fn what_was_on_its_way_does_not_turn_a_way_back() {
    let mut world = wide(NODES);
    for author in 0..NODES {
        let node = (author + NODES / 2) % NODES;
        let before: Vec<LinkId> = world.nodes[node].mesh.links.keys().copied().collect();
        for link in before {
            let (now, text) = (world.time(), format!("{author} {link:?}"));
            world.nodes[author].mesh.set(now, &key("mesh/x"), value(&text)).unwrap();
            let store = world.nodes[author].mesh.replica.store();
            let lanes: Vec<Lane> = store.lanes_of(&id(author)).cloned().collect();
            let delta = store.delta(&lanes, &world.nodes[node].mesh.replica.store().context(), usize::MAX);
            world.nodes[node].mesh.handle_message(now, link, Message::Delta(delta));
            world.drain(node);
            world.drain(author);
            world.run(Duration::from_secs(1));
            world.assert_ways(&BTreeSet::new(), &format!("after something of {author} came to {node}"));
        }
    }
}

/// FEATURES S6, SCENARIOS G-22: who loses the way to an author, and is linked with nobody but those who get the author's
/// writes from there, asks those: they look elsewhere.
#[test]
fn a_way_is_found_around_those_who_get_the_same_from_here() {
    let mut world = wide(60);
    let place = |of: NodeId| (0..60).find(|node| id(*node) == of).unwrap();
    for (round, author) in (0..60).step_by(6).enumerate() {
        let children = |node: usize| {
            let links = world.nodes[node].mesh.links.values();
            let served = links.filter(|link| link.serves(&id(author))).map(|link| place(link.peer));
            served.collect::<BTreeSet<usize>>()
        };
        let is_linked = |node: &usize| world.nodes[*node].mesh.linked().any(|peer| peer == id(author));
        let far = (0..60).filter(|node| *node != author && !is_linked(node));
        let (node, children) =
            far.map(|node| (node, children(node))).max_by_key(|(_, all)| all.len()).unwrap();
        assert!(!children.is_empty());
        let others = (0..60).filter(|other| *other != node && !children.contains(other));
        world.cut.extend(others.map(|other| (node.min(other), node.max(other))));
        world.run(Duration::from_secs(4));
        let (start, text) = (world.now, round.to_string());
        world.set(author, "mesh/x", &text);
        while (0..60).any(|node| world.get(node, "mesh/x") != Some(value(&text))) {
            world.step();
        }
        let took = world.now.since(start);
        assert!(took <= Duration::from_millis(400), "from {author} to {node} by {children:?}: {took:?}");
        world.cut.clear();
        world.run(Duration::from_secs(30));
        world.assert_ways(&BTreeSet::new(), &format!("after {node} was cut off"));
    }
}

/// SCENARIOS G-35: while everybody writes, states are never the same; that alone makes nobody tell everything.
#[test]
fn audits_in_vain_become_rare() {
    let mut world = World::new(2);
    world.converge();
    let contexts = world.nodes[0].sent[1];
    let now = world.time();
    let link = *world.links.keys().next().unwrap();
    for second in 0..100 {
        let now = Now { monotone: now.monotone + Duration::from_secs(second), ..now };
        let heartbeat = Message::Heartbeat { digest: [9; 16], asks: false };
        world.nodes[0].mesh.handle_message(now, link, heartbeat);
        world.drain(0);
    }
    // After 5, 15, 35 and 75 seconds.
    assert_eq!(world.nodes[0].sent[1] - contexts, 4);
}

/// SCENARIOS G-20.
#[test]
fn parts_of_a_large_mesh_find_each_other_after_a_split() {
    let mut world = large();
    let half = NODES / 2;
    let across = (0..half).flat_map(|one| (half..NODES).map(move |other| (one, other)));
    world.cut.extend(across);
    world.run(Duration::from_secs(30));
    assert_eq!(world.state(NODES - 1, 0), Some(MemberState::Down));
    world.set(0, "mesh/x", "left");
    world.set(half, "mesh/y", "right");
    world.cut.clear();
    let start = world.now;
    world.agree();
    while (0..NODES)
        .any(|by| (0..NODES).any(|of| of != by && world.state(of, by) != Some(MemberState::Alive)))
    {
        assert!(world.now.since(start) < Duration::from_secs(30), "somebody stays down");
        world.step();
    }
    assert!(world.get(half, "mesh/x").is_some() && world.get(0, "mesh/y").is_some());
}

/// A full mesh in which two cannot be linked: what one writes is passed on to the other once it was asked for.
#[test]
fn writes_are_passed_on_to_those_whom_their_author_does_not_reach() {
    let mut world = World::new(3);
    world.converge();
    world.cut.insert((0, 2));
    world.run(Duration::from_secs(10));
    world.set(2, "mesh/x", "1");
    world.run(Duration::from_secs(3));
    assert_eq!(world.get(0, "mesh/x"), Some(value("1")));
    let start = world.now;
    world.set(2, "mesh/x", "2");
    while world.get(0, "mesh/x") != Some(value("2")) {
        world.step();
    }
    assert_eq!(world.now.since(start), 2 * DELAY);
}

/// Everybody has a write from its author; nobody tells anybody else of it.
#[test]
fn what_its_author_serves_is_not_talked_about() {
    let mut world = World::new(6);
    world.converge();
    world.run(Duration::from_secs(10));
    let contexts = |world: &World| world.nodes.iter().map(|node| node.sent[1]).sum::<usize>();
    let before = contexts(&world);
    for number in 0..5 {
        world.set(number, "mesh/x", &number.to_string());
        world.run(Duration::from_secs(1));
    }
    assert_eq!(contexts(&world), before);
}

/// A peer may ask for anything, but only what is known here is remembered.
#[test]
fn pruning_what_nobody_wrote_is_forgotten() {
    let mut world = World::new(2);
    world.converge();
    let now = world.time();
    let link = *world.links.keys().next().unwrap();
    let lanes = (1..50_000u64).map(|life| {
        let actor = Actor { node: id(7), generation: Generation(life) };
        Lane::new(actor, crate::crdt::Class::Attribute)
    });
    world.nodes[0].mesh.handle_message(now, link, Message::Prune { lanes: lanes.collect() });
    assert_eq!(world.nodes[0].mesh.links[&link].remembered(), 0);
}

/// HARDENING: whoever makes probes up is not listened to more often than an author may probe.
#[test]
fn probes_that_are_made_up_are_not_passed_on() {
    let mut world = large();
    let passed = |world: &World| world.nodes.iter().map(|node| node.sent[5]).sum::<usize>();
    let before = passed(&world);
    let now = world.time();
    let link = *world.nodes[0].mesh.links.keys().next().unwrap();
    let lane = |node: usize, life| {
        let actor = Actor { node: id(node), generation: Generation(life) };
        Lane::new(actor, crate::crdt::Class::Registry)
    };
    let kept = |world: &World| world.nodes[0].mesh.links.values().map(Link::remembered).sum::<usize>();
    let remembered = kept(&world);
    let unknown = (1..50_000).map(|life| (lane(NODES + 1, life), 1)).collect();
    world.nodes[0].mesh.handle_message(now, link, Message::Probe { probes: unknown });
    world.drain(0);
    assert_eq!((kept(&world), passed(&world)), (remembered, before), "nothing was heard of these lives");
    // In a known one's name: once, over each link once or twice.
    let known = world.nodes[0].mesh.replica().store().lanes_of(&id(9)).next().unwrap().clone();
    for number in 1_000..1_100 {
        let probes = vec![(known.clone(), number)];
        world.nodes[0].mesh.handle_message(now, link, Message::Probe { probes });
        world.drain(0);
    }
    world.run(Duration::from_secs(5));
    let links: usize = world.nodes.iter().map(|node| node.mesh.linked().count()).sum();
    assert!(passed(&world) - before <= 2 * links, "{} frames over {links} ends", passed(&world) - before);
    assert!(passed(&world) > before, "it was passed on");
}
