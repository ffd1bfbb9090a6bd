//! The command line: `up` and `demo` run nodes, everything else is a thin client of a node's admin API.

mod acl;
mod attr;
mod check;
mod compat;
mod complete;
mod config;
mod connect;
mod debug;
mod demo;
mod detach;
mod failure;
mod forward;
mod look;
mod manual;
mod node;
mod proxy;
mod resolve;
mod screen;
mod shell;
mod state;
mod stream;
mod telemetry;
mod trust;
mod tunnel;
mod typed;
mod up;
mod wait;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

pub(super) use self::failure::describe;
use self::failure::{EXIT_CODES, Exit, Failure, Level};
use self::screen::{Color, Format, Screen};
use crate::id::TunnelName;
use crate::node::{Agent, Client, Token, files, parse};
use crate::service::Listen;

/// Peer-to-peer mesh of QUIC daemons that share one eventually consistent registry.
#[derive(Debug, Parser)]
#[command(name = "snomesh", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// The node's directory; its admin socket is in there
    #[arg(long, global = true, value_name = "DIR", env = "SNOMESH_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The node to talk to: PATH of its admin socket, or http://127.0.0.1:PORT
    /// [default: admin.sock in the data directory]
    #[arg(long, global = true, value_name = "PATH|URL", env = "SNOMESH_AGENT")]
    agent: Option<String>,
    /// The file of the token for http://; admin.token in the node's directory
    #[arg(long, global = true, value_name = "FILE", env = "SNOMESH_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// How to print: for people, or stable for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        env = "SNOMESH_OUTPUT"
    )]
    output: Format,
    /// How long to wait for the node's answer: 500ms, 10s, 2m
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = parse::duration, env = "SNOMESH_TIMEOUT")]
    timeout: Duration,
    /// Say nothing but the answer
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log more; twice for more still (SNOMESH_LOG takes a filter like `snomesh=debug`)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        env = "SNOMESH_COLOR"
    )]
    color: Color,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true
)]
struct Cert {
    #[command(subcommand)]
    command: Option<trust::Cert>,
    #[command(flatten)]
    own: Option<compat::CertArgs>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node: identity and mesh on the first start, then in the foreground
    #[command(after_help = "\
Examples:
  snomesh up                                   a new mesh, or the one that the directory knows
  snomesh up --detach --name a                 the same, in the background
  snomesh up -c /etc/snomesh/snomesh.toml      as a file says; `snomesh config show` prints one
  snomesh up --join HOST:7667 --ca ca.crt --ca-key ca.key")]
    Up(up::Up),
    /// A mesh of real nodes in this process, and a tour of what it can do
    Demo(demo::Demo),
    /// End the node in good order
    Down,
    /// What the node is doing, and why not if it is not
    Status(look::StatusArgs),
    /// Look the node over: links, clocks, certificates, services, limits, and what to do about each
    Doctor,
    /// Look once, for monitoring: one line, and 0 ok, 1 warning, 2 critical or 3 unknown
    #[command(subcommand)]
    #[command(after_help = "\
Examples:
  snomesh check node                           as the health check of a container
  snomesh check tunnel db -w 100ms -c 1s")]
    Check(check::Check),
    /// Wait until nodes, tunnels or attributes are there, for scripts
    #[command(after_help = "\
Example:
  snomesh wait --nodes 3 --tunnel db --timeout 30s && ./start-what-needs-it")]
    Wait(wait::Wait),
    /// The nodes of the mesh
    #[command(subcommand)]
    Node(node::Nodes),
    /// Ask a node, or the service behind a tunnel, whether it answers, and take the time
    Ping(node::PingArgs),
    /// The tunnels of the mesh
    #[command(subcommand)]
    Tunnel(tunnel::Tunnels),
    /// Print tunnels, then every one that comes or goes
    Watch {
        /// The beginning of their names
        #[arg(default_value = "", hide_default_value = true, add = complete::tunnels())]
        prefix: String,
    },
    /// Attributes, which every node may read and write
    #[command(subcommand)]
    Attr(attr::Attr),
    /// Let another machine join the mesh: prints a token for it
    #[command(after_help = "\
Examples:
  snomesh invite                               one machine, within the hour
  snomesh invite --ttl 24h --uses 20 --role edge --attr site=berlin
  snomesh invite --may-expose 'cam-*'          it may offer tunnels that are called so")]
    Invite(trust::Invite),
    /// Become a node of the mesh that an invitation is of
    Join(Box<trust::Join>),
    /// Cut a node off for ever, on all nodes
    Revoke(trust::Revoke),
    /// Who may expose and connect what
    #[command(subcommand)]
    Acl(acl::Acl),
    /// The node's certificate; with a PATH, a new one for a server of snocat's protocol
    Cert(Cert),
    /// Offer a local service to the mesh, under a name
    #[command(after_help = "\
Examples:
  snomesh expose web 8080                      a port of this machine
  snomesh expose db db.local:5432 --attr env=prod
  snomesh expose web 8080 --health http:/healthz
Reach it from any node with `snomesh bind 9090 web`.")]
    Expose(Box<forward::Expose>),
    /// Take an offer back
    Unexpose {
        /// The name
        #[arg(add = complete::tunnels())]
        name: TunnelName,
    },
    /// Reach a tunnel of the mesh at a local address
    #[command(after_help = "\
Examples:
  snomesh bind 5432 db                         127.0.0.1:5432 leads to whoever offers db
  snomesh bind 0 web -o name                   a free port, and nothing printed but its address")]
    Bind(forward::Bind),
    /// Take a bind back
    Unbind {
        /// Where it listens: IP:PORT, or a port of 127.0.0.1; udp:IP:PORT; unix:/PATH
        listen: Listen,
    },
    /// Join standard input and output with a tunnel of the mesh, for instance as ssh's ProxyCommand
    Connect(forward::Route),
    /// Reach every tunnel by its name, through a SOCKS5 proxy in the foreground
    Proxy(proxy::Proxy),
    /// Which tunnels a name or a selector means, in the order in which they are tried
    Resolve(resolve::Resolve),
    /// Print what happens, as it happens
    Events,
    /// A copy of what the mesh keeps, as lines of JSON: write it down, put it back
    #[command(subcommand)]
    State(state::State),
    /// The digest of the replicated state: equal on two nodes exactly when their states are
    Digest,
    /// Serve clients of snocat's protocol version 0 (not part of a mesh)
    Server(compat::ServerArgs),
    /// Make a target public at a server of snocat's protocol version 0 (not part of a mesh)
    Client(compat::ClientArgs),
    /// Print a link to the node's dashboard, which works once
    Ui,
    /// What is configured, where, and whether it is valid
    #[command(subcommand)]
    #[command(after_help = "\
Examples:
  snomesh config show > snomesh.toml           a file to begin with
  snomesh config show --effective              what holds, and why
  snomesh config check --strict && snomesh config reload")]
    Config(config::Config),
    /// Look into a running node
    #[command(subcommand)]
    Debug(debug::Debug),
    /// Print completions for a shell, which know the names of nodes, tunnels and attributes
    ///
    /// bash: source <(snomesh completions bash), in ~/.bashrc. zsh, fish and elvish alike.
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands
    Man {
        /// Write them into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the version
    Version,
}

/// Parses the command line, does what it says, and tells how that went.
pub fn run() -> ExitCode {
    if complete::answer() {
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = match error.use_stderr() {
                false => Exit::Success,
                true if is_about_check() => Exit::Check(Level::Unknown),
                true => Exit::Usage,
            };
            // Nobody reads it: there is nobody to tell.
            let _unheard = error.print();
            return exit.into();
        }
    };
    let color = cli.global.color;
    let checks = matches!(cli.command, Command::Check(_));
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(Failure { exit: Exit::Success, .. }) => ExitCode::SUCCESS,
        Err(failure) => {
            screen::complain(color, &failure.what, failure.hint.as_deref());
            // 2 would be critical there, and higher ones nothing at all.
            if checks { Exit::Check(Level::Unknown).into() } else { failure.exit.into() }
        }
    }
}

