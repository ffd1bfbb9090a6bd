//! Against a client and a server that share no code with this module: they speak bare quinn, from the facts of the wire.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::daemon::Drained;

const PATIENCE: Duration = Duration::from_secs(60);
const SAN: &str = "server.example";

/// A certificate in files.
struct Certificate {
    directory: TempDir,
}

impl Certificate {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed(vec![SAN.into()]).unwrap();
        std::fs::write(directory.path().join("cert"), certificate).unwrap();
        std::fs::write(directory.path().join("key"), key).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path("cert")).unwrap()
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A published client: it takes the first stream for authentication and answers what it hears.
struct Probe {
    connection: Connection,
    _endpoint: Endpoint,
}

fn quic_client(certificate: &Certificate) -> Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"other".to_vec(), b"ms-snocat-1".to_vec()];
    let mut endpoint = Endpoint::client(any_port()).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

impl Probe {
    async fn connect(server: SocketAddr, certificate: &Certificate) -> Self {
        let endpoint = quic_client(certificate);
        let connection = endpoint.connect(server, SAN).unwrap().await.unwrap();
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let mut hello = [0; 64];
        recv.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello[..5], b"HELO\0");
        assert_eq!(hello[5..], [0; 59]);
        let mut answer = [0; 64];
        answer[..9].copy_from_slice(b"HELO/HELO");
        send.write_all(&answer).await.unwrap();
        Self { connection, _endpoint: endpoint }
    }

    /// Asks for an address, and gives back the byte of the answer.
    async fn ask(&self, text: &[u8]) -> (SendStream, RecvStream, Option<u8>) {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        send.write_all(b"NYAN\0").await.unwrap();
        let mut head = [0; 5];
        recv.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"NYAN\0");
        let length = u32::try_from(text.len()).unwrap();
        send.write_all(&length.to_be_bytes()).await.unwrap();
        send.write_all(text).await.ok();
        let mut answer = [0];
        let answer = recv.read_exact(&mut answer).await.ok().map(|()| answer[0]);
        (send, recv, answer)
    }

    /// Has a public port granted; `None` if there is none.
    async fn demand(&self, text: &str) -> (SendStream, RecvStream, Option<SocketAddr>) {
        let (mut send, mut recv, answer) = self.ask(text.as_bytes()).await;
        assert_eq!(answer, Some(0));
        send.write_all(&[0, 0, 0, 2, b'"', b'"']).await.unwrap();
        let json = frame(&mut recv).await;
        let granted: Option<Vec<String>> = serde_json::from_slice(&json).unwrap();
        (send, recv, granted.map(|granted| granted[0].parse().unwrap()))
    }

    /// The next stream that the server opens: its address, accepted or not.
    async fn asked(&self, accept: u8) -> (SendStream, RecvStream, String) {
        let (mut send, mut recv) = self.connection.accept_bi().await.unwrap();
        let mut head = [0; 5];
        recv.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"NYAN\0");
        send.write_all(b"NYAN\0").await.unwrap();
        let address = String::from_utf8(frame(&mut recv).await).unwrap();
        send.write_all(&[accept]).await.unwrap();
        (send, recv, address)
    }
}

async fn frame(recv: &mut RecvStream) -> Vec<u8> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.unwrap();
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    recv.read_exact(&mut frame).await.unwrap();
    frame
}

/// Three ports in a row that are free, and that no other test of this process is given: a port that one server took back
/// must not be granted by another before the test has looked. Below the ports that the system picks by itself.
fn free_ports() -> std::ops::RangeInclusive<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let process = u16::try_from(std::process::id() % 3_000).unwrap();
    loop {
        let first = 20_000 + (process + NEXT.fetch_add(1, Relaxed)) % 4_000 * 3;
        if (first..first + 3).all(free) {
            return first..=first + 2;
        }
    }
}

fn start(certificate: &Certificate) -> (Server, SocketAddr, std::ops::RangeInclusive<u16>) {
    let tls = server_tls(&certificate.path("cert"), &certificate.path("key")).unwrap();
    let ports = free_ports();
    let public = PublicPorts { ip: "127.0.0.1".parse().unwrap(), ports: ports.clone() };
    let config = DaemonConfig { drain_timeout: Duration::from_millis(100), ..DaemonConfig::default() };
    let server = Server::start(any_port(), tls, public, config).unwrap();
    let address = server.local_addr().unwrap();
    (server, address, ports)
}

