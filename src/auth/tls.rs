//! TLS between nodes: a chain to the mesh's authority on both sides, and the node that the dialler expects.
//!
//! Names do not matter here, keys do: a dialler that expects a node compares its id with the hash of the public key
//! that the peer proves to have. Resumption is off, because a resumed session skips the verification of the client.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};

use super::identity::Identity;
use crate::clock::WallClock;
use crate::id::NodeId;
use crate::time::UnixMillis;
use crate::tunnel::quic::{ALPN, TlsSettings, certificate_end, expected_node, node_of_certificate};

/// The rest of a [`ServerCertVerifier`] that has `algorithms`: signatures are what they always are.
macro_rules! signatures_by_algorithms {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

pub(super) use signatures_by_algorithms;

/// Nodes that are refused whatever their certificates say. Clones are the same list; changes hold for handshakes to
/// come. Tunnels that stand are for the caller to close.
#[derive(Debug, Clone, Default)]
pub struct DenyList {
    nodes: Arc<RwLock<BTreeSet<NodeId>>>,
}

impl DenyList {
    /// Refuses a node from now on. Says whether that is new.
    pub fn deny(&self, node: NodeId) -> bool {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(node)
    }

    /// No longer refuses a node. Says whether it was refused.
    pub fn pardon(&self, node: NodeId) -> bool {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(&node)
    }

    /// Whether a node is refused.
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }
}

/// What a node shows and whom it trusts.
#[derive(Debug, Clone)]
pub struct MeshCredentials {
    /// The node's key pair.
    pub identity: Identity,
    /// The node's certificate.
    pub certificate: CertificateDer<'static>,
    /// The authorities whose nodes are accepted; more than one while an authority is replaced.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Nodes that are refused nevertheless.
    pub denied: DenyList,
}

/// Credentials that cannot serve. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A certificate is not one in PEM.
    #[error("not a certificate in PEM")]
    Parse(#[source] rustls::pki_types::pem::Error),
    /// The certificate was made for another key.
    #[error("the certificate is not for this identity")]
    OtherNode,
    /// No authority, or one whose certificate cannot be one.
    #[error("unusable authority")]
    Authority(#[source] VerifierBuilderError),
    /// The key, the certificate or an authority does not serve for TLS.
    #[error("unusable credentials")]
    Tls(#[from] Error),
}

impl MeshCredentials {
    /// Puts credentials together from texts in PEM.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Parse`], [`CredentialsError::OtherNode`].
    pub fn from_pem(
        identity: Identity,
        certificate_pem: &str,
        authorities_pem: &str,
    ) -> Result<Self, CredentialsError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(CredentialsError::Parse)?;
        if node_of_certificate(&certificate) != Some(identity.node_id()) {
            return Err(CredentialsError::OtherNode);
        }
        let authorities = CertificateDer::pem_slice_iter(authorities_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(CredentialsError::Parse)?;
        Ok(Self { identity, certificate, authorities, denied: DenyList::default() })
    }

    /// When the node's certificate ends; `None` if it does not say so in a way that is understood.
    pub fn certificate_expires_at(&self) -> Option<UnixMillis> {
        self.certificate_validity().map(|(_, until)| until)
    }

    /// From when until when the node's certificate holds.
    pub fn certificate_validity(&self) -> Option<(UnixMillis, UnixMillis)> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.certificate).ok()?;
        let millis = |seconds: i64| Some(UnixMillis(u64::try_from(seconds).ok()?.saturating_mul(1_000)));
        let validity = parsed.validity();
        Some((millis(validity.not_before.timestamp())?, millis(validity.not_after.timestamp())?))
    }

    /// Whether one of the authorities has signed the certificate and it holds now: whoever asks others for a
    /// certificate looks before it shows it.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Tls`].
    pub fn verify(&self) -> Result<(), CredentialsError> {
        self.verify_signed(&self.certificate)
    }

    /// Whether that is a certificate of a member now: signed by one of the authorities, valid, of a key that is not
    /// refused. Says whose it is and when it ends. That its sender has the key is not shown by that.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Tls`].
    pub fn verify_member(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Result<(NodeId, UnixMillis), CredentialsError> {
        self.verify_signed(certificate)?;
        let node = admitted(&self.denied, certificate)?;
        let end = certificate_end(certificate).ok_or(Error::from(CertificateError::BadEncoding))?;
        Ok((node, end))
    }

    fn verify_signed(&self, certificate: &CertificateDer<'_>) -> Result<(), CredentialsError> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone())?;
        }
        let algorithms = ring::default_provider().signature_verification_algorithms;
        let certificate = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            &[],
            UnixTime::now(),
            algorithms.all,
        )?;
        Ok(())
    }

    /// Makes the settings of an endpoint.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Authority`], [`CredentialsError::Tls`].
    pub fn tls(&self) -> Result<TlsSettings, CredentialsError> {
        self.tls_with(Arc::new(ring::default_provider()), &WallClock::system())
    }

    /// Makes the settings of an endpoint with another implementation of cryptography, which must know TLS 1.3,
    /// Ed25519 and AES-128-GCM, and with another clock to judge certificates by. All randomness of the endpoint
    /// comes from the provider.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Authority`], [`CredentialsError::Tls`].
    pub fn tls_with(
        &self,
        provider: Arc<CryptoProvider>,
        clock: &WallClock,
    ) -> Result<TlsSettings, CredentialsError> {
        let clock: Arc<dyn TimeProvider> = Arc::new(clock.clone());
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone())?;
        }
        let roots = Arc::new(roots);
        Ok(TlsSettings {
            server: self.server(&provider, &clock, &roots)?,
            client: self.client(provider, clock, roots)?,
            secret: self.identity.endpoint_secret(),
        })
    }

    fn server(
        &self,
        provider: &Arc<CryptoProvider>,
        clock: &Arc<dyn TimeProvider>,
        roots: &Arc<RootCertStore>,
    ) -> Result<ServerConfig, CredentialsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            .build()
            .map_err(CredentialsError::Authority)?;
        let verifier = Arc::new(DiallerVerifier { chain, denied: self.denied.clone() });
        let mut config = ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(clock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    fn client(
        &self,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn TimeProvider>,
        roots: Arc<RootCertStore>,
    ) -> Result<ClientConfig, CredentialsError> {
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Arc::new(ListenerVerifier { roots, algorithms, denied: self.denied.clone() });
        let mut config = ClientConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        // The name in the handshake only tells our own verifier whom we expect; it is nobody else's business.
        config.enable_sni = false;
        Ok(config)
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.identity.key().serialize_der()).into()
    }
}

