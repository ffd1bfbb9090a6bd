//! The tunnels that this daemon holds now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

use crate::id::{NodeId, TunnelId, TunnelName};
use crate::service::TunnelLookup;
use crate::tunnel::{ArcTunnel, Side};

/// An authenticated tunnel and what is known of its peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Which tunnel.
    pub id: TunnelId,
    /// What it is called.
    pub name: TunnelName,
    /// Who the peer has proved to be, if its transport proves anything.
    pub node: Option<NodeId>,
    /// Which end of it we are.
    pub side: Side,
    /// What the peer told of itself when it authenticated.
    pub attributes: Arc<HashMap<String, Vec<u8>>>,
    /// The tunnel itself.
    pub tunnel: ArcTunnel,
}

/// The tunnels that a daemon holds: always exactly those that are authenticated and have not ended.
///
/// Read-only and cheap to clone. What it gives out are copies; a [`Peer`] keeps its tunnel's memory, but the daemon
/// closes the tunnel whoever has a copy.
#[derive(Debug, Clone, Default)]
pub struct PeersView {
    table: Arc<Table>,
}

/// The maps are changed one after the other under `writer`; readers tolerate an index that is ahead or behind.
#[derive(Debug, Default)]
struct Table {
    writer: Mutex<()>,
    peers: DashMap<TunnelId, Peer>,
    /// In the order in which they were named.
    names: DashMap<TunnelName, Vec<TunnelId>>,
    nodes: DashMap<NodeId, Vec<TunnelId>>,
}

impl PeersView {
    /// The tunnel with this id.
    pub fn tunnel(&self, id: TunnelId) -> Option<Peer> {
        self.table.peers.get(&id).map(|peer| peer.clone())
    }

    /// The tunnel that was last given this name.
    pub fn named(&self, name: &TunnelName) -> Option<Peer> {
        self.all_named(name).into_iter().next()
    }

    /// All tunnels of this name, the last named first.
    pub fn all_named(&self, name: &TunnelName) -> Vec<Peer> {
        let ids = self.table.names.get(name).map(|ids| ids.clone());
        self.resolve(ids)
    }

    /// All tunnels to this node, the last one first, and behind them those that are retired.
    pub fn node(&self, node: NodeId) -> Vec<Peer> {
        let ids = self.table.nodes.get(&node).map(|ids| ids.clone());
        let mut peers = self.resolve(ids);
        peers.sort_by_key(|peer| peer.tunnel.is_retired());
        peers
    }

    /// All tunnels, in the order of their ids.
    pub fn all(&self) -> Vec<Peer> {
        let mut peers: Vec<_> = self.table.peers.iter().map(|peer| peer.clone()).collect();
        peers.sort_unstable_by_key(|peer| peer.id);
        peers
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.peers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.peers.is_empty()
    }

    fn resolve(&self, ids: Option<Vec<TunnelId>>) -> Vec<Peer> {
        ids.into_iter().flatten().rev().filter_map(|id| self.tunnel(id)).collect()
    }

    /// Adds a tunnel, unless its peer has `max_per_node` already.
    pub(super) fn insert(&self, peer: &Peer, max_per_node: usize) -> bool {
        let table = &self.table;
        let _writer = table.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = peer.node {
            let mut ids = table.nodes.entry(node).or_default();
            if ids.len() >= max_per_node {
                return false;
            }
            ids.push(peer.id);
        }
        table.peers.insert(peer.id, peer.clone());
        table.names.entry(peer.name.clone()).or_default().push(peer.id);
        true
    }

    pub(super) fn remove(&self, id: TunnelId) -> Option<Peer> {
        let table = &self.table;
        let _writer = table.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, peer) = table.peers.remove(&id)?;
        strike(&table.names, &peer.name, id);
        if let Some(node) = peer.node {
            strike(&table.nodes, &node, id);
        }
        Some(peer)
    }
}

/// Takes an id out of an index, and the index's key with its last one.
fn strike<K: Eq + std::hash::Hash>(index: &DashMap<K, Vec<TunnelId>>, key: &K, id: TunnelId) {
    index.remove_if_mut(key, |_, ids| {
        ids.retain(|&other| other != id);
        ids.is_empty()
    });
}

impl TunnelLookup for PeersView {
    fn tunnel(&self, id: TunnelId) -> Option<(TunnelName, ArcTunnel)> {
        Self::tunnel(self, id).map(|peer| (peer.name, peer.tunnel))
    }

    fn named(&self, name: &TunnelName) -> Option<ArcTunnel> {
        Self::named(self, name).map(|peer| peer.tunnel)
    }

    fn node(&self, node: NodeId) -> Option<ArcTunnel> {
        Self::node(self, node).into_iter().next().map(|peer| peer.tunnel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::duplex::DuplexTunnel;

    fn peer(id: u64, name: &str, node: u8) -> Peer {
        Peer {
            id: TunnelId(id),
            name: name.parse().unwrap(),
            node: Some(NodeId::from_bytes([node; 32])),
            side: Side::Connect,
            attributes: Arc::default(),
            tunnel: ArcTunnel::new(DuplexTunnel::pair().0),
        }
    }

    fn ids(peers: &[Peer]) -> Vec<u64> {
        peers.iter().map(|peer| peer.id.0).collect()
    }

    /// FEATURES S11.
    #[test]
    fn the_last_named_comes_first_and_the_one_before_reappears() {
        let view = PeersView::default();
        let web = "web".parse().unwrap();
        for id in [3, 1, 2] {
            assert!(view.insert(&peer(id, "web", 1), 9));
        }
        assert_eq!(ids(&view.all_named(&web)), [2, 1, 3]);
        assert_eq!(ids(&view.all()), [1, 2, 3]);
        view.remove(TunnelId(2));
        assert_eq!(view.named(&web).unwrap().id, TunnelId(1));
        assert_eq!(ids(&view.node(NodeId::from_bytes([1; 32]))), [1, 3]);
        view.remove(TunnelId(1));
        view.remove(TunnelId(3));
        assert!(view.named(&web).is_none());
        assert!(view.is_empty());
        assert!(view.table.names.is_empty() && view.table.nodes.is_empty());
    }

    #[test]
    fn a_node_has_only_so_many_tunnels() {
        let view = PeersView::default();
        assert!(view.insert(&peer(1, "a", 1), 1));
        assert!(!view.insert(&peer(2, "b", 1), 1));
        assert!(view.insert(&peer(3, "c", 2), 1));
        assert_eq!(ids(&view.all()), [1, 3]);
    }
}
