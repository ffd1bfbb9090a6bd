//! A node from its start to its end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admin::{self, AdminError, AdminSocket, Http, HttpError};
use super::agent::{Agent, CompatFacts, Facts};
use super::files::FileError;
use super::forwards::{Applied, Forwards, Opener, Wanted};
use super::metrics::{ConnectionObserver, Metrics, StreamObserver};
use super::trust::{
    Keys, KeysError, Newcomers, Policies, RenewalService, Revocations, ShowService, keep_certificate,
    keep_checked, keep_door,
};
use super::{
    CaSource, CompatConfig, DataDir, DataDirError, NodeConfig, NodeFiles, RegistryTrust, StateStore, parse,
    pulse,
};
use crate::auth::{CredentialsError, Identity, MutualTls};
use crate::causes::in_one_line;
use crate::clock::WallClock;
use crate::compat;
use crate::daemon::{Drained, Limits, ModularDaemon, PeersView};
use crate::gossip::{self, ConfigError};
use crate::id::{Actor, Generation, NodeId};
use crate::mesh::{
    DaemonConnector, Driver, DriverConfig, Guarded, MeshHandle, MeshRegistry, Router, Storage, journal,
};
use crate::service::{Loopback, RouteService, ServiceRegistry, TargetService, TargetTable};
use crate::store::{self, StateFile, StoreError};
use crate::tunnel::quic::{BindError, GatedSocket, Guest, QuicConfig, QuicEndpoint, bind_socket};
use crate::tunnel::{CloseReason, Tunnel};

/// How many events a subscriber may be behind before it misses some.
const EVENT_CAPACITY: usize = 8_192;
/// How long the other nodes have to take our good-bye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// The least that the other nodes get to take it, for those that are busy.
const MIN_GOODBYE: Duration = Duration::from_millis(50);

type Daemon = ModularDaemon<MeshRegistry, ServiceRegistry, MutualTls>;

/// What a node is put together from.
struct Parts {
    data_dir: DataDir,
    endpoint: QuicEndpoint,
    socket: AdminSocket,
    driver: Driver,
    /// The thread of the disk, if there is one.
    disk: Option<std::thread::JoinHandle<()>>,
    facts: Facts,
    keys: Arc<Keys>,
    revocations: Revocations,
    policies: Policies,
    /// Those who want to join, if this node can make nodes of them.
    door: Option<mpsc::Receiver<Guest>>,
}

/// What of a configuration holds without a restart, beside what is forwarded.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) limits: Limits,
    /// How long the certificates hold that this node signs.
    pub(super) certificate_validity: Duration,
    /// Where the authority is.
    pub(super) ca: CaSource,
}

/// A running node: identity, daemon, mesh and admin API. Several may run in one process.
///
/// Dropped without [`shutdown`](Self::shutdown) it goes on until its runtime ends.
#[derive(Debug)]
pub struct Node {
    agent: Arc<Agent>,
    daemon: Daemon,
    endpoint: QuicEndpoint,
    /// Ends the admin API, then what is local.
    stop: CancellationToken,
    /// Ends the driver, last of all.
    stop_driver: CancellationToken,
    driver: JoinHandle<()>,
    /// Writes the state file; ends with the driver.
    disk: Option<std::thread::JoinHandle<()>>,
    admin: JoinHandle<()>,
    /// For clients of snocat, where they are served.
    compat: Option<compat::Server>,
    tasks: TaskTracker,
    /// Unlocked when everything else has ended.
    data_dir: DataDir,
}

