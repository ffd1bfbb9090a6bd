//! What is refused, and why.

use std::fmt;

use crate::crdt::{Dot, Key};

/// Something is not what its author wrote: it was damaged on its way, by a neighbour's memory or by a bug, or made by
/// somebody else; and the delta that brought it was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the entry {dot}{} {flaw}", .key.as_ref().map(|key| format!(" of key {key:?}")).unwrap_or_default())]
pub struct Corrupt {
    /// The key that the entry was under; none where it is about how far an author has come.
    pub key: Option<Key>,
    /// The entry.
    pub dot: Dot,
    /// What shows it.
    pub flaw: Flaw,
}

/// What shows that something is not what its author wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The entry does not match its checksum.
    Checksum,
    /// Its author is not known to have sealed it, in a mesh where authors do.
    Seal,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checksum => "does not match its checksum",
            Self::Seal => "does not bear a seal of its author",
        })
    }
}
