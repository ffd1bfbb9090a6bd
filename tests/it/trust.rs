//! Who belongs to a mesh: invitations, joining, revocation, certificates.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::program::{Agent, Follower, Run, snomesh, snomesh_reading, until};

fn join(directory: &Path, name: &str, token: &str) -> Run {
    snomesh(&["join", token, "--data-dir", directory.join(name).to_str().unwrap()])
}

fn invite(agent: &Agent, args: &[&str]) -> String {
    agent.ok(&[&["invite", "-o", "name"], args].concat()).text().trim().to_owned()
}

/// Joins and runs a node that was given nothing but a token.
fn joined(directory: &Path, name: &str, first: &Agent) -> Agent {
    let run = join(directory, name, &invite(first, &[]));
    assert_eq!(run.code, Some(0), "{run:?}");
    Agent::start(directory, name, &[])
}

/// Reads events up to that of the attribute `last`.
fn no_link_ended_until_the_last(events: &mut Follower) {
    loop {
        let event = events.line();
        assert!(!event.contains("link_down"), "{event}");
        if event.contains("mesh/last") {
            return;
        }
    }
}

/// FEATURES P6.
#[test]
fn a_token_is_all_that_a_machine_needs_to_become_a_node() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = joined(directory.path(), "b", &a);
    until("they are linked", || a.linked() == 1 && b.linked() == 1);
    a.ok(&["attr", "set", "color", "blue"]);
    until("it reads what the other writes", || b.run(&["attr", "get", "color"]).stdout == b"blue");
    assert!(!directory.path().join("b/ca.key").exists(), "the authority's key stays where it is");
    // It comes back without the token, and it cannot invite.
    b.stop();
    let b = Agent::start(directory.path(), "b", &[]);
    until("they are linked again", || b.linked() == 1);
    let refused = b.run(&["invite"]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(refused.stderr.contains("does not have the key"), "{refused:?}");
}

#[test]
fn a_token_is_good_once_or_as_often_as_it_says_and_only_for_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let once = invite(&a, &[]);
    assert_eq!(join(directory.path(), "b", &once).code, Some(0));
    let used = join(directory.path(), "c", &once);
    assert_eq!(used.code, Some(5), "{used:?}");
    assert!(used.stderr.contains("used up"), "{used:?}");
    let twice = invite(&a, &["--uses", "2"]);
    // Uses are remembered by a node that was killed in between.
    let by_pipe = directory.path().join("d");
    let by_pipe = ["join", "-", "--data-dir", by_pipe.to_str().unwrap()];
    let piped = snomesh_reading(&by_pipe, format!("{twice}\n").into_bytes());
    assert_eq!(piped.code, Some(0), "{piped:?}");
    let listen = a.listen.to_string();
    a.kill();
    let a = Agent::start_on(directory.path(), "a", &listen, &[]);
    assert_eq!(join(directory.path(), "e", &twice).code, Some(0));
    assert_eq!(join(directory.path(), "f", &twice).code, Some(5));
    let brief = invite(&a, &["--ttl", "1s", "--uses", "1000"]);
    until("it has expired", || join(directory.path(), "g", &brief).code == Some(5));
}

