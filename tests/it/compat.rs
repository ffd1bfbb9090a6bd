//! The commands with the flags of snocat's own program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Agent, snomesh, until};

/// A command that goes on, and what it prints.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_snomesh"))
            .args(args)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn interrupt(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let mut code = None;
        until("the end of the command", || {
            let status = self.child.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// FEATURES S26. Failures 8 and 14 of the original: a server with a client never stopped, and key files were for all to
/// read.
#[test]
fn server_client_and_certificate_work_by_the_flags_of_the_original() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it").to_str().unwrap().to_owned();
    let (certificate, key) = (format!("{path}.pem"), format!("{path}.key"));
    assert_eq!(snomesh(&["cert", &path, "--san", "tunnel.example"]).code, Some(0));
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(snomesh(&["cert", &path, "--san", "tunnel.example"]).code, Some(7));
    // Half a pair is not made.
    let other = directory.path().join("other").to_str().unwrap().to_owned();
    std::fs::write(format!("{other}.key"), "mine").unwrap();
    assert_eq!(snomesh(&["cert", &other, "--san", "tunnel.example"]).code, Some(7));
    assert!(!Path::new(&format!("{other}.pem")).exists());

    let quic = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut server = Running::start(&[
        "server",
        "--cert",
        &certificate,
        "--key",
        &key,
        "--quic",
        &quic,
        "--tcp",
        "127.0.0.1",
        "--ports",
        "20000:60000",
    ]);
    assert!(server.line().contains(&quic));
    server.line();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = service.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for visitor in service.incoming() {
            visitor.unwrap().write_all(b"made public").unwrap();
        }
    });
    let mut client = Running::start(&[
        "client",
        "--authority",
        &certificate,
        "--driver",
        &quic,
        "--driver-san",
        "tunnel.example",
        "--target",
        &target,
    ]);
    let line = client.line();
    let public: SocketAddr = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    let mut heard = String::new();
    TcpStream::connect(public).unwrap().read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "made public");
    let _visitor = TcpStream::connect(public).unwrap();
    assert_eq!(client.interrupt(), Some(130));
    until("the port is free again", || TcpStream::connect(public).is_err());
    assert_eq!(server.interrupt(), Some(130));
}

/// Failure 14 of the original: it ended with 0 whatever happened.
#[test]
fn what_fails_ends_with_a_code_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it").to_str().unwrap().to_owned();
    let (certificate, key) = (format!("{path}.pem"), format!("{path}.key"));
    assert_eq!(snomesh(&["cert", &path, "--san", "x"]).code, Some(0));
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let server = |cert: &str, quic: &str, ports: &str| {
        snomesh(&["server", "--cert", cert, "--key", &key, "--quic", quic, "--ports", ports])
    };
    let client = |driver: &str, target: &str| {
        snomesh(&[
            "client",
            "--authority",
            &certificate,
            "--driver",
            driver,
            "--driver-san",
            "x",
            "--target",
            target,
        ])
    };
    for (run, code) in [
        (server("/nowhere", "127.0.0.1:0", "1-2"), 10),
        (server(&key, "127.0.0.1:0", "1-2"), 10),
        (server(&certificate, &taken, "1-2"), 7),
        (server(&certificate, "127.0.0.1:0", "2-1"), 2),
        (server(&certificate, "localhost:1", "1-2"), 2),
        (client("127.0.0.1:1", "localhost:80"), 9),
        (client("127.0.0.1:1", "localhost"), 2),
        (snomesh(&["cert", "/nowhere/x", "--san", "x"]), 10),
    ] {
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stdout.is_empty() && run.stderr.contains("error:"), "{run:?}");
    }
}

/// What `[compat]` says, without the certificate's files.
fn section(listen: &str, path: &str, public: &str) -> String {
    format!(
        "[compat]\nlisten = \"{listen}\"\ncert = \"{path}.pem\"\nkey = \"{path}.key\"\npublic = \"{public}\"\n"
    )
}

/// FEATURES S26: an existing client reaches a node, which is one of a mesh beside that.
#[test]
fn a_node_serves_clients_of_the_original_where_its_configuration_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it").to_str().unwrap().to_owned();
    assert_eq!(snomesh(&["cert", &path, "--san", "tunnel.example"]).code, Some(0));
    let file = directory.path().join("s.toml");
    let limits = "[limits]\ndrain_timeout = \"500ms\"\n";
    std::fs::write(&file, section("127.0.0.1:0", &path, "127.0.0.1:20000-60000") + limits).unwrap();
    let node = Agent::start(directory.path(), "a", &["-c", file.to_str().unwrap()]);
    let neighbour = Agent::join(directory.path(), "b", &node);
    assert_eq!(neighbour.status()["compat"], serde_json::Value::Null);
    let quic = node.status()["compat"]["listen"].as_str().unwrap().to_owned();
    assert_ne!(quic, node.listen.to_string());

    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = service.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for visitor in service.incoming() {
            visitor.unwrap().write_all(b"made public").unwrap();
        }
    });
    let certificate = format!("{path}.pem");
    let args = ["client", "--authority", &certificate, "--driver", &quic, "--driver-san", "tunnel.example"];
    let mut client = Running::start(&[&args[..], &["--target", &target]].concat());
    let line = client.line();
    let public: SocketAddr = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    let mut heard = String::new();
    TcpStream::connect(public).unwrap().read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "made public");

    let status = node.status();
    assert_eq!(status["compat"]["clients"], 1);
    assert_eq!(status["compat"]["public"], "127.0.0.1:20000-60000");
    // It proves nothing, so it is nobody in the mesh.
    assert_eq!((&status["tunnels"], &status["nodes"]["alive"]), (&0.into(), &1.into()));
    assert!(node.ok(&["status"]).text().contains(&format!("snocat      udp/{quic}")));

    // A node that stops takes the port back, although a visitor and a client are there.
    let _visitor = TcpStream::connect(public).unwrap();
    node.stop();
    assert!(TcpStream::connect(public).is_err());
    drop(client);
}

#[test]
fn a_section_that_cannot_serve_starts_nothing_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it").to_str().unwrap().to_owned();
    assert_eq!(snomesh(&["cert", &path, "--san", "x"]).code, Some(0));
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let file = directory.path().join("s.toml");
    let with = |args: &[&str], text: &str| {
        std::fs::write(&file, text).unwrap();
        let data = directory.path().join("data");
        let common = ["-c", file.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
        snomesh(&[args, &common].concat())
    };
    let up = ["up", "--listen", "127.0.0.1:0"];
    let good = section("127.0.0.1:0", &path, "127.0.0.1:8000-8099");
    let missing = section("127.0.0.1:0", "/nowhere", "127.0.0.1:8000-8099");
    for (run, code, why) in [
        (with(&["config", "check"], &missing), 10, "cannot read /nowhere.pem"),
        (with(&up, &missing), 10, "snomesh cert PATH"),
        (with(&up, &section(&taken, &path, "127.0.0.1:8000")), 7, "compat.listen"),
        (with(&["config", "check"], &good.replace("8000-8099", "0")), 10, "compat.public"),
        (with(&["config", "check"], &good.replace("cert =", "#")), 10, "needs compat.cert beside it"),
    ] {
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains(why), "{run:?}");
    }
    assert_eq!(with(&["config", "check", "--strict"], &good).code, Some(0));
    let open = good.replace("127.0.0.1:0\"", "0.0.0.0:9090\"");
    let warned = with(&["config", "check", "--strict"], &open);
    assert_eq!(warned.code, Some(8), "{warned:?}");
    assert!(warned.stderr.contains("whoever reaches it"), "{warned:?}");
}
