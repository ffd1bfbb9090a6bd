//! Whom a node trusts, and how that changes while it runs: invitations, revocations, new certificates.

mod door;
mod follow;
mod invitations;
mod policies;
mod recheck;
mod renewal;
mod revocations;
mod terms;
#[cfg(test)]
mod testing;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;

use super::NodeConfig;
use super::data_dir::{CaSource, DataDirError, NodeFiles, Trust};
use super::files::FileError;
use crate::auth::{
    CaError, CredentialsError, DenyList, Identity, MeshCa, Policy, PolicyError, Revocation, SECRET_LEN,
    SignPolicyError, SignedPolicy, Token, guest_door_tls,
};
use crate::clock::WallClock;
use crate::crdt::Value;
use crate::id::NodeId;
use crate::mesh::{CommandError, MeshHandle, Written};
use crate::replica::Address;
use crate::time::UnixMillis;
use crate::tunnel::quic::{BindError, Guest, QuicEndpoint};

pub(super) use door::keep_door;
pub(super) use invitations::Invitations;
pub(super) use policies::Policies;
pub(super) use recheck::{Newcomers, ShowService, keep_checked};
pub(super) use renewal::{RenewalService, keep_certificate};
pub(super) use revocations::Revocations;
pub(super) use terms::{Terms, TermsError};

/// The longest that an invitation holds: after that it is forgotten rather than kept secret.
pub(super) const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a node knows of keys: its own, its mesh's, and those that it refuses.
#[derive(Debug)]
pub(super) struct Keys {
    files: NodeFiles,
    source: Mutex<CaSource>,
    identity: Identity,
    mesh: NodeId,
    endpoint: QuicEndpoint,
    denied: DenyList,
    trust: Mutex<Trust>,
    invitations: Invitations,
    addresses: Vec<Address>,
    /// How long the certificates hold that this node signs.
    validity: Mutex<Duration>,
    /// Told whenever there is another certificate.
    changed: Notify,
    /// Held while the policy is changed, so that no change is made of an earlier one.
    deciding: tokio::sync::Mutex<()>,
    is_door_open: AtomicBool,
}

