//! What a process keeps from others, what its API refuses on every path, and a disk that is really full.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::http::over_unix;
use crate::program::{Agent, snomesh, until};

/// A user that owns nothing, on every system that this runs on.
const NOBODY: u32 = 65_534;

fn proc(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

/// All that is below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

/// HARDENING C3.
#[test]
fn a_running_node_leaves_no_core_and_nobody_else_reads_what_it_writes() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &["--http", "127.0.0.1:0"]);
    a.ok(&["expose", "web", "9"]);
    a.ok(&["attr", "set", "color", "blue"]);
    a.ok(&["invite"]);
    let limits = proc(a.pid(), "limits");
    let limit = |name: &str| -> Vec<String> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"], "{limits}");
    let status = proc(a.pid(), "status");
    assert!(status.lines().any(|line| line == "Umask:\t0077"), "{status}");
    let written = below(&a.data_dir);
    assert!(written.len() >= 8, "{written:?}");
    for path in written.iter().chain([&a.data_dir]) {
        let mode = std::fs::symlink_metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}

/// HARDENING C3: a process of the same user cannot look into it. What the kernel does with such a process shows in who owns
/// its files in `/proc`: root, instead of the user. And however few descriptors it was started with, it takes all it may have.
#[test]
fn a_running_node_is_not_inspected_by_other_processes_of_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("a");
    std::fs::create_dir(&data_dir).unwrap();
    std::fs::set_permissions(&data_dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -Sn 256 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_snomesh")]);
    command.args(["up", "--name", "a", "--listen", "127.0.0.1:0", "--output", "json", "--data-dir"]);
    command.arg(&data_dir).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut user = rustix::process::getuid().as_raw();
    if user == 0 {
        // Root owns everything anyway, so the node has to be somebody else's.
        user = NOBODY;
        std::os::unix::fs::chown(&data_dir, Some(NOBODY), Some(NOBODY)).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let owner = std::fs::metadata(format!("/proc/{}/environ", child.id())).map(|file| file.uid());
    let limits = proc(child.id(), "limits");
    child.kill().unwrap();
    let status = child.wait().unwrap();
    // What the shell says of a program that it may not run.
    if status.code() == Some(126) {
        println!("SKIPPED: the program cannot be run as another user");
        return;
    }
    assert!(line.contains("\"admin\""), "it did not start: {line}");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let files: Vec<&str> = files.split_whitespace().take(2).collect();
    assert!(files[0] == files[1] && files[0] != "256", "as many descriptors as it may have: {limits}");
    assert_eq!(owner.unwrap(), 0, "user {user} may look into its node");
}

/// HARDENING C4.
#[test]
fn session_keys_are_never_written_down_and_a_wish_for_it_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let a = Agent::start_with(directory.path(), "a", &[], &[("SSLKEYLOGFILE", keys.to_str().unwrap())]);
    let b = Agent::join(directory.path(), "b", &a);
    until("they are linked", || a.linked() == 1 && b.linked() == 1);
    b.ok(&["attr", "set", "color", "blue"]);
    until("it has come", || a.run(&["attr", "get", "color"]).code == Some(0));
    assert!(!keys.exists());
    assert!(a.log().contains("SSLKEYLOGFILE is ignored"), "{}", a.log());
}

/// HARDENING C5: whatever is asked, a line of the log is one object, and nothing in it moves a terminal's cursor.
#[test]
fn what_others_send_cannot_forge_lines_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    a.ok(&["debug", "log-level", "trace"]);
    let forged = "%0a%7b%22level%22:%22ERROR%22%7d%1b%5b31m";
    over_unix(&a.admin, &format!("GET /forged{forged} HTTP/1.1\r\nuser-agent: \"x\\"), b"");
    over_unix(&a.admin, "GET /raw HTTP/1.1\r\nuser-agent: \u{1b}[31m", b"");
    over_unix(&a.admin, &format!("GET /v1/attributes/mesh/{forged} HTTP/1.1"), b"");
    over_unix(&a.admin, &format!("PUT /v1/tunnels/{forged} HTTP/1.1"), b"\x1b[31m\n{");
    until("it is logged", || a.log().contains("/forged"));
    a.ok(&["debug", "log-level", "info"]);
    let log = a.log();
    assert!(!log.contains('\u{1b}'));
    for line in log.lines().filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
}

