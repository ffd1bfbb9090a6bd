//! The key pair that a node is.

use std::sync::Arc;

use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
use ring::digest::{SHA256, digest};

use crate::id::NodeId;
use crate::tunnel::quic::EndpointSecret;

/// An Ed25519 key pair. Its public half, hashed, is the node's id; certificates come and go, the id stays.
///
/// Keeping the private half away from others is the business of whoever stores the text.
#[derive(Clone)]
pub struct Identity {
    key: Arc<KeyPair>,
    node: NodeId,
}

/// What stands before the secret in PKCS#8 (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] = [0x30, 46, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A key pair could not be made or read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The system gave no randomness.
    #[error("cannot generate a key")]
    Generate(#[source] rcgen::Error),
    /// The text is not an Ed25519 key in PKCS#8 PEM.
    #[error("not an Ed25519 private key in PEM")]
    Parse(#[source] rcgen::Error),
}

impl Identity {
    /// Makes a new identity.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Generate`].
    pub fn generate() -> Result<Self, IdentityError> {
        KeyPair::generate_for(&PKCS_ED25519).map(Self::of).map_err(IdentityError::Generate)
    }

    /// Makes the identity that has this secret, 32 bytes that nobody can guess (RFC 8032): the same secret is the same
    /// node. For whoever keeps secrets elsewhere than in files.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        let mut pkcs8 = PKCS8_HEAD.to_vec();
        pkcs8.extend(secret);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_ED25519);
        Self::of(key.expect("every 32 bytes are an Ed25519 secret"))
    }

    /// Reads an identity from PEM, as [`Identity::to_pem`] writes it.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Parse`].
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        KeyPair::from_pkcs8_pem_and_sign_algo(text, &PKCS_ED25519).map(Self::of).map_err(IdentityError::Parse)
    }

    fn of(key: KeyPair) -> Self {
        Self { node: node_of_key(&key), key: Arc::new(key) }
    }

    /// The private key as PKCS#8 PEM. Whoever has it is this node.
    pub fn to_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The public key as PEM: what a mesh's authority needs to sign a certificate.
    pub fn public_key_pem(&self) -> String {
        self.key.public_key_pem()
    }

    /// The node that this is.
    pub fn node_id(&self) -> NodeId {
        self.node
    }

    /// The secret from which an endpoint derives its keys.
    pub fn endpoint_secret(&self) -> EndpointSecret {
        EndpointSecret::new(self.key.serialized_der())
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The node whose public key this is.
pub(super) fn node_of_key(key: &impl PublicKeyData) -> NodeId {
    let hash = digest(&SHA256, &key.subject_public_key_info());
    NodeId::from_bytes(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_text() {
        let identity = Identity::generate().unwrap();
        let read = Identity::from_pem(&identity.to_pem()).unwrap();
        assert_eq!(read.node_id(), identity.node_id());
        assert_eq!(read.public_key_pem(), identity.public_key_pem());
    }

    /// The secret and public key of RFC 8032, section 7.1, test 1.
    #[test]
    fn an_identity_is_its_secret() {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let secret = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let identity = Identity::from_secret(&secret.try_into().unwrap());
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert!(identity.key().subject_public_key_info().ends_with(&public));
        assert_eq!(Identity::from_pem(&identity.to_pem()).unwrap().node_id(), identity.node_id());
    }

    #[test]
    fn a_private_key_is_not_printed() {
        let identity = Identity::generate().unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity {{ node: {:?}, .. }}", identity.node_id()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(matches!(Identity::from_pem("nonsense"), Err(IdentityError::Parse(_))));
    }
}
