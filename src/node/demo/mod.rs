//! `snomesh demo`: a mesh of real nodes in one process, and a tour of what it can do.
//!
//! Everything is as it is elsewhere: QUIC over loopback, certificates, admin sockets. Only the cable is pulled by a
//! switch under a node's UDP socket. Each step is checked and timed; one that does not hold ends the tour.

mod hello;
mod tour;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{Client, ClientError};
use super::{CaSource, Node, NodeConfig, StartError, StateStore};
use crate::id::NodeId;
use crate::mesh::{CommandError, Stopped};
use crate::tunnel::quic::Gate;

pub(super) use tour::{Step, Tour};

/// How long a request to an admin socket may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A step did not hold.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// A node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An admin socket did not answer as hoped.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A write was refused.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A node has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The service was not reached.
    #[error("the service was not reached")]
    Io(#[from] io::Error),
    /// The service was reached and did not answer.
    #[error("the service did not answer")]
    Http(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("the request is not legal")]
    Request(#[from] hyper::http::Error),
    /// Something came out otherwise.
    #[error("expected {expected}, found {found}")]
    Otherwise {
        /// What should have been.
        expected: String,
        /// What was.
        found: String,
    },
    /// Something did not happen in time.
    #[error("not within {} s: {expected}", .after.as_secs())]
    TooLate {
        /// What should have happened.
        expected: String,
        /// How long was waited.
        after: Duration,
    },
}

/// One node of the demonstration.
#[derive(Debug)]
struct Member {
    name: String,
    node: Node,
    client: Client,
    /// Shut: the node is off the network.
    gate: Gate,
}

impl Member {
    /// Starts the first node of a mesh, or one that joins `first`.
    async fn start(directory: &Path, name: &str, first: Option<&Self>) -> Result<Self, StartError> {
        let gate = Gate::new();
        let mut config = NodeConfig::new(name, directory.join(name));
        config.listen.set_port(0);
        config.gate = Some(gate.clone());
        config.store = StateStore::Memory;
        config.drain_timeout = Duration::from_secs(1);
        if let Some(first) = first {
            let file = |file: &str| first.node.data_dir().join(file);
            config.ca = CaSource::Files { certificate: file("ca.crt"), key: Some(file("ca.key")) };
            config.join =
                vec![first.node.listen_addr().to_string().parse().expect("a bound socket has a port")];
        }
        let node = Node::start(config).await?;
        let client = Client::new(node.admin_path(), REQUEST_TIMEOUT);
        Ok(Self { name: name.to_owned(), node, client, gate })
    }

    fn id(&self) -> NodeId {
        self.node.id()
    }
}

/// A directory that goes when this does.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes one that only its owner can look into.
    pub(super) fn new() -> io::Result<Self> {
        let mut drawn = [0; 4];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut drawn)
            .expect("the system has randomness once it has booted");
        let name = format!("snomesh-demo-{:08x}", u32::from_be_bytes(drawn));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed now is for whoever cleans the temporary directory.
        let _left_behind = std::fs::remove_dir_all(&self.path);
    }
}
