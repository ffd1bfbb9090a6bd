//! How a machine becomes a node: a secret and a certificate request against a certificate.
//!
//! ```text
//! request  version, 1 | secret, 16 | length | certificate request in DER
//! answer   0 | certificate in PEM | authority in PEM | count × address
//!          1 | refusal, 1
//! ```
//! Lengths and counts are varints. The request proves that its sender has the key that it asks a certificate for.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};

use super::request::CertificateRequest;
use super::tls::signatures_by_algorithms;
use super::token::{MESH_LEN, SECRET_LEN};
use super::{
    CaError, CredentialsError, Identity, IdentityError, MeshCa, MeshCredentials, NodeCertificate, Token,
};
use crate::codec::{Malformed, Reader, Writer};
use crate::replica::Address;
use crate::tunnel::quic::{GUEST_ALPN, node_of_certificate};

const GRANTED: u8 = 0;
const REFUSED: u8 = 1;
const MAX_PEM: usize = 8_192;

/// What a guest asks for.
#[derive(Clone)]
pub struct JoinRequest {
    /// The secret of its invitation.
    pub secret: [u8; SECRET_LEN],
    request: CertificateRequest,
}

/// What a guest is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinAnswer {
    /// It is a node now.
    Granted {
        /// Its certificate, in PEM.
        certificate: String,
        /// The authority's, in PEM.
        authority: String,
        /// Where to find the mesh.
        addresses: Vec<Address>,
    },
    /// It is not.
    Refused(JoinRefusal),
}

/// Why a guest was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// The secret is unknown, used up, or expired; which of them is not told.
    #[error("the invitation is not valid: unknown, used up, or expired")]
    Secret,
    /// The request cannot be read or proves nothing.
    #[error("the node does not understand the request")]
    Request,
    /// The node cannot sign, or cannot make the use of the secret durable.
    #[error("the node cannot sign certificates just now")]
    Unable,
    /// The key was revoked.
    #[error("this node's key was revoked")]
    Revoked,
}

impl JoinRequest {
    /// Asks a certificate for `identity`.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Generate`] if the request cannot be signed.
    pub fn new(secret: [u8; SECRET_LEN], identity: &Identity) -> Result<Self, IdentityError> {
        Ok(Self { secret, request: CertificateRequest::new(identity)? })
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.request.encode(&self.secret)
    }

    /// Reads a request.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the guest's fault.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (secret, request) = CertificateRequest::decode(bytes)?;
        Ok(Self { secret, request })
    }

    /// Signs what is asked for: the key, and nothing else that the request says.
    ///
    /// # Errors
    ///
    /// [`CaError::Request`] if the request does not prove that its sender has the key.
    pub fn sign(&self, ca: &MeshCa, validity: Duration) -> Result<NodeCertificate, CaError> {
        self.request.sign(ca, validity.into())
    }
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest").finish_non_exhaustive()
    }
}

impl JoinAnswer {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::Granted { certificate, authority, addresses } => {
                writer.byte(GRANTED);
                writer.bytes(certificate.as_bytes());
                writer.bytes(authority.as_bytes());
                writer.count(addresses.len());
                for address in addresses {
                    writer.bytes(address.as_str().as_bytes());
                }
            }
            Self::Refused(why) => {
                writer.byte(REFUSED);
                writer.byte(match why {
                    JoinRefusal::Secret => 1,
                    JoinRefusal::Request => 2,
                    JoinRefusal::Unable => 3,
                    JoinRefusal::Revoked => 4,
                });
            }
        }
        writer.finish()
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the node's fault, or a later version's.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let answer = match reader.byte()? {
            GRANTED => {
                let certificate = reader.text(MAX_PEM, "a certificate")?.to_owned();
                let authority = reader.text(MAX_PEM, "a certificate")?.to_owned();
                let mut addresses = Vec::new();
                for _ in 0..reader.count(64, "count of addresses")? {
                    let text = reader.text(255, "an address")?;
                    addresses.push(text.parse().ok().ok_or(Malformed::Illegal { what: "an address" })?);
                }
                Self::Granted { certificate, authority, addresses }
            }
            REFUSED => Self::Refused(match reader.byte()? {
                1 => JoinRefusal::Secret,
                2 => JoinRefusal::Request,
                4 => JoinRefusal::Revoked,
                // A later version may have other reasons.
                _ => JoinRefusal::Unable,
            }),
            tag => return Err(Malformed::Unknown { what: "answer", tag: tag.into() }),
        };
        reader.finish()?;
        Ok(answer)
    }
}

