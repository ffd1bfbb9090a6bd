//! Streams: concrete enums over the transports, so that no byte passes through a boxed call.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::close::Closed;
use super::duplex::{DuplexIncoming, PipeReader, PipeWriter};
use super::quic::{QuicIncomingStreams, QuicRecv, QuicSend, QuicStall};

/// Why a stream was reset or stopped: a number that travels to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamCode(pub u32);

impl StreamCode {
    /// A half was dropped before it had come to its end: the code of accidents, panics among them.
    pub const ABANDONED: Self = Self(0);
    /// The request was refused; the answer on the stream says why.
    pub const REFUSED: Self = Self(1);
    /// What stands behind the stream was reset: a TCP connection got an RST, or the next stream a reset.
    pub const RESET: Self = Self(2);
    /// Something took too long.
    pub const TIMED_OUT: Self = Self(3);
    /// The peer did not follow the protocol of the stream.
    pub const PROTOCOL_VIOLATION: Self = Self(4);
    /// The node stops.
    pub const SHUTTING_DOWN: Self = Self(5);
}

impl std::fmt::Display for StreamCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer reset the stream: what it had sent may be incomplete. The other direction is unharmed.
    #[error("stream reset by the peer with code {0}")]
    Reset(StreamCode),
    /// The caller has stopped this half itself.
    #[error("stream already stopped by this side")]
    Stopped,
    /// The tunnel has ended, and the stream with it.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// A read of an exact number of bytes failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadExactError {
    /// The peer finished the stream before that many bytes. What was read is lost.
    #[error("stream ended early")]
    Ended,
    /// A read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A write failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The peer no longer reads the stream. The other direction is unharmed.
    #[error("stream stopped by the peer with code {0}")]
    Stopped(StreamCode),
    /// The caller has finished or reset this half itself.
    #[error("stream already ended by this side")]
    Ended,
    /// The tunnel has ended, and the stream with it.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match error {
            ReadError::Reset(_) => io::ErrorKind::ConnectionReset,
            ReadError::Stopped | ReadError::Closed(_) => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        let kind = match error {
            WriteError::Stopped(_) => io::ErrorKind::ConnectionReset,
            WriteError::Ended => io::ErrorKind::BrokenPipe,
            WriteError::Closed(_) => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

/// What became of a sending half, see [`SendHalf::stopped`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// The peer no longer reads it.
    ByPeer(StreamCode),
    /// The peer's transport has all of it, the end included, or we reset it.
    Done,
    /// The tunnel ended.
    Closed(Closed),
}

/// Told of the bytes of a stream by whoever moves them: it must return at once. It is dropped with the last half.
pub trait StreamObserver: std::fmt::Debug + Send + Sync {
    /// So many were given to the transport.
    fn sent(&self, bytes: usize);

    /// So many were taken from it.
    fn received(&self, bytes: usize);
}

/// Tells two observers.
#[derive(Debug)]
struct Both(Arc<dyn StreamObserver>, Arc<dyn StreamObserver>);

impl StreamObserver for Both {
    fn sent(&self, bytes: usize) {
        self.0.sent(bytes);
        self.1.sent(bytes);
    }

    fn received(&self, bytes: usize) {
        self.0.received(bytes);
        self.1.received(bytes);
    }
}

/// A bidirectional stream in a tunnel: two halves that end independently.
#[derive(Debug)]
pub struct TunnelStream {
    /// To the peer.
    pub send: SendHalf,
    /// From the peer.
    pub recv: RecvHalf,
}

impl TunnelStream {
    /// Tells an observer of what is sent and received from now on, after those that were told before.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn StreamObserver>) -> Self {
        let observer = match self.send.observer.take() {
            Some(first) => Arc::new(Both(first, observer)),
            None => observer,
        };
        self.send.observer = Some(Arc::clone(&observer));
        self.recv.observer = Some(observer);
        self
    }
}

#[derive(Debug)]
pub(super) enum SendKind {
    Quic(QuicSend),
    Duplex(PipeWriter),
}

/// The half of a stream that goes to the peer. Dropped before [`SendHalf::finish`], it resets the stream.
#[derive(Debug)]
pub struct SendHalf {
    kind: SendKind,
    ended: bool,
    observer: Option<Arc<dyn StreamObserver>>,
}

enum Either<A, B> {
    Quic(A),
    Duplex(B),
}

