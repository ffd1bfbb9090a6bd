//! The door for those who are not members yet: one request and one answer, on a connection that is never a tunnel.
//!
//! A guest has no certificate of the mesh, so it cannot pass the handshake of members, and that handshake stays as it is.
//! Guests say that they are guests in the first packet, by the connection id that they choose for it, and get settings of
//! their own: another protocol name, one stream, small windows, a few seconds. Whoever says so wrongly gains nothing, for
//! nothing that is accepted under these settings is ever handed on as a tunnel.
//!
//! The guest, for its part, knows whom to expect from what it was given: its TLS settings are the caller's.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionId, IdleTimeout, Incoming, TransportConfig, VarInt};
use rustls::crypto::SecureRandom;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tracing::debug;

use super::config::UnfitTls;
use super::ids::draw;
use super::tunnel::closed_by;

/// The protocol that guests speak.
pub const GUEST_ALPN: &[u8] = b"snomesh-join/1";

/// How the first connection id of a guest begins. The rest of its twenty bytes is random.
const MARK: [u8; 8] = *b"snoguest";
/// The longest request or answer, in bytes.
const MAX_MESSAGE: usize = 32 * 1024;
/// How long a guest may take from its first packet to the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many guests there may be at a time.
const MAX_GUESTS: usize = 8;

/// A guest that has asked something.
#[derive(Debug)]
pub struct Guest {
    /// Where it comes from.
    pub remote: SocketAddr,
    /// What it asks, at most 32 KiB.
    pub request: Vec<u8>,
    send: quinn::SendStream,
    connection: quinn::Connection,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    /// Answers, and waits a moment until the guest has it.
    pub async fn answer(mut self, answer: &[u8]) {
        let told = async {
            self.send.write_all(answer).await.ok()?;
            self.send.finish().ok()?;
            self.send.stopped().await.ok()
        };
        // A guest that does not read gets no second chance.
        let _unread = timeout(PATIENCE, told).await;
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

/// The listening side of an endpoint's door; shut until it is opened.
#[derive(Debug, Clone)]
pub(super) struct Door {
    open: Arc<Mutex<Option<Open>>>,
    places: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
struct Open {
    config: Arc<quinn::ServerConfig>,
    guests: mpsc::Sender<Guest>,
}

impl Default for Door {
    fn default() -> Self {
        Self { open: Arc::default(), places: Arc::new(Semaphore::new(MAX_GUESTS)) }
    }
}

impl Door {
    /// Opens it, or opens it with other settings.
    pub(super) fn open(&self, tls: rustls::ServerConfig) -> Result<mpsc::Receiver<Guest>, UnfitTls> {
        let config = settings(tls)?;
        let (guests, arrived) = mpsc::channel(MAX_GUESTS);
        let open = Open { config, guests };
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(open);
        Ok(arrived)
    }

    /// Has other settings from now on, if it is open.
    pub(super) fn renew(&self, tls: rustls::ServerConfig) -> Result<(), UnfitTls> {
        let config = settings(tls)?;
        if let Some(open) = self.open.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            open.config = config;
        }
        Ok(())
    }

    /// Whether an attempt says that it is a guest's.
    pub(super) fn is_guest(attempt: &Incoming) -> bool {
        attempt.orig_dst_cid().starts_with(&MARK)
    }

    /// Lets a guest in, if the door is open and there is room.
    pub(super) fn enter(&self, attempt: Incoming) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(Open { config, guests }), Ok(place)) = (open, Arc::clone(&self.places).try_acquire_owned())
        else {
            attempt.ignore();
            return;
        };
        // Ends within its patience, whatever the guest does.
        tokio::spawn(async move {
            let remote = attempt.remote_address();
            match timeout(PATIENCE, hear(attempt, config, place)).await {
                Ok(Some(guest)) => {
                    // Nobody is at the door any more when the node stops.
                    guests.send(guest).await.ok();
                }
                Ok(None) | Err(_) => debug!(%remote, "a guest said nothing that makes sense"),
            }
        });
    }
}

fn settings(tls: rustls::ServerConfig) -> Result<Arc<quinn::ServerConfig>, UnfitTls> {
    let crypto = QuicServerConfig::try_from(tls)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.migration(false).transport_config(Arc::new(transport()));
    Ok(Arc::new(config))
}

async fn hear(
    attempt: Incoming,
    config: Arc<quinn::ServerConfig>,
    place: OwnedSemaphorePermit,
) -> Option<Guest> {
    let connection = attempt.accept_with(config).ok()?.await.ok()?;
    let (send, mut receive) = connection.accept_bi().await.ok()?;
    let request = receive.read_to_end(MAX_MESSAGE).await.ok()?;
    Some(Guest { remote: connection.remote_address(), request, send, connection, _place: place })
}

/// A guest got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The system gives no socket.
    #[error("cannot open a socket")]
    Socket(#[source] io::Error),
    /// The TLS settings do not serve for QUIC.
    #[error(transparent)]
    Tls(#[from] UnfitTls),
    /// The address cannot be dialled.
    #[error("cannot dial {address}")]
    Undiallable {
        /// Where.
        address: SocketAddr,
    },
    /// Nobody answered.
    #[error("no answer from {address}")]
    TimedOut {
        /// Where.
        address: SocketAddr,
    },
    /// Whoever answered is not who was expected, or lets no guests in.
    #[error("{address} is not who it should be, or lets nobody in")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// What ended it.
        #[source]
        source: crate::tunnel::Closed,
    },
    /// The answer broke off.
    #[error("the answer of {address} broke off")]
    BrokeOff {
        /// Where.
        address: SocketAddr,
    },
}

/// Asks whoever listens at `address`, as a guest. Must be called in a runtime.
///
/// # Errors
///
/// [`AskError`]. Whether a request that broke off was carried out is not known.
pub async fn ask_as_guest(
    address: SocketAddr,
    tls: rustls::ClientConfig,
    request: &[u8],
) -> Result<Vec<u8>, AskError> {
    let random = tls.crypto_provider().secure_random;
    let crypto = QuicClientConfig::try_from(tls).map_err(UnfitTls::from)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.initial_dst_cid_provider(Arc::new(move || marked(random))).transport_config(Arc::new(transport()));
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = quinn::Endpoint::client(any).map_err(AskError::Socket)?;
    let connecting = endpoint
        .connect_with(config, address, "join.snomesh")
        .ok()
        .ok_or(AskError::Undiallable { address })?;
    let connection = timeout(PATIENCE, connecting)
        .await
        .map_err(|_elapsed| AskError::TimedOut { address })?
        .map_err(|error| match closed_by(&error) {
            crate::tunnel::Closed::TimedOut => AskError::TimedOut { address },
            source => AskError::Refused { address, source },
        })?;
    let exchange = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(request).await.ok()?;
        send.finish().ok()?;
        receive.read_to_end(MAX_MESSAGE).await.ok()
    };
    let answer = timeout(PATIENCE, exchange).await.ok().flatten();
    connection.close(VarInt::from_u32(0), b"");
    let _slow = timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
    answer.ok_or(AskError::BrokeOff { address })
}

/// A connection id that says who we are.
fn marked(random: &dyn SecureRandom) -> ConnectionId {
    let mut id = [0; 20];
    draw(random, &mut id);
    id[..MARK.len()].copy_from_slice(&MARK);
    ConnectionId::new(&id)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let millis = u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX);
    let window = u32::try_from(MAX_MESSAGE).unwrap_or(u32::MAX);
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(millis))))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(window))
        .receive_window(VarInt::from_u32(window))
        .datagram_receive_buffer_size(None)
        .allow_spin(false);
    transport
}
