//! What a tunnel costs: the same work over TCP alone, a bare quinn stream, one hop and two hops of this program.
//!
//! `cargo bench --bench tunnel [-- --quick] [--memory] [--bulk] [--opens] [--pings]`. Everything in one process on loopback,
//! so the processor time of a path includes the load generator, which the first row has alone; compare rows of one run. A
//! few minutes for all of it; where some parts are named, only they are measured.
//!
//! There are two bare streams: one with quinn's own settings, whose datagrams have 1,452 bytes at most, and one that may
//! find out that loopback carries as much as this program tries, 6,000.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run may say so in any way")]
#![allow(clippy::cast_possible_truncation, reason = "parts of a buffer fit into a usize")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use snomesh::auth::{Identity, MeshCa, MeshCredentials};
use snomesh::daemon::ModularDaemon;
use snomesh::id::NodeId;
use snomesh::service::{
    Declared, Listen, ListenerProxy, OfferedStream, RouteAddress, RouteService, Service, ServiceRegistry,
    TargetService, TargetTable, open,
};
use snomesh::tunnel::ArcTunnel;
use snomesh::tunnel::quic::{QuicConfig, QuicEndpoint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const BUFFER: usize = 64 * 1024;

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}
type Conn = Pin<Box<dyn Duplex>>;

/// A service that is told by a byte what to do: take so many bytes, give so many, or echo.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    match stream.read_u8().await? {
        b'u' => {
            let mut left = stream.read_u64().await?;
            while left > 0 {
                left -= stream.read(&mut buffer).await? as u64;
            }
            stream.write_u8(1).await?;
        }
        b'd' => {
            let mut left = stream.read_u64().await?;
            while left > 0 {
                let part = left.min(BUFFER as u64) as usize;
                stream.write_all(&buffer[..part]).await?;
                left -= part as u64;
            }
        }
        _ => loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            stream.write_all(&buffer[..read]).await?;
        },
    }
    stream.shutdown().await
}

async fn upload(mut conn: Conn, bytes: u64) {
    let buffer = vec![7; BUFFER];
    conn.write_all(b"u").await.unwrap();
    conn.write_u64(bytes).await.unwrap();
    let mut left = bytes;
    while left > 0 {
        let part = left.min(BUFFER as u64) as usize;
        conn.write_all(&buffer[..part]).await.unwrap();
        left -= part as u64;
    }
    assert_eq!(conn.read_u8().await.unwrap(), 1);
}

async fn download(mut conn: Conn, bytes: u64) {
    let mut buffer = vec![0; BUFFER];
    conn.write_all(b"d").await.unwrap();
    conn.write_u64(bytes).await.unwrap();
    let mut read = 0;
    while read < bytes {
        let part = conn.read(&mut buffer).await.unwrap() as u64;
        assert!(part > 0, "ended early");
        read += part;
    }
}

/// Round-trip times of one message of 64 bytes, for so long.
async fn ping(conn: &mut Conn, time: Duration) -> Vec<Duration> {
    let (mut times, begin) = (Vec::new(), Instant::now());
    while begin.elapsed() < time {
        let sent = Instant::now();
        conn.write_all(&[7; 64]).await.unwrap();
        conn.read_exact(&mut [0; 64]).await.unwrap();
        times.push(sent.elapsed());
    }
    times.sort();
    times
}

/// The priority of gossip.
const PRIORITY: i32 = 20;

/// The service in the far node, at the priority of gossip.
struct Ahead;

impl Service for Ahead {
    type Error = std::io::Error;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        address.segments() == ["ahead"]
    }

    async fn handle(&self, _: RouteAddress, stream: OfferedStream, _: ArcTunnel) -> std::io::Result<()> {
        let stream = stream.accept().await?;
        stream.send.set_priority(PRIORITY);
        serve(stream).await
    }
}

/// One way to the service.
#[derive(Clone)]
enum Way {
    Tcp(SocketAddr),
    Quinn(quinn::Connection),
    /// A stream of the tunnel itself, at the priority of gossip.
    Ahead(ArcTunnel),
}

