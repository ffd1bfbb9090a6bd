//! One machine: the daemon while it runs, put together as the program does it, and what outlives it.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use rustls::crypto::CryptoProvider;
use snomesh::auth::{Identity, MeshCa, MeshCredentials, Validity};
use snomesh::clock::WallClock;
use snomesh::crdt::Notary;
use snomesh::daemon::{DaemonConfig, ModularDaemon, Peer, PeersView, RecvError, TunnelObserver};
use snomesh::gossip::{Alarm, Config, Event, MemberState};
use snomesh::id::{Actor, Generation, NodeId, TunnelId};
use snomesh::mesh::{
    ConnectError, Connector, DaemonConnector, Driver, DriverConfig, MeshHandle, MeshRegistry,
};
use snomesh::replica::Address;
use snomesh::service::{RouteService, ServiceRegistry};
use snomesh::time::{Moment, UnixMillis};
use snomesh::tunnel::quic::{QuicConfig, QuicEndpoint};
use snomesh::tunnel::{ArcTunnel, CloseReason, Closed, Tunnel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::disk::{Damage, Disk, Keeper, Plug};
use super::entropy;
use super::follower::{Follower, follow};
use super::network::{Network, Socket, address_of};
use crate::coverage::Point;
use crate::node::{EPOCH_MILLIS, config_of};
use crate::random::{Generator, Seed};
use crate::scenario::{DiskFate, Durable, Scenario};

/// How long the other nodes have to take a good-bye, and the least that they get: as in the program.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
const MIN_GOODBYE: Duration = Duration::from_millis(50);

type Daemon = ModularDaemon<MeshRegistry, ServiceRegistry>;

/// The identities of all machines of a run, and the authority that vouches for them.
#[derive(Debug)]
pub(super) struct Identities {
    authority: MeshCa,
    machines: Vec<Identity>,
}

impl Identities {
    pub(super) fn new(seed: Seed, count: usize) -> Self {
        let identity = |purpose, number: usize| {
            let mut secret = [0; 32];
            seed.generator(purpose, &[number as u64]).fill_bytes(&mut secret);
            Identity::from_secret(&secret)
        };
        let authority = MeshCa::with_key(&identity("authority", 0), "simulated mesh", FOREVER);
        Self {
            authority: authority.expect("an Ed25519 key signs for itself"),
            machines: (0..count).map(|number| identity("identity", number)).collect(),
        }
    }

    /// The names of the machines, in order.
    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.machines.iter().map(Identity::node_id).collect()
    }

    fn credentials(&self, machine: usize) -> MeshCredentials {
        let identity = self.machines[machine].clone();
        let signed = self.authority.sign(&identity, FOREVER).expect("an Ed25519 key signs");
        MeshCredentials::from_pem(identity, &signed.pem, self.authority.certificate_pem())
            .expect("the certificate was just made for this identity")
    }
}

/// Whatever the clocks of machines show, certificates hold: 1970 to 2096.
const FOREVER: Validity = Validity { from: UnixMillis(0), until: UnixMillis(4_000_000_000_000) };

/// What all machines of a run share.
#[derive(Debug, Clone)]
pub(super) struct Surroundings<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) seed: Seed,
    pub(super) network: Network,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) began_at: Instant,
}

/// One simulated machine.
#[derive(Debug)]
pub(super) struct Machine {
    number: usize,
    pub(super) id: NodeId,
    credentials: MeshCredentials,
    clock: Arc<ClockOnTheWall>,
    ring: NonZeroUsize,
    /// What it makes durable.
    pub(super) disk: Disk,
    /// What runs, if anything does.
    pub(super) process: Option<Process>,
    /// Whether it has said good-bye, or was switched off for good.
    pub(super) left: bool,
    /// Whether it was a copy of another one, or another one was a copy of it.
    pub(super) double: Option<Double>,
    /// Whom its operator told it of, beside the seeds.
    pub(super) told_of: Option<usize>,
    /// How often it has been started.
    pub(super) lives: u32,
    /// The greatest generation that it is known to have lived in, whatever its disk knows of.
    pub(super) latest: Generation,
    /// The greatest one before its present life.
    pub(super) before: Generation,
}

