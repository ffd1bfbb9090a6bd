//! The authority of a mesh: signs the certificates by which its nodes know each other.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SigningKey, SubjectPublicKeyInfo,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::identity::{Identity, node_of_key};
use crate::id::NodeId;
use crate::time::UnixMillis;

/// How far back a certificate begins to hold, for nodes whose clocks are behind.
pub(crate) const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// The authority of one mesh: a key pair and a certificate that all nodes trust. Whoever has its key can make nodes.
#[derive(Debug)]
pub struct MeshCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

/// An authority could not be made or read, or could not sign. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The authority's key or certificate could not be made.
    #[error("cannot create the authority")]
    Create(#[source] rcgen::Error),
    /// The authority's certificate is not one in PEM.
    #[error("not a certificate in PEM")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// The authority's key is not an Ed25519 key in PEM.
    #[error("not an Ed25519 private key in PEM")]
    Key(#[source] rcgen::Error),
    /// The key is not the one that the certificate was made for.
    #[error("the certificate is of another key")]
    OtherKey,
    /// The public key of the node is not one in PEM.
    #[error("not a public key in PEM")]
    PublicKey(#[source] rcgen::Error),
    /// The certificate request is none, or its sender does not have the key that it names.
    #[error("not a certificate request, or not signed with its own key")]
    Request(#[source] rcgen::Error),
    /// The certificate could not be signed.
    #[error("cannot sign")]
    Sign(#[source] rcgen::Error),
}

/// From when until when a certificate holds.
///
/// A duration means from now on; certificates hold an hour before that too, for nodes whose clocks are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then.
    pub from: UnixMillis,
    /// Until then.
    pub until: UnixMillis,
}

impl From<Duration> for Validity {
    fn from(duration: Duration) -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = |since: Duration| UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Self {
            from: millis(since_epoch.saturating_sub(BACKDATED)),
            until: millis(since_epoch.saturating_add(duration)),
        }
    }
}

/// A certificate for a node, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Whose it is.
    pub node: NodeId,
    /// The certificate.
    pub pem: String,
}

impl MeshCa {
    /// Makes a new authority. `name` is for people; `validity` bounds the life of the mesh, so let it be years.
    ///
    /// # Errors
    ///
    /// [`CaError::Create`].
    pub fn create(name: &str, validity: impl Into<Validity>) -> Result<Self, CaError> {
        Self::of(KeyPair::generate_for(&PKCS_ED25519).map_err(CaError::Create)?, name, validity.into())
    }

    /// Makes the authority whose key pair this is: the same key, name and validity are the same certificate.
    ///
    /// # Errors
    ///
    /// [`CaError::Create`].
    pub fn with_key(key: &Identity, name: &str, validity: impl Into<Validity>) -> Result<Self, CaError> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&key.to_pem(), &PKCS_ED25519);
        Self::of(key.map_err(CaError::Create)?, name, validity.into())
    }

    fn of(key: KeyPair, name: &str, validity: Validity) -> Result<Self, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, validity);
        let certificate = params.self_signed(&key).map_err(CaError::Create)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority from its certificate and its key.
    ///
    /// # Errors
    ///
    /// [`CaError::Certificate`], [`CaError::Key`], [`CaError::OtherKey`].
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(CaError::Certificate)?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(key_pem, &PKCS_ED25519).map_err(CaError::Key)?;
        let owner = crate::tunnel::quic::node_of_certificate(&certificate);
        if owner != Some(node_of_key(&key)) {
            return Err(CaError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(CaError::Key)?;
        Ok(Self { issuer, certificate, certificate_pem: certificate_pem.to_owned() })
    }

    /// The certificate that nodes trust, in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The certificate that nodes trust.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The private key in PEM.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a certificate for a node whose identity is at hand.
    ///
    /// # Errors
    ///
    /// [`CaError::Sign`].
    pub fn sign(
        &self,
        identity: &Identity,
        validity: impl Into<Validity>,
    ) -> Result<NodeCertificate, CaError> {
        self.sign_key(identity.key(), validity.into())
    }

    /// Signs a certificate for a node that sent us its public key, as [`Identity::public_key_pem`] gives it.
    ///
    /// # Errors
    ///
    /// [`CaError::PublicKey`], [`CaError::Sign`].
    pub fn sign_public_key(
        &self,
        pem: &str,
        validity: impl Into<Validity>,
    ) -> Result<NodeCertificate, CaError> {
        let key = SubjectPublicKeyInfo::from_pem(pem).map_err(CaError::PublicKey)?;
        self.sign_key(&key, validity.into())
    }

    /// Signs bytes that are not a certificate; the caller labels what they are.
    pub(super) fn sign_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>, CaError> {
        self.issuer.key().sign(bytes).map_err(CaError::Sign)
    }

    pub(super) fn sign_key(
        &self,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<NodeCertificate, CaError> {
        let node = node_of_key(key);
        let text = node.to_string();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(text.as_str().try_into().map_err(CaError::Sign)?)];
        params.distinguished_name = named(&text);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, validity);
        let certificate = params.signed_by(key, &self.issuer).map_err(CaError::Sign)?;
        Ok(NodeCertificate { node, pem: certificate.pem() })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn valid_for(params: &mut CertificateParams, validity: Validity) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(validity.from.0);
    params.not_after = epoch + Duration::from_millis(validity.until.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    #[test]
    fn an_authority_survives_its_text_and_signs_for_the_same_node() {
        let ca = MeshCa::create("test mesh", YEAR).unwrap();
        let read = MeshCa::from_pem(ca.certificate_pem(), &ca.key_pem()).unwrap();
        let identity = Identity::generate().unwrap();
        let here = ca.sign(&identity, YEAR).unwrap();
        let there = read.sign_public_key(&identity.public_key_pem(), YEAR).unwrap();
        assert_eq!(here.node, identity.node_id());
        assert_eq!(there.node, identity.node_id());
    }

    #[test]
    fn the_same_key_makes_the_same_authority() {
        let key = Identity::from_secret(&[7; 32]);
        let validity = Validity { from: UnixMillis(0), until: UnixMillis(1_000_000_000_000) };
        let create = || MeshCa::with_key(&key, "mesh", validity).unwrap();
        assert_eq!(create().certificate_pem(), create().certificate_pem());
        let node = Identity::from_secret(&[8; 32]);
        assert_eq!(create().sign(&node, validity).unwrap(), create().sign(&node, validity).unwrap());
    }

    #[test]
    fn an_authority_refuses_the_key_of_another() {
        let ca = MeshCa::create("one", YEAR).unwrap();
        let other = MeshCa::create("two", YEAR).unwrap();
        assert!(matches!(MeshCa::from_pem(ca.certificate_pem(), &other.key_pem()), Err(CaError::OtherKey)));
    }
}
