//! A mesh for tests: one authority and as many nodes as a test asks for.

use std::time::Duration;

use super::{Identity, MeshCa, MeshCredentials};
use crate::tunnel::quic::{QuicConfig, QuicEndpoint};

pub(crate) struct TestMesh {
    pub(crate) ca: MeshCa,
}

impl TestMesh {
    pub(crate) const VALIDITY: Duration = Duration::from_secs(60 * 60);

    pub(crate) fn new() -> Self {
        Self { ca: MeshCa::create("test mesh", Self::VALIDITY).unwrap() }
    }

    pub(crate) fn credentials(&self) -> MeshCredentials {
        self.credentials_of(Identity::generate().unwrap())
    }

    pub(crate) fn credentials_of(&self, identity: Identity) -> MeshCredentials {
        let signed = self.ca.sign(&identity, Self::VALIDITY).unwrap();
        MeshCredentials::from_pem(identity, &signed.pem, self.ca.certificate_pem()).unwrap()
    }
}

pub(crate) fn endpoint_of(credentials: &MeshCredentials) -> QuicEndpoint {
    let any_port = "127.0.0.1:0".parse().unwrap();
    QuicEndpoint::bind(any_port, QuicConfig::default(), credentials.tls().unwrap()).unwrap()
}
