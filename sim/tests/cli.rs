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
    let partition = "[[fault]]\nkind = \"partition\"\nat = \"2s\"\nfor = \"6s\"\ngroups = [[0], [\"1..\"]]\n";
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
    let token = format!("{}@0x3", path.display());
    assert!(out.contains(&format!("replay: cargo run --bin sim -- replay {token}")), "{out}");
    assert!(out.contains(&format!("shrink: cargo run --bin sim -- shrink {token}")), "{out}");
}

/// FEATURES P11. The word that a failure prints repeats it, whatever the command line had changed.
#[test]
fn a_token_replays_the_run_with_its_changes_and_a_filtered_log() {
    let path = scenario("replayed.toml", "converge_within = \"20s\"");
    let path = path.to_str().unwrap();
    let run = sim(&["run", path, "--seed", "0x5", "--set", "expect.converge_within=1ms", "--nodes", "4"]);
    assert_eq!(status(&run), 1);
    let out = text(&run.stdout);
    let token = out
        .lines()
        .find_map(|line| line.trim().strip_prefix("replay: cargo run --bin sim -- replay "))
        .unwrap();
    assert_eq!(token, format!("{path}@0x5+nodes=4+expect.converge_within=1ms"));
    let replayed = sim(&["replay", token]);
    assert_eq!(status(&replayed), 1);
    let trace = |out: &str| out.lines().last().unwrap().rsplit_once("trace ").unwrap().1.to_owned();
    let whole = text(&replayed.stdout);
    assert_eq!(trace(&whole), trace(&out));
    assert!(whole.lines().count() > 100 && whole.contains("FAIL convergence"), "{whole}");
    let filtered = sim(&["replay", token, "--node", "1", "--key", "k1", "--until", "5s"]);
    let some = text(&filtered.stdout);
    let log: Vec<&str> = some.lines().take_while(|line| !line.is_empty()).collect();
    assert!(!log.is_empty() && log.len() < whole.lines().count() / 4, "{some}");
    for line in log {
        assert!(line.contains("k1") && (line.contains("  n1 ") || !line.contains("  n")), "{line}");
        assert!(line.trim().split('.').next().unwrap().parse::<u64>().unwrap() < 5, "{line}");
    }
}

/// FEATURES P11. A planted failure is reduced to a file that fails in the same way.
#[test]
fn a_failing_run_is_shrunk_to_a_file_that_fails_in_the_same_way() {
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("shrunk.toml");
    let path = scenario("to-shrink.toml", "converge_within = \"20s\"");
    let token = &format!("{}@0x5+nodes=4+expect.converge_within=1ms", path.display());
    let shrunk = sim(&["shrink", token, "--out", out.to_str().unwrap()]);
    assert_eq!(status(&shrunk), 0, "{}", text(&shrunk.stderr));
    let told = text(&shrunk.stdout);
    assert!(told.contains("from 4 nodes") && told.contains("to   2 nodes"), "{told}");
    let written = std::fs::read_to_string(&out).unwrap();
    assert!(written.contains("[schedule]") && written.contains("seed = \"0x5\""), "{written}");
    let replayed = sim(&["replay", out.to_str().unwrap()]);
    assert_eq!(status(&replayed), 1);
    assert!(text(&replayed.stdout).contains("FAIL convergence"));
    // Whole daemons are run for it where whole daemons failed.
    let token = "calm@0x1+tier=quic+duration=2s+expect.converge_within=1ms";
    let shrunk = sim(&["shrink", token, "--for", "30s", "--out", out.to_str().unwrap()]);
    assert!([0, 5].contains(&status(&shrunk)), "{}", text(&shrunk.stderr));
    assert!(std::fs::read_to_string(&out).unwrap().contains("tier = \"quic\""));
    let holds = sim(&["shrink", "three-node-partition@5", "--out", out.to_str().unwrap()]);
    assert_eq!(status(&holds), 2);
    assert!(text(&holds.stderr).contains("nothing to shrink"));
}

