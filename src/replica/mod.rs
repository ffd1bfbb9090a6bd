//! What the mesh replicates: registrations of tunnels, attributes, and the nodes' own records.
//!
//! A [`Replica`] is a [`Store`](crate::crdt::Store) with an author and a clock, and the typed views of it.
//! Every view depends on the store alone, so that equal states give equal views.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]

mod counter;
mod path;
mod piece;
mod record;
mod retirement;
mod selector;
mod set;
mod state;
mod view;

pub use path::{AttributeKey, AttributeKeyError, AttributeName, Path, Scope};
pub use piece::{Piece, Pieces};
pub use record::{Address, AddressError, Attributes, AttributesError, NodeRecord};
pub use selector::{Requirement, Selector, SelectorError};
pub use set::ElementId;
pub use state::{Prepared, Replica, WriteError};
pub use view::{Attribute, NodeView, Registration};
