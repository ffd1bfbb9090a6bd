//! Randomness of a run: everything that the product would ask the system for is drawn from the seed.
//!
//! `rustls` and `quinn` draw from a cryptographic provider that is a static of the process, so the source is one of
//! the thread, on which nothing else runs meanwhile. The key exchange is X25519 by another library, because the
//! provider's own asks the kernel; everything else is the provider that the product uses. Nothing here is secret.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;

use rand::Rng;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup, ring,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::random::{Generator, Seed};

thread_local! {
    static SOURCE: RefCell<Option<Generator>> = const { RefCell::new(None) };
}

/// While it lives, this thread has randomness, and all of it comes from one seed.
#[derive(Debug)]
pub(super) struct Seeded {
    /// What is given to a thread is taken from the same thread.
    _thread: PhantomData<*const ()>,
}

impl Seeded {
    pub(super) fn with(seed: Seed) -> Self {
        SOURCE.set(Some(seed.generator("entropy", &[])));
        Self { _thread: PhantomData }
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        SOURCE.set(None);
    }
}

/// The product's provider of cryptography, without any randomness but the seed's.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: vec![&X25519], secure_random: &Entropy, ..ring::default_provider() })
}

/// Eight random bytes.
pub(super) fn number() -> u64 {
    let mut bytes = [0; 8];
    Entropy.fill(&mut bytes).expect("only runs draw, and a run has randomness");
    u64::from_le_bytes(bytes)
}

#[derive(Debug)]
struct Entropy;

impl SecureRandom for Entropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        SOURCE
            .with_borrow_mut(|source| source.as_mut().map(|source| source.fill_bytes(bytes)))
            .ok_or(GetRandomFailed)
    }
}

#[derive(Debug)]
struct X25519;

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        Entropy.fill(&mut secret)?;
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer.try_into().map_err(|_other_length| PeerMisbehaved::InvalidKeyShare)?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(peer));
        if !shared.was_contributory() {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(shared.as_bytes().as_slice()))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_is_the_seed_s_and_there_is_none_outside_a_run() {
        let draw = |seed| {
            let _seeded = Seeded::with(Seed(seed));
            (number(), number())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(Entropy.fill(&mut [0; 4]).is_err());
    }

    /// The vectors of RFC 7748, section 6.1.
    #[test]
    fn the_key_exchange_is_x25519() {
        let bytes = |hex: &str| -> [u8; 32] {
            let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
            std::array::from_fn(byte)
        };
        let secret =
            StaticSecret::from(bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        let exchange = Box::new(Exchange { public: PublicKey::from(&secret), secret });
        assert_eq!(
            exchange.pub_key(),
            bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        let alice = bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let shared = exchange.complete(&alice).unwrap();
        assert_eq!(
            shared.secret_bytes(),
            bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
        );
    }

    #[test]
    fn a_key_share_that_is_none_is_refused() {
        let exchange = || {
            let secret = StaticSecret::from([7; 32]);
            Box::new(Exchange { public: PublicKey::from(&secret), secret })
        };
        assert!(exchange().complete(&[0; 32]).is_err());
        assert!(exchange().complete(&[1; 31]).is_err());
    }
}
