//! The everyday commands: looking, waiting, asking, completing, in the background and out of it.

use std::net::TcpListener;
use std::process::Command;

use crate::program::{Agent, Run, snomesh, until};

fn refused(run: &Run, code: i32, what: &str, hint: &str) {
    assert_eq!(run.code, Some(code), "{run:?}");
    assert!(run.stdout.is_empty(), "{run:?}");
    assert!(run.stderr.contains(what) && run.stderr.contains(hint), "not there: {what}, {hint}: {run:?}");
}

/// FEATURES P4: what there is, for people and programs; what is mistyped is guessed.
#[test]
fn nodes_and_tunnels_are_shown_and_slips_are_understood() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "amsterdam", &[]);
    let b = Agent::join(directory.path(), "berlin", &a);
    b.ok(&["expose", "web", "9", "--attr", "env=prod"]);
    a.ok(&["expose", "db", "9", "--attr", "env=test"]);
    a.ok(&["attr", "set", "color", "blue"]);
    for agent in [&a, &b] {
        agent.ok(&[
            "wait",
            "--nodes",
            "2",
            "--tunnel",
            "web",
            "--tunnel",
            "db",
            "--attr",
            "color",
            "--timeout",
            "60s",
        ]);
    }
    assert_eq!(a.ok(&["node", "show", "berlin", "-o", "name"]).text().trim(), b.id);
    assert_eq!(a.ok(&["node", "show", &b.id[..8], "-o", "json"]).json()["linked"], true);
    until("it tells of its links", || {
        a.ok(&["node", "show", "berlin"]).text().contains("links       amsterdam")
    });
    refused(&a.run(&["node", "show", "berln"]), 4, "berln", "did you mean \"berlin\"?");
    assert!(a.ok(&["node", "ls", "-o", "wide"]).text().contains(&b.id));

    let web = a.ok(&["tunnel", "show", "web", "-o", "json"]).json();
    assert_eq!((&web["name"], &web["tunnels"][0]["holderName"]), (&"web".into(), &"berlin".into()));
    assert!(a.ok(&["tunnel", "show", "web"]).text().contains("attribute   env=prod"));
    refused(&a.run(&["tunnel", "show", "wbe"]), 4, "wbe", "did you mean \"web\"?");
    assert_eq!(a.ok(&["tunnel", "ls", "-l", "env=prod", "-o", "name"]).text().trim(), "web");
    assert_eq!(a.ok(&["tunnel", "ls", "-l", "env=none", "-o", "name"]).text(), "");
    refused(&a.run(&["attr", "get", "colour"]), 4, "mesh/colour", "did you mean \"mesh/color\"?");

    let mut watch = a.follow(&["watch", "w"]);
    assert!(watch.line().starts_with("= web"));
    assert!(watch.line().starts_with("--"));
    b.ok(&["unexpose", "web"]);
    assert!(watch.line().starts_with("- web"));
    let mut list = a.follow(&["tunnel", "ls", "--watch", "-o", "name"]);
    assert_eq!(list.line(), "db");
    // What is watched is printed anew when it changes, and the watch ends with its node.
    b.ok(&["expose", "late", "9"]);
    assert_eq!((list.line(), list.line()), ("db".to_owned(), "late".to_owned()));
    let mut values = a.follow(&["attr", "ls", "--watch", "-o", "jsonl"]);
    let value =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["value"]["text"].clone();
    assert_eq!(value(&values.line()), "blue");
    b.ok(&["attr", "set", "color", "green"]);
    assert_eq!(value(&values.line()), "green");
    let mut nodes = a.follow(&["node", "ls", "--watch", "-o", "name"]);
    assert_eq!((nodes.line(), nodes.line()), (a.id.clone(), b.id.clone()));
    let mut status = a.follow(&["status", "--watch", "-o", "jsonl"]);
    let tunnels = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["tunnels"].as_u64();
    assert_eq!(tunnels(&status.line()), Some(2));
    a.ok(&["expose", "more", "9"]);
    until("the status is told anew", || tunnels(&status.line()) == Some(3));
    refused(&a.run(&["wait", "--tunnel", "web", "--timeout", "200ms"]), 6, "tunnel \"web\"", "--timeout");
    refused(&a.run(&["wait", "--nodes", "3", "--timeout", "200ms"]), 6, "1 of 3 nodes", "--timeout");
    let id = b.id.clone();
    b.stop();
    // Once for each change that is news: down, or gone, in whatever steps.
    assert_eq!((nodes.line(), nodes.line()), (a.id.clone(), id));
    a.stop();
    for watching in [list, values, nodes, status] {
        assert_eq!(watching.ended(), Some(3));
    }
}

