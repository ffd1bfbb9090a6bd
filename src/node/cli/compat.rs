//! `server`, `client`, `cert`: snocat's protocol version 0, with the flags of its own program.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::lookup_host;

use super::failure::{Exit, Failure, describe};
use super::forward::backwards;
use super::screen::Screen;
use super::up::{Signals, harden};
use super::{Global, telemetry};
use crate::compat::{
    self, Client, ClientError, Granted, PublicPorts, Server, ServerError, TcpAddress, client_tls,
    self_signed, server_tls,
};
use crate::daemon::DaemonConfig;
use crate::node::files;
use crate::service::Listen;
use crate::tunnel::quic::TlsSettings;

/// What to do where there is none that serves.
pub(super) const NO_CERTIFICATE: &str = "make a certificate: snomesh cert PATH --san NAME";
/// How long a client waits before it tries again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// The server's certificate, PEM or DER
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its private key, PEM or DER
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The UDP address to listen on for clients, IP:PORT
    #[arg(long, value_name = "ADDR")]
    quic: SocketAddr,
    /// The address at which public ports are granted
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::LOCALHOST.into())]
    tcp: IpAddr,
    /// The public ports, FIRST-LAST or FIRST:LAST; the lowest free one is granted
    #[arg(long, value_name = "RANGE", value_parser = ports)]
    ports: (u16, u16),
}

#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    /// The certificate that the server's is signed by, mostly itself; PEM or DER
    #[arg(long, value_name = "FILE")]
    authority: PathBuf,
    /// The server, HOST:PORT
    #[arg(long, value_name = "ADDR")]
    driver: String,
    /// The name in the server's certificate
    #[arg(long, value_name = "NAME", alias = "san")]
    driver_san: String,
    /// What the public port leads to, HOST:PORT
    #[arg(long, value_name = "ADDR", value_parser = target)]
    target: TcpAddress,
}

#[derive(Debug, Args)]
pub(super) struct CertArgs {
    /// Where to write: PATH.pem, the certificate, and PATH.key, its private key
    path: PathBuf,
    /// A name of the server, as often as you like
    #[arg(long, value_name = "NAME", required = true, value_parser = server_name)]
    san: Vec<String>,
}

/// A name that clients can ask for: one of the DNS, with a `*` in front if it is to be many, or an IP address.
fn server_name(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let legal = ServerName::try_from(name).is_ok();
    legal.then(|| text.to_owned()).ok_or_else(|| "a server's name is a DNS name or an IP address".to_owned())
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let illegal = || "a range of ports is FIRST-LAST or FIRST:LAST, from 1 to 65535".to_owned();
    let (first, last) = text.split_once(['-', ':']).ok_or_else(illegal)?;
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(illegal);
    let (first, last) = (port(first)?, port(last)?);
    if first <= last { Ok((first, last)) } else { Err(backwards(first, last)) }
}

fn target(text: &str) -> Result<TcpAddress, String> {
    let illegal = || "a target is HOST:PORT, an IPv6 in brackets".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(illegal)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(illegal)?;
    let address = TcpAddress::new(host, port);
    address.to_target().map(|_target| address).ok_or_else(illegal)
}

impl From<compat::CompatTlsError> for Failure {
    fn from(error: compat::CompatTlsError) -> Self {
        Self::new(Exit::Configuration, describe(&error)).hint(NO_CERTIFICATE)
    }
}

pub(super) fn server(global: &Global, args: &ServerArgs, screen: &mut Screen) -> Result<Exit, Failure> {
    telemetry::init_server(global.verbose, global.quiet);
    harden();
    let tls = server_tls(&args.cert, &args.key)?;
    let public = PublicPorts { ip: args.tcp, ports: args.ports.0..=args.ports.1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let exit = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let server = Server::start(args.quic, tls, public.clone(), DaemonConfig::default());
        let server = server.map_err(|error| match error {
            ServerError::Endpoint(error) => Failure::new(Exit::Conflict, describe(&error)),
            error => Failure::new(Exit::Configuration, describe(&error)),
        })?;
        screen.done(format!("listening  udp/{}", server.local_addr()?))?;
        screen.done(format!("granting   {}", Listen::Ports(public.ip, public.ports)))?;
        let exit = signals.recv().await;
        let _unread = screen.say("draining; once more to stop at once");
        tokio::select! {
            _drained = server.shutdown() => {}
            _ = signals.recv() => {}
        }
        Ok(exit)
    });
    runtime.shutdown_background();
    exit
}

