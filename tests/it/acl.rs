//! Who may expose and connect what.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use crate::program::{Agent, Run, until};

/// Sets a policy, and gives back what that came to.
fn set(agent: &Agent, args: &[&str], policy: &str) -> Run {
    agent.run_reading(&[&["acl", "set", "-"], args].concat(), policy.as_bytes().to_vec())
}

fn serial(agent: &Agent) -> u64 {
    agent.ok(&["acl", "show", "-o", "json"]).json()["serial"].as_u64().unwrap()
}

/// A service that greets whoever comes, and stays as long as the visitor does.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut visitor, _)) = listener.accept() {
            std::thread::spawn(move || {
                visitor.write_all(b"hello").ok();
                visitor.read_to_end(&mut Vec::new()).ok();
            });
        }
    });
    address
}

fn three(directory: &Path) -> [Agent; 3] {
    let a = Agent::start(directory, "a", &[]);
    let joined = |name: &str| {
        let token = a.ok(&["invite", "-o", "name"]).text().trim().to_owned();
        let data_dir = directory.join(name);
        let run = crate::program::snomesh(&["join", &token, "--data-dir", data_dir.to_str().unwrap()]);
        assert_eq!(run.code, Some(0), "{run:?}");
        Agent::start(directory, name, &[])
    };
    let (b, c) = (joined("b"), joined("c"));
    until("all are linked", || [&a, &b, &c].iter().all(|agent| agent.linked() == 2));
    [a, b, c]
}

