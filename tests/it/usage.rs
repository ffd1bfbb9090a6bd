//! What the command line refuses, and with which exit code.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::process::Signal;

use crate::program::{Agent, Run, snomesh, snomesh_reading, snomesh_with};

/// Errors are for people: on standard error, with what to do.
fn refused(run: &Run, code: i32, what: &str) {
    assert_eq!(run.code, Some(code), "{run:?}");
    assert!(run.stdout.is_empty(), "{run:?}");
    assert!(run.stderr.contains("error:"), "{run:?}");
    assert!(run.stderr.contains(what), "not there: {what}: {run:?}");
}

#[test]
fn what_is_not_legal_is_a_usage_error() {
    for (args, what) in [
        (&["status", "--colour"][..], "--colour"),
        (&["fly"], "fly"),
        (&["up", "--listen", "nowhere"], "IP:PORT"),
        (&["up", "--join", "host"], "HOST:PORT"),
        (&["up", "--ca-key", "x"], "--ca"),
        (&["up", "--name", ""], "a node's name"),
        (&["expose", "Not_A_Name", "80"], "tunnel's name"),
        (&["expose", "web", "host:99999"], "host:port"),
        (&["expose", "web", "80", "--attr", "x"], "NAME=VALUE"),
        (&["bind", "localhost:1", "web"], "IP:PORT"),
        (&["attr", "get", "a b"], "attribute's name"),
        (&["attr", "get", "node/x/color"], "node id"),
        (&["attr", "set", &"x".repeat(129), "v"], "at most 128"),
        (&["status", "--timeout", "soon"], "duration"),
        (&["demo", "--output", "json", "--once"], "for people"),
        (&["bind", "40000-39999", "web"], "39999-40000"),
        (&["server", "--cert", "c", "--key", "k", "--quic", "127.0.0.1:0", "--ports", "99-80"], "80-99"),
        (&["--agent", "127.0.0.1:7668", "status"], "http://127.0.0.1:7668"),
        (&["cert", "/nowhere/x", "--san", ""], "DNS name"),
        (&["cert", "/nowhere/x", "--san", "foo bar"], "DNS name"),
    ] {
        refused(&snomesh(args), 2, what);
    }
}

/// FEATURES P7: 2 is critical to whoever watches over others, and a mistake in what they ask says nothing of the node.
#[test]
fn a_check_that_is_asked_for_in_the_wrong_way_is_unknown() {
    for args in [
        &["check", "tunnel", "web", "-w", "foo"][..],
        &["--data-dir", "/nowhere", "check", "fly"],
        &["check", "tunnel", "web", "-w", "1s", "-c", "100ms"],
        &["--agent", "http://127.0.0.1:1", "--token-file", "/nowhere", "check", "node"],
    ] {
        let run = snomesh(args);
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.stderr.contains("error:"), "{run:?}");
    }
}

/// The token's file is judged like a key: whoever could read it may have done so.
#[test]
fn a_token_that_others_can_read_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "secret").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = file.to_str().unwrap();
    let run = snomesh(&["--agent", "http://127.0.0.1:1", "--token-file", file, "status"]);
    refused(&run, 5, "mode 0644");
    assert!(run.stderr.contains(&format!("chmod 0600 {file}")), "{run:?}");
}

#[test]
fn a_value_over_the_limit_is_refused_with_the_limit() {
    let over = snomesh_reading(&["attr", "set", "big", "-"], vec![b'x'; 64 * 1024 + 1]);
    refused(&over, 2, "65536");
    assert!(over.stderr.contains("hint:"), "{over:?}");
}

#[test]
fn without_a_node_there_is_nobody_to_ask() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let run = snomesh(&["--data-dir", data_dir, "status"]);
    refused(&run, 3, "no node answers");
    assert!(run.stderr.contains("snomesh up"), "{run:?}");
    refused(&snomesh_with("SNOMESH_AGENT", Path::new("/nowhere"), &["digest"]), 3, "/nowhere");
    refused(&snomesh(&["status"]), 3, "no node answers");
}

