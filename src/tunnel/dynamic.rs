//! Any tunnel behind one type: the one place where tunnels are boxed, and never on the path of bytes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

#[expect(deprecated, reason = "the place of what is deprecated")]
use super::baggage::Baggage;
use super::{
    CloseReason, Closed, DatagramError, IncomingStreams, PathStats, Side, Sided, Tunnel, TunnelControl,
    TunnelDownlink, TunnelMonitoring, TunnelStream, TunnelUplink,
};
use crate::id::NodeId;
use crate::time::UnixMillis;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The object-safe twin of [`Tunnel`]; every tunnel is one.
trait DynTunnel: std::fmt::Debug + Send + Sync {
    fn side(&self) -> Side;
    fn open_stream(&self) -> Boxed<'_, Result<TunnelStream, Closed>>;
    fn incoming(&self) -> Boxed<'_, Result<IncomingStreams, Closed>>;
    fn closed(&self) -> Option<Closed>;
    fn on_closed(&self) -> Boxed<'static, Closed>;
    fn close(&self, reason: CloseReason);
    fn allow_streams(&self, max: u32);
    fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError>;
    fn read_datagram(&self) -> Boxed<'_, Result<Bytes, Closed>>;
    fn streams(&self) -> usize;
    fn rtt(&self) -> Duration;
    fn path(&self) -> PathStats;
    fn remote(&self) -> Arc<str>;
    fn identity(&self) -> Option<NodeId>;
    fn proof_ends_at(&self) -> Option<UnixMillis>;
}

impl<T: Tunnel> DynTunnel for T {
    fn side(&self) -> Side {
        Sided::side(self)
    }

    fn open_stream(&self) -> Boxed<'_, Result<TunnelStream, Closed>> {
        Box::pin(TunnelUplink::open_stream(self))
    }

    fn incoming(&self) -> Boxed<'_, Result<IncomingStreams, Closed>> {
        Box::pin(TunnelDownlink::incoming(self))
    }

    fn closed(&self) -> Option<Closed> {
        TunnelMonitoring::closed(self)
    }

    fn on_closed(&self) -> Boxed<'static, Closed> {
        Box::pin(TunnelMonitoring::on_closed(self))
    }

    fn close(&self, reason: CloseReason) {
        TunnelControl::close(self, reason);
    }

    fn allow_streams(&self, max: u32) {
        TunnelControl::allow_streams(self, max);
    }

    fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError> {
        Tunnel::send_datagram(self, datagram)
    }

    fn read_datagram(&self) -> Boxed<'_, Result<Bytes, Closed>> {
        Box::pin(Tunnel::read_datagram(self))
    }

    fn streams(&self) -> usize {
        Tunnel::streams(self)
    }

    fn rtt(&self) -> Duration {
        Tunnel::rtt(self)
    }

    fn path(&self) -> PathStats {
        Tunnel::path(self)
    }

    fn remote(&self) -> Arc<str> {
        Tunnel::remote(self)
    }

    fn identity(&self) -> Option<NodeId> {
        Tunnel::identity(self)
    }

    fn proof_ends_at(&self) -> Option<UnixMillis> {
        Tunnel::proof_ends_at(self)
    }
}

/// Any tunnel, shared: cheap to clone, and a [`Tunnel`] itself.
#[derive(Clone)]
pub struct ArcTunnel(Arc<Loaded<dyn DynTunnel>>);

/// A tunnel and what rides on it.
struct Loaded<T: ?Sized> {
    #[expect(deprecated, reason = "the place of what is deprecated")]
    baggage: Baggage,
    /// Whether another tunnel to the same peer is to be preferred.
    retired: AtomicBool,
    tunnel: T,
}

impl ArcTunnel {
    /// Shares a tunnel.
    pub fn new(tunnel: impl Tunnel) -> Self {
        Self(Arc::new(Loaded { baggage: Default::default(), retired: AtomicBool::new(false), tunnel }))
    }

    /// The values that ride on the tunnel.
    #[deprecated(since = "0.1.0", note = "keep what belongs to a tunnel in a map of your own, by its id")]
    #[expect(deprecated, reason = "gives what is deprecated")]
    pub fn baggage(&self) -> &Baggage {
        &self.0.baggage
    }

    /// From now on prefers another tunnel to the same peer for new streams, if there is one: this one only lives
    /// until its streams have ended.
    pub fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }

    /// Whether another tunnel to the same peer is to be preferred.
    pub fn is_retired(&self) -> bool {
        self.0.retired.load(Ordering::Relaxed)
    }

    /// Whether both are handles of the same tunnel.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for ArcTunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.tunnel.fmt(f)
    }
}

impl Sided for ArcTunnel {
    fn side(&self) -> Side {
        self.0.tunnel.side()
    }
}

impl TunnelUplink for ArcTunnel {
    async fn open_stream(&self) -> Result<TunnelStream, Closed> {
        self.0.tunnel.open_stream().await
    }
}

impl TunnelDownlink for ArcTunnel {
    async fn incoming(&self) -> Result<IncomingStreams, Closed> {
        self.0.tunnel.incoming().await
    }
}

impl TunnelMonitoring for ArcTunnel {
    fn closed(&self) -> Option<Closed> {
        self.0.tunnel.closed()
    }

    fn on_closed(&self) -> impl Future<Output = Closed> + Send + 'static {
        self.0.tunnel.on_closed()
    }
}

impl TunnelControl for ArcTunnel {
    fn close(&self, reason: CloseReason) {
        self.0.tunnel.close(reason);
    }

    fn allow_streams(&self, max: u32) {
        self.0.tunnel.allow_streams(max);
    }
}

impl Tunnel for ArcTunnel {
    fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError> {
        self.0.tunnel.send_datagram(datagram)
    }

    async fn read_datagram(&self) -> Result<Bytes, Closed> {
        self.0.tunnel.read_datagram().await
    }

    fn streams(&self) -> usize {
        self.0.tunnel.streams()
    }

    fn rtt(&self) -> Duration {
        self.0.tunnel.rtt()
    }

    fn path(&self) -> PathStats {
        self.0.tunnel.path()
    }

    fn remote(&self) -> Arc<str> {
        self.0.tunnel.remote()
    }

    fn identity(&self) -> Option<NodeId> {
        self.0.tunnel.identity()
    }

    fn proof_ends_at(&self) -> Option<UnixMillis> {
        self.0.tunnel.proof_ends_at()
    }

    fn into_shared(self) -> Self {
        self
    }
}
