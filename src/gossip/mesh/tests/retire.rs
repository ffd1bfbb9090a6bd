//! Lives that are over, nodes that are gone, and some that come back.

use super::*;
use crate::crdt::{CausalContext, Lane, RangeSet};
use crate::gossip::MemberState;

/// Looks for what can go every second and keeps nothing for long.
fn brisk() -> Config {
    let seconds = Duration::from_secs;
    Config {
        collect_interval: seconds(1),
        collect_after: seconds(5),
        evict_after: Some(seconds(20)),
        forget_after: seconds(20),
        ..Config::default()
    }
}

impl World {
    /// The last word of the third node was heard by the second alone. Each is by itself since, and the first has evicted both.
    fn with_a_last_word_unheard() -> Self {
        let mut world = Self::with(3, brisk());
        world.converge();
        world.cut.extend([(0, 2), (0, 1)]);
        world.run(Duration::from_secs(4));
        world.set(2, "mesh/last", "word");
        world.run(Duration::from_secs(1));
        assert_eq!(world.get(1, "mesh/last"), Some(value("word")));
        world.isolate(1, true);
        world.isolate(2, true);
        world.run(Duration::from_secs(60));
        let evicted = (world.member(0, 1), world.member(0, 2));
        assert_eq!(evicted, (None, None), "both are evicted by one that is alone");
        world
    }

    /// Starts a node again, with nothing.
    fn restart(&mut self, node: usize, generation: u64) {
        self.isolate(node, true);
        self.nodes[node].mesh = self.mesh(node, generation, Durability::Memory);
        self.isolate(node, false);
    }

    fn member(&self, at: usize, of: usize) -> Option<MemberState> {
        self.nodes[at].mesh.members().find(|member| member.node == id(of)).map(|member| member.state)
    }
}

/// FEATURES S6, SCENARIOS G-08: of the lives that are over one number stays for each node, and what they had written.
#[test]
fn many_lives_leave_one_number_for_each_node() {
    let (nodes, lives) = (5, 25);
    let mut world = World::with(nodes, brisk());
    world.converge();
    for life in 2..=lives {
        for node in 0..nodes {
            world.restart(node, life);
            world.run(Duration::from_secs(4));
            world.set(node, &format!("mesh/life-{}-of-{node}", life % 3), &life.to_string());
            world.set(node, "mesh/all", &format!("{node} in {life}"));
        }
    }
    world.run(Duration::from_secs(40));
    world.converge();
    for (node, Node { mesh, .. }) in world.nodes.iter().enumerate() {
        let store = mesh.replica().store();
        assert_eq!(
            store.lane_counts(),
            (2 * nodes, nodes),
            "n{node} has two lanes for each life that goes on"
        );
        for of in 0..nodes {
            assert_eq!(store.retired(&id(of)), Generation(lives - 1));
        }
        let observed = |row: crate::crdt::Row<'_>| {
            row.register().entries().iter().map(|entry| entry.observed.iter().len()).max()
        };
        let named = store.prefix("").filter_map(observed).max();
        assert!(named <= Some(6 * nodes), "{named:?} lanes are named by one write");
        assert_eq!(mesh.members().count(), nodes - 1);
        assert_eq!(store.prefix("attr/").filter(|row| !row.is_removed()).count(), 3 * nodes + 1);
    }
}

/// FEATURES P4, SCENARIOS G-12: what an evicted node had registered goes, what it had written stays; and when it is back,
/// so is what it wrote meanwhile, under a later life.
#[test]
fn an_evicted_node_is_not_waited_for_and_loses_nothing_when_it_returns() {
    let mut world = World::with(4, brisk());
    world.converge();
    let (name, now) = ("web".parse::<TunnelName>().unwrap(), world.time());
    world.nodes[3].mesh.register(now, &name, TunnelId(1), &Attributes::default()).unwrap();
    world.drain(3);
    world.set(3, "mesh/before", "1");
    world.converge();
    world.isolate(3, true);
    world.set(3, "mesh/meanwhile", "2");
    world.set(0, "mesh/before", "3");
    world.unset(0, "mesh/before");
    world.run(Duration::from_secs(45));
    let path = Path::Registration { name: name.clone(), tunnel: TunnelId(1) };
    for node in 0..3 {
        let store = world.nodes[node].mesh.replica().store();
        assert_eq!(world.member(node, 3), None, "nobody waits for it");
        assert_eq!(store.retired(&id(3)), Generation(1));
        assert!(store.register(&path.to_key()).is_none() && world.removed(node) == 0, "nothing is left");
    }
    world.isolate(3, false);
    world.run(Duration::from_secs(40));
    world.converge();
    for node in 0..4 {
        assert_eq!(world.get(node, "mesh/meanwhile"), Some(value("2")));
        assert_eq!(world.get(node, "mesh/before"), None, "what was removed stays so");
        assert_eq!(world.nodes[node].mesh.lookup(&name).len(), 1, "it holds its tunnel again");
    }
    assert_eq!(world.member(0, 3), Some(MemberState::Alive));
    let alarms = world.nodes[3].events.iter();
    assert_eq!(alarms.filter(|event| matches!(event, Event::Alarm(Alarm::Dead { .. }))).count(), 1);
    let lost = |event: &&Event| matches!(event, Event::Deregistered { .. });
    assert_eq!(world.nodes[3].events.iter().filter(lost).count(), 0, "it held its tunnel all the time");
    let store = world.nodes[3].mesh.replica().store();
    let entry = store.register(&path.to_key()).unwrap().entries()[0].clone();
    let name = entry.dot.lane.clone();
    assert!(entry.dot.counter <= 2, "its record and its tunnel are the first that {name} says, each once");
}

