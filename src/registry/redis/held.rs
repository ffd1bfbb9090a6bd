//! What this process has registered and has to renew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::RedisIdentifier;

/// One registration: where it stands among those of its name, and what it says.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) order: u64,
    pub(super) record: Vec<u8>,
}

/// A claim, which is nothing once it was given up.
type Slot = Arc<tokio::sync::Mutex<Option<Claim>>>;

/// All claims, each behind a lock of its own: while one is being renewed it cannot be given up, so that no renewal
/// arrives after the removal.
#[derive(Debug, Default)]
pub(super) struct Held {
    claims: Mutex<HashMap<RedisIdentifier, Slot>>,
}

/// A claim that nobody else renews or gives up meanwhile.
pub(super) struct Locked {
    guard: OwnedMutexGuard<Option<Claim>>,
}

impl std::ops::Deref for Locked {
    type Target = Claim;

    fn deref(&self) -> &Claim {
        self.guard.as_ref().expect("only claims that are there are locked")
    }
}

impl Held {
    fn claims(&self) -> MutexGuard<'_, HashMap<RedisIdentifier, Slot>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.claims().len()
    }

    pub(super) fn all(&self) -> Vec<RedisIdentifier> {
        self.claims().keys().cloned().collect()
    }

    pub(super) fn insert(&self, identifier: RedisIdentifier, claim: Claim) {
        self.claims().insert(identifier, Arc::new(tokio::sync::Mutex::new(Some(claim))));
    }

    /// Waits for a claim, unless it is given up.
    pub(super) async fn lock(&self, identifier: &RedisIdentifier) -> Option<Locked> {
        let slot = self.claims().get(identifier).cloned()?;
        let guard = slot.lock_owned().await;
        guard.is_some().then_some(Locked { guard })
    }

    /// Gives a claim up, after whoever is renewing it.
    pub(super) async fn remove(&self, identifier: &RedisIdentifier) -> Option<Claim> {
        let slot = self.claims().remove(identifier)?;
        let mut claim = slot.lock().await;
        claim.take()
    }
}
