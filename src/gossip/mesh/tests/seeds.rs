//! How often seeds are called, and what that finds.

use super::*;

/// A mesh in which every node, the seed's included, was told of one IP address, at which node 0 is.
fn at_an_ip_address(count: usize) -> (World, Address) {
    let seed: Address = "192.0.2.1:1".parse().unwrap();
    let mut world = World::with(0, Config { seeds: vec![seed.clone()], ..Config::default() });
    world.places.insert(seed.clone(), 0);
    for node in 0..count {
        let mesh = world.mesh(node, 1, Durability::Memory);
        world.nodes.push(Node::new(mesh));
    }
    (world, seed)
}

/// SCENARIOS G-20: two meshes behind one name, each of which found itself there first.
#[test]
fn halves_behind_one_name_find_each_other() {
    let mut world = World::with(0, Config { seeds: vec!["seed:1".parse().unwrap()], ..Config::default() });
    world.behind_seed = vec![0, 2];
    for node in 0..4 {
        let mesh = world.mesh(node, 1, Durability::Memory);
        world.nodes.push(Node::new(mesh));
    }
    // Whom each reaches at first.
    world.first_behind_seed = BTreeMap::from([(0, 0), (1, 0), (2, 2), (3, 2)]);
    world.run(Duration::from_secs(5));
    assert_eq!(world.nodes[1].mesh.linked().collect::<Vec<_>>(), [id(0)]);
    assert_eq!(world.nodes[3].mesh.linked().collect::<Vec<_>>(), [id(2)]);
    world.converge();
}

/// Each call is a handshake: where nobody else can be, few are made, by the seed itself too.
#[test]
fn an_ip_address_at_which_its_node_answers_is_seldom_called() {
    let (mut world, _) = at_an_ip_address(3);
    world.converge();
    let before: Vec<usize> = world.nodes.iter().map(|node| node.calls).collect();
    world.run(Duration::from_secs(3_600));
    for (node, before) in world.nodes.iter().zip(before) {
        let calls = node.calls - before;
        assert!((3..=12).contains(&calls), "{calls} calls in an hour");
    }
}

/// A name may stand for several nodes, and for another one tomorrow.
#[test]
fn a_name_at_which_one_node_answers_is_called_every_few_minutes() {
    let mut world = World::new(3);
    world.converge();
    let before = world.nodes[1].calls;
    world.run(Duration::from_secs(3_600));
    let calls = world.nodes[1].calls - before;
    assert!((12..=30).contains(&calls), "{calls} calls in an hour");
}

/// The seed has another address by now, and somebody else has taken its place who knows nobody.
#[test]
fn whoever_takes_the_place_of_a_seed_that_has_moved_is_found() {
    // Whatever the time of the next look would be.
    for moves_after in (60..70).map(|minutes| Duration::from_secs(60 * minutes)) {
        let (mut world, seed) = at_an_ip_address(3);
        world.converge();
        world.run(moves_after);
        world.config.seeds = vec!["nowhere:1".parse().unwrap()];
        world.places.insert(seed, 3);
        let newcomer = world.mesh(3, 1, Durability::Memory);
        world.nodes.push(Node::new(newcomer));
        let now = world.time();
        world.nodes[0].mesh.config.addresses = vec![address(0)];
        world.nodes[0].mesh.publish(now);
        world.drain(0);
        assert!(world.converge() < Duration::from_secs(50));
    }
}

/// SCENARIOS G-20: two meshes that know nothing of each other, in each of which a node says that an address is its own.
#[test]
fn halves_behind_one_ip_address_find_each_other() {
    let (mut world, seed) = at_an_ip_address(0);
    for node in 0..4 {
        let is_seed = node % 2 == 0;
        world.places = if is_seed { [(seed.clone(), node)].into() } else { BTreeMap::new() };
        let mesh = world.mesh(node, 1, Durability::Memory);
        world.nodes.push(Node::new(mesh));
    }
    // A balancer leads everybody to the seed of its own half, until it no longer does.
    world.behind_seed = vec![0, 2];
    for _ in 0..3_600 {
        world.first_behind_seed = BTreeMap::from([(0, 0), (1, 0), (2, 2), (3, 2)]);
        world.run(Duration::from_secs(1));
    }
    assert_eq!(world.nodes[1].mesh.linked().collect::<Vec<_>>(), [id(0)]);
    world.first_behind_seed.clear();
    world.run(2 * Duration::from_secs(16 * 60));
    assert!(world.converged());
}