/// Which of two machines with one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Double {
    Original,
    Copy,
}

/// What a machine takes for the time of day.
#[derive(Debug)]
struct ClockOnTheWall {
    /// By how much it is off.
    skew_millis: AtomicI64,
    /// How long the run had taken when it stopped; [`RUNS`] while it goes.
    stopped_at_millis: AtomicU64,
}

/// What says of a clock that it does not stand.
const RUNS: u64 = u64::MAX;

impl ClockOnTheWall {
    /// What it shows when the run has taken so long, and whether it stands.
    fn read(&self, elapsed_millis: u64) -> (UnixMillis, bool) {
        let stopped_at = self.stopped_at_millis.load(Ordering::Relaxed);
        let shown = EPOCH_MILLIS + elapsed_millis.min(stopped_at);
        let skew = self.skew_millis.load(Ordering::Relaxed);
        (UnixMillis(shown.saturating_add_signed(skew)), stopped_at != RUNS)
    }
}

/// The daemon and all that belongs to it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) actor: Actor,
    pub(super) mesh: MeshHandle,
    pub(super) peers: PeersView,
    pub(super) followers: Vec<Arc<Mutex<Follower>>>,
    daemon: Daemon,
    endpoint: QuicEndpoint,
    socket: Arc<Socket>,
    plug: Option<Plug>,
    stop_driver: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Machine {
    pub(super) fn new(number: usize, identities: &Identities, skew_millis: i64, ring: u64) -> Self {
        let credentials = identities.credentials(number);
        Self {
            number,
            id: credentials.identity.node_id(),
            credentials,
            clock: Arc::new(ClockOnTheWall {
                skew_millis: AtomicI64::new(skew_millis),
                stopped_at_millis: AtomicU64::new(RUNS),
            }),
            ring: usize::try_from(ring).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN),
            disk: Disk::default(),
            process: None,
            left: false,
            double: None,
            told_of: None,
            lives: 0,
            latest: Generation(0),
            before: Generation(0),
        }
    }

    /// Takes another machine's name, its key and a copy of its disk.
    pub(super) fn copy(&mut self, other: &mut Self) {
        (self.id, self.credentials) = (other.id, other.credentials.clone());
        self.disk = other.disk.copied();
        (self.double, other.double) = (Some(Double::Copy), Some(Double::Original));
    }

    /// Its wall clock jumps.
    pub(super) fn jump(&self, millis: i64) {
        self.clock.skew_millis.fetch_add(millis, Ordering::Relaxed);
    }

    /// Its wall clock has stood still since then, or goes on.
    pub(super) fn stop_clock(&self, since: Option<Moment>) {
        let millis = since.map_or(RUNS, |since| since.0 / 1_000_000);
        self.clock.stopped_at_millis.store(millis, Ordering::Relaxed);
    }

    /// Starts the daemon, with what its disk holds if it has one, in the life that the script says, or a later one if it
    /// remembers that. Must be called in the runtime.
    ///
    /// # Errors
    ///
    /// What is wrong with the disk.
    pub(super) fn start(&mut self, scripted: Generation, around: &Surroundings<'_>) -> Result<(), String> {
        self.lives += 1;
        let life = self.lives;
        let clock = {
            let (began_at, clock) = (around.began_at, Arc::clone(&self.clock));
            let network = around.network.clone();
            WallClock::reading(move || {
                let elapsed = u64::try_from(began_at.elapsed().as_millis()).unwrap_or(u64::MAX);
                let (shown, stands) = clock.read(elapsed);
                if stands {
                    network.lock().coverage.hit(Point::ClockStood);
                }
                shown
            })
        };
        let ids = [self.number as u64, u64::from(life)];
        let tls = self.credentials.tls_with(Arc::clone(&around.provider), &clock);
        let socket = around.network.plug_in(self.number);
        let tls = tls.expect("the credentials of the simulator are sound");
        let endpoint = QuicEndpoint::with_socket(Arc::clone(&socket) as Arc<_>, QuicConfig::default(), tls)
            .expect("a simulated socket can be driven");
        let mut generator = around.seed.generator("process", &ids);
        let mut config = DriverConfig {
            gossip: self.gossip(around.scenario, &mut generator),
            actor: Actor { node: self.id, generation: scripted },
            seed: generator.next_u64(),
            event_capacity: self.ring,
            clock,
        };
        let notary = around
            .scenario
            .mesh
            .sealed
            .then(|| -> Arc<dyn Notary> { Arc::new(self.credentials.identity.clone()) });
        let (driver, disk, generation) = match around.scenario.durability {
            Durable::Memory => {
                let generation = life_after(self.latest, &config, &mut generator);
                config.actor.generation = generation;
                let driver = Driver::new(config).expect("the scenario's settings held in the first tier");
                (sealed(driver, notary), None, generation)
            }
            Durable::Disk => {
                let generator = around.seed.generator("disk", &ids);
                let (driver, plug, keeper) =
                    self.disk.open(life, config, notary, around.scenario.disk.delay, generator)?;
                let generation = plug.generation;
                (driver, Some((plug, keeper)), generation)
            }
        };
        self.before = self.latest;
        self.has_lived(generation);
        let actor = Actor { node: self.id, generation };
        self.process = Some(Process::compose(actor, driver, disk, (endpoint, socket), around, ids));
        Ok(())
    }

    /// It is known to have lived as that.
    pub(super) fn has_lived(&mut self, generation: Generation) {
        self.latest = self.latest.max(generation);
    }

    fn gossip(&self, scenario: &Scenario, generator: &mut Generator) -> Config {
        let address = |number| -> Address {
            address_of(number).to_string().parse().expect("a socket's address is one")
        };
        let seeds = usize::try_from(scenario.mesh.seeds).unwrap_or(usize::MAX);
        Config {
            addresses: vec![address(self.number)],
            seeds: (0..seeds).chain(self.told_of).map(address).collect(),
            ..config_of(self.number, scenario, generator)
        }
    }
}