/// Whether a command line that cannot be understood is one of `check`, whose codes are those of monitoring.
fn is_about_check() -> bool {
    let understood = Cli::command().ignore_errors(true).try_get_matches();
    understood.is_ok_and(|understood| understood.subcommand_name() == Some("check"))
}

fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let Cli { global, command } = cli;
    let mut screen = Screen::new(global.output, global.color, global.quiet).called(global.snomesh());
    match command {
        Command::Up(up) => return up::run(&global, &up, &mut screen),
        Command::Config(ref config) => {
            if let Some(done) = config::run(&global, config, &mut screen) {
                return done;
            }
        }
        Command::State(ref state) => {
            if let Some(done) = state::offline(&global, state, &mut screen) {
                return done;
            }
        }
        Command::Join(join) => return trust::join(&global, &join, &mut screen),
        Command::Demo(demo) => return demo::run(&global, demo, &mut screen),
        Command::Server(args) => return compat::server(&global, &args, &mut screen),
        Command::Client(args) => return compat::client(&global, &args, &mut screen),
        Command::Cert(Cert { own: Some(args), .. }) => return compat::cert(args, &mut screen),
        Command::Completions { shell } => {
            complete::registration(&shell.to_string(), &mut std::io::stdout().lock())?;
            return Ok(Exit::Success);
        }
        Command::Man { dir } => return manual::print(dir.as_deref(), &mut screen),
        Command::Version => {
            look::version(&mut screen)?;
            return Ok(Exit::Success);
        }
        _ => {}
    }
    telemetry::init(global.verbose, global.quiet);
    let client = Client::new(global.agent()?, global.timeout);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit = runtime.block_on(ask(&client, &global, command, &mut screen));
    runtime.shutdown_background();
    exit
}

