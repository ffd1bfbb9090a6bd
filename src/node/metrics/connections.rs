//! Connections to other nodes, as they come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::daemon::{Peer, TunnelObserver};
use crate::tunnel::{CloseReason, Closed, Side};

/// How many there were.
#[derive(Debug, Default)]
pub(in crate::node) struct Connections(Mutex<Counts>);

/// Those that were authenticated, by who called, and those that ended, by why.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) connects: BTreeMap<&'static str, u64>,
    pub(super) disconnects: BTreeMap<&'static str, u64>,
}

/// Counts the connections of a daemon.
#[derive(Debug)]
pub(in crate::node) struct Observer(pub(in crate::node) Arc<Connections>);

impl Connections {
    pub(super) fn read(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TunnelObserver for Observer {
    fn joined(&self, peer: &Peer) {
        let direction = match peer.side {
            Side::Connect => "out",
            Side::Listen => "in",
        };
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.connects.entry(direction).or_default() += 1;
    }

    fn left(&self, _: &Peer, closed: &Closed) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.disconnects.entry(reason_of(closed)).or_default() += 1;
    }
}

fn reason_of(closed: &Closed) -> &'static str {
    match closed {
        Closed::Locally(reason) | Closed::ByPeer(reason) => match reason {
            CloseReason::Dropped => "dropped",
            CloseReason::ShuttingDown => "shutting_down",
            CloseReason::Unauthenticated => "unauthenticated",
            CloseReason::TooManyTunnels => "too_many_tunnels",
            CloseReason::ProtocolViolation => "protocol_violation",
            CloseReason::Superseded => "superseded",
            CloseReason::Denied => "denied",
            CloseReason::Requested => "requested",
            CloseReason::Unresponsive => "unresponsive",
            CloseReason::Expired => "expired",
            CloseReason::Application(_) => "application",
        },
        Closed::TimedOut => "timed_out",
        Closed::PeerRestarted => "peer_restarted",
        Closed::Transport { .. } => "transport",
    }
}
