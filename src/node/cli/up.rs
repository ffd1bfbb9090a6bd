//! `snomesh up`: a node in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Exit, Failure};
use super::screen::{Format, Screen};
use super::{Global, parse, telemetry};
use crate::node::api::API_VERSION;
use crate::node::{CaSource, Node, NodeConfig, StateStore};
use crate::replica::Address;

#[derive(Debug, Args)]
pub(super) struct Up {
    /// What people call this node [default: the machine's name]
    #[arg(long, value_parser = parse::label, env = "SNOMESH_NAME")]
    pub(super) name: Option<String>,
    /// The UDP address to listen on: IP:PORT or PORT; port 0 takes a free one
    #[arg(long, value_name = "ADDR", value_parser = parse::listen, default_value = "127.0.0.1:7667", env = "SNOMESH_LISTEN")]
    pub(super) listen: SocketAddr,
    /// Where others reach this node, HOST:PORT [default: where it listens]
    #[arg(long, value_name = "ADDR", value_delimiter = ',', env = "SNOMESH_ADVERTISE")]
    pub(super) advertise: Vec<Address>,
    /// A node of the mesh to join, HOST:PORT; tried for ever
    #[arg(long, value_name = "ADDR", value_delimiter = ',', env = "SNOMESH_JOIN")]
    pub(super) join: Vec<Address>,
    /// The admin socket [default: admin.sock in the data directory]
    #[arg(long, value_name = "PATH", env = "SNOMESH_ADMIN")]
    pub(super) admin: Option<PathBuf>,
    /// The certificate of the mesh's authority [default: a new mesh on the first start]
    #[arg(long, value_name = "FILE", env = "SNOMESH_CA")]
    pub(super) ca: Option<PathBuf>,
    /// Its private key, to make this node's certificate with; needed on the first start only
    #[arg(long, value_name = "FILE", requires = "ca", env = "SNOMESH_CA_KEY")]
    pub(super) ca_key: Option<PathBuf>,
    /// Where to keep the state: on disk, or in memory to learn it from the peers after every start
    #[arg(long, value_enum, value_name = "WHERE", default_value = "disk", env = "SNOMESH_STORE")]
    pub(super) store: Store,
    /// Set a damaged state file aside and learn the state from the peers
    #[arg(long)]
    pub(super) rebuild_from_mesh: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Store {
    Disk,
    Memory,
}

pub(super) fn run(global: &Global, up: Up, screen: &mut Screen) -> Result<Exit, Failure> {
    telemetry::init(telemetry::Level::Node, global.verbose, global.quiet);
    harden();
    // Whoever asks the node where it lives may stand in another directory.
    let data_dir = std::path::absolute(global.data_dir()?)?;
    let config = NodeConfig {
        listen: up.listen,
        advertise: up.advertise,
        join: up.join,
        admin: up.admin.map(std::path::absolute).transpose()?,
        ca: match up.ca {
            Some(certificate) => CaSource::Files { certificate, key: up.ca_key },
            None => CaSource::Own,
        },
        store: match up.store {
            Store::Disk => StateStore::Disk,
            Store::Memory => StateStore::Memory,
        },
        rebuild_from_mesh: up.rebuild_from_mesh,
        ..NodeConfig::new(up.name.unwrap_or_else(parse::machine_name), data_dir)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let exit = runtime.block_on(serve(config, global, screen));
    // What is still resolving a name must not keep the process.
    runtime.shutdown_background();
    exit
}

async fn serve(config: NodeConfig, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let (name, joins) = (config.name.clone(), !config.join.is_empty());
    let node = Node::start(config).await?;
    // A node serves whether or not somebody reads what it says.
    let _unread = announce(&node, &name, screen);
    if screen.format() == Format::Table {
        let _unread = advise(&node, joins, global, screen);
    }
    let exit = tokio::select! {
        exit = signals.recv() => exit,
        what = node.disk_failed() => {
            return Err(Failure::new(Exit::Disk, format!("the disk failed: {what}"))
                .hint("nothing that was acknowledged before is lost; look after the disk before the next start"));
        }
    };
    let _unread = screen.say("draining; once more to stop at once");
    tokio::select! {
        drained = node.shutdown() => tracing::debug!(?drained, "drained"),
        _ = signals.recv() => {}
    }
    Ok(exit)
}

fn announce(node: &Node, name: &str, screen: &mut Screen) -> Result<(), Failure> {
    let (id, admin, data) = (node.id(), node.admin_path().display(), node.data_dir().display());
    if screen.format() != Format::Table {
        let document = json!({
            "apiVersion": API_VERSION,
            "node": id.to_string(),
            "name": name,
            "mesh": node.mesh_id().to_string(),
            "listen": node.listen_addr().to_string(),
            "admin": admin.to_string(),
            "dataDir": data.to_string(),
        });
        return Ok(screen.line(document.to_string())?);
    }
    screen.done(format!("identity   {} ({name}), {data}", id.short()))?;
    screen.done(format!("mesh       {}", node.mesh_id().short()))?;
    screen.done(format!("listening  udp/{}", node.listen_addr()))?;
    screen.done(format!("admin      unix:{admin}"))?;
    Ok(())
}

/// Says what could be done next, in commands that find this very node.
fn advise(node: &Node, joins: bool, global: &Global, screen: &mut Screen) -> Result<(), Failure> {
    if !node.is_dialable() {
        screen.next("Nobody can dial this node: it listens everywhere and advertises nothing.")?;
        screen.next("If others shall, name its address: --advertise HOST:PORT")?;
    }
    let data = node.data_dir().display();
    if !joins {
        screen.next("Add a node on this machine:")?;
        let listen = node.listen_addr();
        screen.next(format!("  snomesh up --data-dir DIR --listen 0 --join {listen} \\"))?;
        screen.next(format!("    --ca {data}/ca.crt --ca-key {data}/ca.key"))?;
    }
    let snomesh = match (&global.agent, &global.data_dir) {
        (Some(_), _) | (None, None) => "snomesh".to_owned(),
        (None, Some(given)) => format!("snomesh --data-dir {}", given.display()),
    };
    screen.next(format!("What it does:     {snomesh} status"))?;
    screen.next(format!("Offer a service:  {snomesh} expose web 8080"))?;
    Ok(())
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
