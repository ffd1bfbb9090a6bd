//! Three nodes, each in a process of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use rustix::process::Signal;

use crate::program::{Agent, until};

fn reads(agent: &Agent, key: &str, value: &str) -> bool {
    agent.run(&["attr", "get", key]).stdout == value.as_bytes()
}

fn agree(agents: &[&Agent]) {
    until("all digests are equal", || {
        let digest = agents[0].digest();
        agents.iter().all(|agent| agent.digest() == digest)
    });
}

#[test]
fn what_one_node_writes_all_read_and_one_that_was_killed_catches_up() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b, c] = Agent::three(directory.path());
    a.ok(&["attr", "set", "color", "blue"]);
    b.ok(&["attr", "set", "tunnel/web/weight", "7"]);
    until("all read it", || [&a, &b, &c].iter().all(|agent| reads(agent, "color", "blue")));
    agree(&[&a, &b, &c]);

    let (id, generation) = (c.id.clone(), c.status()["generation"].as_u64().unwrap());
    c.kill();
    until("the others miss it", || {
        let nodes = a.ok(&["node", "ls", "-o", "json"]).json();
        let nodes = nodes["nodes"].as_array().unwrap();
        nodes.iter().any(|node| node["node"] == id.as_str() && node["state"] != "alive")
    });
    a.ok(&["attr", "set", "while-away", "1"]);
    b.ok(&["attr", "set", "color", "green"]);
    let c = Agent::join(directory.path(), "c", &a);
    assert_eq!(c.id, id);
    assert!(c.status()["generation"].as_u64().unwrap() > generation);
    until("it catches up", || reads(&c, "color", "green") && reads(&c, "while-away", "1"));
    agree(&[&a, &b, &c]);
}

/// FEATURES P9.
#[test]
fn counters_add_up_and_sets_keep_what_is_added_wherever_it_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b, c] = Agent::three(directory.path());
    assert_eq!(a.ok(&["attr", "incr", "hits"]).text(), "1\n");
    b.ok(&["attr", "incr", "hits", "10"]);
    c.ok(&["attr", "incr", "hits", "-3"]);
    a.ok(&["attr", "add", "sites", "north"]);
    b.ok(&["attr", "add", "sites", "south"]);
    let said = |agent: &Agent, args: &[&str]| agent.run(args).text();
    until("all count the same", || {
        [&a, &b, &c].iter().all(|agent| said(agent, &["attr", "count", "hits"]) == "8\n")
    });
    until("all have both", || {
        [&a, &b, &c].iter().all(|agent| said(agent, &["attr", "members", "sites"]) == "north\nsouth\n")
    });
    c.ok(&["attr", "remove", "sites", "north"]);
    until("it is gone", || said(&a, &["attr", "members", "sites"]) == "south\n");
    assert_eq!(a.run(&["attr", "remove", "sites", "north"]).code, Some(4));
    assert_eq!(a.run(&["attr", "count", "misses"]).code, Some(4));
    assert_eq!(a.ok(&["attr", "counters", "-o", "json"]).json()["counters"][0]["value"], "8");
    assert_eq!(a.ok(&["attr", "sets", "-o", "json"]).json()["sets"][0]["elements"], 1);
    agree(&[&a, &b, &c]);
}

#[test]
fn a_node_that_says_goodbye_has_left_and_takes_its_offers_along() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = Agent::join(directory.path(), "b", &a);
    b.ok(&["expose", "web", "9"]);
    let chosen = || a.ok(&["tunnel", "ls", "-o", "json"]).json()["tunnels"][0]["chosen"] == true;
    until("a finds it", chosen);
    assert_eq!(b.end(Signal::TERM), Some(143));
    until("it has left", || a.ok(&["node", "ls", "-o", "json"]).json()["nodes"][1]["state"] == "left");
    assert!(!chosen());
}

#[test]
fn a_watch_sees_what_other_nodes_write() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = Agent::join(directory.path(), "b", &a);
    a.ok(&["attr", "set", "color", "blue"]);
    until("b reads it", || reads(&b, "color", "blue"));
    let mut watch = b.follow(&["attr", "watch", "mesh/"]);
    assert_eq!(watch.line(), "= mesh/color  blue");
    assert!(watch.line().starts_with("--"));
    a.ok(&["attr", "set", "color", "green"]);
    assert_eq!(watch.line(), "+ mesh/color  green");
    a.ok(&["attr", "rm", "color"]);
    assert_eq!(watch.line(), "- mesh/color");
}

#[test]
fn a_service_is_reached_through_a_bind_byte_by_byte() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b, c] = Agent::three(directory.path());
    let service = serve_echo();
    c.ok(&["expose", "echo", &service.to_string(), "--attr", "kind=test"]);
    until("all find it", || {
        [&a, &b, &c].iter().all(|agent| agent.ok(&["tunnel", "ls", "-o", "name"]).text().trim() == "echo")
    });
    let body: Vec<u8> = (0..4_u32 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    // From another node, and from the one that holds it.
    for agent in [&a, &c] {
        let bound = agent.ok(&["bind", "0", "echo", "-o", "name"]).text();
        let bound: SocketAddr = bound.trim().parse().unwrap();
        assert_eq!(post(bound, &body), body);
        assert_eq!(agent.status()["binds"][0]["listen"], bound.to_string());
        agent.ok(&["unbind", &bound.to_string()]);
        until("nobody listens", || TcpStream::connect(bound).is_err());
    }
    c.ok(&["unexpose", "echo"]);
    until("nobody finds it", || a.ok(&["tunnel", "ls", "-o", "name"]).text().is_empty());
}

#[test]
fn what_is_exposed_and_bound_holds_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let service = serve_echo();
    a.ok(&["expose", "echo", &service.to_string()]);
    let bound = a.ok(&["bind", "0", "echo", "-o", "name"]).text();
    assert_eq!(a.end(Signal::TERM), Some(143));
    let a = Agent::start(directory.path(), "a", &[]);
    assert_eq!(a.status()["exposed"][0]["name"], "echo");
    assert_eq!(post(bound.trim().parse().unwrap(), b"again"), b"again");
}

#[test]
fn a_node_of_another_mesh_is_told_so_at_both_ends() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let stranger = Agent::start(directory.path(), "b", &["--join", &a.listen.to_string()]);
    until("the stranger knows why", || {
        let status = stranger.status();
        let reasons = status["reasons"].to_string();
        status["ready"] == false && reasons.contains("another mesh") && reasons.contains("UnknownIssuer")
    });
    let run = stranger.run(&["status"]);
    assert_eq!(run.code, Some(8), "{run:?}");
    assert!(run.text().contains("not ready") && run.text().contains("--ca"), "{run:?}");
    until("its log says so", || stranger.log().contains("UnknownIssuer"));
    until("the other one's log says so", || a.log().contains("handshake failed"));
    assert_eq!(a.linked(), 0);
}

/// A service that answers a request with its own body.
fn serve_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for visitor in listener.incoming() {
            let mut visitor = visitor.unwrap();
            thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    visitor.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                visitor.read_exact(&mut body).unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                visitor.write_all(answer.as_bytes()).unwrap();
                visitor.write_all(&body).unwrap();
            });
        }
    });
    address
}

/// Posts a body and gives back the answer's.
fn post(address: SocketAddr, body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(crate::program::DEADLINE)).unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    answer.split_off(end)
}