/// FEATURES P4: what is named shortly in one command is named shortly in all, and nothing that was said is dropped.
#[test]
fn names_of_the_mesh_are_short_everywhere_and_no_attribute_is_given_twice() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    a.ok(&["attr", "set", "hue/of/all", "red"]);
    a.ok(&["attr", "set", "tunnel/web/hue", "blue"]);
    assert_eq!(a.ok(&["attr", "ls", "hue", "-o", "name"]).text().trim(), "mesh/hue/of/all");
    let mut watch = a.follow(&["attr", "watch", "hue"]);
    assert!(watch.line().contains("mesh/hue/of/all"));
    for command in [&["expose", "web", "9"][..], &["invite"]] {
        let twice = a.run(&[command, &["--attr", "env=prod", "--attr", "env=test"]].concat());
        assert_eq!(twice.code, Some(2), "{twice:?}");
        assert!(twice.stderr.contains("env is given twice, as prod and as test"), "{twice:?}");
    }
    let invited = a.ok(&["invite", "--ttl", "24h", "--uses", "20"]);
    assert!(invited.text().contains("Holds for 24 h, for 20 machines."), "{invited:?}");
}

/// Exit codes 8 and 9: the node is well or not, and what is behind a tunnel answers or does not.
#[test]
fn what_does_not_answer_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = Agent::join(directory.path(), "b", &a);
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = service.local_addr().unwrap();
    b.ok(&["expose", "web", &address.to_string()]);
    a.ok(&["wait", "--nodes", "2", "--tunnel", "web", "--timeout", "60s"]);
    until("both agree", || a.digest() == b.digest());
    let pong = a.ok(&["ping", "b", "-c", "2", "-i", "1ms", "-o", "jsonl"]).text();
    assert_eq!(pong.lines().filter(|line| line.contains("\"kind\":\"node\"")).count(), 2, "{pong}");
    assert!(a.ok(&["ping", "web", "-c", "1"]).text().contains("least"));
    assert_eq!(b.ok(&["doctor"]).code, Some(0));
    drop(service);
    let unreachable = a.run(&["ping", "web", "-c", "1"]);
    refused(&unreachable, 9, "web", "snomesh doctor");
    refused(&a.run(&["ping", "wbe"]), 4, "wbe", "did you mean \"web\"?");
    let doctor = b.run(&["doctor"]);
    assert_eq!(doctor.code, Some(8), "{doctor:?}");
    assert!(doctor.text().contains("tunnel web") && doctor.text().contains("snomesh unexpose"), "{doctor:?}");
    assert_eq!(b.run(&["status", "--deep"]).code, Some(8));
    let checks = b.run(&["doctor", "-o", "json"]).json();
    let failed = checks["checks"].as_array().unwrap().iter().filter(|check| check["verdict"] == "fail");
    assert_eq!(failed.map(|check| check["name"].as_str().unwrap()).collect::<Vec<_>>(), ["tunnel web"]);
    a.ok(&["bind", "0", "nobody"]);
    assert!(a.run(&["doctor", "-o", "name"]).text().contains("bind 127.0.0.1:"));
}

/// FEATURES P7: completions know the names; a shell is never told an error.
#[test]
fn completions_know_the_names_of_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "amsterdam", &[]);
    a.ok(&["expose", "web", "9"]);
    a.ok(&["attr", "set", "color", "blue"]);
    let complete = |words: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_snomesh"))
            .env_clear()
            .env("COMPLETE", "fish")
            .env("SNOMESH_AGENT", &a.admin)
            .args(["--", "snomesh"])
            .args(words)
            .output()
            .unwrap();
        assert!(run.stderr.is_empty(), "{run:?}");
        String::from_utf8(run.stdout).unwrap()
    };
    assert_eq!(complete(&["tunnel", "show", "w"]).trim(), "web");
    assert_eq!(complete(&["bind", "0", ""]).lines().next(), Some("web"));
    assert_eq!(complete(&["node", "show", "ams"]).trim(), "amsterdam");
    assert_eq!(complete(&["attr", "get", "c"]).trim(), "color");
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, "default = \"allow\"\n[groups]\nedge = []\nvault = []\n").unwrap();
    a.ok(&["acl", "set", policy.to_str().unwrap()]);
    assert_eq!(complete(&["invite", "--role", "e"]).trim(), "edge");
    assert!(complete(&["comp"]).starts_with("completions"));
    a.end(rustix::process::Signal::TERM);
    let directory = directory.path().join("nowhere");
    let run = Command::new(env!("CARGO_BIN_EXE_snomesh"))
        .env_clear()
        .env("COMPLETE", "fish")
        .args(["--", "snomesh", "--data-dir", directory.to_str().unwrap(), "tunnel", "show", ""])
        .output()
        .unwrap();
    assert!(run.stderr.is_empty() && run.status.success(), "{run:?}");
}

