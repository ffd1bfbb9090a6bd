//! The halves of a QUIC stream, with the errors of tunnels.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::{StoppedError, VarInt};
use tokio::io::ReadBuf;

use super::tunnel::{Opener, QuicStall, Shared};
use crate::tunnel::stream::{ReadError, Stopped, StreamCode, WriteError};

/// A stream's place in the books of its tunnel; both halves hold it, and so they hold the tunnel.
#[derive(Debug)]
pub(super) struct StreamSlot {
    shared: Arc<Shared>,
    opener: Opener,
}

impl StreamSlot {
    pub(super) fn new(shared: Arc<Shared>, opener: Opener) -> Self {
        Self { shared, opener }
    }

    fn read_error(&self, error: quinn::ReadError) -> ReadError {
        match error {
            quinn::ReadError::Reset(code) => ReadError::Reset(code_of(code)),
            quinn::ReadError::ConnectionLost(error) => ReadError::Closed(self.shared.lost(&error)),
            quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected => ReadError::Stopped,
        }
    }

    fn write_error(&self, error: quinn::WriteError) -> WriteError {
        match error {
            quinn::WriteError::Stopped(code) => WriteError::Stopped(code_of(code)),
            quinn::WriteError::ConnectionLost(error) => WriteError::Closed(self.shared.lost(&error)),
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => WriteError::Ended,
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.shared.forget_stream(self.opener);
    }
}

fn code_of(code: VarInt) -> StreamCode {
    StreamCode(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
}

#[derive(Debug)]
pub(in crate::tunnel) struct QuicSend {
    stream: quinn::SendStream,
    slot: Arc<StreamSlot>,
}

impl QuicSend {
    pub(super) fn new(stream: quinn::SendStream, slot: Arc<StreamSlot>) -> Self {
        Self { stream, slot }
    }

    pub(in crate::tunnel) async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        self.stream.write_chunk(chunk).await.map_err(|error| self.slot.write_error(error))
    }

    pub(in crate::tunnel) async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        self.stream.write_all_chunks(chunks).await.map_err(|error| self.slot.write_error(error))
    }

    pub(in crate::tunnel) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes).map_err(|error| self.slot.write_error(error))
    }

    pub(in crate::tunnel) fn finish(&mut self) -> Result<(), WriteError> {
        self.stream.finish().map_err(|_closed| WriteError::Ended)
    }

    pub(in crate::tunnel) fn reset(&mut self, code: StreamCode) {
        // Fails only for a stream that has ended, which then needs no reset.
        let _ended = self.stream.reset(VarInt::from_u32(code.0));
    }

    pub(in crate::tunnel) fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static {
        let stopped = self.stream.stopped();
        let slot = Arc::clone(&self.slot);
        async move {
            match stopped.await {
                Ok(Some(code)) => Stopped::ByPeer(code_of(code)),
                Ok(None) | Err(StoppedError::ZeroRttRejected) => Stopped::Done,
                Err(StoppedError::ConnectionLost(error)) => Stopped::Closed(slot.shared.lost(&error)),
            }
        }
    }

    pub(in crate::tunnel) fn set_priority(&self, priority: i32) {
        // Fails only for a stream that has ended.
        let _ended = self.stream.set_priority(priority);
    }
}

#[derive(Debug)]
pub(in crate::tunnel) struct QuicRecv {
    stream: quinn::RecvStream,
    slot: Arc<StreamSlot>,
}

impl QuicRecv {
    pub(super) fn new(stream: quinn::RecvStream, slot: Arc<StreamSlot>) -> Self {
        Self { stream, slot }
    }

    pub(in crate::tunnel) fn stall(&self) -> QuicStall {
        QuicStall::new(&self.slot.shared)
    }

    pub(in crate::tunnel) async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        let chunk = self.stream.read_chunk(max, true).await.map_err(|error| self.slot.read_error(error))?;
        let bytes = chunk.map(|chunk| chunk.bytes);
        self.slot.shared.has_read(bytes.as_ref().map_or(0, Bytes::len));
        Ok(bytes)
    }

    pub(in crate::tunnel) async fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> Result<Option<usize>, ReadError> {
        let filled = self.stream.read_chunks(chunks).await.map_err(|error| self.slot.read_error(error))?;
        let read = filled.map_or(0, |filled| chunks[..filled].iter().map(Bytes::len).sum());
        self.slot.shared.has_read(read);
        Ok(filled)
    }

    pub(in crate::tunnel) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), ReadError>> {
        let before = buffer.filled().len();
        let read = self.stream.poll_read_buf(cx, buffer).map_err(|error| self.slot.read_error(error));
        self.slot.shared.has_read(buffer.filled().len() - before);
        read
    }

    pub(in crate::tunnel) fn stop(&mut self, code: StreamCode) {
        // Fails only for a stream that has ended.
        let _ended = self.stream.stop(VarInt::from_u32(code.0));
    }
}
