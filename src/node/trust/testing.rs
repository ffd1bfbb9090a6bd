//! A mesh without peers, for tests.

use std::num::NonZeroUsize;

use tokio_util::sync::CancellationToken;

use crate::clock::WallClock;
use crate::gossip::Config;
use crate::id::{Actor, Generation, NodeId};
use crate::mesh::{ConnectError, Connector, Driver, DriverConfig, MeshHandle};
use crate::replica::Address;
use crate::tunnel::ArcTunnel;

/// Reaches nobody.
struct Nowhere;

impl Connector for Nowhere {
    async fn connect(&self, _: &Address, _: Option<NodeId>) -> Result<(ArcTunnel, NodeId), ConnectError> {
        Err(ConnectError::NoIdentity)
    }
}

pub(super) fn mesh() -> MeshHandle {
    let config = DriverConfig {
        gossip: Config::default(),
        actor: Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) },
        seed: 1,
        event_capacity: NonZeroUsize::new(64).unwrap(),
        clock: WallClock::system(),
    };
    let driver = Driver::new(config).unwrap();
    let handle = driver.handle();
    tokio::spawn(driver.run(Nowhere, CancellationToken::new()));
    handle
}
