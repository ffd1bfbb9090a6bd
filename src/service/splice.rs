//! Joining two byte streams so that neither end can tell: half-close, resets and back-pressure pass through.
//!
//! Nothing is queued here beyond one batch per direction: a reader that stops reading stops the writer at the far end.
//! From a tunnel to TCP the chunks of several datagrams go out in one vectored write, for with fair scheduling each
//! datagram belongs to another stream. Waiting for more to come together is worth it only while data flows in bulk, so
//! that small messages do not pay for it.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::pin;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::tunnel::{Closed, ReadError, RecvHalf, SendHalf, Stopped, StreamCode, TunnelStream, WriteError};

/// The most that one read takes from TCP.
const MAX_READ: usize = 64 * 1024;
/// Where the size of reads begins and what an idle connection holds at most.
const MIN_READ: usize = 2 * 1024;
/// The most chunks that go out in one vectored write.
const MAX_CHUNKS: usize = 64;
/// A read of so many bytes counts as bulk.
const BULK: usize = 16 * 1024;

/// The two sides were parted before both directions had ended. Both have been reset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpliceError {
    /// The TCP connection was reset or failed.
    #[error("TCP connection broke")]
    Tcp(#[from] io::Error),
    /// The stream was reset by its peer.
    #[error("stream broke")]
    Read(#[from] ReadError),
    /// The stream's tunnel ended.
    #[error("tunnel ended")]
    Closed(#[from] Closed),
}

/// Makes dropping a TCP connection reset it, whatever the reason; [`drop_in_order`] takes that back.
pub(super) fn reset_on_drop(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_zero_linger()
}

fn drop_in_order(tcp: &TcpStream) -> io::Result<()> {
    SockRef::from(tcp).set_linger(None)
}

/// Joins a TCP connection and a stream until both directions have ended.
///
/// An end passes through as an end, and a reset as a reset. Cancelled, it resets both.
///
/// # Errors
///
/// [`SpliceError`]; the other side has been reset as well.
pub async fn splice_tcp(mut tcp: TcpStream, stream: TunnelStream) -> Result<(), SpliceError> {
    reset_on_drop(&tcp)?;
    let TunnelStream { mut send, mut recv } = stream;
    let joined = {
        let (read, write) = tcp.split();
        join(upload(read, &mut send), download(&mut recv, write)).await
    };
    match joined {
        Ok(()) => Ok(drop_in_order(&tcp)?),
        Err(broken) => {
            send.reset(StreamCode::RESET);
            recv.stop(StreamCode::RESET);
            Err(broken)
        }
    }
}

/// Runs both directions to their ends. A connection whose upload has ended is still watched for a reset, which its
/// download would notice only with the next byte.
async fn join<'a>(
    upload: impl Future<Output = Result<ReadHalf<'a>, SpliceError>>,
    download: impl Future<Output = Result<(), SpliceError>>,
) -> Result<(), SpliceError> {
    let mut upload = pin!(upload);
    let mut download = pin!(download);
    tokio::select! {
        read = &mut upload => {
            let read = read?;
            tokio::select! {
                biased;
                ended = &mut download => ended,
                broken = reset_of(&read) => match broken? {},
            }
        }
        ended = &mut download => {
            ended?;
            upload.await.map(drop)
        }
    }
}

async fn reset_of(read: &ReadHalf<'_>) -> io::Result<Infallible> {
    loop {
        let ready = read.ready(Interest::ERROR).await?;
        if ready.is_error() {
            let error = SockRef::from(read.as_ref()).take_error()?;
            return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
    }
}

/// From TCP to the tunnel. If the far end stops reading, this direction has ended: what comes back may still be good.
async fn upload<'a>(tcp: ReadHalf<'a>, send: &mut SendHalf) -> Result<ReadHalf<'a>, SpliceError> {
    let mut stopped = pin!(send.stopped());
    let mut buffer = BytesMut::new();
    let mut size = MIN_READ;
    loop {
        // Idle connections, of which there are many, hold no more than this.
        if buffer.capacity() > MIN_READ {
            buffer = BytesMut::new();
        }
        let readable = tokio::select! {
            readable = tcp.readable() => readable,
            stopped = &mut stopped => return ended_by(stopped).map(|()| tcp),
        };
        readable?;
        if buffer.capacity() < size / 2 {
            buffer = BytesMut::with_capacity(size);
        }
        let room = buffer.capacity();
        let read = match tcp.try_read_buf(&mut buffer) {
            Ok(0) => {
                // Stopped by the peer meanwhile: then the end is no news to it.
                let _stopped = send.finish();
                return Ok(tcp);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        size = if read == room { MAX_READ.min(size * 4) } else { MIN_READ.max(size / 2) };
        match send.write_chunk(buffer.split().freeze()).await {
            Ok(()) => {}
            Err(WriteError::Stopped(_) | WriteError::Ended) => return Ok(tcp),
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

/// From the tunnel to TCP.
async fn download(recv: &mut RecvHalf, mut tcp: WriteHalf<'_>) -> Result<(), SpliceError> {
    let mut chunks = [const { Bytes::new() }; MAX_CHUNKS];
    while let Some(filled) = recv.read_chunks(&mut chunks).await? {
        let chunks = &mut chunks[..filled];
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        write_vectored(&mut tcp, chunks).await?;
        if bytes >= BULK {
            tokio::task::yield_now().await;
        }
    }
    Ok(tcp.shutdown().await?)
}

/// Writes all chunks and leaves them empty, so that no memory is held while waiting for the next ones.
async fn write_vectored(tcp: &mut (impl AsyncWrite + Unpin), chunks: &mut [Bytes]) -> io::Result<()> {
    let mut first = 0;
    loop {
        while chunks.get(first).is_some_and(Bytes::is_empty) {
            first += 1;
        }
        if first == chunks.len() {
            return Ok(());
        }
        let mut slices = [IoSlice::new(&[]); MAX_CHUNKS];
        for (slice, chunk) in slices.iter_mut().zip(&chunks[first..]) {
            *slice = IoSlice::new(chunk);
        }
        let mut written = tcp.write_vectored(&slices[..chunks.len() - first]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
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

/// Joins two streams until both directions have ended, each in its own way: ends, resets and stops pass through with
/// their codes, and one direction goes on when the other has broken.
pub async fn splice_streams(one: TunnelStream, other: TunnelStream) {
    let TunnelStream { send: mut to_one, recv: mut from_one } = one;
    let TunnelStream { send: mut to_other, recv: mut from_other } = other;
    tokio::join!(forward(&mut from_one, &mut to_other), forward(&mut from_other, &mut to_one));
}

async fn forward(recv: &mut RecvHalf, send: &mut SendHalf) {
    let mut stopped = pin!(send.stopped());
    let mut chunks = [const { Bytes::new() }; MAX_CHUNKS];
    loop {
        let read = tokio::select! {
            read = recv.read_chunks(&mut chunks) => read,
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
        for chunk in &mut chunks[..filled] {
            match send.write_chunk(std::mem::take(chunk)).await {
                Ok(()) => {}
                Err(WriteError::Stopped(code)) => return recv.stop(code),
                Err(WriteError::Closed(_) | WriteError::Ended) => return recv.stop(StreamCode::RESET),
            }
        }
    }
}
