//! Health checks of targets: who is picked, and what is told of those who are not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::http::over_unix;
use crate::program::{Agent, until};

/// A service that answers requests with its name, and says that it is well as long as it is.
struct Service {
    address: SocketAddr,
    well: Arc<AtomicBool>,
}

impl Service {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, well) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let is_well = Arc::clone(&well);
        thread::spawn(move || {
            for visitor in listener.incoming() {
                let (mut visitor, mut request) = (visitor.unwrap(), [0; 1_024]);
                let length = visitor.read(&mut request).unwrap_or(0);
                let asked = String::from_utf8_lossy(&request[..length]).into_owned();
                let fails = asked.starts_with("GET /healthz ") && !is_well.load(Ordering::SeqCst);
                let status = if fails { "503 Service Unavailable" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                visitor.write_all(head.as_bytes()).ok();
            }
        });
        Self { address, well }
    }

    fn is_well(&self, well: bool) {
        self.well.store(well, Ordering::SeqCst);
    }
}

/// The labels of the holders, in the order in which they are tried.
fn resolved(agent: &Agent) -> Vec<String> {
    let run = agent.run(&["resolve", "db", "-o", "json"]);
    if run.code == Some(9) || run.code == Some(4) {
        return Vec::new();
    }
    let found = run.json()["candidates"].as_array().unwrap().clone();
    found.iter().map(|candidate| candidate["holderName"].as_str().unwrap().to_owned()).collect()
}

/// What `status` says of the health of the first thing that is offered.
fn health(agent: &Agent) -> Value {
    agent.status()["exposed"][0]["health"].clone()
}

/// Two holders of `db`, the one that is found first with a health check, and a node that looks for it.
fn databases(directory: &Path) -> ([Agent; 3], [Service; 2]) {
    let [a, b, c] = Agent::three(directory);
    let (eu, us) = (Service::start("eu"), Service::start("us"));
    b.ok(&["expose", "db", &eu.address.to_string()]);
    until("b is found", || resolved(&a) == ["b"]);
    let checked = ["--health", "http:/healthz", "--health-interval", "100ms", "--health-fall", "2"];
    let told = c.ok(&[&["expose", "db", &us.address.to_string(), "-o", "json"][..], &checked].concat());
    // Whoever exposes hears of the first check.
    assert_eq!(told.json()["health"]["state"], "healthy", "{told:?}");
    assert_eq!(told.json()["health"]["check"]["check"], "http:/healthz");
    until("both are found", || resolved(&a) == ["c", "b"]);
    ([a, b, c], [eu, us])
}

/// FEATURES P1, P3: a target that does not serve is picked by nobody, here and elsewhere, until it serves again.
#[test]
fn a_target_that_fails_its_checks_is_picked_by_nobody_until_it_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let ([a, b, c], [_eu, us]) = databases(directory.path());
    let mut events = a.follow(&["events", "-o", "jsonl"]);
    // What is published before its reader is there is not told: this one is, and then everything.
    let mut written = 0;
    until("the events are followed", || {
        written += 1;
        a.ok(&["attr", "set", "begun", &written.to_string()]);
        crate::admin::metrics(&a)["snomesh_event_subscribers"] == 1.0
    });
    us.is_well(false);
    until("all pass it over", || [&a, &b, &c].iter().all(|agent| resolved(agent) == ["b"]));
    let listed = |query: &str| {
        let answer = over_unix(&a.admin, &format!("GET /v1/tunnels?{query} HTTP/1.1"), b"").json();
        let holders = answer["tunnels"].as_array().unwrap().clone();
        holders.iter().map(|tunnel| tunnel["holderName"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (listed("healthy=false"), listed("healthy=true")),
        (vec!["c".to_owned()], vec!["b".to_owned()])
    );
    assert!(a.ok(&["tunnel", "show", "db"]).text().contains("its holder says that it does not serve"));
    let explained = a.ok(&["resolve", "db", "--explain"]).text();
    assert!(explained.contains("its target fails its health checks"), "{explained}");
    let told = health(&c);
    assert_eq!(
        (&told["state"], &told["failure"]),
        (&"unhealthy".into(), &"answered with status 503 Service Unavailable".into())
    );
    let doctor = c.run(&["doctor"]);
    assert_eq!(doctor.code, Some(8), "{doctor:?}");
    assert!(doctor.text().contains("nobody picks it"), "{doctor:?}");
    let metrics = crate::admin::metrics(&c);
    assert_eq!(metrics["snomesh_tunnels{state=\"unhealthy\"}"], 1.0);
    assert_eq!(metrics["snomesh_tunnels{state=\"healthy\"}"], 0.0);
    assert!(metrics["snomesh_health_check_failures_total{tunnel=\"db\"}"] >= 2.0);
    let checks = metrics["snomesh_health_check_duration_seconds_count{tunnel=\"db\"}"];
    assert!(checks > metrics["snomesh_health_check_failures_total{tunnel=\"db\"}"]);
    // Nobody is left: that is told as a target that cannot be reached, and can be waited for.
    b.ok(&["unexpose", "db"]);
    until("nobody is left", || resolved(&a).is_empty());
    let refused = a.run(&["connect", "db"]);
    assert_eq!(refused.code, Some(9), "{refused:?}");
    assert!(refused.stderr.contains("fails its health checks"), "{refused:?}");
    let waited = a.run(&["bind", "0", "db", "--wait-healthy", "--timeout", "300ms"]);
    assert_eq!(waited.code, Some(6), "{waited:?}");
    us.is_well(true);
    a.ok(&["bind", "0", "db", "--wait-healthy", "--timeout", "60s"]);
    assert_eq!(resolved(&a), ["c"]);
    until("it is well", || health(&c)["failure"].is_null() && health(&c)["state"] == "healthy");
    // Others hear of it as of every change of a registration.
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let event: Value = serde_json::from_str(&events.line()).unwrap();
        if event["type"] == "registered" {
            heard.push(event["healthy"].as_bool().unwrap());
        }
    }
    assert_eq!(heard, [false, true]);
    // The check holds after a restart.
    let listen = c.listen.to_string();
    c.stop();
    let c = Agent::start_on(directory.path(), "c", &listen, &[]);
    until("it is checked again", || health(&c)["state"] == "healthy");
    assert_eq!(health(&c)["check"]["interval"], "100ms");
}