/// A node did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Its certificates do not serve for TLS.
    #[error("the certificates cannot be used")]
    Credentials(#[from] CredentialsError),
    /// The UDP address cannot be had.
    #[error(transparent)]
    Endpoint(#[from] BindError),
    /// The UDP socket does not say where it is.
    #[error("the UDP socket has no address")]
    Address(#[source] io::Error),
    /// The admin socket cannot be had.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A file of its directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The door for guests cannot be opened.
    #[error("the door for those who join cannot be opened: {what}")]
    Door {
        /// Why.
        what: String,
    },
    /// The state file cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state file could not be set aside.
    #[error("cannot set {} aside", .path.display())]
    SetAside {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread for the disk.
    #[error("cannot start the thread of the disk")]
    Thread(#[source] io::Error),
    /// The admin API cannot be had over TCP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Clients of snocat cannot be served.
    #[error("snocat's clients cannot be served")]
    Compat(#[from] compat::ServerError),
    /// The protocol's settings cannot work together.
    #[error("the settings cannot work together")]
    Gossip(#[from] ConfigError),
}

impl Node {
    /// Starts a node. Must be called in a runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let identity = data_dir.identity()?;
        let trust = data_dir.trust(&identity, &config.ca, config.certificate_validity)?;
        let endpoint = endpoint(&config, trust.credentials.tls()?)?;
        let listen = endpoint.local_addr().map_err(StartError::Address)?;
        let compat = config.compat.as_ref().map(|compat| bind_compat(&config, compat)).transpose()?;
        let socket = AdminSocket::bind(&config.admin_path())?;

        let state = open_state(&config, &data_dir)?;
        let known = state.as_ref().map_or(Generation(0), |state| state.last_life(identity.node_id()));
        let drawn = u8::try_from(draw() & 0xff).unwrap_or_default();
        let generation = data_dir.next_generation(WallClock::system().now(), drawn, known)?;
        let actor = Actor { node: identity.node_id(), generation };
        let advertised = config.advertised(listen);
        let mut seeds = config.join.clone();
        seeds.extend(data_dir.seeds()?.into_iter().filter(|seed| !config.join.contains(seed)));
        let driver_config = DriverConfig {
            gossip: gossip::Config {
                label: config.name.clone(),
                addresses: advertised.clone(),
                seeds: seeds.clone(),
                ..config.gossip.clone()
            },
            actor,
            seed: draw(),
            event_capacity: EVENT_CAPACITY.try_into().expect("not zero"),
            clock: WallClock::system(),
        };
        let notary = (config.trust == RegistryTrust::Signed).then_some(&identity);
        let (driver, disk) = match state {
            None => (sealed(Driver::new(driver_config)?, notary), None),
            Some(state) => {
                let (driver, disk) = restore(state, driver_config, notary)?;
                (driver, Some(disk))
            }
        };
        let revocations = Revocations::open(
            data_dir.file("revoked"),
            trust.credentials.authorities.clone(),
            trust.credentials.denied.clone(),
        )?;
        let policies = Policies::open(
            data_dir.file("policy"),
            trust.credentials.authorities.clone(),
            driver.handle().access().clone(),
        )?;
        let mesh = trust.mesh;
        let files = NodeFiles::clone(&data_dir);
        let keys = Keys::new(files, &config, trust, endpoint.clone(), advertised.clone())?;
        let door = keys.open_door().map_err(|error| StartError::Door { what: error.to_string() })?;
        let keys = Arc::new(keys);
        let facts = Facts {
            node: actor.node,
            name: config.name.clone(),
            generation,
            mesh,
            listen,
            advertised,
            seeds,
            admin: config.admin_path(),
            data_dir: config.data_dir.clone(),
            started_at: Instant::now(),
            certificates: data_dir.certificates(),
            compat: compat.as_ref().zip(config.compat.as_ref()).map(CompatFacts::of),
        };
        let parts =
            Parts { data_dir, endpoint, socket, driver, disk, facts, keys, revocations, policies, door };
        Self::compose(&config, parts, compat).await
    }

    async fn compose(
        config: &NodeConfig,
        parts: Parts,
        compat: Option<compat::Server>,
    ) -> Result<Self, StartError> {
        let Parts { data_dir, endpoint, socket, driver, disk, facts, keys, revocations, policies, door } =
            parts;
        let mesh = driver.handle();
        let (metrics, newcomers) = (Arc::new(Metrics::default()), Arc::new(Notify::new()));
        let (stop, stop_driver, tasks) =
            (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let token = config.token_file.clone().unwrap_or_else(|| data_dir.file("admin.token"));
        let http = Http::prepare(token, Arc::clone(&metrics), stop.clone())?;
        let targets = TargetTable::new();
        targets.observe(Arc::new(StreamObserver(Arc::clone(&metrics.streams))));
        targets.keep_from_udp(facts.listen.port());
        targets.keep_from_path(&facts.admin);
        let builder = ModularDaemon::builder();
        let peers = builder.peers();
        let services = ServiceRegistry::new()
            .with(driver.service())
            .with(RenewalService::new(Arc::clone(&keys), peers.clone()))
            .with(ShowService::new(Arc::clone(&keys)))
            .with(guarded(TargetService::new(targets.clone()), &mesh))
            .with(guarded(RouteService::new(peers.clone()), &mesh));
        let daemon: Daemon = builder
            .registry(MeshRegistry::new(mesh.clone()))
            .services(services)
            .observer(Arc::new(ConnectionObserver(Arc::clone(&metrics.connections))))
            .observer(Arc::new(Newcomers(Arc::clone(&newcomers))))
            .config(config.daemon_config())
            .build();
        let (accepting, incoming) = (daemon.clone(), endpoint.incoming());
        tasks.spawn(async move { accepting.run(incoming).await });
        let connector = DaemonConnector::new(endpoint.clone(), daemon.clone());
        let driver = tokio::spawn(driver.run(connector.clone(), stop_driver.clone()));

        let loopback = Loopback::new(facts.node, targets.clone(), &tasks, stop.clone());
        let opener = Opener {
            router: Router::new(mesh.clone(), peers.clone())
                .with_local(&facts.name, loopback)
                .observed_by(Arc::new(StreamObserver(Arc::clone(&metrics.streams))))
                .with_shortcuts(connector, &tasks, stop.clone()),
            mesh: mesh.clone(),
            targets,
            metrics: Arc::clone(&metrics),
        };
        let forwards = Forwards::new(opener, data_dir.file("forwards.json"));
        forwards.restore().await;
        for failed in forwards.configure(&config.wanted).await.failed {
            tracing::error!("{failed}");
        }
        let keepers = Keepers { keys: Arc::clone(&keys), revocations, policies, door, newcomers };
        keepers.spawn((&mesh, &peers, &metrics), &tasks, &stop);
        let controls = config.controls.clone();
        let alive = controls.alive.clone();
        tasks.spawn(pulse::watch(
            mesh.clone(),
            Arc::clone(&metrics),
            move || alive.as_ref().into_iter().for_each(|alive| alive()),
            stop.clone(),
        ));
        let (counter, stop_agent) = (Arc::default(), stop.clone());
        let agent =
            Agent { facts, mesh, peers, forwards, keys, counter, metrics, http, controls, stop: stop_agent };
        let agent = Arc::new(agent);
        if let Some(listen) = config.http {
            agent.http.listen(listen, &agent).await?;
        }
        let router = admin::numbered(admin::router(Arc::clone(&agent)));
        let admin = tokio::spawn(admin::serve(socket, router, stop.clone()));
        compat.iter().for_each(compat::Server::serve);
        tracing::info!(node = %agent.facts.node, listen = %agent.facts.listen, "node started");
        Ok(Self { agent, daemon, endpoint, stop, stop_driver, driver, disk, admin, compat, tasks, data_dir })
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.agent.facts.node
    }

    /// The hash of the public key of the mesh's authority, which names the mesh.
    pub fn mesh_id(&self) -> NodeId {
        self.agent.facts.mesh
    }

    /// The UDP address that it listens on.
    pub fn listen_addr(&self) -> SocketAddr {
        self.agent.facts.listen
    }

    /// Whether others can dial it: it advertises an address.
    pub fn is_dialable(&self) -> bool {
        !self.agent.facts.advertised.is_empty()
    }

    /// The socket of its admin API.
    pub fn admin_path(&self) -> &Path {
        &self.agent.facts.admin
    }

    /// The UDP address for clients of snocat, if they are served.
    pub fn compat_addr(&self) -> Option<SocketAddr> {
        self.compat.as_ref()?.local_addr().ok()
    }

    /// Makes another configuration hold, as far as that needs no restart.
    pub(super) async fn reconfigure(&self, wanted: &Wanted, live: Live) -> Applied {
        let mut applied = self.agent.forwards.configure(wanted).await;
        let Live { limits, certificate_validity, ca } = live;
        if limits != self.daemon.limits() {
            applied.done.extend(told_limits(&self.daemon.limits(), &limits));
            self.daemon.limit(limits);
            self.compat.iter().for_each(|compat| compat.limit(limits));
        }
        if ca != self.agent.keys.source() {
            let told = "identity.ca, identity.ca_key";
            match self.move_authority(ca) {
                Ok(done) => applied.done.push(format!("{told}: {done}")),
                Err(error) => applied.failed.push(format!("{told}: {}", in_one_line(&error))),
            }
        }
        if certificate_validity != self.agent.keys.validity() {
            let done = format!("identity.cert_ttl is {}", parse::shown(certificate_validity));
            match self.agent.keys.set_validity(certificate_validity) {
                Ok(()) => applied.done.push(done),
                Err(error) => applied.failed.push(format!("identity.cert_ttl: {}", in_one_line(&error))),
            }
        }
        applied
    }

    /// Finds the mesh's authority somewhere else; lets guests in if its key is at hand from now on. Another authority is
    /// another mesh, which no reload makes of a node.
    fn move_authority(&self, ca: CaSource) -> Result<&'static str, KeysError> {
        let keys = &self.agent.keys;
        keys.set_source(ca)?;
        if let Some(guests) = keys.open_door()? {
            let (keys, mesh) = (Arc::clone(keys), self.agent.mesh.clone());
            self.tasks.spawn(keep_door(guests, keys, mesh, self.stop.clone()));
        }
        Ok(match keys.authority() {
            Some(_) => "the certificate is a new one, and this node can invite",
            None => "the authority's key is not at hand",
        })
    }

    /// A reload of the configuration was tried.
    pub(super) fn note_reload(&self, taken_over: Result<(), ()>) {
        self.agent.metrics.reloaded(taken_over);
    }

    /// Its directory.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// Its view of the mesh.
    pub fn mesh(&self) -> &MeshHandle {
        &self.agent.mesh
    }

    /// Waits until the disk has failed, and says how. Then the mesh has ended: what it acknowledged is as durable as
    /// it was, and nothing more will be.
    pub async fn disk_failed(&self) -> Arc<str> {
        let mut storage = self.agent.mesh.storage();
        let failed = storage.wait_for(|storage| matches!(storage, Storage::Failed(_))).await;
        match failed.as_deref() {
            Ok(Storage::Failed(what)) => Arc::clone(what),
            // The driver has ended in good order, and the disk with it.
            _ => std::future::pending().await,
        }
    }

    /// Stops: takes no more commands, tells the others, lets streams come to their end until the deadline, then
    /// closes everything. The directory is free when it returns.
    pub async fn shutdown(self) -> Drained {
        self.stop.cancel();
        self.say_goodbye().await;
        let compat = async {
            if let Some(compat) = self.compat {
                compat.shutdown().await;
            }
        };
        let (drained, ()) = tokio::join!(self.daemon.shutdown(), compat);
        self.agent.forwards.stop().await;
        self.stop_driver.cancel();
        for task in [self.driver, self.admin] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the node has failed");
            }
        }
        if let Some(disk) = self.disk {
            let ended = tokio::task::spawn_blocking(|| disk.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::error!("the thread of the disk has failed");
            }
        }
        self.agent.http.stopped().await;
        self.endpoint.close(CloseReason::ShuttingDown);
        let _slow = timeout(GOODBYE_TIMEOUT, self.endpoint.wait_idle()).await;
        self.tasks.close();
        self.tasks.wait().await;
        tracing::info!(?drained, "node stopped");
        drop(self.data_dir);
        drained
    }

    /// Tells the others that this node goes, and gives them the time to hear it: the end of a connection overtakes
    /// what was sent on it and not read yet.
    async fn say_goodbye(&self) {
        let longest = self.agent.peers.all().iter().map(|peer| peer.tunnel.rtt()).max();
        let told = timeout(GOODBYE_TIMEOUT, self.agent.mesh.leave()).await;
        if let (Some(longest), Ok(Ok(()))) = (longest, told) {
            sleep((3 * longest).clamp(MIN_GOODBYE, GOODBYE_TIMEOUT)).await;
        }
    }
}

/// What holds the node's trust in others against what becomes of it, while it runs.
struct Keepers {
    keys: Arc<Keys>,
    revocations: Revocations,
    policies: Policies,
    door: Option<mpsc::Receiver<Guest>>,
    newcomers: Arc<Notify>,
}

impl Keepers {
    fn spawn(
        self,
        (mesh, peers, metrics): (&MeshHandle, &PeersView, &Arc<Metrics>),
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let Self { keys, revocations, policies, door, newcomers } = self;
        tasks.spawn(policies.keep(mesh.clone(), stop.clone()));
        let renewing = keep_certificate(Arc::clone(&keys), peers.clone(), Arc::clone(metrics), stop.clone());
        tasks.spawn(renewing);
        tasks.spawn(keep_checked(Arc::clone(&keys), peers.clone(), newcomers, stop.clone()));
        tasks.spawn(revocations.keep(mesh.clone(), peers.clone(), stop.clone()));
        if let Some(guests) = door {
            tasks.spawn(keep_door(guests, keys, mesh.clone(), stop.clone()));
        }
    }
}

/// The limits that differ, in the words of the configuration.
fn told_limits(old: &Limits, new: &Limits) -> Vec<String> {
    let rows = |limits: &Limits| {
        let Limits { max_tunnels, max_tunnels_per_node, max_streams, drain_timeout } = limits;
        [
            format!("limits.max_tunnels is {max_tunnels}"),
            format!("limits.max_tunnels_per_node is {max_tunnels_per_node}"),
            format!("limits.max_streams is {max_streams}"),
            format!("limits.drain_timeout is {}", parse::shown(*drain_timeout)),
        ]
    };
    rows(new).into_iter().zip(rows(old)).filter(|(new, old)| new != old).map(|(new, _)| new).collect()
}

/// Opens the state file, unless the state is kept in memory.
fn open_state(config: &NodeConfig, data_dir: &DataDir) -> Result<Option<StateFile>, StartError> {
    if config.store == StateStore::Memory {
        return Ok(None);
    }
    let path = data_dir.file("state.redb");
    if config.rebuild_from_mesh {
        let aside =
            store::set_aside(&path).map_err(|source| StartError::SetAside { path: path.clone(), source })?;
        if let Some(aside) = aside {
            tracing::warn!(file = %aside.display(), "the old state was set aside, the peers have to give it back");
        }
    }
    Ok(Some(match config.trust {
        RegistryTrust::Transport => StateFile::open(&path)?,
        RegistryTrust::Signed => StateFile::open_sealed(&path)?,
    }))
}

/// The mesh of a node that seals what it writes, if it does.
pub(super) fn sealed(driver: Driver, notary: Option<&Identity>) -> Driver {
    match notary {
        Some(notary) => driver.sealed(Arc::new(notary.clone())),
        None => driver,
    }
}

/// Makes a mesh of what is in the file, and lets the file follow it.
pub(super) fn restore(
    mut state: StateFile,
    config: DriverConfig,
    notary: Option<&Identity>,
) -> Result<(Driver, std::thread::JoinHandle<()>), StartError> {
    state.begin_life(config.actor.generation)?;
    let (journal, tail) = journal();
    let mut driver = sealed(Driver::durable(config, journal)?, notary);
    let begun = Instant::now();
    let loaded = state.load(|record| driver.restore(record))?;
    let set_back = driver.restore_clock(loaded.clock);
    if !set_back.is_zero() {
        tracing::warn!(by = ?set_back, "this machine's clock was set back since the last start");
    }
    tracing::info!(keys = loaded.keys, took = ?begun.elapsed(), "state restored");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(StartError::Thread)?;
    let thread = std::thread::Builder::new().name("snomesh-disk".into());
    let thread = thread.spawn(move || runtime.block_on(state.keep(tail))).map_err(StartError::Thread)?;
    Ok((driver, thread))
}

/// Takes the address for clients of snocat.
fn bind_compat(config: &NodeConfig, compat: &CompatConfig) -> Result<compat::Server, compat::ServerError> {
    let tls = compat::server_tls(&compat.certificate, &compat.key)?;
    compat::Server::bind(compat.listen, tls, compat.public.clone(), config.daemon_config())
}

/// Puts the mesh's policy before a service of this node.
fn guarded<S>(service: S, mesh: &MeshHandle) -> Guarded<S> {
    Guarded::new(service, mesh.access().clone(), mesh.node())
}

fn endpoint(config: &NodeConfig, tls: crate::tunnel::quic::TlsSettings) -> Result<QuicEndpoint, BindError> {
    let mut socket = bind_socket(config.listen)?;
    if let Some(gate) = &config.gate {
        socket = GatedSocket::wrap(socket, gate.clone());
    }
    QuicEndpoint::with_socket(socket, QuicConfig::default(), tls)
}

/// Eight bytes that nobody can guess.
pub(super) fn draw() -> u64 {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness once it has booted");
    u64::from_be_bytes(bytes)
}
