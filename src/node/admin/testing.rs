//! Meshes of one node, for tests.

use tokio_util::sync::CancellationToken;

use crate::clock::WallClock;
use crate::gossip::Config;
use crate::id::{Actor, Generation, NodeId};
use crate::mesh::{ConnectError, Connector, Driver, DriverConfig, MeshHandle};
use crate::replica::Address;
use crate::tunnel::ArcTunnel;

struct Nobody;

impl Connector for Nobody {
    async fn connect(&self, _: &Address, _: Option<NodeId>) -> Result<(ArcTunnel, NodeId), ConnectError> {
        Err(ConnectError::NoIdentity)
    }
}

/// A mesh that nobody drives: its questions wait.
pub(in crate::node) fn idle() -> (MeshHandle, Driver) {
    driver(16)
}

/// A mesh of one node.
pub(in crate::node) fn alone(event_capacity: usize) -> MeshHandle {
    let (mesh, driver) = driver(event_capacity);
    tokio::spawn(driver.run(Nobody, CancellationToken::new()));
    mesh
}

fn driver(event_capacity: usize) -> (MeshHandle, Driver) {
    let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) };
    let event_capacity = event_capacity.try_into().unwrap();
    let clock = WallClock::system();
    let config = DriverConfig { gossip: Config::default(), actor, seed: 1, event_capacity, clock };
    let driver = Driver::new(config).unwrap();
    (driver.handle(), driver)
}
