//! `snomesh state`: a copy of what the mesh keeps, out of one mesh and into another.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;

use crate::program::{Agent, snomesh};

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
    assert_eq!(offline(directory.path().join("nowhere").to_str().unwrap()).code, Some(4));
    assert!(!directory.path().join("nowhere").exists());
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