/// FEATURES P11. A trace is drawn later exactly as its run was drawn at once.
#[test]
fn a_trace_is_drawn_later_as_its_run_was_at_once() {
    let path =
        |name: &str| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name).to_str().unwrap().to_owned();
    let (trace, page, again, picture) =
        (path("drawn.jsonl"), path("drawn.html"), path("again.html"), path("drawn.svg"));
    let run =
        sim(&["run", "crash-restart", "--seed", "2", "--trace", &trace, "--html", &page, "--svg", &picture]);
    assert_eq!(status(&run), 0, "{}", text(&run.stdout));
    let drawn = sim(&["timeline", &trace, "--html", &again]);
    assert_eq!(status(&drawn), 0, "{}", text(&drawn.stderr));
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    assert!(read(&page) == read(&again), "the pages differ");
    assert!(read(&page).contains("everything held") && read(&picture).starts_with("<svg "));
    assert_eq!(text(&drawn.stdout), format!("wrote {again}\n"));
    let none = sim(&["timeline", &page, "--svg", &picture]);
    assert_eq!(status(&none), 2);
    assert!(text(&none.stderr).contains("drawn.html:1: this is no trace"), "{}", text(&none.stderr));
}

/// FEATURES P11. Two reports are compared scenario by scenario.
#[test]
fn two_reports_are_compared_scenario_by_scenario() {
    let path =
        |name: &str| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name).to_str().unwrap().to_owned();
    let (base, new) = (path("base.json"), path("new.json"));
    for (report, loss) in [(&base, "net.loss=0.0"), (&new, "net.loss=0.2")] {
        let run = sim(&["run", "three-node-partition", "--seeds", "2", "--set", loss, "--json", report]);
        assert_eq!(status(&run), 0, "{}", text(&run.stdout));
    }
    let compared = sim(&["compare", &base, &new]);
    assert_eq!(status(&compared), 0, "{}", text(&compared.stderr));
    let out = text(&compared.stdout);
    assert!(out.contains("| three-node-partition | 2 | 0 | ") && out.contains(" → "), "{out}");
    assert_eq!(status(&sim(&["compare", &base, "/nowhere.json"])), 2);
}

#[test]
fn a_search_whose_time_is_up_before_its_seeds_are_run_is_5() {
    let output = sim(&["run", "three-node-partition", "--seeds", "100000", "--for", "300ms"]);
    assert_eq!(status(&output), 5, "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("the time was up after"));
    let endless = sim(&["run", "three-node-partition", "--for", "300ms"]);
    assert_eq!(status(&endless), 0, "{}", text(&endless.stdout));
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
        &["run", "three-node-partition", "--set", "net.los=0.1", "--json", report],
        &["run", "three-node-partition", "--faults", "fire", "--json", report],
        &["run", "three-node-partition", "--for", "10", "--json", report],
        &["replay", "three-node-partition@x"],
        &["replay", "all@1"],
        &["shrink", "no-such-scenario@1"],
        &["run", "three-node-partition", "--seeds", "20..5", "--json", report],
        &["run", "three-node-partition", "--set", "nodes=0", "--json", report],
        &["run", "three-node-partition", "--set", "nodes=5..3", "--json", report],
        &["run", "three-node-partition", "--set", "mesh.seeds=0", "--json", report],
        &["run", "three-node-partition", "--set", "workload.writes_per_s=-1.0", "--json", report],
        &["run", "three-node-partition@1", "calm@2", "--json", report],
        &["run", "three-node-partition", "--seek", "luck", "--json", report],
        &["run", "three-node-partition", "--duration", "1s", "--json", report],
        &["run", "three-node-partition", "--nodes", "4..x", "--json", report],
        &["run", "three-node-partition", "--nodes", "0", "--json", report],
        &["run", "three-node-partition", "--nodes", "1..10001", "--json", report],
        &["run", "three-node-partition", "--json", report, "--trace", report],
        &["replay", "three-node-partition@1", "--node", "3"],
        &["run", "--json", report],
        &["dance"],
    ] {
        let output = sim(args);
        assert_eq!(status(&output), 2, "{args:?}: {}", text(&output.stdout));
        assert!(!output.stderr.is_empty());
        assert!(!PathBuf::from(report).exists(), "{args:?}");
    }
}

