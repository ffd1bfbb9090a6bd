//! Meshes in which every entry bears its author's signature.

use std::path::Path;

use crate::program::{Agent, snomesh_with, until};

const SIGNED: &[(&str, &str)] = &[("SNOMESH_TRUST", "signed")];

fn join(directory: &Path, name: &str, first: &Agent, environment: &[(&str, &str)]) -> Agent {
    let (ca, key) = (first.file("ca.crt"), first.file("ca.key"));
    let join = first.listen.to_string();
    Agent::start_with(directory, name, &["--join", &join, "--ca", &ca, "--ca-key", &key], environment)
}

fn reads(agent: &Agent, key: &str, value: &str) -> bool {
    agent.run(&["attr", "get", key]).stdout == value.as_bytes()
}

fn alarms(agent: &Agent, kind: &str) -> f64 {
    crate::admin::metrics(agent)[&format!("snomesh_alarms_total{{kind=\"{kind}\"}}")]
}

/// FEATURES B7: what an author wrote who is gone is believed of a node that was started again, by one that is new.
#[test]
fn what_was_signed_is_passed_on_after_restarts_without_its_author() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start_with(directory.path(), "a", &[], SIGNED);
    let b = join(directory.path(), "b", &a, SIGNED);
    until("both are linked", || a.linked() == 1 && b.linked() == 1);
    for number in 0..40 {
        b.ok(&["attr", "set", &format!("key-{number}"), &number.to_string()]);
    }
    b.ok(&["expose", "web", "9"]);
    until("a has it all", || reads(&a, "key-39", "39") && a.digest() == b.digest());
    b.kill();
    let digest = a.digest();
    let (ca, key) = (a.file("ca.crt"), a.file("ca.key"));
    a.stop();
    let a = Agent::start_with(directory.path(), "a", &["--ca", &ca, "--ca-key", &key], SIGNED);
    let c = join(directory.path(), "c", &a, SIGNED);
    until("the newcomer believes a", || (0..40).all(|n| reads(&c, &format!("key-{n}"), &n.to_string())));
    until("both hold the same", || a.digest() == c.digest());
    assert_ne!(a.digest(), digest, "a has begun a new life");
    assert_eq!(alarms(&c, "forged"), 0.0);
    // Its author is welcome again, and has what it wrote.
    let b = join(directory.path(), "b", &a, SIGNED);
    until("all are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    until("all hold the same", || a.digest() == b.digest() && b.digest() == c.digest());
    assert!(reads(&b, "key-7", "7"));
}

/// FEATURES B7: all nodes of a mesh sign, or none; and whoever is started otherwise is told so.
#[test]
fn nodes_that_sign_and_nodes_that_do_not_are_no_mesh() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start_with(directory.path(), "a", &[], SIGNED);
    let b = join(directory.path(), "b", &a, &[]);
    // Whoever hears the other first ends the tunnel, often before the other has heard.
    let told = |agent: &Agent| agent.log().contains("entries are signed here or there");
    until("one is told why", || told(&a) || told(&b));
    assert!(alarms(&a, "trust") + alarms(&b, "trust") > 0.0);
    assert_eq!((a.linked(), b.linked()), (0, 0));
    a.ok(&["attr", "set", "color", "blue"]);
    assert!(!reads(&b, "color", "blue"));
    let data_dir = b.data_dir.clone();
    b.stop();
    let args = ["up", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()];
    let run = snomesh_with("SNOMESH_TRUST", Path::new("signed"), &args);
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("registry.trust"), "{run:?}");
    assert!(run.stderr.contains("--rebuild-from-mesh"), "{run:?}");
}
