//! The directory of a node: its identity, the certificates by which it is trusted, and how often it has lived.
//!
//! ```text
//! lock           held while a process runs on this directory
//! identity.key   the node's private key; whoever has it is this node
//! ca.crt         the certificate of the mesh's authority
//! ca.key         its private key, if this node may make certificates; whoever has it can make nodes
//! node.crt       the node's certificate, renewed at every start while the authority's key is at hand
//! generation     the number of the node's last life
//! state.redb     the replicated state
//! seeds          where the mesh was found when the node joined it
//! invitations.json  the invitations that are open, without their secrets
//! revoked        the revocations that this node has seen, with their proofs
//! forwards.json  what this node exposes and binds
//! admin.sock     the admin API, while the node runs
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::files::{self, FileError};
use crate::auth::{CaError, CredentialsError, Identity, IdentityError, MeshCa, MeshCredentials};
use crate::id::{Generation, NodeId};
use crate::replica::Address;
use crate::time::UnixMillis;
use crate::tunnel::quic::{certificate_expiry, node_of_certificate};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long an authority holds: a mesh that outlives it has to move its nodes to another one.
const CA_VALIDITY: Duration = YEAR.saturating_mul(10);
/// How long a node's certificate holds, where nobody says so: a node that is away for longer has to be invited again.
pub(super) const NODE_VALIDITY: Duration = YEAR;

/// Where the mesh's authority comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CaSource {
    /// The data directory; made on the first start.
    #[default]
    Own,
    /// Files of another node, or of whoever runs the mesh.
    Files {
        /// The authority's certificate.
        certificate: PathBuf,
        /// The authority's private key, to make this node's certificate with.
        key: Option<PathBuf>,
    },
}

/// How a node proves who it is, and which mesh it belongs to.
#[derive(Debug, Clone)]
pub struct Trust {
    /// For the endpoint.
    pub credentials: MeshCredentials,
    /// The hash of the authority's public key, which names the mesh.
    pub mesh: NodeId,
    /// The authority itself, if its key is at hand.
    pub authority: Option<Arc<MeshCa>>,
}

/// A data directory cannot be used. What is in it is as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// A file cannot be read or written, or is not private.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process runs on it.
    #[error("another snomesh{} runs on {}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, if it left its number.
        pid: Option<u32>,
    },
    /// The system cannot lock it.
    #[error("cannot lock {}", .path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node's key is damaged.
    #[error("{} is not a private key of a node", .path.display())]
    Identity {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: IdentityError,
    },
    /// The authority's files are damaged or do not belong together.
    #[error("{} cannot serve as the mesh's authority", .path.display())]
    Authority {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CaError,
    },
    /// A file that was named does not exist.
    #[error("{} does not exist", .path.display())]
    Missing {
        /// Which one.
        path: PathBuf,
    },
    /// The directory belongs to another mesh than the authority that was named.
    #[error("{} belongs to another mesh than {}", .directory.display(), .certificate.display())]
    OtherMesh {
        /// The directory.
        directory: PathBuf,
        /// The authority's certificate.
        certificate: PathBuf,
    },
    /// There is an authority's key without its certificate: something was removed by hand.
    #[error("{} is there without its certificate ca.crt", .key.display())]
    LoneKey {
        /// The key.
        key: PathBuf,
    },
    /// The node has no certificate, and no authority's key to make one with.
    #[error("this node has no certificate in {}", .path.display())]
    NoCertificate {
        /// Where it would be.
        path: PathBuf,
    },
    /// Certificate, key and authority do not fit together.
    #[error("{} does not fit the node's key or the mesh's authority", .path.display())]
    Credentials {
        /// The node's certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: CredentialsError,
    },
}

