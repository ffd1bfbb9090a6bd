//! What only QUIC has to do: certificates, sockets, restarts, flow control.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::*;
use crate::auth::test_mesh::{TestMesh, endpoint_of};
use crate::auth::{Identity, MeshCredentials};
use crate::id::NodeId;
use crate::tunnel::{
    CloseReason, Closed, Tunnel, TunnelControl, TunnelDownlink, TunnelMonitoring, TunnelSource, TunnelStream,
    TunnelUplink,
};

/// An endpoint that can be cut off.
fn gated(credentials: &MeshCredentials, address: SocketAddr) -> Result<(QuicEndpoint, Gate), BindError> {
    let gate = Gate::new();
    let socket = GatedSocket::wrap(bind_socket(address)?, gate.clone());
    let endpoint = QuicEndpoint::with_socket(socket, QuicConfig::default(), credentials.tls().unwrap())?;
    Ok((endpoint, gate))
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn connect(near: &QuicEndpoint, far: &QuicEndpoint) -> (QuinnTunnel, QuinnTunnel) {
    let mut incoming = far.incoming();
    let address = far.local_addr().unwrap();
    let (near, far) = tokio::join!(near.dial(address, None), incoming.next());
    (near.unwrap(), far.unwrap())
}

/// Tries to connect; the error, or how the dialler's tunnel ended.
async fn refused(near: &QuicEndpoint, far: &QuicEndpoint, expected: Option<NodeId>) -> Closed {
    let mut incoming = far.incoming();
    let address = far.local_addr().unwrap();
    let dial = async {
        match near.dial(address, expected).await {
            Ok(tunnel) => tunnel.on_closed().await,
            Err(DialError::Handshake { source, .. }) => source,
            Err(error) => panic!("{error}"),
        }
    };
    tokio::select! {
        closed = dial => closed,
        tunnel = incoming.next() => panic!("accepted {tunnel:?}"),
    }
}

fn is_transport(closed: &Closed) -> bool {
    matches!(closed, Closed::Transport { .. })
}

#[tokio::test]
async fn a_node_that_is_not_the_expected_one_is_not_taken() {
    let mesh = TestMesh::new();
    let (near, far) = (endpoint_of(&mesh.credentials()), endpoint_of(&mesh.credentials()));
    let closed = refused(&near, &far, Some(NodeId::from_bytes([9; 32]))).await;
    assert!(is_transport(&closed), "{closed}");
}

#[tokio::test]
async fn a_node_of_another_mesh_is_taken_by_neither_side() {
    let (mesh, other) = (TestMesh::new(), TestMesh::new());
    let ours = endpoint_of(&mesh.credentials());
    let theirs = endpoint_of(&other.credentials());
    assert!(is_transport(&refused(&theirs, &ours, None).await));
    // One that trusts us does not get further: its own certificate is still not of our mesh.
    let mut trusting = other.credentials();
    trusting.authorities = mesh.credentials().authorities;
    assert!(is_transport(&refused(&endpoint_of(&trusting), &ours, None).await));
}

/// Whoever is told at the near end drops its streams at once. The far end must not see that as streams that end while the
/// tunnel stands: so the connection is closed before anybody is told.
#[tokio::test]
async fn a_connection_is_closed_before_anybody_is_told() {
    /// Looks in the very moment in which it is told, on the thread that tells.
    struct Witness(quinn::Connection, AtomicBool);
    impl Wake for Witness {
        fn wake(self: Arc<Self>) {
            self.1.store(self.0.close_reason().is_some(), Ordering::SeqCst);
        }
    }
    let mesh = TestMesh::new();
    let (near, far) = (endpoint_of(&mesh.credentials()), endpoint_of(&mesh.credentials()));
    let (near, far) = connect(&near, &far).await;
    let witness = Arc::new(Witness(near.connection().clone(), AtomicBool::new(false)));
    let mut told = pin!(near.on_closed());
    let waker = Arc::clone(&witness).into();
    assert!(told.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    near.close(CloseReason::Expired);
    assert!(witness.1.load(Ordering::SeqCst), "told of a connection that still stands");
    assert_eq!(told.await, Closed::Locally(CloseReason::Expired));
    assert_eq!(far.on_closed().await, Closed::ByPeer(CloseReason::Expired));
}

/// FEATURES P5.
#[tokio::test]
async fn a_denied_node_is_refused_at_its_next_handshake_either_way() {
    let mesh = TestMesh::new();
    let (one, two) = (mesh.credentials(), mesh.credentials());
    let (near, far) = (endpoint_of(&one), endpoint_of(&two));
    let (first, _far) = connect(&near, &far).await;
    assert_eq!(first.identity(), Some(two.identity.node_id()));
    two.denied.deny(one.identity.node_id());
    // A resumed session would get in here.
    assert!(is_transport(&refused(&near, &far, None).await));
    assert!(is_transport(&refused(&far, &near, None).await));
    two.denied.pardon(one.identity.node_id());
    connect(&near, &far).await;
}

/// FEATURES P5.
#[tokio::test]
async fn a_new_certificate_changes_neither_the_node_nor_its_tunnels() {
    let mesh = TestMesh::new();
    let identity = Identity::generate().unwrap();
    let (near, far) = (endpoint_of(&mesh.credentials()), endpoint_of(&mesh.credentials_of(identity.clone())));
    let (old, _old_far) = connect(&near, &far).await;
    far.replace_tls(mesh.credentials_of(identity.clone()).tls().unwrap()).unwrap();
    let (new, _new_far) = connect(&near, &far).await;
    assert_eq!(old.identity(), Some(identity.node_id()));
    assert_eq!(new.identity(), Some(identity.node_id()));
    assert_eq!(old.closed(), None);
}

#[tokio::test]
async fn nobody_there_is_an_error_of_its_own() {
    let mesh = TestMesh::new();
    let (gone, gate) = gated(&mesh.credentials(), any_port()).unwrap();
    gate.shut();
    let address = gone.local_addr().unwrap();
    let config = QuicConfig { handshake_timeout: Duration::from_millis(1), ..QuicConfig::default() };
    let near = QuicEndpoint::bind(any_port(), config, mesh.credentials().tls().unwrap()).unwrap();
    assert_eq!(near.dial(address, None).await.unwrap_err(), DialError::TimedOut { address });
}

/// Failure 6 of the original: one stalled handshake blocked every later client.
#[tokio::test]
async fn a_handshake_that_stalls_delays_no_other() {
    let mesh = TestMesh::new();
    let (near, far) = (endpoint_of(&mesh.credentials()), endpoint_of(&mesh.credentials()));
    // Somebody's first packet, and never a second one.
    let stranger = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
    let misled = endpoint_of(&mesh.credentials());
    let mut packet = [0; 2048];
    let address = stranger.local_addr().unwrap();
    let length = tokio::select! {
        received = stranger.recv(&mut packet) => received.unwrap(),
        dialled = misled.dial(address, None) => panic!("{dialled:?}"),
    };
    let mut incoming = far.incoming();
    stranger.send_to(&packet[..length], far.local_addr().unwrap()).await.unwrap();
    while incoming.handshakes.is_empty() {
        // It answers nothing to the stranger that ends its handshake, so this never yields a tunnel.
        let pending = poll_fn(|cx| Poll::Ready(pin!(incoming.next()).poll(cx).is_pending())).await;
        assert!(pending);
        tokio::task::yield_now().await;
    }
    let (near, far) = tokio::join!(near.dial(far.local_addr().unwrap(), None), incoming.next());
    assert_eq!(far.unwrap().remote().parse::<SocketAddr>().unwrap().ip(), address.ip());
    near.unwrap();
    assert_eq!(incoming.handshakes.len(), 1);
}

#[tokio::test]
async fn a_neighbour_notices_a_restart_with_its_next_packet() {
    let mesh = TestMesh::new();
    let near = endpoint_of(&mesh.credentials());
    let credentials = mesh.credentials();
    let (far, gate) = gated(&credentials, any_port()).unwrap();
    let address = far.local_addr().unwrap();
    let (tunnel, lost) = connect(&near, &far).await;
    // The node dies without a word and comes back on its port.
    gate.shut();
    drop((far, lost));
    let restarted = loop {
        match gated(&credentials, address) {
            Ok(restarted) => break restarted,
            Err(_still_bound) => tokio::task::yield_now().await,
        }
    };
    tunnel.send_datagram(Bytes::from_static(&[0; 100])).unwrap();
    assert_eq!(tunnel.on_closed().await, Closed::PeerRestarted);
    drop(restarted);
}

#[tokio::test]
async fn a_shut_gate_loses_packets_and_an_open_one_does_not() {
    let mesh = TestMesh::new();
    let (near, gate) = gated(&mesh.credentials(), any_port()).unwrap();
    let far = endpoint_of(&mesh.credentials());
    let (near, far) = connect(&near, &far).await;
    let sent = || near.connection().stats().udp_tx.datagrams;
    gate.shut();
    assert!(!gate.is_open());
    let before = sent();
    near.send_datagram(Bytes::from_static(b"lost")).unwrap();
    while sent() == before {
        tokio::task::yield_now().await;
    }
    gate.open();
    near.send_datagram(Bytes::from_static(b"kept")).unwrap();
    assert_eq!(far.read_datagram().await.unwrap(), b"kept"[..]);
}

#[tokio::test]
async fn a_peer_has_one_stream_until_it_is_allowed_more() {
    let mesh = TestMesh::new();
    let (near_end, far_end) = (endpoint_of(&mesh.credentials()), endpoint_of(&mesh.credentials()));
    let (near, far) = connect(&near_end, &far_end).await;
    let _first = near.open_stream().await.unwrap();
    let mut second = pin!(near.open_stream());
    let pending = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await;
    assert!(pending);
    far.allow_streams(1024);
    second.await.unwrap();
}

/// Opens a stream and accepts it.
async fn stream(near: &QuinnTunnel, far: &QuinnTunnel) -> (TunnelStream, TunnelStream) {
    let mut opened = near.open_stream().await.unwrap();
    opened.send.write_all(b"!").await.unwrap();
    let accepted = far.incoming().await.unwrap().accept().await.unwrap();
    (opened, accepted)
}

/// HARDENING B13. What the other stream carries is more than the window has room for beside those that stall, so that
/// the peer has to be told of what was read.
#[tokio::test]
async fn readers_that_stall_stop_no_other_stream() {
    const CHUNK: Bytes = Bytes::from_static(&[0; 4 * 1024 * 1024]);
    const CHUNKS: usize = 8;
    let mesh = TestMesh::new();
    let (near_end, far_end) = (endpoint_of(&mesh.credentials()), endpoint_of(&mesh.credentials()));
    let (near, far) = connect(&near_end, &far_end).await;
    far.allow_streams(1024);
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let (mut writer, unread) = stream(&near, &far).await;
        stalled.push(unread);
        tokio::spawn(async move { writer.send.write_chunk(CHUNK).await });
    }
    let (mut writer, mut reader) = stream(&near, &far).await;
    let write = async {
        for _ in 0..CHUNKS {
            writer.send.write_chunk(CHUNK).await.unwrap();
        }
        writer.send.finish().unwrap();
    };
    let read = async {
        let mut read = 0;
        while let Some(chunk) = reader.recv.read_chunk(usize::MAX).await.unwrap() {
            read += chunk.len();
        }
        read
    };
    let both = async { tokio::join!(write, read) };
    let ((), read) = timeout(Duration::from_secs(60), both).await.expect("nothing stands still");
    assert_eq!(read, CHUNKS * CHUNK.len() + 1);
}

/// HARDENING B13: a promise of room cannot be taken back, so promises must not add up while streams come and go.
#[tokio::test]
async fn windows_that_shrink_and_grow_again_promise_no_more_than_twice_what_they_may() {
    const CHUNK: Bytes = Bytes::from_static(&[0; 256 * 1024]);
    const MAX: u32 = 32 * 1024 * 1024;
    let mesh = TestMesh::new();
    let config = QuicConfig { max_connection_window: NonZeroU32::new(MAX).unwrap(), ..QuicConfig::default() };
    let near_end = endpoint_of(&mesh.credentials());
    let far_end = QuicEndpoint::bind(any_port(), config, mesh.credentials().tls().unwrap()).unwrap();
    let (near, far) = connect(&near_end, &far_end).await;
    far.allow_streams(1024);
    // Wants the whole window, and a quarter of it; again and again.
    for _ in 0..8 {
        let mut streams = Vec::new();
        for _ in 0..28 {
            streams.push(stream(&near, &far).await);
        }
    }
    let (mut unread, mut promised) = (Vec::new(), 0);
    while promised <= 2 * MAX as usize {
        // A peer that takes nothing for so long has no room.
        let quarter = Duration::from_millis(250);
        let Ok((mut writer, reader)) = timeout(quarter, stream(&near, &far)).await else { break };
        for _ in 0..4 {
            let Ok(written) = timeout(quarter, writer.send.write_chunk(CHUNK)).await else { break };
            written.unwrap();
            promised += CHUNK.len();
        }
        unread.push((writer, reader));
    }
    assert!(promised <= 2 * MAX as usize, "{promised} bytes");
}

/// HARDENING B13: what stalls goes when the others need the memory, and only as much of it as has to.
#[tokio::test]
async fn of_streams_that_stall_as_many_give_way_as_pin_too_much() {
    const MIB: u32 = 1024 * 1024;
    let seconds = Duration::from_secs;
    let mesh = TestMesh::new();
    let config =
        QuicConfig { max_connection_window: NonZeroU32::new(4 * MIB).unwrap(), ..QuicConfig::default() };
    let near_end = endpoint_of(&mesh.credentials());
    let far_end = QuicEndpoint::bind(any_port(), config, mesh.credentials().tls().unwrap()).unwrap();
    let (near, far) = connect(&near_end, &far_end).await;
    far.allow_streams(1024);
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(stream(&near, &far).await);
    }
    let stall = |number: usize| streams[number].1.recv.stall();
    let (mut first, mut second) = (stall(0), stall(1));
    assert!(!first.gives_way(seconds(1_000)), "two of four: there is as much beside them");
    let mut third = stall(2);
    assert!(!first.gives_way(seconds(59)));
    assert!(first.gives_way(seconds(60)) && first.gives_way(seconds(0)), "three of four, and it stays so");
    assert!(!second.gives_way(seconds(60)), "the first has made room");
    let (mut fourth, mut fifth) = (stall(3), stall(4));
    assert!(!third.gives_way(seconds(4)));
    assert!(third.gives_way(seconds(5)), "all of four: the others are about to stand still");
    assert!(!fourth.gives_way(seconds(5)));
    // One that goes on makes room as well.
    drop(second);
    assert!(!fourth.gives_way(seconds(60)) && !fifth.gives_way(seconds(60)));
}