impl Way {
    async fn connect(&self) -> Conn {
        match self {
            Self::Tcp(address) => {
                let tcp = TcpStream::connect(address).await.unwrap();
                tcp.set_nodelay(true).unwrap();
                Box::pin(tcp)
            }
            Self::Quinn(connection) => {
                let (send, recv) = connection.open_bi().await.unwrap();
                Box::pin(tokio::io::join(recv, send))
            }
            Self::Ahead(tunnel) => {
                let stream = open(tunnel, &"/ahead".parse().unwrap()).await.unwrap();
                stream.send.set_priority(PRIORITY);
                Box::pin(stream)
            }
        }
    }

    async fn echo(&self) -> Conn {
        let mut conn = self.connect().await;
        conn.write_all(b"e").await.unwrap();
        conn
    }
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn credentials(ca: &MeshCa) -> MeshCredentials {
    let identity = Identity::generate().unwrap();
    let signed = ca.sign(&identity, Duration::from_secs(3_600)).unwrap();
    MeshCredentials::from_pem(identity, &signed.pem, ca.certificate_pem()).unwrap()
}

/// What this program tries as a datagram, see `tunnel/quic/config.rs`.
const LARGE: u16 = 6_000;

/// A quinn endpoint with its own defaults, apart from as many streams as are wanted, and from the size of datagrams where
/// one is given.
async fn bare_quinn(ca: &MeshCa, payload: Option<u16>) -> quinn::Connection {
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(quinn::VarInt::from_u32(10_000));
    let mut endpoint = quinn::EndpointConfig::default();
    if let Some(payload) = payload {
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        discovery.upper_bound(payload);
        transport.mtu_discovery_config(Some(discovery));
        endpoint.max_udp_payload_size(payload).unwrap();
    }
    let transport = Arc::new(transport);
    let tls = credentials(ca).tls().unwrap();
    let mut server =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls.server.clone()).unwrap()));
    server.transport_config(Arc::clone(&transport));
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls.client).unwrap()));
    client.transport_config(transport);
    let bind = |server| {
        let socket = std::net::UdpSocket::bind(any()).unwrap();
        quinn::Endpoint::new(endpoint.clone(), server, socket, Arc::new(quinn::TokioRuntime)).unwrap()
    };
    let (listening, dialling) = (bind(Some(server)), bind(None));
    let connecting = dialling.connect_with(client, listening.local_addr().unwrap(), "any.snomesh").unwrap();
    let accepting = async { listening.accept().await.unwrap().await.unwrap() };
    let (near, far) = tokio::join!(async { connecting.await.unwrap() }, accepting);
    tokio::spawn(async move {
        let _endpoints = (listening, dialling);
        while let Ok((send, recv)) = far.accept_bi().await {
            tokio::spawn(serve(tokio::io::join(recv, send)));
        }
    });
    near
}

type Daemon = ModularDaemon;

/// A daemon that has the service as a target and forwards for others.
fn node(ca: &MeshCa, service: SocketAddr) -> (Daemon, QuicEndpoint, NodeId) {
    let credentials = credentials(ca);
    let endpoint = QuicEndpoint::bind(any(), QuicConfig::default(), credentials.tls().unwrap()).unwrap();
    let targets = TargetTable::new();
    let target = service.to_string().parse().unwrap();
    targets.declare("service".parse().unwrap(), Declared { target, id: None });
    let builder = ModularDaemon::builder();
    let route = RouteService::new(builder.peers());
    let daemon = builder
        .services(ServiceRegistry::new().with(Ahead).with(TargetService::new(targets)).with(route))
        .build();
    let (accepting, source) = (daemon.clone(), endpoint.incoming());
    tokio::spawn(async move { accepting.run(source).await });
    (daemon, endpoint, credentials.identity.node_id())
}

async fn join(from: &(Daemon, QuicEndpoint, NodeId), to: &(Daemon, QuicEndpoint, NodeId)) -> ArcTunnel {
    let tunnel = from.1.dial(to.1.local_addr().unwrap(), Some(to.2)).await.unwrap();
    from.0.attach(tunnel).unwrap().authenticated().await.unwrap().tunnel
}