/// FEATURES P1: what has not been seen serving is not picked, and whoever exposes it is told.
#[test]
fn what_does_not_serve_yet_is_offered_and_not_picked() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let told = a.ok(&["expose", "db", &address.to_string(), "--health", "tcp", "--health-interval", "100ms"]);
    assert!(told.text().contains("unhealthy"), "{told:?}");
    assert!(told.stderr.contains("cannot connect to"), "{told:?}");
    assert!(resolved(&a).is_empty());
    let _listener = TcpListener::bind(address).unwrap();
    until("it is found", || resolved(&a) == ["a"]);
    // Without a check it is taken to serve.
    a.ok(&["expose", "db", &address.to_string()]);
    assert!(health(&a).is_null());
    for (args, code) in [
        (&["--health", "icmp"][..], 2),
        (&["--health-interval", "1s"], 2),
        (&["--health", "tcp", "--health-interval", "1ms"], 2),
        (&["--attr", "snomesh.health=x"], 2),
    ] {
        let run = a.run(&[&["expose", "db", "1"], args].concat());
        assert_eq!(run.code, Some(code), "{run:?}");
    }
    let answer = over_unix(&a.admin, "GET /v1/tunnels?healthy=perhaps HTTP/1.1", b"");
    assert_eq!(answer.status, 400, "{answer:?}");
}

/// FEATURES P1, P7: a check of the configuration, which a reload changes and else leaves alone.
#[test]
fn a_check_of_the_configuration_holds_until_it_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let (file, sign) = (directory.path().join("s.toml"), directory.path().join("well"));
    let write = |fall: u32, other: &str| {
        let command = format!("/usr/bin/test -e {}", sign.display());
        let text = format!(
            "{other}[[tunnel]]\nname = \"db\"\ntarget = \"udp:127.0.0.1:9\"\n\
             health = {{ kind = \"cmd\", command = \"{command}\", interval = \"100ms\", fall = {fall} }}\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write(2, "");
    let a = Agent::start(directory.path(), "a", &["-c", file.to_str().unwrap()]);
    until("it fails", || health(&a)["state"] == "unhealthy");
    std::fs::write(&sign, "").unwrap();
    until("it is well", || health(&a)["state"] == "healthy");
    let since = health(&a)["since"].clone();
    write(2, "[[bind]]\nlisten = \"127.0.0.1:1\"\ntunnel = \"db\"\n");
    a.run(&["config", "reload"]);
    assert_eq!(health(&a)["since"], since);
    write(3, "");
    let reload = a.ok(&["config", "reload", "-o", "json"]).json();
    assert!(reload["applied"].to_string().contains("tunnel \\\"db\\\" offered"), "{reload}");
    assert_eq!(health(&a)["check"]["fall"], 3);
}