impl SendHalf {
    pub(super) fn new(kind: SendKind) -> Self {
        Self { kind, ended: false, observer: None }
    }

    /// Writes all of a chunk without copying it. Not safe to cancel: a part may have been written.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing more can be written then.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        if self.ended {
            return Err(WriteError::Ended);
        }
        let bytes = chunk.len();
        match &mut self.kind {
            SendKind::Quic(quic) => quic.write_chunk(chunk).await,
            SendKind::Duplex(pipe) => pipe.write_chunk(chunk).await,
        }?;
        self.note(bytes);
        Ok(())
    }

    fn note(&self, sent: usize) {
        if let Some(observer) = &self.observer {
            observer.sent(sent);
        }
    }

    /// Writes all of some chunks without copying them, and leaves them empty. Not safe to cancel.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing more can be written then.
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        if self.ended {
            return Err(WriteError::Ended);
        }
        let bytes = chunks.iter().map(Bytes::len).sum();
        match &mut self.kind {
            SendKind::Quic(quic) => quic.write_chunks(chunks).await?,
            SendKind::Duplex(pipe) => {
                for chunk in chunks {
                    pipe.write_chunk(std::mem::take(chunk)).await?;
                }
            }
        }
        self.note(bytes);
        Ok(())
    }

    /// Writes all bytes. Not safe to cancel.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing more can be written then.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_chunk(Bytes::copy_from_slice(bytes)).await
    }

    /// Ends the stream in good order: the peer reads all that was written and then its end. Does not wait.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the peer stopped the stream or it has ended already.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        if self.ended {
            return Err(WriteError::Ended);
        }
        self.ended = true;
        match &mut self.kind {
            SendKind::Quic(quic) => quic.finish(),
            SendKind::Duplex(pipe) => pipe.finish(),
        }
    }

    /// Gives the stream up: the peer's read fails with the code, and what it has not read yet may be lost.
    ///
    /// Does nothing if the stream has already ended and arrived.
    pub fn reset(&mut self, code: StreamCode) {
        self.ended = true;
        match &mut self.kind {
            SendKind::Quic(quic) => quic.reset(code),
            SendKind::Duplex(pipe) => pipe.reset(code),
        }
    }

    /// Waits until the peer stops the stream, has received all of it, or the tunnel ends.
    pub fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static {
        let stopped = match &self.kind {
            SendKind::Quic(quic) => Either::Quic(quic.stopped()),
            SendKind::Duplex(pipe) => Either::Duplex(pipe.stopped()),
        };
        async move {
            match stopped {
                Either::Quic(stopped) => stopped.await,
                Either::Duplex(stopped) => stopped.await,
            }
        }
    }

    /// Lets streams of higher priority go first when the connection is busy; 0 is where streams begin.
    pub fn set_priority(&self, priority: i32) {
        match &self.kind {
            SendKind::Quic(quic) => quic.set_priority(priority),
            SendKind::Duplex(_) => {}
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(StreamCode::ABANDONED);
        }
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(WriteError::Ended.into()));
        }
        let written = match &mut self.kind {
            SendKind::Quic(quic) => quic.poll_write(cx, bytes),
            SendKind::Duplex(pipe) => pipe.poll_write(cx, bytes),
        };
        if let Poll::Ready(Ok(written)) = &written {
            self.note(*written);
        }
        written.map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.finish().map_err(io::Error::from))
    }
}

#[derive(Debug)]
pub(super) enum RecvKind {
    Quic(QuicRecv),
    Duplex(PipeReader),
}

/// The half of a stream that comes from the peer. Dropped before its end, it stops the stream.
#[derive(Debug)]
pub struct RecvHalf {
    kind: RecvKind,
    progress: Progress,
    observer: Option<Arc<dyn StreamObserver>>,
}

/// A stream that has data which is not taken, see [`RecvHalf::stall`]. Many of them at a time use up what a connection, or
/// all connections of an endpoint, may buffer, and then all other streams stand still.
#[derive(Debug)]
pub struct Stall(Option<QuicStall>);

impl Stall {
    /// Whether a stream that has made no progress for so long has to be given up for the sake of the others: after a
    /// minute if such streams pin more than half of what may be buffered, after five seconds if they pin nearly all of it,
    /// else never. Never in memory, where every stream has a buffer of its own.
    pub fn gives_way(&mut self, since: Duration) -> bool {
        self.0.as_mut().is_some_and(|stall| stall.gives_way(since))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Open,
    /// The end or an error has been read.
    Ended,
    /// We have stopped it; transports differ in what they say then.
    Stopped,
}

impl RecvHalf {
    pub(super) fn new(kind: RecvKind) -> Self {
        Self { kind, progress: Progress::Open, observer: None }
    }