/// FEATURES P5.
#[test]
fn a_policy_holds_everywhere_for_whoever_exposes_and_whoever_connects() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b, c] = three(directory.path());
    let target = greeter().to_string();
    for name in ["web", "cam-1"] {
        b.ok(&["expose", name, &target]);
    }
    until("c has heard of both", || c.digest() == b.digest());
    assert!(a.ok(&["acl", "show"]).text().contains("nobody has set a policy"));
    assert_eq!(c.ok(&["acl", "check", "c", "connect", "web", "-o", "json"]).json()["permitted"], true);
    let bound = c.ok(&["bind", "0", "web", "-o", "name"]).text().trim().to_owned();
    let mut standing = TcpStream::connect(&bound).unwrap();
    let mut hello = [0; 5];
    standing.read_exact(&mut hello).unwrap();

    // Only a and b connect to web, nobody exposes cameras but c.
    let policy = "default = \"deny\"
        [groups]
        front = [\"a\", \"b\"]
        [[rule]]
        who = \"@front\"
        may = [\"connect\", \"expose\"]
        what = \"web\"
        [[rule]]
        who = \"c\"
        may = \"expose\"
        what = \"cam-*\"
        [[rule]]
        who = \"*\"
        may = \"connect\"
        what = \"cam-*\"";
    let refused = set(&b, &[], policy);
    assert_eq!(refused.code, Some(5), "only who has the authority's key: {refused:?}");
    let would = set(&a, &["--dry-run"], policy);
    assert_eq!((would.code, serial(&a)), (Some(0), 0), "{would:?}");
    assert!(would.text().contains(&format!("\"{}\",  # b", b.id)), "{would:?}");
    assert_eq!(set(&a, &[], policy).code, Some(0));
    until("all have it", || [&a, &b, &c].iter().all(|agent| serial(agent) == 1));

    // Who may not connect is told so, and what stood is cut.
    assert!(standing.read_exact(&mut hello).is_err());
    let refused = c.run(&["connect", "web"]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(refused.stderr.contains("policy"), "{refused:?}");
    let check = c.run(&["acl", "check", "c", "connect", "web"]);
    assert_eq!(check.code, Some(5), "{check:?}");
    assert!(check.text().contains("none of them names the node"), "{check:?}");
    let explained = c.run(&["resolve", "web", "--explain"]).text();
    assert!(explained.contains("this node may not connect"), "c need not ask to know: {explained}");
    assert_eq!(a.run_reading(&["connect", "web"], Vec::new()).stdout, b"hello");
    // Who may not expose is not found, by anybody, and cannot begin to.
    let explained = a.run(&["resolve", "cam-1", "--explain"]).text();
    assert!(explained.contains("may not expose"), "{explained}");
    let listed = a.run(&["tunnel", "show", "cam-1", "-o", "json"]).json();
    assert_eq!(listed["tunnels"][0]["chosen"], false, "it is there, and no lookup finds it: {listed}");
    assert_eq!(a.run(&["connect", "cam-1"]).code, Some(5));
    let refused = b.run(&["expose", "cam-2", &target]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    let doctor = b.run(&["doctor"]);
    assert_eq!(doctor.code, Some(8), "{doctor:?}");
    assert!(doctor.text().contains("may not expose cam-1"), "{doctor:?}");
    c.ok(&["expose", "cam-3", &target]);
    until("b finds it", || b.run_reading(&["connect", "cam-3"], Vec::new()).stdout == b"hello");

    // A restart of who is refused helps nobody, nor one of who refuses.
    c.stop();
    let c = Agent::start(directory.path(), "c", &[]);
    assert_eq!(serial(&c), 1, "it holds before anybody was heard");
    until("they are linked again", || c.linked() == 2);
    assert_eq!(c.run(&["connect", "web"]).code, Some(5));
    // Another policy takes its place, unless somebody was faster.
    let stale = set(&a, &["--expected", "0"], "default = \"allow\"");
    assert_eq!(stale.code, Some(7), "{stale:?}");
    assert_eq!(set(&a, &["--expected", "1"], "default = \"allow\"").code, Some(0));
    until("c may again", || c.run_reading(&["connect", "web"], Vec::new()).stdout == b"hello");
    assert_eq!(a.run_reading(&["connect", "cam-1"], Vec::new()).stdout, b"hello");
}

#[test]
fn a_policy_that_is_not_legal_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let rule = |who: &str, may: &str, what: &str| {
        format!("default = \"deny\"\n[[rule]]\nwho = {who}\nmay = {may}\nwhat = {what}\n")
    };
    for (policy, code, told) in [
        ("default = ".to_owned(), 2, "-:1:"),
        ("defualt = \"deny\"".to_owned(), 2, "-:1:1: unknown field `defualt`"),
        (rule("\"nobody\"", "\"expose\"", "\"web\""), 4, "no node is called"),
        (rule("\"@nobody\"", "\"expose\"", "\"web\""), 2, "-:3:7: there is no group"),
        (rule("\"@No\"", "\"expose\"", "\"web\""), 2, "@GROUP"),
        (rule("[]", "\"expose\"", "\"web\""), 2, "rule 1 says nothing"),
        (
            rule("\"*\"", "\"own\"", "\"web\""),
            2,
            "-:4:7: unknown variant `own`, expected `expose` or `connect`",
        ),
        (rule("\"*\"", "\"expose\"", "\"*web\""), 2, "beginning of one"),
    ] {
        let refused = set(&a, &[], &policy);
        assert_eq!(refused.code, Some(code), "{policy}: {refused:?}");
        assert!(refused.stderr.contains(told), "{policy}: {refused:?}");
    }
    let missing = a.run(&["acl", "set", "/nowhere.toml"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert_eq!(a.run(&["acl", "check", "nobody", "expose", "web"]).code, Some(4));
    assert_eq!(a.run(&["acl", "check", "a", "own", "web"]).code, Some(2));
    assert_eq!(serial(&a), 0);
}

/// Two sides of a partition that both set one: all come to hold the same.
#[test]
fn policies_of_two_sides_of_a_partition_become_one() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = Agent::join(directory.path(), "b", &a);
    until("they are linked", || a.linked() == 1 && b.linked() == 1);
    // While one is away the other one sets a policy, and the other way round: neither knows of the other's.
    b.stop();
    assert_eq!(set(&a, &[], "default = \"allow\"").code, Some(0));
    let (listen, ca, key) = (a.listen.to_string(), a.file("ca.crt"), a.file("ca.key"));
    a.stop();
    let b = Agent::start(directory.path(), "b", &["--ca", &ca, "--ca-key", &key]);
    assert_eq!(set(&b, &[], "default = \"deny\"").code, Some(0));
    assert_eq!(serial(&b), 1);
    let a = Agent::start_on(directory.path(), "a", &listen, &[]);
    let policy = |agent: &Agent| agent.ok(&["acl", "show", "-o", "json"]).json();
    until("they are linked again", || a.linked() == 1 && b.linked() == 1);
    until("one policy holds", || policy(&a) == policy(&b));
    until("and stands in the state", || a.digest() == b.digest());
    // The next one comes after both.
    assert_eq!(set(&b, &["--expected", "1"], "default = \"allow\"\n[groups]\nx = [\"a\"]\n").code, Some(0));
    until("both have it", || serial(&a) == 2 && serial(&b) == 2);
}
