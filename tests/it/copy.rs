//! `snomesh state`: a copy of what the mesh keeps, out of one mesh and into another.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;

use crate::program::{Agent, Run, snomesh};

fn fill(agent: &Agent) {
    agent.ok(&["attr", "set", "name", "grün"]);
    agent.ok(&["attr", "set", "tunnel/web/env", "prod"]);
    let set = agent.run_reading(&["attr", "set", "bytes", "-"], vec![0xff, 0, 0x80]);
    assert_eq!(set.code, Some(0), "{set:?}");
    agent.ok(&["attr", "incr", "hits", "-5"]);
    agent.ok(&["attr", "add", "sites", "eu"]);
    agent.ok(&["attr", "add", "sites", "us"]);
    agent.ok(&["attr", "set", "gone", "x"]);
    agent.ok(&["attr", "rm", "gone"]);
    let stranger = "a".repeat(51) + "q";
    agent.ok(&["revoke", &stranger, "--yes"]);
}

/// The lines but the first and the last, without who wrote them and when.
fn kept(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("{\"state\":") && lines[lines.len() - 1].starts_with("{\"end\":"), "{text}");
    let bare = |line: &&str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(attribute) = line["attribute"].as_object_mut() {
            attribute.retain(|name, _| name == "key" || name == "value");
        }
        line.to_string()
    };
    lines[1..lines.len() - 1].iter().map(bare).collect()
}

/// FEATURES S1: what one mesh kept another one takes over, once however often it is told, and a node that does not run
/// tells the same as one that does.
#[test]
fn a_copy_of_one_mesh_is_put_into_another() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    fill(&a);
    let file = directory.path().join("copy.jsonl");
    let file = file.to_str().unwrap();
    a.ok(&["state", "export", file]);
    let copy = std::fs::read_to_string(file).unwrap();
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(kept(&copy), kept(&a.ok(&["state", "export"]).text()));
    assert_eq!(kept(&copy).len(), 7, "{copy}");
    assert!(!copy.contains("gone"));
    let under = kept(&a.ok(&["state", "export", "--prefix", "mesh/"]).text());
    assert!(under.len() == 5 && under.iter().all(|line| line.contains("mesh/")), "{under:?}");

    let b = Agent::start(directory.path(), "b", &[]);
    b.ok(&["attr", "set", "name", "other"]);
    let before = b.digest();
    let dry = b.ok(&["state", "import", "--dry-run", file, "-o", "json"]).json();
    assert_eq!((dry["written"].as_u64(), dry["leftOut"].as_u64()), (Some(6), Some(1)), "{dry}");
    assert_eq!(b.digest(), before);
    let options = ["state", "import", "--keep", "--dry-run", file];
    let (agent, told) = (b.admin.display().to_string(), b.ok(&options).text());
    assert!(told.contains(&format!("Do it:  snomesh --agent {agent} state import --keep {file}")), "{told}");
    let keep = b.ok(&["state", "import", "--keep", file, "-o", "json"]).json();
    assert_eq!((keep["written"].as_u64(), keep["kept"].as_u64()), (Some(5), Some(1)), "{keep}");
    assert_eq!(b.ok(&["attr", "get", "name"]).text(), "other");
    let rest = b.run_reading(&["state", "import", "-", "-o", "json"], copy.clone().into_bytes()).json();
    assert_eq!((rest["written"].as_u64(), rest["unchanged"].as_u64()), (Some(1), Some(5)), "{rest}");
    let before = b.digest();
    let again = b.ok(&["state", "import", file, "-o", "json"]).json();
    assert_eq!((again["written"].as_u64(), again["unchanged"].as_u64()), (Some(0), Some(6)), "{again}");
    assert_eq!(b.digest(), before);
    // A proof of another authority says nothing there.
    let mut expected = kept(&copy);
    expected.retain(|line| !line.contains("revocation"));
    assert_eq!(kept(&b.ok(&["state", "export"]).text()), expected);

    // The directory tells the same when nobody runs on it, and is not touched while somebody does.
    let offline = |agent: &str| snomesh(&["--data-dir", agent, "state", "export", "--offline"]);
    let data_dir = b.data_dir.to_str().unwrap().to_owned();
    let refused = offline(&data_dir);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert_eq!(b.end(Signal::TERM), Some(143));
    let told = offline(&data_dir);
    assert_eq!((told.code, kept(&told.text())), (Some(0), expected), "{told:?}");
    let options = ["--data-dir", &data_dir, "state", "import", "--offline", "--dry-run", file];
    let told = snomesh(&options).text();
    assert!(told.contains(&format!("snomesh --data-dir {data_dir} state import --offline {file}")), "{told}");
    let other = format!("{file}.2");
    let told = snomesh(&["--data-dir", &data_dir, "state", "export", "--offline", &other]).text();
    let again = format!("snomesh --data-dir {data_dir} state import --dry-run --offline {other}");
    assert!(told.contains(&again), "{told}");
    // What cannot be looked into is not taken to be empty.
    let unreadable = offline(file);
    assert!(unreadable.stderr.contains("cannot read"), "{unreadable:?}");
    assert_ne!(unreadable.code, Some(4), "{unreadable:?}");
    assert_eq!(offline(directory.path().join("nowhere").to_str().unwrap()).code, Some(4));
    assert!(!directory.path().join("nowhere").exists());
}