#[test]
fn every_command_has_a_page_in_the_manual_and_help_that_says_what_it_is_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("man");
    assert_eq!(snomesh(&["man", "--dir", path.to_str().unwrap()]).code, Some(0));
    let pages = std::fs::read_dir(&path).unwrap().count();
    assert!(pages > 25, "{pages}");
    assert!(snomesh(&["man"]).text().contains(".TH snomesh"));
    for entry in std::fs::read_dir(&path).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // The name of one command has a hyphen itself.
        let words = name.trim_end_matches(".1").replace("log-level", "log_level");
        let words: Vec<String> = words.split('-').skip(1).map(|word| word.replace('_', "-")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let help = snomesh(&words);
        assert_eq!(help.code, Some(0), "{name}: {help:?}");
        let first = help.text().lines().next().unwrap_or_default().to_owned();
        assert!(first.split(' ').count() >= 2 && !first.starts_with("Usage"), "{name}: {first:?}");
    }
}

/// A node in the background serves when the command returns, and ends when it is told.
#[test]
fn a_node_goes_into_the_background_once_it_serves() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("a");
    let args = |rest: &[&str]| {
        let mut args = vec!["--data-dir".to_owned(), data.to_str().unwrap().to_owned()];
        args.extend(rest.iter().map(ToString::to_string));
        args
    };
    let run = |rest: &[&str]| {
        let args = args(rest);
        snomesh(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let up = run(&["up", "--detach", "--name", "a", "--listen", "127.0.0.1:0"]);
    assert_eq!(up.code, Some(0), "{up:?}");
    assert!(up.text().contains("serves on udp/127.0.0.1:"), "{up:?}");
    assert_eq!(run(&["status", "-o", "json"]).json()["name"], "a");
    let again = run(&["up", "--detach", "--listen", "127.0.0.1:0"]);
    assert_eq!(again.code, Some(7), "{again:?}");
    assert!(again.stderr.contains("another snomesh"), "{again:?}");
    assert!(directory.path().join("a.log").exists());
    // And one that joins, in one command: it has used its invitation when it goes there.
    let token = run(&["invite", "-o", "name"]).text();
    let (token, other) = (token.trim(), directory.path().join("b.1"));
    let other = ["--data-dir", other.to_str().unwrap()];
    let as_b = |rest: &[&str]| snomesh(&[&other[..], rest].concat());
    let unclear = as_b(&["join", token, "--detach"]);
    assert_eq!(unclear.code, Some(2), "{unclear:?}");
    assert!(unclear.stderr.contains("--up"), "{unclear:?}");
    let joined = as_b(&["join", token, "--up", "--detach", "--name", "join", "--listen", "127.0.0.1:0"]);
    assert_eq!(joined.code, Some(0), "{joined:?}");
    assert_eq!(run(&["wait", "--nodes", "2"]).code, Some(0));
    assert_eq!(as_b(&["status", "-o", "json"]).json()["name"], "join");
    assert!(directory.path().join("b.1.log").exists());
    as_b(&["down"]);
    let again = as_b(&["join", token]);
    assert_eq!(again.code, Some(5), "{again:?}");
    assert!(again.stderr.contains("belongs to the mesh already"), "{again:?}");
    assert_eq!(run(&["down"]).code, Some(0));
    assert_eq!(run(&["status"]).code, Some(3));
}

/// When `down` says that the node has ended, another one may have its directory.
#[test]
fn a_directory_is_free_when_its_node_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = Agent::join(directory.path(), "b", &a);
    a.ok(&["wait", "--nodes", "2", "--timeout", "60s"]);
    b.ok(&["down"]);
    std::fs::File::open(b.data_dir.join("lock")).unwrap().try_lock().unwrap();
}
