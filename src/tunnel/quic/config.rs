//! The settings of QUIC and how they are put together.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    IdleTimeout, MtuDiscoveryConfig, NoneTokenStore, TransportConfig, ValidationTokenConfig, VarInt,
};
use ring::{hkdf, hmac};
use rustls::crypto::SecureRandom;

use super::congestion::BoundedConfig;
use super::ids::{ConnectionIds, draw, initial_ids};

/// The protocol that tunnels speak; its number is the major version.
pub const ALPN: &[u8] = b"snomesh/1";

/// Silence after which a tunnel has ended.
const IDLE_TIMEOUT_MILLIS: u32 = 15_000;
/// How often an idle tunnel shows that it lives. Each endpoint adds up to two seconds, so that they spread.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// What one stream may buffer before its reader has to read: it keeps a path of 10 ms at 800 Mbit/s busy.
pub(super) const STREAM_WINDOW: u32 = 1024 * 1024;
/// What a connection may buffer before its peer has authenticated: enough for a hello.
pub(super) const UNPROVEN_WINDOW: u32 = 64 * 1024;
/// What one connection may hold for a peer that does not acknowledge.
const SEND_WINDOW: u64 = 4 * 1024 * 1024;
/// The largest UDP payload that is tried, and taken: what loopback and networks with jumbo frames carry, where it halves the
/// work per byte. Ten of them, which quinn hands to the kernel at a time, have to be less than 64 KiB.
const MAX_PAYLOAD: u16 = 6_000;
/// How often it is tried again whether the path has come to carry more. On a path of 1,500 bytes an attempt costs some 50 kB,
/// which quinn's own ten minutes would make 85 B/s per neighbour.
const PAYLOAD_INTERVAL: Duration = Duration::from_secs(3_600);
/// Datagrams waiting, in bytes, per direction.
const DATAGRAM_BUFFER: usize = 64 * 1024;
/// Connection attempts that quinn holds for us before it refuses by itself.
const MAX_INCOMING: usize = 1024;
/// What quinn buffers per connection attempt, and for all of them.
const INCOMING_BUFFER: u64 = 64 * 1024;
const INCOMING_BUFFER_TOTAL: u64 = 8 * 1024 * 1024;

/// What an operator may choose about QUIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicConfig {
    /// How long a handshake may take, either way round. Too small loses peers on bad links; too large lets strangers
    /// hold slots.
    pub handshake_timeout: Duration,
    /// Handshakes under way above which a newcomer first has to prove its address.
    pub retry_above: usize,
    /// Handshakes under way above which a newcomer gets no answer at all.
    pub ignore_above: usize,
    /// The most that one connection may buffer, in bytes, however many streams it has.
    ///
    /// Below 8 MiB few stalled readers can stop all streams of a tunnel.
    pub max_connection_window: NonZeroU32,
    /// What all connections of the endpoint may buffer together, in bytes: what hostile peers can pin in memory, and as
    /// much again while shares change. However many there are, each gets 1 MiB.
    pub max_receive_windows: u64,
    /// Addresses of peers that are known beforehand: they may connect as often as they like. Others get slower from
    /// the ninth attempt of their network within ten seconds, and no answer from the sixty-first within a minute.
    pub known: BTreeSet<IpAddr>,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            retry_above: 64,
            ignore_above: 512,
            max_connection_window: const { NonZeroU32::new(128 * 1024 * 1024).expect("not zero") },
            max_receive_windows: 512 * 1024 * 1024,
            known: BTreeSet::new(),
        }
    }
}

/// Secret bytes from which an endpoint derives its keys: the same ones after a restart.
#[derive(Clone)]
pub struct EndpointSecret(Arc<[u8]>);

impl EndpointSecret {
    /// Takes the secret; a node gives its private key.
    pub fn new(secret: &[u8]) -> Self {
        Self(secret.into())
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"snomesh endpoint").extract(&self.0);
        let purpose = [purpose];
        extracted
            .expand(&purpose, hkdf::HKDF_SHA256)
            .and_then(|expanded| expanded.fill(&mut key))
            .expect("HKDF gives as many bytes as its hash has");
        key
    }
}

impl std::fmt::Debug for EndpointSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EndpointSecret(..)")
    }
}

/// The TLS of an endpoint; `auth` makes it.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// For peers that dial us.
    pub server: rustls::ServerConfig,
    /// For peers that we dial.
    pub client: rustls::ClientConfig,
    /// Where the endpoint's own keys come from.
    pub secret: EndpointSecret,
}

/// The TLS settings do not fit QUIC: no initial cipher suite. A mistake in how they were made.
#[derive(Debug, thiserror::Error)]
#[error("the TLS settings lack the cipher suite that QUIC begins with")]
pub struct UnfitTls(#[from] NoInitialCipherSuite);

pub(super) fn server_config(
    tls: rustls::ServerConfig,
    secret: &EndpointSecret,
) -> Result<quinn::ServerConfig, UnfitTls> {
    let random = tls.crypto_provider().secure_random;
    let crypto = QuicServerConfig::try_from(tls)?;
    // Kept over a restart, so that whoever was asked to prove an address need not begin anew.
    let token_key = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &secret.derive(b"address tokens"));
    let mut config = quinn::ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    config
        .migration(false)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL)
        .validation_token_config(tokens)
        .transport_config(Arc::new(transport_config(random)));
    Ok(config)
}

pub(super) fn client_config(tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, UnfitTls> {
    let random = tls.crypto_provider().secure_random;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config
        .token_store(Arc::new(NoneTokenStore))
        .initial_dst_cid_provider(initial_ids(random))
        .transport_config(Arc::new(transport_config(random)));
    Ok(config)
}

/// The endpoint's own keys and randomness, see the module's documentation.
pub(super) fn endpoint_config(tls: &TlsSettings) -> quinn::EndpointConfig {
    let (secret, random) = (&tls.secret, tls.server.crypto_provider().secure_random);
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &secret.derive(b"stateless reset"));
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    let id_key = secret.derive(b"connection ids");
    let mut seed = [0; 32];
    draw(random, &mut seed);
    config.max_udp_payload_size(MAX_PAYLOAD).expect("more than the protocol's least");
    config.cid_generator(move || Box::new(ConnectionIds::new(&id_key, random))).rng_seed(Some(seed));
    config
}

/// Streams begin at one, bidirectional; [`super::QuinnTunnel`] raises that once the peer has authenticated.
fn transport_config(random: &dyn SecureRandom) -> TransportConfig {
    let mut drawn = [0];
    draw(random, &mut drawn);
    let spread = Duration::from_millis(u64::from(drawn[0]) * 2_000 / 255);
    let mut payload = MtuDiscoveryConfig::default();
    payload.upper_bound(MAX_PAYLOAD).interval(PAYLOAD_INTERVAL);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MILLIS))))
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL + spread))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(UNPROVEN_WINDOW))
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(BoundedConfig::default()))
        .mtu_discovery_config(Some(payload))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .allow_spin(false);
    transport
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_after_a_restart_and_differ_by_purpose_and_secret() {
        let derive = |secret: &[u8], purpose: &[u8]| EndpointSecret::new(secret).derive(purpose);
        assert_eq!(derive(b"a", b"x"), derive(b"a", b"x"));
        assert_ne!(derive(b"a", b"x"), derive(b"a", b"y"));
        assert_ne!(derive(b"a", b"x"), derive(b"b", b"x"));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", EndpointSecret::new(b"hunter2")), "EndpointSecret(..)");
    }
}
