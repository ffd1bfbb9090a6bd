//! Targets: the local services that a node declares, by name. Who opens a stream names one of them, never an address.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::id::{TunnelId, TunnelName};

/// How long a target may take to be resolved and connected to: less than its opener waits, so that it learns why.
pub const TARGET_TIMEOUT: Duration = Duration::from_secs(4);

/// Addresses at which clouds tell secrets to whoever asks, beyond the link-local ones.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Where a local service is: `host:port`, the host a name or an address, IPv6 in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    host: String,
    port: u16,
}

/// A text is not a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a target is host:port, with a port from 1 to 65535 and IPv6 addresses in brackets")]
pub struct ParseTargetError;

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(ParseTargetError)?;
        let port = port.parse::<u16>().ok().filter(|&port| port > 0).ok_or(ParseTargetError)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let legal = match bracketed {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => {
                let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                !host.is_empty() && host.len() <= 253 && host.bytes().all(label)
            }
        };
        let host = bracketed.unwrap_or(host).to_owned();
        if legal { Ok(Self { host, port }) } else { Err(ParseTargetError) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A target was not connected to. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialTargetError {
    /// Its host has no address.
    #[error("cannot resolve {target}")]
    Resolve {
        /// The target.
        target: Target,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// None of its addresses is one that is ever dialled.
    #[error("{target} has only addresses that are not dialled")]
    Forbidden {
        /// The target.
        target: Target,
    },
    /// It does not take the connection.
    #[error("cannot connect to {target}")]
    Connect {
        /// The target.
        target: Target,
        /// What the system says of the last address.
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error("no answer from {target}")]
    TimedOut {
        /// The target.
        target: Target,
    },
}

impl Target {
    /// Resolves the host and connects to the first of its addresses that takes the connection. What is checked is the
    /// very address that is dialled.
    ///
    /// # Errors
    ///
    /// [`DialTargetError`], after [`TARGET_TIMEOUT`] at the latest.
    pub async fn dial(&self) -> Result<TcpStream, DialTargetError> {
        match timeout(TARGET_TIMEOUT, self.connect()).await {
            Ok(dialled) => dialled,
            Err(_elapsed) => Err(DialTargetError::TimedOut { target: self.clone() }),
        }
    }

    async fn connect(&self) -> Result<TcpStream, DialTargetError> {
        let target = || self.clone();
        let resolved = lookup_host((self.host.as_str(), self.port)).await;
        let addresses = resolved.map_err(|source| DialTargetError::Resolve { target: target(), source })?;
        let mut refused = None;
        for address in addresses.filter(|address| !is_forbidden(*address)) {
            match TcpStream::connect(address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => refused = Some(error),
            }
        }
        Err(match refused {
            Some(source) => DialTargetError::Connect { target: target(), source },
            None => DialTargetError::Forbidden { target: target() },
        })
    }
}

/// The prefix behind which a NAT64 has all of IPv4.
const NAT64: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

/// Addresses that are no service of anybody, or that tell secrets to whoever asks.
fn is_forbidden(address: SocketAddr) -> bool {
    let ip = match address.ip().to_canonical() {
        IpAddr::V6(v6) => match v6.octets().split_last_chunk::<4>() {
            Some((prefix, &v4)) if prefix == NAT64 => IpAddr::from(v4),
            _ => IpAddr::V6(v6),
        },
        v4 @ IpAddr::V4(_) => v4,
    };
    let special = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    special || ip.is_multicast() || ip.is_unspecified() || METADATA.contains(&ip)
}

/// A target and the tunnel id under which it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Where the service is.
    pub target: Target,
    /// The id of its registration, if it has one.
    pub id: Option<TunnelId>,
}

/// The targets that a node has declared. Clones are the same table.
#[derive(Debug, Clone, Default)]
pub struct TargetTable {
    targets: Arc<RwLock<BTreeMap<TunnelName, Declared>>>,
}

impl TargetTable {
    /// A table without targets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a target, and gives back the one that had the name before.
    pub fn declare(&self, name: TunnelName, declared: Declared) -> Option<Declared> {
        self.targets.write().unwrap_or_else(PoisonError::into_inner).insert(name, declared)
    }

    /// Takes a target back. Streams that are open go on.
    pub fn withdraw(&self, name: &TunnelName) -> Option<Declared> {
        self.targets.write().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// The target of this name.
    pub fn find(&self, name: &TunnelName) -> Option<Declared> {
        self.targets.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All targets, in order of their names.
    pub fn all(&self) -> Vec<(TunnelName, Declared)> {
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        targets.iter().map(|(name, declared)| (name.clone(), declared.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_survives_its_text() {
        for text in ["localhost:80", "127.0.0.1:8080", "[::1]:443", "a_b.example-1.org:65535"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in
            ["", "localhost", ":80", "host:0", "host:65536", "::1:80", "[::1:80", "[host]:80", "a/b:80"]
        {
            assert_eq!(text.parse::<Target>(), Err(ParseTargetError), "{text}");
        }
    }

    #[test]
    fn what_nobody_means_is_never_dialled() {
        for text in [
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[fe80::1]:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "255.255.255.255:80",
            "100.100.100.200:80",
            "[fd00:ec2::254]:80",
        ] {
            assert!(is_forbidden(text.parse().unwrap()), "{text}");
        }
        for text in [
            "127.0.0.1:80",
            "[::1]:80",
            "10.0.0.1:80",
            "93.184.216.34:80",
            "[fd00::1]:80",
            "[64:ff9b::5db8:d822]:80",
        ] {
            assert!(!is_forbidden(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn a_forbidden_target_is_refused_without_a_packet() {
        let target: Target = "169.254.169.254:80".parse().unwrap();
        assert!(matches!(target.dial().await, Err(DialTargetError::Forbidden { .. })));
    }
}