impl DataDirError {
    /// What whoever runs the node can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::InUse { .. } => {
                Some("stop it first, or give this node a directory of its own: --data-dir DIR".into())
            }
            Self::Identity { path, .. } => {
                Some(format!("restore {} from a backup, or remove it to become a new node", path.display()))
            }
            Self::Authority { .. } => {
                Some("--ca and --ca-key name ca.crt and ca.key of the same node".into())
            }
            Self::OtherMesh { .. } => Some("use another --data-dir for this mesh".into()),
            Self::LoneKey { key } => Some(format!(
                "restore ca.crt from another node, or remove {} to begin a new mesh",
                key.display()
            )),
            Self::NoCertificate { .. } => {
                Some("start it once with --ca-key FILE, which signs a certificate for this node".into())
            }
            Self::Credentials { path, .. } => {
                Some(format!("remove {} and start once with --ca-key FILE", path.display()))
            }
            Self::Lock { .. } | Self::Missing { .. } => None,
        }
    }
}

/// A node's directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct DataDir {
    files: NodeFiles,
    /// Closing it releases the lock, also when the process is killed.
    _lock: File,
}

impl DataDir {
    /// Takes a directory for this process, making it if there is none.
    ///
    /// # Errors
    ///
    /// [`DataDirError::InUse`] if another process has it, [`DataDirError::File`] if it is not private.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        files::private_directory(path)?;
        let file = path.join("lock");
        let failed = |source| DataDirError::Lock { path: file.clone(), source };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Without a number the message only says less.
                let _unread = lock.read_to_string(&mut pid);
                return Err(DataDirError::InUse { path: path.into(), pid: pid.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        lock.set_len(0).map_err(failed)?;
        writeln!(lock, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { files: NodeFiles { path: path.into() }, _lock: lock })
    }
}

/// Whether a process has the directory, as far as we may know.
pub(super) fn is_locked(path: &Path) -> bool {
    let lock = File::open(path.join("lock"));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

impl Deref for DataDir {
    type Target = NodeFiles;

    fn deref(&self) -> &NodeFiles {
        &self.files
    }
}

/// The files of a node's directory, whoever has it locked.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    path: PathBuf,
}

impl NodeFiles {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mesh that it belongs to, if it belongs to one.
    ///
    /// # Errors
    ///
    /// [`DataDirError::File`], [`DataDirError::Authority`].
    pub fn known_mesh(&self) -> Result<Option<NodeId>, DataDirError> {
        let path = self.file("ca.crt");
        let Some(text) = files::read(&path)? else { return Ok(None) };
        let failed = |source| DataDirError::Authority { path: path.clone(), source };
        let certificate = CertificateDer::from_pem_slice(text.as_bytes());
        let certificate = certificate.map_err(|source| failed(CaError::Certificate(source)))?;
        node_of_certificate(&certificate).ok_or_else(|| failed(CaError::OtherKey)).map(Some)
    }

    /// The certificates of the mesh's authorities, as far as they are known.
    pub(super) fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, DataDirError> {
        let path = self.file("ca.crt");
        let text = files::read(&path)?.unwrap_or_default();
        let read: Result<_, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        read.map_err(|source| DataDirError::Authority { path, source: CaError::Certificate(source) })
    }

    /// The node that it is of, if it is of one already.
    ///
    /// # Errors
    ///
    /// [`DataDirError::File`], [`DataDirError::Identity`].
    pub fn known_node(&self) -> Result<Option<NodeId>, DataDirError> {
        let path = self.file("identity.key");
        let Some(pem) = files::read_secret(&path)? else { return Ok(None) };
        let identity = Identity::from_pem(&pem);
        identity
            .map(|identity| Some(identity.node_id()))
            .map_err(|source| DataDirError::Identity { path, source })
    }

