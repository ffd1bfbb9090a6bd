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
