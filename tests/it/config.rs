//! The configuration: what is checked, what wins, and what a reload does and leaves alone.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::program::{Agent, snomesh, snomesh_with, until};

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// FEATURES P7: exit code 10, with the place.
#[test]
fn what_is_not_valid_is_told_with_its_place_and_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("s.toml");
    let (data, path) = (directory.path().join("data"), file.to_str().unwrap());
    write(&file, "[node]\nname = \"a\"\n\n[qiuc]\nlisten = \"1\"\n[limits]\nmax_streams = 0\n");
    for args in [&["config", "check"][..], &["config", "show"], &["up", "--data-dir", data.to_str().unwrap()]]
    {
        let run = snomesh(&[args, &["-c", path]].concat());
        assert_eq!(run.code, Some(10), "{run:?}");
        assert!(run.stderr.contains(&format!("{path}:4:2: unknown key \"qiuc\"")), "{run:?}");
        assert!(run.stderr.contains("did you mean \"quic\"?"), "{run:?}");
        assert!(run.stderr.contains(&format!("{path}:7:15: limits.max_streams")), "{run:?}");
    }
    assert!(!data.exists());
    let run = snomesh(&["config", "check", "-c", "/nowhere.toml"]);
    assert_eq!(run.code, Some(10), "{run:?}");
    let run = snomesh_with("SNOMESH_LISTEN", Path::new("nowhere"), &["config", "check", "--data-dir", "/x"]);
    assert_eq!(run.code, Some(10), "{run:?}");
    assert!(run.stderr.contains("SNOMESH_LISTEN"), "{run:?}");
}

#[test]
fn what_holds_is_shown_with_where_it_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("s.toml");
    write(&file, "[quic]\nlisten = \"0.0.0.0:7667\"\n");
    let args = ["config", "show", "--effective", "-c", file.to_str().unwrap(), "--data-dir", "/x"];
    let text = snomesh_with("SNOMESH_JOIN", Path::new("a:1,b:2"), &args).text();
    let row = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(row("quic.listen").ends_with("s.toml:2:10"), "{text}");
    assert!(row("mesh.seeds").contains("[\"a:1\", \"b:2\"]"), "{text}");
    assert!(row("mesh.seeds").ends_with("environment SNOMESH_JOIN"), "{text}");
    assert!(row("node.data_dir").ends_with("flag --data-dir"), "{text}");
    assert!(row("log.format").ends_with("default"), "{text}");

    let check = |strict: &[&str]| {
        snomesh(&[&["config", "check", "-c", file.to_str().unwrap(), "--data-dir", "/x"], strict].concat())
    };
    assert_eq!((check(&[]).code, check(&["--strict"]).code), (Some(0), Some(8)));
    assert!(check(&[]).stderr.contains("quic.advertise is empty"));
    let schema = snomesh(&["config", "schema"]).json();
    assert_eq!(schema["properties"]["quic"]["properties"]["listen"]["type"], "string");
    let path = snomesh(&["config", "path", "-c", file.to_str().unwrap()]);
    assert_eq!(path.text().trim(), file.to_str().unwrap());
}

/// What is told as the next command finds the node where a file has put it.
#[test]
fn the_next_commands_lead_to_the_node_that_a_file_describes() {
    let directory = tempfile::tempdir().unwrap();
    let (file, data) = (directory.path().join("s.toml"), directory.path().join("my node"));
    write(&file, &format!("[node]\ndata_dir = \"{}\"\n[quic]\nlisten = \"127.0.0.1:0\"\n", data.display()));
    let mut up = Command::new(env!("CARGO_BIN_EXE_snomesh"))
        .args(["up", "-c", file.to_str().unwrap()])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told = lines.find(|line| line.contains("What it does:"));
    up.kill().unwrap();
    up.wait().unwrap();
    let command = format!("snomesh --data-dir '{}' status", data.display());
    assert!(told.as_ref().is_some_and(|told| told.contains(&command)), "{told:?}");
}

/// What is printed for programs has values as they are, and the same form everywhere.
#[test]
fn programs_are_told_what_is_configured_as_one_document() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("s.toml");
    write(&file, "[node]\nname = \"vm\"\n[quic]\nlisten = \"0.0.0.0:7667\"\n");
    let json = |command: &str| {
        let args = ["config", command, "-c", file.to_str().unwrap(), "--data-dir", "/x", "-o", "json"];
        let document = snomesh(&args).json();
        assert_eq!(document["apiVersion"], "v1", "{document}");
        document
    };
    let settings = json("show")["settings"].as_array().unwrap().clone();
    let value = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap()["value"].clone();
    assert_eq!((value("node.name"), value("mesh.seeds")), ("vm".into(), serde_json::json!([])));
    assert!(value("limits.max_streams").is_u64(), "{}", value("limits.max_streams"));
    assert_eq!(json("path")["files"], serde_json::json!([file]));
    let check = json("check");
    assert_eq!((&check["valid"], check["warnings"].as_array().unwrap().len()), (&true.into(), 1));
}

