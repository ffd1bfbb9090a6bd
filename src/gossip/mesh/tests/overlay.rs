//! Meshes that are too large to be full, made small by a low limit; and halves that must find each other.

use super::*;

const NODES: usize = 28;

/// Some nodes that may not all be linked with each other, at rest.
fn large() -> World {
    let mut world = World::with(NODES, Config { full_mesh: 8, ..Config::default() });
    world.run(Duration::from_secs(30));
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
    let config = Config { full_mesh: 8, ..Config::default() };
    let mut world = World { is_wide: true, ..World::with(NODES, config) };
    world.run(Duration::from_secs(40));
    world.agree();
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
        crate::crdt::Lane::new(actor, crate::crdt::Class::Attribute)
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
        crate::crdt::Lane::new(actor, crate::crdt::Class::Registry)
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