    /// Takes what a node of the mesh gave: from now on the directory is that of a node of that mesh.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Credentials`] if it does not fit together; nothing was changed then.
    pub fn enrol(
        &self,
        identity: &Identity,
        certificate: &str,
        authority: &str,
        seeds: &[Address],
    ) -> Result<(), DataDirError> {
        let path = self.file("node.crt");
        let checked = MeshCredentials::from_pem(identity.clone(), certificate, authority);
        let checked = checked.and_then(|credentials| credentials.tls().map(|_| ()));
        checked.map_err(|source| DataDirError::Credentials { path: path.clone(), source })?;
        let seeds: String = seeds.iter().map(|seed| format!("{seed}\n")).collect();
        files::write(&self.file("seeds"), &seeds, 0o600)?;
        files::write(&path, certificate, 0o644)?;
        // Last: with it the directory belongs to the mesh.
        files::write(&self.file("ca.crt"), authority, 0o644)?;
        Ok(())
    }

    /// The node's credentials with another certificate, not looked at yet beyond whose it is.
    pub(super) fn certified(
        &self,
        identity: &Identity,
        certificate: &str,
    ) -> Result<MeshCredentials, DataDirError> {
        let path = self.file("node.crt");
        let authority = files::read(&self.file("ca.crt"))?.unwrap_or_default();
        MeshCredentials::from_pem(identity.clone(), certificate, &authority)
            .map_err(|source| DataDirError::Credentials { path, source })
    }

    /// Keeps the node's next certificate, for the next start too.
    pub(super) fn keep_certificate(&self, certificate: &str) -> Result<(), FileError> {
        files::write(&self.file("node.crt"), certificate, 0o644)
    }

