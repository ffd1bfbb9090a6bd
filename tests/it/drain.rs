//! A node that is drained: everybody passes its tunnels over, and nothing that lives is cut.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use serde_json::Value;

use crate::program::{Agent, DEADLINE, until};

/// A service that sends back what it is told.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for visitor in listener.incoming() {
            let mut visitor = visitor.unwrap();
            thread::spawn(move || {
                let mut from = visitor.try_clone().unwrap();
                std::io::copy(&mut from, &mut visitor).ok();
            });
        }
    });
    address
}

/// The labels of the holders, in the order in which they are tried.
fn resolved(agent: &Agent, to: &str) -> Vec<String> {
    let run = agent.run(&["resolve", to, "-o", "json"]);
    if run.code == Some(9) || run.code == Some(4) {
        return Vec::new();
    }
    let found = run.json()["candidates"].as_array().unwrap().clone();
    found.iter().map(|candidate| candidate["holderName"].as_str().unwrap().to_owned()).collect()
}

/// What `status` says of something that is offered.
fn exposed(agent: &Agent, name: &str) -> Value {
    let exposed = agent.status()["exposed"].as_array().unwrap().clone();
    exposed.into_iter().find(|exposed| exposed["name"] == name).unwrap()
}

/// Two holders of `db`, the one that is found first with a check of `sign`, and a node that looks for it.
fn databases(directory: &Path, sign: &Path) -> [Agent; 3] {
    let [a, b, c] = Agent::three(directory);
    let target = echo().to_string();
    b.ok(&["expose", "db", &target]);
    until("b is found", || resolved(&a, "db") == ["b"]);
    let check = format!("cmd:/usr/bin/test -e {}", sign.display());
    let often = ["--health-interval", "100ms", "--health-rise", "1", "--health-fall", "1"];
    c.ok(&[&["expose", "db", &target, "--weight", "3", "--health", &check][..], &often].concat());
    until("both are found", || resolved(&a, "db") == ["c", "b"]);
    [a, b, c]
}

/// FEATURES P1, P3: new streams go to others on every node, those that live go on, and checks go on too.
#[test]
fn a_drained_node_is_passed_over_by_all_until_it_is_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let sign = directory.path().join("well");
    std::fs::write(&sign, "").unwrap();
    let [a, b, c] = databases(directory.path(), &sign);
    let bound = a.ok(&["bind", "0", "db@c", "-o", "name"]).text();
    let mut standing = TcpStream::connect(bound.trim()).unwrap();
    standing.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut still = |byte: u8| {
        let mut back = [0];
        standing.write_all(&[byte]).unwrap();
        standing.read_exact(&mut back).unwrap();
        assert_eq!(back, [byte]);
    };
    still(1);

    let drained = c.ok(&["node", "drain", "-o", "json"]).json();
    assert_eq!(
        (&drained["draining"], &drained["changed"], &drained["serving"]),
        (&true.into(), &true.into(), &1.into())
    );
    assert_eq!(c.ok(&["node", "drain", "-o", "json"]).json()["changed"], false);
    until("all pass it over", || [&a, &b, &c].iter().all(|agent| resolved(agent, "db") == ["b"]));
    still(2);
    let explained = a.ok(&["resolve", "db", "--explain"]).text();
    assert!(explained.contains("its holder is drained"), "{explained}");
    let listed = a.ok(&["tunnel", "ls", "-o", "json"]).json();
    let listed = listed["tunnels"]
        .as_array()
        .unwrap()
        .iter()
        .find(|tunnel| tunnel["holderName"] == "c")
        .unwrap()
        .clone();
    assert_eq!(
        (&listed["health"], &listed["healthy"], &listed["weight"]),
        (&"draining".into(), &false.into(), &3.into())
    );
    assert!(a.ok(&["tunnel", "show", "db"]).text().contains("its holder is drained"));
    assert_eq!(exposed(&c, "db")["state"], "draining");
    assert_eq!((&c.status()["draining"], &c.status()["ready"]), (&true.into(), &true.into()));
    assert!(c.ok(&["status"]).text().contains("drained"));
    assert!(c.ok(&["doctor"]).text().contains("snomesh node resume"));
    assert_eq!(crate::admin::metrics(&c)["snomesh_tunnels{state=\"draining\"}"], 1.0);

    // What is offered meanwhile is drained too, and whoever offers it is told.
    let late = c.ok(&["expose", "late", "9"]);
    assert!(late.stderr.contains("this node is drained"), "{late:?}");
    until("a has heard of it", || a.digest() == c.digest());
    assert!(resolved(&a, "late").is_empty());
    let refused = a.run(&["connect", "late"]);
    assert_eq!(refused.code, Some(9), "{refused:?}");
    assert!(refused.stderr.contains("drained"), "{refused:?}");

    // A target that fails meanwhile is not picked afterwards, until it serves again.
    std::fs::remove_file(&sign).unwrap();
    until("the check has failed", || exposed(&c, "db")["health"]["state"] == "unhealthy");
    assert_eq!(c.ok(&["node", "resume", "-o", "json"]).json()["changed"], true);
    until("what has no check is back", || resolved(&a, "late") == ["c"]);
    assert_eq!(resolved(&a, "db"), ["b"]);
    std::fs::write(&sign, "").unwrap();
    until("it is back", || resolved(&a, "db") == ["c", "b"]);
    assert_eq!(c.ok(&["node", "resume", "-o", "json"]).json()["changed"], false);
    still(3);

    // Whoever waits is told when the last stream has ended, or that it has not.
    let waited = c.run(&["node", "drain", "--wait", "--timeout", "300ms"]);
    assert_eq!(waited.code, Some(6), "{waited:?}");
    assert!(waited.stderr.contains("1 stream(s)"), "{waited:?}");
    drop(standing);
    let waited = c.ok(&["node", "drain", "--wait", "--timeout", "60s", "-o", "json"]).json();
    assert_eq!((&waited["serving"], &waited["draining"]), (&0.into(), &true.into()));
    // It ends with the node.
    let listen = c.listen.to_string();
    c.stop();
    let c = Agent::start_on(directory.path(), "c", &listen, &[]);
    assert_eq!((&c.status()["draining"], &exposed(&c, "db")["weight"]), (&false.into(), &3.into()));
    until("it is found again", || resolved(&a, "db") == ["c", "b"]);
}
