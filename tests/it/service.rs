//! The node as a service: what its supervisor is told, and how it ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::program::{Agent, DEADLINE, until};

/// FEATURES P7: systemd's protocol, `Type=notify-reload` with a watchdog.
#[test]
fn a_supervisor_is_told_of_readiness_reloads_life_and_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = || {
        let mut buffer = [0; 4096];
        let length = supervisor.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let told_of = |what: &str| loop {
        let message = told();
        if message.lines().any(|line| line == what) {
            return message;
        }
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "30000000")];
    let a = Agent::start_with(directory.path(), "a", &[], &environment);
    assert!(told_of("READY=1").contains("STATUS=a listens on udp/127.0.0.1:"));
    told_of("WATCHDOG=1");
    a.signal(Signal::HUP);
    let reloading = told_of("RELOADING=1");
    // Without the time systemd takes the READY that follows for that of another reload, and ends the node.
    assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
    told_of("READY=1");
    told_of("WATCHDOG=1");
    let ended = std::thread::spawn(move || a.end(Signal::TERM));
    told_of("STOPPING=1");
    assert_eq!(ended.join().unwrap(), Some(143));
}

/// A drain waits for connections, and whoever does not want to wait says so once more.
#[test]
fn a_second_signal_ends_a_node_that_drains() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("s.toml");
    std::fs::write(&file, "[limits]\ndrain_timeout = \"24h\"\n").unwrap();
    let args = ["-c", file.to_str().unwrap()];
    let a = Agent::start(directory.path(), "a", &[]);
    let (ca, key) = (a.file("ca.crt"), a.file("ca.key"));
    let join = a.listen.to_string();
    let b = Agent::start(
        directory.path(),
        "b",
        &[&args[..], &["--join", &join, "--ca", &ca, "--ca-key", &key]].concat(),
    );
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    b.ok(&["expose", "held", &service.local_addr().unwrap().to_string()]);
    a.ok(&["wait", "--nodes", "2", "--tunnel", "held", "--timeout", "60s"]);
    let bound: SocketAddr = a.ok(&["bind", "0", "held", "-o", "name"]).text().trim().parse().unwrap();
    let mut visitor = TcpStream::connect(bound).unwrap();
    visitor.write_all(b"x").unwrap();
    let (mut held, _) = service.accept().unwrap();
    held.read_exact(&mut [0; 1]).unwrap();
    b.signal(Signal::TERM);
    until("it has said good-bye", || a.ok(&["node", "show", "b", "-o", "json"]).json()["state"] == "left");
    // It still serves the connection that is open.
    visitor.write_all(b"y").unwrap();
    held.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(b.end(Signal::TERM), Some(143));
}
