//! A QUIC connection as a tunnel.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, SendDatagramError, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;

use super::budget::{Budget, patience};
use super::config::{STREAM_WINDOW, UNPROVEN_WINDOW};
use super::peer::{certificate_end, node_of_certificate};
use super::stream::{QuicRecv, QuicSend, StreamSlot};
use crate::id::NodeId;
use crate::time::UnixMillis;
use crate::tunnel::close::CloseCell;
use crate::tunnel::stream::{IncomingKind, RecvKind, SendKind};
use crate::tunnel::{
    CloseReason, Closed, DatagramError, IncomingStreams, PathStats, RecvHalf, SendHalf, Side, Sided, Tunnel,
    TunnelControl, TunnelDownlink, TunnelMonitoring, TunnelStream, TunnelUplink,
};

/// Streams that the peer may have right after it has authenticated. Quinn keeps state for every permitted stream, so
/// the limit grows with use.
const FIRST_STREAMS: u32 = 100;
/// Streams beyond the active ones for which the connection's window has room, apart from a seventh of the active ones: quinn
/// tells its peer of what has been read when that is an eighth of the window, so that with a window for as many as there
/// are, those that stall could take all that the peer knows of.
const SPARE_STREAMS: u32 = 3;
/// The connection's window changes in steps of so many streams, not with each. A neighbour in the mesh that has nothing but
/// its link gets one step.
const WINDOW_STEP: u32 = 8;

/// A QUIC connection. Clones are handles of the same connection.
#[derive(Debug, Clone)]
pub struct QuinnTunnel {
    shared: Arc<Shared>,
}

/// What handles and streams of one connection share; closes the connection when the last of them is gone.
#[derive(Debug)]
pub(super) struct Shared {
    connection: quinn::Connection,
    side: Side,
    identity: Option<NodeId>,
    proof_ends_at: Option<UnixMillis>,
    remote: Arc<str>,
    first: Arc<CloseCell>,
    turn: Arc<Semaphore>,
    max_window: NonZeroU32,
    budget: Arc<Budget>,
    books: Mutex<Books>,
    /// Bytes that readers have taken.
    read: AtomicU64,
}

/// How many streams there are and what they are allowed.
#[derive(Debug, Default)]
struct Books {
    /// Streams of either side that live.
    active: u32,
    /// Those of them that the peer opened and we accepted.
    accepted: u32,
    /// Streams that the peer may have now, and at most; zero until it has authenticated.
    permitted: u32,
    ceiling: u32,
    /// The connection's receive window, and what it would be without limits and other connections.
    window: u32,
    wanted: u32,
    /// How much has to have been read before the window may shrink again. What the peer was promised stays promised: a
    /// window that shrank and grew again and again would add up to any number.
    settled_at: u64,
    /// Streams that have data and whose readers take none of it.
    stalled: u32,
}

impl Books {
    /// What the streams that stall may hold of the window.
    fn pinned(&self) -> u64 {
        u64::from(self.window).min(u64::from(self.stalled) * u64::from(STREAM_WINDOW))
    }
}

impl QuinnTunnel {
    pub(super) fn new(
        connection: quinn::Connection,
        side: Side,
        max_window: NonZeroU32,
        budget: &Arc<Budget>,
    ) -> Self {
        let first = Arc::new(CloseCell::new());
        let watched = (connection.clone(), Arc::clone(&first));
        // Ends with the connection, which ends with the last handle: see the `Drop` of `Shared`.
        tokio::spawn(async move {
            let (connection, first) = watched;
            let error = connection.closed().await;
            first.settle(closed_by(&error));
        });
        let chain = connection.peer_identity();
        let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        let shown = chain.as_ref().and_then(|chain| chain.first());
        let identity = shown.and_then(node_of_certificate);
        let proof_ends_at = shown.and_then(certificate_end);
        let remote = connection.remote_address();
        let remote = std::net::SocketAddr::new(remote.ip().to_canonical(), remote.port());
        budget.enter(UNPROVEN_WINDOW);
        let books = Mutex::new(Books { window: UNPROVEN_WINDOW, ..Books::default() });
        Self {
            shared: Arc::new(Shared {
                connection,
                side,
                identity,
                proof_ends_at,
                remote: remote.to_string().into(),
                first,
                turn: Arc::new(Semaphore::new(1)),
                max_window,
                budget: Arc::clone(budget),
                books,
                read: AtomicU64::new(0),
            }),
        }
    }
}

