//! One UDP socket that listens and dials.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use quinn::{AsyncUdpSocket, Incoming, Runtime, TokioRuntime, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info};

use super::budget::Budget;
use super::config::{QuicConfig, TlsSettings, UnfitTls, client_config, endpoint_config, server_config};
use super::guest::{Door, Guest};
use super::newcomers::{Newcomers, Treatment};
use super::peer::name_of_expected;
use super::tunnel::{QuinnTunnel, closed_by};
use crate::id::NodeId;
use crate::tunnel::{CloseReason, Closed, Side, TunnelSource};

/// What the socket asks the kernel to buffer, per direction; the kernel may give less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Listens and dials on one UDP socket. Clones are handles of the same endpoint.
#[derive(Debug, Clone)]
pub struct QuicEndpoint {
    endpoint: quinn::Endpoint,
    client: Arc<Mutex<quinn::ClientConfig>>,
    config: QuicConfig,
    budget: Arc<Budget>,
    door: Door,
}

/// An endpoint could not be made, or could not take new settings; the old ones hold then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The socket could not be bound: the address is taken, or not ours.
    #[error("cannot bind {address}")]
    Socket {
        /// Where it should have been.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The socket could not be driven.
    #[error("cannot drive the socket")]
    Drive(#[source] io::Error),
    /// The TLS settings do not serve for QUIC; a mistake of the caller.
    #[error(transparent)]
    Tls(#[from] UnfitTls),
}

/// A peer could not be reached. Nothing is left behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The address cannot be dialled from this socket, or the endpoint is closed.
    #[error("cannot dial {address}")]
    Undiallable {
        /// The address.
        address: SocketAddr,
        /// What QUIC says.
        #[source]
        source: quinn::ConnectError,
    },
    /// No answer within the handshake timeout.
    #[error("no answer from {address}")]
    TimedOut {
        /// The address.
        address: SocketAddr,
    },
    /// The peer refused, or is not the node that was expected, or its certificate does not hold.
    #[error("handshake with {address} failed")]
    Handshake {
        /// The address.
        address: SocketAddr,
        /// What ended it.
        #[source]
        source: Closed,
    },
}

/// Binds a UDP socket for an endpoint: both families where the address allows, large buffers where the kernel does.
///
/// # Errors
///
/// [`BindError`]; must be called in a runtime.
pub fn bind_socket(address: SocketAddr) -> Result<Arc<dyn AsyncUdpSocket>, BindError> {
    let bind = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        for (direction, asked) in [
            ("receive", socket.set_recv_buffer_size(SOCKET_BUFFER)),
            ("send", socket.set_send_buffer_size(SOCKET_BUFFER)),
        ] {
            if let Err(error) = asked {
                debug!(direction, %error, "kernel refuses the socket buffer");
            }
        }
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    let socket = bind().map_err(|source| BindError::Socket { address, source })?;
    TokioRuntime.wrap_udp_socket(socket).map_err(BindError::Drive)
}

impl QuicEndpoint {
    /// Binds `address` and begins to drive the socket. Must be called in a runtime.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub fn bind(address: SocketAddr, config: QuicConfig, tls: TlsSettings) -> Result<Self, BindError> {
        Self::with_socket(bind_socket(address)?, config, tls)
    }

    /// Drives a socket that the caller has made, for instance a [`super::GatedSocket`]. Must be called in a runtime.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub fn with_socket(
        socket: Arc<dyn AsyncUdpSocket>,
        config: QuicConfig,
        tls: TlsSettings,
    ) -> Result<Self, BindError> {
        let own = endpoint_config(&tls);
        let server = server_config(tls.server, &tls.secret)?;
        let client = Arc::new(Mutex::new(client_config(tls.client)?));
        let endpoint =
            quinn::Endpoint::new_with_abstract_socket(own, Some(server), socket, Arc::new(TokioRuntime))
                .map_err(BindError::Drive)?;
        let budget = Arc::new(Budget::new(config.max_receive_windows));
        Ok(Self { endpoint, client, config, budget, door: Door::default() })
    }

    /// Takes other TLS settings for connections to come; those that stand are not touched. The endpoint's own keys
    /// stay as they are.
    ///
    /// # Errors
    ///
    /// [`BindError::Tls`].
    pub fn replace_tls(&self, tls: TlsSettings) -> Result<(), BindError> {
        let client = client_config(tls.client)?;
        self.endpoint.set_server_config(Some(server_config(tls.server, &tls.secret)?));
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    /// Opens the door for those who are not members yet, under TLS settings of its own. They come while somebody takes
    /// tunnels from [`incoming`](Self::incoming).
    ///
    /// # Errors
    ///
    /// [`BindError::Tls`].
    pub fn admit_guests(&self, tls: rustls::ServerConfig) -> Result<mpsc::Receiver<Guest>, BindError> {
        Ok(self.door.open(tls)?)
    }

    /// Gives the door other TLS settings, if it is open; who is on the threshold is not turned away.
    ///
    /// # Errors
    ///
    /// [`BindError::Tls`].
    pub fn renew_guest_tls(&self, tls: rustls::ServerConfig) -> Result<(), BindError> {
        Ok(self.door.renew(tls)?)
    }

    /// Where the socket is bound.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The tunnels that peers open to us. They are not authenticated beyond their certificate.
    ///
    /// Of two sources of one endpoint each tunnel goes to one of them.
    pub fn incoming(&self) -> QuicIncoming {
        QuicIncoming { endpoint: self.clone(), handshakes: JoinSet::new(), newcomers: Newcomers::default() }
    }

    /// Opens a tunnel to whoever is at `address`, or to nobody but the node that is expected there.
    ///
    /// That the handshake succeeded does not mean that the peer accepts us: only its hello does.
    ///
    /// # Errors
    ///
    /// [`DialError`].
    pub async fn dial(
        &self,
        address: SocketAddr,
        expected: Option<NodeId>,
    ) -> Result<QuinnTunnel, DialError> {
        self.dial_named(address, &name_of_expected(expected)).await
    }

    /// Opens a tunnel to a server whose certificate is for `name`, for endpoints whose TLS settings judge by names.
    ///
    /// # Errors
    ///
    /// [`DialError`].
    pub async fn dial_named(&self, address: SocketAddr, name: &str) -> Result<QuinnTunnel, DialError> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connecting = self
            .endpoint
            .connect_with(client, address, name)
            .map_err(|source| DialError::Undiallable { address, source })?;
        let connection = tokio::time::timeout(self.config.handshake_timeout, connecting)
            .await
            .map_err(|_elapsed| DialError::TimedOut { address })?
            .map_err(|error| match closed_by(&error) {
                Closed::TimedOut => DialError::TimedOut { address },
                source => DialError::Handshake { address, source },
            })?;
        Ok(QuinnTunnel::new(connection, Side::Connect, self.config.max_connection_window, &self.budget))
    }

    /// Closes all connections of the endpoint and takes no more.
    pub fn close(&self, reason: CloseReason) {
        self.endpoint.close(VarInt::from_u32(reason.code()), reason.to_string().as_bytes());
    }

    /// Waits until all connections have said good-bye, so that peers hear of it before the process ends.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