#[test]
fn a_node_is_forgotten_by_hand_only_if_it_is_not_there() {
    let mut world = World::with(3, Config { collect_interval: Duration::from_secs(1), ..Config::default() });
    world.converge();
    let now = world.time();
    for there in [0, 2] {
        assert_eq!(world.nodes[0].mesh.forget(now, id(there)), Err(WriteError::Alive));
    }
    assert_eq!(world.nodes[0].mesh.forget(now, id(7)), Ok(None));
    world.isolate(2, true);
    world.run(Duration::from_secs(12));
    let now = world.time();
    assert!(world.nodes[0].mesh.forget(now, id(2)).unwrap().is_some());
    world.drain(0);
    world.run(Duration::from_secs(2));
    for node in [0, 1] {
        assert_eq!(world.member(node, 2), None);
        let evicted = |event: &&Event| matches!(event, Event::Member { state: MemberState::Evicted, node, .. } if *node == id(2));
        assert_eq!(world.nodes[node].events.iter().filter(evicted).count(), 1);
    }
    // A new process of that node is a newcomer like any other.
    world.restart(2, 2);
    world.run(Duration::from_secs(12));
    world.converge();
    assert_eq!(world.member(0, 2), Some(MemberState::Alive));
}

/// FEATURES P4: who evicts nobody by itself heeds what others testify, although the witness is gone again.
#[test]
fn what_a_witness_had_not_seen_is_written_anew_also_where_nobody_is_evicted() {
    let config = Config { collect_interval: Duration::from_secs(1), evict_after: None, ..Config::default() };
    let mut world = World::with(4, config);
    world.converge();
    world.isolate(0, true);
    world.set(3, "mesh/last", "word");
    world.run(Duration::from_secs(1));
    world.isolate(3, true);
    world.run(Duration::from_secs(12));
    let now = world.time();
    assert!(world.nodes[0].mesh.forget(now, id(3)).unwrap().is_some());
    world.drain(0);
    world.isolate(0, false);
    let is_told =
        |world: &World| (1..3).all(|node| !world.nodes[node].mesh.replica().testimonies(&id(3)).is_empty());
    while !is_told(&world) {
        world.run(Duration::from_millis(10));
    }
    world.isolate(0, true);
    world.run(Duration::from_secs(30));
    for node in 1..3 {
        assert_eq!(world.member(node, 3), None, "it is not waited for at n{node}");
        assert_eq!(world.get(node, "mesh/last"), Some(value("word")));
    }
}

/// A log that is read again leads to the state that was there: what came after a removal was let go was merged without it.
#[test]
fn removals_that_were_let_go_are_let_go_when_the_log_is_read_again() {
    let mut world = World::new(1);
    world.nodes[0].mesh = world.mesh(0, 1, Durability::Disk);
    let (mut now, mut log) = (world.time(), Vec::new());
    let mut write = |mesh: &mut Mesh, now: Now| {
        while let Some(output) = mesh.poll_output(now) {
            if let Output::Persist { ticket, record } = output {
                log.push(record);
                mesh.handle_persisted(now, ticket);
            }
        }
    };
    let mesh = &mut world.nodes[0].mesh;
    mesh.set(now, &key("mesh/x"), value("1")).unwrap();
    write(mesh, now);
    mesh.unset(now, &key("mesh/x")).unwrap();
    write(mesh, now);
    now.monotone = now.monotone + Duration::from_secs(30);
    mesh.handle_timeout(now);
    write(mesh, now);
    let store = mesh.replica().store().clone();
    assert_eq!(store.prefix("attr/").count(), 0, "it was let go");
    let mut again = world.mesh(0, 2, Durability::Disk);
    log.iter().for_each(|record| again.restore(now, record).unwrap());
    assert_eq!((again.replica().store(), again.replica().store().floors()), (&store, store.floors()));
}

/// FEATURES P4, SCENARIOS G-12: somebody is evicted who alone holds what another life had written last. When it is back it
/// still is told what was seen of that life, however long that is over: so it is written anew.
#[test]
fn what_was_testified_is_remembered_while_somebody_is_evicted() {
    let mut world = World::with(4, brisk());
    world.converge();
    world.run(Duration::from_secs(25));
    world.cut.extend([(0, 2), (1, 2), (0, 3), (1, 3)]);
    world.run(Duration::from_secs(4));
    world.set(2, "mesh/last", "word");
    world.run(Duration::from_secs(1));
    assert_eq!(world.get(3, "mesh/last"), Some(value("word")));
    world.isolate(3, true);
    world.restart(2, 2);
    world.isolate(3, true);
    world.run(Duration::from_secs(90));
    assert_eq!((world.member(0, 3), world.member(0, 2)), (None, Some(MemberState::Alive)));
    assert_eq!(world.nodes[0].mesh.replica().store().retired(&id(2)), Generation(1));
    world.isolate(3, false);
    world.run(Duration::from_secs(60));
    world.converge();
    for node in 0..4 {
        assert_eq!(world.get(node, "mesh/last"), Some(value("word")));
    }
}

