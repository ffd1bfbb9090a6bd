//! Redis servers for tests.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use redis::FromRedisValue;
use tempfile::TempDir;

use super::super::{RedisConfig, RedisTls};
use super::PATIENCE;

/// Whether there is no `redis-server` on this machine. If so, says that a test is skipped.
pub(super) fn missing() -> bool {
    let version = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    let missing = !version.is_ok_and(|status| status.success());
    if missing {
        eprintln!("SKIPPED: there is no redis-server here (apt-get install redis-server)");
    }
    missing
}

/// A server that ends with this value.
pub(super) struct Server {
    child: Child,
    port: u16,
    dir: TempDir,
    args: Vec<String>,
    tls: bool,
    prefix: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody has at present.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Nothing where there is no `redis-server`.
    pub(super) fn start() -> Option<Self> {
        Self::start_with(|port, _| vec!["--port".into(), port.to_string()], false)
    }

    pub(super) fn start_tls(tls: &Tls, password: &str) -> Option<Self> {
        let file = |name: &str| tls.file(name).display().to_string();
        let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
        Self::start_with(
            |port, _| {
                let args = ["--port", "0", "--tls-port", &port.to_string(), "--tls-cert-file", &cert];
                let more = ["--tls-key-file", &key, "--tls-ca-cert-file", &ca, "--requirepass", password];
                let clients = ["--tls-auth-clients", "no"];
                args.into_iter().chain(more).chain(clients).map(str::to_owned).collect()
            },
            true,
        )
    }

    fn start_node() -> Option<Self> {
        let args = |port: u16, bus: u16| {
            let args =
                ["--port", &port.to_string(), "--cluster-enabled", "yes", "--cluster-port", &bus.to_string()];
            let more = ["--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "5000"];
            args.into_iter().chain(more).map(str::to_owned).collect()
        };
        Self::start_with(args, false)
    }

    fn start_with(args: impl Fn(u16, u16) -> Vec<String>, tls: bool) -> Option<Self> {
        if missing() {
            return None;
        }
        // Somebody else may take the port in between; then another one is tried.
        for _ in 0..20 {
            let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
            let args = args(port, free_port());
            let child = spawn(&args, &dir);
            let mut server = Self { child, port, dir, args, tls, prefix: prefix() };
            if server.is_up() {
                return Some(server);
            }
        }
        panic!("no redis-server starts");
    }

    /// Waits until it listens; false if it has ended instead.
    fn is_up(&mut self) -> bool {
        let begin = Instant::now();
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            assert!(begin.elapsed() < PATIENCE, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Starts it again on the same port, with nothing in it.
    pub(super) fn restart(&mut self) {
        self.child = spawn(&self.args, &self.dir);
        assert!(self.is_up(), "redis-server does not start again");
    }

    pub(super) fn config(&self) -> RedisConfig {
        assert!(!self.tls, "a server by TLS needs certificates");
        RedisConfig { prefix: self.prefix.clone(), ..RedisConfig::server(self.url()) }
    }

    pub(super) fn tls_config(&self, tls: &Tls, password: &str) -> RedisConfig {
        let password_file = tls.file("password");
        std::fs::write(&password_file, format!("{password}\n")).unwrap();
        RedisConfig {
            prefix: self.prefix.clone(),
            password_file: Some(password_file),
            tls: RedisTls { ca: Some(tls.file("ca.pem")), client: None },
            ..RedisConfig::server(format!("rediss://127.0.0.1:{}", self.port))
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Asks this very server.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: redis::Cmd) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        command.query_async(&mut connection).await.unwrap()
    }
}

fn spawn(args: &[String], dir: &TempDir) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(args).current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// A prefix that nobody else uses.
fn prefix() -> String {
    let random: [u8; 8] = ring::rand::generate(&ring::rand::SystemRandom::new()).unwrap().expose();
    format!("test{}:", u64::from_be_bytes(random))
}

/// Three masters that share all slots.
pub(super) struct Cluster {
    nodes: Vec<Server>,
    prefix: String,
}

static SHARED: tokio::sync::Mutex<Weak<Cluster>> = tokio::sync::Mutex::const_new(Weak::new());

impl Cluster {
    /// The one that other tests of this process use already, with a prefix of its own for each; it ends with the last.
    pub(super) async fn shared() -> Option<Arc<Self>> {
        let mut shared = SHARED.lock().await;
        if let Some(cluster) = shared.upgrade() {
            return Some(cluster);
        }
        let cluster = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&cluster);
        Some(cluster)
    }

    async fn start() -> Option<Self> {
        let nodes = [Server::start_node()?, Server::start_node()?, Server::start_node()?];
        for (node, slots) in nodes.iter().zip([[0, 5_460], [5_461, 10_922], [10_923, 16_383]]) {
            let mut command = redis::cmd("CLUSTER");
            command.arg("ADDSLOTSRANGE").arg(&slots);
            let _added: String = node.ask(command).await;
        }
        for (at, node) in nodes.iter().enumerate() {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SET-CONFIG-EPOCH").arg(at + 1);
            let _set: String = node.ask(command).await;
        }
        for node in &nodes[1..] {
            let bus =
                node.args[node.args.iter().position(|arg| arg == "--cluster-port").unwrap() + 1].clone();
            let mut command = redis::cmd("CLUSTER");
            command.arg("MEET").arg("127.0.0.1").arg(node.port).arg(bus);
            let _met: String = nodes[0].ask(command).await;
        }
        let begin = Instant::now();
        for node in &nodes {
            loop {
                let mut command = redis::cmd("CLUSTER");
                command.arg("INFO");
                let info: String = node.ask(command).await;
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                    break;
                }
                assert!(begin.elapsed() < PATIENCE, "the cluster does not come together: {info}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Some(Self { nodes: nodes.into(), prefix: prefix() })
    }

    pub(super) fn masters(&self) -> &[Server] {
        &self.nodes
    }

    pub(super) fn config(&self) -> RedisConfig {
        let prefix = format!("{}{}", self.prefix, prefix());
        RedisConfig { prefix, ..RedisConfig::cluster(self.nodes.iter().map(Server::url)) }
    }
}

/// An authority and a certificate for the loopback, as files.
pub(super) struct Tls {
    dir: TempDir,
}

impl Tls {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", ca.self_signed(&ca_key).unwrap().pem());
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        write("server.pem", server.signed_by(&key, &issuer).unwrap().pem());
        write("server.key", key.serialize_pem());
        Self { dir }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
