//! The admin API from outside: what it tells, and what it refuses.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use crate::http::{self, Answer, over_tcp};
use crate::program::{Agent, until};

fn over_unix(agent: &Agent, request: &str, body: &[u8]) -> Answer {
    http::over_unix(&agent.admin, request, body)
}

/// The series of a scrape: name and labels, to value.
pub(crate) fn metrics(agent: &Agent) -> BTreeMap<String, f64> {
    let answer = over_unix(agent, "GET /metrics HTTP/1.1", b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("application/openmetrics-text"), "{answer:?}");
    let text = answer.body.strip_suffix("# EOF\n").unwrap();
    let (mut series, mut described) = (BTreeMap::new(), None);
    for line in text.lines() {
        if let Some(meta) = line.strip_prefix("# ") {
            described = meta.split(' ').nth(1).map(str::to_owned);
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = described.as_deref().unwrap();
        assert!(name.starts_with("snomesh_") && name.starts_with(family), "{line} below {family}");
        let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(series.insert(name.to_owned(), value).is_none(), "twice: {name}");
    }
    series
}

/// FEATURES P7: metrics tell what was done, and nothing else.
#[test]
fn metrics_count_what_happens() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let before = metrics(&a);
    assert_eq!(before["snomesh_ready"], 1.0);
    assert_eq!(before["snomesh_members{state=\"alive\"}"], 0.0);
    assert_eq!(before["snomesh_registry_changes_total{origin=\"local\"}"], 0.0);
    assert!(before["snomesh_process_resident_memory_bytes"] > 1e6);
    assert!(before["snomesh_cert_expiry_timestamp_seconds{kind=\"node\"}"] > 1.7e9);
    assert!(before["snomesh_event_loop_stall_seconds"] < 60.0);

    let b = Agent::join(directory.path(), "b", &a);
    until("both are linked", || a.linked() == 1 && b.linked() == 1);
    for number in 0..5 {
        a.ok(&["attr", "set", &format!("k{number}"), "v"]);
    }
    a.ok(&["attr", "rm", "k0"]);
    a.ok(&["expose", "web", "9"]);
    until("b has it", || b.digest() == a.digest());
    let bound: SocketAddr = b.ok(&["bind", "0", "nobody", "-o", "name"]).text().trim().parse().unwrap();
    let mut nothing = Vec::new();
    TcpStream::connect(bound).unwrap().read_to_end(&mut nothing).ok();

    let (here, there) = (metrics(&a), metrics(&b));
    assert_eq!(here["snomesh_registry_changes_total{origin=\"local\"}"], 6.0);
    assert_eq!(there["snomesh_registry_changes_total{origin=\"local\"}"], 0.0);
    assert_eq!(here["snomesh_registry_entries{kind=\"attr\"}"], 4.0);
    assert_eq!(there["snomesh_registry_entries{kind=\"attr\"}"], 4.0);
    assert_eq!(there["snomesh_registry_entries{kind=\"tunnel\"}"], 1.0);
    assert_eq!(there["snomesh_registry_entries{kind=\"node\"}"], 2.0);
    let timed = there["snomesh_gossip_propagation_seconds_count"];
    assert_eq!(timed, there["snomesh_registry_changes_total{origin=\"remote\"}"]);
    assert_eq!(timed, there["snomesh_gossip_propagation_seconds_bucket{le=\"+Inf\"}"]);
    assert!(timed >= 5.0, "{timed}");
    assert_eq!(here["snomesh_members{state=\"alive\"}"], 1.0);
    assert_eq!(here["snomesh_gossip_peer_lag_versions{peer=\"b\"}"], 0.0);
    assert!(here["snomesh_peer_bytes_total{peer=\"b\",dir=\"sent\"}"] > 1_000.0);
    assert!(here["snomesh_peer_rtt_seconds{peer=\"b\"}"] > 0.0);
    assert!(here["snomesh_gossip_messages_total{kind=\"delta\",dir=\"sent\"}"] >= 1.0);
    assert_eq!(here["snomesh_tunnels{state=\"healthy\"}"], 1.0);
    assert_eq!(here["snomesh_tunnel_registered{tunnel=\"web\"}"], 1.0);
    assert_eq!(there["snomesh_binds"], 1.0);
    assert_eq!(there["snomesh_streams_total{tunnel=\"nobody\",result=\"not_found\"}"], 1.0);

    let watch = a.follow(&["events"]);
    until("the reader counts", || metrics(&a)["snomesh_event_subscribers"] == 1.0);
    drop(watch);
    until("the reader has gone", || metrics(&a)["snomesh_event_subscribers"] == 0.0);
}

