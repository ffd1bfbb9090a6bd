//! Whole daemons, over QUIC on the loopback and in memory.

mod forward;
mod life;
mod limits;

use super::*;
use crate::auth::NoOp;
use crate::auth::test_mesh::{TestMesh, endpoint_of};
use crate::id::NodeId;
use crate::service::{OfferedStream, RouteAddress, open};
use crate::tunnel::ArcTunnel;
use crate::tunnel::duplex::DuplexTunnel;

/// Sends back what it gets.
struct Echo;

impl Service for Echo {
    type Error = std::io::Error;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        address.segments() == ["echo"]
    }

    async fn handle(
        &self,
        _: RouteAddress,
        stream: OfferedStream,
        _: ArcTunnel,
    ) -> Result<(), std::io::Error> {
        let mut stream = stream.accept().await?;
        tokio::io::copy(&mut stream.recv, &mut stream.send).await?;
        Ok(stream.send.finish()?)
    }
}

fn address(text: &str) -> RouteAddress {
    text.parse().unwrap()
}

/// Has the other end of a tunnel echo something.
async fn echo(tunnel: &ArcTunnel) {
    let mut stream = open(tunnel, &address("/echo")).await.unwrap();
    stream.send.write_all(b"hello").await.unwrap();
    stream.send.finish().unwrap();
    let mut echoed = [0; 5];
    stream.recv.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello");
    assert_eq!(stream.recv.read_chunk(1).await, Ok(None));
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

type Trusting<S = ServiceRegistry> = ModularDaemon<InMemoryTunnelRegistry, S, NoOp>;

/// A daemon that takes everybody by the name of `peer`.
fn trusting<S: Service + Send + Sync + 'static>(services: S) -> Trusting<S> {
    let authentication = NoOp::named("peer".parse().unwrap());
    ModularDaemon::builder().authentication(authentication).services(services).build()
}

/// Joins two daemons in memory; what each holds then.
async fn joined<R1, S1, A1, R2, S2, A2>(
    one: (&ModularDaemon<R1, S1, A1>, NodeId),
    two: (&ModularDaemon<R2, S2, A2>, NodeId),
) -> (Peer, Peer)
where
    R1: TunnelRegistry,
    S1: Service + Send + Sync + 'static,
    A1: AuthenticationHandler,
    R2: TunnelRegistry,
    S2: Service + Send + Sync + 'static,
    A2: AuthenticationHandler,
{
    let (near, far) = DuplexTunnel::pair_between(one.1, two.1);
    let (near, far) = (one.0.attach(near).unwrap(), two.0.attach(far).unwrap());
    let (near, far) = tokio::join!(near.authenticated(), far.authenticated());
    (near.unwrap(), far.unwrap())
}

/// FEATURES S23.
#[tokio::test]
async fn two_daemons_serve_each_other_over_quic_whoever_dialled() {
    let mesh = TestMesh::new();
    let (one, two) = (mesh.credentials(), mesh.credentials());
    let (dialling, listening) = (endpoint_of(&one), endpoint_of(&two));
    let daemon = || ModularDaemon::builder().services(ServiceRegistry::new().with(Echo)).build();
    let (a, b): (ModularDaemon, ModularDaemon) = (daemon(), daemon());
    let mut events = b.subscribe();
    let accepting = tokio::spawn({
        let (b, source) = (b.clone(), listening.incoming());
        async move { b.run(source).await }
    });
    let expected = two.identity.node_id();
    let tunnel = dialling.dial(listening.local_addr().unwrap(), Some(expected)).await.unwrap();
    let peer = a.attach(tunnel).unwrap().authenticated().await.unwrap();
    assert_eq!(peer.node, Some(expected));
    echo(&peer.tunnel).await;
    assert!(matches!(events.recv().await.unwrap().1, TunnelEvent::Connected { .. }));
    assert!(matches!(events.recv().await.unwrap().1, TunnelEvent::Authenticated { .. }));
    echo(&b.peers().node(one.identity.node_id())[0].tunnel).await;
    assert_eq!(a.shutdown().await, Drained::Clean);
    let event = events.recv().await.unwrap().1;
    let TunnelEvent::Disconnected { closed, .. } = event else { panic!("{event:?}") };
    assert_eq!(closed, Closed::ByPeer(CloseReason::ShuttingDown));
    assert!(b.peers().is_empty());
    assert_eq!(b.shutdown().await, Drained::Clean);
    accepting.await.unwrap();
}
