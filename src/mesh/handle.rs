//! What the rest of a node sees of the mesh.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::changes::{ChangeCounters, Changes};
use super::connect::DialStatus;
use super::health::Health;
use super::input::Input;
use super::journal::Storage;
use super::merges::{MergeCounters, Merges};
use super::traffic::{Counters, Traffic};
use crate::auth::{Access, Act};
use crate::crdt::Value;
use crate::daemon::{Coalescing, Events, Subscription};
use crate::event::{Sequence, Snapshot};
use crate::gossip::{Durability, Event, Mesh, Picture, Ticket, Topic};
use crate::id::{NodeId, TunnelId, TunnelName};
use crate::replica::{Address, AttributeKey, Attributes, Registration, WriteError};
use crate::time::Now;

/// Commands and questions to the [`Driver`](super::Driver). Clones are handles of the same mesh.
#[derive(Debug, Clone)]
pub struct MeshHandle {
    pub(super) node: NodeId,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) shared: Arc<Shared>,
}

/// What the driver and its handles have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) events: Events<Event>,
    pub(super) counters: Arc<Counters>,
    pub(super) changes: ChangeCounters,
    pub(super) merges: MergeCounters,
    /// Addresses are those of seeds and nodes: few, and replaced rather than added.
    pub(super) dials: Mutex<BTreeMap<Address, DialStatus>>,
    pub(super) storage: watch::Sender<Storage>,
    /// What the mesh's authority permits, as far as whoever runs the node has proved it.
    pub(super) access: Access,
}

/// Whether a write changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It did.
    Yes,
    /// Everything is so already.
    Unchanged,
}

/// The driver has ended: the node is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mesh has stopped")]
pub struct Stopped;

/// Why a command was not carried out. Nothing has changed, unless a variant says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The mesh refused the write.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The driver has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The disk is full. Reading goes on, and so do writes that need not be durable.
    #[error("the disk is full: no durable write is taken until there is room")]
    NoRoom,
    /// The disk became full while the write waited for it. It holds, becomes durable when there is room, and is lost here if
    /// the node ends before.
    #[error("the disk is full: the write holds, and is durable only when there is room again")]
    Delayed,
    /// The disk failed while the write waited for it: it may or may not be there when the node starts again.
    #[error("the disk failed: whether the write is durable is not known")]
    Failed,
}