    /// The next bytes, at most `max`, without copying them; `None` at the end. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; nothing more can be read then.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        if self.progress == Progress::Stopped {
            return Err(ReadError::Stopped);
        }
        let read = match &mut self.kind {
            RecvKind::Quic(quic) => quic.read_chunk(max).await,
            RecvKind::Duplex(pipe) => pipe.read_chunk(max).await,
        };
        match &read {
            Ok(Some(chunk)) => self.note(chunk.len()),
            Ok(None) | Err(_) => self.progress = Progress::Ended,
        }
        read
    }

    fn note(&self, received: usize) {
        if let Some(observer) = &self.observer {
            observer.received(received);
        }
    }

    /// Fills as many of `chunks` as there is data for and says how many; `None` at the end. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; nothing more can be read then.
    pub async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        if self.progress == Progress::Stopped {
            return Err(ReadError::Stopped);
        }
        let read = match &mut self.kind {
            RecvKind::Quic(quic) => quic.read_chunks(chunks).await,
            RecvKind::Duplex(pipe) => pipe.read_chunks(chunks).await,
        };
        match &read {
            Ok(Some(count)) => self.note(chunks[..*count].iter().map(Bytes::len).sum()),
            Ok(None) | Err(_) => self.progress = Progress::Ended,
        }
        read
    }

    /// Reads exactly as many bytes as the buffer holds. Not safe to cancel.
    ///
    /// # Errors
    ///
    /// [`ReadExactError`]; how much of the buffer was filled is not told.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ReadExactError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let chunk = self.read_chunk(buffer.len() - filled).await?.ok_or(ReadExactError::Ended)?;
            buffer[filled..filled + chunk.len()].copy_from_slice(&chunk);
            filled += chunk.len();
        }
        Ok(())
    }

    /// Says that what has come cannot be passed on at the moment, until the answer is dropped.
    pub fn stall(&self) -> Stall {
        Stall(match &self.kind {
            RecvKind::Quic(quic) => Some(quic.stall()),
            RecvKind::Duplex(_) => None,
        })
    }

    /// Refuses to read on: the peer's writes fail with the code. Does nothing after the end.
    pub fn stop(&mut self, code: StreamCode) {
        self.progress = Progress::Stopped;
        match &mut self.kind {
            RecvKind::Quic(quic) => quic.stop(code),
            RecvKind::Duplex(pipe) => pipe.stop(code),
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        if self.progress == Progress::Open {
            self.stop(StreamCode::ABANDONED);
        }
    }
}

impl AsyncRead for RecvHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.progress == Progress::Stopped {
            return Poll::Ready(Err(ReadError::Stopped.into()));
        }
        let before = buffer.filled().len();
        let read = match &mut self.kind {
            RecvKind::Quic(quic) => quic.poll_read(cx, buffer),
            RecvKind::Duplex(pipe) => pipe.poll_read(cx, buffer),
        };
        let at_end = buffer.filled().len() == before && buffer.remaining() > 0;
        if matches!(read, Poll::Ready(Err(_))) || (read.is_ready() && at_end) {
            self.progress = Progress::Ended;
        }
        self.note(buffer.filled().len() - before);
        read.map_err(io::Error::from)
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

#[derive(Debug)]
pub(super) enum IncomingKind {
    Quic(QuicIncomingStreams),
    Duplex(DuplexIncoming),
}

/// The incoming side of a tunnel, held exclusively until dropped.
#[derive(Debug)]
pub struct IncomingStreams {
    kind: IncomingKind,
    _turn: OwnedSemaphorePermit,
}

impl IncomingStreams {
    pub(super) fn new(kind: IncomingKind, turn: OwnedSemaphorePermit) -> Self {
        Self { kind, _turn: turn }
    }

    /// Waits for the next stream that the peer opens. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`Closed`] when the tunnel has ended.
    pub async fn accept(&mut self) -> Result<TunnelStream, Closed> {
        match &mut self.kind {
            IncomingKind::Quic(quic) => quic.accept().await,
            IncomingKind::Duplex(duplex) => duplex.accept().await,
        }
    }
}
