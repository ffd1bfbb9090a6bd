//! More than the mesh can take: who is told, who waits, and who notices nothing.

use super::*;

/// The protocol with a rate that a test can reach: 100 writes of 100 bytes at once, then ten in a second.
fn narrow() -> Config {
    Config { write_rate: 1_000, write_burst: 10_000, ..Config::default() }
}

/// 100 bytes of the quota: `attr/mesh/a00`, 23 bytes, and 64 for the write itself.
fn hundred(number: usize) -> (AttributeKey, Value) {
    (key(&format!("mesh/a{:02}", number % 100)), value(&format!("{number:023}")))
}

/// FEATURES B3, SCENARIOS G-23: too much is refused at its writer, with the time at which it is not too much.
#[test]
fn a_writer_above_the_agreed_rate_is_told_until_when() {
    let mut world = World::with(2, narrow());
    world.converge();
    let write = |world: &mut World, number: usize| {
        let (now, (key, value)) = (world.time(), hundred(number));
        let written = world.nodes[1].mesh.set(now, &key, value);
        world.drain(1);
        written
    };
    for number in 0..100 {
        assert!(write(&mut world, number).is_ok(), "the {number}. of a hundred");
    }
    let refused = write(&mut world, 100);
    let Err(WriteError::Busy { retry_after }) = refused else { panic!("{refused:?}") };
    assert_eq!(retry_after, Duration::from_nanos(1));
    world.now = world.now + retry_after;
    assert!(write(&mut world, 100).is_ok());
    let refused = write(&mut world, 101);
    assert_eq!(refused, Err(WriteError::Busy { retry_after: Duration::from_millis(100) }));
    let refused_at = world.now;
    // What was refused is nowhere, what was written is everywhere.
    world.converge();
    assert_eq!(world.get(0, "mesh/a00"), Some(hundred(100).1));
    assert_eq!(world.get(0, "mesh/a01"), Some(hundred(1).1));
    // Over long, ten in a second.
    let start = world.now;
    let mut written = 0;
    for (number, millis) in (1_000..11_000).zip(0..) {
        world.now = world.now.max(start + Duration::from_millis(millis));
        written += usize::from(write(&mut world, number).is_ok());
    }
    assert_eq!(written as u128, world.now.since(refused_at).as_millis() / 100);
}

/// FEATURES B3: what keeps the mesh together is never refused.
#[test]
fn tunnels_are_registered_however_much_is_written() {
    let mut world = World::with(2, narrow());
    world.converge();
    let now = world.time();
    let mesh = &mut world.nodes[1].mesh;
    let refused = (0..101).map(|number| {
        let (key, value) = hundred(number);
        mesh.set(now, &key, value).is_err()
    });
    assert_eq!(refused.filter(|refused| *refused).count(), 1);
    for tunnel in 0..1_000 {
        let name = "web".parse::<TunnelName>().unwrap();
        assert!(mesh.register(now, &name, TunnelId(tunnel), &Attributes::default()).is_ok());
    }
    assert!(matches!(mesh.increment(now, &key("mesh/n"), 1), Err(WriteError::Busy { .. })));
    assert!(matches!(mesh.add(now, &key("mesh/s"), value("1")), Err(WriteError::Busy { .. })));
    assert!(matches!(mesh.discard(now, &key("mesh/s"), &value("1")), Err(WriteError::Busy { .. })));
    assert!(matches!(mesh.unset(now, &key("mesh/a00")), Err(WriteError::Busy { .. })));
}

/// SCENARIOS G-03: a rewrite of everything with what is there already is nobody's business, and costs no quota.
#[test]
fn writes_that_change_nothing_vanish() {
    let mut world = World::with(3, narrow());
    world.converge();
    let write_all = |world: &mut World| {
        let now = world.time();
        for number in 0..50 {
            let (key, value) = hundred(number);
            world.nodes[1].mesh.set(now, &key, value).unwrap();
        }
        world.drain(1);
    };
    write_all(&mut world);
    world.run(Duration::from_secs(10));
    let (sent, digest) = (world.nodes[1].sent, world.nodes[1].mesh.digest());
    for _ in 0..1_000 {
        write_all(&mut world);
    }
    assert_eq!((world.nodes[1].sent, world.nodes[1].mesh.digest()), (sent, digest));
}

/// SCENARIOS G-35: what a burst leaves behind is over five seconds after it.
#[test]
fn after_a_burst_the_mesh_is_quiet_again_within_five_seconds() {
    let mut world = World::new(5);
    world.converge();
    world.run(Duration::from_secs(5));
    for round in 0..200 {
        for node in 0..5 {
            world.set(node, &format!("mesh/{node}.{}", round % 20), &format!("{round}"));
            world.set(node, &format!("mesh/shared.{}", round % 20), &format!("{node}.{round}"));
        }
        world.run(Duration::from_millis(1));
    }
    world.run(Duration::from_secs(5));
    assert!(world.converged());
    let before: Vec<[usize; 9]> = world.nodes.iter().map(|node| node.sent).collect();
    world.run(Duration::from_secs(60));
    for (node, before) in world.nodes.iter().zip(before) {
        assert_eq!(node.sent[1..4], before[1..4], "no context, no want, no delta");
        assert_eq!(node.sent[5..], before[5..]);
        assert!(node.sent[4] - before[4] <= 4 * 67, "heartbeats alone");
    }
}

