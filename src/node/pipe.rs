//! A stream between a node and its command line, over the admin socket.
//!
//! Both directions are frames: a length of four bytes, big-endian, and as many bytes. Length 0 is the end in good order,
//! [`STOP`] says that the sender reads no more; what ends otherwise has broken off. So an end, a reset and a reader that
//! has seen enough stay three things, which a bare unix socket would make one of.

use std::io;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Mutex, Notify};

use crate::tunnel::{ReadError, RecvHalf, SendHalf, StreamCode, TunnelStream, WriteError};

/// In the place of a length: the sender of this reads no more.
const STOP: u32 = u32::MAX;
/// The longest frame, in bytes.
const MAX_FRAME: usize = 64 * 1024;
/// The most chunks of a stream that become one frame.
const MAX_CHUNKS: usize = 16;

/// What comes from the other end.
enum Frame {
    Data(Bytes),
    End,
    Stop,
}

/// The two directions parted before both had ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PipeError {
    /// The far end of the stream was reset, or its tunnel ended.
    #[error("the connection was reset at the other end")]
    Reset,
    /// Reading or writing on this side failed.
    #[error("{0}")]
    Local(#[from] io::Error),
}

/// One writer for two directions: data of the one, [`STOP`] of the other.
struct Writer<W>(Mutex<W>);

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes what the chunks hold and leaves them empty, in as many frames as it takes.
    async fn data(&self, chunks: &mut [Bytes]) -> io::Result<()> {
        let mut writer = self.0.lock().await;
        loop {
            let len = chunks.iter().map(Bytes::len).sum::<usize>().min(MAX_FRAME);
            if len == 0 {
                return writer.flush().await;
            }
            writer.write_u32(u32::try_from(len).map_err(|_long| io::ErrorKind::InvalidData)?).await?;
            let mut left = len;
            for chunk in chunks.iter_mut() {
                let part = chunk.split_to(left.min(chunk.len()));
                left -= part.len();
                writer.write_all(&part).await?;
            }
        }
    }

    async fn mark(&self, mark: u32) -> io::Result<()> {
        let mut writer = self.0.lock().await;
        writer.write_u32(mark).await?;
        writer.flush().await
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let len = match reader.read_u32().await? {
        0 => return Ok(Frame::End),
        STOP => return Ok(Frame::Stop),
        len => usize::try_from(len).ok().filter(|len| *len <= MAX_FRAME).ok_or(io::ErrorKind::InvalidData)?,
    };
    let mut data = BytesMut::zeroed(len);
    reader.read_exact(&mut data).await?;
    Ok(Frame::Data(data.freeze()))
}

/// Joins a stream of the mesh with the socket of a command line, until both directions have ended or one has broken.
pub(super) async fn carry<S: AsyncRead + AsyncWrite>(socket: S, stream: TunnelStream) {
    let (mut reader, writer) = split(socket);
    let writer = Writer(Mutex::new(writer));
    let TunnelStream { mut send, mut recv } = stream;
    let enough = Notify::new();
    let up = from_socket(&mut reader, &mut send, &writer, &enough);
    let down = to_socket(&mut recv, &writer, &enough);
    if tokio::try_join!(up, down).is_err() {
        send.reset(StreamCode::RESET);
        recv.stop(StreamCode::RESET);
    }
}

async fn from_socket<S: AsyncRead + AsyncWrite>(
    reader: &mut ReadHalf<S>,
    send: &mut SendHalf,
    writer: &Writer<WriteHalf<S>>,
    enough: &Notify,
) -> Result<(), PipeError> {
    let mut stopped = pin!(send.stopped());
    let mut is_open = true;
    loop {
        // The socket is read to the end of this direction even when the stream takes no more: a stop may follow.
        let frame = tokio::select! {
            frame = read_frame(reader) => frame?,
            _stopped = &mut stopped, if is_open => {
                is_open = false;
                writer.mark(STOP).await?;
                continue;
            }
        };
        match frame {
            Frame::Data(data) if is_open => match send.write_chunk(data).await {
                Ok(()) => {}
                Err(WriteError::Stopped(_) | WriteError::Ended) => {
                    is_open = false;
                    writer.mark(STOP).await?;
                }
                Err(WriteError::Closed(_)) => return Err(PipeError::Reset),
            },
            Frame::Data(_) => {}
            Frame::End => {
                // Stopped by the peer meanwhile: then the end is no news to it.
                let _stopped = send.finish();
                return Ok(());
            }
            Frame::Stop => enough.notify_one(),
        }
    }
}

async fn to_socket<S: AsyncRead + AsyncWrite>(
    recv: &mut RecvHalf,
    writer: &Writer<WriteHalf<S>>,
    enough: &Notify,
) -> Result<(), PipeError> {
    let mut chunks = [const { Bytes::new() }; MAX_CHUNKS];
    loop {
        let read = tokio::select! {
            read = recv.read_chunks(&mut chunks) => read,
            () = enough.notified() => {
                recv.stop(StreamCode::RESET);
                return Ok(());
            }
        };
        match read {
            Ok(Some(filled)) => writer.data(&mut chunks[..filled]).await?,
            Ok(None) => return Ok(writer.mark(0).await?),
            Err(ReadError::Reset(_) | ReadError::Stopped | ReadError::Closed(_)) => {
                return Err(PipeError::Reset);
            }
        }
    }
}

/// The command line's end: joins the socket of a node with an input and an output. `close` is called when the output
/// has come to its end, with the input perhaps still open.
pub(super) async fn join<S: AsyncRead + AsyncWrite>(
    socket: S,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    close: impl FnOnce() -> io::Result<()>,
) -> Result<(), PipeError> {
    let (reader, writer) = split(socket);
    let writer = Writer(Mutex::new(writer));
    let enough = Notify::new();
    let ((), ()) = tokio::try_join!(send_input(input, &writer, &enough), {
        receive_output(reader, output, &writer, &enough, close)
    })?;
    Ok(())
}

