//! Datagrams over a stream: each behind its length, two bytes, big-endian.
//!
//! Both ends give up after [`IDLE_TIMEOUT`] without a datagram in either direction, as UDP itself has no end. What comes
//! faster than the stream takes it is dropped where it came from, as on any network.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::OpenError;
use super::splice::SpliceError;
use crate::tunnel::{ReadExactError, RecvHalf, SendHalf, StreamCode, TunnelStream, WriteError};

/// How long a flow of datagrams may be silent.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest datagram, in bytes.
const MAX_DATAGRAM: usize = u16::MAX as usize;
/// Flows of one listener at a time; datagrams of further sources are dropped.
const MAX_FLOWS: usize = 1_024;
/// Datagrams of one source that wait for its stream; further ones are dropped.
const WAITING_DATAGRAMS: usize = 64;
/// How long a listener pauses when its socket fails.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// When something last came, in either direction.
#[derive(Debug)]
struct Activity(Mutex<Instant>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until nothing has come for [`IDLE_TIMEOUT`].
    async fn idle(&self) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + IDLE_TIMEOUT;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

async fn write_datagram(send: &mut SendHalf, datagram: &[u8]) -> Result<(), WriteError> {
    let Ok(len) = u16::try_from(datagram.len()) else { return Ok(()) };
    let mut frame = BytesMut::with_capacity(2 + datagram.len());
    frame.put_u16(len);
    frame.put_slice(datagram);
    send.write_chunk(frame.freeze()).await
}

/// The next datagram; `None` at the end of the stream between two of them.
async fn read_datagram(recv: &mut RecvHalf) -> Result<Option<Bytes>, ReadExactError> {
    let mut len = [0; 2];
    match recv.read_exact(&mut len).await {
        Err(ReadExactError::Ended) => return Ok(None),
        read => read?,
    }
    let mut datagram = BytesMut::zeroed(usize::from(u16::from_be_bytes(len)));
    recv.read_exact(&mut datagram).await?;
    Ok(Some(datagram.freeze()))
}

/// Joins a stream and a socket that is connected to a target, until the stream ends or nothing comes any more.
pub(super) async fn splice_datagrams(socket: &UdpSocket, stream: TunnelStream) -> Result<(), SpliceError> {
    let TunnelStream { mut send, mut recv } = stream;
    let activity = Activity::new();
    let up = async {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            // An error is the answer to a datagram that nobody took: the next one may be.
            let Ok(len) = socket.recv(&mut buffer).await else { continue };
            activity.note();
            if write_datagram(&mut send, &buffer[..len]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        while let Some(datagram) = read_datagram(&mut recv).await? {
            activity.note();
            let _lost = socket.send(&datagram).await;
        }
        Ok::<(), ReadExactError>(())
    };
    let ended = tokio::select! {
        () = up => Ok(()),
        ended = down => ended,
        () = activity.idle() => Ok(()),
    };
    recv.stop(StreamCode::RESET);
    let _stopped = send.finish();
    match ended {
        Ok(()) | Err(ReadExactError::Ended) => Ok(()),
        Err(ReadExactError::Read(error)) => Err(error.into()),
    }
}

/// A local UDP port. Each source that sends to it has a stream of its own.
#[derive(Debug)]
pub struct UdpListenerProxy {
    socket: Arc<UdpSocket>,
}

impl UdpListenerProxy {
    /// Listens on exactly this address.
    ///
    /// # Errors
    ///
    /// What the system says; nothing listens.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { socket: Arc::new(UdpSocket::bind(address).await?) })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves sources until `stop` is cancelled.
    ///
    /// For each new source `open` is called once, with its address. When it fails, what the source sends is dropped, and
    /// it may try again.
    pub async fn run<O, F>(self, open: O, stop: CancellationToken)
    where
        O: Fn(SocketAddr) -> F,
        F: Future<Output = Result<TunnelStream, OpenError>> + Send + 'static,
    {
        let mut flows: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
        let mut tasks: JoinSet<SocketAddr> = JoinSet::new();
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let received = tokio::select! {
                () = stop.cancelled() => return,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Ok(source) = ended {
                        flows.remove(&source);
                    }
                    continue;
                }
                received = self.socket.recv_from(&mut buffer) => received,
            };
            let (len, source) = match received {
                Ok(received) => received,
                Err(error) => {
                    warn!(%error, "cannot receive datagrams");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                    continue;
                }
            };
            let datagram = Bytes::copy_from_slice(&buffer[..len]);
            if let Some(flow) = flows.get(&source) {
                let _dropped = flow.try_send(datagram);
            } else if flows.len() < MAX_FLOWS {
                let (flow, waiting) = mpsc::channel(WAITING_DATAGRAMS);
                let _dropped = flow.try_send(datagram);
                flows.insert(source, flow);
                let (socket, stream) = (Arc::clone(&self.socket), open(source));
                tasks.spawn(async move {
                    match stream.await {
                        Ok(stream) => serve_source(&socket, source, waiting, stream).await,
                        Err(error) => debug!(%source, %error, "source not served"),
                    }
                    source
                });
            }
        }
    }
}

async fn serve_source(
    socket: &UdpSocket,
    source: SocketAddr,
    mut waiting: mpsc::Receiver<Bytes>,
    stream: TunnelStream,
) {
    let TunnelStream { mut send, mut recv } = stream;
    let activity = Activity::new();
    let up = async {
        while let Some(datagram) = waiting.recv().await {
            activity.note();
            if write_datagram(&mut send, &datagram).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        while let Ok(Some(datagram)) = read_datagram(&mut recv).await {
            activity.note();
            let _lost = socket.send_to(&datagram, source).await;
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        () = activity.idle() => {}
    }
    recv.stop(StreamCode::RESET);
    let _stopped = send.finish();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::duplex::DuplexTunnel;
    use crate::tunnel::{TunnelDownlink, TunnelUplink};

    #[tokio::test(start_paused = true)]
    async fn a_flow_ends_when_nothing_has_come_for_long_enough() {
        let (near, far) = DuplexTunnel::pair();
        let mut stream = near.open_stream().await.unwrap();
        let accepted = far.incoming().await.unwrap().accept().await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(target.local_addr().unwrap()).await.unwrap();
        let begin = Instant::now();
        let flow = tokio::spawn(async move { splice_datagrams(&socket, accepted).await });
        for pause in [0, 30] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            write_datagram(&mut stream.send, b"x").await.unwrap();
        }
        assert_eq!(read_datagram(&mut stream.recv).await, Ok(None));
        flow.await.unwrap().unwrap();
        assert_eq!(begin.elapsed().as_secs(), 90);
    }
}