/// A copy of a mesh that has a policy too, and what is in it.
fn copied(agent: &Agent, directory: &Path) -> (String, Vec<String>) {
    fill(agent);
    let policy = "default = \"deny\"\n[[rule]]\nwho = \"*\"\nmay = [\"expose\", \"connect\"]\nwhat = \"*\"\n";
    assert_eq!(agent.run_reading(&["acl", "set", "-"], policy.as_bytes().to_vec()).code, Some(0));
    let file = directory.join("copy.jsonl").to_str().unwrap().to_owned();
    agent.ok(&["state", "export", &file]);
    let whole = kept(&std::fs::read_to_string(&file).unwrap());
    (file, whole)
}

/// FEATURES S1: a node that does not run takes over the same as one that does, under the same checks, and all of it is there
/// when it runs again and reaches the others.
#[test]
fn a_copy_is_put_into_the_directory_of_a_node_that_does_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let (file, mut expected) = copied(&a, directory.path());

    // Into another mesh: what is proved there alone stays out.
    let b = Agent::start(directory.path(), "b", &[]);
    b.ok(&["attr", "set", "name", "other"]);
    let before = b.digest();
    let data_dir = b.data_dir.to_str().unwrap().to_owned();
    let import = |args: &[&str]| {
        let line = [&["--data-dir", &data_dir, "state", "import", "--offline", "-o", "json"], args].concat();
        snomesh(&line)
    };
    assert_eq!(import(&[&file]).code, Some(7), "while it runs");
    let generation = b.status()["generation"].as_u64().unwrap();
    b.stop();
    let counted = |run: &Run, what: &str| run.json()[what].as_u64().unwrap();
    let files = || {
        let read = |name: &str| std::fs::read(Path::new(&data_dir).join(name)).unwrap();
        (
            read("generation"),
            kept(&snomesh(&["--data-dir", &data_dir, "state", "export", "--offline"]).text()),
        )
    };
    let asleep = files();
    let dry = import(&["--dry-run", &file]);
    assert_eq!((dry.code, counted(&dry, "written"), counted(&dry, "leftOut")), (Some(0), 6, 2), "{dry:?}");
    assert_eq!(files(), asleep, "a dry run changes nothing");
    let bad = directory.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"attribute\":{\"key\":\"mesh/new\",\"value\":{\"text\":\"1\"}}}\nnonsense\n")
        .unwrap();
    let refused = import(&[bad.to_str().unwrap()]);
    assert!(refused.code == Some(2) && refused.stderr.contains("bad.jsonl:2:"), "{refused:?}");
    assert_eq!(files().1, asleep.1, "a copy that is not right writes nothing");
    let keep = import(&["--keep", &file]);
    assert_eq!((keep.code, counted(&keep, "written"), counted(&keep, "kept")), (Some(0), 5, 1), "{keep:?}");
    let rest = import(&[&file]);
    assert_eq!((counted(&rest, "written"), counted(&rest, "unchanged")), (1, 5), "{rest:?}");
    let b = Agent::start(directory.path(), "b", &[]);
    assert_ne!(b.digest(), before);
    assert!(b.status()["generation"].as_u64().unwrap() > generation);
    expected.retain(|line| !line.contains("revocation") && !line.contains("policy"));
    assert_eq!(kept(&b.ok(&["state", "export"]).text()), expected);
    // What a node took over while it slept, its peers hear of.
    let c = Agent::join(directory.path(), "c", &b);
    crate::program::until("the other one has it all", || c.digest() == b.digest());
    assert_eq!(c.ok(&["attr", "count", "hits"]).text(), "-5\n");
}

