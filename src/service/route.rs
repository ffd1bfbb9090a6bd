//! Forwarding into tunnels that this daemon holds.

use crate::id::{NodeId, TunnelId, TunnelName};
use crate::tunnel::ArcTunnel;

/// Finds tunnels that this daemon holds at this moment.
pub trait TunnelLookup: Send + Sync {
    /// The tunnel with this id, and its name.
    fn tunnel(&self, id: TunnelId) -> Option<(TunnelName, ArcTunnel)>;

    /// The tunnel that was last given this name.
    fn named(&self, name: &TunnelName) -> Option<ArcTunnel>;

    /// A tunnel to this node.
    fn node(&self, node: NodeId) -> Option<ArcTunnel>;
}
