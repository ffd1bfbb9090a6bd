//! A peer-to-peer mesh of QUIC daemons that share one eventually consistent registry.
//!
//! ```text
//!   node      composition root: identity, configuration, admin API, command line
//!    │
//!   daemon    tunnels come and go: connected → authenticated → registered → disconnected
//!    │   ╲
//!   mesh   service, registry, auth      the shell around the core, what tunnels serve
//!    │   ╲     │
//!   wire  tunnel                        bytes ⇄ messages; QUIC and in-memory tunnels
//!    │ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─    below: no clock, no I/O, no async, no randomness of its own
//!   gossip    the mesh protocol as a state machine
//!   replica   what the mesh replicates: registrations, attributes, node records
//!   crdt      dots, contexts, multi-value registers, the store
//! ```
//!
//! Reading order: [`id`], [`time`], [`crdt`], [`replica`], [`gossip`], [`wire`]; then, with the feature `net`,
//! `tunnel`, `auth`, `service`, `daemon`, `mesh`; last, with the feature `node`, `node`.

pub mod codec;
pub mod crdt;
pub mod event;
pub mod gossip;
pub mod id;
pub mod replica;
pub mod time;
pub mod wire;

#[cfg(feature = "net")]
pub mod auth;
#[cfg(feature = "net")]
mod causes;
#[cfg(feature = "net")]
pub mod clock;
#[cfg(feature = "net")]
pub mod daemon;
#[cfg(feature = "net")]
pub mod mesh;
#[cfg(feature = "net")]
pub mod registry;
#[cfg(feature = "net")]
pub mod service;
#[cfg(feature = "net")]
pub mod tunnel;

#[cfg(feature = "node")]
pub mod compat;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "store")]
pub mod store;
