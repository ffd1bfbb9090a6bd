//! The state of a node that does not run: read from its directory, and written to.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::api::{ImportState, ImportedState, Problem};
use super::data_dir::{DataDir, DataDirError};
use super::files::FileError;
use super::import::import;
use super::run::{StartError, draw, restore, sealed};
use super::trust::Policies;
use crate::clock::WallClock;
use crate::gossip::{self, Record};
use crate::id::{Actor, Generation, NodeId};
use crate::mesh::{ConnectError, Connector, Driver, DriverConfig, MeshHandle};
use crate::replica::{Address, Replica};
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
        if !is_there(&file)? {
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

/// Whether there is such a file; one that we may not look for is not taken to be absent.
fn is_there(path: &Path) -> Result<bool, StartError> {
    let looked = path.try_exists();
    looked.map_err(|source| DataDirError::File(FileError::Read { path: path.into(), source }).into())
}

/// The mesh of a node that does not run, woken to be written to: a life of its own, in which it talks to nobody.
#[derive(Debug)]
pub(super) struct Woken {
    mesh: MeshHandle,
    authorities: Vec<CertificateDer<'static>>,
    stop: CancellationToken,
    driver: JoinHandle<()>,
    /// The thread of the disk; none if nothing is to be written.
    disk: Option<std::thread::JoinHandle<()>>,
    /// Nobody starts the node meanwhile.
    _data_dir: DataDir,
}

impl Woken {
    /// Wakes it; nothing if the directory is not that of a node. With `dry_run` its files stay as they are. Must be called
    /// in a runtime.
    pub(super) async fn begin(path: &Path, dry_run: bool) -> Result<Option<Self>, StartError> {
        if !is_there(&path.join("identity.key"))? {
            return Ok(None);
        }
        let data_dir = DataDir::open(path)?;
        let (Some(node), Some(_)) = (data_dir.known_node()?, data_dir.known_mesh()?) else { return Ok(None) };
        // What its entries are it says itself.
        let state = StateFile::open_either(&data_dir.file("state.redb"))?;
        let notary = if state.is_sealed() { Some(data_dir.identity()?) } else { None };
        let known = state.last_life(node);
        let generation = match dry_run {
            true => Generation(known.0.saturating_add(1)),
            false => {
                let drawn = u8::try_from(draw() & 0xff).unwrap_or_default();
                data_dir.next_generation(WallClock::system().now(), drawn, known)?
            }
        };
        let config = DriverConfig {
            gossip: gossip::Config::default(),
            actor: Actor { node, generation },
            seed: draw(),
            event_capacity: NonZeroUsize::MIN,
            clock: WallClock::system(),
        };
        let (driver, disk) = match dry_run {
            true => {
                let mut driver = sealed(Driver::new(config)?, notary.as_ref());
                let loaded = state.load(|record| driver.restore(record))?;
                driver.restore_clock(loaded.clock);
                (driver, None)
            }
            false => {
                let (driver, disk) = restore(state, config, notary.as_ref())?;
                (driver, Some(disk))
            }
        };
        let (mesh, authorities) = (driver.handle(), data_dir.authorities()?);
        let (policy, access) = (data_dir.file("policy"), mesh.access().clone());
        let mut policies = Policies::open(policy, authorities.clone(), access)?;
        let stop = CancellationToken::new();
        let driver = tokio::spawn(driver.run(Nobody, stop.clone()));
        // It has only just begun: if it has ended, whoever writes is told so.
        policies.read(&mesh).await.ok();
        Ok(Some(Self { mesh, authorities, stop, driver, disk, _data_dir: data_dir }))
    }

    /// Writes lines, as a node that runs does.
    pub(super) async fn import(&self, lines: ImportState) -> Result<ImportedState, Problem> {
        import(&self.mesh, &self.authorities, lines).await
    }

    /// Lets it sleep again; what was written is on the disk before.
    pub(super) async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.driver.await {
            tracing::error!(%error, "the mesh has failed");
        }
        if let Some(disk) = self.disk {
            let ended = tokio::task::spawn_blocking(|| disk.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::error!("the thread of the disk has failed");
            }
        }
    }
}

/// Reaches nobody.
struct Nobody;

impl Connector for Nobody {
    async fn connect(
        &self,
        _: &Address,
        _: Option<NodeId>,
    ) -> Result<(crate::tunnel::ArcTunnel, NodeId), ConnectError> {
        Err(ConnectError::Resolve(std::io::ErrorKind::NotConnected.into()))
    }
}