#[test]
fn a_node_that_does_not_answer_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let run = snomesh(&["--agent", path.to_str().unwrap(), "--timeout", "100ms", "status"]);
    refused(&run, 6, "within 100ms");
}

/// Whoever follows a node asks it again at any moment, that of its end included: nobody answers then either.
#[test]
fn a_node_that_ends_while_it_is_asked_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let ending = UnixListener::bind(&path).unwrap();
    let node = std::thread::spawn(move || {
        let (mut asked, _) = ending.accept().unwrap();
        asked.read_exact(&mut [0; 16]).unwrap();
    });
    let run = snomesh(&["--agent", path.to_str().unwrap(), "status"]);
    node.join().unwrap();
    refused(&run, 3, "broke off");
    assert!(run.stderr.contains("snomesh status"), "{run:?}");
}

/// Failure 14 of the original: its keys could be read by everybody.
#[test]
fn keys_that_others_can_read_and_keys_that_are_none_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    let (data_dir, key, ca_key) = (agent.data_dir.clone(), agent.file("identity.key"), agent.file("ca.key"));
    assert_eq!(agent.end(Signal::TERM), Some(143));
    let up = || snomesh(&["up", "--listen", "0", "--quiet", "--data-dir", data_dir.to_str().unwrap()]);
    for path in [&key, &ca_key] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
        refused(&up(), 10, "mode 0644");
        assert!(up().stderr.contains(&format!("chmod 0600 {path}")));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::write(&key, "nonsense").unwrap();
    refused(&up(), 10, "not a private key");
    std::fs::remove_file(&key).unwrap();
    std::os::unix::fs::symlink(&ca_key, &key).unwrap();
    refused(&up(), 10, "symbolic link");
}

#[test]
fn what_is_in_use_is_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    let data_dir = agent.data_dir.to_str().unwrap();
    refused(&snomesh(&["up", "--listen", "0", "--data-dir", data_dir]), 7, "another snomesh");

    let other = directory.path().join("b");
    let other = other.to_str().unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let holder = UdpSocket::bind(taken).unwrap();
    let run = snomesh(&["up", "--listen", &taken.to_string(), "--data-dir", other]);
    refused(&run, 7, &taken.to_string());
    drop(holder);
    let admin = agent.admin.to_str().unwrap();
    refused(&snomesh(&["up", "--listen", "0", "--data-dir", other, "--admin", admin]), 7, "admin socket");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    refused(&agent.run(&["bind", &taken, "web"]), 7, &taken);
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let bound = agent.run(&["bind", &format!("unix:{}", file.display()), "web"]);
    refused(&bound, 7, "file");
    assert!(bound.stderr.contains("hint:"), "{bound:?}");
}

/// Failure 14 of the original: it ended with 0 whatever had failed.
#[test]
fn what_is_not_there_is_not_found() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    refused(&agent.run(&["attr", "get", "color"]), 4, "mesh/color");
    refused(&agent.run(&["attr", "rm", "color"]), 4, "mesh/color");
    refused(&agent.run(&["unexpose", "web"]), 4, "web");
    refused(&agent.run(&["unbind", "1"]), 4, "127.0.0.1:1");
    // Neither an address of this machine nor a directory.
    for listen in ["192.0.2.1:0", "unix:/nowhere/x"] {
        let run = agent.run(&["bind", listen, "web"]);
        refused(&run, 2, listen);
        assert!(run.stderr.contains("hint:"), "{run:?}");
    }
    agent.ok(&["attr", "incr", "hits"]);
    agent.ok(&["attr", "add", "sites", "eu"]);
    for (key, says, command) in
        [("hits", "is a counter", "attr count mesh/hits"), ("sites", "is a set", "attr members mesh/sites")]
    {
        let run = agent.run(&["attr", "get", key]);
        refused(&run, 4, says);
        assert!(run.stderr.contains(command), "{run:?}");
    }
}

#[test]
fn a_signal_drains_and_ends_with_its_code() {
    let directory = tempfile::tempdir().unwrap();
    for (name, signal, code) in [("a", Signal::INT, 130), ("b", Signal::TERM, 143)] {
        let agent = Agent::start(directory.path(), name, &[]);
        let admin = agent.admin.clone();
        assert_eq!(agent.end(signal), Some(code));
        assert!(!admin.exists());
    }
}