impl MeshHandle {
    /// The node whose mesh this is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Sets an attribute. It is durable when this returns, as far as the mesh has a disk.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub async fn set(&self, key: AttributeKey, value: Value) -> Result<Written, CommandError> {
        self.set_with(Durability::Disk, key, value).await
    }

    /// Sets an attribute, as durably as asked for.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub async fn set_with(
        &self,
        durability: Durability,
        key: AttributeKey,
        value: Value,
    ) -> Result<Written, CommandError> {
        self.write(durability, move |mesh, now| mesh.set(now, &key, value)).await
    }

    /// Removes an attribute. That is durable when this returns, as far as the mesh has a disk.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub async fn unset(&self, key: AttributeKey) -> Result<Written, CommandError> {
        self.unset_with(Durability::Disk, key).await
    }

    /// Removes an attribute, as durably as asked for.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub async fn unset_with(
        &self,
        durability: Durability,
        key: AttributeKey,
    ) -> Result<Written, CommandError> {
        self.write(durability, move |mesh, now| mesh.unset(now, &key)).await
    }

    /// Tells the mesh of a tunnel that this node holds.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing was written.
    pub async fn register(
        &self,
        name: TunnelName,
        tunnel: TunnelId,
        attributes: Attributes,
    ) -> Result<Written, CommandError> {
        self.write(Durability::Memory, move |mesh, now| mesh.register(now, &name, tunnel, &attributes)).await
    }

    /// Takes back what this node told of a tunnel.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing was written.
    pub async fn deregister(&self, name: TunnelName, tunnel: TunnelId) -> Result<Written, CommandError> {
        self.write(Durability::Memory, move |mesh, now| mesh.deregister(now, &name, tunnel)).await
    }

    /// Says that a node's key is not to be believed, with what proves it.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub async fn revoke(&self, node: NodeId, proof: Value) -> Result<Written, CommandError> {
        self.write(Durability::Disk, move |mesh, now| mesh.revoke(now, node, proof)).await
    }

    /// Lets the mesh wait for a node no more that is not there: its record and its registrations go, what it wrote stays. A
    /// node that comes back after all goes on in a later life. Nothing if it is not known.
    ///
    /// # Errors
    ///
    /// [`CommandError`]: [`WriteError::Alive`](crate::replica::WriteError::Alive) if it can be reached, or is this one.
    pub async fn forget(&self, node: NodeId) -> Result<Written, CommandError> {
        self.write(Durability::Disk, move |mesh, now| mesh.forget(now, node)).await
    }

    /// Says who may expose and connect what, with what proves it.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub async fn decree(&self, policy: Value) -> Result<Written, CommandError> {
        self.write(Durability::Disk, move |mesh, now| mesh.decree(now, policy)).await
    }

    /// Who may do what. Whoever runs the node makes a policy hold in it once that is proved to be the authority's.
    pub fn access(&self) -> &Access {
        &self.shared.access
    }

    /// Who holds tunnels of a name, may do so, is not down, and does not say that its target is, the last registered first.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn lookup(&self, name: TunnelName) -> Result<Vec<Registration>, Stopped> {
        let access = self.shared.access.clone();
        self.view(move |mesh| {
            let mut found = mesh.lookup(&name);
            found.retain(|found| {
                Health::of(&found.attributes) == Health::Healthy
                    && access.permits(found.holder.node, Act::Expose, &name)
            });
            found
        })
        .await
    }

    /// Reads the mesh in the driver, between two inputs: what is read is consistent, and a subscription made
    /// while reading continues it without a gap. The reader must be quick, for nothing else happens meanwhile.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn view<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Mesh) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        self.call(move |mesh, _| read(mesh)).await
    }

    /// Subscribes to what changes from now on.
    pub fn subscribe(&self) -> Subscription<Event> {
        self.shared.events.subscribe()
    }

    /// Subscribes to what changed from that event on, as far as it is still held.
    pub fn subscribe_from(&self, next: Sequence) -> Subscription<Event> {
        self.shared.events.subscribe_from(next)
    }

    /// The mesh as readers see it, and a subscription to what changes it from then on: no gap and no overlap.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn subscribe_with_snapshot(&self) -> Result<(Snapshot<Picture>, Subscription<Event>), Stopped> {
        let shared = Arc::clone(&self.shared);
        self.view(move |mesh| {
            let subscription = shared.events.subscribe();
            (Snapshot { state: Picture::of(mesh), sequence: subscription.next() }, subscription)
        })
        .await
    }

    /// After [`RecvError::Lagged`](crate::daemon::RecvError::Lagged): the mesh as it is. The subscription goes on from there.
    ///
    /// # Errors
    ///
    /// [`Stopped`]; the subscription is where it was.
    pub async fn resync(&self, subscription: &mut Subscription<Event>) -> Result<Snapshot<Picture>, Stopped> {
        let (snapshot, fresh) = self.subscribe_with_snapshot().await?;
        *subscription = fresh;
        Ok(snapshot)
    }

    /// The mesh as readers see it, and the latest of what changes afterwards, of the topics that `wants` takes. Cannot
    /// lag: what changes again before it was looked at is told of once.
    ///
    /// ```
    /// # async fn example(mesh: snomesh::mesh::MeshHandle) -> Result<(), snomesh::mesh::Stopped> {
    /// let (snapshot, mut changes) = mesh.coalesce(|topic| topic.is_under("mesh/limits/")).await?;
    /// let mut picture = snapshot.state;
    /// while let Some(change) = changes.recv().await {
    ///     picture.apply(&change.latest);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn coalesce(
        &self,
        wants: impl Fn(&Topic) -> bool + Send + 'static,
    ) -> Result<(Snapshot<Picture>, Coalescing<Event>), Stopped> {
        let shared = Arc::clone(&self.shared);
        self.view(move |mesh| {
            let coalescing = shared.events.coalesce(wants);
            (Snapshot { state: Picture::of(mesh), sequence: shared.events.subscribe().next() }, coalescing)
        })
        .await
    }

    /// How much was said and heard.
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.read()
    }

    /// What came of the replicated state here.
    pub fn changes(&self) -> Changes {
        self.shared.changes.read()
    }

    /// What came of the state that peers sent.
    pub fn merges(&self) -> Merges {
        self.shared.merges.read()
    }

    /// By how many milliseconds the clocks of linked peers are ahead of this node's, and how long their states have
    /// differed from its own; zero if they do not.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn comparisons(&self) -> Result<(BTreeMap<NodeId, i64>, BTreeMap<NodeId, Duration>), Stopped> {
        self.call(|mesh, now| {
            let differing = mesh.progress().into_iter().map(|(node, progress)| {
                let since = progress.differing_since.unwrap_or(now.monotone);
                (node, now.monotone.since(since))
            });
            (mesh.clocks(now).collect(), differing.collect())
        })
        .await
    }

    /// How it goes with the addresses that are dialled.
    pub fn dials(&self) -> Vec<DialStatus> {
        self.shared.dials.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Says to all that this node is going, and waits until the links have taken that.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub async fn leave(&self) -> Result<(), Stopped> {
        self.call(|mesh, now| mesh.leave(now)).await?;
        let (flushed, wait) = oneshot::channel();
        self.inputs.send(Input::Flush(flushed)).await.ok().ok_or(Stopped)?;
        wait.await.ok().ok_or(Stopped)
    }

    /// How it goes with the durability of what is written, now and from now on.
    pub fn storage(&self) -> watch::Receiver<Storage> {
        self.shared.storage.subscribe()
    }

    /// Runs a write in the driver.
    pub(super) async fn write(
        &self,
        durability: Durability,
        write: impl FnOnce(&mut Mesh, Now) -> Result<Option<Ticket>, WriteError> + Send + 'static,
    ) -> Result<Written, CommandError> {
        let (told, answer) = oneshot::channel();
        let write = Box::new(write);
        self.inputs.send(Input::Write { write, durability, told }).await.ok().ok_or(Stopped)?;
        answer.await.ok().ok_or(Stopped)?
    }

    /// Runs a command in the driver, between two inputs.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Mesh, Now) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (told, answer) = oneshot::channel();
        let command = Box::new(move |mesh: &mut Mesh, now: Now| {
            // Whoever asked may have gone meanwhile.
            told.send(command(mesh, now)).ok();
        });
        self.inputs.send(Input::Command(command)).await.ok().ok_or(Stopped)?;
        answer.await.ok().ok_or(Stopped)
    }
}
