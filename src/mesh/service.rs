//! The listening end of a link: takes the gossip streams that a peer opens.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::input::{Input, LinkStreams};
use super::link::channel_address;
use crate::gossip::Channel;
use crate::service::{OfferedStream, Refusal, RouteAddress, Service};
use crate::tunnel::{ArcTunnel, Tunnel, TunnelMonitoring, TunnelStream};

/// Serves `/gossip/control` and `/gossip/delta` to peers that have proved who they are.
///
/// A link begins when both streams of a tunnel are there.
#[derive(Debug)]
pub struct GossipService {
    inputs: mpsc::Sender<Input>,
    /// Tunnels of which one stream is there and the other is not yet.
    halves: Mutex<Vec<Half>>,
}

#[derive(Debug)]
struct Half {
    tunnel: ArcTunnel,
    channel: Channel,
    stream: TunnelStream,
}

impl GossipService {
    pub(super) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs, halves: Mutex::new(Vec::new()) }
    }

    /// Keeps the first stream of a tunnel until the second comes. A second one of the same kind replaces it.
    fn pair(&self, tunnel: &ArcTunnel, channel: Channel, stream: TunnelStream) -> Option<LinkStreams> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.retain(|half| half.tunnel.closed().is_none());
        let at = halves.iter().position(|half| half.tunnel.is_same(tunnel));
        let first = at.map(|at| halves.swap_remove(at)).filter(|half| half.channel != channel);
        let Some(first) = first else {
            halves.push(Half { tunnel: tunnel.clone(), channel, stream });
            return None;
        };
        Some(match channel {
            Channel::Control => LinkStreams { control: stream, delta: first.stream },
            Channel::Delta => LinkStreams { control: first.stream, delta: stream },
        })
    }
}

impl Service for GossipService {
    type Error = Infallible;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        [Channel::Control, Channel::Delta].iter().any(|channel| *address == channel_address(*channel))
    }

    async fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        tunnel: ArcTunnel,
    ) -> Result<(), Infallible> {
        // A stream that cannot be answered is gone, and so is whoever wanted it.
        let Some(peer) = tunnel.identity() else {
            stream.refuse(Refusal::Refused).await.ok();
            return Ok(());
        };
        let channel =
            if address == channel_address(Channel::Control) { Channel::Control } else { Channel::Delta };
        let Ok(stream) = stream.accept().await else { return Ok(()) };
        if let Some(streams) = self.pair(&tunnel, channel, stream) {
            // The driver is gone when the daemon stops: then so is the link.
            self.inputs.send(Input::Accepted { tunnel, peer, streams }).await.ok();
        }
        Ok(())
    }
}
