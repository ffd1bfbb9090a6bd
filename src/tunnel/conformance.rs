//! What every kind of tunnel has to do, run for each of them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;

use super::duplex::DuplexTunnel;
use super::quic::QuicEndpoint;
use super::{
    ArcTunnel, CloseReason, Closed, DatagramError, ReadError, Side, Sided, Stopped, StreamCode, Tunnel,
    TunnelControl, TunnelDownlink, TunnelMonitoring, TunnelMonitoringPerChannel, TunnelSource, TunnelStream,
    TunnelUplink, WriteError,
};
use crate::auth::test_mesh::{TestMesh, endpoint_of};
use crate::id::NodeId;

/// A tunnel, both ends, authenticated.
struct Pair {
    near: ArcTunnel,
    far: ArcTunnel,
    nodes: [NodeId; 2],
    _endpoints: Vec<QuicEndpoint>,
}

fn duplex() -> Pair {
    let nodes = [NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32])];
    let (near, far) = DuplexTunnel::pair_between(nodes[0], nodes[1]);
    Pair { near: ArcTunnel::new(near), far: ArcTunnel::new(far), nodes, _endpoints: Vec::new() }
}

async fn quic() -> Pair {
    let mesh = TestMesh::new();
    let (one, two) = (mesh.credentials(), mesh.credentials());
    let nodes = [one.identity.node_id(), two.identity.node_id()];
    let (dialling, listening) = (endpoint_of(&one), endpoint_of(&two));
    let address = listening.local_addr().unwrap();
    let mut incoming = listening.incoming();
    let (near, far) = tokio::join!(dialling.dial(address, Some(nodes[1])), incoming.next());
    let (near, far) = (ArcTunnel::new(near.unwrap()), ArcTunnel::new(far.unwrap()));
    near.allow_streams(1024);
    far.allow_streams(1024);
    Pair { near, far, nodes, _endpoints: vec![dialling, listening] }
}

