//! Which tunnel is taken, and what is told when none can be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use crate::program::{Agent, DEADLINE, Run, until};

/// A service that says its name and then what it is told, until it is told no more.
fn serve(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for visitor in listener.incoming() {
            let mut visitor = visitor.unwrap();
            thread::spawn(move || {
                let mut told = Vec::new();
                visitor.write_all(name.as_bytes()).ok();
                visitor.read_to_end(&mut told).ok();
                visitor.write_all(&told).ok();
            });
        }
    });
    address
}

/// An address where nothing listens.
pub(crate) fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The name of the service behind an address of this machine; nothing if the visitor is turned away.
fn who(address: SocketAddr) -> String {
    let mut visitor = TcpStream::connect(address).unwrap();
    visitor.set_read_timeout(Some(DEADLINE)).unwrap();
    visitor.shutdown(std::net::Shutdown::Write).unwrap();
    let mut name = String::new();
    visitor.read_to_string(&mut name).map_or_else(|_reset| String::new(), |_| name)
}

fn bind(agent: &Agent, args: &[&str]) -> SocketAddr {
    agent.ok(&[&["bind", "0", "-o", "name"], args].concat()).text().trim().parse().unwrap()
}

/// The labels of the holders, in the order in which they are tried.
fn resolved(agent: &Agent, args: &[&str]) -> Vec<String> {
    let run = agent.run(&[&["resolve", "-o", "json"], args].concat());
    if run.code == Some(4) {
        return Vec::new();
    }
    let found = run.json()["candidates"].as_array().unwrap().clone();
    found.iter().map(|candidate| candidate["holderName"].as_str().unwrap().to_owned()).collect()
}

/// Two holders of `db`, and a node that looks for it.
fn databases(directory: &Path) -> [Agent; 3] {
    let [a, b, c] = Agent::three(directory);
    let (eu, us) = (serve("eu").to_string(), serve("us").to_string());
    b.ok(&["expose", "db", &eu, "--attr", "service=sql", "--attr", "region=eu"]);
    until("b is found", || resolved(&a, &["db"]) == ["b"]);
    c.ok(&["expose", "db", &us, "--attr", "service=sql", "--attr", "region=us"]);
    until("both are found", || resolved(&a, &["db"]) == ["c", "b"]);
    [a, b, c]
}

/// FEATURES B1, P3.
#[test]
fn a_tunnel_is_found_by_name_by_node_and_by_attributes_under_every_policy() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b, c] = databases(directory.path());
    assert_eq!(resolved(&a, &["db", "--policy", "first"]), ["b", "c"]);
    assert_eq!(resolved(&a, &["db@b"]), ["b"]);
    assert_eq!(resolved(&a, &[&format!("db@{}", &c.id[..8])]), ["c"]);
    assert_eq!(resolved(&b, &["db", "--policy", "nearest"])[0], "b");
    assert_eq!(resolved(&a, &["service=sql,region in (eu,ap)"]), ["b"]);
    assert_eq!(resolved(&a, &["service=sql,region!=eu"]), ["c"]);
    assert_eq!(who(bind(&a, &["service=sql,region=eu"])), "eu");
    assert_eq!(who(bind(&c, &["db@b"])), "eu");
    assert_eq!(who(bind(&c, &["db"])), "us");
    let turns = bind(&a, &["db", "--policy", "round-robin"]);
    let mut answers: Vec<String> = (0..4).map(|_| who(turns)).collect();
    answers.sort();
    assert_eq!(answers, ["eu", "eu", "us", "us"]);

    // What the mesh says of a tunnel counts more than what it was registered with.
    b.ok(&["attr", "set", "tunnel/db/region", "ap"]);
    until("a hears of it", || resolved(&a, &["region=ap"]) == ["c", "b"]);
    assert!(resolved(&a, &["region=eu"]).is_empty());
}

