//! Targets: the local services that a node has declared, and the only things that peers can have it talk to.
//!
//! A peer names a target and never an address. What the name stands for is resolved here, and the very address that is
//! dialled is checked: nobody can be talked into reaching link-local addresses, multicast, the secrets of a cloud, or this
//! node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket, UnixStream, lookup_host};
use tokio::time::timeout;

use super::program::{Program, Running};
use super::route::Kind;
use super::socket::LocalSocket;
use crate::id::{TunnelId, TunnelName};
use crate::tunnel::StreamObserver;

/// How long connecting to a target may take, name resolution included: less than its opener waits for an answer.
pub const TARGET_TIMEOUT: Duration = Duration::from_secs(4);

/// Addresses at which clouds tell secrets to whoever asks, beyond the link-local ones.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Where a local service is.
///
/// As text `host:port`, the host a name or an address, IPv6 in brackets; `udp:host:port`; `unix:/path`; or
/// `stdio:/path/of/program argument …`, which is run once for each stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// TCP.
    Tcp(HostPort),
    /// UDP, datagram by datagram.
    Udp(HostPort),
    /// A unix socket of streams.
    Unix(PathBuf),
    /// The input and output of a program.
    Program(Program),
}

/// A host, by name or address, and a port of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// A text is not a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseTargetError {
    /// A host and a port are expected.
    #[error("a target is host:port, with a port from 1 to 65535 and IPv6 addresses in brackets")]
    HostPort,
    /// The path is not absolute, or longer than the path of a unix socket can be.
    #[error(
        "a unix target is unix:/path, with an absolute path of at most {} bytes",
        super::socket::MAX_PATH_LEN
    )]
    Path,
    /// The program is not named by an absolute path.
    #[error("a program is stdio:/path/of/program and its arguments, separated by blanks; there is no shell")]
    Program,
}

impl FromStr for HostPort {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(ParseTargetError::HostPort)?;
        let port = port.parse::<u16>().ok().filter(|&port| port > 0).ok_or(ParseTargetError::HostPort)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let legal = match bracketed {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => {
                let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                !host.is_empty() && host.len() <= 253 && host.bytes().all(label)
            }
        };
        let host = bracketed.unwrap_or(host).to_owned();
        if legal { Ok(Self { host, port }) } else { Err(ParseTargetError::HostPort) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = super::socket::legal_path(path).ok_or(ParseTargetError::Path)?;
            Ok(Self::Unix(path))
        } else if let Some(program) = text.strip_prefix("stdio:") {
            Ok(Self::Program(program.parse().map_err(|_illegal| ParseTargetError::Program)?))
        } else if let Some(host) = text.strip_prefix("udp:") {
            Ok(Self::Udp(host.parse()?))
        } else {
            Ok(Self::Tcp(text.parse()?))
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => write!(f, "{host}"),
            Self::Udp(host) => write!(f, "udp:{host}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Program(program) => write!(f, "stdio:{program}"),
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
    /// None of its addresses is one that is ever dialled: see the module's documentation.
    #[error("{target} is not dialled: it is special, or this node itself")]
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

/// A target that was reached.
#[derive(Debug)]
pub(super) enum Dialled {
    Stream(LocalSocket),
    /// A program, which ends with the second.
    Program(LocalSocket, Running),
    Datagrams(UdpSocket),
}

/// What of this very node must not be reached by way of a target: tunnels would lead into themselves, and peers to the
/// commands of the node's owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Own {
    tcp: BTreeSet<u16>,
    udp: BTreeSet<u16>,
    paths: BTreeSet<PathBuf>,
}

impl Own {
    /// Whether nothing is ever dialled at an address: it is this node itself, or no service of anybody.
    fn forbids(&self, kind: Kind, address: SocketAddr) -> bool {
        let ports = match kind {
            Kind::Stream => &self.tcp,
            Kind::Datagrams => &self.udp,
        };
        is_forbidden(address) || is_own(address, ports)
    }

    fn has_socket(&self, path: &Path) -> bool {
        is_same_file(path, &self.paths)
    }
}

impl Target {
    /// Whether it takes streams or datagrams.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Udp(_) => Kind::Datagrams,
            Self::Tcp(_) | Self::Unix(_) | Self::Program(_) => Kind::Stream,
        }
    }

