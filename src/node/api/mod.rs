//! The JSON of the admin API, for both of its ends.
//!
//! Stable: fields are added, never renamed or removed, within one [`API_VERSION`]. Names are camel case, times are
//! milliseconds since 1970 UTC, ids are their text. A client ignores fields that it does not know.

mod acl;
mod attribute;
mod control;
mod convergence;
mod doctor;
mod event;
mod node;
mod problem;
mod route;
mod state;
mod status;
mod trust;
mod tunnel;
mod typed;

pub use acl::{Acl, AclAct, AclDefault, AclPolicy, AclRule, AclVerdict, SetAcl};
pub use attribute::{Attribute, AttributeList, Bytes, Write};
pub use control::{Drain, LogLevel, LogState, Reload, UiCode, UiLink, UiSession};
pub use convergence::{Convergence, PeerProgress, Propagation};
pub use doctor::{Check, Doctor, Ping, Pong, Verdict};
pub use event::Event;
pub use node::{Node, NodeList, state_name};
pub use problem::{Code, Problem};
pub use route::{CONNECT_PROTOCOL, Candidate, Resolution};
pub use state::{
    ImportState, ImportedState, KeptAttribute, KeptCounter, KeptElement, KeptPolicy, KeptRevocation,
    KeptValue, RefusedLine, STATE_FORMAT, StateEnd, StateHead, StateLine, StateLineError,
};
pub use status::{Compat, Counts, Digest, Seed, Status};
pub use trust::{Forget, Forgotten, Invite, Invited, Reloaded, Revoke, Revoked};
pub use tunnel::{Bind, BindList, Expose, Exposed, Health, HealthCheck, Tunnel, TunnelList, health_name};
pub use typed::{Counter, CounterList, Increment, Members, SetChange, SetList, SetSize};

/// A list that comes in pages.
pub trait Paged: serde::de::DeserializeOwned {
    /// What the page after this one comes `after`, if there is one.
    fn next(&self) -> Option<&str>;

    /// Adds the page after this one.
    fn append(&mut self, page: Self);
}

/// The version of the API, which every document names.
pub const API_VERSION: &str = "v1";