    /// Where the mesh was found when the node joined it.
    ///
    /// # Errors
    ///
    /// [`DataDirError::File`].
    pub fn seeds(&self) -> Result<Vec<Address>, DataDirError> {
        let text = files::read(&self.file("seeds"))?.unwrap_or_default();
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The certificates that are here: what each is for, and when it ends to be valid, in seconds since 1970.
    pub(super) fn certificates(&self) -> Vec<(&'static str, f64)> {
        let expiry = |name: &str| {
            let pem = files::read(&self.file(name)).ok()??;
            certificate_expiry(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds are exact for millions of years")]
        let known =
            [("node", "node.crt"), ("ca", "ca.crt")].map(|(kind, name)| Some((kind, expiry(name)? as f64)));
        known.into_iter().flatten().collect()
    }

    /// The node's identity, made on the first start.
    ///
    /// # Errors
    ///
    /// [`DataDirError::File`], [`DataDirError::Identity`].
    pub fn identity(&self) -> Result<Identity, DataDirError> {
        let path = self.file("identity.key");
        let damaged = |source| DataDirError::Identity { path: path.clone(), source };
        if let Some(pem) = files::read_secret(&path)? {
            return Identity::from_pem(&pem).map_err(damaged);
        }
        let identity = Identity::generate().map_err(damaged)?;
        files::write(&path, &identity.to_pem(), 0o600)?;
        Ok(identity)
    }

    /// Begins a new life, [after](Generation::after) the last one that the directory knows of and after `known`, whatever
    /// else remembers of earlier lives; durable before it is used.
    ///
    /// # Errors
    ///
    /// [`DataDirError::File`].
    pub fn next_generation(
        &self,
        wall: UnixMillis,
        drawn: u8,
        known: Generation,
    ) -> Result<Generation, DataDirError> {
        let path = self.file("generation");
        let text = files::read(&path)?.unwrap_or_default();
        let last = text.trim().parse().unwrap_or_default();
        let next = Generation::after(known.max(Generation(last)), wall, drawn);
        files::write(&path, &format!("{next}\n"), 0o600)?;
        Ok(next)
    }

    /// The credentials of the node: under the authority of its directory, which is made on the first start, or
    /// under the one that was named, which the directory then remembers. Where its key is at hand the certificate is a
    /// new one, which holds for `validity`.
    ///
    /// # Errors
    ///
    /// Any [`DataDirError`] but [`DataDirError::InUse`].
    pub fn trust(
        &self,
        identity: &Identity,
        source: &CaSource,
        validity: Duration,
    ) -> Result<Trust, DataDirError> {
        let authority = match source {
            CaSource::Own => self.own_authority()?,
            CaSource::Files { certificate, key } => self.named_authority(certificate, key.as_deref())?,
        };
        let path = self.file("node.crt");
        let failed = |source| DataDirError::Authority { path: authority.path.clone(), source };
        let ca = authority.key.as_ref().map(|key| MeshCa::from_pem(&authority.certificate, key)).transpose();
        let ca = ca.map_err(failed)?;
        let certificate = match &ca {
            Some(ca) => {
                let signed = ca.sign(identity, validity).map_err(failed)?;
                files::write(&path, &signed.pem, 0o644)?;
                signed.pem
            }
            None => files::read(&path)?.ok_or_else(|| DataDirError::NoCertificate { path: path.clone() })?,
        };
        let credentials = MeshCredentials::from_pem(identity.clone(), &certificate, &authority.certificate)
            .map_err(|source| DataDirError::Credentials { path, source })?;
        let certificate = CertificateDer::from_pem_slice(authority.certificate.as_bytes());
        let certificate = certificate.map_err(|source| failed(CaError::Certificate(source)))?;
        let mesh = node_of_certificate(&certificate).ok_or_else(|| failed(CaError::OtherKey))?;
        let remembered = self.file("ca.crt");
        if authority.path != remembered {
            files::write(&remembered, &authority.certificate, 0o644)?;
        }
        Ok(Trust { credentials, mesh, authority: ca.map(Arc::new) })
    }

    fn own_authority(&self) -> Result<Authority, DataDirError> {
        let (path, key_path) = (self.file("ca.crt"), self.file("ca.key"));
        let key = files::read_secret(&key_path)?;
        match (files::read(&path)?, key) {
            (Some(certificate), key) => Ok(Authority { path, certificate, key }),
            (None, Some(_)) => Err(DataDirError::LoneKey { key: key_path }),
            (None, None) => {
                let failed = |source| DataDirError::Authority { path: path.clone(), source };
                let ca = MeshCa::create(&authority_name(), CA_VALIDITY).map_err(failed)?;
                files::write(&key_path, &ca.key_pem(), 0o600)?;
                files::write(&path, ca.certificate_pem(), 0o644)?;
                let certificate = ca.certificate_pem().to_owned();
                Ok(Authority { path, certificate, key: Some(ca.key_pem()) })
            }
        }
    }

    fn named_authority(&self, path: &Path, key: Option<&Path>) -> Result<Authority, DataDirError> {
        let missing = |path: &Path| DataDirError::Missing { path: path.into() };
        let certificate = files::read(path)?.ok_or_else(|| missing(path))?;
        let key = key.map(|key| files::read_secret(key)?.ok_or_else(|| missing(key))).transpose()?;
        let known = files::read(&self.file("ca.crt"))?;
        if known.is_some_and(|known| known.trim() != certificate.trim()) {
            return Err(DataDirError::OtherMesh { directory: self.path.clone(), certificate: path.into() });
        }
        Ok(Authority { path: path.into(), certificate, key })
    }
}

/// A name that no other authority has, so that a certificate of another mesh is told from a forged one.
fn authority_name() -> String {
    let mut drawn = [0; 8];
    SystemRandom::new().fill(&mut drawn).expect("the system has randomness once it has booted");
    format!("snomesh {:016x}", u64::from_be_bytes(drawn))
}

/// The texts of an authority.
struct Authority {
    /// The certificate's file.
    path: PathBuf,
    certificate: String,
    key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> DataDir {
        DataDir::open(path).unwrap()
    }

    fn files(certificate: PathBuf, key: Option<PathBuf>) -> CaSource {
        CaSource::Files { certificate, key }
    }

    #[test]
    fn a_node_stays_who_it_is_and_gets_a_new_life_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let first = open(&path);
        let node = first.identity().unwrap().node_id();
        let none = Generation(0);
        let one = first.next_generation(UnixMillis(1_000), 7, none).unwrap();
        assert_eq!(one, Generation((1_000 << 8) | 7));
        drop(first);
        let second = open(&path);
        assert_eq!(second.identity().unwrap().node_id(), node);
        // Wherever the clock is, copies of one directory go on in different lives.
        assert_eq!(second.next_generation(UnixMillis(5), 9, none).unwrap(), Generation((1_001 << 8) | 9));
        std::fs::remove_file(second.file("generation")).unwrap();
        let known = Generation(1 << 50);
        assert_eq!(second.next_generation(UnixMillis(5), 0, known).unwrap(), Generation(known.0 + 256));
        std::fs::remove_file(second.file("generation")).unwrap();
        assert!(second.next_generation(UnixMillis(1_002), 0, none).unwrap().0 > one.0 + 256);
    }

    #[test]
    fn a_second_process_on_the_directory_is_refused_with_the_first_ones_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let held = open(&path);
        let error = DataDir::open(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        open(&path);
    }

    #[test]
    fn two_directories_share_one_authority_and_the_second_remembers_it() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (open(&directory.path().join("a")), open(&directory.path().join("b")));
        let first = a.trust(&a.identity().unwrap(), &CaSource::Own, NODE_VALIDITY).unwrap();
        let identity = b.identity().unwrap();
        let without_key = files(a.file("ca.crt"), None);
        assert!(matches!(
            b.trust(&identity, &without_key, NODE_VALIDITY),
            Err(DataDirError::NoCertificate { .. })
        ));
        let with_key = files(a.file("ca.crt"), Some(a.file("ca.key")));
        assert_eq!(b.trust(&identity, &with_key, NODE_VALIDITY).unwrap().mesh, first.mesh);
        assert!(!b.file("ca.key").exists());
        assert_eq!(b.trust(&identity, &CaSource::Own, NODE_VALIDITY).unwrap().mesh, first.mesh);
        assert_eq!(b.trust(&identity, &without_key, NODE_VALIDITY).unwrap().mesh, first.mesh);
    }

    #[test]
    fn a_directory_of_one_mesh_is_not_taken_to_another() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (open(&directory.path().join("a")), open(&directory.path().join("b")));
        for data in [&a, &b] {
            data.trust(&data.identity().unwrap(), &CaSource::Own, NODE_VALIDITY).unwrap();
        }
        let other = files(a.file("ca.crt"), Some(a.file("ca.key")));
        let refused = b.trust(&b.identity().unwrap(), &other, NODE_VALIDITY);
        assert!(matches!(refused, Err(DataDirError::OtherMesh { .. })));
    }

    #[test]
    fn files_that_do_not_belong_together_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (open(&directory.path().join("a")), open(&directory.path().join("b")));
        let c = open(&directory.path().join("c"));
        for data in [&a, &b] {
            data.trust(&data.identity().unwrap(), &CaSource::Own, NODE_VALIDITY).unwrap();
        }
        let mixed = files(a.file("ca.crt"), Some(b.file("ca.key")));
        let refused = c.trust(&c.identity().unwrap(), &mixed, NODE_VALIDITY);
        assert!(matches!(refused, Err(DataDirError::Authority { source: CaError::OtherKey, .. })));
        let absent = files(a.file("nothing.crt"), None);
        assert!(matches!(
            c.trust(&c.identity().unwrap(), &absent, NODE_VALIDITY),
            Err(DataDirError::Missing { .. })
        ));
        std::fs::remove_file(b.file("ca.crt")).unwrap();
        let refused = b.trust(&b.identity().unwrap(), &CaSource::Own, NODE_VALIDITY);
        assert!(matches!(refused, Err(DataDirError::LoneKey { .. })));
    }
}
