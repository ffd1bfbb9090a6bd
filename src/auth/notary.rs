//! The key pair of a node as the author of what it writes.

use rcgen::{PublicKeyData, SigningKey};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};

use super::Identity;
use crate::crdt::Notary;
use crate::id::NodeId;

/// What stands before the key in an Ed25519 public key (RFC 8410, section 4): a node's id is the hash of both.
const SPKI_HEAD: [u8; 12] = [0x30, 42, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

impl Notary for Identity {
    fn key(&self) -> [u8; 32] {
        self.key().der_bytes().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    fn sign(&self, text: &[u8]) -> [u8; 64] {
        let signature = self.key().sign(text).ok().and_then(|signature| signature.try_into().ok());
        signature.expect("an Ed25519 key signs everything, with 64 bytes")
    }

    fn is_genuine(&self, author: &NodeId, key: &[u8; 32], text: &[u8], signature: &[u8; 64]) -> bool {
        let hash = digest(&SHA256, &[&SPKI_HEAD[..], key].concat());
        hash.as_ref() == author.as_bytes()
            && UnparsedPublicKey::new(&ED25519, key).verify(text, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_that_has_the_key_signs_in_its_name() {
        let (author, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let (key, text) = (Notary::key(&author), b"text");
        let signature = Notary::sign(&author, text);
        let holds = |node: &Identity, key: &[u8; 32], text: &[u8], signature: &[u8; 64]| {
            other.is_genuine(&node.node_id(), key, text, signature)
        };
        assert!(holds(&author, &key, text, &signature));
        assert!(!holds(&other, &key, text, &signature), "of another node");
        assert!(!holds(&author, &Notary::key(&other), text, &Notary::sign(&other, text)), "with another key");
        assert!(!holds(&author, &key, b"another", &signature), "of another text");
        assert!(!holds(&author, &key, text, &Notary::sign(&other, text)), "by another node");
    }
}
