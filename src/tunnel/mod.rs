//! Tunnels: one authenticated connection to a peer, the streams and the datagrams in it.
//!
//! A [`Tunnel`] is a [`TunnelUplink`] (opens streams), a [`TunnelDownlink`] (accepts them, one user at a time), a
//! [`TunnelMonitoring`] (tells when it ended and why) and a [`TunnelControl`] (ends it). Which end of the connection
//! we are is not a role but a [`Side`]. Implementations are [`quic::QuinnTunnel`] and, in memory,
//! [`duplex::DuplexTunnel`]; one suite of conformance tests holds for both. [`ArcTunnel`] is any of them.
//!
//! What this module refuses to know: who the peer may be, what streams are for, and how tunnels are registered.
//!
//! # Dropping
//!
//! A tunnel lives as long as a handle or a stream of it does; the last one that goes closes it. A [`SendHalf`] that is
//! dropped without [`SendHalf::finish`] *resets* its stream: a reader never mistakes an accident for the end.

pub mod baggage;
pub mod close;
pub mod duplex;
pub mod dynamic;
pub mod quic;
pub mod source;
pub mod stream;

#[cfg(test)]
mod conformance;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::id::NodeId;
use crate::time::UnixMillis;

#[expect(deprecated, reason = "kept for those who know it from elsewhere")]
pub use baggage::Baggage;
pub use close::{CloseReason, Closed};
pub use dynamic::ArcTunnel;
pub use source::TunnelSource;
pub use stream::{
    IncomingStreams, ReadError, ReadExactError, RecvHalf, SendHalf, Stall, Stopped, StreamCode,
    StreamObserver, TunnelStream, WriteError,
};

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// We asked for the connection.
    Connect,
    /// The peer asked for the connection.
    Listen,
}

impl Side {
    /// The other end's side.
    pub const fn opposite(self) -> Self {
        match self {
            Self::Connect => Self::Listen,
            Self::Listen => Self::Connect,
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Listen => "listen",
        })
    }
}

/// Has a [`Side`].
///
/// ```
/// use snomesh::tunnel::duplex::DuplexTunnel;
/// use snomesh::tunnel::{Side, Sided};
///
/// let (near, far) = DuplexTunnel::pair();
/// assert_eq!((near.side(), far.side()), (Side::Connect, Side::Listen));
/// assert_eq!(near.side().opposite(), far.side());
/// ```
pub trait Sided {
    /// Which end of the connection we are.
    fn side(&self) -> Side;
}

/// Opens streams to the peer.
///
/// ```
/// use snomesh::tunnel::duplex::DuplexTunnel;
/// use snomesh::tunnel::{TunnelDownlink, TunnelUplink};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (near, far) = DuplexTunnel::pair();
/// let mut sent = near.open_stream().await.unwrap();
/// sent.send.write_all(b"hello").await.unwrap();
/// sent.send.finish().unwrap();
///
/// let mut got = far.incoming().await.unwrap().accept().await.unwrap();
/// let mut text = [0; 5];
/// got.recv.read_exact(&mut text).await.unwrap();
/// assert_eq!(&text, b"hello");
/// assert_eq!(got.recv.read_chunk(1).await, Ok(None));
/// # });
/// ```
pub trait TunnelUplink {
    /// Opens a bidirectional stream, waiting while the peer's limit of concurrent streams is used up.
    ///
    /// The peer learns of the stream with the first byte that is written to it.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the tunnel has ended or ends meanwhile.
    fn open_stream(&self) -> impl Future<Output = Result<TunnelStream, Closed>> + Send;
}

/// Accepts the streams that the peer opens.
///
/// ```
/// use snomesh::tunnel::{ArcTunnel, TunnelDownlink};
///
/// /// Counts the streams of a tunnel until it ends. Whoever else wants to accept waits meanwhile.
/// async fn count(tunnel: &ArcTunnel) -> usize {
///     let Ok(mut incoming) = tunnel.incoming().await else { return 0 };
///     let mut count = 0;
///     while incoming.accept().await.is_ok() {
///         count += 1;
///     }
///     count
/// }
/// ```
pub trait TunnelDownlink {
    /// Takes the incoming side for itself, waiting until nobody else has it.
    ///
    /// The waiting ends at the latest with the tunnel. Dropping the [`IncomingStreams`] lets the next one have it;
    /// no stream is lost in between.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the tunnel has ended or ends meanwhile.
    fn incoming(&self) -> impl Future<Output = Result<IncomingStreams, Closed>> + Send;
}

/// Tells when and why a tunnel ended. The first reason wins; whatever comes later changes nothing.
///
/// ```
/// use snomesh::tunnel::duplex::DuplexTunnel;
/// use snomesh::tunnel::{CloseReason, Closed, TunnelControl, TunnelMonitoring};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (near, far) = DuplexTunnel::pair();
/// let ended = far.on_closed();
/// assert_eq!(far.closed(), None);
/// near.close(CloseReason::ShuttingDown);
/// assert_eq!(ended.await, Closed::ByPeer(CloseReason::ShuttingDown));
/// # });
/// ```
pub trait TunnelMonitoring {
    /// Why the tunnel ended, or `None` while it lives.
    fn closed(&self) -> Option<Closed>;