#[test]
fn programs_get_json_and_people_get_tables() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    assert_eq!(agent.status()["ready"], true);
    assert_eq!(agent.status()["node"], agent.id.as_str());
    let nodes = agent.ok(&["node", "ls", "--output", "json"]).json();
    assert_eq!((&nodes["apiVersion"], &nodes["nodes"][0]["name"]), (&"v1".into(), &"a".into()));
    assert_eq!(agent.ok(&["node", "ls", "-o", "name"]).text().trim(), agent.id);
    assert!(agent.ok(&["node", "ls"]).text().starts_with("NAME"));

    agent.ok(&["attr", "set", "color", "blue"]);
    let unchanged = agent.ok(&["attr", "set", "mesh/color", "blue", "-o", "json"]).json();
    assert_eq!(unchanged["changed"], false);
    let bytes: Vec<u8> = (0..=255).collect();
    let set = ["--agent", agent.admin.to_str().unwrap(), "attr", "set", "bytes", "-"];
    assert_eq!(snomesh_reading(&set, bytes.clone()).code, Some(0));
    assert_eq!(agent.ok(&["attr", "get", "bytes"]).stdout, bytes);
    let lines = agent.ok(&["attr", "ls", "-o", "jsonl"]).text();
    let keys: Vec<_> =
        lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
    assert_eq!(
        keys.iter().map(|attribute| attribute["key"].as_str().unwrap()).collect::<Vec<_>>(),
        ["mesh/bytes", "mesh/color"]
    );
    agent.ok(&["attr", "rm", "color"]);
    assert_eq!(agent.ok(&["attr", "ls", "-o", "name"]).text().trim(), "mesh/bytes");
}

/// Each command with a result prints it as one document, whose version is in it.
#[test]
fn programs_are_told_of_every_result_in_one_document() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    agent.ok(&["attr", "set", "color", "blue"]);
    let json = |args: &[&str]| {
        let document = agent.ok(&[args, &["-o", "json"]].concat()).json();
        assert_eq!(document["apiVersion"], "v1", "{args:?}: {document}");
        document
    };
    assert_eq!(json(&["attr", "get", "color"])["key"], "mesh/color");
    assert_eq!(json(&["attr", "incr", "hits"])["value"], "1");
    assert_eq!(json(&["attr", "count", "hits"])["key"], "mesh/hits");
    assert_eq!(json(&["node", "show", "a"])["name"], "a");
    assert_eq!(json(&["expose", "web", "1"])["name"], "web");
    assert_eq!(json(&["wait", "--tunnel", "web"])["ready"], true);
    let bound = json(&["bind", "0", "web"])["listen"].as_str().unwrap().to_owned();
    assert_eq!(json(&["unbind", &bound])["listen"], bound.as_str());
    assert_eq!(json(&["unexpose", "web"])["name"], "web");
    let copy = directory.path().join("copy.jsonl");
    assert_eq!(json(&["state", "export", copy.to_str().unwrap()])["lines"], 2);
    assert_eq!(json(&["down"])["node"], agent.id.as_str());
}

/// A command to try is told only where it would work.
#[test]
fn what_is_bound_is_tried_with_what_speaks_its_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    let socket = directory.path().join("s").display().to_string();
    let told = |listen: &str| agent.ok(&["bind", listen, "web"]).text();
    assert!(told("0").contains("curl http://127.0.0.1:"));
    assert!(!told("udp:127.0.0.1:0").contains("curl"));
    assert!(told(&format!("unix:{socket}")).contains(&format!("curl --unix-socket {socket} http://")));
}

#[test]
fn help_tells_the_exit_codes_and_every_shell_is_completed() {
    let help = snomesh(&["--help"]).text();
    assert!(help.contains("Exit codes:") && help.contains("SIGINT"), "{help}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(snomesh(&["completions", shell]).text().contains("snomesh"));
    }
    assert!(snomesh(&["version"]).text().starts_with("snomesh "));
}
