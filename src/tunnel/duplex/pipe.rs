//! One direction of a stream in memory: a bounded queue of chunks that can be finished, reset, stopped and closed.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::super::stream::{ReadError, Stopped, StreamCode, WriteError};
use super::End;

/// How the writer ended the direction.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Finished,
    Reset(StreamCode),
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    ending: Option<Ending>,
    stopped: Option<StreamCode>,
    /// The tunnel has ended.
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

impl State {
    fn wake_all(&mut self) {
        for waker in [self.reader.take(), self.writer.take(), self.watcher.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// One direction, shared by its writer and its reader.
#[derive(Debug)]
pub(super) struct Pipe {
    state: Mutex<State>,
    capacity: usize,
}

pub(super) fn pipe(capacity: usize) -> Arc<Pipe> {
    Arc::new(Pipe { state: Mutex::default(), capacity })
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the direction with its tunnel. What is buffered can still be read.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.wake_all();
    }

    fn end(&self, ending: Ending) {
        let mut state = self.state();
        if state.ending.is_none() || matches!(ending, Ending::Reset(_)) {
            state.ending = Some(ending);
        }
        if let Ending::Reset(_) = ending {
            state.chunks.clear();
            state.buffered = 0;
        }
        state.wake_all();
    }

    fn stop(&self, code: StreamCode) {
        let mut state = self.state();
        state.stopped.get_or_insert(code);
        state.chunks.clear();
        state.buffered = 0;
        state.wake_all();
    }
}

/// The writing end. A stream that nobody has accepted yet holds no handle of its tunnel.
#[derive(Debug)]
pub(in crate::tunnel) struct PipeWriter {
    pipe: Arc<Pipe>,
    end: Option<Arc<End>>,
}

impl PipeWriter {
    pub(super) fn new(pipe: Arc<Pipe>, end: Arc<End>) -> Self {
        Self { pipe, end: Some(end) }
    }

    pub(super) fn detached(pipe: Arc<Pipe>) -> Self {
        Self { pipe, end: None }
    }

    pub(super) fn attached(mut self, end: Arc<End>) -> Self {
        self.end = Some(end);
        self
    }

    pub(in crate::tunnel) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        self.poll_room(cx).map_ok(|room| {
            let taken = room.min(bytes.len());
            self.push(Bytes::copy_from_slice(&bytes[..taken]));
            taken
        })
    }

    pub(in crate::tunnel) async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), WriteError> {
        while !chunk.is_empty() {
            let room = poll_fn(|cx| self.poll_room(cx)).await?;
            self.push(chunk.split_to(room.min(chunk.len())));
        }
        Ok(())
    }

