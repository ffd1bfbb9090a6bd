//! Carries revocations out: what the mesh says of keys, checked, remembered, and held against tunnels that stand.
//!
//! The replicated state says who is revoked, and anybody can write there. What counts is the authority's signature, and
//! what counted once counts for ever: it is kept in a file too, and if somebody removes it from the state it is put
//! back. So the set of revoked nodes grows, on every node, to the same.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use data_encoding::BASE64;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::follow::{Next, next};
use crate::auth::{DenyList, Revocation};
use crate::crdt::Value;
use crate::daemon::PeersView;
use crate::gossip::Event;
use crate::id::NodeId;
use crate::mesh::MeshHandle;
use crate::node::files::{self, FileError};
use crate::tunnel::{CloseReason, TunnelControl};
use rustls::pki_types::CertificateDer;

/// How often tunnels are held against the list, for those whose handshake was under way when it grew.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// How often a revocation that somebody removes is put back at most.
const RESTORE_INTERVAL: Duration = Duration::from_secs(30);

/// The revocations that a node has seen proved.
#[derive(Debug)]
pub(in crate::node) struct Revocations {
    path: PathBuf,
    authorities: Vec<CertificateDer<'static>>,
    denied: DenyList,
    proofs: BTreeMap<NodeId, Value>,
    restored_at: BTreeMap<NodeId, Instant>,
}

impl Revocations {
    /// Reads those that were known before, so that none of these nodes is let in while the mesh is not heard yet.
    pub(in crate::node) fn open(
        path: PathBuf,
        authorities: Vec<CertificateDer<'static>>,
        denied: DenyList,
    ) -> Result<Self, FileError> {
        let (proofs, restored_at) = (BTreeMap::new(), BTreeMap::new());
        let mut revocations = Self { path, authorities, denied, proofs, restored_at };
        let text = files::read(&revocations.path)?.unwrap_or_default();
        for line in text.lines() {
            let proof = BASE64.decode(line.as_bytes()).unwrap_or_default();
            if revocations.learn(&proof).is_none() {
                tracing::warn!(path = %revocations.path.display(), "a line is no revocation of this mesh");
            }
        }
        Ok(revocations)
    }

    /// Takes a proof; gives back the node if it holds and is new.
    fn learn(&mut self, proof: &[u8]) -> Option<Revocation> {
        let revocation = Revocation::verify(proof, &self.authorities).ok()?;
        let value = Value::try_from(proof).ok()?;
        self.denied.deny(revocation.node);
        let is_new = self.proofs.insert(revocation.node, value).is_none();
        is_new.then_some(revocation)
    }

