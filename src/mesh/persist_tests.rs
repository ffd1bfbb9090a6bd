//! The driver and a disk that says what the test wants.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::crdt::{CausalContext, Delta, Item, Key, Lane, RangeSet, Register, Store, Value};
use crate::gossip::{Config, Durability};
use crate::id::{Actor, Generation, NodeId, TunnelId};
use crate::replica::{Address, AttributeKey, Attributes};
use crate::tunnel::ArcTunnel;

const PATIENCE: Duration = Duration::from_secs(60);

/// Reaches nobody.
struct Nowhere;

impl Connector for Nowhere {
    async fn connect(&self, _: &Address, _: Option<NodeId>) -> Result<(ArcTunnel, NodeId), ConnectError> {
        Err(ConnectError::NoIdentity)
    }
}

/// A node whose disk the test is.
struct Node {
    mesh: MeshHandle,
    disk: JournalTail,
    held: BTreeMap<Key, Register>,
    seen: BTreeMap<Lane, RangeSet>,
    cancel: CancellationToken,
    driver: JoinHandle<()>,
}

fn config(generation: u64) -> DriverConfig {
    DriverConfig {
        gossip: Config::default(),
        actor: Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(generation) },
        seed: 1,
        event_capacity: NonZeroUsize::new(1_024).unwrap(),
        clock: crate::clock::WallClock::system(),
    }
}

impl Node {
    /// Starts a node; its disk has taken what it says of itself at the start.
    async fn start() -> Self {
        let (journal, disk) = journal();
        let driver = Driver::durable(config(1), journal).unwrap();
        let (mesh, cancel) = (driver.handle(), CancellationToken::new());
        let driver = tokio::spawn(driver.run(Nowhere, cancel.clone()));
        let mut node = Self { mesh, disk, held: BTreeMap::new(), seen: BTreeMap::new(), cancel, driver };
        node.take().await;
        node.disk.report(Report::Committed);
        node
    }

