//! The client: has a server listen on a public port, and connects its visitors to one target of this machine.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::proxy::{ProxyTcp, TcpAddress};
use super::server::{GOODBYE, read_frame, write_frame};
use super::{Daemon, daemon};
use crate::daemon::{AttachError, AuthenticationFailure, DaemonConfig};
use crate::service::{AnyError, Dialect, NEGOTIATION_TIMEOUT, OpenError, RouteAddress, ServiceRegistry};
use crate::tunnel::quic::{BindError, DialError, QuicConfig, QuicEndpoint, TlsSettings};
use crate::tunnel::{ArcTunnel, CloseReason, Closed, TunnelMonitoring, TunnelStream};

/// The longest answer to a demand, in bytes.
const MAX_GRANT: usize = 64 * 1024;
/// How long a server may take to end a demand proxy in good order.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client, not connected yet.
#[derive(Debug)]
pub struct Client {
    endpoint: QuicEndpoint,
    daemon: Daemon,
    target: TcpAddress,
}

/// Public ports that a server has granted. They are taken back when this is dropped.
#[derive(Debug)]
pub struct Granted {
    /// Where visitors come in.
    pub addresses: Vec<SocketAddr>,
    tunnel: ArcTunnel,
    stream: TunnelStream,
}

/// Why there is no public port.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A host cannot be called so.
    #[error("the target is not host:port")]
    Target,
    /// The UDP socket cannot be had.
    #[error(transparent)]
    Endpoint(#[from] BindError),
    /// The server was not reached, or its certificate is not the one that was expected.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The tunnel was not taken; a bug.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The server did not let us in.
    #[error(transparent)]
    Authentication(#[from] AuthenticationFailure),
    /// The server does not grant ports.
    #[error("the server takes no demands")]
    Open(#[from] OpenError),
    /// The server's answer makes no sense, or did not come.
    #[error("the server did not answer the demand")]
    Answer(#[source] AnyError),
    /// The server has no port left.
    #[error("the server has no free port")]
    NoPort,
}

impl Client {
    /// Prepares a client of servers at addresses of the family of `server`. Must be called in a runtime.
    ///
    /// # Errors
    ///
    /// [`ClientError::Target`], [`ClientError::Endpoint`].
    pub fn new(server: SocketAddr, tls: TlsSettings, target: TcpAddress) -> Result<Self, ClientError> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = QuicEndpoint::bind(any, QuicConfig::default(), tls)?;
        let proxy = ProxyTcp::new(target.clone()).ok_or(ClientError::Target)?;
        let daemon = daemon(ServiceRegistry::new().with(proxy), DaemonConfig::default());
        Ok(Self { endpoint, daemon, target })
    }

    /// Connects to a server whose certificate is for `name`, and asks for a public port.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn demand(&self, server: SocketAddr, name: &str) -> Result<Granted, ClientError> {
        let tunnel = self.endpoint.dial_named(server, name).await?;
        let tunnel = self.daemon.attach(tunnel)?.authenticated().await?.tunnel;
        let (host, port) = self.target.parts();
        let address = RouteAddress::from_segments(["proxyme".into(), "0.0.1".into(), host, port.to_string()]);
        let address = address.map_err(|_too_long| ClientError::Target)?;
        let deadline = Instant::now() + NEGOTIATION_TIMEOUT;
        let mut stream = Dialect::Snocat0.open(&tunnel, &address, deadline).await?;
        let granted = timeout(NEGOTIATION_TIMEOUT, ask(&mut stream)).await;
        let addresses = granted.unwrap_or_else(|elapsed| Err(elapsed.into())).map_err(ClientError::Answer)?;
        let addresses = addresses.filter(|addresses| !addresses.is_empty()).ok_or(ClientError::NoPort)?;
        Ok(Granted { addresses, tunnel, stream })
    }

    /// Lets connections come to their ends until the deadline, and closes everything.
    pub async fn shutdown(self) {
        self.daemon.shutdown().await;
        self.endpoint.close(CloseReason::Dropped);
        let _slow = timeout(GOODBYE_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

async fn ask(stream: &mut TunnelStream) -> Result<Option<Vec<SocketAddr>>, AnyError> {
    write_frame(stream, &"").await?;
    let answer = read_frame(&mut stream.recv, MAX_GRANT).await?;
    let texts: Option<Vec<String>> = serde_json::from_slice(&answer)?;
    let Some(texts) = texts else { return Ok(None) };
    Ok(Some(texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?))
}

impl Granted {
    /// Waits until the server takes the ports back, or the tunnel ends; says which, `None` for the former.
    pub async fn ended(&mut self) -> Option<Closed> {
        let mut goodbye = GOODBYE;
        tokio::select! {
            _said = self.stream.recv.read_exact(&mut goodbye) => self.tunnel.closed(),
            closed = self.tunnel.on_closed() => Some(closed),
        }
    }

    /// Gives the ports back: when it returns the server no longer listens, and the visitors have come to their ends, as
    /// far as it could be waited for.
    pub async fn give_back(mut self) {
        let parting = async {
            self.stream.send.write_all(&GOODBYE).await.ok()?;
            self.stream.recv.read_exact(&mut [0; GOODBYE.len()]).await.ok()
        };
        let _slow = timeout(GOODBYE_TIMEOUT, parting).await;
        let _ended = self.stream.send.finish();
    }
}