    /// Connects; a host is resolved, and the first of its addresses that takes the connection serves.
    async fn dial(&self, own: &Own) -> Result<Dialled, DialTargetError> {
        match timeout(TARGET_TIMEOUT, self.connect(own)).await {
            Ok(dialled) => dialled,
            Err(_elapsed) => Err(DialTargetError::TimedOut { target: self.clone() }),
        }
    }

    async fn connect(&self, own: &Own) -> Result<Dialled, DialTargetError> {
        let failed = |source| DialTargetError::Connect { target: self.clone(), source };
        let host = match self {
            Self::Tcp(host) | Self::Udp(host) => host,
            Self::Unix(path) => {
                if own.has_socket(path) {
                    return Err(DialTargetError::Forbidden { target: self.clone() });
                }
                let unix = UnixStream::connect(path).await.map_err(failed)?;
                return Ok(Dialled::Stream(LocalSocket::Unix(unix)));
            }
            Self::Program(program) => {
                let (socket, running) = program.start().map_err(failed)?;
                return Ok(Dialled::Program(LocalSocket::Unix(socket), running));
            }
        };
        let resolved = lookup_host((host.host.as_str(), host.port)).await;
        let addresses =
            resolved.map_err(|source| DialTargetError::Resolve { target: self.clone(), source })?;
        let mut refused = None;
        for address in addresses.filter(|address| !own.forbids(self.kind(), *address)) {
            let dialled = match self.kind() {
                Kind::Stream => {
                    TcpStream::connect(address).await.map(|tcp| Dialled::Stream(LocalSocket::Tcp(tcp)))
                }
                Kind::Datagrams => connect_udp(address).await.map(Dialled::Datagrams),
            };
            match dialled {
                Ok(dialled) => return Ok(dialled),
                Err(error) => refused = Some(error),
            }
        }
        Err(match refused {
            Some(source) => failed(source),
            None => DialTargetError::Forbidden { target: self.clone() },
        })
    }
}

async fn connect_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}

fn is_same_file(path: &Path, own: &BTreeSet<PathBuf>) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_missing| path.to_owned());
    own.iter().any(|own| real(own) == real(path))
}

/// Whether it is one of these ports of this machine, by whatever address.
fn is_own(address: SocketAddr, ports: &BTreeSet<u16>) -> bool {
    // Only addresses of this machine can be bound.
    ports.contains(&address.port())
        && (address.ip().to_canonical().is_loopback() || std::net::UdpSocket::bind((address.ip(), 0)).is_ok())
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
    own: Arc<RwLock<Own>>,
    observer: Arc<OnceLock<Arc<dyn TargetObserver>>>,
}

/// Told of the streams that peers open to targets, in the tasks that serve them: it must return at once.
pub trait TargetObserver: fmt::Debug + Send + Sync {
    /// A target was dialled for a stream, with that outcome.
    fn dialled(&self, name: &TunnelName, took: Duration, reached: bool);

    /// A stream to it begins; what is given back is told of its bytes and dropped at its end.
    fn served(&self, name: &TunnelName) -> Arc<dyn StreamObserver>;
}

impl TargetTable {
    /// A table without targets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells an observer of streams to targets. Only the first one is told.
    pub fn observe(&self, observer: Arc<dyn TargetObserver>) {
        // A second one would be somebody's mistake, and the first one goes on.
        let _first = self.observer.set(observer);
    }

