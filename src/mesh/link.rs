//! The tasks of a link: two writers, two readers, one for datagrams, one that waits for the end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::input::{Input, LinkStreams};
use super::traffic::Counters;
use crate::gossip::{Channel, CloseReason as GossipReason, LinkId, Message};
use crate::service::{OpenError, RouteAddress, open};
use crate::tunnel::{ArcTunnel, CloseReason, RecvHalf, SendHalf, Tunnel, TunnelControl, TunnelMonitoring};
use crate::wire;

/// Control frames go before everything else in a tunnel.
const CONTROL_PRIORITY: i32 = 20;
/// Deltas go before user streams, which have priority 0.
const DELTA_PRIORITY: i32 = 10;

/// Where a channel's stream is opened.
pub(super) fn channel_address(channel: Channel) -> RouteAddress {
    let channel = match channel {
        Channel::Control => "control",
        Channel::Delta => "delta",
    };
    RouteAddress::from_segments(["gossip", channel]).expect("two short segments are an address")
}

/// Opens both streams, as the side that dialled does.
pub(super) async fn open_streams(tunnel: &ArcTunnel) -> Result<LinkStreams, OpenError> {
    let (control, delta) = (channel_address(Channel::Control), channel_address(Channel::Delta));
    let (control, delta) = tokio::try_join!(open(tunnel, &control), open(tunnel, &delta))?;
    Ok(LinkStreams { control, delta })
}

/// The driver's end of a link.
#[derive(Debug)]
pub(super) struct LinkTasks {
    tunnel: ArcTunnel,
    control: Outgoing,
    delta: Outgoing,
    counters: Arc<Counters>,
    ended: CancellationToken,
}

/// What goes out on a channel.
#[derive(Debug)]
struct Outgoing {
    encoder: wire::Encoder,
    /// One frame: the core sends the next one only when the last was written.
    frames: mpsc::Sender<Bytes>,
}

impl LinkTasks {
    /// Starts the tasks of a link. They end with its tunnel, or when this is dropped.
    pub(super) fn start(
        link: LinkId,
        tunnel: ArcTunnel,
        streams: LinkStreams,
        inputs: &mpsc::Sender<Input>,
        counters: &Arc<Counters>,
        tasks: &TaskTracker,
    ) -> Self {
        let ended = CancellationToken::new();
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let ended = ended.clone();
            tasks.spawn(async move {
                ended.run_until_cancelled(task).await;
            });
        };
        let mut senders = Vec::new();
        for (channel, priority, stream) in [
            (Channel::Control, CONTROL_PRIORITY, streams.control),
            (Channel::Delta, DELTA_PRIORITY, streams.delta),
        ] {
            stream.send.set_priority(priority);
            let (frames, waiting) = mpsc::channel(1);
            senders.push(Outgoing { encoder: wire::Encoder::new(), frames });
            let reader = Reader::new(link, inputs, counters);
            spawn(Box::pin(write(link, channel, stream.send, waiting, inputs.clone())));
            spawn(Box::pin(reader.read_stream(stream.recv)));
        }
        let reader = Reader::new(link, inputs, counters);
        spawn(Box::pin(reader.read_datagrams(tunnel.clone())));
        let (inputs, closed) = (inputs.clone(), tunnel.on_closed());
        spawn(Box::pin(async move {
            let closed = closed.await;
            tracing::debug!(link = link.0, %closed, "link down");
            inputs.send(Input::LinkDown { link }).await.ok();
        }));
        let delta = senders.pop().expect("two channels were made");
        let control = senders.pop().expect("two channels were made");
        Self { tunnel, control, delta, counters: Arc::clone(counters), ended }
    }

    /// Hands a frame to the channel's writer, which is idle: the core says so.
    pub(super) fn send(&mut self, channel: Channel, message: &Message) {
        let outgoing = match channel {
            Channel::Control => &mut self.control,
            Channel::Delta => &mut self.delta,
        };
        let body = outgoing.encoder.encode(message);
        let header = match wire::header(body.len()) {
            Ok(header) => header,
            Err(error) => {
                tracing::error!(%error, "a frame cannot be sent");
                return self.tunnel.close(CloseReason::ProtocolViolation);
            }
        };
        let mut frame = BytesMut::with_capacity(header.len() + body.len());
        frame.put_slice(&header);
        frame.put_slice(&body);
        self.counters.sent(channel, frame.len());
        if outgoing.frames.try_send(frame.freeze()).is_err() {
            // The writer ends when its stream has: the link will be reported down.
            tracing::trace!(?channel, "frame dropped at the end of a link");
        }
    }

    /// Sends a datagram, or drops it.
    pub(super) fn send_datagram(&self, message: &Message) {
        let body = wire::encode(message);
        let len = body.len();
        match self.tunnel.send_datagram(body.into()) {
            Ok(()) => self.counters.sent_datagram(len),
            Err(error) => tracing::trace!(%error, "heartbeat not sent"),
        }
    }

    /// Closes the tunnel under the link.
    pub(super) fn close(&self, reason: GossipReason) {
        self.tunnel.close(match reason {
            GossipReason::Duplicate
            | GossipReason::Replaced
            | GossipReason::Loopback
            | GossipReason::Surplus => CloseReason::Superseded,
            GossipReason::Silent => CloseReason::Unresponsive,
            GossipReason::Incompatible | GossipReason::Misbehaved => CloseReason::ProtocolViolation,
            GossipReason::Leaving => CloseReason::ShuttingDown,
        });
    }
}