async fn ask(
    client: &Client,
    global: &Global,
    command: Command,
    screen: &mut Screen,
) -> Result<Exit, Failure> {
    match command {
        Command::Down => debug::down(client, screen).await?,
        Command::Status(args) => return look::status(client, screen, args).await,
        Command::Doctor => return node::doctor(client, screen).await,
        Command::Check(looked) => return check::check(client, screen, &looked).await,
        Command::Wait(wait) => return wait::wait(client, screen, wait, global.timeout).await,
        Command::Node(nodes) => return node::run(client, screen, (nodes, global.timeout)).await,
        Command::Ping(ping) => return node::ping(client, screen, ping).await,
        Command::Tunnel(tunnels) => return tunnel::run(client, screen, tunnels).await,
        Command::Watch { prefix } => return stream::watch_tunnels(client, screen, &prefix).await,
        Command::State(state) => return state::run(client, screen, state).await,
        Command::Digest => look::digest(client, screen).await?,
        Command::Invite(invite) => trust::invite(client, screen, &invite).await?,
        Command::Revoke(revoke) => trust::revoke(client, screen, revoke).await?,
        Command::Acl(acl) => return acl::run(client, screen, acl).await,
        Command::Cert(Cert { command: Some(cert), .. }) => trust::cert(client, screen, cert).await?,
        Command::Attr(attr) => return attr::run(client, screen, attr).await,
        Command::Ui => debug::ui(client, screen).await?,
        Command::Debug(debug) => debug::run(client, screen, debug).await?,
        Command::Config(_) => return config::reload(client, screen, global.color).await,
        Command::Events => return stream::events(client, screen).await,
        Command::Expose(expose) => forward::expose(client, screen, global.color, *expose).await?,
        Command::Unexpose { name } => forward::unexpose(client, screen, &name).await?,
        Command::Bind(bind) => {
            return forward::bind(client, screen, (global.color, global.timeout), bind).await;
        }
        Command::Connect(to) => connect::connect(client, &to).await?,
        Command::Proxy(args) => return proxy::proxy(client, screen, &args).await,
        Command::Resolve(to) => resolve::resolve(client, screen, &to).await?,
        Command::Unbind { listen } => forward::unbind(client, screen, &listen).await?,
        Command::Up(_)
        | Command::Join(_)
        | Command::Demo(_)
        | Command::Server(_)
        | Command::Client(_)
        | Command::Cert(_)
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Version => {
            unreachable!("commands without a node are done already")
        }
    }
    Ok(Exit::Success)
}

impl Global {
    /// This program with the options that lead to the same node again, for hints. What the environment says it says next
    /// time too.
    fn snomesh(&self) -> String {
        let options = [
            ("--data-dir", "SNOMESH_DATA_DIR", self.data_dir.as_ref().map(|path| path.as_os_str())),
            ("--agent", "SNOMESH_AGENT", self.agent.as_ref().map(OsStr::new)),
            ("--token-file", "SNOMESH_TOKEN_FILE", self.token_file.as_ref().map(|path| path.as_os_str())),
        ];
        shell::snomesh(options.into_iter().filter_map(|(option, variable, value)| {
            let value =
                value.filter(|value| std::env::var_os(variable).is_none_or(|known| known != *value))?;
            Some((option, value))
        }))
    }

    /// The node's directory.
    fn data_dir(&self) -> Result<PathBuf, Failure> {
        self.data_dir.clone().or_else(parse::default_data_dir).ok_or_else(|| {
            Failure::new(
                Exit::Configuration,
                "no place for the node's directory: neither HOME nor XDG_STATE_HOME is set",
            )
            .hint("name one: --data-dir DIR")
        })
    }

    /// The node to talk to.
    fn agent(&self) -> Result<Agent, Failure> {
        let Some(agent) = &self.agent else { return Ok(self.data_dir()?.join("admin.sock").into()) };
        let Some(address) = agent.strip_prefix("http://") else {
            if is_address(agent) {
                return Err(Failure::usage(format!("\"{agent}\" is no path of an admin socket"))
                    .hint(format!("of an address that is asked by HTTP say so: --agent http://{agent}")));
            }
            return Ok(agent.strip_prefix("unix:").unwrap_or(agent).into());
        };
        let file = match &self.token_file {
            Some(file) => file.clone(),
            None => self.data_dir()?.join("admin.token"),
        };
        let hint = "name its file: --token-file FILE; the node says where it is: snomesh config show";
        let unread = |what: String| Failure::new(Exit::Unauthorised, what);
        let token = files::read_secret(&file).map_err(|error| {
            let failure = unread(describe(&error));
            error.hint().into_iter().fold(failure, Failure::hint).or_hint(hint)
        })?;
        let token =
            token.ok_or_else(|| unread(format!("there is no token in {}", file.display())).hint(hint))?;
        Ok(Agent::Http { address: address.trim_end_matches('/').to_owned(), token: Token::new(&token) })
    }
}

/// Whether a text is `HOST:PORT`.
fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| host != "unix" && !host.contains('/') && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