    /// Waits for the end. Fires without anyone reading, writing or accepting, and does not keep the tunnel alive.
    fn on_closed(&self) -> impl Future<Output = Closed> + Send + 'static;
}

/// Tells of the two directions in which streams are opened, for those who use only one of them.
///
/// Both end with the tunnel: a connection has no half that could go alone. Every tunnel has it.
///
/// ```
/// use snomesh::tunnel::duplex::DuplexTunnel;
/// use snomesh::tunnel::{CloseReason, Closed, TunnelControl, TunnelMonitoringPerChannel};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (near, far) = DuplexTunnel::pair();
/// near.close(CloseReason::Requested);
/// assert_eq!(far.on_downlink_closed().await, Closed::ByPeer(CloseReason::Requested));
/// # });
/// ```
pub trait TunnelMonitoringPerChannel: TunnelMonitoring {
    /// Waits until no stream can be opened any more.
    fn on_uplink_closed(&self) -> impl Future<Output = Closed> + Send + 'static {
        self.on_closed()
    }

    /// Waits until no stream will come any more.
    fn on_downlink_closed(&self) -> impl Future<Output = Closed> + Send + 'static {
        self.on_closed()
    }
}

impl<T: TunnelMonitoring> TunnelMonitoringPerChannel for T {}

/// Commands that concern the tunnel as a whole.
///
/// ```
/// use snomesh::tunnel::duplex::DuplexTunnel;
/// use snomesh::tunnel::{CloseReason, Closed, TunnelControl, TunnelMonitoring};
///
/// let (near, _far) = DuplexTunnel::pair();
/// near.close(CloseReason::Requested);
/// near.close(CloseReason::Denied);
/// assert_eq!(near.closed(), Some(Closed::Locally(CloseReason::Requested)));
/// ```
pub trait TunnelControl {
    /// Ends the tunnel and all its streams at once and tells the peer why. Of two calls the first one counts.
    fn close(&self, reason: CloseReason);

    /// Lets the peer have up to `max` concurrent streams, once it has proved who it is.
    ///
    /// Until then it may have one, and the connection buffers next to nothing for it. A limit can be raised, never
    /// taken back.
    fn allow_streams(&self, max: u32);
}

/// One connection to a peer, and what goes over it.
///
/// ```
/// use snomesh::tunnel::duplex::DuplexTunnel;
/// use snomesh::tunnel::quic::QuinnTunnel;
/// use snomesh::tunnel::{ArcTunnel, Tunnel};
///
/// /// Whatever kind of tunnel it is.
/// fn describe(tunnel: &impl Tunnel) -> String {
///     format!("{tunnel:?} to {}, proved: {:?}", tunnel.remote(), tunnel.identity())
/// }
///
/// let shared: ArcTunnel = DuplexTunnel::pair().0.into_shared();
/// describe(&shared);
/// let _of_quic: fn(&QuinnTunnel) -> String = describe;
/// ```
pub trait Tunnel:
    TunnelUplink
    + TunnelDownlink
    + TunnelMonitoring
    + TunnelControl
    + Sided
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// Sends an unreliable, unordered datagram; under congestion the oldest unsent one gives way.
    ///
    /// # Errors
    ///
    /// [`DatagramError`]; nothing was sent.
    fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError>;

    /// Waits for a datagram from the peer. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`Closed`] if the tunnel has ended.
    fn read_datagram(&self) -> impl Future<Output = Result<Bytes, Closed>> + Send;

    /// How many streams live, of either side: as long as either of a stream's halves is held here.
    fn streams(&self) -> usize;

    /// The present estimate of the round-trip time; zero in memory.
    fn rtt(&self) -> Duration;

    /// What went over the connection so far, and how its path is; all zero in memory.
    fn path(&self) -> PathStats {
        PathStats::default()
    }

    /// Where the peer is, for people: an address and port, or a name for tunnels that have none.
    fn remote(&self) -> Arc<str>;

    /// Who the peer has proved to be: the hash of the public key of its certificate. `None` if the transport proves
    /// nothing.
    fn identity(&self) -> Option<NodeId>;

    /// When what the peer has proved its identity with ends to be valid; `None` if it does not end, or nothing was proved.
    /// The tunnel goes on: to judge that is for whoever trusts it.
    fn proof_ends_at(&self) -> Option<UnixMillis> {
        None
    }

    /// Shares the tunnel; one that is shared already stays as it is.
    fn into_shared(self) -> ArcTunnel
    where
        Self: Sized,
    {
        ArcTunnel::new(self)
    }
}

/// What went over a connection so far, and how its path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathStats {
    /// Bytes of UDP payload sent.
    pub sent_bytes: u64,
    /// Bytes of UDP payload received.
    pub received_bytes: u64,
    /// Packets that were declared lost.
    pub lost_packets: u64,
    /// The congestion window, in bytes.
    pub congestion_window: u64,
    /// The largest UDP payload that the path is known to carry, in bytes.
    pub mtu: u16,
}

/// A datagram was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// It does not fit into one packet of this path, at least not now. The caller's fault; the tunnel is unharmed.
    #[error("a datagram of this tunnel holds at most {max} bytes")]
    TooLarge {
        /// The largest that would be sent at present.
        max: usize,
    },
    /// The peer takes no datagrams on this tunnel, which will not change; use a stream.
    #[error("the peer takes no datagrams")]
    Unsupported,
    /// The tunnel has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}
