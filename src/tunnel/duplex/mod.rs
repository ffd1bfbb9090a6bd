//! Tunnels in memory, for tests and for nodes of one process: the semantics of QUIC without its packets.

mod pipe;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::close::CloseCell;
use super::stream::{IncomingKind, RecvKind, SendKind};
use super::{
    CloseReason, Closed, DatagramError, IncomingStreams, RecvHalf, SendHalf, Side, Sided, Tunnel,
    TunnelControl, TunnelDownlink, TunnelMonitoring, TunnelStream, TunnelUplink,
};
use crate::id::NodeId;

use pipe::{Pipe, pipe};
pub(super) use pipe::{PipeReader, PipeWriter};

/// How many bytes a direction of a stream holds before its writer waits.
const STREAM_BUFFER: usize = 64 * 1024;
/// How many opened streams wait to be accepted before their opener waits.
const MAX_PENDING_STREAMS: usize = 128;
/// How many datagrams wait to be read before further ones are lost.
const MAX_PENDING_DATAGRAMS: usize = 64;
/// The largest datagram: about what a QUIC packet holds.
const MAX_DATAGRAM: usize = 1200;

/// One end of a tunnel in memory. Clones are handles of the same end.
#[derive(Debug, Clone)]
pub struct DuplexTunnel {
    end: Arc<End>,
}

impl DuplexTunnel {
    /// Makes both ends of a tunnel; nobody has proved anything.
    pub fn pair() -> (Self, Self) {
        Self::pair_of(None, None)
    }

    /// Makes both ends of a tunnel between two nodes: the connecting one, then the listening one.
    pub fn pair_between(connecting: NodeId, listening: NodeId) -> (Self, Self) {
        Self::pair_of(Some(connecting), Some(listening))
    }

    fn pair_of(connecting: Option<NodeId>, listening: Option<NodeId>) -> (Self, Self) {
        let link = Arc::new(Link::default());
        let (to_listening, at_listening) = wires();
        let (to_connecting, at_connecting) = wires();
        let end = |side, identity, outgoing, incoming| Self {
            end: Arc::new(End { side, identity, outgoing, incoming, link: Arc::clone(&link) }),
        };
        (
            end(Side::Connect, listening, to_listening, at_connecting),
            end(Side::Listen, connecting, to_connecting, at_listening),
        )
    }
}

/// What both ends share.
#[derive(Debug, Default)]
struct Link {
    /// First reason per side; changed together, under the lock of `pipes`.
    connecting: Cell,
    listening: Cell,
    /// Every direction of every stream that may still live, to end it with the tunnel.
    pipes: Mutex<Vec<Weak<Pipe>>>,
}

#[derive(Debug)]
struct Cell(CloseCell);

impl Default for Cell {
    fn default() -> Self {
        Self(CloseCell::new())
    }
}

impl Link {
    fn cell(&self, side: Side) -> &CloseCell {
        match side {
            Side::Connect => &self.connecting.0,
            Side::Listen => &self.listening.0,
        }
    }

    fn close(&self, side: Side, reason: CloseReason) {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        self.cell(side).settle_by(Closed::Locally(reason), || {
            self.cell(side.opposite()).settle(Closed::ByPeer(reason));
            for pipe in pipes.drain(..).filter_map(|pipe| pipe.upgrade()) {
                pipe.close();
            }
        });
    }

    /// Takes a stream's directions into the books, unless the tunnel has ended.
    fn adopt(&self, side: Side, adopted: &[&Arc<Pipe>]) -> Result<(), Closed> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closed) = self.cell(side).first() {
            return Err(closed);
        }
        if pipes.len() == pipes.capacity() {
            pipes.retain(|pipe| pipe.strong_count() > 0);
        }
        pipes.extend(adopted.iter().map(|pipe| Arc::downgrade(pipe)));
        Ok(())
    }
}

/// What one end sends into: the other end's queues.
#[derive(Debug)]
struct Outgoing {
    streams: mpsc::Sender<(PipeWriter, PipeReader)>,
    datagrams: mpsc::Sender<Bytes>,
}

/// What one end receives from. A queue's lock is held while waiting for it, so it is the asynchronous kind.
#[derive(Debug)]
struct Incoming {
    streams: Arc<tokio::sync::Mutex<mpsc::Receiver<(PipeWriter, PipeReader)>>>,
    datagrams: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    turn: Arc<Semaphore>,
}

fn wires() -> (Outgoing, Incoming) {
    let (streams, at_streams) = mpsc::channel(MAX_PENDING_STREAMS);
    let (datagrams, at_datagrams) = mpsc::channel(MAX_PENDING_DATAGRAMS);
    let incoming = Incoming {
        streams: Arc::new(tokio::sync::Mutex::new(at_streams)),
        datagrams: tokio::sync::Mutex::new(at_datagrams),
        turn: Arc::new(Semaphore::new(1)),
    };
    (Outgoing { streams, datagrams }, incoming)
}

