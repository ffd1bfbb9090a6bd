//! What the mesh's authority has said, with what proves it: bytes behind which its signature stands.
//!
//! Such bytes are kept in the replicated state, where every node may write. So any node may carry a decree and none may
//! make one up. What a decree is about stands in a label in front of what is signed: a decree of one kind is none of
//! another.

use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use super::{CaError, MeshCa};
use crate::codec::Malformed;

const SIGNATURE_LEN: usize = 64;

/// Bytes are no decree of this mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecreeError {
    /// The bytes do not say what they should.
    #[error("malformed")]
    Malformed(#[from] Malformed),
    /// The mesh's authority has not signed it.
    #[error("not signed by the mesh's authority")]
    Forged,
}

/// Signs a body, and gives it back with the signature behind it.
pub(super) fn sign(ca: &MeshCa, label: &[u8], mut body: Vec<u8>) -> Result<Vec<u8>, CaError> {
    let signature = ca.sign_bytes(&[label, &body].concat())?;
    body.extend(signature);
    Ok(body)
}

/// The body, if one of these authorities has signed it as one of that label.
pub(super) fn verify<'a>(
    bytes: &'a [u8],
    label: &[u8],
    authorities: &[CertificateDer<'_>],
) -> Result<&'a [u8], DecreeError> {
    let (body, signature) = bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or(Malformed::Truncated)?;
    let signed = [label, body].concat();
    let has_signed = |authority: &CertificateDer<'_>| {
        let Ok((_, parsed)) = parse_x509_certificate(authority) else { return false };
        let key = &parsed.tbs_certificate.subject_pki.subject_public_key.data;
        UnparsedPublicKey::new(&ED25519, key).verify(&signed, signature).is_ok()
    };
    if authorities.iter().any(has_signed) { Ok(body) } else { Err(DecreeError::Forged) }
}
