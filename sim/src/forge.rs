//! Where entries are sealed: the pens that nodes sign with, and what a relay makes of the writes of others.

use snomesh::crdt::{Entry, Item, Lane, Notary, RangeSet, Value};
use snomesh::gossip::{Message, Tell};
use snomesh::id::{Actor, Generation, NodeId};

use crate::random::{self, Generator};

/// A node as a notary. Its id is its key, and nobody here signs for another: no secret has to be kept in a simulation.
#[derive(Debug)]
pub(crate) struct Pen(pub(crate) NodeId);

fn signature(key: &[u8; 32], text: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    blake3::Hasher::new_keyed(key).update(text).finalize_xof().fill(&mut signature);
    signature
}

impl Notary for Pen {
    fn key(&self) -> [u8; 32] {
        *self.0.as_bytes()
    }

    fn sign(&self, text: &[u8]) -> [u8; 64] {
        signature(self.0.as_bytes(), text)
    }

    fn is_genuine(&self, author: &NodeId, key: &[u8; 32], text: &[u8], signed: &[u8; 64]) -> bool {
        author.as_bytes() == key && signature(key, text) == *signed
    }
}

/// The message with one entry of another node changed as a relay can: all of it fits together but the seal. Nothing if there
/// is no such entry.
pub(crate) fn forged(message: &Message, relay: NodeId, generator: &mut Generator) -> Option<Message> {
    let mut message = message.clone();
    let items = match &mut message {
        Message::Delta(delta) => &mut delta.items,
        Message::Tell { tell: Tell::Ranges { items, .. }, .. } => items,
        _ => return None,
    };
    let is_foreign = |entry: &Entry| entry.dot.lane.actor().node != relay;
    let mut foreign: Vec<&mut Item> =
        items.iter_mut().filter(|item| item.entries.iter().any(is_foreign)).collect();
    if foreign.is_empty() {
        return None;
    }
    let at = random::index(generator, foreign.len());
    let Item { key, entries } = &mut *foreign[at];
    let entry = entries.iter_mut().find(|entry| is_foreign(entry))?;
    let Entry { dot, observed, stamp, value, .. } = entry.clone();
    let forged = Value::try_from(&b"forged"[..]).ok();
    // What is there becomes something else, or is removed; what was removed is there again.
    let forged = if value.is_some() && random::chance(generator, 0.5) { None } else { forged };
    *entry = Entry::new(key, dot, observed, stamp, forged);
    Some(message)
}

/// How far beyond what was ever written, and what lives have begun, a relay accounts for writes of others.
const BEYOND: u64 = 1 << 40;

/// The delta as a relay can send it that wants writes to count as seen before they are made: those that another node will make
/// in this life, or a later life, which would void what it says of this one. Nothing if it speaks of no other node.
pub(crate) fn overstated(message: &Message, relay: NodeId, generator: &mut Generator) -> Option<Message> {
    let Message::Delta(delta) = message else { return None };
    let told = delta.accounted.lanes().map(|(lane, _)| lane);
    let foreign: Vec<&Lane> = told.filter(|lane| lane.actor().node != relay && !lane.is_past()).collect();
    if foreign.is_empty() {
        return None;
    }
    let lane = foreign[random::index(generator, foreign.len())];
    let Actor { node, generation } = lane.actor();
    let (lane, counter) = if random::chance(generator, 0.5) {
        (lane.clone(), BEYOND)
    } else {
        (Lane::new(Actor { node, generation: Generation(generation.0 + BEYOND) }, lane.class()), 1)
    };
    let mut delta = delta.clone();
    delta.accounted.insert_all(&lane, &RangeSet::from(counter..=counter));
    Some(Message::Delta(delta))
}
