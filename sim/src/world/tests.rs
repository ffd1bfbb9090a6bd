use std::time::Duration;

use snomesh::crdt::{CausalContext, Class, Delta, Entry, Item, Lane, Observed, RangeSet, Value};
use snomesh::gossip::{Channel, LinkId, Message, Record, Ticket};
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::time::Timestamp;

use super::*;
use crate::network::link_of;
use crate::random::Seed;
use crate::subscriber::Subscriber;

const HEAD: &str = r#"
schema = 1
name = "small"
about = "for tests"
nodes = 3
duration = "16s"
[expect]
converge_within = "20s"
quiet_for = "2s"
[[subscriber]]
name = "quick"
pace = "20ms"
"#;
const WRITES: &str = "[workload]\nwrites_per_s = 20.0\nkeys = 4\nuntil = \"16s\"\n";

fn scenario(text: &str) -> &'static Scenario {
    let scenario =
        Scenario::parse("x.toml", &format!("{HEAD}{text}")).unwrap_or_else(|error| panic!("{error}"));
    Box::leak(Box::new(scenario))
}

fn outcome(text: &str, seed: u64) -> Outcome {
    World::new(scenario(text), Seed(seed), &Keep::default()).unwrap().run()
}

/// A mesh that has written and come to rest.
fn rested() -> World<'static> {
    let mut world = World::new(scenario(WRITES), Seed(1), &Keep::default()).unwrap();
    while let Some((at, event)) = world.queue.pop() {
        world.now = at;
        if matches!(event, Event::End) {
            break;
        }
        world.handle(event);
    }
    assert_eq!(world.violations, []);
    world
}

fn checkers(world: &World<'_>) -> Vec<Checker> {
    world.violations.iter().map(|violation| violation.checker).collect()
}

fn stranger() -> Lane {
    let actor = Actor { node: NodeId::from_bytes([9; 32]), generation: Generation(1) };
    Lane::new(actor, Class::Attribute)
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    let fault = "[[fault]]\nkind = \"crash\"\nat = \"2s..4s\"\nfor = \"2s\"\nnodes = \"any\"\n";
    let text = format!("{WRITES}{fault}");
    let (one, same, other) = (outcome(&text, 1), outcome(&text, 1), outcome(&text, 2));
    assert_eq!((&one.trace_hash, one.events), (&same.trace_hash, same.events));
    assert_ne!(one.trace_hash, other.trace_hash);
}

