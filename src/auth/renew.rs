//! How a node gets its next certificate, from a node that has the authority's key, over the tunnel between them.
//!
//! ```text
//! request  version, 1 | length | certificate request in DER
//! answer   that of a join, without addresses
//! ```
//! The tunnel proves who asks, the request that it still has the key. A certificate is signed for that node alone, so
//! that a member cannot make members.

use super::request::CertificateRequest;
use super::{CaError, Identity, IdentityError, MeshCa, NodeCertificate, Validity};
use crate::codec::Malformed;
use crate::id::NodeId;

/// What a node asks for before its certificate ends.
#[derive(Clone)]
pub struct RenewalRequest {
    request: CertificateRequest,
}

/// A request is not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewalError {
    /// It is for another key than that of whoever asks: it does not understand us, or it is an enemy.
    #[error("the request is for {node}, who does not ask")]
    OtherNode {
        /// Whose key it is.
        node: NodeId,
    },
    /// It proves nothing, or the authority cannot sign.
    #[error(transparent)]
    Authority(#[from] CaError),
}

impl RenewalRequest {
    /// The longest request, in bytes.
    pub const MAX_LEN: usize = 4_200;

    /// Asks a certificate for `identity`.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Generate`] if the request cannot be signed.
    pub fn new(identity: &Identity) -> Result<Self, IdentityError> {
        Ok(Self { request: CertificateRequest::new(identity)? })
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.request.encode(&[])
    }

    /// Reads a request.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the fault of whoever asks.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let ([], request) = CertificateRequest::decode(bytes)?;
        Ok(Self { request })
    }

    /// Signs the key of the node that asks.
    ///
    /// # Errors
    ///
    /// [`RenewalError`].
    pub fn sign(
        &self,
        asking: NodeId,
        ca: &MeshCa,
        validity: impl Into<Validity>,
    ) -> Result<NodeCertificate, RenewalError> {
        let signed = self.request.sign(ca, validity.into())?;
        if signed.node != asking {
            return Err(RenewalError::OtherNode { node: signed.node });
        }
        Ok(signed)
    }
}

impl std::fmt::Debug for RenewalRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RenewalRequest").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::MeshCredentials;
    use crate::auth::test_mesh::TestMesh;

    /// A member that asks for a key that is not its own would make a member of whoever has that key.
    #[test]
    fn a_node_gets_a_certificate_for_itself_and_for_nobody_else() {
        let (mesh, one, other) =
            (TestMesh::new(), Identity::generate().unwrap(), Identity::generate().unwrap());
        let request = RenewalRequest::decode(&RenewalRequest::new(&one).unwrap().encode()).unwrap();
        let signed = request.sign(one.node_id(), &mesh.ca, TestMesh::VALIDITY).unwrap();
        let renewed = MeshCredentials::from_pem(one.clone(), &signed.pem, mesh.ca.certificate_pem()).unwrap();
        renewed.verify().unwrap();
        let refused = request.sign(other.node_id(), &mesh.ca, TestMesh::VALIDITY);
        assert!(
            matches!(refused, Err(RenewalError::OtherNode { node }) if node == one.node_id()),
            "{refused:?}"
        );
        // What another authority signs is no certificate of this mesh.
        let foreign = request.sign(one.node_id(), &TestMesh::new().ca, TestMesh::VALIDITY).unwrap();
        let foreign = MeshCredentials::from_pem(one, &foreign.pem, mesh.ca.certificate_pem()).unwrap();
        assert!(foreign.verify().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_stranger_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = RenewalRequest::decode(&bytes) {
                let mesh = TestMesh::new();
                prop_assert!(request.sign(NodeId::from_bytes([0; 32]), &mesh.ca, TestMesh::VALIDITY).is_err());
            }
        }
    }
}
