//! A local address whose every visitor gets a stream of its own.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::OpenError;
use super::route::Kind;
use super::socket::LocalSocket;
use super::splice::{SpliceError, splice};
use crate::tunnel::TunnelStream;

/// Visitors that a listener serves at a time; the next ones wait in the kernel's queue.
const MAX_VISITORS: usize = 8_192;
/// How long a listener pauses when the system cannot give it another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
///
/// As text `ip:port`, IPv6 in brackets; `ip:first-last`, of which the lowest free port is taken; `udp:ip:port`; or
/// `unix:/path`. Without an address a port is one of 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// TCP; port 0 takes a free one.
    Tcp(SocketAddr),
    /// The lowest free TCP port of a range.
    Ports(IpAddr, RangeInclusive<u16>),
    /// UDP; port 0 takes a free one.
    Udp(SocketAddr),
    /// A unix socket, for this process's user alone unless the umask says otherwise.
    Unix(PathBuf),
}

/// A text does not say where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address to listen on is IP:PORT, PORT, IP:FIRST-LAST, udp:IP:PORT or unix:/PATH, an IPv6 in brackets"
)]
pub struct ParseListenError;

impl Listen {
    /// Whether its visitors bring streams or datagrams.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Udp(_) => Kind::Datagrams,
            Self::Tcp(_) | Self::Ports(..) | Self::Unix(_) => Kind::Stream,
        }
    }
}

impl FromStr for Listen {
    type Err = ParseListenError;

