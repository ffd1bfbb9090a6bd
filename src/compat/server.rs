//! The server: grants public ports to clients, lowest first, and brings their visitors to them.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::proxy::{TcpAddress, decimal};
use super::tls::CompatTlsError;
use super::{Daemon, daemon};
use crate::daemon::{DaemonConfig, Drained, Limits, PeersView};
use crate::service::{
    AnyError, Dialect, ListenerProxy, NEGOTIATION_TIMEOUT, OfferedStream, RouteAddress, Service,
    ServiceRegistry, bind_lowest,
};
use crate::tunnel::quic::{BindError, QuicConfig, QuicEndpoint, TlsSettings};
use crate::tunnel::{ArcTunnel, CloseReason, RecvHalf, TunnelMonitoring, TunnelStream};

/// The longest subject of a request, in bytes.
pub(super) const MAX_SUBJECT: usize = 256;
/// What either side sends to end a demand proxy.
pub(super) const GOODBYE: [u8; 8] = [0; 8];

/// Where public ports are granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicPorts {
    /// On this address alone.
    pub ip: IpAddr,
    /// From these ports.
    pub ports: RangeInclusive<u16>,
}

/// `/proxyme/0.0.1/HOST/PORT`: listens on a public port for as long as the client holds its stream.
#[derive(Debug, Clone)]
pub struct DemandProxy {
    public: PublicPorts,
}

impl DemandProxy {
    /// Grants these ports.
    pub fn new(public: PublicPorts) -> Self {
        Self { public }
    }

    /// The client's target that an address asks to be made public; `None` if it is something else.
    fn parse(address: &RouteAddress) -> Option<TcpAddress> {
        match address.strip_prefix(&["proxyme", "0.0.1"])? {
            [port] => Some(TcpAddress::new("localhost", decimal(port)?)),
            [host, port] if !host.is_empty() => Some(TcpAddress::new(host, decimal(port)?)),
            _ => None,
        }
    }
}

impl Service for DemandProxy {
    type Error = AnyError;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        Self::parse(address).is_some()
    }

    async fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        tunnel: ArcTunnel,
    ) -> Result<(), AnyError> {
        let target = Self::parse(&address).ok_or("not a demand proxy")?;
        let onward = target.to_address().ok_or("the target's name is too long")?;
        let mut stream = stream.accept().await?;
        let subject =
            tokio::time::timeout(NEGOTIATION_TIMEOUT, read_frame(&mut stream.recv, MAX_SUBJECT)).await??;
        let subject: String = serde_json::from_slice(&subject)?;
        // Bound before it is granted: what the client hears is true.
        let listener = match bind_lowest(self.public.ip, self.public.ports.clone()).await {
            Ok(listener) => listener,
            Err(error) => {
                warn!(%error, "no public port to grant");
                write_frame(&mut stream, &Option::<Vec<SocketAddr>>::None).await?;
                return Ok(stream.send.finish()?);
            }
        };
        let at = listener.local_addr()?;
        info!(%at, %target, subject = ?subject, "public port granted");
        write_frame(&mut stream, &Some([at])).await?;
        serve(listener, stream, &tunnel, &onward).await?;
        info!(%at, "public port taken back");
        Ok(())
    }
}

/// Serves visitors until the client has had enough; those that are there then come to their ends.
async fn serve(
    listener: TcpListener,
    mut stream: TunnelStream,
    tunnel: &ArcTunnel,
    onward: &RouteAddress,
) -> Result<(), AnyError> {
    let stop = CancellationToken::new();
    let open = |_: IpAddr| {
        let (tunnel, onward) = (tunnel.clone(), onward.clone());
        async move { Dialect::Snocat0.open(&tunnel, &onward, Instant::now() + NEGOTIATION_TIMEOUT).await }
    };
    let serving = ListenerProxy::from(listener).run_draining(open, stop.clone());
    let said = async {
        let said = stream.recv.read_exact(&mut [0; GOODBYE.len()]).await;
        stop.cancel();
        said
    };
    let said = tokio::select! {
        ((), said) = async { tokio::join!(serving, said) } => said,
        // Its streams are gone, and its visitors with them.
        _closed = tunnel.on_closed() => return Ok(()),
    };
    if said.is_ok() {
        stream.send.write_all(&GOODBYE).await?;
    }
    Ok(stream.send.finish()?)
}

