//! The task that feeds the core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::ChangeCounters;
use super::connect::{ConnectError, Connector, DialStatus};
use super::handle::{CommandError, MeshHandle, Shared, Written};
use super::input::{Input, LinkStreams, Write};
use super::journal::{Journal, Report, Storage};
use super::link::{LinkTasks, open_streams};
use super::merges::MergeCounters;
use super::persist::Persister;
use super::service::GossipService;
use super::traffic::Counters;
use crate::auth::Access;
use crate::causes::in_one_line;
use crate::clock::WallClock;
use crate::crdt::{Corrupt, Notary};
use crate::daemon::Events;
use crate::gossip::{
    Alarm, Channel, CloseReason as Gone, Config, ConfigError, DialId, Durability, Event, LinkId, Mesh,
    Message, Output, Record, Side, Ticket,
};
use crate::id::{Actor, NodeId};
use crate::replica::Address;
use crate::time::{Moment, Now, Timestamp};
use crate::tunnel::{ArcTunnel, CloseReason, TunnelControl};

/// How many inputs may wait for the driver. When they do, readers stop reading and peers stop sending.
const INPUTS: usize = 1_024;

/// How long a leaving node waits for slow links to take its goodbye.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an ending mesh waits for the disk to take its last changes.
const PERSIST_TIMEOUT: Duration = Duration::from_secs(10);

/// What the driver is made with.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The protocol's settings; what they say of durability follows from whether there is a journal.
    pub gossip: Config,
    /// This node, in a life that it has never had.
    pub actor: Actor,
    /// Feeds jitter.
    pub seed: u64,
    /// How many events a subscriber may be behind before it lags.
    pub event_capacity: NonZeroUsize,
    /// What stamps the writes of this node.
    pub clock: WallClock,
}

/// The task that owns the mesh. Made first, so that the daemon can be given its service; then run.
#[derive(Debug)]
pub struct Driver {
    mesh: Mesh,
    handle: MeshHandle,
    inputs: mpsc::Receiver<Input>,
    started_at: Instant,
    clock: WallClock,
    links: BTreeMap<LinkId, LinkTasks>,
    next_link: u64,
    /// Channels whose last frame is not written yet.
    writing: BTreeSet<(LinkId, Channel)>,
    /// Who waits until none is.
    flushing: Vec<(Instant, oneshot::Sender<()>)>,
    persister: Option<Persister>,
    /// Who waits for a write to be durable, by the ticket that it takes; tickets only grow.
    writers: VecDeque<(Ticket, Writer)>,
    tasks: TaskTracker,
}

/// Who waits for a write.
#[derive(Debug)]
struct Writer {
    told: oneshot::Sender<Result<Written, CommandError>>,
    written: Written,
    /// What was asked for: a write in memory waits too when it comes after one that waits for the disk.
    asked: Durability,
}

impl Driver {
    /// Prepares a mesh of one node that keeps its state in memory.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the settings cannot work together.
    pub fn new(config: DriverConfig) -> Result<Self, ConfigError> {
        Self::make(config, None)
    }

    /// Prepares a mesh of one node that makes its state durable. What is durable already is for the caller to
    /// [`restore`](Self::restore).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the settings cannot work together.
    pub fn durable(config: DriverConfig, journal: Journal) -> Result<Self, ConfigError> {
        Self::make(config, Some(journal))
    }

