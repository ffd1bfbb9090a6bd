//! What comes to the driver, from handles, links, dials and the service.

use std::fmt;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::connect::ConnectError;
use super::handle::{CommandError, Written};
use crate::gossip::{Channel, DialId, Durability, LinkId, Mesh, Message, Ticket};
use crate::id::NodeId;
use crate::replica::{Address, WriteError};
use crate::time::Now;
use crate::tunnel::{ArcTunnel, TunnelStream};

/// The two streams of a link.
#[derive(Debug)]
pub(super) struct LinkStreams {
    pub(super) control: TunnelStream,
    pub(super) delta: TunnelStream,
}

/// A command that runs in the driver.
pub(super) type Command = Box<dyn FnOnce(&mut Mesh, Now) + Send>;

/// A command that writes.
pub(super) type Write = Box<dyn FnOnce(&mut Mesh, Now) -> Result<Option<Ticket>, WriteError> + Send>;

/// What comes to the driver.
pub(super) enum Input {
    Command(Command),
    Write { write: Write, durability: Durability, told: oneshot::Sender<Result<Written, CommandError>> },
    Flush(oneshot::Sender<()>),
    Accepted { tunnel: ArcTunnel, peer: NodeId, streams: LinkStreams },
    Connected { dial: DialId, address: Address, tunnel: ArcTunnel, peer: NodeId, streams: LinkStreams },
    DialFailed { dial: DialId, address: Address, error: ConnectError },
    Message { link: LinkId, message: Message, room: OwnedSemaphorePermit },
    Malformed { link: LinkId },
    Writable { link: LinkId, channel: Channel },
    StreamEnded { link: LinkId },
    LinkDown { link: LinkId },
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Input")
    }
}