async fn is_reset(visitor: &mut TcpStream) -> bool {
    timeout(PATIENCE, visitor.read(&mut [0])).await.unwrap().is_err()
}

/// FEATURES S26.
#[tokio::test]
async fn a_published_client_gets_a_public_port_and_its_visitors() {
    let certificate = Certificate::new();
    let (server, address, ports) = start(&certificate);
    let probe = Probe::connect(address, &certificate).await;
    let (mut send, mut recv, granted) = probe.demand("/proxyme/0.0.1/inner.example/8080").await;
    let granted = granted.unwrap();
    assert_eq!(granted.to_string(), format!("127.0.0.1:{}", ports.start()));
    let mut visitor = TcpStream::connect(granted).await.unwrap();
    let (mut to, mut from, asked) = probe.asked(0).await;
    assert_eq!(asked, "/proxy-tcp/dns/inner.example/tcp/8080");
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(from.read_to_end(99).await.unwrap(), b"question");
    to.write_all(b"answer").await.unwrap();
    to.finish().unwrap();
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");

    // Any eight bytes end it; who is there is served to the end.
    let mut late = TcpStream::connect(granted).await.unwrap();
    let (mut to, from, _) = probe.asked(0).await;
    send.write_all(b"good bye").await.unwrap();
    while TcpStream::connect(granted).await.is_ok() {
        tokio::task::yield_now().await;
    }
    to.write_all(b"late").await.unwrap();
    to.finish().unwrap();
    let mut answer = [0; 4];
    late.read_exact(&mut answer).await.unwrap();
    drop((late, from));
    assert_eq!(recv.read_to_end(99).await.unwrap(), [0; 8]);
    server.shutdown().await;
}