#[test]
fn each_fault_bites() {
    let disk = "disk = \"keep\"\n";
    let cases: &[(&str, &str, &[Point])] = &[
        (
            "partition",
            "for = \"9s\"\ngroups = [[0], [1, 2]]\n",
            &[Point::BlockedByPartition, Point::DialsFailed],
        ),
        ("one-way", "for = \"9s\"\nfrom = 0\nto = \"all\"\n", &[Point::BlockedOneWay]),
        ("cut", "for = \"9s\"\nfrom = 0\nto = 1\n", &[Point::BlockedByPartition]),
        ("flap", "for = \"9s\"\nfrom = 0\nto = 1\ndown = \"1s\"\nup = \"1s\"\n", &[Point::Flaps]),
        ("crash", &format!("for = \"2s\"\nnodes = 1\n{disk}"), &[Point::Crashes, Point::Restarts]),
        ("leave", "nodes = 2\n", &[Point::Leaves]),
        ("join", "nodes = 2\n", &[Point::Joins]),
        ("freeze", "for = \"2s\"\nnodes = 1\n", &[Point::Frozen]),
        ("slow-reader", "for = \"2s\"\nnodes = 1\n", &[Point::UnreadFrames]),
        ("weather", "for = \"9s\"\nloss = 0.5\nduplicate = 0.5\n", &[Point::Lost, Point::Duplicated]),
        ("weather", "for = \"9s\"\njitter = \"3s\"\n", &[Point::Reordered]),
        ("clock-jump", "nodes = 1\nby = \"-3s\"\n", &[Point::ClockJumps, Point::ClockWentBack]),
        ("corrupt", "for = \"1s\"\nrate = 0.5\n", &[Point::Corrupted]),
        ("ring", "for = \"9s\"\n", &[Point::BlockedByPartition]),
        ("swizzle", "for = \"9s\"\nnodes = \"all\"\n", &[Point::BlockedByPartition]),
        ("reset", "nodes = 1\n", &[Point::LinkResets, Point::Resets]),
        ("refuse", "for = \"9s\"\n", &[Point::Refused]),
        ("clone", "for = \"9s\"\nfrom = 0\nto = 2\n", &[Point::Clones, Point::Doubles]),
        ("clock-freeze", "for = \"9s\"\nnodes = 1\n", &[Point::ClockStood]),
        ("starve", "for = \"9s\"\nnodes = 1\ndown = \"90ms\"\nup = \"10ms\"\n", &[Point::Frozen]),
        ("panic", "nodes = 1\n", &[Point::SubscriberPanics]),
    ];
    for (kind, parameters, points) in cases {
        let reset =
            if *kind == "refuse" { "[[fault]]\nkind = \"reset\"\nat = \"4s\"\nnodes = 0\n" } else { "" };
        let second = "[[subscriber]]\nname = \"second\"\npace = \"20ms\"\n";
        let nodes = if *kind == "ring" { "5" } else { "3" };
        let text = format!("{second}{WRITES}{reset}[[fault]]\nkind = \"{kind}\"\nat = \"3s\"\n{parameters}");
        let scenario = scenario(&text);
        let scenario =
            Box::leak(Box::new(Scenario { nodes: Drawn::fixed(nodes.parse().unwrap()), ..scenario.clone() }));
        let outcome = World::new(scenario, Seed(1), &Keep::default()).unwrap().run();
        for point in *points {
            assert!(outcome.coverage.count(*point) > 0, "{kind} does not reach {point}");
        }
    }
}

#[test]
fn a_stalled_subscriber_lags_behind_a_small_ring() {
    let second = "[[subscriber]]\nname = \"second\"\npace = \"20ms\"\n";
    let fault = "[[fault]]\nkind = \"stall\"\nat = \"3s\"\nfor = \"4s\"\nnodes = \"all\"\n";
    let outcome = outcome(&format!("{second}{WRITES}[mesh]\nring = 4\n{fault}"), 1);
    assert_eq!(outcome.violations, []);
    assert!(outcome.coverage.count(Point::Lagged) > 0);
}

#[test]
fn what_must_happen_and_does_not_is_unmet() {
    let text = WRITES.replace("[workload]", "[expect.at_least]\ncrashes = 1\n[workload]");
    assert_eq!(outcome(&text, 1).unmet, [(Point::Crashes, 1)]);
}

#[test]
fn a_rested_mesh_passes_every_check() {
    let mut world = rested();
    world.rest();
    assert_eq!(world.violations, []);
}

#[test]
fn a_view_that_missed_something_is_found() {
    let mut world = rested();
    let process = world.nodes[1].process.as_mut().unwrap();
    let jitter = Seed(1).generator("test", &[]);
    let blind =
        Subscriber::new("blind".to_owned(), Duration::ZERO, 1, jitter, &process.ring, View::default());
    process.subscribers.push(blind);
    world.rest();
    assert_eq!(checkers(&world), [Checker::View]);
}

#[test]
fn a_write_that_one_node_alone_has_is_found() {
    let mut world = rested();
    let now = world.nodes[0].now(world.now);
    let value = Value::try_from(&b"alone"[..]).unwrap();
    let mesh = &mut world.nodes[0].process.as_mut().unwrap().mesh;
    mesh.set(now, &"mesh/alone".parse().unwrap(), value).unwrap();
    world.rest();
    assert!(checkers(&world).contains(&Checker::Agreement));
}

#[test]
fn a_verdict_that_is_not_true_is_found() {
    let mut world = rested();
    world.nodes[2].process = None;
    world.rest();
    assert_eq!(checkers(&world), [Checker::Membership, Checker::Membership]);
}