/// The node could not do with its keys what was asked. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum KeysError {
    /// It does not have the key of the mesh's authority.
    #[error("this node does not have the key of the mesh's authority")]
    NoAuthority,
    /// Nobody could come: it advertises no address.
    #[error("this node advertises no address that an invitation could name")]
    NoAddress,
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory's certificates do not serve.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The certificates do not serve for TLS.
    #[error("the certificates cannot be used")]
    Credentials(#[from] CredentialsError),
    /// The node's own key cannot sign.
    #[error(transparent)]
    Identity(crate::auth::IdentityError),
    /// What was given as the next certificate ends no later than the present one.
    #[error("the certificate that was given ends no later than the present one")]
    NoLater,
    /// The endpoint does not take them.
    #[error(transparent)]
    Endpoint(#[from] BindError),
    /// The authority cannot sign.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The mesh did not take the write.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The policy is not legal.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// What an invitation should give is not legal.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// Another policy holds than the one that was to be replaced.
    #[error("the policy that holds is number {holds}, not {expected}: somebody has changed it meanwhile")]
    Changed {
        /// The number of the one that holds.
        holds: u64,
        /// The number that was expected.
        expected: u64,
    },
    /// A node does not revoke itself.
    #[error("a node does not revoke itself: let another one do it, or stop it and remove its key")]
    Itself,
    /// There are as many invitations as there may be.
    #[error("there are {} invitations already", Invitations::MAX)]
    TooMany,
}

impl From<SignPolicyError> for KeysError {
    fn from(error: SignPolicyError) -> Self {
        match error {
            SignPolicyError::Policy(error) => error.into(),
            SignPolicyError::Authority(error) => error.into(),
        }
    }
}

impl Keys {
    pub(super) fn new(
        files: NodeFiles,
        config: &NodeConfig,
        trust: Trust,
        endpoint: QuicEndpoint,
        addresses: Vec<Address>,
    ) -> Result<Self, FileError> {
        Ok(Self {
            invitations: Invitations::open(files.file("invitations.json"))?,
            files,
            source: Mutex::new(config.ca.clone()),
            identity: trust.credentials.identity.clone(),
            mesh: trust.mesh,
            endpoint,
            denied: trust.credentials.denied.clone(),
            trust: Mutex::new(trust),
            addresses,
            validity: Mutex::new(config.certificate_validity),
            changed: Notify::new(),
            deciding: tokio::sync::Mutex::default(),
            is_door_open: AtomicBool::new(false),
        })
    }

    /// The nodes that are refused.
    pub(super) fn denied(&self) -> &DenyList {
        &self.denied
    }

    /// How long the certificates hold that this node signs.
    pub(super) fn validity(&self) -> Duration {
        *self.validity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs certificates for so long from now on; its own too, at once, if it has the authority's key.
    pub(super) fn set_validity(&self, validity: Duration) -> Result<(), KeysError> {
        *self.validity.lock().unwrap_or_else(PoisonError::into_inner) = validity;
        if self.authority().is_some() { self.reload() } else { Ok(()) }
    }

    /// When this node's certificate ends.
    pub(super) fn certificate_expires_at(&self) -> Option<UnixMillis> {
        self.trust().credentials.certificate_expires_at()
    }

    /// The authority, if this node has its key.
    pub(super) fn authority(&self) -> Option<Arc<MeshCa>> {
        self.trust().authority
    }

    pub(super) fn trust(&self) -> Trust {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets guests in, if this node can make nodes of them and does not yet.
    pub(super) fn open_door(&self) -> Result<Option<tokio::sync::mpsc::Receiver<Guest>>, KeysError> {
        let trust = self.trust();
        if trust.authority.is_none() || self.is_door_open.swap(true, Ordering::Relaxed) {
            return Ok(None);
        }
        Ok(Some(self.endpoint.admit_guests(guest_door_tls(&trust.credentials)?)?))
    }

    /// Where the authority is.
    pub(super) fn source(&self) -> CaSource {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the authority somewhere else from now on: the same one, or nothing changes.
    pub(super) fn set_source(&self, source: CaSource) -> Result<(), KeysError> {
        self.reload_from(&source)?;
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
        Ok(())
    }

    /// Makes an invitation, which gives what the terms say under the policy that holds.
    pub(super) fn invite(
        &self,
        ttl: Duration,
        (uses, terms): (u32, Terms),
        holds: Option<&Policy>,
    ) -> Result<Token, KeysError> {
        if self.authority().is_none() {
            return Err(KeysError::NoAuthority);
        }
        terms.check(holds)?;
        if self.addresses.is_empty() {
            return Err(KeysError::NoAddress);
        }
        let now = WallClock::system().now();
        let ttl = u64::try_from(ttl.min(MAX_TTL).as_millis()).unwrap_or(u64::MAX);
        let expires_at = UnixMillis(now.0.saturating_add(ttl));
        let mut secret = [0; SECRET_LEN];
        SystemRandom::new().fill(&mut secret).expect("the system has randomness once it has booted");
        if !self.invitations.add(&secret, expires_at, (uses, terms), now)? {
            return Err(KeysError::TooMany);
        }
        let mesh = Token::fingerprint(self.mesh);
        Ok(Token { mesh, secret, expires_at, addresses: self.addresses.clone() })
    }

    /// Reads the certificates again, or makes a new one where the authority's key is at hand. Connections to come use
    /// them; those that stand are not touched.
    pub(super) fn reload(&self) -> Result<(), KeysError> {
        self.reload_from(&self.source())
    }

    fn reload_from(&self, source: &CaSource) -> Result<(), KeysError> {
        let mut trust = self.files.trust(&self.identity, source, self.validity())?;
        trust.credentials.denied = self.denied.clone();
        self.show(&trust)?;
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = trust;
        self.changed.notify_one();
        tracing::info!("certificates reloaded");
        Ok(())
    }

    /// Shows the certificate from now on, to members and to guests.
    fn show(&self, trust: &Trust) -> Result<(), KeysError> {
        let tls = trust.credentials.tls()?;
        if trust.authority.is_some() {
            self.endpoint.renew_guest_tls(guest_door_tls(&trust.credentials)?)?;
        }
        Ok(self.endpoint.replace_tls(tls)?)
    }

    /// Takes the certificate that another node signed. Connections to come use it; those that stand are not touched.
    fn install(&self, certificate: &str) -> Result<(), KeysError> {
        let mut trust = self.trust();
        let present =
            std::mem::replace(&mut trust.credentials, self.files.certified(&self.identity, certificate)?);
        trust.credentials.denied = self.denied.clone();
        trust.credentials.authorities.clone_from(&present.authorities);
        trust.credentials.verify()?;
        if trust.credentials.certificate_expires_at() <= present.certificate_expires_at() {
            return Err(KeysError::NoLater);
        }
        self.files.keep_certificate(certificate)?;
        self.show(&trust)?;
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = trust;
        Ok(())
    }

    /// Revokes a node everywhere. Says whether that is new.
    pub(super) async fn revoke(
        &self,
        mesh: &MeshHandle,
        node: NodeId,
        reason: String,
    ) -> Result<Written, KeysError> {
        let authority = self.authority().ok_or(KeysError::NoAuthority)?;
        if node == self.identity.node_id() {
            return Err(KeysError::Itself);
        }
        if self.denied.contains(node) {
            return Ok(Written::Unchanged);
        }
        let revocation = Revocation { node, at: WallClock::system().now(), reason };
        let proof = revocation.sign(&authority)?;
        let proof = Value::try_from(&proof[..]).expect("a revocation is shorter than a value");
        Ok(mesh.revoke(node, proof).await?)
    }

    /// Makes a policy hold on all nodes, in place of the one with the number `expected` if that is said.
    pub(super) async fn set_policy(
        &self,
        mesh: &MeshHandle,
        policy: Policy,
        expected: Option<u64>,
    ) -> Result<SignedPolicy, KeysError> {
        let _deciding = self.deciding.lock().await;
        self.decide(mesh, policy, expected).await
    }

    /// Gives a node what an invitation promised: rights first, so that it never has less than it was promised once it
    /// can come.
    pub(super) async fn grant(
        &self,
        mesh: &MeshHandle,
        node: NodeId,
        terms: &Terms,
    ) -> Result<(), KeysError> {
        if terms.give_rights() {
            let _deciding = self.deciding.lock().await;
            let holds = mesh.access().policy().map(|signed| signed.policy);
            // What nobody has said is that everybody may.
            let mut policy = holds.unwrap_or_else(|| Policy { open: true, ..Policy::default() });
            terms.grant(&mut policy, node)?;
            self.decide(mesh, policy, None).await?;
        }
        for (key, value) in terms.attributes_of(node)? {
            mesh.set(key, value).await?;
        }
        Ok(())
    }

    async fn decide(
        &self,
        mesh: &MeshHandle,
        policy: Policy,
        expected: Option<u64>,
    ) -> Result<SignedPolicy, KeysError> {
        let authority = self.authority().ok_or(KeysError::NoAuthority)?;
        let holds = mesh.access().policy();
        let number = holds.as_ref().map_or(0, |holds| holds.serial);
        if let Some(expected) = expected.filter(|expected| *expected != number) {
            return Err(KeysError::Changed { holds: number, expected });
        }
        if let Some(same) = holds.filter(|holds| holds.policy == policy) {
            return Ok(same);
        }
        let now = WallClock::system().now();
        let signed = SignedPolicy::sign(&authority, number.saturating_add(1), now, policy)?;
        mesh.decree(signed.proof().clone()).await?;
        // The keeper writes it down; that it holds here need not wait for that.
        mesh.access().adopt(&signed);
        Ok(signed)
    }
}
