//! `snomesh up`: a node in the foreground.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use super::detach::detach;
use super::failure::{Exit, Failure};
use super::screen::{Color, Screen, complain};
use super::{Global, parse, shell, telemetry};
use crate::daemon::DaemonConfig;
use crate::gossip;
use crate::node::api::{API_VERSION, Reload};
use crate::node::forwards::{Applied, Wanted};
use crate::node::run::Live;
use crate::node::settings::{Fault, Settings, Sources, default_file};
use crate::node::{
    Agent, CaSource, Controls, LogControl, Node, NodeConfig, RegistryTrust, Reloaded, StateStore, notify,
};
use crate::replica::Address;

/// What stands before the settings of every command that reads them.
#[derive(Debug, Args)]
pub(super) struct Files {
    /// A configuration file; of several a later one has the last word [default: see `snomesh config path`]
    #[arg(short, long, value_name = "FILE", value_delimiter = ':', env = "SNOMESH_CONFIG")]
    pub(super) config: Vec<PathBuf>,
}

// The twins of these flags in the environment are read with the configuration, which knows where a value comes from.
#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    files: Files,
    /// What people call this node [default: the machine's name] [env: SNOMESH_NAME]
    #[arg(long, value_parser = parse::label)]
    name: Option<String>,
    /// The UDP address to listen on: IP:PORT or PORT; port 0 takes a free one [default: 127.0.0.1:7667]
    /// [env: SNOMESH_LISTEN]
    #[arg(long, value_name = "ADDR", value_parser = parse::listen)]
    listen: Option<SocketAddr>,
    /// Where others reach this node, HOST:PORT [default: where it listens] [env: SNOMESH_ADVERTISE]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    advertise: Vec<Address>,
    /// A node of the mesh to join, HOST:PORT; tried for ever [env: SNOMESH_JOIN]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    join: Vec<Address>,
    /// The admin socket [default: admin.sock in the data directory] [env: SNOMESH_ADMIN]
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// Open the admin API on loopback too, behind a token: IP:PORT or PORT [env: SNOMESH_ADMIN_HTTP]
    #[arg(long, value_name = "ADDR", value_parser = parse::listen)]
    http: Option<SocketAddr>,
    /// The certificate of the mesh's authority [default: a new mesh on the first start] [env: SNOMESH_CA]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Its private key, to make this node's certificate with; needed on the first start only [env: SNOMESH_CA_KEY]
    #[arg(long, value_name = "FILE", requires = "ca")]
    ca_key: Option<PathBuf>,
    /// Where to keep the state: on disk, or in memory to learn it from the peers after every start [default: disk]
    /// [env: SNOMESH_STORE]
    #[arg(long, value_enum, value_name = "WHERE")]
    store: Option<Store>,
    /// Set a damaged state file aside and learn the state from the peers
    #[arg(long)]
    rebuild_from_mesh: bool,
    /// Go on in the background once the node serves; its log is beside its directory
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Store {
    Disk,
    Memory,
}

impl Store {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// Where the settings come from, without the flags of `up`.
pub(super) fn sources(global: &Global, files: &Files) -> Sources {
    let mut sources = Sources {
        named: files.config.clone(),
        default: default_file(),
        flags: BTreeMap::new(),
        env: Sources::environment(),
    };
    let given = global.data_dir.as_ref().map(|path| path.as_os_str().to_owned());
    if let Some(given) = given.filter(|given| sources.env.get("SNOMESH_DATA_DIR") != Some(given)) {
        sources.flags.insert("node.data_dir", vec![given.to_string_lossy().into_owned()]);
    }
    if let Some(level) = telemetry::asked_for(global.verbose, global.quiet) {
        sources.flags.insert("log.level", vec![level.to_owned()]);
    }
    sources
}

impl Up {
    fn sources(&self, global: &Global) -> Sources {
        let mut sources = sources(global, &self.files);
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let flags = [
            ("node.name", self.name.clone()),
            ("quic.listen", self.listen.map(|listen| listen.to_string())),
            ("admin.unix", self.admin.as_ref().map(path)),
            ("admin.http", self.http.map(|listen| listen.to_string())),
            ("identity.ca", self.ca.as_ref().map(path)),
            ("identity.ca_key", self.ca_key.as_ref().map(path)),
            ("registry.store", self.store.map(Store::name)),
        ];
        sources.flags.extend(flags.into_iter().filter_map(|(key, text)| Some((key, vec![text?]))));
        for (key, addresses) in [("mesh.seeds", &self.join), ("quic.advertise", &self.advertise)] {
            if !addresses.is_empty() {
                sources.flags.insert(key, addresses.iter().map(ToString::to_string).collect());
            }
        }
        sources
    }