/// HARDENING C6: HTTP/1 alone. The beginning of HTTP/2 is no request.
#[test]
fn the_beginning_of_http_2_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let mut stream = std::os::unix::net::UnixStream::connect(&a.admin).unwrap();
    stream.set_read_timeout(Some(crate::program::DEADLINE)).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let is_refused =
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 400") || answer.starts_with(b"HTTP/1.0 400");
    assert!(is_refused, "{:?}", String::from_utf8_lossy(&answer));
}

/// The operations of the API as it describes itself.
fn operations(agent: &Agent) -> Vec<(String, String, Value)> {
    let described = over_unix(&agent.admin, "GET /openapi.json HTTP/1.1", b"").json();
    let mut operations = Vec::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    assert!(operations.len() > 40, "{}", operations.len());
    operations
}

/// A path with something legal for each of its parts.
fn filled(path: &str) -> String {
    path.replace("{name}", "web")
        .replace("{listen}", "127.0.0.1:1")
        .replace("{key}", "mesh/x")
        .replace("{node}", "a")
}

/// HARDENING C1, C6: every path of the API, with what it does not take. The API's own description is the list, so that a
/// new path is in it.
#[test]
fn every_path_refuses_other_methods_other_types_and_bodies_that_make_no_sense() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let mut taken: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let operations = operations(&a);
    for (method, path, _) in &operations {
        taken.entry(path.clone()).or_default().push(method.clone());
    }
    let refused = |request: &str, body: &[u8], status: u16, code: &str| {
        let answer = over_unix(&a.admin, request, body);
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert_eq!(answer.json()["code"], code, "{request}: {answer:?}");
        assert!(answer.json()["title"].as_str().is_some_and(|title| !title.is_empty()), "{request}");
    };
    let json = "content-type: application/json";
    for (path, methods) in &taken {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            if !methods.iter().any(|taken| taken == method) {
                let request = format!("{method} {} HTTP/1.1\r\n{json}", filled(path));
                refused(&request, b"{}", 405, "method_not_allowed");
            }
        }
    }
    let mut bodies = 0;
    for (method, path, operation) in &operations {
        let request = format!("{method} {} HTTP/1.1", filled(path));
        if method == "POST" {
            refused(&format!("{request}\r\ncontent-type: text/plain"), b"{}", 415, "invalid");
        }
        if !operation["requestBody"]["content"]["application/json"].is_null() {
            bodies += 1;
            let request = format!("{request}\r\n{json}");
            for nonsense in [&b"not json"[..], b"[]", b"{\"odd\":1}", b"\xff\xfe", b""] {
                refused(&request, nonsense, 400, "invalid");
            }
            refused(&request, &vec![b' '; 1024 * 1024 + 1], 413, "too_large");
        }
    }
    assert!(bodies >= 10, "{bodies}");
    assert_eq!(a.status()["ready"], true, "none of that did anything");
    assert!(a.ok(&["attr", "ls", "-o", "name"]).text().is_empty());
}