/// FEATURES P4, SCENARIOS G-12: whoever was evicted and is back need not have heard yet of what was testified meanwhile.
#[test]
fn what_was_testified_is_remembered_until_those_who_are_back_have_heard_of_it() {
    let mut world = World::with_a_last_word_unheard();
    // Both go on in later lives before they have everything, one of them with nothing.
    world.restart(2, 2);
    world.cut.clear();
    world.cut.extend([(1, 2)]);
    let is_back = |world: &World| (1..3).all(|node| world.member(0, node) == Some(MemberState::Alive));
    while !is_back(&world) {
        world.run(Duration::from_millis(10));
    }
    assert!(!world.nodes[0].mesh.replica().testimonies(&id(2)).is_empty());
    world.isolate(1, true);
    world.run(Duration::from_millis(1500));
    assert!(
        !world.nodes[0].mesh.replica().testimonies(&id(2)).is_empty(),
        "nobody knows that all have heard of it"
    );
    world.isolate(1, false);
    world.run(Duration::from_secs(60));
    world.converge();
    for node in 0..3 {
        assert_eq!(world.get(node, "mesh/last"), Some(value("word")));
    }
}

impl World {
    /// Two nodes have seen the same, and what the first knows to be dead stands at the second. Only one of them compares.
    fn two_that_differ(compares: usize) -> Self {
        let mut world = Self::with(2, brisk());
        world.converge();
        world.set(1, "mesh/dead", "?");
        world.converge();
        world.isolate(1, true);
        world.unset(0, "mesh/dead");
        let removal = world.nodes[0].mesh.own_attributes();
        world.run(Duration::from_secs(10));
        assert_eq!(world.removed(0), 0, "it has let go of what would have told of it");
        let now = world.time();
        let delta = Delta { accounted: CausalContext::from_iter([removal]), ..Delta::default() };
        world.nodes[1].mesh.replica.merge(now.wall, &delta).unwrap();
        world.nodes[1 - compares].mesh.config.audit_after = Duration::from_secs(3600);
        world.isolate(1, false);
        world.run(Duration::from_secs(4));
        assert_eq!(world.get(1, "mesh/dead"), Some(value("?")));
        world
    }
}

impl Mesh {
    /// What this node wrote.
    fn own_attributes(&self) -> (Lane, RangeSet) {
        let lane = self.replica.own_lanes()[1].clone();
        let seen = self.replica.store().seen_of(&lane).unwrap().clone();
        (lane, seen)
    }
}

/// SCENARIOS G-12: whoever finds that it holds what nobody has seen writes that anew before it agrees. Until then it is not
/// waited for by those who had offered: nobody else would be served, nothing let go, and it would be offered nothing.
#[test]
fn whoever_does_not_agree_yet_is_not_waited_for() {
    let mut world = World::with_a_last_word_unheard();
    world.set(0, "mesh/other", "1");
    world.unset(0, "mesh/other");
    world.run(Duration::from_secs(10));
    world.isolate(1, false);
    world.isolate(2, true);
    while world.get(0, "mesh/last").is_none() {
        world.run(Duration::from_millis(10));
    }
    world.run(Duration::from_secs(1));
    let serves = |node: &Node| node.mesh.links.values().any(|link| link.serve.is_some());
    assert!(!world.nodes.iter().any(serves));
    assert_eq!(world.nodes[1].mesh.replica().store().retired(&id(2)), Generation(1));
    assert_eq!(world.get(1, "mesh/last"), Some(value("word")));
}

/// SCENARIOS G-32: whoever notices that both have seen the same and differ may be the one that lacks nothing, or the other.
#[test]
fn both_fetch_what_differs_whoever_notices_it() {
    for compares in 0..2 {
        let mut world = World::two_that_differ(compares);
        world.run(Duration::from_secs(10));
        for node in 0..2 {
            assert_eq!(world.get(node, "mesh/dead"), None, "n{node}, where n{compares} compares");
        }
        world.converge();
    }
}

/// SCENARIOS G-32: while two fetch from each other, one agrees first. What it tells from then on is something else, so that
/// the other begins anew, at once.
#[test]
fn whoever_fetches_from_one_that_agrees_begins_anew() {
    let mut world = World::two_that_differ(0);
    for node in 0..2 {
        let now = world.time();
        let mesh = &mut world.nodes[node].mesh;
        let link = *mesh.links.keys().next().unwrap();
        mesh.handle_difference(now, link);
        world.drain(node);
        world.run(Duration::from_millis(15));
    }
    world.run(Duration::from_millis(500));
    for node in 0..2 {
        assert_eq!(world.get(node, "mesh/dead"), None, "n{node}");
    }
    world.converge();
}