/// FEATURES P5, S1: into its own mesh, proofs included: they hold at once, and a policy that is older than what holds is not
/// taken.
#[test]
fn proofs_of_its_own_mesh_are_put_back_while_a_node_does_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let (file, whole) = copied(&a, directory.path());
    let counted = |run: &Run, what: &str| run.json()[what].as_u64().unwrap();
    let data_dir = a.data_dir.to_str().unwrap().to_owned();
    assert_eq!(a.run_reading(&["acl", "set", "-"], b"default = \"allow\"\n".to_vec()).code, Some(0));
    a.stop();
    let again = snomesh(&["--data-dir", &data_dir, "state", "import", "--offline", "-o", "json", &file]);
    assert_eq!((again.code, counted(&again, "leftOut")), (Some(0), 1), "{again:?}");
    std::fs::remove_file(Path::new(&data_dir).join("state.redb")).unwrap();
    std::fs::remove_file(Path::new(&data_dir).join("policy")).unwrap();
    let fresh = snomesh(&["--data-dir", &data_dir, "state", "import", "--offline", "-o", "json", &file]);
    assert_eq!(
        (fresh.code, counted(&fresh, "leftOut"), counted(&fresh, "written")),
        (Some(0), 0, 8),
        "{fresh:?}"
    );
    let a = Agent::start(directory.path(), "a", &[]);
    assert_eq!(kept(&a.ok(&["state", "export"]).text()), whole);
    crate::program::until("the policy holds", || {
        a.ok(&["acl", "show", "-o", "json"]).json()["policy"]["default"] == "deny"
    });
    let nowhere = directory.path().join("nowhere");
    let none = snomesh(&["--data-dir", nowhere.to_str().unwrap(), "state", "import", "--offline", &file]);
    assert_eq!((none.code, nowhere.exists()), (Some(4), false), "{none:?}");
}

/// Bad input writes nothing, a copy that is not whole is none, and a copy that cannot be finished leaves no half.
#[test]
fn a_copy_that_is_not_right_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    fill(&a);
    let copy = a.ok(&["state", "export"]).text();
    let before = a.digest();
    let import = |text: &str| a.run_reading(&["state", "import", "-"], text.as_bytes().to_vec());
    let good = "{\"attribute\":{\"key\":\"mesh/new\",\"value\":{\"text\":\"1\"}}}\n";
    let cut = copy.rsplit_once("{\"end\"").unwrap().0;
    for (text, says) in [
        (format!("{good}nonsense\n"), "standard input:2:"),
        (
            format!("{good}{{\"attribute\":{{\"key\":\"mesh/a b\",\"value\":{{\"text\":\"1\"}}}}}}\n"),
            "standard input:2: key \"mesh/a b\"",
        ),
        (cut.to_owned(), "it breaks off"),
        (copy.lines().next().unwrap().replace("\"format\":1", "\"format\":9"), "later version"),
    ] {
        let refused = import(&text);
        assert!(refused.code == Some(2) && refused.stderr.contains(says), "{says}: {refused:?}");
        assert_eq!(a.digest(), before, "{says}");
    }
    assert_eq!(a.run(&["state", "import", "/nowhere/copy"]).code, Some(4));
    // What is said twice holds as it was said last, whatever goes together.
    let twice = format!("{good}{}", good.replace("\"1\"", "\"2\""));
    assert_eq!(import(&twice).code, Some(0));
    assert_eq!(a.ok(&["attr", "get", "new"]).text(), "2");
    let nowhere = a.run(&["state", "export", "/nowhere/copy"]);
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("/nowhere/copy"), "{nowhere:?}");
    assert_eq!(a.run(&["state", "export", "/dev/null"]).code, Some(0));
    assert!(!std::fs::metadata(Path::new("/dev/null")).unwrap().is_file());
    // A node that goes in the middle leaves no copy behind.
    let gone = directory.path().join("gone.jsonl");
    let admin = a.admin.to_str().unwrap().to_owned();
    a.kill();
    let refused = snomesh(&["--agent", &admin, "state", "export", gone.to_str().unwrap()]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert_eq!(
        std::fs::read_dir(directory.path())
            .unwrap()
            .filter(|found| found.as_ref().unwrap().file_name().to_string_lossy().contains("gone"))
            .count(),
        0
    );
}