    /// Follows the mesh until the node stops.
    pub(in crate::node) async fn keep(mut self, mesh: MeshHandle, peers: PeersView, stop: CancellationToken) {
        let mut events = mesh.subscribe();
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.read_all(&mesh).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = sweep.tick() => {}
                event = next(&mut events, revoked) => match event {
                    Next::Event(node) => self.read(&mesh, node).await,
                    Next::Everything => self.read_all(&mesh).await,
                    Next::End => return,
                },
            }
            self.close_tunnels(&peers);
        }
    }

    async fn read_all(&mut self, mesh: &MeshHandle) {
        // The mesh has ended: so do we, in a moment.
        let Ok(found) = mesh.view(|mesh| mesh.replica().revocations().collect::<Vec<_>>()).await else {
            return;
        };
        let known: Vec<NodeId> = self.proofs.keys().copied().collect();
        let mut found: BTreeMap<NodeId, Vec<Value>> = found.into_iter().collect();
        for node in known {
            found.entry(node).or_default();
        }
        for (node, proofs) in found {
            self.apply(mesh, node, &proofs).await;
        }
    }

    async fn read(&mut self, mesh: &MeshHandle, node: NodeId) {
        if let Ok(proofs) = mesh.view(move |mesh| mesh.replica().revocations_of(&node)).await {
            self.apply(mesh, node, &proofs).await;
        }
    }

    async fn apply(&mut self, mesh: &MeshHandle, node: NodeId, proofs: &[Value]) {
        let mut holds = false;
        for proof in proofs {
            match Revocation::verify(proof.as_bytes(), &self.authorities) {
                Ok(revocation) if revocation.node == node => holds = true,
                Ok(_) | Err(_) => {
                    tracing::warn!(%node, "somebody says that a node is revoked and does not prove it");
                    continue;
                }
            }
            if let Some(Revocation { reason, .. }) = self.learn(proof.as_bytes()) {
                tracing::warn!(%node, ?reason, "node revoked");
                self.remember();
            }
        }
        if !holds {
            self.restore(mesh, node).await;
        }
    }

    /// Puts back what somebody removed.
    async fn restore(&mut self, mesh: &MeshHandle, node: NodeId) {
        let Some(proof) = self.proofs.get(&node).cloned() else { return };
        let now = Instant::now();
        let rested = self.restored_at.get(&node).is_none_or(|at| now.duration_since(*at) >= RESTORE_INTERVAL);
        if rested {
            self.restored_at.insert(node, now);
            if let Err(error) = mesh.revoke(node, proof).await {
                tracing::warn!(%node, %error, "a revocation cannot be put back");
            }
        }
    }

    fn remember(&self) {
        let text: String = self.proofs.values().map(|proof| BASE64.encode(proof.as_bytes()) + "\n").collect();
        if let Err(error) = files::write(&self.path, &text, 0o600) {
            tracing::error!(%error, "revocations cannot be written down");
        }
    }

    fn close_tunnels(&self, peers: &PeersView) {
        for node in self.proofs.keys() {
            for peer in peers.node(*node) {
                tracing::warn!(%node, tunnel = %peer.id, "tunnel of a revoked node closed");
                peer.tunnel.close(CloseReason::Denied);
            }
        }
    }
}

fn revoked(event: &Event) -> Option<NodeId> {
    if let Event::Revocation { node } = event { Some(*node) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{MeshCa, MeshCredentials};
    use crate::node::trust::testing::mesh;
    use crate::time::UnixMillis;

    fn proof(ca: &MeshCa, node: u8) -> Value {
        let node = NodeId::from_bytes([node; 32]);
        let revocation = Revocation { node, at: UnixMillis(1), reason: String::new() };
        Value::try_from(&revocation.sign(ca).unwrap()[..]).unwrap()
    }

    fn open(path: PathBuf, ca: &MeshCa) -> Revocations {
        Revocations::open(path, vec![ca.certificate().clone()], DenyList::default()).unwrap()
    }

    /// FEATURES B8.
    #[tokio::test]
    async fn what_is_proved_counts_for_ever_and_what_is_not_counts_for_nothing() {
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        let (ca, other) = (MeshCa::create("mesh", year).unwrap(), MeshCa::create("other", year).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("revoked");
        let (mesh, node) = (mesh(), |number: u8| NodeId::from_bytes([number; 32]));
        let mut revocations = open(path.clone(), &ca);
        revocations.apply(&mesh, node(5), &[proof(&other, 5)]).await;
        // A true proof, of somebody else.
        revocations.apply(&mesh, node(6), &[proof(&ca, 7)]).await;
        assert!(![5, 6, 7].iter().any(|number| revocations.denied.contains(node(*number))));

        revocations.apply(&mesh, node(8), &[proof(&other, 8), proof(&ca, 8)]).await;
        assert!(revocations.denied.contains(node(8)));
        // A restart knows it before the mesh is heard, and puts back what is not in the state.
        let mut again = open(path, &ca);
        assert!(again.denied.contains(node(8)));
        again.read_all(&mesh).await;
        let there = mesh.view(move |mesh| mesh.replica().revocations_of(&node(8))).await.unwrap();
        assert_eq!(there, [proof(&ca, 8)]);
    }

    #[test]
    fn credentials_of_the_directory_take_the_list_along() {
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        let ca = MeshCa::create("mesh", year).unwrap();
        let identity = crate::auth::Identity::generate().unwrap();
        let signed = ca.sign(&identity, year).unwrap();
        let credentials = MeshCredentials::from_pem(identity, &signed.pem, ca.certificate_pem()).unwrap();
        let copy = credentials.clone();
        credentials.denied.deny(NodeId::from_bytes([9; 32]));
        assert!(copy.denied.contains(NodeId::from_bytes([9; 32])));
    }
}