/// The life that the script says, unless the machine remembers that one or a later one: then one after what it remembers.
pub(super) fn life_after(last: Generation, config: &DriverConfig, generator: &mut Generator) -> Generation {
    let scripted = config.actor.generation;
    let drawn = u8::try_from(crate::random::number(generator, 0, 0xff)).unwrap_or_default();
    if scripted > last { scripted } else { Generation::after(last, config.clock.now(), drawn) }
}

/// The driver of a node that seals what it writes, if it does.
pub(super) fn sealed(driver: Driver, notary: Option<Arc<dyn Notary>>) -> Driver {
    match notary {
        Some(notary) => driver.sealed(notary),
        None => driver,
    }
}

impl Process {
    /// Puts a daemon together as the program does, without what is not of the mesh.
    fn compose(
        actor: Actor,
        driver: Driver,
        disk: Option<(Plug, Keeper)>,
        (endpoint, socket): (QuicEndpoint, Arc<Socket>),
        around: &Surroundings<'_>,
        ids: [u64; 2],
    ) -> Self {
        let number = usize::try_from(ids[0]).unwrap_or(usize::MAX);
        let mesh = driver.handle();
        let builder = ModularDaemon::builder();
        let peers = builder.peers();
        let services = ServiceRegistry::new().with(driver.service()).with(RouteService::new(peers.clone()));
        let daemon: Daemon = builder
            .registry(MeshRegistry::new(mesh.clone()))
            .services(services)
            .observer(Arc::new(Witness { number, network: around.network.clone() }))
            .tunnel_ids(|| TunnelId(entropy::number()))
            .config(DaemonConfig::default())
            .build();
        let mut tasks = Vec::new();
        let plug = disk.map(|(plug, keeper)| {
            tasks.push(tokio::spawn(keeper.run()));
            plug
        });
        let mut followers = Vec::new();
        for (place, kind) in around.scenario.each_subscriber().enumerate() {
            let mut generator = around.seed.generator("follower", &[ids[0], ids[1], place as u64]);
            let follower = Follower::new(kind, place, number, &mut generator).restored(plug.is_some());
            let (follower, reading) = follow(follower, mesh.clone(), around.network.clone(), generator);
            followers.push(follower);
            tasks.push(tokio::spawn(reading));
        }
        tasks.push(tokio::spawn(overhear(mesh.clone(), around.network.clone())));
        let (accepting, incoming) = (daemon.clone(), endpoint.incoming());
        tasks.push(tokio::spawn(async move { accepting.run(incoming).await }));
        let stop_driver = CancellationToken::new();
        let connector = DaemonConnector::new(endpoint.clone(), daemon.clone());
        let connector = CountingConnector { connector, network: around.network.clone() };
        tasks.push(tokio::spawn(driver.run(connector, stop_driver.clone())));
        Self { actor, mesh, peers, followers, daemon, endpoint, socket, plug, stop_driver, tasks }
    }

