//! Tunnels over QUIC: one UDP socket that listens and dials.
//!
//! The settings are the hardened ones: TLS 1.3 with certificates on both sides, no resumption, no early data, bounded
//! windows and streams, no migration. They are constants, not options: nothing here can be made weaker
//! by configuration, and whatever an operator may choose stands in [`QuicConfig`].
//!
//! Keys of stateless resets and of connection ids are derived from the node's private key. So a node that restarts
//! on its port answers packets of its former life with a reset that its neighbours believe: they notice at once.
//!
//! Everything else that is random about an endpoint is drawn from the `SecureRandom` of the cryptographic provider that
//! its [`TlsSettings`] were made with: there is one source of randomness, and whoever brings a provider brings it.

mod budget;
mod config;
mod congestion;
mod endpoint;
mod gate;
mod guest;
mod ids;
mod newcomers;
mod peer;
mod stream;
mod tunnel;

#[cfg(test)]
mod tests;

pub use config::{ALPN, EndpointSecret, QuicConfig, TlsSettings, UnfitTls};
pub use endpoint::{BindError, DialError, QuicEndpoint, QuicIncoming, bind_socket};
pub use gate::{Gate, GatedSocket};
pub use guest::{AskError, GUEST_ALPN, Guest, ask_as_guest};
pub use peer::{certificate_end, certificate_expiry, expected_node, node_of_certificate};
pub use tunnel::QuinnTunnel;

pub(super) use stream::{QuicRecv, QuicSend};
pub(super) use tunnel::{QuicIncomingStreams, QuicStall};