/// Failures 1 and 7 of the original: one reset or one refused target ended the public listener, and a port that could not
/// be bound looked like a good end.
#[tokio::test]
async fn visitors_that_fail_leave_the_port_to_the_next_and_no_port_is_said() {
    let certificate = Certificate::new();
    let (server, address, ports) = start(&certificate);
    let probe = Probe::connect(address, &certificate).await;
    let (_hold, _recv, granted) = probe.demand("/proxyme/0.0.1/80").await;
    let granted = granted.unwrap();
    for accept in [1, 0] {
        let mut visitor = TcpStream::connect(granted).await.unwrap();
        let (mut to, _from, asked) = probe.asked(accept).await;
        assert_eq!(asked, "/proxy-tcp/dns/localhost/tcp/80");
        if accept == 0 {
            to.reset(quinn::VarInt::from_u32(0)).unwrap();
        }
        assert!(is_reset(&mut visitor).await);
        let rude = TcpStream::connect(granted).await.unwrap();
        let _asked = probe.asked(0).await;
        rude.set_zero_linger().unwrap();
    }
    let mut visitor = TcpStream::connect(granted).await.unwrap();
    let (mut to, ..) = probe.asked(0).await;
    to.write_all(b"it lives").await.unwrap();
    visitor.read_exact(&mut [0; 8]).await.unwrap();

    let mut held = Vec::new();
    for port in [ports.start() + 1, ports.start() + 2] {
        let (send, recv, granted) = probe.demand("/proxyme/0.0.1/80").await;
        assert_eq!(granted.unwrap().port(), port);
        held.push((send, recv));
    }
    let (_send, mut recv, none) = probe.demand("/proxyme/0.0.1/80").await;
    assert_eq!(none, None);
    assert!(recv.read_to_end(9).await.unwrap().is_empty());
    // The lowest one that is free again.
    drop(held.remove(0));
    let again = async {
        loop {
            let (send, recv, granted) = probe.demand("/proxyme/0.0.1/80").await;
            if let Some(granted) = granted {
                return (send, recv, granted);
            }
        }
    };
    let (_send, _recv, again) = timeout(PATIENCE, again).await.unwrap();
    assert_eq!(again.port(), ports.start() + 1);
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_malformed_costs_its_stream_and_no_more() {
    let certificate = Certificate::new();
    let (server, address, _) = start(&certificate);
    let probe = Probe::connect(address, &certificate).await;
    for (text, answer) in [
        (&b"no slash"[..], None),
        (b"/\xff", None),
        (br"/dangling\", None),
        (&[b'/'; 2049], None),
        (&[b'/'; 2048], Some(1)),
        (b"", Some(1)),
        (b"//", Some(1)),
        (b"/proxy-tcp/tcp/22", Some(1)),
        (b"/proxyme/0.0.2/80", Some(1)),
    ] {
        let (_send, mut recv, answered) = probe.ask(text).await;
        assert_eq!(answered, answer, "{text:?}");
        assert!(recv.read_to_end(9).await.unwrap().is_empty());
    }
    for head in [b"NYAN\x01", b"MEOW\0"] {
        let (mut send, mut recv) = probe.connection.open_bi().await.unwrap();
        send.write_all(head).await.unwrap();
        assert_eq!(recv.read_to_end(99).await.unwrap(), b"NYAN\0");
    }
    let (.., granted) = probe.demand("/proxyme/0.0.1/80").await;
    granted.unwrap();
    server.shutdown().await;
}

/// Failure 6 of the original: one stalled handshake blocked all later clients.
#[tokio::test]
async fn clients_that_stall_hold_up_no_other() {
    let certificate = Certificate::new();
    let (server, address, _) = start(&certificate);
    let endpoint = quic_client(&certificate);
    let mut stalled = Vec::new();
    for _ in 0..3 {
        // Connected, and never acknowledges.
        stalled.push(endpoint.connect(address, SAN).unwrap().await.unwrap());
    }
    let probe = timeout(PATIENCE, Probe::connect(address, &certificate)).await.unwrap();
    let (.., granted) = timeout(PATIENCE, probe.demand("/proxyme/0.0.1/80")).await.unwrap();
    granted.unwrap();
    server.shutdown().await;
}

/// Failure 8 of the original: a server with a client never stopped.
#[tokio::test]
async fn a_server_stops_while_a_client_is_there() {
    let certificate = Certificate::new();
    let (server, address, _) = start(&certificate);
    let probe = Probe::connect(address, &certificate).await;
    let (_send, _recv, granted) = probe.demand("/proxyme/0.0.1/80").await;
    assert_eq!(timeout(PATIENCE, server.shutdown()).await.unwrap(), Drained::Cut);
    assert!(TcpStream::connect(granted.unwrap()).await.is_err());
    let closed = timeout(PATIENCE, probe.connection.closed()).await.unwrap();
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
}

/// A published server: it greets, and what it does then is up to the test.
struct FakeServer {
    endpoint: Endpoint,
}

impl FakeServer {
    fn start(certificate: &Certificate) -> Self {
        let key = PrivateKeyDer::from_pem_file(certificate.path("key")).unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"ms-snocat-1".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        Self { endpoint: Endpoint::server(config, any_port()).unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    /// The next client, once it has answered this greeting.
    async fn greet(&self, greeting: &[u8; 64]) -> (Connection, [u8; 64]) {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(greeting).await.unwrap();
        let mut answer = [0; 64];
        recv.read_exact(&mut answer).await.ok();
        (connection, answer)
    }
}

fn helo() -> [u8; 64] {
    let mut greeting = [0; 64];
    greeting[..4].copy_from_slice(b"HELO");
    greeting
}

async fn open_to_client(connection: &Connection, address: &str) -> (SendStream, RecvStream, u8) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"NYAN\0").await.unwrap();
    let mut head = [0; 5];
    recv.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"NYAN\0");
    let length = u32::try_from(address.len()).unwrap();
    send.write_all(&length.to_be_bytes()).await.unwrap();
    send.write_all(address.as_bytes()).await.unwrap();
    let mut answer = [0];
    recv.read_exact(&mut answer).await.unwrap();
    (send, recv, answer[0])
}

/// FEATURES S26. Failures 3 and 13 of the original: the client dialled whatever its server named, and stream 101 hung.
#[tokio::test]
async fn a_client_serves_its_own_target_to_a_published_server_and_no_other() {
    let certificate = Certificate::new();
    let published = FakeServer::start(&certificate);
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = target.local_addr().unwrap().port();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let tls = client_tls(&certificate.path("cert")).unwrap();
    let client = Client::new(published.address(), tls, TcpAddress::new("localhost", port)).unwrap();
    let serve = async {
        let (connection, answer) = published.greet(&helo()).await;
        assert_eq!(&answer[..10], b"HELO/HELO\0");
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let mut head = [0; 5];
        recv.read_exact(&mut head).await.unwrap();
        send.write_all(&head).await.unwrap();
        assert_eq!(frame(&mut recv).await, format!("/proxyme/0.0.1/localhost/{port}").into_bytes());
        send.write_all(&[0]).await.unwrap();
        assert_eq!(frame(&mut recv).await, b"\"\"");
        let json = br#"["[::]:8080"]"#;
        send.write_all(&[&13_u32.to_be_bytes()[..], json].concat()).await.unwrap();
        (connection, send, recv)
    };
    let (granted, (connection, mut send, mut recv)) =
        tokio::join!(client.demand(published.address(), SAN), serve);
    let granted = granted.unwrap();
    assert_eq!(granted.addresses[0].to_string(), "[::]:8080");
    for address in [
        format!("/proxy-tcp/dns/localhost/tcp/{other}"),
        format!("/proxy-tcp/tcp/{other}"),
        "/proxy-tcp/ip4/169.254.169.254/tcp/80".into(),
    ] {
        let (.., refused) = open_to_client(&connection, &address).await;
        assert_ne!(refused, 0, "{address}");
    }
    let asked = format!("/proxy-tcp/dns/localhost/tcp/{port}");
    // Failure 13 of the original: stream 101 hung.
    let mut held = Vec::new();
    for number in 0..150 {
        let both = async { tokio::join!(open_to_client(&connection, &asked), target.accept()) };
        let both = timeout(PATIENCE, both).await;
        held.push(both.unwrap_or_else(|_| panic!("stream {number} hangs")));
    }
    let (opened, accepted) = tokio::join!(open_to_client(&connection, &asked), target.accept());
    let ((mut to, mut from, answer), mut visited) = (opened, accepted.unwrap().0);
    assert_eq!(answer, 0);
    to.write_all(b"question").await.unwrap();
    to.finish().unwrap();
    let mut question = Vec::new();
    visited.read_to_end(&mut question).await.unwrap();
    visited.write_all(&question).await.unwrap();
    drop(visited);
    assert_eq!(from.read_to_end(99).await.unwrap(), b"question");

    let part = async {
        let mut goodbye = [9; 8];
        recv.read_exact(&mut goodbye).await.unwrap();
        assert_eq!(goodbye, [0; 8]);
        send.write_all(&[0; 8]).await.unwrap();
        send.finish().unwrap();
    };
    tokio::join!(granted.give_back(), part);
    client.shutdown().await;
}

/// Failure 5 of the original: 64 bytes without a zero made the connecting side panic.
#[tokio::test]
async fn a_greeting_that_cannot_be_answered_is_refused_and_not_a_panic() {
    let certificate = Certificate::new();
    let published = FakeServer::start(&certificate);
    let mut long = [0; 64];
    long[..40].fill(b'x');
    for greeting in [[b'x'; 64], long] {
        let tls = client_tls(&certificate.path("cert")).unwrap();
        let client = Client::new(published.address(), tls, TcpAddress::new("localhost", 1)).unwrap();
        let (demanded, _) = tokio::join!(client.demand(published.address(), SAN), published.greet(&greeting));
        assert!(matches!(demanded, Err(ClientError::Authentication(_))), "{demanded:?}");
        client.shutdown().await;
    }
}

/// FEATURES S26.
#[tokio::test]
async fn client_and_server_of_this_program_work_with_each_other() {
    let certificate = Certificate::new();
    let (server, address, ports) = start(&certificate);
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = target.local_addr().unwrap().port();
    let tls = client_tls(&certificate.path("cert")).unwrap();
    let client = Client::new(address, tls, TcpAddress::new("127.0.0.1", port)).unwrap();
    let mut granted = client.demand(address, SAN).await.unwrap();
    assert_eq!(granted.addresses[0].port(), *ports.start());
    let (visitor, accepted) = tokio::join!(TcpStream::connect(granted.addresses[0]), target.accept());
    let (mut visitor, mut visited) = (visitor.unwrap(), accepted.unwrap().0);
    visited.write_all(b"hello").await.unwrap();
    visitor.read_exact(&mut [0; 5]).await.unwrap();
    // FEATURES B9, here too.
    visited.set_zero_linger().unwrap();
    drop(visited);
    assert!(is_reset(&mut visitor).await);
    let other = client_tls(&certificate.path("cert")).unwrap();
    let other = Client::new(address, other, TcpAddress::new("127.0.0.1", port)).unwrap();
    let misled = other.demand(address, "another.example").await;
    assert!(matches!(misled, Err(ClientError::Dial(_))), "{misled:?}");
    server.shutdown().await;
    assert!(granted.ended().await.is_some());
    client.shutdown().await;
}
