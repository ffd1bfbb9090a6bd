//! What can be chosen about a node.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::forwards::Wanted;
use super::{CaSource, Controls};
use crate::compat::PublicPorts;
use crate::daemon::DaemonConfig;
use crate::gossip;
use crate::replica::Address;
use crate::tunnel::quic::Gate;

/// The UDP port of nodes, where none is chosen.
pub const DEFAULT_PORT: u16 = 7667;

/// Where a node keeps the replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateStore {
    /// In a file of its directory: what is acknowledged survives a crash.
    #[default]
    Disk,
    /// Nowhere: a restart learns it from the peers.
    Memory,
}

/// Whom a node believes that an entry is its author's. The same at all nodes of a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RegistryTrust {
    /// Every node of the mesh, about everybody's.
    #[default]
    Transport,
    /// The author alone, by its signature.
    Signed,
}

/// How a node serves clients of snocat's protocol version 0. They prove nothing and become no part of the mesh: whoever
/// reaches the address is granted a public port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompatConfig {
    /// The UDP address to listen on for them: not the node's own. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The certificate that they are shown, PEM or DER.
    pub certificate: PathBuf,
    /// Its private key, PEM or DER.
    pub key: PathBuf,
    /// What they are granted.
    pub public: PublicPorts,
}

/// The settings of a [`Node`](super::Node).
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// What people call it; need not be unique. Above 63 bytes it is cut.
    pub name: String,
    /// Where its directory is.
    pub data_dir: PathBuf,
    /// The UDP address to listen on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where others reach it. Empty: at the address it listens on, unless that is every address of the machine;
    /// then it cannot be dialled and dials all others itself.
    pub advertise: Vec<Address>,
    /// Where to look for the mesh. Tried for ever.
    pub join: Vec<Address>,
    /// The socket of the admin API. `None`: `admin.sock` in the data directory.
    pub admin: Option<PathBuf>,
    /// The address of loopback on which the admin API is open to whoever has the token. `None`: none, until somebody
    /// asks for the dashboard.
    pub http: Option<SocketAddr>,
    /// The file of that token. `None`: `admin.token` in the data directory.
    pub token_file: Option<PathBuf>,
    /// What it offers and binds from the start, as its configuration wants it.
    pub(super) wanted: Wanted,
    /// Whether and how clients of snocat are served. `None`: not at all.
    pub compat: Option<CompatConfig>,
    /// What the node can be told while it runs.
    pub controls: Controls,
    /// Limits of the daemon; its `drain_timeout` is the one below.
    pub daemon: DaemonConfig,
    /// The mesh's authority.
    pub ca: CaSource,
    /// How long the certificates hold that this node signs, where it has the authority's key. A node renews its own
    /// when a third of its time is left.
    pub certificate_validity: Duration,
    /// Where the replicated state is kept.
    pub store: StateStore,
    /// Whom it believes that an entry is its author's.
    pub trust: RegistryTrust,
    /// Sets a state file aside, whatever is in it, and learns the state from the peers: after damage.
    pub rebuild_from_mesh: bool,
    /// The protocol's settings; name, addresses and seeds are taken from above.
    pub gossip: gossip::Config,
    /// A switch that cuts the node off the network, for demonstrations and tests.
    pub gate: Option<Gate>,
    /// How long a shutdown lets streams come to their end.
    pub drain_timeout: Duration,
}

impl NodeConfig {
    /// A node on loopback that nobody joins and that joins nobody.
    pub fn new(name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            data_dir: data_dir.into(),
            listen: (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(),
            advertise: Vec::new(),
            join: Vec::new(),
            admin: None,
            http: None,
            token_file: None,
            wanted: Wanted::default(),
            compat: None,
            controls: Controls::default(),
            daemon: DaemonConfig::default(),
            ca: CaSource::Own,
            certificate_validity: super::data_dir::NODE_VALIDITY,
            store: StateStore::default(),
            trust: RegistryTrust::default(),
            rebuild_from_mesh: false,
            gossip: gossip::Config::default(),
            gate: None,
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// The daemon's settings, with this node's deadline of draining.
    pub(super) fn daemon_config(&self) -> DaemonConfig {
        DaemonConfig { drain_timeout: self.drain_timeout, ..self.daemon.clone() }
    }

    /// The socket of the admin API.
    pub fn admin_path(&self) -> PathBuf {
        self.admin.clone().unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }

    /// Where others reach a node that is bound to `bound`.
    pub(super) fn advertised(&self, bound: SocketAddr) -> Vec<Address> {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        let dialable = !bound.ip().is_unspecified();
        dialable.then(|| bound.to_string().parse().expect("a bound socket has a port")).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_advertises_where_it_listens_unless_that_says_nothing() {
        let mut config = NodeConfig::new("a", "/nowhere");
        let advertised = |config: &NodeConfig, bound: &str| -> Vec<String> {
            config.advertised(bound.parse().unwrap()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(advertised(&config, "127.0.0.1:7667"), ["127.0.0.1:7667"]);
        assert_eq!(advertised(&config, "[::1]:7667"), ["[::1]:7667"]);
        assert!(advertised(&config, "0.0.0.0:7667").is_empty());
        config.advertise = vec!["a.example.org:1".parse().unwrap()];
        assert_eq!(advertised(&config, "0.0.0.0:7667"), ["a.example.org:1"]);
    }
}
