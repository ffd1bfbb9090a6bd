//! snocat's protocol version 0, for whoever still has its programs: as the server of a published client, and as the client
//! of a published server.
//!
//! Both are a [`ModularDaemon`] like any other, with another dialect of negotiation, another authentication and two
//! services. What the protocol cannot do stays so: nobody proves who he is, but for the server's certificate. So it runs
//! only where an operator starts it, on a UDP port of its own, apart from every mesh.
//!
//! Facts about the wire were observed on the published binary 0.8.0-alpha.5.

mod ack;
mod client;
mod proxy;
mod server;
mod tls;

use crate::daemon::{DaemonConfig, ModularDaemon};
use crate::registry::InMemoryTunnelRegistry;
use crate::service::{Dialect, ServiceRegistry};

pub use ack::{AckError, SimpleAck};
pub use client::{Client, ClientError, Granted};
pub use proxy::{ProxyTcp, TcpAddress};
pub use server::{DemandProxy, PublicPorts, Server, ServerError};
pub use tls::{CompatTlsError, client_tls, self_signed, server_tls};

/// The protocol that tunnels of version 0 speak.
pub const ALPN: &[u8] = b"ms-snocat-1";

type Daemon = ModularDaemon<InMemoryTunnelRegistry, ServiceRegistry, SimpleAck>;

fn daemon(services: ServiceRegistry, mut config: DaemonConfig) -> Daemon {
    config.dialect = Dialect::Snocat0;
    ModularDaemon::builder().authentication(SimpleAck).services(services).config(config).build()
}

#[cfg(test)]
mod tests;
