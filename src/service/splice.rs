//! Joining two byte streams so that neither end can tell: half-close, resets and back-pressure pass through.
//!
//! Nothing is queued here beyond one batch per direction: a reader that stops reading stops the writer at the far end.
//! From a tunnel to a socket the chunks of several datagrams go out in one vectored write, for with fair scheduling each
//! datagram belongs to another stream. Waiting for more to come together is worth it only while data flows in bulk, so
//! that small messages do not pay for it.

use std::io::{self, IoSlice};
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::timeout;

use super::alone::Alone;
use super::socket::LocalSocket;
use crate::tunnel::{Closed, ReadError, RecvHalf, SendHalf, Stopped, StreamCode, TunnelStream, WriteError};

/// The most that one read takes from a socket: less costs more turns of the task, more is not faster.
const MAX_READ: usize = 256 * 1024;
/// Where the size of reads begins and what an idle connection holds at most.
const MIN_READ: usize = 2 * 1024;
/// The most chunks that go out in one vectored write.
const MAX_CHUNKS: usize = 64;
/// Room for chunks where it begins.
const MIN_CHUNKS: usize = 4;
/// A read of so many bytes counts as bulk.
const BULK: usize = 16 * 1024;

/// The two sides were parted before both directions had ended. Both have been reset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpliceError {
    /// The connection of this machine was reset or failed.
    #[error("connection broke")]
    Socket(#[from] io::Error),
    /// The stream was reset by its peer.
    #[error("stream broke")]
    Read(#[from] ReadError),
    /// The stream's tunnel ended.
    #[error("tunnel ended")]
    Closed(#[from] Closed),
    /// Whoever is behind the connection read nothing for long, and the tunnel's other streams needed the memory.
    #[error("nobody reads, and others need the memory")]
    Stalled,
    /// The program behind the connection failed, whatever it had said until then.
    #[error("program failed: {0}")]
    Program(ExitStatus),
}

/// Joins a connection of this machine and a stream until both directions have ended.
///
/// An end passes through as an end, and a reset as a reset. Cancelled, it resets both.
///
/// # Errors
///
/// [`SpliceError`]; the other side has been reset as well.
pub async fn splice(socket: LocalSocket, stream: TunnelStream) -> Result<(), SpliceError> {
    splice_vouched(socket, stream, async { Ok(()) }).await
}

/// Like [`splice`], for connections whose end alone does not say that all went well: it is passed on once `vouched` has
/// said so, and else the stream is reset.
pub(super) async fn splice_vouched(
    socket: LocalSocket,
    stream: TunnelStream,
    vouched: impl Future<Output = Result<(), SpliceError>>,
) -> Result<(), SpliceError> {
    let TunnelStream { mut send, mut recv } = stream;
    match join(&socket, upload(&socket, &mut send, vouched), download(&mut recv, &socket)).await {
        Ok(()) => Ok(socket.drop_in_order()?),
        Err(broken) => {
            send.reset(StreamCode::RESET);
            recv.stop(StreamCode::RESET);
            Err(broken)
        }
    }
}

/// Runs both directions to their ends. A connection whose upload has ended is still watched for a reset, which its
/// download would notice only with the next byte.
async fn join(
    socket: &LocalSocket,
    upload: impl Future<Output = Result<(), SpliceError>>,
    download: impl Future<Output = Result<(), SpliceError>>,
) -> Result<(), SpliceError> {
    let (upload, download) = (pin!(upload), pin!(download));
    let (mut upload, mut download) = (Alone::new(upload), Alone::new(download));
    tokio::select! {
        ended = &mut upload => {
            ended?;
            tokio::select! {
                biased;
                ended = &mut download => ended,
                broken = socket.broken() => Err(broken.into()),
            }
        }
        ended = &mut download => {
            ended?;
            upload.await
        }
    }
}

/// To the tunnel. If the far end stops reading, this direction has ended: what comes back may still be good.
async fn upload(
    socket: &LocalSocket,
    send: &mut SendHalf,
    vouched: impl Future<Output = Result<(), SpliceError>>,
) -> Result<(), SpliceError> {
    let mut stopped = pin!(send.stopped());
    let mut buffer = BytesMut::new();
    let mut size = MIN_READ;
    loop {
        // Idle connections, of which there are many, hold nothing.
        buffer = if size > MIN_READ { buffer } else { BytesMut::new() };
        // While data flows the end of the other side is told by writing; to ask for it costs the connection's lock.
        let readable = tokio::select! {
            biased;
            readable = socket.readable() => readable,
            stopped = &mut stopped => return ended_by(stopped),
        };
        readable?;
        if buffer.capacity() < size / 2 {
            buffer = BytesMut::with_capacity(size);
        }
        let room = buffer.capacity();
        let read = match socket.try_read_buf(&mut buffer) {
            Ok(0) => {
                vouched.await?;
                // Stopped by the peer meanwhile: then the end is no news to it.
                let _stopped = send.finish();
                return Ok(());
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                size = MIN_READ;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        size = if read == room { MAX_READ.min(size * 4) } else { MIN_READ.max(size / 2) };
        match send.write_chunk(buffer.split().freeze()).await {
            Ok(()) => {}
            Err(WriteError::Stopped(_) | WriteError::Ended) => return Ok(()),
            Err(WriteError::Closed(closed)) => return Err(closed.into()),
        }
    }
}

fn ended_by(stopped: Stopped) -> Result<(), SpliceError> {
    match stopped {
        Stopped::ByPeer(_) | Stopped::Done => Ok(()),
        Stopped::Closed(closed) => Err(closed.into()),
    }
}

/// From the tunnel.
async fn download(recv: &mut RecvHalf, socket: &LocalSocket) -> Result<(), SpliceError> {
    let mut batch = Batch::new();
    loop {
        let Some(filled) = recv.read_chunks(batch.room()).await? else { break };
        let bytes: usize = batch.filled(filled).iter().map(Bytes::len).sum();
        let write = write_vectored(socket, batch.filled(filled));
        match patiently(recv, write).await.ok_or(SpliceError::Stalled)? {
            Ok(()) => batch.adapt(filled),
            // Whoever is behind it has read enough; what comes back may still be good. TCP would have said so by a reset.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && socket.is_unix() => {
                recv.stop(StreamCode::RESET);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        if bytes >= BULK {
            tokio::task::yield_now().await;
        }
    }
    Ok(socket.finish()?)
}

/// Room for chunks that are read together: much while much comes, and next to none while a stream is idle, as most are.
struct Batch {
    chunks: Vec<Bytes>,
}

impl Batch {
    fn new() -> Self {
        Self { chunks: vec![Bytes::new(); MIN_CHUNKS] }
    }

    fn room(&mut self) -> &mut [Bytes] {
        &mut self.chunks
    }

    fn filled(&mut self, count: usize) -> &mut [Bytes] {
        &mut self.chunks[..count]
    }

    /// Takes note of how many came at once.
    fn adapt(&mut self, filled: usize) {
        let room = self.chunks.len();
        if filled == room && room < MAX_CHUNKS {
            self.chunks.resize((room * 4).min(MAX_CHUNKS), Bytes::new());
        } else if filled < MIN_CHUNKS && room > MIN_CHUNKS {
            *self = Self::new();
        }
    }
}

/// How often a write that stalls is asked whether it may go on.
const STALL_CHECK: Duration = Duration::from_secs(1);

/// Passes on what has come over a stream; `None` if that takes so long that the stream has to give way to others.
async fn patiently<T>(recv: &RecvHalf, write: impl Future<Output = T>) -> Option<T> {
    let mut stall = None;
    unless(write, |since| stall.get_or_insert_with(|| recv.stall()).gives_way(since)).await
}

/// Waits for a future that may be given up; every second it is asked whether it has to, with the time that has passed.
async fn unless<T>(future: impl Future<Output = T>, mut given_up: impl FnMut(Duration) -> bool) -> Option<T> {
    let mut future = pin!(future);
    let mut since = Duration::ZERO;
    loop {
        if let Ok(done) = timeout(STALL_CHECK, &mut future).await {
            return Some(done);
        }
        since += STALL_CHECK;
        if given_up(since) {
            return None;
        }
    }
}

/// Writes all chunks and leaves them empty, so that no memory is held while waiting for the next ones.
async fn write_vectored(socket: &LocalSocket, chunks: &mut [Bytes]) -> io::Result<()> {
    let mut first = 0;
    loop {
        while chunks.get(first).is_some_and(Bytes::is_empty) {
            first += 1;
        }
        if first == chunks.len() {
            return Ok(());
        }
        let mut written = match try_write(socket, &chunks[first..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.writable().await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        for chunk in &mut chunks[first..] {
            let taken = written.min(chunk.len());
            if taken == chunk.len() {
                *chunk = Bytes::new();
            } else {
                chunk.advance(taken);
            }
            written -= taken;
            if written == 0 {
                break;
            }
        }
    }
}

fn try_write(socket: &LocalSocket, chunks: &[Bytes]) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_CHUNKS];
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = IoSlice::new(chunk);
    }
    socket.try_write_vectored(&slices[..chunks.len().min(MAX_CHUNKS)])
}

/// Joins two streams until both directions have ended, each in its own way: ends, resets and stops pass through with
/// their codes, and one direction goes on when the other has broken.
pub async fn splice_streams(one: TunnelStream, other: TunnelStream) {
    let TunnelStream { send: mut to_one, recv: mut from_one } = one;
    let TunnelStream { send: mut to_other, recv: mut from_other } = other;
    tokio::join!(forward(&mut from_one, &mut to_other), forward(&mut from_other, &mut to_one));
}

async fn forward(recv: &mut RecvHalf, send: &mut SendHalf) {
    let mut stopped = pin!(send.stopped());
    let mut batch = Batch::new();
    loop {
        let read = tokio::select! {
            read = recv.read_chunks(batch.room()) => read,
            stopped = &mut stopped => {
                recv.stop(if let Stopped::ByPeer(code) = stopped { code } else { StreamCode::RESET });
                return;
            }
        };
        let filled = match read {
            Ok(Some(filled)) => filled,
            Ok(None) => {
                // Stopped by the peer meanwhile: then the end is no news to it.
                let _stopped = send.finish();
                return;
            }
            Err(ReadError::Reset(code)) => return send.reset(code),
            Err(ReadError::Closed(_) | ReadError::Stopped) => return send.reset(StreamCode::RESET),
        };
        let Some(written) = patiently(recv, send.write_chunks(batch.filled(filled))).await else {
            recv.stop(StreamCode::TIMED_OUT);
            return send.reset(StreamCode::TIMED_OUT);
        };
        match written {
            Ok(()) => batch.adapt(filled),
            Err(WriteError::Stopped(code)) => return recv.stop(code),
            Err(WriteError::Closed(_) | WriteError::Ended) => return recv.stop(StreamCode::RESET),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stalls_goes_in_the_second_in_which_it_has_to_and_not_before() {
        let (begin, mut asked) = (Instant::now(), 0);
        let given_up = unless(pending::<()>(), |since| {
            asked += 1;
            since >= Duration::from_secs(5)
        });
        assert_eq!(given_up.await, None);
        assert_eq!((begin.elapsed(), asked), (Duration::from_secs(5), 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_goes_on_is_never_asked() {
        let slow = async {
            tokio::time::sleep(Duration::from_millis(999)).await;
            1
        };
        assert_eq!(unless(slow, |_| unreachable!("within the second")).await, Some(1));
        assert_eq!(unless(ready(2), |_| unreachable!("at once")).await, Some(2));
    }
}