#[test]
fn a_report_that_finds_no_place_is_2_before_anything_is_run() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("taken");
    std::fs::create_dir_all(&directory).unwrap();
    let nowhere = directory.join("no/such/place.json");
    for (option, path) in
        [("--json", &nowhere), ("--json", &directory), ("--html", &nowhere), ("--trace", &directory)]
    {
        let output = sim(&["run", "three-node-partition", option, path.to_str().unwrap()]);
        assert_eq!(status(&output), 2, "{option} {}", path.display());
        assert!(text(&output.stderr).contains("cannot write"), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    let output = sim(&["shrink", "three-node-partition@1", "--out", nowhere.to_str().unwrap()]);
    assert_eq!(status(&output), 2);
    assert!(text(&output.stderr).contains("cannot write"));
}

/// A directory of one test's own, with nothing in it.
fn empty_directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Left by the last time, if it is there.
    std::fs::remove_dir_all(&directory).ok();
    std::fs::create_dir(&directory).expect("the directory is cargo's");
    directory
}

#[cfg(unix)]
#[test]
fn a_report_goes_to_the_file_that_a_link_leads_to_and_leaves_the_files_of_others_alone() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let directory = empty_directory("linked");
    let file = |name: &str| directory.join(name);
    std::fs::write(file("target.json"), "old").unwrap();
    std::fs::set_permissions(file("target.json"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::write(file("link.json.part"), "somebody else's").unwrap();
    symlink("target.json", file("link.json")).unwrap();
    symlink("not-yet.json", file("dangling.json")).unwrap();
    symlink("circle.json", file("circle.json")).unwrap();
    for (link, target) in [("link.json", "target.json"), ("dangling.json", "not-yet.json")] {
        let output = sim(&["run", "three-node-partition", "--json", file(link).to_str().unwrap()]);
        assert_eq!(status(&output), 0, "{}", text(&output.stderr));
        assert!(file(link).is_symlink(), "{link} is no link any more");
        assert!(std::fs::read_to_string(file(target)).unwrap().contains("\"trace_hash\""));
    }
    assert_eq!(std::fs::metadata(file("target.json")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_to_string(file("link.json.part")).unwrap(), "somebody else's");
    let output = sim(&["run", "three-node-partition", "--json", file("circle.json").to_str().unwrap()]);
    assert_eq!(status(&output), 2);
    assert!(text(&output.stderr).contains("circle.json: its links lead nowhere; name another place"));
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 6);
}

#[cfg(unix)]
#[test]
fn a_report_is_written_into_a_pipe_which_stays_one() {
    use std::io::Read as _;
    use std::os::unix::fs::{FileTypeExt as _, symlink};

    let directory = empty_directory("piped");
    let (pipe, link) = (directory.join("pipe"), directory.join("link"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    symlink("pipe", &link).unwrap();
    // For reading and writing, so that neither end waits for the other.
    let mut end = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    for path in [&pipe, &link] {
        let output = sim(&["run", "three-node-partition", "--json", path.to_str().unwrap()]);
        assert_eq!(status(&output), 0, "{}", text(&output.stderr));
        assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        assert!(link.is_symlink());
        let mut report = vec![0; 1 << 16];
        let len = end.read(&mut report).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report[..len]).unwrap();
        assert_eq!(report["runs"].as_array().unwrap().len(), 1);
    }
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
}

#[test]
fn two_reports_in_one_place_are_2_before_anything_is_run() {
    let directory = empty_directory("shared");
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (one, same) = (file("one.html"), file("./one.html"));
    let output = sim(&["run", "three-node-partition", "--html", &one, "--svg", &same]);
    assert_eq!(status(&output), 2);
    let error = text(&output.stderr);
    assert!(error.contains("--html and --svg both name ") && error.contains("give each its own"), "{error}");
    assert!(output.stdout.is_empty());
    // The page beside a trace would be the trace itself.
    std::fs::write(&one, "a trace").unwrap();
    let output = sim(&["timeline", &one]);
    assert_eq!(status(&output), 2);
    assert!(text(&output.stderr).contains("the trace and --html both"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&one).unwrap(), "a trace");
}

#[test]
fn a_name_that_is_nearly_one_is_told_the_one() {
    let output = sim(&["run", "tree-node-partiton"]);
    assert_eq!(status(&output), 2);
    let error = text(&output.stderr);
    assert!(error.contains("tree-node-partiton; did you mean three-node-partition?"), "{error}");
    let strange = text(&sim(&["run", "quux"]).stderr);
    assert!(
        strange.contains("`sim list` names the scenarios") && !strange.contains("did you mean"),
        "{strange}"
    );
}

#[test]
fn nodes_may_be_a_range_as_in_a_scenario() {
    let output = sim(&["run", "calm", "--nodes", "4..6"]);
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    let error = text(&sim(&["run", "calm", "--nodes", "many"]).stderr);
    assert!(error.contains("write how many, such as 5, or a range, such as 4..6"), "{error}");
}

#[test]
fn a_replay_whose_filter_nothing_passes_says_so() {
    let strange = sim(&["replay", "three-node-partition@1", "--node", "99"]);
    assert_eq!(status(&strange), 2);
    let error = text(&strange.stderr);
    assert!(error.contains("there is no node 99, this run has nodes 0 to 2"), "{error}");
    assert!(strange.stdout.is_empty());
    let nothing = sim(&["replay", "three-node-partition@1", "--key", "nosuch"]);
    assert_eq!(status(&nothing), 0);
    assert!(
        text(&nothing.stderr).contains("nothing in the log is of --key nosuch"),
        "{}",
        text(&nothing.stderr)
    );
}

#[test]
fn several_scenarios_and_a_range_of_seeds_are_run_at_once() {
    let output = sim(&["run", "calm", "three-node-partition", "--seeds", "3..4", "--json", "-"]);
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = report["runs"].as_array().unwrap();
    let tokens: Vec<&str> = runs.iter().map(|run| run["token"].as_str().unwrap()).collect();
    assert_eq!(tokens, ["calm@0x3", "calm@0x4", "three-node-partition@0x3", "three-node-partition@0x4"]);
}

#[test]
fn a_report_to_standard_output_is_alone_there() {
    let traced = sim(&["run", "calm", "--trace", "-"]);
    assert_eq!(status(&traced), 0, "{}", text(&traced.stderr));
    assert!(text(&traced.stderr).contains("calm"), "{}", text(&traced.stderr));
    for line in text(&traced.stdout).lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    let drawn = sim(&["run", "calm", "--svg", "-"]);
    let picture = text(&drawn.stdout);
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}");
    let twice = sim(&["run", "calm", "--json", "-", "--trace", "-"]);
    assert_eq!(status(&twice), 2);
    assert!(text(&twice.stderr).contains("--json and --trace both name -"), "{}", text(&twice.stderr));
    assert!(!PathBuf::from("-").exists());
}

#[test]
fn a_batch_that_covers_too_little_is_3_when_the_gate_is_asked_for() {
    let output = sim(&["run", "calm", "--gate"]);
    assert_eq!(status(&output), 3, "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("NOT COVERED by any run: blocked_by_partition"));
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
    let header: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&header["kind"], &header["schema"]), (&"header".into(), &1.into()));
    assert!(lines.contains("\"kind\":\"digests\"") && lines.contains("\"what\":\"delta\""));
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

/// What failed once, reduced to the smallest scenario that shows it.
#[test]
fn no_failure_comes_back() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/regressions");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let output = sim(&["run", path.to_str().unwrap(), "--seeds", "6"]);
        assert_eq!(status(&output), 0, "{}", text(&output.stdout));
        count += 1;
    }
    assert!(count >= 3);
}

/// FEATURES B5, P11: whole daemons on QUIC, byte for byte the same in every process.
#[test]
fn the_tier_of_daemons_repeats_itself_and_says_what_it_cannot_run() {
    let output = sim(&["verify", "three-node-partition", "--tier", "quic"]);
    assert_eq!(status(&output), 0, "{}", text(&output.stdout));
    assert!(text(&output.stdout).starts_with("same    three-node-partition  "));
    let output = sim(&["run", "frozen-node", "--tier", "quic"]);
    assert_eq!(status(&output), 2);
    assert!(text(&output.stderr).contains("frozen-node is not for this tier: it has the fault `freeze`"));
    let output = sim(&["run", "calm@0x3+tier=quic", "--nodes", "2"]);
    assert_eq!(status(&output), 0, "{}", text(&output.stdout));
}