#[cfg(test)]
impl QuinnTunnel {
    pub(super) fn connection(&self) -> &quinn::Connection {
        &self.shared.connection
    }
}

/// Who opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opener {
    This,
    Peer,
}

impl Shared {
    /// What a failed operation means for the whole tunnel: the first reason, if there is one already.
    pub(super) fn lost(&self, error: &ConnectionError) -> Closed {
        self.first.settle(closed_by(error));
        self.first.first().unwrap_or_else(|| closed_by(error))
    }

    fn close(&self, reason: CloseReason) {
        // The connection may have ended a moment ago without our watcher having run yet: that reason came first.
        if let Some(error) = self.connection.close_reason() {
            self.first.settle(closed_by(&error));
        } else {
            self.first.settle_by(Closed::Locally(reason), || {
                self.connection.close(VarInt::from_u32(reason.code()), reason.to_string().as_bytes());
            });
        }
    }

    fn stream(
        self: &Arc<Self>,
        opener: Opener,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> TunnelStream {
        self.change_books(|books| {
            books.active += 1;
            books.accepted += u32::from(opener == Opener::Peer);
        });
        let slot = Arc::new(StreamSlot::new(Arc::clone(self), opener));
        TunnelStream {
            send: SendHalf::new(SendKind::Quic(QuicSend::new(send, Arc::clone(&slot)))),
            recv: RecvHalf::new(RecvKind::Quic(QuicRecv::new(recv, slot))),
        }
    }

    /// Called when both halves of a stream are gone.
    pub(super) fn forget_stream(&self, opener: Opener) {
        self.change_books(|books| {
            books.active -= 1;
            books.accepted -= u32::from(opener == Opener::Peer);
        });
    }

    /// Changes the books and then what the connection allows, so that stalled readers cannot use up the connection's
    /// window while there is memory left for more.
    fn change_books(&self, change: impl FnOnce(&mut Books)) {
        let mut books = self.books();
        let pinned = books.pinned();
        change(&mut books);
        if books.ceiling > 0 {
            self.allow(&mut books);
        }
        if books.pinned() != pinned {
            self.budget.pin(pinned, books.pinned());
        }
    }

    fn allow(&self, books: &mut Books) {
        if books.permitted < books.ceiling && books.accepted >= books.permitted / 4 * 3 {
            books.permitted =
                books.permitted.saturating_mul(2).clamp(FIRST_STREAMS.min(books.ceiling), books.ceiling);
            self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(books.permitted));
        }
        let streams = (books.active + books.active / 7 + SPARE_STREAMS).next_multiple_of(WINDOW_STEP);
        books.wanted = streams.saturating_mul(STREAM_WINDOW);
        let window = books.wanted.min(self.max_window.get());
        let read = self.read.load(Ordering::Relaxed);
        let settled = read >= books.settled_at;
        if window > books.window || (settled && window < books.window / 2) {
            let before = books.window;
            books.window = self.budget.share(before, window, if settled { 0 } else { before });
            if books.window < before {
                books.settled_at = read + u64::from(before - books.window);
            }
            if books.window != before {
                self.connection.set_receive_window(VarInt::from_u32(books.window));
            }
        }
    }

    /// Takes note of bytes that a reader has taken.
    pub(super) fn has_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a stream may stall: as long as it likes while there is memory for others beside it.
    fn patience(&self, books: &Books) -> Option<Duration> {
        let scarce = books.wanted > books.window;
        let here = scarce.then(|| patience(books.pinned(), books.window.into())).flatten();
        here.into_iter().chain(self.budget.patience()).min()
    }
}

/// A stream that has data and whose reader takes none of it; counted until this is dropped.
#[derive(Debug)]
pub(in crate::tunnel) struct QuicStall {
    shared: Arc<Shared>,
    counted: bool,
}

impl QuicStall {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.change_books(|books| books.stalled += 1);
        Self { shared: Arc::clone(shared), counted: true }
    }

    /// Of several only as many are told so as have to go.
    pub(in crate::tunnel) fn gives_way(&mut self, since: Duration) -> bool {
        let patience = self.shared.patience(&self.shared.books());
        if self.counted && patience.is_some_and(|patience| since >= patience) {
            self.uncount();
        }
        !self.counted
    }

    fn uncount(&mut self) {
        self.counted = false;
        self.shared.change_books(|books| books.stalled -= 1);
    }
}

