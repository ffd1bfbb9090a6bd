//! Reads the state of a node that does not run, from its directory.

use std::path::Path;
use std::time::Duration;

use super::data_dir::DataDir;
use super::run::StartError;
use crate::clock::WallClock;
use crate::gossip::Record;
use crate::id::{Actor, Generation, NodeId};
use crate::replica::Replica;
use crate::store::StateFile;

/// The state of a node that does not run.
#[derive(Debug)]
pub(super) struct Resting {
    /// What it has.
    pub(super) replica: Replica,
    /// Which node it is, if that is known.
    pub(super) node: Option<NodeId>,
    /// The mesh that it belongs to, if that is known.
    pub(super) mesh: Option<NodeId>,
    /// Nobody starts the node meanwhile.
    _data_dir: DataDir,
}

impl Resting {
    /// Reads it all; nothing if there is no state in the directory.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, StartError> {
        let file = path.join("state.redb");
        if !file.exists() {
            return Ok(None);
        }
        let data_dir = DataDir::open(path)?;
        let (node, mesh) = (data_dir.known_node()?, data_dir.known_mesh()?);
        // Nobody writes in its name.
        let actor = Actor { node: node.unwrap_or(NodeId::from_bytes([0; 32])), generation: Generation(0) };
        let mut replica = Replica::new(actor, Duration::MAX);
        let wall = WallClock::system().now();
        StateFile::open_either(&file)?.load(|record| match record {
            Record::Delta(delta) => replica.merge(wall, delta).map(drop),
            Record::Reconciled(reconciliation) => replica.reconcile(wall, reconciliation).map(drop),
            Record::Collected(_) => Ok(()),
        })?;
        Ok(Some(Self { replica, node, mesh, _data_dir: data_dir }))
    }
}
