//! What the mesh asks of whoever drives it, and what it tells subscribers.

use std::time::Duration;

use super::Message;
use crate::crdt::{Delta, Item, Key, Reconciliation, Value};
use crate::id::{Actor, Generation, NodeId, TunnelId, TunnelName};
use crate::replica::{Address, AttributeKey, ElementId, Registration};
use crate::time::Timestamp;

/// One link between two nodes, as the driver numbers them: never used twice by one mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// One attempt to reach an address, as the mesh numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// One piece of state that is to be made durable; in the order of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

/// Who made the connection under a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This node dialled, on this attempt.
    Connect(DialId),
    /// The peer dialled.
    Listen,
}

/// The ordered byte streams of a link, apart from each other so that bulk never delays control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Hellos, contexts, wants.
    Control,
    /// Deltas.
    Delta,
}

/// Why the mesh wants a link closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Another link to the same peer serves, which both ends have chosen: this one need not end before what else its
    /// tunnel carries has ended.
    Duplicate,
    /// Another link to the same peer serves, which the later life of the peer or a later call of this node has made:
    /// nothing good comes over this one any more.
    Replaced,
    /// The peer is this node.
    Loopback,
    /// Nothing was heard for the link timeout.
    Silent,
    /// The peer speaks no version that this node speaks, or only one of both seals its entries.
    Incompatible,
    /// The peer broke the protocol, or its memory did: an entry failed its checksum, or lacked its author's seal.
    Misbehaved,
    /// Neither end wants it any more: the mesh has grown and others serve.
    Surplus,
    /// This node is leaving.
    Leaving,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a message on a channel of a link. The channel takes no other until `link_writable` says so.
    Send {
        /// On which link.
        link: LinkId,
        /// On which of its channels.
        channel: Channel,
        /// What.
        message: Message,
    },
    /// Send a message as a datagram, or drop it.
    Datagram {
        /// On which link.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// Try to reach an address; answer with `link_up` or `dial_failed`.
    Dial {
        /// The attempt.
        dial: DialId,
        /// Where.
        address: Address,
        /// Whom to expect there, if that is known; another is as welcome at a seed.
        expect: Option<NodeId>,
    },
    /// Close a link; it is gone for the mesh already and needs no `link_down`.
    Close {
        /// Which one.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// Make a piece of state durable; answer with `handle_persisted`. Only with
    /// [`Durability::Disk`](super::Durability::Disk).
    Persist {
        /// Its number.
        ticket: Ticket,
        /// To be [restored](super::Mesh::restore), in order, after a restart.
        record: Record,
    },
    /// Tell subscribers. The state has changed already.
    Event(Event),
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Who wrote it.
    pub author: Actor,
    /// When, by the author's clock.
    pub stamp: Timestamp,
}

/// What is made durable: as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Own writes, or what a peer sent.
    Delta(Delta),
    /// What was fetched from a peer because it had collected what would have told it: many keys at once, and
    /// deaths that no entry tells of.
    Reconciled(Box<Reconciliation>),
    /// Removals of these keys were let go. Whoever keeps a copy of the state may let them go too, if it keeps the
    /// [floors](crate::crdt::Store::floors) and the [horizon](crate::crdt::Store::horizon) with it; from a log of
    /// records they go again when it is restored, in their turn.
    Collected(Vec<Key>),
}

impl Record {
    /// The entries in it, by keys.
    pub fn items(&self) -> &[Item] {
        match self {
            Self::Delta(delta) => &delta.items,
            Self::Reconciled(reconciliation) => &reconciliation.delta.items,
            Self::Collected(_) => &[],
        }
    }
}

/// What subscribers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An attribute changed: what a read finds now.
    Attribute {
        /// Which one.
        key: AttributeKey,
        /// The winning value, if it is set.
        value: Option<Value>,
        /// How many concurrent values lost.
        siblings: usize,
        /// Who wrote the winning value, and when.
        origin: Option<Origin>,
    },
    /// A counter changed.
    Counter {
        /// Which one.
        key: AttributeKey,
        /// Its value, if anybody has counted.
        value: Option<i128>,
    },
    /// An element was added to a set or removed from it.
    Element {
        /// Which set.
        key: AttributeKey,
        /// Which element.
        id: ElementId,
        /// The element, if it is in the set now.
        element: Option<Value>,
    },
    /// A tunnel was registered somewhere in the mesh.
    Registered(Registration),
    /// A registration went.
    Deregistered {
        /// The name that it was found by.
        name: TunnelName,
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// Somebody says, or does not say any more, that a node's key is not to be believed. Whether it is so, its proof
    /// says: see [`Replica::revocations_of`](crate::replica::Replica::revocations_of).
    Revocation {
        /// Whose key.
        node: NodeId,
    },
    /// Somebody says something new about who may expose and connect what. Whether it holds, its proof says: see
    /// [`Replica::policies`](crate::replica::Replica::policies).
    Policy,
    /// What this node thinks of another changed.
    Member {
        /// Of whom.
        node: NodeId,
        /// In which of its lives.
        generation: Generation,
        /// What it thinks.
        state: MemberState,
    },
    /// A link to a peer is up, both hellos exchanged.
    LinkUp {
        /// To whom.
        peer: NodeId,
    },
    /// No link to that peer is left.
    LinkDown {
        /// To whom.
        peer: NodeId,
    },
    /// Something that an operator should know.
    Alarm(Alarm),
}

/// What this node thinks of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// Two-way confirmed links lead to it.
    Alive,
    /// None does, for a moment.
    Suspect,
    /// None does, for long. Its tunnels are not offered any more.
    Down,
    /// It said that it would go.
    Left,
    /// It was away for too long, or an operator said so: nobody waits for it, and what it had said of itself is gone.
    /// If it comes back, it comes as a newcomer does.
    Evicted,
}

/// Something that an operator should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alarm {
    /// Somebody else writes under this node's identity, or its disk was turned back: it goes on as `next`.
    Double {
        /// The life that was found doubled.
        doubled: Actor,
        /// The new one.
        next: Generation,
    },
    /// This node was evicted while it was away, or taken for dead by mistake: it goes on as `next`.
    Dead {
        /// The life that is said to be over.
        gone: Actor,
        /// The new one.
        next: Generation,
    },
    /// A peer sent an entry that failed its checksum.
    Corrupt {
        /// Who sent it, not necessarily who damaged it.
        peer: NodeId,
    },
    /// A peer sent an entry in the name of another node, who has not sealed it.
    Forged {
        /// Who sent it.
        peer: NodeId,
    },
    /// Entries are sealed at a peer and not here, or here and not there: no link to it is possible.
    Seals {
        /// The peer.
        peer: NodeId,
    },
    /// A peer's clock, or what it relays, is ahead of this node's by more than the drift bound.
    Drift {
        /// Who sent it.
        peer: NodeId,
        /// How far beyond the bound.
        beyond: Duration,
    },
}