/// Reads a frame: its length, four bytes, big-endian, and as many bytes.
pub(super) async fn read_frame(recv: &mut RecvHalf, max: usize) -> std::io::Result<Vec<u8>> {
    let len = recv.read_u32().await?;
    let len = usize::try_from(len).ok().filter(|len| *len <= max).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut frame = vec![0; len];
    AsyncReadExt::read_exact(recv, &mut frame).await?;
    Ok(frame)
}

/// Writes a value in JSON as a frame.
pub(super) async fn write_frame(
    stream: &mut TunnelStream,
    value: &impl serde::Serialize,
) -> Result<(), AnyError> {
    let json = serde_json::to_vec(value)?;
    let mut frame = u32::try_from(json.len())?.to_be_bytes().to_vec();
    frame.extend(json);
    Ok(stream.send.write_all(&frame).await?)
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    endpoint: QuicEndpoint,
    daemon: Daemon,
}

/// A server did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The UDP address cannot be had.
    #[error(transparent)]
    Endpoint(#[from] BindError),
    /// The certificate or the key does not serve.
    #[error(transparent)]
    Tls(#[from] CompatTlsError),
}

impl Server {
    /// Listens for clients on a UDP address and grants them public ports. Must be called in a runtime.
    ///
    /// # Errors
    ///
    /// [`ServerError`].
    pub fn start(
        listen: SocketAddr,
        tls: TlsSettings,
        public: PublicPorts,
        config: DaemonConfig,
    ) -> Result<Self, ServerError> {
        let server = Self::bind(listen, tls, public, config)?;
        server.serve();
        Ok(server)
    }

    /// Takes the UDP address and serves nobody yet: dropped, nothing of it is left.
    ///
    /// # Errors
    ///
    /// [`ServerError`].
    pub(crate) fn bind(
        listen: SocketAddr,
        tls: TlsSettings,
        public: PublicPorts,
        config: DaemonConfig,
    ) -> Result<Self, ServerError> {
        let endpoint = QuicEndpoint::bind(listen, QuicConfig::default(), tls)?;
        let daemon = daemon(ServiceRegistry::new().with(DemandProxy::new(public)), config);
        Ok(Self { endpoint, daemon })
    }

    /// Begins to take clients.
    pub(crate) fn serve(&self) {
        let (accepting, incoming) = (self.daemon.clone(), self.endpoint.incoming());
        tokio::spawn(async move { accepting.run(incoming).await });
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The clients that it has.
    pub fn peers(&self) -> PeersView {
        self.daemon.peers()
    }

    /// Gives it other limits from now on: [`ModularDaemon::limit`](crate::daemon::ModularDaemon::limit).
    pub fn limit(&self, limits: Limits) {
        self.daemon.limit(limits);
    }

    /// Stops: takes nothing new, lets connections come to their ends until the deadline, then closes everything.
    pub async fn shutdown(self) -> Drained {
        let drained = self.daemon.shutdown().await;
        self.endpoint.close(CloseReason::Dropped);
        self.endpoint.wait_idle().await;
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_names_its_version_and_a_port_of_the_client() {
        let parse = |text: &str| DemandProxy::parse(&text.parse().unwrap()).map(|target| target.to_string());
        assert_eq!(parse("/proxyme/0.0.1/80").as_deref(), Some("localhost:80"));
        assert_eq!(parse("/proxyme/0.0.1/::1/80").as_deref(), Some("::1:80"));
        for text in [
            "/proxyme",
            "/proxyme/0.0.1",
            "/proxyme/0.0.2/80",
            "/proxyme/0.0.1//80",
            "/proxyme/0.0.1/a/b",
            "/proxyme/0.0.1/a/80/x",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