async fn send_input<W: AsyncWrite + Unpin>(
    mut input: impl AsyncRead + Unpin,
    writer: &Writer<W>,
    enough: &Notify,
) -> Result<(), PipeError> {
    let broken = |_: io::Error| PipeError::Reset;
    loop {
        let mut buffer = BytesMut::with_capacity(MAX_FRAME);
        let read = tokio::select! {
            read = input.read_buf(&mut buffer) => read?,
            () = enough.notified() => 0,
        };
        match read {
            0 => return writer.mark(0).await.map_err(broken),
            _ => writer.data(&mut [buffer.freeze()]).await.map_err(broken)?,
        }
    }
}

async fn receive_output<W: AsyncWrite + Unpin>(
    mut reader: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    writer: &Writer<W>,
    enough: &Notify,
    close: impl FnOnce() -> io::Result<()>,
) -> Result<(), PipeError> {
    loop {
        match read_frame(&mut reader).await.map_err(|_broken| PipeError::Reset)? {
            Frame::Data(data) => {
                let written = async {
                    output.write_all(&data).await?;
                    output.flush().await
                };
                if let Err(error) = written.await {
                    // Whoever reads our output has seen enough: that is no failure.
                    if error.kind() != io::ErrorKind::BrokenPipe {
                        return Err(error.into());
                    }
                    return writer.mark(STOP).await.map_err(|_broken| PipeError::Reset);
                }
            }
            Frame::End => return Ok(close()?),
            Frame::Stop => enough.notify_one(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::tunnel::duplex::DuplexTunnel;
    use crate::tunnel::{TunnelDownlink, TunnelUplink};

    #[tokio::test]
    async fn chunks_that_are_too_many_for_a_frame_become_several() {
        let (near, mut far) = duplex(1024 * 1024);
        let writer = Writer(Mutex::new(near));
        let bytes = |at: usize, len: usize| (at..at + len).map(|at| at.to_le_bytes()[0]).collect::<Bytes>();
        let mut chunks = [bytes(0, 50_000), bytes(50_000, 0), bytes(50_000, 200_000), bytes(250_000, 1)];
        writer.data(&mut chunks).await.unwrap();
        writer.data(&mut [Bytes::new()]).await.unwrap();
        writer.mark(0).await.unwrap();
        let mut read = Vec::new();
        while let Frame::Data(data) = read_frame(&mut far).await.unwrap() {
            read.extend_from_slice(&data);
        }
        assert!(read == bytes(0, 250_001));
    }

    /// A command line's input and output, the far end of its stream, and how its command ends.
    struct Rig {
        input: DuplexStream,
        output: DuplexStream,
        far: TunnelStream,
        ended: tokio::task::JoinHandle<Result<(), PipeError>>,
        /// Keeps the tunnel.
        _tunnel: (DuplexTunnel, DuplexTunnel),
    }

    async fn rig() -> Rig {
        let (near, far) = DuplexTunnel::pair();
        let mut stream = near.open_stream().await.unwrap();
        stream.send.write_all(b"!").await.unwrap();
        let mut accepted = far.incoming().await.unwrap().accept().await.unwrap();
        accepted.recv.read_exact(&mut [0]).await.unwrap();
        let (socket, node) = duplex(1_000);
        tokio::spawn(carry(node, stream));
        let (input, read) = duplex(1_000);
        let (written, output) = duplex(1_000);
        let ended = tokio::spawn(async move { join(socket, read, written, || Ok(())).await });
        Rig { input, output, far: accepted, ended, _tunnel: (near, far) }
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself_and_whichever_first() {
        for far_first in [false, true] {
            let Rig { mut input, mut output, mut far, ended, _tunnel } = rig().await;
            let near_to_far = async {
                // At once: what lies in between holds less than this.
                let write = async {
                    input.write_all(&[7; 100_000]).await.unwrap();
                    drop(input);
                };
                let read = async {
                    let mut read = 0;
                    while let Some(chunk) = far.recv.read_chunk(usize::MAX).await.unwrap() {
                        read += chunk.len();
                    }
                    read
                };
                let ((), read) = tokio::join!(write, read);
                assert_eq!(read, 100_000);
            };
            let far_to_near = async {
                far.send.write_all(b"answer").await.unwrap();
                far.send.finish().unwrap();
                let mut answer = [0; 6];
                output.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"answer");
            };
            if far_first {
                far_to_near.await;
                near_to_far.await;
            } else {
                near_to_far.await;
                far_to_near.await;
            }
            ended.await.unwrap().unwrap();
        }
    }

    /// FEATURES B9.
    #[tokio::test]
    async fn a_reset_at_the_far_end_is_no_end_in_good_order() {
        let Rig { far, ended, input: _input, output: _output, .. } = rig().await;
        let TunnelStream { mut send, recv: _recv } = far;
        send.reset(StreamCode::RESET);
        assert!(matches!(ended.await.unwrap(), Err(PipeError::Reset)));
    }

    #[tokio::test]
    async fn a_far_end_that_reads_no_more_ends_the_input() {
        let Rig { mut far, ended, input: _input, output: _output, .. } = rig().await;
        far.recv.stop(StreamCode::RESET);
        far.send.finish().unwrap();
        ended.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_output_that_is_closed_stops_the_far_end() {
        let Rig { input, output, far, ended, _tunnel } = rig().await;
        drop((input, output));
        let TunnelStream { mut send, recv: _recv } = far;
        while send.write_all(&[7; 1_000]).await.is_ok() {
            tokio::task::yield_now().await;
        }
        ended.await.unwrap().unwrap();
    }
}
