//! The mesh protocol as a state machine: no clock, no sockets, no tasks, no randomness of its own.
//!
//! A [`Mesh`] is told what happens (`handle_*`, `link_*`), obeys commands (`set`, `register`, …) and says what
//! is to be done when it is asked ([`Mesh::poll_output`]). Whoever drives it does it always in this way, be it
//! the shell or the simulator:
//!
//! ```text
//! loop {
//!     while let Some(output) = mesh.poll_output(now) { carry the output out }
//!     wait for an input, at most until mesh.next_timeout()
//!     hand the input (or handle_timeout) to the mesh
//! }
//! ```
//!
//! **Invariant:** after every input, `poll_output` is drained until it is empty before the next input.
//!
//! **Send from state, never from queues.** The mesh keeps no queue per peer. It remembers what each peer has;
//! when a channel can take a frame, the next one is made from the state as it then is. A value that was
//! superseded meanwhile is never sent, and a slow peer costs memory in proportion to the number of actors.
//!
//! What the parts do: `mesh` the state machine; `link` what one peer has and what is sent to it next; `gaps`
//! what others have and this node lacks; `audit` whether that was overlooked; `reconcile` what no delta can bring; `members` who can be reached; `doubt` whether it is rather this node that
//! cannot be; `overlay`
//! with whom to be linked; `trees` where each author's writes come from, `branches` whose are passed on over a link; `window` how much may be on its way to a peer;
//! `quota` how much this node may write; `clocks` whose wall clock is wrong; `dialer` whom to call and when; `timer` the
//! single next wake-up.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]

mod audit;
mod branches;
mod clocks;
mod config;
mod dialer;
mod doubt;
mod gaps;
mod link;
mod members;
mod mesh;
mod message;
mod output;
mod overlay;
mod picture;
mod quota;
mod reconcile;
mod timer;
mod trees;
mod window;

pub use config::{Config, ConfigError, Durability};
pub use link::Progress;
pub use members::Member;
pub use mesh::Mesh;
pub use message::{Ask, Message, Outcome, Summary, Tell, Versions};
pub use output::{
    Alarm, Channel, CloseReason, DialId, Event, LinkId, MemberState, Origin, Output, Record, Side, Ticket,
};
pub use picture::{Picture, Topic};