    /// The next batch, which lies on the disk from now on and is not reported yet.
    async fn take(&mut self) -> Batch {
        let batch = loop {
            match self.disk.try_next() {
                Some(batch) => break batch,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        self.held.extend(batch.registers.iter().cloned());
        self.seen.extend(batch.lanes.iter().cloned());
        batch
    }

    /// What a restart would find.
    fn restored(&self) -> Store {
        let mut store = Store::new();
        let items = self.held.iter().filter(|(_, register)| !register.is_empty());
        let items = items.map(|(key, register)| Item {
            key: key.clone(),
            entries: register.entries().iter().cloned().collect(),
        });
        let accounted: CausalContext = self.seen.clone().into_iter().collect();
        store.merge(&Delta { accounted, items: items.collect(), seals: vec![] }).unwrap();
        store
    }

    async fn is(&self, key: &str) -> Option<Value> {
        let key = self::key(key);
        self.mesh.view(move |mesh| mesh.replica().attribute(&key).map(|found| found.value)).await.unwrap()
    }

    fn set(
        &self,
        key: &str,
        text: &str,
        durability: Durability,
    ) -> JoinHandle<Result<Written, CommandError>> {
        let (mesh, key, value) = (self.mesh.clone(), self::key(key), value(text));
        tokio::spawn(async move { mesh.set_with(durability, key, value).await })
    }

    /// Lets everything that was asked until now be heard.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.mesh.view(|_| ()).await.unwrap();
    }
}

fn key(text: &str) -> AttributeKey {
    text.parse().unwrap()
}

fn value(text: &str) -> Value {
    text.as_bytes().try_into().unwrap()
}

async fn answer(asked: JoinHandle<Result<Written, CommandError>>) -> Result<Written, CommandError> {
    timeout(PATIENCE, asked).await.expect("an answer comes").unwrap()
}

/// FEATURES P12.
#[tokio::test]
async fn a_write_is_acknowledged_and_seen_when_it_is_durable_and_not_before() {
    let mut node = Node::start().await;
    let first = node.set("mesh/x", "1", Durability::Disk);
    node.take().await;
    node.settle().await;
    assert!(!first.is_finished());
    assert_eq!(node.is("mesh/x").await, None);
    // The same once more: it changes nothing, and yet it must not be acknowledged before the first.
    let again = node.set("mesh/x", "1", Durability::Disk);
    node.settle().await;
    assert!(!again.is_finished());
    assert_eq!(node.restored().len(), 2);
    node.disk.report(Report::Committed);
    assert_eq!(answer(first).await, Ok(Written::Yes));
    assert_eq!(answer(again).await, Ok(Written::Unchanged));
    assert_eq!(node.is("mesh/x").await, Some(value("1")));
}

/// FEATURES P12.
#[tokio::test]
async fn a_write_that_asked_for_memory_waits_for_no_disk_and_reaches_it_later() {
    let mut node = Node::start().await;
    assert_eq!(answer(node.set("mesh/x", "1", Durability::Memory)).await, Ok(Written::Yes));
    assert_eq!(node.is("mesh/x").await, Some(value("1")));
    let batch = node.take().await;
    assert!(batch.registers.iter().any(|(key, _)| key.as_str() == "attr/mesh/x"));
    node.disk.report(Report::Committed);
    // Behind a write that waits it waits too, for writes take effect in their order.
    let durable = node.set("mesh/y", "1", Durability::Disk);
    node.take().await;
    let relaxed = node.set("mesh/z", "1", Durability::Memory);
    node.settle().await;
    assert_eq!(node.is("mesh/z").await, None);
    node.disk.report(Report::Committed);
    assert_eq!(answer(durable).await, Ok(Written::Yes));
    node.settle().await;
    assert_eq!(node.is("mesh/z").await, Some(value("1")));
    node.take().await;
    node.disk.report(Report::Committed);
    assert_eq!(answer(relaxed).await, Ok(Written::Yes));
}

#[tokio::test]
async fn a_value_that_is_overwritten_while_the_disk_is_busy_is_never_written() {
    let mut node = Node::start().await;
    let first = node.set("mesh/x", "0", Durability::Disk);
    node.take().await;
    let others: Vec<_> =
        (1..=50).map(|number| node.set("mesh/x", &number.to_string(), Durability::Disk)).collect();
    node.settle().await;
    node.disk.report(Report::Committed);
    let batch = node.take().await;
    assert_eq!(batch.registers.len(), 1);
    assert_eq!(batch.registers[0].1.entries().len(), 1);
    node.disk.report(Report::Committed);
    assert_eq!(answer(first).await, Ok(Written::Yes));
    for other in others {
        answer(other).await.unwrap();
    }
    let (restored, live) = (node.restored(), node.mesh.view(|mesh| mesh.replica().store().clone()));
    assert_eq!(restored, live.await.unwrap());
}

/// On virtual time, which goes on in steps of a millisecond while the test waits for a batch.
#[tokio::test(start_paused = true)]
async fn writes_gather_under_load_and_a_lone_one_waits_for_nobody() {
    let mut node = Node::start().await;
    let mut lone = Duration::ZERO;
    for number in 0..5 {
        let begun = tokio::time::Instant::now();
        let write = node.set("mesh/x", &number.to_string(), Durability::Disk);
        node.take().await;
        node.disk.report(Report::Committed);
        answer(write).await.unwrap();
        // The first may follow what the node said of itself at its start.
        if number > 0 {
            lone = lone.max(begun.elapsed());
        }
    }
    assert!(lone < persist::GATHER, "{lone:?}");
    let writes: Vec<_> = (0..9).map(|key| node.set(&format!("mesh/{key}"), "1", Durability::Disk)).collect();
    node.settle().await;
    // The first of them had nobody to gather with; the next round is of all the others.
    node.take().await;
    let begun = tokio::time::Instant::now();
    node.disk.report(Report::Committed);
    assert!(node.take().await.registers.len() > 1);
    let later = node.set("mesh/later", "1", Durability::Disk);
    node.settle().await;
    node.disk.report(Report::Committed);
    node.take().await;
    assert!(begun.elapsed() >= persist::GATHER, "{:?}", begun.elapsed());
    node.disk.report(Report::Committed);
    for write in writes.into_iter().chain([later]) {
        answer(write).await.unwrap();
    }
}

/// What was seen is never durable before its effect is, wherever a round of several batches ends.
#[tokio::test]
async fn a_round_cut_short_claims_nothing_that_is_not_there() {
    let mut node = Node::start().await;
    let blocking = node.set("mesh/first", "1", Durability::Disk);
    node.take().await;
    const KEYS: usize = 20_000;
    let writes: Vec<_> =
        (0..KEYS).map(|number| node.set(&format!("mesh/{number}"), "1", Durability::Disk)).collect();
    // All of them are in the mesh before the next round begins.
    while node.mesh.view(|mesh| mesh.unpersisted().count()).await.unwrap() < KEYS + 1 {
        tokio::task::yield_now().await;
    }
    node.disk.report(Report::Committed);
    answer(blocking).await.unwrap();
    let mut batches = 0;
    loop {
        let batch = node.take().await;
        batches += 1;
        let restored = node.restored();
        for (lane, seen) in node.seen.iter().filter(|(lane, _)| lane.class() == crate::crdt::Class::Attribute)
        {
            let live = restored.prefix("attr/").count() as u64;
            assert!(seen.last().unwrap_or(0) <= live, "{lane} claims {seen:?}, {live} are there");
        }
        node.disk.report(Report::Committed);
        if !batch.lanes.is_empty() {
            break;
        }
    }
    assert!(batches > 1);
    for write in writes {
        assert_eq!(answer(write).await, Ok(Written::Yes));
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_neither_tunnels_nor_reading_and_recovers() {
    let mut node = Node::start().await;
    let caught = node.set("mesh/x", "1", Durability::Disk);
    node.take().await;
    node.disk.report(Report::NoRoom);
    assert_eq!(answer(caught).await, Err(CommandError::Delayed));
    assert_eq!(*node.mesh.storage().borrow(), Storage::NoRoom);
    // It holds, or what need not be durable would wait behind it.
    assert_eq!(node.is("mesh/x").await, Some(value("1")));
    assert_eq!(answer(node.set("mesh/z", "1", Durability::Memory)).await, Ok(Written::Yes));
    assert_eq!(node.is("mesh/z").await, Some(value("1")));
    assert_eq!(answer(node.set("mesh/y", "1", Durability::Disk)).await, Err(CommandError::NoRoom));
    let name: crate::id::TunnelName = "web".parse().unwrap();
    let registered = node.mesh.register(name.clone(), TunnelId(1), Attributes::default());
    assert_eq!(timeout(PATIENCE, registered).await.unwrap(), Ok(Written::Yes));
    assert_eq!(node.mesh.lookup(name).await.unwrap().len(), 1);

    node.disk.report(Report::Committed);
    let mut storage = node.mesh.storage();
    timeout(PATIENCE, storage.wait_for(|storage| *storage == Storage::Durable)).await.unwrap().unwrap();
    // What had been caught holds still, what was refused does not.
    assert_eq!(node.is("mesh/x").await, Some(value("1")));
    assert_eq!(node.is("mesh/y").await, None);
    let write = node.set("mesh/y", "1", Durability::Disk);
    while !write.is_finished() {
        node.take().await;
        node.disk.report(Report::Committed);
        node.settle().await;
    }
    assert_eq!(answer(write).await, Ok(Written::Yes));
}

#[tokio::test]
async fn a_broken_disk_ends_the_mesh_and_nothing_more_is_acknowledged() {
    let mut node = Node::start().await;
    let caught = node.set("mesh/x", "1", Durability::Disk);
    node.take().await;
    node.disk.report(Report::Failed("fsync failed".into()));
    assert_eq!(answer(caught).await, Err(CommandError::Failed));
    timeout(PATIENCE, node.driver).await.unwrap().unwrap();
    assert_eq!(*node.mesh.storage().borrow(), Storage::Failed("fsync failed".into()));
    assert_eq!(node.mesh.set(key("mesh/y"), value("1")).await, Err(CommandError::Stopped(Stopped)));
}

#[tokio::test]
async fn an_orderly_end_makes_durable_what_is_not_yet() {
    let mut node = Node::start().await;
    answer(node.set("mesh/x", "1", Durability::Memory)).await.unwrap();
    node.cancel.cancel();
    while !node.driver.is_finished() {
        if let Some(batch) = node.disk.try_next() {
            node.held.extend(batch.registers);
            node.seen.extend(batch.lanes);
            node.disk.report(Report::Committed);
        }
        tokio::task::yield_now().await;
    }
    assert!(node.restored().register(&"attr/mesh/x".parse().unwrap()).is_some());
}