    /// What a node is to be started with.
    pub(super) fn settings(&self, global: &Global) -> Result<(Sources, Settings), Failure> {
        let sources = self.sources(global);
        let settings = load(&sources, global.color)?;
        Ok((sources, settings))
    }

    /// Whether anything is said here of how to run, which somebody has to do it for.
    pub(super) fn speaks_of_running(&self, global: &Global) -> bool {
        let of_all = sources(global, &self.files).flags;
        let own = self.sources(global).flags;
        self.detach || self.rebuild_from_mesh || own.keys().any(|key| !of_all.contains_key(key))
    }

    /// The same as arguments of this program, but for going into the background, and in the format that is read there.
    fn in_foreground(&self, global: &Global) -> Vec<OsString> {
        let Self {
            files: Files { config },
            name,
            listen,
            advertise,
            join,
            admin,
            http,
            ca,
            ca_key,
            store,
            rebuild_from_mesh,
            detach: _,
        } = self;
        let mut arguments: Vec<OsString> = vec!["up".into()];
        let mut say = |flag: &str, value: Option<OsString>| {
            arguments.extend(value.into_iter().flat_map(|value| [flag.into(), value]));
        };
        let path = |path: &PathBuf| path.clone().into_os_string();
        say("--data-dir", global.data_dir.as_ref().map(path));
        config.iter().for_each(|file| say("--config", Some(path(file))));
        say("--name", name.as_ref().map(Into::into));
        say("--listen", listen.map(|address| address.to_string().into()));
        advertise.iter().for_each(|address| say("--advertise", Some(address.to_string().into())));
        join.iter().for_each(|address| say("--join", Some(address.to_string().into())));
        say("--admin", admin.as_ref().map(path));
        say("--http", http.map(|address| address.to_string().into()));
        say("--ca", ca.as_ref().map(path));
        say("--ca-key", ca_key.as_ref().map(path));
        say("--store", store.map(|store| store.name().into()));
        arguments.extend(rebuild_from_mesh.then(|| "--rebuild-from-mesh".into()));
        arguments.extend(global.quiet.then(|| "--quiet".into()));
        arguments.extend((0..global.verbose).map(|_| "--verbose".into()));
        arguments
    }
}

pub(super) fn run(global: &Global, up: &Up, screen: &mut Screen) -> Result<Exit, Failure> {
    let (sources, settings) = up.settings(global)?;
    if up.detach {
        return detach(&settings.data_dir, up.in_foreground(global), screen);
    }
    let log = telemetry::start(&settings.log_level, &settings.log_format);
    harden();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let start = Start { sources, settings, rebuild_from_mesh: up.rebuild_from_mesh, log };
    let exit = runtime.block_on(serve(start, global, screen));
    // What is still resolving a name must not keep the process.
    runtime.shutdown_background();
    exit
}

/// Reads the settings; everything that is wrong is said, the last of it by the failure.
pub(super) fn load(sources: &Sources, color: Color) -> Result<Settings, Failure> {
    sources.load().map_err(|mut faults| {
        let last = faults.pop();
        for Fault { place, what, hint } in faults {
            let what = place.map_or_else(|| what.clone(), |place| format!("{place}: {what}"));
            complain(color, &what, hint.as_deref());
        }
        let Fault { place, what, hint } = last.expect("what is not valid has a fault");
        let what = place.map_or_else(|| what.clone(), |place| format!("{place}: {what}"));
        Failure { exit: Exit::Configuration, what, hint }
    })
}

fn node_config(settings: &Settings, controls: Controls) -> Result<NodeConfig, Failure> {
    // Whoever asks the node where it lives may stand in another directory.
    let data_dir = std::path::absolute(&settings.data_dir)?;
    Ok(NodeConfig {
        listen: settings.listen,
        advertise: settings.advertise.clone(),
        join: settings.seeds.clone(),
        admin: settings.admin.as_ref().map(std::path::absolute).transpose()?,
        http: settings.http,
        token_file: settings.token_file.as_ref().map(std::path::absolute).transpose()?,
        ca: ca_source(settings),
        certificate_validity: settings.cert_ttl,
        store: if settings.in_memory { StateStore::Memory } else { StateStore::Disk },
        trust: if settings.signed { RegistryTrust::Signed } else { RegistryTrust::Transport },
        drain_timeout: settings.drain_timeout,
        gossip: gossip::Config { evict_after: settings.evict_after, ..gossip::Config::default() },
        daemon: daemon_config(settings),
        wanted: wanted(settings),
        compat: settings.compat.clone(),
        controls,
        ..NodeConfig::new(&settings.name, data_dir)
    })
}

fn ca_source(settings: &Settings) -> CaSource {
    match &settings.ca {
        Some(certificate) => {
            CaSource::Files { certificate: certificate.clone(), key: settings.ca_key.clone() }
        }
        None => CaSource::Own,
    }
}

fn daemon_config(settings: &Settings) -> DaemonConfig {
    DaemonConfig {
        max_tunnels: settings.max_tunnels,
        max_tunnels_per_node: settings.max_tunnels_per_node,
        max_streams: settings.max_streams,
        drain_timeout: settings.drain_timeout,
        ..DaemonConfig::default()
    }
}

/// What a node is started with.
struct Start {
    sources: Sources,
    settings: Settings,
    rebuild_from_mesh: bool,
    log: Arc<dyn LogControl>,
}

fn wanted(settings: &Settings) -> Wanted {
    let tunnels = settings.tunnels.iter();
    let tunnels = tunnels.map(|(name, offer)| (name.clone(), offer.clone()));
    let binds = settings
        .binds
        .iter()
        .map(|(listen, bind)| (listen.clone(), (bind.listen.clone(), bind.destination.clone(), bind.policy)));
    Wanted { tunnels: tunnels.collect(), binds: binds.collect() }
}

async fn serve(start: Start, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let Start { sources, settings, rebuild_from_mesh, log } = start;
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    // One at a time; who asks meanwhile waits.
    let (requests, mut reloads) = mpsc::channel(1);
    let shutdown = Arc::new(Notify::new());
    let alive: Arc<dyn Fn() + Send + Sync> = Arc::new(notify::alive);
    let controls = Controls {
        log: Some(Arc::clone(&log)),
        reload: Some(requests),
        shutdown: Some(Arc::clone(&shutdown)),
        alive: notify::is_watched().then_some(alive),
    };
    let (name, joins) = (settings.name.clone(), !settings.seeds.is_empty());
    let config = NodeConfig { rebuild_from_mesh, ..node_config(&settings, controls)? };
    let node = Node::start(config).await?;
    // A node serves whether or not somebody reads what it says.
    let _unread = announce(&node, &name, screen);
    if screen.format().is_for_people() {
        let _unread = advise(&node, joins, global, screen);
    }
    let status = format!("{name} listens on udp/{}", node.listen_addr());
    notify::ready(&status);
    let reloader = Reloader { sources, started: settings, log };
    let exit = loop {
        let asked = tokio::select! {
            exit = signals.recv() => break exit,
            () = shutdown.notified() => break Exit::Success,
            what = node.disk_failed() => return Err(disk_failed(&what)),
            _ = hangup.recv() => None,
            asked = reloads.recv() => asked,
        };
        notify::reloading();
        let outcome = reloader.reload(&node).await;
        notify::ready(&status);
        if let Some(asked) = asked {
            // Whoever asked may have gone meanwhile.
            asked.send(outcome).ok();
        }
    };
    notify::stopping();
    let _unread = screen.say("draining; once more to stop at once");
    tokio::select! {
        drained = node.shutdown() => tracing::debug!(?drained, "drained"),
        _ = signals.recv() => {}
    }
    Ok(exit)
}

fn disk_failed(what: &str) -> Failure {
    Failure::new(Exit::Disk, format!("the disk failed: {what}"))
        .hint("nothing that was acknowledged before is lost; look after the disk before the next start")
}

/// What it takes to read the configuration again.
struct Reloader {
    sources: Sources,
    /// What the running node was started with.
    started: Settings,
    log: Arc<dyn LogControl>,
}

impl Reloader {
    async fn reload(&self, node: &Node) -> Reloaded {
        let new = match self.sources.load() {
            Ok(new) => new,
            Err(faults) => {
                node.note_reload(Err(()));
                let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                faults.iter().for_each(
                    |fault| tracing::error!(%fault, "the configuration is not valid and not taken over"),
                );
                return Err(faults.join("; "));
            }
        };
        let live = Live {
            limits: (&daemon_config(&new)).into(),
            certificate_validity: new.cert_ttl,
            ca: ca_source(&new),
        };
        let Applied { done: mut applied, mut failed } = node.reconfigure(&wanted(&new), live).await;
        if new.log_level != self.log.spec() {
            match self.log.set(&new.log_level) {
                Ok(()) => applied.push(format!("log.level is {}", new.log_level)),
                Err(error) => failed.push(format!("log.level: {error}")),
            }
        }
        let needs_restart = self.started.needs_restart(&new);
        node.note_reload(if failed.is_empty() { Ok(()) } else { Err(()) });
        tracing::info!(?applied, ?needs_restart, "the configuration was read again");
        failed
            .iter()
            .for_each(|failed| tracing::error!(%failed, "a part of the configuration does not hold"));
        Ok(Reload { api_version: API_VERSION.into(), applied, needs_restart, failed })
    }
}

fn announce(node: &Node, name: &str, screen: &mut Screen) -> Result<(), Failure> {
    let (id, admin, data) = (node.id(), node.admin_path().display(), node.data_dir().display());
    if !screen.format().is_for_people() {
        let document = json!({
            "apiVersion": API_VERSION,
            "node": id.to_string(),
            "name": name,
            "mesh": node.mesh_id().to_string(),
            "listen": node.listen_addr().to_string(),
            "admin": admin.to_string(),
            "dataDir": data.to_string(),
            "compat": node.compat_addr().map(|address| address.to_string()),
        });
        return Ok(screen.line(document.to_string())?);
    }
    screen.done(format!("identity   {} ({name}), {data}", id.short()))?;
    screen.done(format!("mesh       {}", node.mesh_id().short()))?;
    screen.done(format!("listening  udp/{}", node.listen_addr()))?;
    if let Some(compat) = node.compat_addr() {
        screen.done(format!("snocat     udp/{compat}"))?;
    }
    screen.done(format!("admin      unix:{admin}"))?;
    Ok(())
}

/// Says what could be done next, in commands that find this very node.
fn advise(node: &Node, joins: bool, global: &Global, screen: &mut Screen) -> Result<(), Failure> {
    if !node.is_dialable() {
        screen.next("Nobody can dial this node: it listens everywhere and advertises nothing.")?;
        screen.next("If others shall, name its address: --advertise HOST:PORT")?;
    }
    let snomesh = snomesh(node, global);
    if !joins {
        screen.next(format!("Add a node:       {snomesh} invite (here), snomesh join TOKEN --up (there)"))?;
    }
    screen.next(format!("What it does:     {snomesh} status"))?;
    screen.next(format!("Offer a service:  {snomesh} expose web 8080"))?;
    Ok(())
}

/// What such commands begin with: as this one was called, if the node is where they look then; a file may say otherwise.
fn snomesh(node: &Node, global: &Global) -> String {
    let asked = global.agent().ok().and_then(|agent| match agent {
        Agent::Unix(path) => std::path::absolute(path).ok(),
        Agent::Http { .. } => None,
    });
    let (admin, data_dir) = (node.admin_path(), node.data_dir());
    if asked.is_some_and(|asked| asked == admin) {
        global.snomesh()
    } else if global.agent.is_none() && data_dir.join("admin.sock") == admin {
        shell::snomesh([("--data-dir", data_dir)])
    } else {
        shell::snomesh([("--agent", admin)])
    }
}

/// No core dumps with keys in them, no files for others, and as many descriptors as the system lets us have, for each
/// connection is one. A system that refuses runs the node nevertheless.
pub(super) fn harden() {
    umask(Mode::RWXG | Mode::RWXO);
    let files = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let refused = [
        ("core dumps", setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })),
        ("inspection", set_dumpable_behavior(DumpableBehavior::NotDumpable)),
    ];
    for (what, outcome) in refused {
        if let Err(error) = outcome {
            tracing::warn!(%error, "cannot switch {what} off");
        }
    }
}

/// The signals that end a node.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    pub(super) fn new() -> Result<Self, Failure> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one, and gives back what the process should end with.
    pub(super) async fn recv(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}