macro_rules! conform {
    ($($(#[$meta:meta])* $name:ident;)*) => {
        mod duplex_tunnels {
            $($(#[$meta])* #[tokio::test] async fn $name() { super::$name(super::duplex()).await; })*
        }
        mod quic_tunnels {
            $($(#[$meta])* #[tokio::test] async fn $name() { super::$name(super::quic().await).await; })*
        }
    };
}

conform! {
    /// FEATURES S23.
    both_ends_know_their_side_and_each_other;
    bytes_arrive_and_then_the_end;
    half_close_leaves_the_other_direction_open;
    a_reset_arrives_with_its_code;
    a_stop_arrives_with_its_code;
    a_sending_half_that_is_dropped_resets_its_stream;
    a_writer_waits_for_its_reader;
    /// FEATURES S22. Failure 9 of the original: closing left the connection open.
    closing_ends_both_ends_and_their_streams;
    /// FEATURES S22. Failure 9 of the original: a later error overwrote the reason.
    the_first_reason_wins;
    /// FEATURES S22.
    both_channels_end_with_the_tunnel;
    /// FEATURES S24.
    the_last_handle_closes_the_tunnel;
    a_stream_keeps_its_tunnel;
    /// FEATURES S21.
    the_incoming_side_is_exclusive_and_loses_nothing;
    /// FEATURES S21.
    waiting_for_the_incoming_side_ends_with_the_tunnel;
    datagrams_travel_within_their_limit;
    /// Failure 13 of the original: stream 101 of a tunnel hung.
    three_hundred_streams_live_at_a_time;
}

/// Opens a stream at the near end and accepts it at the far end.
async fn stream(pair: &Pair) -> (TunnelStream, TunnelStream) {
    let mut near = pair.near.open_stream().await.unwrap();
    near.send.write_all(b"!").await.unwrap();
    let mut far = pair.far.incoming().await.unwrap().accept().await.unwrap();
    far.recv.read_exact(&mut [0]).await.unwrap();
    (near, far)
}

async fn read_to_end(stream: &mut TunnelStream) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.recv.read_chunk(1024).await? {
        bytes.extend(&chunk);
    }
    Ok(bytes)
}

/// Polls once.
async fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    let mut future = future;
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

async fn both_ends_know_their_side_and_each_other(pair: Pair) {
    assert_eq!(pair.near.side(), Side::Connect);
    assert_eq!(pair.far.side(), Side::Listen);
    assert_eq!(pair.near.identity(), Some(pair.nodes[1]));
    assert_eq!(pair.far.identity(), Some(pair.nodes[0]));
}

async fn bytes_arrive_and_then_the_end(pair: Pair) {
    let (mut near, mut far) = stream(&pair).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let write = async {
        near.send.write_chunk(Bytes::from(bytes.clone())).await.unwrap();
        near.send.finish().unwrap();
        assert_eq!(near.send.write_all(b"more").await, Err(WriteError::Ended));
        near.send.stopped().await
    };
    let (stopped, read) = tokio::join!(write, read_to_end(&mut far));
    assert_eq!(stopped, Stopped::Done);
    assert_eq!(read.unwrap(), bytes);
}

async fn half_close_leaves_the_other_direction_open(pair: Pair) {
    let (mut near, mut far) = stream(&pair).await;
    near.send.finish().unwrap();
    assert_eq!(read_to_end(&mut far).await, Ok(Vec::new()));
    far.send.write_all(b"late").await.unwrap();
    far.send.finish().unwrap();
    assert_eq!(read_to_end(&mut near).await.unwrap(), b"late");
}

async fn a_reset_arrives_with_its_code(pair: Pair) {
    let (mut near, mut far) = stream(&pair).await;
    near.send.reset(StreamCode(77));
    assert_eq!(far.recv.read_chunk(1).await, Err(ReadError::Reset(StreamCode(77))));
    far.send.write_all(b"still").await.unwrap();
    far.send.finish().unwrap();
    assert_eq!(read_to_end(&mut near).await.unwrap(), b"still");
}

async fn a_stop_arrives_with_its_code(pair: Pair) {
    let (mut near, mut far) = stream(&pair).await;
    let stopped = near.send.stopped();
    far.recv.stop(StreamCode(78));
    assert_eq!(stopped.await, Stopped::ByPeer(StreamCode(78)));
    assert_eq!(near.send.write_all(b"x").await, Err(WriteError::Stopped(StreamCode(78))));
    assert_eq!(far.recv.read_chunk(1).await, Err(ReadError::Stopped));
}

async fn a_sending_half_that_is_dropped_resets_its_stream(pair: Pair) {
    let (near, mut far) = stream(&pair).await;
    let TunnelStream { send, recv: _recv } = near;
    drop(send);
    assert_eq!(far.recv.read_chunk(1).await, Err(ReadError::Reset(StreamCode::ABANDONED)));
}

async fn a_writer_waits_for_its_reader(pair: Pair) {
    const SIZE: usize = 16 * 1024 * 1024;
    let (mut near, mut far) = stream(&pair).await;
    let mut write = Box::pin(async {
        near.send.write_chunk(Bytes::from(vec![7; SIZE])).await.unwrap();
        near.send.finish().unwrap();
    });
    assert!(is_pending(write.as_mut()).await);
    let ((), read) = tokio::join!(write, read_to_end(&mut far));
    assert_eq!(read.unwrap().len(), SIZE);
}

async fn closing_ends_both_ends_and_their_streams(pair: Pair) {
    let (mut near, mut far) = stream(&pair).await;
    let (near_closed, far_closed) = (pair.near.on_closed(), pair.far.on_closed());
    pair.near.close(CloseReason::Requested);
    // Nobody polls anything else of either end.
    assert_eq!(near_closed.await, Closed::Locally(CloseReason::Requested));
    assert_eq!(far_closed.await, Closed::ByPeer(CloseReason::Requested));
    let expected = Closed::ByPeer(CloseReason::Requested);
    assert_eq!(pair.far.closed(), Some(expected.clone()));
    assert_eq!(far.recv.read_chunk(1).await, Err(ReadError::Closed(expected.clone())));
    assert_eq!(far.send.write_all(b"x").await, Err(WriteError::Closed(expected.clone())));
    assert_eq!(near.recv.read_chunk(1).await, Err(Closed::Locally(CloseReason::Requested).into()));
    assert_eq!(pair.far.open_stream().await.unwrap_err(), expected);
    assert_eq!(pair.far.incoming().await.unwrap_err(), expected);
    assert_eq!(pair.far.read_datagram().await.unwrap_err(), expected);
    assert_eq!(pair.far.send_datagram(Bytes::new()).unwrap_err(), DatagramError::Closed(expected));
}

async fn the_first_reason_wins(pair: Pair) {
    pair.near.close(CloseReason::Superseded);
    pair.near.close(CloseReason::Denied);
    assert_eq!(pair.near.closed(), Some(Closed::Locally(CloseReason::Superseded)));
    let expected = Closed::ByPeer(CloseReason::Superseded);
    assert_eq!(pair.far.on_closed().await, expected);
    pair.far.close(CloseReason::Denied);
    assert_eq!(pair.far.closed(), Some(expected));
}

async fn both_channels_end_with_the_tunnel(pair: Pair) {
    let (uplink, downlink) = (pair.far.on_uplink_closed(), pair.far.on_downlink_closed());
    pair.near.close(CloseReason::Requested);
    assert_eq!(uplink.await, Closed::ByPeer(CloseReason::Requested));
    assert_eq!(downlink.await, Closed::ByPeer(CloseReason::Requested));
}

async fn the_last_handle_closes_the_tunnel(pair: Pair) {
    let other = pair.near.clone();
    let waits_only = pair.near.on_closed();
    drop(pair.near);
    assert_eq!(other.closed(), None);
    drop(other);
    assert_eq!(waits_only.await, Closed::Locally(CloseReason::Dropped));
    assert_eq!(pair.far.on_closed().await, Closed::ByPeer(CloseReason::Dropped));
}

async fn a_stream_keeps_its_tunnel(pair: Pair) {
    let (mut near, mut far) = stream(&pair).await;
    drop(pair.near);
    near.send.write_all(b"alone").await.unwrap();
    near.send.finish().unwrap();
    assert_eq!(read_to_end(&mut far).await.unwrap(), b"alone");
    drop(near);
    assert_eq!(pair.far.on_closed().await, Closed::ByPeer(CloseReason::Dropped));
}

async fn the_incoming_side_is_exclusive_and_loses_nothing(pair: Pair) {
    let first = pair.far.incoming().await.unwrap();
    let mut waiting = pin!(pair.far.incoming());
    assert!(is_pending(waiting.as_mut()).await);
    let mut near = pair.near.open_stream().await.unwrap();
    near.send.write_all(b"kept").await.unwrap();
    near.send.finish().unwrap();
    drop(first);
    let mut second = waiting.await.unwrap();
    let mut far = second.accept().await.unwrap();
    assert_eq!(read_to_end(&mut far).await.unwrap(), b"kept");
}

async fn waiting_for_the_incoming_side_ends_with_the_tunnel(pair: Pair) {
    let mut first = pair.far.incoming().await.unwrap();
    let (accepted, waited, ()) = tokio::join!(first.accept(), pair.far.incoming(), async {
        pair.near.close(CloseReason::Requested);
    });
    assert_eq!(accepted.unwrap_err(), Closed::ByPeer(CloseReason::Requested));
    assert_eq!(waited.unwrap_err(), Closed::ByPeer(CloseReason::Requested));
}

async fn datagrams_travel_within_their_limit(pair: Pair) {
    pair.near.send_datagram(Bytes::from_static(b"beat")).unwrap();
    assert_eq!(pair.far.read_datagram().await.unwrap(), b"beat"[..]);
    let error = pair.near.send_datagram(Bytes::from(vec![0; 100_000])).unwrap_err();
    let DatagramError::TooLarge { max } = error else { panic!("{error:?}") };
    pair.near.send_datagram(Bytes::from(vec![0; max])).unwrap();
    assert_eq!(pair.far.read_datagram().await.unwrap().len(), max);
}

async fn three_hundred_streams_live_at_a_time(pair: Pair) {
    let open = async {
        let mut streams = Vec::new();
        for _ in 0..300 {
            let mut near = pair.near.open_stream().await.unwrap();
            near.send.write_all(b"!").await.unwrap();
            streams.push(near);
        }
        streams
    };
    let accept = async {
        let mut incoming = pair.far.incoming().await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..300 {
            streams.push(incoming.accept().await.unwrap());
        }
        streams
    };
    let (near, far) = tokio::join!(open, accept);
    for (mut near, mut far) in near.into_iter().zip(far) {
        near.send.finish().unwrap();
        assert_eq!(read_to_end(&mut far).await.unwrap(), b"!");
    }
}