/// The tunnels that peers open to an endpoint. A handshake that stalls delays no other.
#[derive(Debug)]
pub struct QuicIncoming {
    endpoint: QuicEndpoint,
    pub(super) handshakes: JoinSet<Option<QuinnTunnel>>,
    newcomers: Newcomers,
}

impl TunnelSource for QuicIncoming {
    type Tunnel = QuinnTunnel;

    async fn next(&mut self) -> Option<QuinnTunnel> {
        loop {
            // Handshakes that are done first: there are only so many, and each frees a place.
            tokio::select! {
                biased;
                Some(done) = self.handshakes.join_next() => if let Ok(Some(tunnel)) = done {
                    return Some(tunnel);
                },
                attempt = self.endpoint.endpoint.accept() => self.begin(attempt?),
            }
        }
    }
}

impl QuicIncoming {
    fn begin(&mut self, attempt: Incoming) {
        match self.judge(&attempt) {
            Treatment::Take if Door::is_guest(&attempt) => self.endpoint.door.enter(attempt),
            Treatment::Take => self.handshake(attempt),
            Treatment::Ignore => attempt.ignore(),
            Treatment::Prove => {
                if let Err(error) = attempt.retry() {
                    // Cannot be: only attempts that have not been retried yet are to prove themselves.
                    error.into_incoming().ignore();
                }
            }
        }
    }

    fn judge(&mut self, attempt: &Incoming) -> Treatment {
        let pending = self.handshakes.len();
        let config = &self.endpoint.config;
        if pending > config.ignore_above {
            return Treatment::Ignore;
        }
        // Has been judged already, and found worth a proof.
        if attempt.remote_address_validated() {
            return Treatment::Take;
        }
        let address = attempt.remote_address().ip();
        if pending > config.retry_above {
            return Treatment::Prove;
        }
        if config.known.contains(&address.to_canonical()) {
            return Treatment::Take;
        }
        self.newcomers.judge(address, Instant::now())
    }

    fn handshake(&mut self, attempt: Incoming) {
        let config = &self.endpoint.config;
        let timeout = config.handshake_timeout;
        let (max_window, budget) = (config.max_connection_window, Arc::clone(&self.endpoint.budget));
        let remote = attempt.remote_address();
        self.handshakes.spawn(async move {
            match tokio::time::timeout(timeout, attempt.into_future()).await {
                Ok(Ok(connection)) => Some(QuinnTunnel::new(connection, Side::Listen, max_window, &budget)),
                Ok(Err(error)) => {
                    // Bounded by how many attempts of one network are taken, and what tells the operator of a wrong authority.
                    info!(%remote, %error, "handshake failed");
                    None
                }
                Err(_elapsed) => {
                    debug!(%remote, "handshake timed out");
                    None
                }
            }
        });
    }
}
