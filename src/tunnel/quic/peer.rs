//! Who is at the other end: node ids of certificates, and how a dialler says whom it expects.

use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::parse_x509_certificate;

use crate::id::NodeId;
use crate::time::UnixMillis;

/// The server name of a dial that takes any node of the mesh. Never sent: the name only tells the verifier.
const ANY_NODE: &str = "any.snomesh";

/// The id of the node whose certificate this is: the hash of its public key, whoever signed it.
///
/// `None` if the bytes are not a certificate.
pub fn node_of_certificate(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let hash = digest(&SHA256, parsed.tbs_certificate.subject_pki.raw);
    <[u8; 32]>::try_from(hash.as_ref()).ok().map(NodeId::from_bytes)
}

/// When a certificate ends to be valid, in seconds since 1970.
///
/// `None` if the bytes are not a certificate.
pub fn certificate_expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// The last moment at which a certificate is valid: it is to the end of its last second.
///
/// `None` if the bytes are not a certificate.
pub fn certificate_end(certificate: &CertificateDer<'_>) -> Option<UnixMillis> {
    let seconds = u64::try_from(certificate_expiry(certificate)?).ok()?;
    Some(UnixMillis(seconds.saturating_mul(1_000).saturating_add(999)))
}

/// The node that a dialler expects, read from the server name that its verifier is given; `None` for any.
pub fn expected_node(name: &ServerName<'_>) -> Option<NodeId> {
    match name {
        ServerName::DnsName(name) => name.as_ref().parse().ok(),
        _ => None,
    }
}

/// The server name that says whom a dialler expects.
pub(super) fn name_of_expected(node: Option<NodeId>) -> String {
    node.map_or_else(|| ANY_NODE.to_owned(), |node| node.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_carries_the_expected_node() {
        for expected in [None, Some(NodeId::from_bytes([7; 32]))] {
            let name = ServerName::try_from(name_of_expected(expected)).unwrap();
            assert_eq!(expected_node(&name), expected);
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_node() {
        assert_eq!(node_of_certificate(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
