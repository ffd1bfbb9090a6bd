//! A request for a certificate: a key, and the proof that whoever asks has it.

use rcgen::{CertificateParams, CertificateSigningRequestParams};

use super::{CaError, Identity, IdentityError, MeshCa, NodeCertificate, Validity};
use crate::codec::{Malformed, Reader, Writer};

/// The longest request, in bytes of DER.
const MAX_LEN: usize = 4_096;

/// A request in the form of PKCS #10, signed by the key that it asks a certificate for.
#[derive(Clone)]
pub(super) struct CertificateRequest {
    pub(super) der: Vec<u8>,
}

impl CertificateRequest {
    pub(super) fn new(identity: &Identity) -> Result<Self, IdentityError> {
        let request = CertificateParams::default()
            .serialize_request(identity.key())
            .map_err(IdentityError::Generate)?;
        Ok(Self { der: request.der().to_vec() })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.der);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { der: reader.bytes(MAX_LEN, "a certificate request")?.to_vec() })
    }

    /// Signs what is asked for: the key, and nothing else that the request says.
    pub(super) fn sign(&self, ca: &MeshCa, validity: Validity) -> Result<NodeCertificate, CaError> {
        let request = CertificateSigningRequestParams::from_der(&self.der.as_slice().into());
        ca.sign_key(&request.map_err(CaError::Request)?.public_key, validity)
    }
}