/// HARDENING B13: the budget of an endpoint is that of all its connections.
#[tokio::test]
async fn streams_that_stall_give_way_to_those_of_other_connections() {
    /// As many as a window of sixteen has room for.
    const STREAMS: usize = 12;
    let minute = Duration::from_secs(60);
    let mesh = TestMesh::new();
    let config = QuicConfig { max_receive_windows: 32 * 1024 * 1024, ..QuicConfig::default() };
    let near_end = endpoint_of(&mesh.credentials());
    let far_end = QuicEndpoint::bind(any_port(), config, mesh.credentials().tls().unwrap()).unwrap();
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (near, far) = connect(&near_end, &far_end).await;
        far.allow_streams(1024);
        for _ in 0..STREAMS {
            streams.push(stream(&near, &far).await);
        }
    }
    // Each connection has what it wants, so that only both together can be too many.
    let stall = |number: usize| streams[number].1.recv.stall();
    let mut stalls: Vec<_> = (0..STREAMS + 4).map(stall).collect();
    assert!(stalls.iter_mut().all(|stall| !stall.gives_way(minute)), "half of it");
    stalls.push(stall(STREAMS + 4));
    assert!(!stalls[0].gives_way(minute / 2) && stalls[0].gives_way(minute));
    assert!(stalls[1..].iter_mut().all(|stall| !stall.gives_way(minute)));
    // What goes on makes room for the other connection's.
    stalls.drain(..STREAMS);
    stalls.extend((STREAMS + 5..2 * STREAMS).map(stall));
    assert!(stalls.iter_mut().all(|stall| !stall.gives_way(minute)));
}

#[tokio::test]
async fn closing_an_endpoint_tells_all_its_peers_why() {
    let mesh = TestMesh::new();
    let (near, far) = (endpoint_of(&mesh.credentials()), endpoint_of(&mesh.credentials()));
    let (tunnel, _far) = connect(&near, &far).await;
    far.close(CloseReason::ShuttingDown);
    far.wait_idle().await;
    assert_eq!(tunnel.on_closed().await, Closed::ByPeer(CloseReason::ShuttingDown));
}