/// One end; closes the tunnel when its last handle and its last stream are gone.
#[derive(Debug)]
pub(super) struct End {
    side: Side,
    /// Who the *other* end is.
    identity: Option<NodeId>,
    outgoing: Outgoing,
    incoming: Incoming,
    link: Arc<Link>,
}

impl End {
    pub(super) fn first(&self) -> Closed {
        self.link.cell(self.side).first().unwrap_or(Closed::Locally(CloseReason::Dropped))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.link.close(self.side, CloseReason::Dropped);
    }
}

impl Sided for DuplexTunnel {
    fn side(&self) -> Side {
        self.end.side
    }
}

impl TunnelUplink for DuplexTunnel {
    async fn open_stream(&self) -> Result<TunnelStream, Closed> {
        let end = &self.end;
        let there = pipe(STREAM_BUFFER);
        let back = pipe(STREAM_BUFFER);
        end.link.adopt(end.side, &[&there, &back])?;
        let theirs = (PipeWriter::detached(Arc::clone(&back)), PipeReader::detached(Arc::clone(&there)));
        let closed = end.link.cell(end.side).settled();
        tokio::select! {
            biased;
            closed = closed => return Err(closed),
            sent = end.outgoing.streams.send(theirs) => sent.map_err(|_ended| end.first())?,
        }
        Ok(TunnelStream {
            send: SendHalf::new(SendKind::Duplex(PipeWriter::new(there, Arc::clone(end)))),
            recv: RecvHalf::new(RecvKind::Duplex(PipeReader::new(back, Arc::clone(end)))),
        })
    }
}

impl TunnelDownlink for DuplexTunnel {
    async fn incoming(&self) -> Result<IncomingStreams, Closed> {
        let end = &self.end;
        let turn = tokio::select! {
            biased;
            closed = end.link.cell(end.side).settled() => return Err(closed),
            turn = Arc::clone(&end.incoming.turn).acquire_owned() => turn.expect("the semaphore is never closed"),
        };
        Ok(IncomingStreams::new(IncomingKind::Duplex(DuplexIncoming { end: Arc::clone(end) }), turn))
    }
}

/// The incoming side of one end.
#[derive(Debug)]
pub(super) struct DuplexIncoming {
    end: Arc<End>,
}

impl DuplexIncoming {
    pub(super) async fn accept(&mut self) -> Result<TunnelStream, Closed> {
        let end = &self.end;
        let mut streams = end.incoming.streams.lock().await;
        let (writer, reader) = tokio::select! {
            biased;
            closed = end.link.cell(end.side).settled() => return Err(closed),
            stream = streams.recv() => stream.ok_or_else(|| end.first())?,
        };
        Ok(TunnelStream {
            send: SendHalf::new(SendKind::Duplex(writer.attached(Arc::clone(end)))),
            recv: RecvHalf::new(RecvKind::Duplex(reader.attached(Arc::clone(end)))),
        })
    }
}

impl TunnelMonitoring for DuplexTunnel {
    fn closed(&self) -> Option<Closed> {
        self.end.link.cell(self.end.side).first()
    }

    fn on_closed(&self) -> impl Future<Output = Closed> + Send + 'static {
        self.end.link.cell(self.end.side).settled()
    }
}

impl TunnelControl for DuplexTunnel {
    fn close(&self, reason: CloseReason) {
        self.end.link.close(self.end.side, reason);
    }

    fn allow_streams(&self, _: u32) {}
}

impl Tunnel for DuplexTunnel {
    fn send_datagram(&self, datagram: Bytes) -> Result<(), DatagramError> {
        if let Some(closed) = self.closed() {
            return Err(closed.into());
        }
        if datagram.len() > MAX_DATAGRAM {
            return Err(DatagramError::TooLarge { max: MAX_DATAGRAM });
        }
        // A full queue loses the datagram, as a network does.
        let _lost = self.end.outgoing.datagrams.try_send(datagram);
        Ok(())
    }

    async fn read_datagram(&self) -> Result<Bytes, Closed> {
        let end = &self.end;
        let mut datagrams = end.incoming.datagrams.lock().await;
        tokio::select! {
            biased;
            closed = end.link.cell(end.side).settled() => Err(closed),
            datagram = datagrams.recv() => datagram.ok_or_else(|| end.first()),
        }
    }

    fn streams(&self) -> usize {
        let pipes = self.end.link.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        pipes.iter().filter(|pipe| pipe.strong_count() > 0).count().div_ceil(2)
    }

    fn rtt(&self) -> Duration {
        Duration::ZERO
    }

    fn remote(&self) -> Arc<str> {
        "memory".into()
    }

    fn identity(&self) -> Option<NodeId> {
        self.end.identity
    }
}