/// HARDENING C1, C6: what the owner's socket refuses, whoever asks.
#[test]
fn what_is_not_legal_is_a_problem_with_a_number() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let json = "content-type: application/json";
    let big = vec![b'x'; 1024 * 1024 + 1];
    let longer = vec![b'x'; 64 * 1024 + 1];
    for (request, body, status, code) in [
        ("GET /nowhere HTTP/1.1", &b""[..], 404, "not_found"),
        ("GET /v1/attributes/mesh/x HTTP/1.1", b"", 404, "not_found"),
        ("GET /v1/attributes/nowhere/x HTTP/1.1", b"", 400, "invalid"),
        ("DELETE /v1/status HTTP/1.1", b"", 405, "method_not_allowed"),
        ("GET /v1/reload HTTP/1.1", b"", 405, "method_not_allowed"),
        ("POST /v1/binds HTTP/1.1", b"{}", 415, "invalid"),
        ("POST /v1/binds HTTP/1.1\r\ncontent-type: text/plain", b"{}", 415, "invalid"),
        ("POST /v1/binds HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded", b"{}", 415, "invalid"),
        (&format!("POST /v1/binds HTTP/1.1\r\n{json}"), b"{}", 400, "invalid"),
        (&format!("POST /v1/binds HTTP/1.1\r\n{json}"), b"not json", 400, "invalid"),
        (
            &format!("PUT /v1/tunnels/web HTTP/1.1\r\n{json}"),
            b"{\"target\":\"80\",\"odd\":1}",
            400,
            "invalid",
        ),
        (
            &format!("PUT /v1/tunnels/Web HTTP/1.1\r\n{json}"),
            b"{\"target\":\"127.0.0.1:80\"}",
            400,
            "invalid",
        ),
        ("PUT /v1/attributes/mesh/x HTTP/1.1", &longer, 413, "too_large"),
        ("PUT /v1/attributes/mesh/x HTTP/1.1", &big, 413, "too_large"),
        ("PUT /v1/debug/log HTTP/1.1", b"{\"spec\":\"=====\"}", 400, "invalid"),
        ("GET /v1/events?from=yesterday HTTP/1.1", b"", 400, "invalid"),
        ("GET /v1/watch/attributes HTTP/1.1\r\nlast-event-id: 1", b"", 400, "invalid"),
    ] {
        let answer = over_unix(&a, request, body);
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert!(answer.head.contains("content-type: application/problem+json"), "{request}: {answer:?}");
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{request}: {answer:?}");
        assert_eq!(problem["status"], status, "{request}");
        let id = problem["requestId"].as_str().unwrap();
        assert!(answer.head.contains(&format!("x-request-id: {id}")), "{request}: {answer:?}");
    }
    assert!(a.ok(&["attr", "ls", "-o", "name"]).text().is_empty());
}

