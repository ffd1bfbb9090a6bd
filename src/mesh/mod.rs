//! The shell around the gossip core: one task that owns the [`Mesh`](crate::gossip::Mesh), and the tasks that
//! carry its frames over tunnels.
//!
//! ```text
//!   MeshHandle ──commands, views──▶ ┌────────┐ ──dial──▶ Connector ──▶ tunnel
//!   GossipService ──streams──▶      │ Driver │                            │
//!   readers of links ──messages──▶  └────────┘ ──frames──▶ writers of links ┘
//!                                       └──events──▶ subscribers
//! ```
//!
//! The shell decides nothing. What the protocol does is decided in `gossip`, where the simulator sees it; here
//! are clocks, sockets and tasks. A link is a tunnel with two streams of its own, opened by whoever dialled, at
//! `/gossip/control` and `/gossip/delta`, ahead of all user streams by priority; heartbeats are datagrams.
//!
//! **Invariant:** every queue between tasks is bounded, and the driver waits for none of them: a peer that does
//! not read holds up the writer of its own link and nobody else.

mod adopt;
mod attributes;
mod changes;
mod connect;
mod driver;
mod guard;
mod handle;
pub mod health;
mod input;
mod journal;
mod link;
mod merges;
mod persist;
mod registry;
mod route;
mod service;
mod traffic;
mod typed;
mod weight;

pub use adopt::{Adoption, Standing};
pub use attributes::{MeshAttributeError, MeshAttributeRegistry};
pub use changes::{Changes, PROPAGATION_BOUNDS, Propagation};
pub use connect::{ConnectError, Connector, DaemonConnector, DialStatus};
pub use driver::{Driver, DriverConfig};
pub use guard::Guarded;
pub use handle::{CommandError, MeshHandle, Stopped, Written};
pub use health::Health;
pub use journal::{Batch, Journal, JournalTail, Report, Storage, journal};
pub use merges::Merges;
pub use registry::{MeshIdentifier, MeshRegistry, MeshRegistryError};
pub use route::{
    Candidate, Destination, DestinationError, NodeHint, ParsePolicyError, Policy, Refused, Route, RouteError,
    RouteObserver, Router, Turn, Way,
};
pub use service::GossipService;
pub use traffic::Traffic;
pub use weight::{NoWeight, Weight};

#[cfg(test)]
mod persist_tests;
#[cfg(test)]
mod tests;