    /// Waits until at least one byte fits.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, WriteError>> {
        let mut state = self.pipe.state();
        if let Some(code) = state.stopped {
            return Poll::Ready(Err(WriteError::Stopped(code)));
        }
        if state.closed {
            drop(state);
            return Poll::Ready(Err(self.closed().into()));
        }
        if state.ending.is_some() {
            return Poll::Ready(Err(WriteError::Ended));
        }
        let room = self.pipe.capacity - state.buffered;
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    fn push(&self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        let mut state = self.pipe.state();
        if state.stopped.is_some() || state.closed {
            return;
        }
        state.buffered += chunk.len();
        state.chunks.push_back(chunk);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    pub(in crate::tunnel) fn finish(&mut self) -> Result<(), WriteError> {
        let stopped = self.pipe.state().stopped;
        self.pipe.end(Ending::Finished);
        stopped.map_or(Ok(()), |code| Err(WriteError::Stopped(code)))
    }

    pub(in crate::tunnel) fn reset(&mut self, code: StreamCode) {
        self.pipe.end(Ending::Reset(code));
    }

    pub(in crate::tunnel) fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static {
        let pipe = Arc::clone(&self.pipe);
        let end = self.end.as_ref().map(Arc::downgrade);
        poll_fn(move |cx| {
            let mut state = pipe.state();
            if let Some(code) = state.stopped {
                return Poll::Ready(Stopped::ByPeer(code));
            }
            let arrived = state.chunks.is_empty();
            if state.ending.is_some_and(|ending| matches!(ending, Ending::Reset(_)) || arrived) {
                return Poll::Ready(Stopped::Done);
            }
            if state.closed {
                drop(state);
                let end = end.as_ref().and_then(std::sync::Weak::upgrade);
                return Poll::Ready(end.map_or(Stopped::Done, |end| Stopped::Closed(end.first())));
            }
            state.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn closed(&self) -> super::Closed {
        self.end.as_ref().map_or(super::Closed::Locally(super::CloseReason::Dropped), |end| end.first())
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        let abandoned = self.pipe.state().ending.is_none();
        if abandoned {
            self.reset(StreamCode::ABANDONED);
        }
    }
}

/// The reading end.
#[derive(Debug)]
pub(in crate::tunnel) struct PipeReader {
    pipe: Arc<Pipe>,
    end: Option<Arc<End>>,
}

impl PipeReader {
    pub(super) fn new(pipe: Arc<Pipe>, end: Arc<End>) -> Self {
        Self { pipe, end: Some(end) }
    }

    pub(super) fn detached(pipe: Arc<Pipe>) -> Self {
        Self { pipe, end: None }
    }

    pub(super) fn attached(mut self, end: Arc<End>) -> Self {
        self.end = Some(end);
        self
    }

    pub(in crate::tunnel) async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        poll_fn(|cx| self.poll_chunk(cx, max)).await
    }

    pub(in crate::tunnel) async fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> Result<Option<usize>, ReadError> {
        let Some(first) = chunks.first_mut() else { return Ok(Some(0)) };
        let Some(chunk) = poll_fn(|cx| self.poll_chunk(cx, usize::MAX)).await? else { return Ok(None) };
        *first = chunk;
        let mut filled = 1;
        let mut state = self.pipe.state();
        for slot in &mut chunks[1..] {
            let Some(chunk) = state.chunks.pop_front() else { break };
            state.buffered -= chunk.len();
            *slot = chunk;
            filled += 1;
        }
        Ok(Some(filled))
    }

    pub(in crate::tunnel) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), ReadError>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_chunk(cx, buffer.remaining()).map_ok(|chunk| buffer.put_slice(&chunk.unwrap_or_default()))
    }

    fn poll_chunk(&self, cx: &Context<'_>, max: usize) -> Poll<Result<Option<Bytes>, ReadError>> {
        let mut state = self.pipe.state();
        if let Some(Ending::Reset(code)) = state.ending {
            return Poll::Ready(Err(ReadError::Reset(code)));
        }
        if state.stopped.is_some() {
            return Poll::Ready(Err(ReadError::Stopped));
        }
        if let Some(mut chunk) = state.chunks.pop_front() {
            if chunk.len() > max {
                let rest = chunk.split_off(max);
                state.chunks.push_front(rest);
            }
            state.buffered -= chunk.len();
            let woken = [state.writer.take(), state.watcher.take()];
            woken.into_iter().flatten().for_each(Waker::wake);
            return Poll::Ready(Ok(Some(chunk)));
        }
        if state.ending.is_some() {
            return Poll::Ready(Ok(None));
        }
        if state.closed {
            drop(state);
            let closed = self.end.as_ref().map(|end| end.first());
            return Poll::Ready(Err(closed
                .unwrap_or(super::Closed::Locally(super::CloseReason::Dropped))
                .into()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(in crate::tunnel) fn stop(&mut self, code: StreamCode) {
        self.pipe.stop(code);
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut state = self.pipe.state();
        let unread = state.ending.is_none() || !state.chunks.is_empty();
        drop(std::mem::take(&mut state.chunks));
        drop(state);
        if unread {
            self.stop(StreamCode::ABANDONED);
        }
    }
}