#[test]
fn a_confirmed_write_that_is_nowhere_is_found() {
    let mut world = rested();
    let key = "attr/mesh/x".parse().unwrap();
    let entry = Entry::new(&key, stranger().dot(1), Observed::default(), Timestamp(1), None);
    let items = vec![Item { key, entries: [entry].into_iter().collect() }];
    let record = Record::Delta(Delta { items, ..Delta::default() });
    world.nodes[0].disk.write(world.now, Ticket(1), record, Duration::ZERO);
    world.nodes[0].disk.confirm(Ticket(1));
    world.rest();
    assert!(checkers(&world).iter().all(|checker| *checker == Checker::Durability));
    assert!(!world.violations.is_empty());
}

#[test]
fn a_value_that_somebody_removed_knowingly_is_found() {
    let mut world = rested();
    let World { nodes, reference, .. } = &mut world;
    let process = nodes[0].process.as_mut().unwrap();
    let visible = process.mesh.replica().attributes("").next().unwrap().key;
    let key = snomesh::replica::Path::Attribute(visible).to_key();
    let observed = process.mesh.replica().store().register(&key).unwrap().observed_by(&stranger());
    let removal = Entry::new(&key, stranger().dot(1), observed, Timestamp::MAX, None);
    reference.author(&process.seen, &key, &removal, crate::checker::Basis::Seen).unwrap();
    let context = CausalContext::from_iter([(stranger(), RangeSet::up_to(1))]);
    reference.follow(&mut process.seen, &context).unwrap();
    world.rest();
    assert_eq!(checkers(&world), [Checker::Resurrection]);
}

#[test]
fn a_write_that_never_arrives_is_found() {
    let mut world = rested();
    let now = world.nodes[0].now(world.now);
    let value = Value::try_from(&b"alone"[..]).unwrap();
    world.feed(0, |mesh, now| mesh.set(now, &"mesh/alone".parse().unwrap(), value)).unwrap().unwrap();
    assert!(now.monotone >= world.times.heal);
    world.rest();
    assert!(checkers(&world).contains(&Checker::Delivery), "{:?}", world.violations);
}

#[test]
fn what_happens_too_often_is_found() {
    let text = WRITES.replace("[workload]", "[expect.at_most]\nbytes_sent = 10\n[workload]");
    let found: Vec<Checker> =
        outcome(&text, 1).violations.iter().map(|violation| violation.checker).collect();
    assert_eq!(found, [Checker::Bounds]);
}

/// Every key again, removed and made anew, and written with what is there.
#[test]
fn workloads_rewrite_and_recreate() {
    let same = outcome(&format!("{WRITES}rewrite = {{ every = \"4s\", same = true }}\n"), 1);
    assert!(same.coverage.count(Point::NoOpWrites) >= 8, "{}", same.coverage.count(Point::NoOpWrites));
    let anew = outcome(&format!("{WRITES}rewrite = {{ every = \"4s\" }}\n"), 1);
    assert!(anew.coverage.count(Point::Writes) > same.coverage.count(Point::Writes));
    let again = outcome(&format!("{WRITES}recreates = 0.5\n"), 1);
    assert!(again.coverage.count(Point::Removals) > 50, "{}", again.coverage.count(Point::Removals));
    assert_eq!((same.violations, anew.violations, again.violations), (vec![], vec![], vec![]));
}

#[test]
fn frames_at_rest_and_late_agreement_are_found() {
    let mut world = rested();
    world.noise = (1, "from n0".to_owned());
    world.rest();
    world.agreed_at = None;
    world.deadline();
    assert_eq!(checkers(&world), [Checker::Silence, Checker::Convergence]);
}

#[test]
fn frames_on_links_that_are_not_up_and_bytes_that_nobody_wrote_are_found() {
    let mut world = rested();
    let link = LinkId(u64::MAX);
    world.send(0, link, Channel::Delta, &Message::Heartbeat { digest: [0; 16], asks: false });
    world.hand_over(0, link_of(0, 0), None, vec![0xff; 9]);
    assert_eq!(checkers(&world), [Checker::Discipline, Checker::Wire]);
}