/// The TLS of the door for guests: this node proves that it belongs to the mesh and asks for nothing.
///
/// # Errors
///
/// [`CredentialsError::Tls`].
pub fn guest_door_tls(credentials: &MeshCredentials) -> Result<ServerConfig, CredentialsError> {
    let chain = std::iter::once(&credentials.certificate).chain(&credentials.authorities).cloned().collect();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, credentials.private_key())?;
    config.alpn_protocols = vec![GUEST_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The TLS of a guest: believes whoever belongs to the mesh that its token names, and nobody else.
///
/// # Errors
///
/// [`CredentialsError::Tls`].
pub fn guest_tls(token: &Token) -> Result<ClientConfig, CredentialsError> {
    let algorithms = provider().signature_verification_algorithms;
    let verifier = Pinned { mesh: token.mesh, algorithms };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![GUEST_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Judges a node by the authority that its chain ends with: that one must have the key that the token names, and must
/// have signed the node's certificate.
#[derive(Debug)]
struct Pinned {
    mesh: [u8; MESH_LEN],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_pinned = |certificate: &&CertificateDer<'_>| {
            node_of_certificate(certificate).is_some_and(|found| Token::fingerprint(found) == self.mesh)
        };
        let authority = intermediates.iter().find(is_pinned).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            &[],
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_algorithms!();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::test_mesh::{TestMesh, endpoint_of};
    use crate::time::UnixMillis;
    use crate::tunnel::TunnelSource;
    use crate::tunnel::quic::{AskError, QuicConfig, QuicEndpoint, ask_as_guest};

    fn token(mesh: &TestMesh) -> Token {
        let id = node_of_certificate(mesh.ca.certificate()).unwrap();
        let mesh = Token::fingerprint(id);
        Token { mesh, secret: [7; SECRET_LEN], expires_at: UnixMillis(0), addresses: Vec::new() }
    }

    /// An endpoint whose door answers every guest with what it asked.
    fn echoing(credentials: &MeshCredentials) -> QuicEndpoint {
        let endpoint = endpoint_of(credentials);
        let mut guests = endpoint.admit_guests(guest_door_tls(credentials).unwrap()).unwrap();
        let mut incoming = endpoint.incoming();
        tokio::spawn(async move { incoming.next().await.map(|tunnel| panic!("{tunnel:?}")) });
        tokio::spawn(async move {
            while let Some(guest) = guests.recv().await {
                let request = guest.request.clone();
                guest.answer(&request).await;
            }
        });
        endpoint
    }

    /// FEATURES P6.
    #[tokio::test]
    async fn a_guest_believes_the_mesh_of_its_token_and_no_other() {
        let (mesh, other) = (TestMesh::new(), TestMesh::new());
        let endpoint = echoing(&mesh.credentials());
        let address = endpoint.local_addr().unwrap();
        let answer = ask_as_guest(address, guest_tls(&token(&mesh)).unwrap(), b"hello").await.unwrap();
        assert_eq!(answer, b"hello");
        let refused = ask_as_guest(address, guest_tls(&token(&other)).unwrap(), b"hello").await;
        assert!(matches!(refused, Err(AskError::Refused { .. })), "{refused:?}");
    }

    /// A node of another mesh that shows the right authority's certificate without having been signed by it.
    #[tokio::test]
    async fn a_chain_that_only_shows_the_authority_is_refused() {
        let (mesh, other) = (TestMesh::new(), TestMesh::new());
        let mut impostor = other.credentials();
        impostor.authorities.push(mesh.ca.certificate().clone());
        let endpoint = echoing(&impostor);
        let address = endpoint.local_addr().unwrap();
        let refused = ask_as_guest(address, guest_tls(&token(&mesh)).unwrap(), b"hello").await;
        assert!(matches!(refused, Err(AskError::Refused { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_door_that_is_shut_answers_nobody_and_an_endless_request_is_cut() {
        let mesh = TestMesh::new();
        let shut = endpoint_of(&mesh.credentials());
        let mut incoming = shut.incoming();
        tokio::spawn(async move { incoming.next().await.map(|tunnel| panic!("{tunnel:?}")) });
        let nobody = ask_as_guest(shut.local_addr().unwrap(), guest_tls(&token(&mesh)).unwrap(), b"x").await;
        assert!(matches!(nobody, Err(AskError::TimedOut { .. })), "{nobody:?}");
        let open = echoing(&mesh.credentials());
        let long = vec![0; 40 * 1024];
        let cut = ask_as_guest(open.local_addr().unwrap(), guest_tls(&token(&mesh)).unwrap(), &long).await;
        assert!(matches!(cut, Err(AskError::BrokeOff { .. })), "{cut:?}");
    }

    /// Whoever says that it is a guest passes no door of members.
    #[tokio::test]
    async fn a_guest_with_the_settings_of_a_member_is_no_member() {
        let mesh = TestMesh::new();
        let credentials = mesh.credentials();
        let endpoint = echoing(&credentials);
        let member = mesh.credentials().tls().unwrap().client;
        let refused = ask_as_guest(endpoint.local_addr().unwrap(), member, b"hello").await;
        assert!(matches!(refused, Err(AskError::Refused { .. })), "{refused:?}");
        let stranger = TestMesh::new().credentials().tls().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let stranger = QuicEndpoint::bind(any, QuicConfig::default(), stranger).unwrap();
        assert!(stranger.dial(endpoint.local_addr().unwrap(), None).await.is_err());
    }

    #[test]
    fn a_request_is_signed_for_the_key_that_it_proves() {
        let (mesh, identity) = (TestMesh::new(), Identity::generate().unwrap());
        let request = JoinRequest::new([3; SECRET_LEN], &identity).unwrap();
        let read = JoinRequest::decode(&request.encode()).unwrap();
        assert_eq!(read.secret, [3; SECRET_LEN]);
        let signed = read.sign(&mesh.ca, TestMesh::VALIDITY).unwrap();
        assert_eq!(signed.node, identity.node_id());
        MeshCredentials::from_pem(identity, &signed.pem, mesh.ca.certificate_pem()).unwrap().tls().unwrap();
        // A request whose signature is not that of its key.
        let mut forged = request;
        *forged.request.der.last_mut().unwrap() ^= 1;
        assert!(matches!(forged.sign(&mesh.ca, TestMesh::VALIDITY), Err(CaError::Request(_))));
    }

    #[test]
    fn answers_survive_their_bytes() {
        let addresses = vec!["192.0.2.1:7667".parse().unwrap()];
        let granted = JoinAnswer::Granted { certificate: "c".into(), authority: "a".into(), addresses };
        let refused = [JoinRefusal::Secret, JoinRefusal::Request, JoinRefusal::Unable, JoinRefusal::Revoked];
        for answer in refused.map(JoinAnswer::Refused).into_iter().chain([granted]) {
            assert_eq!(JoinAnswer::decode(&answer.encode()), Ok(answer));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _answer = JoinAnswer::decode(&bytes);
            if let Ok(request) = JoinRequest::decode(&bytes) {
                let mesh = TestMesh::new();
                let _signed = request.sign(&mesh.ca, TestMesh::VALIDITY);
            }
        }
    }
}