/// FEATURES P1, P5: a node that is given the authority's key while it runs can invite, and one of another mesh is refused by
/// name and changes nothing.
#[test]
fn a_reload_finds_the_authority_where_the_configuration_says() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let token = a.ok(&["invite", "-o", "name"]).text();
    let data_dir = directory.path().join("b");
    assert_eq!(snomesh(&["join", token.trim(), "--data-dir", data_dir.to_str().unwrap()]).code, Some(0));
    let file = directory.path().join("s.toml");
    write(&file, "");
    let b = Agent::start(directory.path(), "b", &["-c", file.to_str().unwrap()]);
    until("they are linked", || a.linked() == 1 && b.linked() == 1);
    assert_eq!(b.run(&["invite"]).code, Some(5));
    let identity = |of: &Agent, key: &str| {
        format!("[identity]\nca = \"{}\"\n{}", of.file("ca.crt"), key.replace("KEY", &of.file("ca.key")))
    };
    let reload = || b.ok(&["config", "reload", "-o", "json"]).json();
    let stranger = Agent::start(directory.path(), "stranger", &[]);
    write(&file, &identity(&stranger, "ca_key = \"KEY\"\n"));
    let refused = b.run(&["config", "reload", "-o", "json"]);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    let refused = refused.json();
    assert!(refused["failed"][0].as_str().unwrap().contains("another mesh"), "{refused}");
    assert_eq!(
        (&refused["applied"], &refused["needsRestart"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    assert_eq!((b.run(&["invite"]).code, b.linked()), (Some(5), 1));

    write(&file, &identity(&a, "ca_key = \"KEY\"\n"));
    let taken = reload();
    assert!(taken["applied"][0].as_str().unwrap().contains("can invite"), "{taken}");
    assert_eq!(reload()["applied"], serde_json::json!([]), "once is enough");
    assert_eq!(b.linked(), 1);
    // The door is open: whoever was invited there comes in there.
    let token = b.ok(&["invite", "-o", "name"]).text();
    let third = directory.path().join("c");
    let joined = snomesh(&["join", token.trim(), "--data-dir", third.to_str().unwrap()]);
    assert_eq!(joined.code, Some(0), "{joined:?}");
    let c = Agent::start(directory.path(), "c", &[]);
    until("all are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    // And without the key it is as before.
    write(&file, &identity(&a, ""));
    assert!(reload()["applied"][0].as_str().unwrap().contains("not at hand"));
    assert_eq!((b.run(&["invite"]).code, b.linked()), (Some(5), 2));
}

/// FEATURES P1: hot reload by difference, by signal and by API; what is not valid changes nothing.
#[test]
fn a_reload_changes_what_changed_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("s.toml");
    let tunnel = |name: &str, port: u16| format!("[[tunnel]]\nname = \"{name}\"\ntarget = \"{port}\"\n");
    write(&file, &(tunnel("kept", 1) + &tunnel("moved", 2) + &tunnel("gone", 3)));
    let a = Agent::start(directory.path(), "a", &["-c", file.to_str().unwrap()]);
    let exposed = || {
        let exposed = a.status()["exposed"].as_array().unwrap().clone();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let rows =
            exposed.iter().map(|row| (text(&row["name"]), (text(&row["target"]), text(&row["tunnel"]))));
        rows.collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = exposed();
    assert_eq!(before.len(), 3);
    // What the configuration keeps is changed there; what the API made stays what it is.
    a.ok(&["expose", "mine", "9"]);
    let refused = a.run(&["unexpose", "kept"]);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert!(refused.stderr.contains("configuration"), "{refused:?}");

    let bind = "[[bind]]\nlisten = \"127.0.0.1:1\"\ntunnel = \"kept\"\n";
    let other = "[identity]\ncert_ttl = \"2h\"\n[limits]\nmax_streams = 7\ndrain_timeout = \"3s\"\n\
        [log]\nlevel = \"debug\"\nformat = \"json\"\n";
    let expires = || a.status()["certificateExpiresAt"].as_u64().unwrap();
    let expired_before = expires();
    write(&file, &(other.to_owned() + &tunnel("kept", 1) + &tunnel("moved", 4) + &tunnel("new", 5)));
    let reload = a.ok(&["config", "reload", "-o", "json"]).json();
    assert_eq!(reload["needsRestart"], serde_json::json!(["log.format"]), "{reload}");
    let applied = reload["applied"].as_array().unwrap();
    assert_eq!(
        applied[3..],
        [
            "limits.max_streams is 7",
            "limits.drain_timeout is 3s",
            "identity.cert_ttl is 7200s",
            "log.level is debug"
        ],
        "{reload}"
    );
    assert_eq!(applied.len(), 7, "{reload}");
    assert!(expires() < expired_before, "it shows a certificate of the new length");
    // Once is enough.
    assert_eq!(a.ok(&["config", "reload", "-o", "json"]).json()["applied"], serde_json::json!([]));
    let after = exposed();
    assert_eq!(after.keys().collect::<Vec<_>>(), ["kept", "mine", "moved", "new"]);
    assert_eq!(after["kept"], before["kept"]);
    assert_eq!(after["moved"].0, "127.0.0.1:4");
    assert_eq!(a.ok(&["debug", "log-level"]).text().trim(), "debug");
    assert!(a.run(&["config", "reload"]).stderr.contains("log.format"));

    write(&file, "[log]\nlevle = \"info\"\n");
    let refused = a.run(&["config", "reload"]);
    assert_eq!(refused.code, Some(10), "{refused:?}");
    assert!(refused.stderr.contains(&format!("{}:2:1", file.display())), "{refused:?}");
    assert_eq!(exposed(), after);

    // By signal. What does not hold is said, and the rest does.
    write(&file, &(tunnel("kept", 1) + bind));
    a.signal(Signal::HUP);
    until("the signal was heard", || exposed().len() == 2);
    until("its log says so", || {
        a.log().contains("not made: cannot listen on 127.0.0.1:1") || a.status()["binds"][0].is_object()
    });
    assert_eq!(exposed()["kept"], before["kept"]);

    // After a restart only what was made by hand is taken up from its own file.
    assert_eq!(a.end(Signal::TERM), Some(143));
    let a = Agent::start(directory.path(), "a", &[]);
    let names = a.status()["exposed"].as_array().unwrap().len();
    assert_eq!((names, a.status()["exposed"][0]["name"].as_str()), (1, Some("mine")));
    let none = a.run(&["config", "reload"]);
    assert_eq!(none.code, Some(0), "{none:?}");
}
