//! How long a write takes until it can be read on all nodes: real daemons over QUIC on loopback.
//!
//! `cargo bench --bench propagation`. Prints, for 3 and for 10 nodes, the time from the call on one node until
//! the last node has told its subscribers, beside the half round trip of one byte on a bare stream of the same
//! tunnels; and the bytes that it took, which are exact. About half a minute.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run may say so in any way")]

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use snomesh::auth::{Identity, MeshCa, MeshCredentials};
use snomesh::clock::WallClock;
use snomesh::crdt::Value;
use snomesh::daemon::{ModularDaemon, Subscription};
use snomesh::gossip::{Config, Event};
use snomesh::id::{Actor, Generation};
use snomesh::mesh::{DaemonConnector, Driver, DriverConfig, MeshHandle, MeshRegistry};
use snomesh::replica::{Address, AttributeKey};
use snomesh::service::{OfferedStream, RouteAddress, Service, ServiceRegistry, open};
use snomesh::tunnel::ArcTunnel;
use snomesh::tunnel::quic::{QuicConfig, QuicEndpoint};
use tokio_util::sync::CancellationToken;

const WRITES: usize = 1_000;
const VALUE_LEN: usize = 100;

struct Echo;

impl Service for Echo {
    type Error = Infallible;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        address.segments() == ["echo"]
    }

    async fn handle(&self, _: RouteAddress, stream: OfferedStream, _: ArcTunnel) -> Result<(), Infallible> {
        if let Ok(mut stream) = stream.accept().await {
            while let Ok(Some(chunk)) = stream.recv.read_chunk(1_024).await {
                if stream.send.write_chunk(chunk).await.is_err() {
                    break;
                }
            }
        }
        Ok(())
    }
}

type Daemon = ModularDaemon<MeshRegistry, ServiceRegistry>;

struct Node {
    mesh: MeshHandle,
    daemon: Daemon,
}

fn start(ca: &MeshCa, seed: Option<&Address>) -> (Node, Address) {
    let validity = Duration::from_secs(3_600);
    let identity = Identity::generate().unwrap();
    let signed = ca.sign(&identity, validity).unwrap();
    let credentials = MeshCredentials::from_pem(identity, &signed.pem, ca.certificate_pem()).unwrap();
    let any_port = "127.0.0.1:0".parse().unwrap();
    let endpoint = QuicEndpoint::bind(any_port, QuicConfig::default(), credentials.tls().unwrap()).unwrap();
    let address: Address = endpoint.local_addr().unwrap().to_string().parse().unwrap();
    let gossip = Config {
        addresses: vec![address.clone()],
        seeds: seed.into_iter().cloned().collect(),
        ..Config::default()
    };
    let actor = Actor { node: credentials.identity.node_id(), generation: Generation(1) };
    let event_capacity = NonZeroUsize::new(65_536).unwrap();
    let driver =
        Driver::new(DriverConfig { gossip, actor, seed: 1, event_capacity, clock: WallClock::system() })
            .unwrap();
    let mesh = driver.handle();
    let daemon = ModularDaemon::builder()
        .registry(MeshRegistry::new(mesh.clone()))
        .services(ServiceRegistry::new().with(driver.service()).with(Echo))
        .build();
    tokio::spawn({
        let (daemon, source) = (daemon.clone(), endpoint.incoming());
        async move { daemon.run(source).await }
    });
    tokio::spawn(driver.run(DaemonConnector::new(endpoint, daemon.clone()), CancellationToken::new()));
    (Node { mesh, daemon }, address)
}

async fn converge(nodes: &[Node]) {
    loop {
        let mut digests = Vec::new();
        for node in nodes {
            let (digest, linked) =
                node.mesh.view(|mesh| (mesh.digest(), mesh.linked().count())).await.unwrap();
            if linked == nodes.len() - 1 {
                digests.push(digest);
            }
        }
        if digests.len() == nodes.len() && digests.iter().all(|digest| *digest == digests[0]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn seen(events: &mut Subscription<Event>, sought: &AttributeKey) {
    loop {
        if let (_, Event::Attribute { key, .. }) = events.recv().await.expect("the ring is large")
            && key == *sought
        {
            return;
        }
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Half the round trip of one byte between the first two nodes.
async fn bare_stream(nodes: &[Node]) -> Vec<Duration> {
    let peer = nodes[0].daemon.peers().node(nodes[1].mesh.node()).remove(0);
    let mut stream = open(&peer.tunnel, &"/echo".parse().unwrap()).await.unwrap();
    let mut halves = Vec::new();
    for _ in 0..WRITES {
        let begin = Instant::now();
        stream.send.write_all(&[7]).await.unwrap();
        stream.recv.read_exact(&mut [0]).await.unwrap();
        halves.push(begin.elapsed() / 2);
    }
    halves.sort();
    halves
}

async fn measure(count: usize) {
    let ca = MeshCa::create("bench", Duration::from_secs(3_600)).unwrap();
    let (first, address) = start(&ca, None);
    let mut nodes = vec![first];
    for _ in 1..count {
        nodes.push(start(&ca, Some(&address)).0);
    }
    let begin = Instant::now();
    converge(&nodes).await;
    let joined = begin.elapsed();
    let total = |nodes: &[Node]| {
        nodes.iter().map(|node| node.mesh.traffic()).fold((0, 0, 0), |(control, delta, datagram), traffic| {
            let control = control + traffic.control_bytes;
            (control, delta + traffic.delta_bytes, datagram + traffic.datagram_bytes)
        })
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = total(&nodes);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = total(&nodes);
    let idle = (after.0 + after.1 + after.2 - before.0 - before.1 - before.2) as f64 / 3.0 / count as f64;

    let mut subscriptions: Vec<_> = nodes.iter().map(|node| node.mesh.subscribe()).collect();
    let mut times = Vec::new();
    let before = total(&nodes);
    for number in 0..WRITES {
        let key: AttributeKey = format!("mesh/key-{number:08}").parse().unwrap();
        let begin = Instant::now();
        nodes[number % count]
            .mesh
            .set(key.clone(), Value::try_from(&[7; VALUE_LEN][..]).unwrap())
            .await
            .unwrap();
        for events in &mut subscriptions {
            seen(events, &key).await;
        }
        times.push(begin.elapsed());
    }
    times.sort();
    let after = total(&nodes);
    let payload = (WRITES * (count - 1) * (22 + VALUE_LEN)) as f64;
    let bare = bare_stream(&nodes).await;
    println!("{count} nodes: joined in {joined:.0?}; idle {idle:.0} B/s a node, transport not counted");
    println!(
        "  write → readable on all: p50 {:.0?}, p99 {:.0?}; bare stream, one way: p50 {:.0?}, p99 {:.0?}; ratio of medians {:.1}",
        percentile(&times, 50),
        percentile(&times, 99),
        percentile(&bare, 50),
        percentile(&bare, 99),
        percentile(&times, 50).as_secs_f64() / percentile(&bare, 50).as_secs_f64(),
    );
    println!(
        "  bytes for {WRITES} writes of {VALUE_LEN} B, one at a time: delta {:.2} × payload, control {:.2} × payload",
        (after.1 - before.1) as f64 / payload,
        (after.0 - before.0) as f64 / payload,
    );
    converge(&nodes).await;
}

fn main() {
    // `cargo test --benches` runs it too: then there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    for count in [3, 10] {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(measure(count));
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}
