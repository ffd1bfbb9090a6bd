//! The two ends of a forwarded TCP connection: the service before a target, and the listener before visitors.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::route::RouteTarget;
use super::splice::{SpliceError, reset_on_drop, splice_tcp};
use super::target::{DialTargetError, TargetTable};
use super::{OfferedStream, OpenError, Refusal, RouteAddress, Service};
use crate::tunnel::{ArcTunnel, TunnelStream, WriteError};

/// Visitors that a listener serves at a time; the next ones wait in the kernel's queue.
const MAX_VISITORS: usize = 1024;
/// How long a listener pauses when the system cannot give it another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When and how often the kernel asks a silent TCP peer whether it is there.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));

/// Small messages go at once, and peers that vanished are noticed.
fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    SockRef::from(tcp).set_tcp_keepalive(&KEEPALIVE)
}

/// Forwards streams to the targets that this node has declared: `/target/<name>`, and `/tunnel/<name>/<id or any>`
/// for those that are registered under an id.
///
/// It connects before it accepts, so that the opener of a stream to a dead target is told so.
#[derive(Debug, Clone)]
pub struct TcpProxyService {
    targets: TargetTable,
}

/// A stream was not forwarded to its end. It and the TCP connection are reset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The target could not be reached; the opener was told so.
    #[error(transparent)]
    Dial(#[from] DialTargetError),
    /// The opener did not wait for the answer.
    #[error("cannot answer")]
    Answer(#[from] WriteError),
    /// The TCP connection could not be set up.
    #[error("cannot set up the TCP connection")]
    Setup(#[from] io::Error),
    /// One side broke off.
    #[error(transparent)]
    Splice(#[from] SpliceError),
}

impl TcpProxyService {
    /// Serves the targets of this table, as it is at each moment.
    pub fn new(targets: TargetTable) -> Self {
        Self { targets }
    }
}

impl Service for TcpProxyService {
    type Error = ProxyError;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        match RouteTarget::parse(address.segments()) {
            Some(RouteTarget::Target(_)) => true,
            Some(RouteTarget::Tunnel(name, id)) => self
                .targets
                .find(&name)
                .is_some_and(|declared| declared.id.is_some() && (id.is_none() || id == declared.id)),
            Some(RouteTarget::Via(..)) | None => false,
        }
    }

    async fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        _: ArcTunnel,
    ) -> Result<(), ProxyError> {
        let declared = match RouteTarget::parse(address.segments()) {
            Some(RouteTarget::Target(name) | RouteTarget::Tunnel(name, _)) => self.targets.find(&name),
            Some(RouteTarget::Via(..)) | None => None,
        };
        let Some(declared) = declared else {
            return Ok(stream.refuse(Refusal::NotFound).await?);
        };
        let tcp = match declared.target.dial().await {
            Ok(tcp) => tcp,
            Err(error) => {
                let refusal = match error {
                    DialTargetError::Forbidden { .. } => Refusal::Refused,
                    _ => Refusal::TargetUnreachable,
                };
                stream.refuse(refusal).await?;
                return Err(error.into());
            }
        };
        reset_on_drop(&tcp)?;
        tune(&tcp)?;
        Ok(splice_tcp(tcp, stream.accept().await?).await?)
    }
}

/// A local TCP port whose every connection becomes a stream of its own.
#[derive(Debug)]
pub struct TcpListenerProxy {
    listener: TcpListener,
}

impl TcpListenerProxy {
    /// Listens on exactly this address.
    ///
    /// # Errors
    ///
    /// What the system says; nothing listens.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves visitors until `stop` is cancelled, which resets those that are there.
    ///
    /// For each visitor `open` is called once. When it fails, that visitor gets a TCP reset and all others are served as
    /// before; nothing that a visitor or a target does ends the listener.
    pub async fn run<O, F>(self, open: O, stop: CancellationToken)
    where
        O: Fn() -> F,
        F: Future<Output = Result<TunnelStream, OpenError>> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(MAX_VISITORS));
        let mut visitors = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned();
            let visitor = async {
                let place = place.await.expect("the semaphore is never closed");
                (self.listener.accept().await, place)
            };
            let Some((accepted, place)) = stop.run_until_cancelled(visitor).await else { return };
            while visitors.try_join_next().is_some() {}
            match accepted {
                Ok((tcp, visitor)) => {
                    let stream = open();
                    visitors.spawn(async move {
                        if let Err(error) = serve_visitor(tcp, stream).await {
                            let error: &dyn std::error::Error = &error;
                            debug!(%visitor, error, "visitor not served to the end");
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
    #[error("cannot set up the TCP connection")]
    Setup(#[from] io::Error),
    #[error("cannot open a stream")]
    Open(#[from] OpenError),
    #[error(transparent)]
    Splice(#[from] SpliceError),
}

async fn serve_visitor(
    tcp: TcpStream,
    stream: impl Future<Output = Result<TunnelStream, OpenError>>,
) -> Result<(), VisitError> {
    reset_on_drop(&tcp)?;
    tune(&tcp)?;
    Ok(splice_tcp(tcp, stream.await?).await?)
}