/// HARDENING C1: every part of a path and of a query that is not legal.
#[test]
fn every_word_that_is_not_legal_is_refused_with_what_is() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = Agent::join(directory.path(), "b", &a);
    until("they are linked", || b.linked() == 1);
    let json = "HTTP/1.1\r\ncontent-type: application/json";
    for (request, body, status, code) in [
        ("GET /v1/attributes/mesh/a%20b HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/attributes/mesh/x?format=xml HTTP/1.1", "", 404, "not_found"),
        ("PUT /v1/attributes/mesh/x?durability=some HTTP/1.1", "v", 400, "invalid"),
        ("DELETE /v1/attributes/mesh/x?durability=some HTTP/1.1", "", 400, "invalid"),
        ("DELETE /v1/attributes/tunnel/A%20b/x HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/counters/nowhere/x HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/counters/mesh/x HTTP/1.1", "", 404, "not_found"),
        (&format!("POST /v1/counters/mesh/x {json}"), "{\"by\":\"much\"}", 400, "invalid"),
        ("GET /v1/sets/nowhere/x HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/tunnels?name=A HTTP/1.1", "", 400, "invalid"),
        ("DELETE /v1/tunnels/A HTTP/1.1", "", 400, "invalid"),
        ("DELETE /v1/tunnels/web HTTP/1.1", "", 404, "not_found"),
        (&format!("PUT /v1/tunnels/web {json}"), "{\"target\":\"nowhere\"}", 400, "invalid"),
        (&format!("PUT /v1/tunnels/web {json}"), "{\"target\":\"unix:relative\"}", 400, "invalid"),
        (&format!("PUT /v1/tunnels/web {json}"), "{\"target\":\"stdio:cat\"}", 400, "invalid"),
        ("DELETE /v1/binds/nowhere HTTP/1.1", "", 400, "invalid"),
        ("DELETE /v1/binds/127.0.0.1:1 HTTP/1.1", "", 404, "not_found"),
        (&format!("POST /v1/binds {json}"), "{\"listen\":\"0.0.0.0\",\"tunnel\":\"web\"}", 400, "invalid"),
        (
            &format!("POST /v1/binds {json}"),
            "{\"listen\":\"127.0.0.1:0\",\"tunnel\":\"A b\"}",
            400,
            "invalid",
        ),
        (
            &format!("POST /v1/binds {json}"),
            "{\"listen\":\"127.0.0.1:0\",\"tunnel\":\"web\",\"policy\":\"best\"}",
            400,
            "invalid",
        ),
        (
            &format!("POST /v1/binds {json}"),
            "{\"listen\":\"192.0.2.1:1\",\"tunnel\":\"web\"}",
            400,
            "invalid",
        ),
        ("GET /v1/resolve HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/resolve?to=A%20b HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/resolve?to=web&policy=best HTTP/1.1", "", 400, "invalid"),
        (&format!("POST /v1/connect {json}"), "", 400, "invalid"),
        (&format!("POST /v1/connect?to=web&policy=best {json}"), "", 400, "invalid"),
        (&format!("POST /v1/ping {json}"), "{\"target\":\"nobody\"}", 404, "not_found"),
        (&format!("POST /v1/revocations {json}"), "{\"node\":\"nobody\"}", 404, "not_found"),
        (&format!("POST /v1/ui/sessions {json}"), "{\"code\":\"guess\"}", 403, "forbidden"),
        ("GET /v1/acl/check?node=a HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/acl/check?node=a&may=own&what=web HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/acl/check?node=nobody&may=expose&what=web HTTP/1.1", "", 404, "not_found"),
        ("GET /v1/watch/tunnels?from=x HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/watch/attributes?from=1 HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/events HTTP/1.1\r\nlast-event-id: x", "", 400, "invalid"),
        ("PUT /v1/debug/log HTTP/1.1", "{\"spec\":\"\",\"forSeconds\":-1}", 400, "invalid"),
    ] {
        refused(&a, request, body, (status, code));
    }
}

/// HARDENING C1: pages, weights, and what an invitation gives.
#[test]
fn numbers_places_and_terms_that_are_not_legal_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let json = "HTTP/1.1\r\ncontent-type: application/json";
    for (request, body, status, code) in [
        ("GET /v1/nodes?after=nobody HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/nodes?limit=0 HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/sets?after=a%20b HTTP/1.1", "", 400, "invalid"),
        ("GET /v1/counters?limit=x HTTP/1.1", "", 400, "invalid"),
        (&format!("PUT /v1/tunnels/web {json}"), "{\"target\":\"a:1\",\"weight\":0}", 400, "invalid"),
        (&format!("PUT /v1/tunnels/web {json}"), "{\"target\":\"a:1\",\"weight\":1001}", 400, "invalid"),
        (
            &format!("POST /v1/invites {json}"),
            "{\"ttlMs\":1,\"uses\":1,\"mayExpose\":[\"a*b\"]}",
            400,
            "invalid",
        ),
        (
            &format!("POST /v1/invites {json}"),
            "{\"ttlMs\":1,\"uses\":1,\"attributes\":{\"a b\":\"c\"}}",
            400,
            "invalid",
        ),
        (&format!("POST /v1/invites {json}"), "{\"ttlMs\":1,\"uses\":1,\"roles\":[\"x\"]}", 404, "not_found"),
    ] {
        refused(&a, request, body, (status, code));
    }
}

/// HARDENING C1: what only the authority may do, asked of a node without its key.
#[test]
fn a_node_without_the_authoritys_key_does_not_do_what_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let json = "HTTP/1.1\r\ncontent-type: application/json";
    let c = directory.path().join("c");
    let token = a.ok(&["invite", "-o", "name"]).text();
    let joined = snomesh(&["join", token.trim(), "--data-dir", c.to_str().unwrap()]);
    assert_eq!(joined.code, Some(0), "{joined:?}");
    let c = Agent::start(directory.path(), "c", &[]);
    for (request, body) in [
        (format!("POST /v1/revocations {json}"), format!("{{\"node\":\"{}\"}}", a.id)),
        (format!("POST /v1/invites {json}"), "{\"ttlMs\":60000,\"uses\":1}".to_owned()),
    ] {
        refused(&c, &request, &body, (403, "forbidden"));
    }
}