/// FEATURES P3: a weight is told to every node, changed by offering anew, and kept.
#[test]
fn a_weight_is_known_to_whoever_chooses_by_it() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b, c] = databases(directory.path());
    let weights = || {
        let run = a.ok(&["resolve", "db", "--policy", "weighted", "-o", "json"]).json();
        assert_eq!(run["policy"], "weighted");
        let found = run["candidates"].as_array().unwrap().iter().map(|candidate| {
            (candidate["holderName"].as_str().unwrap().to_owned(), candidate["weight"].as_u64().unwrap())
        });
        found.collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(weights(), [("b".to_owned(), 1), ("c".to_owned(), 1)].into());
    let told = c.ok(&["expose", "db", &serve("us").to_string(), "--weight", "1000", "-o", "json"]).json();
    assert_eq!((&told["weight"], &told["state"]), (&1_000.into(), &"healthy".into()));
    until("a hears of it", || weights()["c"] == 1_000);
    assert!(a.ok(&["tunnel", "show", "db"]).text().contains("weight      1000"));
    // One of a thousand to one, six times in ten, is the one that it should be.
    let bound = bind(&a, &["db", "--policy", "weighted"]);
    assert!((0..10).filter(|_| who(bound) == "us").count() >= 6);
    for weight in ["0", "1001", "much", "-1"] {
        let refused = b.run(&["expose", "db", "1", &format!("--weight={weight}")]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
    let listen = c.listen.to_string();
    c.stop();
    let _c = Agent::start_on(directory.path(), "c", &listen, &[]);
    until("it is kept", || weights().get("c") == Some(&1_000));
}

/// FEATURES P3: streams that live count, and those that have ended do not.
#[test]
fn a_visitor_is_led_to_whom_the_fewest_streams_go() {
    let directory = tempfile::tempdir().unwrap();
    let [a, _b, _c] = databases(directory.path());
    let bound = bind(&a, &["db", "--policy", "least-conn"]);
    let visit = || {
        let (mut visitor, mut name) = (TcpStream::connect(bound).unwrap(), [0; 2]);
        visitor.set_read_timeout(Some(DEADLINE)).unwrap();
        visitor.read_exact(&mut name).unwrap();
        (visitor, String::from_utf8(name.to_vec()).unwrap())
    };
    let visits = [visit(), visit(), visit(), visit()];
    let [first, second, third, fourth] = visits;
    assert_eq!([&first.1, &second.1, &third.1, &fourth.1], ["us", "eu", "us", "eu"]);
    let streams = |holder: &str| {
        let found = a.ok(&["resolve", "db", "-o", "json"]).json()["candidates"].as_array().unwrap().clone();
        let found = found.iter().find(|candidate| candidate["holderName"] == holder).cloned();
        found.unwrap()["streams"].as_u64().unwrap()
    };
    assert_eq!((streams("b"), streams("c")), (2, 2));
    drop((second, fourth));
    until("both have ended", || streams("b") == 0);
    let fifth = visit();
    assert_eq!((fifth.1.as_str(), streams("b"), streams("c")), ("eu", 1, 2));
    drop((first, third));
}

/// FEATURES P3.
#[test]
fn a_holder_whose_target_is_dead_gives_way_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let [a, _b, c] = databases(directory.path());
    c.ok(&["expose", "db", &nowhere().to_string()]);
    assert_eq!(who(bind(&a, &["db"])), "eu");
    assert_eq!(who(bind(&c, &["db"])), "eu");
    assert_eq!(a.run(&["connect", "db@c"]).code, Some(9));
}

/// FEATURES P2.
#[test]
fn a_tunnel_is_joined_with_standard_input_and_output() {
    let directory = tempfile::tempdir().unwrap();
    let [a, _b, _c] = databases(directory.path());
    let input: Vec<u8> =
        (0..1_000_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for destination in ["db", "region=eu"] {
        let run: Run = a.run_reading(&["connect", destination], input.clone());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(&run.stdout[..2], if destination == "db" { b"us" } else { b"eu" });
        assert!(run.stdout[2..] == input, "{} bytes of {}", run.stdout.len() - 2, input.len());
    }
}

/// FEATURES P1, P2.
#[test]
fn unix_sockets_datagrams_and_programs_are_offered_and_bound() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = Agent::join(directory.path(), "b", &a);
    until("both are linked", || a.linked() == 1);
    let (service, door) = (directory.path().join("service.sock"), directory.path().join("door.sock"));
    let listener = UnixListener::bind(&service).unwrap();
    thread::spawn(move || {
        for visitor in listener.incoming() {
            visitor.unwrap().write_all(b"unix").unwrap();
        }
    });
    b.ok(&["expose", "sock", &format!("unix:{}", service.display())]);
    b.ok(&["expose", "rev", "stdio:/usr/bin/rev"]);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    b.ok(&["expose", "dgram", &format!("udp:{}", udp.local_addr().unwrap())]);
    until("all are found", || ["sock", "rev", "dgram"].iter().all(|name| resolved(&a, &[name]) == ["b"]));

    let listen = format!("unix:{}", door.display());
    a.ok(&["bind", &listen, "sock"]);
    let mut answer = String::new();
    UnixStream::connect(&door).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "unix");
    a.ok(&["unbind", &listen]);
    until("its file is gone", || !door.exists());

    assert_eq!(a.run_reading(&["connect", "rev"], b"abc\n".to_vec()).text(), "cba\n");

    let bound = a.ok(&["bind", "udp:127.0.0.1:0", "dgram", "-o", "name"]).text();
    let bound = bound.trim().strip_prefix("udp:").unwrap().to_owned();
    let visitor = UdpSocket::bind("127.0.0.1:0").unwrap();
    visitor.connect(&bound).unwrap();
    visitor.send(b"ping").unwrap();
    let mut datagram = [0; 9];
    let (len, from) = udp.recv_from(&mut datagram).unwrap();
    assert_eq!(&datagram[..len], b"ping");
    udp.send_to(b"pong!", from).unwrap();
    assert_eq!(visitor.recv(&mut datagram).unwrap(), 5);

    // What carries the other kind is no target of it.
    assert_eq!(a.run(&["connect", "dgram"]).code, Some(9));
}