    /// Stops as the program does: says good-bye, lets it be heard, and ends.
    pub(super) async fn leave(self) {
        let longest = self.peers.all().iter().map(|peer| peer.tunnel.rtt()).max();
        let told = timeout(GOODBYE_TIMEOUT, self.mesh.leave()).await;
        if let (Some(longest), Ok(Ok(()))) = (longest, told) {
            sleep((3 * longest).clamp(MIN_GOODBYE, GOODBYE_TIMEOUT)).await;
        }
        self.end().await;
    }

    /// The machine goes off: it is mute from this moment, and its disk as it is. Says what that did to the disk.
    pub(super) fn switch_off(&self, fate: DiskFate, generator: Generator) -> Option<Damage> {
        self.socket.unplug();
        Some(self.plug.as_ref()?.pull(fate, generator))
    }

    /// What is left of the process of a machine that is off is cleared away unheard.
    pub(super) async fn clear(self) {
        self.endpoint.close(CloseReason::Dropped);
        self.end().await;
    }

    async fn end(self) {
        self.daemon.shutdown().await;
        self.stop_driver.cancel();
        for task in self.tasks {
            // A panic has been noticed where it happened.
            task.await.ok();
        }
        self.endpoint.close(CloseReason::ShuttingDown);
        let _slow = timeout(GOODBYE_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

/// Counts how tunnels end.
#[derive(Debug)]
struct Witness {
    number: usize,
    network: Network,
}

impl TunnelObserver for Witness {
    fn joined(&self, peer: &Peer) {
        let mut shared = self.network.lock();
        let now = shared.now();
        shared.joined.push((now, self.number, peer.node));
    }

    fn left(&self, _: &Peer, closed: &Closed) {
        let point = match closed {
            Closed::TimedOut => Point::IdleTimeouts,
            Closed::PeerRestarted => Point::Resets,
            _ => return,
        };
        self.network.lock().coverage.hit(point);
    }
}

/// Counts the attempts that fail.
#[derive(Debug)]
struct CountingConnector<C> {
    connector: C,
    network: Network,
}

impl<C: Connector> Connector for CountingConnector<C> {
    async fn connect(
        &self,
        address: &Address,
        expect: Option<NodeId>,
    ) -> Result<(ArcTunnel, NodeId), ConnectError> {
        let connected = self.connector.connect(address, expect).await;
        if connected.is_err() {
            self.network.lock().coverage.hit(Point::DialsFailed);
        }
        connected
    }
}

/// Counts what a node thinks of others.
async fn overhear(mesh: MeshHandle, network: Network) {
    let mut events = mesh.subscribe();
    drop(mesh);
    loop {
        let point = match events.recv().await {
            Ok((_, Event::Member { state: MemberState::Suspect, .. })) => Point::Suspected,
            Ok((_, Event::Member { state: MemberState::Down, .. })) => Point::Downs,
            Ok((_, Event::Alarm(Alarm::Drift { .. }))) => Point::DriftAlarms,
            Ok((_, Event::Alarm(Alarm::Double { .. }))) => Point::Doubles,
            Ok(_) | Err(RecvError::Lagged(_)) => continue,
            Err(_) => return,
        };
        network.lock().coverage.hit(point);
    }
}