/// Asks for something that must be refused so.
fn refused(agent: &Agent, request: &str, body: &str, (status, code): (u16, &str)) {
    let answer = over_unix(&agent.admin, request, body.as_bytes());
    let told = answer.json();
    assert_eq!((answer.status, told["code"].as_str()), (status, Some(code)), "{request}: {answer:?}");
}

/// Whatever answers on the socket, a command ends with a code: what makes no sense is 1, and nothing at all 3.
#[test]
fn an_answer_that_makes_no_sense_is_an_unexpected_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answers = [
        (1, &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"[..]),
        (1, b"SSH-2.0-nothing\r\n"),
        (3, b""),
    ];
    let server = std::thread::spawn(move || {
        for (_, answer) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
            stream.write_all(answer).unwrap();
        }
    });
    for (code, _) in answers {
        let run = snomesh(&["--agent", path.to_str().unwrap(), "status"]);
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains("error:") && run.stdout.is_empty(), "{run:?}");
    }
    server.join().unwrap();
}

/// A small file system in memory, which goes with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Nothing where that is not permitted.
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={size},mode=0700");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "snomesh-test"]).arg(&at).output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// FEATURES P10: read-only with a clear state, and back again. Needs root for the small disk.
#[test]
fn a_full_disk_makes_a_node_read_only_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path().join("disk"), "40m") else {
        println!("SKIPPED: a full disk: a small file system cannot be mounted here, which needs root");
        return;
    };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![0; 30 * 1024 * 1024]).unwrap();
    let a = Agent::start(&disk.0, "a", &[]);
    let value = vec![b'x'; 60 * 1024];
    let put = |key: &str, durability: &str| {
        let request = format!("PUT /v1/attributes/mesh/{key}?durability={durability} HTTP/1.1");
        over_unix(&a.admin, &request, &value)
    };
    let mut acknowledged = Vec::new();
    let refusal = (0..400).find_map(|number| {
        let key = format!("k{number:03}");
        let answer = put(&key, "disk");
        if answer.status == 200 {
            acknowledged.push(key);
            return None;
        }
        Some(answer)
    });
    let refusal = refusal.expect("ten mebibytes do not hold twenty-four");
    assert_eq!((refusal.status, refusal.json()["code"].as_str()), (507, Some("no_room")), "{refusal:?}");
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());

    // It says so, to people and to programs, and goes on reading and taking what need not be durable.
    until("the state is told", || a.status()["storage"] == "full");
    assert_eq!(a.status()["ready"], false);
    let readyz = over_unix(&a.admin, "GET /readyz HTTP/1.1", b"");
    assert_eq!(readyz.status, 503);
    assert!(readyz.body.contains("the disk is full"), "{readyz:?}");
    let run = a.run(&["attr", "set", "more", "1"]);
    assert_eq!(run.code, Some(8), "{run:?}");
    assert!(run.stderr.contains("the disk is full"), "{run:?}");
    assert_eq!(a.run(&["attr", "get", &acknowledged[0]]).stdout, value);
    assert_eq!(put("fleeting", "memory").status, 200);
    assert_eq!(a.run(&["attr", "get", "fleeting"]).stdout, value, "it holds, and waits for nothing");
    assert!(a.log().contains("the disk is full"));

    std::fs::remove_file(&ballast).unwrap();
    until("there is room", || a.status()["storage"] == "durable");
    assert_eq!(put("after", "disk").status, 200);
    until("it is ready", || a.status()["ready"] == true);
    acknowledged.push("after".into());
    a.kill();
    let a = Agent::start(&disk.0, "a", &[]);
    for key in &acknowledged {
        assert_eq!(a.run(&["attr", "get", key]).stdout.len(), value.len(), "{key} was acknowledged");
    }
}

/// Where a node was bound to a tunnel before it stopped, and another program that has the port since.
fn bound_and_taken(directory: &Path) -> (String, std::net::TcpListener) {
    let agent = Agent::start(directory, "a", &[]);
    agent.ok(&["expose", "web", "9"]);
    let bound = agent.ok(&["bind", "0", "web", "-o", "json"]).json();
    let listen = bound["listen"].as_str().unwrap().to_owned();
    agent.stop();
    let taken = std::net::TcpListener::bind(&listen).unwrap();
    (listen, taken)
}