/// FEATURES P5, P6: what an invitation gives holds on every node, for whoever comes with it and nobody else.
#[test]
fn an_invitation_gives_roles_rights_and_attributes() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let unknown = a.run(&["invite", "--role", "edge"]);
    assert_eq!(unknown.code, Some(4), "{unknown:?}");
    assert!(
        unknown.stderr.contains("no group \"edge\"") && unknown.stderr.contains("snomesh acl set"),
        "{unknown:?}"
    );
    let policy = "default = \"allow\"\n[groups]\nedge = []\n[[rule]]\nwho = \"@edge\"\nmay = \"connect\"\nwhat = \"web\"\n";
    let set = a.run_reading(&["acl", "set", "-"], policy.as_bytes().to_vec());
    assert_eq!(set.code, Some(0), "{set:?}");
    for args in [["--may-expose", "a*b"], ["--attr", "a b=c"], ["--attr", "=c"], ["--role", "Edge"]] {
        let refused = a.run(&[&["invite"][..], &args].concat());
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
    let gives = ["--uses", "2", "--role", "edge", "--may-expose", "cam-*", "--attr", "site=berlin"];
    let token = invite(&a, &gives);
    // What it gives is remembered by a node that was killed in between.
    let listen = a.listen.to_string();
    a.kill();
    let a = Agent::start_on(directory.path(), "a", &listen, &[]);
    for _ in 0..2 {
        assert_eq!(join(directory.path(), "b", &token).code, Some(0));
    }
    assert_eq!(join(directory.path(), "d", &token).code, Some(5));
    let b = Agent::start(directory.path(), "b", &[]);
    let c = joined(directory.path(), "c", &a);
    until("all are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    let shown = a.ok(&["acl", "show", "-o", "json"]).json();
    assert_eq!(shown["policy"]["groups"]["edge"], serde_json::json!([b.id]), "{shown}");
    let rules = shown["policy"]["rules"].as_array().unwrap();
    assert_eq!((rules.len(), &rules[1]["who"]), (2, &serde_json::json!([b.id])), "{shown}");
    until("all have the policy", || {
        [&b, &c].iter().all(|agent| agent.ok(&["acl", "show", "-o", "json"]).json() == shown)
    });

    b.ok(&["expose", "cam-1", "9"]);
    c.ok(&["expose", "web", "9"]);
    let refused = c.run(&["expose", "cam-2", "9"]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    let may = |node: &str, may: &str, what: &str| {
        a.run(&["acl", "check", node, may, what, "-o", "json"]).json()["permitted"] == true
    };
    assert!(may("b", "expose", "cam-7") && may("b", "connect", "web") && !may("c", "connect", "web"));
    until("a has heard of it", || a.run(&["resolve", "cam-1"]).code == Some(0));
    assert_eq!(c.ok(&["attr", "get", &format!("node/{}/site", b.id)]).text(), "berlin");
    assert!(a.ok(&["node", "show", "b"]).text().contains("attributes  site=berlin"));
}

#[test]
fn a_token_that_is_none_is_of_another_mesh_or_reaches_nobody_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (Agent::start(directory.path(), "a", &[]), Agent::start(directory.path(), "b", &[]));
    let token = invite(&a, &[]);
    let typo = join(directory.path(), "c", &token[..token.len() - 1]);
    assert_eq!(typo.code, Some(2), "{typo:?}");
    assert_eq!(join(directory.path(), "c", "hello").code, Some(2));
    let running = join(directory.path(), "b", &token);
    assert_eq!(running.code, Some(7), "a directory in use: {running:?}");
    b.stop();
    let other = join(directory.path(), "b", &token);
    assert_eq!(other.code, Some(7), "a directory of another mesh: {other:?}");
    assert!(other.stderr.contains("another mesh"), "{other:?}");
    a.stop();
    let nobody = join(directory.path(), "c", &token);
    assert_eq!(nobody.code, Some(6), "{nobody:?}");
}

/// FEATURES B8, P5.
#[test]
fn a_revoked_node_is_cut_off_everywhere_and_does_not_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let (b, c) = (joined(directory.path(), "b", &a), joined(directory.path(), "c", &a));
    until("three nodes are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    let unasked = a.run(&["revoke", "c"]);
    assert_eq!(unasked.code, Some(2), "nobody can be asked: {unasked:?}");
    assert!(unasked.stderr.contains("--yes"), "{unasked:?}");
    let may_not = b.run(&["revoke", "c", "--yes"]);
    assert_eq!(may_not.code, Some(5), "only the authority revokes: {may_not:?}");
    assert_eq!(a.run(&["revoke", "nobody", "--yes"]).code, Some(4));
    assert_eq!(a.run(&["revoke", "a", "--yes"]).code, Some(7));
    let would = a.ok(&["revoke", "c", "--dry-run", "-o", "json"]).json();
    assert_eq!((would["node"].as_str(), would["changed"].as_bool()), (Some(c.id.as_str()), Some(false)));
    assert_eq!(a.linked(), 2);

    assert_eq!(a.linked(), 2);
    a.ok(&["revoke", "c", "--yes", "--reason", "stolen"]);
    until("it is cut off everywhere", || a.linked() == 1 && b.linked() == 1 && c.linked() == 0);
    let state = |agent: &Agent| -> String {
        let nodes = agent.ok(&["node", "ls", "-o", "json"]).json();
        let node = nodes["nodes"].as_array().unwrap().iter().find(|node| node["node"] == c.id.as_str());
        node.map(|node| node["state"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert_eq!((state(&a), state(&b)), ("revoked".into(), "revoked".into()));
    assert_eq!(a.ok(&["revoke", "c", "--yes", "-o", "json"]).json()["changed"], false);
    // Nor does a new start help it, nor one of those that refuse it, nor an invitation.
    c.stop();
    b.stop();
    let b = Agent::start(directory.path(), "b", &[]);
    let c = Agent::start(directory.path(), "c", &[]);
    until("it was refused", || c.status()["seeds"][0]["error"].is_string());
    until("the others are linked", || a.linked() == 1 && b.linked() == 1);
    assert_eq!(c.linked(), 0);
    let status = c.run(&["status"]).text();
    assert!(status.contains("this node was revoked") && !status.contains("--ca"), "{status}");
    let doctor = c.run(&["doctor"]).text();
    assert!(doctor.contains("remove its identity.key"), "{doctor}");
    c.stop();
    let again = join(directory.path(), "c", &invite(&a, &[]));
    assert_eq!(again.code, Some(5), "{again:?}");
    assert!(again.stderr.contains("revoked"), "{again:?}");
}

/// FEATURES P4.
#[test]
fn a_node_that_is_gone_is_forgotten_on_all_nodes_and_joins_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let (b, c) = (joined(directory.path(), "b", &a), joined(directory.path(), "c", &a));
    until("three nodes are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    c.ok(&["attr", "set", "kept", "1"]);
    until("it is known", || a.run(&["attr", "get", "kept"]).code == Some(0));
    assert_eq!(a.run(&["node", "forget", "c", "--yes"]).code, Some(7), "it is there");
    assert_eq!(a.run(&["node", "forget", "nobody", "--yes"]).code, Some(4));
    let id = c.id.clone();
    c.stop();
    let known = |agent: &Agent| agent.ok(&["node", "ls", "-o", "name"]).text().contains(&id);
    until("it has left", || a.linked() == 1 && b.linked() == 1);
    let unasked = a.run(&["node", "forget", "c"]);
    assert_eq!(unasked.code, Some(2), "nobody can be asked: {unasked:?}");
    let would = a.ok(&["node", "forget", "c", "--dry-run", "-o", "json"]).json();
    assert_eq!((would["node"].as_str(), would["changed"].as_bool()), (Some(id.as_str()), Some(false)));
    assert!(known(&a) && known(&b));
    assert_eq!(a.ok(&["node", "forget", "c", "--yes", "-o", "json"]).json()["changed"], true);
    until("nobody knows it", || !known(&a) && !known(&b));
    a.ok(&["attr", "get", "kept"]);
    let c = Agent::start(directory.path(), "c", &[]);
    until("it is there again", || c.linked() == 2 && known(&a) && known(&b));
}

/// FEATURES P5.
#[test]
fn a_new_certificate_is_shown_from_now_on_and_no_tunnel_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = joined(directory.path(), "b", &a);
    until("they are linked", || a.linked() == 1 && b.linked() == 1);
    let mut events = b.follow(&["events", "-o", "jsonl"]);
    let before = std::fs::read_to_string(a.file("node.crt")).unwrap();
    assert!(a.status()["certificateExpiresAt"].as_u64().unwrap() > 1_700_000_000_000);
    // Certificates have seconds: within one and the same they are the same.
    until("a new certificate is there", || {
        a.ok(&["cert", "reload"]);
        std::fs::read_to_string(a.file("node.crt")).unwrap() != before
    });
    // A node that joins now sees the new one.
    let c = joined(directory.path(), "c", &a);
    until("all are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    a.ok(&["attr", "set", "last", "1"]);
    no_link_ended_until_the_last(&mut events);
    // A certificate that does not fit changes nothing.
    std::fs::write(b.file("node.crt"), &before).unwrap();
    let refused = b.run(&["cert", "reload"]);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert_eq!(b.linked(), 2);
}

/// FEATURES P5: a node without the authority's key gets its next certificate from one that has it, and nothing is cut.
#[test]
fn a_certificate_is_renewed_over_the_mesh_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start_with(directory.path(), "a", &[], &[("SNOMESH_CERT_TTL", "12s")]);
    let b = joined(directory.path(), "b", &a);
    until("they are linked", || a.linked() == 1 && b.linked() == 1);
    let mut events = b.follow(&["events", "-o", "jsonl"]);
    let ends = |agent: &Agent| agent.status()["certificateExpiresAt"].as_u64().unwrap();
    let before = (ends(&a), ends(&b), std::fs::read_to_string(b.file("node.crt")).unwrap());
    until("both have another one", || ends(&a) > before.0 && ends(&b) > before.1);
    assert!(!directory.path().join("b/ca.key").exists());
    let kept = std::fs::read_to_string(b.file("node.crt")).unwrap();
    assert_ne!(kept, before.2);
    // Certificates hold to the end of their last second. Who joins when the first ones have ended sees valid ones, at the door for guests too.
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    until("the first ones have ended", || now() >= u128::from(before.0.max(before.1)) + 1_000);
    let c = joined(directory.path(), "c", &a);
    until("all are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    a.ok(&["attr", "set", "last", "1"]);
    no_link_ended_until_the_last(&mut events);
}

/// FEATURES P5: a certificate is judged while a connection stands, not only when it begins.
#[test]
fn a_peer_whose_certificate_has_ended_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start_with(directory.path(), "a", &[], &[("SNOMESH_CERT_TTL", "12s")]);
    let (b, c) = (joined(directory.path(), "b", &a), joined(directory.path(), "c", &a));
    until("all are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    // Nobody is left who could give them other ones.
    a.kill();
    until("they part", || b.linked() == 0 && c.linked() == 0);
    // Whichever of them looks first: both know why.
    for agent in [&b, &c] {
        until("the end is counted", || {
            let ended = crate::admin::metrics(agent);
            ended.get("snomesh_peer_disconnects_total{reason=\"expired\"}").is_some_and(|count| *count >= 1.0)
        });
        let ended = crate::admin::metrics(agent);
        let blamed = "snomesh_peer_disconnects_total{reason=\"protocol_violation\"}";
        assert_eq!(ended.get(blamed), None, "{ended:?}");
    }
    until("the node says why", || b.status()["reasons"].to_string().contains("certificate has ended"));
}