#[test]
fn of_a_range_the_lowest_free_port_is_bound_and_a_bound_port_is_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let first = held.local_addr().unwrap().port();
    let range = format!("127.0.0.1:{first}-{}", first.saturating_add(50));
    let taken = a.ok(&["bind", &range, "web", "-o", "name"]).text();
    let taken: SocketAddr = taken.trim().parse().unwrap();
    assert!(taken.port() > first && taken.port() <= first + 50);
    assert_eq!(a.run(&["bind", &held.local_addr().unwrap().to_string(), "web"]).code, Some(7));
}

/// FEATURES P2.
#[test]
fn a_program_that_knows_socks_reaches_tunnels_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    a.ok(&["expose", "web", &serve("socks").to_string()]);
    a.ok(&["expose", "dead", &nowhere().to_string()]);
    let mut proxy = a.follow(&["proxy", "--socks5", "0"]);
    let line = proxy.line();
    let address: SocketAddr = line.split("socks5://").nth(1).unwrap().parse().unwrap();
    let ask = |host: &str| {
        let mut visitor = TcpStream::connect(address).unwrap();
        visitor.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = u8::try_from(host.len()).unwrap();
        let request = [&[5, 1, 0, 5, 1, 0, 3, length][..], host.as_bytes(), &[0, 80]].concat();
        visitor.write_all(&request).unwrap();
        let mut answer = [0; 12];
        visitor.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..3], [5, 0, 5]);
        (visitor, answer[3])
    };
    let (mut visitor, granted) = ask("web.mesh");
    assert_eq!(granted, 0);
    visitor.write_all(b" and back").unwrap();
    visitor.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    visitor.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "socks and back");
    assert_eq!((ask("none").1, ask("dead").1), (4, 5));
}

#[test]
fn what_is_not_there_is_not_found_and_it_is_said_why() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    a.ok(&["expose", "dead", &nowhere().to_string(), "--attr", "region=eu"]);
    for (args, code) in [
        (&["resolve", "none"][..], 4),
        (&["connect", "none"], 4),
        (&["connect", "region=us"], 4),
        (&["resolve", "dead@b"], 4),
        (&["connect", "dead"], 9),
        (&["resolve", "a in (b"], 2),
        (&["bind", "0", "dead", "--policy", "best"], 2),
        (&["connect", "No"], 2),
    ] {
        let run = a.run(args);
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        assert!(run.stdout.is_empty() && run.stderr.contains("error:"), "{args:?}: {run:?}");
    }
    // People are not told of nothing in a table, and slips are understood.
    for args in [&["resolve", "daed"][..], &["resolve", "daed", "--explain"]] {
        let run = a.run(args);
        assert!(run.code == Some(4) && run.stdout.is_empty(), "{run:?}");
        assert!(run.stderr.contains("did you mean \"dead\"?"), "{run:?}");
    }
    // Whatever is asked says the same of a service that does not serve.
    let check = ["--health", "tcp", "--health-interval", "100ms", "--health-fall", "1"];
    a.ok(&[&["expose", "sick", &nowhere().to_string()][..], &check].concat());
    until("it is found to be sick", || a.run(&["connect", "sick"]).stderr.contains("health checks"));
    for args in [&["resolve", "sick"][..], &["resolve", "sick", "--explain"], &["connect", "sick"]] {
        let run = a.run(args);
        assert!(run.code == Some(9) && run.stderr.contains("fails its health checks"), "{args:?}: {run:?}");
    }
    // So does a ping, which takes the same names.
    for target in ["dead", "dead@a", "region=eu"] {
        let run = a.run(&["ping", target, "-c", "1"]);
        assert!(run.code == Some(9) && run.stderr.contains("target unreachable"), "{target}: {run:?}");
    }
    assert_eq!(a.run(&["ping", "dead@b", "-c", "1"]).code, Some(4));
    let explained = a.run(&["resolve", "region in (us,ap)", "--explain"]);
    assert_eq!(explained.code, Some(4));
    assert!(explained.text().contains("does not meet region in (ap,us)"), "{}", explained.text());
}