/// FEATURES P10: what was asked for is not forgotten because it does not hold at one start.
#[test]
fn a_bind_whose_port_is_taken_at_a_start_is_named_and_holds_when_it_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let (listen, taken) = bound_and_taken(directory.path());
    let agent = Agent::start(directory.path(), "a", &[]);
    assert!(agent.status()["binds"].as_array().unwrap().is_empty());
    let doctor = agent.run(&["doctor"]);
    assert_eq!(doctor.code, Some(8), "{doctor:?}");
    assert!(
        doctor.text().contains(&format!("bind {listen}")) && doctor.text().contains("in use"),
        "{doctor:?}"
    );
    assert!(doctor.text().contains("snomesh config reload"), "{doctor:?}");
    // Another change is saved meanwhile, and another start does no better.
    agent.ok(&["expose", "db", "9"]);
    agent.stop();
    let agent = Agent::start(directory.path(), "a", &[]);
    drop(taken);
    agent.ok(&["config", "reload"]);
    assert_eq!(agent.status()["binds"][0]["listen"], listen.as_str());
    agent.stop();
    let taken = std::net::TcpListener::bind(&listen).unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    agent.ok(&["unbind", &listen]);
    assert!(!agent.run(&["doctor"]).text().contains("bind "));
    agent.stop();
    drop(taken);
    let agent = Agent::start(directory.path(), "a", &[]);
    assert!(agent.status()["binds"].as_array().unwrap().is_empty(), "it was taken back");
}

/// HARDENING: what was asked for stays asked for, also where the configuration asks for the same and fails.
#[test]
fn a_saved_bind_that_does_not_hold_survives_a_configured_one_that_does_not_hold_either() {
    let directory = tempfile::tempdir().unwrap();
    let (listen, taken) = bound_and_taken(directory.path());
    let config = directory.path().join("config.toml");
    std::fs::write(&config, format!("[[bind]]\nlisten = \"{listen}\"\ntunnel = \"web\"\n")).unwrap();
    let agent = Agent::start(directory.path(), "a", &["-c", config.to_str().unwrap()]);
    let doctor = agent.run(&["doctor"]);
    assert_eq!(doctor.text().matches(&format!("✗ bind {listen}")).count(), 1, "{doctor:?}");
    // Written once more, as every change is.
    agent.ok(&["expose", "db", "9"]);
    agent.stop();
    std::fs::remove_file(&config).unwrap();
    drop(taken);
    let agent = Agent::start(directory.path(), "a", &[]);
    assert_eq!(agent.status()["binds"][0]["listen"], listen.as_str(), "{}", agent.log());
}

/// HARDENING: peers must not come to the commands of the node's owner, and what is never dialled is said at once.
#[test]
fn what_is_never_dialled_is_not_offered() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), "a", &["--http", "0"]);
    let http = agent.status()["http"].as_str().unwrap().to_owned();
    let socket = format!("unix:{}", agent.data_dir.join("admin.sock").display());
    for target in [http.as_str(), &socket, "169.254.169.254:80", "0.0.0.0:80", "udp:[ff02::1]:53"] {
        let refused = agent.run(&["expose", "web", target]);
        assert_eq!(refused.code, Some(2), "{target}: {refused:?}");
        assert!(refused.stderr.contains("never dialled"), "{refused:?}");
    }
    assert!(agent.status()["exposed"].as_array().unwrap().is_empty());
}

/// FEATURES P10: however many tunnels a node offers, it offers them again; and what cannot be read is not lost.
#[test]
fn thousands_of_offers_hold_after_a_restart_and_a_damaged_file_of_them_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("a");
    let agent = Agent::start(directory.path(), "a", &[]);
    agent.ok(&["expose", "web", "9", "--attr", "env=prod"]);
    agent.stop();
    // As many as it takes to fill more than a mebibyte, written as the node writes them.
    let file = data.join("forwards.json");
    let mut saved: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let one = saved["exposed"][0].clone();
    let offers = (0..12_000).map(|number| {
        let mut offer = one.clone();
        offer["name"] = format!("tunnel-with-a-name-of-some-length-{number:05}").into();
        offer
    });
    saved["exposed"] = offers.collect();
    let text = serde_json::to_string(&saved).unwrap();
    assert!(text.len() > 1024 * 1024, "{}", text.len());
    std::fs::write(&file, &text).unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    assert_eq!(agent.status()["exposed"].as_array().unwrap().len(), 12_000);
    until("they are found", || agent.status()["tunnels"] == 12_000);
    agent.stop();

    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    let agent = Agent::start(directory.path(), "a", &[]);
    agent.ok(&["expose", "db", "9"]);
    assert!(agent.log().contains("forwards cannot be read"), "{}", agent.log());
    let kept = std::fs::read_to_string(data.join("forwards.damaged-1")).unwrap();
    assert!(kept == text[..text.len() / 2], "what could not be read is as it was");
}