    fn make(config: DriverConfig, journal: Option<Journal>) -> Result<Self, ConfigError> {
        let DriverConfig { gossip, actor, seed, event_capacity, clock } = config;
        gossip.validate()?;
        let (durability, storage) = match &journal {
            Some(_) => (Durability::Disk, Storage::Durable),
            None => (Durability::Memory, Storage::Memory),
        };
        let gossip = Config { durability, ..gossip };
        let (sender, inputs) = mpsc::channel(INPUTS);
        let started_at = Instant::now();
        let shared = Shared {
            events: Events::new(event_capacity),
            counters: Arc::new(Counters::default()),
            changes: ChangeCounters::new(now(started_at, &clock).wall),
            merges: MergeCounters::default(),
            dials: Mutex::new(BTreeMap::new()),
            storage: watch::Sender::new(storage),
            access: Access::default(),
        };
        let handle = MeshHandle { node: actor.node, inputs: sender, shared: Arc::new(shared) };
        let mesh = Mesh::new(gossip, actor, seed, now(started_at, &clock));
        Ok(Self {
            mesh,
            handle,
            inputs,
            started_at,
            clock,
            links: BTreeMap::new(),
            next_link: 0,
            writing: BTreeSet::new(),
            flushing: Vec::new(),
            persister: journal.map(Persister::new),
            writers: VecDeque::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// The same, before anything else, in a mesh where entries are believed under their authors' seals only: see
    /// [`Mesh::sealed`].
    #[must_use]
    pub fn sealed(self, notary: Arc<dyn Notary>) -> Self {
        Self { mesh: self.mesh.sealed(notary), ..self }
    }

    /// Merges what an earlier life had made durable, piece by piece, before it runs.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the disk has damaged it; the piece was not merged.
    pub fn restore(&mut self, record: &Record) -> Result<(), Corrupt> {
        let now = self.now();
        self.mesh.restore(now, record)
    }

    /// Lets the clock go on where an earlier life's stopped. Returns how far that is ahead of what this machine's
    /// clock can say: zero, unless it was set back.
    pub fn restore_clock(&mut self, last: Timestamp) -> Duration {
        let now = self.now();
        self.mesh.restore_clock(now, last)
    }

    /// A handle of this mesh.
    pub fn handle(&self) -> MeshHandle {
        self.handle.clone()
    }

    /// The service that the daemon must offer, so that others can link with this node.
    pub fn service(&self) -> GossipService {
        GossipService::new(self.handle.inputs.clone())
    }

    /// Runs until cancelled, dialling through `connector`; then ends all links and waits for their tasks.
    pub async fn run<C: Connector>(mut self, connector: C, cancel: CancellationToken) {
        let connector = Arc::new(connector);
        loop {
            self.drain(&connector);
            self.answer_flushes();
            if let Some(persister) = &mut self.persister {
                persister.begin(&self.mesh);
            }
            let timeout = self.mesh.next_timeout().map(|at| self.started_at + at.since(Moment::default()));
            let flush = self.flushing.iter().map(|(deadline, _)| *deadline).min();
            let persist = self.persister.as_ref().and_then(Persister::next_at);
            let wake = [timeout, flush, persist].into_iter().flatten().min();
            let wake = async move {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Time comes before inputs: a flood of them must not keep heartbeats from going out.
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = wake => {
                    let now = self.now();
                    if self.mesh.next_timeout().is_some_and(|at| at <= now.monotone) {
                        self.mesh.handle_timeout(now);
                    }
                }
                report = report(&mut self.persister) => if self.handle_report(report) == Fate::Ends {
                    break;
                },
                input = self.inputs.recv() => match input {
                    Some(input) => self.handle_input(input),
                    None => break,
                },
            }
        }
        self.finish_persisting().await;
        for link in self.links.values() {
            link.close(Gone::Leaving);
        }
        self.links.clear();
        self.inputs.close();
        self.handle.shared.events.close();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn now(&self) -> Now {
        now(self.started_at, &self.clock)
    }

    fn handle_input(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Command(command) => command(&mut self.mesh, now),
            Input::Write { write, durability, told } => self.write(write, durability, told),
            Input::Flush(flushed) => self.flushing.push((Instant::now() + FLUSH_TIMEOUT, flushed)),
            Input::Accepted { tunnel, peer, streams } => self.link_up(tunnel, peer, Side::Listen, streams),
            Input::Connected { dial, address, tunnel, peer, streams } => {
                self.note_dial(address, None);
                self.link_up(tunnel, peer, Side::Connect(dial), streams);
            }
            Input::DialFailed { dial, address, error } => {
                self.note_dial(address, Some(&error));
                self.mesh.dial_failed(now, dial);
            }
            Input::Message { link, message, room } => {
                self.take(now, link, message);
                drop(room);
            }
            Input::Malformed { link } => {
                self.handle.shared.merges.malformed();
                self.mesh.handle_malformed(now, link);
            }
            Input::Writable { link, channel } => {
                self.writing.remove(&(link, channel));
                self.mesh.link_writable(now, link, channel);
            }
            Input::StreamEnded { link } => {
                if let Some(tasks) = self.links.get(&link) {
                    tasks.close(Gone::Misbehaved);
                }
            }
            Input::LinkDown { link } => {
                self.forget(link);
                self.mesh.link_down(now, link);
            }
        }
    }

    /// Gives the mesh a message. What brings state is timed.
    fn take(&mut self, now: Now, link: LinkId, message: Message) {
        let merges = &self.handle.shared.merges;
        merges.received(&message);
        if !MergeCounters::brings_state(&message) {
            return self.mesh.handle_message(now, link, message);
        }
        let (begun, before) = (Instant::now(), self.mesh.replica().store().revision());
        self.mesh.handle_message(now, link, message);
        merges.merged(begun.elapsed(), self.mesh.replica().store().revision() != before);
    }

    /// Writes, and answers when the write is as durable as was asked for.
    fn write(
        &mut self,
        write: Write,
        durability: Durability,
        told: oneshot::Sender<Result<Written, CommandError>>,
    ) {
        let now = self.now();
        let waits = durability == Durability::Disk && self.persister.is_some();
        let outcome = if waits && *self.handle.shared.storage.borrow() == Storage::NoRoom {
            Err(CommandError::NoRoom)
        } else {
            self.mesh.with_durability(durability, |mesh| write(mesh, now)).map_err(CommandError::Write)
        };
        let ticket = match outcome {
            Ok(ticket) => ticket,
            Err(error) => {
                if let CommandError::Write(error) = &error {
                    self.handle.shared.merges.refused(error);
                }
                // Whoever asked may have gone meanwhile; so below.
                told.send(Err(error)).ok();
                return;
            }
        };
        let written = if ticket.is_some() { Written::Yes } else { Written::Unchanged };
        // What is so already may not be durable yet.
        let last = self.mesh.last_ticket();
        let until = match ticket {
            Some(ticket) if waits => Some(ticket),
            Some(ticket) => self.mesh.unpersisted().any(|(waiting, _)| waiting == ticket).then_some(ticket),
            None => Some(last).filter(|_| waits),
        };
        let until =
            until.filter(|until| self.persister.as_ref().is_some_and(|disk| !disk.is_durable(*until)));
        match until {
            None => {
                told.send(Ok(written)).ok();
            }
            Some(until) => {
                let until = self.writers.back().map_or(until, |(last, _)| until.max(*last));
                self.writers.push_back((until, Writer { told, written, asked: durability }));
            }
        }
    }

    /// The disk has said something.
    fn handle_report(&mut self, report: Report) -> Fate {
        let now = self.now();
        let Some(persister) = &mut self.persister else { return Fate::GoesOn };
        let storage = match report {
            Report::Committed => {
                if let Some(ticket) = persister.committed(&self.mesh) {
                    self.mesh.handle_persisted(now, ticket);
                    while self.writers.front().is_some_and(|(until, _)| *until <= ticket) {
                        if let Some((_, Writer { told, written, .. })) = self.writers.pop_front() {
                            told.send(Ok(written)).ok();
                        }
                    }
                }
                Storage::Durable
            }
            Report::NoRoom => {
                // What waits for the disk holds until then, or everything after it would wait along: a full disk must
                // not keep from writing what need not be durable.
                let last = self.mesh.last_ticket();
                self.mesh.handle_persisted(now, last);
                self.refuse_writers(CommandError::Delayed);
                Storage::NoRoom
            }
            Report::Failed(what) => {
                self.refuse_writers(CommandError::Failed);
                Storage::Failed(what)
            }
        };
        let failed = matches!(storage, Storage::Failed(_));
        let before = self.handle.shared.storage.send_replace(storage.clone());
        match storage {
            Storage::Durable if before == Storage::NoRoom => {
                tracing::info!("there is room on the disk again, durable writes are taken");
            }
            Storage::NoRoom if before != Storage::NoRoom => {
                tracing::error!("the disk is full, durable writes are refused until there is room");
            }
            Storage::Failed(what) => tracing::error!(%what, "the disk failed, the mesh ends"),
            _ => {}
        }
        if failed { Fate::Ends } else { Fate::GoesOn }
    }

    fn refuse_writers(&mut self, error: CommandError) {
        for (_, Writer { told, written, asked }) in self.writers.drain(..) {
            let in_memory = error == CommandError::Delayed && asked == Durability::Memory;
            told.send(if in_memory { Ok(written) } else { Err(error) }).ok();
        }
    }

    /// Makes durable what is not yet, as far as the disk takes it soon.
    async fn finish_persisting(&mut self) {
        let deadline = Instant::now() + PERSIST_TIMEOUT;
        loop {
            let healthy = *self.handle.shared.storage.borrow() == Storage::Durable;
            let Some(persister) = self.persister.as_mut().filter(|persister| healthy && !persister.is_idle())
            else {
                return;
            };
            persister.begin(&self.mesh);
            let wake = persister.next_at().map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                report = persister.report() => {
                    self.handle_report(report);
                }
                () = sleep_until(wake) => if Instant::now() >= deadline {
                    tracing::error!("the disk is too slow, the last changes are not durable");
                    return;
                },
            }
        }
    }

    fn link_up(&mut self, tunnel: ArcTunnel, peer: NodeId, side: Side, streams: LinkStreams) {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        let (inputs, counters) = (&self.handle.inputs, &self.handle.shared.counters);
        self.links.insert(link, LinkTasks::start(link, tunnel, streams, inputs, counters, &self.tasks));
        tracing::debug!(link = link.0, %peer, ?side, "link up");
        self.mesh.link_up(self.now(), link, peer, side);
    }

    fn forget(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.writing.retain(|(writing, _)| *writing != link);
    }

    /// Carries out what the core asks for, until it asks for nothing.
    fn drain<C: Connector>(&mut self, connector: &Arc<C>) {
        let now = self.now();
        while let Some(output) = self.mesh.poll_output(now) {
            match output {
                Output::Send { link, channel, message } => {
                    self.handle.shared.merges.sent(&message);
                    if let Some(tasks) = self.links.get_mut(&link) {
                        tasks.send(channel, &message);
                        self.writing.insert((link, channel));
                    }
                }
                Output::Datagram { link, message } => {
                    if let Some(tasks) = self.links.get(&link) {
                        tasks.send_datagram(&message);
                    }
                }
                Output::Dial { dial, address, expect } => self.dial(connector, dial, address, expect),
                Output::Close { link, reason } => {
                    tracing::debug!(link = link.0, ?reason, "link closed");
                    match (self.links.remove(&link), reason) {
                        // A link that is of no use says nothing of the streams of users in the same tunnel.
                        (Some(tasks), Gone::Duplicate | Gone::Replaced | Gone::Silent) => {
                            // The driver ends when nobody reads its inputs any more.
                            let inputs = self.handle.inputs.clone();
                            self.tasks.spawn(tasks.retire(reason, async move { inputs.closed().await }));
                        }
                        (Some(tasks), reason) => tasks.close(reason),
                        (None, _) => {}
                    }
                    self.forget(link);
                }
                Output::Persist { ticket, record } => {
                    if let Some(persister) = &mut self.persister {
                        persister.note(ticket, &record);
                    }
                }
                Output::Event(event) => {
                    self.handle.shared.changes.count(&event, self.handle.node, now.wall);
                    if let Event::Alarm(Alarm::Seals { peer }) = event {
                        tracing::warn!(%peer, "entries are signed here or there, and not at both: no link is possible");
                    }
                    self.handle.shared.events.publish(event);
                }
            }
        }
    }

    fn dial<C: Connector>(&self, connector: &Arc<C>, dial: DialId, address: Address, expect: Option<NodeId>) {
        let (connector, inputs) = (Arc::clone(connector), self.handle.inputs.clone());
        let stopped = inputs.clone();
        self.tasks.spawn(async move {
            let attempt = async {
                let (tunnel, peer) = connector.connect(&address, expect).await?;
                match open_streams(&tunnel).await {
                    Ok(streams) => Ok((tunnel, peer, streams)),
                    Err(error) => {
                        tunnel.close(CloseReason::ProtocolViolation);
                        Err(ConnectError::Gossip(error))
                    }
                }
            };
            // The driver ends when nobody reads its inputs any more.
            let outcome = tokio::select! {
                biased;
                outcome = attempt => outcome,
                () = stopped.closed() => return,
            };
            let input = match outcome {
                Ok((tunnel, peer, streams)) => Input::Connected { dial, address, tunnel, peer, streams },
                Err(error) => Input::DialFailed { dial, address, error },
            };
            inputs.send(input).await.ok();
        });
    }

    /// Remembers how an attempt went, and says so once, not at every attempt.
    fn note_dial(&self, address: Address, error: Option<&ConnectError>) {
        let error = error.map(|error| in_one_line(error));
        let mut dials = self.handle.shared.dials.lock().unwrap_or_else(PoisonError::into_inner);
        let status = dials.entry(address.clone()).or_insert(DialStatus { address, failures: 0, error: None });
        match &error {
            Some(error) if status.error.as_ref() != Some(error) => {
                tracing::warn!(address = %status.address, %error, "node not reached");
            }
            Some(error) => tracing::debug!(address = %status.address, %error, "node not reached"),
            None if status.failures > 0 => tracing::info!(address = %status.address, "node reached"),
            None => {}
        }
        status.failures = if error.is_some() { status.failures.saturating_add(1) } else { 0 };
        status.error = error;
    }

    fn answer_flushes(&mut self) {
        let (idle, now) = (self.writing.is_empty(), Instant::now());
        for (_, flushed) in self.flushing.extract_if(.., |(deadline, _)| idle || *deadline <= now) {
            flushed.send(()).ok();
        }
    }
}

/// Whether the driver goes on.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    GoesOn,
    Ends,
}

/// What the disk says next; nothing, if there is none.
async fn report(persister: &mut Option<Persister>) -> Report {
    match persister {
        Some(persister) => persister.report().await,
        None => std::future::pending().await,
    }
}

fn now(started_at: Instant, clock: &WallClock) -> Now {
    Now { monotone: Moment::default() + started_at.elapsed(), wall: clock.now() }
}