/// Refuses denied nodes, and certificates that have no node.
fn admitted(denied: &DenyList, certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
    let node = node_of_certificate(certificate).ok_or(CertificateError::BadEncoding)?;
    if denied.contains(node) { Err(CertificateError::Revoked.into()) } else { Ok(node) }
}

/// Judges the listening side: chain, purpose, and the node that the dialler expects.
#[derive(Debug)]
struct ListenerVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    denied: DenyList,
}

impl ServerCertVerifier for ListenerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let node = admitted(&self.denied, end_entity)?;
        if expected_node(server_name).is_some_and(|expected| expected != node) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_algorithms!();
}

/// Judges the connecting side: chain and purpose.
#[derive(Debug)]
struct DiallerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    denied: DenyList,
}

impl ClientCertVerifier for DiallerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        admitted(&self.denied, end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::test_mesh::TestMesh;
    use crate::tunnel::TunnelSource;
    use crate::tunnel::quic::{DialError, QuicConfig, QuicEndpoint};

    #[test]
    fn nothing_is_resumed_and_nothing_is_early() {
        let tls = TestMesh::new().credentials().tls().unwrap();
        assert_eq!(tls.server.send_tls13_tickets, 0);
        assert_eq!(tls.server.max_early_data_size, 0);
        assert!(!tls.server.session_storage.can_cache());
        assert!(!tls.server.ticketer.enabled());
        assert!(!tls.client.enable_early_data);
        assert!(!tls.client.enable_sni);
        assert!(!tls.server.key_log.will_log("CLIENT_RANDOM"));
        assert!(!tls.client.key_log.will_log("CLIENT_RANDOM"));
        assert_eq!(tls.server.alpn_protocols, [b"snomesh/1".to_vec()]);
        assert_eq!(tls.client.alpn_protocols, [b"snomesh/1".to_vec()]);
    }

    /// What is valid is judged by the clock that was given, on both sides.
    #[tokio::test]
    async fn a_certificate_that_is_not_valid_yet_by_the_own_clock_is_refused() {
        let mesh = TestMesh::new();
        let past = WallClock::reading(|| UnixMillis(1_000_000_000_000));
        let endpoint = |clock: &WallClock| {
            let tls = mesh.credentials().tls_with(Arc::new(ring::default_provider()), clock).unwrap();
            QuicEndpoint::bind("127.0.0.1:0".parse().unwrap(), QuicConfig::default(), tls).unwrap()
        };
        let (behind, right) = (endpoint(&past), endpoint(&WallClock::system()));
        let address = right.local_addr().unwrap();
        let mut incoming = right.incoming();
        tokio::spawn(async move { while incoming.next().await.is_some() {} });
        assert!(endpoint(&WallClock::system()).dial(address, None).await.is_ok());
        let refused = behind.dial(address, None).await.unwrap_err();
        assert!(matches!(refused, DialError::Handshake { .. }), "{refused:?}");
    }

    #[test]
    fn a_certificate_of_another_node_is_refused() {
        let mesh = TestMesh::new();
        let one = mesh.credentials();
        let two = Identity::generate().unwrap();
        let pem = mesh.ca.sign(&one.identity, TestMesh::VALIDITY).unwrap().pem;
        let refused = MeshCredentials::from_pem(two, &pem, mesh.ca.certificate_pem());
        assert!(matches!(refused, Err(CredentialsError::OtherNode)));
    }
}
