//! Makes the policy of the mesh's authority hold: what the mesh says, checked, remembered, and put back.
//!
//! As with revocations, anybody can write to the replicated state, and what counts is the signature. Of all policies that
//! a node has ever seen proved the greatest holds; it is kept in a file too, and put back if somebody removes it or
//! writes an earlier one over it. So all nodes come to hold the same.

use std::path::PathBuf;
use std::time::Duration;

use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::follow::{Next, next};
use crate::auth::{Access, DecreeError, SignedPolicy};
use crate::crdt::Value;
use crate::gossip::Event;
use crate::mesh::{MeshHandle, Stopped};
use crate::node::files::{self, FileError};

/// How often a policy is put back at most.
const RESTORE_INTERVAL: Duration = Duration::from_secs(30);

/// The policy that a node has seen proved.
#[derive(Debug)]
pub(in crate::node) struct Policies {
    path: PathBuf,
    authorities: Vec<CertificateDer<'static>>,
    access: Access,
    restored_at: Option<Instant>,
}

impl Policies {
    /// Reads the one that was known before, so that it holds while the mesh is not heard yet.
    pub(in crate::node) fn open(
        path: PathBuf,
        authorities: Vec<CertificateDer<'static>>,
        access: Access,
    ) -> Result<Self, FileError> {
        if let Some(text) = files::read(&path)? {
            let bytes = BASE64.decode(text.trim().as_bytes()).unwrap_or_default();
            let proved = Value::try_from(&bytes[..]).ok();
            match proved.and_then(|proof| SignedPolicy::verify(&proof, &authorities).ok()) {
                Some(signed) => drop(access.adopt(&signed)),
                None => {
                    tracing::warn!(path = %path.display(), "what is kept there is no policy of this mesh");
                }
            }
        }
        Ok(Self { path, authorities, access, restored_at: None })
    }

    /// Takes what the mesh says now, and goes on to hold what it knows better.
    pub(in crate::node) async fn read(&mut self, mesh: &MeshHandle) -> Result<(), Stopped> {
        let found = mesh.view(|mesh| mesh.replica().policies()).await?;
        self.learn(&found);
        Ok(())
    }

    /// Follows the mesh until the node stops.
    pub(in crate::node) async fn keep(mut self, mesh: MeshHandle, stop: CancellationToken) {
        let mut events = mesh.subscribe();
        loop {
            let Ok(found) = mesh.view(|mesh| mesh.replica().policies()).await else { return };
            if self.learn(&found) == Finding::Lacking {
                self.restore(&mesh).await;
            }
            let is_policy = |event: &Event| matches!(event, Event::Policy).then_some(());
            tokio::select! {
                () = stop.cancelled() => return,
                event = next(&mut events, is_policy) => if matches!(event, Next::End) { return },
                // Whoever removes it again and again is answered again and again, if not at once.
                () = rested(self.restored_at) => self.restored_at = None,
            }
        }
    }

    /// Takes what the state says.
    fn learn(&mut self, found: &[Value]) -> Finding {
        let mut finding = Finding::Lacking;
        for proof in found {
            match SignedPolicy::verify(proof, &self.authorities) {
                Ok(signed) => {
                    if self.access.adopt(&signed) {
                        tracing::info!(serial = signed.serial, "the mesh's policy holds from now on");
                        self.remember(&signed);
                    }
                    if self.access.policy().is_some_and(|holds| holds.proof() == proof) {
                        finding = Finding::Holds;
                    }
                }
                Err(DecreeError::Malformed(error)) => {
                    // The authority's, and not for this version: what is known goes on to hold, and stands in its way
                    // nowhere else.
                    tracing::warn!(%error, "a policy of the authority is not understood by this version");
                    finding = Finding::Holds;
                }
                Err(error) => tracing::warn!(%error, "somebody states a policy and does not prove it"),
            }
        }
        if self.access.policy().is_none() { Finding::Holds } else { finding }
    }

    /// Puts back what somebody removed.
    async fn restore(&mut self, mesh: &MeshHandle) {
        let Some(signed) = self.access.policy().filter(|_| self.restored_at.is_none()) else { return };
        self.restored_at = Some(Instant::now());
        if let Err(error) = mesh.decree(signed.proof().clone()).await {
            tracing::warn!(%error, "the mesh's policy cannot be put back");
        }
    }

    fn remember(&self, signed: &SignedPolicy) {
        let text = BASE64.encode(signed.proof().as_bytes()) + "\n";
        if let Err(error) = files::write(&self.path, &text, 0o600) {
            tracing::error!(%error, "the mesh's policy cannot be written down");
        }
    }
}

/// What was found in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// What holds stands there, or there is none.
    Holds,
    /// It does not.
    Lacking,
}

async fn rested(restored_at: Option<Instant>) {
    match restored_at {
        Some(at) => tokio::time::sleep_until(at + RESTORE_INTERVAL).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Act, MeshCa, Policy};
    use crate::id::NodeId;
    use crate::node::trust::testing::mesh;
    use crate::time::UnixMillis;

    fn ca() -> MeshCa {
        MeshCa::create("mesh", Duration::from_secs(365 * 24 * 60 * 60)).unwrap()
    }

    fn signed(ca: &MeshCa, serial: u64, open: bool) -> SignedPolicy {
        SignedPolicy::sign(ca, serial, UnixMillis(1), Policy { open, ..Policy::default() }).unwrap()
    }

    fn open(path: PathBuf, ca: &MeshCa, access: &Access) -> Policies {
        Policies::open(path, vec![ca.certificate().clone()], access.clone()).unwrap()
    }

    /// FEATURES P5.
    #[tokio::test]
    async fn the_authoritys_greatest_policy_holds_and_no_other_ever_does() {
        let (ours, other) = (ca(), ca());
        let directory = tempfile::tempdir().unwrap();
        let (path, access) = (directory.path().join("policy"), Access::default());
        let permits = |access: &Access| {
            access.permits(NodeId::from_bytes([1; 32]), Act::Connect, &"web".parse().unwrap())
        };
        let mut policies = open(path.clone(), &ours, &access);
        assert_eq!(policies.learn(&[]), Finding::Holds, "nothing is said, and nothing is to be put back");
        // A forged one, however great.
        assert_eq!(policies.learn(&[signed(&other, 99, false).proof().clone()]), Finding::Holds);
        assert!(permits(&access) && !path.exists());

        let (first, second) = (signed(&ours, 1, true), signed(&ours, 2, false));
        assert_eq!(policies.learn(&[second.proof().clone()]), Finding::Holds);
        assert!(!permits(&access));
        // An earlier one of the authority's own, and a forged one over it.
        assert_eq!(policies.learn(&[first.proof().clone()]), Finding::Lacking);
        assert_eq!(policies.learn(&[signed(&other, 3, true).proof().clone()]), Finding::Lacking);
        assert_eq!(policies.learn(&[]), Finding::Lacking, "removed");
        assert!(!permits(&access));

        // A restart knows it before the mesh is heard, and puts back what is not in the state.
        let access = Access::default();
        let mut again = open(path.clone(), &ours, &access);
        assert!(!permits(&access));
        let mesh = mesh();
        mesh.decree(first.proof().clone()).await.unwrap();
        again.restore(&mesh).await;
        let there = mesh.view(|mesh| mesh.replica().policies()).await.unwrap();
        assert_eq!(there, [second.proof().clone()]);
        // A file that somebody damaged is no policy and stops nothing.
        std::fs::write(&path, "nonsense").unwrap();
        let access = Access::default();
        open(path, &ours, &access);
        assert!(permits(&access));
    }
}