impl Drop for QuicStall {
    fn drop(&mut self) {
        if self.counted {
            self.uncount();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let books = self.books.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.leave(books.window, books.pinned());
        self.close(CloseReason::Dropped);
    }
}

/// What QUIC's reason means here.
pub(super) fn closed_by(error: &ConnectionError) -> Closed {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
            Closed::ByPeer(CloseReason::from_code(code))
        }
        ConnectionError::LocallyClosed => Closed::Locally(CloseReason::Dropped),
        ConnectionError::TimedOut => Closed::TimedOut,
        ConnectionError::Reset => Closed::PeerRestarted,
        ConnectionError::TransportError(error) => {
            Closed::Transport { code: u64::from(error.code), text: error.to_string().into() }
        }
        ConnectionError::ConnectionClosed(close) => {
            Closed::Transport { code: u64::from(close.error_code), text: close.to_string().into() }
        }
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
            Closed::Transport { code: 0, text: error.to_string().into() }
        }
    }
}

impl Sided for QuinnTunnel {
    fn side(&self) -> Side {
        self.shared.side
    }
}

impl TunnelUplink for QuinnTunnel {
    async fn open_stream(&self) -> Result<TunnelStream, Closed> {
        let (send, recv) =
            self.shared.connection.open_bi().await.map_err(|error| self.shared.lost(&error))?;
        Ok(self.shared.stream(Opener::This, send, recv))
    }
}

impl TunnelDownlink for QuinnTunnel {
    async fn incoming(&self) -> Result<IncomingStreams, Closed> {
        let turn = tokio::select! {
            biased;
            closed = self.shared.first.settled() => return Err(closed),
            turn = Arc::clone(&self.shared.turn).acquire_owned() => turn.expect("the semaphore is never closed"),
        };
        let incoming = QuicIncomingStreams { shared: Arc::clone(&self.shared) };
        Ok(IncomingStreams::new(IncomingKind::Quic(incoming), turn))
    }
}

/// The incoming side of a connection.
#[derive(Debug)]
pub(in crate::tunnel) struct QuicIncomingStreams {
    shared: Arc<Shared>,
}

impl QuicIncomingStreams {
    pub(in crate::tunnel) async fn accept(&mut self) -> Result<TunnelStream, Closed> {
        let (send, recv) =
            self.shared.connection.accept_bi().await.map_err(|error| self.shared.lost(&error))?;
        Ok(self.shared.stream(Opener::Peer, send, recv))
    }
}

impl TunnelMonitoring for QuinnTunnel {
    fn closed(&self) -> Option<Closed> {
        self.shared.first.first()
    }

    fn on_closed(&self) -> impl Future<Output = Closed> + Send + 'static {
        self.shared.first.settled()
    }
}

impl TunnelControl for QuinnTunnel {
    fn close(&self, reason: CloseReason) {
        self.shared.close(reason);
    }

    fn allow_streams(&self, max: u32) {
        self.shared.change_books(|books| books.ceiling = books.ceiling.max(max));
    }
}

impl Tunnel for QuinnTunnel {
    fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError> {
        self.shared.connection.send_datagram(datagram).map_err(|error| match error {
            SendDatagramError::TooLarge => {
                DatagramError::TooLarge { max: self.shared.connection.max_datagram_size().unwrap_or(0) }
            }
            SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled => DatagramError::Unsupported,
            SendDatagramError::ConnectionLost(error) => self.shared.lost(&error).into(),
        })
    }

    async fn read_datagram(&self) -> Result<Bytes, Closed> {
        self.shared.connection.read_datagram().await.map_err(|error| self.shared.lost(&error))
    }

    fn streams(&self) -> usize {
        let active = self.shared.books().active;
        usize::try_from(active).unwrap_or(usize::MAX)
    }

    fn rtt(&self) -> Duration {
        self.shared.connection.rtt()
    }

    fn path(&self) -> PathStats {
        let stats = self.shared.connection.stats();
        PathStats {
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
            congestion_window: stats.path.cwnd,
            mtu: stats.path.current_mtu,
        }
    }

    fn remote(&self) -> Arc<str> {
        Arc::clone(&self.shared.remote)
    }

    fn identity(&self) -> Option<NodeId> {
        self.shared.identity
    }

    fn proof_ends_at(&self) -> Option<UnixMillis> {
        self.shared.proof_ends_at
    }
}