/// How long a tunnel whose link lost against another one stays at least: until the peer knows as well, and takes the
/// other one for new streams.
const RETIREMENT: Duration = Duration::from_secs(2);
/// How often it is looked whether its streams have ended.
const RETIREMENT_CHECK: Duration = Duration::from_millis(500);
/// The streams of a tunnel that are its link's.
const LINK_STREAMS: usize = 2;

impl LinkTasks {
    /// Keeps a tunnel whose link serves no longer until the streams have ended that users have begun on it, or `stopped`
    /// comes true. The peer must not see the link's streams end before.
    pub(super) async fn retire(self, reason: GossipReason, stopped: impl Future<Output = ()>) {
        self.tunnel.retire();
        let quiet = async {
            // Whoever says nothing is not going to learn anything either.
            if reason != GossipReason::Silent {
                tokio::time::sleep(RETIREMENT).await;
            }
            while self.tunnel.streams() > LINK_STREAMS {
                tokio::time::sleep(RETIREMENT_CHECK).await;
            }
        };
        tokio::select! {
            () = quiet => self.close(reason),
            () = stopped => self.close(GossipReason::Leaving),
            _closed = self.tunnel.on_closed() => {}
        }
    }
}

impl Drop for LinkTasks {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// Writes frame after frame, and says each time that there is room for another.
async fn write(
    link: LinkId,
    channel: Channel,
    mut stream: SendHalf,
    mut frames: mpsc::Receiver<Bytes>,
    inputs: mpsc::Sender<Input>,
) {
    while let Some(frame) = frames.recv().await {
        let written = stream.write_chunk(frame).await;
        let input =
            if written.is_ok() { Input::Writable { link, channel } } else { Input::StreamEnded { link } };
        if inputs.send(input).await.is_err() || written.is_err() {
            break;
        }
    }
    // Keeps the stream from being reset before its last bytes are acknowledged.
    stream.finish().ok();
}

/// How many messages of one stream may wait for the driver. So a peer that sends much holds up itself: neither
/// the other links' heartbeats nor this node's memory.
const WAITING_MESSAGES: usize = 4;

/// Reads what a peer sends.
struct Reader {
    link: LinkId,
    inputs: mpsc::Sender<Input>,
    counters: Arc<Counters>,
    room: Arc<Semaphore>,
}

impl Reader {
    fn new(link: LinkId, inputs: &mpsc::Sender<Input>, counters: &Arc<Counters>) -> Self {
        let room = Arc::new(Semaphore::new(WAITING_MESSAGES));
        Self { link, inputs: inputs.clone(), counters: Arc::clone(counters), room }
    }

    async fn read_stream(self, mut stream: RecvHalf) {
        let mut decoder = wire::Decoder::new();
        while let Some(frame) = read_frame(&mut stream).await {
            let message = frame.and_then(|(body, len)| {
                self.counters.received(len);
                decoder.decode(&body)
            });
            if !self.tell(message).await {
                return;
            }
        }
        // A gossip stream never ends before its tunnel does.
        self.inputs.send(Input::StreamEnded { link: self.link }).await.ok();
    }

    async fn read_datagrams(self, tunnel: ArcTunnel) {
        while let Ok(datagram) = tunnel.read_datagram().await {
            self.counters.received(datagram.len());
            if !self.tell(wire::decode(&datagram)).await {
                return;
            }
        }
    }

    /// Passes on what came; says whether to go on.
    async fn tell(&self, message: Result<Message, wire::Malformed>) -> bool {
        let link = self.link;
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else { return false };
        let (input, going_on) = match message {
            Ok(message) => (Input::Message { link, message, room }, true),
            Err(malformed) => {
                tracing::warn!(link = link.0, %malformed, "a peer sent what is no message");
                (Input::Malformed { link }, false)
            }
        };
        self.inputs.send(input).await.is_ok() && going_on
    }
}

/// Reads a frame and says how many bytes it took; nothing if the stream ends.
async fn read_frame(stream: &mut RecvHalf) -> Option<Result<(BytesMut, usize), wire::Malformed>> {
    let mut first = [0; wire::HEADER_LEN];
    stream.read_exact(&mut first).await.ok()?;
    let mut more = None;
    let len = loop {
        match wire::body_len(first, more) {
            Ok(Some(len)) => break len,
            Ok(None) => stream.read_exact(more.insert([0; wire::HEADER_LEN])).await.ok()?,
            Err(malformed) => return Some(Err(malformed)),
        }
    };
    let body = read_body(stream, len).await?;
    let header = if more.is_some() { 2 * wire::HEADER_LEN } else { wire::HEADER_LEN };
    Some(Ok((body, header + len)))
}

/// Reads a frame as it comes: memory is taken for bytes that are there, not for those that were announced.
async fn read_body(stream: &mut RecvHalf, len: usize) -> Option<BytesMut> {
    const STEP: usize = 64 * 1024;
    let mut body = BytesMut::with_capacity(len.min(STEP));
    while body.len() < len {
        let chunk = stream.read_chunk((len - body.len()).min(STEP)).await.ok()??;
        body.extend_from_slice(&chunk);
    }
    Some(body)
}