pub(super) fn client(global: &Global, args: &ClientArgs, screen: &mut Screen) -> Result<Exit, Failure> {
    telemetry::init_server(global.verbose, global.quiet);
    harden();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let exit = runtime.block_on(async { stay_public(args, screen, &mut Signals::new()?).await });
    runtime.shutdown_background();
    exit
}

/// Has the target made public, and again whenever that has ended; a first attempt that fails is the last one.
async fn stay_public(args: &ClientArgs, screen: &mut Screen, signals: &mut Signals) -> Result<Exit, Failure> {
    let tls = client_tls(&args.authority)?;
    let (mut was_public, mut pause) = (false, FIRST_PAUSE);
    loop {
        let demanded = tokio::select! {
            exit = signals.recv() => return Ok(exit),
            demanded = demand(args, tls.clone()) => demanded,
        };
        match demanded {
            Ok((client, mut granted)) => {
                (was_public, pause) = (true, FIRST_PAUSE);
                for address in &granted.addresses {
                    screen.done(format!("{address} → {}", args.target))?;
                }
                tokio::select! {
                    exit = signals.recv() => {
                        granted.give_back().await;
                        client.shutdown().await;
                        return Ok(exit);
                    }
                    closed = granted.ended() => {
                        let why = closed.map_or_else(|| "taken back".to_owned(), |closed| closed.to_string());
                        tracing::warn!(%why, "no longer public");
                        client.shutdown().await;
                    }
                }
            }
            Err(failure) if was_public => tracing::warn!(error = %failure.what, "not public again yet"),
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            exit = signals.recv() => return Ok(exit),
            () = tokio::time::sleep(pause) => pause = LAST_PAUSE.min(2 * pause),
        }
    }
}

async fn demand(args: &ClientArgs, tls: TlsSettings) -> Result<(Client, Granted), Failure> {
    let unreachable = |error: &dyn std::error::Error| {
        Failure::new(Exit::Unreachable, format!("{}: {}", args.driver, describe(error)))
    };
    let mut last = Failure::new(Exit::Unreachable, format!("{} has no address", args.driver));
    for server in lookup_host(&args.driver).await.map_err(|error| unreachable(&error))? {
        let demanded = async {
            let client = Client::new(server, tls.clone(), args.target.clone())?;
            let granted = client.demand(server, &args.driver_san).await?;
            Ok::<_, ClientError>((client, granted))
        };
        match demanded.await {
            Ok(public) => return Ok(public),
            Err(error @ ClientError::NoPort) => return Err(Failure::new(Exit::Conflict, describe(&error))),
            Err(error) => last = unreachable(&error),
        }
    }
    Err(last)
}

pub(super) fn cert(args: CertArgs, screen: &mut Screen) -> Result<Exit, Failure> {
    let (certificate, key) = self_signed(args.san)?;
    let with = |extension: &str| {
        let mut path = args.path.clone().into_os_string();
        path.push(extension);
        PathBuf::from(path)
    };
    let written = |error: files::FileError| Failure::new(Exit::Configuration, describe(&error));
    let files = [(with(".pem"), certificate, 0o644), (with(".key"), key, 0o600)];
    // Both before either is written: half a pair would be in the way of the next attempt.
    if let Some((path, ..)) = files.iter().find(|(path, ..)| path.symlink_metadata().is_ok()) {
        let what = format!("{} is there already", path.display());
        return Err(Failure::new(Exit::Conflict, what).hint("choose another PATH, or remove that file first"));
    }
    for (path, text, mode) in &files {
        files::write(path, text, *mode).map_err(written)?;
    }
    let [certificate, key] = files.map(|(path, ..)| path.display().to_string());
    screen.outcome(&certificate, &json!({ "certificate": certificate, "key": key }))?;
    screen.done(key)?;
    Ok(Exit::Success)
}
