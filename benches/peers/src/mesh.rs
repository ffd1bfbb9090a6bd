//! Daemons, put together as the program does it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use snomesh::auth::{Identity, MeshCa, MeshCredentials};
use snomesh::clock::WallClock;
use snomesh::crdt::Value;
use snomesh::daemon::{ModularDaemon, RecvError, Subscription};
use snomesh::gossip::{Config, Event};
use snomesh::id::{Actor, Generation};
use snomesh::mesh::{DaemonConnector, Driver, DriverConfig, MeshHandle, MeshRegistry};
use snomesh::replica::Address;
use snomesh::service::ServiceRegistry;
use snomesh::tunnel::quic::{QuicConfig, QuicEndpoint, bind_socket};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{Cluster, Tally};

type Daemon = ModularDaemon<MeshRegistry, ServiceRegistry>;

struct Node {
    mesh: MeshHandle,
    daemon: Daemon,
    stop: CancellationToken,
}

/// A mesh in this process.
pub struct Mesh {
    nodes: Vec<Node>,
}

impl Cluster for Mesh {
    async fn start(nodes: usize, tally: Arc<Tally>) -> Self {
        let ca = MeshCa::create("peers", Duration::from_secs(3_600)).expect("a key can be made");
        let (first, address) = start(&ca, 0, None, &tally);
        let mut all = vec![first];
        for number in 1..nodes {
            all.push(start(&ca, number, Some(&address), &tally).0);
        }
        for node in &all {
            while node.mesh.view(|mesh| mesh.linked().count()).await != Ok(nodes - 1) {
                sleep(Duration::from_millis(5)).await;
            }
        }
        Self { nodes: all }
    }

    async fn write(&self, node: usize, key: String, value: String) {
        let value = Value::try_from(value.as_bytes()).expect("a short value is one");
        let key = key.parse().expect("a short key is one");
        self.nodes[node].mesh.set(key, value).await.expect("the node runs");
    }

    async fn stop(self) {
        for node in self.nodes {
            node.daemon.shutdown().await;
            node.stop.cancel();
        }
    }
}

fn start(ca: &MeshCa, number: usize, seed: Option<&Address>, tally: &Arc<Tally>) -> (Node, Address) {
    let identity = Identity::generate().expect("a key can be made");
    let signed = ca.sign(&identity, Duration::from_secs(3_600)).expect("a key signs");
    let credentials = MeshCredentials::from_pem(identity, &signed.pem, ca.certificate_pem());
    let credentials = credentials.expect("the certificate was just made");
    let socket = bind_socket("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
    let socket = Arc::new(Counted { socket, tally: Arc::clone(tally) });
    let tls = credentials.tls().expect("the credentials are sound");
    let endpoint = QuicEndpoint::with_socket(socket, QuicConfig::default(), tls).expect("the socket works");
    let address: Address = endpoint.local_addr().expect("it is bound").to_string().parse().expect("an address");
    let gossip = Config {
        addresses: vec![address.clone()],
        seeds: seed.into_iter().cloned().collect(),
        ..Config::default()
    };
    let actor = Actor { node: credentials.identity.node_id(), generation: Generation(1) };
    let driver = Driver::new(DriverConfig {
        gossip,
        actor,
        seed: number as u64,
        event_capacity: NonZeroUsize::new(1 << 16).expect("not zero"),
        clock: WallClock::system(),
    });
    let driver = driver.expect("the default settings are valid");
    let mesh = driver.handle();
    tokio::spawn(count(mesh.subscribe(), format!("mesh/n{number:02}-"), Arc::clone(tally)));
    let daemon = ModularDaemon::builder()
        .registry(MeshRegistry::new(mesh.clone()))
        .services(ServiceRegistry::new().with(driver.service()))
        .build();
    let (accepting, source) = (daemon.clone(), endpoint.incoming());
    tokio::spawn(async move { accepting.run(source).await });
    let stop = CancellationToken::new();
    tokio::spawn(driver.run(DaemonConnector::new(endpoint, daemon.clone()), stop.clone()));
    (Node { mesh, daemon, stop }, address)
}

/// Counts what others wrote.
async fn count(mut events: Subscription<Event>, own: String, tally: Arc<Tally>) {
    loop {
        match events.recv().await {
            Ok((_, Event::Attribute { key, .. })) if !key.to_string().starts_with(&own) => tally.saw(1),
            Ok(_) => {}
            Err(RecvError::Lagged(lagged)) => panic!("{lagged}: the ring must be larger"),
            Err(_) => return,
        }
    }
}

/// A socket whose packets are counted.
#[derive(Debug)]
struct Counted {
    socket: Arc<dyn AsyncUdpSocket>,
    tally: Arc<Tally>,
}

impl AsyncUdpSocket for Counted {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        transmit.contents.chunks(segment).for_each(|packet| self.tally.sent(packet.len()));
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
