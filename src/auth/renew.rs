//! How a node gets its next certificate, from a node that has the authority's key, over the tunnel between them.
//!
//! ```text
//! request  version, 1 | length | certificate request in DER
//! answer   that of a join, without addresses
//! ```
//! The tunnel proves who asks, the request that it still has the key. A certificate is signed for that node alone, so
//! that a member cannot make members.

use rustls::pki_types::CertificateDer;

use super::request::CertificateRequest;
use super::{
    CaError, CredentialsError, Identity, IdentityError, MeshCa, MeshCredentials, NodeCertificate, Validity,
};
use crate::codec::{Malformed, Reader, Writer};
use crate::id::NodeId;

/// What a node asks for before its certificate ends.
#[derive(Clone)]
pub struct RenewalRequest {
    request: CertificateRequest,
}

/// What a node asks for that is not linked with one that has the authority's key: others pass it on.
///
/// ```text
/// length | certificate in DER | version, 1 | length | certificate request in DER
/// ```
/// No tunnel proves who asks. The certificate does: it is a member's, and still valid, and the request proves that its
/// sender has that very key. So whoever passes it on can make no member of anybody, and learns nothing worth having.
#[derive(Clone)]
pub struct PassedRenewal {
    certificate: CertificateDer<'static>,
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
    /// The certificate that came with it is no member's, has ended, or is of a key that is refused.
    #[error("the certificate that came with it is no member's")]
    Member(#[from] CredentialsError),
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

impl PassedRenewal {
    /// The longest request, in bytes.
    pub const MAX_LEN: usize = 8_400;
    /// The longest certificate in it, in bytes.
    const MAX_CERTIFICATE: usize = 4_096;

    /// Asks the next certificate for a node with these credentials.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Generate`] if the request cannot be signed.
    pub fn new(credentials: &MeshCredentials) -> Result<Self, IdentityError> {
        let request = CertificateRequest::new(&credentials.identity)?;
        Ok(Self { certificate: credentials.certificate.clone(), request })
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.bytes(&self.certificate);
        writer.raw(&self.request.encode(&[]));
        writer.finish()
    }

    /// Reads a request.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the fault of whoever asks.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let certificate = reader.bytes(Self::MAX_CERTIFICATE, "a certificate")?;
        let rest = &bytes[bytes.len() - reader.remaining()..];
        let ([], request) = CertificateRequest::decode(rest)?;
        Ok(Self { certificate: certificate.to_vec().into(), request })
    }

    /// Whose certificate it came with, if it is a member's, as `credentials` judge members.
    ///
    /// # Errors
    ///
    /// [`RenewalError::Member`].
    pub fn member(&self, credentials: &MeshCredentials) -> Result<NodeId, RenewalError> {
        Ok(credentials.verify_member(&self.certificate)?.0)
    }

    /// Signs the key of the member that asks, as `credentials` judge members.
    ///
    /// # Errors
    ///
    /// [`RenewalError`].
    pub fn sign(
        &self,
        credentials: &MeshCredentials,
        ca: &MeshCa,
        validity: impl Into<Validity>,
    ) -> Result<NodeCertificate, RenewalError> {
        let member = self.member(credentials)?;
        let signed = self.request.sign(ca, validity.into())?;
        if signed.node != member {
            return Err(RenewalError::OtherNode { node: signed.node });
        }
        Ok(signed)
    }
}

impl std::fmt::Debug for PassedRenewal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassedRenewal").finish_non_exhaustive()
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
    use crate::auth::test_mesh::TestMesh;
    use crate::time::UnixMillis;

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

    /// FEATURES P5: whoever passes a request on proves nothing by that, so the request does.
    #[test]
    fn a_request_that_was_passed_on_is_that_of_a_member_or_of_nobody() {
        let mesh = TestMesh::new();
        let (asking, judging, other) = (mesh.credentials(), mesh.credentials(), mesh.credentials());
        let request = PassedRenewal::decode(&PassedRenewal::new(&asking).unwrap().encode()).unwrap();
        let sign = |request: &PassedRenewal| request.sign(&judging, &mesh.ca, TestMesh::VALIDITY);
        assert_eq!(sign(&request).unwrap().node, asking.identity.node_id());
        // The certificate of one and the key of another: a member that makes members.
        let stolen = PassedRenewal { certificate: other.certificate.clone(), ..request.clone() };
        assert!(matches!(sign(&stolen), Err(RenewalError::OtherNode { .. })));
        let stranger = PassedRenewal::new(&TestMesh::new().credentials()).unwrap();
        assert!(matches!(sign(&stranger), Err(RenewalError::Member(_))));
        let ended = Validity { from: UnixMillis(0), until: UnixMillis(1_000) };
        let ended = mesh.ca.sign(&asking.identity, ended).unwrap();
        let ended = MeshCredentials::from_pem(asking.identity.clone(), &ended.pem, mesh.ca.certificate_pem());
        assert!(matches!(sign(&PassedRenewal::new(&ended.unwrap()).unwrap()), Err(RenewalError::Member(_))));
        judging.denied.deny(asking.identity.node_id());
        assert!(matches!(sign(&request), Err(RenewalError::Member(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_stranger_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _request = PassedRenewal::decode(&bytes);
            if let Ok(request) = RenewalRequest::decode(&bytes) {
                let mesh = TestMesh::new();
                prop_assert!(request.sign(NodeId::from_bytes([0; 32]), &mesh.ca, TestMesh::VALIDITY).is_err());
            }
        }
    }
}