/// HARDENING C1, C2: the port of loopback, from its opening to its refusals.
#[test]
fn the_port_of_loopback_answers_its_owner_and_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &["--http", "127.0.0.1:0"]);
    let address: SocketAddr = a.status()["http"].as_str().unwrap().parse().unwrap();
    let file = std::path::PathBuf::from(a.file("admin.token"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    let get = |path: &str, headers: &str| {
        over_tcp(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}{headers}"), b"")
    };
    let bearer = format!("\r\nauthorization: Bearer {token}");
    assert_eq!(get("/v1/status", &bearer).status, 200);
    let open = get("/healthz", "");
    assert_eq!((open.status, open.body.trim()), (200, "ok"));
    assert!(get("/ui/", "").head.contains("content-security-policy: default-src 'none'"));
    for (path, headers, status) in [
        ("/v1/status", String::new(), 401),
        ("/metrics", String::new(), 401),
        ("/v1/status", format!("\r\nauthorization: Bearer {}", "0".repeat(64)), 401),
        ("/v1/status", format!("{bearer}\r\norigin: https://evil.example"), 403),
        ("/v1/status", format!("{bearer}\r\nsec-fetch-site: cross-site"), 403),
    ] {
        let answer = get(path, &headers);
        assert_eq!(answer.status, status, "{path}{headers}: {answer:?}");
        assert!(answer.json()["requestId"].is_string());
        assert!(!answer.head.contains("access-control-allow"), "{answer:?}");
    }
    let rebound = over_tcp(address, &format!("GET /v1/status HTTP/1.1\r\nhost: evil.example{bearer}"), b"");
    assert_eq!(rebound.status, 421, "{rebound:?}");
    let json = "content-type: application/json";
    let write = over_tcp(address, &format!("PUT /v1/attributes/mesh/x HTTP/1.1\r\nhost: {address}"), b"v");
    assert_eq!((write.status, a.run(&["attr", "get", "x"]).code), (401, Some(4)));

    // The dashboard's link works once; what it gives may look and not touch.
    let url = a.ok(&["ui", "-o", "name"]).text().trim().to_owned();
    let (page, code) = url.split_once('#').unwrap();
    assert_eq!(page, format!("http://{address}/ui/"));
    let redeem = || {
        let request = format!("POST /v1/ui/sessions HTTP/1.1\r\nhost: {address}\r\n{json}");
        over_tcp(address, &request, format!("{{\"code\":\"{code}\"}}").as_bytes())
    };
    let (first, second) = (redeem(), redeem());
    assert_eq!((first.status, second.status), (201, 403));
    let session = first.json()["token"].as_str().unwrap().to_owned();
    let session = format!("\r\nauthorization: Bearer {session}");
    assert_eq!(get("/v1/nodes", &session).status, 200);
    let touch = format!("PUT /v1/attributes/mesh/x HTTP/1.1\r\nhost: {address}{session}");
    assert_eq!(over_tcp(address, &touch, b"v").status, 403);

    // The command line over the port.
    let url = format!("http://{address}");
    let over = |token: &str| crate::program::snomesh(&["--agent", &url, "--token-file", token, "status"]);
    assert_eq!(over(file.to_str().unwrap()).code, Some(0));
    let wrong = directory.path().join("wrong");
    std::fs::write(&wrong, "0".repeat(64)).unwrap();
    std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(over(wrong.to_str().unwrap()).code, Some(5));

    let counted = metrics(&a);
    assert_eq!(counted["snomesh_admin_refused_total{reason=\"host\"}"], 1.0);
    assert_eq!(counted["snomesh_admin_refused_total{reason=\"origin\"}"], 2.0);
    assert!(!a.log().contains(&token) && !a.log().contains(code), "secrets are in the log");
}

/// HARDENING C1, C3.
#[test]
fn an_address_that_others_reach_and_a_token_that_others_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("a");
    let up = |args: &[&str]| {
        crate::program::snomesh(
            &[&["up", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()], args].concat(),
        )
    };
    let open = up(&["--http", "0.0.0.0:0"]);
    assert_eq!(open.code, Some(10), "{open:?}");
    assert!(open.stderr.contains("loopback"), "{open:?}");
    assert_eq!(Agent::start(directory.path(), "a", &[]).end(rustix::process::Signal::TERM), Some(143));
    std::fs::write(data.join("admin.token"), "0".repeat(64)).unwrap();
    std::fs::set_permissions(data.join("admin.token"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = up(&["--http", "127.0.0.1:0"]);
    assert_eq!(exposed.code, Some(10), "{exposed:?}");
    assert!(exposed.stderr.contains("chmod 0600"), "{exposed:?}");
}

/// FEATURES P7.
#[test]
fn the_log_is_changed_while_the_node_runs() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    assert!(!a.log().contains("log probe"));
    a.ok(&["debug", "log-level", "trace"]);
    assert_eq!(a.ok(&["debug", "log-level", "-o", "json"]).json()["spec"], "trace");
    over_unix(&a, "GET /log-probe HTTP/1.1", b"");
    until("it logs more", || a.log().contains("/log-probe"));
    for unknown in ["loud,,==", "loud"] {
        assert_eq!(a.run(&["debug", "log-level", unknown]).code, Some(2));
    }
}
