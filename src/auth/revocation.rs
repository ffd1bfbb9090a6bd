//! That a node is no longer one, said by the mesh's authority and proved to everybody who reads it.
//!
//! ```text
//! version, 1 | node, 32 | when, 8 | length | reason | signature, 64
//! ```
//! The signature is the authority's, over all before it behind a label. So any node may carry a revocation and none may
//! make one up; and it speaks of a key, so that no other certificate for that key helps.

use rustls::pki_types::CertificateDer;

use super::{CaError, DecreeError, MeshCa, decree};
use crate::codec::{Malformed, Reader, Writer};
use crate::id::NodeId;
use crate::time::UnixMillis;

const VERSION: u8 = 1;
const LABEL: &[u8] = b"snomesh revocation 1\0";

/// A node's key is not to be believed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose.
    pub node: NodeId,
    /// Since when.
    pub at: UnixMillis,
    /// Why, for people: at most [`Revocation::MAX_REASON`] bytes.
    pub reason: String,
}

impl Revocation {
    /// The longest reason, in bytes.
    pub const MAX_REASON: usize = 256;

    /// Signs it.
    ///
    /// # Errors
    ///
    /// [`CaError::Sign`].
    pub fn sign(&self, ca: &MeshCa) -> Result<Vec<u8>, CaError> {
        let mut writer = Writer::new();
        writer.byte(VERSION);
        writer.raw(self.node.as_bytes());
        writer.fixed64(self.at.0);
        writer.bytes(self.reason.as_bytes());
        decree::sign(ca, LABEL, writer.finish())
    }

    /// Reads one, if one of these authorities has signed it.
    ///
    /// # Errors
    ///
    /// [`DecreeError`]: whoever wrote it is wrong, or an enemy. It says nothing.
    pub fn verify(bytes: &[u8], authorities: &[CertificateDer<'_>]) -> Result<Self, DecreeError> {
        let mut reader = Reader::new(decree::verify(bytes, LABEL, authorities)?);
        match reader.byte()? {
            VERSION => {}
            tag => return Err(Malformed::Unknown { what: "version of a revocation", tag: tag.into() }.into()),
        }
        let (node, at) = (NodeId::from_bytes(reader.array()?), UnixMillis(reader.fixed64()?));
        let reason = reader.text(Self::MAX_REASON, "a reason")?.to_owned();
        reader.finish()?;
        Ok(Self { node, at, reason })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::test_mesh::TestMesh;

    /// FEATURES B8, P5.
    #[test]
    fn only_the_meshs_authority_revokes() {
        let (mesh, other) = (TestMesh::new(), TestMesh::new());
        let revocation =
            Revocation { node: NodeId::from_bytes([5; 32]), at: UnixMillis(7), reason: "stolen".into() };
        let signed = revocation.sign(&mesh.ca).unwrap();
        let authorities = [other.ca.certificate().clone(), mesh.ca.certificate().clone()];
        assert_eq!(Revocation::verify(&signed, &authorities), Ok(revocation));
        assert_eq!(Revocation::verify(&signed, &authorities[..1]), Err(DecreeError::Forged));
        for at in 0..signed.len() {
            let mut forged = signed.clone();
            forged[at] ^= 1;
            assert_eq!(Revocation::verify(&forged, &authorities), Err(DecreeError::Forged), "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mesh = TestMesh::new();
            let _read = Revocation::verify(&bytes, &[mesh.ca.certificate().clone()]);
        }
    }
}
