//! Where Redis is and how to use it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use redis::RedisError;

use crate::id::NodeId;

/// What a [`RedisTunnelRegistry`](super::RedisTunnelRegistry) is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://[USER@]HOST:PORT[/DB]`, with TLS `rediss://…`: the server, or some nodes of the cluster. A password does
    /// not belong here, where it would be shown, but into `password_file`.
    pub urls: Vec<String>,
    /// Whether that is one server or a cluster.
    pub topology: RedisTopology,
    /// What all keys begin with. Registries with different prefixes do not see each other.
    pub prefix: String,
    /// The node that holds what is registered here, for those who look it up.
    pub holder: Option<NodeId>,
    /// How long a registration outlives its process: 1 s to 1 h. Short loses registrations when the network stutters,
    /// long shows tunnels that are gone.
    pub lease: Duration,
    /// How long a connection and an answer may take.
    pub timeout: Duration,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Certificates, for `rediss://`.
    pub tls: RedisTls,
}

/// What a Redis URL leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisTopology {
    /// One server.
    Server,
    /// A Redis Cluster.
    Cluster,
}

/// Files in PEM for connections by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisTls {
    /// The authority that the servers' certificates are from; without it those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The certificate to show, and its private key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A registry in Redis cannot be had. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisConfigError {
    /// There is no URL, or for a single server more than one.
    #[error("a Redis server has one URL, a cluster at least one")]
    Urls,
    /// The prefix would break the keys' hash tags.
    #[error("a Redis prefix has at most 64 printable characters of ASCII and no braces")]
    Prefix,
    /// The lease is too short to be renewed or too long to be any good.
    #[error("a Redis lease is between 1 s and 1 h")]
    Lease,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The URL or a certificate is not legal, nobody answers there, or refuses.
    #[error("no connection to Redis")]
    Connect(#[from] RedisError),
}

impl RedisConfig {
    /// A single server, and defaults for the rest.
    pub fn server(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            topology: RedisTopology::Server,
            prefix: "snomesh:".into(),
            holder: None,
            lease: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            password_file: None,
            tls: RedisTls::default(),
        }
    }

    /// A cluster, of which some nodes are known, and defaults for the rest.
    pub fn cluster(urls: impl IntoIterator<Item = String>) -> Self {
        let urls = urls.into_iter().collect();
        Self { urls, topology: RedisTopology::Cluster, ..Self::server("") }
    }

    pub(super) fn validate(&self) -> Result<&Self, RedisConfigError> {
        let urls = match self.topology {
            RedisTopology::Server => self.urls.len() == 1,
            RedisTopology::Cluster => !self.urls.is_empty(),
        };
        let legal = |byte: u8| byte.is_ascii_graphic() && byte != b'{' && byte != b'}';
        if !urls {
            Err(RedisConfigError::Urls)
        } else if self.prefix.len() > 64 || !self.prefix.bytes().all(legal) {
            Err(RedisConfigError::Prefix)
        } else if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&self.lease) {
            Err(RedisConfigError::Lease)
        } else {
            Ok(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_told_apart() {
        let good = RedisConfig::server("redis://127.0.0.1");
        assert!(good.validate().is_ok());
        let refused = |config: RedisConfig| config.validate().unwrap_err();
        assert!(matches!(refused(RedisConfig::cluster([])), RedisConfigError::Urls));
        let prefix = "a{b".to_owned();
        assert!(matches!(refused(RedisConfig { prefix, ..good.clone() }), RedisConfigError::Prefix));
        let lease = Duration::from_millis(999);
        assert!(matches!(refused(RedisConfig { lease, ..good }), RedisConfigError::Lease));
    }
}
