//! The task that feeds the core.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::{ConnectError, Connector, DialStatus};
use super::handle::{MeshHandle, Shared};
use super::input::{Input, LinkStreams};
use super::link::{LinkTasks, open_streams};
use super::service::GossipService;
use super::traffic::Counters;
use crate::clock::WallClock;
use crate::daemon::Events;
use crate::gossip::{Channel, Config, ConfigError, DialId, Durability, LinkId, Mesh, Output, Side};
use crate::id::{Actor, NodeId};
use crate::replica::Address;
use crate::time::{Moment, Now};
use crate::tunnel::{ArcTunnel, CloseReason, TunnelControl};

/// How many inputs may wait for the driver. When they do, readers stop reading and peers stop sending.
const INPUTS: usize = 1_024;

/// How long a leaving node waits for slow links to take its goodbye.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What the driver is made with.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The protocol's settings. The state is kept in memory: `durability` must say so.
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
    tasks: TaskTracker,
}

impl Driver {
    /// Prepares a mesh of one node.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the settings cannot work together.
    pub fn new(config: DriverConfig) -> Result<Self, ConfigError> {
        let DriverConfig { gossip, actor, seed, event_capacity, clock } = config;
        gossip.validate()?;
        let gossip = Config { durability: Durability::Memory, ..gossip };
        let (sender, inputs) = mpsc::channel(INPUTS);
        let shared = Shared {
            events: Events::new(event_capacity),
            counters: Arc::new(Counters::default()),
            dials: Mutex::new(BTreeMap::new()),
        };
        let handle = MeshHandle { node: actor.node, inputs: sender, shared: Arc::new(shared) };
        let started_at = Instant::now();
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
            tasks: TaskTracker::new(),
        })
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
            let timeout = self.mesh.next_timeout().map(|at| self.started_at + at.since(Moment::default()));
            let flush = self.flushing.iter().map(|(deadline, _)| *deadline).min();
            let wake = [timeout, flush].into_iter().flatten().min();
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
                input = self.inputs.recv() => match input {
                    Some(input) => self.handle_input(input),
                    None => break,
                },
            }
        }
        for link in self.links.values() {
            link.close(crate::gossip::CloseReason::Leaving);
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
                self.mesh.handle_message(now, link, message);
                drop(room);
            }
            Input::Malformed { link } => self.mesh.handle_malformed(now, link),
            Input::Writable { link, channel } => {
                self.writing.remove(&(link, channel));
                self.mesh.link_writable(now, link, channel);
            }
            Input::StreamEnded { link } => {
                if let Some(tasks) = self.links.get(&link) {
                    tasks.close(crate::gossip::CloseReason::Misbehaved);
                }
            }
            Input::LinkDown { link } => {
                self.forget(link);
                self.mesh.link_down(now, link);
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
                    if let Some(tasks) = self.links.get(&link) {
                        tasks.close(reason);
                    }
                    self.forget(link);
                }
                // What is kept in memory is as durable as it will be.
                Output::Persist { ticket, .. } => self.mesh.handle_persisted(now, ticket),
                Output::Event(event) => {
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
        let error = error.map(describe);
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

/// An error and its causes in one line.
fn describe(error: &ConnectError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn now(started_at: Instant, clock: &WallClock) -> Now {
    Now { monotone: Moment::default() + started_at.elapsed(), wall: clock.now() }
}
