//! Names of connections.
//!
//! A node recognises connection ids that it has given out in a former life, because they are hashed with a key that
//! it keeps: it answers their packets with a reset, and those of strangers not at all.

use std::sync::Arc;

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;
use ring::hmac;
use rustls::crypto::SecureRandom;

/// Random bytes of an id: good for 16 million connections at a time.
const NONCE: usize = 3;
/// Bytes of an id in all.
const LEN: usize = 8;
/// What a dialler calls the listener before it knows better: as long as QUIC allows, so that nobody guesses it.
const INITIAL_LEN: usize = 20;

/// Draws ids and recognises them again.
pub(super) struct ConnectionIds {
    key: hmac::Key,
    random: &'static dyn SecureRandom,
}

impl ConnectionIds {
    pub(super) fn new(key: &[u8; 32], random: &'static dyn SecureRandom) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), random }
    }

    fn seal(&self, id: &mut [u8; LEN]) {
        let (nonce, rest) = id.split_at_mut(NONCE);
        rest.copy_from_slice(&hmac::sign(&self.key, nonce).as_ref()[..LEN - NONCE]);
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LEN];
        draw(self.random, &mut id[..NONCE]);
        self.seal(&mut id);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let mut expected = <[u8; LEN]>::try_from(&id[..]).map_err(|_other_length| InvalidCid)?;
        self.seal(&mut expected);
        if id[..] == expected { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Draws what a dialler calls a listener in its first packet.
pub(super) fn initial_ids(random: &'static dyn SecureRandom) -> Arc<dyn Fn() -> ConnectionId + Send + Sync> {
    Arc::new(move || {
        let mut id = [0; INITIAL_LEN];
        draw(random, &mut id);
        ConnectionId::new(&id)
    })
}

/// Fills bytes that nobody can guess.
pub(super) fn draw(random: &dyn SecureRandom, bytes: &mut [u8]) {
    random.fill(bytes).expect("the system has randomness once it has booted");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(key: u8) -> ConnectionIds {
        ConnectionIds::new(&[key; 32], rustls::crypto::ring::default_provider().secure_random)
    }

    #[test]
    fn ids_are_recognised_after_a_restart_and_by_nobody_else() {
        let id = ids(1).generate_cid();
        assert!(ids(1).validate(&id).is_ok());
        assert!(ids(2).validate(&id).is_err());
        assert!(ids(1).validate(&ConnectionId::new(&[1, 2, 3])).is_err());
        assert_ne!(ids(1).generate_cid(), ids(1).generate_cid());
    }
}