    fn from_str(text: &str) -> Result<Self, ParseListenError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return super::socket::legal_path(path).map(Self::Unix).ok_or(ParseListenError);
        }
        let (udp, address) = match text.strip_prefix("udp:") {
            Some(address) => (true, address),
            None => (false, text),
        };
        let (host, ports) = address.rsplit_once(':').unwrap_or(("127.0.0.1", address));
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let ip: IpAddr = host.parse().ok().ok_or(ParseListenError)?;
        if ip.is_ipv6() && !address.starts_with('[') {
            return Err(ParseListenError);
        }
        let port = |text: &str| text.parse::<u16>().ok().ok_or(ParseListenError);
        match ports.split_once('-') {
            None if udp => Ok(Self::Udp((ip, port(ports)?).into())),
            None => Ok(Self::Tcp((ip, port(ports)?).into())),
            Some(_) if udp => Err(ParseListenError),
            Some((first, last)) => {
                let range = port(first)?..=port(last)?;
                if *range.start() == 0 || range.is_empty() {
                    Err(ParseListenError)
                } else {
                    Ok(Self::Ports(ip, range))
                }
            }
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Ports(ip, range) => {
                let address = SocketAddr::from((*ip, *range.start()));
                write!(f, "{address}-{}", range.end())
            }
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Listens on the lowest port of a range that is free.
///
/// # Errors
///
/// What the system says of the last one, if none is.
pub async fn bind_lowest(ip: IpAddr, ports: RangeInclusive<u16>) -> io::Result<TcpListener> {
    let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
    for port in ports {
        match TcpListener::bind((ip, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

/// A local port or socket whose every connection becomes a stream of its own.
#[derive(Debug)]
pub struct ListenerProxy {
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Guard),
}

/// Removes the file of a unix socket.
#[derive(Debug)]
struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        // One that is left behind is replaced at the next start.
        let _left_behind = std::fs::remove_file(&self.0);
    }
}

impl From<TcpListener> for ListenerProxy {
    fn from(listener: TcpListener) -> Self {
        Self { listener: Listener::Tcp(listener) }
    }
}

/// In place of what a dead process has left there.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(_nobody_listens) => std::fs::remove_file(path)?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path)
}

impl ListenerProxy {
    /// Listens on exactly this TCP address.
    ///
    /// # Errors
    ///
    /// What the system says; nothing listens.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(TcpListener::bind(address).await?.into())
    }

    /// Listens on a unix socket, whose file goes with this.
    ///
    /// # Errors
    ///
    /// What the system says; nothing listens. Something that is no socket is left alone.
    pub fn bind_unix(path: &Path) -> io::Result<Self> {
        Ok(Self { listener: Listener::Unix(bind_unix(path)?, Guard(path.to_owned())) })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<Listen> {
        match &self.listener {
            Listener::Tcp(listener) => Ok(Listen::Tcp(listener.local_addr()?)),
            Listener::Unix(_, Guard(path)) => Ok(Listen::Unix(path.clone())),
        }
    }

    /// The next visitor, and its address if it has one.
    async fn accept(&self) -> io::Result<(LocalSocket, Option<SocketAddr>)> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (tcp, visitor) = listener.accept().await?;
                Ok((LocalSocket::Tcp(tcp), Some(visitor)))
            }
            Listener::Unix(listener, _) => Ok((LocalSocket::Unix(listener.accept().await?.0), None)),
        }
    }

    /// Serves visitors until `stop` is cancelled, which resets those that are there.
    ///
    /// For each visitor `open` is called once, with its address. When it fails, that visitor gets a TCP reset and all
    /// others are served as before; nothing that a visitor or a target does ends the listener.
    pub async fn run<O, F>(self, open: O, stop: CancellationToken)
    where
        O: Fn(IpAddr) -> F,
        F: Future<Output = Result<TunnelStream, OpenError>> + Send + 'static,
    {
        self.admit(open, stop, &mut JoinSet::new()).await;
    }

    /// As [`run`](Self::run), but after `stop` those visitors that are there are served to their ends. Dropped, it resets
    /// them.
    pub async fn run_draining<O, F>(self, open: O, stop: CancellationToken)
    where
        O: Fn(IpAddr) -> F,
        F: Future<Output = Result<TunnelStream, OpenError>> + Send + 'static,
    {
        let mut visitors = JoinSet::new();
        self.admit(open, stop, &mut visitors).await;
        drop(self);
        while visitors.join_next().await.is_some() {}
    }

    async fn admit<O, F>(&self, open: O, stop: CancellationToken, visitors: &mut JoinSet<()>)
    where
        O: Fn(IpAddr) -> F,
        F: Future<Output = Result<TunnelStream, OpenError>> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(MAX_VISITORS));
        loop {
            let place = Arc::clone(&places).acquire_owned();
            let visitor = async {
                let place = place.await.expect("the semaphore is never closed");
                (self.accept().await, place)
            };
            let Some((accepted, place)) = stop.run_until_cancelled(visitor).await else { return };
            while visitors.try_join_next().is_some() {}
            match accepted {
                Ok((socket, visitor)) => {
                    let stream =
                        open(visitor.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |visitor| visitor.ip()));
                    visitors.spawn(async move {
                        if let Err(error) = serve_visitor(socket, stream).await {
                            let error: &dyn std::error::Error = &error;
                            debug!(?visitor, error, "visitor not served to the end");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, or a visitor that left before it was accepted: both pass.
                    warn!(%error, "cannot accept a visitor");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum VisitError {
    #[error("cannot set up the connection")]
    Setup(#[from] io::Error),
    #[error("cannot open a stream")]
    Open(#[from] OpenError),
    #[error(transparent)]
    Splice(#[from] SpliceError),
}

async fn serve_visitor(
    socket: LocalSocket,
    stream: impl Future<Output = Result<TunnelStream, OpenError>>,
) -> Result<(), VisitError> {
    socket.prepare()?;
    Ok(splice(socket, stream.await?).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen_survives_its_text() {
        for text in [
            "127.0.0.1:80",
            "[::1]:0",
            "10.0.0.1:8000-8099",
            "[::]:1-2",
            "udp:127.0.0.1:53",
            "unix:/run/x.sock",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!("80".parse::<Listen>().unwrap().to_string(), "127.0.0.1:80");
        assert_eq!("udp:53".parse::<Listen>().unwrap().to_string(), "udp:127.0.0.1:53");
        assert_eq!("8000-8099".parse::<Listen>().unwrap().to_string(), "127.0.0.1:8000-8099");
        for text in [
            "",
            "x",
            "localhost:80",
            "::1:80",
            "1.2.3.4",
            "70000",
            "2-1",
            "0-1",
            "udp:1-2",
            "unix:x",
            "udp:",
            "127.0.0.1:",
            ":80",
            "1-",
            "-1",
        ] {
            assert_eq!(text.parse::<Listen>(), Err(ParseListenError), "{text}");
        }
    }

    #[tokio::test]
    async fn of_a_range_the_lowest_free_port_is_taken() {
        let ip = Ipv4Addr::LOCALHOST.into();
        // Somewhere in the ephemeral range there are three free ports in a row.
        for first in (33_000..60_000).step_by(10) {
            let Ok(one) = bind_lowest(ip, first..=first).await else { continue };
            let (Ok(two), Ok(three)) =
                (bind_lowest(ip, first..=first + 2).await, bind_lowest(ip, first..=first + 2).await)
            else {
                continue;
            };
            let ports = [&one, &two, &three].map(|listener| listener.local_addr().unwrap().port());
            assert_eq!(ports, [first, first + 1, first + 2]);
            let full = bind_lowest(ip, first..=first + 2).await;
            assert_eq!(full.unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(two);
            let again = bind_lowest(ip, first..=first + 2).await.unwrap();
            assert_eq!(again.local_addr().unwrap().port(), first + 1);
            return;
        }
        panic!("no three free ports in a row");
    }

    #[tokio::test]
    async fn a_unix_socket_takes_a_dead_ones_place_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let proxy = ListenerProxy::bind_unix(&path).unwrap();
        assert_eq!(ListenerProxy::bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(proxy);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(ListenerProxy::bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