    pub(super) fn observer(&self) -> Option<&dyn TargetObserver> {
        self.observer.get().map(|observer| &**observer)
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

    /// From now on nothing leads to this UDP port of this machine: the node itself listens there.
    pub fn keep_from_udp(&self, port: u16) {
        self.own.write().unwrap_or_else(PoisonError::into_inner).udp.insert(port);
    }

    /// From now on nothing leads to this unix socket: the node itself listens there.
    pub fn keep_from_path(&self, path: impl Into<PathBuf>) {
        self.own.write().unwrap_or_else(PoisonError::into_inner).paths.insert(path.into());
    }

    /// Whether nothing leads to this TCP port of this machine, because the node itself listens there.
    pub fn keep_from_tcp(&self, port: u16, kept: bool) {
        let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
        if kept {
            own.tcp.insert(port)
        } else {
            own.tcp.remove(&port)
        };
    }

    /// Whether a target is never dialled, as far as that is known without resolving a name.
    #[cfg(feature = "node")]
    pub(crate) fn never_dials(&self, target: &Target) -> bool {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        match target {
            Target::Unix(path) => own.has_socket(path),
            Target::Program(_) => false,
            Target::Tcp(host) | Target::Udp(host) => {
                let ip = host.host.parse::<IpAddr>().ok();
                ip.is_some_and(|ip| own.forbids(target.kind(), SocketAddr::new(ip, host.port)))
            }
        }
    }

    /// Looks whether a target could be reached now. A stream is opened and closed again; of datagrams only the way is known,
    /// for nobody has to answer them; a program is looked at and not started.
    ///
    /// # Errors
    ///
    /// [`DialTargetError`], as a visitor would meet it.
    pub async fn probe(&self, target: &Target) -> Result<(), DialTargetError> {
        match target {
            Target::Program(program) => {
                program.look().map_err(|source| DialTargetError::Connect { target: target.clone(), source })
            }
            Target::Tcp(_) | Target::Udp(_) | Target::Unix(_) => self.dial(target).await.map(drop),
        }
    }

    /// Connects to a target that takes streams, as a visitor's stream would. Others are not dialled.
    #[cfg(feature = "node")]
    pub(crate) async fn connect(&self, target: &Target) -> Result<LocalSocket, DialTargetError> {
        let forbidden = || DialTargetError::Forbidden { target: target.clone() };
        match target {
            Target::Tcp(_) | Target::Unix(_) => match self.dial(target).await? {
                Dialled::Stream(socket) => Ok(socket),
                Dialled::Program(..) | Dialled::Datagrams(_) => Err(forbidden()),
            },
            Target::Udp(_) | Target::Program(_) => Err(forbidden()),
        }
    }

    pub(super) async fn dial(&self, target: &Target) -> Result<Dialled, DialTargetError> {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner).clone();
        target.dial(&own).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_survives_its_text() {
        for text in [
            "localhost:80",
            "127.0.0.1:8080",
            "[::1]:443",
            "a_b.example-1.org:65535",
            "udp:127.0.0.1:53",
            "unix:/run/a b.sock",
            "stdio:/bin/cat -u",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "localhost",
            ":80",
            "host:0",
            "host:65536",
            "::1:80",
            "[::1:80",
            "[host]:80",
            "a/b:80",
            "udp:x",
        ] {
            assert_eq!(text.parse::<Target>(), Err(ParseTargetError::HostPort), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for text in ["unix:", "unix:relative", &long] {
            assert_eq!(text.parse::<Target>(), Err(ParseTargetError::Path), "{text}");
        }
        for text in ["stdio:", "stdio:cat", "stdio: /bin/cat"] {
            assert_eq!(text.parse::<Target>(), Err(ParseTargetError::Program), "{text}");
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

    async fn is_refused(targets: &TargetTable, text: &str) -> bool {
        let dialled = targets.dial(&text.parse().unwrap()).await;
        matches!(dialled, Err(DialTargetError::Forbidden { .. }))
    }

    #[tokio::test]
    async fn a_forbidden_target_is_refused_without_a_packet() {
        let targets = TargetTable::new();
        assert!(is_refused(&targets, "169.254.169.254:80").await);
        assert!(is_refused(&targets, "udp:224.0.0.1:80").await);
    }

    #[tokio::test]
    async fn nothing_leads_to_where_the_node_itself_listens() {
        let directory = tempfile::tempdir().unwrap();
        let (admin, alias) = (directory.path().join("admin.sock"), directory.path().join("alias.sock"));
        let _unix = tokio::net::UnixListener::bind(&admin).unwrap();
        std::os::unix::fs::symlink(&admin, &alias).unwrap();
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (tcp, udp) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let texts = [
            tcp.to_string(),
            format!("udp:{udp}"),
            format!("udp:[::ffff:127.0.0.1]:{}", udp.port()),
            format!("unix:{}", admin.display()),
            format!("unix:{}", alias.display()),
        ];
        let targets = TargetTable::new();
        for text in &texts {
            assert!(!is_refused(&targets, text).await, "{text}");
        }
        targets.keep_from_tcp(tcp.port(), true);
        targets.keep_from_udp(udp.port());
        targets.keep_from_path(&admin);
        for text in &texts {
            assert!(is_refused(&targets, text).await, "{text}");
        }
        targets.keep_from_tcp(tcp.port(), false);
        assert!(!is_refused(&targets, &texts[0]).await);
    }
}