/// FEATURES B3, SCENARIOS G-22: a peer that takes nothing costs no memory for what it does not take, and nobody else
/// anything; when it takes again it gets the last value of each key and nothing in between.
#[test]
fn a_peer_that_stops_reading_costs_constant_memory_and_nobody_else_anything() {
    const WRITES: usize = 10_000;
    let mut world = World::new(4);
    world.converge();
    world.run(Duration::from_secs(5));
    world.clogged = Some(3);
    world.set(1, "mesh/k0", "first");
    let kept = |world: &World| world.nodes[1].mesh.links.values().map(Link::kept).collect::<Vec<_>>();
    let sent = world.nodes[1].sent[3];
    for number in 0..WRITES {
        let start = world.now;
        let name = format!("mesh/k{}", number % 10);
        world.set(1, &name, &format!("{number}"));
        let written = Some(value(&format!("{number}")));
        while [0, 2].iter().any(|node| world.get(*node, &name) != written) {
            world.step();
        }
        assert_eq!(world.now.since(start), DELAY, "the others have it after one hop, every time");
    }
    // A context that crosses a write on its way brings that one once more.
    let sent = world.nodes[1].sent[3] - sent;
    assert!((2 * WRITES..=2 * WRITES + 5).contains(&sent), "two peers take each write once: {sent}");
    // Of each of eight lanes that it is behind, what it has, and that it asks for it.
    assert!(kept(&world).iter().all(|kept| *kept <= 3 * 8), "{:?}", kept(&world));
    assert_eq!(world.state(3, 1), Some(MemberState::Alive), "it is slow, not gone");
    // It reads again.
    world.clogged = None;
    let sent = world.nodes[1].sent[3];
    let now = world.time();
    let links: Vec<LinkId> = world.links.keys().copied().collect();
    for link in links {
        for node in [0, 1, 2] {
            world.nodes[node].mesh.link_writable(now, link, Channel::Delta);
        }
    }
    (0..3).for_each(|node| world.drain(node));
    world.run(Duration::from_secs(1));
    assert!(world.converged());
    assert_eq!(world.nodes[1].sent[3] - sent, 1, "ten values in one frame");
}

/// DESIGN §4: whoever loses most of its links at once is probably the one who is cut off, and accuses nobody for it.
#[test]
fn a_node_that_is_cut_off_for_a_moment_accuses_nobody() {
    let mut world = World::new(6);
    world.converge();
    world.run(Duration::from_secs(10));
    let accused = |world: &World, by: usize| {
        let accused = |event: &&Event| {
            matches!(event, Event::Member { state: MemberState::Suspect | MemberState::Down, .. })
        };
        world.nodes[by].events.iter().filter(accused).count()
    };
    world.isolate(5, true);
    world.run(Duration::from_millis(4_500));
    assert_eq!(world.nodes[5].mesh.linked().count(), 0, "all its links fell silent");
    assert_eq!(accused(&world, 5), 0, "it blames itself");
    assert_eq!(world.state(5, 0), Some(MemberState::Suspect), "the others, who lost one link, do not");
    // If it lasts, they are gone for it, and not later than anybody else would be.
    world.run(Duration::from_millis(5_500));
    for of in 0..5 {
        assert_eq!(world.state(of, 5), Some(MemberState::Down));
    }
}

/// FEATURES B3, SCENARIOS G-26: who writes without a pause makes no frame of each write for each peer; whoever writes
/// after a rest is not made to wait, and in a mesh of few nobody is.
#[test]
fn what_is_written_in_a_row_gathers_where_there_are_many_peers() {
    let sent = |world: &World| world.nodes[0].sent[3];
    for (nodes, gathers) in [(20, true), (4, false)] {
        let mut world = World::new(nodes);
        world.converge();
        let before = sent(&world);
        world.set(0, "mesh/first", "v");
        assert_eq!(sent(&world) - before, nodes - 1, "the first one goes at once");
        world.converge();
        let (before, start) = (sent(&world), world.now);
        for number in 0..400 {
            let at = start + Duration::from_micros(number * 20);
            while world.next_at().is_some_and(|next| next <= at) {
                world.step();
            }
            world.now = at;
            world.set(0, &format!("mesh/k{number}"), "v");
        }
        // Eight milliseconds, and 19 peers at 25 us.
        let rounds = (sent(&world) - before) / (nodes - 1);
        assert_eq!(rounds < 20, gathers, "{rounds} rounds for 400 writes among {nodes} nodes");
        world.converge();
        assert_eq!(world.get(nodes - 1, "mesh/k399"), Some(value("v")));
    }
}

/// DESIGN 3: what finds a tunnel goes ahead of all attributes, the author's own and those of others.
#[test]
fn whoever_joins_finds_tunnels_before_it_has_every_attribute() {
    let mut world = World::with(3, Config { delta_budget: 512, ..Config::default() });
    world.isolate(2, true);
    let name = |node: usize| format!("web-{node}").parse::<TunnelName>().unwrap();
    for node in 0..2 {
        for number in 0..100 {
            world.set(node, &format!("mesh/{node}.{number:03}"), &"v".repeat(100));
        }
        let now = world.time();
        world.nodes[node].mesh.register(now, &name(node), TunnelId(1), &Attributes::default()).unwrap();
        world.drain(node);
    }
    world.run(Duration::from_secs(10));
    world.isolate(2, false);
    world.cut.insert((1, 2));
    world.run(Duration::from_secs(10));
    for node in 0..2 {
        let of_it = |event: &Event| match event {
            Event::Attribute { key, .. } => key.to_string().starts_with(&format!("mesh/{node}.")),
            _ => false,
        };
        let found = |event: &Event| matches!(event, Event::Registered(found) if found.name == name(node));
        let events = &world.nodes[2].events;
        let found = events.iter().position(found).expect("it is told");
        let before = events[..found].iter().filter(|event| of_it(event)).count();
        let all = events.iter().filter(|event| of_it(event)).count();
        assert!(before < 10 && all == 100, "{before} of {all} attributes of n{node} came before its tunnel");
    }
    world.cut.clear();
    world.converge();
}
