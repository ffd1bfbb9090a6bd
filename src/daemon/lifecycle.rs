//! What happens to tunnels, and the table of tunnels that it makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::AuthenticationFailure;
use crate::event::Published;
use crate::id::{NodeId, TunnelId, TunnelName};
use crate::tunnel::{Closed, Side};

/// What happened to a tunnel. Events name tunnels and never hold them: who subscribes and does not listen keeps
/// nothing alive.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TunnelEvent {
    /// A tunnel stands; who the peer is, is not known yet.
    Connected {
        /// The tunnel.
        id: TunnelId,
        /// Which end of it we are.
        side: Side,
        /// Where the peer is, for people.
        remote: Arc<str>,
    },
    /// The peer is known, and the tunnel is in the peer view. Its registration follows.
    Authenticated {
        /// The tunnel.
        id: TunnelId,
        /// What it is called.
        name: TunnelName,
        /// Who the peer has proved to be.
        node: Option<NodeId>,
        /// Which end of it we are.
        side: Side,
    },
    /// The peer was refused, or did not prove itself in time. [`TunnelEvent::Disconnected`] follows.
    AuthenticationFailed {
        /// The tunnel.
        id: TunnelId,
        /// Why.
        failure: AuthenticationFailure,
    },
    /// The registry refused the tunnel, which goes on unregistered. A slow registry may say so when the tunnel is gone.
    RegistrationFailed {
        /// The tunnel.
        id: TunnelId,
        /// What it is called.
        name: TunnelName,
        /// Why.
        error: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The tunnel has ended and is no longer in the peer view. Follows every [`TunnelEvent::Connected`].
    Disconnected {
        /// The tunnel.
        id: TunnelId,
        /// What it was called, if it ever had a name.
        name: Option<TunnelName>,
        /// Who the peer had proved to be, if the tunnel was authenticated.
        node: Option<NodeId>,
        /// Why.
        closed: Closed,
    },
}

impl TunnelEvent {
    /// The tunnel that it is about.
    pub fn id(&self) -> TunnelId {
        match self {
            Self::Connected { id, .. }
            | Self::Authenticated { id, .. }
            | Self::AuthenticationFailed { id, .. }
            | Self::RegistrationFailed { id, .. }
            | Self::Disconnected { id, .. } => *id,
        }
    }
}

/// How a tunnel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Which end of it we are.
    pub side: Side,
    /// Where the peer is, for people.
    pub remote: Arc<str>,
    /// How far it has come.
    pub phase: TunnelPhase,
}

/// How far a tunnel has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelPhase {
    /// It stands; who the peer is, is not known yet.
    Connected,
    /// The peer is known.
    Authenticated {
        /// What the tunnel is called.
        name: TunnelName,
        /// Who the peer has proved to be.
        node: Option<NodeId>,
        /// Whether the registry has refused it.
        refused: bool,
    },
    /// The peer is not accepted; the tunnel is about to end.
    Refused,
}

/// All tunnels of a daemon, authenticated or not, as its events tell of them.
pub type TunnelTable = BTreeMap<TunnelId, TunnelStatus>;

impl Published for TunnelEvent {
    type State = TunnelTable;
    type Key = TunnelId;
    /// Nothing when the tunnel has ended.
    type Latest = Option<TunnelStatus>;

    fn apply(&self, table: &mut TunnelTable) {
        match self {
            Self::Connected { id, side, remote } => {
                let (side, remote) = (*side, Arc::clone(remote));
                table.insert(*id, TunnelStatus { side, remote, phase: TunnelPhase::Connected });
            }
            Self::Authenticated { id, name, node, .. } => {
                let phase = TunnelPhase::Authenticated { name: name.clone(), node: *node, refused: false };
                table.entry(*id).and_modify(|status| status.phase = phase);
            }
            Self::AuthenticationFailed { id, .. } => {
                table.entry(*id).and_modify(|status| status.phase = TunnelPhase::Refused);
            }
            Self::RegistrationFailed { id, .. } => {
                table.entry(*id).and_modify(|status| {
                    if let TunnelPhase::Authenticated { refused, .. } = &mut status.phase {
                        *refused = true;
                    }
                });
            }
            Self::Disconnected { id, .. } => {
                table.remove(id);
            }
        }
    }

    fn latest(&self, table: &TunnelTable) -> Option<(TunnelId, Option<TunnelStatus>)> {
        Some((self.id(), table.get(&self.id()).cloned()))
    }
}