/// A local port whose visitors get to an address at the other end of a tunnel.
async fn door(tunnel: ArcTunnel, address: String) -> Way {
    let proxy = ListenerProxy::bind(any()).await.unwrap();
    let Listen::Tcp(local) = proxy.local_addr().unwrap() else { unreachable!("bound to TCP") };
    let address: RouteAddress = address.parse().unwrap();
    let opening = move |_| {
        let (tunnel, address) = (tunnel.clone(), address.clone());
        async move { open(&tunnel, &address).await }
    };
    tokio::spawn(proxy.run(opening, CancellationToken::new()));
    Way::Tcp(local)
}

/// Processor time of this process so far.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Gbit/s and processor seconds per GiB of `total` bytes over so many connections.
async fn bulk(way: &Way, streams: u64, total: u64, up: bool) -> (f64, f64) {
    let (begin, used) = (Instant::now(), processor());
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let way = way.clone();
        tasks.spawn(async move {
            let conn = way.connect().await;
            if up { upload(conn, total / streams).await } else { download(conn, total / streams).await }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let (time, used) = (begin.elapsed(), processor() - used);
    let gib = total as f64 / f64::from(1 << 30);
    (total as f64 * 8.0 / 1e9 / time.as_secs_f64(), used.as_secs_f64() / gib)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn opens(way: &Way, time: Duration) -> f64 {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let way = way.clone();
        tasks.spawn(async move {
            let mut opened = 0_u32;
            while begin.elapsed() < time {
                let mut conn = way.connect().await;
                conn.write_all(b"e!").await.unwrap();
                conn.read_u8().await.unwrap();
                conn.shutdown().await.unwrap();
                opened += 1;
            }
            opened
        });
    }
    let mut opened = 0;
    while let Some(done) = tasks.join_next().await {
        opened += done.unwrap();
    }
    f64::from(opened) / begin.elapsed().as_secs_f64()
}

/// Ping p50 and p99 of a way, while another one is idle, beside a download, and beside 64 downloads that nobody reads.
async fn pings(name: &str, pinged: &Way, way: &Way, time: Duration) {
    let mut conn = pinged.echo().await;
    let idle = ping(&mut conn, time).await;
    let busy = tokio::spawn({
        let way = way.clone();
        async move {
            loop {
                download(way.connect().await, 64 << 20).await;
            }
        }
    });
    let beside = ping(&mut conn, time).await;
    busy.abort();
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let mut conn = way.connect().await;
        conn.write_all(b"d").await.unwrap();
        conn.write_u64(1 << 40).await.unwrap();
        stalled.push(conn);
    }
    settle().await;
    let stall = ping(&mut conn, time).await;
    println!(
        "{name:<12} ping p50 · p99: idle {:.0?} · {:.0?}, beside a download {:.0?} · {:.0?}, beside 64 stalled ones {:.0?} · {:.0?} ({:.2} × idle)",
        percentile(&idle, 50),
        percentile(&idle, 99),
        percentile(&beside, 50),
        percentile(&beside, 99),
        percentile(&stall, 50),
        percentile(&stall, 99),
        percentile(&stall, 50).as_secs_f64() / percentile(&idle, 50).as_secs_f64(),
    );
}

/// Gives the connections back: memory that is freed would be taken for those that are measured next.
async fn idle_memory(name: &str, way: &Way, count: u64) -> Vec<Conn> {
    let before = resident_kib();
    let mut conns = Vec::new();
    for _ in 0..count {
        let mut conn = way.echo().await;
        conn.write_all(b"!").await.unwrap();
        conn.read_u8().await.unwrap();
        conns.push(conn);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = resident_kib();
    let each = after.saturating_sub(before) as f64 / count as f64;
    println!("{name:<12} {count} idle connections: {each:.1} KiB each, service and visitor included");
    conns
}

async fn idle_memories(ways: &[(&str, Way)], count: u64) {
    let mut held = Vec::new();
    for (name, way) in ways {
        held.push(idle_memory(name, way, count).await);
    }
}

/// Waits until nothing moves any more: stalled downloads first fill what buffers there are.
async fn settle() {
    const LOOK: Duration = Duration::from_millis(250);
    for _ in 0..120 {
        let before = processor();
        tokio::time::sleep(LOOK).await;
        if processor() - before <= LOOK / 10 {
            return;
        }
    }
    println!("(does not come to rest)");
}

/// Speeds and processor times of each way, by kind of load.
type Measured = Vec<Vec<(Vec<f64>, Vec<f64>)>>;

/// The medians, and how ours compare with either bare stream.
fn print_bulk(ways: &[(&str, Way)], measured: &mut Measured) {
    let mut bare: Vec<Vec<(f64, f64)>> = Vec::new();
    for (number, (name, _)) in ways.iter().enumerate() {
        let row: Vec<(f64, f64)> =
            measured[number].iter_mut().map(|(speed, used)| (median(speed), median(used))).collect();
        let cells: Vec<String> = row.iter().map(|(speed, used)| format!("{speed:.2} ({used:.2})")).collect();
        print!("{name:<12}");
        cells.iter().for_each(|cell| print!(" {cell:>16}"));
        println!();
        match number {
            0 => {}
            1 | 2 => bare.push(row),
            _ => {
                for (bare, what) in bare.iter().zip(["  ÷ bare", "  ÷ large"]) {
                    let ratios = row.iter().zip(bare).map(|((speed, _), (bare, _))| speed / bare);
                    print!("{what:<12}");
                    ratios.for_each(|ratio| print!(" {ratio:>16.2}"));
                    println!();
                }
            }
        }
    }
}

async fn run(quick: bool, wanted: impl Fn(&str) -> bool) {
    let (total, rounds, time) = if quick { (32 << 20, 1, 300) } else { (256 << 20, 3, 1_500) };
    let time = Duration::from_millis(time);
    let listener = TcpListener::bind(any()).await.unwrap();
    let service = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(serve(tcp));
        }
    });
    let ca = MeshCa::create("bench", Duration::from_secs(3_600)).unwrap();
    let (a, b, c) = (node(&ca, service), node(&ca, service), node(&ca, service));
    let (a_b, _b_c) = (join(&a, &b).await, join(&b, &c).await);
    let tunnel = a_b.clone();
    // What a connection of its own would give gossip: other sockets, at the same two cores.
    let (d, e) = (node(&ca, service), node(&ca, service));
    let apart = join(&d, &e).await;
    let ways = [
        ("direct TCP", Way::Tcp(service)),
        ("bare quinn", Way::Quinn(bare_quinn(&ca, None).await)),
        ("bare, large", Way::Quinn(bare_quinn(&ca, Some(LARGE)).await)),
        ("one hop", door(a_b.clone(), "/target/service".into()).await),
        ("two hops", door(a_b, format!("/via/{}/target/service", c.2)).await),
    ];
    if wanted("--memory") {
        idle_memories(&ways, if quick { 100 } else { 1_000 }).await;
    }
    if wanted("--bulk") {
        all_bulk(&ways, total, rounds).await;
    }
    if wanted("--opens") {
        for (name, way) in &ways {
            println!("{name:<12} {:.0} opens/s, 16 at a time", opens(way, time).await);
        }
    }
    if wanted("--pings") {
        for (name, way) in &ways {
            pings(name, way, way, time).await;
        }
        pings("gossip", &Way::Ahead(tunnel), &ways[3].1, time).await;
        pings("gossip apart", &Way::Ahead(apart), &ways[3].1, time).await;
    }
}

/// Speeds and processor times of all ways and kinds of load, in turns.
async fn all_bulk(ways: &[(&str, Way)], total: u64, rounds: usize) {
    println!("{} MiB, medians of {rounds}: Gbit/s (processor s/GiB)", total >> 20);
    println!("{:<12} {:>16} {:>16} {:>16} {:>16}", "", "1 up", "32 up", "1 down", "32 down");
    let kinds = [(1, true), (32, true), (1, false), (32, false)];
    let mut measured = vec![vec![(Vec::new(), Vec::new()); kinds.len()]; ways.len()];
    for _ in 0..rounds {
        for (kind, (streams, up)) in kinds.into_iter().enumerate() {
            for (number, (_, way)) in ways.iter().enumerate() {
                let (speed, used) = bulk(way, streams, total, up).await;
                measured[number][kind].0.push(speed);
                measured[number][kind].1.push(used);
            }
        }
    }
    print_bulk(ways, &mut measured);
}

fn main() {
    // `cargo test --benches` runs it too: then there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    let some = ["--memory", "--bulk", "--opens", "--pings"].into_iter().any(asked);
    let wanted = |part: &str| !some || asked(part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(asked("--quick"), wanted));
    runtime.shutdown_background();
}
