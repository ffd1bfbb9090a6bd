//! A request for a certificate: a key, and the proof that whoever asks has it.

use rcgen::{CertificateParams, CertificateSigningRequestParams};

use super::{CaError, Identity, IdentityError, MeshCa, NodeCertificate, Validity};
use crate::codec::{Malformed, Reader, Writer};

/// The longest request, in bytes of DER.
const MAX_LEN: usize = 4_096;
/// The version of everything that is asked with one.
const VERSION: u8 = 1;

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

    /// The bytes of what is asked with it: the version, what else there is to say, and the request.
    pub(super) fn encode(&self, more: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.byte(VERSION);
        writer.raw(more);
        writer.bytes(&self.der);
        writer.finish()
    }

    /// Reads what was asked, and what else was said of so many bytes.
    pub(super) fn decode<const MORE: usize>(bytes: &[u8]) -> Result<([u8; MORE], Self), Malformed> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            VERSION => {}
            tag => return Err(Malformed::Unknown { what: "version of a request", tag: tag.into() }),
        }
        let more = reader.array()?;
        let der = reader.bytes(MAX_LEN, "a certificate request")?.to_vec();
        reader.finish()?;
        Ok((more, Self { der }))
    }

    /// Signs what is asked for: the key, and nothing else that the request says.
    pub(super) fn sign(&self, ca: &MeshCa, validity: Validity) -> Result<NodeCertificate, CaError> {
        let request = CertificateSigningRequestParams::from_der(&self.der.as_slice().into());
        ca.sign_key(&request.map_err(CaError::Request)?.public_key, validity)
    }
}
