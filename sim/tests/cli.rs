//! The command line as people and programs meet it: exit statuses, messages, files.

use std::path::PathBuf;
use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().expect("the program was just built")
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("it ends by itself")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it writes text")
}

fn file(name: &str, content: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).expect("the directory is cargo's");
    path
}

fn scenario(name: &str, expect: &str) -> PathBuf {
    let partition = "[[fault]]\nkind = \"partition\"\nat = \"2s\"\nfor = \"6s\"\ngroups = [[0], [1]]\n";
    let head = "schema = 1\nname = \"x\"\nabout = \"x\"\nnodes = 2\nduration = \"8s\"\n";
    file(name, &format!("{head}{partition}[workload]\nwrites_per_s = 5.0\n[expect]\n{expect}\n"))
}

#[test]
fn a_scenario_that_holds_is_0_and_the_last_line_says_what_was_run() {
    let output = sim(&["run", "three-node-partition", "--seed", "0x1"]);
    assert_eq!(status(&output), 0);
    let out = text(&output.stdout);
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("1 runs, ") && last.contains(" × real time, ") && last.contains(", trace "),
        "{last}"
    );
}

#[test]
fn something_that_does_not_hold_is_1_with_the_command_that_repeats_it() {
    let path = scenario("hasty.toml", "converge_within = \"1ms\"");
    let output = sim(&["run", path.to_str().unwrap(), "--seed", "3"]);
    assert_eq!(status(&output), 1);
    let out = text(&output.stdout);
    assert!(out.contains("FAIL convergence  scenario="), "{out}");
    assert!(out.contains("--seed 0x3") && out.contains("replay: cargo run --bin sim -- run "), "{out}");
}

#[test]
fn a_scenario_that_makes_no_sense_is_2_with_its_place() {
    let path = scenario("illegal.toml", "converge_within = \"20\"");
    let output = sim(&["run", path.to_str().unwrap()]);
    assert_eq!(status(&output), 2);
    let error = text(&output.stderr);
    assert!(error.contains("illegal.toml:14:19: ") && error.contains("\"5s\""), "{error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn arguments_that_make_no_sense_are_2_and_nothing_is_written() {
    let report = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nothing.json");
    let report = report.to_str().unwrap();
    for args in [
        &["run", "no-such-scenario", "--json", report][..],
        &["run", "three-node-partition", "--seed", "2f", "--json", report],
        &["run", "three-node-partition", "--seeds", "0", "--json", report],
        &["run", "three-node-partition", "--nodes", "2", "--json", report],
        &["run", "three-node-partition", "--seeds", "2", "--trace", report],
        &["dance"],
    ] {
        let output = sim(args);
        assert_eq!(status(&output), 2, "{args:?}: {}", text(&output.stdout));
        assert!(!output.stderr.is_empty());
        assert!(!PathBuf::from(report).exists(), "{args:?}");
    }
}

#[test]
fn a_fault_that_never_happened_is_3() {
    let path = scenario("idle.toml", "converge_within = \"20s\"\nat_least = { crashes = 1 }");
    let output = sim(&["run", path.to_str().unwrap()]);
    assert_eq!(status(&output), 3);
    assert!(text(&output.stdout).contains("crashes 0 of 1"));
}

#[test]
fn the_report_for_programs_says_everything_about_each_run() {
    let output = sim(&["run", "three-node-partition", "--seeds", "2", "-j", "1", "--json", "-"]);
    assert_eq!(status(&output), 0);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["schema"], report["runs"].as_array().unwrap().len()), (&1.into(), 2));
    let run = &report["runs"][1];
    assert_eq!((&run["scenario"], &run["seed"]), (&"three-node-partition".into(), &1.into()));
    assert_eq!((&run["nodes"], &run["converged"]), (&3.into(), &true.into()));
    assert_eq!(run["violations"].as_array().unwrap().len(), 0);
    for field in ["virtual_ms", "wall_ms", "events"] {
        assert!(run[field].as_u64().unwrap() > 0, "{field}");
    }
    assert_eq!(run["trace_hash"].as_str().unwrap().len(), 16);
    assert!(run["faults"]["blocked_by_partition"].as_u64().unwrap() > 0);
    assert!(run["sometimes"]["deltas"].as_u64().unwrap() > 0);
}

#[test]
fn a_trace_has_a_line_for_every_record() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("trace.jsonl");
    let scenario = scenario("traced.toml", "converge_within = \"20s\"");
    let output = sim(&["run", scenario.to_str().unwrap(), "--trace", path.to_str().unwrap()]);
    assert_eq!(status(&output), 0, "{}", text(&output.stdout));
    let lines = std::fs::read_to_string(path).unwrap();
    assert!(lines.lines().count() > 100);
    for line in lines.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(record["kind"].is_string() && record["t_ns"].is_u64());
    }
}

#[test]
fn the_same_seed_is_the_same_run_in_every_process() {
    let output = sim(&["verify", "three-node-partition", "--seed", "5"]);
    assert_eq!(status(&output), 0, "{}", text(&output.stdout));
    assert!(text(&output.stdout).starts_with("same    three-node-partition"));
}

#[test]
fn the_list_names_scenarios_checks_and_what_is_counted() {
    let output = sim(&["list"]);
    assert_eq!(status(&output), 0);
    let out = text(&output.stdout);
    for name in ["three-node-partition", "resurrection", "blocked_by_partition"] {
        assert!(out.contains(name), "{name}");
    }
}
