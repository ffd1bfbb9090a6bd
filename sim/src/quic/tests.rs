use super::*;
use crate::checker::Checker;

const HEAD: &str = r#"
schema = 1
name = "small"
about = "for tests"
nodes = 3
duration = "12s"
[net]
delay = "2ms..20ms"
jitter = "3ms"
[mesh]
start = "0s..500ms"
[expect]
converge_within = "15s"
quiet_for = "2s"
[[subscriber]]
name = "quick"
pace = "20ms"
[workload]
writes_per_s = 20.0
keys = 4
deletes = 0.1
registrations_per_s = 0.5
"#;

fn outcome(text: &str, seed: u64) -> Outcome {
    let scenario =
        Scenario::parse("x.toml", &format!("{HEAD}{text}")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(refusal(&scenario), None);
    run(&scenario, Seed(seed), &Keep::default()).unwrap()
}

fn held(outcome: &Outcome) {
    let broken: Vec<_> = outcome.violations.iter().map(|broken| (broken.checker, &broken.what)).collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert!(outcome.converged_after.is_some());
}

#[test]
fn the_same_seed_is_the_same_packets_and_another_is_others() {
    let weather = "[[fault]]\nkind = \"weather\"\nat = \"1s\"\nfor = \"5s\"\nloss = 0.1\n";
    let (one, same, other) = (outcome(weather, 1), outcome(weather, 1), outcome(weather, 2));
    held(&one);
    assert_eq!((&one.trace_hash, one.events), (&same.trace_hash, same.events));
    assert_ne!(one.trace_hash, other.trace_hash);
}

#[test]
fn each_fault_bites_and_is_survived() {
    let cases: &[(&str, &str, &[Point])] = &[
        ("partition", "for = \"7s\"\ngroups = [[0], [1, 2]]\n", &[Point::BlockedByPartition]),
        ("one-way", "for = \"7s\"\nfrom = 0\nto = \"all\"\n", &[Point::BlockedOneWay]),
        ("cut", "for = \"7s\"\nfrom = 0\nto = 1\n", &[Point::BlockedByPartition]),
        ("flap", "for = \"8s\"\nfrom = 0\nto = 1\ndown = \"2s\"\nup = \"2s\"\n", &[Point::Flaps]),
        ("crash", "for = \"2s\"\nnodes = 1\n", &[Point::Crashes, Point::Restarts, Point::Resets]),
        ("leave", "nodes = 2\n", &[Point::Leaves]),
        ("join", "nodes = 2\n", &[Point::Joins]),
        ("weather", "for = \"7s\"\nloss = 0.3\nduplicate = 0.3\n", &[Point::Lost, Point::Duplicated]),
        ("weather", "for = \"7s\"\njitter = \"300ms\"\n", &[Point::Reordered]),
        ("clock-jump", "nodes = 1\nby = \"-3s\"\n", &[Point::ClockJumps, Point::ClockWentBack]),
        ("clone", "for = \"9s\"\nfrom = 0\nto = 2\n", &[Point::Clones, Point::Doubles]),
        ("clock-freeze", "for = \"7s\"\nnodes = 1\n", &[Point::ClockStood]),
    ];
    for (kind, parameters, points) in cases {
        let outcome = outcome(&format!("[[fault]]\nkind = \"{kind}\"\nat = \"3s\"\n{parameters}"), 1);
        held(&outcome);
        for point in *points {
            assert!(outcome.coverage.count(*point) > 0, "{kind} does not reach {point}");
        }
    }
}

/// FEATURES P12: what was acknowledged is there after a kill, by the store that the product has.
#[test]
fn a_node_comes_back_with_what_its_disk_has_kept_whatever_became_of_it() {
    let head = HEAD.replace("nodes = 3", "nodes = 3\ndurability = \"disk\"");
    let cases = [
        ("keep", Point::RestartFromKeptDisk),
        ("tail", Point::RestartFromStaleDisk),
        ("stale", Point::RestartFromStaleDisk),
        ("lose", Point::WipedRejoin),
    ];
    let mut caught = 0;
    for (fate, point) in cases {
        let crash = format!(
            "[disk]\ndelay = \"5ms..60ms\"\n[[fault]]\nkind = \"crash\"\nat = \"2s\"\nevery = \"3s\"\nfor = \"1s\"\n\
             nodes = \"any\"\ndisk = \"{fate}\"\n"
        );
        let scenario = Scenario::parse("x.toml", &format!("{head}{crash}")).unwrap();
        let [one, same] = [(); 2].map(|()| run(&scenario, Seed(1), &Keep::default()).unwrap());
        held(&one);
        assert_eq!((&one.trace_hash, one.events), (&same.trace_hash, same.events), "{fate}");
        assert!(one.coverage.count(Point::Restarts) > 2 && one.coverage.count(point) > 0, "{fate}");
        caught += one.coverage.count(Point::CrashWithUnsyncedWrite);
    }
    assert!(caught > 0, "no kill caught a write on its way");
}

#[test]
fn a_stalled_subscriber_lags_exactly_and_rebuilds_the_state() {
    let text = HEAD.replace("[mesh]\n", "[mesh]\nring = 4\n");
    let second = "[[subscriber]]\nname = \"second\"\npace = \"20ms\"\n";
    let stall = "[[fault]]\nkind = \"stall\"\nat = \"3s\"\nfor = \"4s\"\nnodes = \"all\"\n";
    let scenario = Scenario::parse("x.toml", &format!("{text}{second}{stall}")).unwrap();
    let outcome = run(&scenario, Seed(1), &Keep::default()).unwrap();
    held(&outcome);
    assert!(outcome.coverage.count(Point::Lagged) > 0);
}

/// Seeds are probed for ever, those among them at whose addresses there is nobody.
#[test]
fn a_seed_that_is_not_there_harms_nobody() {
    let scenario = HEAD.replace("[mesh]\n", "[mesh]\nseeds = 5\n");
    let scenario = Scenario::parse("x.toml", &scenario).unwrap();
    let outcome = run(&scenario, Seed(1), &Keep::default()).unwrap();
    held(&outcome);
    assert!(outcome.coverage.count(Point::DialsFailed) > 0);
}

#[test]
fn a_mesh_that_has_no_time_to_agree_is_found() {
    let hasty = HEAD.replace("converge_within = \"15s\"", "converge_within = \"1ms\"");
    let fault = "[[fault]]\nkind = \"partition\"\nat = \"3s\"\nfor = \"9s\"\ngroups = \"halves\"\n";
    let scenario = Scenario::parse("x.toml", &format!("{hasty}{fault}")).unwrap();
    let outcome = run(&scenario, Seed(1), &Keep::default()).unwrap();
    let checkers: Vec<Checker> = outcome.violations.iter().map(|broken| broken.checker).collect();
    assert_eq!(checkers, [Checker::Convergence]);
}

#[test]
fn what_cannot_be_done_to_a_daemon_is_refused_with_the_reason() {
    let refused = |text: &str| refusal(&Scenario::parse("x.toml", text).unwrap()).unwrap_or_default();
    let freeze = "[[fault]]\nkind = \"freeze\"\nat = \"1s\"\nfor = \"1s\"\nnodes = 0\n";
    assert!(refused(&format!("{HEAD}{freeze}")).contains("`freeze`"));
    assert!(refused(&HEAD.replace("nodes = 3", "nodes = \"3..65\"")).contains("takes 64"));
    let forge = "[[fault]]\nkind = \"forge\"\nat = \"1s\"\nfor = \"1s\"\nnodes = 1\nrate = 0.5\n";
    let sealed = HEAD.replace("[mesh]\n", "[mesh]\nsealed = true\n");
    assert!(refused(&format!("{sealed}{forge}")).contains("`forge`"));
    assert_eq!(refused(&sealed), "");
    assert_eq!(refused(&HEAD.replace("nodes = 3", "nodes = 3\ndurability = \"disk\"")), "");
    assert_eq!(refused(&HEAD.replace("nodes = 3", "nodes = 64")), "");
}

/// Runs the small scenario beside something that lives in the same runtime.
fn beside(task: impl Future<Output = ()> + Send + 'static) -> Vec<Checker> {
    let scenario = Scenario::parse("x.toml", HEAD).unwrap();
    let (seed, keep) = (Seed(1), Keep::default());
    let first = FirstTier::new(&scenario, seed, &Keep { operations: true, ..Keep::default() }).unwrap();
    let identities = Identities::new(seed, first.count());
    let rehearsal = first.rehearse(&identities.ids());
    panics::watch();
    let _seeded = entropy::Seeded::with(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(async {
        let _detached = tokio::spawn(task);
        set_up(&scenario, seed, &identities, rehearsal, &keep).run().await
    });
    outcome.violations.iter().map(|broken| broken.checker).collect()
}

#[test]
fn a_task_that_outlives_the_daemons_is_found() {
    assert_eq!(beside(std::future::ready(())), []);
    assert_eq!(beside(std::future::pending()), [Checker::Tasks]);
}

#[test]
fn a_task_that_panics_is_found() {
    assert_eq!(beside(async { panic!("for the test") }), [Checker::Panic]);
}
