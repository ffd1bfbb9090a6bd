//! TLS of version 0: the server shows a certificate, mostly one that it signed itself; clients show nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::ALPN;
use crate::tunnel::quic::{EndpointSecret, TlsSettings};

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Certificates or keys that do not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompatTlsError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is neither PEM nor DER of what it should be.
    #[error("{} is not {what}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// They do not serve for TLS, or not together.
    #[error("the certificate or its key cannot be used")]
    Tls(#[from] rustls::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Create(#[from] rcgen::Error),
}

fn read(path: &Path) -> Result<Vec<u8>, CompatTlsError> {
    std::fs::read(path).map_err(|source| CompatTlsError::Read { path: path.into(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CompatTlsError> {
    let bytes = read(path)?;
    let pem: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match pem {
        Ok(pem) if !pem.is_empty() => Ok(pem),
        _ if bytes.starts_with(&[0x30]) => Ok(vec![CertificateDer::from(bytes)]),
        _ => Err(CompatTlsError::Parse { path: path.into(), what: "a certificate in PEM or DER" }),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, CompatTlsError> {
    let bytes = read(path)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(_no_pem) if bytes.starts_with(&[0x30]) => Ok(PrivatePkcs8KeyDer::from(bytes).into()),
        Err(_no_pem) => Err(CompatTlsError::Parse { path: path.into(), what: "a private key in PEM or DER" }),
    }
}

/// The settings of a server with this certificate and its key.
///
/// # Errors
///
/// [`CompatTlsError`].
pub fn server_tls(certificate: &Path, key_file: &Path) -> Result<TlsSettings, CompatTlsError> {
    let (chain, key) = (certificates(certificate)?, key(key_file)?);
    let secret = EndpointSecret::new(key.secret_der());
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsSettings { server, client: client_config(chain)?, secret })
}

/// The settings of a client that trusts what this certificate has signed, itself included.
///
/// # Errors
///
/// [`CompatTlsError`].
pub fn client_tls(authority: &Path) -> Result<TlsSettings, CompatTlsError> {
    let authorities = certificates(authority)?;
    // Whoever listens needs a certificate, also if nobody is told to come.
    let own = rcgen::generate_simple_self_signed(vec!["client.invalid".to_owned()])?;
    let own_key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let secret = EndpointSecret::new(own_key.secret_pkcs8_der());
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], own_key.into())?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsSettings { server, client: client_config(authorities)?, secret })
}

fn client_config(authorities: Vec<CertificateDer<'static>>) -> Result<ClientConfig, CompatTlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(client)
}

/// A certificate for `names` that signs itself, and its key, both in PEM.
///
/// # Errors
///
/// [`CompatTlsError::Create`] if a name is none.
pub fn self_signed(names: Vec<String>) -> Result<(String, String), CompatTlsError> {
    let made = rcgen::generate_simple_self_signed(names)?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}
